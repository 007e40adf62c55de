//! What can be moved out, what stays, and that completion gives the old results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::{Inputs, bind_extents, eval};

/// The recurrence, partial over D, and whether its results are the same once completed.
fn partial(body: &str, wanted: &[(&str, usize)]) -> Partial {
    let text = format!(
        "fn f(x: Tensor<L, D, N>, y: Tensor<L, N>, w: Tensor<D>, s: State<N>, h: State<D>) -> Tensor<L, N> {{
            s = s - y; h = h + sum::<N>(x * y) * w; {body} + 0 * s + 0 * sum::<D>(h) }}"
    );
    let r = Recurrence::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
    let count = |shape: &[usize]| {
        let n: usize = shape.iter().product();
        let data = (0..n).map(|i| (i * 7 % 11) as f64 / 4.0 - 1.0);
        Array::real(shape, data.collect())
    };
    let inputs = Inputs::new()
        .with("x", count(&[2, 4, 3]))
        .with("y", count(&[2, 3]))
        .with("w", count(&[4]));
    let given = inputs.tensors.iter();
    let given = given.map(|(n, x)| (n.as_str(), x.shape.as_slice()));
    let extents = bind_extents(&r, given).unwrap();
    let axis = r.axis_named("D").unwrap();
    let partial = r.partial(AxisSet::of(axis));
    let found = eval(&partial.recurrence, &inputs).unwrap();
    for (name, count) in wanted {
        let x = found.tensors.get(*name).or(found.last.get(*name)).unwrap();
        assert_eq!(x.data.len(), *count, "{body}: {name} {:?}", x.shape);
    }
    let (found, wanted) = (
        partial.complete(found, &extents),
        eval(&r, &inputs).unwrap(),
    );
    let found = found.tensors.iter().chain(&found.last);
    for ((name, x), y) in found.zip(wanted.tensors.values().chain(wanted.last.values())) {
        assert_eq!(x.shape, y.shape, "{body}: {name}");
        let near = |(x, y): (&f64, &f64)| (x - y).abs() < 1e-12;
        assert!(
            x.data.iter().zip(&y.data).all(near),
            "{body}: {name} {x:?} {y:?}"
        );
    }
    partial
}

#[test]
fn linear_forms_are_moved_out() {
    for body in [
        "sum::<D>(x * w)",
        "-y * sum::<D>(x) / (1 + y * y)",
        "sum::<D>(x) - sum::<D>(x * w) + exp(y)",
        "select(y > 0, sum::<D>(x), 2 * y)",
        "sum::<D>(x) * sum::<N>(y) + len::<D>() * y",
        "y",
    ] {
        // 2 steps of 3 positions, times 4.
        let partial = partial(body, &[("out", 24), ("s", 3), ("h", 4)]);
        assert_eq!(partial.reductions.len(), 1, "{body}");
    }
}

#[test]
fn what_is_not_linear_stays_complete() {
    for body in [
        "sum::<D>(x) * sum::<D>(x * w)",
        "exp(0.1 * sum::<D>(x))",
        "y / (20 + sum::<D>(x))",
        "max::<D>(x)",
        "select(sum::<D>(x) > 0, y, 1)",
    ] {
        let partial = partial(body, &[("out", 6), ("s", 3), ("h", 4)]);
        assert!(partial.reductions.is_empty(), "{body}");
    }
}

#[test]
fn additive_states_and_groups() {
    let r = Recurrence::parse(
        "fn f(x: Tensor<L, H>, g: Tensor<L, G>, k: Tensor<G>, s: State<G>, t: State<G>) -> Tensor<L, G> {
            let hit = floor(index::<H>() * len::<G>() / len::<H>());
            s = s + sum::<H>(select(hit == index::<G>(), x, 0)) * k;
            t = 0.5 * t + sum::<H>(x * x);
            2 * sum::<H>(select(hit == index::<G>(), x * x, 0)) + 0 * g * t + 0 * s }",
    )
    .unwrap();
    let (h, g) = (r.axis_named("H").unwrap(), r.axis_named("G").unwrap());
    // What is kept of the output reads s: it is no longer additive alone.
    assert!(
        r.partial(AxisSet::of(h))
            .reductions
            .iter()
            .all(|(name, _)| name != "s")
    );
    let mut alone = r.clone();
    alone.outputs.clear();
    let partial = alone.partial(AxisSet::of(h));
    // k varies over G: not one value a position of H.
    assert_eq!(
        partial.reductions,
        [("s".to_owned(), vec![Reduction::Sum(h)])]
    );
    let x = Array::real(&[1, 4], vec![1.0, 2.0, 3.0, 5.0]);
    let mut axes = vec![r.time, h];
    let extents = Extents(vec![1, 4, 2]);
    assert_eq!((r.time, h, g), (AxisId(0), AxisId(1), AxisId(2)));
    let group = Reduction::Group { of: h, groups: g };
    let sums = reduce(&x, &mut axes, group, &extents);
    assert_eq!((sums.shape, sums.data), (vec![1, 2], vec![3.0, 8.0]));
    assert_eq!(axes, [r.time, g]);
}
