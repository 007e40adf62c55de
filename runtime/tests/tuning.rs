//! The tuner finds a schedule that is right, remembers it, and survives what can happen to its files.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use common::{BOTH_WAYS, MAMBA, Random, check, inputs, recurrence};
use selscan_dsl::Extents;
use selscan_runtime::{
    Cpu, CpuOptions, Dtype, Kernel, OwnedArgs, Progress, Schedule, Spec, Store, Trial, Tuner,
};

fn kernel(folder: &Path, text: &str) -> Kernel {
    let cpu = Cpu::with_options(CpuOptions {
        threads: Some(2),
        store: Some(Store::at(folder)),
        ..CpuOptions::default()
    });
    cpu.unwrap().kernel(recurrence(text))
}

fn used(kernel: &Kernel, spec: &Spec, extents: &Extents) -> Vec<Schedule> {
    let plans = kernel.plan(spec, extents).unwrap();
    plans.iter().map(|p| p.schedule).collect()
}

const ONCE: Tuner<'_> = Tuner {
    repeats: 1,
    budget: None,
    progress: None,
};

#[test]
fn the_winner_is_used_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    for text in [MAMBA, BOTH_WAYS] {
        let first = kernel(folder.path(), text);
        let extents = [("B", 2), ("L", 70), ("D", 12), ("N", 4)];
        let inputs = inputs(first.recurrence(), &extents, &mut Random(7));
        let args = OwnedArgs::from_inputs(&inputs, Dtype::F32).unwrap();
        let (spec, extents) = first.resolve(&args).unwrap();
        let seen = Cell::new(0);
        let progress = |p: &Progress<'_>| {
            assert!(p.done >= 1 && p.done <= p.of);
            seen.set(seen.get() + 1);
        };
        let tuner = Tuner {
            repeats: 1,
            progress: Some(&progress),
            ..Tuner::default()
        };
        let tuned = tuner.tune(&first, &args).unwrap();
        assert!(tuned.stored);
        assert_eq!(seen.get(), tuned.table.len());
        let time = |t: &Trial| match &t.outcome {
            Ok(seconds) => *seconds,
            Err(why) => panic!("{}: {why}", t.schedule),
        };
        for (stage, schedule) in tuned.schedules.iter().enumerate() {
            let trials = tuned.table.iter().filter(|t| t.stage == stage);
            let best = trials.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap();
            assert_eq!(*schedule, best.schedule);
        }
        assert_eq!(used(&first, &spec, &extents), tuned.schedules);
        // Another process: another device, the same folder.
        let later = kernel(folder.path(), text);
        assert_eq!(used(&later, &spec, &extents), tuned.schedules);
        check(&later, &inputs, Dtype::F32, "tuned");
    }
}

#[test]
fn damaged_files_are_tuned_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = kernel(folder.path(), BOTH_WAYS);
    let extents = [("B", 1), ("L", 9), ("D", 5)];
    let inputs = inputs(first.recurrence(), &extents, &mut Random(8));
    let args = OwnedArgs::from_inputs(&inputs, Dtype::F32).unwrap();
    let (spec, extents) = first.resolve(&args).unwrap();
    let default = used(&first, &spec, &extents);
    ONCE.tune(&first, &args).unwrap();
    let mut files = std::fs::read_dir(folder.path()).unwrap();
    let path = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    let good = std::fs::read_to_string(&path).unwrap();
    let unknown = good
        .replace("sequential", "magical")
        .replace("chunked", "magical");
    for bad in ["", "{", "{\"version\": 99}", &unknown] {
        std::fs::write(&path, bad).unwrap();
        let later = kernel(folder.path(), BOTH_WAYS);
        assert_eq!(used(&later, &spec, &extents), default);
        check(&later, &inputs, Dtype::F32, "with a damaged file");
    }
    let last = kernel(folder.path(), BOTH_WAYS);
    let tuned = ONCE.tune(&last, &args).unwrap();
    let later = kernel(folder.path(), BOTH_WAYS);
    assert_eq!(used(&later, &spec, &extents), tuned.schedules);
}

#[test]
fn without_time_the_default_is_what_is_tried() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = kernel(folder.path(), BOTH_WAYS);
    let extents = [("B", 1), ("L", 9), ("D", 5)];
    let inputs = inputs(kernel.recurrence(), &extents, &mut Random(10));
    let args = OwnedArgs::from_inputs(&inputs, Dtype::F32).unwrap();
    let (spec, extents) = kernel.resolve(&args).unwrap();
    let default = used(&kernel, &spec, &extents);
    let hasty = Tuner {
        budget: Some(Duration::ZERO),
        ..ONCE
    };
    let tuned = hasty.tune(&kernel, &args).unwrap();
    assert_eq!(tuned.schedules, default);
    assert_eq!(tuned.table.len(), default.len());
}

/// Where nothing can be stored, the process that tuned still uses what it found.
#[test]
fn a_folder_that_can_not_be_written() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let first = kernel(&file.path().join("folder"), BOTH_WAYS);
    let extents = [("B", 1), ("L", 9), ("D", 5)];
    let inputs = inputs(first.recurrence(), &extents, &mut Random(9));
    let args = OwnedArgs::from_inputs(&inputs, Dtype::F32).unwrap();
    let tuned = ONCE.tune(&first, &args).unwrap();
    assert!(!tuned.stored);
    let (spec, extents) = first.resolve(&args).unwrap();
    assert_eq!(used(&first, &spec, &extents), tuned.schedules);
}
