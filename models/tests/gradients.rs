//! The adjoint of every model of the catalogue: its gradients are derivatives, by central differences in f64, and it is
//! affine in the adjoint states, prints as a text that parses, and keeps its meaning when it is simplified.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

#[path = "../../dsl/tests/common/difference.rs"]
mod difference;

use difference::Call;
use selscan_dsl::{
    Adjoint, Array, AxisId, AxisIndex, AxisSet, Class, Inputs, Node, Outputs, Recurrence, Scan,
    bind_extents, eval, simplify,
};
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

/// An adjoint and everything that it takes in a call.
struct Run {
    primal: Recurrence,
    adjoint: Adjoint,
    tensors: BTreeMap<String, Array>,
    initial: BTreeMap<String, Array>,
}

impl Run {
    fn new(model: &Model, case: &Call, all: bool, packed: bool) -> Run {
        let (primal, adjoint) = adjoint(model, all, packed);
        let mut tensors = case.inputs.tensors.clone();
        if let Some(seq_idx) = &case.inputs.seq_idx {
            let given = case.r.specialize(&|_| all);
            tensors.extend(given.boundary_inputs(seq_idx));
        }
        let forward = adjoint.forward(&primal);
        let inputs = Inputs {
            tensors: tensors.clone(),
            initial: case.inputs.initial.clone(),
            ..Inputs::new()
        };
        let states = eval(&forward, &inputs).unwrap();
        for (saved, output) in adjoint
            .saved
            .iter()
            .zip(&forward.outputs[primal.outputs.len()..])
        {
            tensors.insert(saved.name.clone(), states.tensors[&output.name].clone());
        }
        for (output, d) in &adjoint.cotangents {
            tensors.insert(d.clone(), case.cotangents.tensors[output].clone());
        }
        let last = adjoint.states.iter();
        let initial = last.map(|(h, d)| (d.clone(), case.cotangents.last[h].clone()));
        Run {
            initial: initial.collect(),
            primal,
            adjoint,
            tensors,
        }
    }

    /// A recurrence that is made of the adjoint.
    fn call(&self, r: &Recurrence, tensors: &BTreeMap<String, Array>) -> Outputs {
        let mut own = Inputs::new();
        for decl in &r.inputs {
            own = own.with(&decl.name, tensors[&decl.name].clone());
        }
        for decl in &r.states {
            if let Some(d) = self.initial.get(&decl.name) {
                own = own.with_initial(&decl.name, d.clone());
            }
        }
        eval(r, &own).unwrap_or_else(|e| panic!("{}: {e}", r.name))
    }
}

/// In single directions, complex numbers split and simplified, the adjoint still means the same.
#[test]
fn simplified_adjoints_mean_the_same() {
    for (i, model) in CATALOGUE.iter().enumerate() {
        for (all, packed) in CALLS {
            let case = call(model, 5, all, packed, 1000 + i as u64);
            let run = Run::new(model, &case, all, packed);
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

/// Rewriting changes the rounding: relative to the largest value.
fn near(x: &Array, y: &Array, what: &str) {
    assert_eq!((&x.shape, x.complex), (&y.shape, y.complex), "{what}");
    let most = y.max_abs().max(1.0);
    for (x, y) in x.data.iter().zip(&y.data) {
        assert!((x - y).abs() <= 1e-11 * most, "{what}: {x} {y}");
    }
}

/// The axes that a model's own kernel is parallel over: in every state and output, and nowhere reduced, shifted or
/// read under another name.
fn parallel(r: &Recurrence) -> AxisSet {
    let of = |axes: &[AxisId]| axes.iter().copied().collect::<AxisSet>();
    let states = r.states.iter().map(|s| of(&s.axes));
    let every = states.chain(r.outputs.iter().map(|o| of(&o.axes)));
    let mut axes = every.reduce(AxisSet::intersect).unwrap().without(r.time);
    for id in r.graph.reachable(&r.roots()) {
        match r.graph.node(id) {
            Node::Reduce { axis, .. } | Node::Shift { axis, .. } => axes = axes.without(*axis),
            Node::State { state, index, .. } => {
                let declared = r.state(*state).axes.iter().zip(index);
                for (&a, _) in declared.filter(|(a, i)| **i != AxisIndex::At(**a)) {
                    axes = axes.without(a);
                }
            }
            _ => {}
        }
    }
    axes
}

/// With the reductions moved out, the adjoint is parallel over what the model is, and gives the same gradients.
#[test]
fn partial_adjoints_are_parallel_and_mean_the_same() {
    for (i, model) in CATALOGUE.iter().enumerate() {
        for (all, packed) in CALLS {
            let case = call(model, 5, all, packed, 2000 + i as u64);
            let run = Run::new(model, &case, all, packed);
            let axes = parallel(&run.primal);
            let partial = run.adjoint.recurrence.partial(axes);
            let r = &partial.recurrence;
            let wanted = run.call(&run.adjoint.recurrence, &run.tensors);
            let given = run
                .tensors
                .iter()
                .map(|(n, x)| (n.as_str(), x.shape.as_slice()));
            let known = |name: &str| run.adjoint.recurrence.input_named(name).is_some();
            let given = given.filter(|(name, _)| known(name));
            let initial = run
                .initial
                .iter()
                .map(|(n, x)| (n.as_str(), x.shape.as_slice()));
            let extents = bind_extents(&run.adjoint.recurrence, given.chain(initial)).unwrap();
            for r in [r.clone(), simplify(r)] {
                assert!(axes.is_subset(parallel(&r)), "{}\n{r}", model.name);
                let found = partial.complete(run.call(&r, &run.tensors), &extents);
                assert_eq!(found.tensors.len(), wanted.tensors.len());
                for (name, x) in wanted.tensors.iter().chain(&wanted.last) {
                    let found = found.tensors.get(name).or(found.last.get(name)).unwrap();
                    near(found, x, &format!("{} {name}", model.name));
                }
            }
        }
    }
}

/// The gradients by what is constant in time are sums over time and one step after it, and the same.
#[test]
fn deferred_adjoints_mean_the_same() {
    let mut deferring = Vec::new();
    for (i, model) in CATALOGUE.iter().enumerate() {
        for (all, packed) in CALLS {
            let case = call(model, 5, all, packed, 3000 + i as u64);
            let run = Run::new(model, &case, all, packed);
            let wanted = run.call(&run.adjoint.recurrence, &run.tensors);
            let deferred = run.adjoint.recurrence.deferred();
            let mut found = run.call(&deferred.recurrence, &run.tensors);
            if let Some(after) = &deferred.after {
                deferring.push(model.name);
                let mut tensors = run.tensors.clone();
                tensors.extend(found.last.clone());
                found.last.extend(run.call(after, &tensors).last);
            }
            for (name, x) in wanted.tensors.iter().chain(&wanted.last) {
                let found = found.tensors.get(name).or(found.last.get(name)).unwrap();
                near(found, x, &format!("{} {name}", model.name));
            }
            // The sums are as parallel as the model.
            let axes = parallel(&run.primal);
            let partial = deferred.recurrence.partial(axes).recurrence;
            assert!(axes.is_subset(parallel(&partial)), "{partial}");
        }
    }
    println!("{deferring:?}");
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
