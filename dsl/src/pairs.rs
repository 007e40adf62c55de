//! The pairs of a scan, in the graph of a recurrence.
//!
//! In: a [`Scan`] whose every state is h' = a ⊙ h + b with a and b free of all states. Out: [`Pairs`], the recurrence in
//! just this form, real and simplified as one, so that a, b and the outputs share what they have in common.

use crate::axis::AxisId;
use crate::expr::{NodeId, StateId, Type, When};
use crate::op::Op;
use crate::recurrence::{OutputDecl, Recurrence};
use crate::scan::Scan;
use crate::simplify::simplify;
use crate::summary::{is_reset, scale};

/// A value: its real part, and the imaginary one where it is complex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Parts {
    /// The value, or its real part.
    pub re: NodeId,
    /// Its imaginary part.
    pub im: Option<NodeId>,
}

/// (a, b) of one state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pair {
    /// What the state is multiplied by.
    pub a: Parts,
    /// What is added.
    pub b: Parts,
    /// Whether a is 0 where a sequence starts: the state is then forgotten even if it is not a number.
    pub resets: bool,
}

/// A recurrence and the pair of each of its states.
#[derive(Clone, PartialEq, Debug)]
pub struct Pairs {
    /// h' = a ⊙ h + b; outputs as before. Real and simplified.
    pub recurrence: Recurrence,
    /// By state.
    pub pairs: Vec<Pair>,
}

impl Scan {
    /// Whether a state starts anew within time (packed sequences).
    #[must_use]
    pub fn resets(&self) -> bool {
        let affine = self.states.iter().filter_map(|s| s.affine.as_ref().ok());
        affine
            .into_iter()
            .any(|a| is_reset(&self.source.graph, a.a))
    }

    /// The recurrence with the pair of each state. `None` unless every state is diagonal by itself.
    #[must_use]
    pub fn pairs(&self) -> Option<&Pairs> {
        let made = self.derived.pairs.get_or_init(|| self.make_pairs());
        made.as_ref()
    }

    fn make_pairs(&self) -> Option<Pairs> {
        if !self.is_diagonal() {
            return None;
        }
        let mut r = self.source.clone();
        let own = r.outputs.len();
        let mut resets = Vec::with_capacity(self.states.len());
        for (s, state) in self.states.iter().enumerate() {
            let affine = *state.affine.as_ref().ok()?;
            let h = r.read_state(StateId(s as u32), When::Prev);
            let kept = scale(&mut r.graph, affine.a, h);
            r.states[s].update = r.graph.op(Op::Add, &[kept, affine.b]);
            resets.push(is_reset(&r.graph, affine.a));
            for value in [affine.a, affine.b] {
                // Outputs for as long as the recurrence is simplified: they are its roots.
                let axes: Vec<AxisId> = r.graph.axes(value).iter().collect();
                r.outputs.push(OutputDecl {
                    name: format!("pair{}", r.outputs.len()),
                    axes,
                    complex: r.graph.ty(value) == Type::Complex,
                    value,
                    value_im: None,
                });
            }
        }
        let mut recurrence = simplify(&r.split_complex());
        let values = recurrence.outputs.split_off(own);
        let parts = |o: &OutputDecl| Parts {
            re: o.value,
            im: o.value_im,
        };
        let pairs = values.chunks_exact(2).zip(resets);
        let pairs = pairs.map(|(pair, resets)| Pair {
            a: parts(&pair[0]),
            b: parts(&pair[1]),
            resets,
        });
        Some(Pairs {
            pairs: pairs.collect(),
            recurrence,
        })
    }
}
