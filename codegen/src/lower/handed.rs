//! What the lanes of an item have in common in order=scanned with several points under way (lower/flight.rs): what is the
//! same at every step, and the states, which they hand on from tile to tile: every lane wants the state before the tile, the
//! last one has the state after it. (As copies in each thread's own memory states cost such a kernel a tenth of its time:
//! measured, sm_90.)
//!
//! In: a pass whose blocks share inputs, and so are full. Out: of each state two buffers, the one read in a tile and the one
//! written, which lanes that meet before and after make one, each a few points:
//!
//! ```text
//! next[..] = initial;  v[..] = …
//! for tile { meet;  h[..] = next[..];  meet;  … read v[·], h[·] … the last lane: next[·] = … }
//! meet;  h[..] = next[..];  meet;  last = h[..]
//! ```

use std::collections::BTreeSet;

use selscan_dsl::{AxisId, AxisSet, NodeId, When};

use super::builder::{Builder, Stored};
use super::shared::tile_bytes;
use super::stepped::open_states;
use crate::dtype::Dtype;
use crate::loop_ir::{Ix, Rhs, Role, Stmt};
use crate::plan::{Pass, points};
use crate::structure::Level;

/// What is the same at every step and not at every point, where it is read by what is not the same.
fn invariants(pass: &Pass) -> BTreeSet<NodeId> {
    let (rec, structure) = (&pass.recurrence, &pass.structure);
    let graph = &rec.graph;
    let fixed = |id: NodeId| {
        let inner = structure.inner_axes(rec, id);
        structure.level(id) == Level::Invariant && !inner.is_empty()
    };
    let moving = graph.reachable(&rec.roots()).into_iter();
    let moving = moving.filter(|&id| structure.level(id) > Level::Invariant);
    let read = moving.flat_map(|id| graph.node(id).operands());
    read.filter(|&id| fixed(id)).collect()
}

/// The bytes that a block has for it; 0 where its lanes have nothing so.
pub(super) fn bytes(pass: &Pass, compute: Dtype) -> u64 {
    let s = &pass.schedule;
    if !s.several_under_way() || s.share == 0 || tile_bytes(pass, compute) == 0 {
        return 0;
    }
    let rec = &pass.recurrence;
    let points = |axes: AxisSet| points(pass, axes.intersect(pass.structure.inner).iter());
    let states = rec.states.iter().map(|state| {
        let halves = if state.complex { 4 } else { 2 };
        halves * points(state.axes.iter().copied().collect())
    });
    let fixed = invariants(pass).into_iter();
    let fixed = fixed.map(|id| points(rec.graph.axes(id)));
    let items = u64::from(s.block * (s.threads / s.warp));
    items * states.chain(fixed).sum::<u64>() * compute.bytes() as u64
}

/// Gives every state its memory and its first value, and what is the same at every step its own.
pub(super) fn open(b: &mut Builder<'_>) {
    if bytes(b.pass, b.ty().storage()) == 0 {
        return open_states(b, &[]);
    }
    let common = |b: &mut Builder<'_>, stored: Stored| {
        b.proc.buffers[stored.buf.0 as usize].role = Role::Exchange;
        stored
    };
    for (slot, _) in b.all_slots() {
        for (name, when) in [("h", When::Prev), ("next", When::Next)] {
            let stored = b.state_scratch(name, slot.state);
            let stored = common(b, stored);
            b.state_bufs.insert((slot, when), stored);
        }
        let inner = b.state_inner(slot.state);
        each_own_point(b, &inner, &mut |b| {
            let value = b.load_initial(slot);
            let (buf, ix) = b.own_state_ix(slot, When::Next);
            b.stmt(Stmt::Store(buf, ix, value));
        });
    }
    let mut all = Vec::new();
    for id in invariants(b.pass) {
        let stored = b.value_scratch(id, None);
        let stored = common(b, stored);
        each_own_point(b, &stored.axes, &mut |b| {
            let value = b.fresh(id);
            let ix = b.stored_ix(&stored, &[]);
            b.stmt(Stmt::Store(stored.buf, ix, value));
        });
        all.push((id, stored));
    }
    // None is made of another's memory: lanes have not met yet.
    b.stored.extend(all);
}

/// Whether lanes hand the states on.
pub(super) fn in_use(b: &Builder<'_>) -> bool {
    b.state_bufs.keys().any(|(_, when)| *when == When::Next)
}

/// What was written becomes what is read.
pub(super) fn pass_on(b: &mut Builder<'_>) {
    if !in_use(b) {
        return;
    }
    b.stmt(Stmt::Meet);
    for (slot, _) in b.all_slots() {
        let inner = b.state_inner(slot.state);
        each_own_point(b, &inner, &mut |b| {
            let (next, from) = b.own_state_ix(slot, When::Next);
            let value = b.set(b.ty(), Rhs::Load(next, from));
            let (buf, ix) = b.own_state_ix(slot, When::Prev);
            b.stmt(Stmt::Store(buf, ix, value));
        });
    }
    b.stmt(Stmt::Meet);
}

/// The points of some inner axes that are the present lane's.
fn each_own_point(b: &mut Builder<'_>, axes: &[AxisId], body: &mut dyn FnMut(&mut Builder<'_>)) {
    let Some((&last, outer)) = axes.split_last() else {
        let thread = b.thread_ix();
        return b.choice(thread, Ix::Const(1), |b| b.each_vector(body), |_| {});
    };
    let (all, lanes) = (b.known(last), i64::from(b.pass.schedule.warp));
    b.each_point(outer, 1, &mut |b, at| {
        b.each_unrolled(outer.last().copied(), at, |b| {
            for first in (0..all).step_by(lanes as usize) {
                let point = b.thread_ix() + Ix::Const(first);
                let mut own = |b: &mut Builder<'_>| {
                    // A frame of its own: no other point is to find these values.
                    b.block(AxisSet::of(last), |b| {
                        b.with_axis(last, point.clone(), 0, |b| b.each_vector(&mut *body));
                    });
                };
                if first + lanes <= all {
                    own(b);
                } else {
                    b.choice(point.clone(), Ix::Const(all), own, |_| {});
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use selscan_dsl::scan::prepare;
    use selscan_dsl::{Extents, Recurrence};

    use crate::verify::verify;
    use crate::{Options, Plan, Target, lower};

    /// Of a complex state b̄ is made of ā, which is handed on too.
    #[test]
    fn what_is_made_of_what_is_handed_on_is_there_before_lanes_meet() {
        let text = "fn s4d(u: Tensor<B, H, L>, dt: Tensor<H>, a: Complex<H, N>, b: Complex<H, N>, x: ComplexState<B, H, N>) \
                    -> Tensor<B, H, L> { let (p, q) = discretize::zoh(dt, a, b); x = p * x + q * u; sum::<N>(re(x)) }";
        let scans = prepare(&Recurrence::parse(text).unwrap(), &|_| true, true);
        let extent = |name: &str| match name {
            "L" => 64,
            _ => 2,
        };
        let axes = &scans[0].recurrence.axes;
        let extents = Extents(axes.iter().map(|a| extent(&a.name)).collect());
        let schedule =
            "sequential order=scanned lanes=1 block=1 tile=4 unroll=2 warp=16 threads=32 share=1";
        let schedule = schedule.parse().unwrap();
        let (options, target) = (Options::default(), Target::h200());
        let plan = Plan::new(&scans[0], &extents, &options, &target, &schedule).unwrap();
        let program = lower(&plan);
        assert!(program.to_string().contains("exchange v"), "{program}");
        for proc in &program.procs {
            verify(proc).unwrap();
        }
    }
}
