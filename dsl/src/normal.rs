//! The normal form of products and sums.
//!
//! In: a real recurrence. Out: the same recurrence with every chain of products (negations, divisions by
//! constants, factors that leave a sum over an axis they are free of) flattened into one constant and a list
//! of factors and grouped anew, and every chain of sums into signed summands in the user's order and a constant.
//!
//! Grouping repeatedly combines the pair whose union of axes has the fewest points, ties in a fixed order:
//! `delta * u` is formed per channel before it meets `b` over the states, and constants meet what does not
//! vary in time. Products commute exactly. Sums combine neighbours only, since another order may cancel.

use crate::axis::AxisSet;
use crate::expr::{Graph, Node, NodeId, ReduceOp};
use crate::extract::points;
use crate::op::Op;
use crate::recurrence::Recurrence;

/// Normalises every product and sum. A value with several uses is taken apart only if `through_shared`.
#[must_use]
pub fn normalise(r: &Recurrence, through_shared: bool) -> Recurrence {
    let mut uses = vec![0u32; r.graph.len()];
    let order = r.graph.reachable(&r.roots());
    for &id in &order {
        r.graph.node(id).each_operand(|x| uses[x.0 as usize] += 1);
    }
    for root in r.roots() {
        uses[root.0 as usize] += 1;
    }
    let mut form = NormalForm {
        source: &r.graph,
        uses,
        through_shared,
        values: vec![None; r.graph.len()],
        built: vec![None; r.graph.len()],
        graph: Graph::new(r.time),
    };
    for id in order {
        form.values[id.0 as usize] = Some(form.value(id));
    }
    let roots: Vec<NodeId> = r.roots().into_iter().map(|id| form.build(id)).collect();
    let mut roots = roots.into_iter();
    r.over(form.graph, |id| roots.next().unwrap_or(id))
}

/// Divides once by what several values are divided by: x / y and z / y become x · (1/y) and z · (1/y).
#[must_use]
pub fn share_reciprocals(r: &Recurrence) -> Recurrence {
    let mut divided = vec![0u32; r.graph.len()];
    for id in r.graph.reachable(&r.roots()) {
        if let Node::Op(Op::Div, xs) = r.graph.node(id) {
            divided[xs[1].0 as usize] += 1;
        }
    }
    // A rebuild goes through the same nodes in the same order.
    let mut order = r.graph.reachable(&r.roots()).into_iter();
    r.rebuild(|graph, node| {
        let shared = order
            .next()
            .is_some_and(|id| match r.graph.node(id).operands()[..] {
                [_, y] => divided[y.0 as usize] > 1,
                _ => false,
            });
        match &node {
            Node::Op(Op::Div, xs) if shared && graph.as_constant(xs[0]).is_none() => {
                let one = graph.constant(1.0);
                let reciprocal = graph.op(Op::Div, &[one, xs[1]]);
                graph.op(Op::Mul, &[xs[0], reciprocal])
            }
            _ => graph.add(node),
        }
    })
}

/// A value taken apart; the nodes are those of the new graph.
#[derive(Clone, Debug)]
enum Value {
    /// constant · factors
    Product(f64, Vec<NodeId>),
    /// summands (negated where true), in order, + constant
    Sum(Vec<(bool, NodeId)>, f64),
}

struct NormalForm<'a> {
    source: &'a Graph,
    uses: Vec<u32>,
    through_shared: bool,
    values: Vec<Option<Value>>,
    built: Vec<Option<NodeId>>,
    graph: Graph,
}

impl NormalForm<'_> {
    /// Takes a node apart, its operands being apart already.
    fn value(&mut self, id: NodeId) -> Value {
        let node = self.source.node(id);
        match node {
            Node::Const(bits) if f64::from_bits(*bits).is_finite() => {
                Value::Product(f64::from_bits(*bits), vec![])
            }
            Node::Op(Op::Mul, xs) => {
                let (c, mut factors) = self.factors(xs[0]);
                let (d, more) = self.factors(xs[1]);
                factors.extend(more);
                Value::Product(c * d, factors)
            }
            Node::Op(Op::Neg, xs) => match self.apart(xs[0]) {
                Some(Value::Sum(terms, c)) => {
                    Value::Sum(terms.iter().map(|&(neg, x)| (!neg, x)).collect(), -c)
                }
                _ => {
                    let (c, factors) = self.factors(xs[0]);
                    Value::Product(-c, factors)
                }
            },
            Node::Op(Op::Div, xs) => self.quotient(xs[0], xs[1]),
            Node::Op(Op::Add | Op::Sub, xs) => {
                let (mut terms, c) = self.summands(xs[0]);
                let (more, d) = self.summands(xs[1]);
                let minus = *node == Node::Op(Op::Sub, xs.clone());
                terms.extend(more.iter().map(|&(neg, x)| (neg != minus, x)));
                Value::Sum(terms, if minus { c - d } else { c + d })
            }
            Node::Reduce {
                op: ReduceOp::Sum,
                axis,
                x,
            } => {
                let (c, factors) = self.factors(*x);
                let (bound, mut free): (Vec<NodeId>, Vec<NodeId>) = factors
                    .into_iter()
                    .partition(|&x| self.graph.axes(x).contains(*axis));
                free.push(if bound.is_empty() {
                    self.graph.add(Node::Extent(*axis))
                } else {
                    let x = self.product(1.0, bound);
                    self.graph.add(Node::Reduce {
                        op: ReduceOp::Sum,
                        axis: *axis,
                        x,
                    })
                });
                Value::Product(c, free)
            }
            _ => {
                let operands: Vec<NodeId> =
                    node.operands().into_iter().map(|x| self.build(x)).collect();
                let node = node.with_operands(&operands);
                Value::Product(1.0, vec![self.graph.add(node)])
            }
        }
    }

    /// What a value that may be taken apart is made of.
    fn apart(&self, id: NodeId) -> Option<Value> {
        let value = self.values[id.0 as usize].as_ref()?;
        let shared = self.uses[id.0 as usize] > 1;
        let allowed = match value {
            Value::Product(_, factors) if factors.len() <= 1 => true,
            // x · (1/y) stays together: it is of moderate size where another factor's product with x need not be.
            Value::Product(_, factors) if factors.iter().any(|&x| self.is_reciprocal(x)) => false,
            Value::Product(..) => !shared || self.through_shared,
            Value::Sum(..) => !shared,
        };
        allowed.then(|| value.clone())
    }

    fn is_reciprocal(&self, node: NodeId) -> bool {
        match self.graph.node(node) {
            Node::Op(Op::Div, xs) => self.graph.as_constant(xs[0]).is_some(),
            _ => false,
        }
    }

    /// A value as factors.
    fn factors(&mut self, id: NodeId) -> (f64, Vec<NodeId>) {
        match self.apart(id) {
            Some(Value::Product(c, factors)) => (c, factors),
            Some(Value::Sum(terms, c)) => {
                let (negative, node) = self.sum(terms, c);
                self.signed(negative, node)
            }
            None => {
                let node = self.build(id);
                self.signed(false, node)
            }
        }
    }

    /// A node as a constant and a factor.
    fn signed(&self, negative: bool, node: NodeId) -> (f64, Vec<NodeId>) {
        let sign = if negative { -1.0 } else { 1.0 };
        match self.graph.node(node) {
            Node::Op(Op::Neg, xs) => (-sign, vec![xs[0]]),
            _ => (sign, vec![node]),
        }
    }

    /// A value as summands.
    fn summands(&mut self, id: NodeId) -> (Vec<(bool, NodeId)>, f64) {
        match self.apart(id) {
            Some(Value::Sum(terms, c)) => (terms, c),
            Some(Value::Product(c, factors)) if factors.is_empty() => (vec![], c),
            Some(Value::Product(c, factors)) if c < 0.0 => {
                (vec![(true, self.product(-c, factors))], 0.0)
            }
            Some(Value::Product(c, factors)) => (vec![(false, self.product(c, factors))], 0.0),
            None => {
                let node = self.build(id);
                let (sign, factors) = self.signed(false, node);
                (factors.iter().map(|&x| (sign < 0.0, x)).collect(), 0.0)
            }
        }
    }

    /// x / y: constants leave the divisor, and the sign leaves both.
    fn quotient(&mut self, x: NodeId, y: NodeId) -> Value {
        let (mut c, mut factors) = self.factors(x);
        let (d, divisor) = self.factors(y);
        let recip = 1.0 / d;
        if !recip.is_normal() || !d.is_normal() {
            // Division by zero stays where it is written.
            let (x, y) = (self.build(x), self.build(y));
            return Value::Product(1.0, vec![self.graph.op(Op::Div, &[x, y])]);
        }
        if divisor.is_empty() {
            return Value::Product(c * recip, factors);
        }
        let sign = if (c < 0.0) != (d < 0.0) { -1.0 } else { 1.0 };
        c = c.abs() * recip.abs();
        let over = self.product(c, std::mem::take(&mut factors));
        let under = self.product(1.0, divisor);
        Value::Product(sign, vec![self.graph.op(Op::Div, &[over, under])])
    }

    /// The node of an old node's value.
    fn build(&mut self, id: NodeId) -> NodeId {
        if let Some(node) = self.built[id.0 as usize] {
            return node;
        }
        let node = match self.values[id.0 as usize].clone() {
            Some(Value::Product(c, factors)) => self.product(c, factors),
            Some(Value::Sum(terms, c)) => match self.sum(terms, c) {
                (true, x) => self.graph.op(Op::Neg, &[x]),
                (false, x) => x,
            },
            // Not reached: operands come before what reads them.
            None => id,
        };
        self.built[id.0 as usize] = Some(node);
        node
    }

    fn points(&self, axes: AxisSet) -> f64 {
        points(self.graph.time(), axes)
    }

    /// Multiplies factors, the pair over the fewest points first.
    fn product(&mut self, c: f64, mut factors: Vec<NodeId>) -> NodeId {
        if factors.is_empty() {
            return self.graph.constant(c);
        }
        // Exponentials of equal axes become neighbours, so that they merge.
        let order = |g: &Graph, x: NodeId| {
            let exponential = matches!(g.node(x), Node::Op(Op::Exp | Op::Exp2, _));
            (points(g.time(), g.axes(x)), !exponential, x)
        };
        let compare = |g: &Graph, x: NodeId, y: NodeId| {
            let (p, q) = (order(g, x), order(g, y));
            p.0.total_cmp(&q.0).then((p.1, p.2).cmp(&(q.1, q.2)))
        };
        factors.sort_by(|&x, &y| compare(&self.graph, x, y));
        if c == -1.0 {
            factors[0] = self.graph.op(Op::Neg, &[factors[0]]);
        } else if c != 1.0 {
            let c = self.graph.constant(c);
            factors[0] = self.graph.op(Op::Mul, &[c, factors[0]]);
        }
        while factors.len() > 1 {
            let mut best = (f64::INFINITY, true, 0, 1);
            for i in 0..factors.len() {
                for j in i + 1..factors.len() {
                    let (x, y) = (factors[i], factors[j]);
                    let p = self.points(self.graph.axes(x).union(self.graph.axes(y)));
                    let (x, y) = (x.min(y), x.max(y));
                    let new = self.graph.find(&Node::Op(Op::Mul, vec![x, y])).is_none();
                    if (p, new) < (best.0, best.1) {
                        best = (p, new, i, j);
                    }
                }
            }
            let (_, _, i, j) = best;
            let y = factors.remove(j);
            let x = factors.remove(i);
            let xy = self.graph.op(Op::Mul, &[x.min(y), x.max(y)]);
            let place = factors.partition_point(|&z| compare(&self.graph, z, xy).is_lt());
            factors.insert(place, xy);
        }
        factors[0]
    }

    /// Adds summands, the neighbours over the fewest points first; gives the sum and whether it is negated.
    fn sum(&mut self, mut terms: Vec<(bool, NodeId)>, c: f64) -> (bool, NodeId) {
        if c != 0.0 || terms.is_empty() {
            // The constant joins the summand that varies least.
            let least = (0..terms.len()).min_by(|&i, &j| {
                let size = |i: usize| self.points(self.graph.axes(terms[i].1));
                size(i).total_cmp(&size(j))
            });
            let node = self.graph.constant(c.abs());
            terms.insert(least.map_or(0, |i| i + 1), (c < 0.0, node));
        }
        while terms.len() > 1 {
            let size = |i: usize| {
                let (x, y) = (terms[i].1, terms[i + 1].1);
                self.points(self.graph.axes(x).union(self.graph.axes(y)))
            };
            let i = (0..terms.len() - 1)
                .min_by(|&i, &j| size(i).total_cmp(&size(j)))
                .unwrap_or(0);
            let ((minus_x, x), (minus_y, y)) = (terms[i], terms[i + 1]);
            terms[i] = match (minus_x, minus_y) {
                (false, true) => (false, self.graph.op(Op::Sub, &[x, y])),
                (true, false) => (false, self.graph.op(Op::Sub, &[y, x])),
                _ => (minus_x, self.graph.op(Op::Add, &[x, y])),
            };
            terms.remove(i + 1);
        }
        terms[0]
    }
}
