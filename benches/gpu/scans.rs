//! Whole scans. In: the tables `main`, `states`, `lengths`. Out: a row for each case and layout, with the default schedule
//! (or the one that is forced) and, where that is asked for, with the tuned one.

use selscan_runtime::{Dtype, Error, Kernel, OwnedArgs, Schedule, Tuner, Untimed};
use serde_json::json;

use crate::Stop;
use crate::bench::Bench;
use crate::case::{Case, Layout};
use crate::check::{Channels, small};
use crate::floor::Floor;
use crate::measure::{Set, Traffic, sets, times};
use crate::table;

/// Sets of small calls: more would take long to make.
const MOST_SETS: usize = 256;

/// The cases of a table; the same as in `mamba.py`.
pub fn cases(table: &'static str, quick: bool) -> Vec<Case> {
    let case = |dtype, layout, [b, l, d, n]: [usize; 4]| Case {
        table,
        dtype,
        layout,
        b,
        l,
        d,
        n,
    };
    let bdl = |shape| case(Dtype::Bf16, Layout::Bdl, shape);
    match table {
        "main" => {
            let shapes = [
                (Dtype::Bf16, [8, 2048, 2048, 16]),
                (Dtype::Bf16, [2, 4096, 5120, 16]),
                (Dtype::Bf16, [1, 65_536, 2048, 16]),
                (Dtype::Bf16, [1, 2048, 2048, 16]),
                (Dtype::Bf16, [64, 512, 2048, 16]),
                (Dtype::Bf16, [1, 524_288, 2048, 16]),
                (Dtype::Bf16, [4096, 16, 1024, 16]),
                (Dtype::F32, [8, 2048, 2048, 16]),
            ];
            let wanted = |(_, shape): &&(Dtype, [usize; 4])| !(quick && shape[1] > 100_000);
            let both = |&(dtype, shape): &(Dtype, [usize; 4])| {
                [Layout::Bdl, Layout::Bld].map(|layout| case(dtype, layout, shape))
            };
            shapes.iter().filter(wanted).flat_map(both).collect()
        }
        "states" => {
            let step = if quick { 3 } else { 1 };
            let counts = [1, 4, 8, 16, 64, 128, 256].into_iter().step_by(step);
            counts.map(|n| bdl([8, 2048, 2048, n])).collect()
        }
        _ => {
            let powers = if quick {
                (0..9).step_by(3)
            } else {
                (0..11).step_by(1)
            };
            powers.map(|k| bdl([1, 512 << k, 1024, 16])).collect()
        }
    }
}

/// A case, ready to be called.
struct Subject {
    case: Case,
    args: OwnedArgs,
    traffic: Traffic,
    floor: Option<Floor>,
    channels: Channels,
    sets: Vec<Set>,
}

/// Measures the cases of a table and prints it.
pub fn measure(bench: &mut Bench, name: &'static str) -> Result<(), Stop> {
    let mut lines = Vec::new();
    for case in cases(name, bench.settings.quick) {
        let label = format!("{name} {case} {}", case.layout);
        if !bench.wants(&label)? {
            continue;
        }
        match one(bench, case, &mut lines) {
            Ok(()) => {}
            Err(Stop::Failed(
                error @ (Error::Refused(_) | Error::DeviceMemory { .. } | Error::Untunable { .. }),
            )) => bench.skip(&label, &error.to_string())?,
            Err(stop) => return Err(stop),
        }
    }
    let header = [
        "shape",
        "layout",
        "ms",
        "graph",
        "floor",
        "by",
        "of it",
        "GB/s",
        "default/it",
        "schedule",
    ];
    let right = [
        false, false, true, true, true, false, true, true, true, false,
    ];
    if !lines.is_empty() {
        println!(
            "\n{name} (ms)\n{}",
            table::table(&header, &lines, &right).trim_end()
        );
    }
    Ok(())
}

/// Measures a case.
fn one(bench: &mut Bench, case: Case, lines: &mut Vec<Vec<String>>) -> Result<(), Stop> {
    let cuda = bench.cuda.clone();
    let kernel = cuda.kernel(crate::recurrence(case.model())?);
    let args = case.arguments(0)?;
    let (mut spec, extents) = kernel.resolve(&args)?;
    // Nobody asks for the last states here.
    spec.last.fill(None);
    let forced = bench.settings.schedule;
    let base = forced.map_or(kernel.clone(), |s| kernel.with_schedule(s));
    let plans = base.plan(&spec, &extents)?;
    let schedules: Vec<Schedule> = plans.iter().map(|p| p.schedule).collect();
    let traffic = Traffic::of(&kernel, &args)?;
    let floor = Floor::of(&kernel, &spec, &extents, traffic.sum())?;
    let mut subject = Subject {
        case,
        traffic,
        // What a copy reaches, not what the data sheet says.
        floor: floor.map(|f| Floor {
            bandwidth: bench.bandwidth,
            ..f
        }),
        channels: Channels::new(kernel.recurrence(), case, &args)?,
        sets: sets(&cuda, &kernel, &args, MOST_SETS, |i| case.arguments(i))?,
        args,
    };
    let what = if forced.is_some() { "forced" } else { "" };
    let default = subject.row(bench, &kernel, &schedules, (what, None), lines)?;
    if let (None, Some(budget)) = (forced, bench.settings.tune) {
        let tuner = Tuner {
            budget: Some(budget),
            ..Tuner::default()
        };
        let found = tuner.tune(&kernel, &subject.args)?;
        let mut slow = 0;
        let mut errors = Vec::new();
        for trial in &found.table {
            match &trial.outcome {
                Ok(_) => {}
                Err(Untimed::Slow(_)) => slow += 1,
                Err(Untimed::Unusable(why)) => errors.push(why),
            }
        }
        let first = errors
            .first()
            .map_or(String::new(), |why| format!(": {why}"));
        bench.say(&format!(
            "{} schedules tried, {slow} others could not be faster, {} not usable{first}",
            found.table.len() - slow,
            errors.len()
        ));
        let what = ("tuned", Some(default));
        subject.row(bench, &kernel, &found.schedules, what, lines)?;
    }
    Ok(())
}

impl Subject {
    /// Checks and times a kernel with some schedules: a row that is called `what`, beside the default's milliseconds. Its
    /// own.
    fn row(
        &mut self,
        bench: &mut Bench,
        kernel: &Kernel,
        schedules: &[Schedule],
        (what, default): (&str, Option<f64>),
        lines: &mut Vec<Vec<String>>,
    ) -> Result<f64, Stop> {
        let case = self.case;
        let layout = format!("{} {what}", case.layout).trim_end().to_owned();
        let kernel = kernel.with_schedules(schedules);
        if !small(&bench.cuda, &kernel, schedules, case, None)? {
            bench.say(&format!("{case} {layout}: does not fit a smaller shape"));
        }
        let first = &mut self.sets[0];
        first.poison()?;
        first.launch(&kernel)?;
        let error = self
            .channels
            .check(kernel.recurrence(), &first.results()?)?;
        let times = times(&bench.cuda, &kernel, &mut self.sets, bench.repeats())?;

        let best = times.best();
        let floor_ms = self.floor.map(|f| 1e3 * f.seconds());
        let gb_per_s = self.traffic.sum() / best / 1e6;
        let names: Vec<String> = schedules.iter().map(Schedule::to_string).collect();
        let names = names.join("; ");
        let or_none = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        let graph = or_none(times.graph_ms.map(|ms| format!("{ms:.4}")));
        bench.say(&format!(
            "{} {case} {layout}: {:.4} ms [{:.4}, {:.4}], in a graph {graph}, error {error:.1e}",
            case.table, times.ms, times.least, times.most,
        ));
        lines.push(vec![
            case.to_string(),
            layout.clone(),
            format!("{:.4}", times.ms),
            graph,
            or_none(floor_ms.map(|ms| format!("{ms:.4}"))),
            or_none(self.floor.map(|f| f.what().to_owned())),
            or_none(floor_ms.map(|ms| table::percent(ms / best))),
            format!("{gb_per_s:.0}"),
            default.map_or(String::new(), |ms| format!("{:.2}x", ms / best)),
            names.clone(),
        ]);
        bench.row(
            "rows",
            json!({
                "impl": "selscan", "table": case.table, "dtype": case.dtype.name(), "layout": layout,
                "B": case.b, "L": case.l, "D": case.d, "N": case.n,
                "ms": times.ms, "ms_min": times.least, "ms_max": times.most, "repeats": times.repeats,
                "graph_ms": times.graph_ms, "copies": self.sets.len(), "gb_per_s": gb_per_s,
                "floor_ms": floor_ms, "floor": self.floor.map(Floor::json),
                "share_of_floor": floor_ms.map(|ms| ms / best), "schedule": names, "error": error,
            }),
        )?;
        Ok(best)
    }
}
