//! What is worth trying on a GPU. In: a scan, extents, a [`Gpu`]. Out: schedules, the most promising first; a plan says
//! which of them fit.
//!
//! Two things decide. Threads: a multiprocessor wants 16 warps or so, and where channels are too few for that, threads
//! share an item, either the steps of a tile (order=scanned) or whole chunks (two passes over the data). Layout: where
//! time is innermost in memory a thread's steps are neighbours, which suits scanned; where channels are, neighbouring
//! threads read neighbours, which suits order=registers. Order=staged suits both: where time is innermost and channels are
//! many, and where channels are innermost and too few for a thread each. What none of them fits is run step by step.

mod together;

use selscan_dsl::Extents;
use selscan_dsl::scan::Scan;

use crate::chunked::{is_windowed, steps_before};
use crate::dtype::Ty;
use crate::options::Options;
use crate::plan::{streams, time_is_last};
use crate::schedule::{Algorithm, Order, Schedule};
use crate::structure::Structure;
use crate::target::Gpu;
use together::{FEW, busiest, together};

/// Warps of a multiprocessor that hide the latency of one another: 16 are what 128 registers a thread leave room for.
const WARPS: usize = 15;

/// Registers of states that a turn of a thread's loop over time may go through.
const MOST_UNROLLED: usize = 256;

/// Registers of states that a thread holds.
const MOST_HELD: usize = 48;

/// Registers of a channel's states from which on threads share them.
const LARGE: usize = 32;

/// Tiles of time from which on a block does better to put down the next one while it reads another.
const LONG: usize = 16;

/// Schedules worth trying.
pub(crate) fn proposals(
    (scan, structure): (&Scan, &Structure),
    extents: &Extents,
    options: &Options,
    gpu: &Gpu,
) -> Vec<Schedule> {
    let rec = &scan.recurrence;
    let steps = extents.get(rec.time);
    let points = structure
        .parallel
        .iter()
        .map(|&a| extents.get(a))
        .fold(1, usize::saturating_mul);
    let wanted = 32 * WARPS * gpu.multiprocessors as usize;
    let inner = structure.state_inner.iter().map(|a| extents.get(a));
    // A complex state has two numbers a point, one of f64 two registers.
    let complex = rec.states.iter().any(|s| s.complex);
    let words = if complex { 2 } else { 1 } * if options.compute == Ty::F64 { 2 } else { 1 };
    let states = inner.fold(words, usize::saturating_mul).max(1);
    let time_last = time_is_last(rec, structure);
    let base = Schedule {
        tile: 32,
        ahead: 1,
        save: options.save,
        ..Schedule::plain(Order::Registers)
    };
    // Asked once: of the many ways to scan, a plan would refuse one after another.
    let scans = structure.untileable.is_none() && structure.state_inner.iter().count() < 2;
    let mut across = Vec::new();
    if scans {
        if words == 1 && !scan.resets() {
            let row: usize = streams(rec, structure)
                .map(|i| options.dtype(&i.name).bytes())
                .sum();
            let multiprocessors = gpu.multiprocessors as usize;
            across = under_way(&base, steps, (points, states), multiprocessors, row);
        }
        across.extend(scanned(
            &base,
            steps,
            points,
            wanted,
            (words > 1, scan.resets()),
        ));
    }
    let apart = apart(&base, steps, (points, states), wanted, time_last);
    let several = steps > 1 && scan.is_diagonal();
    let mut out = Vec::new();
    let lane = structure.lane.map_or(1, |a| extents.get(a));
    let mut shared = staged(&base, steps, (points, states), (wanted, lane));
    // Where channels are innermost, what saves states for a gradient runs chunk by chunk, and a thread for each channel is
    // better where that makes eight warps a multiprocessor (measured, sm_90).
    let saves = options.save > 0;
    if time_last || !saves && points < wanted / 2 {
        out.append(&mut shared);
    }
    if steps > 1 && !saves && is_windowed(scan) {
        if time_last {
            out.extend(short_windows(&base, steps, steps_before(rec, extents)));
        } else if points < wanted {
            out.extend(windows(&base, steps, wanted / points.max(1)));
        }
    }
    let large = states > LARGE;
    if several && time_last && points < wanted {
        if saves {
            // A scan across threads saves state by state, each to another chunk.
            out.extend(staged_chunks(&base, steps, (points, states), wanted));
        }
        // Large states have threads enough without a scan sooner: 2.3 times as fast at 4096 channels of 32 complex states.
        if large && points >= wanted / 24 {
            out.extend(apart);
            out.extend(across);
        } else {
            out.extend(across);
            out.extend(apart);
        }
    } else if several && large && !saves && points < wanted / 16 {
        if words > 1 {
            out.extend(across);
            out.extend(apart);
        } else {
            if points < wanted / 48 {
                out.extend(few_large(&base));
            }
            out.extend(apart);
            out.extend(across);
        }
    } else if several && points < if saves { wanted / 6 } else { wanted / 8 } {
        if !saves {
            // As many chunks as leave each multiprocessor one block.
            let room = 512 * gpu.multiprocessors as usize;
            let whole = staged_chunks(&base, steps, (points, states), room);
            out.extend(whole.into_iter().map(|s| Schedule {
                unroll: s.tile,
                threads: 512,
                resident: 1,
                ..s
            }));
        }
        out.extend(chunked(&base, steps, (points, states), wanted));
        out.extend(apart);
        out.extend(across);
    } else {
        out.extend(apart);
        if several {
            out.extend(chunked(&base, steps, (points, states), wanted));
            out.extend(across);
        }
    }
    out.extend(shared);
    // Unrolled code beyond this takes seconds to compile, and more registers than there are.
    out.retain(|s| {
        let points = states.div_ceil(s.warp as usize) * s.block as usize;
        matches!(s.order, Order::Scanned | Order::Staged)
            || points * s.unroll as usize <= MOST_UNROLLED && points <= MOST_HELD
    });
    // Asked once too: where all that varies over time is a channel's own, a block has nothing in common.
    let timed = rec.inputs.iter().filter(|i| i.axes.contains(&rec.time));
    if timed.count() == streams(rec, structure).count() {
        out.retain(|s| s.share == 0);
    }
    spared(&mut out, options);
    // What runs any recurrence: by several threads where a step has work for them, or channels are few.
    if !saves {
        let busiest = busiest(rec, structure, extents);
        let products = busiest > 4 * states.max(FEW);
        let several = points > gpu.multiprocessors as usize && !products;
        let by = together((rec, structure), options, busiest, several, &base);
        // One thread holds small states, but does not make matrix products of them while others are idle.
        let at = if products && points < wanted / 4 {
            0
        } else {
            out.len()
        };
        if busiest >= FEW || points < wanted {
            out.splice(at..at, by);
        }
    }
    for order in [Order::Tiled, Order::Stepped] {
        for unroll in [4, 1] {
            out.push(Schedule {
                order,
                tile: 16,
                unroll,
                ahead: 0,
                ..base
            });
        }
    }
    out
}

/// Beside the first schedule of each order in which every step waits for exponentials, those that spare their unit some.
fn spared(out: &mut Vec<Schedule>, options: &Options) {
    if options.compute != Ty::F32 {
        return;
    }
    for order in [Order::Staged, Order::Scanned] {
        if let Some(first) = out.iter().find(|s| s.order == order).copied() {
            out.extend([1, 2].map(|exp2| Schedule { exp2, ..first }));
        }
    }
}

/// Runs of steps scanned across threads, with several states under way: half as many threads as are wanted have work for all
/// of the time, and registers for it. `row` bytes of a step's inputs are each thread's own.
fn under_way(
    base: &Schedule,
    steps: usize,
    (points, states): (usize, usize),
    multiprocessors: usize,
    row: usize,
) -> Vec<Schedule> {
    const TILE: u32 = 16;
    // The next tile's inputs take registers of the third state.
    let several: &[u32] = if row <= 8 { &[3, 2] } else { &[2] };
    let blocks = |warp: u32, threads: u32| points.div_ceil((threads / warp) as usize);
    // What the fullest multiprocessor has to do: blocks one after another, the items of one; a whole warp an item reads what
    // items share twice as often (measured, sm_90: 1.3).
    let most = |&warp: &u32| {
        let rounds = blocks(warp, 256).div_ceil(multiprocessors.max(1));
        rounds * (256 / warp) as usize * if warp == 32 { 13 } else { 10 }
    };
    let mut warps = vec![8, 16, 32];
    warps.retain(|&w: &u32| steps >= (TILE * w) as usize);
    warps.sort_by_key(most);
    let mut out = Vec::new();
    for warp in warps {
        // Where half a block for each multiprocessor is all there is, none is to be idle.
        let threads = if blocks(warp, 128) <= multiprocessors {
            128
        } else {
            256
        };
        for share in [2, 3] {
            for &unroll in several.iter().filter(|&&n| states >= 2 * n as usize) {
                out.push(Schedule {
                    order: Order::Scanned,
                    tile: TILE,
                    unroll,
                    warp,
                    threads,
                    share,
                    resident: 1,
                    ..*base
                });
            }
        }
    }
    out
}

/// Runs of steps scanned across the threads of a warp: as few threads as are enough, for each level of the scan costs.
fn scanned(
    base: &Schedule,
    steps: usize,
    points: usize,
    wanted: usize,
    (large, resets): (bool, bool),
) -> Vec<Schedule> {
    let mut warps = vec![1, 2, 4, 8, 16, 32];
    warps.sort_by_key(|&w: &u32| {
        let enough = points.saturating_mul(w as usize) >= wanted;
        if enough { (0, w) } else { (1, 32 - w) }
    });
    warps.truncate(3);
    let mut out = Vec::new();
    for warp in warps {
        // Where an item is a whole warp, only large blocks have inputs in common to speak of; complex numbers, f64 and resets
        // need more registers than those leave.
        let threads: &[u32] = if warp == 32 && !large && !resets {
            &[512, 256, 128]
        } else {
            &[128, 256]
        };
        let tiles: &[u32] = match (large, steps) {
            (true, _) => &[8, 4],
            (false, 0..16) => &[8, 16],
            (false, _) => &[16, 8],
        };
        for &tile in tiles {
            for (share, tiles) in [(3, 1), (2, 1), (2, 4), (1, 1), (0, 1)] {
                for &threads in threads {
                    // Two tiles at once take the memory of several small blocks, and longer to begin with.
                    let long = steps / (tile * warp) as usize >= LONG;
                    if share == 3 && (threads < 512 || !long) {
                        continue;
                    }
                    for (block, unroll, resident) in [(1, 1, 0), (1, 2, 0), (1, 2, 384 / threads)] {
                        if resident > 0 && (share, tiles) != (2, 1) {
                            continue;
                        }
                        out.push(Schedule {
                            order: Order::Scanned,
                            block,
                            tile,
                            unroll,
                            warp,
                            threads,
                            share,
                            tiles,
                            resident,
                            ..*base
                        });
                    }
                }
            }
        }
    }
    out
}

/// The states of a channel over a few threads, some of them each: as few threads as are enough.
fn staged(
    base: &Schedule,
    steps: usize,
    (points, states): (usize, usize),
    (wanted, lane): (usize, usize),
) -> Vec<Schedule> {
    let mut out = Vec::new();
    // Fewer states leave threads too little to do between their meetings.
    if steps < 64 || states < 16 {
        return out;
    }
    let large = states > 32;
    for held in if large { [8, 16] } else { [8, 4] } {
        let warp = states / held;
        let all = points.saturating_mul(warp);
        // Half as many threads as are wanted are better than a scan, which has more to do.
        let enough = match (large, held) {
            (true, _) => wanted,
            (false, 8) => wanted * 2,
            (false, _) => wanted / 2,
        };
        if states % held > 0 || !(2..=32).contains(&warp) || all < enough {
            continue;
        }
        // (threads, resident)
        let blocks = match held {
            _ if large => vec![(256, 2), (128, 3)],
            8 => vec![(128, 5), (64, 10)],
            _ => balanced(all, warp, wanted / (32 * WARPS), lane),
        };
        // Runs are short where many threads share: each has a place for the others' sums.
        let tiles: &[u32] = if large { &[4, 2] } else { &[8, 4] };
        for &tile in tiles {
            for &(threads, resident) in &blocks {
                for unroll in [tile, tile / 2] {
                    out.push(Schedule {
                        order: Order::Staged,
                        tile,
                        unroll,
                        warp: warp as u32,
                        threads,
                        share: 2,
                        resident,
                        ..*base
                    });
                }
            }
        }
    }
    out
}

/// The same where channels are too few: time in as many chunks as there is room for, each with its threads.
fn staged_chunks(
    base: &Schedule,
    steps: usize,
    (points, states): (usize, usize),
    wanted: usize,
) -> Vec<Schedule> {
    let warp = states / 4;
    let chunks = wanted / points.saturating_mul(warp).max(1);
    if !(8..=32).contains(&states) || !warp.is_power_of_two() || chunks < 2 {
        return Vec::new();
    }
    let whole = base.save.max(32) as usize;
    let chunk = steps.div_ceil(chunks).next_multiple_of(whole);
    let of = |tile: u32| Schedule {
        algorithm: chunks_of(chunk),
        order: Order::Staged,
        tile,
        unroll: 4,
        warp: warp as u32,
        share: 2,
        ..*base
    };
    if chunk >= steps {
        return Vec::new();
    }
    [8, 4].map(of).to_vec()
}

/// Time in chunks of so many steps.
fn chunks_of(steps: usize) -> Algorithm {
    Algorithm::Chunked {
        chunk: u32::try_from(steps).unwrap_or(u32::MAX),
    }
}

/// Windows, in about so many chunks of time.
fn windows(base: &Schedule, steps: usize, chunks: usize) -> Vec<Schedule> {
    const LEAST: usize = 64;
    let chunk = steps
        .div_ceil(chunks.max(1))
        .max(LEAST)
        .next_multiple_of(LEAST);
    if chunk >= steps {
        return Vec::new();
    }
    let of = |chunk: usize, unroll| Schedule {
        algorithm: chunks_of(chunk),
        unroll,
        ..*base
    };
    vec![of(chunk, 8), of(2 * chunk, 8), of(chunk, 16), of(chunk, 4)]
}

/// Windows where time is innermost: neighbouring threads have neighbouring chunks, as short as what comes before them where that
/// is little, so that a warp reads rows whole.
fn short_windows(base: &Schedule, steps: usize, before: usize) -> Vec<Schedule> {
    let least = if before > 16 { 8 * before } else { before };
    let of = |chunk: usize, threads| Schedule {
        algorithm: chunks_of(chunk),
        unroll: 8,
        threads,
        ahead: 0,
        ..*base
    };
    let all = [(1, 128), (2, 128), (1, 256), (4, 128), (8, 128)];
    let all = all.map(|(k, threads)| (k * least, threads));
    let all = all.into_iter().filter(|&(chunk, _)| chunk < steps);
    all.map(|(chunk, threads)| of(chunk, threads)).collect()
}

/// Sizes of blocks, 16 warps a multiprocessor, of `all` threads: first those that leave the fullest multiprocessor the
/// least to do, of these the largest, for a block puts down what it shares. `warp` threads share each point of `lane`.
fn balanced(all: usize, warp: usize, multiprocessors: usize, lane: usize) -> Vec<(u32, u32)> {
    let mut sizes = vec![512, 384, 320, 256, 128, 64];
    sizes.retain(|&n: &u32| lane.is_multiple_of(n as usize / warp));
    let fullest = |&n: &u32| {
        let n = n as usize;
        all.div_ceil(n).div_ceil(multiprocessors.max(1)) * n
    };
    sizes.sort_by_key(fullest);
    sizes.truncate(3);
    sizes.into_iter().map(|n| (n, 512 / n)).collect()
}

/// A thread (or a few that share the states) for each channel.
fn apart(
    base: &Schedule,
    steps: usize,
    (points, states): (usize, usize),
    wanted: usize,
    time_last: bool,
) -> Vec<Schedule> {
    // (block, unroll, threads, ahead). Two channels a thread share what they have in common, where there are enough;
    // where time is innermost a thread loads the steps that it unrolls as one.
    let wide: &[(u32, u32, u32, u32)] = match (steps, time_last) {
        (0..2, _) => &[(1, 1, 128, 0), (2, 1, 128, 0), (1, 1, 256, 0)],
        (2..64, true) => &[
            (1, 8, 128, 1),
            (1, 8, 256, 0),
            (1, 16, 256, 0),
            (1, 4, 128, 1),
        ],
        // Blocks of few threads, loads ahead of them, where nothing else hides their latency.
        (_, true) if points < wanted => &[
            (1, 8, 128, 1),
            (1, 16, 256, 0),
            (1, 8, 256, 1),
            (1, 4, 128, 1),
        ],
        (_, true) => &[
            (1, 16, 256, 0),
            (1, 8, 128, 1),
            (1, 8, 256, 1),
            (1, 4, 128, 1),
        ],
        (_, false) if points >= wanted => &[
            (2, 2, 256, 1),
            (2, 8, 64, 1),
            (2, 1, 128, 1),
            (1, 4, 128, 1),
            (1, 1, 128, 1),
        ],
        (_, false) => &[
            (1, 16, 64, 1),
            (1, 8, 32, 1),
            (1, 4, 128, 1),
            (1, 1, 128, 1),
        ],
    };
    // A single step has nothing to share but its states.
    let warps: &[u32] = match (steps, states) {
        (0..2, _) => &[4, 8, 1, 2, 16],
        (_, 0..=32) => &[1],
        (_, 33..=64) => &[4, 2, 1],
        (_, 65..=128) => &[8, 4, 2],
        _ => &[16, 32, 8],
    };
    let shares: &[u32] = if steps > 1 { &[2, 0] } else { &[0] };
    // Longer tiles, fewer barriers; blocks of few threads have room for shorter ones only.
    let tiles: &[u32] = if steps < 256 { &[32] } else { &[128, 64] };
    let mut out = Vec::new();
    if steps > 1 && (LARGE + 1..=4 * LARGE).contains(&states) {
        // As few threads a channel as make half of the warps that are wanted, a quarter of smaller states (measured, sm_90).
        let enough = |w: u32, of: usize| points.saturating_mul(w as usize) >= wanted / of;
        if states <= 2 * LARGE && enough(4, 4) {
            out.push(Schedule {
                unroll: 2,
                warp: 4,
                ahead: 0,
                tile: 128,
                ..*base
            });
        }
        let warp = [4, 8].into_iter().find(|&w| enough(w, 2)).unwrap_or(16);
        out.push(Schedule { warp, ..*base });
    }
    for &warp in warps {
        // Threads that share large states have no registers left for several steps.
        let wide = if (warp > 1 || states > LARGE) && steps > 1 {
            &[(1, 1, 128, 0), (1, 1, 64, 0), (1, 2, 128, 0)][..]
        } else {
            wide
        };
        for &share in shares {
            // What is not shared has no tile.
            let tiles = if share > 0 { tiles } else { &tiles[..1] };
            for &(block, unroll, threads, ahead) in wide {
                out.extend(tiles.iter().map(|&tile| Schedule {
                    block,
                    unroll,
                    warp,
                    threads,
                    share,
                    ahead,
                    tile,
                    ..*base
                }));
            }
        }
    }
    // Many states need several threads, or memory.
    for warp in [2, 4, 8, 16, 32] {
        out.push(Schedule { warp, ..*base });
    }
    out
}

/// Few channels of large real states: a scan across threads, several states under way where what a block shares leaves room.
fn few_large(base: &Schedule) -> [Schedule; 2] {
    let of = |unroll, warp, threads, share, resident| Schedule {
        order: Order::Scanned,
        tile: 8,
        unroll,
        warp,
        threads,
        share,
        resident,
        ..*base
    };
    [of(2, 16, 256, 2, 1), of(1, 32, 512, 1, 0)]
}

/// Time in as many chunks as keep the GPU busy.
fn chunked(
    base: &Schedule,
    steps: usize,
    (points, states): (usize, usize),
    wanted: usize,
) -> Vec<Schedule> {
    // A chunk's summary has each state and its decay.
    if steps < 64 || states > 32 {
        return Vec::new();
    }
    // The chunks of a channel are carried one after another: they must not be too many.
    let chunks = (wanted / points.max(1)).clamp(1, steps / 64);
    let chunk = 1 << (steps / chunks).max(64).ilog2();
    let mut out = Vec::new();
    for chunk in [chunk, chunk * 2, (chunk / 2).max(32)] {
        // The passes over a large state have no registers left for several steps.
        let unrolls: &[u32] = if states > 16 { &[1] } else { &[4, 1, 2] };
        for &unroll in unrolls {
            out.push(Schedule {
                algorithm: Algorithm::Chunked { chunk },
                unroll,
                ..*base
            });
        }
    }
    out
}

#[cfg(test)]
mod tests;
