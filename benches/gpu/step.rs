//! One-token steps: decoding. In: batch sizes, channels, the type of the state. Out: the table `step`: microseconds of a
//! step that updates the state in place, and the share of the memory's bandwidth that it uses.
//!
//! Each set has a state and weights of its own, as the layers of a network have.

use selscan_runtime::{Dtype, Schedule};
use serde_json::json;

use crate::Stop;
use crate::bench::Bench;
use crate::case::{Case, Layout};
use crate::check::small;
use crate::measure::{Traffic, sets, times};
use crate::table;

/// Sets of one size at most: their tensors take long to make.
const MOST_SETS: usize = 768;

/// Measures the steps and prints their table.
pub fn measure(bench: &mut Bench) -> Result<(), Stop> {
    let mut lines = Vec::new();
    let channels: &[usize] = if bench.settings.quick {
        &[2048]
    } else {
        &[2048, 5120]
    };
    for state in [Dtype::F32, Dtype::Bf16] {
        for &d in channels {
            for b in [1, 32, 128] {
                let case = Case {
                    table: "step",
                    dtype: Dtype::Bf16,
                    layout: Layout::Bld,
                    b,
                    l: 1,
                    d,
                    n: 16,
                };
                let label = format!("step {case} state {state}");
                if bench.wants(&label)? {
                    one(bench, case, state, &mut lines)?;
                    bench.say(&label);
                }
            }
        }
    }
    let header = [
        "shape",
        "state",
        "µs",
        "µs with launch",
        "sets",
        "MB",
        "TB/s",
        "of copy",
        "schedule",
    ];
    let right = [false, false, true, true, true, true, true, true, false];
    if !lines.is_empty() {
        let text = table::table(&header, &lines, &right);
        println!("\nstep (one token, state in place)\n{}", text.trim_end());
    }
    Ok(())
}

/// Measures one size.
fn one(
    bench: &mut Bench,
    case: Case,
    state: Dtype,
    lines: &mut Vec<Vec<String>>,
) -> Result<(), Stop> {
    let cuda = bench.cuda.clone();
    let kernel = cuda.kernel(crate::recurrence(case.model())?);
    let args = case.step_arguments(state, 0)?;
    // As a step in place passes it: the state before and after in one type.
    let (spec, extents) = kernel.resolve(&args)?;
    let plans = kernel.plan(&spec, &extents)?;
    let schedules: Vec<Schedule> = plans.iter().map(|p| p.schedule).collect();
    if !small(&cuda, &kernel, &schedules, case, Some(state))? {
        bench.say(&format!(
            "{case}: its schedule does not fit a smaller shape"
        ));
    }
    let make = |seed| case.step_arguments(state, seed);
    let mut sets = sets(&cuda, &kernel, &args, MOST_SETS, make)?;
    let times = times(&cuda, &kernel, &mut sets, bench.repeats())?;
    let bytes = Traffic::of(&kernel, &args)?.sum();
    let us = 1e3 * times.best();
    let rate = bytes / (us / 1e6);
    let names: Vec<String> = schedules.iter().map(Schedule::to_string).collect();
    let names = names.join("; ");
    lines.push(vec![
        case.to_string(),
        state.to_string(),
        format!("{us:.2}"),
        format!("{:.2}", 1e3 * times.ms),
        sets.len().to_string(),
        format!("{:.2}", bytes / 1e6),
        format!("{:.2}", rate / 1e12),
        table::percent(rate / bench.bandwidth),
        names.clone(),
    ]);
    bench.row(
        "steps",
        json!({
            "impl": "selscan", "dtype": case.dtype.name(), "state_dtype": state.name(),
            "B": case.b, "D": case.d, "N": case.n, "us": us, "ms": times.ms, "graph_ms": times.graph_ms,
            "copies": sets.len(), "bytes": bytes, "share_of_copy": rate / bench.bandwidth, "schedule": names,
        }),
    )
}
