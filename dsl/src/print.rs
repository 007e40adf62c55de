//! Prints a recurrence as the text of a kernel.
//!
//! In: any recurrence. Out: its syntax tree ([`Recurrence::to_kernel`]), and through that its text
//! (`Display`), which parses to the same recurrence, [ordered](Recurrence::ordered). Values that are used
//! twice or are deep inside an expression become `let t0 = …`, and so does an output under a name that a text would not
//! give it; states that `delay` made are written out as
//! `#[hidden]` parameters. After [`Recurrence::split_complex`] the halves of a complex value print as `re(x)`
//! and `im(x)`, and a pair of halves as `complex(x, y)`.

use std::fmt;

use crate::axis::AxisId;
use crate::diagnostic::Loc;
use crate::expr::{AxisIndex, Node, NodeId, Part, ReduceOp, When};
use crate::functions::CONSTANTS;
use crate::op::Op;
use crate::recurrence::{InputKind, Recurrence};
use crate::syntax::{Expr, ExprKind, Kernel, Name, Options, Param, Stmt, Type, TypeKind, symbol};

/// The most levels of an expression before part of it gets a name.
const DEEP: u32 = 12;

impl fmt::Display for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_kernel())
    }
}

impl Recurrence {
    /// The kernel that says this.
    #[must_use]
    pub fn to_kernel(&self) -> Kernel {
        let mut printer = Printer::new(self);
        for (i, state) in self.states.iter().enumerate() {
            let value = printer.halves(state.update, state.update_im);
            let state = Name::made(&state.name);
            printer.assigned[i] = Some(printer.body.len());
            printer.body.push(Stmt::Assign { state, value });
        }
        let mut outputs: Vec<Expr> = Vec::new();
        for (i, output) in self.outputs.iter().enumerate() {
            let value = printer.halves(output.value, output.value_im);
            outputs.push(if output.name == self.default_name(i) {
                value
            } else {
                let name = printer.output_name(&output.name);
                let names = vec![Name::made(&name)];
                printer.body.push(Stmt::Let { names, value });
                Expr::name(name)
            });
        }
        let tail = if outputs.len() == 1 {
            outputs.remove(0)
        } else {
            Expr::made(ExprKind::Tuple(outputs))
        };
        let time = self.axis_name(self.time);
        let aliases = self.axes.iter().filter_map(|a| {
            let of = self.axis_name(a.alias_of?);
            Some((Name::made(&a.name), Name::made(of)))
        });
        Kernel {
            doc: self.doc.clone(),
            options: Options {
                time: (time != "L").then(|| Name::made(time)),
                reverse: None,
                bidirectional: None,
                aliases: aliases.collect(),
            },
            vis: syn::Visibility::Inherited,
            name: Name::made(&self.name),
            params: self.params(),
            outputs: self
                .outputs
                .iter()
                .map(|o| {
                    self.type_of(
                        real_or(o.complex, TypeKind::Tensor, TypeKind::Complex),
                        &o.axes,
                    )
                })
                .collect(),
            body: printer.body(),
            tail,
        }
    }

    /// The name that a text gives an output.
    fn default_name(&self, output: usize) -> String {
        if self.outputs.len() == 1 {
            "out".to_owned()
        } else {
            format!("out{output}")
        }
    }

    fn type_of(&self, kind: TypeKind, axes: &[AxisId]) -> Type {
        Type {
            kind,
            axes: axes
                .iter()
                .map(|&a| Name::made(self.axis_name(a)))
                .collect(),
            optional: false,
            loc: Loc::nowhere(),
        }
    }

    fn params(&self) -> Vec<Param> {
        let param = |name: &str, ty| Param {
            name: Name::made(name),
            ty,
            reverse: None,
            hidden: None,
            init: None,
        };
        let inputs = self.inputs.iter().map(|input| {
            let kind = match input.kind {
                InputKind::Flag => TypeKind::Flag,
                InputKind::Tensor => real_or(input.complex, TypeKind::Tensor, TypeKind::Complex),
            };
            let mut ty = self.type_of(kind, &input.axes);
            ty.optional = input.optional;
            param(&input.name, ty)
        });
        let states = self.states.iter().map(|state| {
            let kind = real_or(state.complex, TypeKind::State, TypeKind::ComplexState);
            Param {
                reverse: state.reverse.then(Loc::nowhere),
                hidden: state.hidden.then(Loc::nowhere),
                init: (state.init.to_bits() != 0).then(|| number(state.init)),
                ..param(&state.name, self.type_of(kind, &state.axes))
            }
        });
        inputs.chain(states).collect()
    }
}

fn real_or(complex: bool, real: TypeKind, other: TypeKind) -> TypeKind {
    if complex { other } else { real }
}

/// A number as a literal, a constant or the negative of one.
fn number(x: f64) -> Expr {
    if x.is_sign_negative() {
        return Expr::made(ExprKind::Neg(Box::new(number(-x))));
    }
    let named = CONSTANTS.iter().find(|(_, c)| c.to_bits() == x.to_bits());
    match named {
        Some((name, _)) => Expr::name(*name),
        None if x.is_nan() => Expr::name("NAN"),
        None => Expr::made(ExprKind::Number(x)),
    }
}

struct Printer<'r> {
    r: &'r Recurrence,
    /// How often each node is read.
    uses: Vec<u32>,
    /// The name of each node that has one.
    named: Vec<Option<String>>,
    names: u32,
    body: Vec<Stmt>,
    /// The statement that assigns each state, once it is written.
    assigned: Vec<Option<usize>>,
    /// States whose earlier value is read after their assignment, by name.
    before: Vec<(usize, String)>,
}

impl<'r> Printer<'r> {
    fn new(r: &'r Recurrence) -> Self {
        let mut uses = vec![0; r.graph.len()];
        let roots = r.roots();
        for id in r.graph.reachable(&roots) {
            for x in r.graph.node(id).operands() {
                uses[x.0 as usize] += 1;
            }
        }
        for root in roots {
            uses[root.0 as usize] += 1;
        }
        Printer {
            r,
            uses,
            named: vec![None; r.graph.len()],
            names: 0,
            body: Vec::new(),
            assigned: vec![None; r.states.len()],
            before: Vec::new(),
        }
    }

    /// The statements, with names for the states' earlier values put before their assignments.
    fn body(self) -> Vec<Stmt> {
        let mut body = Vec::new();
        for (i, stmt) in self.body.into_iter().enumerate() {
            for (state, name) in &self.before {
                if self.assigned[*state] == Some(i) {
                    body.push(Stmt::Let {
                        names: vec![Name::made(name)],
                        value: Expr::name(&self.r.states[*state].name),
                    });
                }
            }
            body.push(stmt);
        }
        body
    }

    /// A name that nothing else has.
    fn fresh(&self, name: String) -> String {
        let output = |name: &str| {
            let mut outputs = self.r.outputs.iter().enumerate();
            outputs.any(|(i, o)| o.name == name && self.r.default_name(i) != name)
        };
        self.free(name, output)
    }

    /// A name for an output that has this one.
    fn output_name(&self, own: &str) -> String {
        let other = |name: &str| name != own && self.r.outputs.iter().any(|o| o.name == name);
        self.free(own.to_owned(), other)
    }

    fn free(&self, mut name: String, taken: impl Fn(&str) -> bool) -> String {
        while self.r.input_named(&name).is_some()
            || self.r.state_named(&name).is_some()
            || taken(&name)
        {
            name.push('_');
        }
        name
    }

    /// The expression of a root, or of its two halves.
    fn halves(&mut self, re: NodeId, im: Option<NodeId>) -> Expr {
        let re = self.root(re);
        match im {
            None => re,
            Some(im) => {
                let im = self.root(im);
                Expr::call("complex", &[], vec![re, im])
            }
        }
    }

    /// The expression of a node, after the statements that it needs.
    fn root(&mut self, root: NodeId) -> Expr {
        // Operands first and without recursion: graphs may be deep. Values not yet used stand in `made`.
        let graph = &self.r.graph;
        let mut made: Vec<Option<Expr>> = vec![None; root.0 as usize + 1];
        let mut stack = vec![(root, false)];
        while let Some((id, operands_done)) = stack.pop() {
            let i = id.0 as usize;
            if made[i].is_some() || self.named[i].is_some() {
                continue;
            }
            let operands = graph.node(id).operands();
            if !operands_done {
                stack.push((id, true));
                stack.extend(operands.into_iter().rev().map(|x| (x, false)));
                continue;
            }
            let args = operands.iter().map(|x| self.operand(*x, &made)).collect();
            let expr = self.expr(id, args);
            // Reads and constants are as short as a name.
            let leaf = graph.node(id).operands().is_empty();
            let split = self.uses[i] > 1 || (id != root && expr.height() > DEEP);
            if split && !leaf {
                let name = self.fresh(format!("t{}", self.names));
                self.names += 1;
                self.body.push(Stmt::Let {
                    names: vec![Name::made(&name)],
                    value: expr,
                });
                self.named[i] = Some(name);
            } else {
                made[i] = Some(expr);
            }
        }
        self.operand(root, &made)
    }

    fn operand(&self, id: NodeId, made: &[Option<Expr>]) -> Expr {
        match (&self.named[id.0 as usize], made.get(id.0 as usize)) {
            (Some(name), _) => Expr::name(name),
            (None, Some(Some(expr))) => expr.clone(),
            _ => Expr::made(ExprKind::Error),
        }
    }

    fn axis(&self, axis: AxisId) -> &'r str {
        self.r.axis_name(axis)
    }

    /// The expression of a node over its operands.
    fn expr(&mut self, id: NodeId, mut args: Vec<Expr>) -> Expr {
        match self.r.graph.node(id) {
            Node::Const(bits) => number(f64::from_bits(*bits)),
            Node::Extent(axis) => Expr::call("len", &[self.axis(*axis)], args),
            Node::Index(axis) => Expr::call("index", &[self.axis(*axis)], args),
            Node::Input { input, index, part } => {
                let decl = self.r.input(*input);
                self.read(Expr::name(&decl.name), &decl.axes, index, *part)
            }
            Node::State {
                state,
                when,
                index,
                part,
            } => {
                let decl = self.r.state(*state);
                let name = match when {
                    When::Prev if self.assigned[state.0 as usize].is_some() => {
                        self.earlier(state.0 as usize)
                    }
                    _ => decl.name.clone(),
                };
                self.read(Expr::name(name), &decl.axes, index, *part)
            }
            Node::Op(op, _) if symbol(*op).is_some() => {
                let second = args.pop().map(Box::new);
                match (args.pop().map(Box::new), second) {
                    (Some(a), Some(b)) => Expr::made(ExprKind::Binary(*op, a, b)),
                    _ => Expr::made(ExprKind::Error),
                }
            }
            Node::Op(Op::Neg, xs) if self.r.graph.as_constant(xs[0]).is_none() => {
                Expr::made(ExprKind::Neg(Box::new(args.remove(0))))
            }
            // `-2` is the constant: the operation is `neg(2)`.
            Node::Op(op, _) => Expr::call(op.name(), &[], args),
            Node::Reduce { op, axis, .. } => {
                let name = match op {
                    ReduceOp::Sum => "sum",
                    ReduceOp::Max => "max",
                };
                Expr::call(name, &[self.axis(*axis)], args)
            }
            Node::Shift { axis, by, .. } => {
                let name = if *by > 0 { "push_front" } else { "push_back" };
                Expr::call(name, &[self.axis(*axis)], args)
            }
            Node::Given { input, .. } => {
                args.insert(0, Expr::name(&self.r.input(*input).name));
                Expr::call("given", &[], args)
            }
        }
    }

    /// The name of a state's value before its assignment, which is written already.
    fn earlier(&mut self, state: usize) -> String {
        if let Some((_, name)) = self.before.iter().find(|(s, _)| *s == state) {
            return name.clone();
        }
        let name = self.fresh(format!("{}_prev", self.r.states[state].name));
        self.before.push((state, name.clone()));
        name
    }

    /// A read at other positions than the declared ones, and of a half.
    fn read(&self, name: Expr, declared: &[AxisId], index: &[AxisIndex], part: Part) -> Expr {
        // One axis moves at a time, to a name that is free; a ring is opened through a further alias.
        let mut at: Vec<AxisId> = declared.to_vec();
        let mut left: Vec<usize> = (0..at.len())
            .filter(|&i| index[i] != AxisIndex::At(at[i]))
            .collect();
        let mut x = name;
        while !left.is_empty() {
            let free = left.iter().position(|&i| !at.contains(&index[i].axis()));
            let (i, function, to) = if let Some(k) = free {
                let i = left.remove(k);
                let function = match index[i] {
                    AxisIndex::At(_) => "alias",
                    AxisIndex::Group { .. } => "group",
                };
                (i, function, index[i].axis())
            } else {
                let i = left[0];
                let spare = (0..self.r.axes.len() as u8).map(AxisId).find(|&a| {
                    self.r.canonical(a) == self.r.canonical(at[i])
                        && !at.contains(&a)
                        && index.iter().all(|goal| goal.axis() != a)
                });
                // No text says this read; what is printed then shows the axes as they stand.
                let Some(spare) = spare else { break };
                (i, "alias", spare)
            };
            x = Expr::call(function, &[self.axis(at[i]), self.axis(to)], vec![x]);
            at[i] = to;
        }
        match part {
            Part::Real | Part::Complex => x,
            Part::Re => Expr::call("re", &[], vec![x]),
            Part::Im => Expr::call("im", &[], vec![x]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Printing and parsing gives the recurrence back.
    fn round(text: &str) -> String {
        let r = Recurrence::parse(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
        let printed = r.to_string();
        let again = Recurrence::parse(&printed).unwrap_or_else(|e| panic!("{printed}\n{e}"));
        assert_eq!(again, r, "{printed}\n{again}");
        printed
    }

    #[test]
    fn a_scan_prints_as_statements() {
        let text = "
            /// Mamba's selective scan.
            ///
            ///   indented
            #[ssm_kernel]
            pub fn selective_scan(
                u: Tensor<B, L, D>, delta: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
                d: Tensor<D>, z: Option<Tensor<B, L, D>>, delta_bias: Option<Tensor<D>>, delta_softplus: Flag,
                h: State<B, D, N>,
            ) -> Tensor<B, L, D> {
                let delta = delta + delta_bias;
                let delta = given(delta_softplus, softplus(delta), delta);
                let (a_bar, b_bar) = discretize::mamba(delta, a, b);
                h = a_bar * h + b_bar * u;
                let y = sum::<N>(c * h) + d * u;
                given(z, y * silu(z), y)
            }";
        assert_eq!(
            round(text),
            "/// Mamba's selective scan.
///
///   indented
#[ssm_kernel]
fn selective_scan(
    u: Tensor<B, L, D>,
    delta: Tensor<B, L, D>,
    a: Tensor<D, N>,
    b: Tensor<B, L, N>,
    c: Tensor<B, L, N>,
    d: Tensor<D>,
    z: Option<Tensor<B, L, D>>,
    delta_bias: Option<Tensor<D>>,
    delta_softplus: Flag,
    h: State<B, D, N>,
) -> Tensor<B, L, D> {
    let t0 = delta + delta_bias;
    let t1 = given(delta_softplus, softplus(t0), t0);
    h = exp(t1 * a) * h + t1 * b * u;
    let t2 = sum::<N>(c * h) + d * u;
    given(z, t2 * (z * sigmoid(z)), t2)
}
"
        );
    }

    #[test]
    fn delays_become_hidden_states() {
        let printed = round(
            "fn conv(x: Tensor<B, L, D>, w: Tensor<D>) -> Tensor<B, L, D> { w * delay(x, 2) + delay(x * w, 1) + x }",
        );
        assert_eq!(
            printed,
            "#[ssm_kernel]
fn conv(
    x: Tensor<B, L, D>,
    w: Tensor<D>,
    #[hidden] x_delay1: State<B, D>,
    #[hidden] x_delay2: State<B, D>,
    #[hidden] value_delay1: State<B, D>,
) -> Tensor<B, L, D> {
    let x_delay1_prev = x_delay1;
    x_delay1 = x;
    let x_delay2_prev = x_delay2;
    x_delay2 = x_delay1_prev;
    let value_delay1_prev = value_delay1;
    value_delay1 = x * w;
    w * x_delay2_prev + value_delay1_prev + x
}
"
        );
    }

    #[test]
    fn data_movement_prints_as_it_is_written() {
        let printed = round(
            "#[ssm_kernel(time = T, N2 = N, N3 = N)]
            fn dense(
                h: State<B, N>, a: Tensor<T, N, N2>, u: Tensor<B, T>, b: Tensor<T, G, N>, c: Tensor<T, H>,
            ) -> (Tensor<B, T, H>, Tensor<T, H>) {
                let transposed = alias::<N3, N2>(alias::<N2, N>(alias::<N, N3>(a)));
                let gb = group::<G, H>(exp(b) * index::<N>() / len::<N>());
                let pushed = push_front::<N>(h, u);
                h = sum::<N2>((a + transposed) * alias::<N, N2>(h)) + u + pushed;
                (sum::<N>(gb * h) + c, max::<N>(gb))
            }",
        );
        assert!(
            printed.contains("alias::<N3, N2>(alias::<N2, N>(alias::<N, N3>(a)))"),
            "{printed}"
        );
        assert!(printed.contains("exp(group::<G, H>(b))"), "{printed}");
    }

    #[test]
    fn reads_whose_axes_change_places() {
        let printed = round(
            "#[ssm_kernel(G2 = G, H2 = H)]
            fn f(x: Tensor<L, G, H>, h: Tensor<H2>, g: Tensor<G2>) -> Tensor<L, G, H, H2, G2> {
                group::<H2, G>(group::<G, H>(alias::<H, H2>(x))) * h * g
            }",
        );
        assert!(
            printed.contains("group::<G2, H>(group::<H, G>(alias::<G, G2>(x)))"),
            "{printed}"
        );
        round(
            "#[ssm_kernel(N2 = N, N3 = N)] fn f(a: Tensor<L, N, N2>) -> Tensor<L> {
                let b = alias::<N3, N2>(group::<N2, N>(alias::<N, N3>(a)));
                sum::<N3>(alias::<N2, N3>(sum::<N>(b)))
            }",
        );
    }

    #[test]
    fn numbers_keep_their_bits() {
        let printed = round(
            "fn f(x: Tensor<L>, s: State<>, #[init(-INFINITY)] m: State<>) -> Tensor<L> {
                m = max(m, x);
                s = s * -0.0 + neg(2) - -2 + 1e300 * 0.1 + 5e-324 + 9007199254740992 + PI;
                m + s - -x + -NAN
            }",
        );
        for text in [
            "neg(2)",
            "- -2",
            "1e300",
            "5e-324",
            "PI",
            "-0",
            "#[init(-INFINITY)]",
            "-NAN",
        ] {
            assert!(printed.contains(text), "{text} in {printed}");
        }
    }

    #[test]
    fn both_directions_and_complex_numbers() {
        round(
            "#[ssm_kernel(bidirectional)]
            fn f(x: Complex<B, L, D>, a: Tensor<D>, h: ComplexState<B, D>, #[reverse] g: State<B, D>)
                -> Tensor<B, L, D> {
                h = exp(complex(0, a)) * h + delay(x, 1);
                g = g * a + abs(x);
                re(conj(h) * h) + select(g > 0.5, im(x), 0) + g
            }",
        );
        round(
            "#[ssm_kernel(reverse)] fn f(x: Tensor<L>, h: State<>) -> Complex<L> { let p = h; h = p + x; p * h }",
        );
    }
}
