//! Gated recurrent networks: not affine in their state.

use crate::Model;

const SMALL: &[(&str, usize)] = &[("B", 2), ("L", 19), ("I", 5), ("H", 7)];
const TYPICAL: &[(&str, usize)] = &[("B", 8), ("L", 256), ("I", 128), ("H", 128)];

/// The family's kernels.
pub(crate) const MODELS: &[Model] = &[
    Model {
        name: "gru",
        source: "Cho et al. 2014, GRU, in torch.nn.GRU's form (the reset gate is applied after the recurrent product)",
        text: r"
#[ssm_kernel(H2 = H)]
fn gru(
    x: Tensor<B, L, I>, w_r: Tensor<H, I>, w_z: Tensor<H, I>, w_n: Tensor<H, I>,
    u_r: Tensor<H, H2>, u_z: Tensor<H, H2>, u_n: Tensor<H, H2>,
    b_r: Tensor<H>, b_z: Tensor<H>, b_n: Tensor<H>, c_r: Tensor<H>, c_z: Tensor<H>, c_n: Tensor<H>,
    h: State<B, H>,
) -> Tensor<B, L, H> {
    let before = alias::<H, H2>(h);
    let r = sigmoid(sum::<I>(w_r * x) + b_r + sum::<H2>(u_r * before) + c_r);
    let z = sigmoid(sum::<I>(w_z * x) + b_z + sum::<H2>(u_z * before) + c_z);
    let n = tanh(sum::<I>(w_n * x) + b_n + r * (sum::<H2>(u_n * before) + c_n));
    h = (1 - z) * n + z * h;
    h
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[],
    },
    Model {
        name: "lstm",
        source: "Hochreiter & Schmidhuber 1997, LSTM, with forget gate, in torch.nn.LSTM's form",
        text: r"
#[ssm_kernel(H2 = H)]
fn lstm(
    x: Tensor<B, L, I>, w_i: Tensor<H, I>, w_f: Tensor<H, I>, w_g: Tensor<H, I>, w_o: Tensor<H, I>,
    u_i: Tensor<H, H2>, u_f: Tensor<H, H2>, u_g: Tensor<H, H2>, u_o: Tensor<H, H2>,
    b_i: Tensor<H>, b_f: Tensor<H>, b_g: Tensor<H>, b_o: Tensor<H>,
    h: State<B, H>, c: State<B, H>,
) -> Tensor<B, L, H> {
    let before = alias::<H, H2>(h);
    let i = sigmoid(sum::<I>(w_i * x) + sum::<H2>(u_i * before) + b_i);
    let f = sigmoid(sum::<I>(w_f * x) + sum::<H2>(u_f * before) + b_f);
    let g = tanh(sum::<I>(w_g * x) + sum::<H2>(u_g * before) + b_g);
    let o = sigmoid(sum::<I>(w_o * x) + sum::<H2>(u_o * before) + b_o);
    c = f * c + i * g;
    h = o * tanh(c);
    h
}
",
        small: SMALL,
        typical: TYPICAL,
        ranges: &[],
    },
];
