//! No text makes the parser or the checker panic, and what parses prints and parses back equal.
//!
//! Texts are soups of tokens, and right kernels with tokens deleted, doubled, swapped or replaced. The tests
//! count what gets through, so that they do not hold because everything is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use selscan_dsl::syntax::Expr;
use selscan_dsl::{Recurrence, parse_file, parse_syntax};

const KERNELS: &[&str] = &[
    "# [ ssm_kernel ] fn scan ( u : Tensor < B , L , D > , delta : Tensor < B , L , D > , a : Tensor < D , N > , b : Tensor < B , L , N > ,
     z : Option < Tensor < B , L , D > > , flag : Flag , h : State < B , D , N > ) -> Tensor < B , L , D > {
     let delta = given ( flag , softplus ( delta ) , delta ) ; let ( a_bar , b_bar ) = discretize::zoh ( delta , a , b ) ;
     h = a_bar * h + b_bar * u ; let y = sum :: < N > ( b * h ) ; given ( z , y * silu ( z ) , y ) }",
    "# [ ssm_kernel ( time = T , N2 = N , N3 = N ) ] fn dense ( a : Tensor < T , N , N2 > , u : Tensor < B , T > , g : Tensor < T , G > , h : State < B , N > )
     -> ( Tensor < B , T > , Tensor < T > ) { let p = h ; let at = alias :: < N3 , N2 > ( alias :: < N2 , N > ( alias :: < N , N3 > ( a ) ) ) ;
     h = sum :: < N2 > ( ( a - at ) * alias :: < N , N2 > ( h ) ) + push_front :: < N > ( h , u ) + group :: < G , N > ( exp ( g ) ) ;
     ( max :: < N > ( h * p ) / len :: < N > ( ) , sum :: < G > ( g * index :: < G > ( ) ) ) }",
    "# [ ssm_kernel ( bidirectional ) ] fn both ( x : Complex < B , L > , w : Tensor < K > , h : ComplexState < B > , # [ reverse ] g : State < B > ) -> Tensor < B , L > {
     h = exp ( complex ( 0 , - PI ) ) * h + delay ( x , 2 ) ; g = max ( g , abs ( x ) ) ;
     re ( conj ( h ) * h ) + select ( g > 0.5 , im ( x ) , - 1e3 ) * sum :: < K > ( w ) - delay ( g * 2 , 1 ) }",
];

const TOKENS: &[&str] = &[
    "fn",
    "let",
    "=",
    ";",
    ",",
    ":",
    "::",
    "->",
    "<",
    ">",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    "#",
    "+",
    "-",
    "*",
    "/",
    "==",
    "<=",
    "+=",
    "&",
    "|",
    "!",
    ".",
    "..",
    "?",
    "'a",
    "\"s\"",
    "'c'",
    "0",
    "1",
    "2.5",
    "1e400",
    "1f32",
    "99999999999999999999",
    "0xff",
    "if",
    "else",
    "for",
    "in",
    "loop",
    "match",
    "return",
    "self",
    "mut",
    "async",
    "where",
    "use",
    "_",
    "true",
    "Tensor",
    "State",
    "Complex",
    "Option",
    "Flag",
    "ssm_kernel",
    "reverse",
    "time",
    "B",
    "L",
    "D",
    "N",
    "N2",
    "T",
    "x",
    "h",
    "u",
    "y",
    "exp",
    "sum",
    "max",
    "delay",
    "given",
    "alias",
    "group",
    "push_front",
    "select",
    "discretize::zoh",
    "re",
    "complex",
    "PI",
    "NAN",
    "/// doc\n",
    "r#fn",
    "é",
];

/// Parses; what parses must print and parse back. True if it is a right kernel.
fn survives(text: &str) -> Result<bool, TestCaseError> {
    if let Ok(kernels) = parse_syntax(text) {
        let printed: String = kernels.iter().map(ToString::to_string).collect();
        let again =
            parse_syntax(&printed).map_err(|e| TestCaseError::fail(format!("{printed}\n{e}")))?;
        prop_assert_eq!(again, kernels, "{}", printed);
    }
    match parse_file(text) {
        Ok(recurrences) => {
            for r in &recurrences {
                let printed = r.to_string();
                let again = Recurrence::parse(&printed)
                    .map_err(|e| TestCaseError::fail(format!("{printed}\n{e}")))?;
                prop_assert_eq!(&again, r, "{}", printed);
            }
            Ok(!recurrences.is_empty())
        }
        Err(error) => {
            prop_assert!(!error.diagnostics.is_empty());
            prop_assert!(!error.to_string().is_empty());
            Ok(false)
        }
    }
}

fn token() -> impl Strategy<Value = String> {
    prop::sample::select(TOKENS).prop_map(str::to_owned)
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn soups_of_tokens_are_refused_or_survive() {
    let soup = prop::collection::vec(token(), 0..40).prop_map(|tokens| tokens.join(" "));
    let place = 0..4_usize;
    runner(3000)
        .run(&(soup, place), |(soup, place)| {
            let text = match place {
                0 => soup,
                1 => format!("fn f(x: Tensor<L>, h: State<>) -> Tensor<L> {{ {soup} }}"),
                2 => format!("#[ssm_kernel] fn f({soup}) -> Tensor<L> {{ x }}"),
                _ => format!("#[ssm_kernel({soup})] fn f(x: Tensor<L>) -> Tensor<L> {{ x }}"),
            };
            survives(&text).map(|_| ())
        })
        .unwrap();
}

#[test]
fn soups_of_characters_are_refused_or_survive() {
    runner(2000)
        .run(&"[ -~\n«é]{0,60}", |text| {
            if let Ok(expr) = Expr::parse(&text) {
                let printed = expr.to_string();
                prop_assert_eq!(Expr::parse(&printed).unwrap(), expr, "{}", printed);
            }
            survives(&text).map(|_| ())
        })
        .unwrap();
}

/// One change of a kernel's tokens: what, where, from where, and a new token.
type Mutation = (u8, prop::sample::Index, prop::sample::Index, String);

fn mutate(kernel: &str, mutations: &[Mutation]) -> String {
    let mut tokens: Vec<String> = kernel.split_whitespace().map(str::to_owned).collect();
    for (what, at, from, new) in mutations {
        let (at, from) = (at.index(tokens.len()), from.index(tokens.len()));
        match what {
            0 => drop(tokens.remove(at)),
            1 => tokens.insert(at, new.clone()),
            2 => tokens[at] = new.clone(),
            3 => tokens.swap(at, from),
            // Most likely to stay a kernel: a name for a name, an operator for an operator.
            _ => tokens[at] = tokens[from].clone(),
        }
        if tokens.is_empty() {
            break;
        }
    }
    tokens.join(" ")
}

#[test]
fn mutated_kernels_are_refused_or_survive() {
    let mutation = (
        0..12_u8,
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        token(),
    );
    let mutations = prop::collection::vec(mutation, 0..4);
    let right = Cell::new(0);
    runner(3000)
        .run(
            &(prop::sample::select(KERNELS), mutations),
            |(kernel, mutations)| {
                if survives(&mutate(kernel, &mutations))? {
                    right.set(right.get() + 1);
                }
                Ok(())
            },
        )
        .unwrap();
    assert!(right.get() > 400, "only {} kernels were right", right.get());
}

/// Expressions that are right by construction.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "x",
        "a",
        "w",
        "h",
        "2",
        "0.5",
        "PI",
        "len::<N>()",
        "index::<N>()",
    ]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(6, 60, 3, |inner| {
            let two = (inner.clone(), inner.clone());
            let op = prop::sample::select(vec!["+", "-", "*", "/"]);
            let call = prop::sample::select(vec![
                "exp",
                "silu",
                "gelu",
                "-",
                "sum::<N>",
                "alias::<N, N2>",
                "neg",
                "abs",
            ]);
            prop_oneof![
                (two.clone(), op).prop_map(|((a, b), op)| format!("({a}) {op} ({b})")),
                (inner.clone(), call).prop_map(|(x, f)| match f {
                    "sum::<N>" => format!("sum::<N>(({x}) + a)"),
                    "alias::<N, N2>" => format!("sum::<N2>(w + alias::<N, N2>(({x}) * a))"),
                    f => format!("{f}({x})"),
                }),
                (two.clone(), inner.clone())
                    .prop_map(|((a, b), c)| format!("select({a} < {b}, {c}, x)")),
                (inner.clone(), 1..4_u32).prop_map(|(x, k)| format!("delay({x}, {k})")),
                two.prop_map(|(a, b)| format!("given(z, {a}, {b})")),
            ]
        })
}

#[test]
fn random_kernels_survive() {
    let right = Cell::new(0);
    runner(1000)
        .run(&(expression(), expression()), |(f, g)| {
            let text = format!(
                "#[ssm_kernel(N2 = N)] fn f(x: Tensor<L>, a: Tensor<N>, w: Tensor<N2>, z: Option<Tensor<L, N>>, h: State<N>)
                 -> Tensor<L, N, N2> {{
                    let used = x + a * w * given(z, 1, 0);
                    h = h + sum::<N2>((w * used + {f}) * 0 + w);
                    {g} + h * w
                }}"
            );
            if survives(&text)? {
                right.set(right.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(right.get() > 500, "only {} kernels were right", right.get());
}
