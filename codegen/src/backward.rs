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

use std::collections::HashMap;

use selscan_dsl::scan::Scan;
use selscan_dsl::{
    Adjoint, AxisDecl, AxisId, Extents, InputDecl, InputId, InputKind, Node, Op, Recurrence,
    ReduceOp, Reduction, StateDecl, StateId, VjpError, When,
};

use crate::dtype::Dtype;
use crate::loop_ir::{Ix, Role};
use crate::lower::blocks;
use crate::options::Options;
use crate::plan::{Pass, Plan, Refusal, Replay, Sums};
use crate::schedule::{Algorithm, Order, Schedule};
use crate::structure::Structure;
use crate::target::Target;

/// States by name, and where they are.
type Places = Vec<(String, (Role, Dtype))>;

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
        let parallel = Structure::of(&self.primal).parallel.into_iter();
        let items = parallel.fold(1, |n, a| (extents.get(a) as u64).saturating_mul(n));
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
        let mut out = Vec::new();
        for algorithm in algorithms {
            for &order in orders {
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

/// A result that is not complete yet: where it lies.
struct Partly {
    role: (Role, Dtype),
    axes: Vec<AxisId>,
    /// If each chunk of time has its own: how many there are, before the axes.
    chunks: Option<Ix>,
    complex: bool,
    /// If it has parts in place of the lane axis: which that is, how many parts, and lanes that lie apart.
    parts: Option<(AxisId, Ix, i64)>,
}

struct Planner<'a> {
    backward: &'a Backward,
    sig: &'a Recurrence,
    extents: &'a Extents,
    options: &'a Options,
    target: &'a Target,
    schedule: &'a Schedule,
    /// By axis of the adjoint.
    ix: Vec<Ix>,
    extent_names: Vec<Option<String>>,
    multiples: Vec<i64>,
    passes: Vec<Pass>,
    workspaces: Vec<(Dtype, Ix)>,
    /// What passes hand to later ones, by name.
    made: HashMap<String, (Role, Dtype)>,
    partly: HashMap<String, Partly>,
}

impl<'a> Planner<'a> {
    fn new(
        backward: &'a Backward,
        (extents, options, target, schedule): (&'a Extents, &'a Options, &'a Target, &'a Schedule),
        structures: &[(Structure, Vec<Structure>)],
    ) -> Self {
        let sig = &backward.adjoint.recurrence;
        let mut fixed = Vec::new();
        for (stage, (own, replays)) in backward.stages.iter().zip(structures) {
            fixed.extend(crate::plan::fixed_axes(&stage.scan.recurrence, own));
            for ((scan, _), structure) in stage.replays.iter().zip(replays) {
                fixed.extend(crate::plan::fixed_axes(&scan.recurrence, structure));
            }
        }
        if let Some(after) = &backward.after {
            let rec = &after.recurrence;
            fixed.extend(crate::plan::fixed_axes(rec, &Structure::of(rec)));
        }
        let groups = backward.reductions.iter().flat_map(|(_, all)| all);
        fixed.extend(groups.flat_map(|r| match r {
            Reduction::Sum(_) => vec![],
            Reduction::Group { of, groups } => vec![*of, *groups],
        }));
        let known = |id: AxisId| {
            let own = sig.canonical(id);
            fixed.iter().any(|&f| sig.canonical(f) == own)
        };
        let axes = (0..sig.axes.len() as u8).map(AxisId);
        let ix = axes.clone().map(|id| match known(id) {
            true => Ix::Const(extents.get(id) as i64),
            false => Ix::Extent(sig.canonical(id)),
        });
        let name = |id: AxisId| (!known(id)).then(|| sig.axis_name(id).to_owned());
        let lane = structures.first().and_then(|(s, _)| s.lane);
        Planner {
            backward,
            sig,
            extents,
            options,
            target,
            schedule,
            ix: ix.collect(),
            extent_names: axes.map(name).collect(),
            multiples: crate::plan::multiples(sig, lane, extents, target),
            passes: vec![],
            workspaces: vec![],
            made: HashMap::new(),
            partly: HashMap::new(),
        }
    }

    fn ix(&self, axis: AxisId) -> Ix {
        self.ix[axis.0 as usize].clone()
    }

    fn workspace(&mut self, len: Ix, complex: bool) -> (Role, Dtype) {
        let dtype = self.options.compute_dtype();
        let number = self.workspaces.len() as u32;
        self.workspaces
            .push((dtype, len * Ix::Const(if complex { 2 } else { 1 })));
        (Role::Workspace(number), dtype)
    }

    /// New memory for a value over `axes`.
    fn room(&mut self, axes: &[AxisId], complex: bool) -> (Role, Dtype) {
        let len = axes.iter().fold(Ix::Const(1), |n, &a| n * self.ix(a));
        self.workspace(len, complex)
    }

    /// Where an input of a pass lies: with the caller, or in what an earlier pass made.
    fn input(&self, name: &str) -> (Role, Dtype) {
        match (self.sig.input_named(name), self.made.get(name)) {
            (Some(id), _) => (Role::Input(id), self.options.dtype(name)),
            (None, Some(&made)) => made,
            // Saved states are not read from memory of the launch.
            (None, None) => (Role::Scratch, self.options.compute_dtype()),
        }
    }

    /// Where the complete result of that name goes.
    fn result(&mut self, name: &str, axes: &[AxisId], complex: bool) -> (Role, Dtype) {
        let output = self.sig.outputs.iter().position(|o| o.name == name);
        match (output, self.sig.state_named(name)) {
            (Some(k), _) => (Role::Output(k as u32), self.options.dtype(name)),
            (None, Some(s)) => (Role::Last(s), self.options.dtype(name)),
            (None, None) => {
                let role = self.room(axes, complex);
                self.made.insert(name.to_owned(), role);
                role
            }
        }
    }

    fn pass(&self, scan: &Scan, structure: Structure, schedule: Schedule) -> Pass {
        let rec = &scan.recurrence;
        Pass {
            name: rec.name.clone(),
            structure,
            extents: rec
                .axes
                .iter()
                .enumerate()
                .map(|(i, _)| self.ix[i].clone())
                .collect(),
            schedule,
            chunk: None,
            inputs: rec.inputs.iter().map(|i| self.input(&i.name)).collect(),
            initial: vec![None; rec.states.len()],
            last: vec![None; rec.states.len()],
            outputs: vec![],
            pairs: None,
            save: 0,
            saved: vec![],
            replays: vec![],
            sums: None,
            recurrence: rec.clone(),
        }
    }

    fn stage(
        &mut self,
        stage: &Stage,
        structure: &Structure,
        again: &[Structure],
    ) -> Result<(), Refusal> {
        let rec = &stage.scan.recurrence;
        let mut pass = self.pass(&stage.scan, structure.clone(), *self.schedule);
        let starts = match self.schedule.algorithm {
            Algorithm::Sequential => None,
            Algorithm::Chunked { chunk } => {
                pass.chunk = Some(chunk);
                Some(self.starts(stage, structure, chunk)?)
            }
        };
        pass.sums = self.sums_of(rec, structure);
        if self.target.gpu.is_some() && self.schedule.lanes > 1 && pass.sums.is_none() {
            return Err(Refusal(format!(
                "{} has no sums over its lanes for threads to add up together; use lanes=1",
                rec.name
            )));
        }
        for (k, decl) in rec.outputs.iter().enumerate() {
            let sums = pass.sums.as_ref();
            let summed = sums.and_then(|s| Some((s.outputs[k].clone()?, s.all.clone())));
            let axes = summed.as_ref().map_or(&decl.axes, |(axes, _)| axes);
            let parts = summed.as_ref().map(|(_, all)| all.clone());
            let parts = parts.zip(structure.lane);
            let role = self.stage_result(&decl.name, axes, decl.complex, (parts, None));
            pass.outputs.push(role);
        }
        for s in rec.state_ids() {
            let decl = rec.state(s);
            let k = s.0 as usize;
            if let Some(starts) = &starts {
                match starts.iter().find(|(name, _)| *name == decl.name) {
                    Some((_, start)) => pass.initial[k] = Some(*start),
                    None => {
                        let steps = pass.extents[rec.time.0 as usize].clone();
                        let chunks = pass.chunk.map(|n| steps.div_ceil(i64::from(n)));
                        let (axes, parts) = (&decl.axes, (None, chunks));
                        let role = self.stage_result(&decl.name, axes, decl.complex, parts);
                        pass.last[k] = Some(role);
                    }
                }
                continue;
            }
            let adjoints = &self.backward.adjoint.states;
            if let Some(id) = self.sig.state_named(&decl.name)
                && adjoints.iter().any(|(_, d)| *d == decl.name)
                && self.options.initial.contains(&decl.name)
            {
                pass.initial[k] = Some((Role::Initial(id), self.options.dtype(&decl.name)));
            }
            let known = self.sig.state_named(&decl.name).is_some();
            if !known || self.options.last.contains(&decl.name) {
                let parts = (None, None);
                let role = self.stage_result(&decl.name, &decl.axes, decl.complex, parts);
                pass.last[k] = Some(role);
            }
        }
        for ((scan, reads), structure) in stage.replays.iter().zip(again) {
            pass.save = self.schedule.save;
            let replay = self.replay(scan, structure)?;
            let input = |name: &str| rec.input_named(name);
            let output = |name: &str| scan.recurrence.outputs.iter().position(|o| o.name == name);
            let read = |(name, state, when): &(String, String, When)| {
                Some((input(name)?, output(state)? as u32, *when))
            };
            pass.replays.push(Replay {
                reads: reads.iter().filter_map(read).collect(),
                pass: replay,
            });
        }
        if !pass.replays.is_empty() && pass.save == 0 {
            return Err(Refusal(format!(
                "{} reads states; save=STEPS says how many steps are run again at once",
                rec.name
            )));
        }
        self.passes.push(pass);
        Ok(())
    }

    /// Passes that find the adjoint states before each chunk of time, on their own: by state, where they are.
    fn starts(
        &mut self,
        stage: &Stage,
        structure: &Structure,
        chunk: u32,
    ) -> Result<Places, Refusal> {
        let save = self.schedule.save.max(1);
        if !chunk.is_multiple_of(save) {
            return Err(Refusal(format!(
                "chunks of {chunk} steps do not consist of whole ones of {save}, before which states are saved; use a multiple"
            )));
        }
        let source = &stage.scan.source;
        let adjoints = &self.backward.adjoint.states;
        let carries = |s: &StateId| adjoints.iter().any(|(_, d)| *d == source.state(*s).name);
        let carried: Vec<StateId> = source.state_ids().filter(carries).collect();
        if carried.is_empty() {
            return Ok(vec![]);
        }
        let mut core = source.clone();
        core.outputs.clear();
        core.name.push_str("_states");
        let core = Scan::derive(&core.with_states(&carried).prune());
        let rec = &core.recurrence;
        let saved = &self.backward.adjoint.saved;
        if let Some(saved) = saved.iter().find(|s| rec.input_named(&s.name).is_some()) {
            return Err(Refusal(format!(
                "the adjoint states of {} depend on its states (`{}`); use sequential",
                source.name, saved.name
            )));
        }
        let structure = Structure::like(rec, &stage.scan.recurrence, structure);
        let mut whole = self.pass(&core, structure, *self.schedule);
        whole.schedule.save = 0;
        if self.target.gpu.is_some() {
            // Nothing here is added up over threads.
            whole.schedule.lanes = 1;
        }
        for s in rec.state_ids() {
            let (name, k) = (&rec.state(s).name, s.0 as usize);
            if let Some(id) = self.sig.state_named(name) {
                let dtype = self.options.dtype(name);
                let given = self.options.initial.contains(name);
                whole.initial[k] = given.then_some((Role::Initial(id), dtype));
                let wanted = self.options.last.contains(name);
                whole.last[k] = wanted.then_some((Role::Last(id), dtype));
            }
        }
        let numbers = (chunk, self.workspaces.len());
        let (mut passes, workspaces) = crate::chunked::passes(&core, whole, self.options, numbers)?;
        self.workspaces.extend(workspaces);
        let rescan = passes.pop();
        self.passes.extend(passes);
        let starts = rescan.map_or(vec![], |pass| pass.initial);
        let names = rec.states.iter().map(|s| s.name.clone());
        Ok(names.zip(starts.into_iter().flatten()).collect())
    }

    /// Where an output or last state of a stage goes; `summed` says that it has parts in place of an axis, `chunks` that
    /// every chunk of time has its own.
    fn stage_result(
        &mut self,
        name: &str,
        axes: &[AxisId],
        complex: bool,
        (summed, chunks): (Option<(Ix, AxisId)>, Option<Ix>),
    ) -> (Role, Dtype) {
        if chunks.is_none() && !self.backward.reductions.iter().any(|(n, _)| n == name) {
            return self.result(name, axes, complex);
        }
        let parts = summed.map(|(count, lane)| {
            let apart = if self.target.gpu.is_some() {
                1
            } else {
                i64::from(self.schedule.lanes)
            };
            (lane, count, apart)
        });
        let all = chunks.clone().unwrap_or(Ix::Const(1));
        let len = axes.iter().fold(all, |n, &a| match &parts {
            Some((lane, count, apart)) if *lane == a => n * count.clone() * Ix::Const(*apart),
            _ => n * self.ix(a),
        });
        let role = self.workspace(len, complex);
        let partly = Partly {
            role,
            axes: axes.to_vec(),
            chunks,
            complex,
            parts,
        };
        self.partly.insert(name.to_owned(), partly);
        role
    }

    /// The outputs of a stage that are sums over its lane axis.
    fn sums_of(&self, rec: &Recurrence, structure: &Structure) -> Option<Sums> {
        let lane = structure.lane?;
        let of = |name: &str| self.backward.reductions.iter().find(|(n, _)| n == name);
        let on_lane = |r: &&Reduction| match **r {
            Reduction::Sum(axis) => axis == lane,
            Reduction::Group { of, .. } => of == lane,
        };
        let over: Vec<Option<Reduction>> = rec
            .outputs
            .iter()
            .map(|o| {
                of(&o.name)
                    .and_then(|(_, all)| all.iter().find(on_lane))
                    .copied()
            })
            .collect();
        let mut groups = over.iter().flatten().filter_map(|r| match r {
            Reduction::Group { groups, .. } => Some(*groups),
            Reduction::Sum(_) => None,
        });
        let group = groups.next();
        let summed = |r: &Option<Reduction>| match r {
            Some(Reduction::Group { groups, .. }) => Some(*groups) == group,
            Some(Reduction::Sum(_)) => true,
            None => false,
        };
        let in_memory = |axes: &[AxisId]| {
            let mut axes = axes.to_vec();
            axes.sort_by_key(|&a| (structure.inner.contains(a), a == rec.time));
            axes
        };
        let outputs: Vec<Option<Vec<AxisId>>> = over
            .iter()
            .zip(&rec.outputs)
            .map(|(r, o)| summed(r).then(|| in_memory(&o.axes)))
            .collect();
        if outputs.iter().all(Option::is_none) {
            return None;
        }
        let width = i64::from(self.schedule.lanes * self.schedule.block);
        let blocks = blocks(&self.ix(lane), width);
        let groups = group.map_or(Ix::Const(1), |g| self.ix(g));
        let parts = self.parts(structure, lane, group, width);
        let all = match parts {
            0 => blocks,
            parts => groups.clone() * Ix::Const(i64::from(parts)),
        };
        Some(Sums {
            outputs,
            parts,
            groups,
            all,
        })
    }

    /// Parts of a group: on a CPU as few as keep its threads busy, on a GPU as many as there are blocks.
    fn parts(&self, structure: &Structure, lane: AxisId, group: Option<AxisId>, width: i64) -> u32 {
        if self.target.gpu.is_some() {
            return 0;
        }
        let groups = group.map_or(1, |g| self.extents.get(g)).max(1);
        let others = structure.parallel.iter().filter(|&&a| a != lane);
        let items = others.fold(groups, |n, &a| n.saturating_mul(self.extents.get(a)));
        let wanted = (4 * self.target.cores as usize).div_ceil(items.max(1));
        let blocks = (self.extents.get(lane) / groups).div_ceil(width as usize);
        wanted.clamp(1, blocks.max(1)) as u32
    }

    /// What is run again in a chunk.
    fn replay(&self, scan: &Scan, structure: &Structure) -> Result<Pass, Refusal> {
        let rec = &scan.recurrence;
        let compute = self.options.compute_dtype();
        let mut why = Refusal(format!("{} has no order", rec.name));
        for order in [self.schedule.order, Order::Tiled, Order::Stepped] {
            let schedule = Schedule {
                order,
                ahead: 0,
                share: 0,
                save: 0,
                ..*self.schedule
            };
            let mut pass = self.pass(scan, structure.clone(), schedule);
            pass.chunk = Some(self.schedule.save);
            for s in rec.state_ids() {
                let primal = self.backward.primal.state_named(&rec.state(s).name);
                let number = self.sig.inputs.len() as u32 + primal.map_or(0, |s| s.0);
                pass.initial[s.0 as usize] = Some((Role::Input(InputId(number)), compute));
            }
            pass.outputs = vec![(Role::Scratch, compute); rec.outputs.len()];
            match crate::plan::check_pass(&pass, self.options, self.target) {
                Ok(()) => return Ok(pass),
                Err(refusal) => why = refusal,
            }
        }
        Err(why)
    }

    /// Adds up what a stage left in parts.
    fn sums(&mut self, name: &str, reductions: &[Reduction]) -> Result<(), Refusal> {
        let Some(mut partly) = self.partly.remove(name) else {
            return Ok(());
        };
        // The axis that has parts in its place first: other sums know only whole axes.
        let lane = partly.parts.as_ref().map(|(lane, ..)| *lane);
        let mut reductions = reductions.to_vec();
        reductions.sort_by_key(|&r| match r {
            Reduction::Sum(axis) | Reduction::Group { of: axis, .. } => Some(axis) != lane,
        });
        if partly.chunks.is_some() {
            partly = self.sum(name, partly, None, reductions.is_empty())?;
        }
        for (k, &reduction) in reductions.iter().enumerate() {
            let last = k + 1 == reductions.len();
            partly = self.sum(name, partly, Some(reduction), last)?;
        }
        Ok(())
    }

    /// One sum, over chunks if it is not said over what: s' = s + x over the positions that are summed, in place of time.
    fn sum(
        &mut self,
        name: &str,
        partly: Partly,
        reduction: Option<Reduction>,
        last: bool,
    ) -> Result<Partly, Refusal> {
        let (summed, groups) = match reduction {
            None => (None, None),
            Some(Reduction::Sum(axis)) => (Some(axis), None),
            Some(Reduction::Group { of, groups }) => (Some(of), Some(groups)),
        };
        let parts = partly.parts.clone();
        let parts = parts.filter(|(lane, ..)| Some(*lane) == summed);
        let all = match (&parts, &partly.chunks, summed) {
            (Some((_, count, _)), ..) => count.clone(),
            (None, _, Some(axis)) => self.ix(axis),
            (None, Some(chunks), None) => chunks.clone(),
            (None, None, None) => Ix::Const(1),
        };
        let count = match groups {
            Some(groups) => all / self.ix(groups),
            None => all,
        };
        let mut axes = self.sig.axes.clone();
        let mut extents = self.ix.clone();
        let mut new = |name: &str, extent: Ix| {
            axes.push(AxisDecl {
                name: name.to_owned(),
                alias_of: None,
            });
            extents.push(extent);
            AxisId(axes.len() as u8 - 1)
        };
        let time = new("part", count);
        let apart = parts.as_ref().map_or(1, |p| p.2);
        let lane = (apart > 1).then(|| new("lane", Ix::Const(apart)));
        let (mut from, mut to) = (Vec::new(), Vec::new());
        from.extend(summed.is_none().then_some(time));
        for &axis in &partly.axes {
            match (Some(axis) == summed, groups) {
                (true, None) => from.push(time),
                (true, Some(groups)) => {
                    from.extend([groups, time]);
                    to.push(groups);
                }
                (false, _) => {
                    from.push(axis);
                    to.push(axis);
                }
            }
        }
        from.extend(lane);
        if last {
            // The result's own order.
            let output = self.sig.outputs.iter().find(|o| o.name == name);
            let state = self.sig.state_named(name).map(|s| &self.sig.state(s).axes);
            to = output.map(|o| &o.axes).or(state).cloned().unwrap_or(to);
        }
        let mut r = Recurrence {
            name: format!("{}_{name}", self.sig.name),
            doc: vec![],
            axes,
            time,
            inputs: vec![InputDecl {
                name: "x".into(),
                kind: InputKind::Tensor,
                axes: from,
                complex: partly.complex,
                optional: false,
            }],
            states: vec![],
            outputs: vec![],
            graph: selscan_dsl::Graph::new(time),
        };
        let mut x = r.read_input(InputId(0));
        if let Some(axis) = lane {
            x = r.graph.add(Node::Reduce {
                op: ReduceOp::Sum,
                axis,
                x,
            });
        }
        r.states.push(StateDecl {
            name: name.to_owned(),
            axes: to.clone(),
            complex: partly.complex,
            reverse: false,
            hidden: false,
            init: 0.0,
            update: x,
            update_im: None,
        });
        let before = r.read_state(StateId(0), When::Prev);
        r.states[0].update = r.graph.op(Op::Add, &[before, x]);
        let role = match last {
            true => self.result(name, &to, partly.complex),
            false => self.room(&to, partly.complex),
        };
        let scan = Scan::derive(&r);
        let structure = Structure::of(&scan.recurrence);
        self.ix.extend(extents.drain(self.ix.len()..));
        let schedules = self.small(&structure, &[Order::Registers, Order::Stepped]);
        let mut made = Err(Refusal(format!("the sum of {name} has no schedule")));
        for schedule in schedules {
            let mut pass = self.pass(&scan, structure.clone(), schedule);
            pass.inputs = vec![partly.role];
            pass.last = vec![Some(role)];
            made = crate::plan::check_pass(&pass, self.options, self.target).map(|()| pass);
            if made.is_ok() {
                break;
            }
        }
        self.ix.truncate(self.sig.axes.len());
        self.passes.push(made?);
        Ok(Partly {
            role,
            axes: to,
            chunks: None,
            complex: partly.complex,
            parts: partly.parts.filter(|(lane, ..)| Some(*lane) != summed),
        })
    }

    /// Schedules of a pass that is not worth many.
    fn small(&self, structure: &Structure, orders: &[Order]) -> Vec<Schedule> {
        let lanes = match (self.target.gpu.is_some(), structure.lane) {
            (false, Some(_)) => self.target.lanes(self.options.compute),
            _ => 1,
        };
        let of = |&order: &Order| Schedule {
            lanes,
            ..Schedule::plain(order)
        };
        orders.iter().map(of).collect()
    }

    /// What is done once, in one step.
    fn after(&mut self, scan: &Scan) -> Result<(), Refusal> {
        let rec = &scan.recurrence;
        let structure = Structure::of(rec);
        let mut last = Vec::new();
        for state in &rec.states {
            let wanted = self.options.last.contains(&state.name);
            last.push(wanted.then(|| self.result(&state.name, &state.axes, state.complex)));
        }
        let mut made = Err(Refusal(format!("{} has no schedule", rec.name)));
        for schedule in self.small(&structure, &[Order::Registers, Order::Stepped]) {
            let mut pass = self.pass(scan, structure.clone(), schedule);
            pass.extents[rec.time.0 as usize] = Ix::Const(1);
            pass.last.clone_from(&last);
            made = crate::plan::check_pass(&pass, self.options, self.target).map(|()| pass);
            if made.is_ok() {
                break;
            }
        }
        self.passes.push(made?);
        Ok(())
    }

    fn finish(self) -> Result<Plan, Refusal> {
        crate::plan::check_sizes(self.sig, self.extents)?;
        for pass in &self.passes {
            crate::plan::check_pass(pass, self.options, self.target)?;
        }
        Ok(Plan {
            passes: self.passes,
            workspaces: self.workspaces,
            extent_names: self.extent_names,
            multiples: self.multiples,
            wide: self.target.gpu.is_some(),
            extents: self.extents.clone(),
            stack: self.target.gpu.as_ref().map_or(u64::MAX, |gpu| gpu.stack),
            compute: self.options.compute,
            schedule: *self.schedule,
        })
    }
}
