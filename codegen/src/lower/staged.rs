//! `order=staged`: the threads of an item share out the points of its states, and the steps of what does not vary over
//! them; the two meet in memory that they have in common. A tile is a run of `tile` steps a thread.
//!
//! ```text
//! h[·] = initial
//! for tile of warp runs {
//!     for t in this thread's run   { v[t] = v(x_t) }                          before: what the states need
//!     meet, the block with it where it shares inputs
//!     for t in tile                { where a chunk begins { saved[t / K][·] = h[·] }
//!                                    h[·] = f(h[·], v[t], x_t);  part[thread][t] = sum over own points of g(h[·], x_t) }
//!     meet
//!     for t in this thread's run   { y_t = y(sum over threads of part[·][t], x_t) }     after: the outputs
//! }
//! last = h[·]
//! ```
//! So nothing is computed twice, and no register crosses threads. (FlashAttention's tiles of work for each warp; the sums
//! of a split reduction are combined in a fixed order.)

use rustc_hash::FxHashMap;
use selscan_dsl::{AxisId, AxisSet, Node, NodeId, Part, ReduceOp, Type};

use super::builder::{Builder, Slot, Stored};
use super::registers::{self, Held};
use super::retraced;
use super::run::{Run, at_step, outputs, store};
use crate::dtype::Dtype;
use crate::loop_ir::{Buf, BufferDecl, Ix, Reg, Rhs, Role, Stmt};
use crate::plan::Pass;
use crate::structure::{Level, reads_own_point};

/// Elements between the runs of two threads that are left out, so that threads do not meet in one bank.
pub(super) const GAP: i64 = 4;

/// Points of inputs alone that one thread adds up.
const MOST_ALONE: i64 = 16;

/// A reduction over the points of the states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum {
    pub id: NodeId,
    pub op: ReduceOp,
    pub axis: AxisId,
    pub x: NodeId,
}

/// What a step of the states reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    /// What varies in time but not over the states' points, in the order of the graph.
    pub before: Vec<NodeId>,
    /// The inputs besides, point by point.
    pub inputs: Vec<NodeId>,
}

impl Reads {
    /// What `roots` read, each at the points of the states.
    fn of(pass: &Pass, mut open: Vec<NodeId>) -> Result<Reads, String> {
        let (rec, structure) = (&pass.recurrence, &pass.structure);
        let graph = &rec.graph;
        let mut reads = Reads::default();
        let mut seen = vec![false; graph.len()];
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut seen[id.0 as usize], true) {
                continue;
            }
            let node = graph.node(id);
            let apart = structure.inner_axes(rec, id).is_empty();
            let level = structure.level(id);
            match node {
                Node::Reduce { .. } if level > Level::Stream || !apart => {
                    return Err("a state reads a sum over states".into());
                }
                Node::Const(_) | Node::Extent(_) | Node::Index(_) | Node::State { .. } => {}
                _ if level == Level::Invariant => {}
                _ if apart && level == Level::Stream && graph.ty(id) == Type::Real => {
                    reads.before.push(id);
                }
                Node::Input { .. } => reads.inputs.push(id),
                _ => open.extend(node.operands()),
            }
        }
        reads.before.sort_unstable();
        reads.inputs.sort_unstable();
        Ok(reads)
    }
}

/// A pass taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// What the states' updates, the sums over states and outputs at their points read.
    pub reads: Reads,
    /// What the states that are run again read alone.
    pub again: Reads,
    /// What the outputs read of the states.
    pub sums: Vec<Sum>,
    /// Outputs that are sums over the lane axis, at the states' points, and of one value a step: output, half, its node.
    pub outputs: Vec<(usize, Part, NodeId)>,
    pub runs: Vec<(usize, Part, NodeId)>,
}

impl Parts {
    /// Takes a pass apart, or says why it cannot be.
    pub fn of(pass: &Pass) -> Result<Parts, String> {
        let (rec, structure) = (&pass.recurrence, &pass.structure);
        let graph = &rec.graph;
        let inner: Vec<AxisId> = structure.inner.iter().collect();
        let [axis] = inner[..] else {
            return Err(format!("it has {} inner axes, not 1", inner.len()));
        };
        let summed = |k: usize| {
            let sums = pass.sums.as_ref().filter(|_| pass.retraced > 0);
            sums.is_some_and(|sums| sums.outputs[k].is_some())
        };
        let (mut outputs, mut runs) = (Vec::new(), Vec::new());
        for (k, output) in rec.outputs.iter().enumerate() {
            let inner = output.axes.contains(&axis);
            if !summed(k) {
                if inner {
                    return Err(format!("output {} has inner axes", output.name));
                }
                continue;
            }
            let to = if inner { &mut outputs } else { &mut runs };
            let first = if output.complex { Part::Re } else { Part::Real };
            to.push((k, first, output.value));
            to.extend(output.value_im.map(|im| (k, Part::Im, im)));
        }
        let mut sums = Vec::new();
        for id in graph.reachable(&rec.roots()) {
            match graph.node(id) {
                Node::Shift { .. } => return Err("points of an axis are shifted".into()),
                Node::Reduce { op, axis, x } if structure.level(*x) == Level::State => {
                    sums.push(Sum {
                        id,
                        op: *op,
                        axis: *axis,
                        x: *x,
                    });
                }
                // Computed before the states, or after, each step by one thread.
                Node::Reduce { axis, x, .. }
                    if pass.retraced > 0
                        && structure.level(*x) == Level::Stream
                        && matches!(pass.extents[axis.0 as usize], Ix::Const(n) if n <= MOST_ALONE) =>
                    {}
                Node::Reduce { .. } => return Err("inputs alone are reduced".into()),
                node if !reads_own_point(rec, node) => {
                    return Err("points of the states meet".into());
                }
                _ => {}
            }
        }
        let updates = |first: usize, count: usize| {
            let states = rec.states.iter().zip(&structure.late);
            let own = states.filter(|(_, late)| pass.retraced == 0 || !**late);
            let own = own.skip(first).take(count);
            own.flat_map(|(s, _)| [Some(s.update), s.update_im])
                .flatten()
        };
        let mut open: Vec<NodeId> = sums.iter().map(|s| s.x).collect();
        open.extend(outputs.iter().map(|&(.., value)| value));
        open.extend(updates(pass.retraced, rec.states.len()));
        Ok(Parts {
            reads: Reads::of(pass, open)?,
            again: Reads::of(pass, updates(0, pass.retraced).collect())?,
            sums,
            outputs,
            runs,
        })
    }
}

/// How what an item's threads have in common lies in memory, in elements.
struct Layout {
    /// From one thread's run of a value to the next.
    piece: i64,
    /// A value's tile of an item.
    tile: i64,
    /// From one thread's row of a sum's parts to the next.
    row: i64,
    /// All rows of an item.
    rows: i64,
}

impl Layout {
    /// Words that are read or written at once are to lie in distinct ones of the 32 banks: those that eight threads put down,
    /// of two items, and those that a warp reads of all its items.
    fn of(pass: &Pass) -> Layout {
        let s = &pass.schedule;
        let (run, warp) = (i64::from(s.tile), i64::from(s.warp));
        if run == 8 && warp >= 4 {
            let row = run * warp + 8;
            return Layout {
                piece: run,
                tile: run * warp + GAP,
                row,
                rows: row * warp + GAP,
            };
        }
        let piece = run + GAP;
        let row = piece * warp + GAP;
        Layout {
            piece,
            tile: piece * warp,
            row,
            rows: row * warp,
        }
    }
}

/// The bytes that the threads of a block's items have in common, item by item.
pub(super) fn exchange_bytes(pass: &Pass, compute: Dtype) -> u64 {
    let Ok(parts) = Parts::of(pass) else {
        return 0;
    };
    if pass.retraced > 0 {
        return retraced::elements(pass, &parts) as u64 * compute.bytes() as u64;
    }
    let layout = Layout::of(pass);
    let (values, sums) = (parts.reads.before.len(), parts.sums.len());
    let elements = values as i64 * layout.tile + sums as i64 * layout.rows;
    let items = pass.schedule.threads / pass.schedule.warp.max(1);
    u64::from(items) * elements as u64 * compute.bytes() as u64
}

/// What the threads of an item have in common.
struct Stage {
    axis: AxisId,
    layout: Layout,
    before: Vec<(NodeId, Buf)>,
    inputs: Vec<NodeId>,
    sums: Vec<(Sum, Buf)>,
    slots: Vec<(Slot, NodeId)>,
    held: Vec<Held>,
}

/// New memory that the threads of an item have in common.
pub(super) fn memory(b: &mut Builder<'_>, name: String, len: i64) -> Buf {
    b.proc.buffers.push(BufferDecl {
        name,
        role: Role::Exchange,
        dtype: b.ty.storage(),
        len: Ix::Const(len),
    });
    Buf(b.proc.buffers.len() as u32 - 1)
}

pub(super) fn lower(b: &mut Builder<'_>) {
    let pass = b.pass;
    if pass.retraced > 0 {
        return retraced::lower(b);
    }
    // The plan has made sure that there are parts.
    let (Ok(parts), Some(axis)) = (Parts::of(pass), pass.structure.inner.iter().next()) else {
        return;
    };
    let stage = |b: &mut Builder<'_>| {
        let layout = Layout::of(pass);
        let before = parts.reads.before.iter().enumerate();
        let before = before.map(|(k, &id)| (id, memory(b, format!("before{k}"), layout.tile)));
        let before = before.collect();
        let sums = parts.sums.iter().enumerate();
        let sums = sums.map(|(k, &sum)| (sum, memory(b, format!("part{k}"), layout.rows)));
        let sums = sums.collect();
        let slots = b.all_slots();
        Stage {
            axis,
            layout,
            before,
            inputs: parts.reads.inputs.clone(),
            sums,
            held: registers::open(b, &slots),
            slots,
        }
    };
    b.block(pass.structure.inner, |b| {
        let stage = stage(b);
        let (lo, hi) = b.steps();
        b.open_shared();
        let span = i64::from(pass.schedule.tile * pass.schedule.warp);
        b.begin_shared(&lo, &hi, &lo);
        b.serial("tile", AxisSet::EMPTY, lo, hi.clone(), span, |b, start| {
            tile(b, &stage, start, hi);
        });
        registers::close(b, &stage.slots, &stage.held);
    });
}

fn tile(b: &mut Builder<'_>, stage: &Stage, start: Ix, hi: Ix) {
    let time = b.pass.recurrence.time;
    let run = i64::from(b.pass.schedule.tile);
    let own = Run::of(b, &start, &hi);
    let piece = Ix::Const(stage.layout.piece);
    let first = b.thread_ix() * piece.clone();
    let known = before(b, (&stage.before, &first), (&own, &start), stage.axis);
    let whole = ((hi.clone() - start.clone()) / Ix::Const(run))
        .min(Ix::Const(i64::from(b.pass.schedule.warp)));
    let one = |b: &mut Builder<'_>, first: &Ix, local: Ix, k: i64| {
        b.local = local;
        let at = b.moment(first.clone() + Ix::Const(k));
        // A name of its own for the step: those of the run are taken.
        b.with_axis(time, at, run + k, |b| between(b, stage));
    };
    let group = i64::from(b.pass.schedule.unroll).min(run);
    let axes = AxisSet::of(time);
    b.serial("run", axes, Ix::Const(0), whole.clone(), 1, |b, number| {
        let first = start.clone() + number.clone() * Ix::Const(run);
        let local = |k: i64| number.clone() * piece.clone() + Ix::Const(k);
        for k in 0..run {
            save(b, stage, &first, (run, k));
            if k % group == 0 {
                // The loads of a group of steps together: their latencies overlap.
                for k in k..(k + group).min(run) {
                    b.local = local(k);
                    let at = b.moment(first.clone() + Ix::Const(k));
                    b.with_axis(time, at, run + k, |b| loads(b, stage));
                }
            }
            one(b, &first, local(k), k);
        }
    });
    if b.multiple_of_time % run != 0 {
        let first = start + whole.clone() * Ix::Const(run);
        let end = hi - first.clone();
        // A whole tile leaves nothing.
        let rest =
            end.min((Ix::Const(i64::from(b.pass.schedule.warp)) - whole.clone()) * Ix::Const(run));
        b.serial("t", AxisSet::of(time), Ix::Const(0), rest, 1, |b, t| {
            let local = whole * piece + t.clone();
            let step = first + t;
            save(b, stage, &step, (1, 0));
            one(b, &step, local, 0);
        });
    }
    b.stored.clear();
    b.stmt(Stmt::Meet);
    let known_sums: Vec<NodeId> = stage.sums.iter().map(|(sum, _)| sum.id).collect();
    b.leave_for(&known_sums, |b| {
        b.shared = Some(time);
        b.block(AxisSet::of(time), |b| after(b, stage, &own, known));
        b.shared = Some(stage.axis);
    });
}

/// Values by node and step.
type Values = FxHashMap<(NodeId, Vec<i64>), Reg>;

/// What the states need of this thread's run, in the tile that begins at `start`: put down from element `first` on, where from
/// then on it is read, until [`Builder::stored`] is cleared; the threads then have points of `axis`. Gives what was computed.
pub(super) fn before(
    b: &mut Builder<'_>,
    (before, first): (&[(NodeId, Buf)], &Ix),
    (own, start): (&Run, &Ix),
    axis: AxisId,
) -> Values {
    let time = b.pass.recurrence.time;
    // The block's meeting is this item's too, unless what is before it reads what the block puts down for it.
    let values = before.iter().map(|&(id, _)| id).collect();
    let early = b.in_halves() && !b.read_shared(values, &[]);
    if !early {
        b.fill_shared(start);
    }
    // Each thread has steps of its own before and after, and points of the states between.
    b.shared = Some(time);
    let known = b.block(AxisSet::of(time), |b| {
        put_down(b, before, first, own);
        b.frames.last().map(|f| f.memo.clone()).unwrap_or_default()
    });
    if early {
        b.fill_shared(start);
    } else {
        b.stmt(Stmt::Meet);
    }
    b.shared = Some(axis);
    for &(id, buf) in before {
        let stored = Stored {
            buf,
            timed: true,
            axes: vec![],
            row: 1,
            laned: false,
        };
        b.stored.insert(id, stored);
    }
    known
}

fn put_down(b: &mut Builder<'_>, before: &[(NodeId, Buf)], first: &Ix, own: &Run) {
    let mut values: Vec<Vec<Reg>> = Vec::new();
    for k in 0..i64::from(b.pass.schedule.tile) {
        values.push(at_step(b, own, k, |b| {
            before.iter().map(|&(id, _)| b.value(id)).collect()
        }));
    }
    for (v, &(_, buf)) in before.iter().enumerate() {
        for (k, at) in values.iter().enumerate() {
            let ix = first.clone() + Ix::Const(k as i64);
            b.stmt(Stmt::Store(buf, ix, at[v]));
        }
    }
}

/// What a step reads of memory.
fn loads(b: &mut Builder<'_>, stage: &Stage) {
    for &(id, _) in &stage.before {
        b.value(id);
    }
    for &id in &stage.inputs {
        b.each_copy(&[stage.axis], &mut |b| {
            b.value(id);
        });
    }
}

/// Saves this thread's points of the states where a chunk begins with step `first + k`, `first` a multiple of `run`.
fn save(b: &mut Builder<'_>, stage: &Stage, first: &Ix, (run, k): (i64, i64)) {
    b.at_chunk(first, (run, k), |b, number| {
        registers::each_held(b, &stage.slots, &stage.held, &mut |b, slot, register| {
            b.save(slot, number, register);
        });
    });
}

/// One step of the states, and this thread's part of each sum.
fn between(b: &mut Builder<'_>, stage: &Stage) {
    registers::step(b, &stage.slots, &stage.held, |b| {
        let thread = b.thread_ix();
        for &(sum, buf) in &stage.sums {
            let part = b.part(sum.op, sum.axis, sum.x);
            let ix = thread.clone() * Ix::Const(stage.layout.row) + b.local.clone();
            b.stmt(Stmt::Store(buf, ix, part));
        }
    });
}

/// The outputs of this thread's run.
fn after(b: &mut Builder<'_>, stage: &Stage, own: &Run, known: Values) {
    let pass = b.pass;
    if let Some(frame) = b.frames.last_mut() {
        frame.memo.extend(known);
    }
    let thread = b.thread_ix();
    let all: Vec<usize> = (0..pass.recurrence.outputs.len()).collect();
    let mut values = Vec::new();
    for k in 0..i64::from(pass.schedule.tile) {
        at_step(b, own, k, |b| {
            for &(sum, buf) in &stage.sums {
                let local = thread.clone() * Ix::Const(stage.layout.piece) + Ix::Const(k);
                total(b, sum, buf, (local, stage.layout.row));
            }
            values.extend(outputs(b, &all, k));
        });
    }
    store(b, own, &values);
}

/// A sum over states at the present step: the parts of all threads, the first at `first`, the next `apart` elements from there.
pub(super) fn total(b: &mut Builder<'_>, sum: Sum, buf: Buf, (first, apart): (Ix, i64)) {
    let mut total: Option<Reg> = None;
    for of in 0..i64::from(b.pass.schedule.warp) {
        let part = Rhs::Load(buf, Ix::Const(of * apart) + first.clone());
        let part = b.set(b.ty(), part);
        total = Some(match total {
            None => part,
            Some(total) => b.combine(sum.op, total, part),
        });
    }
    let key = (sum.id, b.copy_key(b.pass.recurrence.graph.axes(sum.id)));
    if let (Some(frame), Some(total)) = (b.frames.last_mut(), total) {
        frame.memo.insert(key, total);
    }
}
