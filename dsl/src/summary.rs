//! The recurrences of the time-chunked algorithm.
//!
//! In: a [`Scan`] whose every state is h' = a ⊙ h + b with a and b free of all states. A run of steps is then
//! the map h ↦ P ⊙ h + S, and runs compose: (P₂, S₂) ∘ (P₁, S₁) = (P₂P₁, P₂S₁ + S₂). Out:
//!
//! ```text
//! summary, over the steps of one chunk:   S' = a ⊙ S + b, S = 0        P' = a ⊙ P, P = 1
//! carry, over the chunks:                 start = h                    h' = P ⊙ h + S
//! ```
//! The chunks' own steps then run from `start`, each chunk by itself. Where a = exp(α s) with α the same at every step, P is
//! exp(α Σ s), and Σ s may be the same at many points of the state: the summary then adds up s in place of P, and the carry
//! takes one exponential a chunk.
//!
//! Where a sequence starts (`select(keep > 0.5, h, 0)`) the state is forgotten even if it is not a number, which
//! 0 · NaN would not do: a select of a stays a select of what a multiplies, and a chunk whose P is 0 carries S.

use crate::axis::AxisId;
use crate::expr::{Graph, InputId, Node, NodeId, StateId, Type, When};
use crate::op::Op;
use crate::recurrence::{InputDecl, InputKind, OutputDecl, Recurrence, StateDecl};
use crate::scan::{Class, Scan};
use crate::simplify::simplify;

/// How the decay of a chunk is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decay {
    /// As the product of a over its steps, at every point of the state.
    Product,
    /// As Σ s where a = exp(α s) and s varies over fewer axes; else as the product.
    Sum,
}

/// The recurrences of the time-chunked algorithm. Both are real and simplified.
#[derive(Clone, PartialEq, Debug)]
pub struct Chunks {
    /// Of a chunk: for each state `h` the states `h` (from 0) and either `h_decay` (from 1) or `h_span` (from 0), in this order;
    /// no outputs, and only the inputs that it reads.
    pub summary: Recurrence,
    /// Over chunks, the way that the states run: inputs of the source that the decays read, then for each state `h` its
    /// summary's states as `h_summary` and `h_decay` or `h_span` \[chunk, axes\]; output `h_start` \[chunk, axes of h\], the
    /// value before each chunk. The time axis is named `chunk` (`chunk_` if the kernel has such an axis) and is the same
    /// [`AxisId`]; the other axes are as they were.
    pub carry: Recurrence,
}

/// a = exp(±α/β s) of a state: α and β are the same at every step.
struct Exponential {
    op: Op,
    negative: bool,
    /// Factors of α and of β.
    alpha: Vec<NodeId>,
    beta: Vec<NodeId>,
    /// Factors of s; none for 1.
    step: Vec<NodeId>,
    /// The axes of Σ s.
    axes: Vec<AxisId>,
}

impl Scan {
    /// The recurrences of the time-chunked algorithm. `None` unless every state is diagonal by itself.
    #[must_use]
    pub fn chunks(&self, decay: Decay) -> Option<&Chunks> {
        let made = self.derived.chunks[decay as usize].get_or_init(|| {
            let sums = self.states.iter().enumerate().map(|(s, state)| {
                let a = state.affine.as_ref().ok()?.a;
                self.exponential(StateId(s as u32), a)
                    .filter(|_| decay == Decay::Sum)
            });
            let sums: Vec<_> = sums.collect();
            Some(Chunks {
                summary: self.summary(&sums)?,
                carry: self.carry(&sums)?,
            })
        });
        made.as_ref()
    }

    fn summary(&self, sums: &[Option<Exponential>]) -> Option<Recurrence> {
        let mut r = self.source.clone();
        r.name.push_str("_summary");
        r.outputs.clear();
        r.states.clear();
        let decays = self.decays()?;
        let states = self.source.states.iter().zip(&self.states);
        for (((decl, state), complex), sum) in states.zip(decays).zip(sums) {
            let affine = state.affine.as_ref().ok()?;
            let h = StateId(r.states.len() as u32);
            r.states.push(StateDecl {
                init: 0.0,
                ..decl.clone()
            });
            let step = sum.as_ref().map(|sum| sum.step(&mut r.graph));
            r.states.push(match (sum, step) {
                (Some(sum), Some(step)) => StateDecl {
                    name: format!("{}_span", decl.name),
                    axes: sum.axes.clone(),
                    complex: r.graph.ty(step) == Type::Complex,
                    init: 0.0,
                    ..decl.clone()
                },
                _ => StateDecl {
                    name: format!("{}_decay", decl.name),
                    complex,
                    init: 1.0,
                    ..decl.clone()
                },
            });
            let (h, p) = (
                r.read_state(h, When::Prev),
                r.read_state(StateId(h.0 + 1), When::Prev),
            );
            let kept = scale(&mut r.graph, affine.a, h);
            let update = r.graph.op(Op::Add, &[kept, affine.b]);
            let decayed = match step {
                Some(step) => r.graph.op(Op::Add, &[p, step]),
                None => scale(&mut r.graph, affine.a, p),
            };
            let last = r.states.len() - 1;
            r.states[last - 1].update = update;
            r.states[last].update = decayed;
        }
        Some(simplify(&r.prune().split_complex()))
    }

    fn carry(&self, sums: &[Option<Exponential>]) -> Option<Recurrence> {
        let decays = self.decays()?;
        let source = &self.source;
        let mut r = Recurrence {
            states: vec![],
            outputs: vec![],
            ..source.clone()
        };
        r.name.push_str("_carry");
        let mut chunk = "chunk".to_owned();
        while source.axis_named(&chunk).is_some() {
            chunk.push('_');
        }
        r.axes[source.time.0 as usize].name = chunk;
        let states = source.states.iter().zip(&self.states);
        for (((decl, state), complex), sum) in states.zip(decays).zip(sums) {
            let affine = state.affine.as_ref().ok()?;
            let resets = is_reset(&source.graph, affine.a);
            let over = |axes: &[AxisId]| [&[source.time], axes].concat();
            let mut given = |what: &str, axes: &[AxisId], complex: bool| {
                r.inputs.push(InputDecl {
                    name: format!("{}_{what}", decl.name),
                    kind: InputKind::Tensor,
                    axes: over(axes),
                    complex,
                    optional: false,
                });
                let input = InputId(r.inputs.len() as u32 - 1);
                r.read_input(input)
            };
            let summary = given("summary", &decl.axes, decl.complex);
            let decay = match sum {
                Some(sum) => {
                    let complex = sum
                        .step
                        .iter()
                        .any(|&x| source.graph.ty(x) == Type::Complex);
                    let span = given("span", &sum.axes, complex);
                    sum.of(&mut r.graph, span)
                }
                None => given("decay", &decl.axes, complex),
            };
            let state = StateId(r.states.len() as u32);
            r.states.push(decl.clone());
            let start = r.read_state(state, When::Prev);
            let kept = r.graph.op(Op::Mul, &[decay, start]);
            let mut update = r.graph.op(Op::Add, &[kept, summary]);
            if resets {
                let size = norm(&mut r.graph, decay);
                let zero = r.graph.constant(0.0);
                let reset = r.graph.op(Op::Eq, &[size, zero]);
                update = r.graph.op(Op::Select, &[reset, summary, update]);
            }
            r.states[state.0 as usize].update = update;
            r.outputs.push(OutputDecl {
                name: format!("{}_start", decl.name),
                axes: over(&decl.axes),
                complex: decl.complex,
                value: start,
                value_im: None,
            });
        }
        Some(simplify(&r.prune().split_complex()))
    }

    /// `a` as an exponential whose Σ s has fewer points than the state. Axes that every output has stay axes of Σ s: those
    /// are parallel, and its points are then known where the others are.
    fn exponential(&self, state: StateId, a: NodeId) -> Option<Exponential> {
        let (r, g) = (&self.source, &self.source.graph);
        let Node::Op(op @ (Op::Exp | Op::Exp2), xs) = g.node(a) else {
            return None;
        };
        let mut found = Exponential {
            op: *op,
            negative: false,
            alpha: vec![],
            beta: vec![],
            step: vec![],
            axes: vec![],
        };
        let mut factors = vec![xs[0]];
        while let Some(x) = factors.pop() {
            match g.node(x) {
                _ if !g.varies_in_time(x) => found.alpha.push(x),
                Node::Op(Op::Mul, xs) => factors.extend(xs),
                Node::Op(Op::Neg, xs) => {
                    found.negative ^= true;
                    factors.push(xs[0]);
                }
                Node::Op(Op::Div, xs) if !g.varies_in_time(xs[1]) => {
                    found.beta.push(xs[1]);
                    factors.push(xs[0]);
                }
                _ => found.step.push(x),
            }
        }
        let own = &r.state(state).axes;
        let needed = |axis: &AxisId| {
            let all = r.outputs.iter().all(|o| o.axes.contains(axis));
            all || found.step.iter().any(|&x| g.axes(x).contains(*axis))
        };
        let axes: Vec<AxisId> = own.iter().copied().filter(needed).collect();
        (axes.len() < own.len()).then_some(Exponential { axes, ..found })
    }

    /// Whether every state is diagonal by itself, so that [`Scan::chunks`] exist.
    #[must_use]
    pub fn is_diagonal(&self) -> bool {
        self.decays().is_some()
    }

    /// For each state whether its decay is complex; `None` if a state is not diagonal by itself.
    fn decays(&self) -> Option<Vec<bool>> {
        let diagonal = |class| {
            matches!(
                class,
                Class::LtiDiagonal | Class::SelectiveDiagonal | Class::ScalarDecay
            )
        };
        let states = self.source.states.iter().zip(&self.states);
        states
            .map(|(decl, state)| {
                let affine = state.affine.as_ref().ok()?;
                let free = |id: NodeId| {
                    let nodes = self.source.graph.reachable(&[id]);
                    nodes
                        .iter()
                        .all(|&id| !matches!(self.source.graph.node(id), Node::State { .. }))
                };
                let own = diagonal(state.class) && !decl.hidden && free(affine.a) && free(affine.b);
                own.then(|| self.source.graph.ty(affine.a) == Type::Complex)
            })
            .collect()
    }
}

impl Exponential {
    /// s.
    fn step(&self, g: &mut Graph) -> NodeId {
        let all = self.step.iter().copied();
        let product = all.reduce(|x, y| g.op(Op::Mul, &[x, y]));
        product.unwrap_or_else(|| g.constant(1.0))
    }

    /// The exponential of a span, which is Σ s.
    fn of(&self, g: &mut Graph, span: NodeId) -> NodeId {
        let mut x = span;
        for &alpha in &self.alpha {
            x = g.op(Op::Mul, &[x, alpha]);
        }
        for &beta in &self.beta {
            x = g.op(Op::Div, &[x, beta]);
        }
        if self.negative {
            x = g.op(Op::Neg, &[x]);
        }
        g.op(self.op, &[x])
    }
}

/// Whether `a` has a select between something and nothing among its factors.
pub(crate) fn is_reset(g: &Graph, a: NodeId) -> bool {
    match g.node(a) {
        Node::Op(Op::Select, xs) => {
            let zero = |x: &NodeId| g.as_constant(*x) == Some(0.0);
            xs[1..].iter().any(|x| zero(x) || is_reset(g, *x))
        }
        Node::Op(Op::Mul, xs) => xs.iter().any(|&x| is_reset(g, x)),
        Node::Op(Op::Neg | Op::Div, xs) => is_reset(g, xs[0]),
        _ => false,
    }
}

/// a · x, with the selects among the factors of `a` as selects of x.
pub(crate) fn scale(g: &mut Graph, a: NodeId, x: NodeId) -> NodeId {
    if g.as_constant(a) == Some(1.0) {
        return x;
    }
    if g.as_constant(a) == Some(0.0) {
        return a;
    }
    if !is_reset(g, a) {
        return g.op(Op::Mul, &[a, x]);
    }
    let Node::Op(op, xs) = g.node(a).clone() else {
        return g.op(Op::Mul, &[a, x]);
    };
    match op {
        Op::Select => {
            let (p, q) = (scale(g, xs[1], x), scale(g, xs[2], x));
            g.op(Op::Select, &[xs[0], p, q])
        }
        Op::Mul => {
            let (outer, inner) = if is_reset(g, xs[0]) {
                (xs[1], xs[0])
            } else {
                (xs[0], xs[1])
            };
            let inner = scale(g, inner, x);
            scale(g, outer, inner)
        }
        _ => {
            let inner = scale(g, xs[0], x);
            let rest = [&[inner], &xs[1..]].concat();
            g.op(op, &rest)
        }
    }
}

/// |Re x| + |Im x|: 0 where x is.
fn norm(g: &mut Graph, x: NodeId) -> NodeId {
    if g.ty(x) != Type::Complex {
        return g.op(Op::Abs, &[x]);
    }
    let (re, im) = (g.op(Op::Re, &[x]), g.op(Op::Im, &[x]));
    let (re, im) = (g.op(Op::Abs, &[re]), g.op(Op::Abs, &[im]));
    g.op(Op::Add, &[re, im])
}
