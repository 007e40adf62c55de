//! Lowering: a [`Plan`] as loops. Cannot fail: the plan has said no where there was cause.
//!
//! Each pass becomes one [`Proc`]: work items over the parallel axes (blocks of vectors on the lane axis, then
//! single points for what is left over), and in each item time and the inner axes nested by the pass's
//! [`Order`], one file each.

mod builder;
mod chunks;
mod flight;
mod gathered;
mod handed;
mod items;
mod loops;
mod memory;
mod nest;
mod number;
mod registers;
mod retraced;
mod run;
mod scanned;
mod shared;
mod staged;
mod stepped;
mod sums;
mod tiled;
mod together;
mod turns;
mod values;

use selscan_dsl::AxisId;

use crate::ahead::{Tiles, ahead};
use crate::dtype::Dtype;
use crate::loop_ir::{Ix, LoopKind, Proc, Program, Stmt, Var};
use crate::narrow::is_narrow;
use crate::plan::{Pass, Plan};
use crate::schedule::Order;
use crate::stack::{bounded, bounded_in_common};
use crate::wide::wide;
use builder::Builder;
pub(crate) use shared::tile_bytes;
pub(crate) use staged::Parts;

/// The bytes of shared memory that the items of a block have, each for its lanes.
pub(crate) fn exchange_bytes(pass: &Pass, compute: Dtype) -> u64 {
    match pass.schedule.order {
        Order::Staged => staged::exchange_bytes(pass, compute),
        Order::Scanned => handed::bytes(pass, compute),
        Order::Registers | Order::Tiled | Order::Stepped => 0,
    }
}

/// The bytes of shared memory of a block, but for a barrier.
pub(crate) fn shared_bytes(pass: &Pass, compute: Dtype) -> u64 {
    tile_bytes(pass, compute) + exchange_bytes(pass, compute)
}

/// The plan's loops.
#[must_use]
pub fn lower(plan: &Plan) -> Program {
    let mut workspaces = plan.workspaces.clone();
    let mut procs: Vec<Proc> = Vec::with_capacity(plan.passes.len());
    for passes in plan.passes.chunk_by(|_, next| next.beside) {
        let pass = &passes[0];
        let mut proc = bounded(lower_passes(plan, passes), plan.stack, &mut workspaces);
        if pass.schedule.order == Order::Stepped {
            proc = bounded_in_common(proc, plan.common, &mut workspaces);
        }
        if plan.wide {
            proc = wide(proc);
            if pass.schedule.ahead > 0 {
                let tiles = match (pass.schedule.order, pass.retraced) {
                    (Order::Staged, 0) => Tiles::Before,
                    (Order::Staged, _) => Tiles::After,
                    // Few threads wait for memory by themselves, and have registers for what arrives.
                    (Order::Scanned, _) if pass.schedule.several_under_way() => Tiles::Before,
                    // A step of many threads is a few meetings: it must not wait for memory between them.
                    (Order::Stepped, _) if pass.schedule.warp > 1 => Tiles::Before,
                    _ => Tiles::Never,
                };
                proc = ahead(proc, pass.schedule.ahead, tiles);
            }
            proc.narrow = is_narrow(&proc, &plan.extents);
        }
        procs.push(proc);
    }
    Program { procs, workspaces }
}

/// Passes that know nothing of one another as one proc: its items are those of the first, then those of the next.
fn lower_passes(plan: &Plan, passes: &[Pass]) -> Proc {
    let mut proc = Builder::empty(plan, &passes[0]);
    let item = proc.var("item");
    let mut parts: Vec<(Ix, Vec<Stmt>)> = Vec::new();
    let mut before = Ix::Const(0);
    for pass in passes {
        let mut b = Builder::over(proc, plan, pass);
        let own = match parts.is_empty() {
            true => item,
            false => b.proc.var("own"),
        };
        let (items, mut body) = lower_pass(&mut b, own);
        if own != item {
            body.insert(0, Stmt::Let(own, Ix::Var(item) - before.clone()));
        }
        before = before + items;
        parts.push((before.clone(), body));
        proc = b.proc;
    }
    proc.items = before;
    let last = parts.pop().map(|(_, body)| body).unwrap_or_default();
    let body = parts.into_iter().rev().fold(last, |els, (end, then)| {
        vec![Stmt::If {
            lhs: Ix::Var(item),
            rhs: end,
            then,
            els,
        }]
    });
    proc.body = vec![Stmt::For {
        var: item,
        kind: LoopKind::Core,
        lo: Ix::Const(0),
        hi: proc.items.clone(),
        step: 1,
        body,
    }];
    proc
}

/// One dimension of the work items.
#[derive(Clone)]
enum Dim {
    /// A parallel axis, point by point.
    Axis(AxisId),
    /// Chunks of time.
    Chunk,
    /// Blocks of the lane axis.
    Blocks,
    /// Parts of sums over the lane axis: several blocks each.
    Parts,
}

/// The blocks of `width` points of an axis, and the points left over.
pub(crate) fn blocks(extent: &Ix, width: i64) -> Ix {
    let whole = extent.clone() / Ix::Const(width);
    whole.clone() + (extent.clone() - whole * Ix::Const(width))
}

/// How many items a pass has, and the statements of one.
fn lower_pass(b: &mut Builder<'_>, item: Var) -> (Ix, Vec<Stmt>) {
    let (plan, pass) = (b.plan, b.pass);
    let (rec, schedule) = (&pass.recurrence, &pass.schedule);
    let lane = pass.structure.lane;
    let width = i64::from(schedule.lanes * schedule.block);
    // Whole blocks first, then the points left over, one item each.
    let lane_extent = lane.map(|a| pass.extents[a.0 as usize].clone());
    let whole = lane_extent.clone().map(|n| n / Ix::Const(width));
    let blocks = lane_extent
        .as_ref()
        .map_or(Ix::Const(1), |n| blocks(n, width));
    let parts = pass.sums.as_ref().filter(|sums| sums.parts > 0);
    let chunks = pass.chunk.map(|c| {
        let all = pass.extents[rec.time.0 as usize].clone();
        let chunks = all.div_ceil(i64::from(c));
        // Without a step there is still a last state.
        match pass.reach > 0 && pass.last.iter().any(Option::is_some) {
            true => chunks.clone() + (Ix::Const(1) - chunks.min(Ix::Const(1))),
            false => chunks,
        }
    });
    let mut dims: Vec<(Dim, Ix)> = Vec::new();
    for &axis in pass.structure.parallel.iter().filter(|&&a| Some(a) != lane) {
        dims.push((Dim::Axis(axis), pass.extents[axis.0 as usize].clone()));
    }
    let along = plan.wide && pass.runs_along_time();
    let chunks = chunks.map(|n| (Dim::Chunk, n));
    if !along {
        dims.extend(chunks.clone());
    }
    match parts {
        Some(sums) => dims.push((Dim::Parts, sums.all.clone())),
        None => dims.extend(lane.map(|_| (Dim::Blocks, blocks.clone()))),
    }
    if along {
        dims.extend(chunks);
    }
    let items = dims
        .iter()
        .fold(Ix::Const(1), |n, (_, extent)| n * extent.clone());

    let mut lets = Vec::new();
    let mut block = None;
    let mut rest = item;
    for (k, (dim, extent)) in dims.iter().enumerate().rev() {
        let name = match dim {
            Dim::Axis(axis) => rec.axis_name(*axis).to_lowercase(),
            Dim::Chunk => "chunk".to_owned(),
            Dim::Blocks => "block".to_owned(),
            Dim::Parts => "part".to_owned(),
        };
        let own = if k == 0 {
            b.proc.vars[rest.0 as usize] = name;
            rest
        } else {
            let quotient = b.proc.var(format!("rest{k}"));
            lets.push(Stmt::Let(quotient, Ix::Var(rest) / extent.clone()));
            let own = b.proc.var(name);
            lets.push(Stmt::Let(
                own,
                Ix::Var(rest) - Ix::Var(quotient) * extent.clone(),
            ));
            rest = quotient;
            own
        };
        match dim {
            Dim::Axis(axis) => b.bind_axis(*axis, Ix::Var(own)),
            Dim::Chunk => b.chunk = Some(Ix::Var(own)),
            Dim::Blocks => {
                block = Some(own);
                b.part = Some(Ix::Var(own));
            }
            Dim::Parts => {
                block = Some(b.proc.var("block"));
                b.part = Some(Ix::Var(own));
            }
        }
    }
    let mut body = Vec::new();
    match (block, whole) {
        (Some(block), Some(whole)) if width > 1 => {
            let vectors = lane_body(b, block, Ix::Const(0), schedule.lanes, schedule.block);
            let left_over = match &lane_extent {
                Some(Ix::Const(n)) => n % width != 0,
                _ => lane.is_none_or(|a| plan.multiple(rec.canonical(a)) % width != 0),
            };
            if left_over {
                // Item `whole + k` runs the single point whole·width + k.
                let skipped = whole.clone() * Ix::Const(width) - whole.clone();
                let points = lane_body(b, block, skipped, 1, 1);
                body.push(Stmt::If {
                    lhs: Ix::Var(block),
                    rhs: whole,
                    then: vectors,
                    els: points,
                });
            } else {
                body.extend(vectors);
            }
        }
        (Some(block), _) => body.extend(lane_body(b, block, Ix::Const(0), 1, 1)),
        (None, _) => {
            b.begin(None, 1, 1);
            nest::nest(b);
            body.extend(b.finish());
        }
    }
    if let (Some(sums), Some(block), Some(Ix::Var(part))) = (parts, block, b.part.clone()) {
        body = sums.each_block(part, block, &blocks, body);
        lets.extend(b.clear_parts());
    }
    lets.extend(body);
    (items, lets)
}

/// The statements of one item whose lane axis begins at `block`·lanes·vectors + `skipped`.
fn lane_body(b: &mut Builder<'_>, block: Var, skipped: Ix, lanes: u32, vectors: u32) -> Vec<Stmt> {
    let first = b.proc.var("first");
    let bind = Stmt::Let(
        first,
        Ix::Var(block) * Ix::Const(i64::from(lanes * vectors)) + skipped,
    );
    b.begin(Some(first), lanes, vectors);
    nest::nest(b);
    let mut body = vec![bind];
    body.extend(b.finish());
    body
}
