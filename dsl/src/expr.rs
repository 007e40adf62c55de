//! Expressions: a hash-consed graph of scalar nodes over named axes.
//!
//! Every node is a function of a point (one index per axis) and of time. Equal nodes are the same node.
//! All data movement (renamed axes, groups) sits in the reads of inputs and states; what is left is
//! arithmetic that broadcasts by axis name.

use std::hash::{Hash, Hasher};

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;

use crate::axis::{AxisId, AxisSet};
use crate::op::Op;

/// A node of a [`Graph`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

/// An input of a recurrence: an index into its inputs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct InputId(pub u32);

/// A state of a recurrence: an index into its states.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StateId(pub u32);

/// The type of a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Type {
    /// A real number.
    Real,
    /// A complex number.
    Complex,
    /// A condition: the result of a comparison, the first operand of `select`.
    Bool,
}

/// Which half of a stored element a read takes. Complex tensors are stored as (re, im) pairs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// A real element.
    Real,
    /// A complex element.
    Complex,
    /// The real half of a complex element (after [`crate::Recurrence::split_complex`]).
    Re,
    /// The imaginary half of a complex element.
    Im,
}

/// How one dimension of an input or state is indexed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AxisIndex {
    /// By the position on an axis (the declared one, or one that shares its extent: `alias::<N, N2>(x)`).
    At(AxisId),
    /// By group: `group::<G, H>(x)` reads position h / (H / G) of the declared axis G.
    Group {
        /// The axis whose position is divided (H).
        of: AxisId,
        /// The declared axis (G).
        groups: AxisId,
    },
}

impl AxisIndex {
    /// The axis that the index varies over.
    #[must_use]
    pub fn axis(self) -> AxisId {
        match self {
            AxisIndex::At(axis) | AxisIndex::Group { of: axis, .. } => axis,
        }
    }
}

/// Which value of a state is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum When {
    /// At the step before (t−1; t+1 for a reversed state).
    Prev,
    /// At this step, after its assignment.
    Next,
}

/// A reduction over one axis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ReduceOp {
    /// The sum; 0 over an empty axis.
    Sum,
    /// The maximum; −∞ over an empty axis, NaN if any element is NaN.
    Max,
}

/// What a node computes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Node {
    /// A constant, by its bits ([`Node::constant`]).
    Const(u64),
    /// `len::<N>()`: the extent of an axis, as a number.
    Extent(AxisId),
    /// `index::<N>()`: the position on an axis, as a number.
    Index(AxisId),
    /// An element of an input; one index per declared axis.
    Input {
        /// Which input.
        input: InputId,
        /// One index per declared axis, in memory order.
        index: Vec<AxisIndex>,
        /// Which half.
        part: Part,
    },
    /// An element of a state; one index per declared axis.
    State {
        /// Which state.
        state: StateId,
        /// Before or after its assignment.
        when: When,
        /// One index per declared axis, in memory order.
        index: Vec<AxisIndex>,
        /// Which half.
        part: Part,
    },
    /// A scalar operation on every point of the union of the operands' axes.
    Op(Op, Vec<NodeId>),
    /// A reduction over an axis of `x`.
    Reduce {
        /// Sum or maximum.
        op: ReduceOp,
        /// The axis that disappears.
        axis: AxisId,
        /// The reduced value.
        x: NodeId,
    },
    /// `push_front::<N>(x, fill)` (`by` = 1): x at n−1, and `fill` at 0.
    /// `push_back::<N>(x, fill)` (`by` = −1): x at n+1, and `fill` at the last position.
    /// `x` is a [`Node::State`] or [`Node::Input`]; `fill` does not vary over `axis`.
    Shift {
        /// The axis shifted along.
        axis: AxisId,
        /// 1 or −1.
        by: i8,
        /// The shifted value.
        x: NodeId,
        /// What enters at the open end.
        fill: NodeId,
    },
    /// `given(x, present, absent)`: one of two values, chosen when the kernel is specialised to the
    /// inputs that the caller gives ([`crate::Recurrence::specialize`]).
    Given {
        /// The optional input or flag.
        input: InputId,
        /// The value if it is given.
        present: NodeId,
        /// The value if it is not.
        absent: NodeId,
    },
}

impl Node {
    /// The node of a constant.
    #[must_use]
    pub fn constant(value: f64) -> Node {
        Node::Const(value.to_bits())
    }

    /// The nodes it reads, in order.
    #[must_use]
    pub fn operands(&self) -> Vec<NodeId> {
        let mut all = Vec::new();
        self.each_operand(|x| all.push(x));
        all
    }

    /// Calls `f` with each node that it reads, in order.
    pub fn each_operand(&self, mut f: impl FnMut(NodeId)) {
        match self {
            Node::Const(_)
            | Node::Extent(_)
            | Node::Index(_)
            | Node::Input { .. }
            | Node::State { .. } => {}
            Node::Op(_, xs) => xs.iter().copied().for_each(f),
            Node::Reduce { x, .. } => f(*x),
            Node::Shift { x, fill, .. } => {
                f(*x);
                f(*fill);
            }
            Node::Given {
                present, absent, ..
            } => {
                f(*present);
                f(*absent);
            }
        }
    }

    /// The same node over other operands.
    #[must_use]
    pub fn with_operands(&self, operands: &[NodeId]) -> Node {
        let mut node = self.clone();
        match &mut node {
            Node::Const(_)
            | Node::Extent(_)
            | Node::Index(_)
            | Node::Input { .. }
            | Node::State { .. } => {}
            Node::Op(_, xs) => xs.copy_from_slice(operands),
            Node::Reduce { x, .. } => *x = operands[0],
            Node::Shift { x, fill, .. } => (*x, *fill) = (operands[0], operands[1]),
            Node::Given {
                present, absent, ..
            } => (*present, *absent) = (operands[0], operands[1]),
        }
        node
    }
}

/// What is known of a node without looking at it: its axes (time included) and its type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// The axes that the value varies over, the time axis among them.
    pub axes: AxisSet,
    /// Its type.
    pub ty: Type,
}

/// A hash-consed graph; operands always come before the nodes that read them.
#[derive(Clone, Debug)]
pub struct Graph {
    time: AxisId,
    /// A node's place is its id.
    nodes: IndexSet<Node, FxBuildHasher>,
    info: Vec<Info>,
}

impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        self.time == other.time && self.nodes.as_slice() == other.nodes.as_slice()
    }
}

impl Hash for Graph {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.time, self.nodes.as_slice()).hash(state);
    }
}

impl Graph {
    /// An empty graph over the given time axis.
    #[must_use]
    pub fn new(time: AxisId) -> Self {
        Graph {
            time,
            nodes: IndexSet::default(),
            info: Vec::new(),
        }
    }

    /// The time axis: state reads vary over it.
    #[must_use]
    pub fn time(&self) -> AxisId {
        self.time
    }

    /// Adds a node, or finds the equal one.
    ///
    /// Operand types must fit ([`Op::result`]); the checker has made sure of it for a user's text.
    pub fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.find(&node) {
            return id;
        }
        self.info.push(self.infer(&node));
        NodeId(self.nodes.insert_full(node).0 as u32)
    }

    /// The id of a node that is there already.
    #[must_use]
    pub fn find(&self, node: &Node) -> Option<NodeId> {
        self.nodes.get_index_of(node).map(|i| NodeId(i as u32))
    }

    fn infer(&self, node: &Node) -> Info {
        let ty_of = |part: Part| {
            if part == Part::Complex {
                Type::Complex
            } else {
                Type::Real
            }
        };
        match node {
            Node::Const(_) | Node::Extent(_) => Info {
                axes: AxisSet::EMPTY,
                ty: Type::Real,
            },
            Node::Index(axis) => Info {
                axes: AxisSet::of(*axis),
                ty: Type::Real,
            },
            Node::Input { index, part, .. } => Info {
                axes: index.iter().map(|i| i.axis()).collect(),
                ty: ty_of(*part),
            },
            Node::State { index, part, .. } => {
                let axes: AxisSet = index.iter().map(|i| i.axis()).collect();
                Info {
                    axes: axes.with(self.time),
                    ty: ty_of(*part),
                }
            }
            Node::Op(op, xs) => {
                let axes = xs
                    .iter()
                    .fold(AxisSet::EMPTY, |set, &x| set.union(self.axes(x)));
                let types: Vec<Type> = xs.iter().map(|&x| self.ty(x)).collect();
                let ty = op.result(&types);
                debug_assert!(ty.is_some(), "{op:?} does not take {types:?}");
                Info {
                    axes,
                    ty: ty.unwrap_or(Type::Real),
                }
            }
            Node::Reduce { axis, x, .. } => Info {
                axes: self.axes(*x).without(*axis),
                ty: self.ty(*x),
            },
            Node::Shift { axis, x, fill, .. } => {
                let ty = if self.ty(*fill) == Type::Complex {
                    Type::Complex
                } else {
                    self.ty(*x)
                };
                Info {
                    axes: self.axes(*x).union(self.axes(*fill)).with(*axis),
                    ty,
                }
            }
            Node::Given {
                present, absent, ..
            } => {
                let ty = if self.ty(*absent) == Type::Complex {
                    Type::Complex
                } else {
                    self.ty(*present)
                };
                Info {
                    axes: self.axes(*present).union(self.axes(*absent)),
                    ty,
                }
            }
        }
    }

    /// The node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
    /// The axes that it varies over, time included.
    #[must_use]
    pub fn axes(&self, id: NodeId) -> AxisSet {
        self.info[id.0 as usize].axes
    }
    /// Its type.
    #[must_use]
    pub fn ty(&self, id: NodeId) -> Type {
        self.info[id.0 as usize].ty
    }
    /// Whether it varies in time.
    #[must_use]
    pub fn varies_in_time(&self, id: NodeId) -> bool {
        self.axes(id).contains(self.time)
    }
    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Whether there is no node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// Every node id, operands first.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// A constant.
    pub fn constant(&mut self, value: f64) -> NodeId {
        self.add(Node::constant(value))
    }
    /// An operation on nodes.
    pub fn op(&mut self, op: Op, operands: &[NodeId]) -> NodeId {
        self.add(Node::Op(op, operands.to_vec()))
    }
    /// The value of a constant node.
    #[must_use]
    pub fn as_constant(&self, id: NodeId) -> Option<f64> {
        match self.node(id) {
            Node::Const(bits) => Some(f64::from_bits(*bits)),
            _ => None,
        }
    }

    /// Every node that `roots` reach, operands first.
    #[must_use]
    pub fn reachable(&self, roots: &[NodeId]) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        for &root in roots {
            seen[root.0 as usize] = true;
        }
        for i in (0..self.nodes.len()).rev() {
            if seen[i] {
                self.nodes[i].each_operand(|x| seen[x.0 as usize] = true);
            }
        }
        self.ids().filter(|id| seen[id.0 as usize]).collect()
    }
}
