//! Gradients of a kernel as a caller has them: every mistake is one error and nothing is written then; what is saved, how
//! much of it, in whose memory; sizes about those of a chunk; no steps at all; states that forget everything.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{MAMBA, Random, cpu, recurrence};
use selscan_runtime::{Args, Checkpoints, Dtype, Error, Gradients, Kernel, Tensor, TensorMut};

const B: usize = 2;
const D: usize = 4;
const N: usize = 5;
const WRITTEN: f64 = 7.0;

fn random(random: &mut Random, shape: &[usize], scale: f64) -> Tensor {
    let data = random.array(shape, false, scale).data;
    Tensor::from_f64(Dtype::F32, shape, &data).unwrap()
}

fn untouched(shape: &[usize]) -> Tensor {
    let mut tensor = Tensor::zeros(Dtype::F32, shape).unwrap();
    tensor.fill(WRITTEN);
    tensor
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(Dtype::F32, shape).unwrap()
}

/// Arguments for [`MAMBA`] of so many steps, and what a loss may be of.
struct Data {
    inputs: Vec<(&'static str, Tensor)>,
    out: Tensor,
    d_out: Tensor,
    d_last: Tensor,
}

impl Data {
    fn new(steps: usize) -> Data {
        let mut r = Random(5);
        let mut a = random(&mut r, &[D, N], 1.0);
        let data: Vec<f64> = a.to_f64().iter().map(|a| -a.abs()).collect();
        a = Tensor::from_f64(Dtype::F32, &[D, N], &data).unwrap();
        Data {
            inputs: vec![
                ("u", random(&mut r, &[B, steps, D], 1.0)),
                ("delta", random(&mut r, &[B, steps, D], 1.0)),
                ("a", a),
                ("b", random(&mut r, &[B, steps, N], 1.0)),
                ("c", random(&mut r, &[B, steps, N], 1.0)),
            ],
            out: zeros(&[B, steps, D]),
            d_out: random(&mut r, &[B, steps, D], 1.0),
            d_last: random(&mut r, &[B, D, N], 1.0),
        }
    }
    fn args(&self) -> Args<'_> {
        let args = Args::new().flag("delta_softplus");
        let inputs = self.inputs.iter();
        inputs.fold(args, |args, (name, tensor)| args.input(name, tensor))
    }
    fn forward(&mut self, kernel: &Kernel) -> Checkpoints {
        let mut out = std::mem::replace(&mut self.out, zeros(&[0]));
        let saved = kernel.forward_for_grad(self.args().output("out", &mut out));
        self.out = out;
        saved.unwrap()
    }
    fn shape(&self, name: &str) -> Vec<usize> {
        let found = self.inputs.iter().find(|(n, _)| *n == name);
        found.map_or(vec![B, D, N], |(_, t)| t.shape().to_vec())
    }
    /// The gradients by what `names` say, of the whole loss.
    fn gradients(&mut self, kernel: &Kernel, names: &[&str]) -> Vec<Vec<f64>> {
        let saved = self.forward(kernel);
        let mut found: Vec<Tensor> = names.iter().map(|n| untouched(&self.shape(n))).collect();
        let mut asked = Gradients::new()
            .cotangent("out", &self.d_out)
            .last_cotangent("h", &self.d_last);
        for (&name, tensor) in names.iter().zip(&mut found) {
            asked = match name {
                "h" => asked.initial_gradient(name, tensor),
                _ => asked.gradient(name, tensor),
            };
        }
        kernel.backward(self.args(), &saved, asked).unwrap();
        found.iter().map(Tensor::to_f64).collect()
    }
}

const ALL: [&str; 6] = ["u", "delta", "a", "b", "c", "h"];

fn mamba() -> Kernel {
    cpu(1).kernel(recurrence(MAMBA))
}

/// The message of a backward run that must fail.
#[track_caller]
fn message(kernel: &Kernel, args: Args<'_>, saved: &Checkpoints, asked: Gradients<'_>) -> String {
    kernel.backward(args, saved, asked).unwrap_err().to_string()
}

fn by_u(d_u: &mut Tensor) -> Gradients<'_> {
    Gradients::new().gradient("u", d_u)
}

#[test]
fn names() {
    let (kernel, mut data) = (mamba(), Data::new(3));
    let saved = data.forward(&kernel);
    let mut d_u = untouched(&[B, 3, D]);
    let mut more = untouched(&[B, 3, D]);
    let mut d_h = untouched(&[B, D, N]);
    assert_eq!(
        message(
            &kernel,
            data.args(),
            &saved,
            by_u(&mut d_u).cotangent("y", &data.d_out)
        ),
        "kernel `selective_scan` has no output `y`; it has `out`"
    );
    assert_eq!(
        message(
            &kernel,
            data.args(),
            &saved,
            by_u(&mut d_u).last_cotangent("state", &data.d_last)
        ),
        "kernel `selective_scan` has no state `state`; it has `h`"
    );
    let unknown = by_u(&mut d_u).gradient("dleta", &mut more);
    assert!(
        message(&kernel, data.args(), &saved, unknown)
            .starts_with("kernel `selective_scan` has no input `dleta`; did you mean `delta`?")
    );
    assert_eq!(
        message(
            &kernel,
            data.args(),
            &saved,
            by_u(&mut d_u).initial_gradient("s", &mut d_h)
        ),
        "kernel `selective_scan` has no state `s`; did you mean `h`? (it has `h`)"
    );
    assert_eq!(
        message(
            &kernel,
            data.args(),
            &saved,
            Gradients::new().cotangent("out", &data.d_out)
        ),
        "no gradient of kernel `selective_scan`: nothing was asked for; add `.gradient(\"…\", …)` or \
         `.initial_gradient(\"…\", …)`"
    );
    for name in ["z", "delta_softplus"] {
        assert_eq!(
            message(
                &kernel,
                data.args(),
                &saved,
                by_u(&mut d_u).gradient(name, &mut more)
            ),
            format!(
                "no gradient of kernel `selective_scan`: `{name}` was not given as a tensor, so there is no gradient by \
                 it; leave it out"
            )
        );
    }
    let untouched = [d_u.to_f64(), more.to_f64(), d_h.to_f64()].concat();
    assert!(
        untouched.iter().all(|&x| x == WRITTEN),
        "nothing is written"
    );
}

#[test]
fn twice_the_same() {
    let (kernel, mut data) = (mamba(), Data::new(3));
    let saved = data.forward(&kernel);
    let [mut d_u, mut more] = [(); 2].map(|()| untouched(&[B, 3, D]));
    let [mut d_h, mut more_h] = [(); 2].map(|()| untouched(&[B, D, N]));
    let cotangents = by_u(&mut d_u)
        .cotangent("out", &data.d_out)
        .cotangent("out", &data.d_out);
    assert_eq!(
        message(&kernel, data.args(), &saved, cotangents),
        "the cotangent of the output `out` was passed twice; pass it once"
    );
    let last = by_u(&mut d_u)
        .last_cotangent("h", &data.d_last)
        .last_cotangent("h", &data.d_last);
    assert_eq!(
        message(&kernel, data.args(), &saved, last),
        "the cotangent of the last state `h` was passed twice; pass it once"
    );
    assert_eq!(
        message(
            &kernel,
            data.args(),
            &saved,
            by_u(&mut d_u).gradient("u", &mut more)
        ),
        "the gradient by the input `u` was passed twice; pass it once"
    );
    let initial = Gradients::new()
        .initial_gradient("h", &mut d_h)
        .initial_gradient("h", &mut more_h);
    assert_eq!(
        message(&kernel, data.args(), &saved, initial),
        "the gradient by the initial state `h` was passed twice; pass it once"
    );
    let untouched = [d_u.to_f64(), more.to_f64(), d_h.to_f64(), more_h.to_f64()].concat();
    assert!(
        untouched.iter().all(|&x| x == WRITTEN),
        "nothing is written"
    );
}

#[test]
fn shapes_types_and_memory() {
    let (kernel, mut data) = (mamba(), Data::new(3));
    let saved = data.forward(&kernel);
    let (mut d_u, mut d_h) = (untouched(&[B, 3, D]), untouched(&[B, D, N]));
    let long = zeros(&[B, 4, D]);
    let asked = Gradients::new()
        .gradient("u", &mut d_u)
        .cotangent("out", &long);
    assert_eq!(
        message(&kernel, data.args(), &saved, asked),
        "the cotangent of the output `out` has the shape [2, 4, 4], but its axes [B, L, D] make it [2, 3, 4]; pass [2, 3, 4]"
    );
    let mut flat = untouched(&[B, 3 * D]);
    assert_eq!(
        message(
            &kernel,
            data.args(),
            &saved,
            Gradients::new().gradient("u", &mut flat)
        ),
        "the gradient by the input `u` has the shape [2, 12], but its axes [B, L, D] make it [2, 3, 4]; pass [2, 3, 4]"
    );
    let mut turned = untouched(&[B, N, D]);
    assert_eq!(
        message(
            &kernel,
            data.args(),
            &saved,
            Gradients::new().initial_gradient("h", &mut turned)
        ),
        "the gradient by the initial state `h` has the shape [2, 5, 4], but its axes [B, D, N] make it [2, 4, 5]; pass \
         [2, 4, 5]"
    );
    let other = Data::new(4);
    let text = message(
        &kernel,
        other.args(),
        &saved,
        Gradients::new().gradient("u", &mut d_u),
    );
    assert!(
        text.contains(
            "the input `u` has the shape [2, 4, 4], but its axes [B, L, D] make it [2, 3, 4]"
        ),
        "{text}"
    );
    let half = Tensor::zeros(Dtype::Bf16, &[B, D, N]).unwrap();
    let asked = Gradients::new()
        .initial_gradient("h", &mut d_h)
        .last_cotangent("h", &half);
    let error = kernel.backward(data.args(), &saved, asked).unwrap_err();
    assert!(matches!(error, Error::Dtype { .. }), "{error}");
    let untouched = [d_u.to_f64(), d_h.to_f64(), flat.to_f64(), turned.to_f64()].concat();
    assert!(
        untouched.iter().all(|&x| x == WRITTEN),
        "nothing is written"
    );
}

/// Both runs are of one call.
#[test]
fn other_arguments_than_the_forward_runs() {
    let (kernel, mut data) = (mamba(), Data::new(3));
    let saved = data.forward(&kernel);
    let z = zeros(&[B, 3, D]);
    let mut d_u = untouched(&[B, 3, D]);
    assert_eq!(
        message(&kernel, data.args().input("z", &z), &saved, by_u(&mut d_u)),
        "no gradient of kernel `selective_scan`: the forward run was given `u`, `delta`, `a`, `b`, `c`, `delta_softplus`, \
         the backward run `u`, `delta`, `a`, `b`, `c`, `z`, `delta_softplus`; give both the same"
    );
    let packed = data.args().boundaries(&[0; B * 3], &[B, 3]);
    let text = message(&kernel, packed, &saved, by_u(&mut d_u));
    assert!(
        text.contains("and boundaries; give both the same"),
        "{text}"
    );
    assert!(
        d_u.to_f64().iter().all(|&x| x == WRITTEN),
        "nothing is written"
    );

    // As many tokens, of another shape.
    let mut out = zeros(&[B, 3, D]);
    let packed = data
        .args()
        .boundaries(&[0; B * 3], &[B, 3])
        .output("out", &mut out);
    let saved = kernel.forward_for_grad(packed).unwrap();
    let turned = data.args().boundaries(&[0; B * 3], &[3, B]);
    assert_eq!(
        message(&kernel, turned, &saved, by_u(&mut d_u)),
        "the boundaries `seq_idx` has the shape [3, 2], but its axes [B, L] make it [2, 3]; pass [2, 3]"
    );
    assert!(
        d_u.to_f64().iter().all(|&x| x == WRITTEN),
        "nothing is written"
    );
}

#[test]
fn gradients_have_memory_of_their_own() {
    let (kernel, mut data) = (mamba(), Data::new(3));
    let saved = data.forward(&kernel);
    let shape = [B, 3, D];
    let mut memory = vec![WRITTEN as f32; B * 3 * D];
    // As another language may pass them: one address twice.
    let view = |memory: &mut [f32]| {
        let ptr = memory.as_mut_ptr().cast();
        // SAFETY: aligned and long enough; that it is passed twice is what is refused.
        unsafe { TensorMut::from_raw_parts(ptr, Dtype::F32, &shape) }.unwrap()
    };
    let (d_u, d_delta) = (view(&mut memory), view(&mut memory));
    let asked = Gradients::new()
        .gradient("u", d_u)
        .gradient("delta", d_delta);
    let error = kernel.backward(data.args(), &saved, asked.cotangent("out", &data.d_out));
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Overlap { .. }), "{error}");
    assert!(
        memory.iter().all(|&x| x == WRITTEN as f32),
        "nothing is written"
    );
}

#[test]
fn saved_states_are_bounded_and_used_again() {
    let (kernel, mut data) = (mamba(), Data::new(100));
    let state = B * D * N * 4;
    for steps in [1, 7, 100, 1000] {
        let saved = data.forward(&kernel.with_checkpoint_steps(steps));
        assert_eq!(saved.steps(), steps);
        assert_eq!(saved.bytes(), 100_usize.div_ceil(steps as usize) * state);
    }
    for limit in [0, state, 3 * state, 10 * state + 1, 1 << 30] {
        let kernel = kernel.with_checkpoint_steps(1).with_checkpoint_limit(limit);
        let saved = data.forward(&kernel);
        assert!(
            saved.bytes() <= limit.max(state),
            "{} for {limit}",
            saved.bytes()
        );
    }
    let exact = data.gradients(&kernel.with_checkpoint_steps(1), &ALL);
    let bounded = kernel.with_checkpoint_limit(2 * state);
    for (x, y) in exact.iter().zip(data.gradients(&bounded, &ALL)) {
        let largest = x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let near = x
            .iter()
            .zip(&y)
            .all(|(x, y)| (x - y).abs() <= 1e-5 * largest);
        assert!(near, "{x:?} {y:?}");
    }
}

/// What was saved for one call serves the next of its shape, and not one of another.
#[test]
fn memory_is_used_again() {
    let (kernel, mut data) = (mamba().with_checkpoint_steps(3), Data::new(10));
    let wanted = data.gradients(&kernel, &ALL);
    let mut saved = None;
    for steps in [10, 20, 10, 10] {
        let other = Data::new(steps);
        let mut out = zeros(&[B, steps, D]);
        let args = other.args().output("out", &mut out);
        kernel.forward_for_grad_into(args, &mut saved).unwrap();
        let bytes = saved.as_ref().map(Checkpoints::bytes);
        assert_eq!(bytes, Some(steps.div_ceil(3) * B * D * N * 4));
    }
    let mut d_a = untouched(&[D, N]);
    let asked = Gradients::new()
        .cotangent("out", &data.d_out)
        .last_cotangent("h", &data.d_last)
        .gradient("a", &mut d_a);
    kernel
        .backward(data.args(), saved.as_ref().unwrap(), asked)
        .unwrap();
    assert_eq!(d_a.to_f64(), wanted[2]);
}

#[test]
fn lengths_about_a_chunks() {
    for steps in 1..=9 {
        let mut data = Data::new(steps);
        let wanted = data.gradients(&mamba().with_checkpoint_steps(1), &ALL);
        for chunk in [steps - 1, steps, steps + 1] {
            let kernel = mamba().with_checkpoint_steps(chunk as u32);
            for ((x, y), name) in wanted.iter().zip(data.gradients(&kernel, &ALL)).zip(ALL) {
                let largest = x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
                let near = x
                    .iter()
                    .zip(&y)
                    .all(|(x, y)| (x - y).abs() <= 1e-5 * largest);
                assert!(
                    near,
                    "{name} of {steps} steps by chunks of {chunk}: {x:?} {y:?}"
                );
            }
        }
    }
}

#[test]
fn one_at_a_time_or_together() {
    let (kernel, mut data) = (mamba().with_checkpoint_steps(4), Data::new(11));
    let together = data.gradients(&kernel, &ALL);
    for (name, wanted) in ALL.into_iter().zip(together) {
        let alone = &data.gradients(&kernel, &[name])[0];
        let largest = wanted.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let near = alone
            .iter()
            .zip(&wanted)
            .all(|(x, y)| (x - y).abs() <= 1e-5 * largest);
        assert!(near, "{name}: {alone:?} {wanted:?}");
    }
}

/// exp(delta a) is 0 in f32, or 1.
#[test]
fn extreme_decays() {
    for a in [-1e4, -1e30, -1e-30, 0.0] {
        let mut data = Data::new(20);
        data.inputs[2].1.fill(a);
        for (name, found) in ALL
            .into_iter()
            .zip(data.gradients(&mamba().with_checkpoint_steps(6), &ALL))
        {
            assert!(
                found.iter().all(|x| x.is_finite()),
                "a = {a}: d_{name} is {found:?}"
            );
        }
    }
}

#[test]
fn no_steps() {
    let mut data = Data::new(0);
    let found = data.gradients(&mamba(), &ALL);
    assert_eq!(found[5], data.d_last.to_f64());
    assert_eq!(found[2], [0.0; D * N]);
    for k in [0, 1, 3, 4] {
        assert!(found[k].is_empty());
    }
}
