//! The adjoint of every model of the catalogue: its gradients are derivatives, by central differences in f64, and it is
//! affine in the adjoint states, prints as a text that parses, and keeps its meaning when it is simplified.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use selscan_dsl::{Adjoint, Array, Class, Inputs, Outputs, Recurrence, Scan, eval, gradients};
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
    fn array(&mut self, shape: &[usize], complex: bool) -> Array {
        let mut x = Array::filled(shape, complex, 0.0);
        x.data.iter_mut().for_each(|x| *x = self.number());
        x
    }
}

/// A call of a model: what is given, and what its loss Σ d · y is made of.
struct Case {
    what: String,
    r: Recurrence,
    inputs: Inputs,
    cotangents: Outputs,
}

impl Case {
    fn new(model: &Model, len: usize, all: bool, packed: bool, seed: u64) -> Case {
        let r = model.recurrence().unwrap();
        let mut extents = Model::extents(&r, model.small);
        extents.0[r.time.0 as usize] = len;
        let mut random = Random(seed);
        let mut inputs = model.sample(&r, &extents, &|_| all, seed);
        for s in &r.states {
            let h = random.array(&extents.shape(&s.axes), s.complex);
            inputs = inputs.with_initial(&s.name, h);
        }
        if packed {
            let rows = r.batch_axis().map_or(1, |b| extents.get(b));
            let row: Vec<f64> = (0..len).map(|t| (t / 3) as f64).collect();
            inputs = inputs.with_seq_idx(Array::real(&[rows, len], row.repeat(rows)));
        }
        let mut cotangents = Outputs::default();
        for o in &r.outputs {
            let d = random.array(&extents.shape(&o.axes), o.complex);
            cotangents.tensors.insert(o.name.clone(), d);
        }
        for s in &r.states {
            let d = random.array(&extents.shape(&s.axes), s.complex);
            cotangents.last.insert(s.name.clone(), d);
        }
        Case {
            what: format!("{} L={len} all={all} packed={packed}", model.name),
            r,
            inputs,
            cotangents,
        }
    }

    /// Everything that is given and is a number.
    fn names(&self) -> Vec<&str> {
        let inputs = self.inputs.tensors.keys();
        let states = self.r.states.iter().map(|s| &s.name);
        inputs.chain(states).map(String::as_str).collect()
    }

    fn loss(&self, inputs: &Inputs) -> f64 {
        let out = eval(&self.r, inputs).unwrap_or_else(|e| panic!("{}: {e}", self.what));
        let d = &self.cotangents;
        let tensors = d.tensors.iter().map(|(n, d)| dot(d, &out.tensors[n]));
        let last = d.last.iter().map(|(n, d)| dot(d, &out.last[n]));
        tensors.chain(last).sum()
    }

    /// dL/dε at x + ε v by the five-point rule, where `name` is x.
    fn difference(&self, name: &str, v: &Array) -> f64 {
        let h = 1e-3;
        let at = |step: f64| {
            let mut moved = self.inputs.clone();
            let x = moved.tensors.get_mut(name).or(moved.initial.get_mut(name));
            let x = &mut x.unwrap().data;
            x.iter_mut()
                .zip(&v.data)
                .for_each(|(x, v)| *x += step * h * v);
            self.loss(&moved)
        };
        (at(-2.0) - at(2.0) + 8.0 * (at(1.0) - at(-1.0))) / (12.0 * h)
    }
}

fn dot(x: &Array, y: &Array) -> f64 {
    assert_eq!(x.shape, y.shape);
    x.data.iter().zip(&y.data).map(|(x, y)| x * y).sum()
}

fn norm(x: &Array) -> f64 {
    dot(x, x).sqrt()
}

#[test]
fn gradients_are_central_differences() {
    for (i, model) in CATALOGUE.iter().enumerate() {
        let mut cases = vec![];
        for len in [0, 1, 7] {
            for all in [true, false] {
                cases.push((len, all, false));
            }
        }
        cases.push((7, true, true));
        for (k, (len, all, packed)) in cases.into_iter().enumerate() {
            let case = Case::new(model, len, all, packed, (i * 16 + k) as u64);
            let names = case.names();
            let found = gradients(&case.r, &case.inputs, &case.cotangents, &names);
            let found = found.unwrap_or_else(|e| panic!("{}: {e}", case.what));
            let mut random = Random(i as u64);
            for name in names {
                let x = case
                    .inputs
                    .tensors
                    .get(name)
                    .or(case.inputs.initial.get(name));
                let g = found.tensors.get(name).or(found.initial.get(name));
                let (x, g) = (x.unwrap(), g.unwrap());
                assert_eq!(
                    (&x.shape, x.complex),
                    (&g.shape, g.complex),
                    "{} {name}",
                    case.what
                );
                for _ in 0..2 {
                    let v = random.array(&x.shape, x.complex);
                    let (wanted, found) = (case.difference(name, &v), dot(g, &v));
                    let scale = norm(g) * norm(&v);
                    assert!(
                        (wanted - found).abs() <= 1e-6 * scale + 1e-9,
                        "{}: by {name} {wanted} {found} (scale {scale})",
                        case.what
                    );
                }
            }
        }
    }
}

/// The adjoint of a model, by everything, for callers who give everything optional or nothing.
fn adjoint(model: &Model, all: bool, packed: bool) -> (Recurrence, Adjoint) {
    let mut r = model.recurrence().unwrap().specialize(&|_| all);
    let inputs = r.inputs.iter().map(|i| i.name.clone());
    let names: Vec<String> = inputs
        .chain(r.states.iter().map(|s| s.name.clone()))
        .collect();
    if packed {
        r = r.with_boundaries();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let adjoint = r
        .vjp(&names)
        .unwrap_or_else(|e| panic!("{}: {e}", model.name));
    (r, adjoint)
}

const CALLS: [(bool, bool); 3] = [(true, false), (false, false), (true, true)];

#[test]
fn adjoints_are_affine_in_the_adjoint_states() {
    for model in CATALOGUE {
        for (all, packed) in CALLS {
            let (r, adjoint) = adjoint(model, all, packed);
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
            let mut r = adjoint(model, all, packed).1.recurrence;
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
            let case = Case::new(model, 5, all, packed, 1000 + i as u64);
            let (r, adjoint) = adjoint(model, all, packed);
            let mut tensors = case.inputs.tensors.clone();
            if let Some(seq_idx) = &case.inputs.seq_idx {
                let given = case.r.specialize(&|_| all);
                tensors.extend(given.boundary_inputs(seq_idx));
            }
            let forward = adjoint.forward(&r);
            let mut inputs = Inputs {
                tensors: tensors.clone(),
                initial: case.inputs.initial.clone(),
                ..Inputs::new()
            };
            let states = eval(&forward, &inputs).unwrap();
            for (saved, output) in adjoint
                .saved
                .iter()
                .zip(&forward.outputs[r.outputs.len()..])
            {
                tensors.insert(saved.name.clone(), states.tensors[&output.name].clone());
            }
            for (output, d) in &adjoint.cotangents {
                tensors.insert(d.clone(), case.cotangents.tensors[output].clone());
            }
            inputs.initial.clear();
            for (h, d) in &adjoint.states {
                inputs
                    .initial
                    .insert(d.clone(), case.cotangents.last[h].clone());
            }
            let call = |r: &Recurrence, tensors: &std::collections::BTreeMap<String, Array>| {
                let mut own = Inputs::new();
                for decl in &r.inputs {
                    own = own.with(&decl.name, tensors[&decl.name].clone());
                }
                for decl in &r.states {
                    if let Some(d) = inputs.initial.get(&decl.name) {
                        own = own.with_initial(&decl.name, d.clone());
                    }
                }
                eval(r, &own).unwrap_or_else(|e| panic!("{}: {e}", model.name))
            };
            let wanted = call(&adjoint.recurrence, &tensors);
            let mut found = Outputs::default();
            for direction in adjoint.recurrence.split_directions() {
                let out = call(&Scan::derive(&direction).recurrence, &tensors);
                tensors.extend(out.tensors.clone());
                found.tensors = out.tensors;
                found.last.extend(out.last);
            }
            for (name, x) in &wanted.tensors {
                near(&found.tensors[name], x, &format!("{} {name}", case.what));
            }
            for (name, x) in &wanted.last {
                near(&found.last[name], x, &format!("{} {name}", case.what));
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
