//! The parser of expressions.
//!
//! In: tokens. Out: [`Expr`]. What Rust can say and mathematics cannot (loops, branches, methods, …) is named
//! in the error together with what to write instead; the rest of the argument or statement is then skipped.

use proc_macro2::Delimiter;
use syn::parse::{ParseBuffer, ParseStream};
use syn::{Ident, Lit, Token, ext::IdentExt};

use super::token::{any_token, construct, found, instead_of, operator, take};
use super::{Expr, ExprKind, MAX_HEIGHT, Name, precedence};
use crate::diagnostic::{Diagnostics, Loc};
use crate::op::Op;

/// The mistake has been reported.
pub(super) struct Reported;
/// What was parsed, unless a mistake was reported.
pub(super) type Parsed<T> = Result<T, Reported>;

/// The parser: a place for mistakes.
pub(super) struct Parser<'d> {
    pub(super) out: &'d mut Diagnostics,
}

/// The infix operation written so.
fn infix(op: &str) -> Option<Op> {
    super::INFIX
        .iter()
        .find(|(_, symbol)| *symbol == op)
        .map(|(op, _)| *op)
}

impl Parser<'_> {
    /// Reports a mistake.
    pub(super) fn fail(
        &mut self,
        loc: impl Into<Loc>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Reported {
        self.out.error(loc, message, help);
        Reported
    }

    /// Reports an error of syn's.
    pub(super) fn syn(&mut self, error: &syn::Error) -> Reported {
        let loc = Loc::from(error.span());
        self.fail(
            loc,
            error.to_string(),
            "a kernel is written as a Rust function: `fn name(u: Tensor<B, L, D>, …) -> Tensor<B, L, D> { … }`",
        )
    }

    /// An identifier that is not a keyword.
    pub(super) fn name(&mut self, input: ParseStream, wanted: &str, help: &str) -> Parsed<Name> {
        match input.parse::<Ident>() {
            Ok(ident) => Ok(Name {
                text: ident.to_string(),
                loc: ident.span().into(),
            }),
            Err(_) => {
                let what = found(input);
                Err(self.fail(
                    input.span(),
                    format!("expected {wanted}, found {what}"),
                    help,
                ))
            }
        }
    }

    fn made(&mut self, kind: ExprKind, loc: Loc) -> Parsed<Expr> {
        let expr = Expr::new(kind, loc);
        if expr.height() > MAX_HEIGHT {
            return Err(self.too_deep(loc));
        }
        Ok(expr)
    }

    fn too_deep(&mut self, loc: Loc) -> Reported {
        self.fail(
            loc,
            format!("this expression is more than {MAX_HEIGHT} operations deep"),
            "name parts of it with `let`",
        )
    }

    /// An expression whose operations bind at least as tightly as `least`.
    pub(super) fn expr(&mut self, input: ParseStream, least: u8) -> Parsed<Expr> {
        let mut left = self.unary(input)?;
        loop {
            let Some(symbol) = operator(input) else {
                if input.peek(Token![as]) {
                    return Err(self.fail(
                        input.span(),
                        "a kernel has no casts",
                        "every value is a number: leave `as …` out (round with `floor(x)`)",
                    ));
                }
                return Ok(left);
            };
            let Some(op) = infix(symbol) else {
                if let Some(help) = instead_of(symbol) {
                    return Err(self.not_math(input, symbol, &left, help));
                }
                return Ok(left);
            };
            let binds = precedence(op);
            if binds < least {
                return Ok(left);
            }
            if op.is_comparison()
                && matches!(&left.kind, ExprKind::Binary(l, ..) if l.is_comparison())
            {
                return Err(self.fail(
                    input.span(),
                    "comparisons do not chain",
                    "compare two at a time: `select(a < b, select(b < c, x, y), y)`",
                ));
            }
            take(input, symbol);
            let right = self.expr(input, binds + 1)?;
            let loc = left.loc.to(right.loc);
            left = self.made(ExprKind::Binary(op, Box::new(left), Box::new(right)), loc)?;
        }
    }

    fn not_math(&mut self, input: ParseStream, symbol: &str, left: &Expr, help: &str) -> Reported {
        let operator = take(input, symbol);
        if symbol != "." {
            return self.fail(
                operator,
                format!("`{symbol}` is not part of an expression"),
                help,
            );
        }
        let from = left.loc.to(input.span().into());
        match Ident::parse_any(input) {
            Ok(method) if input.peek(syn::token::Paren) => self.fail(
                from,
                format!("`.{method}(…)` is a method call"),
                format!("write it as a function of its value: `{method}(…)`"),
            ),
            Ok(field) => self.fail(from, format!("`.{field}` is a field"), help),
            Err(_) => self.fail(from, "a value has no fields", help),
        }
    }

    /// Minus signs and what they stand before.
    fn unary(&mut self, input: ParseStream) -> Parsed<Expr> {
        let mut signs: Vec<Loc> = Vec::new();
        while input.cursor().group(Delimiter::None).is_none() && operator(input) == Some("-") {
            signs.push(take(input, "-"));
            if signs.len() as u32 > MAX_HEIGHT {
                return Err(self.too_deep(signs[0]));
            }
        }
        let mut x = self.operand(input)?;
        for sign in signs.into_iter().rev() {
            let loc = sign.to(x.loc);
            x = self.made(ExprKind::Neg(Box::new(x)), loc)?;
        }
        Ok(x)
    }

    /// A literal, a name, a call, a tuple or an expression in brackets.
    fn operand(&mut self, input: ParseStream) -> Parsed<Expr> {
        let x = if input.cursor().group(Delimiter::None).is_some() {
            self.fragment(input)?
        } else if input.peek(syn::token::Paren) {
            self.brackets(input)?
        } else if input.peek(Lit) {
            self.literal(input)?
        } else if input.peek(Ident) || input.peek(Token![::]) {
            self.path(input)?
        } else if let Some((what, help)) = construct(input) {
            return Err(self.fail(input.span(), format!("{what} is not mathematics"), help));
        } else {
            let what = found(input);
            return Err(self.fail(
                input.span(),
                format!("expected an expression, found {what}"),
                "write a number, a name, a call such as `exp(x)`, or an expression in brackets",
            ));
        };
        if input.peek(syn::token::Bracket) {
            return Err(self.fail(
                x.loc.to(input.span().into()),
                "a tensor is not indexed",
                "a name is its value at this time step and point: use `delay(x, k)` for an earlier step, `alias`, `group`, `push_front` for other points",
            ));
        }
        if input.peek(syn::token::Paren) {
            return Err(self.fail(
                x.loc.to(input.span().into()),
                "only a function's name can be called",
                "write an operator between the two, or name the function",
            ));
        }
        Ok(x)
    }

    /// What a `macro_rules!` fragment holds.
    fn fragment(&mut self, input: ParseStream) -> Parsed<Expr> {
        let group = input.step(|cursor| {
            cursor
                .group(Delimiter::None)
                .map(|(inside, _, rest)| (inside.token_stream(), rest))
                .ok_or_else(|| cursor.error("end of input"))
        });
        let tokens = match group {
            Ok(tokens) => tokens,
            Err(error) => return Err(self.syn(&error)),
        };
        let parse = |inside: ParseStream| Ok(self.whole(inside));
        match syn::parse::Parser::parse2(parse, tokens) {
            Ok(parsed) => parsed,
            Err(error) => Err(self.syn(&error)),
        }
    }

    /// An expression and nothing after it.
    pub(super) fn whole(&mut self, input: ParseStream) -> Parsed<Expr> {
        let parsed = self.expr(input, 0).and_then(|x| {
            if input.is_empty() {
                return Ok(x);
            }
            let what = found(input);
            Err(self.fail(
                input.span(),
                format!("expected an operator, found {what}"),
                "write an operator between the two values",
            ))
        });
        while any_token(input).is_some() {}
        parsed
    }

    fn brackets(&mut self, input: ParseStream) -> Parsed<Expr> {
        let (content, loc) = self.group(input)?;
        let mut xs = self.list(&content);
        match xs.len() {
            0 => Err(self.fail(
                loc,
                "`()` is not a value",
                "write an expression between the brackets",
            )),
            1 => {
                let mut x = xs.remove(0);
                x.loc = loc;
                Ok(x)
            }
            _ => self.made(ExprKind::Tuple(xs), loc),
        }
    }

    /// The inside of round brackets, and their place.
    pub(super) fn group<'a>(&mut self, input: &ParseBuffer<'a>) -> Parsed<(ParseBuffer<'a>, Loc)> {
        let open = |input: &ParseBuffer<'a>| {
            let content;
            let brackets = syn::parenthesized!(content in input);
            Ok((content, Loc::brackets(brackets.span)))
        };
        open(input).map_err(|error| self.syn(&error))
    }

    /// Expressions separated by commas; where one is wrong, [`ExprKind::Error`] stands in its place.
    fn list(&mut self, input: ParseStream) -> Vec<Expr> {
        let mut xs = Vec::new();
        while !input.is_empty() {
            let start = Loc::from(input.span());
            let parsed = self.expr(input, 0).and_then(|x| {
                if input.is_empty() || input.peek(Token![,]) {
                    return Ok(x);
                }
                let what = found(input);
                Err(self.fail(
                    input.span(),
                    format!("expected `,` or an operator, found {what}"),
                    "separate arguments by `,`",
                ))
            });
            xs.push(parsed.unwrap_or_else(|Reported| Expr::new(ExprKind::Error, start)));
            while !input.is_empty() && !input.peek(Token![,]) {
                any_token(input);
            }
            any_token(input);
        }
        xs
    }

    fn literal(&mut self, input: ParseStream) -> Parsed<Expr> {
        let lit = input.parse::<Lit>().map_err(|error| self.syn(&error))?;
        let loc = Loc::from(lit.span());
        let (digits, suffix, integer) = match &lit {
            Lit::Int(lit) => (lit.base10_digits(), lit.suffix(), true),
            Lit::Float(lit) => (lit.base10_digits(), lit.suffix(), false),
            _ => {
                return Err(self.fail(
                    loc,
                    "only numbers are values",
                    "write a number such as `2` or `0.5`",
                ));
            }
        };
        if !suffix.is_empty() {
            return Err(self.fail(
                loc,
                format!("the suffix `{suffix}` has no meaning here"),
                "write the number alone: its precision is chosen when the kernel is compiled",
            ));
        }
        let value = digits.parse::<f64>().unwrap_or(f64::INFINITY);
        // Rounding is no mistake in 0.1, but it is in an integer.
        if integer
            && digits
                .parse()
                .map_or(true, |i: u64| i > 1 << f64::MANTISSA_DIGITS)
        {
            return Err(self.fail(
                loc,
                "this integer is too large to be exact in 64-bit floating point (2^53 is the largest)",
                "write it as a floating-point number, for example `1e18`",
            ));
        }
        if value.is_infinite() {
            return Err(self.fail(
                loc,
                "this number is larger than any 64-bit floating-point number",
                "write `INFINITY` if that is meant",
            ));
        }
        self.made(ExprKind::Number(value), loc)
    }

    /// A name, or a call by path.
    fn path(&mut self, input: ParseStream) -> Parsed<Expr> {
        let help =
            "names are letters, digits and `_`; functions may have a path, `discretize::zoh`";
        let mut name = self.name(input, "a name", help)?;
        let mut axes = Vec::new();
        let mut turbofish = None;
        while operator(input) == Some("::") {
            take(input, "::");
            if input.peek(Token![<]) {
                let start = Loc::from(input.span());
                take(input, "<");
                axes = self.axes(input)?;
                turbofish = Some(start);
                break;
            }
            let next = self.name(input, "a name or `<`", help)?;
            name = Name {
                text: format!("{}::{}", name.text, next.text),
                loc: name.loc.to(next.loc),
            };
        }
        if operator(input) == Some("!") {
            let loc = name.loc.to(input.span().into());
            return Err(self.fail(
                loc,
                format!("`{name}!` is a macro"),
                "macros are not expanded in a kernel: write the mathematics out",
            ));
        }
        if input.peek(syn::token::Paren) {
            let (content, brackets) = self.group(input)?;
            let args = self.list(&content);
            let loc = name.loc.to(brackets);
            let function = name;
            return self.made(
                ExprKind::Call {
                    function,
                    axes,
                    args,
                },
                loc,
            );
        }
        if let Some(start) = turbofish {
            return Err(self.fail(
                name.loc.to(start),
                format!("`{name}::<…>` is not called"),
                format!("write its arguments after it: `{name}::<…>(x)`"),
            ));
        }
        if input.peek(syn::token::Brace) {
            return Err(self.fail(
                name.loc,
                "a struct is not mathematics",
                "end the expression before `{`; several outputs are a tuple `(x, y)`",
            ));
        }
        self.made(ExprKind::Name(name.text), name.loc)
    }

    /// Axes up to the closing `>`, which is taken.
    pub(super) fn axes(&mut self, input: ParseStream) -> Parsed<Vec<Name>> {
        let mut axes = Vec::new();
        loop {
            if input.peek(Token![>]) {
                take(input, ">");
                return Ok(axes);
            }
            axes.push(self.name(
                input,
                "the name of an axis",
                "write axes as names, `Tensor<B, L, D>`: their extents are those of the tensors that a call passes",
            )?);
            if input.peek(Token![,]) {
                take(input, ",");
            } else if !input.peek(Token![>]) {
                let what = found(input);
                return Err(self.fail(
                    input.span(),
                    format!("expected `,` or `>` after an axis, found {what}"),
                    "write axes as names, `Tensor<B, L, D>`: their extents are those of the tensors that a call passes",
                ));
            }
        }
    }
}
