//! Golden text of every stage: each file of `tests/filetests` holds a kernel and what each stage makes of it.
//!
//! ```text
//! // target: h200 (left out: a CPU with vectors of 128 bits)
//! // dtype: bf16 (left out: f32)
//! // shape: B=1, L=64, D=8, N=4
//! // schedule: sequential order=tiled lanes=4 block=1 tile=16 unroll=2
//! #[ssm_kernel] fn …
//! ==== recurrence
//! …
//! ```
//! `SELSCAN_BLESS=1 cargo test --test filetests` writes the text that is found; read the difference before committing it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fmt::Write as _;
use std::path::Path;

use cranelift_codegen::isa::{self, TargetIsa};
use cranelift_codegen::settings::{self, Configurable, Flags};
use selscan_codegen::backend::cranelift::{emit, prepare as legal};
use selscan_codegen::backend::cuda;
use selscan_codegen::loop_ir::Program;
use selscan_codegen::{Dtype, Options, Plan, Target, lower};
use selscan_dsl::{Extents, Recurrence, prepare};

/// The stages in order; a file holds those that it names.
const STAGES: [&str; 8] = [
    "recurrence",
    "scan",
    "simplified",
    "plan",
    "loops",
    "clif",
    "cuda",
    "grad",
];

/// x86-64 with SSE4.1, AVX and FMA, whatever the machine at hand has.
fn machine() -> std::sync::Arc<dyn TargetIsa> {
    let mut flags = settings::builder();
    flags.set("opt_level", "speed").unwrap();
    let mut builder = isa::lookup_by_name("x86_64").unwrap();
    for feature in [
        "has_sse3",
        "has_ssse3",
        "has_sse41",
        "has_sse42",
        "has_avx",
        "has_avx2",
        "has_fma",
    ] {
        builder.enable(feature).unwrap();
    }
    builder.finish(Flags::new(flags)).unwrap()
}

fn header<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let prefix = format!("// {key}: ");
    text.lines().find_map(|line| line.strip_prefix(&prefix))
}

fn target(kernel: &str) -> Target {
    match header(kernel, "target") {
        None => Target::generic(),
        Some("h200") => Target::h200(),
        Some(other) => panic!("no target {other}"),
    }
}

/// The kernels of a program as CUDA C, without what comes before them in every text.
fn cuda_kernels(program: &Program) -> String {
    let text = cuda::emit(program).unwrap().text;
    let start = text.find("\nextern \"C\" __global__").unwrap();
    text[start..].trim_start().to_owned()
}

/// What a stage makes of a kernel.
fn stage(kernel: &str, stage: &str) -> String {
    let rec = Recurrence::parse(kernel).unwrap();
    let mut out = String::new();
    if stage == "recurrence" {
        return rec.to_string();
    }
    if stage == "grad" {
        let given = rec.specialize(&|_| true);
        let inputs = given.inputs.iter().map(|i| i.name.as_str());
        let all = inputs.chain(given.states.iter().map(|s| s.name.as_str()));
        let adjoint = given.vjp(&all.collect::<Vec<_>>()).unwrap();
        return adjoint.recurrence.to_string();
    }
    let extent = |name: &str| {
        let pairs = header(kernel, "shape")
            .expect("a line '// shape: …'")
            .split(',')
            .map(|p| p.trim().split_once('=').unwrap());
        let mut found = pairs
            .filter(|(axis, _)| *axis == name)
            .map(|(_, n)| n.parse::<usize>().unwrap());
        found
            .next()
            .unwrap_or_else(|| panic!("no extent of {name}"))
    };
    let machine = machine();
    for scan in prepare(&rec, &|_| true, false) {
        if stage == "scan" {
            write!(out, "{scan}").unwrap();
            continue;
        }
        if stage == "simplified" {
            write!(out, "{}", scan.recurrence).unwrap();
            continue;
        }
        let own = &scan.recurrence;
        let extents = Extents(
            own.axes
                .iter()
                .map(|a| extent(a.alias_of.map_or(&a.name, |of| own.axis_name(of))))
                .collect(),
        );
        let mut options = Options::default();
        if let Some(dtype) = header(kernel, "dtype") {
            let dtype = Dtype::from_name(dtype).unwrap();
            let inputs = own.inputs.iter().map(|i| &i.name);
            let outputs = own.outputs.iter().map(|o| &o.name);
            let tensors = inputs.chain(outputs).cloned();
            options.storage = tensors.map(|name| (name, dtype)).collect();
        }
        options
            .last
            .extend(own.states.iter().map(|s| s.name.clone()));
        let schedule = header(kernel, "schedule").expect("a line '// schedule: …'");
        let schedule = schedule.parse().unwrap();
        let plan = Plan::new(&scan, &extents, &options, &target(kernel), &schedule).unwrap();
        if stage == "plan" {
            write!(out, "{plan}").unwrap();
            continue;
        }
        let program = lower(&plan);
        if stage == "cuda" {
            out.push_str(&cuda_kernels(&program));
            continue;
        }
        for proc in &program.procs {
            if stage == "loops" {
                write!(out, "{proc}").unwrap();
            } else {
                write!(out, "{}", emit(&legal(proc, &*machine), &*machine).unwrap()).unwrap();
            }
        }
    }
    out
}

fn check(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap();
    let kernel = text.split("==== ").next().unwrap();
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("==== "))
        .collect();
    let bless = std::env::var_os("SELSCAN_BLESS").is_some();
    let stages: Vec<&str> = if named.is_empty() {
        STAGES[..5].to_vec()
    } else {
        named
    };
    let mut found = kernel.trim_end().to_owned();
    for name in stages {
        assert!(
            STAGES.contains(&name),
            "{}: '{name}' is no stage of {STAGES:?}",
            path.display()
        );
        write!(found, "\n==== {name}\n{}", stage(kernel, name).trim_end()).unwrap();
    }
    found.push('\n');
    if found == text {
        return Ok(());
    }
    if bless {
        std::fs::write(path, found).unwrap();
        return Ok(());
    }
    let line = found
        .lines()
        .zip(text.lines())
        .take_while(|(a, b)| a == b)
        .count();
    Err(format!(
        "{}:{}: found\n    {}\nwanted\n    {}\nSELSCAN_BLESS=1 writes what is found",
        path.display(),
        line + 1,
        found.lines().nth(line).unwrap_or("(end)"),
        text.lines().nth(line).unwrap_or("(end)")
    ))
}

#[test]
fn every_stage_prints_what_it_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "only {} files", files.len());
    let errors: Vec<String> = files.iter().filter_map(|path| check(path).err()).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n\n"));
}
