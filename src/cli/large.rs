//! `selscan selftest --large`: tensors with more than 2³¹ elements on a GPU.
//!
//! In: models. Out: a line a run. Inputs repeat a few rows along the batch axis, so that they need little memory on the host
//! and the meaning of the first rows is that of all: those are compared with it, and every other row with the row that it
//! repeats, bit for bit. 2³² elements are no whole number of repetitions: an index that overflows reads or writes another row.

use std::io::Write;
use std::time::Instant;

use half::{bf16, f16};
use selscan_codegen::{Algorithm, Dtype, Schedule};
use selscan_dsl::{AxisId, Extents, Recurrence, eval_with_bound};
use selscan_models::{Model, model};
use selscan_runtime::{
    Args, Cuda, Device, DeviceTensor, Error, Kernel, OwnedArgs, OwnedResults, Tensor,
};
use serde_json::json;

use super::failure::Failure;
use super::report::{Report, count, time};

/// Models, and all extents but that of the batch: a first axis that is long, steps that eval makes soon.
const MODELS: [(&str, Shape); 4] = [
    ("hgrn", &[("L", 64), ("D", 64)]),
    ("selective_scan", &[("L", 64), ("D", 64), ("N", 16)]),
    ("selective_scan_bdl", &[("L", 64), ("D", 64), ("N", 16)]),
    ("gru", &[("L", 64), ("I", 64), ("H", 64)]),
];

type Shape = &'static [(&'static str, usize)];

/// Rows that differ: an odd number, which divides no power of two.
const ROWS: usize = 7;
/// The least number of elements of the largest tensor.
const ELEMENTS: u128 = (1 << 31) + (1 << 20);
/// Schedules of each model.
const SCHEDULES: usize = 4;
/// Bytes that are compared at once.
const SLAB: usize = 256 << 20;

/// Tests the models with `filter` in their names.
pub fn large(device: &Device, filter: &str, quiet: bool) -> Result<Report, Failure> {
    let Device::Cuda(cuda) = device else {
        return Err(Failure::Usage(
            "--large needs a GPU with 40 GB of memory, not the CPU; say `--device cuda:0`"
                .to_owned(),
        ));
    };
    let wanted = MODELS.iter().filter(|(name, _)| name.contains(filter));
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        let names = MODELS.map(|(name, _)| name).join(", ");
        return Err(Failure::Usage(format!(
            "no model of --large has '{filter}' in its name; there are {names}"
        )));
    }
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for &(name, shape) in wanted {
        for found in one(cuda, name, shape)? {
            if !quiet {
                // Nothing is left to be said if stdout is closed.
                let _ = writeln!(std::io::stdout(), "{}", found.line);
            }
            wrong.extend(found.wrong.map(|why| format!("{name}: {why}")));
            lines.push(found.line);
        }
    }
    let text = format!(
        "{} of {} runs right on {}, each with a tensor of more than 2^31 elements\n",
        lines.len() - wrong.len(),
        lines.len(),
        device.name()
    );
    let json = json!({
        "command": "selftest", "large": true, "device": device.name().to_string(),
        "machine": device.target().name, "runs": lines, "wrong": wrong,
    });
    Ok(Report {
        wrong: (!wrong.is_empty()).then(|| wrong.join("\n")),
        ..Report::new(text, json)
    })
}

/// What became of one run.
struct Run {
    line: String,
    wrong: Option<String>,
}

/// Tests one model by a few kinds of schedules.
fn one(cuda: &Cuda, name: &str, shape: Shape) -> Result<Vec<Run>, Failure> {
    let known = model(name).ok_or_else(|| Failure::Usage(format!("no model is named {name}")))?;
    let r = known.recurrence().map_err(Error::from)?;
    let extents = |batch: usize| Model::extents(&r, &[shape, &[("B", batch)]].concat());
    let row = r.outputs.iter().map(|o| elements(&extents(1), &o.axes));
    let row = row.max().unwrap_or(1);
    let batch = ELEMENTS.div_ceil(row) as usize;
    let few = known.sample(&r, &extents(ROWS), &|_| true, 1);
    let few = OwnedArgs::from_inputs(&few, Dtype::Bf16)?;
    let meaning = eval_with_bound(&r, &few.to_inputs(&r)).map_err(Error::from)?;
    let kernel = cuda.kernel(r.clone());
    let (spec, _) = kernel.resolve(&few)?;
    let whole = extents(batch);
    let mut tensors = Tensors::new(cuda, &r, &few, &kernel.results(&few)?, batch)?;
    let options = spec.options(&r);
    let scans = kernel.scans(&spec)?;
    let [scan] = &scans[..] else {
        return Err(Failure::Usage(format!("{name} runs in two directions")));
    };
    let mut chosen: Vec<Schedule> = Vec::new();
    for s in selscan_codegen::candidates(scan, &whole, &options, cuda.target()) {
        let kind = |s: &Schedule| (s.order, s.algorithm != Algorithm::Sequential);
        if chosen.len() < SCHEDULES && !chosen.iter().any(|c| kind(c) == kind(&s)) {
            chosen.push(s);
        }
    }
    let mut runs = Vec::new();
    for schedule in chosen {
        let started = Instant::now();
        let kernel = kernel.with_schedule(schedule);
        let wrong = tensors
            .run(&kernel)
            .and_then(|()| tensors.wrong(&r, spec.compute().storage(), &meaning))?;
        let verdict = if wrong.is_some() { "WRONG" } else { "right" };
        let line = format!(
            "{name}  {verdict}  B{batch}, {} elements  {schedule}  {}",
            count(row as f64 * batch as f64),
            time(started.elapsed().as_secs_f64())
        );
        runs.push(Run { line, wrong });
    }
    Ok(runs)
}

fn elements(extents: &Extents, axes: &[AxisId]) -> u128 {
    extents.shape(axes).iter().map(|&n| n as u128).product()
}

/// What a launch of all rows takes and gives.
struct Tensors {
    inputs: Vec<(String, DeviceTensor)>,
    flags: Vec<String>,
    outputs: Vec<(String, DeviceTensor)>,
    last: Vec<(String, DeviceTensor)>,
}

impl Tensors {
    /// Of `batch` rows that repeat those of `few`.
    fn new(
        cuda: &Cuda,
        r: &Recurrence,
        few: &OwnedArgs,
        results: &OwnedResults,
        batch: usize,
    ) -> Result<Tensors, Error> {
        let b = r.batch_axis();
        let repeated = |axes: &[AxisId], tensor: &Tensor| {
            let mut shape = tensor.shape().to_vec();
            if axes.first().copied() == b {
                shape[0] = batch;
            }
            let mut made = DeviceTensor::zeros(cuda, tensor.dtype(), &shape)?;
            made.repeat_from(tensor)?;
            Ok::<_, Error>(made)
        };
        let mut all = Tensors {
            inputs: Vec::new(),
            flags: few.flags.iter().cloned().collect(),
            outputs: Vec::new(),
            last: Vec::new(),
        };
        for (name, tensor) in &few.inputs {
            let axes = r.input_named(name).map(|i| &r.input(i).axes);
            let tensor = repeated(axes.map_or(&[], |a| a), tensor)?;
            all.inputs.push((name.clone(), tensor));
        }
        for output in &r.outputs {
            if let Some(tensor) = results.outputs.get(&output.name) {
                let tensor = repeated(&output.axes, tensor)?;
                all.outputs.push((output.name.clone(), tensor));
            }
        }
        for state in &r.states {
            if let Some(tensor) = results.last.get(&state.name) {
                let tensor = repeated(&state.axes, tensor)?;
                all.last.push((state.name.clone(), tensor));
            }
        }
        Ok(all)
    }

    /// Runs a kernel into memory full of NaN.
    fn run(&mut self, kernel: &Kernel) -> Result<(), Error> {
        for (_, tensor) in self.outputs.iter_mut().chain(&mut self.last) {
            tensor.poison()?;
        }
        let mut args = Args::new();
        for (name, tensor) in &self.inputs {
            args = args.input(name, tensor);
        }
        for flag in &self.flags {
            args = args.flag(flag);
        }
        for (name, tensor) in &mut self.outputs {
            args = args.output(name, tensor);
        }
        for (name, tensor) in &mut self.last {
            args = args.last(name, tensor);
        }
        kernel.launch(args)
    }

    /// What is wrong with the results, if anything.
    fn wrong(
        &self,
        r: &Recurrence,
        compute: Dtype,
        meaning: &(selscan_dsl::Outputs, selscan_dsl::Outputs),
    ) -> Result<Option<String>, Error> {
        let mut first = OwnedResults::default();
        for (name, tensor) in &self.outputs {
            first.outputs.insert(name.clone(), tensor.rows(0..ROWS)?);
        }
        for (name, tensor) in &self.last {
            first.last.insert(name.clone(), tensor.rows(0..ROWS)?);
        }
        if let Err(why) = first.check(r, compute, meaning) {
            return Ok(Some(why));
        }
        let firsts = first.outputs.iter().chain(&first.last);
        for (name, tensor) in self.outputs.iter().chain(&self.last) {
            let first = firsts.clone().find(|(n, _)| *n == name);
            if let Some((_, first)) = first
                && let Some(row) = other_row(tensor, first)?
            {
                return Ok(Some(format!(
                    "row {row} of `{name}` is not row {}, which it repeats",
                    row % ROWS
                )));
            }
        }
        Ok(None)
    }
}

/// The first row that differs from the one that it repeats.
fn other_row(tensor: &DeviceTensor, first: &Tensor) -> Result<Option<usize>, Error> {
    let rows = tensor.shape()[0];
    let bytes = tensor.len() / rows.max(1) * tensor.dtype().bytes();
    // Whole repetitions.
    let slab = (SLAB / (bytes * ROWS).max(1)).max(1) * ROWS;
    for start in (0..rows).step_by(slab) {
        let some = tensor.rows(start..(start + slab).min(rows))?;
        let odd = match tensor.dtype() {
            Dtype::F32 => odd(some.as_slice::<f32>(), first.as_slice::<f32>()),
            Dtype::F64 => odd(some.as_slice::<f64>(), first.as_slice::<f64>()),
            Dtype::Bf16 => odd(some.as_slice::<bf16>(), first.as_slice::<bf16>()),
            Dtype::F16 => odd(some.as_slice::<f16>(), first.as_slice::<f16>()),
        };
        if let Some(row) = odd {
            return Ok(Some(start + row));
        }
    }
    Ok(None)
}

/// The first row of `some` that is not that of `first` which it repeats. NaN differs from itself: results have none.
fn odd<T: PartialEq>(some: Option<&[T]>, first: Option<&[T]>) -> Option<usize> {
    let (some, first) = (some?, first?);
    let row = (first.len() / ROWS).max(1);
    let rows = some.chunks(row).zip(first.chunks(row).cycle());
    rows.enumerate().find(|(_, (a, b))| a != b).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_does_not_repeat_is_found() {
        let first: Vec<f32> = (0..2 * ROWS as u16).map(f32::from).collect();
        let mut all: Vec<f32> = first
            .iter()
            .copied()
            .cycle()
            .take(2 * (3 * ROWS + 2))
            .collect();
        assert_eq!(odd(Some(&all), Some(&first)), None);
        all[2 * (2 * ROWS + 4) + 1] += 1.0;
        assert_eq!(odd(Some(&all), Some(&first)), Some(2 * ROWS + 4));
        all[3] = f32::NAN;
        assert_eq!(odd(Some(&all), Some(&first)), Some(1));
    }
}
