//! An adjoint and what is run again for it, as one recurrence: what both compute is computed once a step.
//!
//! In: a [`Stage`] whose adjoint runs back and reads the states of one replay that runs onward. Out: a recurrence whose
//! first states are those of the replay; where the adjoint read a saved state it reads that state, before or after its step.

use std::collections::HashMap;

use selscan_dsl::{
    AxisIndex, Graph, InputDecl, InputId, Node, NodeId, Op, Recurrence, StateId, When,
};

use super::Stage;
use super::products::shared_products;
use crate::plan::Refusal;
use crate::structure::Structure;

/// The one recurrence of a stage, and how many of its states are run again; `structure` is that of its adjoint.
pub(super) fn retraced(
    stage: &Stage,
    structure: &Structure,
) -> Result<(Recurrence, usize), Refusal> {
    let adjoint = &stage.scan.recurrence;
    let no = |why: &str| {
        let name = &adjoint.name;
        Refusal(format!(
            "order=staged does not fit {name}: {why}; use another order"
        ))
    };
    let [(again, reads)] = &stage.replays[..] else {
        return Err(no("it reads no states of one direction"));
    };
    let again = &again.recurrence;
    if adjoint.states.iter().any(|s| !s.reverse) || again.states.iter().any(|s| s.reverse) {
        return Err(no("its kernel runs from the last step to the first"));
    }
    let mut merged = adjoint.clone();
    merged.states.clear();
    merged.inputs.clear();
    merged.graph = Graph::new(adjoint.time);
    let saved: HashMap<&str, (StateId, When)> = reads
        .iter()
        .filter_map(|(input, state, when)| {
            Some((input.as_str(), (again.state_named(state)?, *when)))
        })
        .collect();
    let count = again.states.len();
    let of_again = graft(&mut merged, again, (0, &HashMap::new()));
    let of_adjoint = graft(&mut merged, adjoint, (count, &saved));
    for (rec, at) in [(again, &of_again), (adjoint, &of_adjoint)] {
        for state in &rec.states {
            let mut state = state.clone();
            state.update = at[&state.update];
            state.update_im = state.update_im.map(|im| at[&im]);
            merged.states.push(state);
        }
    }
    for output in &mut merged.outputs {
        output.value = of_adjoint[&output.value];
        output.value_im = output.value_im.map(|im| of_adjoint[&im]);
    }
    let own = Structure::like(&merged, adjoint, structure);
    Ok((shared_products(&merged, &own, count), count))
}

/// Adds what the roots of a recurrence reach to another's graph: its states are those from number `first` on, and inputs that
/// are saved states are reads of these.
fn graft(
    into: &mut Recurrence,
    from: &Recurrence,
    (first, saved): (usize, &HashMap<&str, (StateId, When)>),
) -> HashMap<NodeId, NodeId> {
    let mut new: HashMap<NodeId, NodeId> = HashMap::new();
    for id in from.graph.reachable(&from.roots()) {
        let node = from.graph.node(id);
        let operands: Vec<NodeId> = node.operands().iter().map(|x| new[x]).collect();
        let node = match node.with_operands(&operands) {
            Node::Input { input, index, part } => {
                let decl = from.input(input);
                match saved.get(decl.name.as_str()) {
                    Some(&(state, when)) => {
                        let timed = decl.axes.iter().zip(index);
                        let own = timed.filter(|(axis, _)| **axis != from.time);
                        Node::State {
                            state,
                            when,
                            index: own.map(|(_, i): (_, AxisIndex)| i).collect(),
                            part,
                        }
                    }
                    None => {
                        let input = shared_input(into, decl);
                        Node::Input { input, index, part }
                    }
                }
            }
            Node::State {
                state,
                when,
                index,
                part,
            } => Node::State {
                state: StateId(state.0 + first as u32),
                when,
                index,
                part,
            },
            // In one order, whatever the order in which each of the two was simplified.
            Node::Op(op @ (Op::Add | Op::Mul), mut xs) => {
                xs.sort_unstable();
                Node::Op(op, xs)
            }
            node => node,
        };
        new.insert(id, into.graph.add(node));
    }
    new
}

/// The input of that name, declared if it is not yet.
fn shared_input(into: &mut Recurrence, decl: &InputDecl) -> InputId {
    into.input_named(&decl.name).unwrap_or_else(|| {
        into.inputs.push(decl.clone());
        InputId(into.inputs.len() as u32 - 1)
    })
}
