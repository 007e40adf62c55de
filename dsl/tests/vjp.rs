//! The adjoint against central differences: each operation, what kernels read in every way that they can, and random
//! recurrences. What is not smooth is compared with PyTorch's choice.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/adjoint.rs"]
mod adjoint;
mod common;
#[path = "common/difference.rs"]
mod difference;

use adjoint::Run;
use common::{EXTENTS, Random, inputs, recurrence};
use difference::{Call, Counts};
use selscan_dsl::op::TABLE;
use selscan_dsl::{Array, Extents, Inputs, Outputs, Recurrence, Scan, Type, eval, gradients};

fn extents(r: &Recurrence) -> Extents {
    let of = |name: &str| EXTENTS.iter().find(|(n, _)| *n == name).unwrap().1;
    Extents(r.axes.iter().map(|a| of(&a.name)).collect())
}

/// Compares along random directions.
fn check(r: &Recurrence, inputs: Inputs, random: &mut Random) -> Counts {
    let mut number = || random.number();
    let call = Call::new(r, inputs, &extents(r), &mut number);
    let counts = call.check(3, &mut number);
    let error = Run::new(&call).apart(false);
    assert!(error <= 1e-9, "apart: {error:e}\n{r}");
    counts.unwrap_or_else(|e| panic!("{e}"))
}

fn check_text(text: &str) {
    let r = Recurrence::parse(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let mut random = Random(5);
    let counts = check(&r, inputs(&r, &mut random), &mut random);
    assert!(counts.compared > 0 && counts.rough == 0, "{counts:?}\n{r}");
}

/// L = Σ d · op(x, y) by each operand: (gradient, central difference).
fn slopes(name: &str, types: &[Type], at: &[[f64; 2]], d: [f64; 2]) -> Vec<(f64, f64)> {
    let names = ["x", "y", "z"];
    let declared = |i: usize| match types[i] {
        Type::Complex => format!("{}: Complex<L>", names[i]),
        _ => format!("{}: Tensor<L>", names[i]),
    };
    let params: Vec<String> = (0..types.len()).map(declared).collect();
    let args = names[..types.len()].join(", ");
    // The halves of the result, whatever its type, each with its own cotangent.
    let text = format!(
        "fn f({}) -> (Tensor<L>, Tensor<L>) {{ let f = {name}({args}); (re(f), im(f)) }}",
        params.join(", ")
    );
    let r = Recurrence::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let array = |i: usize, shift: f64, half: usize| {
        let mut x = at[i];
        x[half] += shift;
        match types[i] {
            Type::Complex => Array::complex(&[1], x.to_vec()),
            _ => Array::real(&[1], vec![x[0]]),
        }
    };
    let given = |moved: usize, shift: f64, half: usize| {
        (0..types.len()).fold(Inputs::new(), |all, i| {
            let shift = if i == moved { shift } else { 0.0 };
            all.with(names[i], array(i, shift, half))
        })
    };
    let mut cotangents = Outputs::default();
    for (k, d) in d.into_iter().enumerate() {
        let d = Array::real(&[1], vec![d]);
        cotangents.tensors.insert(format!("out{k}"), d);
    }
    let loss = |inputs: &Inputs| {
        let out = eval(&r, inputs).unwrap().tensors;
        d[0] * out["out0"].data[0] + d[1] * out["out1"].data[0]
    };
    let found = gradients(&r, &given(0, 0.0, 0), &cotangents, &names[..types.len()]).unwrap();
    let mut out = Vec::new();
    for (i, name) in names[..types.len()].iter().enumerate() {
        for (half, &g) in found.tensors[*name].data.iter().enumerate() {
            let h = 1e-3 * at[i][half].abs().clamp(1e-4, 1.0);
            let l = |k: f64| loss(&given(i, k * h, half));
            let difference = (l(-2.0) - l(2.0) + 8.0 * (l(1.0) - l(-1.0))) / (12.0 * h);
            out.push((g, difference));
        }
    }
    out
}

#[test]
fn each_operation_has_its_derivative() {
    let points = [
        [[0.3, 0.7], [0.9, -0.4], [-0.2, 0.6]],
        [[1.9, -0.4], [-0.8, 1.3], [0.5, 0.1]],
        [[0.05, 2.5], [2.1, 0.02], [0.7, -0.9]],
        [[1e-4, -2e-4], [0.6, 0.8], [1.1, 0.3]],
        [[0.2, 0.15], [1.5, -0.1], [0.4, 0.2]],
        [[2.9, 0.26], [0.1, 0.2], [0.3, 0.3]],
    ];
    let mut tested = 0;
    for row in TABLE {
        if row.op.is_comparison() || row.name == "select" {
            continue;
        }
        for mask in 0..1 << row.arity {
            let ty = |i: usize| match mask >> i & 1 {
                1 => Type::Complex,
                _ => Type::Real,
            };
            let types: Vec<Type> = (0..row.arity).map(ty).collect();
            if row.op.result(&types).is_none() {
                continue;
            }
            for at in points {
                for (g, difference) in slopes(row.name, &types, &at, [0.7, -1.3]) {
                    let near = (g - difference).abs() <= 1e-8 * (1.0 + difference.abs());
                    assert!(near, "{} {types:?} at {at:?}: {g} {difference}", row.name);
                    tested += 1;
                }
            }
        }
    }
    assert!(tested > 300, "{tested}");
}

/// The slopes of the error bound are the absolute derivatives, wherever there is one.
#[test]
fn slopes_are_absolute_derivatives() {
    for row in TABLE {
        if row.op.is_comparison() || ["select", "min", "max", "im", "complex"].contains(&row.name) {
            continue;
        }
        for at in [[0.3, 0.7, 0.0], [1.9, 0.4, 0.0], [21.5, -0.6, 0.0]] {
            let types = vec![Type::Real; row.arity];
            let points = at.map(|x| [x, 0.0]);
            let found = slopes(row.name, &types, &points, [1.0, 0.0]);
            let slopes = (row.slopes)(&at[..row.arity]);
            for ((g, _), slope) in found.iter().zip(slopes) {
                let near = (g.abs() - slope).abs() <= 1e-9 * (1.0 + slope);
                assert!(near, "{} at {at:?}: {g} {slope}", row.name);
            }
        }
    }
}

/// φ₁' has no cancellation: compared with its series in exact rational coefficients, and with e^x/x far away.
#[test]
fn the_slope_of_phi1_is_accurate_everywhere() {
    let by = |x: f64| slopes("phi1", &[Type::Real], &[[x, 0.0]], [1.0, 0.0])[0].0;
    assert_eq!(by(0.0), 0.5);
    for k in -400..=400 {
        let x = f64::from(k) / 100.0;
        // Σ (n + 1) xⁿ / (n + 2)!
        let (mut term, mut sum) = (0.5, 0.0);
        for n in 0..60 {
            sum += term * f64::from(n + 1);
            term *= x / f64::from(n + 3);
        }
        assert!((by(x) - sum).abs() <= 4e-14 * sum, "{x}: {} {sum}", by(x));
    }
    for x in [-30.0, -800.0] {
        let wanted = (1.0 - (1.0 - x) * f64::exp(x)) / (x * x);
        assert!((by(x) - wanted).abs() <= 1e-14 * wanted, "{x}: {}", by(x));
    }
    let complex = slopes("phi1", &[Type::Complex], &[[0.0, 0.0]], [1.0, 0.0]);
    assert_eq!((complex[0].0, complex[1].0), (0.5, 0.0));
}

/// torch.maximum and torch.minimum share equal operands, torch.amax equal elements; relu and abs are flat at 0.
#[test]
fn what_is_not_smooth_is_as_in_pytorch() {
    let by = |body: &str, x: f64, y: f64| {
        let text =
            format!("fn f(x: Tensor<L>, y: Tensor<L>) -> Tensor<L> {{ {body} + 0 * x * y }}");
        let r = Recurrence::parse(&text).unwrap();
        let given = Inputs::new()
            .with("x", Array::real(&[1], vec![x]))
            .with("y", Array::real(&[1], vec![y]));
        let mut d = Outputs::default();
        d.tensors
            .insert("out".to_owned(), Array::real(&[1], vec![2.0]));
        let g = gradients(&r, &given, &d, &["x", "y"]).unwrap().tensors;
        (g["x"].data[0], g["y"].data[0])
    };
    for (body, x, y, wanted) in [
        ("max(x, y)", 1.0, 1.0, (1.0, 1.0)),
        ("max(x, y)", 1.0, 3.0, (0.0, 2.0)),
        ("min(x, y)", -2.0, -2.0, (1.0, 1.0)),
        ("min(x, y)", -2.0, 3.0, (2.0, 0.0)),
        ("abs(x)", 0.0, 0.0, (0.0, 0.0)),
        ("abs(x)", -3.0, 0.0, (-2.0, 0.0)),
        ("floor(x)", 1.5, 0.0, (0.0, 0.0)),
        (
            "softplus(x)",
            20.0,
            0.0,
            (2.0 / (1.0 + (-20f64).exp()), 0.0),
        ),
        ("softplus(x)", 20.5, 0.0, (2.0, 0.0)),
        ("select(x < y, x, 3 * y)", 1.0, 1.0, (0.0, 6.0)),
    ] {
        assert_eq!(by(body, x, y), wanted, "{body} at {x}, {y}");
    }
    // torch.relu is flat at 0.
    assert_eq!(by("relu(x)", 0.0, 0.0), (0.0, 0.0));
    let r = "fn f(x: Tensor<L, N>) -> Tensor<L> { max::<N>(x) }";
    let r = Recurrence::parse(r).unwrap();
    let given = Inputs::new().with("x", Array::real(&[1, 4], vec![2.0, 5.0, 1.0, 5.0]));
    let mut d = Outputs::default();
    d.tensors
        .insert("out".to_owned(), Array::real(&[1], vec![3.0]));
    let g = gradients(&r, &given, &d, &["x"]).unwrap();
    assert_eq!(g.tensors["x"].data, [0.0, 1.5, 0.0, 1.5]);
}

#[test]
fn whatever_is_read_however() {
    for text in [
        // Two names of an axis: plain, exchanged, and both.
        "#[ssm_kernel(N2 = N)] fn f(a: Tensor<N, N2>, x: Tensor<L, N>, h: State<N>) -> Tensor<L, N> {
            h = sum::<N2>(0.3 * a * alias::<N, N2>(h)) + 0.5 * h + x; h * h }",
        "#[ssm_kernel(N2 = N)] fn f(a: Tensor<N, N2>, x: Tensor<L, N>, h: State<N>) -> Tensor<L, N2> {
            h = 0.5 * h + x; sum::<N>(a * h) * alias::<N, N2>(h) * alias::<N, N2>(x) }",
        "#[ssm_kernel(N2 = N, N3 = N)] fn f(a: Tensor<L, N, N2>, h: State<N, N2>) -> Tensor<L, N, N2> {
            h = tanh(a + 0.5 * alias::<N3, N>(alias::<N, N2>(alias::<N2, N3>(h)))); h * h }",
        // Groups, of inputs that vary in time and do not.
        "fn f(b: Tensor<L, G>, w: Tensor<G>, x: Tensor<L, H>, h: State<H>) -> Tensor<L, H> {
            h = 0.5 * h + x * group::<G, H>(b); h * group::<G, H>(w) * group::<G, H>(b) }",
        "#[ssm_kernel(H2 = H)] fn f(b: Tensor<L, G, H>, x: Tensor<L, H>) -> Tensor<L, H, H2> {
            x * group::<G, H2>(b) }",
        // Shifts both ways, behind a fill and of inputs.
        "fn f(x: Tensor<L>, w: Tensor<N>, h: State<N>) -> Tensor<L> {
            h = 0.7 * push_front::<N>(h, x * x) * exp(w); sum::<N>(w * h) }",
        "fn f(x: Tensor<L, N>, y: Tensor<L>, h: State<N>) -> Tensor<L> {
            h = push_back::<N>(h, y) + push_back::<N>(x, y) * push_front::<N>(x, 1); sum::<N>(x * h * h) }",
        "fn f(x: Tensor<L>, c: Complex<N>, h: ComplexState<N>) -> Complex<L> {
            h = push_front::<N>(h, x * sum::<N>(c)) * c; sum::<N>(h) }",
        // A shifted value whose cotangent is shifted again.
        "fn f(x: Tensor<L>, w: Tensor<N>, h: State<N>, g: State<N>) -> Tensor<L> {
            g = push_back::<N>(h, x) * w; h = push_front::<N>(g, x) + 0.2 * h; sum::<N>(g * h * exp(w)) }",
        // Delays, states that read each other, and what is read before and after it is assigned.
        "fn f(x: Tensor<L, D>, a: Tensor<D>, h: State<D>, g: State<D>) -> (Tensor<L, D>, Tensor<L>) {
            let before = h;
            h = a * h + delay(x, 2) * g;
            g = 0.3 * g + sin(h) * before + delay(g, 1);
            (g * before, sum::<D>(h * x)) }",
        // Reductions, extents and positions; a sum over what does not vary, and a maximum.
        "fn f(x: Tensor<L, N>, a: Tensor<N>, h: State<N>) -> Tensor<L> {
            let weight = x / sum::<N>(x * x + index::<N>() + len::<N>());
            h = weight * h + a; max::<N>(h * a) + sum::<N>(a) * max::<N>(x) }",
        // Both directions, one reading the other.
        "fn f(x: Tensor<L, D>, a: Tensor<D>, h: State<D>, #[reverse] g: State<D>) -> Tensor<L, D> {
            g = 0.6 * g * a + x; h = 0.5 * h + g * g * a; h * g }",
        "fn f(x: Tensor<L, D>, a: Tensor<D>, h: State<D>, #[reverse] g: State<D>) -> Tensor<L, D> {
            h = 0.6 * h * a + x; g = 0.5 * g + delay(h, 1) * a; h * g }",
        "#[ssm_kernel(bidirectional)] fn f(x: Complex<L, D>, a: Complex<D>, h: ComplexState<D>) -> Complex<L, D> {
            h = 0.4 * a * h + conj(x); h * abs(x) / (2 + a) }",
        // Real and complex numbers together.
        "fn f(x: Tensor<L>, z: Complex<L>, h: ComplexState<>, g: State<>) -> Complex<L> {
            h = z * h / (3 + conj(z)) + x; g = 0.5 * g + re(h * z) - abs(h); complex(g, im(h)) * exp(z) }",
        // No state, and a state that nothing reads before it is assigned.
        "fn f(x: Tensor<B, L>, a: Tensor<>) -> Tensor<B, L> { tanh(a * x) }",
        "fn f(x: Tensor<B, L>, h: State<B>) -> Tensor<B, L> { h = x * x; h }",
        "#[ssm_kernel(reverse)] fn f(x: Tensor<B, L>, a: Tensor<B>, h: State<B>) -> Tensor<L> { h = a * h + x; sum::<B>(h) }",
    ] {
        check_text(text);
    }
}

#[test]
fn random_recurrences() {
    let mut random = Random(23);
    let mut total = Counts::default();
    let mut adjoints = 0;
    for i in 0..400 {
        let r = recurrence(&mut random, i % 3 == 0);
        let given = inputs(&r, &mut random);
        let out = eval(&r, &given).unwrap();
        let finite = |x: &Array| x.data.iter().all(|x| x.abs() < 1e4);
        if !out.tensors.values().chain(out.last.values()).all(finite) {
            continue;
        }
        let counts = check(&r, given, &mut random);
        total.compared += counts.compared;
        total.rough += counts.rough;
        let names: Vec<&str> = r.inputs.iter().map(|i| i.name.as_str()).collect();
        for direction in r.vjp(&names).unwrap().recurrence.split_directions() {
            let scan = Scan::derive(&direction);
            adjoints += usize::from(scan.class != selscan_dsl::Class::NotAffine);
        }
    }
    println!("{total:?} {adjoints}");
    assert!(total.compared > 2000, "{total:?}");
    assert!(total.rough < total.compared / 5, "{total:?}");
}

#[test]
fn each_mistake_has_its_sentence() {
    let r = Recurrence::parse(
        "fn f(x: Tensor<L>, z: Option<Tensor<L>>, h: State<>) -> Tensor<L> { h = x * h; h + z }",
    );
    let r = r.unwrap();
    let error = r.vjp(&["x"]).unwrap_err().to_string();
    assert!(
        error.contains("whether `f` is given `z` is open"),
        "{error}"
    );
    let r = r.specialize(&|_| false);
    let error = r.vjp(&["z"]).unwrap_err().to_string();
    assert!(
        error.contains("`f` has no input or state `z` to differentiate by; it has `x`, `h`"),
        "{error}"
    );
    let split = Recurrence::parse("fn f(x: Complex<L>) -> Complex<L> { x * x }");
    let error = split.unwrap().split_complex().vjp(&["x"]).unwrap_err();
    assert!(error.to_string().contains("split complex numbers then"));
}

/// Nothing is computed that no wanted gradient depends on.
#[test]
fn only_what_is_asked_for() {
    let r = Recurrence::parse(common::MAMBA)
        .unwrap()
        .specialize(&|_| true);
    let all = r.vjp(&["u", "delta", "a", "h"]).unwrap();
    assert!(all.recurrence.state_named("d_a").is_some());
    // D and z multiply what comes out: their gradients need no adjoint state.
    let d = r.vjp(&["d"]).unwrap();
    let states: Vec<&str> = d
        .recurrence
        .states
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!((states, d.states.len(), d.saved.len()), (vec!["d_d"], 0, 0));
    assert!(d.recurrence.input_named("a").is_none());
    // The gradient by the initial state needs no state of the primal.
    let h = r.vjp(&["h"]).unwrap();
    assert_eq!(h.states, [("h".to_owned(), "d_h".to_owned())]);
    assert!(h.saved.is_empty() && h.recurrence.outputs.is_empty());
    let none = r.vjp(&[]).unwrap().recurrence;
    assert!(none.states.is_empty() && none.inputs.is_empty());
}
