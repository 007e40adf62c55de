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
            message: "this kernel means something else when it is printed and parsed again"
                .to_owned(),
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
    fn record(
        &self,
        name: &Ident,
        doc: &str,
        derives: TokenStream,
        fields: &[TokenStream],
    ) -> TokenStream {
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
        let Interface {
            attrs, vis, time, ..
        } = self;
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
            let device: ::selscan::Device = ::core::convert::Into::into(device);
            ::core::result::Result::Ok(#name { kernel: ::selscan::Device::kernel(&device, recurrence) })
        });
        let launch = self.body(quote!(
            self.kernel.launch(::core::convert::Into::into(args))
        ));
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

                /// The kernel on a device: a `&Cpu`, a `&Cuda` or a `&Device`. Its code is made by the first launch that
                /// needs it, for the optional arguments that are given, and kept.
                ///
                /// # Errors
                /// If the device can't run it; a CPU can.
                #vis fn compile(
                    device: impl ::core::convert::Into<::selscan::Device>,
                ) -> ::core::result::Result<Self, ::selscan::Error> {
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
        let (optional, required): (Vec<&Field>, Vec<&Field>) =
            self.inputs.iter().partition(|i| i.optional);
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
        for Field {
            name, shape, flag, ..
        } in self.inputs.iter().filter(|i| i.optional)
        {
            if *flag {
                field(
                    name,
                    &format!("`{name}`: whether the flag is given."),
                    quote!(::core::primitive::bool),
                );
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
        let record = self.record(
            &self.type_name("States"),
            &doc,
            quote!(::core::fmt::Debug),
            &fields,
        );
        (!fields.is_empty()).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use quote::format_ident;

    /// The structs of an expansion by name, each with its fields; and how many errors it reports.
    fn items(attr: &str, item: &str) -> (Vec<(String, Vec<String>)>, usize) {
        let tokens = expand(attr.parse().unwrap(), item.parse().unwrap());
        let file: syn::File = syn::parse2(tokens).unwrap();
        let (mut structs, mut errors) = (Vec::new(), 0);
        for item in file.items {
            match item {
                syn::Item::Struct(item) => {
                    let names = item
                        .fields
                        .iter()
                        .map(|f| f.ident.as_ref().unwrap().to_string());
                    structs.push((item.ident.to_string(), names.collect()));
                }
                syn::Item::Macro(_) => errors += 1,
                _ => {}
            }
        }
        (structs, errors)
    }

    fn fields<'s>(structs: &'s [(String, Vec<String>)], name: &str) -> Vec<&'s str> {
        let found = structs
            .iter()
            .find(|(n, _)| n == name)
            .unwrap_or_else(|| panic!("no {name}"));
        found.1.iter().map(String::as_str).collect()
    }

    const KERNEL: &str = "fn short_gate(u: Tensor<B, L, D>, r#type: Tensor<D>, z: Option<Tensor<B, L, D>>, half: Flag,
        h: State<B, D>) -> (Tensor<B, L, D>, Tensor<B, L, D>) {
        h = given(half, 0.5, 0.9) * h + delay(u, 1) * r#type;
        (given(z, h * silu(z), h), u)
    }";

    #[test]
    fn every_argument_is_a_field() {
        let (structs, errors) = items("", KERNEL);
        assert_eq!(errors, 0);
        assert_eq!(fields(&structs, "ShortGate"), ["kernel"]);
        assert_eq!(
            fields(&structs, "ShortGateArgs"),
            ["u", "r#type", "out0", "out1", "options"]
        );
        let states = ["u_delay1", "h"]
            .map(|s| [format!("initial_{s}"), format!("last_{s}")])
            .concat();
        let mut options = vec!["z", "half"];
        options.extend(states.iter().map(String::as_str));
        options.push("boundaries");
        assert_eq!(fields(&structs, "ShortGateOptions"), options);
        assert_eq!(fields(&structs, "ShortGateStates"), ["u_delay1", "h"]);
    }

    /// Behind a mistake stand the same items, as far as the signature tells.
    #[test]
    fn a_mistake_leaves_the_items() {
        let wrong = KERNEL.replace("delay(u, 1)", "dealy(u, 1)");
        let (structs, errors) = items("", &wrong);
        assert_eq!(errors, 1);
        assert_eq!(
            fields(&structs, "ShortGateArgs"),
            ["u", "r#type", "out0", "out1", "options"]
        );
        assert_eq!(
            fields(&structs, "ShortGateOptions"),
            ["z", "half", "initial_h", "last_h", "boundaries"]
        );
        assert_eq!(fields(&structs, "ShortGateStates"), ["h"]);
    }

    #[test]
    fn a_parameter_must_not_be_called_as_another_field_is() {
        let kernel = |name: &str, ty: &str| {
            format!(
                "fn k({name}: {ty}<Tensor<B, L>>, u: Tensor<B, L>, h: State<B>) -> Tensor<B, L> {{ h = h + u + {name}; h }}"
            )
        };
        for (name, ty, errors) in [
            ("last_h", "Option", 1),
            ("initial_h", "Option", 1),
            ("boundaries", "Option", 1),
            ("last_x", "Option", 0),
        ] {
            assert_eq!(items("", &kernel(name, ty)).1, errors, "{name}");
        }
        for (name, errors) in [("out", 1), ("options", 1), ("last_h", 0)] {
            let text = kernel(name, "").replace("<Tensor<B, L>>", "Tensor<B, L>");
            assert_eq!(items("", &text).1, errors, "{name}");
        }
    }

    #[test]
    fn types_are_named_after_the_function() {
        let mut interface = Interface::guessed(KERNEL.parse().unwrap()).unwrap();
        for (function, ty) in [
            ("selective_scan", "SelectiveScanArgs"),
            ("s4d", "S4dArgs"),
            ("_private_scan2", "PrivateScan2Args"),
            ("Scan", "ScanArgs"),
            ("__", "__Args"),
        ] {
            interface.function = format_ident!("{function}");
            assert_eq!(interface.type_name("Args"), ty);
        }
        interface.function = Ident::new_raw("move", proc_macro2::Span::call_site());
        assert_eq!(interface.type_name(""), "Move");
    }

    #[test]
    fn what_is_no_function_stays() {
        let (structs, errors) = items("", "struct Scan { u: f32 }");
        assert_eq!((fields(&structs, "Scan"), errors), (vec!["u"], 1));
        let (structs, errors) = items("", "fn scan(&self, u: Tensor<B, L>) -> Tensor<B, L> { u }");
        assert_eq!((structs.len(), errors), (0, 1));
    }
}
