//! Every path computes the recurrence: random recurrences × shapes × schedules × storage types, where
//! eval = interp = JIT under the one tolerance rule |y − y64| ≤ K·ε·m (m from `eval_with_bound`).
//!
//! `SELSCAN_ORACLE_CASES=N` runs N random recurrences instead of the default; each is run under several schedules.
//! Plans for a GPU are interpreted, and some compiled by NVRTC if it is installed; `SELSCAN_ORACLE_DEVICE=cuda:0` runs all of
//! them there too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "oracle/generate.rs"]
mod generate;
#[path = "oracle/interpret.rs"]
mod interpret;
#[path = "oracle/propose.rs"]
mod propose;
#[path = "../dsl/tests/common/random.rs"]
mod random;
#[path = "oracle/run.rs"]
mod run;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selscan_codegen::Target;
use selscan_runtime::{Cpu, Device, Feature, nvrtc};

fn cases() -> u32 {
    std::env::var("SELSCAN_ORACLE_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(800)
}

/// The GPU that plans for one run on too, if one is named.
fn gpu() -> Option<Device> {
    let name = std::env::var("SELSCAN_ORACLE_DEVICE").ok()?;
    Some(Device::open(&name).unwrap())
}

#[test]
fn every_path_computes_the_recurrence() {
    let config = Config {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let counts = std::cell::RefCell::new(run::Counts::default());
    // One thread and two, and a machine without FMA.
    let cpus = [
        Cpu::with_threads(1).unwrap(),
        Cpu::with_threads(2).unwrap(),
        Cpu::without(&[Feature::Fma, Feature::Avx]).unwrap(),
    ];
    let gpu = gpu();
    let tape = prop::collection::vec(any::<u8>(), 0..160);
    let result = runner.run(&(tape, any::<u64>()), |(tape, seed)| {
        let checked = run::check(&tape, seed, &cpus, gpu.as_ref(), &mut counts.borrow_mut());
        if let (Some(_), Err(why)) = (&gpu, &checked) {
            // A process whose GPU has failed fails at whatever comes next: the first case is the one.
            println!("{why}");
        }
        checked.map_err(TestCaseError::fail)
    });
    let counts = counts.into_inner();
    println!("oracle: {counts}");
    if let Err(error) = result {
        panic!("{error}");
    }
    // A generator or a plan that refuses everything must not pass for a green oracle.
    assert!(
        counts.orders.iter().all(|&n| n > 0) && counts.chunked > 0 && counts.shared > 0,
        "an algorithm was never run: {counts}"
    );
    assert!(
        gpu.is_some() || !nvrtc::available() || counts.for_gpu > 0,
        "no plan for a GPU was compiled: {counts}"
    );
}

/// Runs models on so many random extents each, by the schedules that `how` makes.
fn check_models(names: &[&str], how: (&propose::Extent, &run::Propose), seeds: u32) -> run::Counts {
    let gpu = gpu();
    let mut counts = run::Counts::default();
    for name in names {
        let model = selscan_models::model(name).unwrap();
        for seed in 0..u64::from(seeds) {
            if let Err(why) = run::check_model(model, how, seed, gpu.as_ref(), &mut counts) {
                panic!("seed {seed}: {why}");
            }
        }
    }
    println!("oracle: {counts}");
    counts
}

/// Threads that share steps, states and inputs, on models that they fit: the random recurrences are mostly none.
#[test]
fn threads_that_share_compute_the_models() {
    let shared = |random: &mut random::Random, target: &Target, _| propose::shared(random, target);
    let names = [
        "selective_scan_bdl",
        "selective_scan",
        "selective_scan_complex",
        "s4d_zoh",
    ];
    let how = (&propose::full_blocks as _, &shared as _);
    let counts = check_models(&names, how, (cases() / 40).max(10));
    let staged = counts.orders[counts.orders.len() - 1];
    assert!(staged > 20, "hardly a staged schedule was run: {counts}");
    assert!(
        counts.under_way > 20,
        "hardly ever were several points under way: {counts}"
    );
}

/// Threads that share out the points of each nest of a step, on models that nothing else runs by several threads.
#[test]
fn threads_that_step_together_compute_the_models() {
    let own = |random: &mut random::Random, target: &Target, _| propose::together(random, target);
    let names = [
        "gru",
        "lstm",
        "s5_zoh",
        "s5_bidirectional",
        "dense_lti_complex",
        "shift_ssm",
        "h3",
        "mamba3_siso",
        "mamba3_mimo",
        "linear_attention_normalised",
        "rwkv7",
    ];
    let how = (&propose::odd_points as _, &own as _);
    let counts = check_models(&names, how, (cases() / 80).max(6));
    assert_eq!(counts.refused, 0, "{counts}");
}

/// A sum over time that no output reads has a last state all the same, at every point. (Found by the random recurrences, once in
/// some ten thousand.)
#[test]
fn sums_over_time_that_nothing_reads_are_there_at_every_point() {
    let gpu = gpu();
    let cpus = [Cpu::with_threads(1).unwrap()];
    let mut counts = run::Counts::default();
    for states in ["s: State<B, D, N>", "h: State<B, D>, s: State<B, D, N>"] {
        let decay = if states.starts_with('h') {
            "h = 0.5 * h + x;"
        } else {
            ""
        };
        let text = format!(
            "#[ssm_kernel]\nfn case(x: Tensor<B, L, D>, g: Tensor<N>, {states}) -> Tensor<B, L, D> {{ {decay} s = s + x; 2.0 * x + sum::<N>(g) }}"
        );
        for seed in 0..12 {
            let extents = [("B", 2), ("L", 7), ("D", 3), ("N", 4)];
            let devices = (&cpus[..], gpu.as_ref());
            let how = (true, seed);
            let propose = &propose::schedules;
            if let Err(why) = run::check_text(&text, &extents, how, propose, devices, &mut counts) {
                panic!("seed {seed}: {why}");
            }
        }
    }
    assert!(
        counts.interpreted > 100,
        "hardly a schedule was run: {counts}"
    );
}

/// Chunks of windows begin a little earlier, in place of having their states from passes before.
#[test]
fn windows_are_the_same_in_chunks() {
    let gpu = gpu();
    let cpus = [Cpu::with_threads(2).unwrap()];
    let mut counts = run::Counts::default();
    let convolution = "#[ssm_kernel]\nfn case(x: Tensor<B, D, L>, w: Tensor<D, W>, h: State<B, D, W>) -> Tensor<B, D, L> \
                       { h = push_back::<W>(h, x); sum::<W>(w * h) }";
    let delays = "#[ssm_kernel]\nfn case(x: Tensor<B, L, D>, g: Tensor<B, L, D>) -> Tensor<B, L, D> \
                  { x + delay(g * delay(x, 2), 3) }";
    for (text, inner) in [(convolution, Some(("W", 4))), (delays, None)] {
        for (seed, steps) in [37, 48, 16, 0, 5, 64]
            .into_iter()
            .cycle()
            .take(36)
            .enumerate()
        {
            let mut extents = vec![("B", 2), ("L", steps), ("D", 3)];
            extents.extend(inner);
            let devices = (&cpus[..], gpu.as_ref());
            // Whole chunks where states come and go.
            let how = (seed % 5 == 4, seed as u64);
            let propose = &propose::windows;
            if let Err(why) = run::check_text(text, &extents, how, propose, devices, &mut counts) {
                panic!("seed {seed}: {why}");
            }
        }
    }
    // They are not diagonal: these are the only chunks that there are.
    assert!(counts.chunked > 100, "hardly a window was cut: {counts}");
}
