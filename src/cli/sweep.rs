//! `selscan bench`: the catalogue, timed. In: a filter. Out: a table, model by model: time per state point, memory
//! traffic, and the ratio to the same kernel in scalar code (lanes=1) on the same threads.

use std::time::Duration;

use indicatif::ProgressBar;
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::{Device, Resident};
use serde_json::{Value, json};

use super::args::{BenchArgs, KernelArgs};
use super::baseline;
use super::check::style;
use super::failure::Failure;
use super::floor::Floor;
use super::job::{self, Job};
use super::measure::{Run, in_turns};
use super::report::{Report, digits, percent, rate, table, time};
use super::run::plain;
use super::source::Source;

/// How long each model is measured.
const BUDGET: Duration = Duration::from_millis(600);

/// Timed runs of a model on a GPU.
const REPEATS: usize = 9;

/// What is measured so far.
struct Sweep {
    machine: String,
    rows: Vec<Vec<String>>,
    all: Vec<Value>,
    bar: ProgressBar,
}

impl Sweep {
    fn of(models: &[&Model]) -> Sweep {
        Sweep {
            machine: String::new(),
            rows: Vec::new(),
            all: Vec::new(),
            bar: ProgressBar::new(models.len() as u64).with_style(style()),
        }
    }

    /// The job of the next model, at its typical (or small) extents.
    fn begin(&mut self, model: &'static Model, args: &BenchArgs) -> Result<Job, Failure> {
        self.bar.set_message(model.name);
        let mut kernel = KernelArgs::of_model(model.name, args.device);
        if args.small {
            let small = model.small.iter();
            kernel.shape = small.map(|&(axis, n)| (axis.to_owned(), n)).collect();
        }
        let job = Job::with_data(Source::of(model)?, &kernel, None)?;
        self.machine = job.kernel.device().target().name.clone();
        Ok(job)
    }

    /// Notes a model's time: what every sweep says of it, and the `own` columns and values of this one.
    fn end(
        &mut self,
        (model, job): (&Model, &Job),
        (seconds, bytes): (f64, f64),
        own: [String; 2],
        values: Value,
    ) -> Result<(), Failure> {
        let per_point = seconds / job.points().max(1.0);
        let schedules: Vec<String> = job.schedules()?.iter().map(ToString::to_string).collect();
        let mut row = vec![
            model.name.to_owned(),
            job.shape_text(),
            time(seconds),
            format!("{:.4} ns", per_point * 1e9),
            rate(bytes / seconds),
        ];
        row.extend(own);
        self.rows.push(row);
        let mut value = json!({
            "model": model.name, "shape": job.shape().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "seconds": seconds, "seconds_per_point": per_point, "bytes_per_second": bytes / seconds,
            "schedules": schedules,
        });
        if let (Some(all), Value::Object(own)) = (value.as_object_mut(), values) {
            all.extend(own);
        }
        self.all.push(value);
        self.bar.inc(1);
        Ok(())
    }

    /// The table; `own` heads the last two columns.
    fn report(self, own: [&str; 2], right: bool, note: &str) -> Report {
        self.bar.finish_and_clear();
        let header = [
            "model",
            "shape",
            "time",
            "per point",
            "memory",
            own[0],
            own[1],
        ];
        let right = [false, false, true, true, true, true, right];
        let table = table(&header, &self.rows, &right);
        Report::new(
            format!("{}\n\n{table}\n{note}\n", self.machine),
            json!({ "command": "bench", "machine": self.machine, "models": self.all }),
        )
    }
}

/// Times the catalogue.
pub fn bench(args: &BenchArgs) -> Result<Report, Failure> {
    let filter = args.filter.as_deref().unwrap_or("").to_lowercase();
    let wanted = |m: &&Model| {
        m.name.to_lowercase().contains(&filter) || m.source.to_lowercase().contains(&filter)
    };
    let models: Vec<&'static Model> = CATALOGUE.iter().filter(wanted).collect();
    if models.is_empty() {
        return Err(Failure::Usage(format!(
            "no model has '{filter}' in its name or source; see `selscan list`"
        )));
    }
    let mut sweep = Sweep::of(&models);
    if let Device::Cuda(_) = job::device(args.device)? {
        return on_gpu(args, &models, sweep);
    }
    for model in models {
        let job = sweep.begin(model, args)?;
        let scalar = job.scalar()?;
        let (mut fast, mut slow) = (job.kernel.results(&job.args)?, scalar.results(&job.args)?);
        let bytes = job.bytes(&fast);
        let mut by_kernel = || {
            job.kernel
                .launch(job.args.args(&mut fast))
                .map_err(Failure::from)
        };
        let mut by_scalar = || {
            scalar
                .launch(job.args.args(&mut slow))
                .map_err(Failure::from)
        };
        let problem = plain(&job);
        let mut y = problem.as_ref().map_or(vec![], |p| vec![0.0; p.u.len()]);
        let mut by_hand = || {
            problem
                .as_ref()
                .inspect(|p| baseline::selective_scan(p, &mut y));
            Ok(())
        };
        let mut runs: Vec<Run<'_>> = vec![&mut by_kernel, &mut by_scalar];
        if problem.is_some() {
            runs.push(&mut by_hand);
        }
        let times = in_turns(BUDGET, &mut runs)?;
        let (seconds, scalar, hand) = (times[0], times[1], times.get(2));
        let own = [
            format!("{}×", digits(scalar / seconds)),
            hand.map_or(String::new(), |h| format!("{}×", digits(h / seconds))),
        ];
        let values = json!({
            "scalar_seconds": scalar, "ratio_to_scalar": scalar / seconds,
            "plain_rust_seconds": hand, "ratio_to_plain_rust": hand.map(|h| h / seconds),
        });
        sweep.end((model, &job), (seconds, bytes), own, values)?;
    }
    Ok(sweep.report(
        ["vs lanes=1", "vs plain Rust"],
        true,
        "f32; vs lanes=1: the same kernel in scalar code on as many threads; vs plain Rust: on one thread",
    ))
}

/// The catalogue on a GPU: beside what its memory and its exponential unit allow.
fn on_gpu(
    args: &BenchArgs,
    models: &[&'static Model],
    mut sweep: Sweep,
) -> Result<Report, Failure> {
    for model in models {
        let job = sweep.begin(model, args)?;
        let bytes = job.bytes(&job.kernel.results(&job.args)?);
        let mut resident = Resident::past_cache(&job.kernel, &job.args)?;
        let seconds = resident.seconds(&job.kernel, REPEATS, f64::INFINITY)?;
        let floor = job.floor(bytes)?;
        let share = floor.map(|f| f.seconds() / seconds);
        let own = [
            share.map_or(String::new(), percent),
            floor.map_or(String::new(), |f| f.what().to_owned()),
        ];
        let values = json!({ "floor": floor.map(Floor::json), "share_of_floor": share });
        sweep.end((model, &job), (seconds, bytes), own, values)?;
    }
    Ok(sweep.report(
        ["of floor", "floor by"],
        false,
        "f32, tensors on the GPU and not in its cache; floor: the least time that memory and exponentials take",
    ))
}
