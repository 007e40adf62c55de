//! Every kind of recurrence gets its class, and (a, b) or the reason why not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{MAMBA, Random, s4d, scan};
use selscan_dsl::*;

/// A kernel, what class each of its states has, and a part of the reason where there is no (a, b).
const KINDS: &[(&str, &[(Class, &str)])] = &[
    // RG-LRU (De et al. 2024)
    ("fn rg_lru(x: Tensor<B, L, D>, a: Tensor<D>, r: Tensor<B, L, D>, i: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> {
        let log_a = -8 * softplus(a) * sigmoid(r);
        h = exp(log_a) * h + sqrt(1 - exp(2 * log_a)) * sigmoid(i) * x;
        h
    }", &[(Class::SelectiveDiagonal, "")]),
    // HGRN (Qin et al. 2023)
    ("fn hgrn(x: Tensor<B, L, D>, g: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> { h = exp(g) * h + x; h }",
     &[(Class::SelectiveDiagonal, "")]),
    // RetNet (Sun et al. 2023)
    ("fn retnet(q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, g: Tensor<H>, s: State<B, H, K, V>) -> Tensor<B, L, H, V> {
        s = exp(g) * s + k * v;
        sum::<K>(q * s)
    }", &[(Class::ScalarDecay, "")]),
    // Mamba-2 (Dao & Gu 2024)
    ("fn ssd(x: Tensor<B, L, H, P>, dt: Tensor<B, L, H>, a: Tensor<H>, b: Tensor<B, L, G, N>, c: Tensor<B, L, G, N>, h: State<B, H, P, N>) -> Tensor<B, L, H, P> {
        h = exp(dt * a) * h + dt * group::<G, H>(b) * x;
        sum::<N>(group::<G, H>(c) * h)
    }", &[(Class::ScalarDecay, "")]),
    // GLA (Yang et al. 2024): the decay varies over K
    ("fn gla(q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, g: Tensor<B, L, H, K>, s: State<B, H, K, V>) -> Tensor<B, L, H, V> {
        s = exp(g) * s + k * v;
        sum::<K>(q * s)
    }", &[(Class::SelectiveDiagonal, "")]),
    // DeltaNet (Yang et al. 2024)
    ("fn delta(q: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, beta: Tensor<B, L, H>, s: State<B, H, K, V>) -> Tensor<B, L, H, V> {
        s = s + beta * k * (v - sum::<K>(k * s));
        sum::<K>(q * s)
    }", &[(Class::LowRank, "s is summed over K: its transition is of low rank")]),
    // RWKV-7 (Peng et al. 2025)
    ("fn rwkv7(r: Tensor<B, L, H, K>, w: Tensor<B, L, H, K>, k: Tensor<B, L, H, K>, v: Tensor<B, L, H, V>, a: Tensor<B, L, H, K>, b: Tensor<B, L, H, K>, s: State<B, H, K, V>) -> Tensor<B, L, H, V> {
        s = exp(w) * s + sum::<K>(s * a) * b + v * k;
        sum::<K>(r * s)
    }", &[(Class::LowRank, "s is summed over K")]),
    // LSSL (Gu et al. 2021): a dense matrix
    ("#[ssm_kernel(N2 = N)] fn lssl(u: Tensor<B, L>, a: Tensor<N, N2>, b: Tensor<N>, c: Tensor<N>, h: State<B, N>) -> Tensor<B, L> {
        h = sum::<N2>(a * alias::<N, N2>(h)) + b * u;
        sum::<N>(c * h)
    }", &[(Class::Dense, "h is summed over N2: its transition is a dense matrix")]),
    // H3 (Fu et al. 2023): shift, then diagonal
    ("fn h3(q: Tensor<B, L, D>, k: Tensor<B, L, D>, v: Tensor<B, L, D>, f: Tensor<D, M>, a: Tensor<D, N>, c: Tensor<D, N>, s: State<B, D, M>, h: State<B, D, N>) -> Tensor<B, L, D> {
        s = push_front::<M>(s, k);
        h = a * h + v * sum::<M>(f * s);
        q * sum::<N>(c * h)
    }", &[(Class::Shift, "push_front::<M>(s, k) depends on s at other positions"), (Class::Staged, "")]),
    // GRU (Cho et al. 2014)
    ("#[ssm_kernel(D2 = D)] fn gru(x: Tensor<B, L, D>, w: Tensor<D, D2>, z: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> {
        let n = tanh(x + sum::<D2>(w * alias::<D, D2>(h)));
        let g = sigmoid(z);
        h = (1 - g) * n + g * h;
        h
    }", &[(Class::NotAffine, "tanh(…) is not affine in h")]),
    // LSTM (Hochreiter & Schmidhuber 1997), its gates reading h
    ("#[ssm_kernel(D2 = D)] fn lstm(x: Tensor<B, L, D>, w: Tensor<D, D2>, f: Tensor<B, L, D>, h: State<B, D>, c: State<B, D>) -> Tensor<B, L, D> {
        let gate = sigmoid(x + sum::<D2>(w * alias::<D, D2>(h)));
        c = gate * c + sigmoid(f);
        h = gate * tanh(c);
        h
    }", &[(Class::NotAffine, "sigmoid(…) is not affine in c"), (Class::NotAffine, "")]),
    // Two states that rotate into each other
    ("fn rotation(x: Tensor<B, L, D>, w: Tensor<D>, p: State<B, D>, q: State<B, D>) -> Tensor<B, L, D> {
        let before = p;
        p = cos(w) * p - sin(w) * q + x;
        q = sin(w) * before + cos(w) * q;
        p
    }", &[(Class::Dense, "depend on each other"), (Class::Dense, "depend on each other")]),
    // A complex state that is conjugated
    ("fn mirror(x: Complex<B, L, D>, h: ComplexState<B, D>) -> Tensor<B, L, D> { h = 0.5 * conj(h) + x; re(h) }",
     &[(Class::NotAffine, "conj(h) is not a complex multiple of h")]),
    ("fn square(x: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> { h = h * h + x; h }",
     &[(Class::NotAffine, "h * h multiplies two terms that both depend on h")]),
    ("fn inverse(x: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> { h = x / h; h }",
     &[(Class::NotAffine, "x / h divides by a term that depends on h")]),
    ("fn switch(x: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> { h = select(h > 0, x, h); h }",
     &[(Class::NotAffine, "the condition h > 0 depends on h")]),
    ("fn softmax(x: Tensor<B, L, N>, h: State<B, N>) -> Tensor<B, L, N> { h = max::<N>(h) * x; h }",
     &[(Class::NotAffine, "max::<N>(h) is not affine in h")]),
    // Everything that keeps a state affine at once
    ("fn affine(x: Tensor<B, L, D>, k: Tensor<B, L, D>, h: State<B, D>) -> Tensor<B, L, D> {
        h = select(x > 0, -(k * h - x) / 2, 3 - h) - (x - h);
        h
    }", &[(Class::SelectiveDiagonal, "")]),
];

#[test]
fn every_kind_has_its_class() {
    for (text, states) in KINDS {
        let scan = scan(text, &[]);
        let name = &scan.source.name;
        assert_eq!(scan.states.len(), states.len(), "{name}");
        for (state, (class, why)) in scan.states.iter().zip(*states) {
            assert_eq!(state.class, *class, "{name}: {scan}");
            match &state.affine {
                Ok(_) => assert!(why.is_empty(), "{name}: {scan}"),
                Err(reason) => assert!(
                    reason.to_string().contains(why) && reason.class == *class,
                    "{name}: {reason}"
                ),
            }
        }
        let worst = states.iter().map(|s| s.0).max().unwrap();
        assert_eq!(scan.class, worst, "{name}");
    }
    assert_eq!(scan(MAMBA, &["z"]).class, Class::SelectiveDiagonal);
    assert_eq!(scan(&s4d("zoh"), &[]).class, Class::LtiDiagonal);
}

/// (a, b) is what it says: the update is a ⊙ h + b, evaluated at random points.
#[test]
fn affine_forms_are_the_update() {
    let texts = KINDS.iter().map(|(text, _)| (*text).to_owned());
    let more = ["zoh", "bilinear", "euler", "dirac"].map(s4d);
    let mut checked = 0;
    for text in texts.chain(more).chain([MAMBA.to_owned()]) {
        let scan = scan(&text, &[]);
        for (s, state) in scan.states.iter().enumerate() {
            let Ok(affine) = &state.affine else { continue };
            let mut r = scan.source.clone();
            let h = r.read_state(StateId(s as u32), When::Prev);
            let kept = r.graph.op(Op::Mul, &[affine.a, h]);
            r.states[s].update = r.graph.op(Op::Add, &[kept, affine.b]);
            let nodes = r.graph.reachable(&[affine.a, affine.b]);
            let own = |id: &NodeId| matches!(r.graph.node(*id), Node::State { state, .. } if state.0 as usize == s);
            assert!(!nodes.iter().any(own), "{}", r.name);
            let inputs = common::inputs(&r, &mut Random(7));
            let finite = common::same_meaning(&scan.source, &r, &inputs).unwrap();
            assert!(finite > 0, "{}", r.name);
            checked += 1;
        }
    }
    assert!(checked >= 12, "{checked}");
}

/// The display is what `explain` shows.
#[test]
fn a_scan_explains_itself() {
    let (text, _) = KINDS
        .iter()
        .find(|(text, _)| text.contains("fn h3"))
        .unwrap();
    assert_eq!(
        scan(text, &[]).to_string(),
        "class: staged\n  \
         s: shift (push_front::<M>(s, k) depends on s at other positions)\n  \
         h: staged, h' = a * h + b\n"
    );
}
