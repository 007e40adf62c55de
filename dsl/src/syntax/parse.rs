//! The parser of kernels and of files of them.
//!
//! In: the tokens of a file, or of an attribute and a function as the macro gets them. Out: [`Kernel`]s. After
//! a mistake the rest of the parameter or statement is skipped and parsing goes on, so that independent
//! mistakes are all found.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::parse::{ParseBuffer, ParseStream, Parser as _};
use syn::{Token, Visibility};

use super::attribute::Attr;
use super::expr::{Parsed, Parser};
use super::statement::skip_statement;
use super::token::{any_token, found, operator};
use super::{Expr, Kernel, MAX_NESTING, Name, Options, Param, Stmt, Type};
use crate::ParseError;
use crate::diagnostic::{Diagnostics, Loc};

/// The tokens of a text.
pub(crate) fn tokenize(text: &str, out: &mut Diagnostics) -> Option<TokenStream> {
    match text.parse::<TokenStream>() {
        Ok(tokens) => Some(tokens),
        Err(error) => {
            out.error(
                error.span(),
                "this is not a Rust token, or a bracket that is never closed or opened",
                "a kernel's text is legal Rust: check brackets and quotes from here on",
            );
            None
        }
    }
}

/// Parses a lone expression.
pub(crate) fn one_expr(text: &str) -> Result<Expr, ParseError> {
    let mut out = Diagnostics::default();
    let parsed = tokenize(text, &mut out)
        .filter(|tokens| shallow(tokens, &mut out))
        .and_then(|tokens| run(tokens, &mut out, |parser, input| parser.whole(input)));
    match parsed {
        Some(expr) if out.is_empty() => Ok(expr),
        _ => Err(out.into_error()),
    }
}

/// Parses every kernel of a file: the functions marked `#[ssm_kernel]`, or all functions if none is marked.
pub(crate) fn parse_kernels(tokens: TokenStream, out: &mut Diagnostics) -> Vec<Kernel> {
    if !shallow(&tokens, out) {
        return Vec::new();
    }
    let marked = has_marked(tokens.clone());
    run(tokens, out, |parser, input| parser.file(input, marked)).unwrap_or_default()
}

/// Parses the function under `#[ssm_kernel(attr)]`.
pub(crate) fn parse_tokens(
    attr: TokenStream,
    item: TokenStream,
    out: &mut Diagnostics,
) -> Option<Kernel> {
    if !shallow(&attr, out) || !shallow(&item, out) {
        return None;
    }
    let options = run(attr, out, |parser, input| Ok(parser.options(input)))?;
    run(item, out, |parser, input| {
        let (attrs, vis) = parser.head(input)?;
        let kernel = parser.kernel(input, &attrs, vis, Some(options));
        if kernel.is_ok() && !input.is_empty() {
            return Err(parser.fail(
                input.span(),
                "expected the end of the kernel",
                "mark one function by each `#[ssm_kernel]`",
            ));
        }
        while any_token(input).is_some() {}
        kernel
    })
}

/// Runs a parser on tokens.
pub(super) fn run<T>(
    tokens: TokenStream,
    out: &mut Diagnostics,
    parse: impl FnOnce(&mut Parser, ParseStream) -> Parsed<T>,
) -> Option<T> {
    let before = out.len();
    let parsed = (|input: ParseStream| {
        let parsed = parse(&mut Parser { out }, input);
        while any_token(input).is_some() {}
        Ok(parsed)
    })
    .parse2(tokens);
    match parsed {
        Ok(parsed) => parsed.ok(),
        Err(error) => {
            // syn complains about tokens left inside brackets: only where nothing better is known.
            if out.len() == before {
                out.error(
                    error.span(),
                    error.to_string(),
                    "remove what does not belong here",
                );
            }
            None
        }
    }
}

/// Whether no token stands in more than [`MAX_NESTING`] brackets.
fn shallow(tokens: &TokenStream, out: &mut Diagnostics) -> bool {
    let mut levels = vec![tokens.clone().into_iter()];
    while let Some(level) = levels.last_mut() {
        match level.next() {
            Some(TokenTree::Group(group)) if levels.len() > MAX_NESTING => {
                out.error(
                    group.span_open(),
                    format!("more than {MAX_NESTING} brackets inside each other"),
                    "name parts of the expression with `let`",
                );
                return false;
            }
            Some(TokenTree::Group(group)) => levels.push(group.stream().into_iter()),
            Some(_) => {}
            None => {
                levels.pop();
            }
        }
    }
    true
}

/// Whether a `#[ssm_kernel]` stands in the tokens, outside of brackets.
fn has_marked(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => {
            group.delimiter() == Delimiter::Bracket
                && Attr::new(group.stream(), Loc::nowhere()).name == "ssm_kernel"
        }
        _ => false,
    })
}

/// Takes tokens up to the next `,` outside of brackets and angle brackets.
pub(super) fn skip_to_comma(input: ParseStream) {
    let mut open = 0_i32;
    while !input.is_empty() {
        match operator(input) {
            Some(",") if open <= 0 => return,
            Some("<" | "<=") => open += 1,
            Some(">" | ">=") => open -= 1,
            Some(">>" | ">>=") => {
                open -= 2;
                any_token(input);
            }
            Some("->") => {
                any_token(input);
            }
            _ => {}
        }
        any_token(input);
    }
}

/// Whether the item that comes next, after its attributes and visibility, is a function.
fn is_function(input: ParseStream) -> bool {
    let ahead = input.fork();
    loop {
        if ahead.peek(Token![fn]) {
            return true;
        }
        let qualifier = ahead.peek(Token![async])
            || ahead.peek(Token![const])
            || ahead.peek(Token![unsafe])
            || ahead.peek(Token![extern])
            || ahead.peek(syn::LitStr);
        if !qualifier || any_token(&ahead).is_none() {
            return false;
        }
    }
}

impl Parser<'_> {
    fn file(&mut self, input: ParseStream, marked: bool) -> Parsed<Vec<Kernel>> {
        while input.peek(Token![#]) && input.peek2(Token![!]) {
            any_token(input);
            any_token(input);
            any_token(input);
        }
        let mut kernels = Vec::new();
        while !input.is_empty() {
            let (attrs, vis) = self.head(input)?;
            let ours = attrs.iter().any(|a| a.name == "ssm_kernel");
            if ours || (!marked && is_function(input)) {
                kernels.extend(self.kernel(input, &attrs, vis, None).ok());
            } else if marked || input.peek(Token![use]) {
                let braces = !input.peek(Token![use]) && !input.peek(Token![const]);
                skip_statement(input, braces || is_function(input));
            } else {
                let what = found(input);
                self.fail(
                    input.span(),
                    format!("expected a function, found {what}"),
                    "a kernel is a function: `#[ssm_kernel] fn name(u: Tensor<B, L, D>, …) -> Tensor<B, L, D> { … }`",
                );
                skip_statement(input, true);
            }
        }
        Ok(kernels)
    }

    /// Attributes and visibility.
    fn head(&mut self, input: ParseStream) -> Parsed<(Vec<Attr>, Visibility)> {
        let attrs = self.attributes(input)?;
        let vis = input.parse().map_err(|error| self.syn(&error))?;
        Ok((attrs, vis))
    }

    /// A kernel from its qualifiers on. Whatever goes wrong, its tokens are taken.
    fn kernel(
        &mut self,
        input: ParseStream,
        attrs: &[Attr],
        vis: Visibility,
        options: Option<Options>,
    ) -> Parsed<Kernel> {
        let mut options = options;
        let mut doc = Vec::new();
        for attr in attrs {
            if attr.name == "doc" {
                doc.extend(attr.doc_lines());
            } else if attr.name == "ssm_kernel" {
                let parsed = self.marked(attr);
                if options.is_some() {
                    self.fail(
                        attr.loc,
                        "a second `#[ssm_kernel]`",
                        "put all arguments into one",
                    );
                }
                options = options.or(Some(parsed));
            }
        }
        if !is_function(input) {
            let what = found(input);
            let reported = self.fail(
                input.span(),
                format!("expected a function, found {what}"),
                "a kernel is a function: `#[ssm_kernel] fn name(u: Tensor<B, L, D>, …) -> Tensor<B, L, D> { … }`",
            );
            skip_statement(input, true);
            return Err(reported);
        }
        while !input.peek(Token![fn]) {
            let what = found(input);
            self.fail(
                input.span(),
                format!("a kernel is not {what}"),
                format!("remove {what}: a kernel is a plain function"),
            );
            any_token(input);
            while input.peek(syn::LitStr) {
                any_token(input);
            }
        }
        let fn_span = input.span();
        any_token(input);
        let parsed = self.function(input, fn_span);
        let (name, params, outputs, body, tail) = match parsed {
            Ok(parts) => parts,
            Err(reported) => {
                skip_statement(input, true);
                return Err(reported);
            }
        };
        Ok(Kernel {
            doc,
            options: options.unwrap_or_default(),
            vis,
            name,
            params,
            outputs,
            body,
            tail,
        })
    }

    /// A function from its name on.
    #[allow(clippy::type_complexity)]
    fn function(
        &mut self,
        input: ParseStream,
        fn_span: Span,
    ) -> Parsed<(Name, Vec<Param>, Vec<Type>, Vec<Stmt>, Expr)> {
        let name = self.name(input, "the kernel's name", "write `fn name(…) -> … { … }`")?;
        if input.peek(Token![<]) {
            self.fail(
                input.span(),
                "a kernel has no generic parameters",
                "remove `<…>`: axes are declared by their use in `Tensor<…>`, and the element type is chosen when the kernel is compiled",
            );
            while !input.is_empty() && !input.peek(syn::token::Paren) {
                any_token(input);
            }
        }
        let (content, brackets) = self.group(input)?;
        let params = self.params(&content);
        let outputs = self.outputs(input, brackets)?;
        if input.peek(Token![where]) {
            self.fail(
                input.span(),
                "a kernel has no `where`",
                "remove it: extents are checked when the kernel is called",
            );
        }
        while !input.is_empty() && !input.peek(syn::token::Brace) && !input.peek(Token![;]) {
            any_token(input);
        }
        if !input.peek(syn::token::Brace) {
            return Err(self.fail(
                Loc::from(fn_span).to(name.loc),
                "this kernel has no body",
                "write the mathematics in `{ … }`",
            ));
        }
        let (content, brackets) = self.braces(input)?;
        let (body, tail) = self.body(&content, Loc::from(brackets.end));
        Ok((name, params, outputs, body, tail))
    }

    /// The inside of curly brackets, and their place.
    fn braces<'a>(&mut self, input: &ParseBuffer<'a>) -> Parsed<(ParseBuffer<'a>, Loc)> {
        let open = |input: &ParseBuffer<'a>| {
            let content;
            let brackets = syn::braced!(content in input);
            Ok((content, Loc::brackets(brackets.span)))
        };
        open(input).map_err(|error| self.syn(&error))
    }
}
