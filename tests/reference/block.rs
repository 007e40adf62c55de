//! Mamba-2's block: split [z | x | B | C | dt], convolution, scan, gated RMSNorm, projection; and its gradients, through
//! the adjoints of the kernels, one after the other.

use selscan_dsl::{Array, Inputs, Outputs, Recurrence, eval};
use selscan_models::model;

use super::composed::close;
use super::gradients::By;
use super::{Golden, Tensor};

/// Heads, channels of a head, states.
const SIZES: (usize, usize, usize) = (2, 3, 4);

/// The gated norm (the gate is the scan's) and the projection.
const TAIL: &str = "
#[ssm_kernel]
fn tail(y: Tensor<B, L, C>, norm: Tensor<C>, weight: Tensor<O, C>, bias: Tensor<O>) -> Tensor<B, L, O> {
    let mean = sum::<C>(y * y) / len::<C>();
    sum::<C>(weight * (y * rsqrt(mean + 1e-6) * norm)) + bias
}";

/// The columns of a tensor in a range of its last axis.
fn columns(x: &Array, range: std::ops::Range<usize>) -> Array {
    x.slice(x.shape.len() - 1, range)
}

/// Tensors side by side on the last axis.
fn beside(parts: &[Array]) -> Array {
    let width = |x: &Array| *x.shape.last().unwrap();
    let rows = parts[0].data.len() / width(&parts[0]);
    let row = |i: usize| {
        let part = move |x: &Array| x.data[i * width(x)..(i + 1) * width(x)].to_vec();
        parts.iter().flat_map(part).collect::<Vec<f64>>()
    };
    let mut shape = parts[0].shape.clone();
    *shape.last_mut().unwrap() = parts.iter().map(width).sum();
    Array::real(&shape, (0..rows).flat_map(row).collect())
}

fn reshaped(x: &Array, shape: &[usize]) -> Array {
    Array::real(shape, x.data.clone())
}

fn kernel(name: &str) -> Recurrence {
    model(name).unwrap().recurrence().unwrap()
}

/// The output and what gives the gradients of everything that went in.
struct Stage {
    r: Recurrence,
    inputs: Inputs,
    out: Array,
}

impl Stage {
    fn new(r: Recurrence, inputs: Inputs) -> Stage {
        let out = eval(&r, &inputs).unwrap().tensors["out"].clone();
        Stage { r, inputs, out }
    }
    fn back(&self, by: &By, d_out: Array) -> Inputs {
        let names: Vec<&str> = self.inputs.tensors.keys().map(String::as_str).collect();
        let mut d = Outputs::default();
        d.tensors.insert("out".to_owned(), d_out);
        by.gradients(&self.r, &self.inputs, &d, &names).unwrap()
    }
}

pub fn mamba2_block(g: &Golden, by: &By) {
    let (h, p, n) = SIZES;
    let wide = h * p;
    let x = |name: &str| g.inputs[name].array.clone();
    let packed: &Tensor = &g.inputs["zxbcdt"];
    let (b, l) = (packed.extent("b"), packed.extent("l"));
    let packed = &packed.array;
    let ends = [0, wide, 2 * wide + 2 * n, 2 * wide + 2 * n + h];
    let conv = Inputs::new()
        .with("x", columns(packed, ends[1]..ends[2]).permuted(&[0, 2, 1]))
        .with("weight", x("conv1d_weight"))
        .with("bias", x("conv1d_bias"))
        .with_flag("activation");
    let conv = Stage::new(kernel("causal_conv1d"), conv);
    let xbc = conv.out.permuted(&[0, 2, 1]);
    let group = |range| {
        let x = columns(&xbc, range);
        reshaped(&x, &[b, l, 1, n])
    };
    let ssd = Inputs::new()
        .with("x", reshaped(&columns(&xbc, 0..wide), &[b, l, h, p]))
        .with("b", group(wide..wide + n))
        .with("c", group(wide + n..wide + 2 * n))
        .with("z", reshaped(&columns(packed, 0..wide), &[b, l, h, p]))
        .with("dt", columns(packed, ends[2]..ends[3]))
        .with("dt_bias", x("dt_bias"))
        .with("a", x("A"))
        .with("d", x("D"))
        .with_flag("dt_softplus");
    let ssd = Stage::new(kernel("ssd"), ssd);
    let tail = Inputs::new()
        .with("y", reshaped(&ssd.out, &[b, l, wide]))
        .with("norm", x("rmsnorm_weight"))
        .with("weight", x("outproj_weight"))
        .with("bias", x("outproj_bias"));
    let tail = Stage::new(Recurrence::parse(TAIL).unwrap(), tail);
    close(&tail.out, &g.outputs["out"].array, 1e-10, &g.name);

    let mut d_tail = tail.back(by, g.cotangents["out"].array.clone()).tensors;
    let d_ssd = ssd.back(by, reshaped(&d_tail["y"], &[b, l, h, p])).tensors;
    let flat = |name: &str, width: usize| reshaped(&d_ssd[name], &[b, l, width]);
    let d_xbc = beside(&[flat("x", wide), flat("b", n), flat("c", n)]);
    let d_conv = conv.back(by, d_xbc.permuted(&[0, 2, 1])).tensors;
    let d_conv_x = d_conv["x"].permuted(&[0, 2, 1]);
    d_tail.insert(
        "zxbcdt".to_owned(),
        beside(&[flat("z", wide), d_conv_x, flat("dt", h)]),
    );
    let near = |found: &Array, name: &str| {
        close(found, &g.gradients[name].array, by.tolerance(g, name), name);
    };
    for (name, of) in [("conv1d_weight", "weight"), ("conv1d_bias", "bias")] {
        near(&d_conv[of], name);
    }
    for (name, of) in [("dt_bias", "dt_bias"), ("A", "a"), ("D", "d")] {
        near(&d_ssd[of], name);
    }
    let rest = [
        ("zxbcdt", "zxbcdt"),
        ("rmsnorm_weight", "norm"),
        ("outproj_weight", "weight"),
        ("outproj_bias", "bias"),
    ];
    for (name, of) in rest {
        near(&d_tail[of], name);
    }
}
