//! The schedules worth trying for a recurrence on a machine. In: a [`Scan`], extents, options, a target. Out:
//! schedules that [`Plan::new`] accepts, the default first.

mod gpu;

pub(crate) use gpu::proposals as gpu_proposals;
use selscan_dsl::Extents;
use selscan_dsl::scan::Scan;

use crate::dtype::Dtype;
use crate::lower::shared_bytes;
use crate::options::Options;
use crate::plan::{Pass, Plan, Refusal};
use crate::schedule::{Algorithm, Order, Schedule};
use crate::structure::Structure;
use crate::target::Target;

/// Schedules worth trying, the default first. Every one of them is accepted by [`Plan::new`].
#[must_use]
pub fn candidates(
    scan: &Scan,
    extents: &Extents,
    options: &Options,
    target: &Target,
) -> Vec<Schedule> {
    let fits = |s: &Schedule| {
        Plan::new(scan, extents, options, target, s).is_ok_and(|plan| has_room(&plan))
    };
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
        let made = Plan::new(scan, extents, options, target, &schedule);
        let good = made.as_ref().is_ok_and(has_room);
        // One that leaves little room is better than none.
        if good || plan.is_err() {
            plan = made;
        }
        if good {
            break;
        }
    }
    plan
}

/// Bytes of shared memory a thread, up to which a multiprocessor still has room for the blocks that its registers allow.
const SHARED_PER_THREAD: u64 = 384;

/// Whether what blocks share leaves a multiprocessor room for several of them.
fn has_room(plan: &Plan) -> bool {
    let compute = plan.compute.storage();
    plan.passes.iter().all(|pass| pass_has_room(pass, compute))
}

/// The same of one pass.
pub(crate) fn pass_has_room(pass: &Pass, compute: Dtype) -> bool {
    let s = &pass.schedule;
    let bytes = shared_bytes(pass, compute);
    let most = match (s.order, s.resident) {
        // Meant to have a multiprocessor to itself.
        (Order::Staged, _) | (_, 1) => 3 * SHARED_PER_THREAD,
        _ => SHARED_PER_THREAD,
    };
    bytes <= most * u64::from(s.threads)
}

/// Schedules that may fit, the most promising first.
fn proposals(scan: &Scan, extents: &Extents, options: &Options, target: &Target) -> Vec<Schedule> {
    match &target.gpu {
        Some(gpu) => {
            let structure = Structure::of(&scan.recurrence);
            gpu_proposals((scan, &structure), extents, options, gpu)
        }
        None => cpu_proposals(scan, extents, options, target),
    }
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
                Order::Stepped | Order::Scanned | Order::Staged => (&[64], &[4, 1, 8]),
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
                            lanes,
                            block,
                            tile,
                            unroll,
                            save: options.save,
                            ..Schedule::plain(order)
                        });
                    }
                }
            }
        }
    }
    out
}
