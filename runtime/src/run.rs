//! One launch: the stages of a compiled kernel over the caller's memory.
//!
//! In: a [`Compiled`] kernel, a [`Device`] and a [`Call`] whose tensors are there. Out: outputs and last states, written
//! (on a GPU: once the stream has come that far). What one stage carries to the next, and where sequences start, is
//! memory of the launch.

use std::collections::HashMap;

use selscan_codegen::{Dtype, Ty};
use selscan_dsl::array::Array;
use selscan_dsl::{Extents, InputId, Recurrence, StateId};

use crate::args::Boundaries;
use crate::buffer::TensorRef;
use crate::call::{Call, StateArgs};
use crate::checkpoints::Saved;
use crate::device::room::{Room, Temporary};
use crate::device::{Bindings, Device};
use crate::error::Error;
use crate::kernel::Compiled;
use crate::place::Place;

/// The last states of a launch without steps: the initial ones.
pub(crate) fn no_steps(r: &Recurrence, device: &Device, call: Call<'_>) -> Result<(), Error> {
    for (decl, state) in r.states.iter().zip(call.states) {
        if let StateArgs::Apart(initial, Some(last)) = state {
            let mut last = last.into_span();
            match (device, last.place(), initial) {
                (Device::Cuda(cuda), Place::Cuda(_), Some(initial)) => {
                    cuda.copy_span(&initial.span(), &mut last)?;
                }
                (Device::Cuda(cuda), Place::Cuda(_), None) => {
                    cuda.fill_span(&mut last, decl.init, decl.complex)?;
                }
                (_, _, Some(initial)) => last.copy_from(initial.span()),
                (_, _, None) if decl.complex => last.fill_pairs(decl.init),
                (_, _, None) => last.fill(decl.init),
            }
        }
    }
    Ok(())
}

/// Runs the stages; values that one carries to the next live in memory of the launch.
pub(crate) fn run(
    compiled: &Compiled,
    device: &Device,
    mut call: Call<'_>,
    extents: &Extents,
    saved: &mut [Saved],
) -> Result<(), Error> {
    let specialized = &compiled.prepared.specialized;
    let dtype = match call.spec.compute() {
        Ty::F64 => Dtype::F64,
        _ => Dtype::F32,
    };
    let mut room = device.room();
    let mut made = starts(call.boundaries.as_ref(), specialized, &mut room, dtype)?;
    for (stage, scan) in compiled.stages().iter().zip(compiled.scans()) {
        let r = &scan.recurrence;
        let mut carried = Vec::new();
        for decl in &r.outputs {
            if !specialized.outputs.iter().any(|o| o.name == decl.name) {
                let mut shape = extents.shape(&decl.axes);
                shape.extend(decl.complex.then_some(2));
                carried.push((decl.name.clone(), room.unwritten(dtype, &shape)?));
            }
        }
        let mut bindings = bind(&mut call, compiled, r, &made, &mut carried)?;
        for saved in saved.iter_mut() {
            if let Some(StateId(s)) = r.state_named(&saved.state) {
                bindings.output(r.outputs.len() as u32 + s, saved.memory.view_mut());
            }
        }
        room.launch(&stage.program, bindings, extents)?;
        made.extend(carried);
    }
    Ok(())
}

/// Where sequences start, as inputs by name; none where they are not packed.
pub(crate) fn starts(
    boundaries: Option<&Boundaries<'_>>,
    specialized: &Recurrence,
    room: &mut Room<'_>,
    dtype: Dtype,
) -> Result<HashMap<String, Temporary>, Error> {
    let mut made = HashMap::new();
    if let Some(boundaries) = boundaries {
        let data = boundaries.seq_idx.iter().map(|&i| f64::from(i)).collect();
        let seq_idx = Array::real(&boundaries.shape, data);
        for (name, keep) in specialized.boundary_inputs(&seq_idx) {
            made.insert(name, room.filled(dtype, &keep.shape, &keep.data)?);
        }
    }
    Ok(made)
}

/// The memory of one stage by the names of what it reads and writes.
fn bind<'b>(
    call: &'b mut Call<'_>,
    compiled: &Compiled,
    stage: &Recurrence,
    made: &'b HashMap<String, Temporary>,
    carried: &'b mut [(String, Temporary)],
) -> Result<Bindings<'b>, Error> {
    let whole = &compiled.prepared.specialized;
    let mut bindings = Bindings::new();
    // The inputs of the specialised recurrence are those given, in order.
    let given: Vec<&TensorRef<'_>> = call.inputs.iter().flatten().collect();
    for (i, decl) in stage.inputs.iter().enumerate() {
        let own = whole
            .input_named(&decl.name)
            .and_then(|id| given.get(id.0 as usize));
        let tensor = own
            .map(|&t| t.clone())
            .or_else(|| made.get(&decl.name).map(Temporary::view));
        if let Some(tensor) = tensor {
            bindings.input(InputId(i as u32), tensor);
        }
    }
    for (decl, state) in whole.states.iter().zip(&mut call.states) {
        let Some(StateId(s)) = stage.state_named(&decl.name) else {
            continue;
        };
        match state {
            StateArgs::InPlace(tensor) => bindings.in_place(StateId(s), tensor.reborrow()),
            StateArgs::Apart(initial, last) => {
                if let Some(initial) = initial {
                    bindings.initial(StateId(s), initial.clone());
                }
                if let Some(last) = last {
                    bindings.last(StateId(s), last.reborrow());
                }
            }
        }
    }
    let position = |name: &str| stage.outputs.iter().position(|o| o.name == name);
    for (decl, tensor) in whole.outputs.iter().zip(&mut call.outputs) {
        if let Some(at) = position(&decl.name) {
            bindings.output(at as u32, tensor.reborrow());
        }
    }
    for (name, tensor) in carried {
        if let Some(at) = position(name) {
            bindings.output(at as u32, tensor.view_mut());
        }
    }
    Ok(bindings)
}
