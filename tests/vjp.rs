//! The gradients of the oracle's random recurrences are derivatives: central differences in f64 over random shapes,
//! with optional inputs, initial states and packed sequences or without. And an adjoint is a recurrence like any: those of
//! the catalogue, compiled for the CPU, compute what they mean.
//!
//! `SELSCAN_ORACLE_CASES=N` runs N recurrences instead of the default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../dsl/tests/common/adjoint.rs"]
mod adjoint;
#[path = "../dsl/tests/common/difference.rs"]
mod difference;
#[path = "oracle/generate.rs"]
mod generate;

use adjoint::{Run, parallel};
use difference::{Call, Counts, random};
use generate::{Case, Tape, generate};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selscan_dsl::{Array, Extents, InputKind, Inputs, Recurrence, eval_with_bound};
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::{Cpu, CpuOptions, Dtype, OwnedArgs, Store, TOLERANCE};

fn cases() -> u32 {
    let cases = std::env::var("SELSCAN_ORACLE_CASES").ok();
    cases.and_then(|n| n.parse().ok()).unwrap_or(150)
}

/// The call of a case with random numbers.
fn call(case: &Case, r: &Recurrence, number: &mut impl FnMut() -> f64) -> Call {
    let extent = |name: &str| case.extents[name];
    let axes = r.axes.iter();
    let extents = axes.map(|a| extent(a.alias_of.map_or(&a.name, |of| r.axis_name(of))));
    let extents = Extents(extents.collect());
    let mut inputs = Inputs::new();
    for decl in &r.inputs {
        if decl.kind == InputKind::Tensor && !case.absent.contains(&decl.name) {
            let mut x = random(&extents.shape(&decl.axes), decl.complex, number);
            x.data.iter_mut().for_each(|x| *x *= case.scale);
            inputs = inputs.with(&decl.name, x);
        }
    }
    for state in r.states.iter().filter(|_| case.initial) {
        let h = random(&extents.shape(&state.axes), state.complex, number);
        inputs = inputs.with_initial(&state.name, h);
    }
    if case.packed {
        let batch = r.batch_axis().map(|b| extents.get(b));
        let shape: Vec<usize> = batch.into_iter().chain([extents.get(r.time)]).collect();
        let count = shape.iter().product();
        let mut sequence = 0.0;
        let seq_idx = (0..count).map(|_| {
            sequence += f64::from(u8::from(number() > 0.5));
            sequence
        });
        let seq_idx = Array::real(&shape, seq_idx.collect());
        inputs = inputs.with_seq_idx(seq_idx);
    }
    Call::new(r, inputs, &extents, number)
}

#[test]
fn gradients_are_central_differences() {
    let config = Config {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let counts = std::cell::RefCell::new(Counts::default());
    let tape = prop::collection::vec(any::<u8>(), 0..160);
    let result = TestRunner::new(config).run(&(tape, any::<u64>()), |(tape, seed)| {
        let case = generate(&mut Tape::new(&tape));
        let r = Recurrence::parse(&case.text).unwrap_or_else(|e| panic!("{}\n{e}", case.text));
        let mut state = seed;
        let mut number = || {
            // Knuth's MMIX generator; its high bits, in [−1, 1).
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let call = call(&case, &r, &mut number);
        let found = call.check(1, &mut number).map_err(TestCaseError::fail)?;
        if found.compared > 0 {
            // NaN is no error: it is the adjoint's as well.
            let error = Run::new(&call).apart(seed % 2 == 0);
            prop_assert!(error <= 1e-9, "apart: {error:e}\n{r}");
        }
        let mut counts = counts.borrow_mut();
        counts.compared += found.compared;
        counts.rough += found.rough;
        Ok(())
    });
    let counts = counts.into_inner();
    println!("vjp: {counts:?}");
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(counts.compared > cases() as usize, "{counts:?}");
    assert!(counts.rough < counts.compared / 4, "{counts:?}");
}

/// Runs into poisoned memory and compares every number with its meaning.
fn check(cpu: &Cpu, r: &Recurrence, inputs: &Inputs, dtype: Dtype) {
    let kernel = cpu.kernel(r.clone());
    let args = OwnedArgs::from_inputs(inputs, dtype).unwrap();
    let mut results = kernel.results(&args).unwrap();
    results.fill(f64::NAN);
    let launched = kernel.launch(args.args(&mut results));
    launched.unwrap_or_else(|e| panic!("{e}\n{r}"));
    let found = results.to_outputs(r);
    let (wanted, bound) = eval_with_bound(r, &args.to_inputs(r)).unwrap();
    let outputs = wanted
        .tensors
        .iter()
        .map(|(n, y)| (n, y, &found.tensors[n], &bound.tensors[n]));
    let states = wanted
        .last
        .iter()
        .map(|(n, y)| (n, y, &found.last[n], &bound.last[n]));
    for (name, y, x, m) in outputs.chain(states) {
        for (i, &y) in y.data.iter().enumerate() {
            let (x, m) = (x.data[i], m.data[i]);
            let near = x == y || (x - y).abs() <= TOLERANCE * dtype.epsilon() * m;
            assert!(
                near,
                "{dtype} {name}[{i}] is {x}, the meaning is {y}, m = {m}\n{r}"
            );
        }
    }
}

#[test]
fn adjoints_of_the_catalogue_compile_and_compute_their_meaning() {
    let cpu = Cpu::with_options(CpuOptions {
        threads: Some(2),
        store: Some(Store::none()),
        ..CpuOptions::default()
    });
    let cpu = cpu.unwrap();
    for (i, model) in CATALOGUE.iter().enumerate() {
        let r = model.recurrence().unwrap();
        let extents = Model::extents(&r, model.small);
        let mut state = i as u64;
        let mut number = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // As f32, so that the same numbers serve kernels of any precision.
            f64::from(((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0) as f32)
        };
        let inputs = model.sample(&r, &extents, &|_| true, i as u64);
        let call = Call::new(&r, inputs, &extents, &mut number);
        let run = Run::new(&call);
        let deferred = run.adjoint.recurrence.deferred();
        let partial = deferred
            .recurrence
            .partial(parallel(&run.primal))
            .recurrence;
        for dtype in [Dtype::F64, Dtype::F32] {
            for r in [&run.adjoint.recurrence, &partial] {
                check(&cpu, r, &run.inputs(r, &run.tensors), dtype);
            }
        }
        if let Some(after) = &deferred.after {
            let mut tensors = run.tensors.clone();
            tensors.extend(run.call(&deferred.recurrence, &run.tensors).last);
            check(&cpu, after, &run.inputs(after, &tensors), Dtype::F32);
        }
    }
}
