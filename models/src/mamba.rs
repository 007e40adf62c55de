//! Mamba: the selective scan in its layouts, its one-token step, and the short convolution in front of it.

use crate::Model;

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "selective_scan",
        source: "Gu & Dao 2023, Mamba, Algorithm 2; channels last",
        text: r"
#[ssm_kernel]
fn selective_scan(
    u: Tensor<B, L, D>, delta: Tensor<B, L, D>, a: Tensor<D, N>, b: Tensor<B, L, N>, c: Tensor<B, L, N>,
    d: Option<Tensor<D>>, z: Option<Tensor<B, L, D>>, delta_bias: Option<Tensor<D>>, delta_softplus: Flag,
    h: State<B, D, N>,
) -> Tensor<B, L, D> {
    let delta = delta + delta_bias;
    let delta = given(delta_softplus, softplus(delta), delta);
    let (a_bar, b_bar) = discretize::mamba(delta, a, b);
    h = a_bar * h + b_bar * u;
    let y = sum::<N>(c * h) + d * u;
    given(z, y * silu(z), y)
}
",
        small: &[("B", 2), ("L", 19), ("D", 6), ("N", 4)],
        typical: &[("B", 1), ("L", 2048), ("D", 1536), ("N", 16)],
        ranges: &[("a", -1.0, -0.1)],
    },
    Model {
        name: "selective_scan_bdl",
        source: "Gu & Dao 2023, Mamba, Algorithm 2; mamba_ssm's layout, groups, and B or C constant in time",
        text: r"
#[ssm_kernel]
fn selective_scan_bdl(
    u: Tensor<B, D, L>, delta: Tensor<B, D, L>, a: Tensor<D, N>,
    b: Option<Tensor<B, G, N, L>>, b_const: Option<Tensor<D, N>>,
    c: Option<Tensor<B, G, N, L>>, c_const: Option<Tensor<D, N>>,
    d: Option<Tensor<D>>, z: Option<Tensor<B, D, L>>, delta_bias: Option<Tensor<D>>, delta_softplus: Flag,
    h: State<B, D, N>,
) -> Tensor<B, D, L> {
    let b = given(b, group::<G, D>(b), b_const);
    let c = given(c, group::<G, D>(c), c_const);
    let delta = delta + delta_bias;
    let delta = given(delta_softplus, softplus(delta), delta);
    let (a_bar, b_bar) = discretize::mamba(delta, a, b);
    h = a_bar * h + b_bar * u;
    let y = sum::<N>(c * h) + d * u;
    given(z, y * silu(z), y)
}
",
        small: &[("B", 2), ("L", 19), ("D", 6), ("N", 4), ("G", 2)],
        typical: &[("B", 1), ("L", 2048), ("D", 1536), ("N", 16), ("G", 1)],
        ranges: &[("a", -1.0, -0.1)],
    },
    Model {
        name: "selective_scan_complex",
        source: "Gu & Dao 2023, Mamba, section 3.6 (complex A: half of the conjugate pairs, 2 Re)",
        text: r"
#[ssm_kernel]
fn selective_scan_complex(
    u: Tensor<B, D, L>, delta: Tensor<B, D, L>, a: Complex<D, N>,
    b: Option<Complex<B, G, N, L>>, b_const: Option<Complex<D, N>>,
    c: Option<Complex<B, G, N, L>>, c_const: Option<Complex<D, N>>,
    d: Option<Tensor<D>>, z: Option<Tensor<B, D, L>>, delta_bias: Option<Tensor<D>>, delta_softplus: Flag,
    h: ComplexState<B, D, N>,
) -> Tensor<B, D, L> {
    let b = given(b, group::<G, D>(b), b_const);
    let c = given(c, group::<G, D>(c), c_const);
    let delta = delta + delta_bias;
    let delta = given(delta_softplus, softplus(delta), delta);
    let (a_bar, b_bar) = discretize::mamba(delta, a, b);
    h = a_bar * h + b_bar * u;
    let y = 2 * sum::<N>(re(c * h)) + d * u;
    given(z, y * silu(z), y)
}
",
        small: &[("B", 2), ("L", 19), ("D", 6), ("N", 3), ("G", 2)],
        typical: &[("B", 1), ("L", 2048), ("D", 1536), ("N", 8), ("G", 1)],
        ranges: &[("a", -1.0, -0.1)],
    },
    Model {
        name: "selective_state_update",
        source: "Gu & Dao 2023, Mamba, section 3.3.2: the step of one token (L = 1) with heads, as mamba_ssm's",
        text: r"
#[ssm_kernel]
fn selective_state_update(
    x: Tensor<B, L, H, P>, dt: Tensor<B, L, H, P>, a: Tensor<H, P, N>, b: Tensor<B, L, G, N>, c: Tensor<B, L, G, N>,
    d: Option<Tensor<H, P>>, z: Option<Tensor<B, L, H, P>>, dt_bias: Option<Tensor<H, P>>, dt_softplus: Flag,
    state: State<B, H, P, N>,
) -> Tensor<B, L, H, P> {
    let dt = dt + dt_bias;
    let dt = given(dt_softplus, softplus(dt), dt);
    let (a_bar, b_bar) = discretize::mamba(dt, a, group::<G, H>(b));
    state = a_bar * state + b_bar * x;
    let y = sum::<N>(group::<G, H>(c) * state) + d * x;
    given(z, y * silu(z), y)
}
",
        small: &[("B", 2), ("L", 1), ("H", 4), ("P", 3), ("N", 4), ("G", 2)],
        typical: &[
            ("B", 64),
            ("L", 1),
            ("H", 24),
            ("P", 64),
            ("N", 16),
            ("G", 1),
        ],
        ranges: &[("a", -1.0, -0.1)],
    },
    Model {
        name: "causal_conv1d",
        source: "Gu & Dao 2023, Mamba, Figure 3: the depthwise convolution of the last W tokens (causal-conv1d)",
        text: r"
#[ssm_kernel]
fn causal_conv1d(
    x: Tensor<B, D, L>, weight: Tensor<D, W>, bias: Option<Tensor<D>>, activation: Flag,
    window: State<B, D, W>,
) -> Tensor<B, D, L> {
    window = push_back::<W>(window, x);
    let y = sum::<W>(weight * window) + bias;
    given(activation, silu(y), y)
}
",
        small: &[("B", 2), ("L", 19), ("D", 6), ("W", 4)],
        typical: &[("B", 1), ("L", 2048), ("D", 1536), ("W", 4)],
        ranges: &[],
    },
];
