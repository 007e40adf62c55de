//! Every model of the catalogue has its class, and keeps its meaning when it is simplified.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use selscan_dsl::Class::{
    Dense, LowRank, LtiDiagonal, NotAffine, ScalarDecay, SelectiveDiagonal, Shift, Staged,
};
use selscan_dsl::{Array, Class, Scan, eval_with_bound, prepare, simplify};
use selscan_models::{CATALOGUE, Model};

const CLASSES: &[(&str, Class)] = &[
    ("selective_scan", SelectiveDiagonal),
    ("selective_scan_bdl", SelectiveDiagonal),
    ("selective_scan_complex", SelectiveDiagonal),
    ("selective_state_update", SelectiveDiagonal),
    ("causal_conv1d", Shift),
    ("ssd", ScalarDecay),
    ("ssd_minimal", ScalarDecay),
    ("mamba3_siso", NotAffine), // its angle is wrapped with floor
    ("mamba3_mimo", Staged),
    ("s4d_zoh", LtiDiagonal),
    ("s4d_bilinear", LtiDiagonal),
    ("s4d_bidirectional", LtiDiagonal),
    ("dss_softmax", LtiDiagonal),
    ("s5_zoh", LtiDiagonal),
    ("s5_bilinear", LtiDiagonal),
    ("s5_bidirectional", LtiDiagonal),
    ("dense_lti", Dense),
    ("dense_lti_complex", Dense),
    ("shift_ssm", Shift),
    ("h3", Staged),
    ("linear_attention", ScalarDecay),
    ("linear_attention_normalised", ScalarDecay),
    ("retnet", ScalarDecay),
    ("simple_gla", ScalarDecay),
    ("gla", SelectiveDiagonal),
    ("hgrn", SelectiveDiagonal),
    ("rwkv6", SelectiveDiagonal),
    ("delta_rule", LowRank),
    ("gated_delta_rule", LowRank),
    ("gdn2", LowRank),
    ("kda", LowRank),
    ("iplr", LowRank),
    ("rwkv7", LowRank),
    ("gru", NotAffine),
    ("lstm", NotAffine),
];

/// The scans of a model with every optional input given, or none.
fn scans(model: &Model, all: bool, boundaries: bool) -> Vec<Scan> {
    let r = model.recurrence().unwrap_or_else(|e| panic!("{e}"));
    prepare(&r, &|_| all, boundaries)
}

#[test]
fn every_model_has_its_class() {
    for model in CATALOGUE {
        let listed = CLASSES.iter().find(|(name, _)| *name == model.name);
        let (_, class) = listed.unwrap_or_else(|| panic!("{} is not listed here", model.name));
        for scan in scans(model, true, false) {
            assert_eq!(scan.class, *class, "{}: {scan}", model.name);
        }
    }
    assert_eq!(CLASSES.len(), CATALOGUE.len());
}

fn compare(what: &str, x: &Array, m: &Array, y: &Array) {
    for ((x, m), y) in x.data.iter().zip(&m.data).zip(&y.data) {
        assert!(
            (x - y).abs() <= 64.0 * f64::EPSILON * m,
            "{what}: {x} and {y} at magnitude {m}"
        );
    }
}

#[test]
fn simplification_keeps_every_models_meaning() {
    for model in CATALOGUE {
        for (all, boundaries) in [(true, false), (false, false), (true, true)] {
            for scan in scans(model, all, boundaries) {
                let extents = Model::extents(&scan.source, model.small);
                let inputs = model.sample(&scan.source, &extents, &|_| true, 1);
                let (y, m) = eval_with_bound(&scan.source, &inputs)
                    .unwrap_or_else(|e| panic!("{}: {e}", model.name));
                let (z, _) = eval_with_bound(&scan.recurrence, &inputs).unwrap();
                for (name, x) in &y.tensors {
                    compare(model.name, x, &m.tensors[name], &z.tensors[name]);
                }
                for (name, x) in &y.last {
                    compare(model.name, x, &m.last[name], &z.last[name]);
                }
                let again = simplify(&scan.source.split_complex());
                assert_eq!(again, scan.recurrence, "{}: deterministic", model.name);
            }
        }
    }
}
