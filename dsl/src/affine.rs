//! Whether a state's update is affine in the state itself: h' = a ⊙ h + b with a and b free of h.
//!
//! In: a specialised recurrence of one direction (complex or real) and one of its states. Out: the nodes a
//! and b, added to the recurrence's graph, or the reason why there are none.
//! A structural recursion over the update: every node is free of h, or affine in h with known (a, b), or
//! affine but coupled to h at other positions, or not affine.
//!
//! ```text
//! h → (1, 0)    x → (0, x)    p ± q → (aₚ ± a_q, bₚ ± b_q)    k·p → (k·aₚ, k·bₚ)    select(c, p, q) → by halves
//! Σ over an axis that h is not indexed by → (Σa, Σb);  by one that it is → coupled: low-rank or dense
//! ```

use std::fmt;

use crate::expr::{AxisIndex, Graph, Node, NodeId, ReduceOp, StateId, When};
use crate::op::Op;
use crate::recurrence::Recurrence;
use crate::scan::Class;
use crate::syntax::symbol;

/// h' = a ⊙ h + b, as nodes of the scan's source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Affine {
    /// The decay: free of h.
    pub a: NodeId,
    /// The drive: free of h.
    pub b: NodeId,
}

/// Why a state's update is not a ⊙ h + b.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WhyNot {
    /// What it is instead.
    pub class: Class,
    /// A sentence that names the operation.
    pub reason: String,
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What a node is to the state.
#[derive(Clone)]
enum Form {
    /// Free of the state.
    Free,
    /// a ⊙ h\[index\] + b; no b means 0.
    Affine {
        index: Vec<AxisIndex>,
        a: NodeId,
        b: Option<NodeId>,
    },
    /// Affine, but in h at other positions too.
    Coupled(WhyNot),
}

/// Derives (a, b) for `state`. `component` holds the states that read `state`, directly or not, and are read
/// by it, in the order of their assignments; at least `state` itself.
///
/// # Errors
/// The operation that breaks it.
pub fn derive(r: &mut Recurrence, state: StateId, component: &[StateId]) -> Result<Affine, WhyNot> {
    let mut derivation = Derivation {
        state,
        component,
        forms: vec![None; r.graph.len()],
    };
    for &s in component {
        let update = r.state(s).update;
        for id in r.graph.reachable(&[update]) {
            if derivation.forms[id.0 as usize].is_none() {
                let form = derivation.form(r, id);
                derivation.forms[id.0 as usize] = Some(form);
            }
        }
    }
    let update = r.state(state).update;
    let plain = plain_index(r, state);
    match derivation.of(update)? {
        Form::Free => Ok(Affine {
            a: r.graph.constant(0.0),
            b: update,
        }),
        Form::Affine { index, a, b } if index == plain => Ok(Affine {
            a,
            b: b.unwrap_or_else(|| r.graph.constant(0.0)),
        }),
        Form::Affine { .. } => Err(WhyNot {
            class: Class::Dense,
            reason: format!("{} is read at other positions", r.state(state).name),
        }),
        Form::Coupled(why) => Err(why),
    }
}

/// The index of a state at its own point.
pub(crate) fn plain_index(r: &Recurrence, state: StateId) -> Vec<AxisIndex> {
    let axes = &r.state(state).axes;
    axes.iter().map(|&a| AxisIndex::At(a)).collect()
}

struct Derivation<'a> {
    state: StateId,
    component: &'a [StateId],
    forms: Vec<Option<Result<Form, WhyNot>>>,
}

impl Derivation<'_> {
    fn of(&self, id: NodeId) -> Result<Form, WhyNot> {
        // Nodes that the derivation itself added are free of the state.
        match self.forms.get(id.0 as usize) {
            Some(Some(form)) => form.clone(),
            _ => Ok(Form::Free),
        }
    }

    fn form(&self, r: &mut Recurrence, id: NodeId) -> Result<Form, WhyNot> {
        let node = r.graph.node(id).clone();
        let mut forms = Vec::new();
        for x in node.operands() {
            forms.push(self.of(x)?);
        }
        if let Node::State {
            state, when, index, ..
        } = &node
        {
            return self.read(r, *state, *when, index);
        }
        if forms.iter().all(|f| matches!(f, Form::Free)) {
            return Ok(Form::Free);
        }
        let not_affine = |r: &Recurrence, how: &str| {
            Err(WhyNot {
                class: Class::NotAffine,
                reason: how
                    .replace("{term}", &short(r, id))
                    .replace("{h}", &r.state(self.state).name),
            })
        };
        match &node {
            Node::Op(op, xs) => match (op, forms.as_slice()) {
                (Op::Neg, [p]) => Ok(linear(r, p, |g, x| g.op(Op::Neg, &[x]))),
                (Op::Add | Op::Sub, [p, q]) => Ok(self.add(r, *op, (xs[0], p), (xs[1], q))),
                (Op::Mul, [Form::Free, p]) => Ok(linear(r, p, |g, x| product(g, xs[0], x))),
                (Op::Mul, [p, Form::Free]) => Ok(linear(r, p, |g, x| product(g, x, xs[1]))),
                (Op::Mul, _) => {
                    not_affine(r, "{term} multiplies two terms that both depend on {h}")
                }
                (Op::Div, [p, Form::Free]) => Ok(linear(r, p, |g, x| g.op(Op::Div, &[x, xs[1]]))),
                (Op::Div, _) => not_affine(r, "{term} divides by a term that depends on {h}"),
                (Op::Select, [Form::Free, p, q]) => {
                    Ok(self.select(r, xs[0], (xs[1], p), (xs[2], q)))
                }
                (Op::Re | Op::Im | Op::Conj, [p]) if !r.state(self.state).complex => {
                    Ok(linear(r, p, |g, x| g.op(*op, &[x])))
                }
                (Op::Re | Op::Im | Op::Conj, _) => {
                    not_affine(r, "{term} is not a complex multiple of {h}")
                }
                _ if op.is_comparison() => not_affine(r, "the condition {term} depends on {h}"),
                _ => not_affine(r, "{term} is not affine in {h}"),
            },
            Node::Reduce {
                op: ReduceOp::Sum,
                axis,
                ..
            } => Ok(self.sum(r, *axis, &forms[0])),
            Node::Reduce { .. } => not_affine(r, "{term} is not affine in {h}"),
            Node::Shift { .. } => Ok(Form::Coupled(WhyNot {
                class: Class::Shift,
                reason: format!(
                    "{} depends on {} at other positions",
                    short(r, id),
                    r.state(self.state).name
                ),
            })),
            _ => not_affine(r, "{term} is not specialised"),
        }
    }

    fn read(
        &self,
        r: &mut Recurrence,
        state: StateId,
        when: When,
        index: &[AxisIndex],
    ) -> Result<Form, WhyNot> {
        if state == self.state && when == When::Prev {
            return Ok(Form::Affine {
                index: index.to_vec(),
                a: r.graph.constant(1.0),
                b: None,
            });
        }
        if !self.component.contains(&state) {
            return Ok(Form::Free);
        }
        if when == When::Next {
            // Assigned before: it is what its update is, at least where it is read plainly.
            if let Form::Free = self.of(r.state(state).update)? {
                return Ok(Form::Free);
            }
        }
        Ok(Form::Coupled(WhyNot {
            class: Class::Dense,
            reason: format!(
                "{} and {} depend on each other",
                r.state(self.state).name,
                r.state(state).name
            ),
        }))
    }

    fn add(&self, r: &mut Recurrence, op: Op, p: (NodeId, &Form), q: (NodeId, &Form)) -> Form {
        let g = &mut r.graph;
        match (p.1, q.1) {
            (Form::Coupled(w), Form::Coupled(v)) => {
                Form::Coupled(if v.class > w.class { v } else { w }.clone())
            }
            (Form::Coupled(w), _) | (_, Form::Coupled(w)) => Form::Coupled(w.clone()),
            (Form::Free, Form::Free) => Form::Free,
            (Form::Affine { index, a, b }, Form::Free) => Form::Affine {
                index: index.clone(),
                a: *a,
                b: Some(match (op, b) {
                    (_, Some(b)) => g.op(op, &[*b, q.0]),
                    (Op::Sub, None) => g.op(Op::Neg, &[q.0]),
                    (_, None) => q.0,
                }),
            },
            (Form::Free, Form::Affine { index, a, b }) => Form::Affine {
                index: index.clone(),
                a: if op == Op::Sub {
                    g.op(Op::Neg, &[*a])
                } else {
                    *a
                },
                b: Some(match b {
                    Some(b) => g.op(op, &[p.0, *b]),
                    None => p.0,
                }),
            },
            (
                Form::Affine { index, a, b },
                Form::Affine {
                    index: index_q,
                    a: a_q,
                    b: b_q,
                },
            ) if index == index_q => Form::Affine {
                index: index.clone(),
                a: g.op(op, &[*a, *a_q]),
                b: match (b, b_q) {
                    (Some(b), Some(c)) => Some(g.op(op, &[*b, *c])),
                    (None, Some(c)) if op == Op::Sub => Some(g.op(Op::Neg, &[*c])),
                    (b, c) => b.or(*c),
                },
            },
            (Form::Affine { .. }, Form::Affine { .. }) => Form::Coupled(WhyNot {
                class: Class::Dense,
                reason: format!(
                    "{} is read at two different positions",
                    r.state(self.state).name
                ),
            }),
        }
    }

    fn select(
        &self,
        r: &mut Recurrence,
        c: NodeId,
        p: (NodeId, &Form),
        q: (NodeId, &Form),
    ) -> Form {
        let plain = match (p.1, q.1) {
            (Form::Coupled(w), _) | (_, Form::Coupled(w)) => return Form::Coupled(w.clone()),
            (Form::Affine { index, .. }, Form::Affine { index: other, .. }) if index != other => {
                return self.add(r, Op::Add, p, q);
            }
            (Form::Affine { index, .. }, _) | (_, Form::Affine { index, .. }) => index.clone(),
            (Form::Free, Form::Free) => return Form::Free,
        };
        let zero = r.graph.constant(0.0);
        let half = |(id, form): (NodeId, &Form)| match form {
            Form::Affine { a, b, .. } => (*a, b.unwrap_or(zero)),
            _ => (zero, id),
        };
        let ((a_p, b_p), (a_q, b_q)) = (half(p), half(q));
        let a = r.graph.op(Op::Select, &[c, a_p, a_q]);
        let b = if b_p == b_q {
            b_p
        } else {
            r.graph.op(Op::Select, &[c, b_p, b_q])
        };
        Form::Affine {
            index: plain,
            a,
            b: (b != zero).then_some(b),
        }
    }

    fn sum(&self, r: &mut Recurrence, axis: crate::AxisId, x: &Form) -> Form {
        let Form::Affine { index, a, b } = x else {
            return x.clone();
        };
        if index.iter().all(|i| i.axis() != axis) {
            return Form::Affine {
                index: index.clone(),
                a: sum_over(&mut r.graph, axis, *a),
                b: b.map(|b| sum_over(&mut r.graph, axis, b)),
            };
        }
        // Σₙ kₙ hₙ has rank one. Under another name of the axis the coefficient may be a whole matrix.
        let canonical = r.canonical(axis);
        let matrix = r.state(self.state).axes.iter().any(|&own| {
            own != axis && r.canonical(own) == canonical && r.graph.axes(*a).contains(own)
        }) && r.graph.axes(*a).contains(axis);
        let (class, how) = if matrix {
            (Class::Dense, "a dense matrix")
        } else {
            (Class::LowRank, "of low rank")
        };
        Form::Coupled(WhyNot {
            class,
            reason: format!(
                "{} is summed over {}: its transition is {how}",
                r.state(self.state).name,
                r.axis_name(axis),
            ),
        })
    }
}

/// Applies a linear map to a and b.
fn linear(r: &mut Recurrence, p: &Form, mut f: impl FnMut(&mut Graph, NodeId) -> NodeId) -> Form {
    match p {
        Form::Affine { index, a, b } => Form::Affine {
            index: index.clone(),
            a: f(&mut r.graph, *a),
            b: b.map(|b| f(&mut r.graph, b)),
        },
        _ => p.clone(),
    }
}

/// x·y, without a factor that is 1.
fn product(g: &mut Graph, x: NodeId, y: NodeId) -> NodeId {
    match (g.as_constant(x), g.as_constant(y)) {
        (Some(1.0), _) => y,
        (_, Some(1.0)) => x,
        _ => g.op(Op::Mul, &[x, y]),
    }
}

fn sum_over(g: &mut Graph, axis: crate::AxisId, x: NodeId) -> NodeId {
    if g.axes(x).contains(axis) {
        g.add(Node::Reduce {
            op: ReduceOp::Sum,
            axis,
            x,
        })
    } else {
        let len = g.add(Node::Extent(axis));
        product(g, x, len)
    }
}

/// The node with its operands abbreviated: names and constants as they are, everything else as `…`.
fn short(r: &Recurrence, id: NodeId) -> String {
    let leaf = |id: NodeId| match r.graph.node(id) {
        Node::Const(bits) => f64::from_bits(*bits).to_string(),
        Node::Input { input, .. } => r.input(*input).name.clone(),
        Node::State { state, .. } => r.state(*state).name.clone(),
        Node::Extent(axis) => format!("len::<{}>()", r.axis_name(*axis)),
        Node::Index(axis) => format!("index::<{}>()", r.axis_name(*axis)),
        _ => "…".to_owned(),
    };
    let node = r.graph.node(id);
    let xs: Vec<String> = node.operands().into_iter().map(leaf).collect();
    match node {
        Node::Op(op, _) => {
            let Some(infix) = symbol(*op) else {
                return format!("{}({})", op.name(), xs.join(", "));
            };
            xs.join(&format!(" {infix} "))
        }
        Node::Reduce { op, axis, .. } => {
            let name = match op {
                ReduceOp::Sum => "sum",
                ReduceOp::Max => "max",
            };
            format!("{name}::<{}>({})", r.axis_name(*axis), xs.join(", "))
        }
        Node::Shift { axis, by, .. } => {
            let name = if *by > 0 { "push_front" } else { "push_back" };
            format!("{name}::<{}>({})", r.axis_name(*axis), xs.join(", "))
        }
        Node::Given { input, .. } => format!("given({}, …)", r.input(*input).name),
        _ => leaf(id),
    }
}
