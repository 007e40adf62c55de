//! What can be said of a kernel when its body has been read: names that nobody reads, states that wait for
//! each other in two directions, and the order of what is left.

use super::{Binding, Checker, Meaning};
use crate::axis::AxisSet;
use crate::diagnostic::Diagnostics;
use crate::expr::{Node, NodeId, StateId};
use crate::op::Op;
use crate::recurrence::{InputKind, Recurrence};

impl Checker<'_> {
    /// Reports names and aliases that nothing reads.
    pub(super) fn unused(&mut self) {
        if !self.syntax_is_right {
            return;
        }
        let scope = self.scope.clone();
        for binding in scope.iter().filter(|b| !b.used) {
            let name = &binding.name;
            let (what, help) = match binding.meaning {
                _ if name.text.starts_with('_') => continue,
                Meaning::Poison => continue,
                Meaning::Input(id) if self.r.input(id).kind == InputKind::Flag => (
                    "flag",
                    format!("choose by it, `given({name}, x, y)`, or remove the parameter"),
                ),
                Meaning::Input(_) => ("input", "use it or remove the parameter".to_owned()),
                Meaning::State(_) => (
                    "state",
                    "read it in its recurrence or in the output, or remove it".to_owned(),
                ),
                Meaning::Let(_) => ("`let`", format!("use it, remove it, or call it `_{name}`")),
            };
            self.error(name.loc, format!("{what} `{name}` is never read"), help);
        }
        let types = self.kernel.params.iter().map(|p| &p.ty);
        let mentioned: AxisSet = types
            .chain(&self.kernel.outputs)
            .flat_map(|ty| &ty.axes)
            .filter_map(|name| self.r.axis_named(&name.text))
            .collect();
        let aliases = &self.kernel.options.aliases;
        for (left, _) in aliases {
            let Some(axis) = self.r.axis_named(&left.text) else {
                continue;
            };
            let chained = aliases.iter().any(|(_, right)| right.text == left.text);
            let told = mentioned.union(self.named_axes).union(self.wrong_axes);
            if !told.contains(axis) && !chained {
                self.error(
                    left.loc,
                    format!("alias `{left}` is never used"),
                    format!("use it, `alias::<N, {left}>(x)`, or remove it"),
                );
            }
        }
    }

    /// Of a bidirectional kernel, the sum of both directions: the body is read again with every state replaced
    /// by a twin that runs the other way.
    pub(super) fn both_ways(
        &mut self,
        values: Vec<NodeId>,
        params: Vec<Binding>,
    ) -> Option<Vec<NodeId>> {
        if self.kernel.options.bidirectional.is_none() || !self.out.is_empty() {
            return Some(values);
        }
        let mut twins = params;
        for binding in &mut twins {
            let Meaning::State(id) = &mut binding.meaning else {
                continue;
            };
            let mut decl = self.r.state(*id).clone();
            decl.name = self.fresh(&format!("{}_reverse", decl.name));
            decl.reverse = !decl.reverse;
            *id = StateId(self.r.states.len() as u32);
            self.r.states.push(decl);
            self.assigned.push(None);
        }
        // The mistakes of the body have been reported by its first reading.
        let mut quiet = Diagnostics::default();
        let mut twin = Checker {
            kernel: self.kernel,
            out: &mut quiet,
            syntax_is_right: true,
            r: self.r.clone(),
            named_axes: self.named_axes,
            wrong_axes: self.wrong_axes,
            scope: twins,
            assigned: self.assigned.clone(),
            order: self.order.clone(),
            delays: Vec::new(),
            backward: !self.backward,
            inlined: None,
        };
        let reversed = twin.body()?;
        self.r = twin.r;
        self.order = twin.order;
        let sums = values.iter().zip(&reversed);
        Some(
            sums.map(|(&a, &b)| self.r.graph.op(Op::Add, &[a, b]))
                .collect(),
        )
    }

    /// A name that no input or state has.
    pub(super) fn fresh(&self, name: &str) -> String {
        let mut name = name.to_owned();
        while self.r.input_named(&name).is_some() || self.r.state_named(&name).is_some() {
            name.push('_');
        }
        name
    }

    /// The recurrence, if there was no mistake.
    pub(super) fn finish(mut self, values: &[NodeId]) -> Option<Recurrence> {
        if !self.out.is_empty() {
            return None;
        }
        for (output, &value) in self.r.outputs.iter_mut().zip(values) {
            output.value = value;
        }
        self.directions();
        self.out.is_empty().then(|| self.r.reordered(&self.order))
    }

    /// One direction must be able to run before the other.
    fn directions(&mut self) {
        // The first state of each direction that reads one of the other.
        let mut reader: [Option<(usize, usize)>; 2] = [None, None];
        for (i, state) in self.r.states.iter().enumerate() {
            for id in self.r.graph.reachable(&[state.update]) {
                let Node::State { state: read, .. } = self.r.graph.node(id) else {
                    continue;
                };
                if self.r.state(*read).reverse != state.reverse {
                    reader[usize::from(state.reverse)].get_or_insert((i, read.0 as usize));
                }
            }
        }
        if let [Some((forward, of_reversed)), Some((reversed, of_forward))] = reader {
            let name = |i: usize| self.r.states[i].name.as_str();
            let message = format!(
                "state `{}` runs backward and reads `{}`, while `{}` runs forward and reads `{}`",
                name(reversed),
                name(of_forward),
                name(forward),
                name(of_reversed),
            );
            let loc = self.place_of(name(forward.max(reversed)));
            self.error(
                loc,
                message,
                "one direction has to be finished before the other: let its states not read the other's",
            );
        }
    }
}
