//! Functions written in the syntax itself, and the named constants.
//!
//! In: [`FUNCTIONS`], one row a function. Out: functions whose body the checker puts in the place of a call,
//! each parameter standing for the value of its argument.
//!
//! A continuous system h' = A h + B u becomes h = a_bar · h + b_bar · u over a step delta ([`FUNCTIONS`],
//! `discretize::…`):
//! * `mamba`: exact in A, Euler in B (Gu & Dao 2023, section 2);
//! * `zoh`: u held over the step, b_bar = delta b φ₁(delta a) with φ₁(x) = (eˣ − 1)/x, exact at a → 0;
//! * `bilinear`: Tustin's rule (Gu et al. 2021, eq. 3); `euler`: one explicit step; `dirac`: u an impulse;
//! * `trapezoid`: Mamba-3's generalised trapezoid. It has three coefficients: of h, of the step before's b·u
//!   and of this step's b·u: `h = a_bar * h + b_prev * delay(b, 1) * delay(u, 1) + b_bar * b * u`,
//!   lambda = 1 being `mamba` and lambda = 1/2 the trapezoidal rule.
//!
//! `phi1_slope` is φ₁'(x) = (eˣ − φ₁(x))/x, near 0 its series Σ xᵏ (k + 1)/(k + 2)! up to a term below 1e-17.

use std::f64::consts;

use crate::syntax::{Expr, ExprKind};

/// Every function: how it is called, and what that means.
#[rustfmt::skip]
pub const FUNCTIONS: &[(&str, &str)] = &[
    ("discretize::mamba(delta, a, b)",          "(exp(delta * a), delta * b)"),
    ("discretize::zoh(delta, a, b)",            "(exp(delta * a), delta * b * phi1(delta * a))"),
    ("discretize::bilinear(delta, a, b)",       "((1 + delta * a / 2) / (1 - delta * a / 2), delta * b / (1 - delta * a / 2))"),
    ("discretize::euler(delta, a, b)",          "(1 + delta * a, delta * b)"),
    ("discretize::dirac(delta, a, b)",          "(exp(delta * a), b)"),
    ("discretize::trapezoid(delta, a, lambda)", "(exp(delta * a), (1 - lambda) * delta * exp(delta * a), lambda * delta)"),
    ("silu(x)",                                 "x * sigmoid(x)"),
    ("relu(x)",                                 "select(x <= 0, 0, x)"),
    ("gelu(x)",                                 "0.5 * x * (1 + erf(x * FRAC_1_SQRT_2))"),
    ("gelu_tanh(x)",                            "0.5 * x * (1 + tanh(FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * (x + 0.044715 * x * x * x)))"),
    ("logsigmoid(x)",                           "-softplus(-x)"),
    ("clamp(x, low, high)",                     "min(max(x, low), high)"),
    ("square(x)",                               "x * x"),
    ("phi1_slope(x)",                           "select(abs(x) < 0.25, 0.5 + x * (0.3333333333333333 + x * (0.125 + x * (0.03333333333333333 + x * (0.006944444444444444 + x * (0.0011904761904761906 + x * (0.00017361111111111112 + x * (2.2045855379188714e-05 + x * (2.48015873015873e-06 + x * (2.505210838544172e-07 + x * (2.296443268665491e-08 + x * (1.9270852604185937e-09 + x * (1.4911969277048643e-10)))))))))))), (exp(x) - phi1(x)) / x)"),
];

/// The named constants, as in `std::f64::consts`.
#[rustfmt::skip]
pub const CONSTANTS: &[(&str, f64)] = &[
    ("PI",             consts::PI),
    ("TAU",            consts::TAU),
    ("E",              consts::E),
    ("LN_2",           consts::LN_2),
    ("LN_10",          consts::LN_10),
    ("LOG2_E",         consts::LOG2_E),
    ("LOG10_E",        consts::LOG10_E),
    ("SQRT_2",         consts::SQRT_2),
    ("FRAC_1_SQRT_2",  consts::FRAC_1_SQRT_2),
    ("FRAC_2_SQRT_PI", consts::FRAC_2_SQRT_PI),
    ("INFINITY",       f64::INFINITY),
    ("NAN",            f64::NAN),
];

/// The value of a named constant.
#[must_use]
pub fn constant(name: &str) -> Option<f64> {
    CONSTANTS.iter().find(|(n, _)| *n == name).map(|(_, x)| *x)
}

/// A function of [`FUNCTIONS`].
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) params: Vec<String>,
    pub(crate) body: Expr,
}

thread_local! {
    // Syntax trees hold spans, which belong to a thread.
    static PARSED: Vec<Function> = FUNCTIONS.iter().filter_map(parse).collect();
}

fn parse((head, body): &(&str, &str)) -> Option<Function> {
    let ExprKind::Call { function, args, .. } = Expr::parse(head).ok()?.kind else {
        return None;
    };
    let params = args.into_iter().filter_map(|arg| match arg.kind {
        ExprKind::Name(name) => Some(name),
        _ => None,
    });
    Some(Function {
        name: function.text,
        params: params.collect(),
        body: Expr::parse(body).ok()?,
    })
}

/// The function of that name.
pub(crate) fn find(name: &str) -> Option<Function> {
    PARSED.with(|all| all.iter().find(|f| f.name == name).cloned())
}

/// The names of all functions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS
        .iter()
        .filter_map(|(head, _)| head.split('(').next())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{Array, Inputs, Recurrence, eval};

    #[test]
    fn every_row_parses_and_reads_its_parameters_only() {
        fn names(x: &Expr, out: &mut Vec<String>) {
            match &x.kind {
                ExprKind::Name(name) => out.push(name.clone()),
                ExprKind::Neg(x) => names(x, out),
                ExprKind::Binary(_, x, y) => {
                    names(x, out);
                    names(y, out);
                }
                ExprKind::Call { args, .. } | ExprKind::Tuple(args) => {
                    args.iter().for_each(|x| names(x, out));
                }
                ExprKind::Number(_) | ExprKind::Error => {}
            }
        }
        for row in FUNCTIONS {
            let function = parse(row).unwrap_or_else(|| panic!("{row:?}"));
            assert!(!function.params.is_empty(), "{row:?}");
            let mut read = Vec::new();
            names(&function.body, &mut read);
            for name in read {
                assert!(
                    function.params.contains(&name) || constant(&name).is_some(),
                    "{name} in {row:?}"
                );
            }
        }
    }

    #[test]
    fn discretizations_are_their_formulas() {
        let rules = [
            "let (p, q) = discretize::RULE(delta, a, b);",
            "let (p, r, q) = discretize::RULE(delta, a, b);",
        ];
        type Formula = fn(f64, f64, f64) -> (f64, f64);
        let table: [(&str, Formula); 6] = [
            ("mamba", |d, a, b| ((d * a).exp(), d * b)),
            ("zoh", |d, a, b| ((d * a).exp(), ((d * a).exp_m1() / a) * b)),
            ("bilinear", |d, a, b| {
                let k = d * a / 2.0;
                ((1.0 + k) / (1.0 - k), d / (1.0 - k) * b)
            }),
            ("euler", |d, a, b| (1.0 + d * a, d * b)),
            ("dirac", |d, a, b| ((d * a).exp(), b)),
            // p is compared with the coefficient of the step before added.
            ("trapezoid", |d, a, l| {
                let p = (d * a).exp();
                (p + (1.0 - l) * d * p, l * d)
            }),
        ];
        for (rule, formula) in table {
            for x in [[0.1, -0.7, 1.3], [0.9, -2.5, 0.4], [0.01, 0.3, -2.0]] {
                let (p, q) = formula(x[0], x[1], x[2]);
                let three = rule == "trapezoid";
                let bind = rules[usize::from(three)].replace("RULE", rule);
                let first = if three { "p + r + 0 * q" } else { "p + 0 * q" };
                let second = if three { "q + 0 * p * r" } else { "q + 0 * p" };
                for (wanted, value) in [(p, first), (q, second)] {
                    let found = output_of(&bind, value, x);
                    assert!((found - wanted).abs() < 1e-14, "{rule}: {found} {wanted}");
                }
            }
        }
        // The limit of zoh at a = 0 is exact.
        let limit = output_of(
            &rules[0].replace("RULE", "zoh"),
            "q + 0 * p",
            [0.3, 0.0, 2.0],
        );
        assert_eq!(limit, 0.6);
    }

    /// The output of a kernel with inputs delta, a and b.
    fn output_of(bind: &str, value: &str, x: [f64; 3]) -> f64 {
        let text = format!(
            "fn f(delta: Tensor<L>, a: Tensor<L>, b: Tensor<L>) -> Tensor<L> {{ {bind} {value} }}"
        );
        let r = Recurrence::parse(&text).unwrap_or_else(|e| panic!("{text}\n{e}"));
        let mut inputs = Inputs::new();
        for (name, x) in ["delta", "a", "b"].into_iter().zip(x) {
            inputs = inputs.with(name, Array::real(&[1], vec![x]));
        }
        eval(&r, &inputs).unwrap().tensors["out"].data[0]
    }

    #[test]
    fn activations_are_their_formulas() {
        type Formula = fn(f64) -> f64;
        let table: [(&str, Formula); 6] = [
            ("silu", |x| x / (1.0 + (-x).exp())),
            ("relu", |x| if x > 0.0 { x } else { 0.0 }),
            ("gelu", |x| x / 2.0 * (1.0 + libm::erf(x / 2f64.sqrt()))),
            ("gelu_tanh", |x| {
                let inner = (2.0 / consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                x / 2.0 * (1.0 + inner.tanh())
            }),
            ("logsigmoid", |x| -(-x).exp().ln_1p()),
            ("square", |x| x * x),
        ];
        for (name, formula) in table {
            for x in [-2.5, -0.3, 0.0, 0.7, 3.0] {
                let found = output_of("", &format!("{name}(delta) + 0 * a * b"), [x, 1.0, 1.0]);
                assert!((found - formula(x)).abs() < 1e-14, "{name}({x}) = {found}");
            }
        }
        let clamped = |x| output_of("", "clamp(delta, a, b)", [x, -1.0, 2.0]);
        assert_eq!([-3.0, 0.5, 3.0].map(clamped), [-1.0, 0.5, 2.0]);
    }
}
