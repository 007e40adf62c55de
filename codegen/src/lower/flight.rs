//! Points of the inner axis under way at once in order=scanned: while one's runs are scanned, which is a chain of
//! shuffles that wait for one another, the runs of the next are made, and those of the one before run again.
//!
//! In: a [`Turn`] and the axis. Out: a loop with `unroll` = U points a turn, each of which finishes point n, scans n + U - 2
//! (n where U is 2) and begins n + U - 1; before it and after it, the points that fill and empty these stages.

use std::collections::VecDeque;

use selscan_dsl::{AxisId, AxisSet};

use super::builder::Builder;
use super::number::{Num, assign, variable};
use super::scanned::{Chain, Turn, begin, finish, scan};
use crate::loop_ir::Ix;

/// Whether several points are to be under way, and there are enough of them for a loop.
pub(super) fn fits(b: &Builder<'_>, axis: AxisId) -> bool {
    b.pass.schedule.several_under_way() && b.known(axis) >= 2 * i64::from(b.pass.schedule.unroll)
}

pub(super) fn each_point(b: &mut Builder<'_>, turn: &Turn<'_>, axis: AxisId) {
    let (all, flight) = (b.known(axis), i64::from(b.pass.schedule.unroll));
    let points = Points {
        turn,
        axis,
        all,
        begins: flight - 1,
        scans: (flight - 2).max(0),
    };
    let mut ring = VecDeque::new();
    b.block(AxisSet::of(axis), |b| {
        for k in 0..points.begins {
            points.begin(b, &mut ring, Ix::Const(k), k);
        }
        for k in 0..points.scans {
            points.scan(b, &mut ring, k);
        }
    });
    // A turn finds in the same registers what the one before left.
    for number in numbers(&mut ring) {
        *number = variable(b, *number, *number);
    }
    let steady = all - points.begins;
    let whole = steady - steady % flight;
    let name = b.pass.recurrence.axis_name(axis).to_lowercase();
    let (lo, hi) = (Ix::Const(0), Ix::Const(whole));
    b.serial(&name, AxisSet::of(axis), lo, hi, flight, |b, first| {
        let mut now = ring.clone();
        for k in 0..flight {
            points.step(b, &mut now, &first, k);
        }
        let left: Vec<_> = numbers(&mut now).into_iter().map(|n| *n).collect();
        for (to, from) in numbers(&mut ring).into_iter().zip(left) {
            assign(b, *to, from);
        }
    });
    b.block(AxisSet::of(axis), |b| {
        for k in 0..all - whole {
            points.step(b, &mut ring, &Ix::Const(whole), k);
        }
    });
}

fn numbers(ring: &mut VecDeque<Vec<Chain>>) -> Vec<&mut Num> {
    let chains = ring.iter_mut().flatten();
    chains.flat_map(Chain::numbers).collect()
}

struct Points<'a> {
    turn: &'a Turn<'a>,
    axis: AxisId,
    all: i64,
    /// How far ahead of the point that is finished one is begun, and scanned.
    begins: i64,
    scans: i64,
}

impl Points<'_> {
    /// Finishes the point `k` after `first`, and takes later ones a stage on.
    fn step(&self, b: &mut Builder<'_>, ring: &mut VecDeque<Vec<Chain>>, first: &Ix, k: i64) {
        let at = |k: i64| first.clone() + Ix::Const(k);
        let there = |k: i64| match first {
            Ix::Const(first) => first + k < self.all,
            _ => true,
        };
        if there(k + self.begins) {
            self.begin(b, ring, at(k + self.begins), k + self.begins);
        }
        if there(k + self.scans) {
            self.scan(b, ring, self.scans);
        }
        if let Some(chains) = ring.pop_front() {
            b.with_axis(self.axis, at(k), k, |b| finish(b, self.turn, &chains));
        }
    }

    fn begin(&self, b: &mut Builder<'_>, ring: &mut VecDeque<Vec<Chain>>, at: Ix, copy: i64) {
        let chains = b.with_axis(self.axis, at, copy, |b| begin(b, self.turn));
        ring.push_back(chains);
    }

    fn scan(&self, b: &mut Builder<'_>, ring: &mut VecDeque<Vec<Chain>>, place: i64) {
        if let Some(chains) = ring.get_mut(place as usize) {
            scan(b, self.turn, chains);
        }
    }
}
