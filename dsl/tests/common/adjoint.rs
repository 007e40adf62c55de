//! An adjoint with everything that it takes in one call, from a forward run in f64.

use std::collections::BTreeMap;

use selscan_dsl::{
    Adjoint, Array, AxisId, AxisIndex, AxisSet, Inputs, Node, Outputs, Recurrence, eval,
};

use super::difference::Call;

/// The recurrence for callers who give everything optional or nothing, and its adjoint by everything.
pub fn adjoint(r: &Recurrence, all: bool, packed: bool) -> (Recurrence, Adjoint) {
    let mut r = r.specialize(&|_| all);
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
    pub tensors: BTreeMap<String, Array>,
    pub initial: BTreeMap<String, Array>,
}

impl Run {
    pub fn new(case: &Call, all: bool) -> Run {
        let (primal, adjoint) = adjoint(&case.r, all, case.inputs.seq_idx.is_some());
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
        eval(r, &self.inputs(r, tensors)).unwrap_or_else(|e| panic!("{}: {e}", r.name))
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
