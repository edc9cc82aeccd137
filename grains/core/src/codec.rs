//! State and arguments as bytes: MessagePack. State carries its field names, so fields may be added later.

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, ErrorKind, Result};

/// Appends `value` to `out` with field names: for state and for everything that is kept.
pub fn encode_named<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<()> {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
    value.serialize(&mut serializer).map_err(|e| Error::new(ErrorKind::Codec, format!("cannot encode: {e}")))
}

/// `value` as bytes with field names.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(64);
    encode_named(value, &mut out)?;
    Ok(out)
}

/// Reads what [`encode_named`] wrote.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).map_err(|e| Error::new(ErrorKind::Codec, format!("cannot decode: {e}")))
}

/// A value of any shape as a type: how [`Grain::migrate`](crate::Grain::migrate) reads the fields of an earlier version.
pub fn from_value<T: DeserializeOwned>(value: rmpv::Value) -> Result<T> {
    rmpv::ext::from_value(value).map_err(|e| Error::new(ErrorKind::Codec, format!("cannot decode: {e}")))
}
