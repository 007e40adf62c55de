//! Backward plans run by the interpreter: those of a GPU on any machine.
//!
//! In: a recurrence, inputs, cotangents, a target and a schedule. Out: gradients, or that the schedule does not fit.

use selscan_codegen::interp::{Memory, interp};
use selscan_codegen::loop_ir::Role;
use selscan_codegen::{Backward, Dtype, Options, Schedule, Target, Ty, lower};
use selscan_dsl::{
    Array, Extents, InputId, Inputs, OutputDecl, Outputs, Recurrence, StateId, When, eval_at,
};

/// The gradients of a call as a plan of `target` computes them, in f64; `None` where the schedule does not fit.
pub fn gradients(
    r: &Recurrence,
    inputs: &Inputs,
    extents: &Extents,
    cotangents: &Outputs,
    by: &[&str],
    (target, schedule): (&Target, &Schedule),
) -> Result<Option<Inputs>, String> {
    let (primal, forward) = given(r, inputs);
    let backward = Backward::new(&primal, by).map_err(|e| e.to_string())?;
    let sig = &backward.adjoint.recurrence;
    let own = backward.extents(extents);
    let mut options = Options {
        compute: Ty::F64,
        save: schedule.save,
        ..Options::default()
    };
    options
        .initial
        .extend(sig.states.iter().map(|s| s.name.clone()));
    options
        .last
        .extend(sig.states.iter().map(|s| s.name.clone()));
    let Ok(plan) = backward.plan(&own, &options, target, schedule) else {
        return Ok(None);
    };

    let states = eval_at(&before(&primal), &forward, extents).map_err(|e| e.to_string())?;
    let states = saved(&primal, &states, schedule.save);
    let mut tensors = forward.tensors;
    for (output, d) in &backward.adjoint.cotangents {
        tensors.insert(d.clone(), cotangents.tensors[output].clone());
    }
    let mut memory = Memory::new();
    for (i, decl) in sig.inputs.iter().enumerate() {
        if let Some(x) = tensors.get(&decl.name) {
            memory.set(Role::Input(InputId(i as u32)), Dtype::F64, &x.data);
        }
    }
    for (s, x) in states.iter().enumerate() {
        let number = sig.inputs.len() + s;
        memory.set(Role::Input(InputId(number as u32)), Dtype::F64, x);
    }
    let poison = |axes: &[_], complex: bool| {
        let points: usize = own.shape(axes).iter().product();
        vec![f64::NAN; points * if complex { 2 } else { 1 }]
    };
    for (s, decl) in sig.states.iter().enumerate() {
        let id = StateId(s as u32);
        let of = backward
            .adjoint
            .states
            .iter()
            .find(|(_, d)| *d == decl.name);
        let zeros = vec![0.0; poison(&decl.axes, decl.complex).len()];
        let last = of.map_or(&zeros, |(h, _)| &cotangents.last[h].data);
        memory.set(Role::Initial(id), Dtype::F64, last);
        memory.set(
            Role::Last(id),
            Dtype::F64,
            &poison(&decl.axes, decl.complex),
        );
    }
    for (k, decl) in sig.outputs.iter().enumerate() {
        memory.set(
            Role::Output(k as u32),
            Dtype::F64,
            &poison(&decl.axes, decl.complex),
        );
    }
    let ix: Vec<i64> = own.0.iter().map(|&n| n as i64).collect();
    interp(&lower(&plan), &mut memory, &ix).map_err(|e| e.to_string())?;

    let result = |d: &str| {
        let output = sig.outputs.iter().position(|o| o.name == d);
        let (role, axes, complex) = match (output, sig.state_named(d)) {
            (Some(k), _) => (
                Role::Output(k as u32),
                &sig.outputs[k].axes,
                sig.outputs[k].complex,
            ),
            (None, Some(s)) => (Role::Last(s), &sig.state(s).axes, sig.state(s).complex),
            (None, None) => return Err(format!("no result {d}")),
        };
        let data = memory.get(role, Dtype::F64).ok_or("no memory")?;
        let shape = own.shape(axes);
        Ok(if complex {
            Array::complex(&shape, data)
        } else {
            Array::real(&shape, data)
        })
    };
    let mut out = Inputs::new();
    for (input, d) in &backward.adjoint.gradients {
        out.tensors.insert(input.clone(), result(d)?);
    }
    for (state, d) in &backward.adjoint.states {
        if by.contains(&state.as_str()) {
            out.initial.insert(state.clone(), result(d)?);
        }
    }
    Ok(Some(out))
}

/// The recurrence of a call whose inputs are all given, and those inputs: packed sequences are one of them.
pub fn given(r: &Recurrence, inputs: &Inputs) -> (Recurrence, Inputs) {
    let mut primal = r.specialize(&|name| inputs.has(name));
    let mut own = Inputs {
        tensors: inputs.tensors.clone(),
        initial: inputs.initial.clone(),
        ..Inputs::new()
    };
    if let Some(seq_idx) = &inputs.seq_idx {
        own.tensors.extend(primal.boundary_inputs(seq_idx));
        primal = primal.with_boundaries();
    }
    (primal, own)
}

/// The recurrence whose outputs are its states before each step.
pub fn before(primal: &Recurrence) -> Recurrence {
    let mut r = primal.clone();
    r.outputs.clear();
    for s in primal.state_ids() {
        let value = r.read_state(s, When::Prev);
        let decl = primal.state(s);
        r.outputs.push(OutputDecl {
            name: format!("before_{}", decl.name),
            axes: [r.time].into_iter().chain(decl.axes.clone()).collect(),
            complex: decl.complex,
            value,
            value_im: None,
        });
    }
    r
}

/// By state, what is said of it before each chunk of `steps` moments, of what is said of it before each step.
pub fn saved(primal: &Recurrence, before: &Outputs, steps: u32) -> Vec<Vec<f64>> {
    let chunk = |decl: &selscan_dsl::StateDecl| {
        let x = &before.tensors[&format!("before_{}", decl.name)];
        let all = x.shape[0];
        let row = x.data.len().checked_div(all).unwrap_or(0);
        let mut out = Vec::new();
        for from in (0..all).step_by(steps as usize) {
            let first = if decl.reverse {
                (from + steps as usize).min(all) - 1
            } else {
                from
            };
            out.extend(&x.data[first * row..(first + 1) * row]);
        }
        out
    };
    primal.states.iter().map(chunk).collect()
}
