//! The tuner: times every schedule worth trying on the device and remembers the fastest one that is right.
//!
//! In: a kernel and arguments of the size that matters. Out: [`Tuned`]. What cannot be faster than the fastest so far, by what it
//! takes of the GPU at least ([`selscan_codegen::cost`]), is neither compiled nor timed. A schedule may win only after its results
//! on a slice of the data are those of the f64 meaning: |y − y64| ≤ K·eps·m, m the running error bound.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use selscan_codegen::cost::least_seconds;
use selscan_codegen::plan::Plan;
use selscan_codegen::{Dtype, Schedule, candidates};
use selscan_dsl::{AxisIndex, AxisSet, Extents, Node, Outputs, eval_with_bound};

use crate::buffer::Tensor;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::owned::OwnedArgs;
use crate::resident::Resident;
use crate::sample::Sample;
use crate::spec::Spec;
use crate::store::Record;

/// Steps of the slice that is compared.
const CHECKED_STEPS: usize = 131;
/// The same on a GPU, whose threads share out tiles of up to 512: two of these, and more where time is no multiple of them.
const CHECKED_TILES: usize = 1100;
/// Points of the axis that lanes run over: more than any block of vectors, and not a multiple of one.
const CHECKED_LANES: usize = 67;
/// Points of every other axis that the code is not fixed to.
const CHECKED_POINTS: usize = 2;
/// State points of a slice that are compared, about: some hundred channels of 16 states, evenly spread over all of its blocks.
const COMPARED: f64 = 1e6;
/// A schedule whose first run takes this many times the best time is not run again.
const HOPELESS: f64 = 2.0;

/// Schedules that are compiled at once, ahead of being timed, where compilation is slow.
const AHEAD: usize = 32;

/// How to tune.
pub struct Tuner<'p> {
    /// Timed runs of a schedule, of which the median counts.
    pub repeats: usize,
    /// No schedule but a stage's first is tried later than this after the start.
    pub budget: Option<Duration>,
    /// Called after each schedule.
    pub progress: Option<&'p dyn Fn(&Progress<'_>)>,
}

/// Where a tuner is.
pub struct Progress<'t> {
    /// Schedules timed so far in this stage.
    pub done: usize,
    /// Schedules to time in this stage.
    pub of: usize,
    /// The stage: direction of time.
    pub stage: usize,
    /// The last one.
    pub trial: &'t Trial,
}

/// One schedule's time.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The stage it was tried for.
    pub stage: usize,
    /// The schedule.
    pub schedule: Schedule,
    /// Seconds a launch, or why it has none.
    pub outcome: Result<f64, Untimed>,
}

/// Why a schedule was not timed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Untimed {
    /// It cannot be faster than what was found already: it takes so many seconds at least.
    #[error("it takes {:.4} ms at least", 1e3 * .0)]
    Slow(f64),
    /// It may not be used, and why.
    #[error("{0}")]
    Unusable(String),
}

/// What a tuner found.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The fastest schedule of each stage.
    pub schedules: Vec<Schedule>,
    /// Seconds of a launch with them.
    pub seconds: f64,
    /// Every schedule that was tried.
    pub table: Vec<Trial>,
    /// Whether the store has it; launches of this process use it in any case.
    pub stored: bool,
}

impl Default for Tuner<'_> {
    fn default() -> Self {
        Tuner {
            repeats: 5,
            budget: None,
            progress: None,
        }
    }
}

impl Tuner<'_> {
    /// Finds the fastest schedules of `kernel` for `args` and makes later launches of that size use them.
    ///
    /// # Errors
    /// What is wrong with the arguments; [`Error::Untunable`] if no schedule is right.
    pub fn tune(&self, kernel: &Kernel, args: &OwnedArgs) -> Result<Tuned, Error> {
        let started = Instant::now();
        let (spec, extents) = kernel.resolve(args)?;
        let options = spec.options(kernel.recurrence());
        let target = kernel.device().target();
        let mut resident = Resident::past_cache(kernel, args)?;
        let check = Check::new(kernel, args)?;
        let mut best: Vec<Schedule> = kernel
            .plan(&spec, &extents)?
            .iter()
            .map(|p| p.schedule)
            .collect();
        let mut seconds = f64::INFINITY;
        let mut table = Vec::new();
        for (stage, scan) in kernel.scans(&spec)?.iter().enumerate() {
            // With other schedules in the other stages, earlier times do not compare.
            seconds = f64::INFINITY;
            let schedules = candidates(scan, &extents, &options, target);
            let of = schedules.len();
            let least = |schedule: &Schedule| {
                let plan = Plan::new(scan, &extents, &options, target, schedule);
                plan.map_or(0.0, |plan| least_seconds(&plan, target))
            };
            let least: Vec<f64> = schedules.iter().map(least).collect();
            let mut winner = None;
            for (done, &schedule) in schedules.iter().enumerate() {
                if done > 0 && self.budget.is_some_and(|b| started.elapsed() >= b) {
                    break;
                }
                let with = |schedule: Schedule| {
                    let mut all = best.clone();
                    all[stage] = schedule;
                    all
                };
                let hopeful = |i: &usize| least[*i] < seconds;
                // What the first one takes tells which others are worth their compilation.
                if done == 0 || done % AHEAD == 1 {
                    let next = done..of.min(if done == 0 { 1 } else { done + AHEAD });
                    let next = next.filter(hopeful).map(|i| with(schedules[i]));
                    let next: Vec<_> = next.collect();
                    compile(kernel, &spec, &extents, &check, &next);
                }
                let all = with(schedule);
                let outcome = if !hopeful(&done) {
                    Err(Untimed::Slow(least[done]))
                } else if let Err(why) = check.run(kernel, &all) {
                    Err(Untimed::Unusable(why))
                } else {
                    let kernel = kernel.with_schedules(&all);
                    resident
                        .seconds(&kernel, self.repeats, HOPELESS * seconds)
                        .map_err(|e| Untimed::Unusable(e.to_string()))
                };
                if let Ok(t) = outcome
                    && t < seconds
                {
                    (seconds, winner) = (t, Some(schedule));
                }
                let trial = Trial {
                    stage,
                    schedule,
                    outcome,
                };
                if let Some(progress) = self.progress {
                    progress(&Progress {
                        done: done + 1,
                        of,
                        stage,
                        trial: &trial,
                    });
                }
                table.push(trial);
            }
            best[stage] = winner.ok_or_else(|| Error::Untunable {
                kernel: kernel.recurrence().name.clone(),
                why: match table.iter().find_map(|t| t.outcome.as_ref().err()) {
                    Some(why) => why.to_string(),
                    None => "there is none for this shape".to_owned(),
                },
            })?;
        }
        let key = kernel.key(&spec, &extents);
        let record = Record {
            schedules: best.iter().map(Schedule::to_string).collect(),
            seconds,
        };
        let saved = kernel.device().store().save(&key, &record);
        if let Err(why) = &saved {
            tracing::warn!("the tuned schedule is used, but not stored: {why}");
        }
        kernel.remember(key, record);
        Ok(Tuned {
            schedules: best,
            seconds,
            table,
            stored: saved.is_ok() && kernel.device().store().folder().is_some(),
        })
    }
}

/// Compiles for a GPU on all cores, for that takes longer than all else; what fails will do so again when it is used. A
/// CPU's code is made as fast as it is timed, on cores that are then quiet.
fn compile(
    kernel: &Kernel,
    spec: &Spec,
    extents: &Extents,
    check: &Check,
    schedules: &[Vec<Schedule>],
) {
    if kernel.device().cuda().is_none() {
        return;
    }
    schedules.par_iter().for_each(|all| {
        // Both are kept by the kernel.
        let _ = check.compile(kernel, all);
        let _ = kernel.with_schedules(all).compile(spec, extents);
    });
}

/// A slice of the arguments, and what the f64 meaning makes of a sample of it.
struct Check {
    args: OwnedArgs,
    sample: Sample,
    steps: usize,
    /// The type of the arithmetic.
    compute: Dtype,
    /// With its bound.
    meaning: (Outputs, Outputs),
}

impl Check {
    fn new(kernel: &Kernel, args: &OwnedArgs) -> Result<Check, Error> {
        let r = kernel.recurrence();
        let (spec, extents) = kernel.resolve(args)?;
        let plans = kernel.plan(&spec, &extents)?;
        let extents = slice(kernel, &plans, &extents);
        let cut = |axes: &[selscan_dsl::AxisId], complex: bool, tensor: &Tensor| {
            let mut shape = extents.shape(axes);
            shape.extend(complex.then_some(2));
            tensor.prefix(&shape)
        };
        let mut part = OwnedArgs {
            flags: args.flags.clone(),
            output: args.output,
            ..OwnedArgs::default()
        };
        for decl in &r.inputs {
            if let Some(tensor) = args.inputs.get(&decl.name) {
                let tensor = cut(&decl.axes, decl.complex, tensor)?;
                part.inputs.insert(decl.name.clone(), tensor);
            }
        }
        for decl in &r.states {
            if let Some(tensor) = args.initial.get(&decl.name) {
                let tensor = cut(&decl.axes, decl.complex, tensor)?;
                part.initial.insert(decl.name.clone(), tensor);
            }
        }
        if let Some((seq_idx, shape)) = &args.seq_idx {
            let batch = kernel.prepared(&spec)?.specialized.batch_axis();
            let axes: Vec<_> = batch.into_iter().chain([r.time]).collect();
            let (len, steps) = (shape.last().copied().unwrap_or(0), extents.get(r.time));
            let kept = extents.shape(&axes);
            let rows = seq_idx
                .chunks(len.max(1))
                .take(kept.iter().product::<usize>() / steps.max(1));
            let data = rows.flat_map(|row| row[..steps].iter().copied()).collect();
            part.seq_idx = Some((data, kept));
        }
        let sample = Sample::of(kernel, &spec, &extents, COMPARED)?;
        Ok(Check {
            meaning: eval_with_bound(r, &sample.inputs(r, &part.to_inputs(r)))?,
            sample,
            args: part,
            steps: extents.get(r.time),
            compute: spec.options(r).compute_dtype(),
        })
    }

    /// The kernel by which schedules are checked, on as few steps as the slice has.
    fn kernel(&self, kernel: &Kernel, schedules: &[Schedule]) -> Kernel {
        let short = schedules.iter().map(|s| s.shortened(self.steps));
        let schedules: Vec<Schedule> = short.collect();
        kernel.with_schedules(&schedules)
    }

    fn compile(&self, kernel: &Kernel, schedules: &[Schedule]) -> Result<(), Error> {
        let kernel = self.kernel(kernel, schedules);
        let (spec, extents) = kernel.resolve(&self.args)?;
        kernel.compile(&spec, &extents).map(drop)
    }

    /// Whether schedules give the right numbers on the slice.
    fn run(&self, kernel: &Kernel, schedules: &[Schedule]) -> Result<(), String> {
        let kernel = self.kernel(kernel, schedules);
        let mut results = kernel.results(&self.args).map_err(|e| e.to_string())?;
        results.fill(f64::NAN);
        kernel
            .launch(self.args.args(&mut results))
            .map_err(|e| e.to_string())?;
        results.check_sample(
            kernel.recurrence(),
            self.compute,
            &self.meaning,
            &self.sample,
        )
    }
}

/// About `most`, and a multiple of the power of two (up to 2^bits) that divides `extent`: a GPU's plans depend on it.
fn whole(extent: usize, most: usize, bits: u32) -> usize {
    let multiple = 1 << extent.trailing_zeros().min(bits);
    (most / multiple).max(1).saturating_mul(multiple)
}

/// Smaller extents on the axes that the code is not fixed to.
fn slice(kernel: &Kernel, plans: &[Plan], extents: &Extents) -> Extents {
    let r = kernel.recurrence();
    let mut grouped = AxisSet::EMPTY;
    for id in r.graph.reachable(&r.roots()) {
        if let Node::Input { index, .. } | Node::State { index, .. } = r.graph.node(id) {
            for i in index {
                if let AxisIndex::Group { of, groups } = *i {
                    grouped = grouped.with(r.canonical(of)).with(r.canonical(groups));
                }
            }
        }
    }
    let gpu = kernel.device().target().gpu.is_some();
    let passes = || plans.iter().flat_map(|p| &p.passes);
    let lane = |axis| passes().any(|p| p.structure.lane == Some(axis));
    let free = |axis: selscan_dsl::AxisId| {
        plans
            .iter()
            .all(|p| p.extent_names[axis.0 as usize].is_some())
            && !grouped.contains(axis)
    };
    let shorter = |(i, &extent): (usize, &usize)| {
        let axis = r.canonical(selscan_dsl::AxisId(i as u8));
        let (most, bits) = match () {
            () if axis == r.canonical(r.time) && gpu => (CHECKED_TILES, 9),
            () if axis == r.canonical(r.time) => (CHECKED_STEPS, 0),
            () if !free(axis) => (usize::MAX, 0),
            () if lane(axis) => (CHECKED_LANES, 10),
            () => (CHECKED_POINTS, 0),
        };
        extent.min(if gpu { whole(extent, most, bits) } else { most })
    };
    Extents(extents.0.iter().enumerate().map(shorter).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of threads are full on the slice where they are on the whole.
    #[test]
    fn a_slice_is_divided_by_what_divides_the_whole() {
        for (extent, most, bits, wanted) in [
            (2048, 67, 10, 1024),
            (5120, 67, 10, 1024),
            (1000, 67, 10, 64),
            (77, 67, 10, 67),
            (2048, 1100, 9, 1024),
            (2064, 1100, 9, 1088),
            (2047, 1100, 9, 1100),
            (8, 2, 0, 2),
        ] {
            assert_eq!(whole(extent, most, bits), wanted, "{extent}");
        }
        assert!(whole(2048, usize::MAX, 0) >= 2048);
    }
}
