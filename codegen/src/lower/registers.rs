//! `order=registers`: inner axes fully unrolled, states in registers, one loop over time, `unroll` steps a turn.
//! Threads that share an item share out the points of the states.
//!
//! ```text
//! h[·] = initial
//! for t { h[·] = f(h[·], x_t);  y_t = g(h[·], x_t) }
//! last = h[·]
//! ```

use selscan_dsl::{AxisSet, NodeId, When};

use super::builder::{Builder, Slot};
use super::stepped::output;
use crate::loop_ir::{Ix, Reg};

/// A point of a state: its half, its copies, the register that carries it from step to step.
pub(super) type Held = (Slot, Vec<i64>, Reg);

/// The states of an item, in registers.
pub(super) struct Open {
    slots: Vec<(Slot, NodeId)>,
    held: Vec<Held>,
}

/// The states before the first step.
pub(super) fn begin(b: &mut Builder<'_>) -> Open {
    let slots = b.all_slots();
    let held = open(b, &slots);
    Open { slots, held }
}

impl Open {
    /// The steps from `lo` to `hi`; the inner axes are bound.
    pub fn steps(&self, b: &mut Builder<'_>, lo: Ix, hi: Ix) {
        b.open_shared();
        if !b.shared_inputs.is_empty() {
            // Tile by tile, each from what the block copied.
            let tile = i64::from(b.pass.schedule.tile);
            b.begin_shared(&lo, &hi, &lo);
            b.serial("tile", AxisSet::EMPTY, lo, hi.clone(), tile, |b, start| {
                let next = start.clone() + Ix::Const(tile);
                b.fill_shared(&start);
                let end = next.min(hi);
                steps(b, &self.slots, &self.held, start, end);
            });
        } else {
            steps(b, &self.slots, &self.held, lo, hi);
        }
    }

    /// Each value of each state, at its point.
    pub fn each_state(
        &self,
        b: &mut Builder<'_>,
        body: &mut dyn FnMut(&mut Builder<'_>, Slot, Reg),
    ) {
        each_held(b, &self.slots, &self.held, body);
    }
}

/// Stores the states after the last step.
pub(super) fn close(b: &mut Builder<'_>, slots: &[(Slot, NodeId)], held: &[Held]) {
    each_held(b, slots, held, &mut |b, slot, register| {
        b.store_last(slot, register)
    });
}

/// Each value of each state, at its point.
pub(super) fn each_held(
    b: &mut Builder<'_>,
    slots: &[(Slot, NodeId)],
    held: &[Held],
    body: &mut dyn FnMut(&mut Builder<'_>, Slot, Reg),
) {
    let mut registers = held.iter().map(|h| h.2);
    for &(slot, _) in slots {
        let inner = b.state_inner(slot.state);
        b.each_vector(|b| {
            b.each_copy(&inner, &mut |b| {
                if let Some(register) = registers.next() {
                    body(b, slot, register);
                }
            });
        });
    }
}

/// The states before the first step, each point in a register that is carried from step to step.
pub(super) fn open(b: &mut Builder<'_>, slots: &[(Slot, NodeId)]) -> Vec<Held> {
    let mut held = Vec::new();
    for &(slot, _) in slots {
        let state = b.pass.recurrence.state(slot.state);
        let axes: AxisSet = state.axes.iter().copied().collect();
        let inner = b.state_inner(slot.state);
        b.each_vector(|b| {
            b.each_copy(&inner, &mut |b| {
                let register = b.load_initial(slot);
                held.push((slot, b.copy_key(axes), register));
            });
        });
    }
    held
}

/// The steps from `lo` to `hi`, `unroll` a turn.
fn steps(b: &mut Builder<'_>, slots: &[(Slot, NodeId)], held: &[Held], lo: Ix, hi: Ix) {
    let unroll = i64::from(b.pass.schedule.unroll);
    let whole = lo.clone() + (hi.clone() - lo.clone()) / Ix::Const(unroll) * Ix::Const(unroll);
    let rest = if unroll > 1 {
        whole.clone()
    } else {
        lo.clone()
    };
    if unroll > 1 {
        b.each_steps(lo, whole, unroll, |b| step(b, slots, held, outputs));
    }
    b.each_step(rest, hi, |b, _| step(b, slots, held, outputs));
}

/// One step: the states' registers become what they are after it; `reads` is what reads the states of this step.
pub(super) fn step(
    b: &mut Builder<'_>,
    slots: &[(Slot, NodeId)],
    held: &[Held],
    reads: impl FnOnce(&mut Builder<'_>),
) {
    let rec = &b.pass.recurrence;
    for (slot, key, register) in held {
        let before = b.copied(*register);
        b.state_regs
            .insert((*slot, When::Prev, key.clone()), before);
    }
    let mut next = Vec::new();
    for &(slot, update) in slots {
        let axes: AxisSet = rec.state(slot.state).axes.iter().copied().collect();
        let inner = b.state_inner(slot.state);
        b.each_vector(|b| {
            b.each_copy(&inner, &mut |b| {
                let value = b.value(update);
                b.state_regs
                    .insert((slot, When::Next, b.copy_key(axes)), value);
                next.push(value);
            });
        });
    }
    reads(b);
    for ((_, _, register), value) in held.iter().zip(next) {
        b.assign(*register, value);
    }
}

/// Every output of the step.
fn outputs(b: &mut Builder<'_>) {
    if b.silent {
        return;
    }
    for (i, decl) in b.pass.recurrence.outputs.iter().enumerate() {
        let inner: Vec<_> = decl
            .axes
            .iter()
            .copied()
            .filter(|&a| b.pass.structure.inner.contains(a))
            .collect();
        let points = inner.iter().map(|&a| b.known(a)).product();
        if b.is_gathered(i, points) {
            let mut values = Vec::new();
            b.each_copy(&inner, &mut |b| values.push(b.value(decl.value)));
            b.store_gathered(i, values);
        } else {
            b.each_vector(|b| b.each_copy(&inner, &mut |b| output(b, i)));
        }
    }
}
