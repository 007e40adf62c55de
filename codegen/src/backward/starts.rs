//! What an adjoint starts from where time is cut into chunks that run side by side: its states before each.
//!
//! ```text
//! summaries   each chunk on its own, and a carry over chunks        the first two passes of the time-chunked algorithm
//! saved       all of time by one scan, states saved on the way      where that is faster: on a GPU, channels being few
//! ```
//! In: a [`Planner`], a stage, steps of a chunk. Out: passes, and where the states are.

use selscan_dsl::scan::Scan;
use selscan_dsl::{Recurrence, StateDecl, StateId};

use super::Stage;
use super::planner::{Places, Planner};
use crate::candidates::{gpu_proposals, pass_has_room};
use crate::chunked::{check_saves, passes};
use crate::dtype::Ty;
use crate::loop_ir::Role;
use crate::options::Options;
use crate::plan::{Pass, Refusal, check_pass, check_share};
use crate::schedule::{Algorithm, Order, Schedule};
use crate::structure::Structure;
use crate::target::Target;

impl Planner<'_> {
    /// Passes that find the adjoint states before each chunk of time, on their own: by state, where they are.
    pub(super) fn starts(
        &mut self,
        stage: &Stage,
        structure: &Structure,
        chunk: u32,
    ) -> Result<Places, Refusal> {
        check_saves(chunk, self.schedule.save)?;
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
        let like = (&stage.scan.recurrence, structure);
        let own = Structure::like(rec, like.0, like.1);
        let summaries = |planner: &Self, schedule: Schedule| {
            let mut whole = planner.pass(rec, own.clone(), schedule);
            planner.ends(&mut whole);
            let numbers = (chunk, planner.workspaces.len());
            let (mut made, workspaces) = passes(&core, whole, planner.options, numbers)?;
            // What would run each chunk again knows where it starts.
            let starts = made.pop().map_or(vec![], |rescan| rescan.initial);
            for pass in &made {
                check_pass(pass, planner.options, planner.target)?;
                check_share(pass, planner.options, planner.target, &planner.multiples)?;
            }
            Ok((made, workspaces, starts))
        };
        let names = rec.states.iter().map(|s| s.name.clone());
        let blocks = staged_summaries(self.schedule, self.options).into_iter();
        let mut found = Err(Refusal(format!("{} has no schedule", rec.name)));
        if let Some(made) = blocks.filter_map(|s| summaries(self, s).ok()).next() {
            found = Ok(made);
        } else if let Some(pass) = self.starts_saved(&core, like, chunk) {
            let starts = names.zip(pass.saved.clone()).collect();
            self.passes.push(pass);
            return Ok(starts);
        } else {
            for schedule in summaries_of(self.schedule, self.target) {
                found = summaries(self, schedule);
                if found.is_ok() {
                    break;
                }
            }
        }
        let (made, workspaces, starts) = found?;
        self.workspaces.extend(workspaces);
        self.passes.extend(made);
        Ok(names.zip(starts.into_iter().flatten()).collect())
    }

    /// Where adjoint states start from, and where they end, if the call has these.
    fn ends(&self, pass: &mut Pass) {
        for (k, state) in pass.recurrence.states.iter().enumerate() {
            let name = &state.name;
            if let Some(id) = self.sig.state_named(name) {
                let dtype = self.options.dtype(name);
                let given = self.options.initial.contains(name);
                pass.initial[k] = given.then_some((Role::Initial(id), dtype));
                let wanted = self.options.last.contains(name);
                pass.last[k] = wanted.then_some((Role::Last(id), dtype));
            }
        }
    }

    /// One pass over all of time that saves the adjoint states before each chunk, where a GPU has an order for it that is
    /// faster than summaries of chunks.
    fn starts_saved(
        &mut self,
        core: &Scan,
        (model, structure): (&Recurrence, &Structure),
        chunk: u32,
    ) -> Option<Pass> {
        let gpu = self.target.gpu.as_ref()?;
        let options = Options {
            save: chunk,
            ..self.options.clone()
        };
        let saves = |s: &Schedule| {
            s.algorithm == Algorithm::Sequential
                && matches!(s.order, Order::Scanned | Order::Staged)
        };
        let own = Structure::like(&core.recurrence, model, structure);
        let proposals = gpu_proposals((core, &own), self.extents, &options, gpu);
        for schedule in proposals.into_iter().take_while(saves) {
            let scanned = (schedule.order == Order::Scanned).then(|| core.pairs());
            let pairs = scanned.flatten();
            let rec = pairs.map_or(&core.recurrence, |p| &p.recurrence);
            let own = Structure::like(rec, model, structure);
            let mut pass = self.pass(rec, own, schedule);
            pass.pairs = pairs.map(|p| p.pairs.clone());
            pass.save = chunk;
            self.ends(&mut pass);
            // Memory is set aside for the pass that is taken.
            pass.saved = vec![(Role::Scratch, options.compute_dtype()); rec.states.len()];
            let good = check_pass(&pass, self.options, self.target).is_ok()
                && check_share(&pass, self.options, self.target, &self.multiples).is_ok()
                && pass_has_room(&pass, self.options.compute_dtype());
            if !good {
                continue;
            }
            let chunks = self.ix(rec.time).div_ceil(i64::from(chunk));
            let states = pass.recurrence.states.iter();
            let len = |s: &StateDecl| s.axes.iter().fold(chunks.clone(), |n, &a| n * self.ix(a));
            let rooms: Vec<_> = states.map(|s| (len(s), s.complex)).collect();
            let rooms = rooms
                .into_iter()
                .map(|(len, complex)| self.workspace(len, complex));
            pass.saved = rooms.collect();
            return Some(pass);
        }
        None
    }
}

/// Schedules of the passes that find the adjoint states before chunks that blocks trace back: as many threads a channel.
fn staged_summaries(schedule: &Schedule, options: &Options) -> Vec<Schedule> {
    if schedule.order != Order::Staged {
        return Vec::new();
    }
    let of = |(tile, share): (u32, u32)| Schedule {
        algorithm: schedule.algorithm,
        tile,
        unroll: tile.min(4),
        warp: schedule.warp,
        ahead: schedule.ahead,
        share,
        ..Schedule::plain(Order::Staged)
    };
    // All of a run is unrolled, and an exponential in f64 is a page of code.
    match options.compute {
        Ty::F64 => [(2, 2), (2, 0)].map(of).to_vec(),
        _ => [(8, 2), (4, 2), (8, 0), (4, 0)].map(of).to_vec(),
    }
}

/// The same where a thread, or a vector, has a channel.
fn summaries_of(schedule: &Schedule, target: &Target) -> Vec<Schedule> {
    let own = Schedule {
        save: 0,
        ..*schedule
    };
    match (&target.gpu, schedule.order) {
        (None, _) => vec![own],
        // Nothing here is added up over threads.
        (Some(_), Order::Staged) => {
            let of = |order: Order| Schedule {
                algorithm: schedule.algorithm,
                unroll: if order == Order::Registers { 4 } else { 1 },
                ..Schedule::plain(order)
            };
            // States beyond a few are unrolled by no one.
            let few = schedule.warp <= 8;
            let registers = few.then(|| of(Order::Registers));
            let orders = [Order::Tiled, Order::Stepped].map(of);
            registers.into_iter().chain(orders).collect()
        }
        (Some(_), _) => vec![Schedule { lanes: 1, ..own }],
    }
}
