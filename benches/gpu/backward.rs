//! The backward run of the selective scan. In: the table `backward`. Out: a row for each case: the gradients by all inputs
//! from one cotangent, the forward run that saves states, what that saves, and the room that the backward run takes.

use std::collections::BTreeMap;

use selscan_codegen::loop_ir::Ix;
use selscan_codegen::lower;
use selscan_dsl::gradients_with_bound;
use selscan_runtime::{
    Args, Checkpoints, Cuda, DeviceTensor, Dtype, Error, Gradients, Kernel, OwnedArgs, Tensor,
};
use serde_json::json;

use crate::Stop;
use crate::bench::Bench;
use crate::case::{Case, Layout, normal};
use crate::check::Wrong;
use crate::measure::spans;
use crate::table;

/// The cases; the same as in `mamba.py`.
fn cases() -> Vec<Case> {
    let shapes = [
        [8, 2048, 2048],
        [2, 4096, 5120],
        [1, 65_536, 2048],
        [1, 2048, 2048],
        [64, 512, 2048],
    ];
    let both = |[b, l, d]: [usize; 3]| {
        [Layout::Bdl, Layout::Bld].map(|layout| Case {
            table: "backward",
            dtype: Dtype::Bf16,
            layout,
            b,
            l,
            d,
            n: 16,
        })
    };
    shapes.into_iter().flat_map(both).collect()
}

/// A call, its results and gradients on the GPU.
struct Set {
    args: OwnedArgs,
    inputs: BTreeMap<String, DeviceTensor>,
    output: (String, DeviceTensor),
    cotangent: DeviceTensor,
    gradients: BTreeMap<String, DeviceTensor>,
    saved: Option<Checkpoints>,
}

impl Set {
    fn new(cuda: &Cuda, kernel: &Kernel, case: &Case, seed: u64) -> Result<Set, Error> {
        let args = case.arguments(seed)?;
        let up = |t: &Tensor| DeviceTensor::from_tensor(cuda, t);
        let like = |t: &Tensor| DeviceTensor::zeros(cuda, t.dtype(), t.shape());
        let each = args.inputs.iter();
        let inputs = each.clone().map(|(n, t)| Ok((n.clone(), up(t)?)));
        let gradients = each.map(|(n, t)| Ok((n.clone(), like(t)?)));
        let name = kernel.recurrence().outputs[0].name.clone();
        Ok(Set {
            inputs: inputs.collect::<Result<_, Error>>()?,
            gradients: gradients.collect::<Result<_, Error>>()?,
            output: (name, DeviceTensor::zeros(cuda, case.dtype, &case.plane())?),
            cotangent: up(&normal(case.dtype, &case.plane(), seed ^ 0x5eed)?)?,
            args,
            saved: None,
        })
    }

    fn forward(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let mut args = inputs(&self.inputs, &self.args);
        args = args.output(&self.output.0, &mut self.output.1);
        kernel.forward_for_grad_into(args, &mut self.saved)
    }

    fn backward(&mut self, kernel: &Kernel) -> Result<(), Error> {
        let Some(saved) = &self.saved else {
            return Ok(());
        };
        let mut wanted = Gradients::new().cotangent(&self.output.0, &self.cotangent);
        for (name, tensor) in &mut self.gradients {
            wanted = wanted.gradient(name, tensor);
        }
        kernel.backward(inputs(&self.inputs, &self.args), saved, wanted)
    }
}

fn inputs<'a>(tensors: &'a BTreeMap<String, DeviceTensor>, args: &'a OwnedArgs) -> Args<'a> {
    let mut out = Args::new();
    for (name, tensor) in tensors {
        out = out.input(name, tensor);
    }
    args.flags.iter().fold(out, |out, flag| out.flag(flag))
}

/// Measures the cases and prints the table.
pub fn measure(bench: &mut Bench) -> Result<(), Stop> {
    let mut lines = Vec::new();
    for case in cases() {
        let label = format!("backward {case} {}", case.layout);
        if !bench.wants(&label)? {
            continue;
        }
        match one(bench, case) {
            Ok(line) => lines.push(line),
            Err(Stop::Failed(error @ (Error::Refused(_) | Error::DeviceMemory { .. }))) => {
                bench.skip(&label, &error.to_string())?;
            }
            Err(stop) => return Err(stop),
        }
    }
    let header = [
        "shape", "layout", "backward", "forward", "saved MB", "room MB", "schedule",
    ];
    let right = [false, false, true, true, true, true, false];
    if !lines.is_empty() {
        println!(
            "\nbackward (ms)\n{}",
            table::table(&header, &lines, &right).trim_end()
        );
    }
    Ok(())
}

/// Compares the gradients of a smaller case of the same kind with their meaning, whole: whole blocks of channels, and chunks of
/// time that make several turns of any loop.
fn small(kernel: &Kernel, case: Case) -> Result<(), Stop> {
    for l in [208, 83] {
        let small = Case {
            b: 2,
            l,
            d: 64,
            ..case
        };
        let args = small.arguments(1_000_003)?;
        let r = kernel.recurrence();
        let mut cotangents = kernel.results(&args)?;
        for tensor in cotangents.outputs.values_mut() {
            *tensor = normal(case.dtype, &small.plane(), 0x5eed)?;
        }
        let by: Vec<&str> = args.inputs.keys().map(String::as_str).collect();
        let meaning = gradients_with_bound(r, &args.to_inputs(r), &cotangents.to_outputs(r), &by)
            .map_err(|why| Wrong(format!("{small}: {why}")))?;
        let (_, found) = match kernel.run_gradients(&args, &cotangents, &by) {
            Err(Error::Refused(_)) => continue,
            run => run?,
        };
        let right = found.check_gradients(r, Dtype::F32, &meaning);
        right.map_err(|why| Wrong(format!("{small} {}: {why}", small.layout)))?;
    }
    Ok(())
}

fn one(bench: &mut Bench, case: Case) -> Result<Vec<String>, Stop> {
    let cuda = bench.cuda.clone();
    let mut kernel = cuda.kernel(crate::recurrence(case.model())?);
    if let Some(schedule) = bench.settings.schedule {
        kernel = kernel.with_backward_schedule(schedule);
        if schedule.save > 0 {
            kernel = kernel.with_checkpoint_steps(schedule.save);
        }
    }
    small(&kernel, case)?;
    // The data of two calls are larger than the cache.
    let mut sets = Vec::new();
    for seed in 0..2 {
        let mut set = Set::new(&cuda, &kernel, &case, seed)?;
        set.forward(&kernel)?;
        for tensor in set.gradients.values_mut() {
            tensor.poison()?;
        }
        set.backward(&kernel)?;
        sets.push(set);
    }
    // No number is left out.
    for (name, tensor) in &sets[0].gradients {
        let found = tensor.to_tensor()?.to_f64();
        if let Some(at) = found.iter().position(|x| x.is_nan()) {
            let why = format!("{case}: the gradient by {name} at {at} is not a number");
            return Err(Stop::Wrong(Wrong(why)));
        }
    }
    let (spec, extents) = kernel.resolve(&sets[0].args)?;
    let names: Vec<&str> = sets[0].gradients.keys().map(String::as_str).collect();
    let plan = kernel.plan_backward(&spec, &extents, &names)?;
    let mut next = 0;
    let mut timed = |bench: &Bench, forward: bool| -> Result<f64, Error> {
        let mut call = || {
            next += 1;
            let set = &mut sets[next % 2];
            if forward {
                set.forward(&kernel)
            } else {
                set.backward(&kernel)
            }
        };
        spans(&bench.cuda, 5, &mut call)?;
        let spans = spans(&bench.cuda, bench.repeats(), &mut call)?;
        Ok(spans[spans.len() / 2])
    };
    let (backward, forward) = (timed(bench, false)?, timed(bench, true)?);
    let saved = sets[0].saved.as_ref().map_or(0, Checkpoints::bytes);
    // What a launch takes beside the caller's memory.
    let of = |a| plan.extents.get(a) as i64;
    let bytes = |(dtype, len): &(Dtype, Ix)| Some(len.eval(&|_| 0, &of)? * dtype.bytes() as i64);
    let room: i64 = lower(&plan).workspaces.iter().filter_map(bytes).sum();
    bench.say(&format!(
        "backward {case} {}: {backward:.4} ms, forward {forward:.4} ms",
        case.layout
    ));
    bench.row(
        "rows",
        json!({
            "impl": "selscan", "table": "backward", "dtype": case.dtype.name(), "layout": case.layout.to_string(),
            "B": case.b, "L": case.l, "D": case.d, "N": case.n, "ms": backward, "forward_ms": forward,
            "saved_bytes": saved, "workspace_bytes": room, "schedule": plan.schedule.to_string(),
        }),
    )?;
    Ok(vec![
        case.to_string(),
        case.layout.to_string(),
        format!("{backward:.4}"),
        format!("{forward:.4}"),
        format!("{:.1}", saved as f64 / 1e6),
        format!("{:.1}", room as f64 / 1e6),
        plan.schedule.to_string(),
    ])
}
