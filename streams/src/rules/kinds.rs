//! What a rule says beside what all rules say, by its kind.

use granary_window::rule::{
    Comparison, Contiguity, Kind, LAST_MAX, Limit, Measure, Number, Ratio, STEPS_MAX, Sides, Step, TIMES_MAX,
    Text,
};

use super::event::FieldKind;
use super::problem::code;
use super::rule::Reading;
use super::words;
use crate::file::mistake::nearest;
use crate::file::read::{self, Map};
use crate::file::yaml::{Node, Value};

/// Types whose numbers are added exactly; their places are of no account.
const EXACT: [FieldKind; 3] = [FieldKind::Money(0), FieldKind::Decimal(0), FieldKind::Integer];

impl<'n> Reading<'_, 'n> {
    /// What the rule looks for.
    pub fn kind(&mut self, word: &str) -> Option<Kind> {
        match word {
            "threshold" => {
                self.limit.clone_from(&self.subject);
                Some(Kind::Match { shows: self.of.map(|of| Number(of as u16)) })
            }
            "list" => Some(Kind::Match { shows: None }),
            "velocity" => self.velocity(),
            "feedback" => self.feedback(),
            "deviation" => self.deviation(),
            "zscore" => self.z_score(),
            "geo_velocity" => self.travel(),
            "sequence" => self.sequence(),
            "silence" => self.silence(),
            _ => self.first_seen(),
        }
    }

    fn velocity(&mut self) -> Option<Kind> {
        let (window, node) = (self.length("window"), self.need("measure"));
        let measured = node.and_then(|node| self.measure(node));
        let (measure, scale) = measured?;
        let (node, limit) = self.limit("> 300.00", &[""])?;
        let Some(limit) = limit.at(scale) else {
            self.problem(node, code::LIMIT, "the limit has too many digits");
            return None;
        };
        if matches!(measure, Measure::Count | Measure::Distinct(_)) && limit.value.den != 1 {
            self.problem(node, code::LIMIT, "what is counted is whole: a whole number expected");
        }
        Some(Kind::Velocity { measure, window: window?, limit })
    }

    fn measure(&mut self, node: &'n Node) -> Option<(Measure, u32)> {
        const FUNCTIONS: [&str; 6] = ["count", "sum", "avg", "min", "max", "distinct"];
        let text = self.text(node, "a measure")?;
        text.trim().clone_into(&mut self.subject);
        let Some((function, argument)) = words::measure(text) else {
            self.problem(node, code::LIMIT, &format!("measure \"{text}\" is not one. Write sum(amount)"));
            return None;
        };
        let wants = |reading: &mut Self, kinds: &[FieldKind]| {
            let Some(argument) = argument else {
                let message = format!("measure {function} needs a field: {function}(...)");
                reading.problem(node, code::LIMIT, &message);
                return None;
            };
            let mut place = node.place;
            place.column += text.find(argument).unwrap_or(0);
            let field = reading.field(argument, &Node { place, ..node.clone() }, kinds)?;
            reading.of = Some(field);
            Some((field, reading.context.spec.fields[field].kind.scale().unwrap_or(0)))
        };
        let number = |field: usize| Number(field as u16);
        match function {
            "count" if argument.is_none() => Some((Measure::Count, 0)),
            "distinct" => {
                wants(self, &[FieldKind::Text]).map(|(field, _)| (Measure::Distinct(Text(field as u16)), 0))
            }
            "sum" => wants(self, &EXACT).map(|(field, scale)| (Measure::Sum(number(field)), scale)),
            "avg" => wants(self, &EXACT).map(|(field, scale)| (Measure::Avg(number(field)), scale)),
            "min" => wants(self, &EXACT).map(|(field, scale)| (Measure::Min(number(field)), scale)),
            "max" => wants(self, &EXACT).map(|(field, scale)| (Measure::Max(number(field)), scale)),
            "count" => {
                self.problem(node, code::LIMIT, "count takes no field: count, or distinct(...)");
                None
            }
            other => {
                let near = nearest(other, &FUNCTIONS);
                let hint = near.map_or(String::new(), |near| format!(" Did you mean {near}?"));
                let message =
                    format!("unknown measure \"{other}\".{hint} There are: {}", FUNCTIONS.join(", "));
                self.problem(node, code::LIMIT, &message);
                None
            }
        }
    }

    fn feedback(&mut self) -> Option<Kind> {
        let window = self.length("window");
        let node = self.need("confirmed")?;
        let least = read::number(node, "confirmed", 1..=1_000_000, self.mistakes)?;
        self.limit = format!(">= {least}");
        "confirmed frauds".clone_into(&mut self.subject);
        let value = Ratio { num: least as i64, den: 1 };
        let limit = Limit { comparison: Comparison::Ge, value };
        Some(Kind::Velocity { measure: Measure::Count, window: window?, limit })
    }

    fn history(&mut self) -> Option<(Number, u32, u32)> {
        let of = self.field_named("of", &EXACT);
        let most = u64::from(LAST_MAX);
        let last = self.need("last").and_then(|n| read::number(n, "last", 1..=most, self.mistakes))? as u32;
        let least = match self.get("min_events") {
            None => last,
            Some(node) => {
                let least = read::number(node, "min_events", 1..=u64::from(u32::MAX), self.mistakes)?;
                if least > u64::from(last) {
                    let message =
                        format!("min_events {least} is more than last {last}, the rule could never fire");
                    self.problem(node, code::NUMBERS, &message);
                    return None;
                }
                least as u32
            }
        };
        Some((Number(of? as u16), last, least))
    }

    /// A limit that is a plain factor above something.
    fn factor(&mut self, example: &str, units: &[&str]) -> Option<Ratio> {
        let (node, limit) = self.limit(example, units)?;
        let ratio = words::ratio(limit.number, 0);
        let ratio = ratio.filter(|ratio| ratio.num > 0 && ratio.num <= 1_000_000 && ratio.den <= 1_000_000);
        match ratio {
            Some(ratio) if limit.comparison == Comparison::Gt => Some(ratio),
            _ => {
                let message = format!("a limit above 0, of at most six digits, as \"{example}\" expected");
                self.problem(node, code::LIMIT, &message);
                None
            }
        }
    }

    fn deviation(&mut self) -> Option<Kind> {
        let history = self.history();
        let ratio = self.factor("> 3x", &["x"]);
        let (of, last, events_min) = history?;
        Some(Kind::Deviation { of, last, events_min, ratio: ratio? })
    }

    fn z_score(&mut self) -> Option<Kind> {
        let history = self.history();
        let z = self.factor("> 6", &[""]);
        let sides = match self.get("sides") {
            None => Sides::Above,
            Some(node) => match read::word(node, "sides", &["above", "below", "both"], self.mistakes)? {
                "below" => Sides::Below,
                "both" => Sides::Both,
                _ => Sides::Above,
            },
        };
        let (of, last, events_min) = history?;
        Some(Kind::ZScore { of, last, events_min, z: z?, sides })
    }

    fn travel(&mut self) -> Option<Kind> {
        let coordinate = |reading: &mut Self, name: &'static str| {
            let node = reading.get(name);
            let field = match node {
                Some(node) => reading.text(node, "a field")?,
                None => name,
            };
            let place = reading.map.place;
            let node = node.cloned().unwrap_or(Node { place, value: Value::List(Vec::new()) });
            reading.field(field, &node, &[FieldKind::Float])
        };
        let (lat, lon) = (coordinate(self, "lat"), coordinate(self, "lon"));
        let speed = self.limit("> 900 km/h", &["km/h"]);
        let node = self.need("min_distance");
        let distance = node.and_then(|node| {
            let text = self.text(node, "a distance")?;
            let km = words::kilometres(text);
            if km.is_none() {
                self.problem(node, code::LIMIT, &format!("\"{text}\" is not a distance. Write 150km"));
            }
            km
        });
        let gap_max = self.length("max_gap");
        let unless = self.condition("unless");
        "speed".clone_into(&mut self.subject);
        Some(Kind::Geo {
            lat: Number(lat? as u16),
            lon: Number(lon? as u16),
            speed_kmh: speed?.1.number.to_f64(),
            distance_km_min: distance?,
            gap_max: gap_max?,
            unless,
        })
    }

    fn sequence(&mut self) -> Option<Kind> {
        let within = self.length("within");
        let contiguity = match self.get("contiguity") {
            None => Contiguity::Relaxed,
            Some(node) => match read::word(node, "contiguity", &["relaxed", "strict"], self.mistakes)? {
                "strict" => Contiguity::Strict,
                _ => Contiguity::Relaxed,
            },
        };
        if let Some(node) = self.get("after_match") {
            read::word(node, "after_match", &["past_last"], self.mistakes);
        }
        let node = self.need("steps")?;
        let Value::List(items) = &node.value else {
            self.problem(node, code::FORM, "steps: a list expected");
            return None;
        };
        if !(2..=STEPS_MAX).contains(&items.len()) {
            let message = format!("from 2 to {} steps expected", STEPS_MAX);
            self.problem(node, code::NUMBERS, &message);
            return None;
        }
        let steps: Vec<Option<Step>> = items.iter().map(|item| self.step(item)).collect();
        let steps: Option<Vec<Step>> = steps.into_iter().collect();
        let steps = steps?;
        let names: Vec<&str> = steps.iter().map(|step| &*step.name).collect();
        self.subject = names.join(", then ");
        self.limit = format!("within {}", within?);
        Some(Kind::Sequence { steps, within: within?, contiguity })
    }

    fn step(&mut self, node: &'n Node) -> Option<Step> {
        let mut map = Map::new(node, "a step", self.mistakes);
        let name = map.need("name", self.mistakes).and_then(|n| read::text(n, "a name", self.mistakes));
        let when = map.need("when", self.mistakes);
        let times = map.get("times");
        map.finish(self.mistakes);
        let when = when.and_then(|when| self.compile(when));
        let (times_min, times_max) = match times {
            None => (1, Some(1)),
            Some(node) => {
                let text = self.text(node, "how often")?;
                let times = words::times(text);
                if times.is_none() {
                    let most = TIMES_MAX;
                    let message = format!("times \"{text}\": write 3, 1.. or 2..5, up to {most}");
                    self.problem(node, code::NUMBERS, &message);
                }
                times?
            }
        };
        Some(Step { name: name?.into(), when: when?, times_min, times_max })
    }

    fn silence(&mut self) -> Option<Kind> {
        let gap = self.length("gap");
        let node = self.get("alert");
        let word = node.and_then(|node| read::word(node, "alert", &["timer", "return"], self.mistakes));
        "time without an event".clone_into(&mut self.subject);
        let gap = gap?;
        self.limit = format!("> {gap}");
        Some(Kind::Silence { gap, is_timed: word != Some("return") })
    }

    fn first_seen(&mut self) -> Option<Kind> {
        let of = self.field_named("of", &[FieldKind::Text]);
        let forget = self.length("forget");
        let after = match self.get("after") {
            None => 0,
            Some(node) => read::number(node, "after", 0..=1_000_000_000, self.mistakes)?,
        };
        let forget = forget?;
        self.limit = format!("not seen in {forget}");
        Some(Kind::FirstSeen { of: Text(of? as u16), events_min: after, forget })
    }
}
