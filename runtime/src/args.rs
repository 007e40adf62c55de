//! The arguments of one launch, by the names in the kernel's text.
//!
//! In: tensors to read and to write. Out: [`Args`]; nothing is checked before [`crate::Kernel::launch`].

use crate::buffer::{TensorMut, TensorRef};

/// Where sequences start in packed rows: an integer per row and step that changes where a new sequence starts.
#[derive(Clone, Debug)]
pub(crate) struct Boundaries<'a> {
    pub seq_idx: &'a [i32],
    pub shape: Vec<usize>,
}

/// The arguments of one launch.
///
/// ```text
/// Args::new().input("u", &u).flag("delta_softplus").initial("h", &h0).output("out", &mut y).last("h", &mut h1)
/// ```
#[derive(Debug, Default)]
pub struct Args<'a> {
    pub(crate) inputs: Vec<(&'a str, TensorRef<'a>)>,
    pub(crate) flags: Vec<&'a str>,
    pub(crate) initial: Vec<(&'a str, TensorRef<'a>)>,
    pub(crate) last: Vec<(&'a str, TensorMut<'a>)>,
    pub(crate) in_place: Vec<(&'a str, TensorMut<'a>)>,
    pub(crate) outputs: Vec<(&'a str, TensorMut<'a>)>,
    pub(crate) boundaries: Option<Boundaries<'a>>,
}

impl<'a> Args<'a> {
    /// No arguments.
    #[must_use]
    pub fn new() -> Self {
        Args::default()
    }
    /// An input, of the shape that its declaration says; a complex one with a trailing dimension of 2.
    #[must_use]
    pub fn input(mut self, name: &'a str, tensor: impl Into<TensorRef<'a>>) -> Self {
        self.inputs.push((name, tensor.into()));
        self
    }
    /// A flag that is given.
    #[must_use]
    pub fn flag(mut self, name: &'a str) -> Self {
        self.flags.push(name);
        self
    }
    /// A state before the first step; zeros where it is not given.
    #[must_use]
    pub fn initial(mut self, state: &'a str, tensor: impl Into<TensorRef<'a>>) -> Self {
        self.initial.push((state, tensor.into()));
        self
    }
    /// Where a state after the last step is to be written.
    #[must_use]
    pub fn last(mut self, state: &'a str, tensor: impl Into<TensorMut<'a>>) -> Self {
        self.last.push((state, tensor.into()));
        self
    }
    /// A state before the first step that becomes the state after the last one.
    #[must_use]
    pub fn state_in_place(mut self, state: &'a str, tensor: impl Into<TensorMut<'a>>) -> Self {
        self.in_place.push((state, tensor.into()));
        self
    }
    /// Where an output is to be written: every output of the kernel is needed.
    #[must_use]
    pub fn output(mut self, name: &'a str, tensor: impl Into<TensorMut<'a>>) -> Self {
        self.outputs.push((name, tensor.into()));
        self
    }
    /// Packed sequences: states start anew at each step whose `seq_idx` differs from that of the step before (and
    /// go on from the initial state at step 0). One integer per batch row and step, of shape [B, L].
    #[must_use]
    pub fn boundaries(mut self, seq_idx: &'a [i32], shape: &[usize]) -> Self {
        self.boundaries = Some(Boundaries {
            seq_idx,
            shape: shape.to_vec(),
        });
        self
    }
}
