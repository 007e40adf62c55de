//! The tests of files that are more than one call of a model.

use std::ops::Range;

use selscan_dsl::{Array, Inputs, Outputs, eval};
use selscan_models::hippo::{Measure, nplr, transition};
use selscan_models::{model, s4d};

use super::block::mamba2_block;
use super::gradients::By;
use super::packing::with_conjugates;
use super::{Golden, error};

/// A file and what is asked of it.
pub type Test = (&'static str, fn(&Golden));

/// Files and their tests.
pub static COMPOSED: &[Test] = &[
    ("hippo-transition", hippo_matrices),
    ("hippo-nplr-legs", hippo_normal_form),
    ("s4d-lin-zoh", |g| s4d_start(g, &s4d::lin(4))),
    ("s4d-inv-zoh", |g| s4d_start(g, &s4d::inv(4))),
    ("s4d-legs-zoh", |g| s4d_start(g, &s4d::legs(4).0)),
    ("selective_scan-chain", resumed),
    ("ssd-split-conv1d", |g| mamba2_block(g, &By::Meaning)),
    ("s5-zoh", s5_discretised),
    ("s5-zoh-noconj", s5_discretised),
    ("s5-bilinear", s5_discretised),
    ("s4-dplr-legs", stored_c),
    ("s4-dplr-legs-odd", stored_c),
    ("s4-dplr-legs-state", stored_c),
];

pub fn close(x: &Array, y: &Array, tolerance: f64, what: &str) {
    let error = error(x, y);
    assert!(error <= tolerance, "{what}: {error:e}");
}

pub fn run(name: &str, inputs: &Inputs) -> Outputs {
    eval(&model(name).unwrap().recurrence().unwrap(), inputs).unwrap()
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
