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
    for seed in 0..500 {
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
        assert!(
            extract::cost(&simple) <= extract::cost(&split),
            "seed {seed}"
        );
        assert_eq!(simplify(&split), simple, "seed {seed}: deterministic");
    }
    assert!(finite > 5000, "{finite} numbers compared");
}

/// The operations of a recurrence that vary in time, by the names of their axes.
fn in_time(r: &Recurrence) -> Vec<(Op, String)> {
    let time = r.axis_name(r.time).to_owned();
    let ops = nodes(r).into_iter().filter_map(|(node, axes)| match node {
        Node::Op(op, _) => Some((op, axes)),
        _ => None,
    });
    ops.filter(|(_, axes)| axes.contains(&time)).collect()
}

/// What a discretisation computes of a constant system is constant: in time there are products and sums only.
#[test]
fn discretisation_of_a_constant_system_is_constant() {
    for (rule, per_point) in [("zoh", 14), ("bilinear", 14), ("dirac", 11), ("euler", 12)] {
        let scan = common::scan(&common::s4d(rule), &[]);
        let ops = in_time(&scan.recurrence);
        for (op, axes) in &ops {
            assert!(
                matches!(op, Op::Mul | Op::Add | Op::Sub),
                "{rule}: {op:?} over {axes}:\n{}",
                scan.recurrence
            );
        }
        let points = ops.iter().filter(|(_, axes)| axes == "BLDN").count();
        assert!(
            points <= per_point,
            "{rule}: {points} operations per point:\n{}",
            scan.recurrence
        );
    }
}

/// Absent inputs leave no trace, and what is left is what one would write by hand.
#[test]
fn absent_inputs_fold_away() {
    let text = common::scan(common::MAMBA, &[]).recurrence.to_string();
    assert!(
        text.contains(
            "    h = h * exp2(delta * (LOG2_E * a)) + b * (u * delta);\n    sum::<N>(h * c)\n"
        ),
        "{text}"
    );
    let all = ["d", "z", "delta_bias", "delta_softplus"];
    let text = common::scan(common::MAMBA, &all).recurrence.to_string();
    for part in [
        "softplus(delta + delta_bias)",
        "(sum::<N>(h * c) + u * d) * (z * sigmoid(z))",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

/// What the rules are for, each in the smallest kernel that shows it.
#[test]
fn small_kernels_become_smaller() {
    let mut wrong = String::new();
    for (body, simple) in [
        ("sum::<N>(x * w)", "x * sum::<N>(w)"),
        ("sum::<N>(w / x)", "sum::<N>(w) / x"),
        ("sum::<N>(x + 0 * w)", "x * len::<N>()"),
        ("sum::<N>(w) + sum::<N>(v)", "sum::<N>(w + v)"),
        ("exp(x) * exp(y)", "exp2(LOG2_E * (x + y))"),
        ("x / k / y * 3", "3 * (1 / k * x / y)"),
        ("x / sqrt(k)", "rsqrt(k) * x"),
        ("x - (-y)", "x + y"),
        ("-(x - y) * 2", "2 * (y - x)"),
        ("(x + 1) + (k + 2)", "x + (k + 3)"),
        ("log(exp(x))", "x"),
        ("select(1 < 2, x, y)", "x"),
        ("select(x < y, k, k)", "k"),
        ("2 * sigmoid(2 * x) - 1", "tanh(x)"),
        ("x * k * y * k", "y * (x * (k * k))"),
        // Not simplified: x may be infinite, or 0, or negative.
        ("x - x", "x - x"),
        ("x / x", "x / x"),
        ("exp(log(x))", "exp2(log2(x))"),
    ] {
        let text = format!(
            "fn f(x: Tensor<B, L>, y: Tensor<B, L>, k: Tensor<B>, w: Tensor<N>, v: Tensor<N>) -> (Tensor<B, L>, Tensor<B, L>) {{
                ({body}, max(max(x, y), max(k, max::<N>(max(w, v)))))
            }}"
        );
        let r = Recurrence::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let found = simplify(&r).to_string();
        if !found.contains(&format!("    ({simple}, max(")) {
            wrong += &format!("{body} became\n{found}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Quotients of tiny and of huge complex numbers, whose squares no f64 holds, are right after simplification.
#[test]
fn complex_quotients_are_scaled() {
    let r = Recurrence::parse(
        "fn f(p: Complex<L>, q: Complex<L>, k: Tensor<L>) -> (Complex<L>, Complex<L>, Complex<L>) {
            (p / q, k / q, 1 / q * p * k)
        }",
    )
    .unwrap();
    let simple = simplify(&r);
    for scale in [1e-170, 1.0, 1e170] {
        let array = |re: f64, im: f64| Array::complex(&[1], vec![re * scale, im * scale]);
        let k = Array::real(&[1], vec![3.0 * scale]);
        let inputs = Inputs::new()
            .with("p", array(2.0, 1.0))
            .with("q", array(1.0, -2.0))
            .with("k", k);
        let out = eval(&simple, &inputs).unwrap();
        // (2 + i)/(1 − 2i) = i, 3/(1 − 2i) = 0.6 + 1.2i
        for (name, re, im) in [
            ("out0", 0.0, 1.0),
            ("out1", 0.6, 1.2),
            ("out2", 0.0, 3.0 * scale),
        ] {
            let found = &out.tensors[name].data;
            let error = (found[0] - re).abs().max((found[1] - im).abs());
            assert!(
                error <= 1e-15 * (re.abs() + im.abs()),
                "{name} at {scale}: {found:?}\n{simple}"
            );
        }
    }
}
