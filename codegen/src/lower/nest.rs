//! The loops of one item over time: states opened, steps run, states closed; in chunks of time where they are saved or had
//! back on the way.
//!
//! ```text
//! all of time        open; steps 0..L; close
//! a chunk of windows open; the steps before it, without outputs; its steps; close
//! states saved       open; for chunk { save; its steps }; close
//! gradients          open; for chunk, from the last { run it again from what was saved; its steps }; close
//! ```
//! Orders `scanned` and `staged` save on the way, for their tiles are loops of their own.
//! In: a [`Builder`] whose item has begun, a pass. Out: the item's statements.

use super::builder::{Builder, Slot};
use super::{registers, scanned, staged, stepped, tiled};
use crate::loop_ir::{Ix, Reg};
use crate::schedule::Order;

/// An item whose states are open.
enum Nest {
    Registers(registers::Open),
    Tiled(tiled::Open),
    Stepped(stepped::Open),
}

/// The loops of the builder's pass.
pub(super) fn nest(b: &mut Builder<'_>) {
    match b.pass.schedule.order {
        Order::Scanned => return scanned::lower(b),
        Order::Staged => return staged::lower(b),
        Order::Registers | Order::Tiled | Order::Stepped => {}
    }
    within(b, |b| {
        let nest = open(b);
        let pass = b.pass;
        if pass.save > 0 {
            b.each_chunk(pass.save, |b, chunk| {
                if !pass.saved.is_empty() {
                    nest.each_state(b, &mut |b, slot, value| b.save(slot, &chunk.number, value));
                }
                b.replayed(&chunk, |b| {
                    let (lo, hi) = b.steps_of(chunk.from.clone(), chunk.to.clone());
                    nest.steps(b, lo, hi);
                });
            });
        } else {
            let (lo, hi) = b.steps();
            if pass.reach > 0 {
                b.silent = true;
                let early = lo.clone().min(Ix::Const(i64::from(pass.reach)));
                nest.steps(b, lo.clone() - early, lo.clone());
                b.silent = false;
            }
            nest.steps(b, lo, hi);
        }
        nest.each_state(b, &mut |b, slot, value| {
            if b.wants_last(slot.state) {
                b.store_last(slot, value);
            }
        });
    });
}

/// Runs a chunk of the builder's pass again, and keeps the states of each step.
pub(super) fn again(b: &mut Builder<'_>, lo: Ix, hi: Ix, first: &Ix) {
    within(b, |b| {
        let nest = open(b);
        nest.each_state(b, &mut |b, slot, value| b.keep_first(slot, first, value));
        nest.steps(b, lo, hi);
    });
}

/// Unrolled inner axes stand in a frame of their own.
fn within(b: &mut Builder<'_>, body: impl FnOnce(&mut Builder<'_>)) {
    match b.pass.schedule.order {
        Order::Registers => {
            let inner = b.pass.structure.inner;
            b.block(inner, body);
        }
        _ => body(b),
    }
}

fn open(b: &mut Builder<'_>) -> Nest {
    match b.pass.schedule.order {
        Order::Registers => Nest::Registers(registers::begin(b)),
        Order::Tiled => Nest::Tiled(tiled::begin(b)),
        Order::Stepped | Order::Scanned | Order::Staged => Nest::Stepped(stepped::begin(b)),
    }
}

impl Nest {
    fn steps(&self, b: &mut Builder<'_>, lo: Ix, hi: Ix) {
        match self {
            Nest::Registers(open) => open.steps(b, lo, hi),
            Nest::Tiled(open) => open.steps(b, lo, hi),
            Nest::Stepped(open) => open.steps(b, lo, hi),
        }
    }

    fn each_state(&self, b: &mut Builder<'_>, body: &mut dyn FnMut(&mut Builder<'_>, Slot, Reg)) {
        match self {
            Nest::Registers(open) => open.each_state(b, body),
            Nest::Tiled(_) | Nest::Stepped(_) => {
                for state in b.pass.recurrence.state_ids() {
                    stepped::each_value(b, state, body);
                }
            }
        }
    }
}
