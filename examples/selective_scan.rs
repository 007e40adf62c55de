//! Mamba's selective scan as one kernel: compiled, run and compared with its meaning in f64.
//!
//! `cargo run --example selective_scan`

use selscan::prelude::*;

/// Mamba's selective scan (Gu & Dao 2023, Algorithm 2).
#[ssm_kernel]
#[rustfmt::skip]
fn selective_scan(
    u: Tensor<B, L, D>, delta: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
    d: Tensor<D>, z: Tensor<B, L, D>, delta_bias: Tensor<D>,
    h: State<B, D, N>,
) -> Tensor<B, L, D> {
    let delta = softplus(delta + delta_bias);
    let (a_bar, b_bar) = discretize::mamba(delta, a, b);
    h = a_bar * h + b_bar * u;
    (sum::<N>(c * h) + d * u) * silu(z)
}

/// Numbers in [least, greatest), the same on every run.
fn numbers(least: f64, greatest: f64, shape: &[usize]) -> Result<Tensor, Error> {
    let golden = |i: usize| (i as f64 * 0.618_033_988_749_895).fract();
    let count = shape.iter().product();
    let data: Vec<f64> = (0..count)
        .map(|i| least + (greatest - least) * golden(i))
        .collect();
    Tensor::from_f64(Dtype::F32, shape, &data)
}

fn main() -> Result<(), Error> {
    let (batch, steps, channels, states) = (1, 512, 64, 16);
    let sequence = [batch, steps, channels];
    let u = numbers(-1.0, 1.0, &sequence)?;
    let delta = numbers(-3.0, 0.0, &sequence)?;
    let a = numbers(-2.0, -0.1, &[channels, states])?;
    let b = numbers(-1.0, 1.0, &[batch, steps, states])?;
    let c = numbers(-1.0, 1.0, &[batch, steps, states])?;
    let d = numbers(0.5, 1.5, &[channels])?;
    let z = numbers(-1.0, 1.0, &sequence)?;
    let delta_bias = numbers(-0.1, 0.1, &[channels])?;

    let scan = SelectiveScan::compile(&Cpu::new()?)?;
    let mut y = Tensor::zeros(Dtype::F32, &sequence)?;
    scan.launch(SelectiveScanArgs {
        u: u.view(),
        delta: delta.view(),
        a: a.view(),
        b: b.view(),
        c: c.view(),
        d: d.view(),
        z: z.view(),
        delta_bias: delta_bias.view(),
        out: y.view_mut(),
        options: SelectiveScanOptions::default(),
    })?;

    let mut inputs = Inputs::new();
    let named = [
        ("u", &u),
        ("delta", &delta),
        ("a", &a),
        ("b", &b),
        ("c", &c),
        ("d", &d),
        ("z", &z),
    ];
    for (name, tensor) in named.into_iter().chain([("delta_bias", &delta_bias)]) {
        inputs = inputs.with(name, Array::real(tensor.shape(), tensor.to_f64()));
    }
    let (meaning, magnitude) = eval_with_bound(SelectiveScan::recurrence(), &inputs)?;
    let meaning = y.to_f64().into_iter().zip(&meaning.tensors["out"].data);
    let errors = meaning
        .zip(&magnitude.tensors["out"].data)
        .map(|((y, y64), m)| (y - y64).abs() / m);
    let worst = errors.fold(0.0, f64::max) / Dtype::F32.epsilon();
    println!(
        "selective_scan of {steps} steps, {channels} channels, {states} states on {}: off by at most {worst:.2} eps·m \
         from its meaning in f64",
        scan.kernel().device().target().name
    );
    Ok(())
}
