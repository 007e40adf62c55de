//! The parser of kernels: attributes, signatures and statements.
//!
//! In: the tokens of a file, or of an attribute and a function as the macro gets them. Out: [`Kernel`]s. After
//! a mistake the rest of the parameter or statement is skipped and parsing goes on, so that independent
//! mistakes are all found.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::parse::{ParseBuffer, ParseStream, Parser as _};
use syn::{Ident, Token, Visibility, ext::IdentExt};

use super::expr::{Parsed, Parser, Reported, any_token, found, operator};
use super::{Expr, ExprKind, Kernel, MAX_NESTING, Name, Options, Param, Stmt, Type, TypeKind};
use crate::ParseError;
use crate::diagnostic::{Diagnostics, Loc, nearest};

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
fn run<T>(
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

/// An attribute `#[name …]`.
struct Attr {
    /// The last part of its path.
    name: String,
    /// What follows the path.
    rest: TokenStream,
    loc: Loc,
}

impl Attr {
    /// The attribute of which this is the inside of `[…]`.
    fn new(inside: TokenStream, loc: Loc) -> Self {
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
    fn list(&self) -> Option<TokenStream> {
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
    fn doc_lines(&self) -> Vec<String> {
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
fn skip_to_comma(input: ParseStream) {
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

/// Takes tokens up to and including the next `;`, or the block that ends a statement which begins with one.
fn skip_statement(input: ParseStream, block: bool) {
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

    /// Outer attributes.
    fn attributes(&mut self, input: ParseStream) -> Parsed<Vec<Attr>> {
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

    /// The arguments of `#[ssm_kernel …]`.
    fn marked(&mut self, attr: &Attr) -> Options {
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

    fn options(&mut self, input: ParseStream) -> Options {
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

    fn params(&mut self, input: ParseStream) -> Vec<Param> {
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

    fn param_attr(&mut self, attr: &Attr, param: &mut Param) {
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
        if kind == TypeKind::Flag {
            return Ok(Type {
                kind,
                axes: Vec::new(),
                optional: true,
                loc: name.loc,
            });
        }
        if !input.peek(Token![<]) {
            return Err(self.fail(
                name.loc,
                format!("`{name}` has no axes"),
                format!("write them in order of memory, `{name}<B, L, D>`; a scalar is `{name}<>`"),
            ));
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
    fn outputs(&mut self, input: ParseStream, params: Loc) -> Parsed<Vec<Type>> {
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

    /// The statements, and the value at the end.
    fn body(&mut self, input: ParseStream, end: Loc) -> (Vec<Stmt>, Expr) {
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
