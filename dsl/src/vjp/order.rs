//! The order in which a step of a recurrence computes: nodes and the states' assignments.
//!
//! In: a recurrence. Out: [`Event`]s, each after what it reads; the adjoint goes through them backward.

use super::VjpError;
use crate::expr::{Node, NodeId, StateId, When};
use crate::recurrence::Recurrence;

/// What a step of the primal does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Computes a node.
    Node(NodeId),
    /// Gives a state its next value.
    Assign(StateId),
}

/// Everything that a step computes, in an order in which nothing is read before it is there.
pub(super) fn order(r: &Recurrence) -> Result<Vec<Event>, VjpError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let place = |event: Event| match event {
        Event::Node(id) => id.0 as usize,
        Event::Assign(state) => r.graph.len() + state.0 as usize,
    };
    let needs = |event: Event| -> Vec<Event> {
        match event {
            Event::Assign(state) => vec![Event::Node(r.state(state).update)],
            Event::Node(id) => match r.graph.node(id) {
                Node::State {
                    state,
                    when: When::Next,
                    ..
                } => vec![Event::Assign(*state)],
                node => node.operands().into_iter().map(Event::Node).collect(),
            },
        }
    };
    let mut marks = vec![Mark::New; r.graph.len() + r.states.len()];
    let mut out = Vec::new();
    let roots = r.state_ids().map(Event::Assign);
    for root in roots.chain(r.outputs.iter().map(|o| Event::Node(o.value))) {
        let mut stack = vec![(root, false)];
        while let Some((event, needs_done)) = stack.pop() {
            let mark = &mut marks[place(event)];
            if needs_done {
                *mark = Mark::Done;
                out.push(event);
                continue;
            }
            match (*mark, event) {
                (Mark::New, _) => *mark = Mark::Open,
                (Mark::Open, Event::Assign(state)) => {
                    let name = r.state(state).name.clone();
                    return Err(VjpError::Cyclic { name });
                }
                _ => continue,
            }
            stack.push((event, true));
            stack.extend(needs(event).into_iter().map(|e| (e, false)));
        }
    }
    Ok(out)
}
