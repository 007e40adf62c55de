//! The order in which states and nodes are computed.
//!
//! In: a recurrence. Out: its states in [`Pass`]es of one direction each, and for each pass the nodes and
//! assignments of one time step in an order in which everything is computed before it is read.

use std::collections::BTreeSet;

use super::EvalError;
use crate::expr::{Node, NodeId, When};
use crate::recurrence::Recurrence;

/// One thing to do at a time step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Compute a node.
    Node(NodeId),
    /// Give a state its next value.
    Assign(usize),
}

/// States of one direction that run together. The last pass also computes the outputs.
pub(super) struct Pass {
    pub reverse: bool,
    pub states: Vec<usize>,
    pub steps: Vec<Step>,
    /// The states of earlier passes that this one reads.
    pub reads: Vec<usize>,
}

/// The passes of `r` in order; at least one.
pub(super) fn passes(r: &Recurrence) -> Result<Vec<Pass>, EvalError> {
    let stages = stages(r)?;
    let key = |s: usize| (stages[s], !r.states[s].reverse);
    let keys: BTreeSet<(usize, bool)> = (0..r.states.len()).map(key).collect();
    let mut groups: Vec<(bool, Vec<usize>)> = keys
        .iter()
        .map(|&k| (!k.1, (0..r.states.len()).filter(|&s| key(s) == k).collect()))
        .collect();
    if groups.is_empty() {
        groups.push((false, vec![]));
    }
    let last = groups.len() - 1;
    groups
        .into_iter()
        .enumerate()
        .map(|(i, (reverse, states))| pass(r, reverse, states, i == last))
        .collect()
}

/// The states that each state's update reads.
fn state_reads(r: &Recurrence) -> Vec<BTreeSet<usize>> {
    let read = |&s: &NodeId| match r.graph.node(s) {
        Node::State { state, .. } => Some(state.0 as usize),
        _ => None,
    };
    r.states
        .iter()
        .map(|s| {
            let roots: Vec<NodeId> = [Some(s.update), s.update_im]
                .into_iter()
                .flatten()
                .collect();
            r.graph.reachable(&roots).iter().filter_map(read).collect()
        })
        .collect()
}

/// How many changes of direction lie before each state.
fn stages(r: &Recurrence) -> Result<Vec<usize>, EvalError> {
    let reads = state_reads(r);
    let mut stages = vec![0; r.states.len()];
    loop {
        let mut settled = true;
        for s in 0..stages.len() {
            let turn = |o: usize| usize::from(r.states[o].reverse != r.states[s].reverse);
            let wanted = reads[s].iter().map(|&o| stages[o] + turn(o)).max();
            if let Some(wanted) = wanted.filter(|&w| w > stages[s]) {
                if wanted > stages.len() {
                    return Err(EvalError::Cyclic {
                        name: r.states[s].name.clone(),
                    });
                }
                stages[s] = wanted;
                settled = false;
            }
        }
        if settled {
            return Ok(stages);
        }
    }
}

/// The steps of a pass: a depth-first walk in which a state's next value comes after its assignment.
fn pass(r: &Recurrence, reverse: bool, states: Vec<usize>, last: bool) -> Result<Pass, EvalError> {
    let mut walk = Walk {
        r,
        states: &states,
        nodes: vec![Mark::New; r.graph.len()],
        assigned: vec![false; r.states.len()],
        steps: Vec::new(),
        reads: BTreeSet::new(),
        assigning: 0,
    };
    for &s in &states {
        walk.assign(s)?;
    }
    if last {
        for o in &r.outputs {
            walk.visit(o.value)?;
            o.value_im.map_or(Ok(()), |id| walk.visit(id))?;
        }
    }
    let (steps, reads) = (walk.steps, walk.reads.into_iter().collect());
    Ok(Pass {
        reverse,
        states,
        steps,
        reads,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Open,
    Done,
}

struct Walk<'a> {
    r: &'a Recurrence,
    states: &'a [usize],
    nodes: Vec<Mark>,
    assigned: Vec<bool>,
    steps: Vec<Step>,
    reads: BTreeSet<usize>,
    /// The state whose update is being walked, for the message.
    assigning: usize,
}

impl Walk<'_> {
    fn assign(&mut self, state: usize) -> Result<(), EvalError> {
        if !self.assigned[state] {
            let decl = &self.r.states[state];
            self.assigning = state;
            self.visit(decl.update)?;
            decl.update_im.map_or(Ok(()), |id| self.visit(id))?;
            self.assigned[state] = true;
            self.steps.push(Step::Assign(state));
        }
        Ok(())
    }

    /// Puts `root` and what it reads into the steps. An explicit stack: a user's expression may be deep.
    fn visit(&mut self, root: NodeId) -> Result<(), EvalError> {
        let mut stack = vec![];
        self.push(root, &mut stack)?;
        while let Some(&id) = stack.last() {
            match self.nodes[id.0 as usize] {
                Mark::New => {
                    self.nodes[id.0 as usize] = Mark::Open;
                    let node = self.r.graph.node(id);
                    if let Node::State { state, when, .. } = node {
                        self.read(state.0 as usize, *when)?;
                    }
                    for x in node.operands() {
                        self.push(x, &mut stack)?;
                    }
                }
                Mark::Open => {
                    self.nodes[id.0 as usize] = Mark::Done;
                    self.steps.push(Step::Node(id));
                    stack.pop();
                }
                // Pushed twice before it was reached.
                Mark::Done => {
                    stack.pop();
                }
            }
        }
        Ok(())
    }

    /// A node that is open is an ancestor: reading it again goes round through a state's next value.
    fn push(&self, id: NodeId, stack: &mut Vec<NodeId>) -> Result<(), EvalError> {
        match self.nodes[id.0 as usize] {
            _ if !self.r.graph.varies_in_time(id) => {}
            Mark::New => stack.push(id),
            Mark::Done => {}
            Mark::Open => {
                return Err(EvalError::Cyclic {
                    name: self.r.states[self.assigning].name.clone(),
                });
            }
        }
        Ok(())
    }

    fn read(&mut self, state: usize, when: When) -> Result<(), EvalError> {
        if !self.states.contains(&state) {
            self.reads.insert(state);
        } else if when == When::Next {
            self.assign(state)?;
        }
        Ok(())
    }
}
