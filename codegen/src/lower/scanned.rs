//! `order=scanned`: time cut into runs of `tile` steps, one a thread, unrolled; the inner axis outside of them. What a run
//! does to a state is the map h ↦ P h + S; the maps of a warp's runs are composed by a scan across its threads
//! (Hillis & Steele 1986), and every run then starts from its own state.
//!
//! ```text
//! h[..] = initial
//! for tile of warp runs {
//!     sums[·] = 0
//!     for inner axis {
//!         S = 0;  for k in run { a[k], b[k];  S = a[k] S + b[k] };  P = prod a[k]
//!         (P, S) = scan over threads, from h[..];  h = S of the thread before
//!         for k in run { where a chunk begins { saved[·] = h };  h = a[k] h + b[k];  sums[k] += c[k] h }
//!         h[..] = S of the last thread
//!     }
//!     for k in run { outputs from sums[k] }
//! }
//! last = h[..]
//! ```
//! With `unroll` above 1 that many points of the inner axis are under way at once (lower/flight.rs).
//! Every a is computed once. Where a = 2^(α s) with α the same at every step, P = 2^(α Σ s): one exponential a run, and
//! Σ s is the same at every point of the inner axis. Steps beyond the end are a = 1, b = 0.

use selscan_dsl::{AxisId, AxisSet, Node, NodeId, Op, Pair, Parts, ReduceOp, When};

use super::builder::{Builder, Slot};
use super::items::{What, Work, select};
use super::number::{Num, assign, chosen, math, mul, power, shuffled, step, value, variable};
use super::run::{Run, at_step, outputs, store, where_there};
use super::stepped::close_states;
use super::values::{reduce_identity, reduce_op};
use super::{flight, handed};
use crate::dtype::Ty;
use crate::loop_ir::{Buf, Ix, LoopOp, Reg, Rhs, Stmt};
use crate::structure::Level;

/// A reduction over the states: node, operation, operand, and its register by step and vector.
pub(super) struct Sum {
    id: NodeId,
    op: ReduceOp,
    x: NodeId,
    registers: Vec<Vec<Reg>>,
}

/// A thread's run of steps, and what tells its steps from those beyond the end of time.
pub(super) struct Masked {
    run: Run,
    /// Where a run may go beyond the end of time: whether each step is before it.
    within: Vec<Reg>,
    /// Where a run is before the end whole or not at all: whether it is.
    alive: Option<Reg>,
}

pub(super) fn lower(b: &mut Builder<'_>) {
    let pass = b.pass;
    let Some(pairs) = &pass.pairs else {
        return;
    };
    let work = select(pass);
    let (run, warp) = (i64::from(pass.schedule.tile), i64::from(pass.schedule.warp));
    handed::open(b);
    b.open_shared();
    let (lo, hi) = b.steps();
    let span = run * warp * i64::from(pass.schedule.tiles);
    let each = |b: &mut Builder<'_>, start: Ix| each_tile(b, pairs, &work, start, hi.clone());
    if b.shared_inputs.is_empty() {
        b.serial("tile", AxisSet::EMPTY, lo, hi.clone(), run * warp, each);
    } else {
        b.begin_shared(&lo, &hi, &lo);
        b.serial("span", AxisSet::EMPTY, lo, hi.clone(), span, |b, start| {
            b.fill_shared(&start);
            if pass.schedule.tiles == 1 {
                return each(b, start);
            }
            let end = (start.clone() + Ix::Const(span)).min(hi.clone());
            b.serial("tile", AxisSet::EMPTY, start, end, run * warp, each);
        });
    }
    handed::pass_on(b);
    close_states(b);
}

/// The tile that begins at step `start`.
fn each_tile(b: &mut Builder<'_>, pairs: &[Pair], work: &[Work], start: Ix, hi: Ix) {
    b.tile_now = start.clone();
    handed::pass_on(b);
    let masked = |run: Run| Masked {
        run,
        within: vec![],
        alive: None,
    };
    if let Some((run, warp)) = Run::cut(b) {
        // Most tiles are whole.
        let end = start.clone() + Ix::Const(run * warp - 1);
        let whole = masked(Run::whole(b, &start));
        let cut = masked(Run::of(b, &start, &hi));
        return b.choice(
            end,
            hi,
            |b| tile(b, pairs, work, whole),
            |b| tile(b, pairs, work, cut),
        );
    }
    let mut own = masked(Run::of(b, &start, &hi));
    if let Some((step, end)) = own.run.there.clone() {
        let (step, end) = (
            b.set(Ty::I64, Rhs::Index(step)),
            b.set(Ty::I64, Rhs::Index(end)),
        );
        own.alive = Some(b.set(Ty::Bool, Rhs::Op(LoopOp::ILt, vec![step, end])));
    }
    tile(b, pairs, work, own);
}

fn tile(b: &mut Builder<'_>, pairs: &[Pair], work: &[Work], mut run: Masked) {
    let pass = b.pass;
    let steps = i64::from(pass.schedule.tile);
    b.block(AxisSet::of(pass.recurrence.time), |b| {
        if let Some(last) = run.run.last.clone() {
            let end = b.set(Ty::I64, Rhs::Index(last + Ix::Const(1)));
            for k in 0..steps {
                let step = b.set(Ty::I64, Rhs::Index(run.run.first.clone() + Ix::Const(k)));
                let before = Rhs::Op(LoopOp::ILt, vec![step, end]);
                run.within.push(b.set(Ty::Bool, before));
            }
        }
        let sums = sums(b, work, steps);
        let loops: Vec<AxisId> = pass.structure.state_inner.iter().collect();
        let turn = Turn {
            pairs,
            work,
            run: &run,
            sums: &sums,
        };
        match loops[..] {
            [axis] if flight::fits(b, axis) => flight::each_point(b, &turn, axis),
            _ => b.each_point(&loops, i64::from(pass.schedule.unroll), &mut |b, at| {
                points(b, &turn, at);
            }),
        }
        b.state_regs.clear();
        let known: Vec<NodeId> = sums.iter().map(|s| s.id).collect();
        b.leave_for(&known, |b| close(b, work, &run.run, &sums));
    });
}

/// The outputs of a run.
fn close(b: &mut Builder<'_>, work: &[Work], run: &Run, sums: &[Sum]) {
    let pass = b.pass;
    let steps = i64::from(pass.schedule.tile);
    let mut vector = 0;
    b.each_vector(|b| {
        let mut results = Vec::new();
        for k in 0..steps {
            at_step(b, run, k, |b| {
                for sum in sums {
                    let axes = pass.recurrence.graph.axes(sum.id);
                    let key = (sum.id, b.copy_key(axes));
                    let register = sum.registers[k as usize][vector];
                    if let Some(frame) = b.frames.last_mut() {
                        frame.memo.insert(key, register);
                    }
                }
                results.extend(outputs(b, &these(work, false), k));
            });
        }
        store(b, run, &results);
        vector += 1;
    });
}

/// The outputs that read a state themselves, or those that do not.
fn these(work: &[Work], direct: bool) -> Vec<usize> {
    let of = |w: &Work| match w.what {
        What::Output(o) if w.direct == direct => Some(o),
        _ => None,
    };
    work.iter().filter_map(of).collect()
}

/// The reductions over the states, each with a register for every step and vector.
fn sums(b: &mut Builder<'_>, work: &[Work], steps: i64) -> Vec<Sum> {
    let graph = &b.pass.recurrence.graph;
    let structure = &b.pass.structure;
    let of = |w: &Work| match w.what {
        What::Reduce(id) => match graph.node(id) {
            Node::Reduce { op, x, .. } if structure.level(*x) == Level::State => {
                Some((id, *op, *x))
            }
            _ => None,
        },
        _ => None,
    };
    let found: Vec<_> = work.iter().filter_map(of).collect();
    let mut sums = Vec::with_capacity(found.len());
    for (id, op, x) in found {
        let mut registers = Vec::new();
        for _ in 0..steps {
            let mut vectors = Vec::new();
            b.each_vector(|b| {
                vectors.push(b.set(b.ty(), Rhs::Const(reduce_identity(op))));
            });
            registers.push(vectors);
        }
        sums.push(Sum {
            id,
            op,
            x,
            registers,
        });
    }
    sums
}

/// What a tile does at each point of the inner axis.
pub(super) struct Turn<'a> {
    pairs: &'a [Pair],
    work: &'a [Work],
    run: &'a Masked,
    sums: &'a [Sum],
}

/// A state's run at one point.
#[derive(Clone)]
pub(super) struct Chain {
    slots: Vec<(Slot, NodeId)>,
    /// (a, b) of every step.
    terms: Vec<(Num, Num)>,
    before: Num,
    /// The run as a map: the product of a, and its end from 0.
    decay: Num,
    end: Num,
    /// The state that the run starts from.
    start: Num,
    resets: bool,
}

impl Chain {
    /// The numbers that a turn leaves to later ones.
    pub fn numbers(&mut self) -> Vec<&mut Num> {
        let terms = self.terms.iter_mut().flat_map(|(a, c)| [a, c]);
        let map = [
            &mut self.before,
            &mut self.decay,
            &mut self.end,
            &mut self.start,
        ];
        terms.chain(map).collect()
    }
}

/// The points of one turn: their runs, scanned side by side (a shuffle takes long, and several overlap), then again
/// from the states that they start with.
fn points(b: &mut Builder<'_>, turn: &Turn<'_>, at: &[Ix]) {
    let last = b.pass.structure.state_inner.iter().last();
    let mut all = Vec::new();
    b.each_unrolled(last, at, |b| all.extend(begin(b, turn)));
    if b.pass.schedule.warp > 1 {
        scan(b, turn, &mut all);
    }
    let mut each = all.chunks((all.len() / at.len().max(1)).max(1));
    b.each_unrolled(last, at, |b| {
        if let Some(chains) = each.next() {
            finish(b, turn, chains);
        }
    });
}

/// The runs of the states at the present point, vector by vector.
pub(super) fn begin(b: &mut Builder<'_>, turn: &Turn<'_>) -> Vec<Chain> {
    let mut chains = Vec::new();
    b.each_vector(|b| chains.extend(vector(b, turn)));
    chains
}

/// What follows from the states that the runs at the present point start with: the states after them, sums, outputs.
pub(super) fn finish(b: &mut Builder<'_>, turn: &Turn<'_>, chains: &[Chain]) {
    let mut each = chains.chunks(turn.pairs.len().max(1)).enumerate();
    b.each_vector(|b| {
        let Some((vector, chains)) = each.next() else {
            return;
        };
        if b.pass.schedule.warp > 1 {
            chains.iter().for_each(|chain| keep_last(b, chain));
        }
        again(b, turn, vector, chains);
    });
}

/// The run of each state at the present point, in the present vector.
fn vector(b: &mut Builder<'_>, turn: &Turn<'_>) -> Vec<Chain> {
    let pass = b.pass;
    let steps = i64::from(pass.schedule.tile);
    let run = turn.run;
    let mut chains = Vec::new();
    for (state, pair) in pass.recurrence.state_ids().zip(turn.pairs) {
        let mut terms = Vec::new();
        for k in 0..steps {
            terms.push(at_step(b, &run.run, k, |b| {
                let (a, c) = (value(b, pair.a), value(b, pair.b));
                (masked(b, run, k, a, 1.0), masked(b, run, k, c, 0.0))
            }));
        }
        let slots = b.slots(state);
        let mut before = kept(b, &slots, When::Prev).into_iter().map(|(buf, ix)| {
            let load = Rhs::Load(buf, ix);
            b.set(b.ty(), load)
        });
        let Some(re) = before.next() else {
            continue;
        };
        let im = before.next();
        drop(before);
        let before = Num { re, im };
        let (decay, end) = if pass.schedule.warp > 1 {
            let mut end = terms[0].1;
            for &(a, c) in &terms[1..] {
                end = step(b, a, end, c, pair.resets);
            }
            (decay(b, run, pair.a, &terms), end)
        } else {
            (before, before)
        };
        chains.push(Chain {
            slots,
            terms,
            before,
            decay,
            end,
            start: before,
            resets: pair.resets,
        });
    }
    chains
}

/// Where the state before a tile lies at the present point, or the one after it, half by half.
fn kept(b: &Builder<'_>, slots: &[(Slot, NodeId)], when: When) -> Vec<(Buf, Ix)> {
    let at = |&(slot, _): &(Slot, NodeId)| {
        let stored = b.state_bufs.get(&(slot, when))?;
        Some((stored.buf, b.stored_ix(stored, &[])))
    };
    slots.iter().filter_map(at).collect()
}

/// Runs the states of a point from where they start; what reads them is done on the way.
fn again(b: &mut Builder<'_>, turn: &Turn<'_>, vector: usize, chains: &[Chain]) {
    let &Turn {
        work, run, sums, ..
    } = turn;
    let mut results = Vec::new();
    let mut held: Vec<Num> = chains.iter().map(|c| c.start).collect();
    for k in 0..i64::from(b.pass.schedule.tile) {
        save(b, &run.run, k, chains, &held);
        at_step(b, &run.run, k, |b| {
            for (h, chain) in held.iter_mut().zip(chains) {
                read_as(b, &chain.slots, When::Prev, *h);
                let (a, c) = chain.terms[k as usize];
                *h = step(b, a, *h, c, chain.resets);
                read_as(b, &chain.slots, When::Next, *h);
            }
            for sum in sums {
                let term = b.value(sum.x);
                let to = sum.registers[k as usize][vector];
                let op = LoopOp::Math(reduce_op(sum.op));
                b.stmt(Stmt::Set(to, Rhs::Op(op, vec![to, term])));
            }
            results.extend(outputs(b, &these(work, true), k));
        });
    }
    if !results.is_empty() {
        store(b, &run.run, &results);
    }
    if b.pass.schedule.warp == 1 {
        for (h, chain) in held.iter().zip(chains) {
            keep(b, chain, *h);
        }
    }
}

/// Saves the states of a point before step `k` of a run, where a chunk of time begins there.
fn save(b: &mut Builder<'_>, run: &Run, k: i64, chains: &[Chain], held: &[Num]) {
    let steps = i64::from(b.pass.schedule.tile);
    b.at_chunk(&run.first, (steps, k), |b, number| {
        where_there(b, run, k, |b| {
            for (h, chain) in held.iter().zip(chains) {
                let parts = [Some(h.re), h.im];
                for (&(slot, _), part) in chain.slots.iter().zip(parts.into_iter().flatten()) {
                    b.save(slot, number, part);
                }
            }
        });
    });
}

/// Puts the state after the last lane's run where the next tile finds it.
fn keep_last(b: &mut Builder<'_>, chain: &Chain) {
    let lanes = b.pass.schedule.warp as u8;
    if handed::in_use(b) {
        let before = Ix::Const(i64::from(lanes) - 2);
        let thread = b.thread_ix();
        return b.choice(before, thread, |b| keep(b, chain, chain.end), |_| {});
    }
    // Every lane has its own copy.
    let last = shuffled(b, LoopOp::Broadcast(lanes - 1), chain.end);
    keep(b, chain, last);
}

/// Puts a state where the next tile finds it.
fn keep(b: &mut Builder<'_>, chain: &Chain, h: Num) {
    let parts = [Some(h.re), h.im];
    let when = match handed::in_use(b) {
        true => When::Next,
        false => When::Prev,
    };
    let kept = kept(b, &chain.slots, when);
    for ((buf, ix), part) in kept.into_iter().zip(parts.into_iter().flatten()) {
        b.stmt(Stmt::Store(buf, ix, part));
    }
}

/// The state's halves are read as `h` from here on.
fn read_as(b: &mut Builder<'_>, slots: &[(Slot, NodeId)], when: When, h: Num) {
    let parts = [Some(h.re), h.im];
    for (&(slot, _), part) in slots.iter().zip(parts.into_iter().flatten()) {
        let decl = b.pass.recurrence.state(slot.state);
        let key = b.copy_key(decl.axes.iter().copied().collect());
        b.state_regs.insert((slot, when, key), part);
    }
}

/// The number, or `idle` beyond the end of time.
fn masked(b: &mut Builder<'_>, run: &Masked, k: i64, x: Num, idle: f64) -> Num {
    match run.within.get(k as usize) {
        Some(&within) => chosen(b, within, x, idle),
        None => x,
    }
}

/// The product of the run's a.
fn decay(b: &mut Builder<'_>, run: &Masked, a: Parts, terms: &[(Num, Num)]) -> Num {
    if run.run.last.is_none()
        && let Some(product) = exponential(b, run, a, terms.len() as i64)
    {
        return product;
    }
    let first = terms[0].0;
    if terms
        .iter()
        .all(|t| t.0.re == first.re && t.0.im == first.im)
    {
        return power(b, first, terms.len());
    }
    let rest = &terms[1..];
    rest.iter().fold(first, |product, t| mul(b, product, t.0))
}

/// The product of a = 2^(α s) over the run as 2^(α Σ s), where α is the same at every step and s at every inner point.
fn exponential(b: &mut Builder<'_>, run: &Masked, a: Parts, steps: i64) -> Option<Num> {
    let pass = b.pass;
    let (rec, structure) = (&pass.recurrence, &pass.structure);
    let graph = &rec.graph;
    let Node::Op(Op::Exp2, x) = graph.node(a.re) else {
        return None;
    };
    // α s as it is written, or the product taken apart.
    let fixed_at = |id: &NodeId| structure.level(*id) == Level::Invariant;
    let mut factors = match graph.node(x[0]) {
        Node::Op(Op::Mul, xs) => xs.to_vec(),
        _ => return None,
    };
    while let Some(at) = factors
        .iter()
        .position(|id| !fixed_at(id) && matches!(graph.node(*id), Node::Op(Op::Mul, _)))
    {
        if let Node::Op(_, xs) = graph.node(factors.swap_remove(at)) {
            factors.extend(xs);
        }
    }
    let (fixed, moving): (Vec<NodeId>, Vec<NodeId>) = factors.into_iter().partition(fixed_at);
    let [moving] = moving[..] else {
        return None;
    };
    let apart = structure.inner_axes(rec, moving).is_empty();
    if a.im.is_some() || fixed.is_empty() || !apart {
        return None;
    }
    // A name of its own for Σ s: the last copy of time that no step has.
    let time = rec.time;
    let frame = b.frame_of(graph.axes(moving));
    let key = b.with_axis(time, Ix::Const(0), steps, |b| {
        (moving, b.copy_key(graph.axes(moving)))
    });
    let sum = match b.frames[frame].memo.get(&key) {
        Some(&sum) => sum,
        None => {
            let terms: Vec<Reg> = (0..steps)
                .map(|k| at_step(b, &run.run, k, |b| b.value(moving)))
                .collect();
            let mut terms = terms.into_iter();
            let mut sum = terms.next()?;
            for term in terms {
                let both = Rhs::Op(LoopOp::Math(Op::Add), vec![sum, term]);
                sum = b.emit(frame, b.ty(), both);
            }
            b.frames[frame].memo.insert(key, sum);
            sum
        }
    };
    let mut exponent = sum;
    for id in fixed {
        let factor = b.value(id);
        exponent = math(b, Op::Mul, &[factor, exponent]);
    }
    Some(Num {
        re: math(b, Op::Exp2, &[exponent]),
        im: None,
    })
}

/// From each thread's maps and the states before the tile: the states before each thread's runs, and after them.
pub(super) fn scan(b: &mut Builder<'_>, turn: &Turn<'_>, chains: &mut [Chain]) {
    let run = turn.run;
    let warp = b.pass.schedule.warp as u8;
    let thread = b.thread_ix();
    for chain in chains.iter_mut() {
        if let Some(alive) = run.alive {
            chain.end = chosen(b, alive, chain.end, 0.0);
            chain.decay = chosen(b, alive, chain.decay, 1.0);
        }
        chain.end = variable(b, chain.end, chain.before);
        chain.decay = variable(b, chain.decay, chain.decay);
        // The first thread's run begins at the state before the tile.
        b.choice(
            thread.clone(),
            Ix::Const(1),
            |b| {
                let from = step(b, chain.decay, chain.before, chain.end, chain.resets);
                assign(b, chain.end, from);
            },
            |_| {},
        );
    }
    let mut far = 1;
    while far < warp {
        for chain in chains.iter_mut() {
            compose(b, chain, far, &thread);
        }
        far *= 2;
    }
    for chain in chains.iter_mut() {
        chain.start = shuffled(b, LoopOp::ShuffleUp(1), chain.end);
        b.choice(
            thread.clone(),
            Ix::Const(1),
            |b| assign(b, chain.start, chain.before),
            |_| {},
        );
    }
}

/// One level of the scan: each map after that of the thread `far` below.
fn compose(b: &mut Builder<'_>, chain: &mut Chain, far: u8, thread: &Ix) {
    let is_last = u32::from(far) * 2 >= b.pass.schedule.warp;
    if !chain.resets && chain.end.im.is_none() && chain.decay.im.is_none() {
        let both = Rhs::Op(LoopOp::FmaUp(far), vec![chain.decay.re, chain.end.re]);
        chain.end.re = b.set(b.ty(), both);
        if !is_last {
            let both = Rhs::Op(LoopOp::MulUp(far), vec![chain.decay.re]);
            chain.decay.re = b.set(b.ty(), both);
        }
        return;
    }
    let other_end = shuffled(b, LoopOp::ShuffleUp(far), chain.end);
    let other_decay = (!is_last).then(|| shuffled(b, LoopOp::ShuffleUp(far), chain.decay));
    b.choice(
        Ix::Const(i64::from(far) - 1),
        thread.clone(),
        |b| {
            let from = step(b, chain.decay, other_end, chain.end, chain.resets);
            assign(b, chain.end, from);
            if let Some(other) = other_decay {
                let product = mul(b, chain.decay, other);
                assign(b, chain.decay, product);
            }
        },
        |_| {},
    );
}
