//! One node of a graph as a loop over its points: the index arithmetic, done once, and the arithmetic.
//!
//! In: a node and the extents of its axes. Out: [`Code`], which [`Code::run`]
//! evaluates at one time step from the values of its operands.

use num_complex::Complex64 as C64;

use super::value::{Gather, Read, Value, layout};
use crate::array::{positions, strides};
use crate::axis::{AxisId, Extents};
use crate::expr::{Node, NodeId, Part, ReduceOp, Type, When};
use crate::op::Op;
use crate::recurrence::Recurrence;

/// A node, ready to run.
pub(super) enum Code {
    /// A constant or an extent.
    Constant(f64),
    /// The position in time.
    Time,
    /// The position on another axis.
    Index,
    Input {
        input: usize,
        read: Read,
        part: Part,
    },
    State {
        state: usize,
        when: When,
        read: Read,
        part: Part,
    },
    Op {
        op: Op,
        xs: Vec<(NodeId, Gather)>,
        complex: bool,
    },
    Reduce {
        op: ReduceOp,
        x: NodeId,
        first: Gather,
        stride: usize,
        extent: usize,
    },
    /// For every point where it is in `x`, or [`OUTSIDE`].
    Shift {
        x: NodeId,
        from: Vec<usize>,
        fill: NodeId,
        fill_at: Gather,
    },
}

/// A shifted point that `fill` enters at.
const OUTSIDE: usize = usize::MAX;

impl Code {
    /// The code of a node; `None` for what does not mean anything: a reduction or shift over time, or a `given`
    /// that specialisation has not decided.
    pub fn new(r: &Recurrence, id: NodeId, extents: &Extents) -> Option<Code> {
        let graph = &r.graph;
        let own = layout(graph, id);
        let gather = |x: NodeId| Gather::new(&own, &layout(graph, x), extents);
        Some(match graph.node(id) {
            Node::Const(bits) => Code::Constant(f64::from_bits(*bits)),
            Node::Extent(axis) => Code::Constant(extents.get(*axis) as f64),
            Node::Index(axis) if *axis == r.time => Code::Time,
            Node::Index(_) => Code::Index,
            Node::Input { input, index, part } => Code::Input {
                input: input.0 as usize,
                read: Read::new(r, &own, &r.input(*input).axes, index, extents),
                part: *part,
            },
            Node::State {
                state,
                when,
                index,
                part,
            } => Code::State {
                state: state.0 as usize,
                when: *when,
                read: Read::new(r, &own, &r.state(*state).axes, index, extents),
                part: *part,
            },
            Node::Op(op, xs) => Code::Op {
                op: *op,
                xs: xs.iter().map(|&x| (x, gather(x))).collect(),
                complex: *op == Op::Complex || xs.iter().any(|&x| graph.ty(x) == Type::Complex),
            },
            Node::Reduce { op, axis, x } if *axis != r.time => {
                let from = layout(graph, *x);
                let along = strides(&extents.shape(&from));
                let place = from.iter().position(|a| a == axis);
                Code::Reduce {
                    op: *op,
                    x: *x,
                    first: Gather::new(&own, &from, extents),
                    stride: place.map_or(0, |i| along[i]),
                    extent: extents.get(*axis),
                }
            }
            Node::Shift { axis, by, x, fill } if *axis != r.time => {
                let from = layout(graph, *x);
                let along = strides(&extents.shape(&from));
                let (shape, extent) = (extents.shape(&own), extents.get(*axis));
                let stride = |a: AxisId| from.iter().position(|&f| f == a).map_or(0, |k| along[k]);
                let source = |a: AxisId, at: usize| match a == *axis {
                    true => at
                        .checked_add_signed(-isize::from(*by))
                        .filter(|&s| s < extent),
                    false => Some(at),
                };
                let outside = positions(&shape, |i, at| usize::from(source(own[i], at).is_none()));
                let places = positions(&shape, |i, at| {
                    source(own[i], at).unwrap_or(0) * stride(own[i])
                });
                let from = outside.iter().zip(places);
                Code::Shift {
                    x: *x,
                    from: from
                        .map(|(&out, at)| if out > 0 { OUTSIDE } else { at })
                        .collect(),
                    fill: *fill,
                    fill_at: gather(*fill),
                }
            }
            Node::Reduce { .. } | Node::Shift { .. } | Node::Given { .. } => return None,
        })
    }

    /// Computes the node at time `t` into `out`, which has the right size.
    pub fn run<'a>(
        &self,
        out: &mut Value,
        t: usize,
        values: &[Value],
        inputs: &[Value],
        state: impl Fn(usize, When) -> &'a Value,
    ) {
        match self {
            Code::Constant(value) => {
                out.re.fill(*value);
                out.m.fill(value.abs());
            }
            Code::Time => {
                out.re.fill(t as f64);
                out.m.fill(t as f64);
            }
            Code::Index => {
                for (i, x) in out.re.iter_mut().enumerate() {
                    *x = i as f64;
                }
                for (i, m) in out.m.iter_mut().enumerate() {
                    *m = i as f64;
                }
            }
            Code::Input { input, read, part } => gather(out, &inputs[*input], read, t, *part),
            Code::State {
                state: s,
                when,
                read,
                part,
            } => gather(out, state(*s, *when), read, t, *part),
            Code::Op {
                op,
                xs,
                complex: false,
            } => real_op(*op, xs, values, out),
            Code::Op {
                op,
                xs,
                complex: true,
            } => complex_op(*op, xs, values, out),
            Code::Reduce {
                op,
                x,
                first,
                stride,
                extent,
            } => {
                let x = &values[x.0 as usize];
                for p in 0..out.re.len() {
                    let first = first.at(p);
                    let places = (0..*extent).map(|k| first + k * stride);
                    reduce(*op, x, places, out, p);
                }
            }
            Code::Shift {
                x,
                from,
                fill,
                fill_at,
            } => {
                let (x, fill) = (&values[x.0 as usize], &values[fill.0 as usize]);
                for (p, &from) in from.iter().enumerate() {
                    if from == OUTSIDE {
                        out.copy(p, fill, fill_at.at(p));
                    } else {
                        out.copy(p, x, from);
                    }
                }
            }
        }
    }
}

/// Copies what `read` touches at time `t`.
fn gather(out: &mut Value, from: &Value, read: &Read, t: usize, part: Part) {
    let base = read.base(t);
    let copy = |to: &mut [f64], from: &[f64]| {
        for (x, at) in to.iter_mut().zip(&read.at) {
            *x = from[base + at];
        }
    };
    copy(
        &mut out.re,
        if part == Part::Im { &from.im } else { &from.re },
    );
    copy(&mut out.im, &from.im);
    copy(&mut out.m, &from.m);
}

fn real_op(op: Op, xs: &[(NodeId, Gather)], values: &[Value], out: &mut Value) {
    let info = op.info();
    // Operands that an operation does not have repeat its last one, unread.
    let operand = |i: usize| {
        let (id, at) = &xs[i.min(xs.len() - 1)];
        (values[id.0 as usize].re.as_slice(), at)
    };
    let [a, b, c] = [0, 1, 2].map(operand);
    for p in 0..out.re.len() {
        let operands = [a.0[a.1.at(p)], b.0[b.1.at(p)], c.0[c.1.at(p)]];
        let operands = &operands[..xs.len()];
        out.re[p] = (info.real)(operands);
        if !out.m.is_empty() {
            out.m[p] = out.re[p].abs() + weighted(&(info.slopes)(operands), xs, values, p);
        }
    }
}

fn complex_op(op: Op, xs: &[(NodeId, Gather)], values: &[Value], out: &mut Value) {
    let Some(meaning) = op.info().complex else {
        // The graph gives no complex type to an operation that has no complex meaning.
        out.re.fill(f64::NAN);
        return;
    };
    let mut operands = [C64::new(0.0, 0.0); 3];
    for p in 0..out.re.len() {
        for (x, (id, at)) in operands.iter_mut().zip(xs) {
            *x = values[id.0 as usize].at(at.at(p));
        }
        let operands = &operands[..xs.len()];
        let value = meaning(operands);
        let m = if out.m.is_empty() {
            0.0
        } else {
            value.norm() + weighted(&complex_slopes(op, operands, value), xs, values, p)
        };
        out.put(p, value, m);
    }
}

/// Σ slopeᵢ·mᵢ at a point. An operand that does not count (slope 0) does not spoil the sum if its m is infinite.
fn weighted(slopes: &[f64; 3], xs: &[(NodeId, Gather)], values: &[Value], p: usize) -> f64 {
    xs.iter()
        .zip(slopes)
        .filter(|(_, slope)| **slope != 0.0)
        .map(|((id, at), slope)| slope * values[id.0 as usize].m[at.at(p)])
        .sum()
}

/// |∂f/∂zᵢ| at complex operands; `value` is f there.
fn complex_slopes(op: Op, z: &[C64], value: C64) -> [f64; 3] {
    match op {
        Op::Mul => [z[1].norm(), z[0].norm(), 0.0],
        Op::Div => [1.0 / z[1].norm(), value.norm() / z[1].norm(), 0.0],
        Op::Exp => [value.norm(), 0.0, 0.0],
        Op::Expm1 => [z[0].exp().norm(), 0.0, 0.0],
        Op::Phi1 if z[0].norm() < 1e-4 => [0.5 + z[0].norm() / 3.0, 0.0, 0.0],
        Op::Phi1 => [((z[0].exp() - value) / z[0]).norm(), 0.0, 0.0],
        Op::Select if z[0].re != 0.0 => [0.0, 1.0, 0.0],
        Op::Select => [0.0, 0.0, 1.0],
        _ => [1.0, 1.0, 0.0],
    }
}

/// The sum or maximum of the elements of `x` at `places`, into the point `p`.
///
/// The bound of a sum counts one rounding of every partial sum, as a chain of additions would.
fn reduce(op: ReduceOp, x: &Value, places: impl Iterator<Item = usize>, out: &mut Value, p: usize) {
    let start = match op {
        ReduceOp::Sum => 0.0,
        ReduceOp::Max => f64::NEG_INFINITY,
    };
    let (mut total, mut m) = (C64::new(start, 0.0), 0.0f64);
    for (i, place) in places.enumerate() {
        let term = x.at(place);
        match op {
            ReduceOp::Sum => total += term,
            ReduceOp::Max => total.re = (Op::Max.info().real)(&[total.re, term.re]),
        }
        if let Some(&own) = x.m.get(place) {
            m = match op {
                ReduceOp::Sum if i == 0 => own,
                ReduceOp::Sum => m + own + total.norm(),
                ReduceOp::Max => m.max(own),
            };
        }
    }
    out.put(p, total, m);
}
