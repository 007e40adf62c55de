//! The f64 meaning of every model of the catalogue equals the field's reference implementations.
//!
//! [`ROWS`] maps the files of tests/golden to models; what is more than one call of a model is a test in
//! `reference::composed`. A file in the folder that neither knows fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod reference;

use std::io::Write;

use reference::block::mamba2_block;
use reference::composed::COMPOSED;
use reference::gradients::By;
use reference::{Golden, ROW, Row, Tensor, language, packing};
use selscan_dsl::eval;
use selscan_runtime::{Cpu, CpuOptions, Cuda, CudaOptions, Device, Dtype, Store};

/// For results in f64, of every file that was written for f32 and f64.
const TOLERANCE: f64 = 1e-10;

const FLA: Row = Row {
    names: &[("initial_state", "s"), ("final_state", "s")],
    ..ROW
};
const S4D: Row = Row {
    names: &[("state", "x"), ("next_state", "x")],
    elsewhere: &["K"],
    ..ROW
};
const S5: Row = Row {
    names: &[("B_tilde", "b"), ("C_tilde", "c")],
    elsewhere: &["Lambda_bar", "B_bar"],
    ..ROW
};
const SCAN: Row = Row {
    names: &[("last_state", "h")],
    elsewhere: &["mid_state"],
    ..ROW
};
const SSD: Row = Row {
    model: "ssd",
    names: &[("initial_states", "s"), ("final_states", "s")],
    ..ROW
};
const STEP: Row = Row {
    names: &[
        ("state", "h"),
        ("new_state", "h"),
        ("x", "u"),
        ("dt", "delta"),
        ("dt_bias", "delta_bias"),
        ("dt_softplus", "delta_softplus"),
    ],
    ..ROW
};
const CONV: Row = Row {
    model: "causal_conv1d",
    names: &[
        ("initial_states", "window"),
        ("final_states", "window"),
        ("conv_state", "window"),
        ("new_conv_state", "window"),
    ],
    axes: &[("w-1", "W"), ("s", "W")],
    prepare: packing::window,
    finish: packing::unwindow,
    unfinish: packing::widen,
    ..ROW
};
const DPLR: Row = Row {
    names: &[
        ("Abar", "a_bar"),
        ("Bbar", "b_bar"),
        ("state", "x"),
        ("next_state", "x"),
        ("K", "out"),
        ("K_step", "out"),
    ],
    axes: &[("m", "N2")],
    before: &["dt", "A", "B", "P", "C_tilde"],
    ..ROW
};
const MAMBA3: Row = Row {
    axes: &[("hq", "G"), ("s", "N")],
    prepare: packing::as_pairs,
    ..ROW
};

/// Files that are one call of a model.
#[rustfmt::skip]
static ROWS: &[Row] = &[
    Row { model: "selective_scan_bdl", files: &[
        "selective_scan-chain", "selective_scan-dlast", "selective_scan-extreme", "selective_scan-full", "selective_scan-groups2",
        "selective_scan-growing", "selective_scan-len1", "selective_scan-long", "selective_scan-plain",
    ], ..SCAN },
    Row { model: "selective_scan", files: &[
        "selective_scan-chain", "selective_scan-dlast", "selective_scan-extreme", "selective_scan-full",
        "selective_scan-growing", "selective_scan-len1", "selective_scan-plain",
    ], ..SCAN },
    Row { model: "selective_scan_bdl", files: &["selective_scan-constb"], names: &[("last_state", "h"), ("B", "b_const")], ..SCAN },
    Row { model: "selective_scan_bdl", files: &["selective_scan-constc"], names: &[("last_state", "h"), ("C", "c_const")], ..SCAN },
    Row { model: "selective_scan_bdl", files: &["selective_scan-constbc"], names: &[("last_state", "h"), ("B", "b_const"), ("C", "c_const")], ..SCAN },
    Row { model: "selective_scan_complex", files: &["selective_scan-complex", "selective_scan-complex-groups2"], ..SCAN },
    Row { model: "selective_scan_complex", files: &["selective_scan-complex-constbc"], names: &[("last_state", "h"), ("B", "b_const"), ("C", "c_const")], ..SCAN },
    Row { model: "selective_scan", files: &["selective_state_update-bdn", "selective_state_update-bdn-plain", "selective_state_update-bdn-steps"], ..STEP },
    Row { model: "selective_state_update", files: &["selective_state_update-bhpn", "selective_state_update-bhpn-steps", "selective_state_update-bhpn-tied"],
        names: &[("new_state", "state")], ..ROW },
    Row { files: &[
        "causal_conv1d-w2", "causal_conv1d-w3-init-nobias", "causal_conv1d-w3-nosilu", "causal_conv1d-w4", "causal_conv1d-w4-init",
        "causal_conv1d-w4-nobias-nosilu", "causal_conv1d-w4-seqidx", "causal_conv1d-w4-short",
        "causal_conv1d-update", "causal_conv1d-update-seq", "causal_conv1d-update-circular",
    ], ..CONV },
    Row { files: &["ssd-final-only", "ssd-seqidx", "ssd-seqidx-state", "ssd-state", "ssd-token", "ssd-token-plain"], ..SSD },
    Row { files: &["ssd-token-dhp"], names: &[("D", "d_headdim")], ..SSD },
    Row { files: &["ssd-token-dtlimit"], prepare: dt_limit, ..SSD },
    Row { model: "ssd_minimal", files: &["ssd-minimal", "ssd-minimal-init"], names: &[("initial_states", "s"), ("final_state", "s")], ..ROW },
    Row { model: "mamba3_siso", files: &["mamba3-siso-step", "mamba3-siso-step-state"], names: &[
        ("angle_state", "angle"), ("final_angle", "angle"), ("ssm_state", "s"), ("final_ssm", "s"),
        ("k_state", "k_delay1"), ("final_k", "k_delay1"), ("v_state", "v_delay1"), ("final_v", "v_delay1"),
    ], ..MAMBA3 },
    Row { model: "mamba3_mimo", files: &["mamba3-mimo-step"], names: &[
        ("final_angle", "angle"), ("final_ssm", "s"), ("final_k", "k_delay1"), ("final_v", "v_delay1"),
    ], ..MAMBA3 },
    Row { model: "s4d_zoh", files: &["s4d-inv-zoh", "s4d-legs-zoh", "s4d-lin-zoh", "s4d-lin-zoh-state"], ..S4D },
    Row { model: "s4d_bilinear", files: &["s4d-inv-bilinear", "s4d-inv-bilinear-state", "s4d-legs-bilinear", "s4d-lin-bilinear"], ..S4D },
    Row { model: "dss_softmax", files: &["s4d-lin-dss"], prepare: normalised_length, ..S4D },
    Row { model: "s4d_bidirectional", files: &["s4d-lin-zoh-bidir"], prepare: |g| {
        let c = g.take("C");
        directions(g, c.cut("c", 2), "C");
    }, ..S4D },
    // The kernels K are the answers to an impulse.
    Row { model: "s4d_zoh", files: &["s4d-inv-zoh", "s4d-legs-zoh", "s4d-lin-zoh", "s4d-lin-zoh-state"], prepare: impulse, ..IMPULSE },
    Row { model: "s4d_bilinear", files: &["s4d-inv-bilinear", "s4d-inv-bilinear-state", "s4d-legs-bilinear", "s4d-lin-bilinear"], ..IMPULSE },
    Row { model: "dss_softmax", files: &["s4d-lin-dss"], prepare: |g| { normalised_length(g); impulse(g); }, ..IMPULSE },
    Row { model: "s5_zoh", files: &["s5-zoh", "s5-zoh-noconj"], ..S5 },
    Row { model: "s5_bilinear", files: &["s5-bilinear"], ..S5 },
    Row { model: "s5_bidirectional", files: &["s5-zoh-bidir", "s5-bilinear-bidir"], prepare: |g| {
        let c = g.take("C_tilde");
        directions(g, c.cut("2p", 2), "C");
        g.flags["bilinear"] = (g.flags["disc"] == "bilinear").into();
    }, axes: &[("2p", "P")], ..S5 },
    Row { model: "dense_lti_complex", files: &["s4-dplr-legs", "s4-dplr-legs-odd", "s4-dplr-legs-state"],
        prepare: packing::both_halves, elsewhere: &["K", "K_step", "C_tilde", "Abar", "Bbar"], ..DPLR },
    Row { model: "dense_lti_complex", files: &["s4-dplr-legs", "s4-dplr-legs-odd", "s4-dplr-legs-state"],
        prepare: |g| { packing::both_halves(g); impulse(g); }, elsewhere: &["out", "next_state", "C_tilde", "Abar", "Bbar"], ..DPLR },
    Row { model: "dense_lti", files: &["s4-dplr-legs", "s4-dplr-legs-odd", "s4-dplr-legs-state"],
        prepare: packing::as_real_system, elsewhere: &["K", "K_step", "C_tilde", "Abar", "Bbar"], ..DPLR },
    Row { model: "h3", files: &["h3-layer"], prepare: packing::project, finish: packing::unproject,
        unfinish: packing::unproject_back, before: &["output_linear__weight", "output_linear__bias"],
        names: &[("ssm_k_D", "shift_d"), ("diag_C", "c"), ("diag_B", "b")], axes: &[("dm", "H"), ("n2", "M")],
        elsewhere: &["shift_kernel", "diag_kernel"] },
    Row { model: "shift_ssm", files: &["h3-layer"], prepare: |g| {
        g.inputs.retain(|name, _| ["u", "shift_B", "shift_C"].contains(&name.as_str()));
        impulse(g);
    }, names: &[("shift_B", "b"), ("shift_C", "c"), ("shift_kernel", "out")], axes: &[("dm", "H"), ("n2", "N"), ("lk", "L")],
        elsewhere: &["out", "diag_kernel"], ..ROW },
    Row { model: "s4d_bilinear", files: &["h3-layer"], prepare: |g| {
        packing::diagonal(g);
        g.inputs.retain(|name, _| ["u", "diag_C", "diag_B", "dt", "a"].contains(&name.as_str()));
        impulse(g);
    }, names: &[("diag_B", "b"), ("diag_C", "c"), ("diag_kernel", "out")], axes: &[("dm", "H"), ("lk", "L")],
        elsewhere: &["out", "shift_kernel"], ..ROW },
    Row { model: "linear_attention", files: &["fla-linear_attn"], ..FLA },
    Row { model: "linear_attention_normalised", files: &["fla-linear_attn-norm"],
        names: &[("initial_state", "s"), ("final_state", "s"), ("initial_z", "z"), ("final_z", "z")], ..FLA },
    Row { model: "retnet", files: &["fla-retention"], ..FLA },
    Row { model: "simple_gla", files: &["fla-simple_gla"], ..FLA },
    Row { model: "gla", files: &["fla-gla"], ..FLA },
    Row { model: "hgrn", files: &["fla-hgrn"], names: &[("initial_state", "h"), ("final_state", "h")], ..FLA },
    Row { model: "rwkv6", files: &["fla-rwkv6"], ..FLA },
    Row { model: "rwkv7", files: &["fla-rwkv7-dplr"], ..FLA },
    Row { model: "iplr", files: &["fla-iplr"], ..FLA },
    Row { model: "delta_rule", files: &["fla-delta_rule"], ..FLA },
    Row { model: "gated_delta_rule", files: &["fla-gated_delta_rule"], ..FLA },
    Row { model: "gdn2", files: &["fla-gdn2"], ..FLA },
    Row { model: "kda", files: &["fla-kda"], axes: &[("t", "L"), ("hv", "J")], ..FLA },
    Row { model: "gru", files: &["gru-basic"], prepare: |g| packing::split_gates(g, &["r", "z", "n"]),
        names: &[("h0", "h"), ("h_n", "h")], axes: &[("t", "L"), ("gh", "H"), ("h2", "H2")], ..ROW },
    Row { model: "lstm", files: &["lstm-basic"], prepare: |g| packing::split_gates(g, &["i", "f", "g", "o"]),
        names: &[("h0", "h"), ("h_n", "h"), ("c0", "c"), ("c_n", "c")], axes: &[("t", "L"), ("gh", "H"), ("h2", "H2")], ..ROW },
];

const IMPULSE: Row = Row {
    names: &[("K", "out")],
    elsewhere: &["out", "next_state"],
    prepare: impulse,
    ..ROW
};

/// u(0) = 1 and then 0, without skip and initial state: the output is the convolution kernel.
fn impulse(g: &mut Golden) {
    let mut u = g.take("u");
    let time = u.axes.iter().position(|a| a == "l").unwrap();
    let (len, inner) = (
        u.array.shape[time],
        u.array.shape[time + 1..].iter().product::<usize>(),
    );
    for (i, x) in u.array.data.iter_mut().enumerate() {
        *x = f64::from(u8::from(i / inner % len == 0));
    }
    // One row of the batch is enough.
    assert_eq!(u.axes[0], "b");
    let rows = u.array.shape[0];
    g.input("u", u.cut("b", rows).swap_remove(0));
    g.inputs
        .retain(|name, _| !["D", "state"].contains(&name.as_str()));
}

fn directions(g: &mut Golden, mut parts: Vec<Tensor>, name: &str) {
    let reverse = parts.pop().unwrap();
    g.input(&format!("{name}_reverse"), reverse);
    g.input(name, parts.pop().unwrap());
}

/// DSS normalises its kernel over the length of the call.
fn normalised_length(g: &mut Golden) {
    let len = g.inputs["u"].extent("l") as f64;
    g.input("length", Tensor::real("", &[], vec![len]));
}

fn dt_limit(g: &mut Golden) {
    for (i, name) in ["dt_min", "dt_max"].iter().enumerate() {
        let limit = g.flags["dt_limit"][i].as_f64().unwrap();
        g.input(name, Tensor::real("", &[], vec![limit]));
    }
}

#[test]
fn every_model_computes_its_reference() {
    for row in ROWS {
        for file in row.files {
            let case = row.case(file);
            let outputs =
                eval(&case.recurrence, &case.inputs).unwrap_or_else(|e| panic!("{file}: {e}"));
            let error = row.error(&case, outputs);
            assert!(error <= TOLERANCE, "{file} by {}: {error:e}", row.model);
        }
    }
}

#[test]
fn every_models_gradients_are_the_reference() {
    every_gradient_is_the_reference(&By::Meaning);
}

/// Chunks that end within the sequences of the files, and the usual ones.
#[test]
fn kernels_gradients_are_the_reference() {
    for (dtype, steps) in [(Dtype::F64, 5), (Dtype::F32, 64)] {
        let cpu = CpuOptions {
            threads: Some(2),
            store: Some(Store::none()),
            ..CpuOptions::default()
        };
        let device = Device::Cpu(Cpu::with_options(cpu).unwrap());
        every_gradient_is_the_reference(&By::Kernels {
            device,
            dtype,
            steps,
        });
    }
}

/// The same on a GPU, where there is one; in two tests, for most of the time is NVRTC's.
#[test]
fn kernels_gradients_on_a_gpu_are_the_reference() {
    on_a_gpu(Dtype::F32, 16);
}

#[test]
fn kernels_gradients_on_a_gpu_in_f64_are_the_reference() {
    on_a_gpu(Dtype::F64, 5);
}

fn on_a_gpu(dtype: Dtype, steps: u32) {
    let options = CudaOptions {
        store: Some(Store::none()),
        ..CudaOptions::default()
    };
    match Cuda::with_options(options) {
        Ok(gpu) => every_gradient_is_the_reference(&By::Kernels {
            device: Device::Cuda(gpu),
            dtype,
            steps,
        }),
        // Past the capture of output.
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "skipped: no GPU to test: {why}");
        }
    }
}

fn every_gradient_is_the_reference(by: &By) {
    let block = "ssd-split-conv1d";
    mamba2_block(&Golden::read(block), by);
    let mut compared = vec![block.to_owned()];
    for row in ROWS.iter().filter(|row| !row.elsewhere.contains(&"out")) {
        for file in row.files {
            let golden = Golden::read(file);
            for (name, error) in row.gradient_errors(&golden, by) {
                assert!(
                    error <= by.tolerance(&golden, &name),
                    "{file} by {}: d_{name} is off by {error:e}",
                    row.model
                );
            }
            compared.push((*file).to_owned());
        }
    }
    for name in files() {
        let gradients = Golden::read(&name).gradients;
        assert!(
            gradients.is_empty() || compared.contains(&name),
            "{name} is not compared"
        );
    }
}

#[test]
fn what_is_more_than_one_call() {
    for (file, test) in COMPOSED {
        test(&Golden::read(file));
    }
}

#[test]
fn language_models_prompted_and_step_by_step() {
    for name in language::MODELS {
        language::compare(name);
    }
}

/// The files of the folder, without `.safetensors`.
fn files() -> Vec<String> {
    let entries = std::fs::read_dir(reference::folder()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.filter(|p| p.extension().is_some_and(|e| e == "safetensors"));
    files
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_file_and_every_model_is_there() {
    for entry in std::fs::read_dir(reference::folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(language::MODELS.contains(&name), "{name} is not compared");
        }
    }
    for name in files() {
        let in_rows = ROWS.iter().any(|row| row.files.contains(&name.as_str()));
        assert!(
            in_rows || COMPOSED.iter().any(|(file, _)| *file == name),
            "{name} is not compared"
        );
    }
    for model in selscan_models::CATALOGUE {
        assert!(
            ROWS.iter().any(|row| row.model == model.name),
            "{} has no reference",
            model.name
        );
    }
}

/// A file and a change to its inputs.
type Mistake = (&'static str, fn(&mut Golden));

/// The comparison is not blind: a transposed, conjugated or shifted input is far outside the tolerance.
#[test]
fn mistakes_are_seen() {
    let spoil: &[Mistake] = &[
        ("s4d-lin-zoh", |g| conjugate(g, "A")),
        ("s5-zoh", |g| conjugate(g, "B_tilde")),
        ("selective_scan-complex", |g| conjugate(g, "C")),
        ("selective_scan-groups2", |g| swap(g, "B", "g")),
        ("fla-delta_rule", |g| swap(g, "k", "h")),
        ("s4d-inv-bilinear-state", |g| conjugate(g, "state")),
    ];
    for (file, mistake) in spoil {
        let row = ROWS.iter().find(|row| row.files.contains(file)).unwrap();
        let mut case = row.case(file);
        let untouched = case.inputs.clone();
        let mut golden = Golden::read(file);
        mistake(&mut golden);
        case.inputs = row.case_of(golden).inputs;
        assert_ne!(case.inputs, untouched);
        let outputs = eval(&case.recurrence, &case.inputs).unwrap();
        assert!(row.error(&case, outputs) > 1e-4, "{file}");
    }
    for (file, forgotten) in [("s4d-lin-zoh-state", "next_state"), ("gru-basic", "h_n")] {
        let row = ROWS.iter().find(|row| row.files.contains(&file)).unwrap();
        let mut golden = Golden::read(file);
        golden.cotangents.remove(forgotten).unwrap();
        let errors = row.gradient_errors(&golden, &By::Meaning);
        assert!(errors.iter().any(|(_, error)| *error > 1e-4), "{file}");
    }
}

fn conjugate(g: &mut Golden, name: &str) {
    let x = g.inputs.get_mut(name).unwrap();
    x.array
        .data
        .iter_mut()
        .skip(1)
        .step_by(2)
        .for_each(|im| *im = -*im);
}

/// Two halves of an axis change places.
fn swap(g: &mut Golden, name: &str, axis: &str) {
    let x = g.take(name);
    let at = x.axes.iter().position(|a| a == axis).unwrap();
    let inner: usize = x.array.shape[at + 1..].iter().product::<usize>() * x.array.shape[at] / 2;
    let mut swapped = x.clone();
    swapped.array.data = x
        .array
        .data
        .chunks(2 * inner)
        .flat_map(|c| [&c[inner..], &c[..inner]].concat())
        .collect();
    g.input(name, swapped);
}
