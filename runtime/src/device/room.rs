//! The memory of one launch that its arguments don't have: what one stage carries to the next, where sequences start,
//! workspaces.
//!
//! In: shapes, numbers. Out: [`Temporary`] tensors on the device of the launch, for as long as its [`Room`] lives.

use selscan_codegen::Dtype;
use selscan_dsl::Extents;

use super::bindings::Bindings;
use super::cuda::pool;
use super::memory::{Span, SpanMut};
use super::{Code, Device};
use crate::buffer::{Tensor, TensorMut, TensorRef, elements};
use crate::error::Error;

/// One launch on a device.
pub(crate) enum Room<'d> {
    /// On the CPU every tensor owns its memory.
    Cpu,
    /// On a GPU it is the stream's.
    Cuda(pool::Room<'d>),
}

/// A tensor of a launch.
pub(crate) enum Temporary {
    Host(Tensor),
    Cuda {
        ptr: u64,
        ordinal: u32,
        dtype: Dtype,
        shape: Vec<usize>,
        len: usize,
    },
}

impl Device {
    /// The memory of one launch.
    pub(crate) fn room(&self) -> Room<'_> {
        match self {
            Device::Cpu(_) => Room::Cpu,
            Device::Cuda(cuda) => Room::Cuda(cuda.room()),
        }
    }
}

impl Room<'_> {
    /// A tensor for a stage to write: all of it, before it is read.
    pub(crate) fn unwritten(&mut self, dtype: Dtype, shape: &[usize]) -> Result<Temporary, Error> {
        match self {
            Room::Cpu => Ok(Temporary::Host(Tensor::zeros(dtype, shape)?)),
            Room::Cuda(room) => {
                let len = elements(dtype, shape)?;
                Ok(Temporary::Cuda {
                    ptr: room.take(len * dtype.bytes())?,
                    ordinal: room.cuda.ordinal(),
                    dtype,
                    shape: shape.to_vec(),
                    len,
                })
            }
        }
    }

    /// A tensor of numbers, each rounded to the nearest element.
    pub(crate) fn filled(
        &mut self,
        dtype: Dtype,
        shape: &[usize],
        data: &[f64],
    ) -> Result<Temporary, Error> {
        let tensor = Tensor::from_f64(dtype, shape, data)?;
        match self {
            Room::Cpu => Ok(Temporary::Host(tensor)),
            Room::Cuda(room) => {
                let cuda = room.cuda;
                cuda.not_while_capturing(
                    "sequence boundaries, which are in the host's memory, were passed",
                    "launch packed sequences without a graph",
                )?;
                let made = self.unwritten(dtype, shape)?;
                if let Temporary::Cuda { ptr, .. } = made {
                    cuda.upload(&tensor.view().span(), ptr)?;
                }
                Ok(made)
            }
        }
    }

    /// Runs (on a GPU: queues) a program.
    pub(crate) fn launch(
        &mut self,
        code: &Code,
        bindings: Bindings<'_>,
        extents: &Extents,
    ) -> Result<(), Error> {
        match (code, self) {
            (Code::Cpu(program), Room::Cpu) => program.launch(bindings, extents),
            (Code::Cuda(program), Room::Cuda(room)) => program.launch_in(room, bindings, extents),
            (Code::Cpu(_), Room::Cuda(_)) | (Code::Cuda(_), Room::Cpu) => {
                unreachable!("a kernel's code and the memory of its launches are of its one device")
            }
        }
    }
}

impl Temporary {
    /// It, to read.
    pub(crate) fn view(&self) -> TensorRef<'_> {
        match self {
            Temporary::Host(tensor) => tensor.view(),
            Temporary::Cuda {
                ptr,
                ordinal,
                dtype,
                shape,
                len,
            } => TensorRef::from_span(Span::on_device(*ptr, Some(*ordinal), *dtype, *len), shape),
        }
    }
    /// It, to write.
    pub(crate) fn view_mut(&mut self) -> TensorMut<'_> {
        match self {
            Temporary::Host(tensor) => tensor.view_mut(),
            Temporary::Cuda {
                ptr,
                ordinal,
                dtype,
                shape,
                len,
            } => TensorMut::from_span(
                SpanMut::on_device(*ptr, Some(*ordinal), *dtype, *len),
                shape,
            ),
        }
    }
}
