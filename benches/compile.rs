//! What a kernel for a GPU costs before it is there, stage by stage; needs no GPU, and NVRTC only for its own part.
//!
//! In: the models of [`MODELS`] in bf16 at their typical extents, each read anew; words on the command line keep the models
//! that contain one. Out: a table of milliseconds (medians) by stage. What a cached kernel costs is `cached`: all but NVRTC,
//! reading the file and loading the module, which `cargo bench --bench gpu -- --only compile` adds on a machine with a GPU.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

// The command line needs more of it.
#[allow(dead_code)]
#[path = "../src/cli/table.rs"]
mod table;

use std::time::{Duration, Instant};

use selscan_codegen::backend::cuda::emit;
use selscan_codegen::{Dtype, Target, default_plan, lower};
use selscan_dsl::scan::prepare;
use selscan_dsl::{Extents, Recurrence};
use selscan_models::Model;
use selscan_runtime::{Error, Spec, nvrtc};

/// Extents by axis.
type Shape = &'static [(&'static str, usize)];

/// The shape at which speed is compared.
const MAIN: Shape = &[("B", 8), ("L", 2048), ("D", 2048), ("N", 16)];

/// Models, the optional inputs that they are given, and extents where they are not the typical ones.
const MODELS: [(&str, &[&str], Option<Shape>); 11] = [
    (
        "selective_scan",
        &["d", "z", "delta_bias", "delta_softplus"],
        Some(MAIN),
    ),
    (
        "selective_scan_bdl",
        &["b", "c", "d", "z", "delta_bias", "delta_softplus"],
        Some(MAIN),
    ),
    (
        "selective_scan",
        &["d", "z", "delta_bias", "delta_softplus"],
        None,
    ),
    (
        "selective_scan_bdl",
        &["b", "c", "d", "z", "delta_bias", "delta_softplus"],
        None,
    ),
    (
        "selective_state_update",
        &["d", "z", "dt_bias", "dt_softplus"],
        None,
    ),
    ("causal_conv1d", &["bias", "activation"], None),
    ("ssd", &[], None),
    ("gla", &[], None),
    ("gated_delta_rule", &[], None),
    ("s4d_zoh", &[], None),
    ("mamba3_mimo", &[], None),
];

/// Times that a stage is measured; NVRTC's is measured a few times only.
const ROUNDS: usize = 15;

const STAGES: [&str; 4] = ["simplify", "plan", "lower", "emit"];

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let mut lines = Vec::new();
    for (name, given, shape) in MODELS {
        if words.is_empty() || words.iter().any(|w| name.contains(w.as_str())) {
            lines.push(line(name, given, shape));
        }
    }
    let header: Vec<&str> = ["model"]
        .into_iter()
        .chain(STAGES)
        .chain(["cached", "KB of text", "NVRTC", "KB of code"])
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

fn line(name: &str, given: &[&str], shape: Option<Shape>) -> Vec<String> {
    let r = selscan_models::model(name).map(|m| (m.recurrence().unwrap(), m.typical));
    let (r, typical) = r.unwrap();
    let extents = Model::extents(&r, shape.unwrap_or(typical));
    let mut spec = Spec::new(&r, Dtype::Bf16);
    for input in given {
        spec = spec.with_input(&r, input, Dtype::Bf16).unwrap();
    }
    let mut spent = [const { Vec::new() }; STAGES.len()];
    let mut text = String::new();
    for _ in 0..ROUNDS {
        let (times, made) = stages(&r, &spec, &extents);
        text = made;
        for (all, time) in spent.iter_mut().zip(times) {
            all.push(time);
        }
    }
    let medians = spent.map(median);
    let kb = |bytes: usize| format!("{:.0}", bytes as f64 / 1024.0);
    let at = if shape.is_some() {
        " B8 L2048 D2048"
    } else {
        ""
    };
    let mut line = vec![format!("{name}{at}")];
    line.extend(medians.map(milliseconds));
    line.push(milliseconds(medians.into_iter().sum()));
    line.push(kb(text.len()));
    match machine_code(&text) {
        Ok((time, bytes)) => line.extend([milliseconds(time), kb(bytes)]),
        Err(Error::NoNvrtc { .. }) => line.extend(["-".to_owned(), "-".to_owned()]),
        Err(why) => line.extend([why.to_string(), "-".to_owned()]),
    }
    line
}

/// The time of each stage, and the text at the end.
fn stages(r: &Recurrence, spec: &Spec, extents: &Extents) -> ([Duration; STAGES.len()], String) {
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
    let text = texts.collect();
    done();
    (times, text)
}

/// How long NVRTC takes, and the bytes of what it makes.
fn machine_code(text: &str) -> Result<(Duration, usize), Error> {
    let mut times = Vec::new();
    let mut bytes = 0;
    // Loading the library is not a part of it.
    nvrtc::compile("", 90)?;
    for _ in 0..3 {
        let started = Instant::now();
        bytes = nvrtc::compile(text, 90)?.cubin.len();
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
