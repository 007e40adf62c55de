//! The adjoint of a recurrence: its gradients as a recurrence that runs the other way.
//!
//! In: a specialised recurrence h' = f(h, x), y = g(h', x) of a loss L, and the names of the inputs and initial
//! states to differentiate by. Out: an [`Adjoint`]: an ordinary recurrence whose states are adjoints,
//!
//! ```text
//! c      = d_h + (∂y/∂h')ᵀ d_y          d_h carries ∂L/∂hₜ, of later steps, into step t
//! d_h'   = (∂h'/∂h)ᵀ c                   and ∂L/∂hₜ₋₁ out of it: from ∂L/∂h_last down to ∂L/∂h_initial
//! d_x    = (∂h'/∂x)ᵀ c + (∂y/∂x)ᵀ d_y    an output, for x that varies in time
//! d_a'   = d_a + (∂h'/∂a)ᵀ c + …         a state whose last value is the gradient, for a that does not
//! ```
//! Complex numbers have the cotangent ∂L/∂Re + i ∂L/∂Im, so that f holomorphic takes d to conj(f′) d.
//!
//! Order of transforms: [`Recurrence::specialize`], [`Recurrence::with_boundaries`] (the adjoint is then cut where
//! sequences are), `vjp` on complex numbers and on both directions at once, [`Recurrence::deferred`] and
//! [`Recurrence::partial`] where work is to be done apart, [`Recurrence::split_directions`],
//! [`crate::Scan::derive`].

mod build;
mod finish;
mod order;
mod place;
mod sweep;

use crate::expr::{Node, Part, StateId, When};
use crate::recurrence::{InputKind, OutputDecl, Recurrence};
pub(crate) use build::{fold, in_group};
use order::{Event, order};
use sweep::Sweep;

/// Why a recurrence has no adjoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names the fields
pub enum VjpError {
    #[error("`{kernel}` has no input or state `{name}` to differentiate by; it has {known}")]
    Unknown {
        kernel: String,
        name: String,
        known: String,
    },
    #[error(
        "whether `{kernel}` is given `{name}` is open; specialise it first, since the gradients differ"
    )]
    Unspecialised { kernel: String, name: String },
    #[error(
        "`{kernel}` is in real arithmetic already; take the adjoint first and split complex numbers then"
    )]
    Split { kernel: String },
    #[error(
        "`{kernel}` reduces or shifts over its time axis; only states may carry values through time"
    )]
    OverTime { kernel: String },
    #[error(
        "the gradient of `{kernel}` needs states of one direction of time that depend on `{name}`, which runs in the other; make two kernels of it"
    )]
    Directions { kernel: String, name: String },
    #[error("`{name}` needs its own next value to be computed; read a state before its assignment")]
    Cyclic { name: String },
    #[error(
        "`{name}` is read at positions that its gradient has no names for; read it plainly, by `alias` to a name that its axes do not have, or by `group`"
    )]
    Position { name: String },
}

/// A value of a state of the primal recurrence, over time: an input of the adjoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// The input's name: `h_prev` or `h`. Its axes are time, then the state's.
    pub name: String,
    /// The primal's state.
    pub state: StateId,
    /// Before or after its assignment at each step.
    pub when: When,
}

/// The adjoint of a recurrence, and what its names stand for. Axes are the primal's, by id; inputs that it reads
/// keep their names.
#[derive(Clone, PartialEq, Debug)]
pub struct Adjoint {
    /// The adjoint.
    pub recurrence: Recurrence,
    /// The primal's states that it reads.
    pub saved: Vec<Saved>,
    /// (output of the primal, input that takes its cotangent), of those that it reads.
    pub cotangents: Vec<(String, String)>,
    /// (state of the primal, its adjoint): the adjoint's initial state is the cotangent of the last state, its
    /// last state the gradient by the initial state. States that no wanted gradient depends on have none.
    pub states: Vec<(String, String)>,
    /// (input that was asked for, its gradient): an output if the input varies in time, else a state whose last
    /// value is the gradient. Axes are those of the input, in order, perhaps under an alias.
    pub gradients: Vec<(String, String)>,
}

impl Adjoint {
    /// The primal recurrence with what the adjoint reads of its states as further outputs, in the order of
    /// [`Adjoint::saved`].
    #[must_use]
    pub fn forward(&self, primal: &Recurrence) -> Recurrence {
        let mut out = primal.clone();
        for saved in &self.saved {
            let value = out.read_state(saved.state, saved.when);
            let decl = primal.state(saved.state);
            let name = out.free_name(&saved.name);
            out.outputs.push(OutputDecl {
                name,
                axes: [out.time].into_iter().chain(decl.axes.clone()).collect(),
                complex: decl.complex,
                value,
                value_im: None,
            });
        }
        out
    }
}

impl Recurrence {
    /// The adjoint: gradients by the inputs and initial states that `wrt` names.
    ///
    /// # Errors
    /// [`VjpError`] if the recurrence is not specialised, or reads something where no gradient can be put.
    pub fn vjp(&self, wrt: &[&str]) -> Result<Adjoint, VjpError> {
        check(self, wrt)?;
        let mut sweep = Sweep::new(self);
        for event in order(self)?.into_iter().rev() {
            match event {
                Event::Node(id) => sweep.node(id),
                Event::Assign(state) => sweep.assign(state)?,
            }
        }
        sweep.finish(wrt)
    }
}

fn check(r: &Recurrence, wrt: &[&str]) -> Result<(), VjpError> {
    let kernel = || r.name.clone();
    for &name in wrt {
        if r.input_named(name).is_none() && r.state_named(name).is_none() {
            let inputs = r.inputs.iter().map(|i| &i.name);
            let states = r.states.iter().map(|s| &s.name);
            let known: Vec<String> = inputs.chain(states).map(|n| format!("`{n}`")).collect();
            return Err(VjpError::Unknown {
                kernel: kernel(),
                name: name.to_owned(),
                known: known.join(", "),
            });
        }
    }
    let open = r
        .inputs
        .iter()
        .find(|i| i.optional || i.kind == InputKind::Flag);
    if let Some(input) = open {
        return Err(VjpError::Unspecialised {
            kernel: kernel(),
            name: input.name.clone(),
        });
    }
    for id in r.graph.reachable(&r.roots()) {
        match r.graph.node(id) {
            Node::Given { input, .. } => {
                return Err(VjpError::Unspecialised {
                    kernel: kernel(),
                    name: r.input(*input).name.clone(),
                });
            }
            Node::Input { part, .. } | Node::State { part, .. }
                if matches!(part, Part::Re | Part::Im) =>
            {
                return Err(VjpError::Split { kernel: kernel() });
            }
            Node::Reduce { axis, .. } | Node::Shift { axis, .. } if *axis == r.time => {
                return Err(VjpError::OverTime { kernel: kernel() });
            }
            _ => {}
        }
    }
    Ok(())
}
