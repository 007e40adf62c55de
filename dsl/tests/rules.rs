//! Every rule says what is true: both sides of each are evaluated at random points.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use egg::{ENodeOrVar, Language, PatternAst, Var};
mod common;

use common::Random;
use selscan_dsl::egraph::{Label, Term};
use selscan_dsl::rules::{Guard, Rule, TABLE, parse_table, rules};
use selscan_dsl::{Op, ReduceOp};

/// Positions on the axis `N`.
const LEN: usize = 3;
const ROUNDS: u64 = 3000;

/// A value at every position, each with its magnitude m: its error is at most about eps · m.
type Value = [(f64, f64); LEN];

/// Numbers as they occur: moderate, small, large, whole, zero.
fn number(random: &mut Random) -> f64 {
    match random.below(8) {
        0 => 0.0,
        1 => random.number().round(),
        2 => random.number() * 1e-6,
        3 => random.number() * 30.0,
        _ => random.number() * 2.0,
    }
}

/// The value of one side; `None` where a variable is missing.
fn value(side: &PatternAst<Term>, given: &BTreeMap<Var, Value>) -> Option<Value> {
    let mut values: Vec<Value> = Vec::new();
    for node in side {
        values.push(match node {
            ENodeOrVar::Var(var) => *given.get(var)?,
            ENodeOrVar::ENode(term) => {
                let xs: Vec<Value> = term
                    .children()
                    .iter()
                    .map(|&x| values[usize::from(x)])
                    .collect();
                let everywhere = |x: f64| [(x, x.abs()); LEN];
                match term.label() {
                    Label::Const(bits) => everywhere(f64::from_bits(bits)),
                    Label::Truth(truth) => everywhere(f64::from(u8::from(truth))),
                    Label::Extent(_) => everywhere(LEN as f64),
                    Label::Op(op) => std::array::from_fn(|n| apply(op, &xs, n)),
                    Label::Reduce(ReduceOp::Sum, _) => {
                        [xs[0]
                            .iter()
                            .fold((0.0, 0.0), |(f, m), x| (f + x.0, m + (f + x.0).abs() + x.1));
                            LEN]
                    }
                    Label::Reduce(ReduceOp::Max, _) => {
                        [xs[0].iter().fold((f64::NEG_INFINITY, 0.0), |a, x| {
                            let most = (Op::Max.info().real)(&[a.0, x.0]);
                            (most, a.1.max(x.1))
                        }); LEN]
                    }
                    other => panic!("{other:?} in a rule"),
                }
            }
        });
    }
    values.last().copied()
}

fn apply(op: Op, xs: &[Value], n: usize) -> (f64, f64) {
    let operands: Vec<f64> = xs.iter().map(|x| x[n].0).collect();
    let f = (op.info().real)(&operands);
    let slopes = (op.info().slopes)(&operands);
    let carried = xs
        .iter()
        .zip(slopes)
        .map(|(x, slope)| if slope == 0.0 { 0.0 } else { slope * x[n].1 });
    (f, f.abs() + carried.sum::<f64>())
}

/// The variables of one side, and those that are conditions.
fn variables(side: &PatternAst<Term>) -> (Vec<Var>, Vec<Var>) {
    let nodes: Vec<&ENodeOrVar<Term>> = side.iter().collect();
    let var = |i: usize| match nodes[i] {
        ENodeOrVar::Var(var) => Some(*var),
        ENodeOrVar::ENode(_) => None,
    };
    let all = (0..nodes.len()).filter_map(var).collect();
    let conditions = nodes.iter().filter_map(|node| match node {
        ENodeOrVar::ENode(t) if t.label() == Label::Op(Op::Select) => {
            var(usize::from(t.children()[0]))
        }
        _ => None,
    });
    (all, conditions.collect())
}

/// Checks that a rule is true, that its right side rounds no worse than its left, and that what is not a
/// number on the left is none on the right.
fn check(rule: &Rule) -> Result<(), String> {
    let mut random = Random(rule.name.bytes().map(u64::from).sum());
    let (vars, conditions) = variables(&rule.lhs);
    let kept = variables(&rule.rhs).0;
    let mut compared = 0;
    for round in 0..ROUNDS {
        let mut given: BTreeMap<Var, Value> = BTreeMap::new();
        for &var in &vars {
            let guarded = match rule.guard {
                Some(Guard::Free(k) | Guard::Constant(k)) => k == var,
                None => false,
            };
            let mut draw = || {
                let x = if conditions.contains(&var) {
                    (random.bits() % 2) as f64
                } else {
                    number(&mut random)
                };
                (x, x.abs())
            };
            let mut drawn: Value = std::array::from_fn(|_| draw());
            if guarded {
                drawn = [drawn[0]; LEN];
            }
            given.insert(var, drawn);
        }
        let poisoned = (round % 4 == 0).then(|| vars[random.bits() as usize % vars.len()]);
        let poisoned = poisoned.filter(|v| kept.contains(v) && !conditions.contains(v));
        if let Some(var) = poisoned {
            given.insert(var, [(f64::NAN, f64::NAN); LEN]);
        }
        let (Some(left), Some(right)) = (value(&rule.lhs, &given), value(&rule.rhs, &given)) else {
            return Err(format!(
                "{}: the right side has a variable of its own",
                rule.name
            ));
        };
        for (l, r) in left.iter().zip(&right) {
            if poisoned.is_some() && l.0.is_nan() != r.0.is_nan() {
                return Err(format!("{}: {} -> {} at {given:?}", rule.name, l.0, r.0));
            }
            if !(l.0.is_finite() && r.0.is_finite() && l.1.is_finite() && r.1.is_finite()) {
                continue;
            }
            compared += 1;
            if (l.0 - r.0).abs() > 16.0 * f64::EPSILON * (l.1 + r.1) {
                return Err(format!("{}: {} -> {} at {given:?}", rule.name, l.0, r.0));
            }
            if r.1 > 8.0 * l.1 {
                return Err(format!(
                    "{}: rounding {} -> {} at {given:?}",
                    rule.name, l.1, r.1
                ));
            }
        }
    }
    if compared < 100 {
        return Err(format!("{}: compared at {compared} points only", rule.name));
    }
    Ok(())
}

#[test]
fn every_rule_is_true() {
    let parsed = parse_table(TABLE).unwrap();
    assert_eq!(parsed.len(), rules().len());
    let wrong: Vec<String> = parsed.iter().filter_map(|rule| check(rule).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rules_have_names_of_their_own() {
    let mut names: Vec<&str> = rules().iter().map(|rule| rule.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), rules().len());
}

/// The same check catches rules that are false, lose accuracy, or lose a NaN.
#[test]
fn a_false_rule_is_caught() {
    for row in [
        "planted product exp(x) * exp(y) -> exp(x * y)",
        "planted sign -(x - y) -> x - y",
        "planted free sum::<N>(k * x) -> k * sum::<N>(x)",
        "planted log exp(log(x)) -> abs(x) + 1e-9",
        "planted threshold log(1 + exp(x)) -> softplus(x)",
        "planted tanh tanh(x) -> 2 * sigmoid(2 * x) - 1",
        "planted cancel exp(x) -> 1 + x * phi1(x)",
        "planted nan select(x < y, x, y) -> min(x, y)",
    ] {
        let rule = Rule::parse(row).unwrap();
        assert!(check(&rule).is_err(), "{row}");
    }
}

#[test]
fn a_row_that_is_no_rule_says_why() {
    for (row, what) in [
        ("theory", "no name"),
        ("theory name", "no sides"),
        ("theory name x + 0", "no `->`"),
        ("theory name frob(x) -> x", "no function `frob`"),
        ("theory name exp(x, y) -> x", "of 2 operands"),
        ("theory name x -> x if x large", "no such guard"),
        ("theory name if x { y } else { z } -> x", "in the rule"),
    ] {
        let error = Rule::parse(row).unwrap_err();
        assert!(error.contains(what), "{row}: {error}");
    }
    let rule = Rule::parse("theory name x -> y").unwrap();
    assert!(rule.rewrite(selscan_dsl::rules::N).is_err());
}
