//! Gradients on the CPU, timed against the forward run of the same kernel: by all inputs from one cotangent, on one thread.
//!
//! In: `--quick` for one shape. Out: a table on stdout: the medians over alternating runs of the launch, of the forward run that
//! saves states and of the backward run, both as multiples of the launch; the memory that is kept between them.
#![allow(missing_docs)]

use std::time::Instant;

use selscan_models::model;
use selscan_runtime::{Cpu, CpuOptions, Dtype, Error, Gradients, Kernel, OwnedArgs, Store, Tensor};

/// Rounds that are timed.
const ROUNDS: usize = 7;

fn numbers(shape: &[usize], seed: u64, range: (f64, f64)) -> Result<Tensor, Error> {
    let mut state = seed;
    let count = shape.iter().product();
    let mut data = Vec::with_capacity(count);
    for _ in 0..count {
        // Knuth's MMIX generator.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
        data.push(range.0 + (range.1 - range.0) * unit);
    }
    Tensor::from_f64(Dtype::F32, shape, &data)
}

/// The selective scan with all of its inputs.
fn arguments(kernel: &Kernel, [b, l, d, n]: [usize; 4]) -> Result<OwnedArgs, Error> {
    let r = kernel.recurrence();
    let mut args = OwnedArgs::default();
    args.flags.insert("delta_softplus".to_owned());
    for (seed, decl) in r.inputs.iter().enumerate() {
        let extent = |name: &str| match name {
            "B" => b,
            "L" => l,
            "D" => d,
            "N" => n,
            _ => 1,
        };
        let shape: Vec<usize> = decl.axes.iter().map(|&a| extent(r.axis_name(a))).collect();
        if decl.kind == selscan_dsl::InputKind::Tensor {
            let range = match decl.name.as_str() {
                "a" => (-16.0, -1.0),
                "delta" | "delta_bias" => (-3.0, -1.0),
                _ => (-1.0, 1.0),
            };
            args.inputs
                .insert(decl.name.clone(), numbers(&shape, seed as u64, range)?);
        }
    }
    Ok(args)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn run(name: &str, shape: [usize; 4]) -> Result<String, Error> {
    let cpu = Cpu::with_options(CpuOptions {
        threads: Some(1),
        store: Some(Store::none()),
        ..CpuOptions::default()
    })?;
    let missing = || Error::TooLarge {
        what: format!("the catalogue has no `{name}`: a name"),
    };
    let kernel = cpu.kernel(model(name).ok_or_else(missing)?.recurrence()?);
    let args = arguments(&kernel, shape)?;
    let mut results = kernel.results(&args)?;
    results.last.clear();
    let output = kernel.recurrence().outputs[0].name.clone();
    let cotangent = numbers(results.outputs[&output].shape(), 99, (-1.0, 1.0))?;
    let like = |t: &Tensor| Tensor::zeros(t.dtype(), t.shape());
    let gradients = args.inputs.iter().map(|(n, t)| Ok((n.clone(), like(t)?)));
    let mut gradients = gradients.collect::<Result<Vec<_>, Error>>()?;
    let mut saved = None;
    let (mut plain, mut forward, mut backward) = (vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        let times = [
            timed(|| kernel.launch(args.args(&mut results)))?,
            timed(|| kernel.forward_for_grad_into(args.args(&mut results), &mut saved))?,
            timed(|| {
                let mut wanted = Gradients::new().cotangent(&output, &cotangent);
                for (name, tensor) in &mut gradients {
                    wanted = wanted.gradient(name, tensor);
                }
                let mut nothing = selscan_runtime::OwnedResults::default();
                match &saved {
                    Some(saved) => kernel.backward(args.args(&mut nothing), saved, wanted),
                    None => Ok(()),
                }
            })?,
        ];
        // The first round compiles.
        if round > 0 {
            plain.push(times[0]);
            forward.push(times[1]);
            backward.push(times[2]);
        }
    }
    let (plain, forward, backward) = (median(plain), median(forward), median(backward));
    let kept = saved
        .as_ref()
        .map_or(0, selscan_runtime::Checkpoints::bytes);
    let [b, l, d, n] = shape;
    let points = (b * l * d * n) as f64;
    Ok(format!(
        "{name:20} B{b} L{l} D{d} N{n}  launch {:7.2} ms ({:.2} ns a point)  forward that saves {:.2}x  backward {:.2}x  saved {:.1} MB, all states would be {:.1} MB",
        1e3 * plain,
        1e9 * plain / points,
        forward / plain,
        backward / plain,
        kept as f64 / 1e6,
        4.0 * points / 1e6,
    ))
}

fn timed(work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--test" || a == "--list") || cfg!(debug_assertions) {
        println!("skipped: nothing is measured in a test or a debug build");
        return Ok(());
    }
    let quick = arguments.iter().any(|a| a == "--quick");
    for name in ["selective_scan", "selective_scan_bdl"] {
        println!("{}", run(name, [1, 2048, 1536, 16])?);
        if !quick {
            println!("{}", run(name, [2, 512, 768, 16])?);
        }
    }
    Ok(())
}
