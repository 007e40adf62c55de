//! Simplification finds what a compiler writer expects of it, and changes no meaning.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use selscan_dsl::*;

/// The nodes that a recurrence reaches, each with the names of its axes.
fn nodes(r: &Recurrence) -> Vec<(Node, String)> {
    let ids = r.graph.reachable(&r.roots());
    let names = |axes: AxisSet| axes.iter().map(|a| r.axis_name(a)).collect::<String>();
    ids.into_iter()
        .map(|id| (r.graph.node(id).clone(), names(r.graph.axes(id))))
        .collect()
}

#[test]
fn mambas_scan_is_fused() {
    let scan = common::scan(common::MAMBA, &["d", "z", "delta_bias", "delta_softplus"]);
    let r = &scan.recurrence;
    let nodes = nodes(r);
    let over = |op: Op| -> Vec<&str> {
        nodes
            .iter()
            .filter(|(n, _)| matches!(n, Node::Op(o, _) if *o == op))
            .map(|(_, axes)| axes.as_str())
            .collect()
    };
    assert!(over(Op::Exp).is_empty());
    assert_eq!(over(Op::Exp2), ["BLDN"]);
    // a·log2(e) once per channel and state, δ·u once per channel, and four products per point: (δ·a), ā·h, (δu)·b, c·h.
    let mut products = over(Op::Mul);
    products.sort_unstable();
    assert_eq!(
        products,
        [
            "BLD", "BLD", "BLD", "BLD", "BLDN", "BLDN", "BLDN", "BLDN", "DN"
        ]
    );
    assert_eq!(scan.class, Class::SelectiveDiagonal);
    assert!(scan.states[0].affine.is_ok());
}

/// Random recurrences, real and complex, keep their meaning through splitting and through simplification.
#[test]
fn simplification_keeps_the_meaning() {
    let mut finite = 0;
    for seed in 0..800 {
        let mut random = common::Random(seed);
        let r = common::recurrence(&mut random, false);
        let inputs = common::inputs(&r, &mut random);
        let split = r.split_complex();
        let simple = simplify(&split);
        assert!(complex::is_real(&simple));
        let fail = |e: String| panic!("seed {seed}: {e}");
        common::same_meaning(&r, &split, &inputs).unwrap_or_else(fail);
        finite += common::same_meaning(&split, &simple, &inputs).unwrap_or_else(fail);
        let fail = |e: String| panic!("seed {seed}, again: {e}");
        common::same_meaning(&split, &simplify(&simple), &inputs).unwrap_or_else(fail);
        assert!(egraph::cost(&simple) <= egraph::cost(&split), "seed {seed}");
        assert_eq!(simplify(&split), simple, "seed {seed}: deterministic");
    }
    assert!(finite > 5000, "{finite} numbers compared");
}
