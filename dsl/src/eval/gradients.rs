//! Gradients: the meaning of the adjoint.
//!
//! In: a recurrence, its inputs, and cotangents of its outputs and last states, that is the gradient of a loss L by
//! them. Out: the gradient of L by inputs and initial states, from two runs: forward, keeping the states of every step
//! that the adjoint reads, and [`Recurrence::vjp`] backward.

use super::{Call, EvalError, check_array, run_call};
use crate::array::{Array, Inputs, Outputs};
use crate::recurrence::Recurrence;
use crate::shape::ShapeError;

/// The gradients by the inputs and initial states that `wrt` names: tensors by the input's name, initial states by the
/// state's, with the shapes of what they are gradients by. Of complex numbers ∂L/∂Re and ∂L/∂Im.
///
/// What `cotangents` leaves out is 0.
///
/// # Errors
/// [`EvalError`] where the inputs or cotangents do not fit the recurrence, or `wrt` names an input that is not given.
pub fn gradients(
    r: &Recurrence,
    inputs: &Inputs,
    cotangents: &Outputs,
    wrt: &[&str],
) -> Result<Inputs, EvalError> {
    Ok(run(r, inputs, cotangents, wrt, false)?.0)
}

/// The gradients, and for every element its magnitude m, as [`super::eval_with_bound`] has it: those of the states that a
/// gradient reads are what the forward run makes them.
///
/// # Errors
/// As [`gradients`].
pub fn gradients_with_bound(
    r: &Recurrence,
    inputs: &Inputs,
    cotangents: &Outputs,
    wrt: &[&str],
) -> Result<(Inputs, Inputs), EvalError> {
    run(r, inputs, cotangents, wrt, true)
}

fn run(
    r: &Recurrence,
    inputs: &Inputs,
    cotangents: &Outputs,
    wrt: &[&str],
    bound: bool,
) -> Result<(Inputs, Inputs), EvalError> {
    let tensors = cotangents.tensors.iter().map(|x| (x, true));
    let last = cotangents.last.iter().map(|x| (x, false));
    let mut shapes = Vec::new();
    for ((name, x), is_output) in tensors.chain(last) {
        let outputs = r.outputs.iter().find(|o| is_output && o.name == *name);
        let states = r.states.iter().find(|s| !is_output && s.name == *name);
        let complex = outputs.map(|o| o.complex).or(states.map(|s| s.complex));
        let Some(complex) = complex else {
            let outputs = r.outputs.iter().map(|o| &o.name);
            let states = r.states.iter().map(|s| &s.name);
            let known: Vec<String> = outputs.chain(states).map(|n| format!("`{n}`")).collect();
            return Err(EvalError::Shape(ShapeError::Unknown {
                kernel: r.name.clone(),
                name: name.clone(),
                known: known.join(", "),
            }));
        };
        check_array(name, x, complex)?;
        shapes.push((name.as_str(), x.shape.as_slice()));
    }
    let primal = Call::new(r, inputs, None, &shapes)?;
    let adjoint = primal.r.vjp(wrt)?;

    let mut forward = primal;
    let r = forward.r.clone();
    forward.r = adjoint.forward(&r);
    let (mut values, mut bounds) = run_call(&forward, &inputs.initial, bound)?;

    let zeros =
        |axes: &[crate::AxisId], complex| Array::filled(&forward.extents.shape(axes), complex, 0.0);
    let mut backward = Call {
        r: adjoint.recurrence.clone(),
        extents: forward.extents.clone(),
        tensors: forward.tensors.clone(),
        bounds: forward.bounds.clone(),
    };
    let saved = forward.r.outputs[r.outputs.len()..].iter();
    for (saved, output) in adjoint.saved.iter().zip(saved) {
        let value = values.tensors.remove(&output.name);
        let value = value.unwrap_or_else(|| zeros(&output.axes, output.complex));
        backward.tensors.insert(saved.name.clone(), value);
        let m = bounds.tensors.remove(&output.name);
        backward.bounds.extend(m.map(|m| (saved.name.clone(), m)));
    }
    for (output, input) in &adjoint.cotangents {
        let given = cotangents.tensors.get(output).cloned();
        let decl = r.outputs.iter().find(|o| o.name == *output);
        let value = given.or_else(|| decl.map(|o| zeros(&o.axes, o.complex)));
        backward.tensors.extend(value.map(|x| (input.clone(), x)));
    }
    let last = adjoint
        .states
        .iter()
        .filter_map(|(state, d)| Some((d.clone(), cotangents.last.get(state)?.clone())));
    let (found, bounds) = run_call(&backward, &last.collect(), bound)?;
    let by_input = |mut found: Outputs| {
        let mut out = Inputs::new();
        for (input, d) in &adjoint.gradients {
            let value = found.tensors.remove(d).or_else(|| found.last.remove(d));
            out.tensors.extend(value.map(|x| (input.clone(), x)));
        }
        for (state, d) in &adjoint.states {
            if wrt.contains(&state.as_str()) {
                let value = found.last.remove(d);
                out.initial.extend(value.map(|x| (state.clone(), x)));
            }
        }
        out
    };
    Ok((by_input(found), by_input(bounds)))
}
