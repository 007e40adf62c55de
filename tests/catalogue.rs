//! Every model of the catalogue, compiled and run on this machine, computes its f64 meaning: in every element type,
//! with its optional inputs given and left out, from initial states, over packed sequences, on one thread and on
//! several, and by every kind of schedule that fits it.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use selscan_codegen::candidates;
use selscan_dsl::{Array, Extents, Inputs, Recurrence, eval_with_bound};
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::{Cpu, CpuOptions, Dtype, Kernel, OwnedArgs, Store, TOLERANCE};

fn cpu(threads: usize) -> Cpu {
    Cpu::with_options(CpuOptions {
        threads: Some(threads),
        store: Some(Store::none()),
        ..CpuOptions::default()
    })
    .unwrap()
}

/// Inputs of a model; `kind` says which options they have: 0 none, 1 all, 2 all and initial states, 3 all and packed
/// sequences.
fn inputs(model: &Model, r: &Recurrence, extents: &Extents, kind: u64) -> Inputs {
    let mut inputs = model.sample(r, extents, &|_| kind > 0, kind);
    if kind == 2 {
        for state in &r.states {
            let mut x = Array::filled(&extents.shape(&state.axes), state.complex, 0.0);
            for (i, x) in x.data.iter_mut().enumerate() {
                *x = f64::from(i as u32 % 7) / 8.0 - 0.375;
            }
            inputs = inputs.with_initial(&state.name, x);
        }
    }
    if kind == 3 {
        let axes: Vec<_> = r.batch_axis().into_iter().chain([r.time]).collect();
        let shape = extents.shape(&axes);
        let tokens = shape.iter().product::<usize>();
        let sequence = |i: usize| [0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 3.0][i % 7] + 4.0 * (i / 7) as f64;
        inputs = inputs.with_seq_idx(Array::real(&shape, (0..tokens).map(sequence).collect()));
    }
    inputs
}

/// Runs into poisoned memory and compares every number.
fn check(kernel: &Kernel, inputs: &Inputs, dtype: Dtype, context: &str) {
    let r = kernel.recurrence();
    let args = OwnedArgs::from_inputs(inputs, dtype).unwrap();
    let mut results = kernel.results(&args).unwrap();
    results.fill(f64::NAN);
    let launched = kernel.launch(args.args(&mut results));
    assert!(launched.is_ok(), "{context}: {}", launched.unwrap_err());
    let found = results.to_outputs(r);
    let (wanted, bound) = eval_with_bound(r, &args.to_inputs(r)).unwrap();
    let sides = [
        (&wanted.tensors, &bound.tensors, &found.tensors),
        (&wanted.last, &bound.last, &found.last),
    ];
    for (wanted, bound, found) in sides {
        for (name, wanted) in wanted {
            for (i, &y) in wanted.data.iter().enumerate() {
                let (x, m) = (found[name].data[i], bound[name].data[i]);
                assert!(
                    x == y || (x - y).abs() <= TOLERANCE * dtype.epsilon() * m,
                    "{context}: {name}[{i}] is {x}, the meaning is {y}, m = {m}"
                );
            }
        }
    }
}

#[test]
fn every_model_in_every_type() {
    let cpus = [cpu(1), cpu(3)];
    for model in CATALOGUE {
        let r = model.recurrence().unwrap();
        let extents = Model::extents(&r, model.small);
        for kind in 0..4 {
            let inputs = inputs(model, &r, &extents, kind);
            for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
                let kernel = cpus[(i + kind as usize) % 2].kernel(r.clone());
                check(
                    &kernel,
                    &inputs,
                    dtype,
                    &format!("{} kind {kind} {dtype}", model.name),
                );
            }
        }
    }
}

/// One schedule of each algorithm, order and number of lanes, with chunks much shorter than the sequence.
#[test]
fn every_model_by_every_kind_of_schedule() {
    let cpu = cpu(2);
    for model in CATALOGUE {
        let r = model.recurrence().unwrap();
        let long: Vec<(&str, usize)> = model
            .small
            .iter()
            .map(|&(axis, n)| (axis, if axis == r.axis_name(r.time) { 67 } else { n }))
            .collect();
        let extents = Model::extents(&r, &long);
        let kernel = cpu.kernel(r.clone());
        let inputs = inputs(model, &r, &extents, 2);
        let args = OwnedArgs::from_inputs(&inputs, Dtype::F32).unwrap();
        let (spec, extents) = kernel.resolve(&args).unwrap();
        let options = spec.options(&r);
        for scan in kernel.scans(&spec).unwrap() {
            let mut seen = BTreeSet::new();
            for schedule in candidates(&scan, &extents, &options, cpu.target()) {
                if seen.insert((schedule.algorithm, schedule.order, schedule.lanes)) {
                    let forced = kernel.with_schedule(schedule);
                    if forced.plan(&spec, &extents).is_ok() {
                        check(
                            &forced,
                            &inputs,
                            Dtype::F32,
                            &format!("{} {schedule}", model.name),
                        );
                    }
                }
            }
            assert!(!seen.is_empty(), "{}", model.name);
        }
    }
}
