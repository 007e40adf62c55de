//! Learns a selective scan from what another one makes of random inputs: generated kernels forward and backward, and a few
//! lines of plain Rust around them (Mamba's layer, Gu & Dao 2023, section 3.2, without its gate; Adam, Kingma & Ba 2015).
//!
//! `cargo run --example train [cpu | cuda:0] [STEPS]`: the best device of this machine where none is named. Exits with 1 if
//! the loss is not 100 times smaller in the end.

use std::process::ExitCode;
use std::time::Instant;

use selscan::prelude::*;

/// A scan whose steps depend on its input: `b`, `c` are functions of `u` too, made outside.
#[ssm_kernel]
#[rustfmt::skip]
fn selective_scan(
    u: Tensor<B, L, D>, rate: Tensor<D>, bias: Tensor<D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
    d: Tensor<D>, h: State<B, D, N>,
) -> Tensor<B, L, D> {
    let delta = softplus(rate * u + bias);
    let (a_bar, b_bar) = discretize::mamba(delta, a, b);
    h = a_bar * h + b_bar * u;
    sum::<N>(c * h) + d * u
}

const BATCH: usize = 4;
const LENGTH: usize = 100;
const CHANNELS: usize = 4;
const STATES: usize = 4;
const TOKENS: usize = BATCH * LENGTH;
const SEQUENCE: [usize; 3] = [BATCH, LENGTH, CHANNELS];
const PROJECTED: [usize; 3] = [BATCH, LENGTH, STATES];
const SYSTEM: [usize; 2] = [CHANNELS, STATES];

/// What is learnt, or gradients by it: log(−A) \[D, N\], which keeps A below 0; W_b and W_c \[N, D\], for B = W_b u and
/// C = W_c u; the rate, the bias and the skip \[D\] of the kernel.
type Parameters = [Vec<f32>; 6];

/// Numbers in [−1, 1), the same on every run: Knuth's MMIX generator.
fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
    }
}

/// Parameters about A = −1, −2, … (S4D-Real, Gu et al. 2022) and steps of 0.3.
fn parameters(seed: u64) -> Parameters {
    let mut number = numbers(seed);
    let mut about = |centre: f32, count: usize| -> Vec<f32> {
        (0..count).map(|_| centre + 0.5 * number()).collect()
    };
    let mut log_a = about(0.0, CHANNELS * STATES);
    for row in log_a.chunks_mut(STATES) {
        (1..).zip(row).for_each(|(n, x)| *x += (n as f32).ln());
    }
    [
        log_a,
        about(0.0, STATES * CHANNELS),
        about(0.0, STATES * CHANNELS),
        about(0.0, CHANNELS),
        about(-1.0, CHANNELS),
        about(0.0, CHANNELS),
    ]
}

/// y = W x for each token.
fn project(w: &[f32], x: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks(CHANNELS).zip(y.chunks_mut(STATES)) {
        for (y, w) in y.iter_mut().zip(w.chunks(CHANNELS)) {
            *y = w.iter().zip(x).map(|(w, x)| w * x).sum();
        }
    }
}

/// dW = Σ dy xᵀ over the tokens.
fn project_back(d_y: &[f32], x: &[f32], d_w: &mut [f32]) {
    d_w.fill(0.0);
    for (x, d_y) in x.chunks(CHANNELS).zip(d_y.chunks(STATES)) {
        for (d_y, d_w) in d_y.iter().zip(d_w.chunks_mut(CHANNELS)) {
            d_w.iter_mut().zip(x).for_each(|(d_w, x)| *d_w += d_y * x);
        }
    }
}

/// What plain Rust makes of the parameters for the kernel, or the gradients by it.
struct Made {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Made {
    fn zeros() -> Made {
        Made {
            a: vec![0.0; CHANNELS * STATES],
            b: vec![0.0; TOKENS * STATES],
            c: vec![0.0; TOKENS * STATES],
        }
    }
}

/// The layer, and the memory of its runs: each run uses it again.
struct Layer {
    kernel: Kernel,
    made: Made,
    d_made: Made,
    out: Vec<f32>,
    d_out: Vec<f32>,
    saved: Option<Checkpoints>,
}

impl Layer {
    fn new(device: &Device) -> Result<Layer, Error> {
        Ok(Layer {
            kernel: SelectiveScan::compile(device)?.kernel().clone(),
            made: Made::zeros(),
            d_made: Made::zeros(),
            out: vec![0.0; TOKENS * CHANNELS],
            d_out: vec![0.0; TOKENS * CHANNELS],
            saved: None,
        })
    }

    fn args<'a>(u: &'a [f32], model: &'a Parameters, made: &'a Made) -> Result<Args<'a>, Error> {
        let [_, _, _, rate, bias, d] = model;
        Ok(Args::new()
            .input("u", TensorRef::new(u, &SEQUENCE)?)
            .input("rate", TensorRef::new(rate, &[CHANNELS])?)
            .input("bias", TensorRef::new(bias, &[CHANNELS])?)
            .input("a", TensorRef::new(&made.a, &SYSTEM)?)
            .input("b", TensorRef::new(&made.b, &PROJECTED)?)
            .input("c", TensorRef::new(&made.c, &PROJECTED)?)
            .input("d", TensorRef::new(d, &[CHANNELS])?))
    }

    /// `out`, of the inputs `u`; the states that [`Layer::backward`] starts from are saved.
    fn forward(&mut self, u: &[f32], model: &Parameters) -> Result<(), Error> {
        let [log_a, w_b, w_c, ..] = model;
        for (a, log_a) in self.made.a.iter_mut().zip(log_a) {
            *a = -log_a.exp();
        }
        project(w_b, u, &mut self.made.b);
        project(w_c, u, &mut self.made.c);
        let out = TensorMut::new(&mut self.out, &SEQUENCE)?;
        let args = Layer::args(u, model, &self.made)?.output("out", out);
        self.kernel.forward_for_grad_into(args, &mut self.saved)
    }

    /// The mean squared error of `out`; `d_out` is the gradient by it.
    fn loss(&mut self, wanted: &[f32]) -> f64 {
        let count = wanted.len() as f32;
        let mut sum = 0.0;
        for ((d, y), wanted) in self.d_out.iter_mut().zip(&self.out).zip(wanted) {
            let error = y - wanted;
            *d = 2.0 * error / count;
            sum += f64::from(error * error);
        }
        sum / f64::from(count)
    }

    /// The gradients by the parameters, of `d_out`.
    fn backward(
        &mut self,
        u: &[f32],
        model: &Parameters,
        gradients: &mut Parameters,
    ) -> Result<(), Error> {
        let Some(saved) = &self.saved else {
            return Ok(());
        };
        let [d_log_a, d_w_b, d_w_c, d_rate, d_bias, d_d] = gradients;
        let asked = Gradients::new()
            .cotangent("out", TensorRef::new(&self.d_out, &SEQUENCE)?)
            .gradient("a", TensorMut::new(&mut self.d_made.a, &SYSTEM)?)
            .gradient("b", TensorMut::new(&mut self.d_made.b, &PROJECTED)?)
            .gradient("c", TensorMut::new(&mut self.d_made.c, &PROJECTED)?)
            .gradient("rate", TensorMut::new(d_rate, &[CHANNELS])?)
            .gradient("bias", TensorMut::new(d_bias, &[CHANNELS])?)
            .gradient("d", TensorMut::new(d_d, &[CHANNELS])?);
        self.kernel
            .backward(Layer::args(u, model, &self.made)?, saved, asked)?;
        // The chain rule through what plain Rust made: A = −exp(log_a), so that dA/dlog_a = A.
        for ((d, d_a), a) in d_log_a.iter_mut().zip(&self.d_made.a).zip(&self.made.a) {
            *d = d_a * a;
        }
        project_back(&self.d_made.b, u, d_w_b);
        project_back(&self.d_made.c, u, d_w_c);
        Ok(())
    }
}

/// Adam.
struct Adam {
    mean: Vec<f32>,
    variance: Vec<f32>,
    steps: i32,
}

impl Adam {
    fn step(&mut self, rate: f32, model: &mut Parameters, gradients: &Parameters) {
        const DECAYS: [f32; 2] = [0.9, 0.99];
        self.steps += 1;
        let [mean_unbias, variance_unbias] = DECAYS.map(|d| 1.0 / (1.0 - d.powi(self.steps)));
        let moments = self.mean.iter_mut().zip(&mut self.variance);
        let numbers = model.iter_mut().flatten().zip(gradients.iter().flatten());
        for ((x, g), (m, v)) in numbers.zip(moments) {
            *m += (1.0 - DECAYS[0]) * (g - *m);
            *v += (1.0 - DECAYS[1]) * (g * g - *v);
            *x -= rate * *m * mean_unbias / ((*v * variance_unbias).sqrt() + 1e-8);
        }
    }
}

/// The loss before and after so many steps of learning.
pub fn train(device: &Device, steps: usize) -> Result<(f64, f64), Error> {
    let mut layer = Layer::new(device)?;
    let mut number = numbers(1);
    let u: Vec<f32> = (0..TOKENS * CHANNELS).map(|_| 2.0 * number()).collect();
    layer.forward(&u, &parameters(2))?;
    let wanted = layer.out.clone();

    let mut model = parameters(3);
    let mut gradients = model.clone();
    let count = model.iter().flatten().count();
    let mut adam = Adam {
        mean: vec![0.0; count],
        variance: vec![0.0; count],
        steps: 0,
    };
    let mut first = f64::NAN;
    for step in 0..steps {
        layer.forward(&u, &model)?;
        let loss = layer.loss(&wanted);
        if step == 0 {
            first = loss;
        }
        if step % (steps / 10).max(1) == 0 {
            println!("step {step:5}: loss {loss:.3e}");
        }
        layer.backward(&u, &model, &mut gradients)?;
        // Steps get shorter, to 0 at the end.
        let rate = 0.03 * (1.0 - step as f32 / steps as f32);
        adam.step(rate, &mut model, &gradients);
    }
    layer.forward(&u, &model)?;
    Ok((first, layer.loss(&wanted)))
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let (mut device, mut steps) = (None, 1000);
    for arg in std::env::args().skip(1) {
        match arg.parse() {
            Ok(count) => steps = count,
            Err(_) => device = Some(Device::open(&arg)?),
        }
    }
    let device = device.map_or_else(Device::best, Ok)?;
    println!("{device}");
    let started = Instant::now();
    let (first, last) = train(&device, steps)?;
    println!(
        "loss {first:.3e} -> {last:.3e}, {:.0} times smaller, in {:.1} s",
        first / last,
        started.elapsed().as_secs_f64()
    );
    let learnt = first >= 100.0 * last;
    Ok(if learnt {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
