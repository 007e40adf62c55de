//! What is run again to have the states that an adjoint reads.
//!
//! In: an [`Adjoint`] and its primal. Out: per direction of time a recurrence of the states that are read, and of those that
//! they depend on; its outputs are the states after each step, by the states' names. States before a step are those after
//! the step before it, or what the recurrence starts from.

use crate::expr::{Node, NodeId, StateId, When};
use crate::recurrence::{OutputDecl, Recurrence};
use crate::vjp::{Adjoint, VjpError};

/// A recurrence that has states back.
#[derive(Clone, PartialEq, Debug)]
pub struct Replay {
    /// States of one direction; axes are the primal's, by id.
    pub recurrence: Recurrence,
    /// (input of the adjoint, the output that it is, before or after the step).
    pub reads: Vec<(String, String, When)>,
}

impl Adjoint {
    /// What is run again for the saved states that `reads` says yes to.
    ///
    /// # Errors
    /// [`VjpError::Directions`] if states of one direction depend on states of the other.
    pub fn replays(
        &self,
        primal: &Recurrence,
        reads: impl Fn(&str) -> bool,
    ) -> Result<Vec<Replay>, VjpError> {
        let mut out = Vec::new();
        for reverse in [false, true] {
            let of = |s: &StateId| primal.state(*s).reverse == reverse;
            let saved: Vec<_> = self
                .saved
                .iter()
                .filter(|s| reads(&s.name) && of(&s.state))
                .collect();
            if saved.is_empty() {
                continue;
            }
            let mut needed: Vec<StateId> = saved.iter().map(|s| s.state).collect();
            // One that is read both before and after its step is run again once.
            needed.sort_unstable();
            needed.dedup();
            loop {
                let roots: Vec<NodeId> = needed
                    .iter()
                    .flat_map(|&s| [Some(primal.state(s).update), primal.state(s).update_im])
                    .flatten()
                    .collect();
                let count = needed.len();
                for id in primal.graph.reachable(&roots) {
                    if let Node::State { state, .. } = primal.graph.node(id)
                        && !needed.contains(state)
                    {
                        needed.push(*state);
                    }
                }
                if needed.len() == count {
                    break;
                }
            }
            if let Some(&other) = needed.iter().find(|s| !of(s)) {
                return Err(VjpError::Directions {
                    kernel: primal.name.clone(),
                    name: primal.state(other).name.clone(),
                });
            }
            needed.sort_unstable();
            let mut r = primal.clone();
            r.outputs.clear();
            r.name.push_str("_again");
            for &state in &needed {
                if !saved.iter().any(|s| s.state == state) {
                    continue;
                }
                let value = r.read_state(state, When::Next);
                let decl = primal.state(state);
                r.outputs.push(OutputDecl {
                    name: decl.name.clone(),
                    axes: [r.time].into_iter().chain(decl.axes.clone()).collect(),
                    complex: decl.complex,
                    value,
                    value_im: None,
                });
            }
            let name = |state: StateId| primal.state(state).name.clone();
            out.push(Replay {
                recurrence: r.with_states(&needed).prune(),
                reads: saved
                    .iter()
                    .map(|s| (s.name.clone(), name(s.state), s.when))
                    .collect(),
            });
        }
        Ok(out)
    }
}
