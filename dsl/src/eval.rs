//! The meaning of a recurrence: plain loops in f64.
//!
//! In: a [`Recurrence`] and [`Inputs`]. Out: every output and every last state. At each time step each node is an
//! array over its own axes; nodes that do not vary in time are computed once. States of one direction run
//! together; a state that another direction reads is computed for all t first.
//!
//! [`eval_with_bound`] also carries the running first-order error bound that is this project's one tolerance,
//! |y − y64| ≤ K·eps·m with m(x) = |x| of an input and m(f(x₁, …)) = |f| + Σ |∂f/∂xᵢ|·m(xᵢ).

mod gradients;
mod machine;
mod node;
mod order;
mod value;

use std::collections::BTreeMap;

use crate::array::{Array, Inputs, Outputs};
use crate::axis::{AxisId, Extents};
use crate::recurrence::{InputKind, Recurrence};
use crate::shape::{ShapeError, axis_names, bind};
use crate::vjp::VjpError;
pub use gradients::{gradients, gradients_with_bound};
use machine::Machine;
use value::Value;

/// Why a recurrence has no value for these inputs.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names the fields
pub enum EvalError {
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error(
        "`{name}` has the shape {shape:?}, which takes {wanted} numbers, but holds {found}; complex elements are two numbers each"
    )]
    Data {
        name: String,
        shape: Vec<usize>,
        wanted: usize,
        found: usize,
    },
    #[error("`{name}` is declared {wanted}, but a {found} array was given")]
    Type {
        name: String,
        wanted: &'static str,
        found: &'static str,
    },
    #[error("`{name}` is a flag: name it in `flags` instead of giving it a tensor")]
    FlagIsNoTensor { name: String },
    #[error("`{kernel}` has no flag `{name}`")]
    UnknownFlag { kernel: String, name: String },
    #[error("`{name}` needs its own next value to be computed; read a state before its assignment")]
    Cyclic { name: String },
    #[error(
        "`{kernel}` reduces or shifts over its time axis; only states may carry values through time"
    )]
    OverTime { kernel: String },
    #[error(transparent)]
    Vjp(#[from] VjpError),
    #[error("an intermediate value over [{axes}] has more elements than memory can address")]
    TooBig { axes: String },
}

/// The outputs and last states of `r`.
///
/// # Errors
/// [`EvalError`] where the inputs do not fit the recurrence.
pub fn eval(r: &Recurrence, inputs: &Inputs) -> Result<Outputs, EvalError> {
    Ok(run(r, inputs, false)?.0)
}

/// The outputs and last states of `r`, and for every element its magnitude m, in arrays of the same layout
/// (both halves of a complex element have the same m).
///
/// # Errors
/// [`EvalError`] where the inputs do not fit the recurrence.
pub fn eval_with_bound(r: &Recurrence, inputs: &Inputs) -> Result<(Outputs, Outputs), EvalError> {
    run(r, inputs, true)
}

/// The same with the extents of the axes known: those of a recurrence that this one was made of. Its inputs need not
/// have every axis of its outputs and states then, as those of an adjoint may not.
///
/// # Errors
/// [`EvalError`] where the inputs do not fit the recurrence and the extents.
pub fn eval_at(r: &Recurrence, inputs: &Inputs, extents: &Extents) -> Result<Outputs, EvalError> {
    let call = Call::new(r, inputs, Some(extents), &[])?;
    Ok(run_call(&call, &inputs.initial, false)?.0)
}

fn run(r: &Recurrence, inputs: &Inputs, bound: bool) -> Result<(Outputs, Outputs), EvalError> {
    let call = Call::new(r, inputs, None, &[])?;
    run_call(&call, &inputs.initial, bound)
}

/// A recurrence specialised to a call, with boundaries if it is packed.
struct Call {
    r: Recurrence,
    extents: Extents,
    tensors: BTreeMap<String, Array>,
    /// Magnitudes m of tensors that are results themselves; those of the others are their absolute values.
    bounds: BTreeMap<String, Array>,
}

impl Call {
    /// The extents `known` and `shapes` are there beside the shapes of the inputs.
    fn new(
        r: &Recurrence,
        inputs: &Inputs,
        known: Option<&Extents>,
        shapes: &[(&str, &[usize])],
    ) -> Result<Self, EvalError> {
        check(r, inputs)?;
        let mut r = r.specialize(&|name| inputs.has(name));
        let given = inputs.tensors.iter().chain(&inputs.initial);
        let given = given.map(|(name, x)| (name.as_str(), x.shape.as_slice()));
        let extents = bind(&r, known, given.chain(shapes.iter().copied()))?;
        let mut tensors = inputs.tensors.clone();
        if let Some(seq_idx) = &inputs.seq_idx {
            check_seq_idx(&r, &extents, seq_idx)?;
            tensors.extend(r.boundary_inputs(seq_idx));
            r = r.with_boundaries();
        }
        Ok(Call {
            r,
            extents,
            tensors,
            bounds: BTreeMap::new(),
        })
    }
}

fn run_call(
    call: &Call,
    initial: &BTreeMap<String, Array>,
    bound: bool,
) -> Result<(Outputs, Outputs), EvalError> {
    let Call {
        r,
        extents,
        tensors,
        bounds,
    } = call;
    let values = r
        .inputs
        .iter()
        .map(|i| {
            let value = tensors.get(&i.name).map(|x| Value::of(x, bound));
            let mut value = value.unwrap_or_default();
            if let (true, Some(m)) = (bound, bounds.get(&i.name)) {
                // Both halves of a complex element have the same.
                value.m = m
                    .data
                    .iter()
                    .copied()
                    .step_by((m.data.len() / value.re.len().max(1)).max(1))
                    .collect();
            }
            value
        })
        .collect();
    let initial = r
        .states
        .iter()
        .map(|s| {
            let points = extents.shape(&s.axes).iter().product();
            match initial.get(&s.name) {
                Some(x) => Value::of(x, bound),
                None => Value::new(points, s.complex, bound, s.init),
            }
        })
        .collect();
    Ok(Machine::new(r, extents, values, initial, bound)?.run())
}

/// What shapes do not say: flags, types, and as much data as the shape takes.
fn check(r: &Recurrence, inputs: &Inputs) -> Result<(), EvalError> {
    for name in &inputs.flags {
        let decl = r.input_named(name).map(|i| r.input(i));
        if decl.is_none_or(|d| d.kind != InputKind::Flag) {
            return Err(EvalError::UnknownFlag {
                kernel: r.name.clone(),
                name: name.clone(),
            });
        }
    }
    for (name, x) in &inputs.tensors {
        if let Some(decl) = r.input_named(name).map(|i| r.input(i)) {
            if decl.kind == InputKind::Flag {
                return Err(EvalError::FlagIsNoTensor { name: name.clone() });
            }
            check_array(name, x, decl.complex)?;
        }
    }
    for (name, x) in &inputs.initial {
        match r.state_named(name) {
            Some(state) => check_array(name, x, r.state(state).complex)?,
            None => {
                let known: Vec<&str> = r.states.iter().map(|s| s.name.as_str()).collect();
                return Err(EvalError::Shape(ShapeError::Unknown {
                    kernel: r.name.clone(),
                    name: name.clone(),
                    known: format!("the states {}", known.join(", ")),
                }));
            }
        }
    }
    Ok(())
}

fn check_array(name: &str, x: &Array, complex: bool) -> Result<(), EvalError> {
    let word = |complex| if complex { "complex" } else { "real" };
    if x.complex != complex {
        return Err(EvalError::Type {
            name: name.to_owned(),
            wanted: word(complex),
            found: word(x.complex),
        });
    }
    let Some(wanted) = x.wanted_len() else {
        return Err(EvalError::Shape(ShapeError::Overflow {
            name: name.to_owned(),
            shape: x.shape.clone(),
        }));
    };
    if wanted != x.data.len() {
        return Err(EvalError::Data {
            name: name.to_owned(),
            shape: x.shape.clone(),
            wanted,
            found: x.data.len(),
        });
    }
    Ok(())
}

fn check_seq_idx(r: &Recurrence, extents: &Extents, seq_idx: &Array) -> Result<(), EvalError> {
    let name = "seq_idx".to_owned();
    check_array(&name, seq_idx, false)?;
    let axes: Vec<AxisId> = r.batch_axis().into_iter().chain([r.time]).collect();
    if axes.len() != seq_idx.shape.len() {
        return Err(EvalError::Shape(ShapeError::Rank {
            name,
            axes: axis_names(r, &axes),
            wanted: axes.len(),
            found: seq_idx.shape.clone(),
        }));
    }
    for (&axis, &found) in axes.iter().zip(&seq_idx.shape) {
        if extents.get(axis) != found {
            return Err(EvalError::Shape(ShapeError::Extent {
                name,
                axis: r.axis_name(axis).to_owned(),
                found,
                wanted: extents.get(axis),
                by: r.name.clone(),
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
