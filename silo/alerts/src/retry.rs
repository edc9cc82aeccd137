//! What the answer of an endpoint means, and when to try again.
//!
//! The schedule is that of Standard Webhooks: ten attempts over three days. Time and chance come in as values.

use std::fmt;
use std::time::UNIX_EPOCH;

use granary_core::{Span, Timestamp, time::hours, time::mins, time::secs};
use serde::{Deserialize, Serialize};

/// How long after the attempt before each further one is made.
pub const SCHEDULE: [Span; 9] =
    [secs(5), mins(5), mins(30), hours(2), hours(5), hours(10), hours(14), hours(20), hours(24)];
/// What a server that is slow or says so gets at least.
pub const SLOW_MIN: Span = mins(1);
/// How much sooner or later an attempt is made than the schedule says, so that not all come at once: a fifth.
const JITTER_PERCENT: u64 = 20;
/// An endpoint of which nothing but failures was heard for so long is disabled.
pub const FAILING_MAX: Span = granary_core::time::days(5);

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A status, and how long `Retry-After` asks to wait.
    Status(u16, Option<Span>),
    /// Nothing in time.
    Timeout,
    /// No connection, or one that broke.
    Broken,
    /// The address is not one that may be connected to.
    Refused,
    /// Nothing was sent: the message is not on its topic any more.
    Lost,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Status(status, _) => write!(f, "status {status}"),
            Answer::Timeout => f.write_str("no answer in time"),
            Answer::Broken => f.write_str("no connection"),
            Answer::Refused => f.write_str("an address that nothing is sent to"),
            Answer::Lost => f.write_str("the alert is not on its topic any more"),
        }
    }
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It was taken.
    Delivered,
    /// Try again, not before this.
    TryAt(Timestamp),
    /// It was tried often enough.
    GiveUp,
    /// The endpoint is gone and says so.
    Disable,
}

impl Answer {
    /// Whether the server took the message. A redirection is a failure: nobody has looked at where it leads.
    pub fn is_taken(self) -> bool {
        matches!(self, Answer::Status(200..=299, _))
    }

    /// Whether the server asks to be left alone for a while.
    pub fn is_slow_down(self) -> bool {
        matches!(self, Answer::Timeout | Answer::Status(429 | 502 | 503 | 504, _))
    }
}

/// What follows from the answer to the `attempt`-th attempt (from 1). `chance` is any number, drawn anew each time.
pub fn next(attempt: u32, answer: Answer, now: Timestamp, chance: u64) -> Next {
    if answer.is_taken() {
        return Next::Delivered;
    }
    match answer {
        Answer::Status(410, _) => return Next::Disable,
        Answer::Lost => return Next::GiveUp,
        Answer::Status(..) | Answer::Timeout | Answer::Broken | Answer::Refused => {}
    }
    let Some(base) = SCHEDULE.get(attempt.saturating_sub(1) as usize).copied() else {
        return Next::GiveUp;
    };
    let base = if answer.is_slow_down() { base.max(SLOW_MIN) } else { base };
    // What a server asks for is heard, within twice the schedule: it cannot put a message off for ever.
    if let Answer::Status(_, Some(asked)) = answer {
        return Next::TryAt(now + Span(asked.ms().clamp(base.ms(), 2 * base.ms())));
    }
    let swing = base.ms() * JITTER_PERCENT / 100;
    let delay = Span(base.ms() - swing + chance % (2 * swing + 1));
    Next::TryAt(now + if answer.is_slow_down() { delay.max(SLOW_MIN) } else { delay })
}

/// Reads `Retry-After`: seconds, fractions rounded up, or a date, as seen from `now`.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Span> {
    if let Ok(date) = httpdate::parse_http_date(value.trim()) {
        let ms = date.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        return Some(Timestamp(i64::try_from(ms).unwrap_or(i64::MAX)).since(now));
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let is_digits = |part: &str| part.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let seconds: u64 = whole.parse().ok()?;
    Some(secs(seconds.saturating_add(u64::from(fraction.bytes().any(|digit| digit != b'0')))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn delay(attempt: u32, answer: Answer, chance: u64) -> Option<Span> {
        match next(attempt, answer, NOW, chance) {
            Next::TryAt(at) => Some(at.since(NOW)),
            _ => None,
        }
    }

    #[test]
    fn attempts_follow_the_schedule_with_some_chance() {
        let total: u64 = SCHEDULE.iter().map(|span| span.ms()).sum();
        assert_eq!(Span(total), Span(hours(75).ms() + mins(35).ms() + secs(5).ms()));
        for chance in 0..10_000 {
            let delay = delay(1, Answer::Status(500, None), chance * 7).unwrap();
            assert!((4_000..=6_000).contains(&delay.ms()), "{delay}");
        }
        assert_eq!(next(10, Answer::Broken, NOW, 0), Next::GiveUp);
        assert!(matches!(next(9, Answer::Broken, NOW, 0), Next::TryAt(_)));
    }

    #[test]
    fn answers_mean_what_the_standard_says() {
        for taken in [200, 201, 204, 299] {
            assert_eq!(next(1, Answer::Status(taken, None), NOW, 0), Next::Delivered);
        }
        assert_eq!(next(1, Answer::Status(410, None), NOW, 0), Next::Disable);
        for failed in [100, 301, 302, 307, 308, 400, 401, 404, 500] {
            assert!(delay(1, Answer::Status(failed, None), 0).unwrap() < secs(10), "{failed}");
        }
        for slow in [Answer::Timeout, Answer::Status(429, None), Answer::Status(503, None)] {
            assert!(delay(1, slow, 0).unwrap() >= SLOW_MIN, "{slow:?}");
        }
        assert!(delay(1, Answer::Refused, 0).is_some());
    }

    #[test]
    fn retry_after_is_heard_within_bounds() {
        let asks = |seconds| Answer::Status(429, Some(secs(seconds)));
        assert_eq!(delay(1, asks(90), 0), Some(secs(90)));
        assert_eq!(delay(1, asks(1), 0), Some(SLOW_MIN));
        assert_eq!(delay(1, asks(1_000_000), 0), Some(mins(2)));
        assert_eq!(retry_after("120", NOW), Some(secs(120)));
        assert_eq!(retry_after(" 1.2 ", NOW), Some(secs(2)));
        let now = Timestamp(1_792_567_600_000); // 2026-10-21 07:26:40
        assert_eq!(retry_after("Wed, 21 Oct 2026 07:28:00 GMT", now), Some(secs(80)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), Some(Span::ZERO));
        for wrong in ["", "-1", "soon", "Wed, 21 Oct", "1e3"] {
            assert_eq!(retry_after(wrong, NOW), None, "{wrong}");
        }
    }
}
