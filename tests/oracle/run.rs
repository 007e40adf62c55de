//! One case of the oracle: a tape's recurrence on random data, by `eval`, by the interpreter and by the JIT.

use std::fmt;

use selscan_codegen::backend::cuda::emit;
use selscan_codegen::interp::Memory;
use selscan_codegen::loop_ir::Role;
use selscan_codegen::{Algorithm, Dtype, Options, Order, Plan, Schedule, Target, Ty, lower};
use selscan_dsl::{
    Array, Extents, InputKind, Inputs, Outputs, Recurrence, Scan, eval_with_bound, prepare,
};

use selscan_models::Model;
use selscan_runtime::{Args, Cpu, Device, Error, Kernel, Tensor, nvrtc};

use crate::generate::{Case, Tape, generate};
use crate::interpret::interpret;
use crate::propose::{Extent, model_case, schedules};
use crate::random::Random;

/// The K of the tolerance rule.
const K: f64 = selscan_runtime::TOLERANCE;

/// One plan for a GPU in so many is compiled where there is NVRTC but no GPU is named: that takes longer than all else.
const COMPILED: usize = 12;

/// How many of what ran.
#[derive(Default, Debug)]
pub struct Counts {
    pub recurrences: usize,
    pub refused: usize,
    pub orders: [usize; 5],
    /// GPU plans that threads share: interpreted, by a GPU.
    pub shared: usize,
    /// Those of them that have several points of the inner axis under way.
    pub under_way: usize,
    pub on_gpu: usize,
    /// Without a GPU: compiled for one.
    pub for_gpu: usize,
    pub chunked: usize,
    pub interpreted: usize,
    pub jitted: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tiled, registers, stepped, scanned, staged] = self.orders;
        write!(
            f,
            "{} recurrences; {} interpreted and {} compiled runs (registers {registers}, tiled {tiled}, stepped {stepped}, scanned {scanned}, staged {staged}, chunked {}, \
             shared by threads {}, several points under way {}); {} on a GPU, {} compiled for one; {} schedules refused",
            self.recurrences,
            self.interpreted,
            self.jitted,
            self.chunked,
            self.shared,
            self.under_way,
            self.on_gpu,
            self.for_gpu,
            self.refused
        )
    }
}

/// A number as it lies in memory.
pub fn rounded(dtype: Dtype, x: f64) -> f64 {
    let mut memory = Memory::new();
    memory.set(Role::Output(0), dtype, &[x]);
    memory.get(Role::Output(0), dtype).unwrap()[0]
}

/// Random data of a shape, stored as `dtype`; mostly of size `scale`, a few larger, smaller or zero.
pub fn data(
    random: &mut Random,
    shape: &[usize],
    complex: bool,
    dtype: Dtype,
    scale: f64,
) -> Array {
    let len = shape.iter().product::<usize>() * if complex { 2 } else { 1 };
    let values = (0..len).map(|_| {
        let x = random.signed() * scale;
        rounded(
            dtype,
            match random.below(24) {
                0 => x * 8.0,
                1 => x * 1e-3,
                2 => 0.0,
                _ => x,
            },
        )
    });
    array(complex, shape, values.collect())
}

/// An array of real numbers, or of complex ones as pairs.
pub fn array(complex: bool, shape: &[usize], values: Vec<f64>) -> Array {
    if complex {
        Array::complex(shape, values)
    } else {
        Array::real(shape, values)
    }
}

/// One way of storing a case's tensors.
struct Storage {
    options: Options,
    inputs: Inputs,
}

fn storage(
    rec: &Recurrence,
    (case, ranges): (&Case, &[Range]),
    extents: &Extents,
    random: &mut Random,
) -> Storage {
    let mut options = Options {
        compute: if random.below(6) == 5 {
            Ty::F64
        } else {
            Ty::F32
        },
        ..Options::default()
    };
    // A launch computes in f64 where a tensor is stored in f64.
    let mixed = options.compute == Ty::F32 && random.below(3) == 2;
    let dtype = |options: &mut Options, random: &mut Random, name: &str| {
        let dtype = if mixed {
            random.pick(&[Dtype::F32, Dtype::Bf16, Dtype::F16])
        } else {
            options.compute_dtype()
        };
        options.storage.insert(name.to_owned(), dtype);
        dtype
    };
    let mut inputs = Inputs::new();
    for decl in &rec.inputs {
        let dtype = dtype(&mut options, random, &decl.name);
        if decl.kind == InputKind::Tensor && !case.absent.contains(&decl.name) {
            let mut array = data(
                random,
                &extents.shape(&decl.axes),
                decl.complex,
                dtype,
                case.scale,
            );
            if let Some((_, lo, hi)) = ranges.iter().find(|r| r.0 == decl.name) {
                let within = |x: &f64| rounded(dtype, lo + (hi - lo) * (x.abs() / 8.0));
                array.data = array.data.iter().map(within).collect();
            }
            inputs = inputs.with(&decl.name, array);
        }
    }
    for state in &rec.states {
        let dtype = dtype(&mut options, random, &state.name);
        options.last.insert(state.name.clone());
        if case.initial {
            options.initial.insert(state.name.clone());
            let array = data(
                random,
                &extents.shape(&state.axes),
                state.complex,
                dtype,
                case.scale,
            );
            inputs = inputs.with_initial(&state.name, array);
        }
    }
    for output in &rec.outputs {
        dtype(&mut options, random, &output.name);
    }
    if case.packed {
        let batch = rec.batch_axis().map(|a| extents.get(a));
        let (rows, len) = (batch.unwrap_or(1), extents.get(rec.time));
        let mut values = Vec::new();
        for _ in 0..rows {
            let mut sequence = 0.0;
            for _ in 0..len {
                sequence += f64::from(u8::from(random.below(4) == 3));
                values.push(sequence);
            }
        }
        let shape: Vec<usize> = batch.into_iter().chain([len]).collect();
        inputs = inputs.with_seq_idx(Array::real(&shape, values));
    }
    Storage { options, inputs }
}

/// Checks a model on such extents by the schedules that `propose` makes.
pub fn check_model(
    model: &Model,
    (extent, propose): (&Extent, &Propose),
    seed: u64,
    gpu: Option<&Device>,
    counts: &mut Counts,
) -> Result<(), String> {
    let mut random = Random(seed);
    let case = model_case(model, extent, &mut random);
    // A step below 0 would let the states grow without bound.
    let mut ranges = vec![("delta", 0.0, 4.0), ("delta_bias", 0.0, 1.0)];
    ranges.extend(model.ranges);
    check_case((&case, &ranges), random, propose, (&[], gpu), counts)
}

/// Checks a text by the schedules that `propose` makes.
pub fn check_text(
    text: &str,
    extents: &[(&str, usize)],
    (initial, seed): (bool, u64),
    propose: &Propose,
    (cpus, gpu): (&[Cpu], Option<&Device>),
    counts: &mut Counts,
) -> Result<(), String> {
    let extents = extents.iter().map(|&(name, n)| (name.to_owned(), n));
    let case = Case {
        text: text.to_owned(),
        extents: extents.collect(),
        absent: Default::default(),
        packed: false,
        initial,
        scale: 1.0,
    };
    check_case((&case, &[]), Random(seed), propose, (cpus, gpu), counts)
}

/// Checks the case of a tape; the error says which path was wrong where.
pub fn check(
    tape: &[u8],
    seed: u64,
    cpus: &[Cpu],
    gpu: Option<&Device>,
    counts: &mut Counts,
) -> Result<(), String> {
    let case = generate(&mut Tape::new(tape));
    check_case((&case, &[]), Random(seed), &schedules, (cpus, gpu), counts)
}

/// An input that lies elsewhere, for the states to stay bounded: name, least, greatest.
type Range = (&'static str, f64, f64);

/// What makes schedules for a target.
pub type Propose = dyn Fn(&mut Random, &Target, Ty) -> Vec<Schedule>;

fn check_case(
    (case, ranges): (&Case, &[Range]),
    mut random: Random,
    propose: &Propose,
    (cpus, gpu): (&[Cpu], Option<&Device>),
    counts: &mut Counts,
) -> Result<(), String> {
    let rec = Recurrence::parse(&case.text).map_err(|e| format!("{}\n{e}", case.text))?;
    let extents = Extents(rec.axes.iter().map(|a| case.extents[&a.name]).collect());
    let Storage { options, inputs } = storage(&rec, (case, ranges), &extents, &mut random);
    let (wanted, bound) = eval_with_bound(&rec, &inputs)
        .map_err(|e| format!("{}\n{:?}\neval: {e}", case.text, case.extents))?;
    counts.recurrences += 1;
    let scans = prepare(&rec, &|name| inputs.has(name), inputs.seq_idx.is_some());
    // A thread that may keep next to nothing: states and values in workspaces too.
    let mut small = Target::h200();
    if let Some(gpu) = &mut small.gpu {
        gpu.stack = 24;
        // Next to nothing in common either, of some.
        gpu.shared_per_block = random.pick(&[128, 227 << 10, 227 << 10]);
    }
    let targets = [Target::generic(), small];
    let tried = targets.iter().flat_map(|target| {
        let own = propose(&mut random, target, options.compute);
        own.into_iter().map(move |schedule| (target, schedule))
    });
    for (target, schedule) in tried.collect::<Vec<_>>() {
        let fail = |path: &str, why: String| {
            Err(format!(
                "{path} under '{schedule}': {why}\n{}extents {:?}, absent {:?}, packed {}, options {options:?}",
                case.text, case.extents, case.absent, case.packed
            ))
        };
        let plans: Result<Vec<Plan>, _> = scans
            .iter()
            .map(|scan| {
                Plan::new(
                    scan,
                    &extents_of(&rec, &extents, scan),
                    &stage_options(scan, &options),
                    target,
                    &schedule,
                )
            })
            .collect();
        let Ok(plans) = plans else {
            counts.refused += 1;
            continue;
        };
        counts.orders[Order::ALL
            .iter()
            .position(|&o| o == schedule.order)
            .unwrap()] += 1;
        counts.chunked += usize::from(schedule.algorithm != Algorithm::Sequential);
        counts.interpreted += 1;
        let found = interpret(&rec, &scans, &plans, &extents, &options, &inputs);
        let verdict = found.and_then(|found| compare(&rec, &options, &wanted, &bound, &found));
        if let Err(why) = verdict {
            return fail("interp", why);
        }
        if target.gpu.is_some() {
            counts.shared += usize::from(schedule.warp > 1 || schedule.share > 0);
            counts.under_way += usize::from(schedule.several_under_way());
            if let Some(gpu) = gpu {
                counts.on_gpu += 1;
                let kernel = gpu.kernel(rec.clone()).with_schedule(schedule);
                let found = launch(&kernel, &rec, &extents, &options, &inputs);
                let verdict =
                    found.and_then(|found| compare(&rec, &options, &wanted, &bound, &found));
                if let Err(why) = verdict {
                    return fail("GPU", why);
                }
            } else if random.below(COMPILED) == 0 {
                match plans.iter().try_for_each(|plan| compile(plan, target)) {
                    Ok(()) => counts.for_gpu += 1,
                    Err(Error::NoNvrtc { .. }) => {}
                    Err(why) => return fail("NVRTC", why.to_string()),
                }
            }
            continue;
        }
        counts.jitted += 1;
        let kernel = cpus[random.below(cpus.len())]
            .kernel(rec.clone())
            .with_schedule(schedule);
        let found = launch(&kernel, &rec, &extents, &options, &inputs);
        let verdict = found.and_then(|found| compare(&rec, &options, &wanted, &bound, &found));
        if let Err(why) = verdict {
            return fail("JIT", why);
        }
    }
    Ok(())
}

/// Machine code of a plan for a GPU, as far as can be seen without one.
fn compile(plan: &Plan, target: &Target) -> Result<(), Error> {
    let Some(gpu) = &target.gpu else {
        return Ok(());
    };
    let source = emit(&lower(plan)).map_err(|e| Error::Host(e.to_string()))?;
    nvrtc::compile(&source.text, gpu.capability).map(drop)
}

/// The extents of a stage, whose axes may be others than the whole's.
pub fn extents_of(rec: &Recurrence, extents: &Extents, scan: &Scan) -> Extents {
    let find = |name: &str| rec.axis_named(name).map_or(0, |a| extents.get(a));
    Extents(scan.recurrence.axes.iter().map(|a| find(&a.name)).collect())
}

/// What passes between the stages is stored in the compute type.
fn stage_options(scan: &Scan, options: &Options) -> Options {
    let mut own = options.clone();
    let states: Vec<&String> = scan.recurrence.states.iter().map(|s| &s.name).collect();
    own.initial.retain(|name| states.contains(&name));
    own.last.retain(|name| states.contains(&name));
    own
}

/// The whole path of a user: owned tensors, arguments by name, a launch; outputs are poisoned before.
fn launch(
    kernel: &Kernel,
    rec: &Recurrence,
    extents: &Extents,
    options: &Options,
    inputs: &Inputs,
) -> Result<Outputs, String> {
    let text = |e: Error| e.to_string();
    let shape = |axes: &[selscan_dsl::AxisId], complex: bool| {
        let mut shape = extents.shape(axes);
        shape.extend(complex.then_some(2));
        shape
    };
    let poisoned = |name: &str, axes: &[selscan_dsl::AxisId], complex: bool| {
        let mut tensor = Tensor::zeros(options.dtype(name), &shape(axes, complex)).map_err(text)?;
        tensor.fill(f64::NAN);
        Ok::<_, String>((name.to_owned(), tensor))
    };
    let filled = |name: &str, axes: &[selscan_dsl::AxisId], complex: bool, array: &Array| {
        let tensor = Tensor::from_f64(options.dtype(name), &shape(axes, complex), &array.data)
            .map_err(text)?;
        Ok::<_, String>((name.to_owned(), tensor))
    };
    let given = rec
        .inputs
        .iter()
        .filter_map(|i| Some((i, inputs.tensors.get(&i.name)?)));
    let given: Vec<_> = given
        .map(|(i, array)| filled(&i.name, &i.axes, i.complex, array))
        .collect::<Result<_, _>>()?;
    let initial = rec
        .states
        .iter()
        .filter_map(|s| Some((s, inputs.initial.get(&s.name)?)));
    let initial: Vec<_> = initial
        .map(|(s, array)| filled(&s.name, &s.axes, s.complex, array))
        .collect::<Result<_, _>>()?;
    let mut last: Vec<_> = rec
        .states
        .iter()
        .map(|s| poisoned(&s.name, &s.axes, s.complex))
        .collect::<Result<_, _>>()?;
    let mut outputs: Vec<_> = rec
        .outputs
        .iter()
        .map(|o| poisoned(&o.name, &o.axes, o.complex))
        .collect::<Result<_, _>>()?;
    let seq_idx: Option<(Vec<i32>, Vec<usize>)> = inputs
        .seq_idx
        .as_ref()
        .map(|a| (a.data.iter().map(|&x| x as i32).collect(), a.shape.clone()));
    let mut args = Args::new();
    for (name, tensor) in &given {
        args = args.input(name, tensor);
    }
    for (name, tensor) in &initial {
        args = args.initial(name, tensor);
    }
    for (name, tensor) in &mut last {
        args = args.last(name, tensor);
    }
    for (name, tensor) in &mut outputs {
        args = args.output(name, tensor);
    }
    if let Some((values, shape)) = &seq_idx {
        args = args.boundaries(values, shape);
    }
    kernel.launch(args).map_err(text)?;
    let found = |complex: bool, axes: &[selscan_dsl::AxisId], tensor: &Tensor| {
        array(complex, &extents.shape(axes), tensor.to_f64())
    };
    let mut out = Outputs::default();
    for (decl, (name, tensor)) in rec.outputs.iter().zip(&outputs) {
        out.tensors
            .insert(name.clone(), found(decl.complex, &decl.axes, tensor));
    }
    for (decl, (name, tensor)) in rec.states.iter().zip(&last) {
        out.last
            .insert(name.clone(), found(decl.complex, &decl.axes, tensor));
    }
    Ok(out)
}

/// The one tolerance rule, on every output and last state.
pub fn compare(
    rec: &Recurrence,
    options: &Options,
    wanted: &Outputs,
    bound: &Outputs,
    found: &Outputs,
) -> Result<(), String> {
    let outputs = rec
        .outputs
        .iter()
        .map(|o| (&o.name, &wanted.tensors, &bound.tensors, &found.tensors));
    let states = rec
        .states
        .iter()
        .map(|s| (&s.name, &wanted.last, &bound.last, &found.last));
    for (name, wanted, bound, found) in outputs.chain(states) {
        let found = found
            .get(name)
            .ok_or_else(|| format!("{name} is not there"))?;
        let (wanted, bound) = (&wanted[name], &bound[name]);
        if wanted.shape != found.shape {
            return Err(format!(
                "{name} has the shape {:?}, wanted {:?}",
                found.shape, wanted.shape
            ));
        }
        let (compute, stored) = (options.compute_dtype(), options.dtype(name));
        for (i, ((&y, &y64), &m)) in found
            .data
            .iter()
            .zip(&wanted.data)
            .zip(&bound.data)
            .enumerate()
        {
            let overflow = y64.abs() >= largest(stored) * 0.999 || !m.is_finite() || m > 1e30;
            // Rounding to the storage type comes on top of the arithmetic; tiny results may flush to 0, and so may what
            // they are products of: silu(x) = x σ(x) is 0 below x = -87.
            let least = smallest(stored).max(128.0 * smallest(compute));
            let tolerance = K * compute.epsilon() * m + stored.epsilon() * y64.abs() + least;
            let right = (y - y64).abs() <= tolerance;
            if !overflow && !right {
                return Err(format!(
                    "{name}[{i}] is {y}, wanted {y64} within {tolerance:e} (m = {m})"
                ));
            }
        }
    }
    Ok(())
}

fn largest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 65504.0,
        Dtype::F32 | Dtype::Bf16 => f64::from(f32::MAX),
        Dtype::F64 => f64::MAX,
    }
}

/// The spacing of numbers near 0: below the smallest normal number, relative precision ends.
fn smallest(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F16 => 6e-8,
        Dtype::F32 | Dtype::Bf16 => 1.2e-38,
        Dtype::F64 => 2.3e-308,
    }
}
