//! The properties that every kernel has without saying so, as functions from recurrence to recurrence.
//!
//! * [`Recurrence::specialize`]: which optional inputs are given is decided; no `given` is left.
//! * [`Recurrence::with_boundaries`]: packed sequences, h(t−1) := keep(t) ? h(t−1) : 0 with a new input `keep`,
//!   and [`Recurrence::boundary_inputs`]: the values of that input from the sequence index of every token.

use crate::array::Array;
use crate::axis::{AxisId, AxisSet};
use crate::expr::{AxisIndex, Graph, InputId, Node, NodeId, Part, Type, When};
use crate::op::Op;
use crate::recurrence::{InputDecl, InputKind, Recurrence};

impl Recurrence {
    /// The same recurrence for callers who give exactly the optional inputs and flags that `present` names.
    ///
    /// No [`Node::Given`] and no flag is left, absent inputs are gone (their reads are 0), and the
    /// remaining inputs, in their old order, are required.
    #[must_use]
    pub fn specialize(&self, present: &dyn Fn(&str) -> bool) -> Recurrence {
        let given = |input: InputId| {
            let decl = self.input(input);
            present(&decl.name) || (!decl.optional && decl.kind == InputKind::Tensor)
        };
        let mut new_ids = Vec::with_capacity(self.inputs.len());
        let mut inputs = Vec::new();
        for (i, decl) in self.inputs.iter().enumerate() {
            new_ids.push(InputId(inputs.len() as u32));
            if given(InputId(i as u32)) && decl.kind == InputKind::Tensor {
                inputs.push(InputDecl {
                    optional: false,
                    ..decl.clone()
                });
            }
        }
        let chosen = self.rebuild(|graph, node| match node {
            Node::Given {
                input,
                present,
                absent,
            } => {
                if given(input) {
                    present
                } else {
                    absent
                }
            }
            Node::Input { input, part, .. } if !given(input) => {
                let zero = graph.constant(0.0);
                if part == Part::Complex {
                    graph.op(Op::Complex, &[zero, zero])
                } else {
                    zero
                }
            }
            Node::Shift { axis, by, x, fill }
                if !matches!(graph.node(x), Node::Input { .. } | Node::State { .. }) =>
            {
                shifted_zero(graph, axis, by, fill)
            }
            node => graph.add(node),
        });
        // The branches not taken are in the graph still; rebuilding from the roots leaves them out.
        let mut out = chosen.rebuild(|graph, mut node| {
            if let Node::Input { input, .. } = &mut node {
                *input = new_ids[input.0 as usize];
            }
            graph.add(node)
        });
        out.inputs = inputs;
        out
    }

    /// The first axis, other than time, that every state and every output has: the one that packed
    /// sequences are told apart on.
    #[must_use]
    pub fn batch_axis(&self) -> Option<AxisId> {
        let states = self.states.iter().map(|s| &s.axes);
        let shared = states
            .chain(self.outputs.iter().map(|o| &o.axes))
            .map(|axes| axes.iter().copied().collect::<AxisSet>())
            .reduce(AxisSet::intersect)?;
        shared.without(self.time).iter().next()
    }

    /// The same recurrence over packed sequences.
    ///
    /// It has a real input `keep` `[batch axis, time]` (without a [`Self::batch_axis`]: `[time]`): 1 where a token
    /// goes on with the sequence of the token before it, 0 where a new sequence starts and every state is read
    /// as 0. States that run backwards read `keep_reverse`, which is 0 where the token after it is of
    /// another sequence. Each is there only if a state of that direction is read before its assignment, and is
    /// named `keep_`, … if the kernel has that name already.
    #[must_use]
    pub fn with_boundaries(&self) -> Recurrence {
        let axes: Vec<AxisId> = self.batch_axis().into_iter().chain([self.time]).collect();
        let mut out = self.clone();
        let mut keep_of = [None, None];
        for boundary in self.boundary_names() {
            keep_of[usize::from(boundary.reverse)] = Some(InputId(out.inputs.len() as u32));
            out.inputs.push(InputDecl {
                name: boundary.name,
                kind: InputKind::Tensor,
                axes: axes.clone(),
                complex: false,
                optional: false,
            });
        }
        let rebuilt = out.rebuild(|graph, node| {
            let read = match &node {
                Node::Shift { x, .. } => shifted_read(graph, *x),
                other => other.clone(),
            };
            let Some(input) = prev_state(&read)
                .and_then(|state| keep_of[usize::from(self.states[state].reverse)])
            else {
                return graph.add(node);
            };
            let reset = match node {
                // Only the value shifted is forgotten; what enters at the open end is of this token.
                Node::Shift { axis, by, fill, .. } => shifted_zero(graph, axis, by, fill),
                _ => graph.constant(0.0),
            };
            let value = match node {
                Node::Shift { axis, by, fill, .. } => {
                    let x = graph.add(read);
                    graph.add(Node::Shift { axis, by, x, fill })
                }
                read => graph.add(read),
            };
            let index = axes.iter().map(|&a| AxisIndex::At(a)).collect();
            let keep = graph.add(Node::Input {
                input,
                index,
                part: Part::Real,
            });
            let half = graph.constant(0.5);
            let kept = graph.op(Op::Gt, &[keep, half]);
            graph.op(Op::Select, &[kept, value, reset])
        });
        // Selects under a shift, built on the way up, are left behind by a rebuild from the roots.
        rebuilt.rebuild(Graph::add)
    }

    /// The values of the inputs that [`Self::with_boundaries`] adds, by name, from the sequence index of every
    /// token (`[batch, time]`, or `[time]` without a [`Self::batch_axis`]; real).
    ///
    /// The first token of a row goes on with the initial states, and so does the last for reversed states.
    #[must_use]
    pub fn boundary_inputs(&self, seq_idx: &Array) -> Vec<(String, Array)> {
        let len = seq_idx.shape.last().copied().unwrap_or(0);
        let keep = |reverse: bool| {
            let value = |i: usize| {
                let (edge, other) = if reverse {
                    (i % len == len - 1, i + 1)
                } else {
                    (i.is_multiple_of(len), i.wrapping_sub(1))
                };
                f64::from(u8::from(edge || seq_idx.data[i] == seq_idx.data[other]))
            };
            Array::real(&seq_idx.shape, (0..seq_idx.data.len()).map(value).collect())
        };
        self.boundary_names()
            .into_iter()
            .map(|boundary| (boundary.name, keep(boundary.reverse)))
            .collect()
    }

    /// The inputs that boundaries need, in order.
    fn boundary_names(&self) -> Vec<Boundary> {
        let reachable = self.graph.reachable(&self.roots());
        let read_before: Vec<usize> = reachable
            .iter()
            .filter_map(|&id| prev_state(self.graph.node(id)))
            .collect();
        [(false, "keep"), (true, "keep_reverse")]
            .into_iter()
            .filter(|&(reverse, _)| {
                read_before
                    .iter()
                    .any(|&s| self.states[s].reverse == reverse)
            })
            .map(|(reverse, base)| Boundary {
                reverse,
                name: self.free_name(base),
            })
            .collect()
    }

    /// `base`, with underscores added until no input, state or output has that name.
    pub(crate) fn free_name(&self, base: &str) -> String {
        let taken = |name: &str| {
            self.input_named(name).is_some()
                || self.state_named(name).is_some()
                || self.outputs.iter().any(|o| o.name == name)
        };
        let mut name = base.to_owned();
        while taken(&name) {
            name.push('_');
        }
        name
    }
}

/// An input that says where sequences end, for the states of one direction.
struct Boundary {
    reverse: bool,
    name: String,
}

/// The state that `node` reads before its assignment.
fn prev_state(node: &Node) -> Option<usize> {
    match node {
        Node::State {
            state,
            when: When::Prev,
            ..
        } => Some(state.0 as usize),
        _ => None,
    }
}

/// The read under a shift: `x` itself, or the state read that a select of [`Recurrence::with_boundaries`] wraps.
fn shifted_read(graph: &Graph, x: NodeId) -> Node {
    match graph.node(x) {
        Node::Op(Op::Select, xs) => graph.node(xs[1]).clone(),
        node => node.clone(),
    }
}

/// A tensor of zeros shifted along `axis`: `fill` at the open end, 0 elsewhere.
fn shifted_zero(graph: &mut Graph, axis: AxisId, by: i8, fill: NodeId) -> NodeId {
    let at = graph.add(Node::Index(axis));
    let edge = if by > 0 {
        graph.constant(0.0)
    } else {
        let (len, one) = (graph.add(Node::Extent(axis)), graph.constant(1.0));
        graph.op(Op::Sub, &[len, one])
    };
    let open = graph.op(Op::Eq, &[at, edge]);
    let mut zero = graph.constant(0.0);
    if graph.ty(fill) == Type::Complex {
        zero = graph.op(Op::Complex, &[zero, zero]);
    }
    graph.op(Op::Select, &[open, fill, zero])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn kernel() -> Recurrence {
        Recurrence::parse(
            "#[ssm_kernel]
             fn f(x: Tensor<D, L, B>, z: Option<Tensor<B, L>>, a: Tensor<D>, c: Option<Complex<D>>, up: Flag,
                  h: State<D, B>, #[reverse] g: ComplexState<B, D>) -> Tensor<L, B, D> {
                 h = a * h + given(up, 2 * x, x);
                 g = g * c + x;
                 given(z, z * re(g), h) * re(g)
             }",
        )
        .unwrap()
    }

    #[test]
    fn specialising_leaves_what_is_given() {
        let r = kernel().specialize(&|name| name == "z");
        let names: Vec<&str> = r.inputs.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["x", "z", "a"]);
        assert!(r.inputs.iter().all(|i| !i.optional));
        let reachable = r.graph.reachable(&r.roots());
        assert_eq!(reachable.len(), r.graph.len());
        for &id in &reachable {
            assert!(!matches!(r.graph.node(id), Node::Given { .. }));
            if let Node::Input { input, index, .. } = r.graph.node(id) {
                assert_eq!(index.len(), r.input(*input).axes.len());
            }
        }
        assert_eq!(r.specialize(&|_| false), r);
        let up = kernel().specialize(&|name| name == "up");
        assert_eq!(up.inputs.len(), 2);
        assert_ne!(up.graph, kernel().specialize(&|_| false).graph);
    }

    #[test]
    fn the_batch_is_the_first_axis_that_all_share() {
        let r = kernel();
        assert_eq!(r.batch_axis(), r.axis_named("D"));
        let shift = Recurrence::parse(
            "#[ssm_kernel] fn f(x: Tensor<L, B>, w: Tensor<L>) -> Tensor<L, B> { x * delay(w, 1) }",
        );
        assert_eq!(shift.unwrap().batch_axis(), None);
    }

    #[test]
    fn each_direction_has_its_own_boundary() {
        let r = kernel().specialize(&|_| true);
        let bounded = r.with_boundaries();
        let added: Vec<&str> = bounded.inputs[r.inputs.len()..]
            .iter()
            .map(|i| i.name.as_str())
            .collect();
        assert_eq!(added, ["keep", "keep_reverse"]);
        let seq_idx = Array::real(&[1, 5], vec![7.0, 7.0, 8.0, 7.0, 7.0]);
        let inputs = r.boundary_inputs(&seq_idx);
        assert_eq!(inputs[0].1.data, [1.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(inputs[1].1.data, [1.0, 0.0, 0.0, 1.0, 1.0]);
        // A kernel whose states are never read before their assignment has nothing to forget.
        let plain = Recurrence::parse("#[ssm_kernel] fn f(x: Tensor<B, L>) -> Tensor<B, L> { x }");
        assert!(plain.unwrap().boundary_inputs(&seq_idx).is_empty());
    }
}
