//! H3: a shift system on the keys, then a diagonal one on keys times values.

use crate::Model;

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "shift_ssm",
        source: "Fu et al. 2023, H3, section 3.1 (shift SSM)",
        text: r"
#[ssm_kernel]
fn shift_ssm(
    u: Tensor<B, L, H>, b: Tensor<H, N>, c: Tensor<H, N>, d: Option<Tensor<H>>,
    x: State<B, H, N>,
) -> Tensor<B, L, H> {
    x = push_front::<N>(x, 0) + b * u;
    sum::<N>(c * x) + d * u
}
",
        small: &[("B", 2), ("L", 19), ("H", 4), ("N", 6)],
        typical: &[("B", 1), ("L", 2048), ("H", 768), ("N", 64)],
        ranges: &[],
    },
    Model {
        name: "h3",
        source: "Fu et al. 2023, H3, Algorithm 1 (two stages: the diagonal system reads the shifted keys)",
        text: r"
#[ssm_kernel]
fn h3(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>,
    shift_b: Tensor<H, K, M>, shift_c: Tensor<H, K, M>, shift_d: Tensor<H, K>,
    dt: Tensor<H>, a: Complex<H, N>, b: Complex<H, N>, c: Complex<H, N>, d: Tensor<H>,
    s: State<B, H, K, M>, x: ComplexState<B, H, K, V, N>,
) -> Tensor<B, L, H, V> {
    s = push_front::<M>(s, 0) + shift_b * k;
    let kv = (sum::<M>(shift_c * s) + shift_d * k) * v;
    let (a_bar, b_bar) = discretize::bilinear(dt, a, b);
    x = a_bar * x + b_bar * kv;
    sum::<K>(q * (2 * sum::<N>(re(c * x)) + d * kv))
}
",
        small: &[
            ("B", 2),
            ("L", 19),
            ("H", 4),
            ("K", 2),
            ("V", 3),
            ("M", 6),
            ("N", 3),
        ],
        typical: &[
            ("B", 1),
            ("L", 2048),
            ("H", 96),
            ("K", 8),
            ("V", 8),
            ("M", 64),
            ("N", 32),
        ],
        ranges: &[("dt", 0.001, 0.1), ("a", -1.0, -0.1)],
    },
];
