//! Every model of the catalogue, compiled and run on this machine, computes its f64 meaning: in every element type,
//! with its optional inputs given and left out, from initial states, over packed sequences, on one thread and on
//! several, and by every kind of schedule that fits it.
#![allow(clippy::unwrap_used)]

#[path = "catalogue/options.rs"]
mod options;

use std::collections::BTreeSet;

use options::inputs;
use selscan_codegen::candidates;
use selscan_dsl::{Inputs, eval_with_bound};
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
