//! THE rewrite rules, as mathematics.
//!
//! In: the table below, in the kernel syntax; single letters are variables, `N` is any axis. Out: one egg
//! rewrite per rule (and per axis, where it names one).
//!
//! A rule says that both sides are equal for all real operands for which both are finite, up to rounding that
//! is no worse on the right. Beyond that:
//! * What is absent is exactly zero and takes its product with it: `0 * x -> 0`, even where x is NaN or
//!   infinite. A NaN in a term that remains goes wherever the written formula takes it: no rule drops a
//!   variable (`x - x`, `x / x`), except from a product with a literal zero and from a branch not taken.
//! * No commutativity and no associativity: products and sums have a normal form ([`crate::normal`]).
//! * Not rules, though true on paper: exp(log(x)) → x (false for x < 0), exp(x) → 1 + x·phi1(x) (cancels),
//!   log(1 + exp(x)) → softplus(x) (torch's softplus is the identity above 20), tanh(x) → 2·sigmoid(2x) − 1
//!   (loses small x), 1/(1 + exp(−x)) → sigmoid(x) (costs as much), (x/y)/z → x/(y·z) (y·z may underflow; a
//!   complex quotient is scaled so that nothing does), and a·x + a·y → a·(x + y) (lengthens the chain from one
//!   state to the next).

use std::sync::{LazyLock, OnceLock};

use egg::{ConditionalApplier, EGraph, ENodeOrVar, Id, Pattern, PatternAst, Subst, Var};

use crate::axis::{AxisId, AxisSet, MAX_AXES};
use crate::egraph::{Facts, Label, Term};
use crate::expr::ReduceOp;
use crate::functions;
use crate::op::Op;
use crate::syntax::{Expr, ExprKind};

/// The table: theory, name, rule, guard.
pub const TABLE: &str = "
identity     add-zero      x + 0                              -> x
identity     zero-add      0 + x                              -> x
identity     sub-zero      x - 0                              -> x
identity     zero-sub      0 - x                              -> -x
identity     mul-one       x * 1                              -> x
identity     one-mul       1 * x                              -> x
identity     div-one       x / 1                              -> x

absent       mul-zero      x * 0                              -> 0
absent       zero-mul      0 * x                              -> 0
absent       zero-div      0 / x                              -> 0

negation     minus-one     -1 * x                             -> -x
negation     neg-neg       -(-x)                              -> x
negation     neg-mul       -x * y                             -> -(x * y)
negation     mul-neg       x * -y                             -> -(x * y)
negation     neg-div       -x / y                             -> -(x / y)
negation     div-neg       x / -y                             -> -(x / y)
negation     add-neg       x + -y                             -> x - y
negation     neg-add       -x + y                             -> y - x
negation     sub-neg       x - -y                             -> x + y
negation     neg-sub       -(x - y)                           -> y - x
negation     abs-neg       abs(-x)                            -> abs(x)
negation     cos-neg       cos(-x)                            -> cos(x)
negation     sin-neg       sin(-x)                            -> -sin(x)
negation     tanh-neg      tanh(-x)                           -> -tanh(x)
negation     neg-constant  -x * c                             -> x * -c              if c constant

division     reciprocal    x / y                              -> x * (1 / y)
division     quotient      x * (1 / y)                        -> x / y
division     quotient-l    (1 / y) * x                        -> x / y
division     rsqrt         1 / sqrt(x)                        -> rsqrt(x)
division     recip-rsqrt   1 / rsqrt(x)                       -> sqrt(x)

exponential  exp2          exp(x)                             -> exp2(x * LOG2_E)
exponential  exp-mul       exp(x) * exp(y)                    -> exp(x + y)
exponential  exp-div       exp(x) / exp(y)                    -> exp(x - y)
exponential  exp-recip     1 / exp(x)                         -> exp(-x)
exponential  exp2-mul      exp2(x) * exp2(y)                  -> exp2(x + y)
exponential  exp2-div      exp2(x) / exp2(y)                  -> exp2(x - y)
exponential  exp2-recip    1 / exp2(x)                        -> exp2(-x)
exponential  sqrt-exp      sqrt(exp(x))                       -> exp(0.5 * x)
exponential  expm1-inc     expm1(x) + 1                       -> exp(x)
exponential  phi1-mul      x * phi1(x)                        -> expm1(x)
exponential  mul-phi1      phi1(x) * x                        -> expm1(x)
exponential  log-exp       log(exp(x))                        -> x
exponential  log2-exp2     log2(exp2(x))                      -> x
exponential  log2          log(x)                             -> LN_2 * log2(x)

activation   tanh          2 * sigmoid(2 * x) - 1             -> tanh(x)

choice       same          select(c, x, x)                    -> x
choice       first         select(0 < 1, x, y)                -> x
choice       second        select(1 < 0, x, y)                -> y
choice       min-same      min(x, x)                          -> x
choice       max-same      max(x, x)                          -> x
choice       abs-abs       abs(abs(x))                        -> abs(x)
choice       sqrt-square   sqrt(x * x)                        -> abs(x)
choice       floor-floor   floor(floor(x))                    -> floor(x)

reduction    sum-mul       sum::<N>(k * x)                    -> k * sum::<N>(x)     if k free of N
reduction    sum-mul-r     sum::<N>(x * k)                    -> sum::<N>(x) * k     if k free of N
reduction    sum-div       sum::<N>(x / k)                    -> sum::<N>(x) / k     if k free of N
reduction    sum-neg       sum::<N>(-x)                       -> -sum::<N>(x)
reduction    sum-free      sum::<N>(k)                        -> len::<N>() * k      if k free of N
reduction    sum-add       sum::<N>(x) + sum::<N>(y)          -> sum::<N>(x + y)
reduction    sum-sub       sum::<N>(x) - sum::<N>(y)          -> sum::<N>(x - y)
reduction    max-add       max::<N>(x + k)                    -> max::<N>(x) + k     if k free of N
reduction    max-add-l     max::<N>(k + x)                    -> k + max::<N>(x)     if k free of N
";

/// The axis that `N` stands for in a parsed rule.
pub const N: AxisId = AxisId(0);

/// A rewrite over the e-graph of a recurrence.
pub type Rewrite = egg::Rewrite<Term, Facts>;

/// When a rule may be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// `if k free of N`: the variable does not vary over the rule's axis.
    Free(Var),
    /// `if c constant`: the variable is a known number.
    Constant(Var),
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its group.
    pub theory: String,
    /// Its name.
    pub name: String,
    /// What is matched.
    pub lhs: PatternAst<Term>,
    /// What stands in its place.
    pub rhs: PatternAst<Term>,
    /// Its condition.
    pub guard: Option<Guard>,
}

impl Rule {
    /// Parses a row: `theory name lhs -> rhs [if k free of N | if c constant]`.
    ///
    /// # Errors
    /// What is wrong with the row.
    pub fn parse(row: &str) -> Result<Rule, String> {
        let wrong = |what: &str| format!("{what} in the rule `{}`", row.trim());
        let (theory, rest) = row.trim().split_once(' ').ok_or_else(|| wrong("no name"))?;
        let (name, rest) = rest
            .trim()
            .split_once(' ')
            .ok_or_else(|| wrong("no sides"))?;
        let (lhs, rest) = rest.split_once("->").ok_or_else(|| wrong("no `->`"))?;
        let (rhs, guard) = match rest.split_once(" if ") {
            Some((rhs, guard)) => (rhs, Some(guard.trim())),
            None => (rest, None),
        };
        let side = |text: &str| {
            let expr = Expr::parse(text.trim()).map_err(|e| wrong(&e.to_string()))?;
            let mut ast = PatternAst::default();
            add(&mut ast, &expr).map_err(|e| wrong(&e))?;
            Ok::<_, String>(ast)
        };
        let guard = match guard.map(|g| (g, g.split_once(' '))) {
            None => None,
            Some((_, Some((k, "free of N")))) => Some(Guard::Free(variable(k)?)),
            Some((_, Some((c, "constant")))) => Some(Guard::Constant(variable(c)?)),
            Some(_) => return Err(wrong("no such guard")),
        };
        Ok(Rule {
            theory: theory.to_owned(),
            name: name.to_owned(),
            lhs: side(lhs)?,
            rhs: side(rhs)?,
            guard,
        })
    }

    /// Whether it names an axis.
    #[must_use]
    pub fn has_axis(&self) -> bool {
        self.lhs.iter().any(|node| {
            matches!(node, ENodeOrVar::ENode(t) if matches!(t.label(), Label::Reduce(..) | Label::Extent(_)))
        })
    }

    /// The rewrite, with `N` standing for `axis`.
    ///
    /// # Errors
    /// The right side has a variable that the left has not.
    pub fn rewrite(&self, axis: AxisId) -> Result<Rewrite, String> {
        let over = |ast: &PatternAst<Term>| {
            let nodes = ast.iter().map(|node| match node {
                ENodeOrVar::ENode(term) => ENodeOrVar::ENode(term.clone().rename_axis(N, axis)),
                var => var.clone(),
            });
            Pattern::new(nodes.collect::<Vec<_>>().into())
        };
        let (lhs, rhs) = (over(&self.lhs), over(&self.rhs));
        let Some(guard) = self.guard else {
            return Rewrite::new(&*self.name, lhs, rhs);
        };
        let condition = move |terms: &mut EGraph<Term, Facts>, _: Id, subst: &Subst| match guard {
            Guard::Free(k) => !terms[subst[k]].data.axes.contains(axis),
            Guard::Constant(c) => terms[subst[c]].data.constant.is_some(),
        };
        let applier = ConditionalApplier {
            condition,
            applier: rhs,
        };
        Rewrite::new(&*self.name, lhs, applier)
    }
}

/// Parses the table.
///
/// # Errors
/// The first row that is wrong. The rules' test makes sure that there is none.
pub fn parse_table(table: &str) -> Result<Vec<Rule>, String> {
    let rows = table.lines().filter(|row| !row.trim().is_empty());
    rows.map(Rule::parse).collect()
}

/// Every rule, parsed once.
#[must_use]
pub fn rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| parse_table(TABLE).unwrap_or_default());
    &RULES
}

/// Every rewrite: of the rules that name an axis, one for each of `axes`.
pub fn rewrites(axes: AxisSet) -> impl Iterator<Item = &'static Rewrite> {
    static SCALAR: LazyLock<Vec<Rewrite>> = LazyLock::new(|| compile(false, N));
    static BY_AXIS: [OnceLock<Vec<Rewrite>>; MAX_AXES] = [const { OnceLock::new() }; MAX_AXES];
    let over = axes
        .iter()
        .flat_map(|axis| BY_AXIS[axis.0 as usize].get_or_init(|| compile(true, axis)));
    SCALAR.iter().chain(over)
}

fn compile(with_axis: bool, axis: AxisId) -> Vec<Rewrite> {
    let rules = rules().iter().filter(|rule| rule.has_axis() == with_axis);
    rules.filter_map(|rule| rule.rewrite(axis).ok()).collect()
}

fn variable(name: &str) -> Result<Var, String> {
    format!("?{name}")
        .parse()
        .map_err(|_| format!("no variable `{name}`"))
}

/// Adds an expression to a pattern.
fn add(ast: &mut PatternAst<Term>, expr: &Expr) -> Result<Id, String> {
    let number = |x: &Expr| match &x.kind {
        ExprKind::Number(value) => Some(*value),
        ExprKind::Name(name) => functions::constant(name),
        _ => None,
    };
    let term = match &expr.kind {
        ExprKind::Number(value) => Term::constant(*value),
        ExprKind::Name(name) => match functions::constant(name) {
            Some(value) => Term::constant(value),
            None => return Ok(ast.add(ENodeOrVar::Var(variable(name)?))),
        },
        ExprKind::Neg(x) => match number(x) {
            Some(value) => Term::constant(-value),
            None => Term::new(Label::Op(Op::Neg), &[add(ast, x)?]),
        },
        ExprKind::Binary(op, x, y) => match (number(x), number(y)) {
            // A known condition: `0 < 1` stands for every true one.
            (Some(x), Some(y)) if op.is_comparison() => {
                Term::new(Label::Truth((op.info().real)(&[x, y]) != 0.0), &[])
            }
            _ => Term::new(Label::Op(*op), &[add(ast, x)?, add(ast, y)?]),
        },
        ExprKind::Call {
            function,
            axes,
            args,
        } => {
            let name = &function.text;
            let label = match (name.as_str(), axes.len()) {
                ("sum", 1) => Label::Reduce(ReduceOp::Sum, N),
                ("max", 1) => Label::Reduce(ReduceOp::Max, N),
                ("len", 1) => Label::Extent(N),
                _ => Label::Op(Op::from_name(name).ok_or(format!("no function `{name}`"))?),
            };
            let arity = match label {
                Label::Op(op) => op.arity(),
                Label::Reduce(..) => 1,
                _ => 0,
            };
            if args.len() != arity {
                return Err(format!("`{name}` of {} operands", args.len()));
            }
            let mut xs = Vec::new();
            for arg in args {
                xs.push(add(ast, arg)?);
            }
            Term::new(label, &xs)
        }
        ExprKind::Tuple(_) | ExprKind::Error => return Err("no value".to_owned()),
    };
    Ok(ast.add(ENodeOrVar::ENode(term)))
}
