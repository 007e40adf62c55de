//! Checks a syntax tree and gives it its meaning.
//!
//! In: [`Kernel`]. Out: a [`Recurrence`], [ordered](Recurrence::ordered), or every mistake with its place, what was wanted and
//! found, and what to do. One mistake gives one error: a value that is wrong is [`Value::Poison`], and nothing
//! is said of what is made from it.
//!
//! Names: a `let` may take the name of an input or of an earlier `let`, which it hides from there on; a state's
//! name stays the state's. A name that begins with `_` may stay unused.

mod call;
mod declare;
mod expr;
mod finish;
mod remap;

use proc_macro2::TokenStream;

use crate::axis::{AxisId, AxisSet};
use crate::diagnostic::{Diagnostics, Loc, ParseError, SpannedDiagnostic, nearest};
use crate::expr::{Graph, InputId, NodeId, StateId, Type};
use crate::op::Op;
use crate::recurrence::Recurrence;
use crate::syntax::{self, Expr, ExprKind, Kernel, Name, Stmt};

impl Recurrence {
    /// Parses and checks the text of one kernel, a function with or without `#[ssm_kernel]`.
    ///
    /// # Errors
    /// Every mistake in the text, and a text that does not hold exactly one kernel ([`parse_file`]).
    pub fn parse(text: &str) -> Result<Recurrence, ParseError> {
        let mut kernels = parse_file(text)?;
        let one = kernels.pop();
        match one {
            Some(one) if kernels.is_empty() => Ok(one),
            _ => {
                let mut out = Diagnostics::default();
                let many = kernels.len() + usize::from(one.is_some());
                out.error(
                    Loc::nowhere(),
                    format!("expected one kernel, found {many}"),
                    "parse a file of several kernels with `parse_file`",
                );
                Err(out.into_error())
            }
        }
    }
}

/// Parses and checks a file: the functions marked `#[ssm_kernel]`, or all functions where none is marked.
///
/// # Errors
/// Every mistake in the text.
pub fn parse_file(text: &str) -> Result<Vec<Recurrence>, ParseError> {
    let mut out = Diagnostics::default();
    let Some(tokens) = syntax::tokenize(text, &mut out) else {
        return Err(out.into_error());
    };
    let mut kernels = Vec::new();
    for kernel in syntax::parse_kernels(tokens, &mut out) {
        kernels.extend(check(&kernel, &mut out));
    }
    if out.is_empty() {
        Ok(kernels)
    } else {
        Err(out.into_error())
    }
}

/// Parses a file without checking what its kernels mean.
///
/// # Errors
/// Every mistake of syntax.
pub fn parse_syntax(text: &str) -> Result<Vec<Kernel>, ParseError> {
    let mut out = Diagnostics::default();
    let kernels = syntax::tokenize(text, &mut out).map(|t| syntax::parse_kernels(t, &mut out));
    match kernels {
        Some(kernels) if out.is_empty() => Ok(kernels),
        _ => Err(out.into_error()),
    }
}

/// Parses and checks the function `item` under `#[ssm_kernel(attr)]`.
///
/// # Errors
/// Every mistake, at its tokens.
pub fn check_tokens(
    attr: TokenStream,
    item: TokenStream,
) -> Result<(Kernel, Recurrence), Vec<SpannedDiagnostic>> {
    let mut out = Diagnostics::default();
    let checked = syntax::parse_tokens(attr, item, &mut out).and_then(|kernel| {
        let recurrence = check(&kernel, &mut out)?;
        Some((kernel, recurrence))
    });
    match checked {
        Some(both) if out.is_empty() => Ok(both),
        _ => Err(out.into_list()),
    }
}

/// The recurrence of a kernel; `None` after a mistake, here or in its syntax.
fn check(kernel: &Kernel, out: &mut Diagnostics) -> Option<Recurrence> {
    let syntax_is_right = out.is_empty();
    let mut checker = Checker {
        kernel,
        out,
        syntax_is_right,
        r: Recurrence {
            name: kernel.name.text.clone(),
            doc: kernel.doc.clone(),
            axes: Vec::new(),
            time: AxisId(0),
            inputs: Vec::new(),
            states: Vec::new(),
            outputs: Vec::new(),
            graph: Graph::new(AxisId(0)),
        },
        named_axes: AxisSet::EMPTY,
        wrong_axes: AxisSet::EMPTY,
        scope: Vec::new(),
        assigned: Vec::new(),
        order: Vec::new(),
        delays: Vec::new(),
        backward: kernel.options.reverse.is_some(),
        inlined: None,
    };
    checker.declare()?;
    let params = checker.scope.clone();
    let values = checker.body();
    checker.unused();
    let values = checker.both_ways(values?, params)?;
    checker.finish(&values)
}

/// What a name stands for.
#[derive(Clone)]
enum Meaning {
    Input(InputId),
    State(StateId),
    Let(Value),
    Poison,
}

/// A name in scope.
#[derive(Clone)]
struct Binding {
    name: Name,
    meaning: Meaning,
    used: bool,
}

/// What an expression stands for.
#[derive(Clone)]
enum Value {
    Node(NodeId),
    Tuple(Vec<Value>),
    /// A mistake that has been reported.
    Poison,
}

/// The steps back of one value: `states[k − 1]` holds it k steps late.
struct Delay {
    x: NodeId,
    states: Vec<StateId>,
}

struct Checker<'a> {
    kernel: &'a Kernel,
    out: &'a mut Diagnostics,
    /// Where syntax is wrong, statements are missing: names may then seem unknown or unused.
    syntax_is_right: bool,
    r: Recurrence,
    /// Axes that a function's `::<…>` names.
    named_axes: AxisSet,
    /// Axes whose declarations are wrong, as has been reported.
    wrong_axes: AxisSet,
    /// Names, the innermost last.
    scope: Vec<Binding>,
    /// Where each state is assigned.
    assigned: Vec<Option<Loc>>,
    /// States in the order of their assignments.
    order: Vec<StateId>,
    delays: Vec<Delay>,
    /// Whether states without a direction of their own run backward.
    backward: bool,
    /// The call whose body is being read.
    inlined: Option<Loc>,
}

impl Checker<'_> {
    /// Reports a mistake; inside a function's body, at its call.
    fn error(&mut self, loc: Loc, message: impl Into<String>, help: impl Into<String>) {
        self.out.error(self.inlined.unwrap_or(loc), message, help);
    }

    /// The axes as a message shows them.
    fn show(&self, axes: AxisSet) -> String {
        let names: Vec<String> = axes
            .iter()
            .map(|a| format!("`{}`", self.r.axis_name(a)))
            .collect();
        names.join(", ")
    }

    /// The innermost binding of a name.
    fn binding(&mut self, name: &str) -> Option<&mut Binding> {
        self.scope.iter_mut().rev().find(|b| b.name.text == name)
    }

    fn bind(&mut self, name: Name, meaning: Meaning) {
        self.scope.push(Binding {
            name,
            meaning,
            used: false,
        });
    }

    /// The values of the outputs; `None` after a mistake.
    fn body(&mut self) -> Option<Vec<NodeId>> {
        let kernel = self.kernel;
        for stmt in &kernel.body {
            match stmt {
                Stmt::Let { names, value } => {
                    let found = self.value(value);
                    self.bind_pattern(names, found, value.loc);
                }
                Stmt::Assign { state, value } => {
                    let found = self.number(value);
                    self.assign(state, found, value.loc);
                }
            }
        }
        let values = self.tail(&kernel.tail);
        for state in self.r.state_ids() {
            let i = state.0 as usize;
            if self.assigned[i].is_none() && self.syntax_is_right {
                let name = self.r.states[i].name.clone();
                let loc = self.binding(&name).map(|b| {
                    b.used = true;
                    b.name.loc
                });
                self.assigned[i] = loc;
                self.error(
                    loc.unwrap_or_else(Loc::nowhere),
                    format!("state `{name}` is never assigned"),
                    format!("write its recurrence: `{name} = …;`, or make it an input"),
                );
            }
        }
        values
    }

    fn bind_pattern(&mut self, names: &[Name], value: Value, loc: Loc) {
        let values = match (names.len(), value) {
            (1, value) => vec![value],
            (n, Value::Tuple(values)) if values.len() == n => values,
            (n, Value::Poison) => vec![Value::Poison; n],
            (n, value) => {
                let found = match value {
                    Value::Tuple(values) => format!("{} values", values.len()),
                    _ => "one value".to_owned(),
                };
                self.error(
                    loc,
                    format!("expected {n} values, found {found}"),
                    "name as many as there are; `_` leaves one out",
                );
                vec![Value::Poison; n]
            }
        };
        for (name, value) in names.iter().zip(values) {
            let taken = match self.binding(&name.text).map(|b| &b.meaning) {
                Some(Meaning::State(_)) => Some((
                    format!("`{name}` is a state"),
                    format!("assign it, `{name} = …;`, or choose another name"),
                )),
                _ if crate::functions::constant(&name.text).is_some() => Some((
                    format!("`{name}` is a constant"),
                    "choose another name".to_owned(),
                )),
                _ => None,
            };
            if let Some((message, help)) = taken {
                self.error(name.loc, message, help);
            } else if name.text != "_" {
                self.bind(name.clone(), Meaning::Let(value));
            }
        }
    }

    fn assign(&mut self, name: &Name, value: Option<NodeId>, loc: Loc) {
        let id = match self.binding(&name.text).map(|b| b.meaning.clone()) {
            Some(Meaning::State(id)) => id,
            Some(Meaning::Poison) => return,
            Some(meaning) => {
                let what = if matches!(meaning, Meaning::Input(_)) {
                    "an input"
                } else {
                    "a `let`"
                };
                self.error(
                    name.loc,
                    format!("`{name}` is {what}, and only states are assigned"),
                    format!("write `let {name} = …;`, or declare it as `{name}: State<…>`"),
                );
                return;
            }
            None => {
                let states: Vec<&str> = self.r.states.iter().map(|s| s.name.as_str()).collect();
                let hint = nearest(&name.text, states).map(str::to_owned);
                let help = match &hint {
                    Some(hint) => format!("did you mean `{hint}`?"),
                    None => format!(
                        "write `let {name} = …;`, or declare it as a parameter `{name}: State<…>`"
                    ),
                };
                if let Some(meant) = hint.and_then(|h| self.r.state_named(&h)) {
                    self.assigned[meant.0 as usize].get_or_insert(name.loc);
                }
                self.error(
                    name.loc,
                    format!("`{name}` is not a state of this kernel"),
                    help,
                );
                return;
            }
        };
        if self.assigned[id.0 as usize].is_some() {
            self.error(
                name.loc,
                format!("state `{name}` is assigned twice"),
                "a state has one recurrence: name what comes before with `let`, or use a second state",
            );
            return;
        }
        self.assigned[id.0 as usize] = Some(name.loc);
        self.order.push(id);
        let Some(value) = value else { return };
        let decl = self.r.state(id);
        let axes: AxisSet = decl.axes.iter().copied().collect();
        let complex = decl.complex;
        let extra = self.r.graph.axes(value).without(self.r.time).minus(axes);
        if !extra.is_empty() {
            let (has, extra) = (self.show(axes), self.show(extra));
            let has = if has.is_empty() {
                "no axis".to_owned()
            } else {
                has
            };
            self.error(
                loc,
                format!("state `{name}` has {has}, but its next value also varies over {extra}"),
                "reduce it, for example `sum::<N>(…)`, or give the state that axis too",
            );
            return;
        }
        if let Some(value) = self.fit(value, complex, loc, &format!("state `{name}`"), "State") {
            self.r.states[id.0 as usize].update = value;
        }
    }

    /// The value as a real or complex number, as `what` has to be.
    fn fit(
        &mut self,
        value: NodeId,
        complex: bool,
        loc: Loc,
        what: &str,
        kind: &str,
    ) -> Option<NodeId> {
        match (self.r.graph.ty(value), complex) {
            (Type::Complex, false) => {
                let declared = if kind == "State" {
                    "ComplexState<…>"
                } else {
                    "Complex<…>"
                };
                self.error(
                    loc,
                    format!("{what} is real, but its value is complex"),
                    format!("take a part, `re(…)`, or declare it as `{declared}`"),
                );
                None
            }
            (Type::Real, true) => {
                let zero = self.r.graph.constant(0.0);
                Some(self.r.graph.op(Op::Complex, &[value, zero]))
            }
            _ => Some(value),
        }
    }

    /// The output's value, or one for each output.
    fn tail(&mut self, tail: &Expr) -> Option<Vec<NodeId>> {
        let kernel = self.kernel;
        let wanted = kernel.outputs.len();
        let exprs: Vec<&Expr> = match &tail.kind {
            ExprKind::Tuple(xs) => xs.iter().collect(),
            _ => vec![tail],
        };
        // `discretize::…(…)` at the end is one expression of several values.
        let mut values = Vec::new();
        for x in exprs {
            match self.value(x) {
                Value::Tuple(several) => values.extend(several.into_iter().map(|v| (v, x.loc))),
                one => values.push((one, x.loc)),
            }
        }
        if values.len() == 1 && matches!(values[0].0, Value::Poison) {
            return None;
        }
        if values.len() != wanted {
            let found = values.len();
            let plural = |n: usize| if n == 1 { "value" } else { "values" };
            self.error(
                tail.loc,
                format!(
                    "the kernel declares {wanted} output {}, but ends with {found}",
                    plural(wanted)
                ),
                "end with one value for each declared output: `-> (Tensor<…>, Tensor<…>)` goes with `(x, y)`",
            );
            return None;
        }
        let mut nodes = Vec::new();
        for (i, (value, loc)) in values.into_iter().enumerate() {
            let Value::Node(node) = value else { continue };
            nodes.extend(self.output(i, node, loc));
        }
        (nodes.len() == wanted).then_some(nodes)
    }

    /// Checks the value of output `i` against its declaration.
    fn output(&mut self, i: usize, value: NodeId, loc: Loc) -> Option<NodeId> {
        let decl = self.r.outputs.get(i)?.clone();
        let ty = &self.kernel.outputs[i];
        let value = self.real_or_complex(value, loc)?;
        if ty.kind == syntax::TypeKind::Error {
            return None;
        }
        let extra = self
            .r
            .graph
            .axes(value)
            .minus(decl.axes.iter().copied().collect());
        if !extra.is_empty() {
            let axis = extra
                .iter()
                .next()
                .map_or("N", |a| self.r.axis_name(a))
                .to_owned();
            let extra = self.show(extra);
            self.error(
                loc,
                format!("the output is `{ty}`, but its value also varies over {extra}"),
                format!(
                    "this is a state without a reduction: write `sum::<{axis}>(…)`, or declare the output with that axis"
                ),
            );
            return None;
        }
        self.fit(value, decl.complex, loc, "the output", "Tensor")
    }
}

#[cfg(test)]
mod tests;
