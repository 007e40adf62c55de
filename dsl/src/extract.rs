//! The cheapest graph in an e-graph.
//!
//! In: an e-graph whose classes hold equal terms, and root classes. Out: a [`Graph`] with one term of each class
//! that the roots need. The cost of a term is its operation's cost times the number of points of the axes that
//! it varies over; a class counts once, however often it is used.

use egg::{Id, Language};

use crate::axis::{AxisId, AxisSet};
use crate::egraph::{Label, Term, Terms};
use crate::expr::{Graph, Node, NodeId};
use crate::op::Op;
use crate::recurrence::Recurrence;

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
    match term.label() {
        Label::Op(op) => f64::from(op.info().cost) * points(time, terms[class].data.axes),
        Label::Reduce(..) => points(time, terms[term.children()[0]].data.axes),
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
    // Classes below which a choice has changed since they were looked at.
    let mut open = vec![true; classes.len()];
    for _ in 0..MAX_PASSES {
        for (i, &class) in classes.iter().enumerate() {
            if !std::mem::take(&mut open[i]) {
                continue;
            }
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
                (Some(new), Some(old)) => {
                    new.term == old.term && new.cost == old.cost && new.needs == old.needs
                }
                (None, None) => true,
                _ => false,
            };
            // A choice is only withdrawn for another one.
            if !same && best.is_some() {
                choices[i] = best;
                for parent in terms[class].parents() {
                    open[at(parent)] = true;
                }
            }
        }
        if !open.contains(&true) {
            break;
        }
    }
    if open.contains(&true) {
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
        let node = match term.label() {
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
