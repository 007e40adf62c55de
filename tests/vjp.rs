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
#[path = "oracle/inputs.rs"]
mod inputs;

use adjoint::{Run, parallel};
use difference::{Call, Counts};
use generate::{Tape, generate};
use inputs::inputs;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selscan_dsl::{Inputs, Recurrence, eval_with_bound};
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::{Cpu, CpuOptions, Dtype, OwnedArgs, Store, TOLERANCE};

fn cases() -> u32 {
    let cases = std::env::var("SELSCAN_ORACLE_CASES").ok();
    cases.and_then(|n| n.parse().ok()).unwrap_or(150)
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
        let (inputs, extents) = inputs(&case, &r, &mut number);
        let call = Call::new(&r, inputs, &extents, &mut number);
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
