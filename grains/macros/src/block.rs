//! The `impl` block as a whole: its type, its methods, its hooks.

use std::collections::BTreeSet;

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::ext::IdentExt;
use syn::{FnArg, ImplItem, ImplItemFn, Item, ItemImpl, PathArguments, Type};

use crate::Mistakes;
use crate::method::{Marks, Method, is_shared_self};

/// What the block says of the kind.
pub struct Block {
    /// The block as the user wrote it, without the marks.
    pub kept: ItemImpl,
    /// The grain's type, as written.
    pub grain: TokenStream,
    /// The type's last word.
    pub name: Ident,
    /// The callable methods, in the order of the source.
    pub methods: Vec<Method>,
    /// The hook before the first turn.
    pub on_activate: Option<Method>,
    /// The hook before an idle grain leaves.
    pub on_deactivate: Option<Method>,
    /// Whether there is a `migrate`.
    pub migrates: bool,
}

impl Block {
    /// Reads the block; `None` when it is nothing a grain could be made of.
    pub fn read(item: TokenStream, mistakes: &mut Mistakes) -> Option<Block> {
        let mut kept = match syn::parse2::<Item>(item) {
            Ok(Item::Impl(block)) => block,
            Ok(other) => {
                mistakes.add(not_a_block(&other));
                return None;
            }
            Err(mistake) => {
                mistakes.add(mistake);
                return None;
            }
        };
        let name = type_name(&kept, mistakes);
        let grain = kept.self_ty.to_token_stream();
        let mut block = Parts::default();
        for item in &mut kept.items {
            if let ImplItem::Fn(function) = item {
                block.read(function, &grain, mistakes);
            }
        }
        let Parts { methods, on_activate, on_deactivate, migrates, .. } = block;
        Some(Block { name: name?, grain, kept, methods, on_activate, on_deactivate, migrates })
    }
}

fn not_a_block(item: &Item) -> syn::Error {
    let (name, what) = match item {
        Item::Struct(item) => (item.ident.to_string(), "a struct"),
        Item::Enum(item) => (item.ident.to_string(), "an enum"),
        Item::Trait(item) => (item.ident.to_string(), "a trait"),
        _ => ("Sensor".to_owned(), "this"),
    };
    let message =
        format!("`#[grain]` stands on the block with the methods, `impl {name} {{ .. }}`, not on {what}");
    match item {
        Item::Struct(item) => syn::Error::new_spanned(&item.ident, message),
        Item::Enum(item) => syn::Error::new_spanned(&item.ident, message),
        Item::Trait(item) => syn::Error::new_spanned(&item.ident, message),
        other => syn::Error::new_spanned(other, message),
    }
}

/// The grain's type has one plain name: it is part of addresses.
fn type_name(block: &ItemImpl, mistakes: &mut Mistakes) -> Option<Ident> {
    if let Some((_, path, _)) = &block.trait_ {
        mistakes.note(
            path,
            "`#[grain]` stands on the type's own block, `impl Sensor { .. }`, not on one of a trait",
        );
        return None;
    }
    let generics = &block.generics;
    if !generics.params.is_empty() {
        let message = "a kind is one type with one name: name concrete types in a struct of its own";
        mistakes.note(generics, message);
        return None;
    }
    if let Some(clause) = &generics.where_clause {
        mistakes.note(clause, "a kind is one type: remove the `where`");
        return None;
    }
    let path = match &*block.self_ty {
        Type::Path(path) if path.qself.is_none() => &path.path,
        other => {
            mistakes.note(other, "a kind is a struct or an enum with a name");
            return None;
        }
    };
    let last = path.segments.last()?;
    if !matches!(last.arguments, PathArguments::None) {
        let message = "a kind is one type with one name: put these types into a struct of its own";
        mistakes.note(&last.arguments, message);
        return None;
    }
    Some(last.ident.clone())
}

#[derive(Default)]
struct Parts {
    methods: Vec<Method>,
    on_activate: Option<Method>,
    on_deactivate: Option<Method>,
    migrates: bool,
    seen: BTreeSet<String>,
}

impl Parts {
    fn read(&mut self, function: &mut ImplItemFn, grain: &TokenStream, mistakes: &mut Mistakes) {
        let marks = Marks::take(&mut function.attrs, mistakes);
        let name = function.sig.ident.unraw().to_string();
        if name == "at" {
            let message = "`at` makes the typed reference, `Sensor::at(key)`: choose another name";
            mistakes.note(&function.sig.ident, message);
            return;
        }
        if marks.is_private() {
            return;
        }
        let takes_shared =
            matches!(function.sig.inputs.first(), Some(FnArg::Typed(first)) if is_shared_self(&first.ty));
        let has_receiver = function.sig.receiver().is_some();
        match name.as_str() {
            "on_activate" => self.on_activate = read_hook(function, &marks, grain, mistakes),
            "on_deactivate" => self.on_deactivate = read_hook(function, &marks, grain, mistakes),
            "migrate" if !has_receiver => self.migrates = reads_migrate(function, &marks, mistakes),
            _ if has_receiver || marks.is_interleave() => {
                let is_conditional = function.attrs.iter().any(|a| a.path().is_ident("cfg"));
                if !is_conditional && !self.seen.insert(name.clone()) {
                    let message = format!("`{name}` stands here twice: calls find a method by its name");
                    mistakes.note(&function.sig.ident, message);
                    return;
                }
                self.methods.extend(Method::read(function, &marks, grain, mistakes));
            }
            _ if takes_shared => {
                let message = "mark it `#[interleave]` to make it a method of the grain, or `#[private]` if it is a helper";
                mistakes.note(&function.sig.ident, message);
            }
            _ => {
                let message =
                    "a function without `self` is no method of the grain: take `&self` or `&mut self`";
                marks.refuse_all(message, mistakes);
            }
        }
    }
}

fn read_hook(
    function: &ImplItemFn,
    marks: &Marks,
    grain: &TokenStream,
    mistakes: &mut Mistakes,
) -> Option<Method> {
    if function.sig.receiver().is_none() {
        let message =
            format!("`{}` is a hook: take `&mut self`, and `cx: &mut Cx` if need be", function.sig.ident);
        mistakes.note(&function.sig.ident, message);
        return None;
    }
    Method::read_hook(function, marks, grain, mistakes)
}

/// `fn migrate(from: u32, state: Value) -> Result<Self>`; the types are left to the compiler.
fn reads_migrate(function: &ImplItemFn, marks: &Marks, mistakes: &mut Mistakes) -> bool {
    marks.refuse_all("`migrate` is a hook, never called from outside: remove the mark", mistakes);
    let signature = &function.sig;
    let is_plain = signature.asyncness.is_none() && signature.generics.params.is_empty();
    if is_plain && signature.inputs.len() == 2 {
        return true;
    }
    let message = "`migrate` makes today's state of an older version's: write `fn migrate(from: u32, state: Value) -> Result<Self>`";
    mistakes.note(&signature.ident, message);
    false
}
