//! The code that is added to the user's block.
//!
//! Everything is named by full paths, so nothing the user brings into scope can stand in the way. Messages are
//! generic over a list of the grain and its reply, for one reason: a message is then just as public as these two,
//! whatever the macro, which does not see them, declares.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::LitStr;
use syn::ext::IdentExt;

use crate::block::Block;
use crate::method::{Access, Method};
use crate::options::{Options, checked_kind_name};

/// What is written around each method's code.
struct Scope<'a> {
    block: &'a Block,
    krate: &'a syn::Path,
    kind: LitStr,
}

/// The user's block and all that makes it a grain.
pub fn block(block: &Block, options: &Options) -> TokenStream {
    let kept = &block.kept;
    let kind = match &options.name {
        Some(name) => name.clone(),
        None => match checked_kind_name(&block.name.unraw().to_string(), block.name.span()) {
            Ok(name) => name,
            Err(mistake) => {
                let mistake = mistake.into_compile_error();
                return quote!(#kept #mistake);
            }
        },
    };
    let scope = Scope { block, krate: &options.krate, kind };
    let grain = scope.grain(options);
    let reference = scope.reference();
    let hooks = block.on_activate.iter().chain(&block.on_deactivate);
    let messages = block.methods.iter().chain(hooks).map(|method| scope.message(method));
    quote!(#kept #grain #reference #(#messages)*)
}

/// Lints are for what people write; these would judge the names and shapes of generated code.
fn quiet() -> TokenStream {
    quote! {
        #[allow(
            dead_code, deprecated, missing_docs, non_camel_case_types, private_interfaces, unreachable_pub,
            unused_mut, unused_qualifications, clippy::all, clippy::pedantic, clippy::nursery
        )]
    }
}

impl Scope<'_> {
    fn grain(&self, options: &Options) -> TokenStream {
        let Scope { block: Block { grain, .. }, krate, kind } = self;
        let (quiet, reference, set) = (quiet(), self.reference_name(), set_options(options, krate));
        let version = options.version.map(|version| quote!(const VERSION: u32 = #version;));
        let info = self.info();
        let migrate = self.block.migrates.then(|| {
            quote! {
                fn migrate(from: u32, state: #krate::__private::rmpv::Value) -> #krate::Result<Self> {
                    <#grain>::migrate(from, state)
                }
            }
        });
        quote! {
            #quiet
            #[automatically_derived]
            impl #krate::Grain for #grain {
                const KIND: &'static str = #kind;
                #version
                #set
                type Ref<__C: #krate::Caller> = #reference<__C>;

                fn reference<__C: #krate::Caller>(key: #krate::Key, caller: __C) -> #reference<__C> {
                    #reference { key, caller }
                }

                fn info() -> &'static #krate::KindInfo {
                    #info
                }

                #migrate
            }
        }
    }

    /// The kind's table, made once.
    fn info(&self) -> TokenStream {
        let Scope { block, krate, .. } = self;
        let grain = &block.grain;
        let rows = block.methods.iter().map(|method| {
            let (conditions, message) = (&method.conditions, self.message_type(method));
            quote!(#(#conditions)* methods.push(#krate::grain::MethodEntry::of::<#message>());)
        });
        let subscriptions = block.methods.iter().flat_map(|method| {
            let (conditions, name) = (&method.conditions, method.name.unraw().to_string());
            method.streams.iter().map(move |stream| {
                quote! {
                    #(#conditions)*
                    info.subscriptions.push(#krate::grain::Subscription { stream: #stream, method: #name });
                }
            })
        });
        let hooks = [(&block.on_activate, "on_activate"), (&block.on_deactivate, "on_deactivate")];
        let hooks = hooks.into_iter().filter_map(|(hook, field)| {
            let hook = hook.as_ref()?;
            let (conditions, field) = (&hook.conditions, format_ident!("{field}"));
            let message = self.message_type(hook);
            let entry = quote!(#krate::grain::MethodEntry::of::<#message>());
            Some(quote!(#(#conditions)* { info.#field = ::std::option::Option::Some(#entry); }))
        });
        quote! {
            static INFO: ::std::sync::OnceLock<#krate::KindInfo> = ::std::sync::OnceLock::new();
            INFO.get_or_init(|| {
                let mut methods = ::std::vec::Vec::new();
                #(#rows)*
                let mut info = #krate::KindInfo::of::<#grain>(methods);
                #(#subscriptions)*
                #(#hooks)*
                info
            })
        }
    }

    /// The typed reference: one method for each of the grain's.
    fn reference(&self) -> TokenStream {
        let Scope { block, krate, .. } = self;
        let (quiet, name) = (quiet(), self.reference_name());
        let docs = format!(
            "Calls grains of the kind [`{0}`]: made by `{0}::at(key)` and by `grain::<{0}>(key)` of a caller.",
            block.name
        );
        let methods = block.methods.iter().map(|method| self.reference_method(method));
        quote! {
            #[doc = #docs]
            #quiet
            #[derive(::std::clone::Clone, ::std::fmt::Debug)]
            pub struct #name<__C> {
                key: #krate::Key,
                caller: __C,
            }

            #quiet
            #[automatically_derived]
            impl<__C: #krate::Caller> #name<__C> {
                #(#methods)*
            }
        }
    }

    fn reference_method(&self, method: &Method) -> TokenStream {
        let krate = self.krate;
        let Method { name, conditions, docs, .. } = method;
        let (message, message_type) = (self.message_name(method), self.message_type(method));
        let (names, types): (Vec<_>, Vec<_>) = method.arguments.iter().cloned().unzip();
        let own_docs = docs.is_empty().then(|| {
            let text = format!("Calls `{}`.", name.unraw());
            quote!(#[doc = #text])
        });
        quote! {
            #(#conditions)*
            #(#docs)*
            #own_docs
            pub fn #name(&self #(, #names: #types)*) -> #krate::Call<__C, #message_type> {
                #krate::Call::new(
                    ::std::clone::Clone::clone(&self.key),
                    ::std::clone::Clone::clone(&self.caller),
                    #message { #(#names,)* __of: ::std::marker::PhantomData },
                )
            }
        }
    }

    /// The arguments of a method as a message, and how it runs.
    fn message(&self, method: &Method) -> TokenStream {
        let Scope { block: Block { grain, .. }, krate, kind } = self;
        let (quiet, conditions, name) = (quiet(), &method.conditions, self.message_name(method));
        let serde_path = quote!(#krate::__private::serde);
        let serde_text = serde_path.to_string();
        let fields = method.arguments.iter().map(|(name, ty)| quote!(#name: #ty,));
        let expecting = expecting(method);
        let message_type = self.message_type(method);
        let (reply, method_name) = (self.reply(method), method.name.unraw().to_string());
        let access = match method.access {
            Access::Read => quote!(Read),
            Access::Write => quote!(Write),
            Access::Interleave => quote!(Interleave),
        };
        let (is_async, is_snapshot) = (method.is_async, method.is_snapshot);
        let body = if is_async { self.start(method, &reply) } else { self.run(method, &reply) };
        quote! {
            #(#conditions)*
            #quiet
            #[doc(hidden)]
            #[derive(#serde_path::Serialize, #serde_path::Deserialize)]
            #[serde(crate = #serde_text, bound = "", expecting = #expecting)]
            pub struct #name<__T> {
                #(#fields)*
                #[serde(skip)]
                __of: ::std::marker::PhantomData<fn() -> __T>,
            }

            #(#conditions)*
            #quiet
            #[automatically_derived]
            impl #krate::Method for #message_type {
                type Grain = #grain;
                type Reply = #reply;
                const INFO: #krate::MethodInfo = #krate::MethodInfo {
                    kind: #kind,
                    kind_id: #krate::KindId::of(#kind),
                    name: #method_name,
                    access: #krate::Access::#access,
                    is_async: #is_async,
                    snapshot: #is_snapshot,
                };

                #body
            }
        }
    }

    /// A plain `fn` runs to its end.
    fn run(&self, method: &Method, reply: &TokenStream) -> TokenStream {
        let Scope { block: Block { grain, .. }, krate, .. } = self;
        let cx = if method.takes_cx { format_ident!("cx") } else { format_ident!("_cx") };
        let (state, call) = (state(method), self.call(method, &quote!(grain), &quote!(cx)));
        let answer = answer(method, &call);
        quote! {
            fn run(self, grain: &#krate::Shared<#grain>, #cx: &mut #krate::Cx) -> #krate::Result<#reply> {
                #state
                #answer
            }
        }
    }

    /// An `async fn` is a turn of its own.
    fn start(&self, method: &Method, reply: &TokenStream) -> TokenStream {
        let Scope { block: Block { grain, .. }, krate, .. } = self;
        let cx = if method.takes_cx { quote!(mut cx) } else { quote!(_cx) };
        let (state, call) = (state(method), self.call(method, &quote!(&grain), &quote!(&mut cx)));
        let answer = answer(method, &quote!(#call.await));
        quote! {
            fn start(
                self,
                grain: ::std::rc::Rc<#krate::Shared<#grain>>,
                #cx: #krate::Cx,
            ) -> impl ::std::future::Future<Output = #krate::Result<#reply>> + 'static {
                async move {
                    #state
                    #answer
                }
            }
        }
    }

    fn call(&self, method: &Method, shared: &TokenStream, cx: &TokenStream) -> TokenStream {
        let (grain, name) = (&self.block.grain, &method.name);
        let taken = match method.access {
            Access::Read => quote!(&*state),
            Access::Write => quote!(&mut *state),
            Access::Interleave => shared.clone(),
        };
        let fields = method.arguments.iter().map(|(field, _)| quote!(, self.#field));
        let cx = method.takes_cx.then(|| quote!(, #cx));
        quote!(<#grain>::#name(#taken #(#fields)* #cx))
    }

    fn reply(&self, method: &Method) -> TokenStream {
        let (krate, whole) = (self.krate, &method.reply.whole);
        method.reply.ty.clone().unwrap_or_else(
            || quote_spanned!(method.reply.span=> <#whole as #krate::__private::Outcome>::Reply),
        )
    }

    fn reference_name(&self) -> Ident {
        format_ident!("{}Ref", self.block.name.unraw(), span = self.block.name.span())
    }

    fn message_name(&self, method: &Method) -> Ident {
        let (kind, name) = (self.block.name.unraw(), method.name.unraw());
        format_ident!("__{kind}__{name}", span = method.name.span())
    }

    fn message_type(&self, method: &Method) -> TokenStream {
        let (name, grain, reply) = (self.message_name(method), &self.block.grain, self.reply(method));
        quote!(#name<(#grain, #reply)>)
    }
}

/// What the error of a call with wrong arguments says should have come.
fn expecting(method: &Method) -> String {
    let names: Vec<_> = method.arguments.iter().map(|(name, _)| format!("`{}`", name.unraw())).collect();
    match names.as_slice() {
        [] => "no arguments".to_owned(),
        _ => format!("{}, by name or in this order", names.join(", ")),
    }
}

fn set_options(options: &Options, krate: &syn::Path) -> Option<TokenStream> {
    let idle = options.idle_ms.map(|ms| quote!(idle: #krate::Span(#ms),));
    let turn_max = options.turn_max_ms.map(|ms| quote!(turn_max: #krate::Span(#ms),));
    let queue_max = options.queue_max.map(|n| quote!(queue_max: #n,));
    let durability = options.is_volatile.then(|| quote!(durability: #krate::Durability::Volatile,));
    let set: TokenStream = [idle, turn_max, queue_max, durability].into_iter().flatten().collect();
    (!set.is_empty()).then(|| {
        quote! {
            const OPTIONS: #krate::KindOptions =
                #krate::KindOptions { #set ..#krate::KindOptions::DEFAULT };
        }
    })
}

/// The state as the method takes it, held until the turn ends.
fn state(method: &Method) -> TokenStream {
    match method.access {
        Access::Read => quote!(let state = grain.borrow();),
        Access::Write => quote!(let mut state = grain.borrow_mut();),
        Access::Interleave => TokenStream::new(),
    }
}

/// The reply as the runtime takes it; an error of the user's own becomes one of the runtime's.
fn answer(method: &Method, call: &TokenStream) -> TokenStream {
    if method.reply.is_result {
        // Where the error is no error of the runtime's, the compiler points at the written type.
        let converted = quote_spanned!(method.reply.span=> reply.map_err(::std::convert::Into::into));
        return quote! {
            let reply = #call;
            #converted
        };
    }
    quote! {
        let reply = #call;
        ::std::result::Result::Ok(reply)
    }
}
