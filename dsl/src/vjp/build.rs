//! Cotangents as nodes: the derivatives of the op table, instantiated, and what is trivial left out.
//!
//! In: an operation, its operands, its result and the result's cotangent. Out: an operand's cotangent. What is
//! built is meant to be read, so that factors 1, summands 0 and conjugates of real numbers do not appear; all
//! other simplification is the rules'.

use crate::axis::AxisId;
use crate::expr::{Graph, Node, NodeId, ReduceOp, Type};
use crate::functions;
use crate::op::{Op, TABLE};
use crate::syntax::{Expr, ExprKind};

thread_local! {
    // By operation and operand. Syntax trees hold spans, which belong to a thread.
    static COTANGENTS: Vec<Vec<Option<Expr>>> = TABLE
        .iter()
        .map(|row| row.cotangents.iter().map(|text| Expr::parse(text).ok()).collect())
        .collect();
}

/// The cotangent of operand `i` of `f = op(operands)`, where `d` is that of f; `None` if nothing flows to it.
pub(super) fn cotangent(
    g: &mut Graph,
    op: Op,
    operands: &[NodeId],
    f: NodeId,
    d: NodeId,
    i: usize,
) -> Option<NodeId> {
    let row = COTANGENTS.with(|all| all[op as usize].get(i).cloned())?;
    let names = ["x", "y", "z"].into_iter().zip(operands.iter().copied());
    let names: Vec<(&str, NodeId)> = names.chain([("f", f), ("d", d)]).collect();
    let c = value(g, &row?, &names)?;
    (g.as_constant(c) != Some(0.0)).then_some(c)
}

/// The node of an expression over names; `None` for what the op table and [`functions`] do not hold.
fn value(g: &mut Graph, x: &Expr, names: &[(&str, NodeId)]) -> Option<NodeId> {
    let found = |name: &str| names.iter().find(|(n, _)| *n == name).map(|&(_, id)| id);
    match &x.kind {
        ExprKind::Number(x) => Some(g.constant(*x)),
        ExprKind::Name(name) => match found(name) {
            Some(id) => Some(id),
            None => functions::constant(name).map(|x| g.constant(x)),
        },
        ExprKind::Neg(x) => {
            let x = value(g, x, names)?;
            Some(fold(g, Op::Neg, &[x]))
        }
        ExprKind::Binary(op, x, y) => {
            let operands = [value(g, x, names)?, value(g, y, names)?];
            Some(fold(g, *op, &operands))
        }
        ExprKind::Call { function, args, .. } => {
            let args = args.iter().map(|arg| value(g, arg, names));
            let args: Vec<NodeId> = args.collect::<Option<_>>()?;
            if let Some(op) = Op::from_name(&function.text) {
                return Some(fold(g, op, &args));
            }
            let function = functions::find(&function.text)?;
            let params = function.params.iter().map(String::as_str);
            let inner: Vec<(&str, NodeId)> = params.zip(args).collect();
            value(g, &function.body, &inner)
        }
        ExprKind::Tuple(_) | ExprKind::Error => None,
    }
}

/// The operation, or the shorter node that says the same.
pub(crate) fn fold(g: &mut Graph, op: Op, xs: &[NodeId]) -> NodeId {
    let constant = |g: &Graph, i: usize| g.as_constant(xs[i]);
    let negated = |g: &Graph, x: NodeId| match g.node(x) {
        Node::Op(Op::Neg, ys) => Some(ys[0]),
        _ => None,
    };
    match op {
        Op::Neg => {
            if let Some(c) = constant(g, 0) {
                return g.constant(if c == 0.0 { 0.0 } else { -c });
            }
            if let Some(x) = negated(g, xs[0]) {
                return x;
            }
        }
        Op::Conj | Op::Re if g.ty(xs[0]) != Type::Complex => return xs[0],
        Op::Im if g.ty(xs[0]) != Type::Complex => return g.constant(0.0),
        Op::Conj | Op::Re | Op::Im => {
            if let Node::Op(inner, ys) = g.node(xs[0]).clone() {
                match (op, inner) {
                    (Op::Conj, Op::Conj) | (Op::Re, Op::Complex) => return ys[0],
                    (Op::Im, Op::Complex) => return ys[1],
                    (Op::Re, Op::Conj) => return fold(g, Op::Re, &ys),
                    _ => {}
                }
            }
        }
        Op::Add => match (constant(g, 0), constant(g, 1)) {
            (Some(0.0), _) => return xs[1],
            (_, Some(0.0)) => return xs[0],
            _ => {
                if let Some(y) = negated(g, xs[1]) {
                    return g.op(Op::Sub, &[xs[0], y]);
                }
            }
        },
        Op::Mul => {
            for (i, other) in [(0, xs[1]), (1, xs[0])] {
                match constant(g, i) {
                    Some(0.0) => return xs[i],
                    Some(1.0) => return other,
                    _ => {}
                }
            }
            for (x, y, left) in [(xs[0], xs[1], true), (xs[1], xs[0], false)] {
                if let Some(x) = negated(g, x) {
                    let product = fold(g, Op::Mul, &if left { [x, y] } else { [y, x] });
                    return fold(g, Op::Neg, &[product]);
                }
            }
        }
        Op::Div => match (constant(g, 0), constant(g, 1)) {
            (Some(0.0), _) | (_, Some(1.0)) => return xs[0],
            _ => {
                if let Some(x) = negated(g, xs[0]) {
                    let quotient = g.op(Op::Div, &[x, xs[1]]);
                    return g.op(Op::Neg, &[quotient]);
                }
            }
        },
        Op::Select if xs[1] == xs[2] => return xs[1],
        _ => {}
    }
    g.op(op, xs)
}

/// Σ x over an axis: x times its length, where x does not vary over it.
pub(super) fn sum_over(g: &mut Graph, axis: AxisId, x: NodeId) -> NodeId {
    if g.as_constant(x) == Some(0.0) {
        return x;
    }
    if g.axes(x).contains(axis) {
        let op = ReduceOp::Sum;
        return g.add(Node::Reduce { op, axis, x });
    }
    let len = g.add(Node::Extent(axis));
    fold(g, Op::Mul, &[len, x])
}

/// Whether the position on `axis` is the first one (`front`) or the last.
pub(super) fn at_edge(g: &mut Graph, axis: AxisId, front: bool) -> NodeId {
    let at = g.add(Node::Index(axis));
    let edge = if front {
        g.constant(0.0)
    } else {
        let (len, one) = (g.add(Node::Extent(axis)), g.constant(1.0));
        g.op(Op::Sub, &[len, one])
    };
    g.op(Op::Eq, &[at, edge])
}

/// Whether position h on the axis `of` belongs to the position on `groups`: ⌊h G / H⌋ = g.
pub(crate) fn in_group(g: &mut Graph, of: AxisId, groups: AxisId) -> NodeId {
    let (at, len) = (g.add(Node::Index(of)), g.add(Node::Extent(of)));
    let count = g.add(Node::Extent(groups));
    let scaled = g.op(Op::Mul, &[at, count]);
    let quotient = g.op(Op::Div, &[scaled, len]);
    let group = g.op(Op::Floor, &[quotient]);
    let own = g.add(Node::Index(groups));
    g.op(Op::Eq, &[group, own])
}
