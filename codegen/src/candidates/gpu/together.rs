//! Threads that share out the points of each nest of a step (order=stepped, warp above 1), whatever the recurrence.
//! In: a scan's recurrence, extents. Out: schedules, the most promising first.

use selscan_dsl::{Extents, Recurrence};

use crate::options::Options;
use crate::schedule::{Order, Schedule};
use crate::structure::Structure;

/// Points of a step that are one thread's work.
pub(super) const FEW: usize = 16;

/// A quarter as many threads as the largest nest has points (measured, sm_90). `several`: whether a multiprocessor has several items, none
/// of which is busy with products by a matrix; then blocks are small, so that one runs while the threads of another wait for each other,
/// but not so many at once that the matrices which they read have no place in the cache.
pub(super) fn together(
    (rec, structure): (&Recurrence, &Structure),
    options: &Options,
    busiest: usize,
    several: bool,
    base: &Schedule,
) -> [Schedule; 6] {
    let row = row_of_matrix(rec, structure, options);
    let unroll = row.unwrap_or(4).clamp(4, 8);
    let most = match (several, row) {
        (false, _) => 512,
        (true, Some(_)) => 256,
        (true, None) => 128,
    };
    let warp = 1 << (busiest / 4).clamp(32, most).ilog2();
    let of = |warp: u32, unroll, ahead| Schedule {
        order: Order::Stepped,
        tile: 16,
        unroll,
        warp,
        threads: warp.max(64),
        ahead,
        ..*base
    };
    let other = if unroll == 4 { 8 } else { 4 };
    [
        of(warp, unroll, 1),
        of(warp * 2, unroll, 1),
        of((warp / 2).max(32), unroll, 1),
        of(warp, other, 1),
        of(warp, unroll, 0),
        of(warp * 2, other, 1),
    ]
}

/// The most inner points that a value of a step is computed at.
pub(super) fn busiest(rec: &Recurrence, structure: &Structure, extents: &Extents) -> usize {
    let live = rec.graph.reachable(&rec.roots()).into_iter();
    let points = live.map(|id| {
        let axes = structure.inner_axes(rec, id).iter();
        axes.map(|a| extents.get(a)).fold(1, usize::saturating_mul)
    });
    points.max().unwrap_or(1)
}

/// Elements of a matrix's row that a thread loads at once: 16 bytes, where a recurrence has matrices of inner axes alone.
fn row_of_matrix(rec: &Recurrence, structure: &Structure, options: &Options) -> Option<u32> {
    let matrices = rec.inputs.iter().filter(|i| {
        let inner = i.axes.iter().filter(|&&a| structure.inner.contains(a));
        inner.count() > 1 && !i.axes.contains(&rec.time)
    });
    let rows = matrices.map(|i| {
        let bytes = options.dtype(&i.name).bytes() * if i.complex { 2 } else { 1 };
        16 / bytes as u32
    });
    rows.max()
}
