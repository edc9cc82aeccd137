//! Simulated devices: the load generator of `granary inject` and `granary demo`, and the exact answer to it.
//!
//! In the manner of the boontadata injector: so many devices, 300 messages each, about 5 % sent again, 1 % late by 120
//! to 420 s, four categories. What a message says depends on seed, device and number alone, so messages come in the
//! order of their arrival without any being kept but those on their way, and the truth is found device by device
//! without looking at the messages at all.
//!
//! Invariant: the truth is plain arithmetic and uses no window code.

mod draw;
mod message;
mod truth;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use granary_core::{Span, Timestamp, time::secs};

use draw::Draw;
pub use message::Layout;
pub use truth::{TRUTH_COLUMNS, TruthRow, truth, write_truth};

/// Hot devices send so many times as much as the others.
pub const HOT_FACTOR: u32 = 10;

/// What to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// How many devices.
    pub devices: u32,
    /// Messages of each device, copies not counted; a hot device sends [`HOT_FACTOR`] times as many.
    pub messages: u32,
    /// The time from one message of a device to its next.
    pub period: Span,
    /// When the first message is sent.
    pub start: Timestamp,
    /// How many of 1,000 messages are sent again, up to ten minutes later.
    pub resent_per_mille: u16,
    /// Every message takes up to so long to arrive.
    pub disorder: Span,
    /// How many of 1,000 messages are late.
    pub late_per_mille: u16,
    /// A late message is late by at least so much.
    pub late_min: Span,
    /// A late message is late by at most so much.
    pub late_max: Span,
    /// How many of 1,000 devices have a wrong clock: behind, ahead, drifting, or at 1970, in turn.
    pub skewed_per_mille: u16,
    /// How many devices are hot: the first ones.
    pub hot_devices: u32,
    /// Whether messages carry their device as the record's key.
    pub has_key: bool,
    /// How messages are written.
    pub layout: Layout,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            devices: 100,
            messages: 300,
            period: secs(1),
            start: Timestamp(1_700_000_000_000),
            resent_per_mille: 50,
            disorder: secs(2),
            late_per_mille: 10,
            late_min: secs(120),
            late_max: secs(420),
            skewed_per_mille: 100,
            hot_devices: 1,
            has_key: true,
            layout: Layout::Json,
        }
    }
}

/// A message as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// When, by the true clock.
    pub at: Timestamp,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// Its bytes.
    pub value: &'a [u8],
}

/// What has arrived so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All messages.
    pub messages: u64,
    /// Those of them that were copies.
    pub copies: u64,
}

/// A message on its way: when it arrives, which one it is, and whether it is the copy.
type OnItsWay = Reverse<(i64, u32, u32, bool)>;

/// Messages in the order of their arrival.
///
/// ```
/// use granary_streams::inject::{Injector, Options};
/// let mut injector = Injector::new(Options { devices: 2, messages: 3, ..Options::default() });
/// let mut lines = 0;
/// while let Some(message) = injector.next() {
///     assert!(message.value.starts_with(br#"{"id":"d-"#));
///     lines += 1;
/// }
/// assert_eq!(injector.totals().messages, lines);
/// assert_eq!(lines - injector.totals().copies, 2 * 3 + 3 * 9, "the first device is hot");
/// ```
#[derive(Debug)]
pub struct Injector {
    options: Options,
    /// Who sends when within a period: offset in ms, device, how-manieth message of the device in it.
    senders: Vec<(u32, u32, u32)>,
    round: u32,
    next: usize,
    on_their_way: BinaryHeap<OnItsWay>,
    key: Vec<u8>,
    value: Vec<u8>,
    totals: Totals,
}

impl Injector {
    /// Nothing is sent yet.
    pub fn new(options: Options) -> Injector {
        let period = options.period.ms().clamp(1, u64::from(u32::MAX));
        let mut senders = Vec::new();
        for device in 0..options.devices {
            let phase = Draw::new(options.seed, device, u32::MAX).below(period);
            for part in 0..options.sends_per_period(device) {
                let part_offset = period * u64::from(part) / u64::from(options.sends_per_period(device));
                senders.push((((phase + part_offset) % period) as u32, device, part));
            }
        }
        senders.sort_unstable();
        Injector {
            options,
            senders,
            round: 0,
            next: 0,
            on_their_way: BinaryHeap::new(),
            key: Vec::new(),
            value: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// The next message to arrive.
    #[allow(clippy::should_implement_trait)] // The message borrows the injector.
    pub fn next(&mut self) -> Option<Arrival<'_>> {
        // Nothing arrives before it is sent: what is on its way is safe up to the next sending.
        while self.on_their_way.peek().is_none_or(|first| self.sends_until(first.0.0)) {
            if !self.send() {
                break;
            }
        }
        let Reverse((at, device, number, is_copy)) = self.on_their_way.pop()?;
        self.totals.messages += 1;
        self.totals.copies += u64::from(is_copy);
        self.key.clear();
        self.value.clear();
        message::device(device, &mut self.key);
        message::of(&self.options, device, number).write(self.options.layout, &mut self.value);
        let key = self.options.has_key.then_some(&self.key[..]);
        Some(Arrival { at: Timestamp(at), key, value: &self.value })
    }

    /// What has arrived so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether something is sent at `at` or before that has not been sent yet.
    fn sends_until(&self, at: i64) -> bool {
        self.round < self.options.messages && self.sent_at(self.round, self.senders[self.next].0) <= at
    }

    fn sent_at(&self, round: u32, offset: u32) -> i64 {
        let since = i64::from(round).saturating_mul(self.options.period.ms() as i64);
        self.options.start.ms().saturating_add(since).saturating_add(i64::from(offset))
    }

    fn send(&mut self) -> bool {
        if self.round >= self.options.messages || self.senders.is_empty() {
            return false;
        }
        let (offset, device, part) = self.senders[self.next];
        let sent_at = self.sent_at(self.round, offset);
        let number = self.round * self.options.sends_per_period(device) + part;
        self.next += 1;
        if self.next == self.senders.len() {
            (self.next, self.round) = (0, self.round + 1);
        }
        let mut way = Draw::new(self.options.seed ^ WAY, device, number);
        let options = &self.options;
        let mut delay = way.below(options.disorder.ms().saturating_add(1));
        if way.below(1_000) < u64::from(options.late_per_mille) {
            let spread = options.late_max.ms().saturating_sub(options.late_min.ms()).saturating_add(1);
            delay = options.late_min.ms() + way.below(spread);
        }
        self.on_their_way.push(Reverse((sent_at.saturating_add_unsigned(delay), device, number, false)));
        if way.below(1_000) < u64::from(options.resent_per_mille) {
            let again = way.below(RESENT_WITHIN.ms());
            self.on_their_way.push(Reverse((sent_at.saturating_add_unsigned(again), device, number, true)));
        }
        true
    }
}

/// Keeps what a message says apart from how long it travels.
const WAY: u64 = 0x5741_5900;
/// A copy arrives within this time after the sending.
const RESENT_WITHIN: Span = secs(600);

impl Options {
    fn sends_per_period(&self, device: u32) -> u32 {
        if device < self.hot_devices { HOT_FACTOR } else { 1 }
    }

    /// The time from one message of a device to its next, and when its first one is sent.
    fn rhythm(&self, device: u32) -> (Timestamp, u64) {
        let period = self.period.ms().clamp(1, u64::from(u32::MAX));
        (Timestamp(self.start.ms()), period / u64::from(self.sends_per_period(device)))
    }
}

#[cfg(test)]
mod tests;
