//! The parser of statements.
//!
//! In: the tokens of a kernel's body. Out: [`Stmt`]s and the expression at the end.

use syn::parse::ParseStream;
use syn::{Ident, Token, ext::IdentExt};

use super::expr::{Parsed, Parser, Reported};
use super::token::{any_token, found, operator};
use super::{Expr, ExprKind, Name, Stmt};
use crate::diagnostic::Loc;

/// Takes tokens up to and including the next `;`, or the block that ends a statement which begins with one.
pub(super) fn skip_statement(input: ParseStream, block: bool) {
    while !input.is_empty() {
        if operator(input) == Some(";") {
            any_token(input);
            return;
        }
        let ends = block && input.peek(syn::token::Brace);
        any_token(input);
        if ends && !input.peek(Token![else]) {
            return;
        }
    }
}

/// Whether a statement of Rust that ends with a block comes next.
fn begins_block(input: ParseStream) -> bool {
    input.peek(Token![if])
        || input.peek(Token![for])
        || input.peek(Token![while])
        || input.peek(Token![loop])
        || input.peek(Token![match])
        || input.peek(Token![unsafe])
        || input.peek(Token![fn])
        || input.peek(syn::Lifetime)
        || input.peek(syn::token::Brace)
}

impl Parser<'_> {
    /// The statements, and the value at the end.
    pub(super) fn body(&mut self, input: ParseStream, end: Loc) -> (Vec<Stmt>, Expr) {
        let mut stmts = Vec::new();
        let mut tail = None;
        let before = self.out.len();
        while !input.is_empty() {
            if input.peek(Token![;]) {
                any_token(input);
                continue;
            }
            let block = begins_block(input);
            match self.statement(input, &mut stmts, &mut tail) {
                Ok(()) => {}
                Err(Reported) => skip_statement(input, block),
            }
        }
        let tail = tail.unwrap_or_else(|| {
            if self.out.len() == before {
                self.fail(
                    end,
                    "the kernel ends without a value",
                    "write the output as the last expression, without `;`: `sum::<N>(c * h)`",
                );
            }
            Expr::new(ExprKind::Error, end)
        });
        (stmts, tail)
    }

    /// One statement with its `;`, or the tail.
    fn statement(
        &mut self,
        input: ParseStream,
        stmts: &mut Vec<Stmt>,
        tail: &mut Option<Expr>,
    ) -> Parsed<()> {
        if input.peek(Token![let]) {
            let stmt = self.binding(input)?;
            stmts.push(stmt);
            return Ok(());
        }
        let ahead = input.fork();
        let assigns = Ident::parse_any(&ahead).is_ok() && operator(&ahead) == Some("=");
        if assigns {
            let state = self.name(input, "a state", "write `h = …;` for a state `h`")?;
            any_token(input);
            let value = self.value(input);
            stmts.push(Stmt::Assign { state, value });
            return Ok(());
        }
        let value = self.expr(input, 0)?;
        if input.is_empty() {
            *tail = Some(value);
            return Ok(());
        }
        if input.peek(Token![;]) {
            return Err(self.fail(
                value.loc,
                "this value goes nowhere",
                "leave the `;` out to return it, name it with `let`, or assign it to a state",
            ));
        }
        let what = found(input);
        Err(self.fail(
            input.span(),
            format!("expected an operator or `;`, found {what}"),
            "statements are `let name = …;` and `state = …;`; the last expression is the output",
        ))
    }

    /// The value of a statement and the `;`; what is wrong stands as [`ExprKind::Error`], and is skipped.
    fn value(&mut self, input: ParseStream) -> Expr {
        let start = Loc::from(input.span());
        let parsed = self.expr(input, 0).and_then(|x| {
            if input.peek(Token![;]) {
                any_token(input);
                return Ok(x);
            }
            let what = found(input);
            Err(self.fail(
                input.span(),
                format!("expected an operator or `;`, found {what}"),
                "end the statement with `;`",
            ))
        });
        parsed.unwrap_or_else(|Reported| {
            // `let x = if … { … } else { … };` ends at its `;`; a forgotten `;` before the next `let` ends there.
            while !input.is_empty() && !input.peek(Token![let]) {
                let last = input.peek(Token![;]);
                any_token(input);
                if last {
                    break;
                }
            }
            Expr::new(ExprKind::Error, start)
        })
    }

    fn binding(&mut self, input: ParseStream) -> Parsed<Stmt> {
        let help = "write `let name = …;` or `let (a, b) = …;`";
        any_token(input);
        if input.peek(Token![mut]) {
            self.fail(
                input.span(),
                "a `let` never changes",
                "leave `mut` out: what changes in time is a state, a parameter `h: State<…>`",
            );
            any_token(input);
        }
        let names = if input.peek(syn::token::Paren) {
            let (content, brackets) = self.group(input)?;
            let mut names = Vec::new();
            while !content.is_empty() {
                if content.peek(Token![_]) {
                    names.push(Name {
                        text: "_".to_owned(),
                        loc: content.span().into(),
                    });
                    any_token(&content);
                } else {
                    let name = self.name(&content, "a name", help);
                    let Ok(name) = name else {
                        while any_token(&content).is_some() {}
                        return Err(Reported);
                    };
                    names.push(name);
                }
                if !content.is_empty() && !content.peek(Token![,]) {
                    let what = found(&content);
                    let reported =
                        self.fail(content.span(), format!("expected `,`, found {what}"), help);
                    while any_token(&content).is_some() {}
                    return Err(reported);
                }
                any_token(&content);
            }
            if names.len() < 2 {
                return Err(self.fail(
                    brackets,
                    "a tuple has at least two values",
                    "write `let name = …;`",
                ));
            }
            names
        } else {
            vec![self.name(input, "a name or `(`", help)?]
        };
        if input.peek(Token![:]) {
            self.fail(
                input.span(),
                "a `let` has no type",
                "leave `: …` out: its axes are those that its value varies over",
            );
            while !input.is_empty() && !matches!(operator(input), Some("=" | ";" | ">=")) {
                any_token(input);
            }
            if operator(input) == Some(">=") {
                any_token(input);
            }
        }
        if operator(input) != Some("=") {
            let what = found(input);
            return Err(self.fail(input.span(), format!("expected `=`, found {what}"), help));
        }
        any_token(input);
        let value = self.value(input);
        Ok(Stmt::Let { names, value })
    }
}
