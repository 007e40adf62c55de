//! Systems that do not change in time: S4D, DSS, S5, and dense ones (LSSL, LMU, S4 before its convolution).

use crate::Model;

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "s4d_zoh",
        source: "Gu et al. 2022, S4D, equation 4 (zero-order hold), half of the conjugate pairs",
        text: r"
#[ssm_kernel]
fn s4d_zoh(
    u: Tensor<B, H, L>, dt: Tensor<H>, a: Complex<H, N>, b: Complex<H, N>, c: Complex<H, N>, d: Option<Tensor<H>>,
    x: ComplexState<B, H, N>,
) -> Tensor<B, H, L> {
    let (a_bar, b_bar) = discretize::zoh(dt, a, b);
    x = a_bar * x + b_bar * u;
    2 * sum::<N>(re(c * x)) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("N", 4)],
        typical: &[("B", 1), ("L", 4096), ("H", 512), ("N", 32)],
        ranges: &[("dt", 0.001, 0.1), ("a", -1.0, -0.1)],
    },
    Model {
        name: "s4d_bilinear",
        source: "Gu et al. 2022, S4D, equation 4 (bilinear), half of the conjugate pairs",
        text: r"
#[ssm_kernel]
fn s4d_bilinear(
    u: Tensor<B, H, L>, dt: Tensor<H>, a: Complex<H, N>, b: Complex<H, N>, c: Complex<H, N>, d: Option<Tensor<H>>,
    x: ComplexState<B, H, N>,
) -> Tensor<B, H, L> {
    let (a_bar, b_bar) = discretize::bilinear(dt, a, b);
    x = a_bar * x + b_bar * u;
    2 * sum::<N>(re(c * x)) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("N", 4)],
        typical: &[("B", 1), ("L", 4096), ("H", 512), ("N", 32)],
        ranges: &[("dt", 0.001, 0.1), ("a", -1.0, -0.1)],
    },
    Model {
        name: "s4d_bidirectional",
        source: "Gu et al. 2022, S4D, equation 4, both directions; the reversed one starts after the current token",
        text: r"
#[ssm_kernel]
fn s4d_bidirectional(
    u: Tensor<B, H, L>, dt: Tensor<H>, a: Complex<H, N>, b: Complex<H, N>, c: Complex<H, N>, c_reverse: Complex<H, N>,
    d: Option<Tensor<H>>, x: ComplexState<B, H, N>, #[reverse] x_reverse: ComplexState<B, H, N>,
) -> Tensor<B, H, L> {
    let (a_bar, b_bar) = discretize::zoh(dt, a, b);
    let after = x_reverse;
    x = a_bar * x + b_bar * u;
    x_reverse = a_bar * x_reverse + b_bar * u;
    2 * sum::<N>(re(c * x + c_reverse * after)) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("N", 4)],
        typical: &[("B", 1), ("L", 4096), ("H", 512), ("N", 32)],
        ranges: &[("dt", 0.001, 0.1), ("a", -1.0, -0.1)],
    },
    Model {
        name: "dss_softmax",
        source: "Gupta, Gu & Berant 2022, DSS, Proposition 1 (rows normalised over `length` tokens)",
        text: r"
#[ssm_kernel]
fn dss_softmax(
    u: Tensor<B, H, L>, dt: Tensor<H>, a: Complex<H, N>, b: Complex<H, N>, c: Complex<H, N>, d: Option<Tensor<H>>,
    length: Tensor<>, x: ComplexState<B, H, N>,
) -> Tensor<B, H, L> {
    let row = a * expm1(dt * a * length);
    let gain = b * c * expm1(dt * a) * conj(row) / (re(row * conj(row)) + 1e-7);
    x = exp(dt * a) * x + u;
    sum::<N>(re(gain * x)) + d * u
}
",
        small: &[("B", 2), ("L", 24), ("H", 3), ("N", 4)],
        typical: &[("B", 1), ("L", 4096), ("H", 512), ("N", 32)],
        ranges: &[
            ("dt", 0.001, 0.1),
            ("a", -1.0, -0.1),
            ("length", 24.0, 24.0),
        ],
    },
    Model {
        name: "s5_zoh",
        source: "Smith, Warrington & Linderman 2023, S5, section 3 (zero-order hold)",
        text: r"
#[ssm_kernel]
fn s5_zoh(
    u: Tensor<B, L, H>, lambda: Complex<P>, b: Complex<P, H>, c: Complex<H, P>, d: Option<Tensor<H>>, step: Tensor<P>,
    conj_sym: Flag, x: ComplexState<B, P>,
) -> Tensor<B, L, H> {
    let (a_bar, b_bar) = discretize::zoh(step, lambda, b);
    x = a_bar * x + sum::<H>(b_bar * u);
    let y = sum::<P>(re(c * x));
    given(conj_sym, 2 * y, y) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("P", 4)],
        typical: &[("B", 1), ("L", 4096), ("H", 128), ("P", 64)],
        ranges: &[("step", 0.001, 0.1), ("lambda", -1.0, -0.1)],
    },
    Model {
        name: "s5_bilinear",
        source: "Smith, Warrington & Linderman 2023, S5, section 3 (bilinear)",
        text: r"
#[ssm_kernel]
fn s5_bilinear(
    u: Tensor<B, L, H>, lambda: Complex<P>, b: Complex<P, H>, c: Complex<H, P>, d: Option<Tensor<H>>, step: Tensor<P>,
    conj_sym: Flag, x: ComplexState<B, P>,
) -> Tensor<B, L, H> {
    let (a_bar, b_bar) = discretize::bilinear(step, lambda, b);
    x = a_bar * x + sum::<H>(b_bar * u);
    let y = sum::<P>(re(c * x));
    given(conj_sym, 2 * y, y) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("P", 4)],
        typical: &[("B", 1), ("L", 4096), ("H", 128), ("P", 64)],
        ranges: &[("step", 0.001, 0.1), ("lambda", -1.0, -0.1)],
    },
    Model {
        name: "s5_bidirectional",
        source: "Smith, Warrington & Linderman 2023, S5, section 3, both directions with the current token",
        text: r"
#[ssm_kernel]
fn s5_bidirectional(
    u: Tensor<B, L, H>, lambda: Complex<P>, b: Complex<P, H>, c: Complex<H, P>, c_reverse: Complex<H, P>,
    d: Option<Tensor<H>>, step: Tensor<P>, bilinear: Flag, conj_sym: Flag,
    x: ComplexState<B, P>, #[reverse] x_reverse: ComplexState<B, P>,
) -> Tensor<B, L, H> {
    let (a_zoh, b_zoh) = discretize::zoh(step, lambda, b);
    let (a_bil, b_bil) = discretize::bilinear(step, lambda, b);
    let a_bar = given(bilinear, a_bil, a_zoh);
    let bu = sum::<H>(given(bilinear, b_bil, b_zoh) * u);
    x = a_bar * x + bu;
    x_reverse = a_bar * x_reverse + bu;
    let y = sum::<P>(re(c * x + c_reverse * x_reverse));
    given(conj_sym, 2 * y, y) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("P", 4)],
        typical: &[("B", 1), ("L", 4096), ("H", 128), ("P", 64)],
        ranges: &[("step", 0.001, 0.1), ("lambda", -1.0, -0.1)],
    },
    Model {
        name: "dense_lti",
        source: "Gu et al. 2021, LSSL, equation 1; Voelker, Kajić & Eliasmith 2019, LMU (A of HiPPO-LegT)",
        text: r"
#[ssm_kernel(N2 = N)]
fn dense_lti(
    u: Tensor<B, L, H>, a_bar: Tensor<H, N, N2>, b_bar: Tensor<H, N>, c: Tensor<H, N>, d: Option<Tensor<H>>,
    x: State<B, H, N>,
) -> Tensor<B, L, H> {
    x = sum::<N2>(a_bar * alias::<N, N2>(x)) + b_bar * u;
    sum::<N>(c * x) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("N", 6)],
        typical: &[("B", 1), ("L", 1024), ("H", 64), ("N", 64)],
        ranges: &[("a_bar", -0.02, 0.02)],
    },
    Model {
        name: "dense_lti_complex",
        source: "Gu, Goel & Ré 2022, S4, section 2.3 (the recurrent view in the basis of both conjugate halves)",
        text: r"
#[ssm_kernel(N2 = N)]
fn dense_lti_complex(
    u: Tensor<B, H, L>, a_bar: Complex<H, N, N2>, b_bar: Complex<H, N>, c: Complex<H, N>, d: Option<Tensor<H>>,
    x: ComplexState<B, H, N>,
) -> Tensor<B, H, L> {
    x = sum::<N2>(a_bar * alias::<N, N2>(x)) + b_bar * u;
    sum::<N>(re(c * x)) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("N", 6)],
        typical: &[("B", 1), ("L", 1024), ("H", 64), ("N", 64)],
        ranges: &[("a_bar", -0.02, 0.02)],
    },
];
