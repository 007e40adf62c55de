//! The adjoint of a recurrence: its gradients as a recurrence that runs the other way.
//!
//! In: a specialised recurrence h' = f(h, x), y = g(h', x) of a loss L, and the names of the inputs and initial
//! states to differentiate by. Out: an [`Adjoint`]: an ordinary recurrence whose states are adjoints,
//!
//! ```text
//! c      = d_h + (∂y/∂h')ᵀ d_y          d_h carries ∂L/∂hₜ, of later steps, into step t
//! d_h'   = (∂h'/∂h)ᵀ c                   and ∂L/∂hₜ₋₁ out of it: from ∂L/∂h_last down to ∂L/∂h_initial
//! d_x    = (∂h'/∂x)ᵀ c + (∂y/∂x)ᵀ d_y    an output, for x that varies in time
//! d_a'   = d_a + (∂h'/∂a)ᵀ c + …         a state whose last value is the gradient, for a that does not
//! ```
//! Complex numbers have the cotangent ∂L/∂Re + i ∂L/∂Im, so that f holomorphic takes d to conj(f′) d.
//!
//! Order of transforms: [`Recurrence::specialize`], [`Recurrence::with_boundaries`] (the adjoint is then cut where
//! sequences are), `vjp` on complex numbers and on both directions at once, [`Recurrence::partial`] where
//! reductions are to be done apart, [`Recurrence::split_directions`], [`crate::Scan::derive`].

mod build;
mod place;

use crate::axis::AxisSet;
use crate::expr::{InputId, Node, NodeId, Part, ReduceOp, StateId, Type, When};
use crate::op::Op;
use crate::recurrence::{InputDecl, InputKind, OutputDecl, Recurrence, StateDecl};
use build::{at_edge, cotangent, fold, sum_over};
use place::{Contribution, gather, plain_axes, shift};

/// Why a recurrence has no adjoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)] // each message names the fields
pub enum VjpError {
    #[error("`{kernel}` has no input or state `{name}` to differentiate by; it has {known}")]
    Unknown {
        kernel: String,
        name: String,
        known: String,
    },
    #[error(
        "whether `{kernel}` is given `{name}` is open; specialise it first, since the gradients differ"
    )]
    Unspecialised { kernel: String, name: String },
    #[error(
        "`{kernel}` is in real arithmetic already; take the adjoint first and split complex numbers then"
    )]
    Split { kernel: String },
    #[error(
        "`{kernel}` reduces or shifts over its time axis; only states may carry values through time"
    )]
    OverTime { kernel: String },
    #[error("`{name}` needs its own next value to be computed; read a state before its assignment")]
    Cyclic { name: String },
    #[error(
        "`{name}` is read at positions that its gradient has no names for; read it plainly, by `alias` to a name that its axes do not have, or by `group`"
    )]
    Position { name: String },
}

/// A value of a state of the primal recurrence, over time: an input of the adjoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    /// The input's name: `h_prev` or `h`. Its axes are time, then the state's.
    pub name: String,
    /// The primal's state.
    pub state: StateId,
    /// Before or after its assignment at each step.
    pub when: When,
}

/// The adjoint of a recurrence, and what its names stand for. Axes are the primal's, by id; inputs that it reads
/// keep their names.
#[derive(Clone, PartialEq, Debug)]
pub struct Adjoint {
    /// The adjoint.
    pub recurrence: Recurrence,
    /// The primal's states that it reads.
    pub saved: Vec<Saved>,
    /// (output of the primal, input that takes its cotangent), of those that it reads.
    pub cotangents: Vec<(String, String)>,
    /// (state of the primal, its adjoint): the adjoint's initial state is the cotangent of the last state, its
    /// last state the gradient by the initial state. States that no wanted gradient depends on have none.
    pub states: Vec<(String, String)>,
    /// (input that was asked for, its gradient): an output if the input varies in time, else a state whose last
    /// value is the gradient. Axes are those of the input, in order, perhaps under an alias.
    pub gradients: Vec<(String, String)>,
}

impl Adjoint {
    /// The primal recurrence with what the adjoint reads of its states as further outputs, in the order of
    /// [`Adjoint::saved`].
    #[must_use]
    pub fn forward(&self, primal: &Recurrence) -> Recurrence {
        let mut out = primal.clone();
        for saved in &self.saved {
            let value = out.read_state(saved.state, saved.when);
            let decl = primal.state(saved.state);
            let name = out.free_name(&saved.name);
            out.outputs.push(OutputDecl {
                name,
                axes: [out.time].into_iter().chain(decl.axes.clone()).collect(),
                complex: decl.complex,
                value,
                value_im: None,
            });
        }
        out
    }
}

impl Recurrence {
    /// The adjoint: gradients by the inputs and initial states that `wrt` names.
    ///
    /// # Errors
    /// [`VjpError`] if the recurrence is not specialised, or reads something where no gradient can be put.
    pub fn vjp(&self, wrt: &[&str]) -> Result<Adjoint, VjpError> {
        check(self, wrt)?;
        let mut sweep = Sweep::new(self);
        for event in order(self)?.into_iter().rev() {
            match event {
                Event::Node(id) => sweep.node(id),
                Event::Assign(state) => sweep.assign(state)?,
            }
        }
        sweep.finish(wrt)
    }
}

fn check(r: &Recurrence, wrt: &[&str]) -> Result<(), VjpError> {
    let kernel = || r.name.clone();
    for &name in wrt {
        if r.input_named(name).is_none() && r.state_named(name).is_none() {
            let inputs = r.inputs.iter().map(|i| &i.name);
            let states = r.states.iter().map(|s| &s.name);
            let known: Vec<String> = inputs.chain(states).map(|n| format!("`{n}`")).collect();
            return Err(VjpError::Unknown {
                kernel: kernel(),
                name: name.to_owned(),
                known: known.join(", "),
            });
        }
    }
    let open = r
        .inputs
        .iter()
        .find(|i| i.optional || i.kind == InputKind::Flag);
    if let Some(input) = open {
        return Err(VjpError::Unspecialised {
            kernel: kernel(),
            name: input.name.clone(),
        });
    }
    for id in r.graph.reachable(&r.roots()) {
        match r.graph.node(id) {
            Node::Given { input, .. } => {
                return Err(VjpError::Unspecialised {
                    kernel: kernel(),
                    name: r.input(*input).name.clone(),
                });
            }
            Node::Input { part, .. } | Node::State { part, .. }
                if matches!(part, Part::Re | Part::Im) =>
            {
                return Err(VjpError::Split { kernel: kernel() });
            }
            Node::Reduce { axis, .. } | Node::Shift { axis, .. } if *axis == r.time => {
                return Err(VjpError::OverTime { kernel: kernel() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a step of the primal does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    /// Computes a node.
    Node(NodeId),
    /// Gives a state its next value.
    Assign(StateId),
}

/// Everything that a step computes, in an order in which nothing is read before it is there.
fn order(r: &Recurrence) -> Result<Vec<Event>, VjpError> {
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

/// The adjoint under construction: the primal's events, last first.
struct Sweep<'a> {
    primal: &'a Recurrence,
    /// States: the adjoint of each of the primal's, by the same id; then those that cotangents are moved through.
    r: Recurrence,
    /// By node of the primal: the same value in the adjoint.
    values: Vec<NodeId>,
    /// By node of the primal: what is known of its cotangent.
    cotangents: Vec<Option<NodeId>>,
    /// Contributions by input, and by state read before and after its assignment.
    inputs: Vec<Vec<Contribution>>,
    prev: Vec<Vec<Contribution>>,
    next: Vec<Vec<Contribution>>,
    /// The input of each output's cotangent.
    outputs: Vec<InputId>,
    saved: Vec<(InputId, StateId, When)>,
}

impl<'a> Sweep<'a> {
    fn new(primal: &'a Recurrence) -> Self {
        let mut r = Recurrence {
            name: format!("{}_grad", primal.name),
            doc: vec![format!("The gradients of `{}`.", primal.name)],
            states: vec![],
            outputs: vec![],
            graph: crate::Graph::new(primal.time),
            ..primal.clone()
        };
        let mut outputs = Vec::new();
        for output in &primal.outputs {
            let name = fresh(primal, &r, &format!("d_{}", output.name));
            outputs.push(add_input(&mut r, name, &output.axes, output.complex));
        }
        for (id, state) in primal.state_ids().zip(&primal.states) {
            let name = fresh(primal, &r, &format!("d_{}", state.name));
            let zero = r.graph.constant(0.0);
            r.states.push(StateDecl {
                name,
                axes: read_axes(primal, id).unwrap_or_else(|| state.axes.clone()),
                reverse: !state.reverse,
                init: 0.0,
                update: zero,
                update_im: None,
                ..state.clone()
            });
        }
        let mut sweep = Sweep {
            primal,
            r,
            values: vec![NodeId(0); primal.graph.len()],
            cotangents: vec![None; primal.graph.len()],
            inputs: vec![vec![]; primal.inputs.len()],
            prev: vec![vec![]; primal.states.len()],
            next: vec![vec![]; primal.states.len()],
            outputs,
            saved: vec![],
        };
        sweep.copy_values();
        sweep.seed_outputs();
        sweep
    }

    /// The primal's values over its inputs and saved states.
    fn copy_values(&mut self) {
        for id in self.primal.graph.reachable(&self.primal.roots()) {
            let node = self.primal.graph.node(id);
            let operands: Vec<NodeId> = node
                .operands()
                .iter()
                .map(|x| self.values[x.0 as usize])
                .collect();
            let mut node = node.with_operands(&operands);
            if let Node::State {
                state,
                when,
                index,
                part,
            } = node
            {
                let time = crate::AxisIndex::At(self.primal.time);
                node = Node::Input {
                    input: self.saved_input(state, when),
                    index: [time].into_iter().chain(index).collect(),
                    part,
                };
            }
            self.values[id.0 as usize] = self.r.graph.add(node);
        }
    }

    fn saved_input(&mut self, state: StateId, when: When) -> InputId {
        let known = self
            .saved
            .iter()
            .find(|s| (s.1, s.2) == (state, when))
            .map(|s| s.0);
        known.unwrap_or_else(|| {
            let decl = self.primal.state(state);
            let name = match when {
                When::Prev => format!("{}_prev", decl.name),
                When::Next => decl.name.clone(),
            };
            let time = self.primal.time;
            let axes: Vec<_> = [time].into_iter().chain(decl.axes.clone()).collect();
            let name = self.r.free_name(&name);
            let input = add_input(&mut self.r, name, &axes, decl.complex);
            self.saved.push((input, state, when));
            input
        })
    }

    fn seed_outputs(&mut self) {
        for (output, &input) in self.primal.outputs.iter().zip(&self.outputs.clone()) {
            let d = self.r.read_input(input);
            self.flow(output.value, d, output.axes.iter().copied().collect());
        }
    }

    /// Adds to the cotangent of a node of the primal what arises over the axes `over`.
    fn flow(&mut self, to: NodeId, mut d: NodeId, over: AxisSet) {
        let g = &mut self.r.graph;
        let own = self.primal.graph.axes(to).with(self.primal.time);
        for axis in over.minus(own).iter() {
            d = sum_over(g, axis, d);
        }
        if self.primal.graph.ty(to) == Type::Real {
            d = fold(g, Op::Re, &[d]);
        }
        let known = &mut self.cotangents[to.0 as usize];
        *known = Some(match *known {
            None => d,
            Some(sum) => fold(g, Op::Add, &[sum, d]),
        });
    }

    /// The next value of a state: its cotangent is known once everything that reads it has been gone through.
    fn assign(&mut self, state: StateId) -> Result<(), VjpError> {
        let decl = self.primal.state(state);
        let index = decl.axes.iter().map(|&a| crate::AxisIndex::At(a)).collect();
        let part = if decl.complex {
            Part::Complex
        } else {
            Part::Real
        };
        let mut d = self.r.graph.add(Node::State {
            state,
            when: When::Prev,
            index,
            part,
        });
        let reads = std::mem::take(&mut self.next[state.0 as usize]);
        let (axes, reverse) = (&decl.axes, !decl.reverse);
        if let Some(now) = gather(&mut self.r, &decl.name, axes, &reads, reverse)? {
            d = fold(&mut self.r.graph, Op::Add, &[d, now]);
        }
        self.flow(decl.update, d, axes.iter().copied().collect());
        Ok(())
    }

    /// A node whose cotangent is known: its operands get theirs.
    fn node(&mut self, id: NodeId) {
        let Some(d) = self.cotangents[id.0 as usize] else {
            return;
        };
        if self.r.graph.as_constant(d) == Some(0.0) {
            return;
        }
        let over = self.primal.graph.axes(id);
        match self.primal.graph.node(id).clone() {
            Node::Const(_) | Node::Extent(_) | Node::Index(_) | Node::Given { .. } => {}
            Node::Input { input, index, .. } => self.inputs[input.0 as usize].push((index, d)),
            Node::State {
                state, when, index, ..
            } => match when {
                When::Prev => self.prev[state.0 as usize].push((index, d)),
                When::Next => self.next[state.0 as usize].push((index, d)),
            },
            Node::Op(op, xs) => {
                let operands: Vec<NodeId> = xs.iter().map(|x| self.values[x.0 as usize]).collect();
                let f = self.values[id.0 as usize];
                for (i, &x) in xs.iter().enumerate() {
                    if let Some(c) = cotangent(&mut self.r.graph, op, &operands, f, d, i) {
                        self.flow(x, c, over);
                    }
                }
            }
            Node::Reduce {
                op: ReduceOp::Sum,
                axis,
                x,
            } => self.flow(x, d, over.with(axis)),
            Node::Reduce {
                op: ReduceOp::Max,
                axis,
                x,
            } => {
                // Equal maxima share it (torch.amax).
                let (value, f) = (self.values[x.0 as usize], self.values[id.0 as usize]);
                let g = &mut self.r.graph;
                let (zero, one) = (g.constant(0.0), g.constant(1.0));
                let hit = g.op(Op::Eq, &[value, f]);
                let hits = g.op(Op::Select, &[hit, one, zero]);
                let count = sum_over(g, axis, hits);
                let share = g.op(Op::Div, &[d, count]);
                let d = g.op(Op::Select, &[hit, share, zero]);
                self.flow(x, d, over.with(axis));
            }
            Node::Shift { axis, by, x, fill } => {
                let zero = self.r.graph.constant(0.0);
                let open = at_edge(&mut self.r.graph, axis, by > 0);
                let entered = self.r.graph.op(Op::Select, &[open, d, zero]);
                self.flow(fill, entered, over);
                let late = self.late();
                let back = shift(&mut self.r, axis, -by, d, late);
                self.flow(x, back, over);
            }
        }
    }

    /// The direction of what reads adjoint states of any direction: that of those which run last.
    fn late(&self) -> bool {
        let updates = |reverse: bool| {
            let states = self
                .primal
                .states
                .iter()
                .filter(move |s| s.reverse == reverse);
            states.map(|s| s.update).collect::<Vec<_>>()
        };
        // A forward state that reads a reversed one hands its cotangent to the adjoint of that, which runs forward.
        let reads_reversed = self.primal.graph.reachable(&updates(false)).into_iter().any(
            |id| matches!(self.primal.graph.node(id), Node::State { state, .. } if self.primal.state(*state).reverse),
        );
        !reads_reversed && (self.primal.states.is_empty() || !updates(false).is_empty())
    }

    /// Puts the gradients together and leaves out what they do not depend on.
    fn finish(mut self, wrt: &[&str]) -> Result<Adjoint, VjpError> {
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

/// The axes at which contributions arise, if they are the same plain ones for all.
fn single_axes(reads: &[Contribution]) -> Option<Vec<crate::AxisId>> {
    let (index, _) = reads.first()?;
    reads
        .iter()
        .all(|(i, _)| i == index)
        .then(|| plain_axes(index))?
}

/// The axes at which a state's earlier value is read, if they are the same plain ones everywhere.
fn read_axes(r: &Recurrence, state: StateId) -> Option<Vec<crate::AxisId>> {
    let reads: Vec<Contribution> = r
        .graph
        .reachable(&r.roots())
        .into_iter()
        .filter_map(|id| match r.graph.node(id) {
            Node::State {
                state: s,
                when: When::Prev,
                index,
                ..
            } if *s == state => Some((index.clone(), id)),
            _ => None,
        })
        .collect();
    single_axes(&reads)
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

/// A name that neither the primal nor the adjoint has.
fn fresh(primal: &Recurrence, r: &Recurrence, base: &str) -> String {
    let mut name = r.free_name(base);
    while primal.free_name(&name) != name || r.free_name(&name) != name {
        name.push('_');
    }
    name
}

fn add_input(r: &mut Recurrence, name: String, axes: &[crate::AxisId], complex: bool) -> InputId {
    r.inputs.push(InputDecl {
        name,
        kind: InputKind::Tensor,
        axes: axes.to_vec(),
        complex,
        optional: false,
    });
    InputId(r.inputs.len() as u32 - 1)
}
