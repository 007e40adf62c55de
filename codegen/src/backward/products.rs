//! Products that have factors in common, computed once.
//!
//! ```text
//! t·x, t·x·h·s, t·x·h·a    →    p = t·x,  q = p·h:    p, q·s, q·a
//! ```
//! In: a simplified [`Recurrence`] and its [`Structure`]. Out: the same with its products regrouped: of each first what is the
//! same at every step, and what is the same at all points of the states; then, again and again, the pair of factors that
//! most products have (Paar 1997). Simplification orders each product by itself; an adjoint has the derivatives of one
//! product by each of its factors.

use std::collections::{BTreeMap, HashMap};

use selscan_dsl::{Graph, Node, NodeId, Op, Recurrence};

use crate::structure::{Level, Structure};

/// A factor: a node of the recurrence that is no product, or a product of two factors, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Factor {
    Node(NodeId),
    Pair(usize),
}

/// Products under way.
struct Products<'a> {
    rec: &'a Recurrence,
    /// Those that count.
    counted: Vec<NodeId>,
    /// The factors that are left of each product.
    of: BTreeMap<NodeId, Vec<Factor>>,
    pairs: Vec<(Factor, Factor)>,
    numbers: HashMap<(Factor, Factor), usize>,
    graph: Graph,
    new: HashMap<Factor, NodeId>,
}

/// The recurrence with its products regrouped, by what all but its first `apart` states have in common with each other: these
/// are run on their own.
pub(super) fn shared_products(rec: &Recurrence, structure: &Structure, apart: usize) -> Recurrence {
    let mut products = Products {
        rec,
        counted: Vec::new(),
        of: BTreeMap::new(),
        pairs: Vec::new(),
        numbers: HashMap::new(),
        graph: Graph::new(rec.time),
        new: HashMap::new(),
    };
    products.find(structure);
    let states = rec.states.iter().skip(apart);
    let updates = states.flat_map(|s| [Some(s.update), s.update_im]);
    let values = rec.outputs.iter().flat_map(|o| [Some(o.value), o.value_im]);
    let roots: Vec<NodeId> = updates.chain(values).flatten().collect();
    let counted = rec.graph.reachable(&roots).into_iter();
    products.counted = counted.filter(|id| products.of.contains_key(id)).collect();
    while let Some((a, b)) = products.most_common() {
        products.pair(a, b);
    }
    let mut out = rec.clone();
    for state in &mut out.states {
        state.update = products.build(Factor::Node(state.update));
        state.update_im = state.update_im.map(|im| products.build(Factor::Node(im)));
    }
    for output in &mut out.outputs {
        output.value = products.build(Factor::Node(output.value));
        output.value_im = output.value_im.map(|im| products.build(Factor::Node(im)));
    }
    out.graph = products.graph;
    out
}

impl Products<'_> {
    /// Finds the products that something else than a product reads, and their factors: those that are the same at every step
    /// as one, and those that vary in time but not over the states' points.
    fn find(&mut self, structure: &Structure) {
        let rec = self.rec;
        let is_product = |id: NodeId| matches!(rec.graph.node(id), Node::Op(Op::Mul, _));
        let live = rec.graph.reachable(&rec.roots());
        let others = live.iter().filter(|&&id| !is_product(id));
        let read = others.flat_map(|&id| rec.graph.node(id).operands());
        let roots: Vec<NodeId> = read.chain(rec.roots()).filter(|&x| is_product(x)).collect();
        for root in roots {
            let (mut known, mut common, mut own) = (Vec::new(), Vec::new(), Vec::new());
            let mut open = vec![root];
            while let Some(id) = open.pop() {
                if let Node::Op(Op::Mul, xs) = rec.graph.node(id) {
                    open.extend(xs);
                    continue;
                }
                let apart = structure.inner_axes(rec, id).is_empty();
                match structure.level(id) {
                    Level::Invariant => known.push((!apart, id)),
                    Level::Stream if apart => common.push((false, id)),
                    _ => own.push(Factor::Node(id)),
                }
            }
            for mut group in [known, common] {
                group.sort_unstable();
                let nodes = group.into_iter().map(|(_, id)| Factor::Node(id));
                let one = nodes.reduce(|a, b| Factor::Pair(self.number(a, b)));
                own.extend(one);
            }
            own.sort_unstable();
            self.of.insert(root, own);
        }
    }

    fn number(&mut self, a: Factor, b: Factor) -> usize {
        let pair = (a.min(b), a.max(b));
        let next = self.pairs.len();
        let number = *self.numbers.entry(pair).or_insert(next);
        if number == next {
            self.pairs.push(pair);
        }
        number
    }

    /// The pair of factors that most products have, if several have it.
    fn most_common(&self) -> Option<(Factor, Factor)> {
        let mut counts: BTreeMap<(Factor, Factor), usize> = BTreeMap::new();
        for factors in self.counted.iter().map(|id| &self.of[id]) {
            let mut pairs = Vec::new();
            for (i, &a) in factors.iter().enumerate() {
                pairs.extend(factors[i + 1..].iter().map(|&b| (a, b)));
            }
            pairs.dedup();
            pairs
                .into_iter()
                .for_each(|pair| *counts.entry(pair).or_default() += 1);
        }
        // Of several the first, so that two runs agree; what is nothing but the pair is no reason to begin with it.
        let longer = |pair: &(Factor, Factor)| {
            self.of
                .values()
                .any(|f| f.len() > 2 && f.contains(&pair.0) && f.contains(&pair.1))
        };
        let several = counts
            .into_iter()
            .filter(|(pair, n)| *n > 1 && longer(pair));
        let mut best: Option<((Factor, Factor), usize)> = None;
        for (pair, n) in several {
            if best.is_none_or(|(_, most)| n > most) {
                best = Some((pair, n));
            }
        }
        best.map(|(pair, _)| pair)
    }

    /// Puts a pair in the place of its factors, wherever both are.
    fn pair(&mut self, a: Factor, b: Factor) {
        let number = self.number(a, b);
        for factors in self.of.values_mut() {
            let Some(i) = factors.iter().position(|&f| f == a) else {
                continue;
            };
            let Some(j) = (i + 1..factors.len()).find(|&j| factors[j] == b) else {
                continue;
            };
            factors.remove(j);
            factors.remove(i);
            factors.push(Factor::Pair(number));
            factors.sort_unstable();
        }
    }

    /// The node of a factor in the new graph.
    fn build(&mut self, factor: Factor) -> NodeId {
        if let Some(&known) = self.new.get(&factor) {
            return known;
        }
        let made = match factor {
            Factor::Pair(number) => {
                let (a, b) = self.pairs[number];
                let xs = [self.build(a), self.build(b)];
                self.graph.op(Op::Mul, &xs)
            }
            Factor::Node(id) => match self.of.get(&id).cloned() {
                Some(factors) => {
                    let each = factors.into_iter().map(|f| self.build(f));
                    let each: Vec<NodeId> = each.collect();
                    let product = each
                        .into_iter()
                        .reduce(|a, b| self.graph.op(Op::Mul, &[a, b]));
                    product.unwrap_or_else(|| self.graph.constant(1.0))
                }
                None => {
                    let node = self.rec.graph.node(id);
                    let operands = node.operands();
                    let xs: Vec<NodeId> = operands
                        .iter()
                        .map(|&x| self.build(Factor::Node(x)))
                        .collect();
                    self.graph.add(node.with_operands(&xs))
                }
            },
        };
        self.new.insert(factor, made);
        made
    }
}
