//! Mamba-2: state-space duality, a scalar decay on a matrix state.

use crate::Model;

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "ssd",
        source: "Dao & Gu 2024, Transformers are SSMs, section 6 (Mamba-2: S = exp(dt A) S + dt x Bᵀ, y = S C + D x)",
        text: r"
#[ssm_kernel]
fn ssd(
    x: Tensor<B, L, H, P>, dt: Tensor<B, L, H>, a: Tensor<H>, b: Tensor<B, L, G, N>, c: Tensor<B, L, G, N>,
    d: Option<Tensor<H>>, d_headdim: Option<Tensor<H, P>>, z: Option<Tensor<B, L, H, P>>,
    dt_bias: Option<Tensor<H>>, dt_softplus: Flag, dt_min: Option<Tensor<>>, dt_max: Option<Tensor<>>,
    s: State<B, H, P, N>,
) -> Tensor<B, L, H, P> {
    let dt = dt + dt_bias;
    let dt = given(dt_softplus, softplus(dt), dt);
    let dt = given(dt_min, max(dt, dt_min), dt);
    let dt = given(dt_max, min(dt, dt_max), dt);
    s = exp(dt * a) * s + dt * x * group::<G, H>(b);
    let y = sum::<N>(s * group::<G, H>(c)) + (d + d_headdim) * x;
    given(z, y * silu(z), y)
}
",
        small: &[("B", 2), ("L", 19), ("H", 4), ("P", 3), ("N", 5), ("G", 2)],
        typical: &[
            ("B", 1),
            ("L", 2048),
            ("H", 24),
            ("P", 64),
            ("N", 128),
            ("G", 1),
        ],
        ranges: &[
            ("a", -1.0, -0.1),
            ("dt_min", 0.0, 0.1),
            ("dt_max", 0.5, 1.0),
        ],
    },
    Model {
        name: "ssd_minimal",
        source: "Dao & Gu 2024, Transformers are SSMs, Listing 1 (x and a come multiplied by dt)",
        text: r"
#[ssm_kernel]
fn ssd_minimal(
    x: Tensor<B, L, H, P>, a: Tensor<B, L, H>, b: Tensor<B, L, H, N>, c: Tensor<B, L, H, N>,
    s: State<B, H, P, N>,
) -> Tensor<B, L, H, P> {
    s = exp(a) * s + x * b;
    sum::<N>(s * c)
}
",
        small: &[("B", 2), ("L", 19), ("H", 3), ("P", 4), ("N", 5)],
        typical: &[("B", 1), ("L", 2048), ("H", 24), ("P", 64), ("N", 64)],
        ranges: &[("a", -1.0, -0.01)],
    },
];
