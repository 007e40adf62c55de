//! Mamba-3: trapezoidal discretisation and complex rotation.
//!
//! A pair (2i, 2i + 1) of the keys' and queries' channels is one complex number; turning it by the accumulated
//! angle is a product with exp(iθ), and S qᵀ over both channels is Re(conj(S) q). Pairs that do not turn have
//! `angles` 0.

use crate::Model;

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "mamba3_siso",
        source: "Mamba-3 (state-spaces/mamba 2026), single input single output, step form",
        text: r"
#[ssm_kernel]
fn mamba3_siso(
    q: Complex<B, L, G, N>, k: Complex<B, L, G, N>, v: Tensor<B, L, H, P>,
    adt: Tensor<B, H, L>, dt: Tensor<B, H, L>, trap: Tensor<B, H, L>,
    q_bias: Complex<H, N>, k_bias: Complex<H, N>, angles: Tensor<B, L, H, N>,
    d: Option<Tensor<H>>, z: Option<Tensor<B, L, H, P>>,
    angle: State<B, H, N>, s: ComplexState<B, H, P, N>,
) -> Tensor<B, L, H, P> {
    let theta = angle + PI * tanh(angles) * dt;
    angle = theta - TAU * floor(theta / TAU);
    let turn = complex(cos(angle), sin(angle));
    let k = (group::<G, H>(k) + k_bias) * turn;
    let q = (group::<G, H>(q) + q_bias) * turn;
    let lambda = sigmoid(trap);
    let before = (1 - lambda) * dt * exp(adt) * delay(v, 1) * delay(k, 1);
    s = exp(adt) * s + before + lambda * dt * v * k;
    let y = sum::<N>(re(conj(s) * q)) + d * v;
    given(z, y * silu(z), y)
}
",
        small: &[("B", 2), ("L", 17), ("H", 4), ("P", 3), ("N", 3), ("G", 2)],
        typical: &[
            ("B", 1),
            ("L", 2048),
            ("H", 24),
            ("P", 64),
            ("N", 64),
            ("G", 1),
        ],
        ranges: &[("adt", -1.0, -0.01), ("dt", 0.01, 1.0)],
    },
    Model {
        name: "mamba3_mimo",
        source: "Mamba-3 (state-spaces/mamba 2026), several inputs and outputs of rank R, step form",
        text: r"
#[ssm_kernel]
fn mamba3_mimo(
    q: Complex<B, L, R, G, N>, k: Complex<B, L, R, G, N>, v: Tensor<B, L, H, P>,
    adt: Tensor<B, H, L>, dt: Tensor<B, H, L>, trap: Tensor<B, H, L>,
    q_bias: Complex<H, R, N>, k_bias: Complex<H, R, N>, angles: Tensor<B, L, H, N>,
    mimo_v: Tensor<H, R, P>, mimo_o: Tensor<H, R, P>, mimo_z: Tensor<H, R, P>,
    d: Option<Tensor<H>>, z: Option<Tensor<B, L, H, P>>,
    angle: State<B, H, N>, s: ComplexState<B, H, P, N>,
) -> Tensor<B, L, H, P> {
    angle = angle + PI * tanh(angles) * dt;
    let turn = complex(cos(angle), sin(angle));
    let k = (group::<G, H>(k) + k_bias) * turn;
    let q = (group::<G, H>(q) + q_bias) * turn;
    let v = v * mimo_v;
    let lambda = sigmoid(trap);
    let before = (1 - lambda) * dt * exp(adt) * sum::<R>(delay(v, 1) * delay(k, 1));
    s = exp(adt) * s + before + lambda * dt * sum::<R>(v * k);
    let y = sum::<N>(re(conj(s) * q)) + d * v;
    sum::<R>(given(z, y * silu(z * mimo_z), y) * mimo_o)
}
",
        small: &[
            ("B", 1),
            ("L", 9),
            ("H", 2),
            ("P", 4),
            ("N", 3),
            ("G", 1),
            ("R", 2),
        ],
        typical: &[
            ("B", 1),
            ("L", 2048),
            ("H", 24),
            ("P", 64),
            ("N", 64),
            ("G", 1),
            ("R", 4),
        ],
        ranges: &[("adt", -1.0, -0.01), ("dt", 0.01, 1.0)],
    },
];
