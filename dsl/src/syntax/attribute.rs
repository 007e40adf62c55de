//! The parser of attributes: `#[ssm_kernel(…)]`, documentation and marks of parameters.
//!
//! In: tokens from `#` on. Out: [`Attr`], [`Options`], marks of a [`Param`].

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::Token;
use syn::parse::ParseStream;

use super::expr::{Parsed, Parser};
use super::parse::{run, skip_to_comma};
use super::token::{any_token, found};
use super::{Options, Param, TypeKind};
use crate::diagnostic::{Loc, nearest};

/// An attribute `#[name …]`.
pub(super) struct Attr {
    /// The last part of its path.
    pub(super) name: String,
    /// What follows the path.
    rest: TokenStream,
    /// Where it stands.
    pub(super) loc: Loc,
}

impl Attr {
    /// The attribute of which this is the inside of `[…]`.
    pub(super) fn new(inside: TokenStream, loc: Loc) -> Self {
        let mut name = String::new();
        let mut tokens = inside.into_iter().peekable();
        while let Some(token) = tokens.next_if(|token| match token {
            TokenTree::Ident(_) => true,
            TokenTree::Punct(punct) => punct.as_char() == ':',
            _ => false,
        }) {
            if let TokenTree::Ident(ident) = token {
                name = ident.to_string();
            }
        }
        let rest = tokens.collect();
        Attr { name, rest, loc }
    }

    /// The tokens in round brackets after its name; `None` where something else follows.
    pub(super) fn list(&self) -> Option<TokenStream> {
        let mut tokens = self.rest.clone().into_iter();
        match (tokens.next(), tokens.next()) {
            (Some(TokenTree::Group(group)), None)
                if group.delimiter() == Delimiter::Parenthesis =>
            {
                Some(group.stream())
            }
            _ => None,
        }
    }

    /// The lines of documentation in `#[doc = "…"]`.
    pub(super) fn doc_lines(&self) -> Vec<String> {
        match self.rest.clone().into_iter().last() {
            Some(TokenTree::Literal(literal)) => {
                let text = match syn::Lit::new(literal) {
                    syn::Lit::Str(text) => text.value(),
                    _ => return Vec::new(),
                };
                text.split(['\n', '\r'])
                    .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned())
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Parser<'_> {
    /// Outer attributes.
    pub(super) fn attributes(&mut self, input: ParseStream) -> Parsed<Vec<Attr>> {
        let mut attrs = Vec::new();
        while input.peek(Token![#]) {
            let start = Loc::from(input.span());
            any_token(input);
            let open = |input: ParseStream| {
                let content;
                let brackets = syn::bracketed!(content in input);
                let inside: TokenStream = content.parse()?;
                Ok((inside, Loc::brackets(brackets.span)))
            };
            let (inside, brackets) = open(input).map_err(|error| self.syn(&error))?;
            attrs.push(Attr::new(inside, start.to(brackets)));
        }
        Ok(attrs)
    }

    /// The arguments of `#[ssm_kernel …]`.
    pub(super) fn marked(&mut self, attr: &Attr) -> Options {
        if attr.rest.is_empty() {
            return Options::default();
        }
        let Some(list) = attr.list() else {
            self.fail(
                attr.loc,
                "expected arguments in brackets",
                "write `#[ssm_kernel(time = T)]`",
            );
            return Options::default();
        };
        run(list, self.out, |parser, input| Ok(parser.options(input))).unwrap_or_default()
    }

    pub(super) fn options(&mut self, input: ParseStream) -> Options {
        let mut options = Options::default();
        while !input.is_empty() {
            let _reported = self.option(input, &mut options);
            skip_to_comma(input);
            any_token(input);
        }
        options
    }

    fn option(&mut self, input: ParseStream, options: &mut Options) -> Parsed<()> {
        let help = "the arguments are `time = T`, `reverse`, `bidirectional` and aliases of axes, `N2 = N`";
        let name = self.name(input, "an argument", help)?;
        let twice = |parser: &mut Self| {
            parser.fail(
                name.loc,
                format!("`{name}` is given twice"),
                "leave one out",
            )
        };
        if input.peek(Token![=]) && !input.peek(Token![==]) {
            any_token(input);
            let value = self.name(input, "the name of an axis", help)?;
            if matches!(name.text.as_str(), "reverse" | "bidirectional") {
                return Err(self.fail(
                    name.loc.to(value.loc),
                    format!("`{name}` takes no value"),
                    format!("write `{name}` alone, or leave it out"),
                ));
            }
            if name.text != "time" {
                options.aliases.push((name, value));
            } else if options.time.is_some() {
                return Err(twice(self));
            } else {
                options.time = Some(value);
            }
        } else {
            let place = match name.text.as_str() {
                "reverse" => &mut options.reverse,
                "bidirectional" => &mut options.bidirectional,
                text => {
                    let known = ["time", "reverse", "bidirectional"];
                    let hint = nearest(text, known)
                        .map_or_else(String::new, |n| format!("; did you mean `{n}`?"));
                    return Err(self.fail(
                        name.loc,
                        format!("unknown argument `{name}`"),
                        format!("{help}{hint}"),
                    ));
                }
            };
            if place.is_some() {
                return Err(twice(self));
            }
            *place = Some(name.loc);
        }
        if !input.is_empty() && !input.peek(Token![,]) {
            let what = found(input);
            return Err(self.fail(input.span(), format!("expected `,`, found {what}"), help));
        }
        Ok(())
    }

    /// Reads an attribute of a parameter.
    pub(super) fn param_attr(&mut self, attr: &Attr, param: &mut Param) {
        match (attr.name.as_str(), attr.rest.is_empty(), attr.list()) {
            ("reverse", true, _) => param.reverse = Some(attr.loc),
            ("hidden", true, _) => param.hidden = Some(attr.loc),
            ("init", _, Some(list)) => {
                param.init = run(list, self.out, |p, input| p.whole(input));
            }
            ("doc", ..) => return,
            _ => {
                self.fail(
                    attr.loc,
                    "unknown attribute of a parameter",
                    "a state may be marked `#[reverse]`; remove others",
                );
                return;
            }
        }
        if !param.ty.kind.is_state() && param.ty.kind != TypeKind::Error {
            self.fail(
                attr.loc,
                format!("`{}` is not a state", param.name),
                "only states run in a direction and start from a value: remove the attribute",
            );
        }
    }
}
