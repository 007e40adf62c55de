//! The planner of a gradient: passes over time, and where each result lies.
//!
//! In: a [`Backward`], extents, options, a target, a schedule. Out: passes and workspaces; results that are not complete
//! yet are [`Partly`], for [`super::sums`] to add up.

use std::collections::HashMap;

use selscan_dsl::scan::Scan;
use selscan_dsl::{AxisId, Extents, InputId, Recurrence, Reduction, StateDecl, When};

use super::retraced::retraced;
use super::{Backward, Stage};
use crate::dtype::Dtype;
use crate::loop_ir::{Ix, Role};
use crate::lower::blocks;
use crate::options::Options;
use crate::plan::{
    Pass, Plan, Refusal, Replay, Sums, check_pass, check_share, check_sizes, fixed_axes, multiples,
};
use crate::schedule::{Algorithm, Order, Schedule};
use crate::structure::Structure;
use crate::target::Target;

/// States by name, and where they are.
pub(super) type Places = Vec<(String, (Role, Dtype))>;

/// A result that is not complete yet: where it lies.
pub(super) struct Partly {
    pub(super) role: (Role, Dtype),
    pub(super) axes: Vec<AxisId>,
    /// If each chunk of time has its own: how many there are, before the axes.
    pub(super) chunks: Option<Ix>,
    pub(super) complex: bool,
    /// If it has parts in place of the lane axis: which that is, how many parts, and lanes that lie apart.
    pub(super) parts: Option<(AxisId, Ix, i64)>,
}

pub(super) struct Planner<'a> {
    pub(super) backward: &'a Backward,
    pub(super) sig: &'a Recurrence,
    pub(super) extents: &'a Extents,
    pub(super) options: &'a Options,
    pub(super) target: &'a Target,
    pub(super) schedule: &'a Schedule,
    /// By axis of the adjoint.
    pub(super) ix: Vec<Ix>,
    extent_names: Vec<Option<String>>,
    pub(super) multiples: Vec<i64>,
    pub(super) passes: Vec<Pass>,
    /// Sums that come after them: the first of each result, the second, …
    pub(super) rounds: Vec<Vec<Pass>>,
    pub(super) workspaces: Vec<(Dtype, Ix)>,
    /// What passes hand to later ones, by name.
    made: HashMap<String, (Role, Dtype)>,
    pub(super) partly: HashMap<String, Partly>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        backward: &'a Backward,
        (extents, options, target, schedule): (&'a Extents, &'a Options, &'a Target, &'a Schedule),
        structures: &[(Structure, Vec<Structure>)],
    ) -> Self {
        let sig = &backward.adjoint.recurrence;
        let mut fixed = Vec::new();
        for (stage, (own, replays)) in backward.stages.iter().zip(structures) {
            fixed.extend(fixed_axes(&stage.scan.recurrence, own));
            for ((scan, _), structure) in stage.replays.iter().zip(replays) {
                fixed.extend(fixed_axes(&scan.recurrence, structure));
            }
        }
        if let Some(after) = &backward.after {
            let rec = &after.recurrence;
            fixed.extend(fixed_axes(rec, &Structure::of(rec)));
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
            multiples: multiples(sig, lane, extents, target),
            passes: vec![],
            rounds: vec![],
            workspaces: vec![],
            made: HashMap::new(),
            partly: HashMap::new(),
        }
    }

    pub(super) fn ix(&self, axis: AxisId) -> Ix {
        self.ix[axis.0 as usize].clone()
    }

    pub(super) fn workspace(&mut self, len: Ix, complex: bool) -> (Role, Dtype) {
        let dtype = self.options.compute_dtype();
        let number = self.workspaces.len() as u32;
        self.workspaces
            .push((dtype, len * Ix::Const(if complex { 2 } else { 1 })));
        (Role::Workspace(number), dtype)
    }

    /// New memory for a value over `axes`.
    pub(super) fn room(&mut self, axes: &[AxisId], complex: bool) -> (Role, Dtype) {
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
    pub(super) fn result(&mut self, name: &str, axes: &[AxisId], complex: bool) -> (Role, Dtype) {
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

    pub(super) fn pass(&self, rec: &Recurrence, structure: Structure, schedule: Schedule) -> Pass {
        Pass {
            name: rec.name.clone(),
            structure,
            extents: self.ix[..rec.axes.len()].to_vec(),
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
            retraced: 0,
            sums: None,
            reach: 0,
            beside: false,
            recurrence: rec.clone(),
        }
    }

    pub(super) fn stage(
        &mut self,
        stage: &Stage,
        structure: &Structure,
        again: &[Structure],
    ) -> Result<(), Refusal> {
        let adjoint = &stage.scan.recurrence;
        let staged = match self.schedule.order {
            Order::Staged => Some(retraced(stage, structure)?),
            _ => None,
        };
        let rec = staged.as_ref().map_or(adjoint, |(merged, _)| merged);
        let own = staged
            .as_ref()
            .map(|(merged, _)| Structure::like(merged, adjoint, structure));
        let structure = own.as_ref().unwrap_or(structure);
        let mut pass = self.pass(rec, structure.clone(), *self.schedule);
        let starts = match self.schedule.algorithm {
            Algorithm::Sequential => None,
            Algorithm::Chunked { chunk } => {
                pass.chunk = Some(chunk);
                Some(self.starts(stage, structure, chunk)?)
            }
        };
        pass.sums = self.sums_of(rec, structure);
        let added = self.schedule.lanes > 1 && staged.is_none();
        if self.target.gpu.is_some() && added && pass.sums.is_none() {
            return Err(Refusal(format!(
                "{} has no sums over its lanes for threads to add up together; use lanes=1",
                rec.name
            )));
        }
        self.check_groups(pass.sums.as_ref(), structure)?;
        if self.target.gpu.is_some() && self.schedule.block > 1 && pass.sums.is_some() {
            return Err(Refusal(format!(
                "{} has sums over its lanes, of which a block of a GPU leaves one; use block=1",
                rec.name
            )));
        }
        for (k, decl) in rec.outputs.iter().enumerate() {
            let sums = pass.sums.as_ref().filter(|s| s.outputs[k].is_some());
            let axes = sums.and_then(|s| s.outputs[k].as_ref());
            let axes = axes.unwrap_or(&decl.axes);
            let parts = sums.zip(structure.lane);
            let parts = parts.map(|(s, lane)| (lane, s.all.clone(), s.apart));
            let role = self.stage_result(&decl.name, axes, decl.complex, (parts, None));
            pass.outputs.push(role);
        }
        if let Some((_, count)) = staged {
            let of = |s: &StateDecl| self.saved(&s.name);
            pass.saved = rec.states[..count].iter().map(of).collect();
            (pass.retraced, pass.save) = (count, self.schedule.save);
        }
        for s in rec.state_ids().skip(pass.retraced) {
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
        let replays = match pass.retraced {
            0 => &stage.replays[..],
            _ => &[],
        };
        for ((scan, reads), structure) in replays.iter().zip(again) {
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
        if !stage.replays.is_empty() && pass.save == 0 {
            return Err(Refusal(format!(
                "{} reads states; save=STEPS says how many steps are run again at once",
                rec.name
            )));
        }
        self.passes.push(pass);
        Ok(())
    }

    /// Where an output or last state of a stage goes; `parts` says that it has parts in place of an axis, as [`Partly`] does, `chunks` that
    /// every chunk of time has its own.
    fn stage_result(
        &mut self,
        name: &str,
        axes: &[AxisId],
        complex: bool,
        (parts, chunks): (Option<(AxisId, Ix, i64)>, Option<Ix>),
    ) -> (Role, Dtype) {
        if chunks.is_none() && !self.backward.reductions.iter().any(|(n, _)| n == name) {
            return self.result(name, axes, complex);
        }
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
            apart: match self.target.gpu {
                Some(_) => 1,
                None => i64::from(self.schedule.lanes),
            },
        })
    }

    /// A block lies in one group of the lane axis, also where nothing but the sum knows of groups.
    fn check_groups(&self, sums: Option<&Sums>, structure: &Structure) -> Result<(), Refusal> {
        let groups =
            sums.and_then(|sums| sums.groups.eval(&|_| 0, &|a| self.extents.get(a) as i64));
        let (Some(groups), Some(lane)) = (groups, structure.lane) else {
            return Ok(());
        };
        let width = i64::from(self.schedule.lanes * self.schedule.block);
        let group = self.extents.get(lane) as i64 / groups.max(1);
        if groups > 1 && group % width != 0 {
            return Err(Refusal(format!(
                "blocks of {width} do not fit into groups of {group}; use lanes=1 block=1"
            )));
        }
        Ok(())
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
            let mut pass = self.pass(rec, structure.clone(), schedule);
            pass.chunk = Some(self.schedule.save);
            let saved = rec.states.iter().map(|s| Some(self.saved(&s.name)));
            pass.initial = saved.collect();
            pass.outputs = vec![(Role::Scratch, compute); rec.outputs.len()];
            match check_pass(&pass, self.options, self.target) {
                Ok(()) => return Ok(pass),
                Err(refusal) => why = refusal,
            }
        }
        Err(why)
    }

    /// Where the forward run saved a state of the kernel.
    fn saved(&self, name: &str) -> (Role, Dtype) {
        let state = self.backward.primal.state_named(name);
        let number = self.sig.inputs.len() as u32 + state.map_or(0, |s| s.0);
        let dtype = self.options.compute_dtype();
        (Role::Input(InputId(number)), dtype)
    }

    pub(super) fn finish(self) -> Result<Plan, Refusal> {
        check_sizes(self.sig, self.extents)?;
        for pass in &self.passes {
            check_pass(pass, self.options, self.target)?;
            check_share(pass, self.options, self.target, &self.multiples)?;
        }
        Ok(Plan {
            passes: self.passes,
            workspaces: self.workspaces,
            extent_names: self.extent_names,
            multiples: self.multiples,
            wide: self.target.gpu.is_some(),
            extents: self.extents.clone(),
            stack: self.target.gpu.as_ref().map_or(u64::MAX, |gpu| gpu.stack),
            // No threads run steps together.
            common: 0,
            compute: self.options.compute,
            schedule: *self.schedule,
        })
    }
}
