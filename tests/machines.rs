//! Machines without newer instructions: the same numbers, on slices that are not aligned for vectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use selscan_dsl::{Array, Inputs, Recurrence, eval};
use selscan_runtime::{Args, Cpu, Feature, TensorMut, TensorRef};

const KERNEL: &str = "#[ssm_kernel]
fn case(x: Tensor<B, L, D>, y: Tensor<B, L, D>, z: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> {
    h = exp(-abs(x)) * h + select(x < y, y, z);
    h * silu(z) + sqrt(abs(x)) / (1.0 + max(x, y))
}";

#[test]
fn older_instruction_sets_compute_the_same() {
    let rec = Recurrence::parse(KERNEL).unwrap();
    let (steps, d) = (5, 13);
    let shape = [1, steps, d];
    let len = steps * d;
    let data = |seed: usize| -> Vec<f32> {
        (0..=len)
            .map(|i| ((i * 37 + seed * 11) % 29) as f32 / 16.0 - 0.9)
            .collect()
    };
    let inputs = [data(1), data(2), data(3)];
    // One element in: the slices begin at 4 bytes past an aligned address, or at some other odd place.
    let odd: Vec<&[f32]> = inputs.iter().map(|v| &v[1..]).collect();
    let array = |v: &[f32]| Array::real(&shape, v.iter().map(|&x| f64::from(x)).collect());
    let meaning = Inputs::new()
        .with("x", array(odd[0]))
        .with("y", array(odd[1]))
        .with("z", array(odd[2]));
    let wanted = eval(&rec, &meaning).unwrap();
    let sets: [&[Feature]; 5] = [
        &[],
        &[Feature::Avx512],
        &[Feature::Fma],
        &[Feature::Fma, Feature::Avx],
        &[Feature::Fma, Feature::Avx, Feature::Sse41],
    ];
    for without in sets {
        let kernel = Cpu::without(without).unwrap().kernel(rec.clone());
        let mut out = vec![f32::NAN; len + 1];
        let view = |v| TensorRef::new(v, &shape).unwrap();
        let args = Args::new()
            .input("x", view(odd[0]))
            .input("y", view(odd[1]))
            .input("z", view(odd[2]));
        kernel
            .launch(args.output("out", TensorMut::new(&mut out[1..], &shape).unwrap()))
            .unwrap();
        for (i, (found, wanted)) in out[1..].iter().zip(&wanted.tensors["out"].data).enumerate() {
            assert!(
                (f64::from(*found) - wanted).abs() <= 2e-6 * (1.0 + wanted.abs()),
                "without {without:?}: out[{i}] is {found}, wanted {wanted}"
            );
        }
    }
}
