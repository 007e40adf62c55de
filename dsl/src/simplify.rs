//! Simplification of a real recurrence.
//!
//! In: a recurrence of real nodes. Out: an equal one that costs less, where a cost is an operation's cost times
//! the points of the axes that it varies over. Alternately the normal form of products and sums
//! ([`crate::normal`]) and the rules ([`crate::rules`]) over an e-graph of all roots ([`crate::egraph`]).
//!
//! A pure function: limits are e-nodes, iterations and rounds, never seconds, and of two candidates of equal
//! cost the earlier one stays.

use egg::SearchMatches;

use crate::egraph::{self, Term, Terms};
use crate::expr::{Graph, Node};
use crate::extract::{cost, extract};
use crate::normal::{normalise, share_reciprocals};
use crate::recurrence::Recurrence;
use crate::rules;

/// Rounds of normal form and rules; the second one hoists what the rules of the first have uncovered.
const ROUNDS: usize = 3;
/// The part of the cost by which a round has to lower it for another one to follow: most gain nothing after one that gained
/// little, and without them the catalogue and its gradients come out the same.
const WORTH_ANOTHER: f64 = 1e-4;
/// Iterations of all rules in a round.
const ITERATIONS: usize = 8;
/// E-nodes that the rules may add to three times those that they start from; after that no rule is applied any more.
const MAX_GROWTH: usize = 1000;
/// Matches of one rule that are applied in one iteration.
const MAX_MATCHES: usize = 200;

/// The cheapest equal recurrence that the rules find; a recurrence with complex nodes is split first.
#[must_use]
pub fn simplify(r: &Recurrence) -> Recurrence {
    let mut best = normal_form(&r.split_complex());
    for _ in 0..ROUNDS {
        let Some(found) = saturate(&best) else { break };
        let found = normal_form(&found);
        let (before, now) = (cost(&best), cost(&found));
        if now < before {
            best = found;
        }
        if now > before * (1.0 - WORTH_ANOTHER) {
            break;
        }
    }
    best.rebuild(Graph::add)
}

/// The cheapest of the recurrence itself and its two normal forms, with shared reciprocals
/// where they cost less; the first normal form, if they cost the same.
fn normal_form(r: &Recurrence) -> Recurrence {
    let mut best = normalise(r, true);
    let kept = normalise(r, false);
    if cost(&kept) < cost(&best) {
        best = kept;
    }
    if cost(r) < cost(&best) {
        best = r.clone();
    }
    let shared = share_reciprocals(&best);
    if cost(&shared) < cost(&best) {
        best = shared;
    }
    best
}

/// Applies the rules to all roots at once and takes the cheapest term of each.
fn saturate(r: &Recurrence) -> Option<Recurrence> {
    let (mut terms, roots) = egraph::insert(r);
    let mut axes = crate::AxisSet::EMPTY;
    for id in r.graph.reachable(&r.roots()) {
        if let Node::Reduce { axis, .. } = r.graph.node(id) {
            axes = axes.with(*axis);
        }
    }
    let rules: Vec<&rules::Rewrite> = rules::rewrites(axes).collect();
    let limit = 3 * terms.total_size() + MAX_GROWTH;
    for _ in 0..ITERATIONS {
        if !step(&mut terms, &rules, limit) {
            break;
        }
    }
    let roots: Vec<egg::Id> = roots.iter().map(|&id| terms.find(id)).collect();
    let (graph, nodes) = extract(&terms, &roots, r)?;
    let mut nodes = nodes.into_iter();
    Some(r.over(graph, |id| nodes.next().unwrap_or(id)))
}

/// One iteration: every rule is matched before any is applied. Whether anything changed.
fn step(terms: &mut Terms, rules: &[&rules::Rewrite], limit: usize) -> bool {
    let matches: Vec<Vec<SearchMatches<Term>>> = rules
        .iter()
        .map(|rule| rule.search_with_limit(terms, MAX_MATCHES))
        .collect();
    let mut changed = false;
    for (rule, matches) in rules.iter().zip(&matches) {
        if terms.total_size() > limit {
            break;
        }
        changed |= !rule.apply(terms, matches).is_empty();
    }
    terms.rebuild();
    changed
}
