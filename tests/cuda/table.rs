//! What default schedules take of a multiprocessor, as a table in `benches/results`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use selscan_runtime::nvrtc;

use super::Failure;
use super::case::{Built, Case};

/// Writes the table: a row for each kernel of cases that are not packed.
pub fn write(results: &[(Case, Result<Vec<Built>, Failure>)], architecture: &str) {
    let (major, minor) = nvrtc::version().unwrap();
    let mut text = format!(
        "# Registers of default schedules on {architecture}

NVRTC {major}.{minor}, {architecture}, {}, of the tree at {}. Written by `SELSCAN_BLESS=1 cargo test --test cuda`; no test compares
the numbers, which change with NVRTC. Extents are those of a call in practice (`selscan list`), all optional inputs are given,
states come and go, sequences are not packed. Bytes of stack and spills (stores + loads) are a thread's, of shared memory a block's;
instructions are those in the code, not those that run.

| kernel | type | schedule | registers | stack | spills | shared | instructions |
|---|---|---|---:|---:|---:|---:|---:|
",
        output("date", &["-u", "+%F"]),
        output("git", &["describe", "--always", "--dirty"]),
    );
    for (case, result) in results.iter().filter(|(case, _)| !case.packed) {
        let (Ok(built) | Err(Failure { built, .. })) = result;
        for plan in built {
            for kernel in &plan.kernels {
                let r = &kernel.resources;
                let spills = match (r.spill_stores, r.spill_loads) {
                    (0, 0) => "0".to_owned(),
                    (stores, loads) => format!("{stores} + {loads}"),
                };
                let instructions = kernel.instructions.map_or("?".into(), |n| n.to_string());
                writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {spills} | {} | {instructions} |",
                    r.name.split_once('_').map_or(&*r.name, |(_, name)| name),
                    case.dtype,
                    plan.schedule,
                    r.registers,
                    r.stack_frame,
                    kernel.shared
                )
                .unwrap();
            }
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/cuda-registers.md");
    std::fs::write(path, text).unwrap();
}

/// What a command prints, or that it is not known.
fn output(command: &str, arguments: &[&str]) -> String {
    let mut run = Command::new(command);
    let run = run
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match run {
        Ok(run) if run.status.success() => String::from_utf8_lossy(&run.stdout).trim().to_owned(),
        _ => format!("an unknown {command}"),
    }
}
