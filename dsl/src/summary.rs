//! The recurrences of the time-chunked algorithm.
//!
//! In: a [`Scan`] whose every state is h' = a ⊙ h + b with a and b free of all states. A run of steps is then
//! the map h ↦ P ⊙ h + S, and runs compose: (P₂, S₂) ∘ (P₁, S₁) = (P₂P₁, P₂S₁ + S₂). Out:
//!
//! ```text
//! summary, over the steps of one chunk:   S' = a ⊙ S + b, S = 0        P' = a ⊙ P, P = 1
//! carry, over the chunks:                 start = h                    h' = P ⊙ h + S
//! ```
//! The chunks' own steps then run from `start`, each chunk by itself.
//!
//! Where a sequence starts (`select(keep > 0.5, h, 0)`) the state is forgotten even if it is not a number, which
//! 0 · NaN would not do: a select of a stays a select of what a multiplies, and a chunk whose P is 0 carries S.

use crate::expr::{Graph, InputId, Node, NodeId, StateId, Type, When};
use crate::op::Op;
use crate::recurrence::{InputDecl, InputKind, OutputDecl, Recurrence, StateDecl};
use crate::scan::{Class, Scan};
use crate::simplify::simplify;

impl Scan {
    /// The recurrence of a chunk's summary: for each state `h` the states `h` (from 0) and `h_decay` (from 1),
    /// in this order; no outputs, and only the inputs that it reads. Real and simplified.
    ///
    /// `None` unless every state is diagonal by itself.
    #[must_use]
    pub fn summary(&self) -> Option<&Recurrence> {
        let made = self.derived.summary.get_or_init(|| self.make_summary());
        made.as_ref()
    }

    fn make_summary(&self) -> Option<Recurrence> {
        let mut r = self.source.clone();
        r.name.push_str("_summary");
        r.outputs.clear();
        r.states.clear();
        let decays = self.decays()?;
        for ((decl, state), complex) in self.source.states.iter().zip(&self.states).zip(decays) {
            let affine = state.affine.as_ref().ok()?;
            let h = StateId(r.states.len() as u32);
            r.states.push(StateDecl {
                init: 0.0,
                ..decl.clone()
            });
            r.states.push(StateDecl {
                name: format!("{}_decay", decl.name),
                complex,
                init: 1.0,
                ..decl.clone()
            });
            let (h, p) = (
                r.read_state(h, When::Prev),
                r.read_state(StateId(h.0 + 1), When::Prev),
            );
            let kept = scale(&mut r.graph, affine.a, h);
            let update = r.graph.op(Op::Add, &[kept, affine.b]);
            let decayed = scale(&mut r.graph, affine.a, p);
            let last = r.states.len() - 1;
            r.states[last - 1].update = update;
            r.states[last].update = decayed;
        }
        Some(simplify(&r.prune().split_complex()))
    }

    /// The recurrence over chunks: inputs `h_summary` and `h_decay` \[chunk, axes of h\] for each state `h`, its
    /// value before each chunk as output `h_start` \[chunk, axes of h\]. The time axis is named `chunk`
    /// (`chunk_` if the kernel has such an axis) and is the same [`crate::AxisId`]; the other axes are as they
    /// were. Real and simplified.
    ///
    /// `None` unless every state is diagonal by itself.
    #[must_use]
    pub fn carry(&self) -> Option<&Recurrence> {
        let made = self.derived.carry.get_or_init(|| self.make_carry());
        made.as_ref()
    }

    fn make_carry(&self) -> Option<Recurrence> {
        let decays = self.decays()?;
        let source = &self.source;
        let mut r = Recurrence {
            inputs: vec![],
            states: vec![],
            outputs: vec![],
            graph: Graph::new(source.time),
            ..source.clone()
        };
        r.name.push_str("_carry");
        let mut chunk = "chunk".to_owned();
        while source.axis_named(&chunk).is_some() {
            chunk.push('_');
        }
        r.axes[source.time.0 as usize].name = chunk;
        let states = source.states.iter().zip(&self.states);
        for ((decl, state), complex) in states.zip(decays) {
            let affine = state.affine.as_ref().ok()?;
            let resets = is_reset(&source.graph, affine.a);
            let axes: Vec<_> = [source.time].into_iter().chain(decl.axes.clone()).collect();
            let mut given = |what: &str, complex: bool| {
                r.inputs.push(InputDecl {
                    name: format!("{}_{what}", decl.name),
                    kind: InputKind::Tensor,
                    axes: axes.clone(),
                    complex,
                    optional: false,
                });
                let input = InputId(r.inputs.len() as u32 - 1);
                r.read_input(input)
            };
            let (summary, decay) = (given("summary", decl.complex), given("decay", complex));
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
                axes,
                complex: decl.complex,
                value: start,
                value_im: None,
            });
        }
        Some(simplify(&r.split_complex()))
    }

    /// Whether every state is diagonal by itself, so that [`Scan::summary`] and [`Scan::carry`] exist.
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
