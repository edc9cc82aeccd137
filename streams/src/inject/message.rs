//! What a device says.

use granary_core::Timestamp;

use super::Options;
use super::draw::Draw;

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `{"id":"d-000017-299", "di":"d-000017", "dt":"1690000002047", "c":"cat-2", "m1":14, "m2":387.017295225}`
    #[default]
    Json,
    /// `d-000017-299|d-000017|1690000002047|cat-2|14|387.017295225`
    Delimited,
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    device: u32,
    number: u32,
    /// By the device's own clock.
    pub at: Timestamp,
    /// 1 to 4.
    pub category: u8,
    pub m1: i64,
    /// The second measure in units of 10^-9.
    m2_billionths: i64,
}

/// The `number`-th message of a device.
pub(super) fn of(options: &Options, device: u32, number: u32) -> Message {
    let mut draw = Draw::new(options.seed, device, number);
    let (start, period) = options.rhythm(device);
    let wobble = draw.below(period);
    let since = u64::from(number) * period + wobble;
    Message {
        device,
        number,
        at: Timestamp(clock(options, device, start, since)),
        category: draw.below(4) as u8 + 1,
        m1: draw.below(120) as i64 - 20,
        m2_billionths: draw.below(600_000_000_000) as i64 - 100_000_000_000,
    }
}

/// What the device's clock shows `since` ms after the start.
fn clock(options: &Options, device: u32, start: Timestamp, since: u64) -> i64 {
    const HOUR_MS: i64 = 3_600_000;
    let (start, since) = (start.ms(), since as i64);
    let mut draw = Draw::new(options.seed ^ 0x0043_4c4f_434b, device, 0);
    if draw.below(1_000) >= u64::from(options.skewed_per_mille) {
        return start + since;
    }
    match draw.below(4) {
        0 => start + since - 24 * HOUR_MS,
        1 => start + since + HOUR_MS,
        // A hundredth too fast.
        2 => start + since + since / 100,
        _ => since,
    }
}

/// Appends the device's name.
pub(super) fn device(device: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"d-");
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(device);
    out.extend_from_slice(&b"000000"[digits.len().min(6)..]);
    out.extend_from_slice(digits.as_bytes());
}

impl Message {
    /// The second measure: the double nearest to what is written.
    pub fn m2(&self) -> f64 {
        let mut text = Vec::with_capacity(24);
        self.write_m2(&mut text);
        let text = std::str::from_utf8(&text).expect("digits are ASCII");
        text.parse().expect("sign, digits, point, digits")
    }

    fn write_m2(&self, out: &mut Vec<u8>) {
        if self.m2_billionths < 0 {
            out.push(b'-');
        }
        let (whole, fraction) =
            (self.m2_billionths.abs() / 1_000_000_000, self.m2_billionths.abs() % 1_000_000_000);
        number(out, whole);
        out.push(b'.');
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(fraction);
        out.extend_from_slice(&b"000000000"[digits.len()..]);
        out.extend_from_slice(digits.as_bytes());
    }

    pub fn write(&self, layout: Layout, out: &mut Vec<u8>) {
        let parts: [&[u8]; 7] = match layout {
            Layout::Json => [
                b"{\"id\":\"",
                b"\", \"di\":\"",
                b"\", \"dt\":\"",
                b"\", \"c\":\"cat-",
                b"\", \"m1\":",
                b", \"m2\":",
                b"}",
            ],
            Layout::Delimited => [b"", b"|", b"|", b"|cat-", b"|", b"|", b""],
        };
        out.extend_from_slice(parts[0]);
        device(self.device, out);
        out.push(b'-');
        number(out, i64::from(self.number));
        out.extend_from_slice(parts[1]);
        device(self.device, out);
        out.extend_from_slice(parts[2]);
        number(out, self.at.ms());
        out.extend_from_slice(parts[3]);
        number(out, i64::from(self.category));
        out.extend_from_slice(parts[4]);
        number(out, self.m1);
        out.extend_from_slice(parts[5]);
        self.write_m2(out);
        out.extend_from_slice(parts[6]);
    }
}

fn number(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
