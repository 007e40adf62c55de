//! What a kernel costs before its first launch. In: models in their typical shapes, selective scans also in the one where
//! speed is compared. Out: the table `compile`: milliseconds with an empty cache folder, with what another process left
//! there, and with what this one has.
//!
//! Each time is that of `Kernel::compile` on a kernel and a GPU handle that are new, so it begins with the recurrence:
//! simplification, plan, loops, CUDA C (`lowering`), then NVRTC or the file, and the load of the module (`code`). Loading
//! NVRTC's library and opening the GPU are not part of it.

use std::time::{Duration, Instant};

use selscan_dsl::Recurrence;
use selscan_models::Model;
use selscan_runtime::{Cuda, CudaOptions, Dtype, Error, Spec, Store};
use serde_json::json;

use crate::Stop;
use crate::bench::Bench;
use crate::table;

/// A model, the optional inputs that it is given, and extents other than the typical ones.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, usize)],
);

/// The optional inputs of selective scans.
const ALL: &[&str] = &["d", "z", "delta_bias", "delta_softplus"];
const ALL_BDL: &[&str] = &["b", "c", "d", "z", "delta_bias", "delta_softplus"];
/// The shape in which speed is compared.
const MAIN: &[(&str, usize)] = &[("B", 8), ("L", 2048), ("D", 2048), ("N", 16)];

/// What is measured.
const ROWS: [Row; 10] = [
    ("selective_scan", ALL, MAIN),
    ("selective_scan_bdl", ALL_BDL, MAIN),
    ("selective_scan", ALL, &[]),
    ("selective_scan_bdl", ALL_BDL, &[]),
    (
        "selective_state_update",
        &["d", "z", "dt_bias", "dt_softplus"],
        &[],
    ),
    ("causal_conv1d", &["bias", "activation"], &[]),
    ("ssd", &[], &[]),
    ("gla", &[], &[]),
    ("gated_delta_rule", &[], &[]),
    ("s4d_zoh", &[], &[]),
];

/// A model that takes longer is not measured again.
const ENOUGH: Duration = Duration::from_secs(2);

/// Measures each model some times and prints the table.
pub fn measure(bench: &mut Bench) -> Result<(), Stop> {
    let mut lines = Vec::new();
    for row @ (name, _, extents) in ROWS {
        let shape: String = extents
            .iter()
            .map(|(axis, n)| format!(" {axis}{n}"))
            .collect();
        let label = format!("compile {name}{shape}");
        if !bench.wants(&label)? {
            continue;
        }
        match one(bench, row, &mut lines) {
            Ok(()) => bench.say(&label),
            Err(Stop::Failed(error @ Error::Refused(_))) => {
                bench.skip(&label, &error.to_string())?
            }
            Err(stop) => return Err(stop),
        }
    }
    let header = [
        "model",
        "shape",
        "cold",
        "of it code",
        "most",
        "from disk",
        "of it code",
        "most",
        "same GPU",
        "again",
    ];
    let right = [false, false, true, true, true, true, true, true, true, true];
    if !lines.is_empty() {
        let text = table::table(&header, &lines, &right);
        println!(
            "\ncompile (ms, medians; same GPU: a new kernel whose code is loaded; again: the same kernel)\n{}",
            text.trim_end()
        );
    }
    Ok(())
}

/// Milliseconds of a compilation, and of the part of it that makes or reads code and loads it.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Spent {
    all: f64,
    code: f64,
}

/// Measures a model.
fn one(
    bench: &mut Bench,
    (name, given, extents): Row,
    lines: &mut Vec<Vec<String>>,
) -> Result<(), Stop> {
    let r = crate::recurrence(name)?;
    let model = selscan_models::model(name);
    let typical = model.map_or(&[][..], |m| m.typical);
    let extents = Model::extents(&r, if extents.is_empty() { typical } else { extents });
    let named = r
        .axes
        .iter()
        .zip(&extents.0)
        .filter(|(a, _)| a.alias_of.is_none());
    let shape: Vec<String> = named.map(|(axis, n)| format!("{}{n}", axis.name)).collect();
    let shape = shape.join(" ");
    let mut spec = Spec::new(&r, Dtype::Bf16);
    for input in given {
        spec = spec.with_input(&r, input, Dtype::Bf16)?;
    }
    let compile = |cuda: &Cuda, r: &Recurrence| -> Result<(Spent, f64), Error> {
        let (r, started) = (r.clone(), Instant::now());
        let kernel = cuda.kernel(r);
        let code = kernel.compile(&spec, &extents)?;
        let all = milliseconds(started);
        let started = Instant::now();
        kernel.compile(&spec, &extents)?;
        let code = 1e3 * code.jit_time().as_secs_f64();
        Ok((Spent { all, code }, milliseconds(started)))
    };
    let open = |folder: &std::path::Path| {
        Cuda::with_options(CudaOptions {
            ordinal: bench.settings.device,
            store: Some(Store::at(folder)),
        })
    };
    let (mut cold, mut disk, mut same, mut again) = (vec![], vec![], vec![], vec![]);
    let started = Instant::now();
    for round in 0..if bench.settings.quick { 2 } else { 5 } {
        if round > 0 && started.elapsed() > ENOUGH {
            break;
        }
        let folder = tempfile::tempdir()
            .map_err(|e| Stop::Usage(format!("no temporary folder can be made: {e}")))?;
        let cuda = open(folder.path())?;
        cold.push(compile(&cuda, &r)?.0);
        let (spent, second) = compile(&cuda, &r)?;
        same.push(spent.all);
        again.push(second);
        disk.push(compile(&open(folder.path())?, &r)?.0);
    }
    let whole = |spent: &[Spent]| median(spent.iter().map(|s| s.all).collect());
    let code = |spent: &[Spent]| median(spent.iter().map(|s| s.code).collect());
    let most = |spent: &[Spent]| spent.iter().map(|s| s.all).fold(0.0, f64::max);
    let (same, again) = (median(same), median(again));
    let mut line = vec![name.to_owned(), shape.clone()];
    for spent in [&cold, &disk] {
        line.extend([whole(spent), code(spent), most(spent)].map(|ms| format!("{ms:.2}")));
    }
    line.push(format!("{same:.2}"));
    line.push(format!("{again:.4}"));
    lines.push(line);
    bench.row(
        "compile",
        json!({
            "model": name, "shape": shape, "cold_ms": whole(&cold), "cold_code_ms": code(&cold), "cold_most_ms": most(&cold),
            "disk_ms": whole(&disk), "disk_code_ms": code(&disk), "disk_most_ms": most(&disk),
            "same_gpu_ms": same, "again_ms": again,
        }),
    )
}

fn milliseconds(since: Instant) -> f64 {
    1e3 * since.elapsed().as_secs_f64()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
