//! What the reference computes around a model: packing of weights and states, projections, and the tests of files
//! that are more than one call.

use std::ops::Range;

use selscan_dsl::{Array, Inputs, Outputs, eval};
use selscan_models::hippo::{Measure, nplr, transition};
use selscan_models::{model, s4d};

use super::{Golden, Tensor, error};

/// Files and their tests.
pub static COMPOSED: &[(&str, fn(&Golden))] = &[
    ("hippo-transition", hippo_matrices),
    ("hippo-nplr-legs", hippo_normal_form),
    ("s4d-lin-zoh", |g| s4d_start(g, &s4d::lin(4))),
    ("s4d-inv-zoh", |g| s4d_start(g, &s4d::inv(4))),
    ("s4d-legs-zoh", |g| s4d_start(g, &s4d::legs(4).0)),
    ("selective_scan-chain", resumed),
    ("ssd-split-conv1d", mamba2_block),
    ("s5-zoh", s5_discretised),
    ("s5-zoh-noconj", s5_discretised),
    ("s5-bilinear", s5_discretised),
    ("s4-dplr-legs", stored_c),
    ("s4-dplr-legs-odd", stored_c),
    ("s4-dplr-legs-state", stored_c),
];

fn close(x: &Array, y: &Array, tolerance: f64, what: &str) {
    let error = error(x, y);
    assert!(error <= tolerance, "{what}: {error:e}");
}

fn run(name: &str, inputs: &Inputs) -> Outputs {
    eval(&model(name).unwrap().recurrence().unwrap(), inputs).unwrap()
}

/// out = x Wᵀ + b over the last axis.
fn linear(x: &Array, weight: &Array, bias: &Array) -> Array {
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

/// Mamba-3: neighbouring channels are one complex number; the pairs that do not turn have the angle 0.
pub fn as_pairs(g: &mut Golden) {
    let pairs = g.inputs["Q"].extent("n") / 2;
    for name in ["Q", "K", "Q_bias", "K_bias", "ssm_state", "k_state"] {
        g.inputs.get_mut(name).into_iter().for_each(Tensor::pairs);
    }
    for name in ["final_ssm", "final_k"] {
        g.outputs.get_mut(name).into_iter().for_each(Tensor::pairs);
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

fn with_conjugates(mut x: Tensor) -> Tensor {
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

fn hippo_matrices(g: &Golden) {
    for measure in Measure::ALL {
        for n in [4, 8] {
            let (a, b) = transition(measure, n);
            let of = |m: &str| &g.outputs[&format!("{}_{n}_{m}", measure.name())].array;
            close(&a, of("A"), 1e-13, measure.name());
            close(&b, of("B"), 1e-13, measure.name());
        }
    }
}

/// Eigenvectors are unique up to a phase, so what does not turn with it is compared: w, |p|, |b| and conj(p)·b.
fn hippo_normal_form(g: &Golden) {
    let ours = nplr(Measure::Legs, 4);
    let norm = |x: &Array| {
        Array::real(
            &x.shape,
            x.data.chunks(2).map(|z| z[0].hypot(z[1])).collect(),
        )
    };
    let product = |p: &Array, b: &Array| {
        let pairs = p.data.chunks(2).zip(b.data.chunks(2));
        let data = pairs.flat_map(|(p, b)| [p[0] * b[0] + p[1] * b[1], p[0] * b[1] - p[1] * b[0]]);
        Array::complex(&b.shape, data.collect())
    };
    let (w, p, b) = (
        &g.outputs["W"].array,
        &g.outputs["P_tilde"].array,
        &g.outputs["B_tilde"].array,
    );
    close(&ours.w, w, 1e-12, "W");
    close(&norm(&ours.p), &norm(p), 1e-12, "|P|");
    close(&norm(&ours.b), &norm(b), 1e-12, "|B|");
    close(
        &product(&ours.p, &ours.b),
        &product(p, b),
        1e-12,
        "conj(P) B",
    );
    // 2 Re V w Vᴴ = A + P Pᵀ with the file's A and P.
    let (a, rank1) = (&g.inputs["A"].array, &g.inputs["P"].array);
    let z = |x: &Array, i: usize| (x.data[2 * i], x.data[2 * i + 1]);
    let entry = |i: usize, j: usize| -> f64 {
        let term = |k: usize| {
            let ((wr, wi), (xr, xi), (yr, yi)) =
                (z(&ours.w, k), z(&ours.v, i * 4 + k), z(&ours.v, j * 4 + k));
            wr * (xr * yr + xi * yi) - wi * (xi * yr - xr * yi)
        };
        2.0 * (0..4).map(term).sum::<f64>()
    };
    let normal = (0..64).map(|k| entry(k / 8, k % 8)).collect();
    let wanted = (0..64)
        .map(|k| a.data[k] + rank1.data[k / 8] * rank1.data[k % 8])
        .collect();
    close(
        &Array::real(&[8, 8], normal),
        &Array::real(&[8, 8], wanted),
        1e-12,
        "V w V*",
    );
}

/// A of every head; the reference's logarithmic parameter keeps |Im A| at 1e-4 or more. The file is in f32.
fn s4d_start(g: &Golden, ours: &Array) {
    let a = g.inputs["A"].cut("h", 3).swap_remove(0);
    let clipped = ours
        .data
        .chunks(2)
        .flat_map(|z| [z[0], z[1].min(-1e-4)])
        .collect();
    let wanted = Array::complex(&ours.shape, a.array.data);
    close(
        &Array::complex(&ours.shape, clipped),
        &wanted,
        1e-6,
        &g.name,
    );
}

/// Time cut in two: the state in the middle, and going on from it.
fn resumed(g: &Golden) {
    let (at, len) = (
        g.flags["split_at"].as_u64().unwrap() as usize,
        g.inputs["u"].extent("l"),
    );
    let r = model("selective_scan_bdl").unwrap().recurrence().unwrap();
    let part = |range: Range<usize>| {
        g.inputs.iter().fold(
            Inputs::new().with_flag("delta_softplus"),
            |inputs, (name, x)| {
                let x = if x.axes.contains(&"l".to_owned()) {
                    x.slice("l", range.clone())
                } else {
                    x.clone()
                };
                let name = name.to_lowercase();
                inputs.with(
                    &name,
                    x.over(&r, &r.input(r.input_named(&name).unwrap()).axes, &[]),
                )
            },
        )
    };
    let first = eval(&r, &part(0..at)).unwrap();
    close(
        &first.last["h"],
        &g.outputs["mid_state"].array,
        1e-10,
        "mid_state",
    );
    let second = eval(
        &r,
        &part(at..len).with_initial("h", first.last["h"].clone()),
    )
    .unwrap();
    let out = &g.outputs["out"];
    close(
        &first.tensors["out"],
        &out.slice("l", 0..at).array,
        1e-10,
        "first part",
    );
    close(
        &second.tensors["out"],
        &out.slice("l", at..len).array,
        1e-10,
        "second part",
    );
    close(
        &second.last["h"],
        &g.outputs["last_state"].array,
        1e-10,
        "last_state",
    );
}

/// Mamba-2's block: split [z | x | B | C | dt], convolution, scan, gated RMSNorm, projection.
fn mamba2_block(g: &Golden) {
    let (h, p, n) = (2, 3, 4);
    let x = |name: &str| g.inputs[name].array.clone();
    let columns = |x: &Tensor, range| x.slice(x.axes.last().unwrap(), range).array;
    let packed = &g.inputs["zxbcdt"];
    let (b, l) = (packed.extent("b"), packed.extent("l"));
    let conv = Inputs::new()
        .with(
            "x",
            columns(packed, h * p..2 * h * p + 2 * n).permuted(&[0, 2, 1]),
        )
        .with("weight", x("conv1d_weight"))
        .with("bias", x("conv1d_bias"))
        .with_flag("activation");
    let array = run("causal_conv1d", &conv).tensors["out"].permuted(&[0, 2, 1]);
    let xbc = Tensor {
        axes: ["b", "l", "d"].map(str::to_owned).to_vec(),
        array,
    };
    let heads = |array: Array, shape: &[usize]| Array::real(&[&[b, l], shape].concat(), array.data);
    let ssd = Inputs::new()
        .with("x", heads(columns(&xbc, 0..h * p), &[h, p]))
        .with("b", heads(columns(&xbc, h * p..h * p + n), &[1, n]))
        .with("c", heads(columns(&xbc, h * p + n..h * p + 2 * n), &[1, n]))
        .with("z", heads(columns(packed, 0..h * p), &[h, p]))
        .with(
            "dt",
            columns(packed, 2 * h * p + 2 * n..2 * h * p + 2 * n + h),
        )
        .with("dt_bias", x("dt_bias"))
        .with("a", x("A"))
        .with("d", x("D"))
        .with_flag("dt_softplus");
    let y = run("ssd", &ssd).tensors["out"].clone();
    let weight = x("rmsnorm_weight");
    let normed = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().map(|x| x * x).sum::<f64>() / (h * p) as f64;
        row.iter()
            .zip(&weight.data)
            .map(|(x, w)| x / (mean + 1e-6).sqrt() * w)
            .collect()
    };
    let y = Array::real(
        &[b, l, h * p],
        y.data.chunks(h * p).flat_map(normed).collect(),
    );
    let out = linear(&y, &x("outproj_weight"), &x("outproj_bias"));
    close(&out, &g.outputs["out"].array, 1e-10, &g.name);
}

/// Λ̄ is where a state of ones goes in one step without input; B̄ is where 0 goes with the inputs 1, one a row.
fn s5_discretised(g: &Golden) {
    let name = if g.flags["disc"] == "bilinear" {
        "s5_bilinear"
    } else {
        "s5_zoh"
    };
    let (b, lambda) = (&g.inputs["B_tilde"], &g.inputs["Lambda"]);
    let (p, h) = (b.extent("p"), b.extent("h"));
    let with = |u: Array| {
        let c = Array::filled(&[h, p], true, 0.0);
        let step = g.inputs["step"].array.clone();
        Inputs::new()
            .with("u", u)
            .with("lambda", lambda.array.clone())
            .with("b", b.array.clone())
            .with("c", c)
            .with("step", step)
    };
    let ones = with(Array::filled(&[1, 1, h], false, 0.0))
        .with_initial("x", Array::filled(&[1, p], true, 1.0));
    let mut last = run(name, &ones).last["x"].clone();
    last.shape = vec![p];
    close(&last, &g.outputs["Lambda_bar"].array, 1e-10, "Lambda_bar");
    let unit = (0..h * h)
        .map(|k| f64::from(u8::from(k / h == k % h)))
        .collect();
    let last = run(name, &with(Array::real(&[h, 1, h], unit))).last["x"].permuted(&[1, 0]);
    close(&last, &g.outputs["B_bar"].array, 1e-10, "B_bar");
}

/// S4 stores C̃ = C (1 − Ā^L); column j of Ā^L is where the unit state j goes in L steps.
fn stored_c(g: &Golden) {
    let (b_bar, len) = (&g.outputs["Bbar"].array, g.inputs["u"].extent("l"));
    let (h, n) = (b_bar.shape[0], b_bar.shape[1]);
    let unit = (0..n * h * n)
        .flat_map(|k| [f64::from(u8::from(k / (h * n) == k % n)), 0.0])
        .collect();
    let c = with_conjugates(g.inputs["C"].clone());
    let inputs = Inputs::new()
        .with("u", Array::filled(&[n, h, len], false, 0.0))
        .with("a_bar", g.outputs["Abar"].array.clone())
        .with("b_bar", b_bar.clone())
        .with("c", c.array.clone())
        .with_initial("x", Array::complex(&[n, h, n], unit));
    let power = run("dense_lti_complex", &inputs).last["x"].clone();
    let z = |x: &Array, i: usize| (x.data[2 * i], x.data[2 * i + 1]);
    let stored = |k: usize| {
        let (head, j) = (k / (n / 2), k % (n / 2));
        let start = z(&c.array, head * n + j);
        (0..n).fold(start, |(re, im), i| {
            let ((cr, ci), (pr, pi)) =
                (z(&c.array, head * n + i), z(&power, (j * h + head) * n + i));
            (re - (cr * pr - ci * pi), im - (cr * pi + ci * pr))
        })
    };
    let ours = (0..h * n / 2)
        .map(stored)
        .flat_map(|(re, im)| [re, im])
        .collect();
    close(
        &Array::complex(&[h, n / 2], ours),
        &g.outputs["C_tilde"].array,
        1e-10,
        "C_tilde",
    );
}
