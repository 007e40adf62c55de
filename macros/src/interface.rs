//! What the generated items are called and which fields they have.
//!
//! In: a checked kernel, or the signature of one with mistakes. Out: [`Interface`], names with the spans of the
//! user's own, so that editors lead from a field to the parameter that it stands for.

use proc_macro2::{Ident, Span, TokenStream};
use selscan_dsl::syntax::Kernel;
use selscan_dsl::{AxisId, InputKind, Recurrence, SpannedDiagnostic};
use syn::ext::IdentExt as _;
use syn::parse::{Parse, ParseStream, Parser as _};
use syn::{
    Attribute, FnArg, GenericArgument, ItemFn, Pat, PathArguments, ReturnType, Type, Visibility,
};

/// A tensor, state or flag.
pub struct Field {
    /// Its name, at the user's span where the user named it.
    pub name: Ident,
    /// Its shape as documentation says it: `(B, L, D)`.
    pub shape: String,
    /// Whether it is a flag.
    pub flag: bool,
    /// Whether a call may leave it out.
    pub optional: bool,
}

impl Field {
    /// Its name in a call's `selscan::Args`.
    pub fn text(&self) -> String {
        self.name.to_string()
    }
    /// `{prefix}_{name}`.
    pub fn prefixed(&self, prefix: &str) -> Ident {
        Ident::new(&format!("{prefix}_{}", self.name.unraw()), self.name.span())
    }
}

/// A kernel as its callers see it.
pub struct Interface {
    /// The function's attributes, documentation among them.
    pub attrs: Vec<Attribute>,
    /// Its visibility.
    pub vis: Visibility,
    /// Its name.
    pub function: Ident,
    /// The kernel's text; `None` if it has mistakes.
    pub text: Option<String>,
    /// Inputs in the order of the signature.
    pub inputs: Vec<Field>,
    /// States in the order of their assignments, those of `delay` included.
    pub states: Vec<Field>,
    /// Outputs in order.
    pub outputs: Vec<Field>,
    /// The shape of sequence boundaries.
    pub boundaries: String,
    /// The time axis.
    pub time: String,
}

/// Attributes and visibility, and nothing of what follows.
struct Head(Vec<Attribute>, Visibility);

impl Parse for Head {
    fn parse(input: ParseStream) -> syn::Result<Self> {
        let head = Head(Attribute::parse_outer(input)?, input.parse()?);
        input.parse::<TokenStream>()?;
        Ok(head)
    }
}

/// The attributes to pass on.
fn passed_on(attrs: Vec<Attribute>) -> Vec<Attribute> {
    let ours = |attr: &Attribute| {
        let last = attr.path().segments.last();
        last.is_some_and(|segment| segment.ident == "ssm_kernel")
    };
    attrs.into_iter().filter(|attr| !ours(attr)).collect()
}

/// The identifier of a name, raw where it was written so.
fn ident(text: &str, span: Span) -> Ident {
    match text.strip_prefix("r#") {
        Some(raw) => Ident::new_raw(raw, span),
        None => Ident::new(text, span),
    }
}

/// `(B, L, D)`; a complex tensor ends in a dimension of 2.
fn shape(r: &Recurrence, axes: &[AxisId], complex: bool) -> String {
    let names = axes.iter().map(|&a| r.axis_name(a));
    let names: Vec<&str> = names.chain(complex.then_some("2")).collect();
    let pairs = if complex { ", pairs (re, im)" } else { "" };
    format!("({}){pairs}", names.join(", "))
}

impl Interface {
    /// The interface of a kernel without mistakes. `item` are the tokens that it was parsed from.
    pub fn checked(kernel: &Kernel, r: &Recurrence, item: TokenStream) -> syn::Result<Self> {
        let Head(attrs, vis) = syn::parse2(item)?;
        let place = |name: &str| {
            let param = kernel.params.iter().find(|p| p.name.text == name);
            param.map_or_else(Span::call_site, |p| p.name.loc.start)
        };
        let field = |name: &str, shape, flag, optional| Field {
            name: ident(name, place(name)),
            shape,
            flag,
            optional,
        };
        let inputs = r.inputs.iter().map(|i| {
            let flag = i.kind == InputKind::Flag;
            field(
                &i.name,
                shape(r, &i.axes, i.complex),
                flag,
                i.optional || flag,
            )
        });
        let states = r.states.iter();
        let outputs = r.outputs.iter().map(|o| Field {
            name: Ident::new(&o.name, Span::call_site()),
            shape: shape(r, &o.axes, o.complex),
            flag: false,
            optional: false,
        });
        let rows: Vec<AxisId> = r.batch_axis().into_iter().chain([r.time]).collect();
        Ok(Interface {
            attrs: passed_on(attrs),
            vis,
            function: ident(&kernel.name.text, kernel.name.loc.start),
            text: Some(kernel.to_string()),
            inputs: inputs.collect(),
            states: states
                .map(|s| field(&s.name, shape(r, &s.axes, s.complex), false, false))
                .collect(),
            outputs: outputs.collect(),
            boundaries: shape(r, &rows, false),
            time: r.axis_name(r.time).to_owned(),
        })
    }

    /// The interface that a kernel with mistakes seems to have, as far as its signature can be read; for the
    /// uses of it not to be mistakes too.
    pub fn guessed(item: TokenStream) -> Option<Self> {
        let item = ItemFn::parse.parse2(item).ok()?;
        let mut guess = Interface {
            attrs: passed_on(item.attrs),
            vis: item.vis,
            function: item.sig.ident,
            text: None,
            inputs: Vec::new(),
            states: Vec::new(),
            outputs: Vec::new(),
            boundaries: String::new(),
            time: String::new(),
        };
        for param in item.sig.inputs {
            // A method stands where the items that a kernel becomes may not.
            let FnArg::Typed(param) = param else {
                return None;
            };
            let Pat::Ident(pat) = *param.pat else {
                continue;
            };
            let (kind, optional) = kind(&param.ty);
            let field = Field {
                name: pat.ident,
                shape: String::new(),
                flag: kind == "Flag",
                optional: optional || kind == "Flag",
            };
            let known = guess.inputs.iter().chain(&guess.states);
            if known.into_iter().any(|f| f.name == field.name) {
                continue;
            }
            match kind.as_str() {
                "State" | "ComplexState" => guess.states.push(field),
                _ => guess.inputs.push(field),
            }
        }
        let several = match &item.sig.output {
            ReturnType::Type(_, ty) => match &**ty {
                Type::Tuple(tuple) => Some(tuple.elems.len()),
                _ => None,
            },
            ReturnType::Default => None,
        };
        let names = match several {
            Some(several) => (0..several).map(|i| format!("out{i}")).collect(),
            None => vec!["out".to_owned()],
        };
        guess.outputs.extend(names.iter().map(|name| Field {
            name: Ident::new(name, Span::call_site()),
            shape: String::new(),
            flag: false,
            optional: false,
        }));
        guess
            .inputs
            .retain(|i| guess.outputs.iter().all(|o| o.name != i.name));
        Some(guess)
    }

    /// Parameters that have the name of another field of the struct that they become a field of.
    pub fn clashes(&self) -> Vec<SpannedDiagnostic> {
        let taken = |input: &Field| {
            let name = input.name.unraw().to_string();
            if !input.optional {
                let output = self.outputs.iter().any(|o| o.name == name);
                return (output || name == "options").then_some("Args");
            }
            let state = self
                .states
                .iter()
                .any(|s| s.prefixed("initial") == name || s.prefixed("last") == name);
            (state || name == "boundaries").then_some("Options")
        };
        let clash = |input: &Field| {
            let (ty, name) = (self.type_name(taken(input)?), &input.name);
            Some(SpannedDiagnostic {
                loc: name.span().into(),
                message: format!("`{ty}` has a field `{name}` already"),
                help: "rename the parameter: `out` is the output, `options` what a call may leave out, `initial_…` and \
                       `last_…` are the states before and after, `boundaries` those of packed sequences"
                    .to_owned(),
            })
        };
        self.inputs.iter().filter_map(clash).collect()
    }

    /// `SelectiveScan` with a suffix, of `selective_scan`.
    pub fn type_name(&self, suffix: &str) -> Ident {
        let function = self.function.unraw().to_string();
        let mut name = String::new();
        for word in function.split('_') {
            let mut letters = word.chars();
            name.extend(letters.next().into_iter().flat_map(char::to_uppercase));
            name.extend(letters);
        }
        if name.is_empty() {
            name = function;
        }
        Ident::new(&(name + suffix), self.function.span())
    }
}

/// The last name of a type's path, and whether it stood in `Option<…>`.
fn kind(ty: &Type) -> (String, bool) {
    let last = match ty {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let Some(last) = last else {
        return (String::new(), false);
    };
    match &last.arguments {
        PathArguments::AngleBracketed(args) if last.ident == "Option" => {
            let inner = args.args.first().and_then(|arg| match arg {
                GenericArgument::Type(ty) => Some(kind(ty).0),
                _ => None,
            });
            (inner.unwrap_or_default(), true)
        }
        _ => (last.ident.to_string(), false),
    }
}
