//! What a kernel for a GPU costs before it is there, stage by stage; needs no GPU, and NVRTC only for its own part.
//!
//! In: the catalogue in bf16 at typical extents, selective scans also at the shape where speed is compared, each read anew with
//! all of its optional inputs; words on the command line keep the models that contain one. Out: a table of milliseconds
//! (medians) by stage. What a cached kernel costs is `cached`: all but NVRTC, reading the file and loading the module, which
//! `cargo bench --bench gpu -- --only compile` adds on a machine with a GPU.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

// The command line needs more of it.
#[allow(dead_code)]
#[path = "../src/cli/table.rs"]
mod table;

use std::time::{Duration, Instant};

use selscan_codegen::backend::cuda::emit;
use selscan_codegen::loop_ir::Program;
use selscan_codegen::{Dtype, Target, default_plan, lower};
use selscan_dsl::scan::prepare;
use selscan_dsl::{Extents, Recurrence};
use selscan_models::{CATALOGUE, Model, model};
use selscan_runtime::{Error, Spec, nvrtc};

/// The shape at which speed is compared.
const MAIN: &[(&str, usize)] = &[("B", 8), ("L", 2048), ("D", 2048), ("N", 16)];

/// Times that a stage is measured; NVRTC's is measured a few times only.
const ROUNDS: usize = 15;

const STAGES: [&str; 4] = ["simplify", "plan", "lower", "emit"];

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted = |m: &&Model| words.is_empty() || words.iter().any(|w| m.name.contains(w.as_str()));
    let mut lines = Vec::new();
    for main in ["selective_scan", "selective_scan_bdl"] {
        let main = model(main).unwrap();
        let named = format!("{} B8 L2048 D2048", main.name);
        lines.extend(Some(main).filter(wanted).map(|m| line(m, &named, MAIN)));
    }
    let rest = CATALOGUE.iter().filter(wanted);
    lines.extend(rest.map(|m| line(m, m.name, m.typical)));
    let header: Vec<&str> = ["model"]
        .into_iter()
        .chain(STAGES)
        .chain([
            "cached",
            "KB of text",
            "NVRTC",
            "KB of code",
            "MB of workspaces",
        ])
        .collect();
    let right: Vec<bool> = (0..header.len()).map(|i| i > 0).collect();
    println!(
        "compile (ms, medians)\n{}",
        table::table(&header, &lines, &right).trim_end()
    );
    if let Err(why) = nvrtc::version() {
        println!("no times of NVRTC: {why}");
    }
}

fn line(model: &Model, name: &str, extents: &[(&str, usize)]) -> Vec<String> {
    let r = model.recurrence().unwrap();
    let extents = Model::extents(&r, extents);
    let mut spec = Spec::new(&r, Dtype::Bf16);
    for input in &r.inputs {
        spec = spec.with_input(&r, &input.name, Dtype::Bf16).unwrap();
    }
    let mut spent = [const { Vec::new() }; STAGES.len()];
    let (mut texts, mut programs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (times, made) = stages(&r, &spec, &extents);
        (texts, programs) = made;
        for (all, time) in spent.iter_mut().zip(times) {
            all.push(time);
        }
    }
    let medians = spent.map(median);
    let kb = |bytes: usize| format!("{:.0}", bytes as f64 / 1024.0);
    let mut line = vec![name.to_owned()];
    line.extend(medians.map(milliseconds));
    line.push(milliseconds(medians.into_iter().sum()));
    line.push(kb(texts.iter().map(String::len).sum()));
    match machine_code(&texts) {
        Ok((time, bytes)) => line.extend([milliseconds(time), kb(bytes)]),
        Err(why) => {
            if !matches!(why, Error::NoNvrtc { .. }) {
                eprintln!("{name}: {why}");
            }
            line.extend(["-".to_owned(), "-".to_owned()]);
        }
    }
    let extent = |axis| extents.get(axis) as i64;
    let workspaces = programs.iter().flat_map(|p| &p.workspaces);
    let bytes =
        workspaces.map(|(dtype, len)| len.eval(&|_| 0, &extent).unwrap() as usize * dtype.bytes());
    line.push(format!("{:.0}", bytes.sum::<usize>() as f64 / 1e6));
    line
}

/// The time of each stage, the texts at the end (one a direction of time) and the programs that they are of.
fn stages(
    r: &Recurrence,
    spec: &Spec,
    extents: &Extents,
) -> ([Duration; STAGES.len()], (Vec<String>, Vec<Program>)) {
    let options = spec.options(r);
    let target = Target::h200();
    let mut times = [Duration::ZERO; STAGES.len()];
    let mut stage = 0;
    let mut started = Instant::now();
    let mut done = || {
        times[stage] = started.elapsed();
        stage += 1;
        started = Instant::now();
    };
    let scans = prepare(r, &|name| spec.is_given(r, name), false);
    done();
    let plans = scans
        .iter()
        .map(|scan| default_plan(scan, extents, &options, &target).unwrap());
    let plans: Vec<_> = plans.collect();
    done();
    let programs: Vec<_> = plans.iter().map(lower).collect();
    done();
    let texts = programs.iter().map(|p| emit(p).unwrap().text);
    let texts = texts.collect();
    done();
    (times, (texts, programs))
}

/// How long NVRTC takes, and the bytes of what it makes.
fn machine_code(texts: &[String]) -> Result<(Duration, usize), Error> {
    let mut times = Vec::new();
    let mut bytes = 0;
    // Loading the library is not a part of it.
    nvrtc::compile("", 90)?;
    for _ in 0..3 {
        let started = Instant::now();
        bytes = 0;
        for text in texts {
            bytes += nvrtc::compile(text, 90)?.cubin.len();
        }
        times.push(started.elapsed());
    }
    Ok((median(times), bytes))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}", 1e3 * time.as_secs_f64())
}
