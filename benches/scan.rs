//! Mamba's selective scan: the compiled kernel beside (1) plain scalar Rust and (2) vectorised Rust by hand.
//!
//! In: B1 L2048 D1536 N16 f32 with every option, and L from 2^10 to 2^20 at D16. Out: criterion's statistics, then one
//! table of ratios measured in turns in this process, the JIT's time, memory, and the time per step over L.
//!
//! `cargo bench --bench scan` runs both; with `-- --summary` the table alone.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../src/cli/baseline.rs"]
mod baseline;
#[path = "support/counting.rs"]
mod counting;
#[path = "support/vectorised.rs"]
mod vectorised;

use std::hint::black_box;
use std::time::Instant;

use baseline::Problem;
use criterion::{BenchmarkId, Criterion, Throughput};
use selscan_runtime::{Cpu, CpuOptions, Kernel, OwnedArgs, OwnedResults, Store, Tensor};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// B, L, D, N.
type Shape = [usize; 4];

const MAMBA: Shape = [1, 2048, 1536, 16];

fn data(name: &str, shape: &[usize], low: f32, high: f32) -> Tensor {
    let mut state = name
        .bytes()
        .fold(1u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(b)));
    let mut tensor = Tensor::zeros(selscan_runtime::Dtype::F32, shape).unwrap();
    for x in tensor.as_mut_slice::<f32>().unwrap() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *x = low + (high - low) * (state >> 40) as f32 / (1u64 << 24) as f32;
    }
    tensor
}

fn inputs([b, l, d, n]: Shape) -> OwnedArgs {
    let mut args = OwnedArgs::default();
    args.flags.insert("delta_softplus".into());
    for (name, shape, low, high) in [
        ("u", vec![b, l, d], -1.0, 1.0),
        ("delta", vec![b, l, d], -1.0, 1.0),
        ("a", vec![d, n], -1.0, -0.1),
        ("b", vec![b, l, n], -1.0, 1.0),
        ("c", vec![b, l, n], -1.0, 1.0),
        ("d", vec![d], -1.0, 1.0),
        ("z", vec![b, l, d], -1.0, 1.0),
        ("delta_bias", vec![d], -1.0, 1.0),
    ] {
        args.inputs
            .insert(name.into(), data(name, &shape, low, high));
    }
    args
}

fn problem(args: &OwnedArgs, [batch, steps, channels, states]: Shape) -> Problem<'_> {
    let input = |name: &str| args.inputs[name].as_slice::<f32>().unwrap();
    Problem {
        batch,
        steps,
        channels,
        states,
        u: input("u"),
        delta: input("delta"),
        a: input("a"),
        b: input("b"),
        c: input("c"),
        d: input("d"),
        z: input("z"),
        delta_bias: input("delta_bias"),
    }
}

/// The kernel on some threads, with the schedule that it has without tuning.
fn kernel(threads: Option<usize>) -> Kernel {
    let options = CpuOptions {
        threads,
        store: Some(Store::none()),
        ..CpuOptions::default()
    };
    let model = selscan_models::model("selective_scan").unwrap();
    Cpu::with_options(options)
        .unwrap()
        .kernel(model.recurrence().unwrap())
}

/// The kernel's results, checked against plain scalar Rust's before anything is timed.
fn results(kernel: &Kernel, args: &OwnedArgs, shape: Shape) -> OwnedResults {
    let results = kernel.run(args).unwrap();
    let [b, l, d, _] = shape;
    let mut y = vec![0.0; b * l * d];
    baseline::selective_scan(&problem(args, shape), &mut y);
    close(results.outputs["out"].as_slice().unwrap(), &y);
    results
}

fn close(x: &[f32], y: &[f32]) {
    for (i, (x, y)) in x.iter().zip(y).enumerate() {
        assert!(
            (x - y).abs() <= 1e-4 * (1.0 + y.abs()),
            "{i}: {x} is not {y}"
        );
    }
}

fn statistics(criterion: &mut Criterion) {
    let args = inputs(MAMBA);
    let [b, l, d, n] = MAMBA;
    let mut y = vec![0.0; b * l * d];
    let mut group = criterion.benchmark_group("selective_scan/B1 L2048 D1536 N16 f32");
    group
        .sample_size(10)
        .throughput(Throughput::Elements((b * l * d * n) as u64));
    let p = problem(&args, MAMBA);
    group.bench_function("plain scalar Rust", |bench| {
        bench.iter(|| baseline::selective_scan(black_box(&p), &mut y))
    });
    if vectorised::selective_scan(&p, &mut y) {
        group.bench_function("vectorised Rust by hand", |bench| {
            bench.iter(|| vectorised::selective_scan(black_box(&p), &mut y));
        });
    }
    for (name, threads) in [
        ("selscan, 1 thread", Some(1)),
        ("selscan, all threads", None),
    ] {
        let kernel = kernel(threads);
        let mut out = results(&kernel, &args, MAMBA);
        group.bench_function(name, |bench| {
            bench.iter(|| kernel.launch(args.args(&mut out)).unwrap())
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("selective_scan/steps at D16 N16");
    group.sample_size(10);
    let kernel = kernel(Some(1));
    for power in (10..=20).step_by(2) {
        let shape = [1, 1 << power, 16, 16];
        let args = inputs(shape);
        let mut out = kernel.run(&args).unwrap();
        group.throughput(Throughput::Elements(shape.iter().product::<usize>() as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(shape[1]),
            &args,
            |bench, args| {
                bench.iter(|| kernel.launch(args.args(&mut out)).unwrap());
            },
        );
    }
    group.finish();

    criterion.bench_function("compile selective_scan", |bench| {
        let args = inputs([1, 64, 64, 16]);
        bench.iter(|| {
            let kernel = self::kernel(Some(1));
            let (spec, extents) = kernel.resolve(&args).unwrap();
            black_box(kernel.compile(&spec, &extents).unwrap());
        });
    });
}

fn seconds(f: &mut dyn FnMut()) -> f64 {
    let started = Instant::now();
    f();
    started.elapsed().as_secs_f64()
}

/// Median seconds of each, measured in turns.
fn in_turns(rounds: usize, runs: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut times = vec![Vec::new(); runs.len()];
    for round in 0..=rounds {
        for (run, times) in runs.iter_mut().zip(&mut times) {
            let time = seconds(*run);
            // The first round warms up.
            if round > 0 {
                times.push(time);
            }
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.into_iter().map(median).collect()
}

fn summary() {
    let [b, l, d, n] = MAMBA;
    let args = inputs(MAMBA);
    let p = problem(&args, MAMBA);
    let (one, all) = (kernel(Some(1)), kernel(None));
    let threads = all.device().cpu().unwrap().threads();
    println!("{}", all.device().target().name);
    println!(
        "selective scan, B{b} L{l} D{d} N{n}, f32, D z delta_bias softplus; medians of 9 rounds in turns\n"
    );

    let (spec, extents) = one.resolve(&args).unwrap();
    let mut jit = Vec::new();
    let mut schedule = String::new();
    for _ in 0..9 {
        // A fresh device has compiled nothing yet.
        let code = kernel(Some(1)).compile(&spec, &extents).unwrap();
        jit.push(code.jit_time().as_secs_f64());
        schedule = code.stages()[0].schedule.to_string();
    }
    jit.sort_by(f64::total_cmp);
    println!("schedule            {schedule}");
    println!("JIT                 {:.2} ms", jit[jit.len() / 2] * 1e3);

    let (mut out_one, mut out_all) = (results(&one, &args, MAMBA), results(&all, &args, MAMBA));
    let (mut y1, mut y2) = (vec![0.0; b * l * d], vec![0.0; b * l * d]);
    baseline::selective_scan(&p, &mut y1);
    let by_hand = vectorised::selective_scan(&p, &mut y2);
    if by_hand {
        close(&y2, &y1);
    }
    let times = in_turns(
        9,
        &mut [
            &mut || baseline::selective_scan(&p, &mut y1),
            &mut || {
                vectorised::selective_scan(&p, &mut y2);
            },
            &mut || one.launch(args.args(&mut out_one)).unwrap(),
            &mut || all.launch(args.args(&mut out_all)).unwrap(),
        ],
    );
    let [plain, hand, single, parallel] = times[..] else {
        unreachable!("four runs")
    };
    let points = (b * l * d * n) as f64;
    let row = |name: &str, t: f64| {
        println!(
            "{name:<28}{:8.1} ms {:8.3} ns/point   {:5.2}x plain",
            t * 1e3,
            t / points * 1e9,
            plain / t
        );
    };
    println!();
    row("(1) plain scalar Rust", plain);
    if by_hand {
        row("(2) vectorised by hand", hand);
    }
    row("selscan, 1 thread", single);
    row(&format!("selscan, {threads} threads"), parallel);
    println!("\nselscan on 1 thread is {:.2}x (1)", plain / single);
    if by_hand {
        println!("selscan on 1 thread is {:.2}x (2)", hand / single);
    }
    println!(
        "selscan on {threads} threads is {:.2}x selscan on 1",
        single / parallel
    );

    let extra = counting::peak_of(|| one.launch(args.args(&mut out_one)).unwrap());
    let fresh = counting::peak_of(|| {
        let kernel = kernel(Some(1));
        let mut out = kernel.results(&args).unwrap();
        let made = counting::peak_of(|| kernel.launch(args.args(&mut out)).unwrap());
        println!(
            "\nmemory beyond inputs and outputs: first launch {:.1} KB with the compiler's own",
            made as f64 / 1e3
        );
    });
    let tensors = out_one.outputs.values().chain(out_one.last.values());
    let results_bytes: usize = tensors.map(|t| t.len() * 4).sum();
    println!(
        "later launches {:.1} KB; one state buffer (D·N) has {:.1} KB",
        extra as f64 / 1e3,
        (d * n * 4) as f64 / 1e3
    );
    println!(
        "a kernel from nothing: {:.1} MB, of which results {:.1} MB",
        fresh as f64 / 1e6,
        results_bytes as f64 / 1e6
    );

    println!("\ntime over L at D16 N16, 1 thread");
    for power in 10..=20 {
        let shape = [1, 1 << power, 16, 16];
        let args = inputs(shape);
        let mut out = one.run(&args).unwrap();
        let rounds = if power < 16 { 15 } else { 5 };
        let time = in_turns(
            rounds,
            &mut [&mut || one.launch(args.args(&mut out)).unwrap()],
        )[0];
        println!(
            "L 2^{power:<3} {:10.3} ms {:8.3} ns/point",
            time * 1e3,
            time / (shape[1] * 256) as f64 * 1e9
        );
    }
}

fn main() {
    if !std::env::args().any(|arg| arg == "--summary") {
        let mut criterion = Criterion::default().configure_from_args();
        statistics(&mut criterion);
        criterion.final_summary();
    }
    // `cargo test --benches` runs each benchmark once, with --test.
    if !std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        summary();
    }
}
