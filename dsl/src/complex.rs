//! Complex numbers as pairs of real ones.
//!
//! In: a recurrence that may read complex inputs and states. Out: the same recurrence with real nodes only:
//! a complex read becomes two, [`Part::Re`] and [`Part::Im`], a complex state gets `update_im` and a complex
//! output `value_im`. The declarations keep `complex = true`: memory still holds (re, im) pairs.
//!
//! ```text
//! (a + ib)(c + id) = (ac − bd) + i(ad + bc)         eˣ⁺ⁱʸ     = eˣ cos y + i eˣ sin y
//! p / q = p·q̄/s ÷ |q|²/s,  s = max(|Re q|, |Im q|)  eˣ⁺ⁱʸ − 1 = (expm1(x) cos y − 2 sin²(y/2)) + i eˣ sin y
//! ```

use crate::expr::{Graph, Node, NodeId, Part, Type};
use crate::op::Op;
use crate::recurrence::Recurrence;

/// The halves of a value; a real value has no imaginary half.
#[derive(Clone, Copy)]
struct Pair {
    re: NodeId,
    im: Option<NodeId>,
}

impl Pair {
    fn new(re: NodeId, im: NodeId) -> Self {
        Pair { re, im: Some(im) }
    }
    fn real(re: NodeId) -> Self {
        Pair { re, im: None }
    }
}

impl Recurrence {
    /// The same recurrence in real arithmetic; a real recurrence is unchanged.
    #[must_use]
    pub fn split_complex(&self) -> Recurrence {
        let mut split = Splitter {
            graph: Graph::new(self.time),
        };
        let mut pairs: Vec<Option<Pair>> = vec![None; self.graph.len()];
        for id in self.graph.reachable(&self.roots()) {
            let node = self.graph.node(id);
            let operands: Vec<Pair> = node
                .operands()
                .iter()
                .filter_map(|x| pairs[x.0 as usize])
                .collect();
            pairs[id.0 as usize] = Some(split.node(node, &operands));
        }
        let mut halves = |complex: bool, re: NodeId, im: Option<NodeId>| {
            let pair = pairs[re.0 as usize].unwrap_or(Pair::real(re));
            // A recurrence that is already split keeps its halves.
            let im = im
                .and_then(|im| pairs[im.0 as usize])
                .map(|im| im.re)
                .or(pair.im);
            let im = complex.then(|| im.unwrap_or_else(|| split.graph.constant(0.0)));
            (pair.re, im)
        };
        let mut out = self.over(Graph::new(self.time), |id| id);
        for s in &mut out.states {
            (s.update, s.update_im) = halves(s.complex, s.update, s.update_im);
        }
        for o in &mut out.outputs {
            (o.value, o.value_im) = halves(o.complex, o.value, o.value_im);
        }
        out.graph = split.graph;
        out
    }
}

struct Splitter {
    graph: Graph,
}

impl Splitter {
    fn node(&mut self, node: &Node, xs: &[Pair]) -> Pair {
        match node {
            Node::Input { part, .. } | Node::State { part, .. } if *part == Part::Complex => {
                let re = self.graph.add(with_part(node, Part::Re));
                let im = self.graph.add(with_part(node, Part::Im));
                Pair::new(re, im)
            }
            Node::Op(op, _) if *op == Op::Complex => Pair::new(xs[0].re, xs[1].re),
            Node::Shift { axis, by, .. } if xs[0].im.is_none() && xs[1].im.is_some() => {
                // A real tensor shifted behind a complex fill: its imaginary half is the fill's at the open
                // end and zero elsewhere.
                let re = self.copy(node, &[xs[0].re, xs[1].re]);
                let at = self.graph.add(Node::Index(*axis));
                let end = if *by > 0 {
                    self.graph.constant(0.0)
                } else {
                    let len = self.graph.add(Node::Extent(*axis));
                    let one = self.graph.constant(1.0);
                    self.op(Op::Sub, &[len, one])
                };
                let open = self.op(Op::Eq, &[at, end]);
                let (fill, zero) = (self.im(xs[1]), self.graph.constant(0.0));
                let im = self.op(Op::Select, &[open, fill, zero]);
                Pair::new(re, im)
            }
            _ if xs.iter().all(|x| x.im.is_none()) && !is_complex_op(node) => {
                let operands: Vec<NodeId> = xs.iter().map(|x| x.re).collect();
                Pair::real(self.copy(node, &operands))
            }
            Node::Op(op, _) => self.complex_op(*op, xs),
            // Reductions, shifts and compile-time choices act on the halves alike.
            _ => {
                let re: Vec<NodeId> = xs.iter().map(|x| x.re).collect();
                let im: Vec<NodeId> = xs.iter().map(|&x| self.im(x)).collect();
                Pair::new(self.copy(node, &re), self.copy(node, &im))
            }
        }
    }

    fn complex_op(&mut self, op: Op, xs: &[Pair]) -> Pair {
        match op {
            Op::Re => Pair::real(xs[0].re),
            Op::Im => Pair::real(self.im(xs[0])),
            Op::Conj => match xs[0].im {
                Some(im) => Pair::new(xs[0].re, self.op(Op::Neg, &[im])),
                None => xs[0],
            },
            Op::Neg => {
                let im = self.im(xs[0]);
                Pair::new(self.op(Op::Neg, &[xs[0].re]), self.op(Op::Neg, &[im]))
            }
            Op::Add | Op::Sub => {
                let re = self.op(op, &[xs[0].re, xs[1].re]);
                let im = match (xs[0].im, xs[1].im) {
                    (Some(a), Some(b)) => self.op(op, &[a, b]),
                    (None, Some(b)) if op == Op::Sub => self.op(Op::Neg, &[b]),
                    (None, Some(b)) => b,
                    (a, None) => a.unwrap_or_else(|| self.graph.constant(0.0)),
                };
                Pair::new(re, im)
            }
            Op::Mul => self.mul(xs[0], xs[1]),
            Op::Div => self.div(xs[0], xs[1]),
            Op::Abs => {
                let im = self.im(xs[0]);
                let (rr, ii) = (
                    self.op(Op::Mul, &[xs[0].re, xs[0].re]),
                    self.op(Op::Mul, &[im, im]),
                );
                let norm = self.op(Op::Add, &[rr, ii]);
                Pair::real(self.op(Op::Sqrt, &[norm]))
            }
            Op::Exp => {
                let (e, im) = (self.op(Op::Exp, &[xs[0].re]), self.im(xs[0]));
                let (cos, sin) = (self.op(Op::Cos, &[im]), self.op(Op::Sin, &[im]));
                Pair::new(self.op(Op::Mul, &[e, cos]), self.op(Op::Mul, &[e, sin]))
            }
            Op::Expm1 => self.expm1(xs[0]),
            Op::Phi1 => self.phi1(xs[0]),
            Op::Select => {
                let (a, b) = (self.im(xs[1]), self.im(xs[2]));
                let re = self.op(Op::Select, &[xs[0].re, xs[1].re, xs[2].re]);
                Pair::new(re, self.op(Op::Select, &[xs[0].re, a, b]))
            }
            // No other operation takes complex operands ([`Op::result`]).
            _ => {
                let re: Vec<NodeId> = xs.iter().map(|x| x.re).collect();
                Pair::real(self.op(op, &re))
            }
        }
    }

    fn mul(&mut self, a: Pair, b: Pair) -> Pair {
        match (a.im, b.im) {
            (Some(ai), Some(bi)) => {
                let rr = self.op(Op::Mul, &[a.re, b.re]);
                let ii = self.op(Op::Mul, &[ai, bi]);
                let ri = self.op(Op::Mul, &[a.re, bi]);
                let ir = self.op(Op::Mul, &[ai, b.re]);
                Pair::new(self.op(Op::Sub, &[rr, ii]), self.op(Op::Add, &[ri, ir]))
            }
            (Some(ai), None) => Pair::new(
                self.op(Op::Mul, &[a.re, b.re]),
                self.op(Op::Mul, &[ai, b.re]),
            ),
            (None, bi) => {
                let bi = bi.unwrap_or_else(|| self.graph.constant(0.0));
                Pair::new(
                    self.op(Op::Mul, &[a.re, b.re]),
                    self.op(Op::Mul, &[a.re, bi]),
                )
            }
        }
    }

    /// The divisor is scaled by its larger half, since |q|² of a small q would underflow.
    fn div(&mut self, p: Pair, q: Pair) -> Pair {
        let Some(qi) = q.im else {
            let im = self.im(p);
            return Pair::new(
                self.op(Op::Div, &[p.re, q.re]),
                self.op(Op::Div, &[im, q.re]),
            );
        };
        let (re, im) = (self.op(Op::Abs, &[q.re]), self.op(Op::Abs, &[qi]));
        let s = self.op(Op::Max, &[re, im]);
        let unit_re = self.op(Op::Div, &[q.re, s]);
        let unit_im = self.op(Op::Div, &[qi, s]);
        let rr = self.op(Op::Mul, &[q.re, unit_re]);
        let ii = self.op(Op::Mul, &[qi, unit_im]);
        let norm = self.op(Op::Add, &[rr, ii]);
        let conj = Pair::new(unit_re, self.op(Op::Neg, &[unit_im]));
        let scaled = self.mul(p, conj);
        let im = self.im(scaled);
        Pair::new(
            self.op(Op::Div, &[scaled.re, norm]),
            self.op(Op::Div, &[im, norm]),
        )
    }

    fn expm1(&mut self, z: Pair) -> Pair {
        let (x, y) = (z.re, self.im(z));
        let half = self.graph.constant(0.5);
        let two = self.graph.constant(2.0);
        let (sin, cos) = (self.op(Op::Sin, &[y]), self.op(Op::Cos, &[y]));
        let half = self.op(Op::Mul, &[half, y]);
        let half = self.op(Op::Sin, &[half]);
        let square = self.op(Op::Mul, &[half, half]);
        let square = self.op(Op::Mul, &[two, square]);
        let grown = self.op(Op::Expm1, &[x]);
        let grown = self.op(Op::Mul, &[grown, cos]);
        let e = self.op(Op::Exp, &[x]);
        Pair::new(
            self.op(Op::Sub, &[grown, square]),
            self.op(Op::Mul, &[e, sin]),
        )
    }

    /// φ₁(z) = (eᶻ − 1)/z, and 1 at 0: there the divisor is replaced by 1.
    fn phi1(&mut self, z: Pair) -> Pair {
        let (zero, one) = (self.graph.constant(0.0), self.graph.constant(1.0));
        let y = self.im(z);
        let (abs_x, abs_y) = (self.op(Op::Abs, &[z.re]), self.op(Op::Abs, &[y]));
        let size = self.op(Op::Max, &[abs_x, abs_y]);
        let at_zero = self.op(Op::Eq, &[size, zero]);
        let divisor = self.op(Op::Select, &[at_zero, one, z.re]);
        let grown = self.expm1(z);
        let quotient = self.div(grown, Pair::new(divisor, y));
        let im = self.im(quotient);
        Pair::new(self.op(Op::Select, &[at_zero, one, quotient.re]), im)
    }

    fn op(&mut self, op: Op, xs: &[NodeId]) -> NodeId {
        self.graph.op(op, xs)
    }
    fn im(&mut self, x: Pair) -> NodeId {
        x.im.unwrap_or_else(|| self.graph.constant(0.0))
    }
    fn copy(&mut self, node: &Node, operands: &[NodeId]) -> NodeId {
        self.graph.add(node.with_operands(operands))
    }
}

/// The read of one half of a complex element.
fn with_part(node: &Node, half: Part) -> Node {
    let mut node = node.clone();
    if let Node::Input { part, .. } | Node::State { part, .. } = &mut node {
        *part = half;
    }
    node
}

/// Operations on complex numbers that also take real ones.
fn is_complex_op(node: &Node) -> bool {
    matches!(node, Node::Op(Op::Re | Op::Im | Op::Conj, _))
}

/// Whether every node that the roots reach is real or a condition.
#[must_use]
pub fn is_real(r: &Recurrence) -> bool {
    r.graph
        .reachable(&r.roots())
        .iter()
        .all(|&id| r.graph.ty(id) != Type::Complex)
}
