//! `order=stepped`: time outside; at each step one loop nest after another over the inner axes. Any recurrence.
//!
//! ```text
//! invariants;  h[..] = initial
//! for t { for each nest in order { for inner axes { values, reductions, updates, outputs } } }
//! last = h[..]
//! ```
//! A state is updated in place where every read of its old value is done by then; else its next value lies
//! apart and is copied at the end of the step. With `warp` above 1 the threads of a GPU share out the points of each nest
//! ([`super::together`]) and meet after it.

use std::collections::BTreeMap;

use selscan_dsl::{AxisId, AxisSet, Node, NodeId, Part, StateId, When};

use super::builder::{Builder, Slot};
use super::items::{What, Work, select};
use super::together::Reduced;
use super::values::reduce_identity;
use crate::loop_ir::{Ix, Reg, Rhs};
use crate::structure::Level;

/// Work that shares one loop nest.
pub(super) struct Nest {
    /// The loops, outermost first.
    pub loops: Vec<AxisId>,
    /// The work, in order, by number.
    pub work: Vec<usize>,
}

/// The states of an item, in memory, and the nests of a step.
pub(super) struct Open {
    work: Vec<Work>,
    nests: Vec<Nest>,
    apart: Vec<StateId>,
}

/// What is the same at every step, and the states before the first.
pub(super) fn begin(b: &mut Builder<'_>) -> Open {
    let work = select(b.pass);
    let (fixed, moving): (Vec<usize>, Vec<usize>) =
        (0..work.len()).partition(|&i| is_invariant(&work[i]));
    prologue(b, &work, &fixed);
    let nests = nests(b, &work, &moving);
    let apart = states_apart(b, &work, &nests);
    open_states(b, &apart);
    for &i in &moving {
        place(b, &work[i], None);
    }
    Open { work, nests, apart }
}

impl Open {
    /// The steps from `lo` to `hi`.
    pub fn steps(&self, b: &mut Builder<'_>, lo: Ix, hi: Ix) {
        b.each_step(lo, hi, |b, _| {
            for nest in &self.nests {
                run(b, &self.work, nest);
            }
            for &state in &self.apart {
                each_state_point(b, state, |b, slot| {
                    let next = b.own_state_ix(slot, When::Next);
                    let here = b.own_state_ix(slot, When::Prev);
                    let value = b.set(b.ty(), Rhs::Load(next.0, next.1));
                    b.put(here.0, here.1, value);
                });
            }
            if !self.apart.is_empty() {
                b.meet();
            }
        });
    }
}

/// Whether work is the same at every step.
pub(super) fn is_invariant(work: &Work) -> bool {
    matches!(work.what, What::Value(_) | What::Reduce(_)) && work.level == Level::Invariant
}

/// Computes what is the same at every step, before the loop over time.
pub(super) fn prologue(b: &mut Builder<'_>, work: &[Work], fixed: &[usize]) {
    for &i in fixed {
        place(b, &work[i], None);
    }
    for nest in nests(b, work, fixed) {
        run(b, work, &nest);
    }
}

/// Gives a value or reduction its scratch memory.
pub(super) fn place(b: &mut Builder<'_>, work: &Work, steps: Option<i64>) {
    if let What::Value(id) | What::Reduce(id) = work.what {
        let stored = b.value_scratch(id, steps);
        b.stored.insert(id, stored);
    }
}

/// Gives every state its scratch memory and its first value.
pub(super) fn open_states(b: &mut Builder<'_>, apart: &[StateId]) {
    for (slot, _) in b.all_slots() {
        let stored = b.state_scratch("h", slot.state);
        b.state_bufs.insert((slot, When::Prev), stored);
        if apart.contains(&slot.state) {
            let stored = b.state_scratch("next", slot.state);
            b.state_bufs.insert((slot, When::Next), stored);
        }
    }
    for state in b.pass.recurrence.state_ids() {
        each_state_point(b, state, |b, slot| {
            let value = b.load_initial(slot);
            let (buf, ix) = b.own_state_ix(slot, When::Prev);
            b.put(buf, ix, value);
        });
    }
    b.meet();
}

/// Hands the last values to the caller.
pub(super) fn close_states(b: &mut Builder<'_>) {
    for state in b.pass.recurrence.state_ids() {
        if b.wants_last(state) {
            each_value(b, state, &mut |b, slot, value| b.store_last(slot, value));
        }
    }
}

/// Each value of a state that lies in memory, at its point.
pub(super) fn each_value(
    b: &mut Builder<'_>,
    state: StateId,
    body: &mut dyn FnMut(&mut Builder<'_>, Slot, Reg),
) {
    each_state_point(b, state, |b, slot| {
        let (buf, ix) = b.own_state_ix(slot, When::Prev);
        let value = b.set(b.ty(), Rhs::Load(buf, ix));
        body(b, slot, value);
    });
}

fn each_state_point(
    b: &mut Builder<'_>,
    state: StateId,
    mut body: impl FnMut(&mut Builder<'_>, Slot),
) {
    let inner = b.state_inner(state);
    let slots: Vec<Slot> = b.slots(state).into_iter().map(|(slot, _)| slot).collect();
    b.each_state_point(&inner, &slots, &mut body);
}

/// Groups work into nests: each piece joins the first nest with its loops that comes after all it needs.
pub(super) fn nests(b: &Builder<'_>, work: &[Work], of: &[usize]) -> Vec<Nest> {
    let mut nests: Vec<(Nest, AxisSet)> = Vec::new();
    let mut home: BTreeMap<usize, usize> = BTreeMap::new();
    for &i in of {
        let w = &work[i];
        let reduced = reduced_axis(b, w);
        let mut first = 0;
        for before in &w.after {
            let Some(&nest) = home.get(before) else {
                continue;
            };
            let own_point = match work[*before].what {
                What::Reduce(_) => false,
                What::Update(state) => w
                    .reads
                    .iter()
                    .all(|&(s, when, own)| s != state || when == When::Prev || own),
                What::Value(_) | What::Output(_) => true,
            };
            first = first.max(if own_point { nest } else { nest + 1 });
        }
        let fits = |(nest, loops): &(Nest, AxisSet)| {
            let last = nest.loops.last();
            let reduces = |i: &usize| reduced_axis(b, &work[*i]).is_some();
            *loops == w.loops
                && reduced.is_none_or(|axis| {
                    // Points that threads share out have no order.
                    last == Some(&axis) || b.is_together() && !nest.work.iter().any(reduces)
                })
        };
        let found = (first..nests.len()).find(|&k| fits(&nests[k]));
        let k = found.unwrap_or_else(|| {
            let nest = Nest {
                loops: loop_order(b, w),
                work: vec![],
            };
            nests.push((nest, w.loops));
            nests.len() - 1
        });
        let nest = &mut nests[k].0;
        if let Some(axis) = reduced {
            nest.loops.retain(|&a| a != axis);
            nest.loops.push(axis);
        }
        nest.work.push(i);
        home.insert(i, k);
    }
    nests.into_iter().map(|(nest, _)| nest).collect()
}

/// The loops of work, in the order in which what it stores lies in memory.
fn loop_order(b: &Builder<'_>, work: &Work) -> Vec<AxisId> {
    let rec = &b.pass.recurrence;
    let declared = match work.what {
        What::Update(state) => &rec.state(state).axes,
        What::Output(k) => &rec.outputs[k].axes,
        What::Value(id) | What::Reduce(id) => return b.memory_order(id, work.loops),
    };
    let mut loops: Vec<AxisId> = work.loops.iter().collect();
    loops.sort_by_key(|axis| declared.iter().position(|a| a == axis));
    loops
}

fn reduced_axis(b: &Builder<'_>, work: &Work) -> Option<AxisId> {
    match work.what {
        What::Reduce(id) => match b.pass.recurrence.graph.node(id) {
            Node::Reduce { axis, .. } => Some(*axis),
            _ => None,
        },
        _ => None,
    }
}

/// States whose old value is read at or after their update, other than at the updated point; or by threads that have no
/// point of their own.
fn states_apart(b: &Builder<'_>, work: &[Work], nests: &[Nest]) -> Vec<StateId> {
    let mut apart = Vec::new();
    let home = |what: What| {
        nests
            .iter()
            .position(|n| n.work.iter().any(|&i| work[i].what == what))
    };
    for (k, nest) in nests.iter().enumerate() {
        for &(state, when, own_point) in nest.work.iter().flat_map(|&i| &work[i].reads) {
            let late = home(What::Update(state))
                .is_some_and(|update| k > update || (k == update && !own_point));
            if when == When::Prev && late && !apart.contains(&state) {
                apart.push(state);
            }
        }
        let (points, reduced) = own_loops(b, work, nest);
        if b.is_together() && !b.shares_evenly(points, reduced) {
            apart.extend(nest.work.iter().filter_map(|&i| match work[i].what {
                What::Update(state) => Some(state),
                _ => None,
            }));
        }
    }
    apart.sort_unstable();
    apart.dedup();
    apart
}

/// The loops of a nest whose points threads share out, and the one that is reduced in it.
fn own_loops<'n>(
    b: &Builder<'_>,
    work: &[Work],
    nest: &'n Nest,
) -> (&'n [AxisId], Option<Reduced>) {
    let reduced = nest.work.iter().filter_map(|&i| match work[i].what {
        What::Reduce(id) => Some(reduction(b, id).1),
        _ => None,
    });
    let reduced: Vec<NodeId> = reduced.collect();
    match nest.loops.split_last() {
        Some((&axis, outer)) if !reduced.is_empty() => {
            let innermost = reads_along(b, &reduced, axis);
            (outer, Some(Reduced { axis, innermost }))
        }
        _ => (&nest.loops, None),
    }
}

/// Whether most of the tensors that values are made of, and that have an axis and others of the nest, lie innermost along it.
fn reads_along(b: &Builder<'_>, values: &[NodeId], axis: AxisId) -> bool {
    let (rec, inner) = (&b.pass.recurrence, b.pass.structure.inner);
    let mut along = 0;
    for id in rec.graph.reachable(values) {
        if let Node::Input { index, .. } | Node::State { index, .. } = rec.graph.node(id) {
            let axes: Vec<AxisId> = index.iter().map(|i| i.axis()).collect();
            let own = axes.iter().filter(|&&a| inner.contains(a));
            if axes.contains(&axis) && own.count() > 1 {
                along += if axes.last() == Some(&axis) { 1 } else { -1 };
            }
        }
    }
    along >= 0
}

/// Emits one nest.
pub(super) fn run(b: &mut Builder<'_>, work: &[Work], nest: &Nest) {
    fn outer(b: &mut Builder<'_>, work: &[Work], nest: &Nest, depth: usize) {
        if depth + 1 < nest.loops.len() {
            let axis = nest.loops[depth];
            let name = b.pass.recurrence.axis_name(axis).to_lowercase();
            let hi = b.extent(axis);
            b.serial(&name, AxisSet::of(axis), Ix::Const(0), hi, 1, |b, at| {
                b.with_axis(axis, at, -1, |b| outer(b, work, nest, depth + 1));
            });
        } else {
            inner(b, work, nest, nest.loops.last().copied());
        }
    }
    if b.is_together() {
        let (points, reduced) = own_loops(b, work, nest);
        let last = reduced.map(|r| r.axis);
        b.each_own_point(points, reduced, &mut |b| inner(b, work, nest, last));
        b.meet();
    } else {
        b.block(AxisSet::EMPTY, |b| outer(b, work, nest, 0));
    }
    b.state_regs.clear();
}

/// The innermost loop of a nest, over `last`.
fn inner(b: &mut Builder<'_>, work: &[Work], nest: &Nest, last: Option<AxisId>) {
    let unroll = i64::from(b.pass.schedule.unroll);
    let mut sums: BTreeMap<(usize, i64), Reg> = BTreeMap::new();
    for &i in &nest.work {
        if let What::Reduce(id) = work[i].what {
            let (op, _) = reduction(b, id);
            let mut vector = 0;
            b.each_vector(|b| {
                let start = b.set(b.ty(), Rhs::Const(reduce_identity(op)));
                sums.insert((i, vector), start);
                vector += 1;
            });
        }
    }
    let old = old_values(b, work, nest);
    let mut turn = |b: &mut Builder<'_>, at: &[Ix]| {
        // Read before any of them is overwritten.
        for &id in &old {
            b.each_unrolled(last, at, |b| {
                b.each_vector(|b| {
                    b.value(id);
                });
            });
        }
        for &i in &nest.work {
            match work[i].what {
                What::Value(id) => b.each_unrolled(last, at, |b| {
                    b.each_vector(|b| {
                        let value = b.fresh(id);
                        store_value(b, id, value);
                    });
                }),
                What::Reduce(id) => {
                    let (op, x) = reduction(b, id);
                    let mut vector = 0;
                    b.each_vector(|b| {
                        let mut total = None;
                        b.each_unrolled(last, at, |b| {
                            let term = b.value(x);
                            total = Some(total.map_or(term, |t| b.combine(op, t, term)));
                        });
                        if let (Some(total), Some(&sum)) = (total, sums.get(&(i, vector))) {
                            let both = b.combine(op, sum, total);
                            b.assign(sum, both);
                        }
                        vector += 1;
                    });
                }
                What::Update(state) => {
                    b.each_unrolled(last, at, |b| b.each_vector(|b| update(b, state)))
                }
                What::Output(k) => b.each_unrolled(last, at, |b| b.each_vector(|b| output(b, k))),
            }
        }
    };
    match last {
        Some(axis) => b.each_own_part(axis, unroll, &mut turn),
        None => turn(b, &[]),
    }
    for &i in &nest.work {
        if let What::Reduce(id) = work[i].what {
            let (op, _) = reduction(b, id);
            let mut vector = 0;
            b.each_vector(|b| {
                if let Some(&sum) = sums.get(&(i, vector)) {
                    let sum = b.of_all_parts(op, sum);
                    if let Some(stored) = b.stored.get(&id).cloned() {
                        let ix = b.stored_ix(&stored, &[]);
                        b.put_reduced(stored.buf, ix, sum);
                    }
                }
                vector += 1;
            });
        }
    }
}

fn reduction(b: &Builder<'_>, id: NodeId) -> (selscan_dsl::ReduceOp, NodeId) {
    match b.pass.recurrence.graph.node(id) {
        Node::Reduce { op, x, .. } => (*op, *x),
        _ => (selscan_dsl::ReduceOp::Sum, id),
    }
}

/// The old values of the states that this nest updates, as far as they are read.
fn old_values(b: &Builder<'_>, work: &[Work], nest: &Nest) -> Vec<NodeId> {
    let rec = &b.pass.recurrence;
    let updated = |s: StateId| nest.work.iter().any(|&i| work[i].what == What::Update(s));
    let own = |id: &NodeId| match rec.graph.node(*id) {
        node @ Node::State {
            state,
            when: When::Prev,
            ..
        } => updated(*state) && crate::structure::reads_own_point(rec, node),
        _ => false,
    };
    let live = rec.graph.reachable(&rec.roots());
    live.into_iter().filter(own).collect()
}

pub(super) fn store_value(b: &mut Builder<'_>, id: NodeId, value: Reg) {
    if let Some(stored) = b.stored.get(&id).cloned() {
        let ix = b.stored_ix(&stored, &[]);
        b.put(stored.buf, ix, value);
    }
}

fn update(b: &mut Builder<'_>, state: StateId) {
    let axes: AxisSet = b
        .pass
        .recurrence
        .state(state)
        .axes
        .iter()
        .copied()
        .collect();
    let values: Vec<(Slot, Reg)> = b
        .slots(state)
        .into_iter()
        .map(|(slot, node)| (slot, b.value(node)))
        .collect();
    for (slot, value) in values {
        let key = b.copy_key(axes);
        b.state_regs.insert((slot, When::Next, key), value);
        let (buf, ix) = b.own_state_ix(slot, When::Next);
        b.put(buf, ix, value);
    }
}

pub(super) fn output(b: &mut Builder<'_>, k: usize) {
    let pass = b.pass;
    let decl = &pass.recurrence.outputs[k];
    let part = if decl.complex { Part::Re } else { Part::Real };
    for (part, value) in [(part, Some(decl.value)), (Part::Im, decl.value_im)] {
        if let Some(value) = value {
            let register = b.value(value);
            b.store_output(k, part, register);
        }
    }
}
