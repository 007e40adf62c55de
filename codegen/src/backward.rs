//! The gradient of a kernel as a plan.
//!
//! ```text
//! adjoint     chunk by chunk, from the last: the kernel runs again from the states that its forward run saved, then the
//!             adjoint over the same steps; sums over what runs in parallel are left in parts
//! sums        each of them added up, in a fixed order
//! after       what is the same at every step, once
//! ```
//! In: a specialised [`Recurrence`] and what to differentiate by. Out: [`Backward`], whose [`Backward::plan`] has the same
//! passes, roles and workspaces as any. A launch binds the tensors of [`Adjoint::recurrence`], by number; the states saved
//! by the forward run are inputs after its last: \[chunks of time, axes of the state\], of the type of arithmetic.

mod planner;
mod products;
mod retraced;
mod starts;
mod sums;

use selscan_dsl::scan::Scan;
use selscan_dsl::{Adjoint, AxisId, Extents, Recurrence, Reduction, StateDecl, VjpError, When};

use crate::dtype::Ty;
use crate::options::Options;
use crate::plan::{Plan, Refusal};
use crate::schedule::{Algorithm, Order, Schedule, THREADS};
use crate::structure::Structure;
use crate::target::{Gpu, Target};
use planner::Planner;

/// Numbers of states that a thread of a GPU holds in registers beside those of their adjoints.
const MOST_HELD: usize = 32;

/// States of a thread of a block that traces back, and how many such blocks a multiprocessor holds: of 128 registers a thread.
const HELD: usize = 4;
const BLOCKS: u32 = 4;

/// Threads of a multiprocessor up to which each has 168 registers or more.
const FEW_THREADS: u32 = 320;

/// Points of the inner axes together, both of a matrix included, that a step is unrolled over.
const MOST_UNROLLED: usize = 64;

/// Warps that a multiprocessor holds of a backward run, which takes 160 registers a thread or so.
const WARPS: u64 = 12;

/// Warps of a multiprocessor below which time is cut to have more. What a chunk keeps of its states, 1 KB a thread for
/// N = 16, is then nearer: more warps than fit in the first-level cache are slower than few (measured, sm_90).
const FEW: u64 = 3;

/// Steps of the shortest chunk of time that is worth a thread of its own.
const LEAST_CHUNK: u64 = 64;

/// A kernel's gradient, ready to be planned.
#[derive(Clone, Debug)]
pub struct Backward {
    /// The adjoint; its names are those of a launch's tensors.
    pub adjoint: Adjoint,
    /// The kernel.
    pub primal: Recurrence,
    /// What runs over time: one per direction.
    pub stages: Vec<Stage>,
    /// By output or state of the stages: what is left to be summed.
    pub reductions: Vec<(String, Vec<Reduction>)>,
    /// What is done after all of it, in one step.
    pub after: Option<Scan>,
}

/// One direction of an adjoint.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The adjoint, real and simplified.
    pub scan: Scan,
    /// What is run again in each chunk, and the inputs of the adjoint that it yields.
    pub replays: Vec<Again>,
}

/// What is run again: real and simplified, and (input of the adjoint, its output, before or after the step).
pub type Again = (Scan, Vec<(String, String, When)>);

impl Backward {
    /// The gradient by the inputs and initial states that `wrt` names, of a specialised recurrence.
    ///
    /// # Errors
    /// As [`Recurrence::vjp`].
    pub fn new(primal: &Recurrence, wrt: &[&str]) -> Result<Backward, VjpError> {
        let mut adjoint = primal.vjp(wrt)?;
        let deferred = adjoint.recurrence.deferred();
        let parallel = Structure::of(primal).parallel;
        let partial = deferred.recurrence.partial(parallel.into_iter().collect());
        let stage = |r: &Recurrence| {
            let scan = Scan::derive(r);
            let reads = |name: &str| scan.recurrence.input_named(name).is_some();
            let replays = adjoint.replays(primal, reads)?;
            let replays = replays
                .into_iter()
                .map(|r| (Scan::derive(&r.recurrence), r.reads));
            Ok(Stage {
                replays: replays.collect(),
                scan,
            })
        };
        let stages = partial.recurrence.split_directions();
        let stages: Vec<Stage> = stages.iter().map(stage).collect::<Result<_, VjpError>>()?;
        // What only a replay reads is an input too.
        for (scan, _) in stages.iter().flat_map(|s| &s.replays) {
            for input in &scan.recurrence.inputs {
                if adjoint.recurrence.input_named(&input.name).is_none() {
                    adjoint.recurrence.inputs.push(input.clone());
                }
            }
        }
        Ok(Backward {
            primal: primal.clone(),
            stages,
            reductions: partial.reductions,
            after: deferred.after.as_ref().map(Scan::derive),
            adjoint,
        })
    }

    /// The extents of the adjoint's axes, of those of the kernel's.
    #[must_use]
    pub fn extents(&self, extents: &Extents) -> Extents {
        let r = &self.adjoint.recurrence;
        let of = |i: usize| extents.get(r.canonical(AxisId(i as u8)));
        Extents((0..r.axes.len()).map(of).collect())
    }

    /// The plan of a schedule, whose `save` is that of the forward run.
    ///
    /// `extents` are those of the adjoint's axes; `options` name its tensors.
    ///
    /// # Errors
    /// A sentence that says why the schedule does not fit.
    pub fn plan(
        &self,
        extents: &Extents,
        options: &Options,
        target: &Target,
        schedule: &Schedule,
    ) -> Result<Plan, Refusal> {
        let structures = self.structures()?;
        let mut planner = Planner::new(self, (extents, options, target, schedule), &structures);
        for (stage, (structure, replays)) in self.stages.iter().zip(&structures) {
            planner.stage(stage, structure, replays)?;
        }
        for (name, reductions) in &self.reductions {
            planner.sums(name, reductions)?;
        }
        // What is a sum over chunks alone.
        let mut left: Vec<String> = planner.partly.keys().cloned().collect();
        left.sort_unstable();
        for name in left {
            planner.sums(&name, &[])?;
        }
        planner.end_rounds();
        if let Some(after) = &self.after {
            planner.after(after)?;
        }
        planner.finish()
    }

    /// The plan of the first schedule that fits.
    ///
    /// # Errors
    /// Why the last one was refused, where none fits.
    pub fn default_plan(
        &self,
        extents: &Extents,
        options: &Options,
        target: &Target,
    ) -> Result<Plan, Refusal> {
        let mut plan = Err(Refusal(format!("{} has no schedule", self.primal.name)));
        for schedule in self.proposals(extents, options, target) {
            plan = self.plan(extents, options, target, &schedule);
            if plan.is_ok() {
                break;
            }
        }
        plan
    }

    /// Schedules that may fit, the most promising first.
    fn proposals(&self, extents: &Extents, options: &Options, target: &Target) -> Vec<Schedule> {
        let steps = extents.get(self.primal.time) as u64;
        let model = Structure::of(&self.primal);
        let parallel = model.parallel.iter();
        let items = parallel.fold(1, |n, &a| (extents.get(a) as u64).saturating_mul(n));
        let base = Schedule {
            unroll: 4,
            save: options.save,
            ..Schedule::plain(Order::Registers)
        };
        let whole = target.lanes(options.compute);
        let widths: &[(u32, u32)] = match target.gpu {
            Some(_) => &[(32, 1), (1, 1)],
            None => &[(whole, 2), (whole, 1), (1, 1)],
        };
        let inner = model.state_inner.iter().map(|a| extents.get(a));
        let complex = self.primal.states.iter().any(|s| s.complex);
        let words = usize::from(complex) + 1 + usize::from(options.compute == Ty::F64);
        let held = inner.fold(words, usize::saturating_mul);
        // Matrices unrolled are as many operations, four steps of them.
        let all = model.inner.iter().map(|a| extents.get(a));
        let matrix = all.fold(1, usize::saturating_mul);
        let orders: &[Order] = match target.gpu {
            Some(_) => &[Order::Registers, Order::Tiled, Order::Stepped],
            None => &[Order::Tiled, Order::Stepped],
        };
        // Chunks side by side cost a pass that finds the adjoint states before each: where there are too few threads.
        let (few, wanted) = match &target.gpu {
            Some(gpu) => {
                let warps = 32 * u64::from(gpu.multiprocessors);
                (FEW * warps, WARPS * warps)
            }
            None => {
                let lanes = u64::from(target.cores) * u64::from(whole);
                (lanes, lanes)
            }
        };
        let save = u64::from(options.save.max(1));
        let chunk = (steps * items / wanted.max(1))
            .max(LEAST_CHUNK)
            .div_ceil(save)
            * save;
        let mut algorithms = vec![Algorithm::Sequential];
        if items < few && chunk < steps {
            let chunk = u32::try_from(chunk).unwrap_or(u32::MAX);
            algorithms.insert(0, Algorithm::Chunked { chunk });
        }
        let mut out = match &target.gpu {
            Some(gpu) => self.blocks(&model, extents, options, gpu),
            None => Vec::new(),
        };
        for algorithm in algorithms {
            for &order in orders {
                // Unrolled code beyond this takes seconds to compile, and more registers than there are.
                if order == Order::Registers && (held > MOST_HELD || matrix > MOST_UNROLLED) {
                    continue;
                }
                for &(lanes, block) in widths {
                    out.push(Schedule {
                        algorithm,
                        order,
                        lanes,
                        block,
                        ..base
                    });
                }
            }
        }
        out
    }

    /// Schedules whose blocks run chunks of time again and trace them back: a few threads a channel with four states each,
    /// the states of half a chunk in registers at once. All of time in one piece where channels are enough.
    fn blocks(
        &self,
        model: &Structure,
        extents: &Extents,
        options: &Options,
        gpu: &Gpu,
    ) -> Vec<Schedule> {
        let points = |axes: &mut dyn Iterator<Item = AxisId>| {
            axes.fold(1, |n: usize, a| n.saturating_mul(extents.get(a)))
        };
        let states = points(&mut model.state_inner.iter());
        let items = points(&mut model.parallel.iter().copied());
        let lane = model.lane.map_or(0, |a| extents.get(a));
        let (steps, save) = (extents.get(self.primal.time), options.save);
        // A complex state has two numbers a point.
        let words = |s: &StateDecl| if s.complex { 2 } else { 1 };
        let words: usize = self.primal.states.iter().map(words).sum();
        let numbers = states.saturating_mul(words);
        let warp = numbers.div_ceil(HELD).next_power_of_two().clamp(2, 16) as u32;
        if lane == 0 || !save.is_multiple_of(warp) || !save.is_multiple_of(4) {
            return Vec::new();
        }
        let multiprocessors = gpu.multiprocessors as usize;
        let slots = multiprocessors * BLOCKS as usize;
        let own = |threads: u32| items / (threads / warp).max(1) as usize;
        let enough = own(THREADS) * 9 >= slots * 5;
        let mut sizes = vec![THREADS, 256, 160, 320, 192, 96, 64];
        if enough {
            // Where there are no more blocks than are held at once, those that leave the fullest multiprocessor the least to do.
            let fullest = |&n: &u32| match own(n).div_ceil(multiprocessors) * n as usize {
                all if all <= (BLOCKS * THREADS) as usize => all,
                _ => (BLOCKS * THREADS) as usize,
            };
            sizes.sort_by_key(fullest);
        }
        sizes.retain(|n| lane.is_multiple_of((n / warp) as usize));
        let whole = |chunks: &usize| steps.is_multiple_of(chunks * save as usize);
        let most = slots / own(THREADS).max(1);
        let chunks = (most / 2 + 1..=most).rev().find(whole).unwrap_or(most);
        let chunk = steps
            .div_ceil(chunks.max(1))
            .next_multiple_of(save as usize);
        let algorithm = match u32::try_from(chunk) {
            Ok(chunk) if !enough && (chunk as usize) < steps => Algorithm::Chunked { chunk },
            _ => Algorithm::Sequential,
        };
        let mut out = Vec::new();
        for threads in sizes {
            let chunks = if enough { 1 } else { chunks };
            let held = (own(threads) * chunks).div_ceil(multiprocessors) as u32;
            let own = numbers.div_ceil(warp as usize);
            let resident = match options.compute {
                Ty::F32 if own <= HELD => held.clamp(1, BLOCKS * THREADS / threads),
                _ => 0,
            };
            // Few warps leave room for the states of a whole chunk, which then is run again once.
            let few = save <= 16 && resident > 0 && resident * threads <= FEW_THREADS;
            let part = [8, 4, 2].into_iter().find(|&part: &u32| {
                let half = save.is_multiple_of(part) && save > part;
                // An exponential in f64 is a page of code.
                half && options.compute == Ty::F32 && own * part as usize <= 8 * HELD
            });
            let part = part.unwrap_or(1);
            for share in [2, 0] {
                out.push(Schedule {
                    algorithm,
                    lanes: threads / warp,
                    warp,
                    tile: save / warp,
                    unroll: if few { save } else { part },
                    ahead: 1,
                    share,
                    save,
                    threads,
                    resident,
                    ..Schedule::plain(Order::Staged)
                });
            }
        }
        out
    }

    /// By stage, its structure and those of what is run again in it: their parallel axes are the same.
    fn structures(&self) -> Result<Vec<(Structure, Vec<Structure>)>, Refusal> {
        let whole = Structure::of(&self.primal);
        let of = |stage: &Stage| {
            let rec = &stage.scan.recurrence;
            let mut own = Structure::like(rec, &self.primal, &whole);
            for _ in 0..rec.axes.len() + 1 {
                let like = |(scan, _): &Again| Structure::like(&scan.recurrence, rec, &own);
                let again: Vec<Structure> = stage.replays.iter().map(like).collect();
                match again
                    .iter()
                    .position(|s| s.parallel.len() < own.parallel.len())
                {
                    None => return Ok((own, again)),
                    Some(k) => {
                        own = Structure::like(rec, &stage.replays[k].0.recurrence, &again[k])
                    }
                }
            }
            Err(Refusal(format!(
                "the axes over which {} is parallel are not settled",
                rec.name
            )))
        };
        self.stages.iter().map(of).collect()
    }
}
