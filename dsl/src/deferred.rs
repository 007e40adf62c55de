//! Work that does not vary in time, done once after it.
//!
//! In: a recurrence, such as the adjoint of a system that is constant in time, with additive states
//! s' = s + Σᵢ kᵢ xᵢ whose kᵢ do not vary in time. Out: [`Deferred`]: the recurrence with states that add up the xᵢ
//! alone, shared where several sums have the same, and the recurrence of one step that makes s = Σᵢ kᵢ Σₜ xᵢ of them.
//! The gradients by Δ, A and B of S4D are so made of two sums over time.

use std::collections::HashMap;

use crate::axis::AxisId;
use crate::expr::{Graph, InputId, Node, NodeId, ReduceOp, StateId, Type, When};
use crate::op::Op;
use crate::partial::added;
use crate::recurrence::{InputDecl, InputKind, Recurrence, StateDecl};
use crate::vjp::fold;

/// A recurrence and what is done after its last step.
#[derive(Clone, PartialEq, Debug)]
pub struct Deferred {
    /// Over time. Axes are the old ones, by id.
    pub recurrence: Recurrence,
    /// After it, if anything is to be done: inputs are those that do not vary in time and the last values of `sum0`,
    /// `sum1`, …; the last values of its states, from 0 and after one step, are those of the states it takes the
    /// place of. There are no outputs.
    pub after: Option<Recurrence>,
}

impl Recurrence {
    /// The recurrence without the factors of its additive states that do not vary in time.
    #[must_use]
    pub fn deferred(&self) -> Deferred {
        let mut split = Split::new(self);
        let mut stay = Vec::new();
        for state in self.state_ids() {
            if !split.state(state) {
                stay.push(state);
            }
        }
        if split.after.states.is_empty() {
            return Deferred {
                recurrence: self.clone(),
                after: None,
            };
        }
        let new = (self.states.len()..split.r.states.len()).map(|s| StateId(s as u32));
        let states: Vec<StateId> = stay.into_iter().chain(new).collect();
        Deferred {
            recurrence: split.r.with_states(&states).prune(),
            after: Some(split.after.rebuild(Graph::add).prune()),
        }
    }
}

struct Split<'a> {
    old: &'a Recurrence,
    /// With the sums as further states.
    r: Recurrence,
    after: Recurrence,
    /// The read, in `after`, of the sum of a node over time.
    sums: HashMap<NodeId, NodeId>,
    /// What does not vary in time, in `after`.
    copies: HashMap<NodeId, NodeId>,
    /// What is known of [`Split::has_factor`].
    factors: HashMap<NodeId, bool>,
}

impl<'a> Split<'a> {
    fn new(old: &'a Recurrence) -> Self {
        let after = Recurrence {
            name: format!("{}_after", old.name),
            doc: vec![format!(
                "What is left of `{}` after its last step.",
                old.name
            )],
            states: vec![],
            outputs: vec![],
            graph: Graph::new(old.time),
            ..old.clone()
        };
        Split {
            old,
            r: old.clone(),
            after,
            sums: HashMap::new(),
            copies: HashMap::new(),
            factors: HashMap::new(),
        }
    }

    /// Defers a state, if it adds up products with factors that do not vary in time.
    fn state(&mut self, state: StateId) -> bool {
        let Some(x) = added(&mut self.r, state) else {
            return false;
        };
        if !self.has_factor(x) {
            return false;
        }
        let reverse = self.old.state(state).reverse;
        let mut update = self.sum(x, reverse);
        let decl = self.old.state(state);
        let g = &mut self.after.graph;
        if decl.complex && g.ty(update) != Type::Complex {
            let zero = g.constant(0.0);
            update = g.op(Op::Complex, &[update, zero]);
        }
        self.after.states.push(StateDecl {
            reverse: false,
            init: 0.0,
            update,
            ..decl.clone()
        });
        true
    }

    fn graph(&self) -> &Graph {
        &self.r.graph
    }

    fn is_zero(&self, id: NodeId) -> bool {
        self.graph().as_constant(id) == Some(0.0)
    }

    /// The operands through which a node that varies in time is linear in what does, if it is; the other ones do not.
    fn linear(&self, id: NodeId) -> Option<Vec<NodeId>> {
        let varies = |x: NodeId| self.graph().varies_in_time(x);
        match self.graph().node(id) {
            Node::Op(Op::Neg | Op::Conj | Op::Re | Op::Im, xs) => Some(xs.clone()),
            Node::Op(Op::Add | Op::Sub | Op::Complex, xs) => {
                // Σ over time of what does not vary would count the steps.
                let every = xs.iter().all(|&x| varies(x) || self.is_zero(x));
                let rest = xs.iter().copied().filter(|&x| varies(x));
                every.then(|| rest.collect())
            }
            Node::Op(Op::Mul, xs) if !varies(xs[0]) => Some(vec![xs[1]]),
            Node::Op(Op::Mul | Op::Div, xs) if !varies(xs[1]) => Some(vec![xs[0]]),
            Node::Op(Op::Select, xs) if !varies(xs[0]) => {
                let every = xs[1..].iter().all(|&x| varies(x) || self.is_zero(x));
                let rest = xs[1..].iter().copied().filter(|&x| varies(x));
                every.then(|| rest.collect())
            }
            Node::Reduce {
                op: ReduceOp::Sum,
                x,
                ..
            } => Some(vec![*x]),
            _ => None,
        }
    }

    /// Whether a value varies in time and has factors that do not, other than numbers.
    fn has_factor(&mut self, id: NodeId) -> bool {
        if let Some(&known) = self.factors.get(&id) {
            return known;
        }
        let g = self.graph();
        let own = match g.node(id) {
            Node::Op(Op::Mul | Op::Div | Op::Select, xs) => xs
                .iter()
                .any(|&x| !g.varies_in_time(x) && g.as_constant(x).is_none()),
            _ => false,
        };
        let operands = self.linear(id).filter(|_| self.graph().varies_in_time(id));
        let found = operands.is_some_and(|xs| own || xs.into_iter().any(|x| self.has_factor(x)));
        self.factors.insert(id, found);
        found
    }

    /// Σ over time of a value, in `after`.
    fn sum(&mut self, id: NodeId, reverse: bool) -> NodeId {
        if let Some(&known) = self.sums.get(&id) {
            return known;
        }
        let read = if self.has_factor(id) {
            let node = self.graph().node(id).clone();
            let operands = node.operands().into_iter().map(|x| {
                if self.graph().varies_in_time(x) {
                    self.sum(x, reverse)
                } else {
                    self.copy(x)
                }
            });
            let operands: Vec<NodeId> = operands.collect();
            self.after.graph.add(node.with_operands(&operands))
        } else {
            self.accumulate(id, reverse)
        };
        self.sums.insert(id, read);
        read
    }

    /// A state that adds a value up, as an input of `after`.
    fn accumulate(&mut self, id: NodeId, reverse: bool) -> NodeId {
        let axes: Vec<AxisId> = self
            .graph()
            .axes(id)
            .without(self.old.time)
            .iter()
            .collect();
        let complex = self.graph().ty(id) == Type::Complex;
        let state = StateId(self.r.states.len() as u32);
        let count = self.r.states.len() - self.old.states.len();
        let mut name = self.r.free_name(&format!("sum{count}"));
        while self.after.free_name(&name) != name {
            name.push('_');
        }
        self.r.states.push(StateDecl {
            name: name.clone(),
            axes: axes.clone(),
            complex,
            reverse,
            hidden: false,
            init: 0.0,
            update: id,
            update_im: None,
        });
        let before = self.r.read_state(state, When::Prev);
        self.r.states[state.0 as usize].update = fold(&mut self.r.graph, Op::Add, &[before, id]);
        self.after.inputs.push(InputDecl {
            name,
            kind: InputKind::Tensor,
            axes,
            complex,
            optional: false,
        });
        let input = InputId(self.after.inputs.len() as u32 - 1);
        self.after.read_input(input)
    }

    /// A value that does not vary in time, in `after`.
    fn copy(&mut self, id: NodeId) -> NodeId {
        if let Some(&known) = self.copies.get(&id) {
            return known;
        }
        let node = self.graph().node(id).clone();
        let operands: Vec<NodeId> = node.operands().into_iter().map(|x| self.copy(x)).collect();
        let copy = self.after.graph.add(node.with_operands(&operands));
        self.copies.insert(id, copy);
        copy
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{Array, Inputs, eval};

    #[test]
    fn constant_factors_are_multiplied_once() {
        let r = Recurrence::parse(
            "fn f(x: Tensor<L, N>, a: Tensor<N>, s: State<>, t: State<N>, u: State<>, v: State<>) -> Tensor<L> {
                let y = x * x;
                s = s + sum::<N>(-(exp(a) * y) / (2 + a) + y * a);
                t = t + select(a > 0, y, 0) * a;
                u = u + sum::<N>(3 * y);
                v = 0.5 * v + sum::<N>(a * y);
                sum::<N>(x) + 0 * v }",
        )
        .unwrap();
        let deferred = r.deferred();
        let names =
            |r: &Recurrence| -> Vec<String> { r.states.iter().map(|s| s.name.clone()).collect() };
        // y is what s and t add up; u has no factor but a number, and v is no sum.
        assert_eq!(names(&deferred.recurrence), ["u", "v", "sum0"]);
        let after = deferred.after.unwrap();
        assert_eq!(names(&after), ["s", "t"]);
        let array = |shape: &[usize]| {
            let n: usize = shape.iter().product();
            Array::real(shape, (0..n).map(|i| (i * 5 % 7) as f64 - 2.5).collect())
        };
        let (x, a) = (array(&[4, 3]), array(&[3]));
        let inputs = Inputs::new().with("x", x).with("a", a.clone());
        let wanted = eval(&r, &inputs).unwrap();
        let found = eval(&deferred.recurrence, &inputs).unwrap();
        let rest = Inputs::new()
            .with("a", a)
            .with("sum0", found.last["sum0"].clone());
        let rest = eval(&after, &rest).unwrap();
        for (name, x) in &wanted.last {
            let found = found.last.get(name).or(rest.last.get(name)).unwrap();
            let near = |(x, y): (&f64, &f64)| (x - y).abs() < 1e-12 * (1.0 + y.abs());
            assert!(
                found.data.iter().zip(&x.data).all(near),
                "{name}: {found:?} {x:?}"
            );
        }
        assert_eq!(found.tensors, wanted.tensors);
        // Nothing to defer: unchanged.
        let again = deferred.recurrence.deferred();
        assert!(again.after.is_none() && again.recurrence == deferred.recurrence);
    }
}
