//! The parser of signatures: parameters, types and outputs.
//!
//! In: the tokens between a function's name and its body. Out: [`Param`]s and [`Type`]s. A parameter whose type
//! is wrong has [`TypeKind::Error`].

use syn::parse::ParseStream;
use syn::{Ident, Token};

use super::expr::{Parsed, Parser, Reported};
use super::parse::skip_to_comma;
use super::token::{any_token, found, operator};
use super::{Param, Type, TypeKind};
use crate::diagnostic::{Loc, nearest};

impl Parser<'_> {
    /// Parameters separated by commas.
    pub(super) fn params(&mut self, input: ParseStream) -> Vec<Param> {
        let mut params = Vec::new();
        while !input.is_empty() {
            params.extend(self.param(input).ok());
            if !input.is_empty() && !input.peek(Token![,]) {
                skip_to_comma(input);
            }
            any_token(input);
        }
        params
    }

    fn param(&mut self, input: ParseStream) -> Parsed<Param> {
        let attrs = self.attributes(input)?;
        let ahead = input.fork();
        while ahead.peek(Token![&]) || ahead.peek(Token![mut]) || ahead.peek(syn::Lifetime) {
            any_token(&ahead);
        }
        if ahead.peek(Token![self]) {
            return Err(self.fail(
                input.span(),
                "a kernel has no `self`",
                "make every tensor and state a parameter: `u: Tensor<B, L, D>`",
            ));
        }
        if input.peek(Token![mut]) || input.peek(Token![ref]) {
            let what = found(input);
            self.fail(
                input.span(),
                format!("a parameter is not {what}"),
                format!("remove {what}: a state is what changes, `h: State<…>`"),
            );
            any_token(input);
        }
        let name = self.name(
            input,
            "a parameter's name",
            "write parameters as `name: Tensor<B, L, D>`",
        )?;
        let mut param = Param {
            ty: Type {
                kind: TypeKind::Error,
                axes: Vec::new(),
                optional: false,
                loc: name.loc,
            },
            name,
            reverse: None,
            hidden: None,
            init: None,
        };
        if !input.peek(Token![:]) {
            self.fail(
                param.name.loc,
                format!("parameter `{}` has no type", param.name),
                "write its type after a colon: `u: Tensor<B, L, D>`",
            );
            return Ok(param);
        }
        any_token(input);
        if let Ok(ty) = self.ty(input) {
            param.ty = ty;
            if !input.is_empty() && !input.peek(Token![,]) {
                let what = found(input);
                self.fail(
                    input.span(),
                    format!("expected `,` after a parameter, found {what}"),
                    "write parameters as `name: Tensor<B, L, D>`, separated by `,`",
                );
            }
        }
        for attr in &attrs {
            self.param_attr(attr, &mut param);
        }
        Ok(param)
    }

    /// A type.
    fn ty(&mut self, input: ParseStream) -> Parsed<Type> {
        let help = "types are `Tensor<B, L, D>`, `Complex<…>`, `State<…>`, `ComplexState<…>`, `Option<Tensor<…>>` and `Flag`; a scalar is `Tensor<>`";
        let start = Loc::from(input.span());
        if input.peek(Token![&]) {
            return Err(self.fail(start, "a parameter is not a reference", "leave `&` out"));
        }
        if input.peek(syn::token::Paren) {
            return Err(self.fail(start, "a parameter is not a tuple", help));
        }
        let name = self.name(input, "a type", help)?;
        if name.text == "Option" && input.peek(Token![<]) {
            any_token(input);
            let again = |ident: Ident| ident == "Option" || ident == "Flag";
            if input.fork().parse().is_ok_and(again) {
                return Err(self.fail(
                    start,
                    "this is optional already",
                    "leave the outer `Option<…>` out",
                ));
            }
            let inner = self.ty(input)?;
            if !input.peek(Token![>]) {
                let what = found(input);
                return Err(self.fail(input.span(), format!("expected `>`, found {what}"), help));
            }
            let end = Loc::from(input.span());
            any_token(input);
            let loc = start.to(end);
            if inner.kind.is_state() {
                return Err(self.fail(
                    loc,
                    "a state is never optional",
                    format!(
                        "write `{}<…>`: a call may leave its initial value out, which is then 0",
                        inner.kind.name()
                    ),
                ));
            }
            return Ok(Type {
                optional: true,
                loc,
                ..inner
            });
        }
        let Some((_, kind)) = TypeKind::NAMES.iter().find(|(n, _)| *n == name.text) else {
            let hint = nearest(&name.text, TypeKind::NAMES.iter().map(|(n, _)| *n))
                .map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
            return Err(self.fail(
                name.loc,
                format!("unknown type `{name}`"),
                format!("{help}{hint}"),
            ));
        };
        let kind = *kind;
        // A scalar may stand without brackets: rustfmt takes those of `Tensor<>` away.
        if kind == TypeKind::Flag || !input.peek(Token![<]) {
            return Ok(Type {
                kind,
                axes: Vec::new(),
                optional: kind == TypeKind::Flag,
                loc: name.loc,
            });
        }
        any_token(input);
        let ahead = input.fork();
        let mut end = start;
        let axes = self.axes(input)?;
        while ahead.cursor() != input.cursor() {
            end = Loc::from(ahead.span());
            any_token(&ahead);
        }
        Ok(Type {
            kind,
            axes,
            optional: false,
            loc: start.to(end),
        })
    }

    /// The types of the outputs, after the parameters.
    pub(super) fn outputs(&mut self, input: ParseStream, params: Loc) -> Parsed<Vec<Type>> {
        let error = |loc| Type {
            kind: TypeKind::Error,
            axes: Vec::new(),
            optional: false,
            loc,
        };
        if operator(input) != Some("->") {
            let loc = Loc::from(params.end);
            self.fail(
                loc,
                "the type of the output is missing",
                "write it after the parameters: `-> Tensor<B, L, D>`",
            );
            return Ok(vec![error(loc)]);
        }
        any_token(input);
        any_token(input);
        let start = Loc::from(input.span());
        if !input.peek(syn::token::Paren) {
            return Ok(vec![
                self.output(input).unwrap_or_else(|Reported| error(start)),
            ]);
        }
        let (content, brackets) = self.group(input)?;
        let mut outputs = Vec::new();
        while !content.is_empty() {
            let start = Loc::from(content.span());
            outputs.push(
                self.output(&content)
                    .unwrap_or_else(|Reported| error(start)),
            );
            skip_to_comma(&content);
            any_token(&content);
        }
        if outputs.is_empty() {
            self.fail(
                brackets,
                "a kernel has at least one output",
                "write its type: `-> Tensor<B, L, D>`",
            );
            outputs.push(error(brackets));
        }
        Ok(outputs)
    }

    fn output(&mut self, input: ParseStream) -> Parsed<Type> {
        let ty = self.ty(input)?;
        let help = "an output is `Tensor<…>` or `Complex<…>`; the last states are returned to every caller that asks";
        if ty.optional {
            return Err(self.fail(ty.loc, "an output is never optional", help));
        }
        if ty.kind.is_state() {
            return Err(self.fail(ty.loc, "an output is not a state", help));
        }
        Ok(ty)
    }
}
