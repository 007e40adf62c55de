//! What each property of a recurrence means, on numbers small enough to follow by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::op::Op;

fn parse(text: &str) -> Recurrence {
    Recurrence::parse(text).unwrap_or_else(|e| panic!("{e}"))
}
fn row(data: &[f64]) -> Array {
    Array::real(&[1, data.len()], data.to_vec())
}
fn out(r: &Recurrence, inputs: &Inputs) -> Vec<f64> {
    eval(r, inputs).unwrap().tensors["out"].data.clone()
}

/// h = h/2 + x.
fn decay(attribute: &str) -> Recurrence {
    parse(&format!(
        "#[ssm_kernel] fn decay(x: Tensor<B, L>, {attribute} h: State<B>) -> Tensor<B, L> {{ h = h / 2 + x; h }}"
    ))
}

#[test]
fn a_state_runs_forward_and_backward() {
    let inputs = Inputs::new()
        .with("x", row(&[1.0, 2.0, 4.0]))
        .with_initial("h", Array::real(&[1], vec![8.0]));
    let forward = eval(&decay(""), &inputs).unwrap();
    assert_eq!(forward.tensors["out"].data, [5.0, 4.5, 6.25]);
    assert_eq!(forward.last["h"].data, [6.25]);
    let backward = eval(&decay("#[reverse]"), &inputs).unwrap();
    assert_eq!(backward.tensors["out"].data, [4.0, 6.0, 8.0]);
    assert_eq!(backward.last["h"].data, [4.0]);
}

#[test]
fn no_step_keeps_the_initial_state() {
    let inputs = Inputs::new()
        .with("x", Array::real(&[2, 0], vec![]))
        .with_initial("h", Array::real(&[2], vec![8.0, 9.0]));
    for attribute in ["", "#[reverse]"] {
        let none = eval(&decay(attribute), &inputs).unwrap();
        assert_eq!(none.tensors["out"].shape, [2, 0]);
        assert_eq!(none.last["h"].data, [8.0, 9.0]);
    }
}

#[test]
fn packed_sequences_reset_to_zero_and_not_to_the_initial_state() {
    let inputs = Inputs::new()
        .with("x", row(&[1.0, 2.0, 4.0]))
        .with_initial("h", Array::real(&[1], vec![8.0]))
        .with_seq_idx(row(&[3.0, 3.0, 4.0]));
    assert_eq!(out(&decay(""), &inputs), [5.0, 4.5, 4.0]);
    assert_eq!(out(&decay("#[reverse]"), &inputs), [2.0, 2.0, 8.0]);
    let wrong = inputs.with_seq_idx(row(&[0.0]));
    let error = eval(&decay(""), &wrong).unwrap_err().to_string();
    assert!(
        error.contains("axis L of `seq_idx` has the extent 1, but 3"),
        "{error}"
    );
}

/// A kernel that has an input `keep` already still gets one for boundaries.
#[test]
fn boundaries_find_a_free_name() {
    let r = parse(
        "#[ssm_kernel] fn f(keep: Tensor<B, L>, h: State<B>) -> Tensor<B, L> { h = h + keep; h }",
    );
    let inputs = Inputs::new()
        .with("keep", row(&[0.0, 2.0, 4.0]))
        .with_seq_idx(row(&[0.0, 0.0, 1.0]));
    assert_eq!(out(&r, &inputs), [0.0, 2.0, 4.0]);
}

#[test]
fn a_shift_register_forgets_at_a_boundary_all_but_what_enters() {
    let r = parse(
        "#[ssm_kernel] fn f(x: Tensor<B, L>, w: Tensor<N>, h: State<B, N>) -> Tensor<B, L> { h = push_back::<N>(h, x); sum::<N>(w * h) }",
    );
    let inputs = Inputs::new()
        .with("x", row(&[1.0, 2.0, 4.0, 8.0]))
        .with("w", Array::real(&[3], vec![1.0; 3]))
        .with_initial("h", Array::real(&[1, 3], vec![10.0, 20.0, 40.0]));
    let whole = eval(&r, &inputs).unwrap();
    assert_eq!(whole.tensors["out"].data, [61.0, 43.0, 7.0, 14.0]);
    assert_eq!(whole.last["h"].data, [2.0, 4.0, 8.0]);
    let packed = eval(&r, &inputs.with_seq_idx(row(&[0.0, 0.0, 1.0, 1.0]))).unwrap();
    assert_eq!(packed.tensors["out"].data, [61.0, 43.0, 4.0, 12.0]);
    assert_eq!(packed.last["h"].data, [0.0, 4.0, 8.0]);
}

/// With complex a = 2i, two steps multiply by −4.
#[test]
fn complex_states_turn() {
    let r = parse(
        "#[ssm_kernel] fn f(x: Tensor<B, L>, a: Complex<>, h: ComplexState<B>) -> Tensor<B, L> { h = a * h + x; re(h) }",
    );
    let inputs = Inputs::new()
        .with("x", row(&[1.0, 0.0, 0.0]))
        .with("a", Array::complex(&[], vec![0.0, 2.0]));
    let (values, bounds) = eval_with_bound(&r, &inputs).unwrap();
    assert_eq!(values.tensors["out"].data, [1.0, 0.0, -4.0]);
    assert_eq!(values.last["h"].data, [-4.0, 0.0]);
    assert_eq!(bounds.last["h"].data.len(), 2);
    assert!(bounds.last["h"].data.iter().all(|&m| m >= 4.0));
}

/// Delays, groups, aliases, positions and lengths, each against its definition.
#[test]
fn reads_move_data() {
    let x = Inputs::new().with("x", row(&[1.0, 2.0, 4.0, 8.0]));
    let delayed =
        parse("#[ssm_kernel] fn f(x: Tensor<B, L>) -> Tensor<B, L> { x - 10 * delay(x, 2) }");
    assert_eq!(out(&delayed, &x), [1.0, 2.0, -6.0, -12.0]);

    let grouped = parse(
        "#[ssm_kernel] fn f(x: Tensor<L, G>, w: Tensor<H>) -> Tensor<L> { sum::<H>(w * group::<G, H>(x)) }",
    );
    let inputs = Inputs::new()
        .with("x", Array::real(&[2, 2], vec![1.0, 10.0, 2.0, 20.0]))
        .with("w", Array::real(&[4], vec![1.0, 2.0, 3.0, 4.0]));
    assert_eq!(out(&grouped, &inputs), [73.0, 146.0]);

    let dense = parse(
        "#[ssm_kernel(N2 = N)] fn f(a: Tensor<N, N2>, x: Tensor<L, N>) -> Tensor<L, N> { sum::<N2>(a * alias::<N, N2>(x)) }",
    );
    let inputs = Inputs::new()
        .with("a", Array::real(&[2, 2], vec![1.0, 2.0, 3.0, 4.0]))
        .with("x", Array::real(&[1, 2], vec![1.0, 10.0]));
    assert_eq!(out(&dense, &inputs), [21.0, 43.0]);

    let places = parse(
        "#[ssm_kernel] fn f(x: Tensor<B, L>, w: Tensor<N>) -> Tensor<B, L> { x + sum::<N>(w * index::<N>()) * len::<N>() }",
    );
    let inputs = x.with("w", Array::real(&[3], vec![5.0, 1.0, 2.0]));
    assert_eq!(out(&places, &inputs), [16.0, 17.0, 19.0, 23.0]);
}

/// A sum over an axis that its operand does not vary over counts that axis's positions.
#[test]
fn a_sum_over_an_absent_input_keeps_its_axis() {
    let r = parse(
        "#[ssm_kernel] fn f(x: Tensor<B, L>, w: Option<Tensor<N>>, v: Tensor<N>) -> Tensor<B, L> { sum::<N>(x + w) * max::<N>(v) }",
    );
    let inputs = Inputs::new()
        .with("x", row(&[1.0, 2.0]))
        .with("v", Array::real(&[3], vec![1.0, 5.0, -7.0]));
    assert_eq!(out(&r, &inputs), [15.0, 30.0]);
    let inputs = inputs.with("w", Array::real(&[3], vec![1.0, 0.0, 2.0]));
    assert_eq!(out(&r, &inputs), [30.0, 45.0]);
}

#[test]
fn given_takes_one_side() {
    let r = parse(
        "#[ssm_kernel] fn f(x: Tensor<B, L>, z: Option<Tensor<B, L>>, twice: Flag) -> Tensor<B, L> { given(twice, 2 * x, x) + given(z, z, 100) }",
    );
    let x = Inputs::new().with("x", row(&[1.0]));
    assert_eq!(out(&r, &x), [101.0]);
    assert_eq!(out(&r, &x.clone().with_flag("twice")), [102.0]);
    assert_eq!(out(&r, &x.with("z", row(&[5.0]))), [6.0]);
}

/// A backward state reads a forward one: two passes. A forward state that reads that one: three.
#[test]
fn directions_take_turns() {
    let mut r = parse(
        "#[ssm_kernel]
         fn f(x: Tensor<B, L>, f: State<B>, #[reverse] g: State<B>, #[reverse] h: State<B>) -> Tensor<B, L> {
             let after = g;
             f = f + x;
             g = g + f;
             h = h + g;
             h + after
         }",
    );
    let x = Inputs::new().with("x", row(&[1.0, 2.0, 4.0]));
    // f = 1 3 7, g = 11 10 7, h = 28 17 7; after = 10 7 0.
    assert_eq!(out(&r, &x), [38.0, 24.0, 7.0]);
    r.states[2].reverse = false;
    // h = 11 21 28.
    assert_eq!(out(&r, &x), [21.0, 28.0, 28.0]);
}

/// What the checker does not let a text say, a transformation that goes wrong could.
#[test]
fn circles_are_refused() {
    let inputs = Inputs::new().with("x", row(&[1.0]));
    let mut r = decay("");
    let next = r.outputs[0].value;
    r.states[0].update = r.graph.op(Op::Exp, &[next]);
    assert!(matches!(eval(&r, &inputs), Err(EvalError::Cyclic { .. })));
    // The walk reaches the circle from the output's side, too.
    r.outputs[0].value = r.graph.op(Op::Neg, &[next]);
    assert!(matches!(eval(&r, &inputs), Err(EvalError::Cyclic { .. })));

    let mut r = parse(
        "#[ssm_kernel]
         fn f(x: Tensor<B, L>, f: State<B>, #[reverse] g: State<B>) -> Tensor<B, L> { f = f + x; g = g + f; g }",
    );
    r.states[0].update = r.outputs[0].value;
    assert!(matches!(eval(&r, &inputs), Err(EvalError::Cyclic { .. })));
}

/// An f32 run of h = h/2 + x stays within the bound, which is not far above it.
#[test]
fn the_bound_holds_and_is_not_idle() {
    let xs: Vec<f64> = (0..200)
        .map(|i| f64::from((i as f32 * 0.7).sin()))
        .collect();
    let (values, bounds) = eval_with_bound(&decay(""), &Inputs::new().with("x", row(&xs))).unwrap();
    let (mut h, eps) = (0.0f32, f64::from(f32::EPSILON));
    for (i, &x) in xs.iter().enumerate() {
        h = h / 2.0 + x as f32;
        let (y, m) = (values.tensors["out"].data[i], bounds.tensors["out"].data[i]);
        assert!((f64::from(h) - y).abs() <= eps * m, "{i}");
        assert!(m < 20.0, "{m}");
    }
}

/// Cancellation: 1e6 + x − 1e6 keeps the rounding of 1e6.
#[test]
fn the_bound_sees_cancellation() {
    let r = parse("#[ssm_kernel] fn f(x: Tensor<B, L>) -> Tensor<B, L> { (x + 1e6) - 1e6 }");
    let (values, bounds) = eval_with_bound(&r, &Inputs::new().with("x", row(&[0.25]))).unwrap();
    assert_eq!(values.tensors["out"].data, [0.25]);
    assert!(bounds.tensors["out"].data[0] > 1e6);
}

#[test]
fn what_is_not_finite_goes_on_as_ieee_says() {
    let y = out(
        &decay(""),
        &Inputs::new().with("x", row(&[1.0, f64::INFINITY, 1.0, f64::NEG_INFINITY, 0.0])),
    );
    assert_eq!(y[..3], [1.0, f64::INFINITY, f64::INFINITY]);
    assert!(y[3].is_nan() && y[4].is_nan());
}

#[test]
fn wrong_inputs_are_named() {
    let x = || Inputs::new().with("x", row(&[1.0]));
    for (inputs, wanted) in [
        (x().with("y", row(&[1.0])), "no `y`"),
        (x().with("x", Array::real(&[1, 2], vec![1.0])), "holds 1"),
        (
            x().with("x", Array::complex(&[1, 1], vec![1.0; 2])),
            "declared real, but a complex",
        ),
        (x().with_flag("f"), "no flag `f`"),
        (x().with_flag("x"), "no flag `x`"),
        (x().with_initial("x", Array::scalar(0.0)), "the states h"),
        (
            x().with("x", Array::real(&[usize::MAX, 2], vec![])),
            "more elements than memory",
        ),
        (x().with_seq_idx(Array::scalar(0.0)), "its axes are [B, L]"),
    ] {
        let error = eval(&decay(""), &inputs).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    let flag = parse(
        "#[ssm_kernel] fn f(x: Tensor<B, L>, twice: Flag) -> Tensor<B, L> { given(twice, 2 * x, x) }",
    );
    let error = eval(&flag, &x().with("twice", Array::scalar(1.0)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`twice` is a flag"), "{error}");
}

/// Extents that no input says, and one that says another.
#[test]
fn known_extents_are_taken_and_held() {
    let r = parse(
        "fn f(x: Tensor<L>, n: Option<Tensor<N>>, h: State<N>) -> Tensor<L, N> { h = h + x + n; h }",
    );
    let inputs = Inputs::new().with("x", Array::real(&[2], vec![1.0, 2.0]));
    assert!(eval(&r, &inputs).is_err());
    let extents = |l: usize| {
        Extents(
            r.axes
                .iter()
                .map(|a| if a.name == "L" { l } else { 3 })
                .collect(),
        )
    };
    let out = eval_at(&r, &inputs, &extents(2)).unwrap();
    assert_eq!(out.last["h"].data, [3.0; 3]);
    let error = eval_at(&r, &inputs, &extents(4)).unwrap_err().to_string();
    assert!(
        error.contains("axis L of `x` has the extent 2, but 4 in `f`"),
        "{error}"
    );
}
