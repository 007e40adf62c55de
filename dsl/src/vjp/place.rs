//! Cotangents at other positions than those where they arise.
//!
//! In: the cotangent of a read `x[index]`, over the axes of the index. Out: the same over the axes that x is
//! declared with. Data movement sits in reads, so that what is to be moved becomes a state that is assigned at
//! this step (`moved0`, …) and read at the other positions; a group's positions are summed.

use std::collections::HashMap;

use super::VjpError;
use super::build::{at_edge, fold, in_group, sum_over};
use crate::axis::{AxisId, AxisSet};
use crate::expr::{AxisIndex, Graph, Node, NodeId, Part, ReduceOp, StateId, Type, When};
use crate::op::Op;
use crate::recurrence::{Recurrence, StateDecl};

/// A cotangent of a read, and the positions read.
pub(super) type Contribution = (Vec<AxisIndex>, NodeId);

/// The axes of an index where it has one name for each position, so that a gradient may be declared over them.
fn plain_axes(index: &[AxisIndex]) -> Option<Vec<AxisId>> {
    let axes: Vec<AxisId> = index.iter().map(|i| i.axis()).collect();
    let plain = index.iter().all(|i| matches!(i, AxisIndex::At(_)));
    let distinct = axes.iter().copied().collect::<AxisSet>().len() == axes.len();
    (plain && distinct).then_some(axes)
}

/// The axes at which contributions arise, if they are the same plain ones for all.
pub(super) fn single_axes(reads: &[Contribution]) -> Option<Vec<AxisId>> {
    let (index, _) = reads.first()?;
    reads
        .iter()
        .all(|(i, _)| i == index)
        .then(|| plain_axes(index))?
}

/// The sum of the contributions, each summed over nothing yet, over the axes `to`; `None` if there is none.
/// What reads it runs in the direction `reverse`.
pub(super) fn gather(
    r: &mut Recurrence,
    name: &str,
    to: &[AxisId],
    contributions: &[Contribution],
    reverse: bool,
) -> Result<Option<NodeId>, VjpError> {
    let mut by_index: Vec<Contribution> = Vec::new();
    for (index, d) in contributions {
        match by_index.iter_mut().find(|(known, _)| known == index) {
            Some((_, sum)) => *sum = fold(&mut r.graph, Op::Add, &[*sum, *d]),
            None => by_index.push((index.clone(), *d)),
        }
    }
    let mut total = None;
    for (index, d) in by_index {
        let d = place(r, name, to, &index, d, reverse)?;
        total = Some(match total {
            None => d,
            Some(sum) => fold(&mut r.graph, Op::Add, &[sum, d]),
        });
    }
    Ok(total)
}

/// One contribution over the axes `to`.
fn place(
    r: &mut Recurrence,
    name: &str,
    to: &[AxisId],
    index: &[AxisIndex],
    mut d: NodeId,
    reverse: bool,
) -> Result<NodeId, VjpError> {
    let refuse = || VjpError::Position {
        name: name.to_owned(),
    };
    let read: AxisSet = index.iter().map(|i| i.axis()).collect();
    let mut from: Vec<AxisId> = index.iter().map(|i| i.axis()).collect();
    for (i, &position) in index.iter().enumerate() {
        let AxisIndex::Group { of, .. } = position else {
            continue;
        };
        if read.contains(to[i]) {
            return Err(refuse());
        }
        let zero = r.graph.constant(0.0);
        let hit = in_group(&mut r.graph, of, to[i]);
        d = fold(&mut r.graph, Op::Select, &[hit, d, zero]);
        from[i] = to[i];
        if !from.contains(&of) {
            d = sum_over(&mut r.graph, of, d);
        }
    }
    let varies = r.graph.axes(d);
    let moved = from.iter().zip(to).filter(|(f, _)| varies.contains(**f));
    let (from, to): (Vec<AxisId>, Vec<AxisId>) = moved.map(|(f, t)| (*f, *t)).unzip();
    if from == to {
        return Ok(d);
    }
    if from.iter().copied().collect::<AxisSet>().len() < from.len() {
        return Err(refuse());
    }
    let state = hold(r, from, d, reverse);
    let part = read_part(&r.graph, d);
    Ok(r.graph.add(Node::State {
        state,
        when: When::Next,
        index: to.into_iter().map(AxisIndex::At).collect(),
        part,
    }))
}

/// The value whose position n is position n − `by` of `d`, and 0 at the open end.
///
/// Sums and products are shifted by shifting what they are made of; where that would compute anything dear
/// twice, or shift a second time, `d` becomes a state.
pub(super) fn shift(r: &mut Recurrence, axis: AxisId, by: i8, d: NodeId, reverse: bool) -> NodeId {
    let zero = r.graph.constant(0.0);
    let mut memo = HashMap::new();
    let (x, ends_in_zero) = match shift_leaves(&mut r.graph, axis, by, d, &mut memo) {
        Some(found) => found,
        None => {
            let axes = r.graph.axes(d).without(r.time).iter().collect();
            let state = hold(r, axes, d, reverse);
            let x = r.read_state(state, When::Next);
            let fill = zero;
            (r.graph.add(Node::Shift { axis, by, x, fill }), true)
        }
    };
    if ends_in_zero {
        return x;
    }
    let open = at_edge(&mut r.graph, axis, by > 0);
    fold(&mut r.graph, Op::Select, &[open, zero, x])
}

/// `id` with every read shifted, and whether it is then 0 at the open end by itself.
fn shift_leaves(
    g: &mut Graph,
    axis: AxisId,
    by: i8,
    id: NodeId,
    memo: &mut HashMap<NodeId, Option<(NodeId, bool)>>,
) -> Option<(NodeId, bool)> {
    if !g.axes(id).contains(axis) {
        return Some((id, g.as_constant(id) == Some(0.0)));
    }
    if let Some(known) = memo.get(&id) {
        return *known;
    }
    let node = g.node(id).clone();
    let mut operands = Vec::new();
    for x in node.operands() {
        operands.push(shift_leaves(g, axis, by, x, memo));
    }
    let shifted = operands.into_iter().collect::<Option<Vec<_>>>();
    let found = shifted.and_then(|xs| {
        let zero = |i: usize| xs[i].1;
        let ends_in_zero = match &node {
            Node::Input { .. } | Node::State { .. } => {
                let fill = g.constant(0.0);
                let x = id;
                return Some((g.add(Node::Shift { axis, by, x, fill }), true));
            }
            Node::Index(_) => {
                let by = g.constant(f64::from(by));
                return Some((g.op(Op::Sub, &[id, by]), false));
            }
            Node::Op(Op::Add | Op::Sub, _) => zero(0) && zero(1),
            Node::Op(Op::Mul, _) => zero(0) || zero(1),
            Node::Op(Op::Neg | Op::Conj | Op::Re | Op::Im, _) => zero(0),
            Node::Op(Op::Select, _) => zero(1) && zero(2),
            Node::Op(Op::Complex, _) => zero(0) && zero(1),
            Node::Op(op, _) if op.is_comparison() => false,
            Node::Reduce {
                op: ReduceOp::Sum, ..
            } => zero(0),
            _ => return None,
        };
        let operands: Vec<NodeId> = xs.iter().map(|x| x.0).collect();
        Some((g.add(node.with_operands(&operands)), ends_in_zero))
    });
    memo.insert(id, found);
    found
}

/// A state that holds `d` at this step. It runs with the states that d reads, so that each direction can run after
/// the other; in the direction `reverse` of what reads it if d reads none, or of both.
fn hold(r: &mut Recurrence, axes: Vec<AxisId>, d: NodeId, reverse: bool) -> StateId {
    let state = StateId(r.states.len() as u32);
    let mut reads = [false; 2];
    for id in r.graph.reachable(&[d]) {
        if let Node::State { state, .. } = r.graph.node(id) {
            reads[usize::from(r.state(*state).reverse)] = true;
        }
    }
    let reverse = match reads {
        [true, false] => false,
        [false, true] => true,
        _ => reverse,
    };
    let base = r.states.iter().filter(|s| s.name.starts_with("moved"));
    let name = r.free_name(&format!("moved{}", base.count()));
    r.states.push(StateDecl {
        name,
        axes,
        complex: r.graph.ty(d) == Type::Complex,
        reverse,
        hidden: true,
        init: 0.0,
        update: d,
        update_im: None,
    });
    state
}

fn read_part(g: &Graph, d: NodeId) -> Part {
    if g.ty(d) == Type::Complex {
        Part::Complex
    } else {
        Part::Real
    }
}
