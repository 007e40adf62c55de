//! Gradients of the catalogue on the CPU: a forward run that saves states, then a backward run into poisoned memory, against
//! their meaning in f64. Every model, with its options and without, from initial states and over packed sequences, in every
//! type; chunks of one step, of a few, and longer than time; by every order; twice with the same bits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "oracle/generate.rs"]
mod generate;
#[path = "oracle/inputs.rs"]
mod inputs;
#[path = "gradients/interpreted.rs"]
mod interpreted;
#[path = "catalogue/options.rs"]
mod options;
#[path = "gradients/random.rs"]
mod random;
#[path = "gradients/saves.rs"]
mod saves;

use std::collections::BTreeSet;

use selscan_codegen::structure::Structure;
use selscan_codegen::{Algorithm, Order, Schedule, Target};
use selscan_dsl::{AxisId, Extents, Inputs, Recurrence, gradients_with_bound};
use selscan_models::{CATALOGUE, Model};
use selscan_runtime::{Cpu, CpuOptions, Dtype, Error, Kernel, OwnedArgs, OwnedResults, Store};

fn cpu(threads: usize) -> Cpu {
    Cpu::with_options(CpuOptions {
        threads: Some(threads),
        store: Some(Store::none()),
        ..CpuOptions::default()
    })
    .unwrap()
}

/// Numbers in [−1, 1) that f32 has.
fn numbers(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        f64::from(((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0) as f32)
    }
}

/// A call and the cotangents of what it computes.
struct Job {
    args: OwnedArgs,
    cotangents: OwnedResults,
    by: Vec<String>,
    compute: Dtype,
}

/// `kind` says which options the inputs have: 0 none, 1 all, 2 all and initial states, 3 all and packed sequences.
fn job(kernel: &Kernel, model: &Model, extents: &Extents, kind: u64, dtype: Dtype) -> Job {
    let r = kernel.recurrence();
    let mut number = numbers(kind + 17);
    let inputs = options::inputs(model, r, extents, kind);
    let args = OwnedArgs::from_inputs(&inputs, dtype).unwrap();
    let mut cotangents = kernel.results(&args).unwrap();
    let all = cotangents
        .outputs
        .values_mut()
        .chain(cotangents.last.values_mut());
    for tensor in all {
        let data: Vec<f64> = (0..tensor.len()).map(|_| number()).collect();
        *tensor = selscan_runtime::Tensor::from_f64(tensor.dtype(), tensor.shape(), &data).unwrap();
    }
    let by = args
        .inputs
        .keys()
        .cloned()
        .chain(r.states.iter().map(|s| s.name.clone()));
    Job {
        by: by.collect(),
        args,
        cotangents,
        compute: if dtype == Dtype::F64 {
            Dtype::F64
        } else {
            Dtype::F32
        },
    }
}

impl Job {
    fn by(&self) -> Vec<&str> {
        self.by.iter().map(String::as_str).collect()
    }

    fn meaning(&self, r: &Recurrence) -> (Inputs, Inputs) {
        let inputs = self.args.to_inputs(r);
        gradients_with_bound(r, &inputs, &self.cotangents.to_outputs(r), &self.by()).unwrap()
    }

    fn check(&self, kernel: &Kernel, meaning: &(Inputs, Inputs), context: &str) {
        let r = kernel.recurrence();
        let run = || kernel.run_gradients(&self.args, &self.cotangents, &self.by());
        let (_, found) = run().unwrap_or_else(|e| panic!("{context}: {e}\n{r}"));
        let checked = found.check_gradients(r, self.compute, meaning);
        checked.unwrap_or_else(|why| panic!("{context}: {why}\n{r}"));
        let (_, again) = run().unwrap();
        assert_eq!(
            format!("{found:?}"),
            format!("{again:?}"),
            "{context}: other bits"
        );
    }
}

#[test]
fn models_have_gradients() {
    let cpu = cpu(2);
    let mut cuts = 0;
    for model in CATALOGUE {
        let r = model.recurrence().unwrap();
        let kernel = cpu.kernel(r.clone());
        let extents = Model::extents(&r, model.small);
        let started = std::time::Instant::now();
        for kind in 0..4 {
            for (i, dtype) in [Dtype::F64, Dtype::F32, Dtype::Bf16]
                .into_iter()
                .enumerate()
            {
                if i > 0 && kind != 1 {
                    continue;
                }
                let job = job(&kernel, model, &extents, kind, dtype);
                let meaning = job.meaning(&r);
                for steps in [1, 3, 64] {
                    let kernel = kernel.with_checkpoint_steps(steps);
                    let context = format!("{} kind {kind} {dtype} chunks of {steps}", model.name);
                    job.check(&kernel, &meaning, &context);
                }
                // Time cut for threads of their own, forward, backward and both.
                let cut = |order| Schedule {
                    algorithm: Algorithm::Chunked { chunk: 6 },
                    ..Schedule::plain(order)
                };
                let kernel = kernel.with_checkpoint_steps(3);
                for kernel in [
                    kernel.with_schedule(cut(Order::Stepped)),
                    kernel.with_backward_schedule(cut(Order::Tiled)),
                    kernel
                        .with_schedule(cut(Order::Registers))
                        .with_backward_schedule(cut(Order::Stepped)),
                ] {
                    let run = kernel.run_gradients(&job.args, &job.cotangents, &job.by());
                    if !matches!(run, Err(Error::Refused(_))) {
                        cuts += 1;
                        let context = format!("{} kind {kind} {dtype} cut", model.name);
                        job.check(&kernel, &meaning, &context);
                    }
                }
            }
        }
        println!("{} {:?}", model.name, started.elapsed());
    }
    println!("gradients: {cuts} of schedules that cut time");
    assert!(cuts > 100, "{cuts}");
}

/// Whether the interpreter's gradients are those of the meaning.
fn near(found: &Inputs, (wanted, bound): &(Inputs, Inputs)) -> Result<(), String> {
    let sides = [
        (&found.tensors, &wanted.tensors, &bound.tensors),
        (&found.initial, &wanted.initial, &bound.initial),
    ];
    for (found, wanted, bound) in sides {
        for (name, y) in found {
            for (i, (&x, &m)) in y.data.iter().zip(&bound[name].data).enumerate() {
                let wanted = wanted[name].data[i];
                let right = (x - wanted).abs() <= 32.0 * f64::EPSILON * m;
                if !right && wanted.is_finite() && m.is_finite() {
                    return Err(format!(
                        "wrong: d_{name}[{i}] is {x}, not {wanted} (m = {m})"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// The interpreter's gradients against their meaning.
fn interpreted(
    model: &Model,
    extents: &Extents,
    kind: u64,
    tries: &[(&Target, Schedule)],
) -> usize {
    let cpu = cpu(2);
    let kernel = cpu.kernel(model.recurrence().unwrap());
    let r = kernel.recurrence();
    let job = job(&kernel, model, extents, kind, Dtype::F64);
    let meaning = job.meaning(r);
    let (inputs, cotangents) = (job.args.to_inputs(r), job.cotangents.to_outputs(r));
    let mut count = 0;
    for (target, schedule) in tries {
        let context = format!("{} kind {kind} '{schedule}'", model.name);
        let found = interpreted::gradients(
            r,
            &inputs,
            extents,
            &cotangents,
            &job.by(),
            (target, schedule),
        );
        let Some(found) = found.unwrap_or_else(|e| panic!("{context}: {e}")) else {
            continue;
        };
        count += 1;
        near(&found, &meaning).unwrap_or_else(|e| panic!("{context}: {e}"));
    }
    count
}

#[test]
fn plans_of_a_gpu_have_gradients() {
    let mut small = Target::h200();
    if let Some(gpu) = &mut small.gpu {
        gpu.stack = 200;
    }
    let (mut runs, mut lanes) = (0, 0);
    for model in CATALOGUE {
        let r = model.recurrence().unwrap();
        let mut extents = Model::extents(&r, model.small);
        // Whole warps, and channels left over.
        for (i, axis) in r.axes.iter().enumerate() {
            if axis.name == "D" {
                extents.0[i] = 36;
            }
        }
        let schedules = |lanes: u32, save: u32, algorithm: Algorithm| {
            [Order::Registers, Order::Tiled, Order::Stepped].map(|order| Schedule {
                algorithm,
                lanes,
                save,
                tile: 4,
                ..Schedule::plain(order)
            })
        };
        let (whole, cut) = (Algorithm::Sequential, Algorithm::Chunked { chunk: 6 });
        let all = [
            schedules(32, 3, whole),
            schedules(32, 3, cut),
            schedules(1, 4, whole),
            schedules(1, 2, cut),
            schedules(32, 100, whole),
        ];
        let all = all.concat();
        let tries: Vec<(&Target, Schedule)> = all.into_iter().map(|s| (&small, s)).collect();
        for kind in 1..4 {
            runs += interpreted(model, &extents, kind, &tries);
            lanes += interpreted(model, &extents, kind, &tries[..3]);
        }
    }
    println!("gradients: {runs} plans interpreted, {lanes} of threads that add up");
    assert!(runs > 400 && lanes > 90, "{runs} {lanes}");
}

/// Blocks that run chunks of time again and trace them back: every model that fits, whole chunks and broken ones, time in
/// one piece and cut, all ways to share a channel's states and inputs, in turn.
#[test]
fn blocks_that_trace_back_have_gradients() {
    let h200 = Target::h200();
    let mut all = Vec::new();
    for (lanes, warp, tile, unroll) in [(16, 2, 2, 2), (16, 4, 2, 4), (32, 4, 1, 4), (16, 4, 1, 4)]
    {
        for (share, ahead) in [(0, 0), (2, 1), (1, 1), (2, 0)] {
            for algorithm in [Algorithm::Sequential, Algorithm::Chunked { chunk: 16 }] {
                let schedule = Schedule {
                    algorithm,
                    lanes,
                    warp,
                    tile,
                    unroll,
                    share,
                    ahead,
                    threads: lanes * warp,
                    save: tile * warp,
                    ..Schedule::plain(Order::Staged)
                };
                all.push((&h200, schedule));
            }
        }
    }
    let (mut turn, mut runs, mut models) = (0, 0, BTreeSet::new());
    for model in CATALOGUE {
        let r = model.recurrence().unwrap();
        let small = Model::extents(&r, model.small);
        let lane = Structure::of(&r.specialize(&|_| true)).lane;
        for length in [16, 13, 1, 48, 0] {
            let mut extents = small.clone();
            for i in 0..r.axes.len() {
                let axis = r.canonical(AxisId(i as u8));
                if axis == r.time {
                    extents.0[i] = length;
                } else if Some(axis) == lane {
                    extents.0[i] = 32;
                } else if r.axis_name(axis) == "N" {
                    extents.0[i] = 4;
                }
            }
            for kind in 1..4 {
                turn += 1;
                // Those that fit a model are tried until some have run.
                let mut found = 0;
                for k in 0..all.len() {
                    let own = (turn * 5 + k * 7) % all.len();
                    found += interpreted(model, &extents, kind, &all[own..=own]);
                    if found > 0 || k == 9 {
                        break;
                    }
                }
                if found > 0 {
                    models.insert(model.name);
                }
                runs += found;
            }
        }
    }
    println!("gradients: {runs} plans that trace back, of {models:?}");
    assert!(runs > 150 && models.len() > 10, "{runs} {models:?}");
}
