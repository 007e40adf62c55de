//! Kernels under `#[ssm_kernel]` as a user's crate has them, under its strictest lints: typed arguments reach the
//! kernel that they name, and what comes out is the recurrence's meaning in f64.
#![deny(
    warnings,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    single_use_lifetimes,
    unused_lifetimes
)]
#![forbid(unsafe_code)]

use selscan::prelude::*;

type Outcome = Result<(), Error>;

/// Numbers in [−1, 1], other ones for another `speed`.
fn wave(shape: &[usize], speed: f64) -> Result<Tensor, Error> {
    let count = shape.iter().product();
    let data: Vec<f64> = (0..count).map(|i| (i as f64 * speed + 0.3).sin()).collect();
    Tensor::from_f64(Dtype::F64, shape, &data)
}

fn zeros(shape: &[usize]) -> Result<Tensor, Error> {
    Tensor::zeros(Dtype::F64, shape)
}

/// The inputs of the meaning.
fn inputs(r: &Recurrence, given: &[(&str, &Tensor)]) -> Inputs {
    let mut inputs = Inputs::new();
    for (name, tensor) in given {
        let complex = r.input_named(name).is_some_and(|i| r.input(i).complex);
        let (shape, data) = (tensor.shape(), tensor.to_f64());
        let array = match shape.split_last() {
            Some((2, shape)) if complex => Array::complex(shape, data),
            _ => Array::real(shape, data),
        };
        inputs = inputs.with(name, array);
    }
    inputs
}

#[track_caller]
fn assert_close(found: &Tensor, wanted: &Array) {
    let found = found.to_f64();
    assert_eq!(found.len(), wanted.data.len());
    assert!(found.iter().any(|x| *x != 0.0), "nothing was written");
    for (x, y) in found.iter().zip(&wanted.data) {
        assert!((x - y).abs() <= 1e-12 * (1.0 + y.abs()), "{x} {y}");
    }
}

/// A gated scan.
#[ssm_kernel]
pub fn gated(
    u: Tensor<B, L, D>,
    delta: Tensor<B, L, D>,
    z: Option<Tensor<B, L, D>>,
    positive: Flag,
    h: State<B, D>,
) -> Tensor<B, L, D> {
    let delta = given(positive, softplus(delta), delta);
    h = exp(-delta) * h + u;
    given(z, h * silu(z), h)
}

#[test]
fn what_is_left_out_is_folded_away() -> Outcome {
    let kernel = Gated::compile(&Cpu::with_threads(1)?)?;
    let shape = [2, 7, 3];
    let (u, delta, z) = (wave(&shape, 0.7)?, wave(&shape, 1.3)?, wave(&shape, 0.4)?);
    for (gate, positive, state) in [
        (false, false, false),
        (true, false, true),
        (false, true, true),
        (true, true, false),
    ] {
        let (mut y, mut last, first) = (zeros(&shape)?, zeros(&[2, 3])?, wave(&[2, 3], 2.1)?);
        kernel.launch(GatedArgs {
            u: u.view(),
            delta: delta.view(),
            out: y.view_mut(),
            options: GatedOptions {
                z: gate.then(|| z.view()),
                positive,
                initial_h: state.then(|| first.view()),
                last_h: state.then(|| last.view_mut()),
                ..Default::default()
            },
        })?;
        let mut given = inputs(Gated::recurrence(), &[("u", &u), ("delta", &delta)]);
        if gate {
            given = given.with("z", Array::real(&shape, z.to_f64()));
        }
        if positive {
            given = given.with_flag("positive");
        }
        if state {
            given = given.with_initial("h", Array::real(&[2, 3], first.to_f64()));
        }
        let meaning = eval(Gated::recurrence(), &given)?;
        assert_close(&y, &meaning.tensors["out"]);
        if state {
            assert_close(&last, &meaning.last["h"]);
        }
    }
    Ok(())
}

#[test]
fn packed_sequences() -> Outcome {
    let shape = [2, 6, 3];
    let (u, delta, mut y) = (wave(&shape, 0.7)?, wave(&shape, 1.3)?, zeros(&shape)?);
    let seq_idx = [0, 0, 1, 1, 1, 2, 0, 1, 1, 1, 1, 1];
    Gated::compile(&Cpu::new()?)?.launch(GatedArgs {
        u: u.view(),
        delta: delta.view(),
        out: y.view_mut(),
        options: GatedOptions {
            boundaries: Some((&seq_idx, &[2, 6])),
            ..Default::default()
        },
    })?;
    let seq_idx = Array::real(&[2, 6], seq_idx.map(f64::from).to_vec());
    let given = inputs(Gated::recurrence(), &[("u", &u), ("delta", &delta)]).with_seq_idx(seq_idx);
    assert_close(&y, &eval(Gated::recurrence(), &given)?.tensors["out"]);
    Ok(())
}

#[test]
fn wrong_shapes_are_errors() -> Outcome {
    let (u, delta, mut y) = (
        wave(&[2, 7, 3], 0.7)?,
        wave(&[2, 7, 4], 1.3)?,
        zeros(&[2, 7, 3])?,
    );
    let args = GatedArgs {
        u: u.view(),
        delta: delta.view(),
        out: y.view_mut(),
        options: Default::default(),
    };
    let launched = Gated::compile(&Cpu::new()?)?.launch(args);
    let message = launched.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(message.contains("delta"), "{message}");
    assert_eq!(y.to_f64(), zeros(&[2, 7, 3])?.to_f64());
    Ok(())
}

#[test]
fn the_text_is_the_recurrence() {
    assert_eq!(
        Recurrence::parse(Gated::TEXT).as_ref(),
        Ok(Gated::recurrence())
    );
    assert!(
        Gated::TEXT.starts_with("/// A gated scan.\n#[ssm_kernel]\npub fn gated("),
        "{}",
        Gated::TEXT
    );
    assert!(std::ptr::eq(Gated::recurrence(), Gated::recurrence()));
}

#[ssm_kernel]
fn rotating(
    u: Tensor<B, L, D>,
    a: Complex<D, N>,
    c: Complex<D, N>,
    h: ComplexState<B, D, N>,
) -> Tensor<B, L, D> {
    h = exp(a) * h + u;
    2 * sum::<N>(re(c * h))
}

#[test]
fn complex_tensors_are_pairs() -> Outcome {
    let (u, a, c) = (
        wave(&[1, 9, 2], 0.7)?,
        wave(&[2, 3, 2], 1.7)?,
        wave(&[2, 3, 2], 0.9)?,
    );
    let (mut y, mut last_h) = (zeros(&[1, 9, 2])?, zeros(&[1, 2, 3, 2])?);
    Rotating::compile(&Cpu::new()?)?.launch(RotatingArgs {
        u: u.view(),
        a: a.view(),
        c: c.view(),
        out: y.view_mut(),
        options: RotatingOptions {
            last_h: Some(last_h.view_mut()),
            ..Default::default()
        },
    })?;
    let given = inputs(Rotating::recurrence(), &[("u", &u), ("a", &a), ("c", &c)]);
    let meaning = eval(Rotating::recurrence(), &given)?;
    assert_close(&y, &meaning.tensors["out"]);
    assert_close(&last_h, &meaning.last["h"]);
    Ok(())
}

#[ssm_kernel(time = T, reverse, N2 = N)]
fn dense(
    u: Tensor<B, T>,
    a: Tensor<N, N2>,
    b: Tensor<N>,
    x: State<B, N>,
) -> (Tensor<B, T, N>, Tensor<B, T>) {
    x = sum::<N2>(a * alias::<N, N2>(x)) + b * u;
    (x, sum::<N>(x))
}

#[test]
fn two_outputs_of_a_dense_reversed_system() -> Outcome {
    let (u, a, b) = (wave(&[2, 8], 0.7)?, wave(&[3, 3], 1.7)?, wave(&[3], 0.9)?);
    let (mut states, mut sums) = (zeros(&[2, 8, 3])?, zeros(&[2, 8])?);
    Dense::compile(&Cpu::new()?)?.launch(DenseArgs {
        u: u.view(),
        a: a.view(),
        b: b.view(),
        out0: states.view_mut(),
        out1: sums.view_mut(),
        options: Default::default(),
    })?;
    let given = inputs(Dense::recurrence(), &[("u", &u), ("a", &a), ("b", &b)]);
    let meaning = eval(Dense::recurrence(), &given)?;
    assert_close(&states, &meaning.tensors["out0"]);
    assert_close(&sums, &meaning.tensors["out1"]);
    Ok(())
}

#[ssm_kernel(bidirectional)]
fn both_ways(u: Tensor<L, H>, decay: Tensor<G>, h: State<H>) -> Tensor<L, H> {
    h = group::<G, H>(decay) * h + u;
    h
}

#[test]
fn the_twin_of_a_bidirectional_kernel_has_a_state() -> Outcome {
    let (u, decay) = (wave(&[6, 4], 0.7)?, wave(&[2], 0.5)?);
    let (mut y, mut first) = (zeros(&[6, 4])?, zeros(&[4])?);
    BothWays::compile(&Cpu::new()?)?.launch(BothWaysArgs {
        u: u.view(),
        decay: decay.view(),
        out: y.view_mut(),
        options: BothWaysOptions {
            last_h_reverse: Some(first.view_mut()),
            ..Default::default()
        },
    })?;
    let given = inputs(BothWays::recurrence(), &[("u", &u), ("decay", &decay)]);
    let meaning = eval(BothWays::recurrence(), &given)?;
    assert_close(&y, &meaning.tensors["out"]);
    assert_close(&first, &meaning.last["h_reverse"]);
    Ok(())
}

#[ssm_kernel]
fn delayed(u: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> {
    h = 0.5 * h + u - 0.25 * delay(u, 2);
    h
}

#[test]
fn steps_are_a_launch() -> Outcome {
    let kernel = Delayed::compile(&Cpu::with_threads(1)?)?;
    let u = wave(&[1, 5, 3], 0.7)?;
    let [mut h, mut before, mut before_that] = [zeros(&[1, 3])?, zeros(&[1, 3])?, zeros(&[1, 3])?];
    let mut steps = Vec::new();
    for token in u.to_f64().chunks(3) {
        let mut y = [0.0; 3];
        let args = DelayedArgs {
            u: TensorRef::new(token, &[1, 1, 3])?,
            out: TensorMut::new(&mut y, &[1, 1, 3])?,
            options: Default::default(),
        };
        let states = DelayedStates {
            h: h.view_mut(),
            u_delay1: before.view_mut(),
            u_delay2: before_that.view_mut(),
        };
        kernel.step(args, states)?;
        steps.extend(y);
    }
    let given = inputs(Delayed::recurrence(), &[("u", &u)]);
    let meaning = eval(Delayed::recurrence(), &given)?;
    assert_close(
        &Tensor::from_slice(&steps, &[1, 5, 3])?,
        &meaning.tensors["out"],
    );
    assert_close(&h, &meaning.last["h"]);
    assert_close(&before_that, &meaning.last["u_delay2"]);

    let mut y = zeros(&[1, 5, 3])?;
    let args = DelayedArgs {
        u: u.view(),
        out: y.view_mut(),
        options: Default::default(),
    };
    let states = DelayedStates {
        h: h.view_mut(),
        u_delay1: before.view_mut(),
        u_delay2: before_that.view_mut(),
    };
    let message = kernel
        .step(args, states)
        .err()
        .map(|e| e.to_string())
        .unwrap_or_default();
    assert!(message.contains("launch"), "{message}");
    Ok(())
}

mod layers {
    //! A kernel for its crate, from a module that has no prelude and names of its own for everything.
    #![allow(dead_code, unused_macros, non_camel_case_types)]

    struct Option;
    struct Result;
    struct Some;
    struct Args;
    struct Kernel;
    struct TensorRef;
    struct From;
    struct bool;
    struct str;
    mod selscan {}
    mod core {}
    mod std {}

    /// y = Σ u.
    #[::selscan::ssm_kernel]
    #[doc(alias = "cumsum")]
    pub(crate) fn total(
        r#type: Tensor<L>,
        call: Tensor,
        args: Option<Tensor>,
        on: Flag,
        s: State,
    ) -> Tensor<L> {
        s = s + r#type * call + given(on, 1, 0);
        s + args
    }
}

#[test]
fn names_do_not_collide() -> Outcome {
    let (x, one) = (wave(&[5], 0.7)?, Tensor::from_slice(&[2.0], &[])?);
    let mut y = zeros(&[5])?;
    layers::Total::compile(&Cpu::new()?)?.launch(layers::TotalArgs {
        r#type: x.view(),
        call: one.view(),
        out: y.view_mut(),
        options: Default::default(),
    })?;
    let given = inputs(
        layers::Total::recurrence(),
        &[("r#type", &x), ("call", &one)],
    );
    let meaning = eval(layers::Total::recurrence(), &given)?;
    assert_close(&y, &meaning.tensors["out"]);
    Ok(())
}

#[test]
fn kernels_may_stand_in_functions() -> Outcome {
    #[ssm_kernel]
    fn local(u: Tensor<L>, s: State) -> Tensor<L> {
        s = max(s, u);
        s
    }
    let mut y = [0.0; 4];
    Local::compile(&Cpu::new()?)?.launch(LocalArgs {
        u: TensorRef::new(&[1.0, 3.0, 2.0, 4.0], &[4])?,
        out: TensorMut::new(&mut y, &[4])?,
        options: Default::default(),
    })?;
    assert_eq!(y, [1.0, 3.0, 3.0, 4.0]);
    Ok(())
}
