//! Runs compose: chunk summaries, the carry over them and the chunks by themselves are the whole scan; and a
//! recurrence of two directions is its two halves, one after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{MAMBA, Random, close_enough, s4d, scan};
use selscan_dsl::*;

/// The part of an array from step `from` to step `to` of its axis `axis`.
fn steps(x: &Array, axis: usize, from: usize, to: usize) -> Array {
    let width = if x.complex { 2 } else { 1 };
    let inner: usize = x.shape[axis + 1..].iter().product::<usize>() * width;
    let outer: usize = x.shape[..axis].iter().product();
    let len = x.shape[axis];
    let rows = (0..outer).flat_map(|o| &x.data[(o * len + from) * inner..(o * len + to) * inner]);
    let mut shape = x.shape.clone();
    shape[axis] = to - from;
    Array {
        shape,
        complex: x.complex,
        data: rows.copied().collect(),
    }
}

/// The inputs of one chunk, without initial states.
fn chunk_inputs(r: &Recurrence, inputs: &Inputs, from: usize, to: usize) -> Inputs {
    let mut part = Inputs::new();
    for decl in &r.inputs {
        let x = &inputs.tensors[&decl.name];
        let time = decl.axes.iter().position(|&a| a == r.time);
        let x = time.map_or(x.clone(), |axis| steps(x, axis, from, to));
        part = part.with(&decl.name, x);
    }
    part
}

/// Compares the time-chunked algorithm with the whole scan.
fn check_chunks(scan: &Scan, chunk: usize) {
    for decay in [Decay::Product, Decay::Sum] {
        check_chunks_by(scan, scan.chunks(decay).unwrap(), chunk);
    }
}

fn check_chunks_by(scan: &Scan, Chunks { summary, carry }: &Chunks, chunk: usize) {
    let source = &scan.source;
    let inputs = common::inputs(source, &mut Random(3));
    let (whole, bound) = eval_with_bound(source, &inputs).unwrap();
    assert!(complex::is_real(summary) && complex::is_real(carry));
    assert!(summary.outputs.is_empty());

    let len = common::EXTENTS
        .iter()
        .find(|(name, _)| *name == "L")
        .unwrap()
        .1;
    let chunks: Vec<(usize, usize)> = (0..len)
        .step_by(chunk)
        .map(|from| (from, (from + chunk).min(len)))
        .collect();
    let mut over_chunks = Inputs {
        initial: inputs.initial.clone(),
        ..Inputs::new()
    };
    for decl in &carry.inputs {
        if let Some(x) = inputs.tensors.get(&decl.name) {
            over_chunks = over_chunks.with(&decl.name, x.clone());
        }
    }
    for (k, &(from, to)) in chunks.iter().enumerate() {
        let out = eval(summary, &chunk_inputs(summary, &inputs, from, to)).unwrap();
        for (i, decl) in summary.states.iter().enumerate() {
            let last = &out.last[&decl.name];
            let what = if i % 2 == 0 { "_summary" } else { "" };
            let all = over_chunks
                .tensors
                .entry(format!("{}{what}", decl.name))
                .or_insert_with(|| {
                    let shape: Vec<usize> = [0].into_iter().chain(last.shape.clone()).collect();
                    Array {
                        shape,
                        complex: last.complex,
                        data: vec![],
                    }
                });
            all.shape[0] = k + 1;
            all.data.extend(&last.data);
        }
    }
    let carried = eval(carry, &over_chunks).unwrap();
    for (name, last) in &whole.last {
        close_enough(
            name,
            (last, &bound.last[name]),
            (&carried.last[name], &bound.last[name]),
        )
        .unwrap();
    }
    for (k, &(from, to)) in chunks.iter().enumerate() {
        let mut part = chunk_inputs(source, &inputs, from, to);
        for decl in &source.states {
            let start = steps(
                &carried.tensors[&format!("{}_start", decl.name)],
                0,
                k,
                k + 1,
            );
            let start = Array {
                shape: start.shape[1..].to_vec(),
                ..start
            };
            part = part.with_initial(&decl.name, start);
        }
        let out = eval(source, &part).unwrap();
        for decl in &source.outputs {
            let axis = decl.axes.iter().position(|&a| a == source.time).unwrap();
            let part = |all: &Outputs| steps(&all.tensors[&decl.name], axis, from, to);
            let (whole, bound) = (part(&whole), part(&bound));
            close_enough(
                &decl.name,
                (&whole, &bound),
                (&out.tensors[&decl.name], &bound),
            )
            .unwrap();
        }
    }
}

#[test]
fn chunks_compose_to_the_whole() {
    let complex_mamba = MAMBA
        .replace("a: Tensor<D, N>", "a: Complex<D, N>")
        .replace("h: State", "h: ComplexState")
        .replace("sum::<N>(c * h)", "2 * re(sum::<N>(c * h))");
    let reversed = format!("#[ssm_kernel(reverse)] {}", MAMBA.trim());
    let two = "fn two(x: Tensor<B, L, D>, f: Tensor<B, L, D>, g: Tensor<D, N>, h: State<B, D>, s: ComplexState<B, D, N>) -> Tensor<L, B, D> {
        h = sigmoid(f) * h + x;
        s = complex(g, f) * s + x;
        h * re(sum::<N>(s))
    }";
    let texts = [
        MAMBA,
        &complex_mamba,
        &reversed,
        two,
        &s4d("zoh"),
        &s4d("bilinear"),
    ];
    for text in texts {
        for chunk in [1, 3, 4, 5] {
            check_chunks(&scan(text, &["z", "d"]), chunk);
        }
    }
}

/// One number a channel in place of one a state, and the exponential in the carry; the product where that is no gain.
#[test]
fn decays_are_exponentials_of_sums_where_sums_have_fewer_points() {
    let kept = |text: &str, given: &[&str]| {
        let scan = scan(text, given);
        let Chunks { summary, carry } = scan.chunks(Decay::Sum).unwrap();
        let exponentials = |r: &Recurrence| {
            let nodes = r.graph.reachable(&r.roots());
            let count = nodes
                .iter()
                .filter(|&&id| matches!(r.graph.node(id), Node::Op(Op::Exp | Op::Exp2, _)));
            count.count()
        };
        let decl = &summary.states[1];
        let axes: Vec<&str> = decl.axes.iter().map(|&a| summary.axis_name(a)).collect();
        (
            decl.name.clone(),
            axes.join(" "),
            decl.complex,
            exponentials(carry),
        )
    };
    let is =
        |name: &str, axes: &str, complex, exps| (name.to_owned(), axes.to_owned(), complex, exps);
    assert_eq!(kept(MAMBA, &["z"]), is("h_span", "B D", false, 1));
    // Of a constant in time: the number of steps.
    assert_eq!(kept(&s4d("zoh"), &[]), is("h_span", "B D", false, 1));
    let text = |body: &str| {
        format!(
            "fn f(x: Tensor<B, L, D>, g: Tensor<B, L, D>, k: Tensor<B, L, N>, a: Tensor<D, N>, h: State<B, D, N>)
             -> Tensor<B, L, D> {{ h = {body} * h + k * x; sum::<N>(h) }}"
        )
    };
    for body in [
        "exp(-(softplus(g) * exp(a)))",
        "exp(g * a / (1 + a * a))",
        "exp(a * g * a)",
    ] {
        let (name, axes, _, exps) = kept(&text(body), &[]);
        assert!(
            name == "h_span" && axes == "B D" && exps >= 1,
            "{body}: {name} {axes} {exps}"
        );
        for chunk in [3, 4] {
            check_chunks(&scan(&text(body), &[]), chunk);
        }
    }
    for body in [
        "exp(g * k * a)",
        "exp(g + k * a)",
        "sigmoid(g + a)",
        "a / (1 + g * g)",
    ] {
        assert_eq!(kept(&text(body), &[]).0, "h_decay", "{body}");
    }
}

#[test]
fn boundaries_chunk_too() {
    for text in [MAMBA, &s4d("zoh")] {
        let r = Recurrence::parse(text).unwrap();
        let scans = prepare(&r, &|name| name == "z", true);
        assert_eq!(scans.len(), 1);
        assert!(scans[0].source.input_named("keep").is_some());
        // A reset is a change of a in time.
        assert_eq!(scans[0].class, Class::SelectiveDiagonal);
        check_chunks(&scans[0], 3);
    }
}

/// What is not a number in one packed sequence does not reach the next one through a chunk's summary.
#[test]
fn a_reset_forgets_what_is_not_a_number() {
    let r = Recurrence::parse(MAMBA).unwrap();
    let scan = prepare(&r, &|_| false, true).remove(0);
    let mut inputs = common::inputs(&scan.source, &mut Random(3));
    inputs
        .initial
        .insert("h".to_owned(), Array::filled(&[2, 3, 2], false, f64::NAN));
    inputs.tensors.insert(
        "keep".to_owned(),
        Array::real(&[2, 4], vec![1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0]),
    );
    let delta = inputs.tensors.get_mut("delta").unwrap();
    delta.data[3] = f64::NAN; // row 0, step 1
    let Chunks { summary, carry } = scan.chunks(Decay::Sum).unwrap();
    let chunk = |x: &Inputs| eval(summary, &chunk_inputs(summary, x, 0, 4)).unwrap();
    let out = chunk(&inputs);
    assert!(out.last["h"].data.iter().all(|x| x.is_finite()));
    assert!(out.last["h_decay"].data.iter().all(|&x| x == 0.0));
    let one = |x: &Array| Array {
        shape: [&[1], &x.shape[..]].concat(),
        ..x.clone()
    };
    let over = Inputs {
        initial: inputs.initial.clone(),
        ..Inputs::new()
    }
    .with("h_summary", one(&out.last["h"]))
    .with("h_decay", one(&out.last["h_decay"]));
    assert_eq!(eval(carry, &over).unwrap().last["h"], out.last["h"]);
    // Without a reset in the chunk it does.
    inputs
        .tensors
        .insert("keep".to_owned(), Array::filled(&[2, 4], false, 1.0));
    assert!(chunk(&inputs).last["h"].data.iter().any(|x| x.is_nan()));
}

#[test]
fn what_is_not_diagonal_has_no_summary() {
    for text in [
        "fn f(x: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> { h = tanh(h) + x; h }",
        "fn f(x: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> { h = h / 2 + delay(x, 1); h }",
        "fn f(x: Tensor<B, L, D>, h: State<B, D>, g: State<B, D>) -> Tensor<B, L, D> { h = h + x; g = g + h; g }",
    ] {
        let scan = scan(text, &[]);
        assert!(scan.chunks(Decay::Product).is_none(), "{text}");
        assert!(scan.chunks(Decay::Sum).is_none(), "{text}");
    }
}

/// Runs the halves in turn and gives what the whole would give.
fn in_turn(parts: &[Recurrence], inputs: &Inputs) -> Result<Outputs, EvalError> {
    let mut known = inputs.clone();
    let mut all = Outputs::default();
    for part in parts {
        let mut given = Inputs::new();
        for decl in &part.inputs {
            given = given.with(&decl.name, known.tensors[&decl.name].clone());
        }
        for decl in &part.states {
            given = given.with_initial(&decl.name, known.initial[&decl.name].clone());
        }
        let out = eval(part, &given)?;
        known.tensors.extend(out.tensors.clone());
        all.tensors.extend(out.tensors);
        all.last.extend(out.last);
    }
    Ok(all)
}

#[test]
fn two_directions_are_their_halves() {
    let (mut split, mut compared) = (0, 0);
    for seed in 0..300 {
        let mut random = Random(seed);
        let r = common::recurrence(&mut random, true);
        let inputs = common::inputs(&r, &mut random);
        let parts = r.split_directions();
        assert_eq!(parts.len(), r.states.len(), "one part per direction");
        if parts.len() == 1 {
            assert_eq!(parts[0], r);
            continue;
        }
        split += 1;
        for part in &parts {
            let reverse = part.states[0].reverse;
            assert!(part.states.iter().all(|s| s.reverse == reverse));
        }
        // A half may not say how long an axis is that only the other half reads.
        let Ok(found) = in_turn(&parts, &inputs) else {
            continue;
        };
        compared += 1;
        let (whole, bound) = eval_with_bound(&r, &inputs).unwrap();
        for (name, x) in &whole.tensors {
            let m = &bound.tensors[name];
            close_enough(name, (x, m), (&found.tensors[name], m))
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
        for (name, x) in &whole.last {
            let m = &bound.last[name];
            close_enough(name, (x, m), (&found.last[name], m))
                .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
    assert!(split > 100 && compared * 2 > split, "{compared} of {split}");
}

/// A bidirectional scan keeps one value per channel between its passes, not one per state.
#[test]
fn the_carry_of_a_bidirectional_scan_is_its_output() {
    let r = Recurrence::parse(&format!("#[ssm_kernel(bidirectional)] {}", MAMBA.trim())).unwrap();
    let scans = prepare(&r, &|_| false, false);
    let [backward, forward] = &scans[..] else {
        panic!("{} scans", scans.len())
    };
    assert!(backward.source.states[0].reverse && !forward.source.states[0].reverse);
    let carry = &backward.source.outputs[0];
    assert_eq!(backward.source.outputs.len(), 1);
    assert_eq!(carry.name, "carry0");
    assert_eq!(carry.axes.len(), 3, "B, L, D");
    assert!(forward.source.input_named("carry0").is_some());
}
