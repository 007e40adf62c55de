//! A recurrence h' = f(h, x), y = g(h', x) over named axes and time: what every other part works on.
//!
//! In: a checked kernel text ([`Recurrence::parse`]) or another recurrence. Out: declarations (axes,
//! inputs, states, outputs) and one [`Graph`] whose roots are the states' updates and the outputs' values.
//! The properties that every kernel has without saying so (optional inputs, sequence boundaries, complex
//! numbers as pairs, two directions) are functions from recurrence to recurrence in [`crate::transform`].

use std::hash::{Hash, Hasher};

use crate::axis::{AxisDecl, AxisId, AxisSet, Extents};
use crate::expr::{AxisIndex, Graph, InputId, Node, NodeId, Part, StateId, When};

/// What an input is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InputKind {
    /// A tensor of numbers.
    Tensor,
    /// A flag: given or not, with no value (`delta_softplus: Flag`). Always optional.
    Flag,
}

/// A declared input.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InputDecl {
    /// Its name.
    pub name: String,
    /// Tensor or flag.
    pub kind: InputKind,
    /// Its axes in memory order (row-major); empty for a scalar.
    pub axes: Vec<AxisId>,
    /// Whether elements are (re, im) pairs.
    pub complex: bool,
    /// `Option<…>`: may be absent; reads outside `given` are then 0.
    pub optional: bool,
}

/// A declared state: `h` at time t from `h` at t−1.
#[derive(Clone, PartialEq, Debug)]
pub struct StateDecl {
    /// Its name.
    pub name: String,
    /// Its axes in memory order, without the time axis.
    pub axes: Vec<AxisId>,
    /// Whether elements are (re, im) pairs.
    pub complex: bool,
    /// Whether it runs from the last time step to the first.
    pub reverse: bool,
    /// Made by `delay`, not by the user: its initial value is the history before time 0.
    pub hidden: bool,
    /// Its value before the first step where the caller gives no initial state (0, except in derived recurrences).
    pub init: f64,
    /// Its next value; of a complex state after [`Recurrence::split_complex`], the real half.
    pub update: NodeId,
    /// The imaginary half of the next value, after [`Recurrence::split_complex`].
    pub update_im: Option<NodeId>,
}

/// As `==`, but that it tells -0 from 0.
impl Hash for StateDecl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, &self.axes, self.complex, self.reverse).hash(state);
        (self.hidden, self.init.to_bits()).hash(state);
        (self.update, self.update_im).hash(state);
    }
}

/// A declared output.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OutputDecl {
    /// Its name: `out`, or `out0`, `out1`, … where there are several.
    pub name: String,
    /// Its axes in memory order, the time axis among them.
    pub axes: Vec<AxisId>,
    /// Whether elements are (re, im) pairs.
    pub complex: bool,
    /// Its value; of a complex output after [`Recurrence::split_complex`], the real half.
    pub value: NodeId,
    /// The imaginary half, after [`Recurrence::split_complex`].
    pub value_im: Option<NodeId>,
}

/// A recurrence.
#[derive(Clone, PartialEq, Hash, Debug)]
pub struct Recurrence {
    /// The kernel's name.
    pub name: String,
    /// Its documentation, one entry a line.
    pub doc: Vec<String>,
    /// Axes in the order of their first mention.
    pub axes: Vec<AxisDecl>,
    /// The time axis.
    pub time: AxisId,
    /// Inputs in the order of the signature.
    pub inputs: Vec<InputDecl>,
    /// States in the order of their assignments.
    pub states: Vec<StateDecl>,
    /// Outputs in order.
    pub outputs: Vec<OutputDecl>,
    /// The expressions.
    pub graph: Graph,
}

impl Recurrence {
    /// The declaration of an input.
    #[must_use]
    pub fn input(&self, id: InputId) -> &InputDecl {
        &self.inputs[id.0 as usize]
    }
    /// The declaration of a state.
    #[must_use]
    pub fn state(&self, id: StateId) -> &StateDecl {
        &self.states[id.0 as usize]
    }
    /// The points of every state at every step; of the outputs, without states.
    #[must_use]
    pub fn points(&self, extents: &Extents) -> f64 {
        let product =
            |axes: &[AxisId]| -> f64 { axes.iter().map(|&a| extents.get(a) as f64).product() };
        let steps = extents.get(self.time) as f64;
        let states = self.states.iter().filter(|s| !s.hidden);
        let states: f64 = states.map(|s| product(&s.axes) * steps).sum();
        if states > 0.0 {
            return states;
        }
        self.outputs.iter().map(|o| product(&o.axes)).sum()
    }
    /// The input of that name.
    #[must_use]
    pub fn input_named(&self, name: &str) -> Option<InputId> {
        self.inputs
            .iter()
            .position(|i| i.name == name)
            .map(|i| InputId(i as u32))
    }
    /// The state of that name.
    #[must_use]
    pub fn state_named(&self, name: &str) -> Option<StateId> {
        self.states
            .iter()
            .position(|s| s.name == name)
            .map(|i| StateId(i as u32))
    }
    /// The axis of that name.
    #[must_use]
    pub fn axis_named(&self, name: &str) -> Option<AxisId> {
        self.axes
            .iter()
            .position(|a| a.name == name)
            .map(|i| AxisId(i as u8))
    }
    /// The name of an axis.
    #[must_use]
    pub fn axis_name(&self, axis: AxisId) -> &str {
        &self.axes[axis.0 as usize].name
    }
    /// The axis that `axis` is an alias of, or itself.
    #[must_use]
    pub fn canonical(&self, axis: AxisId) -> AxisId {
        self.axes[axis.0 as usize].alias_of.unwrap_or(axis)
    }
    /// The states' ids.
    pub fn state_ids(&self) -> impl Iterator<Item = StateId> + use<> {
        (0..self.states.len() as u32).map(StateId)
    }
    /// The axes of all states together, without time.
    #[must_use]
    pub fn state_axes(&self) -> AxisSet {
        self.states
            .iter()
            .flat_map(|s| s.axes.iter().copied())
            .collect()
    }
    /// Every root of the graph: the states' updates, then the outputs' values.
    #[must_use]
    pub fn roots(&self) -> Vec<NodeId> {
        let updates = self
            .states
            .iter()
            .flat_map(|s| [Some(s.update), s.update_im]);
        let values = self
            .outputs
            .iter()
            .flat_map(|o| [Some(o.value), o.value_im]);
        updates.chain(values).flatten().collect()
    }
    /// Adds the plain read of an input.
    pub fn read_input(&mut self, input: InputId) -> NodeId {
        let decl = &self.inputs[input.0 as usize];
        let part = if decl.complex {
            Part::Complex
        } else {
            Part::Real
        };
        let index = decl.axes.iter().map(|&a| AxisIndex::At(a)).collect();
        self.graph.add(Node::Input { input, index, part })
    }
    /// Adds the plain read of a state.
    pub fn read_state(&mut self, state: StateId, when: When) -> NodeId {
        let decl = &self.states[state.0 as usize];
        let part = if decl.complex {
            Part::Complex
        } else {
            Part::Real
        };
        let index = decl.axes.iter().map(|&a| AxisIndex::At(a)).collect();
        self.graph.add(Node::State {
            state,
            when,
            index,
            part,
        })
    }

    /// The same declarations over a new graph: every node that the roots reach is rebuilt, operands first, by
    /// `f`, which gets the new graph and the node with its operands already replaced, and returns what stands
    /// in its place.
    #[must_use]
    pub fn rebuild(&self, mut f: impl FnMut(&mut Graph, Node) -> NodeId) -> Recurrence {
        let mut graph = Graph::new(self.time);
        let mut new = vec![None; self.graph.len()];
        for id in self.graph.reachable(&self.roots()) {
            let node = self.graph.node(id);
            let operands: Vec<NodeId> = node
                .operands()
                .iter()
                .filter_map(|x| new[x.0 as usize])
                .collect();
            let node = node.with_operands(&operands);
            new[id.0 as usize] = Some(f(&mut graph, node));
        }
        self.over(graph, |id| new[id.0 as usize].unwrap_or(id))
    }

    /// The same declarations over another graph, in which `at` finds each root; it is asked in the order of
    /// [`Recurrence::roots`].
    #[must_use]
    pub fn over(&self, graph: Graph, mut at: impl FnMut(NodeId) -> NodeId) -> Recurrence {
        let mut out = Recurrence {
            name: self.name.clone(),
            doc: self.doc.clone(),
            axes: self.axes.clone(),
            time: self.time,
            inputs: self.inputs.clone(),
            states: self.states.clone(),
            outputs: self.outputs.clone(),
            graph,
        };
        for state in &mut out.states {
            state.update = at(state.update);
            state.update_im = state.update_im.map(&mut at);
        }
        for output in &mut out.outputs {
            output.value = at(output.value);
            output.value_im = output.value_im.map(&mut at);
        }
        out
    }

    /// The same recurrence without the inputs that it does not read.
    #[must_use]
    pub fn prune(&self) -> Recurrence {
        let mut read = vec![false; self.inputs.len()];
        for id in self.graph.reachable(&self.roots()) {
            match self.graph.node(id) {
                Node::Input { input, .. } | Node::Given { input, .. } => {
                    read[input.0 as usize] = true;
                }
                _ => {}
            }
        }
        let mut new_ids = Vec::with_capacity(self.inputs.len());
        let mut inputs = Vec::new();
        for (decl, read) in self.inputs.iter().zip(read) {
            new_ids.push(InputId(inputs.len() as u32));
            if read {
                inputs.push(decl.clone());
            }
        }
        let mut out = self.rebuild(|graph, mut node| {
            if let Node::Input { input, .. } | Node::Given { input, .. } = &mut node {
                *input = new_ids[input.0 as usize];
            }
            graph.add(node)
        });
        out.inputs = inputs;
        out
    }

    /// The same recurrence with these of its states, in this order. No root that stays reads another one.
    #[must_use]
    pub fn with_states(&self, states: &[StateId]) -> Recurrence {
        let mut out = self.clone();
        out.states = states.iter().map(|&s| self.state(s).clone()).collect();
        let new_id = |state: StateId| states.iter().position(|&s| s == state);
        out.rebuild(|graph, mut node| {
            if let Node::State { state, .. } = &mut node {
                *state = new_id(*state).map_or(*state, |i| StateId(i as u32));
            }
            graph.add(node)
        })
    }
}
