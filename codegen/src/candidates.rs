//! The schedules worth trying for a recurrence on a machine. In: a [`Scan`], extents, options, a target. Out:
//! schedules that [`Plan::new`] accepts, the default first.

use selscan_dsl::Extents;
use selscan_dsl::scan::Scan;

use crate::options::Options;
use crate::plan::{Plan, Refusal};
use crate::schedule::{Algorithm, Order, Schedule, THREADS};
use crate::structure::Structure;
use crate::target::{Gpu, Target};

/// Schedules worth trying, the default first. Every one of them is accepted by [`Plan::new`].
#[must_use]
pub fn candidates(
    scan: &Scan,
    extents: &Extents,
    options: &Options,
    target: &Target,
) -> Vec<Schedule> {
    let fits = |s: &Schedule| Plan::new(scan, extents, options, target, s).is_ok();
    let mut all = proposals(scan, extents, options, target);
    all.retain(fits);
    all
}

/// The plan of the default schedule: of the first of [`candidates`].
///
/// # Errors
/// Why the last one was refused, where none fits.
pub fn default_plan(
    scan: &Scan,
    extents: &Extents,
    options: &Options,
    target: &Target,
) -> Result<Plan, Refusal> {
    let none = Refusal(format!("{} has no schedule", scan.recurrence.name));
    let mut plan = Err(none);
    for schedule in proposals(scan, extents, options, target) {
        plan = Plan::new(scan, extents, options, target, &schedule);
        if plan.is_ok() {
            break;
        }
    }
    plan
}

/// Schedules that may fit, the most promising first.
fn proposals(scan: &Scan, extents: &Extents, options: &Options, target: &Target) -> Vec<Schedule> {
    match &target.gpu {
        Some(gpu) => gpu_proposals(scan, extents, gpu),
        None => cpu_proposals(scan, extents, options, target),
    }
}

/// On a GPU: threads are the lanes, and there must be enough of them.
fn gpu_proposals(scan: &Scan, extents: &Extents, gpu: &Gpu) -> Vec<Schedule> {
    let rec = &scan.recurrence;
    let structure = Structure::of(rec);
    let steps = extents.get(rec.time);
    let points: usize = structure
        .parallel
        .iter()
        .map(|&a| extents.get(a))
        .fold(1, usize::saturating_mul);
    // Warps that keep every scheduler of the GPU busy.
    let wanted = 32 * 4 * 4 * gpu.multiprocessors as usize;
    let base = Schedule {
        algorithm: Algorithm::Sequential,
        order: Order::Registers,
        lanes: 1,
        block: 1,
        tile: 64,
        unroll: 1,
        warp: 1,
        threads: THREADS,
        ahead: 0,
        share: 0,
        resident: 0,
    };
    let mut out = Vec::new();
    if scan.is_diagonal() && steps >= 32 {
        let mut warps = [1, 2, 4, 8, 16, 32];
        warps.sort_by_key(|&w| {
            let threads = points.saturating_mul(w as usize);
            // The fewest threads that are enough; else the most.
            if threads >= wanted {
                (0, w)
            } else {
                (1, 32 - w)
            }
        });
        for warp in warps {
            for (tile, block) in [(16, 1), (16, 2), (8, 2), (8, 1), (32, 1), (8, 4)] {
                for unroll in [1, 2] {
                    for threads in [128, 256, 64] {
                        out.push(Schedule {
                            order: Order::Scanned,
                            block,
                            tile,
                            unroll,
                            warp,
                            threads,
                            ..base
                        });
                    }
                }
            }
        }
    }
    for warp in [1, 4, 8, 2, 16, 32] {
        for block in [1, 2] {
            for unroll in [1, 4, 8] {
                out.push(Schedule {
                    block,
                    unroll: unroll.min(steps.max(1) as u32),
                    warp,
                    ..base
                });
            }
        }
    }
    if scan.is_diagonal() && steps >= 64 {
        let chunks = (wanted / points.max(1)).clamp(1, steps / 32);
        let chunk = 1 << (steps / chunks).max(32).ilog2();
        out.push(Schedule {
            algorithm: Algorithm::Chunked { chunk },
            ..base
        });
    }
    for order in [Order::Tiled, Order::Stepped] {
        for unroll in [1, 4] {
            out.push(Schedule {
                order,
                tile: 16,
                unroll,
                ..base
            });
        }
    }
    out
}

/// On a CPU: lanes are vectors, and what a tile keeps must fit in the caches.
fn cpu_proposals(
    scan: &Scan,
    extents: &Extents,
    options: &Options,
    target: &Target,
) -> Vec<Schedule> {
    let rec = &scan.recurrence;
    let structure = Structure::of(rec);
    let whole = target.lanes(options.compute);
    let lane_extent = structure.lane.map_or(0, |a| extents.get(a));
    let steps = extents.get(rec.time);
    let items: usize = structure
        .parallel
        .iter()
        .map(|&a| extents.get(a))
        .fold(1, usize::saturating_mul)
        / whole as usize;
    let mut out: Vec<Schedule> = Vec::new();
    let mut algorithms = vec![Algorithm::Sequential];
    // The two passes over the data pay only where work items are fewer than the cores.
    if scan.is_diagonal() && steps >= 64 {
        let chunk = steps / (target.cores.max(1) as usize * 2);
        // A power of two: lengths of one magnitude share their code.
        let chunk = 1 << chunk.clamp(32, 1 << 20).ilog2();
        let at = if items < target.cores as usize && target.cores > 1 {
            0
        } else {
            1
        };
        algorithms.insert(at, Algorithm::Chunked { chunk });
    }
    for algorithm in algorithms {
        for order in [Order::Tiled, Order::Registers, Order::Stepped] {
            let (tiles, unrolls): (&[u32], &[u32]) = match order {
                Order::Registers => (&[64], &[1]),
                Order::Tiled => (&[64, 32, 128, 256], &[1, 4, 2]),
                Order::Stepped | Order::Scanned => (&[64], &[4, 1, 8]),
            };
            // Independent vectors hide the latency of one another; unrolled bodies want fewer.
            let wide: &[(u32, u32)] = match order {
                Order::Tiled => &[(whole, 4), (whole, 2), (whole, 8), (whole, 1), (1, 1)],
                _ => &[(whole, 2), (whole, 1), (whole, 4), (1, 1)],
            };
            for &(lanes, block) in wide {
                if lanes > 1 && lane_extent < (lanes * block) as usize {
                    continue;
                }
                for &tile in tiles {
                    for &unroll in unrolls {
                        out.push(Schedule {
                            algorithm,
                            order,
                            lanes,
                            block,
                            tile,
                            unroll,
                            warp: 1,
                            threads: THREADS,
                            ahead: 0,
                            share: 0,
                            resident: 0,
                        });
                    }
                }
            }
        }
    }
    out
}
