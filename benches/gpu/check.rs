//! No time without right numbers. In: a kernel with the schedule that is to be timed, a case. Out: [`Wrong`], if anything is.
//!
//! Every number of a smaller case of the same schedule, and some channels of the case itself, are compared with the f64
//! meaning by the one tolerance; of the case itself every number has to be written. The channels also are as near to the
//! meaning as `mamba.py` asks of mamba_ssm: ‖out − f64‖ ≤ ε ‖f64‖.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;

use half::{bf16, f16};
use selscan_dsl::{EvalError, Inputs, Outputs, Recurrence, eval_with_bound};
use selscan_runtime::{
    Cuda, Dtype, Element, Error, Kernel, OwnedArgs, OwnedResults, Schedule, Tensor,
};

use crate::Stop;
use crate::case::{Case, Layout};
use crate::measure::Set;

/// State points of the smaller case, about half a second of the f64 meaning.
const POINTS: usize = 1_000_000;
/// Steps of it: more than one round of any schedule that gives runs of time to lanes, and broken ones.
const STEPS: usize = 1304;
/// State points of a channel of the case itself.
const CHANNEL_POINTS: usize = 1_000_000;

/// A number that is not what it is meant to be, in words.
#[derive(Debug)]
pub struct Wrong(pub String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A smaller case of the same kind: multiples of 8 stay such, so that loads are as wide.
fn smaller(case: Case) -> Case {
    let b = case.b.min(2);
    let d = case.d.min(if case.n > 16 { 8 } else { 24 });
    let most = (POINTS / (b * d * case.n)).max(64);
    Case {
        b,
        d,
        l: case.l.min(STEPS).min(most / 8 * 8),
        ..case
    }
}

/// Compares a smaller case with its meaning, whole: of one step where `state` is the type of a state to update.
/// Whether that could be: some schedules do not fit smaller shapes.
pub fn small(
    cuda: &Cuda,
    kernel: &Kernel,
    schedules: &[Schedule],
    case: Case,
    state: Option<Dtype>,
) -> Result<bool, Stop> {
    let small = smaller(case);
    let args = match state {
        None => small.arguments(1_000_003)?,
        Some(state) => small.step_arguments(state, 1_000_003)?,
    };
    let shorter = |s: &Schedule| s.shortened(small.l);
    let kernel = kernel.with_schedules(&schedules.iter().map(shorter).collect::<Vec<_>>());
    let mut set = Set::new(cuda, &kernel, &args)?;
    match set.launch(&kernel) {
        Err(Error::Refused(_)) => return Ok(false),
        launched => launched?,
    }
    let r = kernel.recurrence();
    let meaning = eval_with_bound(r, &args.to_inputs(r))?;
    let right = set.results()?.check(r, Dtype::F32, &meaning);
    right.map_err(|why| Wrong(format!("{small} {}: {why}", small.layout)))?;
    Ok(true)
}

/// Some channels of a case and what is meant by them.
pub struct Channels {
    case: Case,
    steps: usize,
    /// By sequence and channel.
    all: Vec<((usize, usize), (Outputs, Outputs))>,
}

impl Channels {
    /// Of a case without initial states; of a long one the first steps.
    pub fn new(r: &Recurrence, case: Case, args: &OwnedArgs) -> Result<Channels, Stop> {
        let steps = case.l.min((CHANNEL_POINTS / case.n).max(1));
        let mut chosen = vec![
            (0, 0),
            (case.b / 3, case.d * 2 / 3),
            (case.b / 2, case.d / 3),
            (case.b - 1, case.d - 1),
        ];
        chosen.dedup();
        let inputs = chosen
            .iter()
            .map(|&(sequence, channel)| channel_inputs(r, case, steps, args, sequence, channel))
            .collect::<Result<Vec<Inputs>, Error>>()?;
        let meanings: Vec<Result<_, EvalError>> = thread::scope(|scope| {
            let each = inputs.iter();
            let running: Vec<_> = each
                .map(|inputs| scope.spawn(|| eval_with_bound(r, inputs)))
                .collect();
            let joined = running.into_iter().map(thread::ScopedJoinHandle::join);
            // A panic of the thread goes on here.
            joined
                .map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let all = chosen.into_iter().zip(meanings);
        let all = all.map(|(at, meaning)| Ok((at, meaning?)));
        Ok(Channels {
            case,
            steps,
            all: all.collect::<Result<_, EvalError>>()?,
        })
    }

    /// Compares what a call gave; ‖out − f64‖ / ‖f64‖ of the worst channel.
    pub fn check(&self, r: &Recurrence, results: &OwnedResults) -> Result<f64, Stop> {
        let mut worst = 0f64;
        let wrong = |why: String| Wrong(format!("{} {}: {why}", self.case, self.case.layout));
        for (name, out) in &results.outputs {
            if let Some(at) = unwritten(out) {
                return Err(wrong(format!("`{name}`[{at}] is NaN or was not written")).into());
            }
        }
        for ((sequence, channel), meaning) in &self.all {
            let places = |t| self.case.in_plane(*sequence, t, *channel);
            let part = |out: &Tensor| {
                let data = pick(out, (0..self.steps).map(places));
                Tensor::from_f64(out.dtype(), &plane(self.case, self.steps), &data)
            };
            let each = results.outputs.iter();
            let outputs = each.map(|(name, out)| Ok((name.clone(), part(out)?)));
            let found = OwnedResults {
                outputs: outputs.collect::<Result<_, Error>>()?,
                last: BTreeMap::new(),
            };
            let right = found.check(r, Dtype::F32, meaning);
            let place = format!("sequence {sequence} channel {channel}");
            right.map_err(|why| wrong(format!("{place}: {why}")))?;
            let error = relative(r, &found, &meaning.0);
            let most = most(self.case.dtype);
            if error.is_nan() || error > most {
                let why =
                    format!("{place}: ‖out − f64‖ / ‖f64‖ is {error:.1e}, more than {most:.0e}");
                return Err(wrong(why).into());
            }
            worst = worst.max(error);
        }
        Ok(worst)
    }
}

/// The largest ‖out − f64‖ / ‖f64‖: rounding of the output in that type, with room.
fn most(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Bf16 => 4e-3,
        Dtype::F16 => 1e-3,
        Dtype::F32 | Dtype::F64 => 1e-4,
    }
}

/// ‖out − f64‖ / ‖f64‖ of all outputs together.
fn relative(r: &Recurrence, found: &OwnedResults, wanted: &Outputs) -> f64 {
    let found = found.to_outputs(r);
    let (mut errors, mut squares) = (0.0, 0.0);
    for (name, wanted) in &wanted.tensors {
        let Some(found) = found.tensors.get(name) else {
            return f64::NAN;
        };
        for (x, y) in found.data.iter().zip(&wanted.data) {
            errors += (x - y).powi(2);
            squares += y.powi(2);
        }
    }
    (errors / squares).sqrt()
}

/// The shape of u, delta, z and the output of one channel.
fn plane(case: Case, steps: usize) -> [usize; 3] {
    let one = Case {
        b: 1,
        d: 1,
        l: steps,
        ..case
    };
    one.plane()
}

/// One channel's inputs.
fn channel_inputs(
    r: &Recurrence,
    case: Case,
    steps: usize,
    args: &OwnedArgs,
    sequence: usize,
    channel: usize,
) -> Result<Inputs, Error> {
    let mut part = OwnedArgs {
        flags: args.flags.clone(),
        output: args.output,
        ..OwnedArgs::default()
    };
    for (name, tensor) in &args.inputs {
        let (shape, data) = match name.as_str() {
            "u" | "z" | "delta" => {
                let places = (0..steps).map(|t| case.in_plane(sequence, t, channel));
                (plane(case, steps).to_vec(), pick(tensor, places))
            }
            "b" | "c" => {
                // In the order that the layout has in memory.
                let places = (0..steps * case.n).map(|i| match case.layout {
                    Layout::Bdl => case.in_rows(sequence, i % steps, i / steps),
                    Layout::Bld => case.in_rows(sequence, i / case.n, i % case.n),
                });
                let one = Case {
                    b: 1,
                    l: steps,
                    ..case
                };
                (one.rows(), pick(tensor, places))
            }
            "a" => {
                let places = (0..case.n).map(|i| channel * case.n + i);
                (vec![1, case.n], pick(tensor, places))
            }
            _ => (vec![1], pick(tensor, std::iter::once(channel))),
        };
        let tensor = Tensor::from_f64(tensor.dtype(), &shape, &data)?;
        part.inputs.insert(name.clone(), tensor);
    }
    Ok(part.to_inputs(r))
}

/// The elements at some places.
fn pick(tensor: &Tensor, places: impl Iterator<Item = usize>) -> Vec<f64> {
    fn of<T: Element>(tensor: &Tensor, places: impl Iterator<Item = usize>) -> Vec<f64> {
        let all = tensor.as_slice::<T>().unwrap_or_default();
        places.map(|i| all[i].to_f64()).collect()
    }
    match tensor.dtype() {
        Dtype::F32 => of::<f32>(tensor, places),
        Dtype::F64 => of::<f64>(tensor, places),
        Dtype::Bf16 => of::<bf16>(tensor, places),
        Dtype::F16 => of::<f16>(tensor, places),
    }
}

/// Where an element is NaN, as all are before a call.
fn unwritten(tensor: &Tensor) -> Option<usize> {
    fn of<T: Element>(tensor: &Tensor) -> Option<usize> {
        let all = tensor.as_slice::<T>().unwrap_or_default();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let part = all.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            let search = |own: &'_ [T]| own.iter().position(|x| x.to_f64().is_nan());
            let parts = all.chunks(part).enumerate();
            let running: Vec<_> = parts
                .map(|(p, own)| scope.spawn(move || search(own).map(|at| p * part + at)))
                .collect();
            let joined = running.into_iter().map(thread::ScopedJoinHandle::join);
            // A panic of the thread goes on here.
            joined
                .filter_map(|found| found.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .min()
        })
    }
    match tensor.dtype() {
        Dtype::F32 => of::<f32>(tensor),
        Dtype::F64 => of::<f64>(tensor),
        Dtype::Bf16 => of::<bf16>(tensor),
        Dtype::F16 => of::<f16>(tensor),
    }
}
