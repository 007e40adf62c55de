//! `selscan tune`: the fastest schedule of a kernel for a shape. In: a kernel and a shape. Out: a table of the best
//! schedules; the winner is remembered for later runs.

use indicatif::ProgressBar;
use selscan_runtime::{Trial, Tuner};
use serde_json::json;

use super::args::TuneArgs;
use super::check::style;
use super::failure::Failure;
use super::job::Job;
use super::report::{Report, digits, table, time};

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
        let tried = tuned.table.iter().filter(|t| t.stage == stage).count();
        let best = timed.first().map_or(f64::NAN, |t| t.1);
        let rows: Vec<Vec<String>> = timed
            .iter()
            .take(BEST)
            .map(|(t, seconds)| {
                vec![
                    time(*seconds),
                    format!("{}×", digits(seconds / best)),
                    t.schedule.to_string(),
                ]
            })
            .collect();
        if stages > 1 {
            text.push_str(&format!("\nstage {} of {stages}\n", stage + 1));
        }
        text.push_str(&format!(
            "\n{}",
            table(
                &["time", "of best", "schedule"],
                &rows,
                &[true, true, false]
            )
        ));
        text.push_str(&format!(
            "{tried} schedules tried, {} not usable\n",
            tried - timed.len()
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
            "seconds": t.outcome.as_ref().ok(), "unusable": t.outcome.as_ref().err(),
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
        "stored": tuned.stored,
        "trials": tuned.table.iter().map(trial).collect::<Vec<_>>(),
    });
    Ok(Report::new(text, json))
}

fn names(schedules: &[selscan_codegen::Schedule]) -> String {
    schedules
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
