//! The attribute that makes a grain of a plain `impl` block.
//!
//! | module | holds |
//! |---|---|
//! | `options` | what stands in the brackets: `#[grain(idle = "10m")]` |
//! | `block` | the `impl` block as a whole: its type, its methods, its hooks |
//! | `method` | one method: how it takes the grain, its arguments, its reply |
//! | `types` | types as they are written: references, `Self`, `Result` |
//! | `write` | the code that is added |
//!
//! All mistakes of a block are reported at once, each where it stands and with a remedy. What is right is written
//! all the same, so that one mistake does not make every use of the grain another one.

mod block;
mod method;
mod options;
mod types;
mod write;

use proc_macro::TokenStream;
use quote::quote;

/// Makes a grain of the type of this `impl` block.
///
/// Every method with a receiver becomes callable through the typed reference `<Type>Ref`:
///
/// | written | means |
/// |---|---|
/// | `fn f(&mut self, ..)`, `async fn f(&mut self, ..)` | an exclusive turn |
/// | `fn f(&self, ..)`, `async fn f(&self, ..)` | a read: overlaps with other reads |
/// | `#[interleave] async fn f(this: &Shared<Self>, ..)` | overlaps with others of its sort; changes state in closures |
/// | `#[snapshot] fn f(&self, ..)` | a read answered at once from memory; may show what a crash undoes |
/// | `#[subscribe("stream")] fn f(&mut self, value: V)` | each record of the stream is a turn of the grain with its key |
/// | `#[private] fn f(&self)` | a helper: not callable from outside |
/// | `on_activate(&mut self)`, `on_deactivate(&mut self)` | hooks: before the first turn, before an idle grain leaves |
/// | `fn migrate(from: u32, state: Value) -> Result<Self>` | makes today's state of an older version's |
///
/// Arguments are owned values that serde can write and read; `cx: &mut Cx` may come last. A method answers a value
/// or a `Result` of one. Functions without a receiver stay as they are.
///
/// | option | means | default |
/// |---|---|---|
/// | `name = "Sensor"` | the kind's name | the type's name |
/// | `version = 2` | the version of the state's layout | 1 |
/// | `idle = "10m"` | an activation nobody called for so long leaves memory | 15m |
/// | `turn_max = "60s"` | a turn older than this is ended | 60s |
/// | `queue_max = 1000` | calls that may wait for one grain | 1000 |
/// | `volatile` | the state lives in memory only | durable |
/// | `crate = path` | where the language of grains is found | `::granary::core` |
///
/// ```
/// use granary_core::{Cx, Result};
/// use granary_macros::grain;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Default, Serialize, Deserialize)]
/// struct Sensor {
///     bursts: u64,
/// }
///
/// #[grain(idle = "10m", crate = granary_core)]
/// impl Sensor {
///     async fn record(&mut self, value: u64, cx: &mut Cx) -> Result<()> {
///         if value > 100 {
///             self.bursts += 1;
///             cx.alert("sensor.burst", &value).await?;
///         }
///         Ok(())
///     }
///
///     fn bursts(&self) -> u64 {
///         self.bursts
///     }
/// }
///
/// use granary_core::Grain;
/// let call = Sensor::at("d-7").record(104);
/// assert_eq!(call.target().to_string(), "Sensor/d-7");
/// ```
#[proc_macro_attribute]
pub fn grain(attribute: TokenStream, item: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let options = options::Options::read(attribute.into(), &mut mistakes);
    let item: proc_macro2::TokenStream = item.into();
    let written = match block::Block::read(item.clone(), &mut mistakes) {
        Some(block) => write::block(&block, &options),
        None => item,
    };
    let mistakes = mistakes.into_tokens();
    quote!(#written #mistakes).into()
}

/// The mistakes found so far, in the order of the source.
#[derive(Default)]
struct Mistakes(Option<syn::Error>);

impl Mistakes {
    /// Notes a mistake at `place`.
    fn note(&mut self, place: impl quote::ToTokens, message: impl std::fmt::Display) {
        self.add(syn::Error::new_spanned(place, message));
    }

    /// Notes a mistake.
    fn add(&mut self, mistake: syn::Error) {
        match &mut self.0 {
            Some(first) => first.combine(mistake),
            None => self.0 = Some(mistake),
        }
    }

    /// The mistakes as errors of the compiler.
    fn into_tokens(self) -> proc_macro2::TokenStream {
        self.0.map(|mistake| mistake.into_compile_error()).unwrap_or_default()
    }
}
