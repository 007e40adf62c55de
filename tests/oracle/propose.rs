//! What is tried: schedules for a target, and models on random extents. In: numbers from a seed. Out: schedules, which a
//! plan may refuse, and cases.

use selscan_codegen::{Algorithm, Order, Schedule, Target, Ty};
use selscan_dsl::AxisId;
use selscan_models::Model;

use crate::generate::Case;
use crate::random::Random;

/// What makes the extent of an axis by its name.
pub type Extent = dyn Fn(&str, &mut Random) -> usize;

/// Schedules of every order, of a CPU or a GPU.
pub fn schedules(random: &mut Random, target: &Target, compute: Ty) -> Vec<Schedule> {
    let mut out = Vec::new();
    let gpu = target.gpu.is_some();
    for order in Order::ALL {
        for _ in 0..if gpu { 3 } else { 2 } {
            let algorithm = if random.below(3) == 2 {
                Algorithm::Chunked {
                    chunk: random.pick(&[1, 4, 8, 3]),
                }
            } else {
                Algorithm::Sequential
            };
            // Most of the others are refused for it.
            let staged = order == Order::Staged;
            if gpu && order == Order::Stepped && random.below(2) == 1 {
                out.extend(together(random, target).pop());
                continue;
            }
            out.push(Schedule {
                algorithm: if staged {
                    Algorithm::Sequential
                } else {
                    algorithm
                },
                lanes: random.pick(&[1, target.lanes(compute)][..if staged { 1 } else { 2 }]),
                block: random.pick(&[1, 2, 3][..if staged { 1 } else { 3 }]),
                tile: random.pick(if gpu {
                    &[4, 1, 2, 8, 3]
                } else {
                    &[4, 1, 3, 64]
                }),
                unroll: random.pick(&[1, 2, 4, 3]),
                warp: if gpu {
                    random.pick(&[1, 2, 4, 8, 32])
                } else {
                    1
                },
                threads: random.pick(&[32, 64]),
                ahead: if gpu { random.pick(&[0, 1, 3]) } else { 0 },
                share: if gpu { random.pick(&[0, 1, 2]) } else { 0 },
                tiles: if gpu { random.pick(&[1, 2, 3]) } else { 1 },
                exp2: if gpu && compute == Ty::F32 {
                    random.pick(&[0, 0, 3])
                } else {
                    0
                },
                ..Schedule::plain(order)
            });
        }
    }
    out
}

/// Schedules that cut windows, and one that does not.
pub fn windows(random: &mut Random, target: &Target, compute: Ty) -> Vec<Schedule> {
    let gpu = target.gpu.is_some();
    let mut out = vec![Schedule::plain(Order::Registers)];
    for chunk in [8, 16, 19, 40] {
        out.push(Schedule {
            algorithm: Algorithm::Chunked { chunk },
            lanes: random.pick(&[1, target.lanes(compute)]),
            block: random.pick(&[1, 2]),
            unroll: random.pick(&[1, 4, 8, 3]),
            threads: random.pick(&[32, 64]),
            ahead: if gpu { random.pick(&[0, 1, 3]) } else { 0 },
            ..Schedule::plain(Order::Registers)
        });
    }
    out
}

/// Schedules of a GPU whose threads share steps, states and inputs.
pub fn shared(random: &mut Random, target: &Target) -> Vec<Schedule> {
    let mut out = Vec::new();
    if target.gpu.is_none() {
        return out;
    }
    for order in [Order::Staged, Order::Scanned, Order::Registers] {
        for _ in 0..6 {
            out.push(Schedule {
                tile: random.pick(&[8, 4, 2, 1, 3]),
                unroll: random.pick(&[1, 2, 4, 8]),
                warp: random.pick(&[2, 4, 8, 16]),
                // Threads of large blocks arrive before they wait.
                threads: random.pick(&[32, 512]),
                ahead: random.pick(&[1, 0, 3]),
                share: random.pick(&[2, 0, 1, 3]),
                tiles: random.pick(&[1, 1, 2]),
                exp2: random.pick(&[0, 2]),
                ..Schedule::plain(order)
            });
        }
    }
    out
}

/// Schedules of a GPU whose threads run the steps of an item together.
pub fn together(random: &mut Random, target: &Target) -> Vec<Schedule> {
    if target.gpu.is_none() {
        return Vec::new();
    }
    let of = |(warp, threads)| Schedule {
        warp,
        threads,
        unroll: random.pick(&[1, 4, 3]),
        ahead: random.pick(&[0, 1]),
        ..Schedule::plain(Order::Stepped)
    };
    [(32, 64), (64, 64), (32, 32)].map(of).to_vec()
}

/// Extents under which blocks are full where they can be, so that threads may share.
pub fn full_blocks(axis: &str, random: &mut Random) -> usize {
    match axis {
        "L" => random.pick(&[0, 1, 5, 8, 16, 24, 33, 64]),
        "N" => random.pick(&[2, 4, 8, 16]),
        "D" => random.pick(&[16, 32, 3]),
        "G" => 1,
        _ => random.pick(&[1, 2]),
    }
}

/// Extents whose points come out even among the threads of a warp, or not.
pub fn odd_points(axis: &str, random: &mut Random) -> usize {
    match axis {
        "B" => random.pick(&[1, 2]),
        "L" => random.pick(&[0, 1, 3, 6]),
        "G" | "J" => 1,
        "R" => random.pick(&[1, 2]),
        _ => random.pick(&[4, 1, 3, 8, 12]),
    }
}

/// A model on random extents.
pub fn model_case(model: &Model, extent: &Extent, random: &mut Random) -> Case {
    let rec = model.recurrence().unwrap();
    let own: Vec<usize> = rec.axes.iter().map(|a| extent(&a.name, random)).collect();
    let axes = (0..rec.axes.len() as u8).map(AxisId);
    // The second name of an axis is as long.
    let of = |axis| own[rec.canonical(axis).0 as usize];
    let extents = axes.map(|axis| (rec.axis_name(axis).to_owned(), of(axis)));
    let extents = extents.collect();
    let optional = rec.inputs.iter().filter(|i| i.optional);
    Case {
        text: model.text.to_owned(),
        extents,
        absent: optional
            .filter(|_| random.below(3) == 2)
            .map(|i| i.name.clone())
            .collect(),
        packed: random.below(4) == 3,
        initial: random.below(2) == 1,
        scale: 1.0,
    }
}
