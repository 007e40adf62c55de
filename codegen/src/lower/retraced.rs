//! `order=staged` of a gradient: an item is a block, of which each `warp` threads have a point of the lane axis and share out
//! the points of its states. A tile is a chunk of time; it is run again from what was saved, and traced back.
//!
//! ```text
//! d[·] = adjoint states after the last step
//! for chunk, from the last {
//!     for t in this thread's run    { v[t] = v(x_t) }                                     before: what both runs need
//!     the block meets
//!     for part of the chunk, from the last, `unroll` steps each {
//!         h[·] = saved[chunk];  h[·] = f(h[·], v[t], x_t) up to the part
//!         for t in part             { h[·] = f(h[·], v[t], x_t), every one kept in registers }
//!         for t in part, backwards  { d[·] = g(d[·], h_t[·], v[t], x_t);  sums over states in parts, a thread each;
//!                                     sums over the points of the lane axis in parts, a warp each }
//!     }
//!     the block meets
//!     for t in this thread's run    { outputs from the sums over states; sums over time }  after
//!     parts of warps added up: one part a block
//! }
//! ```
//! The exponentials of a step are computed again on the way back: kept, they take more registers than there are. (Mamba's
//! recomputation, Gu & Dao 2023, § 3.3.2.)

use selscan_dsl::{AxisId, AxisSet, NodeId, Op, ReduceOp, When};

use super::builder::{Builder, Slot};
use super::gathered::{Gathered, Sizes, near};
use super::registers::{self, Held};
use super::run::{Run, at_step, outputs, store, where_there};
use super::staged::{Parts, Reads, before, memory, total};
use crate::loop_ir::{Buf, Ix, LoopOp, Reg, Rhs, Stmt};
use crate::plan::Pass;
use crate::structure::addend;

/// Steps whose values are loaded from what the threads have in common at once.
const GROUP: i64 = 4;

/// Elements that the threads of a block have in common.
pub(super) fn elements(pass: &Pass, parts: &Parts) -> i64 {
    let sizes = Sizes::of(pass);
    let before = all_before(parts).len() as i64 * sizes.channels * sizes.row();
    let sums = parts.sums.len() as i64 * sizes.steps / sizes.run * sizes.sums();
    before
        + sums
        + Gathered::points(pass, parts).elements()
        + Gathered::runs(pass, parts).elements()
}

/// What either run reads that is computed before.
fn all_before(parts: &Parts) -> Vec<NodeId> {
    let mut all = [&parts.again.before[..], &parts.reads.before[..]].concat();
    all.sort_unstable();
    all.dedup();
    all
}

/// An item under way.
struct Retrace {
    sizes: Sizes,
    time: AxisId,
    axis: AxisId,
    parts: Parts,
    before: Vec<(NodeId, Buf)>,
    sums: Vec<Buf>,
    /// Sums over the lane axis, at the states' points and of one value a step.
    points: Gathered,
    runs: Gathered,
    /// The states that are run again, those of the adjoint, and what is a sum over time alone.
    again: (Vec<(Slot, NodeId)>, Vec<Held>),
    back: (Vec<(Slot, NodeId)>, Vec<Held>),
    late: Vec<(Slot, Op, NodeId, Reg)>,
    /// Outputs that are complete at each step.
    plain: Vec<usize>,
    /// Whether every chunk is whole.
    whole: bool,
}

/// A chunk under way.
struct Chunk {
    /// Its first step, and the end of time if it may come sooner than the chunk's.
    start: Ix,
    end: Ix,
    /// The states before it.
    saved: Vec<Reg>,
}

pub(super) fn lower(b: &mut Builder<'_>) {
    let pass = b.pass;
    // The plan has made sure that there are parts.
    let (Ok(parts), Some(axis)) = (Parts::of(pass), pass.structure.inner.iter().next()) else {
        return;
    };
    b.block(pass.structure.inner, |b| {
        let r = open(b, parts, axis);
        b.open_shared();
        let size = Ix::Const(r.sizes.steps);
        let (from, to) = b.own_time();
        let first = b.named("first_chunk", from.clone() / size.clone());
        let end = b.named("end_chunk", to.clone().div_ceil(r.sizes.steps));
        let last = (end.clone() + Ix::Const(-1)) * size.clone();
        b.begin_shared(&from, &to, &last);
        let all = end.clone() + first.clone();
        b.serial("turn", AxisSet::EMPTY, first, end, 1, |b, turn| {
            chunk(b, &r, (all - turn) + Ix::Const(-1), &to);
        });
        close(b, &r);
    });
}

fn open(b: &mut Builder<'_>, parts: Parts, axis: AxisId) -> Retrace {
    let pass = b.pass;
    let sizes = Sizes::of(pass);
    let before = all_before(&parts).into_iter().enumerate();
    let row = sizes.channels * sizes.row();
    let before = before.map(|(k, id)| (id, memory(b, format!("before{k}"), row)));
    let before = before.collect();
    let len = sizes.steps / sizes.run * sizes.sums();
    let sums = 0..parts.sums.len();
    let sums = sums.map(|k| memory(b, format!("part{k}"), len)).collect();
    let points = Gathered::points(pass, &parts).open(b, "points");
    let runs = Gathered::runs(pass, &parts).open(b, "runs");
    let (mut again, mut back, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for (slot, update) in b.all_slots() {
        let state = slot.state.0 as usize;
        if state < pass.retraced {
            again.push((slot, update));
        } else if !pass.structure.late[state] {
            back.push((slot, update));
        } else if let Some((op, x)) = addend(&pass.recurrence, slot.state, update) {
            let zero = b.set(b.ty(), Rhs::Const(0.0));
            late.push((slot, op, x, zero));
        }
    }
    // What the states start from is had chunk by chunk.
    let again_held = registers::open(b, &again);
    let back_held = registers::open(b, &back);
    let plain = (0..pass.recurrence.outputs.len()).filter(|&k| !b.is_summed(k));
    Retrace {
        sizes,
        time: pass.recurrence.time,
        axis,
        before,
        sums,
        again: (again, again_held),
        back: (back, back_held),
        late,
        plain: plain.collect(),
        points,
        runs,
        whole: b.multiple_of_time % sizes.steps == 0,
        parts,
    }
}

/// The states after the last step, and sums over time: each of the threads of a point has a part.
fn close(b: &mut Builder<'_>, r: &Retrace) {
    for &(slot, op, _, own) in &r.late {
        let sum =
            near(r.sizes.warp).fold(own, |sum, bit| b.exchanged(ReduceOp::Sum, sum, bit as u32));
        let first = b.load_initial(slot);
        let all = b.set(b.ty(), Rhs::Op(LoopOp::Math(op), vec![first, sum]));
        b.store_last(slot, all);
    }
    registers::close(b, &r.back.0, &r.back.1);
}

fn chunk(b: &mut Builder<'_>, r: &Retrace, number: Ix, to: &Ix) {
    let size = r.sizes.steps;
    let start = number.clone() * Ix::Const(size);
    let end = (start.clone() + Ix::Const(size)).min(to.clone());
    let own = match r.whole {
        true => Run::whole(b, &start),
        false => Run::of(b, &start, &end),
    };
    let saved = saved(b, r, &number);
    let first = place(b, r, own_step(b, r));
    before(b, (&r.before, &first), (&own, &start), r.axis);
    let chunk = Chunk { start, end, saved };
    let parts = size / r.sizes.part;
    let each = |b: &mut Builder<'_>, turn: Ix| {
        let number = Ix::Const(parts - 1) - turn;
        part(b, r, &chunk, number);
    };
    if parts > 1 {
        let (lo, hi) = (Ix::Const(0), Ix::Const(parts));
        b.serial("part", AxisSet::EMPTY, lo, hi, 1, each);
    } else {
        each(b, Ix::Const(0));
    }
    b.stmt(Stmt::Meet);
    b.shared = Some(r.time);
    b.block(AxisSet::of(r.time), |b| after(b, r, &own));
    b.stored.clear();
    b.shared = Some(r.axis);
    if !r.runs.of.is_empty() {
        b.stmt(Stmt::Meet);
    }
    let end = (!r.whole).then_some(&chunk.end);
    r.points.add_up(b, (&chunk.start, end), Some(r.axis));
    r.runs.add_up(b, (&chunk.start, end), None);
}

/// The states before a chunk.
fn saved(b: &mut Builder<'_>, r: &Retrace, number: &Ix) -> Vec<Reg> {
    let mut values = Vec::new();
    for &(slot, _) in &r.again.0 {
        let inner = b.state_inner(slot.state);
        b.each_copy(&inner, &mut |b| {
            let ix = b.outer_state_ix(slot, number.clone());
            let from = b.saved[slot.state.0 as usize];
            values.push(b.set(b.ty(), Rhs::Load(from, ix)));
        });
    }
    values
}

/// Where a value of this thread's point lies at a step of the chunk.
fn place(b: &Builder<'_>, r: &Retrace, step: Ix) -> Ix {
    b.channel.clone() * Ix::Const(r.sizes.row()) + step
}

/// The first step of this thread's run, in the chunk.
fn own_step(b: &Builder<'_>, r: &Retrace) -> Ix {
    b.thread_ix() * Ix::Const(r.sizes.run)
}

/// Runs `body` at a step of the chunk; beyond the end of time, inputs are those of the last step.
fn at<T>(
    b: &mut Builder<'_>,
    (r, chunk): (&Retrace, &Chunk),
    step: Ix,
    copy: i64,
    body: impl FnOnce(&mut Builder<'_>) -> T,
) -> T {
    b.local = place(b, r, step.clone());
    let mut moment = chunk.start.clone() + step;
    if !r.whole {
        moment = moment.min(chunk.end.clone() + Ix::Const(-1));
    }
    b.with_axis(r.time, moment, copy, body)
}

/// Loads what a step reads of what was computed before.
fn loads(b: &mut Builder<'_>, reads: &Reads) {
    for &id in &reads.before {
        b.value(id);
    }
}

/// A state's value: which, before or after a step, its point, its register.
type Known = (Slot, When, Vec<i64>, Reg);

/// Part `number` of a chunk: its steps again, and back.
fn part(b: &mut Builder<'_>, r: &Retrace, chunk: &Chunk, number: Ix) {
    let count = r.sizes.part;
    let base = number.clone() * Ix::Const(count);
    let here = (r, chunk);
    for ((_, _, h), &saved) in r.again.1.iter().zip(&chunk.saved) {
        b.assign(*h, saved);
    }
    let step = |b: &mut Builder<'_>| registers::step(b, &r.again.0, &r.again.1, |_| {});
    let time = AxisSet::of(r.time);
    if r.sizes.steps > count {
        b.serial("again", time, Ix::Const(0), number, 1, |b, earlier| {
            let base = earlier * Ix::Const(count);
            for k in 0..count {
                each_group(k, count, &mut |j| {
                    at(b, here, base.clone() + Ix::Const(j), j, |b| {
                        loads(b, &r.parts.again)
                    });
                });
                at(b, here, base.clone() + Ix::Const(k), k, step);
            }
        });
    }
    // On the way back nothing is known of the way there but the states.
    let known = b.block(time, |b| {
        let mut known: Vec<Vec<Known>> = Vec::new();
        for k in 0..count {
            each_group(k, count, &mut |j| {
                at(b, here, base.clone() + Ix::Const(j), j, |b| {
                    loads(b, &r.parts.again)
                });
            });
            at(b, here, base.clone() + Ix::Const(k), k, |b| {
                step(b);
                known.push(states(b, r));
            });
        }
        known
    });
    let back = |b: &mut Builder<'_>, k: i64| {
        let step = base.clone() + Ix::Const(k);
        at(b, here, step.clone(), k, |b| {
            adjoint(b, r, &known[k as usize], &step)
        });
    };
    if r.whole {
        return b.block(time, |b| {
            for k in (0..count).rev() {
                let done = count - 1 - k;
                let ahead = if done % GROUP == 1 {
                    done + GROUP - 1
                } else {
                    done
                };
                each_group(ahead, count, &mut |j| {
                    let j = count - 1 - j;
                    at(b, here, base.clone() + Ix::Const(j), j, |b| {
                        loads(b, &r.parts.reads)
                    });
                });
                if k > 0 {
                    // The next step's loads come before this one's stores, past which they are not moved.
                    at(b, here, base.clone() + Ix::Const(k - 1), k - 1, |b| {
                        for &id in &r.parts.reads.inputs {
                            b.each_copy(&[r.axis], &mut |b| {
                                b.value(id);
                            });
                        }
                    });
                }
                back(b, k);
            }
        });
    }
    for k in (0..count).rev() {
        let moment = chunk.start.clone() + base.clone() + Ix::Const(k);
        let body = |b: &mut Builder<'_>| b.block(time, |b| back(b, k));
        b.choice(moment, chunk.end.clone(), body, |_| {});
    }
}

/// Runs `body` for the steps of a group of which step `k` is the first.
fn each_group(k: i64, count: i64, body: &mut dyn FnMut(i64)) {
    if k % GROUP == 0 {
        (k..(k + GROUP).min(count)).for_each(body);
    }
}

/// The states before and after the present step.
fn states(b: &Builder<'_>, r: &Retrace) -> Vec<Known> {
    let of = |(slot, key, _): &Held| {
        let known = |when: When| {
            let register = b.state_regs.get(&(*slot, when, key.clone()));
            register.map(|&register| (*slot, when, key.clone(), register))
        };
        [known(When::Prev), known(When::Next)]
    };
    r.again.1.iter().flat_map(of).flatten().collect()
}

/// A step of the adjoint: its states, this thread's part of each sum over states, this warp's of each over the lane axis.
fn adjoint(b: &mut Builder<'_>, r: &Retrace, known: &[Known], step: &Ix) {
    for (slot, when, key, register) in known {
        b.state_regs.insert((*slot, *when, key.clone()), *register);
    }
    registers::step(b, &r.back.0, &r.back.1, |b| {
        for (sum, &buf) in r.parts.sums.iter().zip(&r.sums) {
            let part = b.part(sum.op, sum.axis, sum.x);
            let ix = sum_place(b, r, step) + b.thread_ix();
            b.stmt(Stmt::Store(buf, ix, part));
        }
        let mut values = Vec::new();
        for &(_, _, value) in &r.points.of {
            b.each_copy(&[r.axis], &mut |b| values.push(b.value(value)));
        }
        r.points.gather(b, values, step);
    });
}

/// Where the parts of a sum over this point's states lie at a step of the chunk.
fn sum_place(b: &Builder<'_>, r: &Retrace, step: &Ix) -> Ix {
    let Sizes {
        run,
        channels,
        warp,
        ..
    } = r.sizes;
    let whole = channels * warp;
    // A step is a multiple of a run and a constant, or of the thread's own run: neither is divided.
    let (runs, within) = split(step, run);
    runs * Ix::Const(r.sizes.sums())
        + within * Ix::Const(whole)
        + b.channel.clone() * Ix::Const(warp)
}

/// A step as runs before its own and steps in it.
fn split(step: &Ix, run: i64) -> (Ix, Ix) {
    let (base, k) = match step {
        Ix::Const(k) => (Ix::Const(0), *k),
        Ix::Add(base, k) => match **k {
            Ix::Const(k) => ((**base).clone(), k),
            _ => (step.clone(), 0),
        },
        _ => (step.clone(), 0),
    };
    let runs = match &base {
        Ix::Mul(x, by) => match **by {
            Ix::Const(by) if by % run == 0 => Some((**x).clone() * Ix::Const(by / run)),
            _ => None,
        },
        Ix::Const(0) => Some(Ix::Const(0)),
        _ => None,
    };
    match runs {
        Some(runs) => (runs + Ix::Const(k / run), Ix::Const(k % run)),
        None => {
            let runs = step.clone() / Ix::Const(run);
            let within = step.clone() - runs.clone() * Ix::Const(run);
            (runs, within)
        }
    }
}

/// The outputs of this thread's run, and its part of the sums over time.
fn after(b: &mut Builder<'_>, r: &Retrace, own: &Run) {
    let first = own_step(b, r);
    let mut values = Vec::new();
    let mut added = Vec::new();
    let mut runs = vec![Vec::new(); r.runs.of.len()];
    for k in 0..r.sizes.run {
        let step = first.clone() + Ix::Const(k);
        b.local = place(b, r, step.clone());
        at_step(b, own, k, |b| {
            for (&sum, &buf) in r.parts.sums.iter().zip(&r.sums) {
                let ix = sum_place(b, r, &step);
                total(b, sum, buf, (ix, 1));
            }
            values.extend(outputs(b, &r.plain, k));
            for &(_, _, x, sum) in &r.late {
                added.push((k, sum, b.value(x)));
            }
            for (own, &(_, _, value)) in runs.iter_mut().zip(&r.runs.of) {
                own.push(b.value(value));
            }
        });
    }
    r.runs.gather(b, runs.concat(), &Ix::Const(0));
    store(b, own, &values);
    for (k, sum, x) in added {
        where_there(b, own, k, |b| {
            let both = b.combine(ReduceOp::Sum, sum, x);
            b.assign(sum, both);
        });
    }
}
