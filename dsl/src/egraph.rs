//! The e-graph of a real recurrence: terms, what is known of a class, and the way in and out.
//!
//! In: a real [`Recurrence`]; all roots go into one e-graph. Out: after the rules have run, the cheapest
//! term of every root, sharing counted once.
//! The cost of a term is its operation's cost times the number of points of the axes that it varies over.

use std::fmt;

use egg::{Analysis, DidMerge, EGraph, Id, Language};

use crate::axis::{AxisId, AxisSet};
use crate::expr::{Graph, InputId, Node, NodeId, ReduceOp};
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

/// The nominal number of points of a set of axes: 1024 time steps, 16 of everything else.
#[must_use]
pub fn points(time: AxisId, axes: AxisSet) -> f64 {
    let others = axes.without(time).len() as i32;
    let steps = if axes.contains(time) { 1024.0 } else { 1.0 };
    steps * 16f64.powi(others)
}

/// The cost of one node: its operation's cost times the points that it is computed at.
#[must_use]
pub fn node_cost(g: &Graph, id: NodeId) -> f64 {
    match g.node(id) {
        Node::Op(op, _) => f64::from(op.info().cost) * points(g.time(), g.axes(id)),
        Node::Reduce { x, .. } => points(g.time(), g.axes(*x)),
        Node::Shift { .. } => points(g.time(), g.axes(id)),
        _ => 0.0,
    }
}

/// The cost of a recurrence: of every node that its roots reach, each counted once.
#[must_use]
pub fn cost(r: &Recurrence) -> f64 {
    let nodes = r.graph.reachable(&r.roots());
    nodes.into_iter().map(|id| node_cost(&r.graph, id)).sum()
}

fn term_cost(terms: &Terms, time: AxisId, class: Id, term: &Term) -> f64 {
    match term.label {
        Label::Op(op) => f64::from(op.info().cost) * points(time, terms[class].data.axes),
        Label::Reduce(..) => points(time, terms[term.operands[0]].data.axes),
        Label::Shift(..) => points(time, terms[class].data.axes),
        _ => 0.0,
    }
}

/// The choice of one class: the cheapest of its terms, with everything that it needs.
struct Choice {
    cost: f64,
    own: f64,
    term: usize,
    /// The classes of the chosen term's graph, this one included, by their position; a bit each.
    needs: Vec<u64>,
}

/// Passes over all classes before extraction gives up on sharing. Each pass lets one more level of the
/// graph settle; terms of recurrences settle in about as many passes as they are deep.
const MAX_PASSES: usize = 64;

/// The cheapest graph for `roots`: greedy, bottom up, each class counted once however often it is used.
///
/// `None` if a root has no finite term or the choices do not settle; the caller keeps what it had.
#[must_use]
pub fn extract(terms: &Terms, roots: &[Id], source: &Recurrence) -> Option<(Graph, Vec<NodeId>)> {
    let time = source.time;
    let classes: Vec<Id> = terms.classes().map(|c| c.id).collect();
    let bound = classes.iter().map(|&id| usize::from(id) + 1).max()?;
    let mut position = vec![usize::MAX; bound];
    for (i, &id) in classes.iter().enumerate() {
        position[usize::from(id)] = i;
    }
    let at = |id: Id| position[usize::from(terms.find(id))];
    let words = classes.len().div_ceil(64);
    let mut choices: Vec<Option<Choice>> = classes.iter().map(|_| None).collect();
    let mut settled = false;
    for _ in 0..MAX_PASSES {
        settled = true;
        for (i, &class) in classes.iter().enumerate() {
            let mut best: Option<Choice> = None;
            for (n, term) in terms[class].nodes.iter().enumerate() {
                let own = term_cost(terms, time, class, term);
                let mut needs = vec![0u64; words];
                let mut known = true;
                for &x in term.children() {
                    let Some(choice) = &choices[at(x)] else {
                        known = false;
                        break;
                    };
                    for (to, from) in needs.iter_mut().zip(&choice.needs) {
                        *to |= from;
                    }
                }
                if !known || needs[i / 64] >> (i % 64) & 1 == 1 {
                    continue;
                }
                let below: f64 = bits(&needs)
                    .filter_map(|j| choices[j].as_ref().map(|c| c.own))
                    .sum();
                needs[i / 64] |= 1 << (i % 64);
                let cost = own + below;
                if best.as_ref().is_none_or(|b| cost < b.cost) {
                    best = Some(Choice {
                        cost,
                        own,
                        term: n,
                        needs,
                    });
                }
            }
            let same = match (&best, &choices[i]) {
                (Some(new), Some(old)) => new.term == old.term && new.needs == old.needs,
                (None, None) => true,
                _ => false,
            };
            // A choice is only withdrawn for another one.
            if !same && best.is_some() {
                choices[i] = best;
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    if !settled {
        return None;
    }
    let mut out = Extraction {
        terms,
        source,
        choices: &choices,
        classes: &classes,
        graph: Graph::new(time),
        made: vec![None; classes.len()],
    };
    let mut nodes = Vec::new();
    for &root in roots {
        nodes.push(out.build(at(root), &at)?);
    }
    Some((out.graph, nodes))
}

fn bits(words: &[u64]) -> impl Iterator<Item = usize> {
    words.iter().enumerate().flat_map(|(w, &word)| {
        let mut rest = word;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                w * 64 + bit
            })
        })
    })
}

struct Extraction<'a> {
    terms: &'a Terms,
    source: &'a Recurrence,
    choices: &'a [Option<Choice>],
    classes: &'a [Id],
    graph: Graph,
    made: Vec<Option<NodeId>>,
}

impl Extraction<'_> {
    /// Builds the chosen graph of one class; operands first, on a stack of its own.
    fn build(&mut self, root: usize, at: &dyn Fn(Id) -> usize) -> Option<NodeId> {
        let mut stack = vec![root];
        while let Some(&i) = stack.last() {
            if self.made[i].is_some() {
                stack.pop();
                continue;
            }
            let term = &self.terms[self.classes[i]].nodes[self.choices[i].as_ref()?.term];
            let missing: Vec<usize> = term
                .children()
                .iter()
                .map(|&x| at(x))
                .filter(|&x| self.made[x].is_none())
                .collect();
            if missing.is_empty() {
                let xs: Vec<NodeId> = term
                    .children()
                    .iter()
                    .filter_map(|&x| self.made[at(x)])
                    .collect();
                self.made[i] = Some(self.node(term, &xs));
                stack.pop();
            } else if stack.len() > 3 * self.classes.len() {
                return None;
            } else {
                stack.extend(missing);
            }
        }
        self.made[root]
    }

    fn node(&mut self, term: &Term, xs: &[NodeId]) -> NodeId {
        let node = match term.label {
            Label::Const(bits) => Node::Const(bits),
            Label::Truth(truth) => {
                let (zero, one) = (self.graph.constant(0.0), self.graph.constant(1.0));
                let (a, b) = if truth { (zero, one) } else { (one, zero) };
                Node::Op(Op::Lt, vec![a, b])
            }
            Label::Extent(axis) => Node::Extent(axis),
            Label::Leaf(id, _) => self.source.graph.node(id).clone(),
            Label::Op(op) => Node::Op(op, xs.to_vec()),
            Label::Reduce(op, axis) => Node::Reduce { op, axis, x: xs[0] },
            Label::Shift(axis, by, x, _) => {
                let x = self.graph.add(self.source.graph.node(x).clone());
                Node::Shift {
                    axis,
                    by,
                    x,
                    fill: xs[0],
                }
            }
            Label::Given(input) => Node::Given {
                input,
                present: xs[0],
                absent: xs[1],
            },
        };
        self.graph.add(node)
    }
}
