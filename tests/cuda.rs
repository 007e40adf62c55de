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

use std::collections::BTreeSet;
use std::io::Write;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once};
use std::thread;

use case::{Built, Case, build};
use selscan_codegen::{Algorithm, Dtype, Gpu, Plan, Schedule, Target, candidates};
use selscan_models::{CATALOGUE, model};
use selscan_runtime::{Error, nvrtc};

/// Types whose default schedules must keep everything in registers: those that models run in.
const OWN: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

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
        "{} kernels:\n{}",
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
    let mut cases = Vec::new();
    for model in CATALOGUE {
        cases.extend(Dtype::ALL.map(|dtype| (model, dtype, false)));
        // Packing is the same code in every type.
        cases.extend(OWN.map(|dtype| (model, dtype, true)));
    }
    let results = on_all_cores(&cases, |&(model, dtype, packed)| {
        let case = Case::new(model, dtype, packed);
        let plans = case.default_plans(&target);
        let built = plans.iter().map(|plan| build(plan, &target));
        match built.collect::<Result<Vec<Built>, String>>() {
            Ok(built) => Ok((case, built)),
            Err(why) => Err(format!("{}, {why}", case.name())),
        }
    });
    let (mut built, mut errors) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(result) => built.push(result),
            Err(why) => errors.push(why),
        }
    }
    for (case, plans) in built.iter().filter(|(case, _)| OWN.contains(&case.dtype)) {
        errors.extend(plans.iter().flat_map(|built| spills(case, built)));
    }
    if std::env::var_os("SELSCAN_BLESS").is_some() {
        table::write(&built, "sm_90");
    }
    assert_none(&errors);
}

/// What spills, in words.
fn spills(case: &Case, built: &Built) -> Vec<String> {
    let spilling = built.kernels.iter().map(|k| &k.resources);
    let spilling = spilling.filter(|r| r.spill_stores + r.spill_loads > 0);
    spilling
        .map(|r| {
            format!(
                "{}: the default schedule '{}' spills: {} has {} registers, writes {} bytes and reads {}",
                case.name(), built.schedule, r.name, r.registers, r.spill_stores, r.spill_loads
            )
        })
        .collect()
}

/// What schedules of one kind have in common.
fn kind(s: &Schedule) -> impl Ord + use<> {
    let chunked = matches!(s.algorithm, Algorithm::Chunked { .. });
    (chunked, s.order, s.warp > 1, s.share, s.ahead > 0)
}

/// A model for each way in which its states meet: not at all, one decay a matrix, complex and in both directions, a
/// window, a transition of low rank, a network.
#[test]
fn every_kind_of_schedule_compiles() {
    if !can_compile() {
        return;
    }
    let target = Target::h200();
    let mut cases = Vec::new();
    let mut kinds = BTreeSet::new();
    for name in [
        "selective_scan",
        "simple_gla",
        "s4d_bidirectional",
        "causal_conv1d",
        "delta_rule",
        "gru",
    ] {
        let case = Case::new(model(name).unwrap(), Dtype::F32, false);
        for scan in &case.scans {
            let plan = |s: &Schedule| Plan::new(scan, &case.extents, &case.options, &target, s);
            let mut seen = BTreeSet::new();
            for proposed in candidates(scan, &case.extents, &case.options, &target) {
                // With what no candidate may happen to have.
                for (share, ahead) in [(0, 0), (1, 0), (2, 0), (0, 2), (1, 1)] {
                    let other = Schedule {
                        share: proposed.share.max(share),
                        ahead: proposed.ahead.max(ahead),
                        ..proposed
                    };
                    if !seen.contains(&kind(&other))
                        && let Ok(plan) = plan(&other)
                    {
                        seen.insert(kind(&other));
                        cases.push((name, plan));
                    }
                }
            }
            kinds.append(&mut seen);
        }
    }
    // Whoever adds an order or an algorithm adds a model here that has it.
    assert!(kinds.len() >= 16, "only {} kinds", kinds.len());
    let built = on_all_cores(&cases, |(name, plan)| {
        build(plan, &target)
            .map_err(|why| format!("{name}, {why}"))
            .err()
    });
    let errors: Vec<String> = built.into_iter().flatten().collect();
    assert_none(&errors);
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
