//! What silos have emitted.

use granary_core::{Error, ErrorKind, Result, Timestamp, codec};
use granary_store::memory::Stored;
use serde::de::DeserializeOwned;

/// One record of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Its key, as text.
    pub key: String,
    /// Its identity: the same however often it is decided again. Empty for what a test has pushed.
    pub id: String,
    /// When the log took it.
    pub at: Timestamp,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Who wrote it.
    pub by: Writer,
}

/// Who wrote a record: that decides its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A grain: MessagePack.
    Grain,
    /// A pipeline or a test: JSON. So are alerts.
    Other,
}

impl Emitted {
    pub(crate) fn new(stored: Stored, may_be_grain: bool) -> Emitted {
        let text = |bytes: Option<Vec<u8>>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        // what was pushed has no identity
        let by = if may_be_grain && stored.id.is_some() { Writer::Grain } else { Writer::Other };
        let Stored { appended_at, key, id, value } = stored;
        Emitted { key: text(key), id: text(id), at: appended_at, value, by }
    }

    /// The value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        match self.by {
            Writer::Grain => codec::from_bytes(&self.value),
            Writer::Other => {
                serde_json::from_slice(&self.value).map_err(|e| Error::new(ErrorKind::Codec, e.to_string()))
            }
        }
    }
}
