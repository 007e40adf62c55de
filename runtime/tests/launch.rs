//! Kernels on the CPU compute what their text means.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;

use common::{
    BOTH_WAYS, COMPLEX, CONVOLUTION, MAMBA, RNN, Random, check, cpu, inputs, recurrence, run,
};
use selscan_dsl::{Array, Inputs, eval};
use selscan_runtime::{
    Args, Cpu, CpuOptions, Dtype, Feature, OwnedArgs, Spec, Store, Tensor, TensorMut, TensorRef,
};

/// Random shapes, options, types and threads, every output poisoned before the run.
#[test]
fn random_launches() {
    let mut random = Random(1);
    let cpus = [cpu(1), cpu(3)];
    for text in [MAMBA, BOTH_WAYS, COMPLEX, RNN, CONVOLUTION] {
        let r = recurrence(text);
        let kernels: Vec<_> = cpus.iter().map(|cpu| cpu.kernel(r.clone())).collect();
        for case in 0..24 {
            let extents = [
                ("B", [1, 2, 3][random.below(3)]),
                ("L", [1, 2, 5, 64, 67, 130][random.below(6)]),
                ("D", [1, 3, 4, 8, 13, 33][random.below(6)]),
                ("N", [1, 4, 5, 16][random.below(4)]),
            ];
            let inputs = inputs(&r, &extents, &mut random);
            let dtype = Dtype::ALL[random.below(4)];
            let context = format!("{} case {case} {extents:?} {dtype}", r.name);
            check(&kernels[case % 2], &inputs, dtype, &context);
        }
    }
}

/// Without steps the last states are the initial ones; without points nothing is done; without states' points sums are 0.
#[test]
fn empty_axes() {
    let mut random = Random(2);
    let cpu = cpu(2);
    for text in [MAMBA, BOTH_WAYS, COMPLEX] {
        let r = recurrence(text);
        let kernel = cpu.kernel(r.clone());
        for empty in ["B", "L", "D", "N"] {
            let extents = ["B", "L", "D", "N"].map(|n| (n, if n == empty { 0 } else { 3 }));
            let inputs = inputs(&r, &extents, &mut random);
            check(
                &kernel,
                &inputs,
                Dtype::F32,
                &format!("{} without {empty}", r.name),
            );
        }
    }
}

/// On a machine without fused or wide instructions the numbers are right too.
#[test]
fn features_left_out() {
    let r = recurrence(MAMBA);
    let mut random = Random(3);
    for feature in [
        Feature::Fma,
        Feature::Avx,
        Feature::Avx2,
        Feature::Avx512,
        Feature::Sse41,
    ] {
        let cpu = Cpu::with_options(CpuOptions {
            threads: Some(1),
            without: vec![feature],
            store: Some(Store::none()),
        })
        .unwrap();
        for dtype in Dtype::ALL {
            let inputs = inputs(&r, &[("B", 2), ("L", 9), ("D", 7), ("N", 4)], &mut random);
            check(
                &cpu.kernel(r.clone()),
                &inputs,
                dtype,
                &format!("without {feature:?}"),
            );
        }
    }
}

/// Slices need the alignment of their elements and no more, with and without the instructions that ask for more.
#[test]
fn slices_that_no_vector_is_aligned_to() {
    const SHAPE: [usize; 3] = [1, 5, 12];
    let text = "
        #[ssm_kernel]
        fn sums(x: Tensor<B, L, D>, w: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> { h = h + x * w; h }";
    for without in [vec![], vec![Feature::Avx], vec![Feature::Sse41]] {
        let options = CpuOptions {
            threads: Some(1),
            without,
            store: Some(Store::none()),
        };
        let kernel = Cpu::with_options(options).unwrap().kernel(recurrence(text));
        for offset in 0..4 {
            let (x, mut out) = (vec![1f32; 64], vec![-1f32; 64]);
            let x = TensorRef::new(&x[offset..offset + 60], &SHAPE).unwrap();
            let y = TensorMut::new(&mut out[offset..offset + 60], &SHAPE).unwrap();
            let args = Args::new().input("x", x.clone()).input("w", x);
            kernel.launch(args.output("out", y)).unwrap();
            for (i, &y) in out.iter().enumerate() {
                let inside = (offset..offset + 60).contains(&i);
                let wanted = if inside {
                    ((i - offset) / 12 + 1) as f32
                } else {
                    -1.0
                };
                assert_eq!(y, wanted, "{offset} {i}");
            }
        }
    }
}

/// A sequence step by step, states in place, is the sequence at once.
#[test]
fn steps_make_a_sequence() {
    let mut random = Random(4);
    for text in [MAMBA, CONVOLUTION] {
        let r = recurrence(text);
        let kernel = cpu(1).kernel(r.clone());
        let (batch, steps, width) = (2, 6, 5);
        let mut inputs = inputs(
            &r,
            &[("B", batch), ("L", steps), ("D", width), ("N", 4)],
            &mut random,
        );
        inputs.seq_idx = None;
        inputs.initial.clear();
        let whole = eval(&r, &inputs).unwrap();
        let mut states: Vec<(String, Tensor)> = whole
            .last
            .iter()
            .map(|(name, x)| (name.clone(), Tensor::zeros(Dtype::F32, &x.shape).unwrap()))
            .collect();
        for t in 0..steps {
            let mut one = OwnedArgs::from_inputs(&inputs, Dtype::F32).unwrap();
            for (name, x) in &inputs.tensors {
                let Some(at) = r
                    .input(r.input_named(name).unwrap())
                    .axes
                    .iter()
                    .position(|&a| a == r.time)
                else {
                    continue;
                };
                assert_eq!(at, 1);
                let inner = x.shape[2];
                let rows = (0..batch).flat_map(|b| {
                    let first = (b * steps + t) * inner;
                    x.data[first..first + inner].to_vec()
                });
                let tensor =
                    Tensor::from_f64(Dtype::F32, &[batch, 1, inner], &rows.collect::<Vec<_>>());
                one.inputs.insert(name.clone(), tensor.unwrap());
            }
            let mut out = Tensor::zeros(Dtype::F32, &[batch, 1, width]).unwrap();
            let mut args = Args::new().output("out", &mut out);
            for (name, x) in &one.inputs {
                args = args.input(name, x);
            }
            for name in &one.flags {
                args = args.flag(name);
            }
            for (name, state) in &mut states {
                args = args.state_in_place(name, state);
            }
            kernel.step(args).unwrap();
            for (i, y) in out.to_f64().into_iter().enumerate() {
                let wanted = whole.tensors["out"].data[(i / width * steps + t) * width + i % width];
                assert!(
                    (y - wanted).abs() < 1e-5,
                    "{} {t} {i}: {y} {wanted}",
                    r.name
                );
            }
        }
    }
}

/// NaN and infinities go where IEEE arithmetic takes them, and no further.
#[test]
fn nan_and_infinity_propagate() {
    let kernel = cpu(1).kernel(recurrence(MAMBA));
    let (steps, width, n) = (5, 9, 2);
    let mut random = Random(5);
    for poison in [f64::NAN, f64::INFINITY] {
        let mut u = random.array(&[1, steps, width], false, 1.0);
        u.data[2 * width + 3] = poison;
        let inputs = Inputs::new()
            .with("u", u)
            .with("delta", Array::filled(&[1, steps, width], false, 0.5))
            .with("a", Array::filled(&[width, n], false, -1.0))
            .with("b", Array::filled(&[1, steps, n], false, 1.0))
            .with("c", Array::filled(&[1, steps, n], false, 1.0));
        let results = run(
            &kernel,
            &OwnedArgs::from_inputs(&inputs, Dtype::F32).unwrap(),
        );
        for (i, y) in results.outputs["out"].to_f64().into_iter().enumerate() {
            let poisoned = i / width >= 2 && i % width == 3;
            assert_eq!(!y.is_finite(), poisoned, "{i} {y}");
        }
    }
}

/// Run-time extents do not make new code; types, options and compiled-in extents do. Threads that ask at once share it.
#[test]
fn code_is_shared() {
    let cpu = cpu(2);
    let r = recurrence(MAMBA);
    let kernel = cpu.kernel(r.clone());
    let spec = Spec::new(&r, Dtype::F32);
    let code = |spec: &Spec, extents: &[(&str, usize)]| {
        let compiled = kernel
            .compile(spec, &kernel.extents(extents).unwrap())
            .unwrap();
        compiled.stages()[0].program.clone()
    };
    let base = code(&spec, &[("B", 1), ("L", 100), ("D", 32), ("N", 4)]);
    let longer = code(&spec, &[("B", 5), ("L", 2000), ("D", 64), ("N", 4)]);
    assert!(Arc::ptr_eq(&base, &longer));
    assert!(base.jit_time().as_nanos() > 0);
    let wider = code(&spec, &[("B", 1), ("L", 100), ("D", 32), ("N", 8)]);
    assert!(!Arc::ptr_eq(&base, &wider));
    let with_z = spec.clone().with_input(&r, "z", Dtype::F32).unwrap();
    assert!(!Arc::ptr_eq(
        &base,
        &code(&with_z, &[("B", 1), ("L", 100), ("D", 32), ("N", 4)])
    ));
    // Another kernel of the same text on the same device.
    let other = cpu.kernel(r.clone());
    let extents = other
        .extents(&[("B", 1), ("L", 100), ("D", 32), ("N", 4)])
        .unwrap();
    let codes: Vec<_> = std::thread::scope(|scope| {
        let get = || {
            other.compile(&spec, &extents).unwrap().stages()[0]
                .program
                .clone()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(get)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(codes.iter().all(|code| Arc::ptr_eq(code, &base)));
}

/// One kernel may run on many threads at once.
#[test]
fn launches_at_the_same_time() {
    let r = recurrence(MAMBA);
    let kernel = cpu(2).kernel(r.clone());
    std::thread::scope(|scope| {
        for seed in 0..6 {
            let (kernel, r) = (&kernel, &r);
            scope.spawn(move || {
                let mut random = Random(100 + seed);
                for _ in 0..4 {
                    let inputs =
                        inputs(r, &[("B", 2), ("L", 40), ("D", 37), ("N", 4)], &mut random);
                    check(kernel, &inputs, Dtype::F32, "at the same time");
                }
            });
        }
    });
}

/// What explains a kernel is there: plan, loops, the backend's text and machine code.
#[test]
fn every_stage_can_be_shown() {
    let cpu = cpu(1);
    let r = recurrence(BOTH_WAYS);
    let kernel = cpu.kernel(r.clone());
    let spec = Spec::new(&r, Dtype::F32);
    let extents = kernel.extents(&[("B", 1), ("L", 100), ("D", 32)]).unwrap();
    assert_eq!(kernel.plan(&spec, &extents).unwrap().len(), 2);
    let compiled = kernel.compile(&spec, &extents).unwrap();
    assert_eq!(compiled.stages().len(), 2);
    for stage in compiled.stages() {
        let program = stage.program.cpu().unwrap().program();
        assert!(program.to_string().contains("in core"));
        assert!(cpu.clif(program).unwrap().contains("f32x4"));
        assert!(cpu.asm(program).unwrap().contains("ret"));
        assert_eq!(cpu.legal(program).len(), program.procs.len());
    }
    assert!(kernel.extents(&[("B", 1), ("L", 100)]).is_err());
    let error = kernel
        .extents(&[("B", 1), ("T", 100)])
        .unwrap_err()
        .to_string();
    assert!(error.contains("no axis `T`"), "{error}");
}

/// Windows in chunks of time start from initial states. Last ones may be the same memory, so both are refused.
#[test]
fn windows_in_chunks_start_from_what_is_given() {
    let r = recurrence(
        "#[ssm_kernel]
        fn convolution(x: Tensor<B, D, L>, w: Tensor<D, W>, h: State<B, D, W>) -> Tensor<B, D, L> {
            h = push_back::<W>(h, x);
            sum::<W>(w * h)
        }",
    );
    let mut random = Random(9);
    let kernel = cpu(2).kernel(r.clone());
    let text = "chunked chunk=16 order=registers lanes=1 block=1 tile=1 unroll=4";
    let cut = kernel.with_schedule(text.parse().unwrap());
    let of = |shape: &[usize], random: &mut Random| {
        let numbers = random.array(shape, false, 1.0);
        Tensor::from_f64(Dtype::F32, shape, &numbers.data).unwrap()
    };
    for steps in [1, 15, 16, 50, 64] {
        let x = of(&[2, 3, steps], &mut random);
        let (w, h) = (of(&[3, 4], &mut random), of(&[2, 3, 4], &mut random));
        let run = |kernel: &selscan_runtime::Kernel, last: bool| {
            let mut out = Tensor::zeros(Dtype::F32, &[2, 3, steps]).unwrap();
            let mut end = Tensor::zeros(Dtype::F32, &[2, 3, 4]).unwrap();
            let mut args = Args::new().input("x", &x).input("w", &w).initial("h", &h);
            if last {
                args = args.last("h", &mut end);
            }
            kernel
                .launch(args.output("out", &mut out))
                .map(|()| out.to_f64())
        };
        // Products and sums are fused elsewhere.
        let (found, wanted) = (run(&cut, false).unwrap(), run(&kernel, true).unwrap());
        let far = found
            .iter()
            .zip(&wanted)
            .position(|(x, y)| (x - y).abs() > 1e-5);
        assert_eq!(far, None, "{steps} steps: {found:?} for {wanted:?}");
        let refused = run(&cut, true).unwrap_err().to_string();
        assert!(refused.contains("the same memory"), "{refused}");
    }
}
