//! Tokens, and what Rust can say with them that is no mathematics.
//!
//! In: the tokens that come next. Out: the operator or construct that they are, what a message calls it and
//! what to write instead.

use proc_macro2::{Delimiter, Spacing, TokenTree};
use syn::Token;
use syn::parse::ParseStream;

use crate::diagnostic::Loc;

/// Operators of Rust, longest first where one begins another.
const OPERATORS: &[&str] = &[
    "<<=", ">>=", "...", "..=", "+=", "-=", "*=", "/=", "%=", "^=", "&=", "|=", "==", "!=", "<=",
    ">=", "&&", "||", "<<", ">>", "->", "=>", "::", "..", "+", "-", "*", "/", "%", "^", "&", "|",
    "=", "<", ">", "!", "?", ".", ",", ";", ":", "@", "#", "$", "~",
];

/// The operator that comes next.
pub(super) fn operator(input: ParseStream) -> Option<&'static str> {
    let mut text = String::new();
    let mut cursor = input.cursor();
    while text.len() < 3 {
        let Some((punct, rest)) = cursor.punct() else {
            break;
        };
        text.push(punct.as_char());
        if punct.spacing() == Spacing::Alone {
            break;
        }
        cursor = rest;
    }
    OPERATORS.iter().find(|op| text.starts_with(**op)).copied()
}

/// Takes the operator that [`operator`] found.
pub(super) fn take(input: ParseStream, op: &str) -> Loc {
    let mut loc: Option<Loc> = None;
    for _ in op.chars() {
        if let Some(token) = any_token(input) {
            let here = Loc::from(token.span());
            loc = Some(loc.map_or(here, |l| l.to(here)));
        }
    }
    loc.unwrap_or_else(|| input.span().into())
}

/// Takes the next token, whatever it is.
pub(super) fn any_token(input: ParseStream) -> Option<TokenTree> {
    input
        .step(|cursor| {
            cursor
                .token_tree()
                .ok_or_else(|| cursor.error("end of input"))
        })
        .ok()
}

/// The next token as a message shows it.
pub(super) fn found(input: ParseStream) -> String {
    if let Some(op) = operator(input) {
        return format!("`{op}`");
    }
    match input.cursor().token_tree() {
        None => "nothing".to_owned(),
        Some((TokenTree::Group(group), _)) => match group.delimiter() {
            Delimiter::Parenthesis => "`(`".to_owned(),
            Delimiter::Brace => "`{`".to_owned(),
            Delimiter::Bracket => "`[`".to_owned(),
            Delimiter::None => "a macro fragment".to_owned(),
        },
        Some((token, _)) => format!("`{token}`"),
    }
}

/// What an operator of Rust that is no mathematics should be written as.
pub(super) fn instead_of(op: &str) -> Option<&'static str> {
    Some(match op {
        "=" => "a state is assigned by a statement of its own: `h = …;`",
        "+=" | "-=" | "*=" | "/=" | "%=" | "^=" | "&=" | "|=" | "<<=" | ">>=" => {
            "a state is assigned by a statement of its own, in full: `h = h + …;`"
        }
        "%" => "write the remainder as `x - y * floor(x / y)`",
        "&&" => "write `select(p, select(q, x, y), y)`",
        "||" => "write `select(p, x, select(q, x, y))`",
        "&" | "|" | "^" | "<<" | ">>" => "there are no integers: write it with + - * / and floor",
        ".." | "..=" | "..." => "there are no ranges: `sum::<N>(x)` reduces a whole axis",
        "?" => "no value of a kernel can be missing: leave `?` out",
        "." => "write functions as calls, `exp(x)`, and complex parts as `re(x)` and `im(x)`",
        _ => return None,
    })
}

/// What a construct of Rust that is no mathematics is called, and what to write instead.
pub(super) fn construct(input: ParseStream) -> Option<(&'static str, &'static str)> {
    let select = "choose by a comparison with `select(a < b, x, y)`, by an optional input with `given(z, x, y)`";
    let reduce = "reduce an axis with `sum::<N>(x)` or `max::<N>(x)`; time steps are what the states' assignments run over";
    let bind = "bind values with `let name = …;` in the kernel's body";
    let whole = "a kernel is one expression at its end: leave it out";
    Some(if input.peek(Token![if]) {
        ("an `if`", select)
    } else if input.peek(Token![match]) {
        ("a `match`", select)
    } else if input.peek(Token![for]) {
        ("a `for` loop", reduce)
    } else if input.peek(Token![while]) {
        ("a `while` loop", reduce)
    } else if input.peek(Token![loop]) {
        ("a `loop`", reduce)
    } else if input.peek(syn::Lifetime) {
        ("a label", reduce)
    } else if input.peek(Token![|]) || input.peek(Token![||]) || input.peek(Token![move]) {
        ("a closure", bind)
    } else if input.peek(syn::token::Brace)
        || input.peek(Token![unsafe])
        || input.peek(Token![async])
        || (input.peek(Token![const]) && input.peek2(syn::token::Brace))
    {
        ("a block", bind)
    } else if input.peek(Token![&]) {
        (
            "a reference",
            "values are numbers, not places: leave `&` out",
        )
    } else if input.peek(Token![*]) {
        (
            "a dereference",
            "values are numbers, not places: leave `*` out",
        )
    } else if input.peek(Token![!]) {
        (
            "a negated condition",
            "write the opposite comparison, or swap the arms of `select`",
        )
    } else if input.peek(Token![return]) {
        ("a `return`", whole)
    } else if input.peek(Token![break]) || input.peek(Token![continue]) {
        ("a jump", whole)
    } else if input.peek(syn::token::Bracket) {
        (
            "an array",
            "vectors are tensors over a named axis: make it an input `Tensor<N>`",
        )
    } else if input.peek(Token![let]) {
        (
            "a `let`",
            "end the statement before it with `;`, and bind names in the kernel's body only",
        )
    } else {
        return None;
    })
}
