//! States saved by a forward run, for a backward run to start chunks of time from.
//!
//! In: a shape, a device. Out: [`Checkpoints`]: one value of every state before each chunk, on the device.

use selscan_dsl::Extents;

use crate::buffer::{Tensor, TensorMut, TensorRef};
use crate::device::DeviceTensor;
use crate::spec::Spec;

/// The states that a forward run saved: one before each chunk of time.
#[derive(Debug)]
pub struct Checkpoints {
    pub(crate) spec: Spec,
    pub(crate) extents: Extents,
    pub(crate) saved: Vec<Saved>,
}

/// The saved values of one state: \[chunks, axes of the state\].
#[derive(Debug)]
pub(crate) struct Saved {
    pub state: String,
    pub memory: Memory,
}

#[derive(Debug)]
pub(crate) enum Memory {
    Host(Tensor),
    Cuda(DeviceTensor),
}

impl Memory {
    pub fn view(&self) -> TensorRef<'_> {
        match self {
            Memory::Host(tensor) => tensor.view(),
            Memory::Cuda(tensor) => tensor.view(),
        }
    }
    pub fn view_mut(&mut self) -> TensorMut<'_> {
        match self {
            Memory::Host(tensor) => tensor.view_mut(),
            Memory::Cuda(tensor) => tensor.view_mut(),
        }
    }
}

impl Checkpoints {
    /// Steps of a chunk.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.spec.save
    }
    /// Bytes that the saved states take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = |s: &Saved| {
            let view = s.memory.view();
            view.shape().iter().product::<usize>() * view.dtype().bytes()
        };
        self.saved.iter().map(bytes).sum()
    }
}
