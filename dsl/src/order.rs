//! The order of a recurrence's axes and nodes: equal texts give equal recurrences.
//!
//! In: a recurrence whose axes and nodes are numbered in any order. Out: the same with axes in the order of
//! their first mention (inputs, states, outputs, aliases) and nodes in the order in which the roots reach them,
//! operands first; what no root reaches is gone.

use crate::axis::AxisId;
use crate::expr::{AxisIndex, Graph, Node, NodeId, StateId};
use crate::recurrence::Recurrence;

impl Recurrence {
    /// The same in this order. Of two recurrences that print the same text, the ordered ones are equal.
    #[must_use]
    pub fn ordered(&self) -> Recurrence {
        self.reordered(&self.state_ids().collect::<Vec<_>>())
    }

    /// The same in this order, with the states in the given one.
    pub(crate) fn reordered(&self, states: &[StateId]) -> Recurrence {
        let mut new_state = vec![StateId(0); self.states.len()];
        for (i, state) in states.iter().enumerate() {
            new_state[state.0 as usize] = StateId(i as u32);
        }
        let mut out = self.clone();
        out.states = states.iter().map(|&s| self.state(s).clone()).collect();

        let mut axes: Vec<AxisId> = Vec::new();
        let mentioned = out
            .inputs
            .iter()
            .map(|i| &i.axes)
            .chain(out.states.iter().map(|s| &s.axes))
            .chain(out.outputs.iter().map(|o| &o.axes))
            .flatten()
            .copied();
        for axis in mentioned.chain((0..self.axes.len() as u8).map(AxisId)) {
            if !axes.contains(&axis) {
                axes.push(axis);
            }
        }
        let mut new_axis = vec![AxisId(0); axes.len()];
        for (i, axis) in axes.iter().enumerate() {
            new_axis[axis.0 as usize] = AxisId(i as u8);
        }
        let renamed = |axis: AxisId| new_axis[axis.0 as usize];
        out.axes = axes
            .iter()
            .map(|a| {
                let mut decl = self.axes[a.0 as usize].clone();
                decl.alias_of = decl.alias_of.map(renamed);
                decl
            })
            .collect();
        out.time = renamed(self.time);
        let lists = out
            .inputs
            .iter_mut()
            .map(|i| &mut i.axes)
            .chain(out.states.iter_mut().map(|s| &mut s.axes))
            .chain(out.outputs.iter_mut().map(|o| &mut o.axes));
        for axis in lists.flatten() {
            *axis = renamed(*axis);
        }

        let mut graph = Graph::new(out.time);
        let mut new = vec![None; self.graph.len()];
        for root in out.roots() {
            // Depth first without recursion: a node is entered, then left when its operands are done.
            let mut stack = vec![(root, false)];
            while let Some((id, operands_done)) = stack.pop() {
                if new[id.0 as usize].is_some() {
                    continue;
                }
                let node = self.graph.node(id);
                if !operands_done {
                    stack.push((id, true));
                    stack.extend(node.operands().into_iter().rev().map(|x| (x, false)));
                    continue;
                }
                let operands: Vec<NodeId> = node
                    .operands()
                    .iter()
                    .filter_map(|x| new[x.0 as usize])
                    .collect();
                let mut node = node.with_operands(&operands);
                renumber(&mut node, renamed, &new_state);
                new[id.0 as usize] = Some(graph.add(node));
            }
        }
        let at = |id: NodeId| new[id.0 as usize].unwrap_or(id);
        for state in &mut out.states {
            state.update = at(state.update);
            state.update_im = state.update_im.map(at);
        }
        for output in &mut out.outputs {
            output.value = at(output.value);
            output.value_im = output.value_im.map(at);
        }
        out.graph = graph;
        out
    }
}

fn renumber(node: &mut Node, axis: impl Fn(AxisId) -> AxisId, states: &[StateId]) {
    if let Node::State { state, .. } = node {
        *state = states[state.0 as usize];
    }
    match node {
        Node::Extent(a)
        | Node::Index(a)
        | Node::Reduce { axis: a, .. }
        | Node::Shift { axis: a, .. } => *a = axis(*a),
        Node::Input { index, .. } | Node::State { index, .. } => {
            for i in index {
                *i = match *i {
                    AxisIndex::At(a) => AxisIndex::At(axis(a)),
                    AxisIndex::Group { of, groups } => AxisIndex::Group {
                        of: axis(of),
                        groups: axis(groups),
                    },
                };
            }
        }
        Node::Const(_) | Node::Op(..) | Node::Given { .. } => {}
    }
}
