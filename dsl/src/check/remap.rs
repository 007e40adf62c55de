//! `alias` and `group`: a value read at other positions of an axis.
//!
//! In: a node and what stands in the place of one of its axes. Out: the same value with the change made in the
//! reads of inputs and states that it depends on, where all data movement sits.

use super::Checker;
use crate::axis::AxisId;
use crate::expr::{AxisIndex, Node, NodeId};

/// Why an axis cannot be replaced.
pub(super) enum Obstacle {
    /// The value reduces over the new axis while it varies over the old one.
    Reduced,
    /// A state is read by group.
    GroupedState(String),
    /// The value is a position on the axis, shifted along it or grouped by it already.
    Position,
}

impl Checker<'_> {
    /// `x` with its axis `from` read at `to`.
    pub(super) fn remap(
        &mut self,
        x: NodeId,
        from: AxisId,
        to: AxisIndex,
    ) -> Result<NodeId, Obstacle> {
        // Only nodes that vary over `from` change; what is reduced over it varies over it no more.
        let mut wanted = vec![false; x.0 as usize + 1];
        let mut new = vec![None; x.0 as usize + 1];
        wanted[x.0 as usize] = true;
        for i in (0..wanted.len()).rev() {
            if wanted[i] && self.varies(i, from) {
                for y in self.r.graph.node(NodeId(i as u32)).operands() {
                    wanted[y.0 as usize] = true;
                }
            }
        }
        for i in 0..wanted.len() {
            let id = NodeId(i as u32);
            if !wanted[i] {
                continue;
            }
            if !self.varies(i, from) {
                new[i] = Some(id);
                continue;
            }
            let old = self.r.graph.node(id);
            let operands: Vec<NodeId> = old
                .operands()
                .iter()
                .filter_map(|y| new[y.0 as usize])
                .collect();
            let mut node = old.with_operands(&operands);
            self.replace(&mut node, from, to)?;
            new[i] = Some(self.r.graph.add(node));
        }
        Ok(new[x.0 as usize].unwrap_or(x))
    }

    fn varies(&self, node: usize, axis: AxisId) -> bool {
        self.r.graph.axes(NodeId(node as u32)).contains(axis)
    }

    fn replace(&self, node: &mut Node, from: AxisId, to: AxisIndex) -> Result<(), Obstacle> {
        match node {
            Node::Input { input, index, .. } => {
                replace_index(index, &self.r.input(*input).axes, from, to)
            }
            Node::State { state, index, .. } => {
                if matches!(to, AxisIndex::Group { .. }) {
                    return Err(Obstacle::GroupedState(self.r.state(*state).name.clone()));
                }
                replace_index(index, &self.r.state(*state).axes, from, to)
            }
            Node::Index(axis) => match to {
                AxisIndex::At(to) => {
                    *axis = to;
                    Ok(())
                }
                AxisIndex::Group { .. } => Err(Obstacle::Position),
            },
            Node::Shift { axis, .. } if *axis == from => match to {
                AxisIndex::At(to) => {
                    *axis = to;
                    Ok(())
                }
                AxisIndex::Group { .. } => Err(Obstacle::Position),
            },
            Node::Reduce { axis, .. } if *axis == to.axis() => Err(Obstacle::Reduced),
            _ => Ok(()),
        }
    }
}

fn replace_index(
    index: &mut [AxisIndex],
    declared: &[AxisId],
    from: AxisId,
    to: AxisIndex,
) -> Result<(), Obstacle> {
    for (i, declared) in index.iter_mut().zip(declared) {
        *i = match (*i, to) {
            (AxisIndex::At(axis), AxisIndex::Group { of, .. }) if axis == from => {
                let groups = *declared;
                AxisIndex::Group { of, groups }
            }
            (AxisIndex::At(axis), to) if axis == from => to,
            (AxisIndex::Group { of, groups }, AxisIndex::At(axis)) if of == from => {
                AxisIndex::Group { of: axis, groups }
            }
            (AxisIndex::Group { of, .. }, _) if of == from => return Err(Obstacle::Position),
            (same, _) => same,
        };
    }
    Ok(())
}
