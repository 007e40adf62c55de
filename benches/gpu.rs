//! selscan on a CUDA GPU, timed: whole scans, one-token steps, compilation. The other half of `gpu/mamba.py`, which times
//! mamba_ssm and FlashAttention in the same shapes by the same rules; `gpu/README.md` shows how the two are joined.
//!
//! In: a GPU, NVRTC; `--help` lists the options. Out: tables on stdout, JSON in the file that `--out` names; progress on
//! stderr. Tables:
//!
//! ```text
//! compile  time before the first launch, cold and cached     gpu/compile.rs
//! main     the shapes that are compared, in two layouts      gpu/scans.rs
//! states   N from 1 to 256                                   gpu/scans.rs
//! lengths  L from 512 to 524288                              gpu/scans.rs
//! backward the gradients by all inputs                       gpu/backward.rs
//! step     one token, the state updated in place             gpu/step.rs
//! ```
//!
//! Exit codes: 0 done (also where there is no GPU and no file was asked for), 1 a number is wrong and the run was ended,
//! 2 wrong usage or no GPU, 3 a bug.
#![allow(missing_docs)]

#[path = "gpu/backward.rs"]
mod backward;
#[path = "gpu/bench.rs"]
mod bench;
#[path = "gpu/case.rs"]
mod case;
#[path = "gpu/check.rs"]
mod check;
#[path = "gpu/compile.rs"]
mod compile;
#[path = "../src/cli/floor.rs"]
mod floor;
#[path = "gpu/measure.rs"]
mod measure;
#[path = "gpu/scans.rs"]
mod scans;
#[path = "gpu/step.rs"]
mod step;
// The command line needs more of it.
#[allow(dead_code)]
#[path = "../src/cli/table.rs"]
mod table;

use std::process::ExitCode;

use bench::{Bench, HELP, Settings};
use check::Wrong;
use selscan_dsl::{EvalError, Recurrence};
use selscan_runtime::Error;

/// Why a run ended early.
#[derive(Debug)]
pub enum Stop {
    /// A kernel's number is wrong.
    Wrong(Wrong),
    Usage(String),
    Failed(Error),
}

impl From<Wrong> for Stop {
    fn from(wrong: Wrong) -> Stop {
        Stop::Wrong(wrong)
    }
}
impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}
impl From<EvalError> for Stop {
    fn from(error: EvalError) -> Stop {
        Stop::Failed(error.into())
    }
}

impl Stop {
    /// Says why; the exit code.
    fn report(self) -> ExitCode {
        let (code, why) = match self {
            Stop::Wrong(wrong) => (1, format!("a number is wrong, the run ends here: {wrong}")),
            Stop::Usage(why) => (2, why),
            Stop::Failed(error) => (3, error.to_string()),
        };
        eprintln!("error: {why}");
        ExitCode::from(code)
    }
}

/// A model of the catalogue.
fn recurrence(name: &str) -> Result<Recurrence, Stop> {
    let missing = || Stop::Usage(format!("the catalogue has no model `{name}`"));
    let model = selscan_models::model(name).ok_or_else(missing)?;
    Ok(model.recurrence().map_err(Error::from)?)
}

fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args_os().skip(1)) {
        Ok(settings) => settings,
        Err(stop) => return stop.report(),
    };
    if settings.help {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let skipped = |why: &str| {
        println!("skipped: {why}");
        ExitCode::SUCCESS
    };
    if settings.test {
        return skipped("nothing is measured in a test");
    }
    let cuda = match Bench::open(&settings) {
        Ok(cuda) => cuda,
        Err(why) if settings.out.is_none() => return skipped(&why),
        Err(why) => return Stop::Usage(why).report(),
    };
    if cfg!(debug_assertions) && settings.out.is_none() {
        return skipped("the times of a debug build mean nothing");
    }
    match Bench::new(settings, cuda).and_then(|mut bench| run(&mut bench)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.report(),
    }
}

/// Measures the tables that are wanted.
fn run(bench: &mut Bench) -> Result<(), Stop> {
    for name in bench::TABLES {
        if !bench.has(name) {
            continue;
        }
        match name {
            "compile" => compile::measure(bench)?,
            "backward" => backward::measure(bench)?,
            "step" => step::measure(bench)?,
            scans => scans::measure(bench, scans)?,
        }
    }
    bench.say("done");
    Ok(())
}
