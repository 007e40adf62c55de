//! The items that a kernel becomes.
//!
//! In: the tokens of `#[ssm_kernel(attr)] item`. Out: the kernel's type and the structs of its arguments. Of a kernel
//! with mistakes, each mistake at its tokens, and the same items with bodies that are never reached behind it:
//! one mistake is one error, not one more at each use of the kernel.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use selscan_dsl::{Recurrence, SpannedDiagnostic, check_tokens};

use crate::interface::{Field, Interface};

/// The expansion.
pub fn expand(attr: TokenStream, item: TokenStream) -> TokenStream {
    let (kernel, recurrence) = match check_tokens(attr, item.clone()) {
        Ok(checked) => checked,
        Err(mistakes) => return with_stub(&mistakes, item),
    };
    let interface = match Interface::checked(&kernel, &recurrence, item.clone()) {
        Ok(interface) => interface,
        Err(error) => return error.to_compile_error(),
    };
    let clashes = interface.clashes();
    if !clashes.is_empty() {
        return with_stub(&clashes, item);
    }
    // What the generated `recurrence()` relies on.
    let again = interface.text.as_deref().map(Recurrence::parse);
    if again.is_none_or(|again| again.as_ref() != Ok(&recurrence)) {
        let bug = SpannedDiagnostic {
            loc: kernel.name.loc,
            message: "this kernel means something else when it is printed and parsed again".to_owned(),
            help: "this is a bug in selscan, please report it with the kernel's text".to_owned(),
        };
        return with_stub(&[bug], item);
    }
    interface.to_token_stream()
}

/// The mistakes, and items for the kernel's users to find.
fn with_stub(mistakes: &[SpannedDiagnostic], item: TokenStream) -> TokenStream {
    let errors = mistakes.iter().map(SpannedDiagnostic::to_compile_error);
    let stub = match Interface::guessed(item.clone()) {
        Some(interface) => interface.to_token_stream(),
        None => not_a_kernel(item),
    };
    quote! { #(#errors)* #stub }
}

/// What is left of an item that is no function: itself, for its users to find. A method has no place for items.
fn not_a_kernel(item: TokenStream) -> TokenStream {
    match syn::parse2(item) {
        Ok(syn::Item::Fn(_)) | Err(_) => TokenStream::new(),
        Ok(item) => item.to_token_stream(),
    }
}

impl ToTokens for Interface {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.kernel());
        tokens.extend(self.args());
        tokens.extend(self.options());
        tokens.extend(self.states());
    }
}

impl Interface {
    /// The body of a function, never reached in the stub of a kernel with mistakes.
    fn body(&self, body: TokenStream) -> TokenStream {
        match self.text {
            Some(_) => body,
            None => quote!(::core::unreachable!("the kernel has mistakes")),
        }
    }

    /// A struct of arguments that borrow for `'a`, of documented fields.
    fn record(&self, name: &Ident, doc: &str, derives: TokenStream, fields: &[TokenStream]) -> TokenStream {
        let vis = &self.vis;
        quote! {
            #[doc = #doc]
            #[derive(#derives)]
            #[allow(dead_code)]
            #vis struct #name<'a> { #(#fields,)* }
        }
    }

    /// The type that holds the compiled kernel.
    fn kernel(&self) -> TokenStream {
        let Interface { attrs, vis, time, .. } = self;
        let [name, args, states] = ["", "Args", "States"].map(|suffix| self.type_name(suffix));
        let text = self.text.as_deref().unwrap_or_default();
        let documented = attrs.iter().any(|attr| attr.path().is_ident("doc"));
        let doc = format!("The kernel `{}`.", self.function);
        let doc = (!documented).then(|| quote!(#[doc = #doc]));
        let recurrence = self.body(quote! {
            static RECURRENCE: ::std::sync::LazyLock<::selscan::Recurrence> =
                ::std::sync::LazyLock::new(|| ::selscan::__macro::recurrence(#name::TEXT));
            &RECURRENCE
        });
        let compile = self.body(quote! {
            let recurrence = ::core::clone::Clone::clone(Self::recurrence());
            ::core::result::Result::Ok(#name { kernel: ::selscan::Cpu::kernel(cpu, recurrence) })
        });
        let launch = self.body(quote!(self.kernel.launch(::core::convert::Into::into(args))));
        let fields = self.states.iter().map(|s| &s.name);
        let texts = self.states.iter().map(Field::text);
        let step = self.body(quote! {
            let call: ::selscan::Args<'a> = ::core::convert::Into::into(args);
            self.kernel.step(call #(.state_in_place(#texts, states.#fields))*)
        });
        let step_doc = format!(
            "Runs one step of time (decoding): [`Self::launch`] with an extent of 1 on the time axis `{time}`. \
             Every state is passed as it was before the step and is what it is after it."
        );
        let step = (!self.states.is_empty()).then(|| {
            quote! {
                #[doc = #step_doc]
                ///
                /// # Errors
                /// Whatever is wrong with the arguments, before anything is written.
                #vis fn step<'a>(
                    &self,
                    args: #args<'a>,
                    states: #states<'a>,
                ) -> ::core::result::Result<(), ::selscan::Error> {
                    #step
                }
            }
        });
        quote! {
            #doc
            #(#attrs)*
            #[derive(::core::clone::Clone, ::core::fmt::Debug)]
            #[allow(dead_code)]
            #vis struct #name { kernel: ::selscan::Kernel }

            #[allow(dead_code, unused_variables)]
            impl #name {
                /// The kernel's text, which `Recurrence::parse` takes.
                #vis const TEXT: &'static ::core::primitive::str = #text;

                /// The recurrence, parsed once.
                #vis fn recurrence() -> &'static ::selscan::Recurrence {
                    #recurrence
                }

                /// The kernel on a device. Its code is made by the first launch that needs it, for the optional
                /// arguments that are given, and kept.
                ///
                /// # Errors
                /// If the device can't run it; a CPU can.
                #vis fn compile(cpu: &::selscan::Cpu) -> ::core::result::Result<Self, ::selscan::Error> {
                    #compile
                }

                /// The kernel without typed arguments: to tune it, or to choose its schedule.
                #vis fn kernel(&self) -> &::selscan::Kernel {
                    &self.kernel
                }

                /// Runs the kernel: outputs and the last states that were asked for are written, nothing else is.
                ///
                /// # Errors
                /// Whatever is wrong with the arguments, before anything is written.
                #vis fn launch(&self, args: #args<'_>) -> ::core::result::Result<(), ::selscan::Error> {
                    #launch
                }

                #step
            }
        }
    }

    /// The arguments that a call must have, and how they are passed on.
    fn args(&self) -> TokenStream {
        let vis = &self.vis;
        let [args, options] = ["Args", "Options"].map(|suffix| self.type_name(suffix));
        let (optional, required): (Vec<&Field>, Vec<&Field>) = self.inputs.iter().partition(|i| i.optional);
        let mut fields: Vec<TokenStream> = Vec::new();
        for Field { name, shape, .. } in &required {
            let doc = format!("`{name}`: {shape}.");
            fields.push(quote!(#[doc = #doc] #vis #name: ::selscan::TensorRef<'a>));
        }
        for Field { name, shape, .. } in &self.outputs {
            let doc = format!("The output, written: {shape}.");
            fields.push(quote!(#[doc = #doc] #vis #name: ::selscan::TensorMut<'a>));
        }
        let doc = format!("What may be left out: `{options}::default()` is nothing of it.");
        fields.push(quote!(#[doc = #doc] #vis options: #options<'a>));

        let mut passed: Vec<TokenStream> = Vec::new();
        for field in &required {
            let (name, text) = (&field.name, field.text());
            passed.push(quote!(call = call.input(#text, args.#name);));
        }
        let given = |field: &Ident, method: &str, text: &str| {
            let method = Ident::new(method, proc_macro2::Span::call_site());
            quote! {
                if let ::core::option::Option::Some(tensor) = args.options.#field {
                    call = call.#method(#text, tensor);
                }
            }
        };
        for field in optional {
            let (name, text) = (&field.name, field.text());
            passed.push(if field.flag {
                quote!(if args.options.#name { call = call.flag(#text); })
            } else {
                given(name, "input", &text)
            });
        }
        for state in &self.states {
            passed.push(given(&state.prefixed("initial"), "initial", &state.text()));
            passed.push(given(&state.prefixed("last"), "last", &state.text()));
        }
        for field in &self.outputs {
            let (name, text) = (&field.name, field.text());
            passed.push(quote!(call = call.output(#text, args.#name);));
        }
        let from = self.body(quote! {
            let mut call = ::selscan::Args::new();
            #(#passed)*
            if let ::core::option::Option::Some((seq_idx, shape)) = args.options.boundaries {
                call = call.boundaries(seq_idx, shape);
            }
            call
        });
        let doc = format!("The arguments of a call of [`{}`].", self.type_name(""));
        let record = self.record(&args, &doc, quote!(::core::fmt::Debug), &fields);
        quote! {
            #record

            #[allow(unused_variables)]
            impl<'a> ::core::convert::From<#args<'a>> for ::selscan::Args<'a> {
                fn from(args: #args<'a>) -> Self {
                    #from
                }
            }
        }
    }

    /// The arguments that a call may have.
    fn options(&self) -> TokenStream {
        let vis = &self.vis;
        let mut fields: Vec<TokenStream> = Vec::new();
        let mut field = |name: &Ident, doc: &str, ty: TokenStream| {
            fields.push(quote!(#[doc = #doc] #vis #name: #ty));
        };
        let tensor = quote!(::core::option::Option<::selscan::TensorRef<'a>>);
        for Field { name, shape, flag, .. } in self.inputs.iter().filter(|i| i.optional) {
            if *flag {
                field(name, &format!("`{name}`: whether the flag is given."), quote!(::core::primitive::bool));
            } else {
                field(name, &format!("`{name}`: {shape}."), tensor.clone());
            }
        }
        for state in &self.states {
            let Field { name, shape, .. } = state;
            let before = format!("State `{name}` before the first step: {shape}.");
            field(&state.prefixed("initial"), &before, tensor.clone());
            let after = format!("Where state `{name}` after the last step is written: {shape}.");
            let ty = quote!(::core::option::Option<::selscan::TensorMut<'a>>);
            field(&state.prefixed("last"), &after, ty);
        }
        let doc = format!(
            "Packed sequences: an integer for every row and step, which changes where a new sequence starts, and the \
             shape of these integers: {}. States start anew there.",
            self.boundaries
        );
        let boundaries = Ident::new("boundaries", proc_macro2::Span::call_site());
        let ty = quote! {
            ::core::option::Option<(&'a [::core::primitive::i32], &'a [::core::primitive::usize])>
        };
        field(&boundaries, &doc, ty);
        let doc = format!("What a call of [`{}`] may leave out.", self.type_name(""));
        let derives = quote!(::core::fmt::Debug, ::core::default::Default);
        self.record(&self.type_name("Options"), &doc, derives, &fields)
    }

    /// The states of a step.
    fn states(&self) -> Option<TokenStream> {
        let vis = &self.vis;
        let field = |state: &Field| {
            let Field { name, shape, .. } = state;
            let doc = format!("State `{name}`, updated in place: {shape}.");
            quote!(#[doc = #doc] #vis #name: ::selscan::TensorMut<'a>)
        };
        let fields: Vec<TokenStream> = self.states.iter().map(field).collect();
        let doc = format!("The states of [`{}::step`].", self.type_name(""));
        let record = self.record(&self.type_name("States"), &doc, quote!(::core::fmt::Debug), &fields);
        (!fields.is_empty()).then_some(record)
    }
}
