//! Accumulators: what a pane keeps of its events. All of them merge, so that panes can.

use std::cmp::Ordering;

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::Corrupt;
use crate::ddsketch::DdSketch;
use crate::encode::{Reader, put_datum, put_i64, put_u64};
use crate::hyperloglog::HyperLogLog;
use crate::moments::Moments;
use crate::spec::{Aggregate, Function, Quantile};
use crate::total::Total;
use crate::value::{Computed, Datum, Value, order, stored_hash};

/// The accumulators of a step and how its aggregates read them: `sum` and `avg` of one field share one, and so do its
/// quantiles of one accuracy.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What each accumulator is, and the field it reads.
    kinds: Vec<(Kind, usize)>,
    /// For each aggregate of the spec: its function and its accumulator.
    outputs: Vec<(Function, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Count,
    Total,
    Min,
    Max,
    Moments,
    Distinct,
    First,
    Last,
    Top(u32),
    Sorted,
    Collect(u32),
    ApproxDistinct,
    Quantiles { accuracy_ppm: u32 },
}

impl Plan {
    pub(crate) fn new(aggregates: &[Aggregate]) -> Plan {
        let mut plan = Plan { kinds: Vec::new(), outputs: Vec::new() };
        for aggregate in aggregates {
            let kind = match aggregate.function {
                Function::Count => Kind::Count,
                Function::Sum | Function::Avg => Kind::Total,
                Function::Min => Kind::Min,
                Function::Max => Kind::Max,
                Function::Variance => Kind::Moments,
                Function::Distinct => Kind::Distinct,
                Function::First => Kind::First,
                Function::Last => Kind::Last,
                Function::Top(n) => Kind::Top(n),
                Function::Ids => Kind::Sorted,
                Function::Collect(n) => Kind::Collect(n),
                Function::ApproxDistinct => Kind::ApproxDistinct,
                Function::Quantile(Quantile { accuracy_ppm, .. }) => Kind::Quantiles { accuracy_ppm },
            };
            let field = if kind == Kind::Count { 0 } else { aggregate.field };
            let at = plan.kinds.iter().position(|k| *k == (kind, field)).unwrap_or_else(|| {
                plan.kinds.push((kind, field));
                plan.kinds.len() - 1
            });
            plan.outputs.push((aggregate.function, at));
        }
        plan
    }

    /// Makes `accumulators` those of an empty pane.
    pub(crate) fn reset(&self, accumulators: &mut Vec<Accumulator>) {
        if accumulators.len() == self.kinds.len() {
            let used = accumulators.iter_mut().zip(&self.kinds);
            used.for_each(|(accumulator, (kind, _))| accumulator.reset(*kind));
        } else {
            accumulators.clear();
            accumulators.extend(self.kinds.iter().map(|(kind, _)| Accumulator::new(*kind)));
        }
    }

    /// Takes an event in; returns how many bytes of memory were newly taken, about.
    pub(crate) fn accumulate(&self, accumulators: &mut [Accumulator], sample: &Sample<'_>) -> usize {
        let mut grown = 0;
        for ((kind, field), accumulator) in self.kinds.iter().zip(accumulators) {
            let value = sample.values.get(*field).copied().unwrap_or(Value::Null);
            grown += accumulator.add(*kind, value, sample);
        }
        grown
    }

    /// Takes in what another pane kept.
    pub(crate) fn merge(&self, into: &mut [Accumulator], from: Vec<Accumulator>) {
        for (((kind, _), into), from) in self.kinds.iter().zip(into).zip(from) {
            into.merge(*kind, from);
        }
    }

    /// How many aggregates a row has.
    pub(crate) fn len(&self) -> usize {
        self.outputs.len()
    }

    /// The value of the `i`-th aggregate.
    pub(crate) fn compute<'a>(&self, accumulators: &'a [Accumulator], i: usize) -> Computed<'a> {
        match self.outputs.get(i) {
            Some((function, at)) => accumulators[*at].compute(*function),
            None => Computed::Null,
        }
    }

    pub(crate) fn encode(&self, accumulators: &[Accumulator], out: &mut Vec<u8>) {
        accumulators.iter().for_each(|a| a.encode(out));
    }

    pub(crate) fn decode(&self, reader: &mut Reader<'_>) -> Result<Vec<Accumulator>, Corrupt> {
        let mut accumulators = Vec::with_capacity(self.kinds.len());
        for (kind, _) in &self.kinds {
            accumulators.push(Accumulator::decode(*kind, reader)?);
        }
        Ok(accumulators)
    }
}

/// One event as accumulators see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample<'a> {
    pub(crate) values: &'a [Value<'a>],
    pub(crate) time: i64,
    /// The event's number in the order of arrival at its key.
    pub(crate) arrival: u64,
}

/// What a pane keeps for one function of one field.
#[derive(Clone, Debug)]
pub(crate) enum Accumulator {
    Count(u64),
    Total(u64, Total),
    Extreme(Datum),
    Moments(Box<Moments>),
    Distinct(Box<HashSet<Datum, FixedState>>),
    Placed(Option<Box<Placed>>),
    /// `top`: descending. `ids`: in any order.
    Several(Vec<Datum>),
    Arrived(Vec<(u64, Datum)>),
    Hashed(Box<HyperLogLog>),
    Binned(Box<DdSketch>),
}

/// A value and where it stands in time.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    time: i64,
    arrival: u64,
    value: Datum,
}

/// Memory of one kept value beside its text, about.
const DATUM_BYTES: usize = 32;

fn kept_bytes(value: Value<'_>) -> usize {
    DATUM_BYTES + if let Value::Text(t) = value { t.len() } else { 0 }
}

impl Accumulator {
    fn new(kind: Kind) -> Accumulator {
        match kind {
            Kind::Count => Accumulator::Count(0),
            Kind::Total => Accumulator::Total(0, Total::Empty),
            Kind::Min | Kind::Max => Accumulator::Extreme(Datum::Null),
            Kind::Moments => Accumulator::Moments(Box::default()),
            Kind::Distinct => Accumulator::Distinct(Box::default()),
            Kind::First | Kind::Last => Accumulator::Placed(None),
            Kind::Top(_) | Kind::Sorted => Accumulator::Several(Vec::new()),
            Kind::Collect(_) => Accumulator::Arrived(Vec::new()),
            Kind::ApproxDistinct => Accumulator::Hashed(Box::default()),
            Kind::Quantiles { accuracy_ppm } => Accumulator::Binned(Box::new(DdSketch::new(accuracy_ppm))),
        }
    }

    /// Makes it empty; those that most panes have need no memory of their own, and are not made anew.
    fn reset(&mut self, kind: Kind) {
        match self {
            Accumulator::Count(n) => *n = 0,
            Accumulator::Total(n, total) => (*n, *total) = (0, Total::Empty),
            _ => *self = Accumulator::new(kind),
        }
    }

    fn add(&mut self, kind: Kind, value: Value<'_>, sample: &Sample<'_>) -> usize {
        match self {
            Accumulator::Count(n) => *n += 1,
            Accumulator::Total(n, total) => *n += u64::from(total.add(value)),
            Accumulator::Placed(placed) => {
                let later = sample.time;
                let replaces = placed.as_ref().is_none_or(|p| takes_place(kind, later, sample.arrival, p));
                if replaces {
                    *placed =
                        Some(Box::new(Placed { time: later, arrival: sample.arrival, value: value.keep() }));
                    return kept_bytes(value);
                }
            }
            _ if value.is_null() => {}
            Accumulator::Extreme(extreme) => {
                if beats(kind, value, extreme) {
                    *extreme = value.keep();
                }
            }
            Accumulator::Moments(moments) => {
                let Some(x) = double(value) else { return 0 };
                moments.add(x);
            }
            Accumulator::Binned(sketch) => return double(value).map_or(0, |x| sketch.add(x)),
            Accumulator::Hashed(sketch) => return sketch.add(stored_hash(value)),
            Accumulator::Distinct(set) => {
                if set.insert(value.keep()) {
                    return kept_bytes(value);
                }
            }
            Accumulator::Several(list) => {
                let before = list.len();
                insert(kind, list, value.keep());
                return (list.len() - before) * kept_bytes(value);
            }
            Accumulator::Arrived(list) => {
                if let Kind::Collect(limit) = kind
                    && list.len() < limit as usize
                {
                    list.push((sample.arrival, value.keep()));
                    return kept_bytes(value);
                }
            }
        }
        0
    }

    /// Memory of a sketch, about: it takes more there than in a cell.
    pub(crate) fn sketch_bytes(&self) -> usize {
        match self {
            Accumulator::Hashed(sketch) => sketch.heap_bytes(),
            Accumulator::Binned(sketch) => sketch.heap_bytes(),
            _ => 0,
        }
    }

    fn merge(&mut self, kind: Kind, other: Accumulator) {
        match (self, other) {
            (Accumulator::Count(a), Accumulator::Count(b)) => *a += b,
            (Accumulator::Total(n, a), Accumulator::Total(m, b)) => {
                *n += m;
                a.merge(b);
            }
            (Accumulator::Extreme(a), Accumulator::Extreme(b))
                if b != Datum::Null && beats(kind, b.value(), a) =>
            {
                *a = b;
            }
            (Accumulator::Moments(a), Accumulator::Moments(b)) => a.merge(*b),
            (Accumulator::Distinct(a), Accumulator::Distinct(b)) => a.extend(*b),
            (Accumulator::Placed(a), Accumulator::Placed(Some(b)))
                if a.as_ref().is_none_or(|a| takes_place(kind, b.time, b.arrival, a)) =>
            {
                *a = Some(b);
            }
            (Accumulator::Several(a), Accumulator::Several(b)) => {
                b.into_iter().for_each(|value| insert(kind, a, value));
            }
            (Accumulator::Arrived(a), Accumulator::Arrived(b)) => {
                a.extend(b);
                a.sort_by_key(|(arrival, _)| *arrival);
                if let Kind::Collect(limit) = kind {
                    a.truncate(limit as usize);
                }
            }
            (Accumulator::Hashed(a), Accumulator::Hashed(b)) => a.merge(*b),
            (Accumulator::Binned(a), Accumulator::Binned(b)) => a.merge(*b),
            // What is held stays; accumulators of one place in the plan are of one kind.
            _ => {}
        }
    }

    fn compute(&self, function: Function) -> Computed<'_> {
        match self {
            Accumulator::Count(n) => Computed::Int(i128::from(*n)),
            Accumulator::Total(n, total) if function == Function::Avg => total.mean(*n),
            Accumulator::Total(_, total) => total.sum(),
            Accumulator::Extreme(value) => computed(value),
            Accumulator::Moments(moments) => moments.variance().map_or(Computed::Null, Computed::Double),
            Accumulator::Distinct(set) => Computed::Int(set.len() as i128),
            Accumulator::Placed(placed) => placed.as_ref().map_or(Computed::Null, |p| computed(&p.value)),
            Accumulator::Several(list) => {
                let mut values: Vec<Value<'_>> = list.iter().map(Datum::value).collect();
                if function == Function::Ids {
                    values.sort_by(|a, b| order(*a, *b));
                }
                Computed::List(values)
            }
            Accumulator::Arrived(list) => Computed::List(list.iter().map(|(_, v)| v.value()).collect()),
            Accumulator::Hashed(sketch) => Computed::Int(i128::from(sketch.count())),
            Accumulator::Binned(sketch) => match function {
                Function::Quantile(Quantile { q_ppm, .. }) => {
                    sketch.quantile(q_ppm).map_or(Computed::Null, Computed::Double)
                }
                _ => Computed::Null,
            },
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Accumulator::Count(n) => put_u64(out, *n),
            Accumulator::Total(n, total) => {
                put_u64(out, *n);
                total.encode(out);
            }
            Accumulator::Extreme(value) => put_datum(out, value),
            Accumulator::Moments(moments) => moments.encode(out),
            Accumulator::Distinct(set) => {
                put_u64(out, set.len() as u64);
                set.iter().for_each(|value| put_datum(out, value));
            }
            Accumulator::Placed(None) => out.push(0),
            Accumulator::Placed(Some(p)) => {
                out.push(1);
                put_i64(out, p.time);
                put_u64(out, p.arrival);
                put_datum(out, &p.value);
            }
            Accumulator::Several(list) => {
                put_u64(out, list.len() as u64);
                list.iter().for_each(|value| put_datum(out, value));
            }
            Accumulator::Arrived(list) => {
                put_u64(out, list.len() as u64);
                for (arrival, value) in list.iter() {
                    put_u64(out, *arrival);
                    put_datum(out, value);
                }
            }
            Accumulator::Hashed(sketch) => sketch.encode(out),
            Accumulator::Binned(sketch) => sketch.encode(out),
        }
    }

    fn decode(kind: Kind, reader: &mut Reader<'_>) -> Result<Accumulator, Corrupt> {
        Ok(match kind {
            Kind::Count => Accumulator::Count(reader.u64()?),
            Kind::Total => Accumulator::Total(reader.u64()?, Total::decode(reader)?),
            Kind::Min | Kind::Max => Accumulator::Extreme(reader.datum()?),
            Kind::Moments => Accumulator::Moments(Box::new(Moments::decode(reader)?)),
            Kind::Distinct => {
                let n = reader.count()?;
                Accumulator::Distinct(Box::new((0..n).map(|_| reader.datum()).collect::<Result<_, _>>()?))
            }
            Kind::First | Kind::Last => match reader.byte()? {
                0 => Accumulator::Placed(None),
                1 => Accumulator::Placed(Some(Box::new(Placed {
                    time: reader.i64()?,
                    arrival: reader.u64()?,
                    value: reader.datum()?,
                }))),
                _ => return Err(Corrupt { what: "first or last value expected" }),
            },
            Kind::Top(_) | Kind::Sorted => {
                let n = reader.count()?;
                Accumulator::Several((0..n).map(|_| reader.datum()).collect::<Result<_, _>>()?)
            }
            Kind::Collect(_) => {
                let n = reader.count()?;
                let items = (0..n).map(|_| Ok((reader.u64()?, reader.datum()?))).collect::<Result<_, _>>()?;
                Accumulator::Arrived(items)
            }
            Kind::ApproxDistinct => Accumulator::Hashed(Box::new(HyperLogLog::decode(reader)?)),
            Kind::Quantiles { accuracy_ppm } => {
                Accumulator::Binned(Box::new(DdSketch::decode(accuracy_ppm, reader)?))
            }
        })
    }
}

fn computed(value: &Datum) -> Computed<'_> {
    match value {
        Datum::Null => Computed::Null,
        Datum::Bool(b) => Computed::Bool(*b),
        Datum::Int(n) => Computed::Int(i128::from(*n)),
        Datum::Double(x) => Computed::Double(*x),
        Datum::Text(t) => Computed::Text(t),
    }
}

/// The number as a double; whole numbers beyond 2^53 become the nearest one.
fn double(value: Value<'_>) -> Option<f64> {
    match value {
        Value::Int(n) => Some(n as f64),
        Value::Double(x) => Some(x),
        _ => None,
    }
}

/// Whether `value` is more extreme than the one held.
fn beats(kind: Kind, value: Value<'_>, held: &Datum) -> bool {
    let wanted = if kind == Kind::Min { Ordering::Less } else { Ordering::Greater };
    matches!(held, Datum::Null) || order(value, held.value()) == wanted
}

/// Whether a value at this time and arrival is first (last) before the one held.
fn takes_place(kind: Kind, time: i64, arrival: u64, held: &Placed) -> bool {
    let (new, old) = ((time, arrival), (held.time, held.arrival));
    if kind == Kind::First { new < old } else { new > old }
}

/// `top` keeps its largest, in descending order; `ids` keeps all.
fn insert(kind: Kind, list: &mut Vec<Datum>, value: Datum) {
    let Kind::Top(n) = kind else {
        list.push(value);
        return;
    };
    let at = list.partition_point(|held| *held >= value);
    if at < n as usize {
        list.insert(at, value);
        list.truncate(n as usize);
    }
}

#[cfg(test)]
mod tests;
