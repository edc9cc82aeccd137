//! The routing key as a grain: what all window steps together know of it.

use granary_core::{Result, Timestamp};
use granary_macros::grain;
use serde::{Deserialize, Serialize};

use crate::not_hosted;

/// A routing key of a pipeline, named for its most frequent use: `Device/d-7`.
///
/// ```no_run
/// # async fn seen<C: granary_core::Caller>(d_7: granary_grains::DeviceRef<C>) -> granary_core::Result<()> {
/// // with a client: `let d_7 = client.grain::<Device>("d-7");`
/// let state = d_7.get().await?;
/// println!("{} events until {}", state.events, state.last_event_time);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Device {}

/// What is known of a routing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The routing key.
    pub key: String,
    /// The greatest event time seen; [`Timestamp::MIN`] when there is none.
    pub last_event_time: Timestamp,
    /// The key's watermark; [`Timestamp::MIN`] when there is none.
    pub clock: Timestamp,
    /// Events seen.
    pub events: u64,
    /// Of these, copies.
    pub duplicates: u64,
    /// Of these, too late for every window of theirs.
    pub late: u64,
    /// Windows that are not closed.
    pub open_windows: u64,
}

#[grain(crate = granary_core)]
impl Device {
    /// What is known of the key at present.
    fn get(&self) -> Result<DeviceState> {
        Err(not_hosted::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_core::{Grain, codec};
    use std::collections::BTreeMap;

    #[test]
    fn an_answer_is_read_by_its_names() {
        let answer: BTreeMap<&str, i64> = BTreeMap::from([
            ("last_event_time", 1_690_000_004_000),
            ("clock", i64::MIN),
            ("events", 300),
            ("duplicates", 15),
            ("late", 3),
            ("open_windows", 2),
        ]);
        let mut bytes = codec::to_bytes(&answer).unwrap();
        assert!(codec::from_bytes::<DeviceState>(&bytes).is_err(), "the key is missing");
        // One member more in the map: its length stands in the first byte.
        bytes[0] += 1;
        bytes.extend(codec::to_bytes("key").unwrap());
        bytes.extend(codec::to_bytes("d-7").unwrap());
        let state: DeviceState = codec::from_bytes(&bytes).unwrap();
        assert_eq!((state.key.as_str(), state.events, state.duplicates, state.late), ("d-7", 300, 15, 3));
        assert_eq!((state.clock, state.open_windows), (Timestamp::MIN, 2));
    }

    #[test]
    fn a_call_names_the_key() {
        let (target, method, _) = Device::at("d/7").get().into_parts().unwrap();
        assert_eq!((target.to_string().as_str(), method), ("Device/d%2F7", "get"));
    }
}
