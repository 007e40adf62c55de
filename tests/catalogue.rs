//! Every model of the catalogue, compiled and run on this machine, computes its f64 meaning: in every element type,
//! with its optional inputs given and left out, from initial states, over packed sequences, on one thread and on
//! several, and by every kind of schedule that fits it.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "catalogue/options.rs"]
mod options;

use std::collections::BTreeSet;

use options::inputs;
use selscan_codegen::candidates;
use selscan_dsl::{AxisId, Extents, Inputs, Outputs, Recurrence, eval, eval_with_bound};
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::{Cpu, CpuOptions, Dtype, Kernel, OwnedArgs, Sample, Store, TOLERANCE};

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

/// Larger extents on axes whose names are those of sequences, channels and their groups, where a model has them.
fn larger(model: &Model, r: &Recurrence) -> Extents {
    let mut extents = Model::extents(r, model.small);
    let named = |name: &str| r.axes.iter().any(|a| a.name == name);
    for i in 0..r.axes.len() as u8 {
        let own = &mut extents.0[i as usize];
        match r.axis_name(r.canonical(AxisId(i))) {
            "B" => *own = 5,
            "L" => *own = 19,
            "D" => *own = 12,
            "G" if named("D") => *own = 3,
            _ => {}
        }
    }
    extents
}

#[test]
fn a_sample_of_every_model_means_what_the_whole_does() {
    let cpu = cpu(1);
    let (mut thinned, mut grouped, mut cut) = (0, 0, 0);
    for model in CATALOGUE {
        let r = model.recurrence().unwrap();
        let extents = larger(model, &r);
        let inputs = model.sample(&r, &extents, &|_| true, 3);
        let Ok(whole) = eval(&r, &inputs) else {
            panic!("{}: {extents:?}", model.name)
        };
        let args = OwnedArgs::from_inputs(&inputs, Dtype::F64).unwrap();
        let kernel = cpu.kernel(r.clone());
        let (spec, extents) = kernel.resolve(&args).unwrap();
        let all = Sample::all(&kernel, &spec, &extents).unwrap();
        assert_eq!(all.outputs(&r, &whole), whole, "{}", model.name);
        for most in [1e9, 300.0, 1.0] {
            let sample = Sample::of(&kernel, &spec, &extents, most).unwrap();
            let wanted = sample.outputs(&r, &whole);
            let mut numbers = 0;
            for part in sample.parts(3) {
                let mut found = eval(&r, &part.inputs(&r, &inputs)).unwrap();
                let own = part.outputs(&r, &whole);
                if !part.has_end() {
                    found.last.clear();
                    cut += 1;
                }
                assert_eq!(found, own, "{} of {most}", model.name);
                numbers += size(&own);
            }
            assert_eq!(numbers, size(&wanted), "{}: parts are all", model.name);
            assert_eq!(most == 1e9, sample == all, "{} of {most}", model.name);
            thinned += usize::from(size(&wanted) < size(&whole));
            let groups = r.axes.iter().position(|a| a.name == "G");
            grouped += usize::from(groups.is_some_and(|g| extents.0[g] == 3));
        }
    }
    assert!(
        thinned > 40 && grouped > 2 && cut > 20,
        "{thinned} {grouped} {cut}"
    );
}

/// How many numbers there are.
fn size(outputs: &Outputs) -> usize {
    let all = outputs.tensors.values().chain(outputs.last.values());
    all.map(|x| x.data.len()).sum()
}
