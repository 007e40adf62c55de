//! Statements: `let`s, the states' assignments and the outputs' values.

use super::{Checker, Meaning, Value};
use crate::axis::AxisSet;
use crate::diagnostic::{Loc, nearest};
use crate::expr::{NodeId, Type};
use crate::functions;
use crate::op::Op;
use crate::syntax::{Expr, ExprKind, Name, Stmt, TypeKind};

impl Checker<'_> {
    /// The values of the outputs; `None` after a mistake.
    pub(super) fn body(&mut self) -> Option<Vec<NodeId>> {
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
                _ if functions::constant(&name.text).is_some() => Some((
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
        if !extra.is_empty() && self.wrong_axes.contains(self.r.time) {
            // The axis that is one too many is likely the time axis that was meant.
            return;
        }
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
        if ty.kind == TypeKind::Error {
            return None;
        }
        let extra = self
            .r
            .graph
            .axes(value)
            .without(self.r.time)
            .minus(decl.axes.iter().copied().collect());
        // With the wrong time axis, the declared axes are not those that are meant.
        if !extra.is_empty() && !self.wrong_axes.contains(self.r.time) {
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
