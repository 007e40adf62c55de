//! `order=registers`: inner axes fully unrolled, states in registers, one loop over time.
//!
//! ```text
//! h[·] = initial
//! for t { h[·] = f(h[·], x_t);  y_t = g(h[·], x_t) }
//! last = h[·]
//! ```

use selscan_dsl::{AxisSet, Part, When};

use super::builder::Builder;

pub(super) fn lower(b: &mut Builder<'_>) {
    let pass = b.pass;
    let rec = &pass.recurrence;
    b.block(pass.structure.inner, |b| {
        let slots = b.all_slots();
        let mut held = Vec::new();
        for &(slot, update) in &slots {
            let axes: AxisSet = rec.state(slot.state).axes.iter().copied().collect();
            let inner = b.state_inner(slot.state);
            b.each_vector(|b| {
                b.each_copy(&inner, &mut |b| {
                    let register = b.load_initial(slot);
                    held.push((slot, update, b.copy_key(axes), register));
                });
            });
        }
        let (lo, hi) = b.steps();
        b.each_step(lo, hi, |b, _| {
            for (slot, _, key, register) in &held {
                let before = b.set(b.ty(), copy_of(*register));
                b.state_regs
                    .insert((*slot, When::Prev, key.clone()), before);
            }
            let mut next = Vec::new();
            for &(slot, update) in &slots {
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
            for (i, output) in rec.outputs.iter().enumerate() {
                let inner: Vec<_> = output
                    .axes
                    .iter()
                    .copied()
                    .filter(|&a| pass.structure.inner.contains(a))
                    .collect();
                b.each_vector(|b| {
                    b.each_copy(&inner, &mut |b| {
                        let part = if output.complex { Part::Re } else { Part::Real };
                        for (part, value) in
                            [(part, Some(output.value)), (Part::Im, output.value_im)]
                        {
                            if let Some(value) = value {
                                let register = b.value(value);
                                b.store_output(i, part, register);
                            }
                        }
                    });
                });
            }
            for ((_, _, _, register), value) in held.iter().zip(next) {
                b.assign(*register, value);
            }
        });
        let mut registers = held.iter().map(|h| h.3);
        for &(slot, _) in &slots {
            let inner = b.state_inner(slot.state);
            b.each_vector(|b| {
                b.each_copy(&inner, &mut |b| {
                    if let Some(register) = registers.next() {
                        b.store_last(slot, register);
                    }
                });
            });
        }
    });
}

fn copy_of(register: crate::loop_ir::Reg) -> crate::loop_ir::Rhs {
    crate::loop_ir::Rhs::Op(crate::loop_ir::LoopOp::Copy, vec![register])
}
