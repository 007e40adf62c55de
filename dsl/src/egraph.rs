//! The e-graph of a real recurrence: its terms, and what is known of every class of equal ones.
//!
//! In: a real [`Recurrence`]. Out: one e-graph with all its roots, for the rules ([`crate::rules`]) to grow and
//! for [`crate::extract`] to choose from. Constants are folded on the way.

use std::fmt;

use egg::{Analysis, DidMerge, EGraph, Id, Language};

use crate::axis::{AxisId, AxisSet};
use crate::expr::{InputId, Node, NodeId, ReduceOp};
use crate::op::Op;
use crate::recurrence::Recurrence;

/// What a term is, without its operands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Label {
    /// A number, by its bits.
    Const(u64),
    /// A condition that is known.
    Truth(bool),
    /// The extent of an axis.
    Extent(AxisId),
    /// A read or an index: that node of the recurrence, varying over these axes.
    Leaf(NodeId, AxisSet),
    /// An operation.
    Op(Op),
    /// A reduction over an axis.
    Reduce(ReduceOp, AxisId),
    /// A shift of that read; the operand is the fill.
    Shift(AxisId, i8, NodeId, AxisSet),
    /// A compile-time choice.
    Given(InputId),
}

/// A term over classes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Term {
    label: Label,
    len: u8,
    operands: [Id; 3],
}

impl Term {
    /// A term; at most three operands.
    #[must_use]
    pub fn new(label: Label, operands: &[Id]) -> Self {
        let mut term = Term {
            label,
            len: operands.len().min(3) as u8,
            operands: [Id::from(0); 3],
        };
        for (to, from) in term.operands.iter_mut().zip(operands) {
            *to = *from;
        }
        term
    }
    /// The term of a number.
    #[must_use]
    pub fn constant(value: f64) -> Self {
        // One zero: the sign of a zero is not kept.
        Term::new(Label::Const((value + 0.0).to_bits()), &[])
    }
    /// What it is.
    #[must_use]
    pub fn label(&self) -> Label {
        self.label
    }
    /// The same term over another axis, where it names axis `from`.
    #[must_use]
    pub fn rename_axis(mut self, from: AxisId, to: AxisId) -> Self {
        if let Label::Extent(axis) | Label::Reduce(_, axis) = &mut self.label
            && *axis == from
        {
            *axis = to;
        }
        self
    }
}

impl Language for Term {
    type Discriminant = Label;
    fn discriminant(&self) -> Label {
        self.label
    }
    fn matches(&self, other: &Self) -> bool {
        self.label == other.label && self.len == other.len
    }
    fn children(&self) -> &[Id] {
        &self.operands[..self.len as usize]
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.operands[..self.len as usize]
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label {
            Label::Const(bits) => write!(f, "{}", f64::from_bits(bits)),
            Label::Op(op) => f.write_str(op.name()),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What is known of every term of a class.
#[derive(Clone, PartialEq, Debug)]
pub struct Known {
    /// The axes that the value varies over: no more than any of its terms does.
    pub axes: AxisSet,
    /// Its value, if that is a finite constant (1 or 0 for a condition), by its bits.
    pub constant: Option<u64>,
    /// Whether it is a condition.
    pub condition: bool,
}

/// The analysis that keeps [`Known`] and folds constants.
#[derive(Clone, Default)]
pub struct Facts;

impl Analysis<Term> for Facts {
    type Data = Known;

    fn make(egraph: &mut EGraph<Term, Self>, term: &Term, _: Id) -> Known {
        let operands: Vec<&Known> = term.children().iter().map(|&x| &egraph[x].data).collect();
        let union = operands
            .iter()
            .fold(AxisSet::EMPTY, |set, x| set.union(x.axes));
        let mut known = Known {
            axes: union,
            constant: None,
            condition: false,
        };
        match term.label {
            Label::Const(bits) => known.constant = Some(bits),
            Label::Truth(truth) => {
                known.constant = Some(f64::from(u8::from(truth)).to_bits());
                known.condition = true;
            }
            Label::Extent(_) | Label::Given(_) => {}
            Label::Leaf(_, axes) => known.axes = axes,
            Label::Reduce(_, axis) => known.axes = union.without(axis),
            Label::Shift(axis, _, _, axes) => known.axes = union.union(axes).with(axis),
            Label::Op(op) => {
                known.condition = op.is_comparison();
                let values: Option<Vec<f64>> = operands
                    .iter()
                    .map(|x| x.constant.map(f64::from_bits))
                    .collect();
                known.constant = values
                    .map(|values| (op.info().real)(&values))
                    .filter(|value| value.is_finite())
                    .map(|value| (value + 0.0).to_bits());
            }
        }
        known
    }

    fn merge(&mut self, a: &mut Known, b: Known) -> DidMerge {
        let merged = Known {
            axes: a.axes.intersect(b.axes),
            constant: a.constant.or(b.constant),
            condition: a.condition,
        };
        let changed = DidMerge(merged != *a, merged != b);
        *a = merged;
        changed
    }

    fn modify(egraph: &mut EGraph<Term, Self>, id: Id) {
        let known = &egraph[id].data;
        if let Some(bits) = known.constant {
            let label = if known.condition {
                Label::Truth(f64::from_bits(bits) != 0.0)
            } else {
                Label::Const(bits)
            };
            let folded = egraph.add(Term::new(label, &[]));
            egraph.union(id, folded);
            // Other terms of a known number can only start cycles (0 = 0 / x = (0 / x) / y = …).
            egraph[id].nodes.retain(Language::is_leaf);
        }
    }
}

/// The e-graph that the rules work on.
pub type Terms = EGraph<Term, Facts>;

/// Puts every root of a recurrence into one e-graph; gives the class of each, in the order of
/// [`Recurrence::roots`].
#[must_use]
pub fn insert(r: &Recurrence) -> (Terms, Vec<Id>) {
    let mut terms = Terms::default();
    let mut ids = vec![Id::from(0); r.graph.len()];
    let roots = r.roots();
    for id in r.graph.reachable(&roots) {
        let class = |x: &NodeId| ids[x.0 as usize];
        let term = match r.graph.node(id) {
            Node::Const(bits) => Term::constant(f64::from_bits(*bits)),
            Node::Extent(axis) => Term::new(Label::Extent(*axis), &[]),
            Node::Index(_) | Node::Input { .. } | Node::State { .. } => {
                Term::new(Label::Leaf(id, r.graph.axes(id)), &[])
            }
            Node::Op(op, xs) => {
                let xs: Vec<Id> = xs.iter().map(class).collect();
                Term::new(Label::Op(*op), &xs)
            }
            Node::Reduce { op, axis, x } => Term::new(Label::Reduce(*op, *axis), &[class(x)]),
            Node::Shift { axis, by, x, fill } => Term::new(
                Label::Shift(*axis, *by, *x, r.graph.axes(*x)),
                &[class(fill)],
            ),
            Node::Given {
                input,
                present,
                absent,
            } => Term::new(Label::Given(*input), &[class(present), class(absent)]),
        };
        ids[id.0 as usize] = terms.add(term);
    }
    terms.rebuild();
    let roots = roots
        .iter()
        .map(|x| terms.find(ids[x.0 as usize]))
        .collect();
    (terms, roots)
}
