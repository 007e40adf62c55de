//! Sums over the lane axis by a block that traces a chunk back: of values that its threads have, one part a block.
//!
//! ```text
//! part[block][t][·] = Σ over warps of (Σ over the points of a warp of value[t][·])
//! ```
//! In a warp they meet in a butterfly that halves what a lane has left; what warps have meets in memory that they have in
//! common, where after a chunk each thread of the block adds some of it up. In: a [`Builder`] and values, those of a thread's
//! points of the states at a step, or of its run of steps. Out: stores of the parts.

use selscan_dsl::{AxisId, AxisSet, NodeId, Part, ReduceOp};

use super::builder::Builder;
use super::staged::{GAP, Parts, memory};
use crate::ix::gcd;
use crate::loop_ir::{Buf, Ix, LoopKind, Reg, Rhs, Stmt};
use crate::plan::Pass;

/// Elements between the sums of two threads' runs that are left out: runs lie in different banks.
const SHIFT: i64 = 8;

/// A chunk's sizes.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Steps of a chunk, of a part of it, and of a thread's run.
    pub steps: i64,
    pub part: i64,
    pub run: i64,
    /// Points of the lane axis in a block, and threads of each.
    pub channels: i64,
    pub warp: i64,
    /// Warps of a block.
    warps: i64,
}

impl Sizes {
    pub fn of(pass: &Pass) -> Sizes {
        let s = &pass.schedule;
        Sizes {
            steps: i64::from(s.save),
            part: i64::from(s.unroll),
            run: i64::from(s.tile),
            channels: i64::from(s.lanes),
            warp: i64::from(s.warp),
            warps: i64::from(s.threads / 32),
        }
    }

    /// Elements of a value at all steps of a chunk, for one point of the lane axis.
    pub fn row(self) -> i64 {
        self.steps + GAP
    }

    /// Elements of a sum's parts at the steps of a run, for all threads.
    pub fn sums(self) -> i64 {
        self.run * self.channels * self.warp + SHIFT
    }
}

/// The bits of a lane's number that are its thread's.
pub(super) fn near(warp: i64) -> impl Iterator<Item = i64> {
    let own = move |&bit: &i64| bit == 1 || bit < 2 * warp;
    [1, 4, 8, 16].into_iter().filter(own)
}

/// The bits of a lane's number that are its point's within the warp, from the highest.
fn far(warp: i64) -> impl Iterator<Item = i64> {
    let own = move |&bit: &i64| bit == 2 || bit >= 2 * warp;
    [16, 8, 4, 2].into_iter().filter(own)
}

/// Outputs that are gathered alike.
pub(super) struct Gathered {
    sizes: Sizes,
    /// Output, half, its node.
    pub of: Vec<(usize, Part, NodeId)>,
    /// Values of each that a thread has at once.
    each: i64,
    /// How many times it has some in a chunk.
    rows: i64,
    /// [warp][row][thread][output][value].
    memory: Buf,
}

impl Gathered {
    /// Outputs at the points of the states: a thread has those of its points at each step.
    pub fn points(pass: &Pass, parts: &Parts) -> Gathered {
        let sizes = Sizes::of(pass);
        let axis = pass.structure.inner.iter().next();
        let points = match axis.map(|a| &pass.extents[a.0 as usize]) {
            Some(Ix::Const(n)) => *n,
            _ => 0,
        };
        Gathered {
            sizes,
            of: parts.outputs.clone(),
            each: points / sizes.warp,
            rows: sizes.steps,
            memory: Buf(0),
        }
    }

    /// Outputs of one value a step: a thread has those of its run.
    pub fn runs(pass: &Pass, parts: &Parts) -> Gathered {
        let sizes = Sizes::of(pass);
        Gathered {
            sizes,
            of: parts.runs.clone(),
            each: sizes.run,
            rows: 1,
            memory: Buf(0),
        }
    }

    /// Values of a thread at once.
    fn values(&self) -> i64 {
        self.each * self.of.len() as i64
    }

    /// Elements of what warps have.
    pub fn elements(&self) -> i64 {
        self.sizes.warps * self.rows * self.sizes.warp * self.values()
    }

    /// The same with memory, if there is any such output.
    pub fn open(mut self, b: &mut Builder<'_>, name: &str) -> Gathered {
        if !self.of.is_empty() {
            self.memory = memory(b, name.to_owned(), self.elements());
        }
        self
    }

    /// Adds values, output by output, up over the points of a warp: each exchange halves what a lane has left, while that
    /// can be halved.
    pub fn gather(&self, b: &mut Builder<'_>, mut values: Vec<Reg>, row: &Ix) {
        let Some(lane) = b.lane_var.filter(|_| !values.is_empty()) else {
            return;
        };
        let bit_of = |bit: i64| (Ix::Var(lane) / Ix::Const(bit)).rest(2);
        // Which value is this lane's first; where lanes have the same ones, the first of them stores.
        let (mut own, mut alike) = (Ix::Const(0), Ix::Const(0));
        for bit in far(self.sizes.warp) {
            if !values.len().is_multiple_of(2) {
                values = values
                    .iter()
                    .map(|&x| b.exchanged(ReduceOp::Sum, x, bit as u32))
                    .collect();
                alike = alike + bit_of(bit);
                continue;
            }
            own = own + bit_of(bit) * Ix::Const(values.len() as i64 / 2);
            values = b.halved(&values, (lane, bit as u32));
        }
        let warp = Ix::Var(lane) / Ix::Const(32) * Ix::Const(self.rows);
        let row = (warp + row.clone()) * Ix::Const(self.sizes.warp) + b.thread_ix();
        let ix = row * Ix::Const(self.values()) + own;
        let store =
            |(k, &x): (usize, &Reg)| Stmt::Store(self.memory, ix.clone() + Ix::Const(k as i64), x);
        let stores = values.iter().enumerate().map(store).collect();
        match alike {
            Ix::Const(0) => b.extend(stores),
            alike => b.stmt(Stmt::If {
                lhs: alike,
                rhs: Ix::Const(1),
                then: stores,
                els: vec![],
            }),
        }
    }

    /// Adds up what the warps have of a chunk that begins at `start` and ends where time does if that is at `end`; values are
    /// those of points of `axis`, if not of steps.
    pub fn add_up(&self, b: &mut Builder<'_>, chunk: (&Ix, Option<&Ix>), axis: Option<AxisId>) {
        for k in 0..self.of.len() {
            self.add_up_one(b, chunk, axis, k);
        }
    }

    fn add_up_one(
        &self,
        b: &mut Builder<'_>,
        (start, end): (&Ix, Option<&Ix>),
        axis: Option<AxisId>,
        k: usize,
    ) {
        let (output, part, _) = self.of[k];
        let time = b.pass.recurrence.time;
        let points = self.each * self.sizes.warp;
        // Steps may end with any of them.
        let unit = match (axis, end) {
            (None, Some(_)) => 1,
            _ => gcd(self.each, 4),
        };
        let turn = b.proc.var("i");
        let row = Ix::Var(turn) / Ix::Const(points / unit);
        let point = Ix::Var(turn).rest(points / unit) * Ix::Const(unit);
        let thread = point.clone() / Ix::Const(self.each);
        let within = point.rest(self.each);
        let place = |warp: i64| {
            let row = (row.clone() + Ix::Const(warp * self.rows)) * Ix::Const(self.sizes.warp);
            let first = (row + thread.clone()) * Ix::Const(self.values()) + within.clone();
            first + Ix::Const(k as i64 * self.each)
        };
        let moment = start.clone()
            + match axis {
                Some(_) => row.clone(),
                None => point.clone(),
            };
        let body = |b: &mut Builder<'_>| {
            let mut sums: Vec<Option<Reg>> = vec![None; unit as usize];
            for warp in 0..self.sizes.warps {
                let ix = place(warp);
                let load = |b: &mut Builder<'_>, j: i64| {
                    b.set(b.ty(), Rhs::Load(self.memory, ix.clone() + Ix::Const(j)))
                };
                let parts: Vec<Reg> = (0..unit).map(|j| load(b, j)).collect();
                for (sum, x) in sums.iter_mut().zip(parts) {
                    *sum = Some(match *sum {
                        None => x,
                        Some(sum) => b.combine(ReduceOp::Sum, sum, x),
                    });
                }
            }
            for (j, sum) in (0..).zip(sums.into_iter().flatten()) {
                let (at, further) = match axis {
                    Some(_) => (moment.clone(), j),
                    None => (moment.clone() + Ix::Const(j), 0),
                };
                b.with_axis(time, at, -1, |b| {
                    let store = |b: &mut Builder<'_>| {
                        let ix = b.part_ix(output, part, Ix::Const(0));
                        b.stmt(Stmt::Store(b.outputs[output], ix, sum));
                    };
                    match axis {
                        Some(axis) => {
                            b.with_axis(axis, point.clone() + Ix::Const(further), -1, store);
                        }
                        None => store(b),
                    }
                });
            }
        };
        let hi = Ix::Const(self.rows * points / unit);
        let head = (turn, LoopKind::Team, Ix::Const(0), hi, 1);
        let axes = axis.map_or(AxisSet::EMPTY, AxisSet::of).with(time);
        b.push(axes, Some(head));
        match end {
            None => body(b),
            Some(end) => b.choice(moment.clone(), end.clone(), body, |_| {}),
        }
        b.pop();
    }
}
