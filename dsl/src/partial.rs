//! Reductions moved out of a recurrence, so that the axes reduced may run in parallel.
//!
//! In: a recurrence, such as an adjoint, some of whose outputs and additive states (s' = s + x) are sums over an axis
//! that everything else is parallel over: the gradient by B of a selective scan is Σ over the channels. Out: a
//! [`Partial`]: the same recurrence with one result for each position of the axis, and what is to be summed afterwards.
//!
//! ```text
//! Σₐ x → x    k · p → k · lift(p)    p ± q → lift(p) ± lift(q)    x free of a → x at a = 0, else 0
//! Σₕ [h in group g] x → x over h, to be summed by groups
//! ```

use std::collections::HashMap;

use crate::array::{Array, Outputs, positions, strides};
use crate::axis::{AxisId, AxisSet, Extents};
use crate::expr::{Graph, Node, NodeId, ReduceOp, StateId, When};
use crate::op::Op;
use crate::recurrence::Recurrence;
use crate::vjp::{fold, in_group};

/// What is left to be done to a partial result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduction {
    /// The sum over its first axis, which is this one.
    Sum(AxisId),
    /// The sum over each group of neighbours on the axis `of`: position g on the axis `groups`, which takes its place,
    /// is the sum of the positions h with h / (H / G) = g.
    Group {
        /// The axis that is there.
        of: AxisId,
        /// The axis that is declared.
        groups: AxisId,
    },
}

/// A recurrence with partial results.
#[derive(Clone, PartialEq, Debug)]
pub struct Partial {
    /// The recurrence; axes are the old ones, by id. A partial state starts from 0.
    pub recurrence: Recurrence,
    /// By output or state: its reductions, in the order in which they are done. Those not named are complete.
    pub reductions: Vec<(String, Vec<Reduction>)>,
}

impl Recurrence {
    /// The recurrence with the sums over the axes `keep` left out of its outputs and additive states.
    ///
    /// Each of them then varies over all of `keep`, unless it is no sum over such an axis but something else of one.
    #[must_use]
    pub fn partial(&self, keep: AxisSet) -> Partial {
        let mut r = self.clone();
        let mut reductions = Vec::new();
        for i in 0..r.outputs.len() {
            let (axes, value) = (r.outputs[i].axes.clone(), r.outputs[i].value);
            if r.outputs[i].value_im.is_some() {
                continue;
            }
            let lifted = lift_all(&mut r.graph, keep, axes, value);
            if !lifted.reductions.is_empty() {
                reductions.push((r.outputs[i].name.clone(), lifted.reductions));
                (r.outputs[i].axes, r.outputs[i].value) = (lifted.axes, lifted.value);
            }
        }
        for id in self.state_ids() {
            let Some(added) = added(&mut r, id) else {
                continue;
            };
            let i = id.0 as usize;
            let lifted = lift_all(&mut r.graph, keep, self.states[i].axes.clone(), added);
            if !lifted.reductions.is_empty() {
                reductions.push((r.states[i].name.clone(), lifted.reductions));
                r.states[i].axes = lifted.axes;
                let before = r.read_state(id, When::Prev);
                r.states[i].update = fold(&mut r.graph, Op::Add, &[before, lifted.value]);
            }
        }
        Partial {
            recurrence: r.rebuild(Graph::add),
            reductions,
        }
    }
}

impl Partial {
    /// Completes the results of [`Partial::recurrence`].
    #[must_use]
    pub fn complete(&self, mut results: Outputs, extents: &Extents) -> Outputs {
        for (name, reductions) in &self.reductions {
            let found = results.tensors.get_mut(name);
            let axes = self.recurrence.outputs.iter().find(|o| o.name == *name);
            let (array, axes) = match (found, axes) {
                (Some(array), Some(output)) => (array, &output.axes),
                _ => {
                    let state = self.recurrence.state_named(name);
                    let (Some(array), Some(id)) = (results.last.get_mut(name), state) else {
                        continue;
                    };
                    (array, &self.recurrence.state(id).axes)
                }
            };
            let mut axes = axes.clone();
            for &reduction in reductions {
                *array = reduce(array, &mut axes, reduction, extents);
            }
        }
        results
    }
}

/// One reduction of an array over `axes`, which become those of the result.
fn reduce(x: &Array, axes: &mut Vec<AxisId>, reduction: Reduction, extents: &Extents) -> Array {
    let from = extents.shape(axes);
    let (summed, into) = match reduction {
        Reduction::Sum(axis) => (axis, None),
        Reduction::Group { of, groups } => (of, Some(groups)),
    };
    let Some(place) = axes.iter().position(|&a| a == summed) else {
        return x.clone();
    };
    match into {
        None => drop(axes.remove(place)),
        Some(groups) => axes[place] = groups,
    }
    let shape = extents.shape(axes);
    let own = strides(&shape);
    let size = into.map_or(1, |groups| {
        (from[place] / extents.get(groups).max(1)).max(1)
    });
    let to = positions(&from, |i, at| match (i.cmp(&place), into) {
        (std::cmp::Ordering::Less, _) => at * own[i],
        (std::cmp::Ordering::Equal, None) => 0,
        (std::cmp::Ordering::Equal, Some(_)) => at / size * own[i],
        (std::cmp::Ordering::Greater, None) => at * own[i - 1],
        (std::cmp::Ordering::Greater, Some(_)) => at * own[i],
    });
    let width = if x.complex { 2 } else { 1 };
    let mut out = Array::filled(&shape, x.complex, 0.0);
    for (k, value) in x.data.iter().enumerate() {
        out.data[to[k / width] * width + k % width] += value;
    }
    out
}

/// x of a state s' = s + x that nothing else reads.
pub(crate) fn added(r: &mut Recurrence, state: StateId) -> Option<NodeId> {
    let decl = r.state(state);
    let update = decl.update;
    if decl.update_im.is_some() {
        return None;
    }
    let own = r.read_state(state, When::Prev);
    let x = match r.graph.node(update).clone() {
        _ if update == own => r.graph.constant(0.0),
        Node::Op(Op::Add, xs) if xs[0] == own => xs[1],
        Node::Op(Op::Add, xs) if xs[1] == own => xs[0],
        Node::Op(Op::Sub, xs) if xs[0] == own => fold(&mut r.graph, Op::Neg, &[xs[1]]),
        _ => return None,
    };
    let read =
        |id: &NodeId| matches!(r.graph.node(*id), Node::State { state: s, .. } if *s == state);
    let others = r.states.iter().map(|s| s.update);
    let others = others.chain(r.outputs.iter().map(|o| o.value));
    let roots: Vec<NodeId> = others.filter(|&root| root != update).chain([x]).collect();
    (!r.graph.reachable(&roots).iter().any(read)).then_some(x)
}

/// A value over more axes, and what makes it the old one again.
struct Lifted {
    value: NodeId,
    axes: Vec<AxisId>,
    reductions: Vec<Reduction>,
}

fn lift_all(g: &mut Graph, keep: AxisSet, axes: Vec<AxisId>, value: NodeId) -> Lifted {
    let mut out = Lifted {
        value,
        axes,
        reductions: vec![],
    };
    for axis in keep.without(g.time()).iter() {
        if out.axes.contains(&axis) {
            continue;
        }
        let group = (0..out.axes.len()).find_map(|place| {
            let groups = out.axes[place];
            let hit = in_group(g, axis, groups);
            match Lift::new(axis, Some(hit)).value(g, out.value)? {
                Form::Sum(x) if !g.axes(x).contains(groups) => Some((place, x)),
                _ => None,
            }
        });
        if let Some((place, value)) = group {
            let groups = std::mem::replace(&mut out.axes[place], axis);
            out.value = value;
            out.reductions
                .insert(0, Reduction::Group { of: axis, groups });
            continue;
        }
        let mut lift = Lift::new(axis, None);
        let Some(form) = lift.value(g, out.value) else {
            continue;
        };
        out.value = lift.spread(g, form);
        out.axes.insert(0, axis);
        out.reductions.insert(0, Reduction::Sum(axis));
    }
    out
}

/// What a value is to an axis.
#[derive(Clone, Copy)]
enum Form {
    /// The sum over the axis of this.
    Sum(NodeId),
    /// Free of the axis, and of sums over it.
    Free(NodeId),
}

struct Lift {
    axis: AxisId,
    /// Sums are those over select(this, x, 0), and x stands for them.
    group: Option<NodeId>,
    memo: HashMap<NodeId, Option<Form>>,
}

impl Lift {
    fn new(axis: AxisId, group: Option<NodeId>) -> Self {
        Lift {
            axis,
            group,
            memo: HashMap::new(),
        }
    }

    /// A value whose sum over the axis is that of the form.
    fn spread(&self, g: &mut Graph, form: Form) -> NodeId {
        match form {
            Form::Sum(x) => x,
            Form::Free(x) if g.as_constant(x) == Some(0.0) => x,
            Form::Free(x) => {
                let (at, zero) = (g.add(Node::Index(self.axis)), g.constant(0.0));
                let first = g.op(Op::Eq, &[at, zero]);
                g.op(Op::Select, &[first, x, zero])
            }
        }
    }

    /// The form of a value that does not vary over the axis; `None` where it is neither.
    fn value(&mut self, g: &mut Graph, id: NodeId) -> Option<Form> {
        if let Some(known) = self.memo.get(&id) {
            return *known;
        }
        let form = self.form(g, id);
        self.memo.insert(id, form);
        form
    }

    fn form(&mut self, g: &mut Graph, id: NodeId) -> Option<Form> {
        let node = g.node(id).clone();
        if let Node::Reduce {
            op: ReduceOp::Sum,
            axis,
            x,
        } = node
            && axis == self.axis
        {
            return self.summed(g, x);
        }
        if let Node::Reduce { axis, .. } = node
            && axis == self.axis
        {
            return None;
        }
        if g.axes(id).contains(self.axis) {
            // Only below another reduction's reads could this be; it is no sum.
            return None;
        }
        let mut forms = Vec::new();
        for x in node.operands() {
            forms.push(self.value(g, x)?);
        }
        if forms.iter().all(|f| matches!(f, Form::Free(_))) {
            return Some(Form::Free(id));
        }
        let linear = match &node {
            Node::Op(op, _) => match (op, forms.as_slice()) {
                (Op::Mul, [Form::Sum(_), Form::Free(_)] | [Form::Free(_), Form::Sum(_)])
                | (Op::Div, [Form::Sum(_), Form::Free(_)])
                | (Op::Select, [Form::Free(_), _, _]) => true,
                (op, _) => matches!(
                    op,
                    Op::Neg | Op::Add | Op::Sub | Op::Conj | Op::Re | Op::Im | Op::Complex
                ),
            },
            Node::Reduce { op, .. } => *op == ReduceOp::Sum,
            _ => false,
        };
        if !linear {
            return None;
        }
        // Factors, divisors and conditions stay; what is added is spread.
        let stays = |i: usize| match &node {
            Node::Op(Op::Mul | Op::Div, _) => true,
            Node::Op(Op::Select, _) => i == 0,
            _ => false,
        };
        let mut operands = Vec::new();
        for (i, &form) in forms.iter().enumerate() {
            operands.push(match form {
                Form::Sum(x) => x,
                Form::Free(x) if stays(i) => x,
                free @ Form::Free(x) => {
                    if self.group.is_some() && g.as_constant(x) != Some(0.0) {
                        return None;
                    }
                    self.spread(g, free)
                }
            });
        }
        Some(Form::Sum(g.add(node.with_operands(&operands))))
    }

    /// The form of Σ x.
    fn summed(&self, g: &Graph, x: NodeId) -> Option<Form> {
        let Some(group) = self.group else {
            return Some(Form::Sum(x));
        };
        match g.node(x) {
            Node::Op(Op::Select, xs) if xs[0] == group && g.as_constant(xs[2]) == Some(0.0) => {
                Some(Form::Sum(xs[1]))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
