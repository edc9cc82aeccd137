//! One method: how it takes the grain, its arguments, its reply.

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Attribute, FnArg, ImplItemFn, LitStr, Meta, Pat, PatType, Receiver, ReturnType, Signature, Type};

use crate::Mistakes;
use crate::types::{cannot_travel, first_argument, last_word, shown, without_self};

/// The attributes of methods that this macro reads and takes away.
#[derive(Default)]
pub struct Marks {
    interleave: Option<Attribute>,
    snapshot: Option<Attribute>,
    private: Option<Attribute>,
    subscribe: Vec<(Attribute, LitStr)>,
}

impl Marks {
    /// Takes the marks out of `attributes`.
    pub fn take(attributes: &mut Vec<Attribute>, mistakes: &mut Mistakes) -> Marks {
        let mut marks = Marks::default();
        attributes.retain(|attribute| !marks.read(attribute, mistakes));
        if let Some(private) = &marks.private
            && (marks.interleave.is_some() || marks.snapshot.is_some() || !marks.subscribe.is_empty())
        {
            let message = "a `#[private]` function is never called from outside: remove the other marks, or `#[private]`";
            mistakes.note(private, message);
        }
        marks
    }

    /// Whether `attribute` is a mark.
    fn read(&mut self, attribute: &Attribute, mistakes: &mut Mistakes) -> bool {
        let Some(word) = attribute.path().get_ident().map(Ident::to_string) else { return false };
        let mark = match word.as_str() {
            "interleave" => &mut self.interleave,
            "snapshot" => &mut self.snapshot,
            "private" => &mut self.private,
            "subscribe" => {
                match attribute.parse_args::<LitStr>() {
                    Ok(stream) if !stream.value().is_empty() => {
                        self.subscribe.push((attribute.clone(), stream))
                    }
                    _ => mistakes.note(attribute, "name one stream: `#[subscribe(\"readings\")]`"),
                }
                return true;
            }
            _ => return false,
        };
        if !matches!(attribute.meta, Meta::Path(_)) {
            mistakes.note(attribute, format!("`#[{word}]` takes nothing in brackets"));
        }
        *mark = Some(attribute.clone());
        true
    }

    /// Whether it is marked `#[interleave]`.
    pub fn is_interleave(&self) -> bool {
        self.interleave.is_some()
    }

    /// Whether the function is a helper.
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// On a function that is no method of the grain, marks are mistakes.
    pub fn refuse_all(&self, message: &str, mistakes: &mut Mistakes) {
        let subscribe = self.subscribe.iter().map(|(mark, _)| mark);
        for mark in self.interleave.iter().chain(&self.snapshot).chain(subscribe) {
            mistakes.note(mark, message);
        }
    }
}

/// How a method takes the grain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `&self`
    Read,
    /// `&mut self`
    Write,
    /// `this: &Shared<Self>`
    Interleave,
}

/// What a method answers.
pub struct Reply {
    /// The answer's type; `None` when it is hidden behind an alias of `Result` without its types.
    pub ty: Option<TokenStream>,
    /// The whole type behind the arrow.
    pub whole: TokenStream,
    /// Whether it may fail.
    pub is_result: bool,
    /// Where it is written.
    pub span: Span,
}

/// A callable method.
pub struct Method {
    /// Its name.
    pub name: Ident,
    /// `cfg`: copied to everything written for the method.
    pub conditions: Vec<Attribute>,
    /// Docs and deprecation: copied to the reference's method.
    pub docs: Vec<Attribute>,
    /// How it takes the grain.
    pub access: Access,
    /// Whether it may wait within its turn.
    pub is_async: bool,
    /// Answers at once from memory.
    pub is_snapshot: bool,
    /// Takes the context, last.
    pub takes_cx: bool,
    /// The streams whose records it takes.
    pub streams: Vec<LitStr>,
    /// Names and types of its arguments.
    pub arguments: Vec<(Ident, TokenStream)>,
    /// What it answers.
    pub reply: Reply,
}

impl Method {
    /// Reads a method of the grain; `None` when a mistake makes it useless.
    pub fn read(
        item: &ImplItemFn,
        marks: &Marks,
        grain: &TokenStream,
        mistakes: &mut Mistakes,
    ) -> Option<Method> {
        let signature = &item.sig;
        if !check_name(signature, mistakes) || !check_sort(signature, mistakes) {
            return None;
        }
        let access = access(signature, marks, mistakes);
        let mut is_right = true;
        if let Some(mark) = &marks.snapshot
            && access.is_some_and(|access| access != Access::Read)
        {
            mistakes.note(mark, "`#[snapshot]` answers from memory without a turn: it needs `&self`");
            is_right = false;
        }
        let (arguments, takes_cx) = arguments(signature, grain, mistakes).unwrap_or_else(|| {
            is_right = false;
            Default::default()
        });
        if is_right && !marks.subscribe.is_empty() && arguments.len() != 1 {
            let message =
                "`#[subscribe]` hands over the record's value: take exactly one argument besides `cx`";
            mistakes.note(&signature.ident, message);
            is_right = false;
        }
        let reply = reply(&signature.output, grain, mistakes);
        let copied = |wanted: &[&str]| {
            let is_wanted = |a: &&Attribute| wanted.iter().any(|word| a.path().is_ident(word));
            item.attrs.iter().filter(is_wanted).cloned().collect()
        };
        let method = Method {
            name: signature.ident.clone(),
            conditions: copied(&["cfg"]),
            docs: copied(&["doc", "deprecated"]),
            access: access?,
            is_async: signature.asyncness.is_some(),
            is_snapshot: marks.snapshot.is_some(),
            takes_cx,
            streams: marks.subscribe.iter().map(|(_, stream)| stream.clone()).collect(),
            arguments,
            reply: reply?,
        };
        is_right.then_some(method)
    }

    /// Reads a hook: nothing goes in but the context, nothing comes out.
    pub fn read_hook(
        item: &ImplItemFn,
        marks: &Marks,
        grain: &TokenStream,
        mistakes: &mut Mistakes,
    ) -> Option<Method> {
        let name = &item.sig.ident;
        marks
            .refuse_all(&format!("`{name}` is a hook, never called from outside: remove the mark"), mistakes);
        let method = Method::read(item, &Marks::default(), grain, mistakes)?;
        if !method.arguments.is_empty() {
            let message = format!(
                "`{name}` is a hook: it takes nothing but `cx: &mut Cx`; rename it if it is a method of its own"
            );
            mistakes.note(&item.sig.inputs, message);
            return None;
        }
        if method.reply.ty.as_ref().is_some_and(|ty| ty.to_string() != "()") {
            let message =
                format!("`{name}` is a hook: nobody takes its answer; return nothing or `Result<()>`");
            mistakes.note(&item.sig.output, message);
            return None;
        }
        Some(method)
    }
}

/// The typed reference is copied with `clone`: a method of that name would stand in its way.
fn check_name(signature: &Signature, mistakes: &mut Mistakes) -> bool {
    let is_free = signature.ident != "clone";
    if !is_free {
        let message = "`clone` copies the typed reference: choose another name, or mark it `#[private]`";
        mistakes.note(&signature.ident, message);
    }
    is_free
}

/// A call travels as bytes, so a method is one concrete function.
fn check_sort(signature: &Signature, mistakes: &mut Mistakes) -> bool {
    let generics = &signature.generics;
    let message = if !generics.params.is_empty() {
        mistakes
            .note(generics, "a method of a grain is not generic, for its calls travel: name concrete types");
        return false;
    } else if let Some(word) = &signature.unsafety {
        return refuse(word, mistakes);
    } else if let Some(word) = &signature.abi {
        return refuse(word, mistakes);
    } else {
        signature.generics.where_clause.as_ref()
    };
    message.is_none_or(|clause| {
        mistakes.note(clause, "a method of a grain is not generic: remove the `where`");
        false
    })
}

fn refuse(word: &dyn ToTokens, mistakes: &mut Mistakes) -> bool {
    mistakes.note(word, "a method of a grain is a plain `fn` or `async fn`");
    false
}

fn access(signature: &Signature, marks: &Marks, mistakes: &mut Mistakes) -> Option<Access> {
    let receiver = signature.receiver();
    if let Some(mark) = &marks.interleave {
        let is_shared =
            matches!(signature.inputs.first(), Some(FnArg::Typed(first)) if is_shared_self(&first.ty));
        if is_shared {
            return Some(Access::Interleave);
        }
        let message = "`#[interleave]` turns overlap: take `this: &Shared<Self>` first, and change state in `this.update(|me| ..)`";
        match receiver {
            Some(receiver) => mistakes.note(receiver, message),
            None => mistakes.note(mark, message),
        }
        return None;
    }
    receiver.and_then(|receiver| access_of(receiver, mistakes))
}

fn access_of(receiver: &Receiver, mistakes: &mut Mistakes) -> Option<Access> {
    let named_lifetime = receiver.reference.as_ref().and_then(|(_, lifetime)| lifetime.as_ref());
    if receiver.colon_token.is_some() || named_lifetime.is_some() {
        mistakes.note(receiver, "write `&mut self` (changes the grain) or `&self` (reads it)");
        return None;
    }
    match (&receiver.reference, &receiver.mutability) {
        (None, _) => {
            let message =
                "a grain outlives every call, so `self` cannot be taken: write `&mut self` or `&self`";
            mistakes.note(receiver, message);
            None
        }
        (Some(_), Some(_)) => Some(Access::Write),
        (Some(_), None) => Some(Access::Read),
    }
}

/// Whether `ty` is `&Shared<Self>`.
pub fn is_shared_self(ty: &Type) -> bool {
    let Type::Reference(reference) = ty else { return false };
    reference.mutability.is_none() && last_word(&reference.elem).is_some_and(|word| word == "Shared")
}

/// The arguments and whether the context comes last; `None` after a mistake.
fn arguments(
    signature: &Signature,
    grain: &TokenStream,
    mistakes: &mut Mistakes,
) -> Option<(Vec<(Ident, TokenStream)>, bool)> {
    let after_grain: Vec<&PatType> = signature
        .inputs
        .iter()
        .skip(1)
        .filter_map(|input| match input {
            FnArg::Typed(typed) => Some(typed),
            FnArg::Receiver(_) => None,
        })
        .collect();
    let (mut arguments, mut takes_cx, mut is_right) = (Vec::new(), false, true);
    for (i, argument) in after_grain.iter().enumerate() {
        let is_last = i + 1 == after_grain.len();
        match read_argument(argument, is_last) {
            Ok(Argument::Cx) => takes_cx = true,
            Ok(Argument::Field(name)) => {
                arguments.push((name, without_self(argument.ty.to_token_stream(), grain)));
            }
            Err(mistake) => {
                mistakes.add(mistake);
                is_right = false;
            }
        }
    }
    is_right.then_some((arguments, takes_cx))
}

enum Argument {
    Cx,
    Field(Ident),
}

fn read_argument(argument: &PatType, is_last: bool) -> syn::Result<Argument> {
    let ty = &*argument.ty;
    let wrong = |message: String| Err(syn::Error::new_spanned(ty, message));
    let borrowed = match ty {
        Type::Reference(reference) => Some(reference),
        _ => None,
    };
    let referred = borrowed.map_or(ty, |reference| &*reference.elem);
    if last_word(referred).is_some_and(|word| word == "Cx") {
        return match borrowed {
            Some(reference) if reference.mutability.is_some() && is_last => Ok(Argument::Cx),
            Some(reference) if reference.mutability.is_some() => {
                Err(syn::Error::new_spanned(argument, "the context comes last: move it behind the arguments"))
            }
            _ => wrong("the context is lent for one turn: write `cx: &mut Cx`".to_owned()),
        };
    }
    if is_shared_self(ty) {
        return wrong(
            "`this: &Shared<Self>` comes first, in an `#[interleave]` function without `self`".to_owned(),
        );
    }
    if let Some(reason) = cannot_travel(ty) {
        return wrong(reason);
    }
    match &*argument.pat {
        Pat::Ident(name) if name.by_ref.is_none() && name.subpat.is_none() => {
            Ok(Argument::Field(name.ident.clone()))
        }
        pattern => {
            let message = format!(
                "give the argument one name: it names the field of the call, as `reading: {}`",
                shown(ty)
            );
            Err(syn::Error::new_spanned(pattern, message))
        }
    }
}

fn reply(output: &ReturnType, grain: &TokenStream, mistakes: &mut Mistakes) -> Option<Reply> {
    let ReturnType::Type(_, ty) = output else {
        let unit = quote::quote!(());
        return Some(Reply {
            ty: Some(unit.clone()),
            whole: unit,
            is_result: false,
            span: Span::call_site(),
        });
    };
    if let Type::ImplTrait(_) = &**ty {
        mistakes.note(ty, "an answer travels: write `async fn` and name the type of the answer");
        return None;
    }
    if let Some(reason) = cannot_travel(ty) {
        mistakes.note(ty, reason);
        return None;
    }
    let is_result = last_word(ty).is_some_and(|word| word == "Result");
    let answer = if is_result { first_argument(ty) } else { Some(&**ty) };
    Some(Reply {
        ty: answer.map(|answer| without_self(answer.to_token_stream(), grain)),
        whole: without_self(ty.to_token_stream(), grain),
        is_result,
        span: ty.span(),
    })
}
