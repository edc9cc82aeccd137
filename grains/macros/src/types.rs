//! Types as they are written. The macro sees words, not types: what it cannot know the compiler tells.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{GenericArgument, PathArguments, Type};

/// `ty` with `Self` replaced by the grain's type, for use outside its `impl` block.
pub fn without_self(ty: TokenStream, grain: &TokenStream) -> TokenStream {
    let replace = |tree: TokenTree| match tree {
        TokenTree::Ident(word) if word == "Self" => grain.clone(),
        TokenTree::Group(group) => {
            let mut inner = Group::new(group.delimiter(), without_self(group.stream(), grain));
            inner.set_span(group.span());
            TokenTree::Group(inner).into()
        }
        other => other.into(),
    };
    ty.into_iter().flat_map(replace).collect()
}

/// The path's last word, if `ty` is a path: `Result` of `std::io::Result<T>`.
pub fn last_word(ty: &Type) -> Option<&Ident> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        Type::Group(group) => last_word(&group.elem),
        Type::Paren(paren) => last_word(&paren.elem),
        _ => None,
    }
}

/// The first type in the angle brackets of the path's last word.
pub fn first_argument(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let PathArguments::AngleBracketed(arguments) = &path.path.segments.last()?.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        GenericArgument::Type(inner) => Some(inner),
        _ => None,
    })
}

/// Why a value of this type cannot travel, and what to write instead; `None` when nothing speaks against it.
pub fn cannot_travel(ty: &Type) -> Option<String> {
    match ty {
        Type::Reference(reference) => {
            Some(format!("a reference cannot travel: use an owned type: `{}`", owned(&reference.elem)))
        }
        Type::ImplTrait(_) => Some("`impl Trait` cannot travel: name the type".to_owned()),
        Type::Infer(_) => Some("name the type".to_owned()),
        _ if holds(ty, |tree| matches!(tree, TokenTree::Punct(p) if p.as_char() == '&')) => Some(format!(
            "`{}` holds a reference, which cannot travel: use owned types, as `String` for `&str`",
            shown(ty)
        )),
        _ if holds(ty, |tree| matches!(tree, TokenTree::Ident(word) if word == "dyn" || word == "impl")) => {
            Some(format!("`{}` has no fixed layout and cannot travel: name the type", shown(ty)))
        }
        _ => None,
    }
}

fn holds(ty: &Type, wanted: fn(&TokenTree) -> bool) -> bool {
    fn look(tokens: TokenStream, wanted: fn(&TokenTree) -> bool) -> bool {
        tokens.into_iter().any(|tree| match &tree {
            TokenTree::Group(group) => look(group.stream(), wanted),
            _ => wanted(&tree),
        })
    }
    look(ty.to_token_stream(), wanted)
}

fn owned(borrowed: &Type) -> String {
    match borrowed {
        Type::Slice(slice) => format!("Vec<{}>", shown(&slice.elem)),
        _ => match last_word(borrowed).map(Ident::to_string).as_deref() {
            Some("str") => "String".to_owned(),
            Some("Path") => "PathBuf".to_owned(),
            Some("OsStr") => "OsString".to_owned(),
            _ => shown(borrowed),
        },
    }
}

/// A type as people write it.
pub fn shown(ty: &Type) -> String {
    let spaced = quote!(#ty).to_string();
    [(" :: ", "::"), (":: ", "::"), (" <", "<"), ("< ", "<"), (" >", ">"), (" ,", ","), ("& ", "&")]
        .iter()
        .fold(spaced, |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    #[test]
    fn references_get_their_owned_type() {
        let told = |ty: Type| cannot_travel(&ty).unwrap();
        assert!(told(parse_quote!(&str)).ends_with("`String`"));
        assert!(told(parse_quote!(&[Vec<u8>])).ends_with("`Vec<Vec<u8>>`"));
        assert!(told(parse_quote!(&'static mut crate::Reading)).ends_with("`crate::Reading`"));
        assert!(told(parse_quote!(Option<(u8, &str)>)).starts_with("`Option<(u8, &str)>` holds"));
        assert!(cannot_travel(&parse_quote!(std::collections::BTreeMap<String, [u8; 4]>)).is_none());
    }

    #[test]
    fn self_is_replaced_wherever_it_stands() {
        let ty = without_self(quote!(Vec<(Self, <Self as Unit>::Of)>), &quote!(Sensor));
        assert_eq!(ty.to_string(), quote!(Vec<(Sensor, <Sensor as Unit>::Of)>).to_string());
    }
}
