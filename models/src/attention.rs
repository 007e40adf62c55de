//! Linear attention with and without decay: S = decay ⊙ S + k vᵀ, y = Sᵀ q / √K.

use crate::Model;

/// Extents of a test and of a typical call with heads, keys and values.
const SMALL: &[(&str, usize)] = &[("B", 2), ("L", 19), ("H", 2), ("K", 8), ("V", 6)];
const TYPICAL: &[(&str, usize)] = &[("B", 1), ("L", 2048), ("H", 8), ("K", 128), ("V", 128)];

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "linear_attention",
        source: "Katharopoulos et al. 2020, Transformers are RNNs, equation 18, without the normaliser",
        text: r"
#[ssm_kernel]
fn linear_attention(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    s = s + k * v;
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[],
    },
    Model {
        name: "linear_attention_normalised",
        source: "Katharopoulos et al. 2020, Transformers are RNNs, equations 16 to 20",
        text: r"
#[ssm_kernel]
fn linear_attention_normalised(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>,
    s: State<B, H, K, V>, z: State<B, H, K>,
) -> Tensor<B, L, H, V> {
    let q = q * rsqrt(len::<K>());
    s = s + k * v;
    z = z + k;
    sum::<K>(s * q) / (sum::<K>(z * q) + 1e-10)
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("q", 0.1, 1.0), ("k", 0.1, 1.0)],
    },
    Model {
        name: "retnet",
        source: "Sun et al. 2023, Retentive Network, equations 6 and 8 (decay 1 − 2^(−5 − head))",
        text: r"
#[ssm_kernel]
fn retnet(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    let gamma = 1 - exp2(-5 - index::<H>());
    s = gamma * s + k * v;
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[],
    },
    Model {
        name: "simple_gla",
        source: "Yang et al. 2024, Gated Linear Attention, section 4 with one gate a head (g is a log decay)",
        text: r"
#[ssm_kernel]
fn simple_gla(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, g: Tensor<B, L, H>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    s = exp(g) * s + k * v;
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("g", -1.0, -0.01)],
    },
    Model {
        name: "gla",
        source: "Yang et al. 2024, Gated Linear Attention, equation 3 (gk is a log decay)",
        text: r"
#[ssm_kernel]
fn gla(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, gk: Tensor<B, L, H, K>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    s = exp(gk) * s + k * v;
    sum::<K>(s * q) * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("gk", -1.0, -0.01)],
    },
    Model {
        name: "hgrn",
        source: "Qin, Yang & Zhong 2023, HGRN, equation 5 (g is a log decay)",
        text: r"
#[ssm_kernel]
fn hgrn(x: Tensor<B, L, D>, g: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> {
    h = exp(g) * h + x;
    h
}
",
        small: &[("B", 2), ("L", 19), ("D", 10)],
        typical: &[("B", 1), ("L", 2048), ("D", 2048)],
        ranges: &[("g", -1.0, -0.01)],
    },
    Model {
        name: "rwkv6",
        source: "Peng et al. 2024, Eagle and Finch, equation 19 (w is a log decay; u is the current token's bonus)",
        text: r"
#[ssm_kernel]
fn rwkv6(
    q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, w: Tensor<B, L, H, K>, u: Tensor<H, K>,
    s: State<B, H, K, V>,
) -> Tensor<B, L, H, V> {
    let y = sum::<K>((s + u * k * v) * q);
    s = exp(w) * s + k * v;
    y * rsqrt(len::<K>())
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[("w", -1.0, -0.01)],
    },
];
