//! Whether an event is a hit of a rule, by exact arithmetic, and what explains it.

use granary_core::{Span, Timestamp};

use super::kept::{Kept, Place};
use super::set::{Bound, Set, Window};
use super::sliding::Sliding;
use super::steps::Complete;
use super::wide::Wide;
use super::{ABSENT, Comparison, DEGREE_UNITS, EVIDENCE_MAX, Kind, Limit, Measure, Ratio, Sides};

/// The radius of the earth as distances are computed, in km.
const EARTH_RADIUS_KM: f64 = 6_371.0;

/// What a rule found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// What was measured.
    pub measured: Measured,
    /// From after this time on events counted, for rules that look at a stretch of time.
    pub from: Option<Timestamp>,
    /// How many events counted.
    pub events: u64,
    /// The events that explain it, the oldest first and the one that was judged last; the last [`EVIDENCE_MAX`] of them.
    pub evidence: Vec<Piece>,
    /// Hits of the rule and key that were silenced since the last alert.
    pub suppressed: u32,
    /// An event that came out of order showed it.
    pub is_repair: bool,
    /// The rule is younger than the events it looks back on: it may not have seen all of them.
    pub is_warming: bool,
}

/// An event that explains a hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its id.
    pub id: Box<[u8]>,
    /// When it happened.
    pub time: Timestamp,
    /// The number that evidence shows.
    pub amount: Option<i64>,
    /// The step of a sequence that took it.
    pub step: Option<u16>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// A number of the event itself.
    Number(Option<i64>),
    /// How many.
    Count(u64),
    /// What numbers add up to, in their units.
    Sum(i128),
    /// A mean, in units of the numbers: the sum and how many.
    Mean(i128, u64),
    /// How many times the mean, as upper and lower part.
    Times(i128, i128),
    /// How many thousandths of a standard deviation; `None`: there was no deviation at all.
    Deviations(Option<u64>),
    /// How far, how fast, in how long.
    Travel {
        /// Kilometres.
        km: f64,
        /// Kilometres an hour, of at least a second.
        kmh: f64,
        /// From one place to the other.
        took: Span,
    },
    /// How long it took.
    Elapsed(Span),
    /// How long there was nothing at least.
    Silent(Span),
    /// A text of the event.
    Text(Box<[u8]>),
}

/// A rule looks at an event.
pub(super) struct Look<'a> {
    pub set: &'a Set,
    pub kept: &'a Kept,
    pub slidings: &'a [Sliding],
    pub place: Place,
    pub rule: usize,
    /// Events the rule has looked at before.
    pub events: u64,
}

/// What makes an event a hit, before it is explained.
pub(super) enum Found {
    Measured(Measured),
    /// Beside the event before, at this place.
    Pair(Place, Measured),
    Sequence(Complete),
}

impl Look<'_> {
    fn window(&self) -> Option<(&Window, &Sliding)> {
        let window = self.set.window_of[self.rule]?;
        Some((&self.set.windows[window], &self.slidings[window]))
    }

    /// Whether the event is a hit. Sequences are followed elsewhere.
    pub fn find(&self) -> Option<Found> {
        let rule = &self.set.rules[self.rule];
        if rule.when.is_some_and(|when| !self.kept.holds(self.place, when)) {
            return None;
        }
        let measured = match &rule.kind {
            Kind::Match { shows } => {
                let number = shows.map(|number| self.kept.number(self.place, number));
                Measured::Number(number.filter(|number| *number != ABSENT))
            }
            Kind::Velocity { measure, limit, .. } => self.velocity(*measure, *limit)?,
            Kind::Deviation { events_min, ratio, .. } => self.deviation(*events_min, *ratio)?,
            Kind::ZScore { events_min, z, sides, .. } => self.z_score(*events_min, *z, *sides)?,
            Kind::FirstSeen { of, events_min, .. } => {
                let text = self.kept.text(self.place, *of)?;
                let (_, sliding) = self.window()?;
                if sliding.occurrences(text) != 1 || self.events < *events_min {
                    return None;
                }
                Measured::Text(text.into())
            }
            Kind::Geo { .. } => return self.travel(),
            Kind::Silence { gap, is_timed: false } => {
                let before = self.kept.last_before(self.place, rule.when)?;
                let took = self.since(before);
                return (took > *gap).then_some(Found::Pair(before, Measured::Elapsed(took)));
            }
            Kind::Silence { is_timed: true, .. } => return None, // told of the event before

            Kind::Sequence { .. } => return None,
        };
        Some(Found::Measured(measured))
    }

    fn velocity(&self, measure: Measure, limit: Limit) -> Option<Measured> {
        let (window, sliding) = self.window()?;
        if !window.track.has(self.kept, self.place) {
            return None;
        }
        let (num, den, measured) = match measure {
            Measure::Count => (i128::from(sliding.count), 1, Measured::Count(sliding.count)),
            Measure::Sum(_) => (sliding.sum, 1, Measured::Sum(sliding.sum)),
            Measure::Avg(_) => {
                (sliding.sum, i128::from(sliding.count), Measured::Mean(sliding.sum, sliding.count))
            }
            Measure::Min(_) | Measure::Max(_) => {
                let is_least = matches!(measure, Measure::Min(_));
                let number = if is_least { sliding.least() } else { sliding.greatest() }?;
                (i128::from(number), 1, Measured::Sum(i128::from(number)))
            }
            Measure::Distinct(_) => {
                (sliding.distinct() as i128, 1, Measured::Count(sliding.distinct() as u64))
            }
        };
        limit.is_passed(num, den).then_some(measured)
    }

    fn deviation(&self, events_min: u32, ratio: Ratio) -> Option<Measured> {
        let (window, sliding) = self.window()?;
        let x = self.kept.number(self.place, window.track.of?);
        if x == ABSENT || sliding.count < u64::from(events_min.max(1)) {
            return None;
        }
        let num = i128::from(x) * i128::from(sliding.count);
        let is_hit = num * i128::from(ratio.den) > i128::from(ratio.num) * sliding.sum;
        is_hit.then_some(Measured::Times(num, sliding.sum))
    }

    fn z_score(&self, events_min: u32, z: Ratio, sides: Sides) -> Option<Measured> {
        let (window, sliding) = self.window()?;
        let x = self.kept.number(self.place, window.track.of?);
        if x == ABSENT || sliding.count < u64::from(events_min.max(1)) {
            return None;
        }
        // With n numbers of sum S and sum of squares Q: z = (n x - S) / sqrt(n Q - S^2).
        let n = i128::from(sliding.count);
        let away = n * i128::from(x) - sliding.sum;
        let is_on_side = match sides {
            Sides::Above => away > 0,
            Sides::Below => away < 0,
            Sides::Both => away != 0,
        };
        if !is_on_side {
            return None;
        }
        let sum = sliding.sum.unsigned_abs();
        let spread =
            Wide::product(sliding.squares.unsigned_abs(), n.unsigned_abs()).minus(Wide::product(sum, sum));
        let away = Wide::product(away.unsigned_abs(), away.unsigned_abs());
        let square = |part: i64| u128::from(part.unsigned_abs()) * u128::from(part.unsigned_abs());
        if away.times(square(z.den)) <= spread.times(square(z.num)) {
            return None;
        }
        Some(Measured::Deviations(thousandths(away, spread)))
    }

    fn since(&self, place: Place) -> Span {
        Timestamp(self.kept.time(self.place)).since(Timestamp(self.kept.time(place)))
    }

    fn travel(&self) -> Option<Found> {
        let rule = &self.set.rules[self.rule];
        let Kind::Geo { lat, lon, speed_kmh, distance_km_min, gap_max, unless } = rule.kind else {
            return None;
        };
        if unless.is_some_and(|unless| self.kept.holds(self.place, unless)) {
            return None;
        }
        let position = |place| {
            let (lat, lon) = (self.kept.number(place, lat), self.kept.number(place, lon));
            (lat != ABSENT && lon != ABSENT).then(|| (lat as f64 / DEGREE_UNITS, lon as f64 / DEGREE_UNITS))
        };
        let here = position(self.place)?;
        let mut place = self.place;
        let (there, took) = loop {
            place = self.kept.before(place)?;
            let took = self.since(place);
            if took > gap_max {
                return None;
            }
            if rule.when.is_none_or(|when| self.kept.holds(place, when))
                && let Some(there) = position(place)
            {
                break (there, took);
            }
        };
        let km = distance_km(there, here);
        let kmh = km * 3_600_000.0 / took.ms().max(1_000) as f64;
        let is_hit = km >= distance_km_min && kmh > speed_kmh;
        is_hit.then_some(Found::Pair(place, Measured::Travel { km, kmh, took }))
    }

    /// What there is to say about a hit.
    pub fn explain(&self, found: Found) -> Hit {
        let mut hit = Hit {
            measured: Measured::Number(None),
            from: None,
            events: 1,
            evidence: Vec::new(),
            suppressed: 0,
            is_repair: false,
            is_warming: false,
        };
        match found {
            Found::Measured(measured) => {
                hit.measured = measured;
                self.explain_window(&mut hit);
                hit.evidence.push(self.piece(self.place));
            }
            Found::Pair(before, measured) => {
                hit.measured = measured;
                hit.events = 2;
                hit.evidence = vec![self.piece(before), self.piece(self.place)];
            }
            Found::Sequence(complete) => {
                let now = Timestamp(self.kept.time(self.place));
                hit.measured = Measured::Elapsed(now.since(Timestamp(complete.first_ms)));
                hit.events = u64::from(complete.taken);
                hit.evidence = complete.pieces;
            }
        }
        hit
    }

    fn explain_window(&self, hit: &mut Hit) {
        let Some((window, sliding)) = self.window() else { return };
        match window.bound {
            Bound::Time(length) => {
                hit.from = Some(Timestamp(self.kept.time(self.place).saturating_sub(length)));
                hit.events = sliding.count;
            }
            Bound::Count(_) => hit.events = sliding.count + 1,
        }
        if matches!(self.set.rules[self.rule].kind, Kind::FirstSeen { .. }) {
            hit.events = 1;
            return;
        }
        let mut place = self.place;
        while hit.evidence.len() < EVIDENCE_MAX - 1 && place > sliding.from {
            let Some(before) = self.kept.before(place) else { break };
            place = before;
            if window.track.has(self.kept, place) {
                hit.evidence.push(self.piece(place));
            }
        }
        hit.evidence.reverse();
    }

    pub fn piece(&self, place: Place) -> Piece {
        piece(self.set, self.kept, place, None)
    }
}

/// What an alert tells of an event.
pub(super) fn piece(set: &Set, kept: &Kept, place: Place, step: Option<u16>) -> Piece {
    Piece {
        id: kept.id(place).into(),
        time: Timestamp(kept.time(place)),
        amount: set.amount.map(|amount| kept.number(place, amount)).filter(|amount| *amount != ABSENT),
        step,
    }
}

impl Limit {
    /// Whether a measure, as a fraction with a positive lower part, passes it.
    fn is_passed(self, num: i128, den: i128) -> bool {
        let (measure, limit) = (num * i128::from(self.value.den), i128::from(self.value.num) * den);
        match self.comparison {
            Comparison::Gt => measure > limit,
            Comparison::Ge => measure >= limit,
            Comparison::Lt => measure < limit,
            Comparison::Le => measure <= limit,
        }
    }
}

/// The square root of a quotient in thousandths, rounded down.
fn thousandths(away: Wide, spread: Wide) -> Option<u64> {
    if spread.is_zero() {
        return None;
    }
    let estimate = (away.to_f64() / spread.to_f64()).sqrt() * 1_000.0;
    if estimate > 1e9 {
        return Some(estimate as u64);
    }
    let is_within = |k: u64| spread.times(u128::from(k) * u128::from(k)) <= away.times(1_000_000);
    let mut k = estimate as u64 + 1;
    while k > 0 && !is_within(k) {
        k -= 1;
    }
    Some(k)
}

/// The distance of two places, in degrees, on a sphere (haversine).
fn distance_km((lat, lon): (f64, f64), (to_lat, to_lon): (f64, f64)) -> f64 {
    let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
    let h = half(lat, to_lat) + lat.to_radians().cos() * to_lat.to_radians().cos() * half(lon, to_lon);
    2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
}

/// Whether the rule can look at the event at all: no field that it needs is missing.
pub(super) fn applies(set: &Set, rule: usize, fact: &super::Fact<'_>) -> bool {
    use super::Truth::Unknown;
    let is_known = |condition: super::Condition| fact.truths[usize::from(condition.0)] != Unknown;
    let track = set.track(rule);
    let Kind::Geo { lat, lon, unless, .. } = &set.rules[rule].kind else {
        let steps = match &set.rules[rule].kind {
            Kind::Sequence { steps, .. } => steps.iter().all(|step| is_known(step.when)),
            _ => true,
        };
        return steps
            && track.when.is_none_or(is_known)
            && track.of.is_none_or(|of| fact.numbers[usize::from(of.0)] != ABSENT)
            && track.text.is_none_or(|text| fact.texts[usize::from(text.0)].is_some());
    };
    let has = |number: &super::Number| fact.numbers[usize::from(number.0)] != ABSENT;
    has(lat) && has(lon) && track.when.is_none_or(is_known) && unless.is_none_or(is_known)
}
