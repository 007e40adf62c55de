//! `selscan run`: the main job. In: a kernel and a file's tensors or made-up data. Out: results in a file, a comparison
//! with the f64 meaning, and how fast it went beside plain code.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use selscan_codegen::Dtype;
use selscan_dsl::{Array, eval};
use selscan_runtime::{Cpu, Device, Kernel, OwnedResults, Resident, Tensor};
use serde_json::{Value, json};

use super::args::{CheckArg, RunArgs};
use super::baseline::{self, Problem};
use super::check::{Check, check};
use super::failure::Failure;
use super::files::Pending;
use super::floor::Floor;
use super::job::Job;
use super::measure::{Run, in_turns};
use super::report::{Report, count, digits, percent, rate, table, time};

/// How long measurements go on.
const BUDGET: Duration = Duration::from_millis(2500);

/// Timed runs on a GPU.
const REPEATS: usize = 9;

/// Runs a kernel.
pub fn run(args: &RunArgs) -> Result<Report, Failure> {
    let schedule = args.schedule.schedule;
    let job = match &args.input {
        Some(input) => Job::from_file(&args.kernel, schedule, input, &args.flag)?,
        None => Job::made_up(&args.kernel, schedule)?,
    };
    let pending = args.output.as_deref().map(Pending::new).transpose()?;
    let mut out = Story::new(&job);
    let results = if args.eval {
        meaning(&job, &mut out)?
    } else {
        compiled(&job, &mut out)?
    };
    let level = match args.check {
        _ if args.eval => CheckArg::None,
        Some(level) => level,
        None if args.input.is_some() => CheckArg::None,
        None => CheckArg::Sample,
    };
    let mut wrong = None;
    if level != CheckArg::None {
        let found = check(&job, &results, level == CheckArg::Full)?;
        wrong = found.failure();
        out.checked(&found);
    }
    if let (Some(pending), Some(path), None) = (pending, &args.output, &wrong) {
        let mut tensors: BTreeMap<String, Tensor> = results.outputs;
        tensors.extend(
            results
                .last
                .into_iter()
                .map(|(name, t)| (format!("last_{name}"), t)),
        );
        let names: Vec<String> = tensors
            .iter()
            .map(|(n, t)| format!("{n} {} {:?}", t.dtype(), t.shape()))
            .collect();
        pending.write(&job.source.recurrence.name, &tensors)?;
        out.line(
            "written",
            format!("{}: {}", path.display(), names.join(", ")),
        );
        out.json["output"] = json!({ "file": path.display().to_string(), "tensors": names });
    } else if let (Some(path), Some(_)) = (&args.output, &wrong) {
        out.line(
            "not written",
            format!("{}, for the result is wrong", path.display()),
        );
    } else if args.input.is_none() && !args.eval && wrong.is_none() {
        match job.kernel.device() {
            Device::Cpu(_) => speeds(&job, &mut out)?,
            Device::Cuda(_) => speeds_on_gpu(&job, &mut out)?,
        }
    }
    Ok(Report {
        wrong,
        ..Report::new(out.text(), out.json)
    })
}

/// What is told of a run.
struct Story {
    lines: Vec<Vec<String>>,
    tail: String,
    json: Value,
}

impl Story {
    fn new(job: &Job) -> Story {
        let r = &job.source.recurrence;
        let device = job.kernel.device();
        let (points, dtype) = (job.points(), job.dtype());
        let mut out = Story {
            lines: vec![],
            tail: String::new(),
            json: json!({
                "command": "run",
                "kernel": r.name,
                "source": job.source.model.map(|m| m.source),
                "machine": device.target().name,
                "device": device.name().to_string(),
                "threads": device.cpu().map(Cpu::threads),
                "shape": job.shape().into_iter().collect::<BTreeMap<_, _>>(),
                "dtype": dtype.name(),
                "points": points,
                "ignored": job.ignored,
            }),
        };
        let source = job
            .source
            .model
            .map_or(String::new(), |m| format!("  ({})", m.source));
        out.line("kernel", format!("{}{source}", r.name));
        out.line("device", device.to_string());
        out.line(
            "shape",
            format!(
                "{}, {dtype}: {} state points",
                job.shape_text(),
                count(points)
            ),
        );
        if !job.ignored.is_empty() {
            out.line(
                "ignored",
                format!("{} (no tensors of this kernel)", job.ignored.join(", ")),
            );
        }
        out
    }

    fn line(&mut self, what: &str, text: String) {
        self.lines.push(vec![what.to_owned(), text]);
    }

    fn checked(&mut self, check: &Check) {
        self.line("checked", check.text());
        self.json["check"] = json!({
            "compared": check.compared, "of": check.of, "wrong": check.wrong, "first_wrong": check.first,
            "worst_eps_m": check.worst, "allowed_eps_m": selscan_runtime::TOLERANCE,
        });
    }

    fn text(&self) -> String {
        format!("{}{}", table(&[], &self.lines, &[]), self.tail)
    }
}

/// The f64 meaning, in the type of the outputs (f64 where none is asked for).
fn meaning(job: &Job, out: &mut Story) -> Result<OwnedResults, Failure> {
    let r = &job.source.recurrence;
    let dtype = job.args.output.unwrap_or(Dtype::F64);
    let started = Instant::now();
    let outputs = eval(r, &job.args.to_inputs(r))?;
    out.line(
        "meaning",
        format!("in f64, in {}", time(started.elapsed().as_secs_f64())),
    );
    out.json["eval"] = json!(true);
    let tensor = |x: &Array| {
        let mut shape = x.shape.clone();
        shape.extend(x.complex.then_some(2));
        Tensor::from_f64(dtype, &shape, &x.data).map_err(Failure::from)
    };
    let tensors = |arrays: &BTreeMap<String, Array>| {
        arrays
            .iter()
            .map(|(name, x)| Ok((name.clone(), tensor(x)?)))
            .collect::<Result<_, Failure>>()
    };
    Ok(OwnedResults {
        outputs: tensors(&outputs.tensors)?,
        last: tensors(&outputs.last)?,
    })
}

/// Compiles and runs the kernel once.
fn compiled(job: &Job, out: &mut Story) -> Result<OwnedResults, Failure> {
    let started = Instant::now();
    let code = job.kernel.compile(&job.spec, &job.extents)?;
    let whole = started.elapsed().as_secs_f64();
    let jit = code.jit_time().as_secs_f64();
    let schedules: Vec<String> = code
        .stages()
        .iter()
        .map(|s| s.schedule.to_string())
        .collect();
    out.line(
        "compiled",
        format!(
            "in {}, machine code in {}: {}",
            time(whole),
            time(jit),
            schedules.join("; ")
        ),
    );
    let on_gpu = code.stages().iter().filter_map(|s| s.program.cuda());
    let mut resources = Vec::new();
    for program in on_gpu {
        for r in program.resources() {
            let from = if program.from_disk() {
                ", read from disk"
            } else {
                ""
            };
            out.line(
                if resources.is_empty() { "kernels" } else { "" },
                format!(
                    "{}: {} registers, {} bytes spilled, {} bytes of stack{from}",
                    r.name,
                    r.registers,
                    r.spill_stores + r.spill_loads,
                    r.stack_frame
                ),
            );
            resources.push(json!({
                "name": r.name, "registers": r.registers, "spill_stores": r.spill_stores, "spill_loads": r.spill_loads,
                "stack_frame": r.stack_frame, "shared": r.shared, "from_disk": program.from_disk(),
            }));
        }
    }
    out.json["kernels"] = json!(resources);
    out.json["compile_seconds"] = json!(whole);
    out.json["jit_seconds"] = json!(jit);
    out.json["schedules"] = json!(schedules);
    let mut results = job.kernel.results(&job.args)?;
    let started = Instant::now();
    job.kernel.launch(job.args.args(&mut results))?;
    out.json["first_run_seconds"] = json!(started.elapsed().as_secs_f64());
    Ok(results)
}

/// One row of the table of speeds.
struct Speed {
    what: String,
    threads: usize,
    seconds: f64,
}

/// Times the kernel on all threads and on one, and what it is compared with.
fn speeds(job: &Job, out: &mut Story) -> Result<(), Failure> {
    let threads = job.kernel.device().cpu().map_or(1, Cpu::threads);
    let launch = |kernel: &Kernel, results: &mut OwnedResults| {
        kernel.launch(job.args.args(results)).map_err(Failure::from)
    };
    let mut results = job.kernel.results(&job.args)?;
    let bytes = job.bytes(&results);
    let single = Cpu::with_threads(1)?.kernel(job.source.recurrence.clone());
    let single = single.with_schedules(&job.schedules()?);
    let mut single_results = single.results(&job.args)?;
    let mut rows = Vec::new();
    let own = |threads: usize, seconds: f64| Speed {
        what: "selscan".into(),
        threads,
        seconds,
    };
    if let Some(problem) = plain(job) {
        let mut y = vec![0.0; problem.u.len()];
        let mut by_all = || launch(&job.kernel, &mut results);
        let mut by_one = || launch(&single, &mut single_results);
        let mut by_hand = || {
            baseline::selective_scan(&problem, &mut y);
            Ok(())
        };
        let mut runs: Vec<Run<'_>> = vec![&mut by_hand, &mut by_one];
        if threads > 1 {
            runs.push(&mut by_all);
        }
        let times = in_turns(BUDGET, &mut runs)?;
        rows.push(Speed {
            what: "plain scalar Rust".into(),
            threads: 1,
            seconds: times[0],
        });
        rows.extend(
            times[1..]
                .iter()
                .zip([1, threads])
                .map(|(&seconds, threads)| own(threads, seconds)),
        );
    } else {
        let scalar = job.scalar()?;
        let mut scalar_results = scalar.results(&job.args)?;
        let mut by_all = || launch(&job.kernel, &mut results);
        let mut by_scalar = || launch(&scalar, &mut scalar_results);
        let times = in_turns(BUDGET, &mut [&mut by_scalar, &mut by_all])?;
        rows.push(Speed {
            what: "the same in scalar code (lanes=1)".into(),
            threads,
            seconds: times[0],
        });
        rows.push(own(threads, times[1]));
    }
    let base = rows[0].seconds;
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|s| {
            vec![
                s.what.clone(),
                s.threads.to_string(),
                time(s.seconds),
                format!("{}/s", count(job.points() / s.seconds)),
                rate(bytes / s.seconds),
                format!("{}×", digits(base / s.seconds)),
            ]
        })
        .collect();
    let header = ["", "threads", "time", "points", "memory", "speed"];
    out.tail = format!(
        "\n{}",
        table(&header, &cells, &[false, true, true, true, true, true])
    );
    if cfg!(debug_assertions) {
        out.tail
            .push_str("this is a debug build: only a release build's speeds mean something\n");
    }
    let row = |s: &Speed| {
        json!({
            "what": s.what, "threads": s.threads, "seconds": s.seconds, "points_per_second": job.points() / s.seconds,
            "bytes_per_second": bytes / s.seconds, "ratio": base / s.seconds,
        })
    };
    out.json["bytes"] = json!(bytes);
    out.json["speed"] = json!(rows.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// Times the kernel on the GPU, with its tensors there, and on the CPU.
fn speeds_on_gpu(job: &Job, out: &mut Story) -> Result<(), Failure> {
    let device = job.kernel.device();
    let cpu = Cpu::new()?.kernel(job.source.recurrence.clone());
    let mut on_cpu = cpu.results(&job.args)?;
    let bytes = job.bytes(&on_cpu);
    let mut by_cpu = || {
        cpu.launch(job.args.args(&mut on_cpu))
            .map_err(Failure::from)
    };
    let base = in_turns(BUDGET / 2, &mut [&mut by_cpu])?[0];
    let mut resident = Resident::past_cache(&job.kernel, &job.args)?;
    let seconds = resident.seconds(&job.kernel, REPEATS, f64::INFINITY)?;
    let floor = job.floor(bytes)?;
    let threads = cpu.device().cpu().map_or(1, Cpu::threads);
    let row = |what: String, seconds: f64, floor: Option<Floor>| {
        let share = floor.map(|f| format!("{} ({})", percent(f.seconds() / seconds), f.what()));
        vec![
            what,
            time(seconds),
            format!("{}/s", count(job.points() / seconds)),
            rate(bytes / seconds),
            format!("{}×", digits(base / seconds)),
            share.unwrap_or_default(),
        ]
    };
    let rows = [
        row(format!("selscan, cpu, {threads} threads"), base, None),
        row(format!("selscan, {}", device.name()), seconds, floor),
    ];
    let header = ["", "time", "points", "memory", "speed", "of floor"];
    out.tail = format!(
        "\n{}tensors on the GPU and not in its cache; floor: the least time that memory and exponentials take\n",
        table(&header, &rows, &[false, true, true, true, true, false])
    );
    out.json["bytes"] = json!(bytes);
    let speed = |what: &str, seconds: f64| {
        json!({
            "what": what, "seconds": seconds, "points_per_second": job.points() / seconds,
            "bytes_per_second": bytes / seconds, "ratio": base / seconds,
        })
    };
    out.json["speed"] = json!([
        speed("cpu", base),
        speed(&device.name().to_string(), seconds)
    ]);
    out.json["floor"] = json!(floor.map(Floor::json));
    Ok(())
}

/// The job as the problem that plain scalar Rust solves, if it is that one: Mamba's scan with every option, in f32.
pub fn plain(job: &Job) -> Option<Problem<'_>> {
    let is_scan = job.source.model.is_some_and(|m| m.name == "selective_scan");
    if !is_scan
        || !job.args.initial.is_empty()
        || job.args.seq_idx.is_some()
        || !job.args.flags.contains("delta_softplus")
    {
        return None;
    }
    let input = |name: &str| job.args.inputs.get(name)?.as_slice::<f32>();
    let shape = job.args.inputs.get("u")?.shape();
    let &[batch, steps, channels] = shape else {
        return None;
    };
    let states = *job.args.inputs.get("a")?.shape().get(1)?;
    Some(Problem {
        batch,
        steps,
        channels,
        states,
        u: input("u")?,
        delta: input("delta")?,
        a: input("a")?,
        b: input("b")?,
        c: input("c")?,
        d: input("d")?,
        z: input("z")?,
        delta_bias: input("delta_bias")?,
    })
}
