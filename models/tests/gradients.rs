//! The adjoint of every model of the catalogue: its gradients are derivatives, by central differences in f64, and it is
//! affine in the adjoint states, prints as a text that parses, and keeps its meaning when it is simplified.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../dsl/tests/common/adjoint.rs"]
mod adjoint;
#[path = "../../dsl/tests/common/difference.rs"]
mod difference;

use adjoint::{Run, adjoint};
use difference::Call;
use selscan_dsl::{Array, Class, Outputs, Recurrence, Scan};
use selscan_models::{CATALOGUE, Model};

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    /// A number in [−1, 1).
    fn number(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as f64 / 2.0f64.powi(63) - 1.0
    }
}

/// A call of a model with all of its optional inputs or none, initial states, and perhaps packed sequences.
fn call(model: &Model, len: usize, all: bool, packed: bool, seed: u64) -> Call {
    let r = model.recurrence().unwrap();
    let mut extents = Model::extents(&r, model.small);
    extents.0[r.time.0 as usize] = len;
    let mut random = Random(seed);
    let mut number = || random.number();
    let mut inputs = model.sample(&r, &extents, &|_| all, seed);
    for s in &r.states {
        let h = difference::random(&extents.shape(&s.axes), s.complex, &mut number);
        inputs = inputs.with_initial(&s.name, h);
    }
    if packed {
        let rows = r.batch_axis().map_or(1, |b| extents.get(b));
        let row: Vec<f64> = (0..len).map(|t| (t / 3) as f64).collect();
        inputs = inputs.with_seq_idx(Array::real(&[rows, len], row.repeat(rows)));
    }
    Call::new(&r, inputs, &extents, &mut number)
}

#[test]
fn gradients_are_central_differences() {
    for (i, model) in CATALOGUE.iter().enumerate() {
        let lens = [0, 1, 7];
        let plain = lens.map(|len| [(len, true, false), (len, false, false)]);
        let cases = plain.concat().into_iter().chain([(7, true, true)]);
        for (k, (len, all, packed)) in cases.enumerate() {
            let what = format!("{} L={len} all={all} packed={packed}", model.name);
            let mut random = Random(i as u64);
            let counts = call(model, len, all, packed, (i * 16 + k) as u64)
                .check(2, &mut || random.number())
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(
                counts.compared > 0 && counts.rough == 0,
                "{what}: {counts:?}"
            );
        }
    }
}

const CALLS: [(bool, bool); 3] = [(true, false), (false, false), (true, true)];

#[test]
fn adjoints_are_affine_in_the_adjoint_states() {
    for model in CATALOGUE {
        for (all, packed) in CALLS {
            let (r, adjoint) = adjoint(&model.recurrence().unwrap(), &|_| all, packed);
            let primal = r
                .split_directions()
                .iter()
                .map(Scan::derive)
                .collect::<Vec<_>>();
            for direction in adjoint.recurrence.split_directions() {
                let scan = Scan::derive(&direction);
                assert_ne!(scan.class, Class::NotAffine, "{}: {scan}", model.name);
                // A state and its adjoint have the same decay, and with it the same class of algorithms.
                for (h, d) in &adjoint.states {
                    let states = primal
                        .iter()
                        .flat_map(|p| p.source.states.iter().zip(&p.states));
                    let class = states.filter(|(s, _)| s.name == *h).map(|(_, s)| s.class);
                    let class = class.min().unwrap();
                    let Some(at) = direction.state_named(d) else {
                        continue;
                    };
                    if let Class::LtiDiagonal | Class::SelectiveDiagonal = class {
                        let found = scan.states[at.0 as usize].affine.clone();
                        assert!(found.is_ok(), "{} {d}: {found:?}", model.name);
                    }
                }
            }
        }
    }
}

#[test]
fn adjoints_are_texts() {
    for model in CATALOGUE {
        for (all, packed) in CALLS {
            let mut r = adjoint(&model.recurrence().unwrap(), &|_| all, packed)
                .1
                .recurrence;
            let several = r.outputs.len() > 1;
            for (i, output) in r.outputs.iter_mut().enumerate() {
                // The names that a text gives.
                output.name = if several {
                    format!("out{i}")
                } else {
                    "out".to_owned()
                };
            }
            let text = r.to_string();
            let again = Recurrence::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
            // Axes that only an absent input has come last, and no text has them.
            let mut wanted = r.ordered();
            wanted.axes.truncate(again.axes.len());
            assert!(again == wanted, "{text}\n{again}");
        }
    }
}

/// In single directions, complex numbers split and simplified, the adjoint still means the same.
#[test]
fn simplified_adjoints_mean_the_same() {
    for (i, model) in CATALOGUE.iter().enumerate() {
        for (all, packed) in CALLS {
            let case = call(model, 5, all, packed, 1000 + i as u64);
            let run = Run::new(&case);
            let wanted = run.call(&run.adjoint.recurrence, &run.tensors);
            let mut tensors = run.tensors.clone();
            let mut found = Outputs::default();
            for direction in run.adjoint.recurrence.split_directions() {
                let out = run.call(&Scan::derive(&direction).recurrence, &tensors);
                tensors.extend(out.tensors.clone());
                found.tensors = out.tensors;
                found.last.extend(out.last);
            }
            for (name, x) in wanted.tensors.iter().chain(&wanted.last) {
                let found = found.tensors.get(name).or(found.last.get(name)).unwrap();
                near(found, x, &format!("{} {name}", model.name));
            }
        }
    }
}

/// With reductions and what is constant in time apart, the adjoint is parallel over what the model is, and gives the same
/// gradients.
#[test]
fn adjoints_apart_are_parallel_and_mean_the_same() {
    let mut deferring = Vec::new();
    for (i, model) in CATALOGUE.iter().enumerate() {
        for (all, packed) in CALLS {
            let case = call(model, 5, all, packed, 2000 + i as u64);
            let run = Run::new(&case);
            for simplified in [false, true] {
                let error = run.apart(simplified);
                assert!(error <= 1e-11, "{} {simplified}: {error:e}", model.name);
            }
            if run.adjoint.recurrence.deferred().after.is_some() {
                deferring.push(model.name);
            }
        }
    }
    // Systems that are constant in time have factors that are.
    for name in [
        "s4d_zoh",
        "s4d_bilinear",
        "s4d_bidirectional",
        "s5_zoh",
        "dss_softmax",
        "h3",
    ] {
        assert!(deferring.contains(&name), "{name}");
    }
    assert!(!deferring.contains(&"selective_scan"));
}

/// Rewriting changes the rounding: relative to the largest value.
fn near(x: &Array, y: &Array, what: &str) {
    assert_eq!((&x.shape, x.complex), (&y.shape, y.complex), "{what}");
    let most = y.max_abs().max(1.0);
    for (x, y) in x.data.iter().zip(&y.data) {
        assert!((x - y).abs() <= 1e-11 * most, "{what}: {x} {y}");
    }
}
