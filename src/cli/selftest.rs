//! `selscan selftest`: every model of the catalogue on a device, compared with the f64 meaning.
//!
//! In: a device, a filter. Out: a line a model. Code is compiled on all cores; runs are one at a time, so that an error of
//! the GPU is that of the run that it is told of.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use selscan_codegen::Dtype;
use selscan_dsl::{Outputs, Recurrence, eval_with_bound};
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::{Device, Error, Kernel, OwnedArgs, OwnedResults, Resident, Schedule, nvrtc};
use serde_json::json;

use super::args::SelftestArgs;
use super::check::whole;
use super::failure::Failure;
use super::gradients;
use super::job;
use super::large::large;
use super::report::{Report, count, time};
use super::trials::{Trial, schedules, trials};

/// The most models at work at once.
const MOST_THREADS: usize = 16;
/// Mismatches that are told of a model.
const TOLD: usize = 3;

/// What became of one model.
#[derive(Clone, Default, Debug)]
struct Outcome {
    runs: usize,
    numbers: usize,
    worst: f64,
    wrong: Vec<String>,
    seconds: f64,
}

/// What all threads share.
struct Test<'d> {
    device: &'d Device,
    quick: bool,
    /// Gradients are tested, not launches.
    gradients: bool,
    /// Held while a kernel runs.
    running: Mutex<()>,
    /// The device is lost: nothing after that means anything.
    lost: AtomicBool,
}

/// Tests the catalogue.
pub fn selftest(args: &SelftestArgs, quiet: bool) -> Result<Report, Failure> {
    let filter = args.filter.as_deref().unwrap_or("").to_lowercase();
    if args.large {
        return large(&job::device(args.device)?, &filter, quiet);
    }
    let wanted = |m: &&Model| {
        m.name.to_lowercase().contains(&filter) || m.source.to_lowercase().contains(&filter)
    };
    let models: Vec<&'static Model> = CATALOGUE.iter().filter(wanted).collect();
    if models.is_empty() {
        return Err(Failure::Usage(format!(
            "no model has '{filter}' in its name or source; see `selscan list`"
        )));
    }
    let device = job::device(args.device)?;
    if device.cuda().is_some() {
        // Once, and not for every kernel.
        nvrtc::version()?;
    }
    let test = Test {
        device: &device,
        quick: args.quick,
        gradients: args.gradients,
        running: Mutex::new(()),
        lost: AtomicBool::new(false),
    };
    let say = |line: &str| {
        if !quiet {
            // Nothing is left to be said if stdout is closed.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    };
    say(&format!("selftest on {device}"));
    let outcomes = all(&test, &models, &say);
    let sum = |f: &dyn Fn(&Outcome) -> usize| outcomes.iter().map(f).sum::<usize>();
    let (runs, numbers) = (sum(&|o| o.runs), sum(&|o| o.numbers));
    let worst = outcomes.iter().map(|o| o.worst).fold(0.0, f64::max);
    let bad: Vec<&str> = models
        .iter()
        .zip(&outcomes)
        .filter(|(_, o)| !o.wrong.is_empty())
        .map(|(m, _)| m.name)
        .collect();
    let text = format!(
        "{} of {} models right on {}: {runs} runs, {} numbers, error at most {worst:.2} eps·m of {} allowed\n",
        models.len() - bad.len(),
        models.len(),
        device.name(),
        count(numbers as f64),
        selscan_runtime::TOLERANCE,
    );
    let each = models.iter().zip(&outcomes).map(|(m, o)| {
        json!({
            "model": m.name, "runs": o.runs, "numbers": o.numbers, "worst_eps_m": o.worst, "wrong": o.wrong,
            "seconds": o.seconds,
        })
    });
    let json = json!({
        "command": "selftest", "device": device.name().to_string(), "machine": device.target().name,
        "quick": args.quick, "runs": runs, "numbers": numbers, "worst_eps_m": worst,
        "allowed_eps_m": selscan_runtime::TOLERANCE, "models": each.collect::<Vec<_>>(),
    });
    let wrong =
        (!bad.is_empty()).then(|| format!("wrong on {}: {}", device.name(), bad.join(", ")));
    Ok(Report {
        wrong,
        ..Report::new(text, json)
    })
}

/// Tests models on several threads; says a line of each in the order of the catalogue.
fn all(test: &Test<'_>, models: &[&'static Model], say: &(dyn Fn(&str) + Sync)) -> Vec<Outcome> {
    let widest = models.iter().map(|m| m.name.len()).max().unwrap_or(0);
    let done: Mutex<(Vec<Option<Outcome>>, usize)> = Mutex::new((vec![None; models.len()], 0));
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(MOST_THREADS).min(models.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(model) = models.get(i) else { break };
                    let outcome = one(test, model);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    let (outcomes, said) = &mut *done;
                    outcomes[i] = Some(outcome);
                    while let Some(Some(outcome)) = outcomes.get(*said) {
                        say(&outcome.line(models[*said].name, widest));
                        *said += 1;
                    }
                }
            });
        }
    });
    let (outcomes, _) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect()
}

impl Outcome {
    fn line(&self, name: &str, widest: usize) -> String {
        let verdict = if self.wrong.is_empty() {
            "right"
        } else {
            "WRONG"
        };
        let mut line = format!(
            "{name:widest$}  {verdict}  {:4} runs  {:>6} numbers  error at most {:5.2} eps·m  {}",
            self.runs,
            count(self.numbers as f64),
            self.worst,
            time(self.seconds),
        );
        for why in self.wrong.iter().take(TOLD) {
            line.push_str(&format!("\n    {why}"));
        }
        if self.wrong.len() > TOLD {
            line.push_str(&format!("\n    and {} more", self.wrong.len() - TOLD));
        }
        line
    }

    /// Notes a mistake.
    fn wrong(&mut self, trial: &Trial, schedules: &[Schedule], why: &str) {
        let schedules: Vec<String> = schedules.iter().map(Schedule::to_string).collect();
        self.wrong
            .push(format!("{trial}: {}: {why}", schedules.join("; ")));
    }
}

/// Tests one model.
fn one(test: &Test<'_>, model: &'static Model) -> Outcome {
    let started = Instant::now();
    let mut out = Outcome::default();
    if let Err(why) = try_one(test, model, &mut out) {
        out.wrong.push(why.to_string());
    }
    out.seconds = started.elapsed().as_secs_f64();
    out
}

fn try_one(test: &Test<'_>, model: &'static Model, out: &mut Outcome) -> Result<(), Error> {
    let r = model.recurrence()?;
    let kernel = test.device.kernel(r.clone());
    for trial in trials(model, &kernel, test.quick)? {
        let args = OwnedArgs::from_inputs(&trial.inputs, trial.dtype)?;
        let (spec, extents) = kernel.resolve(&args)?;
        let meaning = eval_with_bound(&r, &args.to_inputs(&r))?;
        let compute = spec.compute();
        if test.gradients {
            try_gradients(test, &kernel, &trial, &args, out)?;
            continue;
        }
        for (i, chosen) in schedules(&kernel, &spec, &extents, &trial)?
            .into_iter()
            .enumerate()
        {
            if test.lost.load(Ordering::Relaxed) {
                out.wrong
                    .push("not tested to the end: the GPU was lost to an earlier error".to_owned());
                return Ok(());
            }
            let kernel = kernel.with_schedules(&chosen);
            let found = run(test, &kernel, &args, &extents, i == 0);
            out.runs += 1;
            match found {
                Ok(results) => {
                    let check = whole(&r, compute, &meaning, &results);
                    out.numbers += check.compared;
                    if check.worst > out.worst || check.worst.is_nan() {
                        out.worst = check.worst;
                    }
                    if let Some(why) = check.failure().or_else(|| not_empty(&meaning, &check)) {
                        out.wrong(&trial, &chosen, &why);
                    }
                }
                Err(Why::Different(how)) => out.wrong(&trial, &chosen, &how),
                Err(Why::Error(why)) => {
                    if matches!(why, Error::Cuda { .. }) {
                        test.lost.store(true, Ordering::Relaxed);
                    }
                    out.wrong(&trial, &chosen, &why.to_string());
                }
            }
        }
    }
    Ok(())
}

/// Tests the gradients of a trial, twice each: chunks of a few steps, and the usual ones.
fn try_gradients(
    test: &Test<'_>,
    kernel: &Kernel,
    trial: &Trial,
    args: &OwnedArgs,
    out: &mut Outcome,
) -> Result<(), Error> {
    let r = kernel.recurrence();
    let cotangents = gradients::cotangents(kernel, args)?;
    let by = gradients::all(r, args);
    let meaning = gradients::meaning(r, args, &cotangents, &by)?;
    for kernel in [kernel.with_checkpoint_steps(3), kernel.clone()] {
        if test.lost.load(Ordering::Relaxed) {
            return Ok(());
        }
        let found = {
            let _alone = test.running.lock().unwrap_or_else(PoisonError::into_inner);
            gradients::twice(&kernel, args, &cotangents, &by)
        };
        out.runs += 1;
        match found.map(|found| gradients::check(r, &found, &meaning, trial.dtype)) {
            Ok(Ok((numbers, worst))) => {
                out.numbers += numbers;
                out.worst = out.worst.max(worst);
            }
            Ok(Err(why)) => out.wrong(trial, &[], &why),
            Err(why) => {
                if matches!(why, Error::Cuda { .. }) {
                    test.lost.store(true, Ordering::Relaxed);
                }
                out.wrong(trial, &[], &why.to_string());
            }
        }
    }
    Ok(())
}

/// A comparison of nothing is none.
fn not_empty((wanted, _): &(Outputs, Outputs), check: &super::check::Check) -> Option<String> {
    let all = wanted.tensors.values().chain(wanted.last.values());
    let numbers: usize = all.map(|x| x.data.len()).sum();
    (check.compared != numbers)
        .then(|| format!("{} numbers of {numbers} were given", check.compared))
}

/// Why a run has no result.
enum Why {
    Error(Error),
    Different(String),
}

impl From<Error> for Why {
    fn from(error: Error) -> Why {
        Why::Error(error)
    }
}

/// Runs a kernel twice into memory full of NaN; in `every_way`: also over the host's tensors, and from a graph.
fn run(
    test: &Test<'_>,
    kernel: &Kernel,
    args: &OwnedArgs,
    extents: &selscan_dsl::Extents,
    every_way: bool,
) -> Result<OwnedResults, Why> {
    let r = kernel.recurrence();
    if extents.get(r.time) > 0 {
        let (spec, _) = kernel.resolve(args)?;
        // Outside of the lock: this is what takes time.
        kernel.compile(&spec, extents)?;
    }
    let _alone = test.running.lock().unwrap_or_else(PoisonError::into_inner);
    let mut memory = Resident::new(kernel, args)?;
    let mut once = |how: &mut dyn FnMut(&mut Resident<'_>) -> Result<(), Error>| {
        memory.poison()?;
        how(&mut memory)?;
        memory.results()
    };
    let first = once(&mut |memory| memory.launch(kernel))?;
    let again = once(&mut |memory| memory.launch(kernel))?;
    same(r, &first, &again, "the second run")?;
    if let (Device::Cuda(cuda), true) = (test.device, every_way) {
        same(
            r,
            &first,
            &kernel.run(args)?,
            "a run over tensors of the host",
        )?;
        if args.seq_idx.is_none() {
            let from_graph = once(&mut |memory| cuda.capture(|| memory.launch(kernel))?.launch())?;
            same(r, &first, &from_graph, "a run from a graph")?;
        }
    }
    Ok(first)
}

/// Whether results are the same to the last bit.
fn same(r: &Recurrence, a: &OwnedResults, b: &OwnedResults, what: &str) -> Result<(), Why> {
    let (a, b) = (a.to_outputs(r), b.to_outputs(r));
    for (a, b) in [(&a.tensors, &b.tensors), (&a.last, &b.last)] {
        for (name, a) in a {
            let Some(b) = b.get(name) else {
                return Err(Why::Different(format!("{what} does not give `{name}`")));
            };
            let differ =
                |(x, y): (&f64, &f64)| x.to_bits() != y.to_bits() && !(x.is_nan() && y.is_nan());
            if let Some(i) = a.data.iter().zip(&b.data).position(differ) {
                return Err(Why::Different(format!(
                    "{what} gives {:e} for `{name}`[{i}], the first one {:e}",
                    b.data[i], a.data[i]
                )));
            }
        }
    }
    Ok(())
}

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}, {}",
            self.what,
            self.shape,
            Dtype::name(self.dtype)
        )
    }
}
