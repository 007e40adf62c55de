//! Every kernel of the catalogue compiles for a GPU, by NVRTC, without a GPU: by its default schedule without spilling
//! registers, and by every kind of schedule.
//!
//! Where NVRTC is not installed the tests say so, past the capture of output, and pass. `SELSCAN_BLESS=1` writes
//! `benches/results/cuda-registers.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "cuda/case.rs"]
mod case;
#[path = "cuda/table.rs"]
mod table;

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once};
use std::thread;

use case::{Built, Case, build};
use selscan_codegen::backend::cuda::{Kernels, emit};
use selscan_codegen::{
    Algorithm, Dtype, Fingerprint, Gpu, Options, Plan, Schedule, Target, candidates, lower,
};
use selscan_dsl::Recurrence;
use selscan_dsl::scan::prepare;
use selscan_models::{CATALOGUE, Model, model};
use selscan_runtime::{Error, nvrtc};

/// Types in which packed sequences are tried too: those that models run in.
const OWN: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

/// Bytes of stack that a thread of a default schedule may take: what lowering leaves it, and what the compiler adds.
const MOST_STACK: u64 = Gpu::STACK + 1024;

/// Registers that are left where none is wanted.
const SPARE: u32 = 32;

/// Bytes that a kernel of gradients may write and read for want of registers.
const FEW_SPILLED: u64 = 256;

/// Failures after which no more kernels are tried: code that spills takes long to compile.
const ENOUGH: usize = 8;

/// One line on stderr itself, which the test runner does not capture.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether there is NVRTC; if not, says so once.
fn can_compile() -> bool {
    static SAID: Once = Once::new();
    match nvrtc::version() {
        Ok(_) => true,
        Err(why) => {
            SAID.call_once(|| say(&format!("skipped: no kernel is compiled for GPUs: {why}")));
            false
        }
    }
}

/// Results of `work` in the order of the items, on all cores.
fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let turns = || {
        while let Some((i, item)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            items.get(i).map(|item| (i, item))
        } {
            let result = work(item);
            done.lock().unwrap().push((i, result));
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(turns);
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Fails with every error there is, not only the first.
fn assert_none(errors: &[String]) {
    assert!(
        errors.is_empty(),
        "{} wrong:\n{}",
        errors.len(),
        errors.join("\n")
    );
}

#[test]
fn default_schedules_compile_and_spill_nothing() {
    if !can_compile() {
        return;
    }
    let target = Target::h200();
    let bless = std::env::var_os("SELSCAN_BLESS").is_some();
    let mut cases = Vec::new();
    for model in CATALOGUE {
        cases.extend(Dtype::ALL.map(|dtype| (model, dtype, false)));
        // Packing is the same code in every type.
        cases.extend(OWN.map(|dtype| (model, dtype, true)));
    }
    let failed = AtomicUsize::new(0);
    let results = on_all_cores(&cases, |&(model, dtype, packed)| {
        if failed.load(Ordering::Relaxed) >= ENOUGH && !bless {
            return None;
        }
        let case = Case::new(model, dtype, packed);
        let result = default_code(&case, &target);
        failed.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
        Some((case, result))
    });
    let left = results.iter().filter(|result| result.is_none()).count();
    let results: Vec<_> = results.into_iter().flatten().collect();
    if bless {
        table::write(&results, "sm_90");
    }
    let errors = results.into_iter().filter_map(|(_, result)| result.err());
    let mut errors: Vec<String> = errors.map(|failure| failure.why).collect();
    if left > 0 {
        errors.push(format!(
            "{left} more were not tried; SELSCAN_BLESS=1 tries all"
        ));
    }
    assert_none(&errors);
}

/// Gradients by everything, in the type that models are trained in: of a model for each way in which states meet.
#[test]
fn gradients_compile() {
    if !can_compile() {
        return;
    }
    let target = Target::h200();
    let models = [
        ("selective_scan", "N", 16),
        ("selective_scan_bdl", "N", 16),
        ("simple_gla", "K", 8),
        ("s4d_bidirectional", "N", 4),
        ("causal_conv1d", "W", 4),
        ("delta_rule", "K", 8),
        ("gru", "H", 16),
    ];
    let errors = on_all_cores(&models, |(name, axis, extent)| {
        let case = Case::new(model(name).unwrap(), Dtype::Bf16, false);
        let case = case.with_extent(axis, *extent);
        let built = build(&case.gradient_plan(&target), &target);
        let wrong = |built: Built| {
            // Here a few registers in memory are faster than shorter turns (measured, sm_90).
            let few = built.kernels.iter().all(|k| {
                u64::from(k.resources.spill_stores) + u64::from(k.resources.spill_loads)
                    <= FEW_SPILLED
            });
            let spilled = if few { vec![] } else { spills(&case, &built) };
            [stacks(&case, &built), spilled].concat()
        };
        built.map_or_else(
            |why| vec![format!("{}, gradients: {why}", case.name())],
            wrong,
        )
    });
    assert_none(&errors.concat());
}

/// Forward runs that save states by orders whose threads share, with few channels, more and many.
#[test]
fn forward_runs_that_save_spill_nothing() {
    if !can_compile() {
        return;
    }
    let target = Target::h200();
    let mut cases = Vec::new();
    // With many channels two threads share one, and f32 spills a register, whether states are saved or not.
    for (batch, dtypes) in [(1, &OWN[..]), (8, &OWN), (48, &[Dtype::Bf16])] {
        cases.extend(dtypes.iter().map(|&dtype| (batch, dtype)));
    }
    let errors = on_all_cores(&cases, |&(batch, dtype)| {
        let case = Case::new(model("selective_scan_bdl").unwrap(), dtype, false);
        let case = case.with_extent("B", batch).that_saves();
        default_code(&case, &target)
            .err()
            .map(|failure| failure.why)
    });
    let errors: Vec<String> = errors.into_iter().flatten().collect();
    assert_none(&errors);
}

/// What is wrong with the code of default schedules, and the code if there is some.
struct Failure {
    why: String,
    built: Vec<Built>,
}

/// The code of a case's default schedules.
fn default_code(case: &Case, target: &Target) -> Result<Vec<Built>, Failure> {
    let plans = case.default_plans(target);
    let built = plans.iter().map(|plan| build(plan, target));
    let built = built.collect::<Result<Vec<Built>, String>>();
    let built = built.map_err(|why| Failure {
        why: format!("{}, {why}", case.name()),
        built: Vec::new(),
    })?;
    let mut wrong: Vec<String> = built.iter().flat_map(|b| stacks(case, b)).collect();
    wrong.extend(built.iter().flat_map(|b| spills(case, b)));
    if !wrong.is_empty() {
        let why = wrong.join("\n");
        return Err(Failure { why, built });
    }
    Ok(built)
}

/// What spills for want of registers, in words. Where registers are left, the assembler saved one around a call (divisions
/// and roots of f64 have a slow path).
fn spills(case: &Case, built: &Built) -> Vec<String> {
    let (threads, blocks) = (built.schedule.threads, built.schedule.resident.max(1));
    let most = (65536 / (threads * blocks)).min(255);
    let spilling = built.kernels.iter().map(|k| &k.resources);
    let spilling = spilling.filter(|r| {
        let left = most.saturating_sub(r.registers) >= SPARE;
        r.spill_stores + r.spill_loads > 0 && !left
    });
    spilling
        .map(|r| {
            format!(
                "{}: the default schedule '{}' spills: {} has {} registers, writes {} bytes and reads {}",
                case.name(), built.schedule, r.name, r.registers, r.spill_stores, r.spill_loads
            )
        })
        .collect()
}

/// What keeps more in memory of its own than the driver should set aside for every thread, in words.
fn stacks(case: &Case, built: &Built) -> Vec<String> {
    let kernels = built.kernels.iter().map(|k| &k.resources);
    let large = kernels.filter(|r| u64::from(r.stack_frame) > MOST_STACK);
    large
        .map(|r| {
            format!(
                "{}: the default schedule '{}' keeps {} bytes a thread in {}, of at most {MOST_STACK}",
                case.name(), built.schedule, r.stack_frame, r.name
            )
        })
        .collect()
}

/// What schedules of one kind have in common.
fn kind(s: &Schedule) -> impl Ord + use<> {
    let chunked = matches!(s.algorithm, Algorithm::Chunked { .. });
    let rest = (
        s.share,
        s.tiles > 1,
        s.ahead > 0,
        s.resident > 0,
        s.exp2 > 0,
        s.several_under_way(),
    );
    (chunked, s.order, s.warp > 1, rest)
}

/// A model for each way in which states meet: not at all, one decay a matrix, complex and in both directions, a window, a
/// transition of low rank, a network. Their inner axes are short: long ones are only more of the same.
#[test]
fn every_kind_of_schedule_compiles() {
    if !can_compile() {
        return;
    }
    let target = Target::h200();
    let mut cases = Vec::new();
    let mut kinds = BTreeSet::new();
    for (name, axis, extent) in [
        ("selective_scan", "N", 8),
        ("simple_gla", "K", 8),
        ("s4d_bidirectional", "N", 4),
        ("causal_conv1d", "W", 4),
        ("delta_rule", "K", 8),
        ("gru", "H", 16),
    ] {
        let case = Case::new(model(name).unwrap(), Dtype::F32, false).with_extent(axis, extent);
        for scan in &case.scans {
            let mut seen = BTreeSet::new();
            for proposed in candidates(scan, &case.extents, &case.options, &target) {
                // Beside it, what no candidate may happen to have.
                let other = |share, ahead| Schedule {
                    share,
                    ahead,
                    ..proposed
                };
                let spared = Schedule {
                    exp2: 2,
                    ..proposed
                };
                let others = [other(0, 0), other(1, 0), other(2, 1), other(0, 3), spared];
                for schedule in [proposed].into_iter().chain(others) {
                    if !seen.contains(&kind(&schedule))
                        && let Ok(plan) = case.plan(scan, &schedule, &target)
                    {
                        seen.insert(kind(&schedule));
                        cases.push((name, plan));
                    }
                }
            }
            kinds.append(&mut seen);
        }
    }
    // An order or an algorithm that no model here has is not tested.
    assert!(kinds.len() >= 24, "only {} kinds", kinds.len());
    let built = on_all_cores(&cases, |(name, plan)| {
        let built = build(plan, &target);
        built.map_err(|why| format!("{name}, {why}")).err()
    });
    let errors: Vec<String> = built.into_iter().flatten().collect();
    assert_none(&errors);
}

/// What is compiled is found again by the fingerprint of its plan: a plan that is made anew has the same, another plan does
/// not, and what launches need survives being written.
#[test]
fn plans_are_told_apart_by_their_fingerprints() {
    let target = Target::h200();
    let mut seen = HashSet::new();
    for (model, dtype) in CATALOGUE.iter().flat_map(|m| OWN.map(|dtype| (m, dtype))) {
        let new = || Case::new(model, dtype, false);
        let longer = new().extents.get(new().scans[0].recurrence.time) + 8;
        let time = new().scans[0]
            .recurrence
            .axis_name(new().scans[0].recurrence.time)
            .to_owned();
        let cases = [
            (new(), new()),
            (
                new().with_extent(&time, longer),
                new().with_extent(&time, longer),
            ),
            (Case::new(model, dtype, true), Case::new(model, dtype, true)),
        ];
        for (case, again) in cases {
            let plans = case.default_plans(&target);
            for (plan, again) in plans.iter().zip(again.default_plans(&target)) {
                let id = Fingerprint::of(plan);
                assert_eq!(id, Fingerprint::of(&again), "{}", case.name());
                assert!(seen.insert(id), "{}: {plan}", case.name());
            }
        }
        for plan in new().default_plans(&target) {
            let kernels = emit(&lower(&plan)).unwrap().kernels;
            let text = serde_json::to_string(&kernels).unwrap();
            assert_eq!(serde_json::from_str::<Kernels>(&text).unwrap(), kernels);
        }
    }
}

/// NVRTC's optimiser lost the addresses of points that lie evenly apart, where a step is fetched that was prefetched
/// (`nvrtc::compile` finds that out). The random recurrences met it once in some 300 kernels.
#[test]
fn what_is_prefetched_can_be_fetched() {
    if !can_compile() {
        return;
    }
    let text = "#[ssm_kernel]\nfn case(x: Tensor<B, L, D>, c: Tensor<N, D, L>, h: State<B, D, N>) -> Tensor<B, L, D> \
                { h = 0.5 * h + x; sum::<N>(c * tanh(h)) }";
    let schedules = [
        "sequential order=stepped lanes=1 block=1 tile=64 unroll=3 warp=32 threads=32 ahead=1",
        "sequential order=scanned lanes=1 block=1 tile=4 unroll=4 warp=2 threads=64 ahead=1",
        "sequential order=scanned lanes=1 block=4 tile=4 unroll=4 warp=2 threads=64 ahead=1",
    ];
    let r = Recurrence::parse(text).unwrap();
    let extents = Model::extents(&r, &[("B", 2), ("L", 16), ("D", 9), ("N", 3)]);
    let target = Target::h200();
    let built = on_all_cores(&schedules, |schedule| {
        let scan = &prepare(&r, &|_| true, false)[0];
        let schedule = schedule.parse().unwrap();
        let plan = Plan::new(scan, &extents, &Options::default(), &target, &schedule).unwrap();
        build(&plan, &target).err()
    });
    assert_none(&built.into_iter().flatten().collect::<Vec<_>>());
}

/// A T4, an A100 and an RTX 5090: other instructions, less shared memory, fewer threads.
#[test]
fn older_and_newer_gpus() {
    if !can_compile() {
        return;
    }
    let gpu = |name: &str, capability, multiprocessors, shared_kib: u32, threads| Target {
        name: name.into(),
        gpu: Some(Gpu {
            capability,
            multiprocessors,
            shared_per_block: shared_kib << 10,
            threads,
            ..Target::h200().gpu.unwrap()
        }),
        ..Target::h200()
    };
    let targets = [
        gpu("Tesla T4", 75, 40, 64, 1024),
        gpu("NVIDIA A100", 80, 108, 163, 2048),
        gpu("NVIDIA GeForce RTX 5090", 120, 170, 99, 1536),
    ];
    let mut cases = Vec::new();
    for target in &targets {
        let capability = target.gpu.as_ref().unwrap().capability;
        match nvrtc::compile("", capability) {
            Err(why @ Error::NvrtcTarget { .. }) => {
                say(&format!("skipped: sm_{capability}: {why}"))
            }
            _ => cases.extend(Dtype::ALL.map(|dtype| (target, dtype))),
        }
    }
    let built = on_all_cores(&cases, |&(target, dtype)| {
        let case = Case::new(model("selective_scan").unwrap(), dtype, false);
        let plans = case.default_plans(target);
        let errors = plans.iter().filter_map(|plan| build(plan, target).err());
        let named = |why| format!("{} on {}, {why}", case.name(), target.name);
        errors.map(named).collect::<Vec<_>>()
    });
    assert_none(&built.concat());
}
