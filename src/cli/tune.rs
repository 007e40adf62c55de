//! `selscan tune`: the fastest schedule of a kernel for a shape. In: a kernel and a shape. Out: a table of the best
//! schedules, beside what a GPU allows; all that was measured in a file, and a picture of it; the winner is remembered
//! for later runs.

use std::path::Path;

use indicatif::ProgressBar;
use selscan_runtime::{Trial, Tuner, Untimed};
use serde_json::{Value, json};

use super::args::TuneArgs;
use super::check::style;
use super::failure::Failure;
use super::floor::Floor;
use super::job::Job;
use super::plot;
use super::report::{Report, digits, percent, table, time};

/// Rows of the table.
const BEST: usize = 10;

/// Tunes a kernel.
pub fn tune(args: &TuneArgs) -> Result<Report, Failure> {
    let job = Job::made_up(&args.kernel, None)?;
    let bar = ProgressBar::new(1).with_style(style());
    bar.set_message("schedules");
    let progress = |p: &selscan_runtime::Progress<'_>| {
        bar.set_length(p.of as u64);
        bar.set_position(p.done as u64);
    };
    let tuner = Tuner {
        progress: Some(&progress),
        ..Tuner::default()
    };
    let tuned = tuner.tune(&job.kernel, &job.args)?;
    bar.finish_and_clear();
    let floor = job.floor(job.bytes(&job.kernel.results(&job.args)?))?;
    let share = |seconds: f64| floor.map(|f| f.seconds() / seconds);

    let stages = tuned.schedules.len();
    let mut text = format!(
        "{} at {}, {}, on {}\n",
        job.source.recurrence.name,
        job.shape_text(),
        job.dtype(),
        job.kernel.device().target().name
    );
    for stage in 0..stages {
        let mut timed: Vec<(&Trial, f64)> = tuned
            .table
            .iter()
            .filter(|t| t.stage == stage)
            .filter_map(|t| Some((t, *t.outcome.as_ref().ok()?)))
            .collect();
        timed.sort_by(|a, b| a.1.total_cmp(&b.1));
        let own = tuned.table.iter().filter(|t| t.stage == stage);
        let all = own.clone().count();
        let slow = own.filter(|t| matches!(t.outcome, Err(Untimed::Slow(_))));
        let tried = all - slow.count();
        let best = timed.first().map_or(f64::NAN, |t| t.1);
        let rows: Vec<Vec<String>> = timed
            .iter()
            .take(BEST)
            .map(|(t, seconds)| {
                let share = share(*seconds).map(percent);
                let speed = [time(*seconds), format!("{}×", digits(seconds / best))];
                let row = speed.into_iter().chain(share);
                row.chain([t.schedule.to_string()]).collect()
            })
            .collect();
        if stages > 1 {
            text.push_str(&format!("\nstage {} of {stages}\n", stage + 1));
        }
        let (header, right): (&[&str], &[bool]) = match floor {
            Some(_) => (
                &["time", "of best", "of floor", "schedule"],
                &[true, true, true, false],
            ),
            None => (&["time", "of best", "schedule"], &[true, true, false]),
        };
        text.push_str(&format!("\n{}", table(header, &rows, right)));
        let unusable = tried - timed.len();
        text.push_str(&format!("{tried} schedules tried, {unusable} not usable"));
        text.push_str(&match all - tried {
            0 => "\n".to_owned(),
            slow => format!("; {slow} others could not be faster\n"),
        });
    }
    if let Some(f) = floor {
        text.push_str(&format!(
            "\nfloor: {} (memory {}, exponentials {})\n",
            time(f.seconds()),
            time(f.memory()),
            time(f.special())
        ));
    }
    let kept = match job.kernel.device().store().folder() {
        Some(folder) if tuned.stored => format!("remembered in {}", folder.display()),
        _ => "not remembered: there is no folder to keep it in".to_owned(),
    };
    text.push_str(&format!(
        "\nfastest: {} in {}; {kept}\n",
        names(&tuned.schedules),
        time(tuned.seconds)
    ));
    let trial = |t: &Trial| {
        json!({
            "stage": t.stage, "schedule": t.schedule.to_string(),
            "seconds": t.outcome.as_ref().ok(),
            "unusable": t.outcome.as_ref().err().map(ToString::to_string),
            "share_of_floor": t.outcome.as_ref().ok().and_then(|s| share(*s)),
        })
    };
    let json = json!({
        "command": "tune",
        "kernel": job.source.recurrence.name,
        "machine": job.kernel.device().target().name,
        "shape": job.shape().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        "dtype": job.dtype().name(),
        "schedules": tuned.schedules.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "seconds": tuned.seconds,
        "floor": floor.map(Floor::json),
        "share_of_floor": share(tuned.seconds),
        "kernels": kernels(&job)?,
        "stored": tuned.stored,
        "trials": tuned.table.iter().map(trial).collect::<Vec<_>>(),
    });
    if let Some(path) = &args.report {
        write(path, &format!("{json:#}\n"))?;
        text.push_str(&format!("measured: {}\n", path.display()));
    }
    if let Some(path) = &args.plot {
        let title = format!(
            "{} at {}, {}, on {}",
            job.source.recurrence.name,
            job.shape_text(),
            job.dtype(),
            job.kernel.device().target().name
        );
        write(path, &plot::svg(&title, &tuned.table, floor))?;
        text.push_str(&format!("drawn: {}\n", path.display()));
    }
    Ok(Report::new(text, json))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| Failure::file("write", path, e))
}

/// What the winner's kernels take of a GPU.
fn kernels(job: &Job) -> Result<Vec<Value>, Failure> {
    let code = job.kernel.compile(&job.spec, &job.extents)?;
    let programs = code.stages().iter().filter_map(|s| s.program.cuda());
    let each = programs.flat_map(|p| p.resources()).map(|r| {
        json!({
            "name": r.name, "registers": r.registers, "spill_stores": r.spill_stores, "spill_loads": r.spill_loads,
            "stack_frame": r.stack_frame, "shared": r.shared,
        })
    });
    Ok(each.collect())
}

fn names(schedules: &[selscan_codegen::Schedule]) -> String {
    schedules
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
