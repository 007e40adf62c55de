//! Launches on a GPU over tensors of the host: up, run, down.
//!
//! In: a [`Call`] whose tensors all lie in the host's memory. Out: the same results in the same tensors, once the GPU is
//! done. Convenient, and slow beside tensors that stay on the GPU: the bus is some fifty times slower than its memory.

use super::memory::DeviceMemory;
use super::{APART, Cuda};
use crate::buffer::{TensorMut, TensorRef};
use crate::call::{Call, StateArgs};
use crate::device::memory::{Span, SpanMut};
use crate::error::Error;

/// Where pieces start.
const ALIGN: usize = 256;

/// The tensors of a call on their way to the GPU.
struct Lift<'c, 'a> {
    cuda: &'c Cuda,
    /// The next free byte.
    at: u64,
    /// What is copied back, from where.
    back: Vec<(SpanMut<'a>, u64)>,
}

impl<'a> Lift<'_, 'a> {
    /// A place for a tensor.
    fn place(&mut self, bytes: usize) -> u64 {
        let at = self.at;
        self.at += rounded(bytes) as u64;
        at
    }

    fn read(&mut self, tensor: &TensorRef<'a>) -> Result<TensorRef<'a>, Error> {
        let span = tensor.span();
        let at = self.place(span.addresses().len());
        self.cuda.upload(&span, at)?;
        let span = Span::on_device(at, Some(self.cuda.ordinal()), span.dtype(), span.len());
        Ok(TensorRef::from_span(span, tensor.shape()))
    }

    /// `before`: whether the kernel reads it first.
    fn write(&mut self, tensor: TensorMut<'a>, before: bool) -> Result<TensorMut<'a>, Error> {
        let shape = tensor.shape().to_vec();
        let span = tensor.into_span();
        let bytes = span.addresses().len();
        let at = self.place(bytes);
        if before {
            self.cuda.upload(&span.as_ref(), at)?;
        } else {
            // What a kernel does not write, against its contract, is then NaN and not what was there before.
            self.cuda.set_bytes(at, bytes, 0xff)?;
        }
        let lifted = SpanMut::on_device(at, Some(self.cuda.ordinal()), span.dtype(), span.len());
        self.back.push((span, at));
        Ok(TensorMut::from_span(lifted, &shape))
    }

    fn state(&mut self, state: StateArgs<'a>) -> Result<StateArgs<'a>, Error> {
        Ok(match state {
            StateArgs::InPlace(tensor) => StateArgs::InPlace(self.write(tensor, true)?),
            StateArgs::Apart(initial, last) => StateArgs::Apart(
                initial.map(|t| self.read(&t)).transpose()?,
                last.map(|t| self.write(t, false)).transpose()?,
            ),
        })
    }
}

fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN)
}

/// The bytes of all of a call's tensors, each rounded up.
fn bytes(call: &Call<'_>) -> usize {
    let read = |t: &TensorRef<'_>| rounded(t.span().addresses().len());
    let written = |t: &TensorMut<'_>| rounded(t.span().addresses().len());
    let state = |state: &StateArgs<'_>| match state {
        StateArgs::InPlace(tensor) => written(tensor),
        StateArgs::Apart(initial, last) => {
            initial.as_ref().map_or(0, read) + last.as_ref().map_or(0, written)
        }
    };
    call.inputs.iter().flatten().map(read).sum::<usize>()
        + call.states.iter().map(state).sum::<usize>()
        + call.outputs.iter().map(written).sum::<usize>()
}

impl Cuda {
    /// Calls `run` with copies of the call's tensors on the GPU, and copies what it wrote back.
    pub(crate) fn staged<'a>(
        &self,
        call: Call<'a>,
        run: impl FnOnce(Call<'a>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.not_while_capturing(
            "a launch over tensors in the host's memory was asked for",
            APART,
        )?;
        // Freed when this returns; nothing that `run` is given outlives it.
        let memory = DeviceMemory::new(&self.gpu, bytes(&call))?;
        let mut lift = Lift {
            cuda: self,
            at: memory.ptr(),
            back: Vec::new(),
        };
        let Call {
            spec,
            inputs,
            states,
            outputs,
            boundaries,
        } = call;
        let inputs = inputs
            .iter()
            .map(|i| i.as_ref().map(|t| lift.read(t)).transpose());
        let inputs = inputs.collect::<Result<_, _>>()?;
        let states = states.into_iter().map(|s| lift.state(s));
        let states = states.collect::<Result<_, _>>()?;
        let outputs = outputs.into_iter().map(|t| lift.write(t, false));
        let outputs = outputs.collect::<Result<_, _>>()?;
        run(Call {
            spec,
            inputs,
            states,
            outputs,
            boundaries,
        })?;
        for (span, at) in &mut lift.back {
            self.download(*at, span)?;
        }
        self.synchronize()
    }
}
