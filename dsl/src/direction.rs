//! A recurrence of two directions as two recurrences of one.
//!
//! In: a recurrence some of whose states run from the last step to the first. Out: one recurrence per
//! direction, in the order in which they run. What the second needs of the first goes through memory: the
//! maximal subexpressions that read only states of the first are its outputs `carry0`, `carry1`, … and inputs
//! of the same names of the second, which has the outputs of the text.

use std::collections::BTreeMap;

use crate::axis::AxisId;
use crate::expr::{AxisIndex, Graph, InputId, Node, NodeId, Part, StateId, Type};
use crate::recurrence::{InputDecl, InputKind, OutputDecl, Recurrence};

impl Recurrence {
    /// One recurrence per direction, without the inputs that it does not read; the reversed states run
    /// first, unless they read forward ones.
    ///
    /// A recurrence of one direction is unchanged. So is one whose directions read each other, which has no
    /// order to run in ([`mod@crate::eval`] says so of it).
    #[must_use]
    pub fn split_directions(&self) -> Vec<Recurrence> {
        let runs = |reverse: bool| self.states.iter().any(|s| s.reverse == reverse);
        let reads_other = |reverse: bool| {
            let updates: Vec<NodeId> = self
                .states
                .iter()
                .filter(|s| s.reverse == reverse)
                .flat_map(|s| [Some(s.update), s.update_im])
                .flatten()
                .collect();
            let other = |id: &NodeId| self.direction_of(*id).is_some_and(|r| r != reverse);
            self.graph.reachable(&updates).iter().any(other)
        };
        if !runs(true) || !runs(false) || (reads_other(true) && reads_other(false)) {
            return vec![self.clone()];
        }
        let first = !reads_other(true);
        let carries = self.carries(first);
        let name = |k: usize| {
            let mut name = format!("carry{k}");
            while self.inputs.iter().any(|i| i.name == name) {
                name.push('_');
            }
            name
        };
        let mut before = self.clone();
        before.outputs.clear();
        let mut after = self.clone();
        let mut reads = BTreeMap::new();
        for (k, &value) in carries.iter().enumerate() {
            let axes: Vec<AxisId> = self.graph.axes(value).iter().collect();
            let complex = self.graph.ty(value) == Type::Complex;
            let read = Node::Input {
                input: InputId(after.inputs.len() as u32),
                index: axes.iter().map(|&a| AxisIndex::At(a)).collect(),
                part: if complex { Part::Complex } else { Part::Real },
            };
            reads.insert(value, read);
            before.outputs.push(OutputDecl {
                name: name(k),
                axes: axes.clone(),
                complex,
                value,
                value_im: None,
            });
            after.inputs.push(InputDecl {
                name: name(k),
                kind: InputKind::Tensor,
                axes,
                complex,
                optional: false,
            });
        }
        vec![
            before.restrict(first, &BTreeMap::new()),
            after.restrict(!first, &reads),
        ]
    }

    /// Whether a read of a state runs backwards; `None` for other nodes.
    fn direction_of(&self, id: NodeId) -> Option<bool> {
        match self.graph.node(id) {
            Node::State { state, .. } => Some(self.state(*state).reverse),
            _ => None,
        }
    }

    /// The maximal subexpressions that read states of direction `first` and of no other, below the roots that
    /// the other direction computes; operands first.
    fn carries(&self, first: bool) -> Vec<NodeId> {
        // Bit 0: reads the first direction; bit 1: reads the second.
        let mut reads = vec![0u8; self.graph.len()];
        for id in self.graph.ids() {
            let own = match self.direction_of(id) {
                Some(direction) if direction == first => 1,
                Some(_) => 2,
                None => 0,
            };
            let operands = self.graph.node(id).operands();
            reads[id.0 as usize] = operands
                .iter()
                .fold(own, |bits, x| bits | reads[x.0 as usize]);
        }
        let states = self.states.iter().filter(|s| s.reverse != first);
        let mut open: Vec<NodeId> = states
            .flat_map(|s| [Some(s.update), s.update_im])
            .chain(
                self.outputs
                    .iter()
                    .flat_map(|o| [Some(o.value), o.value_im]),
            )
            .flatten()
            .collect();
        let mut seen = vec![false; self.graph.len()];
        let mut carries = Vec::new();
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id.0 as usize], true) {
                continue;
            }
            // A condition has no place in memory: what it compares has.
            if reads[id.0 as usize] == 1 && self.graph.ty(id) != Type::Bool {
                carries.push(id);
            } else {
                open.extend(self.graph.node(id).operands());
            }
        }
        carries.sort_unstable();
        carries
    }

    /// The recurrence with the states of one direction only and some nodes replaced.
    fn restrict(&self, reverse: bool, replaced: &BTreeMap<NodeId, Node>) -> Recurrence {
        let mut new_ids = Vec::with_capacity(self.states.len());
        let mut out = self.clone();
        out.states.clear();
        for decl in &self.states {
            new_ids.push(StateId(out.states.len() as u32));
            if decl.reverse == reverse {
                out.states.push(decl.clone());
            }
        }
        let mut graph = Graph::new(self.time);
        let mut new: Vec<NodeId> = self.graph.ids().collect();
        for id in self.graph.reachable(&out.roots()) {
            let node = match replaced.get(&id) {
                Some(read) => read.clone(),
                None => {
                    let node = self.graph.node(id);
                    let operands = node.operands();
                    let operands: Vec<NodeId> =
                        operands.iter().map(|x| new[x.0 as usize]).collect();
                    let mut node = node.with_operands(&operands);
                    if let Node::State { state, .. } = &mut node {
                        *state = new_ids[state.0 as usize];
                    }
                    node
                }
            };
            new[id.0 as usize] = graph.add(node);
        }
        let at = |id: &mut NodeId| *id = new[id.0 as usize];
        for s in &mut out.states {
            at(&mut s.update);
            s.update_im.as_mut().map(at);
        }
        for o in &mut out.outputs {
            at(&mut o.value);
            o.value_im.as_mut().map(at);
        }
        out.graph = graph;
        out.prune()
    }
}
