//! What stands in the brackets of `#[grain(..)]`.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Ident, LitInt, LitStr, Path, Token, parse_quote};

use crate::Mistakes;

/// The options, as they are written in messages.
const ALLOWED: [&str; 7] = ["name", "version", "idle", "turn_max", "queue_max", "volatile", "crate"];

/// An option this far (in single changes) from what was written is worth suggesting.
const NEAR_MAX: usize = 3;

/// The options of one kind; what is not given stays with the runtime's default.
pub struct Options {
    /// Where the language of grains is found.
    pub krate: Path,
    /// The kind's name, when it is not the type's.
    pub name: Option<LitStr>,
    /// The version of the state's layout.
    pub version: Option<u32>,
    /// Idle time in milliseconds.
    pub idle_ms: Option<u64>,
    /// Turn limit in milliseconds.
    pub turn_max_ms: Option<u64>,
    /// Calls that may wait.
    pub queue_max: Option<u32>,
    /// State in memory only.
    pub is_volatile: bool,
}

impl Options {
    /// Reads the options; what is wrong is noted and left out.
    pub fn read(attribute: TokenStream, mistakes: &mut Mistakes) -> Options {
        let mut options = Options {
            krate: parse_quote!(::granary::core),
            name: None,
            version: None,
            idle_ms: None,
            turn_max_ms: None,
            queue_max: None,
            is_volatile: false,
        };
        let mut given: Vec<String> = Vec::new();
        let read_all = |input: ParseStream<'_>| {
            while !input.is_empty() {
                let key = input.call(Ident::parse_any)?;
                let repeated = given.contains(&key.to_string());
                if let Err(mistake) = options.read_one(&key, input) {
                    mistakes.add(mistake);
                    skip_to_comma(input)?;
                } else if repeated {
                    mistakes.note(&key, format!("`{key}` is given twice: remove one"));
                }
                given.push(key.to_string());
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(mistake) = read_all.parse2(attribute) {
            mistakes.add(mistake);
        }
        options
    }

    fn read_one(&mut self, key: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
        let word = key.to_string();
        if !ALLOWED.contains(&word.as_str()) {
            return Err(syn::Error::new(key.span(), unknown(&word)));
        }
        if word == "volatile" {
            if input.peek(Token![=]) {
                return Err(input.error("`volatile` takes no value: write `volatile` alone, or leave it out"));
            }
            self.is_volatile = true;
            return Ok(());
        }
        if !input.peek(Token![=]) {
            return Err(syn::Error::new(key.span(), format!("`{word}` needs a value: {}", example(&word))));
        }
        input.parse::<Token![=]>()?;
        match word.as_str() {
            "name" => self.name = Some(kind_name(literal(input, &word)?)?),
            "version" => self.version = Some(count(input, &word)?),
            "idle" => self.idle_ms = Some(length_ms(&literal(input, &word)?)?),
            "turn_max" => self.turn_max_ms = Some(length_ms(&literal(input, &word)?)?),
            "queue_max" => self.queue_max = Some(count(input, &word)?),
            _ => self.krate = input.call(Path::parse_mod_style)?,
        }
        Ok(())
    }
}

fn skip_to_comma(input: ParseStream<'_>) -> syn::Result<()> {
    while !input.is_empty() && !input.peek(Token![,]) {
        input.parse::<TokenTree>()?;
    }
    Ok(())
}

fn unknown(word: &str) -> String {
    let near = ALLOWED
        .iter()
        .map(|allowed| (strsim::damerau_levenshtein(word, allowed), *allowed))
        .filter(|(distance, _)| *distance <= NEAR_MAX)
        .min();
    let hint = near.map(|(_, allowed)| format!("; did you mean `{allowed}`?")).unwrap_or_default();
    format!("`{word}` is no option of a grain{hint} (allowed: {})", ALLOWED.join(", "))
}

fn example(word: &str) -> &'static str {
    match word {
        "name" => "`name = \"Sensor\"`",
        "version" => "`version = 2`",
        "idle" => "`idle = \"10m\"`",
        "turn_max" => "`turn_max = \"60s\"`",
        "queue_max" => "`queue_max = 1000`",
        _ => "`crate = granary_core`",
    }
}

fn literal(input: ParseStream<'_>, word: &str) -> syn::Result<LitStr> {
    input.parse().map_err(|e: syn::Error| {
        syn::Error::new(e.span(), format!("`{word}` is text in quotes: {}", example(word)))
    })
}

fn count(input: ParseStream<'_>, word: &str) -> syn::Result<u32> {
    let message = || format!("`{word}` is a whole number from 1 to {}: {}", u32::MAX, example(word));
    let digits: LitInt = input.parse().map_err(|e: syn::Error| syn::Error::new(e.span(), message()))?;
    match digits.base10_parse::<u32>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(syn::Error::new(digits.span(), message())),
    }
}

/// A kind's name is part of addresses and metrics: a letter, then letters, digits, `_` or `-`.
fn kind_name(name: LitStr) -> syn::Result<LitStr> {
    let text = name.value();
    let rest_fits = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if rest_fits && text.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Ok(name);
    }
    let message = format!("`{text}` is no name of a kind: a letter, then letters, digits, `_` or `-`");
    Err(syn::Error::new(name.span(), message))
}

/// The type's own name, held to the same rule.
pub fn checked_kind_name(text: &str, span: Span) -> syn::Result<LitStr> {
    let name = kind_name(LitStr::new(text, span));
    name.map_err(|e| syn::Error::new(span, format!("{e}; give one: `#[grain(name = \"Sensor\")]`")))
}

/// A length as people write it: `250ms`, `5s`, `15m`, `2h`, `1d`.
fn length_ms(text: &LitStr) -> syn::Result<u64> {
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let value = text.value();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let ms = number.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
    ms.filter(|ms| *ms > 0).ok_or_else(|| {
        let message = format!(
            "`{value}` is no length of time: a whole number above 0 and a unit: `250ms`, `5s`, `15m`, `2h`, `1d`"
        );
        syn::Error::new(text.span(), message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> Option<u64> {
        length_ms(&LitStr::new(text, Span::call_site())).ok()
    }

    #[test]
    fn lengths_are_read_as_people_write_them() {
        let read = ["250ms", "5s", "15m", "2h", "1d"].map(ms);
        assert_eq!(read, [Some(250), Some(5_000), Some(900_000), Some(7_200_000), Some(86_400_000)]);
    }

    #[test]
    fn other_lengths_are_refused() {
        for text in ["", "5", "s", "5 s", "0s", "-1s", "1.5s", "5sec", "99999999999999999999d", "1d1h"] {
            assert_eq!(ms(text), None, "{text}");
        }
    }

    #[test]
    fn a_misspelt_option_gets_the_nearest() {
        assert!(unknown("idel").contains("did you mean `idle`?"));
        assert!(unknown("turnmax").contains("did you mean `turn_max`?"));
        assert!(!unknown("replicas").contains("did you mean"));
    }

    #[test]
    fn names_of_kinds_fit_addresses() {
        let fits = |name: &str| kind_name(LitStr::new(name, Span::call_site())).is_ok();
        assert!(fits("Sensor") && fits("a-1_b"));
        assert!(!fits("") && !fits("1a") && !fits("a/b") && !fits("größe"));
    }
}
