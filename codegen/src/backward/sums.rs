//! What comes after an adjoint's last step: sums over what ran in parallel, and what is the same at every step.
//!
//! ```text
//! s' = s + x[p]        over the positions p that are summed, in place of time: batch, channels, parts, chunks
//! ```
//! In: a [`Planner`] whose stages are planned. Out: a small pass for each sum, in a fixed order, and one of a single step.

use selscan_dsl::scan::Scan;
use selscan_dsl::{
    AxisDecl, AxisId, Graph, InputDecl, InputId, InputKind, Node, Op, Recurrence, ReduceOp,
    Reduction, StateDecl, StateId, When,
};

use super::planner::{Partly, Planner};
use crate::loop_ir::Ix;
use crate::plan::{Pass, Refusal, check_pass};
use crate::schedule::{Order, Schedule};
use crate::structure::Structure;

impl Planner<'_> {
    /// Adds up what a stage left in parts.
    pub(super) fn sums(&mut self, name: &str, reductions: &[Reduction]) -> Result<(), Refusal> {
        let Some(mut partly) = self.partly.remove(name) else {
            return Ok(());
        };
        // The axis that has parts in its place first: other sums know only whole axes.
        let lane = partly.parts.as_ref().map(|(lane, ..)| *lane);
        let mut reductions = reductions.to_vec();
        reductions.sort_by_key(|&r| match r {
            Reduction::Sum(axis) | Reduction::Group { of: axis, .. } => Some(axis) != lane,
        });
        // What is summed first, second, … of each result: those know nothing of one another.
        let mut round = 0;
        if let Some(chunks) = &partly.chunks {
            // An axis before the others in memory is summed with the chunks, as if there were more of them.
            let before = partly.axes.first().copied();
            if let Some(k) = reductions
                .iter()
                .position(|&r| Some(r) == before.map(Reduction::Sum))
                && partly.parts.as_ref().map(|(lane, ..)| *lane) != before
                && let Some(axis) = before
            {
                partly.chunks = Some(chunks.clone() * self.ix(axis));
                partly.axes.remove(0);
                reductions.remove(k);
            }
            partly = self.sum(name, partly, None, (reductions.is_empty(), round))?;
            round += 1;
        }
        for (k, &reduction) in reductions.iter().enumerate() {
            let last = k + 1 == reductions.len();
            partly = self.sum(name, partly, Some(reduction), (last, round + k))?;
        }
        Ok(())
    }

    /// One sum, over chunks if it is not said over what: s' = s + x over the positions that are summed, in place of time.
    fn sum(
        &mut self,
        name: &str,
        partly: Partly,
        reduction: Option<Reduction>,
        (last, round): (bool, usize),
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
            graph: Graph::new(time),
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
        self.ix.extend(extents.drain(self.ix.len()..));
        let made = self.small(&Scan::derive(&r), |pass| {
            pass.inputs = vec![partly.role];
            pass.last = vec![Some(role)];
        });
        self.ix.truncate(self.sig.axes.len());
        if self.rounds.len() <= round {
            self.rounds.resize_with(round + 1, Vec::new);
        }
        self.rounds[round].push(made?);
        Ok(Partly {
            role,
            axes: to,
            chunks: None,
            complex: partly.complex,
            parts: partly.parts.filter(|(lane, ..)| Some(*lane) != summed),
        })
    }

    /// Puts the sums after what was planned before: on a GPU, those of a round that a thread an item does are one launch.
    pub(super) fn end_rounds(&mut self) {
        for mut round in std::mem::take(&mut self.rounds) {
            round.sort_by_key(|pass| !is_simple(pass));
            for pass in round.iter_mut().skip(1) {
                pass.beside = self.target.gpu.is_some() && is_simple(pass);
            }
            self.passes.extend(round);
        }
    }

    /// A pass by the first of the few schedules that it is worth; `finish` says where its tensors lie.
    fn small(&self, scan: &Scan, finish: impl Fn(&mut Pass)) -> Result<Pass, Refusal> {
        let structure = Structure::of(&scan.recurrence);
        let whole = match (self.target.gpu.is_some(), structure.lane) {
            (false, Some(_)) => self.target.lanes(self.options.compute),
            _ => 1,
        };
        // Groups that do not hold whole vectors take single points.
        let widths: &[u32] = if whole > 1 { &[whole, 1] } else { &[1] };
        let mut made = Err(Refusal(format!("{} has no schedule", scan.recurrence.name)));
        for &lanes in widths {
            for order in [Order::Registers, Order::Stepped] {
                let schedule = Schedule {
                    lanes,
                    ..Schedule::plain(order)
                };
                let mut pass = self.pass(&scan.recurrence, structure.clone(), schedule);
                finish(&mut pass);
                if self.target.gpu.is_some() {
                    // Loads of several positions at once.
                    let time = &pass.extents[scan.recurrence.time.0 as usize];
                    let count = time.eval(&|_| 0, &|a| self.extents.get(a) as i64);
                    let most = [32, 16, 8, 4, 2].into_iter();
                    let unroll = most.filter(|&n| i64::from(n) <= count.unwrap_or(1)).max();
                    pass.schedule.unroll = unroll.unwrap_or(1);
                }
                made = check_pass(&pass, self.options, self.target).map(|()| pass);
                if made.is_ok() {
                    return made;
                }
            }
        }
        made
    }

    /// What is done once, in one step.
    pub(super) fn after(&mut self, scan: &Scan) -> Result<(), Refusal> {
        let rec = &scan.recurrence;
        let mut last = Vec::new();
        for state in &rec.states {
            let wanted = self.options.last.contains(&state.name);
            last.push(wanted.then(|| self.result(&state.name, &state.axes, state.complex)));
        }
        let made = self.small(scan, |pass| {
            pass.extents[rec.time.0 as usize] = Ix::Const(1);
            pass.last.clone_from(&last);
        })?;
        self.passes.push(made);
        Ok(())
    }
}

/// Whether a thread does an item on its own.
fn is_simple(pass: &Pass) -> bool {
    let s = &pass.schedule;
    s.order == Order::Registers && s.lanes == 1 && s.warp == 1
}
