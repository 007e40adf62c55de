//! `order=tiled`: time cut into tiles; in a tile the inner axes outside and time inside, so that a point of the
//! state stays in a register for the whole tile.
//!
//! ```text
//! invariants;  h[..] = initial
//! for tile {
//!     for t in tile { what reads no state, once for all inner points;  sums[t] = 0 }
//!     for inner axes (unrolled) { h = h[..];  for t in tile { h = a h + b;  sums[t] += c h };  h[..] = h }
//!     for t in tile { outputs from sums[t] }
//! }
//! last = h[..]
//! ```

use selscan_dsl::{AxisSet, Node, NodeId, ReduceOp, When};

use super::builder::Builder;
use super::items::{What, Work, select};
use super::stepped::{is_invariant, nests, open_states, output, place, prologue, run};
use super::values::reduce_identity;
use crate::loop_ir::{Ix, Rhs, Stmt};
use crate::structure::Level;

/// The states of an item, in memory, and the work of a tile by when it is done.
pub(super) struct Open {
    work: Vec<Work>,
    before: Vec<usize>,
    during: Vec<usize>,
    after: Vec<usize>,
}

/// What is the same at every step, and the states before the first.
pub(super) fn begin(b: &mut Builder<'_>) -> Open {
    let work = select(b.pass);
    let tile = i64::from(b.pass.schedule.tile);
    let of = |keep: &dyn Fn(&Work) -> bool| -> Vec<usize> {
        (0..work.len()).filter(|&i| keep(&work[i])).collect()
    };
    let pass = b.pass;
    let late = |w: &Work| match w.what {
        What::Update(s) => pass.structure.late[s.0 as usize],
        _ => false,
    };
    let in_nest = |w: &Work| !late(w) && (matches!(w.what, What::Update(_)) || w.direct);
    let is_output = |w: &Work| matches!(w.what, What::Output(_));
    let fixed = of(&is_invariant);
    let before =
        of(&|w| !is_invariant(w) && !in_nest(w) && !is_output(w) && w.level <= Level::Stream);
    let during = of(&in_nest);
    let after = of(&|w| !in_nest(w) && (is_output(w) || w.level > Level::Stream));

    prologue(b, &work, &fixed);
    open_states(b, &[]);
    for &i in before.iter().chain(&during).chain(&after) {
        place(b, &work[i], Some(tile));
    }
    Open {
        work,
        before,
        during,
        after,
    }
}

impl Open {
    /// The steps from `lo` to `hi`.
    pub fn steps(&self, b: &mut Builder<'_>, lo: Ix, hi: Ix) {
        let Open {
            work,
            before,
            during,
            after,
        } = self;
        let tile = i64::from(b.pass.schedule.tile);
        b.serial("tile", AxisSet::EMPTY, lo, hi.clone(), tile, |b, start| {
            let end = (start.clone() + Ix::Const(tile)).min(hi);
            let sums = reductions(b, work, during);
            if !before.is_empty() || !sums.is_empty() {
                each_local_step(b, &start, &end, |b| {
                    for nest in nests(b, work, before) {
                        run(b, work, &nest);
                    }
                    for &(id, op, _) in &sums {
                        clear(b, id, op);
                    }
                });
            }
            state_nest(b, work, during, &sums, &start, &end);
            if !after.is_empty() {
                each_local_step(b, &start, &end, |b| {
                    for nest in nests(b, work, after) {
                        run(b, work, &nest);
                    }
                });
            }
        });
    }
}

fn each_local_step(b: &mut Builder<'_>, start: &Ix, end: &Ix, body: impl FnOnce(&mut Builder<'_>)) {
    let start_of = start.clone();
    b.each_step(start.clone(), end.clone(), |b, step| {
        b.local = step - start_of;
        body(b);
        b.local = Ix::Const(0);
    });
}

/// The reductions among the work of the state nest: node, operation, operand.
fn reductions(b: &Builder<'_>, work: &[Work], during: &[usize]) -> Vec<(NodeId, ReduceOp, NodeId)> {
    let graph = &b.pass.recurrence.graph;
    let of = |i: &usize| match work[*i].what {
        What::Reduce(id) => match graph.node(id) {
            Node::Reduce { op, x, .. } => Some((id, *op, *x)),
            _ => None,
        },
        _ => None,
    };
    during.iter().filter_map(of).collect()
}

fn clear(b: &mut Builder<'_>, id: NodeId, op: ReduceOp) {
    let pass = b.pass;
    let axes: Vec<_> = pass
        .structure
        .inner_axes(&pass.recurrence, id)
        .iter()
        .collect();
    b.each_point(&axes, 1, &mut |b, at| {
        b.each_unrolled(axes.last().copied(), at, |b| {
            b.each_vector(|b| {
                let zero = b.set(b.ty(), Rhs::Const(reduce_identity(op)));
                super::stepped::store_value(b, id, zero);
            });
        });
    });
}

fn state_nest(
    b: &mut Builder<'_>,
    work: &[Work],
    during: &[usize],
    sums: &[(NodeId, ReduceOp, NodeId)],
    start: &Ix,
    end: &Ix,
) {
    let pass = b.pass;
    let rec = &pass.recurrence;
    let loops: Vec<_> = pass.structure.state_inner.iter().collect();
    let last = loops.last().copied();
    let unroll = i64::from(pass.schedule.unroll);
    let mut slots = b.all_slots();
    slots.retain(|(slot, _)| !pass.structure.late[slot.state.0 as usize]);
    b.each_point(&loops, unroll, &mut |b, at| {
        let mut held = Vec::new();
        for &(slot, update) in &slots {
            let axes: AxisSet = rec.state(slot.state).axes.iter().copied().collect();
            b.each_unrolled(last, at, |b| {
                b.each_vector(|b| {
                    if let Some(stored) = b.state_bufs.get(&(slot, When::Prev)).cloned() {
                        let ix = b.stored_ix(&stored, &[]);
                        let register = b.set(b.ty(), Rhs::Load(stored.buf, ix));
                        held.push((slot, update, b.copy_key(axes), register));
                    }
                });
            });
        }
        each_local_step(b, start, end, |b| {
            for (slot, _, key, register) in &held {
                let before = b.copied(*register);
                b.state_regs
                    .insert((*slot, When::Prev, key.clone()), before);
            }
            let mut next = Vec::new();
            for &(slot, update) in &slots {
                let axes: AxisSet = rec.state(slot.state).axes.iter().copied().collect();
                b.each_unrolled(last, at, |b| {
                    b.each_vector(|b| {
                        let value = b.value(update);
                        b.state_regs
                            .insert((slot, When::Next, b.copy_key(axes)), value);
                        next.push(value);
                    });
                });
            }
            for &(id, op, x) in sums {
                accumulate(b, id, op, x, last, at);
            }
            for &i in during {
                if let What::Output(k) = work[i].what {
                    b.each_unrolled(last, at, |b| b.each_vector(|b| output(b, k)));
                }
            }
            for ((_, _, _, register), value) in held.iter().zip(next) {
                b.assign(*register, value);
            }
        });
        b.state_regs.clear();
        let mut registers = held.iter().map(|h| h.3);
        for &(slot, _) in &slots {
            b.each_unrolled(last, at, |b| {
                b.each_vector(|b| {
                    if let (Some(stored), Some(register)) = (
                        b.state_bufs.get(&(slot, When::Prev)).cloned(),
                        registers.next(),
                    ) {
                        let ix = b.stored_ix(&stored, &[]);
                        b.stmt(Stmt::Store(stored.buf, ix, register));
                    }
                });
            });
        }
    });
}

/// Adds the terms of one turn to a reduction's sum at this step.
fn accumulate(
    b: &mut Builder<'_>,
    id: NodeId,
    op: ReduceOp,
    x: NodeId,
    last: Option<selscan_dsl::AxisId>,
    at: &[Ix],
) {
    let own = b.pass.structure.inner_axes(&b.pass.recurrence, id);
    let stored = b.stored.get(&id).cloned();
    let Some(stored) = stored else { return };
    if last.is_some_and(|axis| own.contains(axis)) {
        // Another axis than the unrolled one is reduced: each copy has a sum of its own.
        b.each_unrolled(last, at, |b| {
            b.each_vector(|b| {
                let term = b.value(x);
                add_to(b, &stored, op, term);
            });
        });
        return;
    }
    b.each_vector(|b| {
        let mut total = None;
        b.each_unrolled(last, at, |b| {
            let term = b.value(x);
            total = Some(total.map_or(term, |t| b.combine(op, t, term)));
        });
        if let Some(term) = total {
            add_to(b, &stored, op, term);
        }
    });
}

fn add_to(
    b: &mut Builder<'_>,
    stored: &super::builder::Stored,
    op: ReduceOp,
    term: crate::loop_ir::Reg,
) {
    let ix = b.stored_ix(stored, &[]);
    let sum = b.set(b.ty(), Rhs::Load(stored.buf, ix.clone()));
    let both = b.combine(op, sum, term);
    b.stmt(Stmt::Store(stored.buf, ix, both));
}
