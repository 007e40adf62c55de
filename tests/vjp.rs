//! The gradients of the oracle's random recurrences are derivatives: central differences in f64 over random shapes,
//! with optional inputs, initial states and packed sequences or without.
//!
//! `SELSCAN_ORACLE_CASES=N` runs N recurrences instead of the default.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../dsl/tests/common/difference.rs"]
mod difference;
#[path = "oracle/generate.rs"]
mod generate;

use difference::{Call, Counts, random};
use generate::{Case, Tape, generate};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selscan_dsl::{Array, Extents, InputKind, Inputs, Recurrence};

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
