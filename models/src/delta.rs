//! Delta rules: the state forgets along one direction before it learns, S = (decay − k aᵀ) S + k vᵀ.

use crate::Model;

/// Extents of a test and of a typical call with heads, keys and values.
const SMALL: &[(&str, usize)] = &[("B", 2), ("L", 19), ("H", 2), ("K", 8), ("V", 6)];
const TYPICAL: &[(&str, usize)] = &[("B", 1), ("L", 2048), ("H", 8), ("K", 128), ("V", 128)];
/// Keys short enough that erasing along them does not grow the state: Σ k² < 2 for K up to 128.
const KEY: f64 = 0.12;

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "delta_rule",
        source: "Yang et al. 2024, Parallelizing DeltaNet, equation 4",
        text: r"
#[ssm_kernel]
fn delta_rule(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, beta: Tensor<B, L, H>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    let old = sum::<K>(s * k);
    s = s + beta * k * (v - old);
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("k", -KEY, KEY), ("beta", 0.0, 1.0)],
    },
    Model {
        name: "gated_delta_rule",
        source: "Yang, Kautz & Hatamizadeh 2025, Gated Delta Networks, equation 10 (g is a log decay)",
        text: r"
#[ssm_kernel]
fn gated_delta_rule(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, beta: Tensor<B, L, H>, g: Tensor<B, L, H>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    let kept = exp(g) * s;
    s = kept + beta * k * (v - sum::<K>(kept * k));
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("k", -KEY, KEY), ("beta", 0.0, 1.0), ("g", -1.0, -0.01)],
    },
    Model {
        name: "gdn2",
        source: "flash-linear-attention 2026, gdn2 (erase and write with keys and values gated by channel)",
        text: r"
#[ssm_kernel]
fn gdn2(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>,
    g: Tensor<B, L, H, K>, b: Tensor<B, L, H, K>, w: Tensor<B, L, H, V>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    let kept = exp(g) * s;
    s = kept + k * (w * v - sum::<K>(kept * b * k));
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("k", -KEY, KEY), ("b", 0.0, 1.0), ("g", -1.0, -0.01)],
    },
    Model {
        name: "kda",
        source: "Kimi Team 2025, Kimi Linear, equation 1 (value head j reads key head j / (J / H))",
        text: r"
#[ssm_kernel]
fn kda(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, J, V>, g: Tensor<B, L, J, K>, beta: Tensor<B, L, J>,
    s: State<B, J, K, V>,
) -> Tensor<B, L, J, V> {
    let k = group::<H, J>(k);
    let kept = exp(g) * s;
    s = kept + beta * k * (v - sum::<K>(kept * k));
    sum::<K>(s * group::<H, J>(q)) * rsqrt(len::<K>())
}
",
        small: &[("B", 2), ("L", 19), ("H", 2), ("J", 4), ("K", 8), ("V", 6)],
        typical: &[
            ("B", 1),
            ("L", 2048),
            ("H", 8),
            ("J", 8),
            ("K", 128),
            ("V", 128),
        ],
        ranges: &[("k", -KEY, KEY), ("beta", 0.0, 1.0), ("g", -1.0, -0.01)],
    },
    Model {
        name: "iplr",
        source: "flash-linear-attention, generalized delta rule: identity plus low rank",
        text: r"
#[ssm_kernel]
fn iplr(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>,
    alpha: Tensor<B, L, H, K>, beta: Tensor<B, L, H, K>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    s = s + k * v + beta * sum::<K>(s * alpha);
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("alpha", -KEY, 0.0), ("beta", 0.0, KEY)],
    },
    Model {
        name: "rwkv7",
        source: "Peng et al. 2025, RWKV-7, equation 17 (diagonal plus low rank: alpha = −kk, beta = kk a, gk = w)",
        text: r"
#[ssm_kernel]
fn rwkv7(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>,
    alpha: Tensor<B, L, H, K>, beta: Tensor<B, L, H, K>, gk: Tensor<B, L, H, K>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    s = exp(gk) * s + k * v + beta * sum::<K>(s * alpha);
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[
            ("alpha", -KEY, 0.0),
            ("beta", 0.0, KEY),
            ("gk", -1.0, -0.01),
        ],
    },
];
