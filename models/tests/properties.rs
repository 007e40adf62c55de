//! What every recurrence has without saying so holds for every model of the catalogue: time can be cut and resumed,
//! sequences can be packed, a call may have one token or none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Range;

use selscan_dsl::scan::prepare;
use selscan_dsl::{Array, Inputs, Outputs, Recurrence, eval, eval_with_bound};
use selscan_models::{CATALOGUE, Model};

/// A model, its recurrence and inputs with everything optional given.
fn cases() -> impl Iterator<Item = (&'static Model, Recurrence, Inputs)> {
    CATALOGUE.iter().enumerate().map(|(i, model)| {
        let r = model.recurrence().unwrap();
        let mut extents = Model::extents(&r, model.small);
        extents.0[r.time.0 as usize] = 11;
        let inputs = model.sample(&r, &extents, &|_| true, i as u64);
        (model, r, inputs)
    })
}

/// The inputs at the tokens in a range.
fn tokens(r: &Recurrence, inputs: &Inputs, range: Range<usize>) -> Inputs {
    let mut part = inputs.clone();
    for decl in &r.inputs {
        if let (Some(x), Some(time)) = (
            part.tensors.get_mut(&decl.name),
            decl.axes.iter().position(|&a| a == r.time),
        ) {
            *x = x.slice(time, range.clone());
        }
    }
    part
}

fn same(x: &Array, y: &Array, what: &str) {
    assert_eq!(x.shape, y.shape, "{what}");
    for (x, y) in x.data.iter().zip(&y.data) {
        assert!((x - y).abs() <= 1e-12 * y.abs().max(1.0), "{what}: {x} {y}");
    }
}

/// The outputs of `whole` in a range of tokens are those of `part`.
fn same_tokens(r: &Recurrence, whole: &Outputs, range: Range<usize>, part: &Outputs, what: &str) {
    for decl in &r.outputs {
        let time = decl.axes.iter().position(|&a| a == r.time).unwrap();
        let cut = whole.tensors[&decl.name].slice(time, range.clone());
        same(
            &cut,
            &part.tensors[&decl.name],
            &format!("{what} {}", decl.name),
        );
    }
}

#[test]
fn time_can_be_cut_and_resumed() {
    for (model, r, inputs) in cases() {
        if r.states.iter().any(|s| s.reverse) {
            continue;
        }
        let whole = eval(&r, &inputs).unwrap();
        let first = eval(&r, &tokens(&r, &inputs, 0..4)).unwrap();
        let mut rest = tokens(&r, &inputs, 4..11);
        rest.initial = first.last.clone();
        let second = eval(&r, &rest).unwrap();
        same_tokens(&r, &whole, 0..4, &first, model.name);
        same_tokens(&r, &whole, 4..11, &second, model.name);
        for (name, last) in &whole.last {
            same(last, &second.last[name], &format!("{} {name}", model.name));
        }
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    for (model, r, inputs) in cases() {
        let batch = r.batch_axis().unwrap();
        assert_eq!(r.axis_name(batch), "B", "{}", model.name);
        let rows = Model::extents(&r, model.small).get(batch);
        let row: Vec<f64> = (0..11).map(|t| if t < 5 { 3.0 } else { 1.0 }).collect();
        let packed = inputs
            .clone()
            .with_seq_idx(Array::real(&[rows, 11], row.repeat(rows)));
        let whole = eval(&r, &packed).unwrap();
        let first = eval(&r, &tokens(&r, &inputs, 0..5)).unwrap();
        let second = eval(&r, &tokens(&r, &inputs, 5..11)).unwrap();
        same_tokens(&r, &whole, 0..5, &first, model.name);
        same_tokens(&r, &whole, 5..11, &second, model.name);
        for state in &r.states {
            let end = if state.reverse { &first } else { &second };
            same(&whole.last[&state.name], &end.last[&state.name], model.name);
        }
    }
}

#[test]
fn one_token_or_none() {
    for (model, r, inputs) in cases() {
        let one = eval(&r, &tokens(&r, &inputs, 0..1)).unwrap();
        assert!(
            one.tensors
                .values()
                .all(|x| x.data.iter().all(|x| x.is_finite())),
            "{}",
            model.name
        );
        if r.states.iter().all(|s| !s.reverse) {
            same_tokens(&r, &eval(&r, &inputs).unwrap(), 0..1, &one, model.name);
        }
        let none = eval(&r, &tokens(&r, &inputs, 0..0)).unwrap();
        assert!(
            none.tensors.values().all(|x| x.data.is_empty()),
            "{}",
            model.name
        );
        assert!(
            none.last.values().all(|x| x.data.iter().all(|&x| x == 0.0)),
            "{}",
            model.name
        );
    }
}

#[test]
fn bounds_are_at_least_the_values() {
    for (model, r, inputs) in cases() {
        let (values, bounds) = eval_with_bound(&r, &inputs).unwrap();
        assert_eq!(values, eval(&r, &inputs).unwrap(), "{}", model.name);
        let outputs = values
            .tensors
            .iter()
            .map(|(name, x)| (x, &bounds.tensors[name]));
        let states = values.last.iter().map(|(name, x)| (x, &bounds.last[name]));
        for (x, m) in outputs.chain(states) {
            assert_eq!((&x.shape, x.data.len()), (&m.shape, m.data.len()));
            assert!(
                x.data
                    .iter()
                    .zip(&m.data)
                    .all(|(x, m)| x.abs() <= *m * (1.0 + 1e-12) && m.is_finite()),
                "{}",
                model.name
            );
        }
    }
}

/// Without anything optional every model still has a meaning, except that the scans in mamba_ssm's layout then read
/// a B and a C of 0.
#[test]
fn nothing_optional_is_needed() {
    for (i, model) in CATALOGUE.iter().enumerate() {
        let r = model.recurrence().unwrap();
        let extents = Model::extents(&r, model.small);
        let inputs = model.sample(&r, &extents, &|_| false, i as u64);
        let out = eval(&r, &inputs).unwrap_or_else(|e| panic!("{}: {e}", model.name));
        assert!(
            out.tensors["out"].data.iter().all(|x| x.is_finite()),
            "{}",
            model.name
        );
    }
}

/// Specialised, with boundaries, in single directions, complex numbers split and simplified: still the same model.
#[test]
fn prepared_scans_mean_the_same() {
    for (i, model) in CATALOGUE.iter().enumerate() {
        let r = model.recurrence().unwrap();
        let extents = Model::extents(&r, model.small);
        let (rows, len) = (extents.get(r.batch_axis().unwrap()), extents.get(r.time));
        let row: Vec<f64> = (0..len).map(|t| f64::from(u8::from(t > len / 2))).collect();
        let seq_idx = Array::real(&[rows, len], row.repeat(rows));
        for (all, packed) in [(true, false), (false, true), (true, true)] {
            let given = |_: &str| all;
            let mut inputs = model.sample(&r, &extents, &given, i as u64);
            let mut tensors = inputs.tensors.clone();
            if packed {
                inputs = inputs.with_seq_idx(seq_idx.clone());
                tensors.extend(r.specialize(&given).boundary_inputs(&seq_idx));
            }
            let wanted = eval(&r, &inputs).unwrap();
            let mut last = Outputs::default();
            for scan in prepare(&r, &given, packed) {
                let mut part = Inputs::new();
                for decl in &scan.recurrence.inputs {
                    part = part.with(&decl.name, tensors[&decl.name].clone());
                }
                let found =
                    eval(&scan.recurrence, &part).unwrap_or_else(|e| panic!("{}: {e}", model.name));
                tensors.extend(found.tensors.clone());
                last.last.extend(found.last);
                last.tensors = found.tensors;
            }
            for (name, x) in &wanted.tensors {
                near(&last.tensors[name], x, model.name);
            }
            for (name, x) in &wanted.last {
                near(&last.last[name], x, model.name);
            }
        }
    }
}

/// Rewriting changes the rounding: relative to the largest value.
fn near(x: &Array, y: &Array, what: &str) {
    assert_eq!((&x.shape, x.complex), (&y.shape, y.complex), "{what}");
    let most = y.max_abs().max(1.0);
    for (x, y) in x.data.iter().zip(&y.data) {
        assert!((x - y).abs() <= 1e-11 * most, "{what}: {x} {y}");
    }
}
