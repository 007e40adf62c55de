//! Time. In: things to run. Out: the median seconds of each, measured in turns so that all see the same machine.

use std::time::{Duration, Instant};

use super::failure::Failure;

/// One thing to run.
pub type Run<'a> = &'a mut dyn FnMut() -> Result<(), Failure>;

/// A measurement is at least this long: shorter runs are repeated within it.
const LEAST: Duration = Duration::from_millis(2);
/// Rounds of measurement: at least, at most.
const ROUNDS: (usize, usize) = (3, 25);

/// Runs each once to warm up, then all in turns for about `budget`; the median seconds of each.
pub fn in_turns(budget: Duration, runs: &mut [Run<'_>]) -> Result<Vec<f64>, Failure> {
    let mut repeats = Vec::with_capacity(runs.len());
    for run in runs.iter_mut() {
        let once = timed(run, 1)?;
        repeats.push(
            (LEAST.as_secs_f64() / once.max(1e-9))
                .ceil()
                .clamp(1.0, 1e5) as u32,
        );
    }
    let mut times = vec![Vec::new(); runs.len()];
    let started = Instant::now();
    for round in 0..ROUNDS.1 {
        if round >= ROUNDS.0 && started.elapsed() >= budget {
            break;
        }
        for ((run, &repeats), times) in runs.iter_mut().zip(&repeats).zip(&mut times) {
            times.push(timed(run, repeats)?);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn timed(run: &mut Run<'_>, repeats: u32) -> Result<f64, Failure> {
    let started = Instant::now();
    for _ in 0..repeats {
        run()?;
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(repeats))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}
