//! The backward sweep: from the cotangents of outputs and next states to those of everything that is read.
//!
//! In: a recurrence and its events, last first. Out: the adjoint with its adjoint states, and for every input and
//! earlier state the cotangents of its reads ([`super::finish`] makes gradients of them).

use super::VjpError;
use super::build::{at_edge, cotangent, fold, sum_over};
use super::place::{Contribution, gather, shift, single_axes};
use crate::axis::{AxisId, AxisSet};
use crate::expr::{AxisIndex, Graph, InputId, Node, NodeId, Part, ReduceOp, StateId, Type, When};
use crate::op::Op;
use crate::recurrence::{InputDecl, InputKind, Recurrence, StateDecl};

/// The adjoint under construction: the primal's events, last first.
pub(super) struct Sweep<'a> {
    pub(super) primal: &'a Recurrence,
    /// States: the adjoint of each of the primal's, by the same id; then those that cotangents are moved through.
    pub(super) r: Recurrence,
    /// By node of the primal: the same value in the adjoint.
    values: Vec<NodeId>,
    /// By node of the primal: what is known of its cotangent.
    cotangents: Vec<Option<NodeId>>,
    /// Contributions by input, and by state read before and after its assignment.
    pub(super) inputs: Vec<Vec<Contribution>>,
    pub(super) prev: Vec<Vec<Contribution>>,
    next: Vec<Vec<Contribution>>,
    /// The input of each output's cotangent.
    pub(super) outputs: Vec<InputId>,
    pub(super) saved: Vec<(InputId, StateId, When)>,
}

impl<'a> Sweep<'a> {
    pub(super) fn new(primal: &'a Recurrence) -> Self {
        let mut r = Recurrence {
            name: format!("{}_grad", primal.name),
            doc: vec![format!("The gradients of `{}`.", primal.name)],
            states: vec![],
            outputs: vec![],
            graph: Graph::new(primal.time),
            ..primal.clone()
        };
        let mut outputs = Vec::new();
        for output in &primal.outputs {
            let name = fresh(primal, &r, &format!("d_{}", output.name));
            outputs.push(add_input(&mut r, name, &output.axes, output.complex));
        }
        for (id, state) in primal.state_ids().zip(&primal.states) {
            let name = fresh(primal, &r, &format!("d_{}", state.name));
            let zero = r.graph.constant(0.0);
            r.states.push(StateDecl {
                name,
                axes: read_axes(primal, id).unwrap_or_else(|| state.axes.clone()),
                reverse: !state.reverse,
                init: 0.0,
                update: zero,
                update_im: None,
                ..state.clone()
            });
        }
        let mut sweep = Sweep {
            primal,
            r,
            values: vec![NodeId(0); primal.graph.len()],
            cotangents: vec![None; primal.graph.len()],
            inputs: vec![vec![]; primal.inputs.len()],
            prev: vec![vec![]; primal.states.len()],
            next: vec![vec![]; primal.states.len()],
            outputs,
            saved: vec![],
        };
        sweep.copy_values();
        sweep.seed_outputs();
        sweep
    }

    /// The primal's values over its inputs and saved states.
    fn copy_values(&mut self) {
        for id in self.primal.graph.reachable(&self.primal.roots()) {
            let node = self.primal.graph.node(id);
            let operands: Vec<NodeId> = node
                .operands()
                .iter()
                .map(|x| self.values[x.0 as usize])
                .collect();
            let mut node = node.with_operands(&operands);
            if let Node::State {
                state,
                when,
                index,
                part,
            } = node
            {
                let time = AxisIndex::At(self.primal.time);
                node = Node::Input {
                    input: self.saved_input(state, when),
                    index: [time].into_iter().chain(index).collect(),
                    part,
                };
            }
            self.values[id.0 as usize] = self.r.graph.add(node);
        }
    }

    fn saved_input(&mut self, state: StateId, when: When) -> InputId {
        let known = self
            .saved
            .iter()
            .find(|s| (s.1, s.2) == (state, when))
            .map(|s| s.0);
        known.unwrap_or_else(|| {
            let decl = self.primal.state(state);
            let name = match when {
                When::Prev => format!("{}_prev", decl.name),
                When::Next => decl.name.clone(),
            };
            let time = self.primal.time;
            let axes: Vec<_> = [time].into_iter().chain(decl.axes.clone()).collect();
            let name = self.r.free_name(&name);
            let input = add_input(&mut self.r, name, &axes, decl.complex);
            self.saved.push((input, state, when));
            input
        })
    }

    fn seed_outputs(&mut self) {
        for (output, &input) in self.primal.outputs.iter().zip(&self.outputs.clone()) {
            let d = self.r.read_input(input);
            self.flow(output.value, d, output.axes.iter().copied().collect());
        }
    }

    /// Adds to the cotangent of a node of the primal what arises over the axes `over`.
    fn flow(&mut self, to: NodeId, mut d: NodeId, over: AxisSet) {
        let g = &mut self.r.graph;
        let own = self.primal.graph.axes(to).with(self.primal.time);
        for axis in over.minus(own).iter() {
            d = sum_over(g, axis, d);
        }
        if self.primal.graph.ty(to) == Type::Real {
            d = fold(g, Op::Re, &[d]);
        }
        let known = &mut self.cotangents[to.0 as usize];
        *known = Some(match *known {
            None => d,
            Some(sum) => fold(g, Op::Add, &[sum, d]),
        });
    }

    /// The next value of a state: its cotangent is known once everything that reads it has been gone through.
    pub(super) fn assign(&mut self, state: StateId) -> Result<(), VjpError> {
        let decl = self.primal.state(state);
        let index = decl.axes.iter().map(|&a| AxisIndex::At(a)).collect();
        let part = if decl.complex {
            Part::Complex
        } else {
            Part::Real
        };
        let mut d = self.r.graph.add(Node::State {
            state,
            when: When::Prev,
            index,
            part,
        });
        let reads = std::mem::take(&mut self.next[state.0 as usize]);
        let (axes, reverse) = (&decl.axes, !decl.reverse);
        if let Some(now) = gather(&mut self.r, &decl.name, axes, &reads, reverse)? {
            d = fold(&mut self.r.graph, Op::Add, &[d, now]);
        }
        self.flow(decl.update, d, axes.iter().copied().collect());
        Ok(())
    }

    /// A node whose cotangent is known: its operands get theirs.
    pub(super) fn node(&mut self, id: NodeId) {
        let Some(d) = self.cotangents[id.0 as usize] else {
            return;
        };
        if self.r.graph.as_constant(d) == Some(0.0) {
            return;
        }
        let over = self.primal.graph.axes(id);
        match self.primal.graph.node(id).clone() {
            Node::Const(_) | Node::Extent(_) | Node::Index(_) | Node::Given { .. } => {}
            Node::Input { input, index, .. } => self.inputs[input.0 as usize].push((index, d)),
            Node::State {
                state, when, index, ..
            } => match when {
                When::Prev => self.prev[state.0 as usize].push((index, d)),
                When::Next => self.next[state.0 as usize].push((index, d)),
            },
            Node::Op(op, xs) => {
                let operands: Vec<NodeId> = xs.iter().map(|x| self.values[x.0 as usize]).collect();
                let f = self.values[id.0 as usize];
                for (i, &x) in xs.iter().enumerate() {
                    if let Some(c) = cotangent(&mut self.r.graph, op, &operands, f, d, i) {
                        self.flow(x, c, over);
                    }
                }
            }
            Node::Reduce {
                op: ReduceOp::Sum,
                axis,
                x,
            } => self.flow(x, d, over.with(axis)),
            Node::Reduce {
                op: ReduceOp::Max,
                axis,
                x,
            } => {
                // Equal maxima share it (torch.amax).
                let (value, f) = (self.values[x.0 as usize], self.values[id.0 as usize]);
                let g = &mut self.r.graph;
                let (zero, one) = (g.constant(0.0), g.constant(1.0));
                let hit = g.op(Op::Eq, &[value, f]);
                let hits = g.op(Op::Select, &[hit, one, zero]);
                let count = sum_over(g, axis, hits);
                let share = g.op(Op::Div, &[d, count]);
                let d = g.op(Op::Select, &[hit, share, zero]);
                self.flow(x, d, over.with(axis));
            }
            Node::Shift { axis, by, x, fill } => {
                let zero = self.r.graph.constant(0.0);
                let open = at_edge(&mut self.r.graph, axis, by > 0);
                let entered = self.r.graph.op(Op::Select, &[open, d, zero]);
                self.flow(fill, entered, over);
                let reverse = match self.primal.graph.node(x) {
                    Node::State { state, .. } => !self.primal.state(*state).reverse,
                    _ => self.late(),
                };
                let back = shift(&mut self.r, axis, -by, d, reverse);
                self.flow(x, back, over);
            }
        }
    }

    /// The direction of what reads adjoint states of any direction: that of those which run last.
    pub(super) fn late(&self) -> bool {
        let updates = |reverse: bool| {
            let states = self
                .primal
                .states
                .iter()
                .filter(move |s| s.reverse == reverse);
            states.map(|s| s.update).collect::<Vec<_>>()
        };
        // A forward state that reads a reversed one hands its cotangent to the adjoint of that, which runs forward.
        let reads_reversed = self.primal.graph.reachable(&updates(false)).into_iter().any(
            |id| matches!(self.primal.graph.node(id), Node::State { state, .. } if self.primal.state(*state).reverse),
        );
        !reads_reversed && (self.primal.states.is_empty() || !updates(false).is_empty())
    }
}

/// The axes at which a state's earlier value is read, if they are the same plain ones everywhere.
fn read_axes(r: &Recurrence, state: StateId) -> Option<Vec<AxisId>> {
    let reads: Vec<Contribution> = r
        .graph
        .reachable(&r.roots())
        .into_iter()
        .filter_map(|id| match r.graph.node(id) {
            Node::State {
                state: s,
                when: When::Prev,
                index,
                ..
            } if *s == state => Some((index.clone(), id)),
            _ => None,
        })
        .collect();
    single_axes(&reads)
}

/// A name that neither the primal nor the adjoint has.
pub(super) fn fresh(primal: &Recurrence, r: &Recurrence, base: &str) -> String {
    let mut name = r.free_name(base);
    while primal.free_name(&name) != name || r.free_name(&name) != name {
        name.push('_');
    }
    name
}

fn add_input(r: &mut Recurrence, name: String, axes: &[AxisId], complex: bool) -> InputId {
    r.inputs.push(InputDecl {
        name,
        kind: InputKind::Tensor,
        axes: axes.to_vec(),
        complex,
        optional: false,
    });
    InputId(r.inputs.len() as u32 - 1)
}
