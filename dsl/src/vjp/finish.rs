//! Gradients from the cotangents of reads, and nothing else.
//!
//! In: a finished [`Sweep`] and the names to differentiate by. Out: the [`Adjoint`] without what they do not depend on.

use super::build::fold;
use super::place::{gather, single_axes};
use super::sweep::{Sweep, fresh};
use super::{Adjoint, Saved, VjpError};
use crate::expr::{InputId, Node, NodeId, StateId, Type, When};
use crate::op::Op;
use crate::recurrence::{OutputDecl, Recurrence, StateDecl};

impl Sweep<'_> {
    /// Puts the gradients together and leaves out what they do not depend on.
    pub(super) fn finish(mut self, wrt: &[&str]) -> Result<Adjoint, VjpError> {
        let late = self.late();
        let count = self.primal.states.len();
        for (i, decl) in self.primal.states.iter().enumerate() {
            let reads = std::mem::take(&mut self.prev[i]);
            let axes = self.r.states[i].axes.clone();
            let update = gather(&mut self.r, &decl.name, &axes, &reads, !decl.reverse)?;
            self.r.states[i].update = fit(&mut self.r, update, decl.complex);
        }
        let mut gradients = Vec::new();
        let mut sums = Vec::new();
        for (i, decl) in self.primal.inputs.iter().enumerate() {
            if !wrt.contains(&decl.name.as_str()) {
                continue;
            }
            let reads = std::mem::take(&mut self.inputs[i]);
            let axes = single_axes(&reads).unwrap_or_else(|| decl.axes.clone());
            let d = gather(&mut self.r, &decl.name, &axes, &reads, late)?;
            let name = fresh(self.primal, &self.r, &format!("d_{}", decl.name));
            gradients.push((decl.name.clone(), name.clone()));
            let d = fit(&mut self.r, d, decl.complex);
            if axes.contains(&self.primal.time) {
                self.r.outputs.push(OutputDecl {
                    name,
                    axes,
                    complex: decl.complex,
                    value: d,
                    value_im: None,
                });
                continue;
            }
            let state = StateId(self.r.states.len() as u32);
            sums.push(state);
            self.r.states.push(StateDecl {
                name,
                axes,
                complex: decl.complex,
                reverse: late,
                hidden: false,
                init: 0.0,
                update: d,
                update_im: None,
            });
            let before = self.r.read_state(state, When::Prev);
            self.r.states[state.0 as usize].update = fold(&mut self.r.graph, Op::Add, &[before, d]);
        }
        let wanted = |s: &StateId| {
            let primal = self.primal.states.get(s.0 as usize);
            sums.contains(s) || primal.is_some_and(|p| wrt.contains(&p.name.as_str()))
        };
        let live = live_states(&self.r, wanted);
        // What holds a value of this step is assigned before what reads it.
        let moved = live
            .iter()
            .filter(|s| self.r.state(**s).hidden && s.0 as usize >= count);
        let rest = live
            .iter()
            .filter(|s| !(self.r.state(**s).hidden && s.0 as usize >= count));
        let states: Vec<StateId> = moved.chain(rest).copied().collect();
        let recurrence = self.r.with_states(&states).prune();
        let reads = |input: InputId| {
            let name = &self.r.input(input).name;
            recurrence.input_named(name).map(|_| name.clone())
        };
        let saved = self.saved.iter().filter_map(|&(input, state, when)| {
            let name = reads(input)?;
            Some(Saved { name, state, when })
        });
        let outputs = self.primal.outputs.iter().zip(&self.outputs);
        let cotangents = outputs.filter_map(|(o, &input)| Some((o.name.clone(), reads(input)?)));
        let adjoints = self.primal.states.iter().zip(&self.r.states);
        let adjoints = adjoints.filter(|(_, d)| recurrence.state_named(&d.name).is_some());
        Ok(Adjoint {
            saved: saved.collect(),
            cotangents: cotangents.collect(),
            states: adjoints
                .map(|(h, d)| (h.name.clone(), d.name.clone()))
                .collect(),
            gradients,
            recurrence,
        })
    }
}

/// A value for a declaration: 0 where there is none, a complex number where one is declared.
fn fit(r: &mut Recurrence, value: Option<NodeId>, complex: bool) -> NodeId {
    let zero = r.graph.constant(0.0);
    let value = value.unwrap_or(zero);
    if complex && r.graph.ty(value) != Type::Complex {
        return r.graph.op(Op::Complex, &[value, zero]);
    }
    value
}

/// The states that the outputs and the wanted states depend on, in order.
fn live_states(r: &Recurrence, wanted: impl Fn(&StateId) -> bool) -> Vec<StateId> {
    let mut live: Vec<bool> = r.state_ids().map(|s| wanted(&s)).collect();
    loop {
        let updates = r.states.iter().zip(&live).filter(|(_, live)| **live);
        let roots: Vec<NodeId> = updates
            .map(|(s, _)| s.update)
            .chain(r.outputs.iter().map(|o| o.value))
            .collect();
        let before = live.clone();
        for id in r.graph.reachable(&roots) {
            if let Node::State { state, .. } = r.graph.node(id) {
                live[state.0 as usize] = true;
            }
        }
        if live == before {
            return r.state_ids().filter(|s| live[s.0 as usize]).collect();
        }
    }
}
