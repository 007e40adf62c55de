//! The points of a nest, shared out among the threads that run an item together (`order=stepped`, `warp` above 1).
//!
//! ```text
//! parts = the threads of a point: as many as a reduced axis can be shared out to evenly, where points are few
//! for turn {
//!     p = min(turn · warp / parts + thread / parts, points − 1);  r = thread mod parts
//!     for k = unroll · r, unroll · (r + parts), … of the reduced axis { … };  reductions: a butterfly over the parts
//!     stores where p is no other thread's too, of a reduction where r = 0
//! }
//! meet
//! ```
//! So neighbouring threads read neighbours of what is innermost along the reduced axis; where that is another axis, they have
//! neighbouring points (parts are 32 / parts threads apart). Values and states lie where all threads of the item see them.
//! In: a [`Builder`] and a body. Out: the body's statements at this thread's points.

use selscan_dsl::{AxisId, AxisSet, ReduceOp};

use super::builder::{Builder, Slot};
use crate::ix::gcd;
use crate::loop_ir::{Buf, Ix, Reg, Stmt};

/// Parts of a point where a long row of memory is to be read in pieces of 32 bytes or more.
const NEAR: i64 = 8;

/// Elements of a long row.
const LONG: i64 = 32;

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
    /// Threads from one part of a point to the next.
    apart: i64,
}

/// A loop over an axis that is reduced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reduced {
    pub axis: AxisId,
    /// Whether what is read lies innermost along it.
    pub innermost: bool,
}

impl Shares {
    /// Of `points`, each a loop over so many `reduced` elements (and whether they are neighbours), among `threads`, a power of
    /// two.
    fn of(points: i64, reduced: Option<(i64, bool)>, threads: i64) -> Shares {
        let (reduced, innermost) = reduced.unwrap_or((1, true));
        let least = if innermost && reduced >= LONG {
            NEAR
        } else {
            1
        };
        let wanted = (threads / points.max(1)).max(least).min(MOST.min(threads));
        let mut parts = 1;
        while 2 * parts <= wanted && reduced % (2 * parts) == 0 {
            parts *= 2;
        }
        Shares {
            points,
            parts,
            each: threads / parts,
            apart: if innermost {
                1
            } else {
                MOST.min(threads) / parts
            },
        }
    }

    /// The part and the point, of those of a turn, that a thread has.
    fn place(self, thread: &Ix) -> (Ix, Ix) {
        let (parts, apart) = (self.parts, self.apart);
        if parts == 1 {
            return (Ix::Const(0), thread.clone());
        }
        let part = (thread.clone() / Ix::Const(apart)).rest(parts);
        let point = match apart {
            1 => thread.clone() / Ix::Const(parts),
            _ => thread.clone() / Ix::Const(parts * apart) * Ix::Const(apart) + thread.rest(apart),
        };
        (part, point)
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
    fn shares(&self, axes: &[AxisId], reduced: Option<Reduced>) -> Shares {
        let points = axes.iter().map(|&a| self.known(a)).product();
        let reduced = reduced.map(|r| (self.known(r.axis), r.innermost));
        Shares::of(points, reduced, i64::from(self.pass.schedule.warp))
    }

    /// Whether no thread reads a point that is another's, other than where it says so.
    pub fn shares_evenly(&self, axes: &[AxisId], reduced: Option<Reduced>) -> bool {
        self.shares(axes, reduced).is_even()
    }

    /// Runs `body` at each of this thread's points of `axes`.
    pub fn each_own_point(
        &mut self,
        axes: &[AxisId],
        reduced: Option<Reduced>,
        body: &mut dyn FnMut(&mut Self),
    ) {
        let shares = self.shares(axes, reduced);
        let Shares { points, each, .. } = shares;
        let (part, own) = shares.place(&self.thread_ix());
        let bound: AxisSet = axes.iter().copied().collect();
        let turns = (points + each - 1) / each;
        let mut turn = |b: &mut Self, first: Ix| {
            let point = first + own.clone();
            b.own = Some(Own {
                shares,
                part: part.clone(),
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

    /// Loops over an axis, or over this thread's parts of it, unrolled as [`Builder::each_point`] does.
    pub fn each_own_part(
        &mut self,
        axis: AxisId,
        unroll: i64,
        body: &mut dyn FnMut(&mut Self, &[Ix]),
    ) {
        let Some(Own { shares, part, .. }) = self.own.clone() else {
            return self.turns(axis, self.known(axis), unroll, body);
        };
        let turns = self.known(axis) / shares.parts;
        // All turns are alike: what is updated in place is loaded before, and stored after, all that a turn has of it.
        let unroll = gcd(turns, unroll);
        // Neighbours are loaded as one.
        let near = if shares.apart == 1 { unroll } else { 1 };
        self.turns(axis, turns, unroll, &mut |b, at| {
            let mut own = Vec::with_capacity(at.len());
            for (k, at) in at.iter().enumerate() {
                let k = k as i64 % near;
                let first = (at.clone() + Ix::Const(-k)) * Ix::Const(shares.parts);
                own.push(first + part.clone() * Ix::Const(near) + Ix::Const(k));
            }
            body(b, &own);
        });
    }

    /// A reduction of what the threads of a point have each reduced.
    pub fn of_all_parts(&mut self, op: ReduceOp, mut sum: Reg) -> Reg {
        let Some(Own { shares, .. }) = self.own else {
            return sum;
        };
        let mut far = shares.parts / 2;
        while far > 0 {
            sum = self.exchanged(op, sum, (far * shares.apart) as u32);
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

/// A statement where an index is below a number.
pub(super) fn only_where(lhs: Ix, below: i64, stmt: Stmt) -> Stmt {
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
        let row = |n| Some((n, true));
        // Points enough: pieces of 8 elements, where they come out even.
        assert_eq!(of(128, row(128), 256), (8, 32, true));
        assert_eq!(of(128, row(36), 256), (4, 64, true));
        assert_eq!(of(128, row(37), 256), (1, 256, false));
        // Short sums, and those of no neighbours, are a thread's own.
        assert_eq!(of(4096, row(4), 256), (1, 256, true));
        assert_eq!(of(256, Some((128, false)), 256), (1, 256, true));
        // Few points: as many threads each as a warp has.
        assert_eq!(of(16, row(128), 256), (16, 16, true));
        assert_eq!(of(64, Some((128, false)), 256), (4, 64, true));
        assert_eq!(of(1, row(128), 256), (32, 8, false));
        assert_eq!(of(0, row(0), 32), (32, 1, true));
        // Nothing is reduced.
        assert_eq!(of(4096, None, 256), (1, 256, true));
        assert_eq!(of(100, None, 32), (1, 32, false));
    }

    #[test]
    fn every_thread_has_a_place() {
        for innermost in [true, false] {
            let s = Shares::of(16, Some((128, innermost)), 64);
            let at = |ix: &Ix| ix.eval(&|_| 0, &|_| 0).unwrap_or(-1);
            let of = |k: i64| {
                let (part, point) = s.place(&Ix::Const(k));
                (at(&part), at(&point))
            };
            let mut all: Vec<(i64, i64)> = (0..64).map(of).collect();
            assert_eq!(of(1), if innermost { (1, 0) } else { (0, 1) });
            // The parts of a point are threads of one warp.
            for (k, (_, point)) in all.iter().enumerate() {
                assert_eq!(point / (32 / s.parts), k as i64 / 32);
            }
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 64);
        }
    }
}
