//! Loops under construction: over points, copies, vectors and steps. In: a [`Builder`] and a body. Out: the body's
//! statements inside the loop, the loop's axes bound while it runs.

use selscan_dsl::{AxisId, AxisSet};

use super::builder::Builder;
use crate::loop_ir::{Ix, LoopKind};

impl Builder<'_> {
    /// A serial loop; `axes` are the axes that its variable decides.
    pub fn serial<T>(
        &mut self,
        name: &str,
        axes: AxisSet,
        lo: Ix,
        hi: Ix,
        step: i64,
        body: impl FnOnce(&mut Self, Ix) -> T,
    ) -> T {
        let var = self.proc.var(name);
        self.push(axes, Some((var, LoopKind::Serial, lo, hi, step)));
        let out = body(self, Ix::Var(var));
        self.pop();
        out
    }

    /// A frame without a loop: what binds in it is forgotten at its end.
    pub fn block<T>(&mut self, axes: AxisSet, body: impl FnOnce(&mut Self) -> T) -> T {
        self.push(axes, None);
        let out = body(self);
        self.pop();
        out
    }

    /// Runs `body` with `axis` at a position, as the copy of that number.
    pub fn with_axis<T>(
        &mut self,
        axis: AxisId,
        at: Ix,
        copy: i64,
        body: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let i = axis.0 as usize;
        let before = (
            self.at[i].replace(at),
            std::mem::replace(&mut self.copy[i], copy),
        );
        let out = body(self);
        (self.at[i], self.copy[i]) = before;
        out
    }

    /// Runs `body` once for each vector of the block.
    pub fn each_vector(&mut self, mut body: impl FnMut(&mut Self)) {
        match (self.first, self.pass.structure.lane) {
            (Some(_), Some(axis)) if self.vectors > 1 => {
                for k in 0..i64::from(self.vectors) {
                    self.with_axis(axis, self.lane_at(k), k, &mut body);
                }
            }
            _ => body(self),
        }
    }

    fn lane_at(&self, vector: i64) -> Ix {
        let first = self.first.map_or(Ix::Const(0), Ix::Var);
        let lane = self.lane_var.map_or(Ix::Const(0), Ix::Var);
        first + lane + Ix::Const(vector * i64::from(self.lanes))
    }

    /// Runs `body` at every point of known `axes`, unrolled.
    pub fn each_copy(&mut self, axes: &[AxisId], body: &mut dyn FnMut(&mut Self)) {
        match axes.split_first() {
            None => body(self),
            Some((&axis, rest)) => {
                let (own, first) = self.own_points(axis);
                for k in 0..own {
                    let at = first.clone() + Ix::Const(k);
                    self.with_axis(axis, at, k, |b| b.each_copy(rest, body));
                }
            }
        }
    }

    /// Loops over `axes` in order; the last is unrolled by `unroll`, `body` gets the copies of one turn as positions.
    pub fn each_point(
        &mut self,
        axes: &[AxisId],
        unroll: i64,
        body: &mut dyn FnMut(&mut Self, &[Ix]),
    ) {
        match axes {
            [] => body(self, &[]),
            [axis] => self.turns(*axis, self.known(*axis), unroll, body),
            [axis, rest @ ..] => {
                let name = self.pass.recurrence.axis_name(*axis).to_lowercase();
                self.serial(
                    &name,
                    AxisSet::of(*axis),
                    Ix::Const(0),
                    self.extent(*axis),
                    1,
                    |b, at| {
                        b.with_axis(*axis, at, -1, |b| b.each_point(rest, unroll, body));
                    },
                );
            }
        }
    }

    /// Loops over 0..n, unrolled by `unroll`, with `axis` bound: `body` gets the copies of one turn.
    pub fn turns(
        &mut self,
        axis: AxisId,
        n: i64,
        unroll: i64,
        body: &mut dyn FnMut(&mut Self, &[Ix]),
    ) {
        let bound = AxisSet::of(axis);
        let whole = n - n % unroll;
        if whole == unroll {
            let at: Vec<Ix> = (0..whole).map(Ix::Const).collect();
            self.block(bound, |b| body(b, &at));
        } else if whole > 0 {
            let name = self.pass.recurrence.axis_name(axis).to_lowercase();
            let (lo, hi) = (Ix::Const(0), Ix::Const(whole));
            self.serial(&name, bound, lo, hi, unroll, |b, at| {
                let at: Vec<Ix> = (0..unroll).map(|k| at.clone() + Ix::Const(k)).collect();
                body(b, &at);
            });
        }
        if whole < n {
            let at: Vec<Ix> = (whole..n).map(Ix::Const).collect();
            self.block(bound, |b| body(b, &at));
        }
    }

    /// The copies of a turn of [`Builder::each_point`] one after another, each at its position of `axis`.
    pub fn each_unrolled(
        &mut self,
        axis: Option<AxisId>,
        at: &[Ix],
        mut body: impl FnMut(&mut Self),
    ) {
        match axis {
            Some(axis) => {
                for (k, ix) in at.iter().enumerate() {
                    self.with_axis(axis, ix.clone(), k as i64, &mut body);
                }
            }
            None => body(self),
        }
    }

    /// The bounds of this item's time: 0..L, or a chunk of it.
    pub fn own_time(&self) -> (Ix, Ix) {
        let all = self.extent(self.pass.recurrence.time);
        match (&self.chunk, self.pass.chunk) {
            (Some(chunk), Some(n)) => {
                let from = chunk.clone() * Ix::Const(i64::from(n));
                let to = (from.clone() + Ix::Const(i64::from(n))).min(all);
                (from, to)
            }
            _ => (Ix::Const(0), all),
        }
    }

    /// Whether steps are counted from the last moment to the first.
    pub fn runs_back(&self) -> bool {
        self.pass.retraced == 0 && self.pass.recurrence.states.iter().any(|s| s.reverse)
    }

    /// The steps, in running order, of a part of time.
    pub fn steps_of(&self, from: Ix, to: Ix) -> (Ix, Ix) {
        if self.runs_back() {
            let all = self.extent(self.pass.recurrence.time);
            (all.clone() - to, all - from)
        } else {
            (from, to)
        }
    }

    /// The bounds of this item's steps, in running order.
    pub fn steps(&self) -> (Ix, Ix) {
        let (from, to) = self.own_time();
        self.steps_of(from, to)
    }

    /// Where time stands at a step: there, or at its mirror image where states run in reverse.
    pub fn moment(&self, step: Ix) -> Ix {
        let rec = &self.pass.recurrence;
        if self.runs_back() {
            self.extent(rec.time) - step + Ix::Const(-1)
        } else {
            step
        }
    }

    /// A loop over whole groups of steps, each group unrolled.
    pub fn each_steps(&mut self, lo: Ix, hi: Ix, group: i64, mut body: impl FnMut(&mut Self)) {
        let time = self.pass.recurrence.time;
        self.serial("t", AxisSet::of(time), lo, hi, group, |b, first| {
            for k in 0..group {
                let at = b.moment(first.clone() + Ix::Const(k));
                b.with_axis(time, at, k, &mut body);
            }
        });
    }

    /// A loop over steps: time stands at the step, or at its mirror image where states run in reverse.
    pub fn each_step<T>(&mut self, lo: Ix, hi: Ix, body: impl FnOnce(&mut Self, Ix) -> T) -> T {
        let time = self.pass.recurrence.time;
        self.serial("t", AxisSet::of(time), lo, hi, 1, |b, step| {
            let at = b.moment(step.clone());
            b.with_axis(time, at, -1, |b| body(b, step))
        })
    }
}
