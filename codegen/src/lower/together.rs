//! The points of a nest, shared out among the threads that run an item together (`order=stepped`, `warp` above 1).
//!
//! ```text
//! parts = the threads of a point: as many as a reduced axis can be shared out to evenly, where points are few
//! for turn {
//!     p = min(turn · warp / parts + thread / parts, points − 1);  r = thread mod parts
//!     for k = r, r + parts, … of the reduced axis { … };  reductions: a butterfly over the parts
//!     stores where p is no other thread's too, of a reduction where r = 0
//! }
//! meet
//! ```
//! Neighbouring parts of a point read neighbouring elements of what is innermost along the reduced axis; values and states lie
//! where all threads of the item see them. In: a [`Builder`] and a body. Out: the body's statements at this thread's points.

use selscan_dsl::{AxisId, AxisSet, ReduceOp};

use super::builder::{Builder, Slot};
use crate::loop_ir::{Buf, Ix, LoopOp, Reg, Rhs, Stmt};

/// Parts of a point where a row of memory is to be read in pieces of 32 bytes or more.
const NEAR: i64 = 8;

/// The most parts: a butterfly is among the threads of a warp.
const MOST: i64 = 32;

/// How points are shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shares {
    points: i64,
    /// Threads of a point.
    parts: i64,
    /// Points of a turn.
    each: i64,
}

impl Shares {
    /// Of `points`, each a loop over `reduced` steps (1: none), among `threads`, a power of two.
    fn of(points: i64, reduced: i64, threads: i64) -> Shares {
        let wanted = (threads / points.max(1)).max(NEAR).min(MOST.min(threads));
        let mut parts = 1;
        while 2 * parts <= wanted && reduced % (2 * parts) == 0 {
            parts *= 2;
        }
        Shares {
            points,
            parts,
            each: threads / parts,
        }
    }

    /// Whether every thread has points of its own at every turn.
    fn is_even(self) -> bool {
        self.points % self.each == 0
    }
}

/// What a thread has of the nest under way.
#[derive(Clone, Debug)]
pub(super) struct Own {
    shares: Shares,
    /// Which of its point's parts.
    part: Ix,
    /// Its point, before it is kept within them.
    point: Ix,
}

impl Builder<'_> {
    /// Whether several threads run an item step by step.
    pub fn is_together(&self) -> bool {
        self.thread.is_some() && self.shared.is_none()
    }

    /// How the points of `axes`, each with a loop over a reduced one, are shared out.
    fn shares(&self, axes: &[AxisId], reduced: Option<AxisId>) -> Shares {
        let points = axes.iter().map(|&a| self.known(a)).product();
        let reduced = reduced.map_or(1, |a| self.known(a));
        Shares::of(points, reduced, i64::from(self.pass.schedule.warp))
    }

    /// Whether no thread reads a point that is another's, other than where it says so.
    pub fn shares_evenly(&self, axes: &[AxisId], reduced: Option<AxisId>) -> bool {
        self.shares(axes, reduced).is_even()
    }

    /// Runs `body` at each of this thread's points of `axes`.
    pub fn each_own_point(
        &mut self,
        axes: &[AxisId],
        reduced: Option<AxisId>,
        body: &mut dyn FnMut(&mut Self),
    ) {
        let shares = self.shares(axes, reduced);
        let Shares {
            points,
            parts,
            each,
        } = shares;
        let thread = self.thread_ix();
        let bound: AxisSet = axes.iter().copied().collect();
        let turns = (points + each - 1) / each;
        let mut turn = |b: &mut Self, first: Ix| {
            let point = first + thread.clone() / Ix::Const(parts);
            b.own = Some(Own {
                shares,
                part: match parts {
                    1 => Ix::Const(0),
                    _ => thread.rest(parts),
                },
                point: point.clone(),
            });
            let within = match shares.is_even() {
                true => point,
                false => point.min(Ix::Const(points - 1)),
            };
            b.at_point(axes, within, body);
            b.own = None;
        };
        if turns > 1 {
            let hi = Ix::Const(turns * each);
            self.serial("turn", bound, Ix::Const(0), hi, each, turn);
        } else {
            self.block(bound, |b| turn(b, Ix::Const(0)));
        }
    }

    /// Runs `body` at the point of that number, the last of `axes` the fastest.
    fn at_point(&mut self, axes: &[AxisId], number: Ix, body: &mut dyn FnMut(&mut Self)) {
        match axes {
            [] => body(self),
            [axis] => self.with_axis(*axis, number, -1, body),
            [outer @ .., axis] => {
                let n = self.known(*axis);
                let at = number.rest(n);
                self.with_axis(*axis, at, -1, |b| {
                    b.at_point(outer, number / Ix::Const(n), body);
                });
            }
        }
    }

    /// Loops over this thread's parts of a reduced axis, unrolled as [`Builder::each_point`] does.
    pub fn each_own_part(
        &mut self,
        axis: AxisId,
        unroll: i64,
        body: &mut dyn FnMut(&mut Self, &[Ix]),
    ) {
        let (parts, part) = match &self.own {
            Some(own) => (own.shares.parts, own.part.clone()),
            None => (1, Ix::Const(0)),
        };
        let turns = self.known(axis) / parts;
        self.turns(axis, turns, unroll, &mut |b, at| {
            let place = |k: &Ix| k.clone() * Ix::Const(parts) + part.clone();
            let at: Vec<Ix> = at.iter().map(place).collect();
            body(b, &at);
        });
    }

    /// A reduction of what the threads of a point have each reduced.
    pub fn of_all_parts(&mut self, op: ReduceOp, mut sum: Reg) -> Reg {
        let mut far = self.own.as_ref().map_or(1, |own| own.shares.parts) / 2;
        while far > 0 {
            let other = Rhs::Op(LoopOp::ShuffleXor(far as u8), vec![sum]);
            let other = self.set(self.ty, other);
            sum = self.combine(op, sum, other);
            far /= 2;
        }
        sum
    }

    /// A store at the present point, by the thread whose it is.
    pub fn put(&mut self, buf: Buf, ix: Ix, value: Reg) {
        let store = self.owned(Stmt::Store(buf, ix, value));
        self.stmt(store);
    }

    /// The same of a reduction, which all threads of its point have.
    pub fn put_reduced(&mut self, buf: Buf, ix: Ix, value: Reg) {
        let store = self.owned(Stmt::Store(buf, ix, value));
        let store = match &self.own {
            Some(own) if own.shares.parts > 1 => only_where(own.part.clone(), 1, store),
            _ => store,
        };
        self.stmt(store);
    }

    /// A statement where the present point is this thread's.
    pub fn owned(&self, stmt: Stmt) -> Stmt {
        match &self.own {
            Some(own) if !own.shares.is_even() => {
                only_where(own.point.clone(), own.shares.points, stmt)
            }
            _ => stmt,
        }
    }

    /// What the threads of the item stored before is there for all of them after.
    pub fn meet(&mut self) {
        if self.is_together() {
            self.stmt(Stmt::Meet);
        }
    }

    /// The points of a state's inner axes, or this thread's.
    pub fn each_state_point(
        &mut self,
        inner: &[AxisId],
        slots: &[Slot],
        body: &mut dyn FnMut(&mut Self, Slot),
    ) {
        if self.is_together() {
            return self.each_own_point(inner, None, &mut |b| {
                slots.iter().for_each(|&slot| body(b, slot));
            });
        }
        self.each_point(inner, 1, &mut |b, at| {
            b.each_unrolled(inner.last().copied(), at, |b| {
                b.each_vector(|b| slots.iter().for_each(|&slot| body(b, slot)));
            });
        });
    }
}

fn only_where(lhs: Ix, below: i64, stmt: Stmt) -> Stmt {
    Stmt::If {
        lhs,
        rhs: Ix::Const(below),
        then: vec![stmt],
        els: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_divide_what_is_reduced() {
        let of = |points, reduced, threads| {
            let s = Shares::of(points, reduced, threads);
            (s.parts, s.each, s.is_even())
        };
        // Points enough: pieces of 8 elements, where they come out even.
        assert_eq!(of(128, 128, 256), (8, 32, true));
        assert_eq!(of(128, 12, 256), (4, 64, true));
        assert_eq!(of(128, 7, 256), (1, 256, false));
        // Few points: as many threads each as a warp has.
        assert_eq!(of(16, 128, 256), (16, 16, true));
        assert_eq!(of(1, 128, 256), (32, 8, false));
        assert_eq!(of(0, 0, 32), (32, 1, true));
        // Nothing is reduced.
        assert_eq!(of(4096, 1, 256), (1, 256, true));
        assert_eq!(of(100, 1, 32), (1, 32, false));
    }
}
