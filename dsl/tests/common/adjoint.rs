//! An adjoint with everything that it takes in one call, from a forward run in f64.

use std::collections::BTreeMap;

use selscan_dsl::{
    Adjoint, Array, AxisId, AxisIndex, AxisSet, Extents, Inputs, Node, Outputs, Recurrence,
    eval_at, simplify,
};

use super::difference::Call;

/// The recurrence for callers who give these inputs, and its adjoint by everything.
pub fn adjoint(
    r: &Recurrence,
    given: &dyn Fn(&str) -> bool,
    packed: bool,
) -> (Recurrence, Adjoint) {
    let mut r = r.specialize(given);
    let inputs = r.inputs.iter().map(|i| i.name.clone());
    let names: Vec<String> = inputs
        .chain(r.states.iter().map(|s| s.name.clone()))
        .collect();
    if packed {
        r = r.with_boundaries();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let adjoint = r.vjp(&names).unwrap_or_else(|e| panic!("{}: {e}", r.name));
    (r, adjoint)
}

/// An adjoint and everything that it takes in a call.
pub struct Run {
    pub primal: Recurrence,
    pub adjoint: Adjoint,
    extents: Extents,
    pub tensors: BTreeMap<String, Array>,
    pub initial: BTreeMap<String, Array>,
}

impl Run {
    pub fn new(case: &Call) -> Run {
        let (primal, adjoint) = adjoint(
            &case.r,
            &|name| case.inputs.has(name),
            case.inputs.seq_idx.is_some(),
        );
        let mut tensors = case.inputs.tensors.clone();
        if let Some(seq_idx) = &case.inputs.seq_idx {
            let given = case.r.specialize(&|name| case.inputs.has(name));
            tensors.extend(given.boundary_inputs(seq_idx));
        }
        let forward = adjoint.forward(&primal);
        let inputs = Inputs {
            tensors: tensors.clone(),
            initial: case.inputs.initial.clone(),
            ..Inputs::new()
        };
        let states = eval_at(&forward, &inputs, &case.extents).unwrap();
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
            extents: case.extents.clone(),
            tensors,
        }
    }

    /// What a recurrence takes that is made of the adjoint.
    pub fn inputs(&self, r: &Recurrence, tensors: &BTreeMap<String, Array>) -> Inputs {
        let mut own = Inputs::new();
        for decl in &r.inputs {
            own = own.with(&decl.name, tensors[&decl.name].clone());
        }
        for decl in &r.states {
            if let Some(d) = self.initial.get(&decl.name) {
                own = own.with_initial(&decl.name, d.clone());
            }
        }
        own
    }

    /// What it computes.
    pub fn call(&self, r: &Recurrence, tensors: &BTreeMap<String, Array>) -> Outputs {
        eval_at(r, &self.inputs(r, tensors), &self.extents)
            .unwrap_or_else(|e| panic!("{}: {e}", r.name))
    }
}

/// The axes that a recurrence is parallel over: in every state and output, and nowhere reduced, shifted or
/// read under another name.
pub fn parallel(r: &Recurrence) -> AxisSet {
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

impl Run {
    /// Deferred, partial over what the primal is parallel over, and simplified if asked for, the adjoint gives the same
    /// gradients. Returns the largest difference, relative to the largest value of each (or to 1).
    pub fn apart(&self, simplified: bool) -> f64 {
        let wanted = self.call(&self.adjoint.recurrence, &self.tensors);
        let deferred = self.adjoint.recurrence.deferred();
        let axes = parallel(&self.primal);
        let partial = deferred.recurrence.partial(axes);
        let (mut r, mut after) = (partial.recurrence.clone(), deferred.after.clone());
        if simplified {
            (r, after) = (simplify(&r), after.map(|after| simplify(&after)));
        }
        assert!(axes.is_subset(parallel(&r)), "{axes:?}\n{r}");
        let found = self.call(&r, &self.tensors);
        let mut found = partial.complete(found, &self.extents);
        if let Some(after) = after {
            let mut tensors = self.tensors.clone();
            tensors.extend(found.last.clone());
            found.last.extend(self.call(&after, &tensors).last);
        }
        assert_eq!(found.tensors.len(), wanted.tensors.len());
        let mut worst = 0.0f64;
        for (name, y) in wanted.tensors.iter().chain(&wanted.last) {
            let x = found.tensors.get(name).or(found.last.get(name)).unwrap();
            assert_eq!((&x.shape, x.complex), (&y.shape, y.complex), "{name}");
            let most = y.max_abs().max(1.0);
            for (x, y) in x.data.iter().zip(&y.data) {
                worst = worst.max((x - y).abs() / most);
            }
        }
        worst
    }
}
