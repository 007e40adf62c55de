//! What the references do around a recurrence: gates stacked in one weight, states in ring buffers, pairs of channels,
//! halves of a spectrum, projections. In: a file's tensors. Out: a model's.

use selscan_dsl::{Array, Outputs};

use super::{Golden, Tensor};

/// out = x Wᵀ + b over the last axis.
pub fn linear(x: &Array, weight: &Array, bias: &Array) -> Array {
    let (rows, columns) = (weight.shape[0], weight.shape[1]);
    let dot = |x: &[f64], o: usize| -> f64 {
        let row = &weight.data[o * columns..(o + 1) * columns];
        bias.data[o] + x.iter().zip(row).map(|(x, w)| x * w).sum::<f64>()
    };
    let data = x
        .data
        .chunks(columns)
        .flat_map(|x| (0..rows).map(move |o| dot(x, o)))
        .collect();
    let mut shape = x.shape.clone();
    *shape.last_mut().unwrap() = rows;
    Array::real(&shape, data)
}

/// torch stacks the gates' weights; the models name them. The LSTM adds its two biases.
pub fn split_gates(g: &mut Golden, gates: &[&str]) {
    let mut hidden = g.take("weight_hh");
    hidden.axes[1] = "h2".to_owned();
    let (input, mut b, mut c) = (g.take("weight_ih"), g.take("bias_ih"), g.take("bias_hh"));
    if g.inputs.contains_key("c0") {
        b.array
            .data
            .iter_mut()
            .zip(&c.array.data)
            .for_each(|(b, c)| *b += c);
        c.array.shape[0] = 0;
    }
    for (prefix, stacked) in [("w", input), ("u", hidden), ("b", b), ("c", c)] {
        if stacked.array.shape[0] > 0 {
            for (gate, part) in gates.iter().zip(stacked.cut("gh", gates.len())) {
                g.input(&format!("{prefix}_{gate}"), part);
            }
        }
    }
}

/// The window holds W tokens: a longer stored state lengthens the taps with zeros, a shorter one is filled up.
pub fn window(g: &mut Golden) {
    let stored = g.inputs.get("conv_state").map_or(0, |s| s.extent("s"));
    let width = g.inputs["weight"].extent("w").max(stored);
    if let Some(at) = g.inputs.remove("cache_seqlens") {
        let (mut old, mut new) = (g.take("conv_state"), g.outputs["new_conv_state"].clone());
        unroll(&mut old, &at, 0);
        unroll(&mut new, &at, 1);
        g.input("conv_state", old);
        g.outputs.insert("new_conv_state".to_owned(), new);
        if let Some(d) = g.cotangents.get_mut("new_conv_state") {
            unroll(d, &at, 1);
        }
    }
    for name in ["weight", "conv_state", "initial_states"] {
        if let Some(tensor) = g.inputs.get_mut(name) {
            tensor.fit_last(width);
        }
    }
}

/// A ring buffer [b d s] with the oldest token at `at` + `offset`, put into order.
fn unroll(state: &mut Tensor, at: &Tensor, offset: usize) {
    let (d, s) = (state.extent("d"), state.extent("s"));
    for (row, ring) in state.array.data.chunks_mut(s).enumerate() {
        ring.rotate_left((at.array.data[row / d] as usize + offset) % s);
    }
}

/// As many last entries of the window as the file has.
pub fn unwindow(g: &Golden, out: &mut Outputs) {
    let expected = g
        .outputs
        .get("final_states")
        .or(g.outputs.get("new_conv_state"));
    if let Some(expected) = expected {
        let array = out.last.remove("window").unwrap();
        let mut window = Tensor {
            axes: vec![],
            array,
        };
        window.fit_last(*expected.array.shape.last().unwrap());
        out.last.insert("window".to_owned(), window.array);
    }
}

/// A cotangent of the window's last entries: the others have none.
pub fn widen(g: &Golden, d: &mut Outputs) {
    if let Some(array) = d.last.remove("window") {
        let axes = vec![];
        let mut window = Tensor { axes, array };
        window.fit_last(g.inputs["weight"].extent("w"));
        d.last.insert("window".to_owned(), window.array);
    }
}

/// Mamba-3: neighbouring channels are one complex number; the pairs that do not turn have the angle 0.
pub fn as_pairs(g: &mut Golden) {
    let pairs = g.inputs["Q"].extent("n") / 2;
    for name in ["Q", "K", "Q_bias", "K_bias", "ssm_state", "k_state"] {
        g.inputs.get_mut(name).into_iter().for_each(Tensor::pairs);
    }
    for name in ["final_ssm", "final_k"] {
        g.outputs.get_mut(name).into_iter().for_each(Tensor::pairs);
        g.cotangents
            .get_mut(name)
            .into_iter()
            .for_each(Tensor::pairs);
    }
    let inputs = ["Angles", "angle_state"].map(|n| g.inputs.remove(n).map(|x| (n, x)));
    for (name, mut angles) in inputs.into_iter().flatten() {
        pad(&mut angles, pairs);
        g.input(name, angles);
    }
    pad(g.outputs.get_mut("final_angle").unwrap(), pairs);
}

fn pad(x: &mut Tensor, extent: usize) {
    let old = *x.array.shape.last().unwrap();
    let zeros = vec![0.0; extent - old];
    x.array.data = x
        .array
        .data
        .chunks(old)
        .flat_map(|row| [row, &zeros].concat())
        .collect();
    *x.array.shape.last_mut().unwrap() = extent;
}

/// S4: the dense system over both conjugate halves, [values, conjugates].
pub fn both_halves(g: &mut Golden) {
    let mut a = g.outputs["Abar"].clone();
    a.axes = ["h", "n", "m"].map(str::to_owned).to_vec();
    let mut b = g.outputs["Bbar"].clone();
    b.axes = ["h", "n"].map(str::to_owned).to_vec();
    g.inputs
        .retain(|name, _| ["u", "C", "D", "state"].contains(&name.as_str()));
    g.input("Abar", a);
    g.input("Bbar", b);
    let c = g.take("C");
    g.input("C", with_conjugates(c));
    if let Some(state) = g.inputs.remove("state") {
        g.input("state", with_conjugates(state));
        let next = g.outputs.remove("next_state").unwrap();
        g.outputs
            .insert("next_state".to_owned(), with_conjugates(next));
    }
}

pub fn with_conjugates(mut x: Tensor) -> Tensor {
    let n = *x.array.shape.last().unwrap();
    let conjugate =
        |row: &[f64]| -> Vec<f64> { row.chunks(2).flat_map(|z| [z[0], -z[1]]).collect() };
    x.array.data = x
        .array
        .data
        .chunks(2 * n)
        .flat_map(|row| [row, &conjugate(row)].concat())
        .collect();
    *x.array.shape.last_mut().unwrap() = 2 * n;
    x
}

/// The same system over the real and imaginary parts: x = [Re, Im], A = [[Re, −Im], [Im, Re]], y = [Re c, −Im c] x.
pub fn as_real_system(g: &mut Golden) {
    both_halves(g);
    let halves = |x: &Tensor, rows: usize, sign: f64| {
        let n = *x.array.shape.last().unwrap();
        let part = |row: &[f64], k: usize| -> Vec<f64> {
            row.iter().skip(k).step_by(2).copied().collect()
        };
        let row = |row: &[f64]| {
            let im: Vec<f64> = part(row, 1).iter().map(|x| sign * x).collect();
            [part(row, 0), im].concat()
        };
        let mut real = x.clone();
        real.array.complex = false;
        *real.array.shape.last_mut().unwrap() = 2 * n;
        real.array.data = x.array.data.chunks(2 * n).flat_map(row).collect();
        if rows > 0 {
            // Below the rows (Re, −Im) those of (Im, Re), matrix by matrix.
            let below = |row: &[f64]| [part(row, 1), part(row, 0)].concat();
            let blocks = x.array.data.chunks(2 * n * rows);
            real.array.data = blocks
                .flat_map(|m| {
                    let top: Vec<f64> = m.chunks(2 * n).flat_map(row).collect();
                    [top, m.chunks(2 * n).flat_map(below).collect()].concat()
                })
                .collect();
            real.array.shape[1] = 2 * rows;
        }
        real
    };
    for (name, rows, sign) in [
        ("Abar", 1, -1.0),
        ("Bbar", 0, 1.0),
        ("C", 0, -1.0),
        ("state", 0, 1.0),
    ] {
        if let Some(x) = g.inputs.remove(name) {
            let rows = rows * x.extent("n");
            g.input(name, halves(&x, rows, sign));
        }
    }
    if let Some(next) = g.outputs.get_mut("next_state") {
        *next = halves(next, 0, 1.0);
    }
}

/// H3: A = −exp(inv_A_real) + i A_imag and dt = exp(log_dt).
pub fn diagonal(g: &mut Golden) {
    let mut dt = g.take("diag_log_dt");
    dt.array.data.iter_mut().for_each(|x| *x = x.exp());
    g.input("dt", dt);
    let (re, im) = (g.take("diag_inv_A_real"), g.take("diag_A_imag"));
    let halves = re.array.data.iter().zip(&im.array.data);
    let data = halves.flat_map(|(re, im)| [-re.exp(), *im]).collect();
    g.input("a", Tensor::complex("h n", &re.array.shape, data));
}

/// H3: the projections to queries, keys and values, here of heads of one channel.
pub fn project(g: &mut Golden) {
    diagonal(g);
    let u = g.take("u");
    for (name, axes) in [("q", "b l h k"), ("k", "b l h k"), ("v", "b l h v")] {
        let (weight, bias) = (
            g.take(&format!("{name}_proj__weight")),
            g.take(&format!("{name}_proj__bias")),
        );
        let x = linear(&u.array, &weight.array, &bias.array);
        let shape = [x.shape.as_slice(), &[1]].concat();
        g.input(name, Tensor::real(axes, &shape, x.data));
    }
    g.inputs
        .retain(|name, _| !name.starts_with("output_linear"));
}

/// H3: the last projection.
pub fn unproject(g: &Golden, out: &mut Outputs) {
    let file = Golden::read(&g.name);
    let y = out.tensors.remove("out").unwrap();
    let flat = Array::real(&y.shape[..3], y.data);
    let weight = &file.inputs["output_linear__weight"].array;
    let mut x = linear(&flat, weight, &file.inputs["output_linear__bias"].array);
    x.shape.push(1);
    out.tensors.insert("out".to_owned(), x);
}

/// H3: the transpose of the last projection.
pub fn unproject_back(g: &Golden, d: &mut Outputs) {
    let weight = &Golden::read(&g.name).inputs["output_linear__weight"].array;
    let turned = weight.permuted(&[1, 0]);
    let none = Array::filled(&turned.shape[..1], false, 0.0);
    let y = d.tensors.remove("out").unwrap();
    let shape = y.shape.clone();
    let mut x = linear(&Array::real(&shape[..3], y.data), &turned, &none);
    x.shape = shape;
    d.tensors.insert("out".to_owned(), x);
}
