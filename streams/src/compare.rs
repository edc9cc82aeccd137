//! Truth against result: a full outer join of a CSV file and JSON lines.
//!
//! A key is an exception if either side lacks it, if one side has it twice, or if a column of the truth differs.
//! Whole numbers and text must be equal. The columns of a measure `m` that has an `m_abs_sum` are doubles: a sum may
//! differ by `1e-6 + 1e-12 * m_abs_sum`, an average by that divided by `count`, the others by `1e-9 + 1e-12 * |value|`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read};

use hashbrown::HashTable;
use serde_json::value::RawValue;

use granary_core::{Error, Result};

/// The key where none is given.
pub const KEY_DEFAULT: [&str; 3] = ["window_start", "device", "category"];
/// Exceptions that are described.
pub const SHOWN_MAX: usize = 10;

/// What the comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Keys that are exceptions.
    pub exceptions: u64,
    /// Keys of both sides together.
    pub of: u64,
    /// The first exceptions, each a sentence.
    pub first: Vec<String>,
}

impl Report {
    fn note(&mut self, exception: String) {
        self.exceptions += 1;
        if self.first.len() < SHOWN_MAX {
            self.first.push(exception);
        }
    }
}

/// How a column is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// As whole numbers, or else as text.
    Equal,
    /// A sum of doubles; the column of the sum of absolute values.
    Sum(usize),
    /// An average of doubles.
    Avg(usize),
    /// Another double.
    Double,
}

/// A truth file in memory: all rows in one arena.
struct Truth {
    columns: Vec<String>,
    /// The columns to compare: place and rule.
    compared: Vec<(usize, Rule)>,
    key: Vec<usize>,
    count: Option<usize>,
    arena: Vec<u8>,
    /// Where each row begins, and whether a result has been joined to it.
    rows: Vec<(usize, bool)>,
    index: HashTable<u32>,
}

/// Compares a truth file with result rows; an error is a mistake in the files, not a difference.
pub fn compare(truth: impl Read, result: impl BufRead, key: &[&str]) -> Result<Report> {
    let mut report = Report::default();
    let mut truth = Truth::read(truth, key, &mut report)?;
    let mut extra: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut repeated: BTreeSet<u32> = BTreeSet::new();
    for (i, line) in result.lines().enumerate() {
        let at = |what: String| Error::invalid(format!("result, line {}: {what}", i + 1));
        let line = line.map_err(|error| at(format!("cannot be read: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let row: BTreeMap<String, &RawValue> =
            serde_json::from_str(&line).map_err(|error| at(format!("not a JSON object: {error}")))?;
        let fields = truth.fields(&row).map_err(at)?;
        let key = encoded(truth.key.iter().map(|column| fields[*column].as_str()));
        match truth.find(&key) {
            None => {
                let seen = extra.entry(key).or_default();
                *seen += 1;
                if *seen == 1 {
                    report.note(format!("{}: not in the truth", truth.shown(&fields)));
                }
            }
            Some(place) if truth.rows[place as usize].1 => {
                if repeated.insert(place) {
                    report.note(format!("{}: more than once in the result", truth.shown(&fields)));
                }
            }
            Some(place) => {
                truth.rows[place as usize].1 = true;
                if let Some(difference) = truth.difference(place, &fields) {
                    // A key counts once, however it differs.
                    repeated.insert(place);
                    report.note(format!("{}: {difference}", truth.shown(&fields)));
                }
            }
        }
    }
    for place in 0..truth.rows.len() {
        if !truth.rows[place].1 {
            let row = truth.row(place as u32);
            report.note(format!("{}: not in the result", truth.shown(&row)));
        }
    }
    report.of = truth.rows.len() as u64 + extra.len() as u64;
    Ok(report)
}

impl Truth {
    fn read(file: impl Read, key: &[&str], report: &mut Report) -> Result<Truth> {
        let mut reader = csv::Reader::from_reader(file);
        let wrong = |error: csv::Error| Error::invalid(format!("truth: {error}"));
        let columns: Vec<String> = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect();
        let find = |name: &str| columns.iter().position(|column| column == name);
        let key = key
            .iter()
            .map(|name| find(name).ok_or_else(|| Error::invalid(format!("truth: no key column `{name}`"))))
            .collect::<Result<Vec<usize>>>()?;
        let compared = (0..columns.len())
            .filter(|column| !key.contains(column) && !columns[*column].ends_with("_abs_sum"))
            .map(|column| (column, rule(&columns, column)))
            .collect();
        let count = find("count");
        let mut truth = Truth {
            compared,
            key,
            count,
            arena: Vec::new(),
            rows: Vec::new(),
            index: HashTable::new(),
            columns,
        };
        let mut record = csv::StringRecord::new();
        let mut twice = BTreeSet::new();
        while reader.read_record(&mut record).map_err(wrong)? {
            truth.add(&record, &mut twice, report);
        }
        Ok(truth)
    }

    fn add(&mut self, record: &csv::StringRecord, twice: &mut BTreeSet<u32>, report: &mut Report) {
        let key = encoded(self.key.iter().map(|column| &record[*column]));
        if let Some(place) = self.find(&key) {
            if twice.insert(place) {
                let row: Vec<String> = record.iter().map(str::to_owned).collect();
                report.note(format!("{}: more than once in the truth", self.shown(&row)));
            }
            return;
        }
        let place = self.rows.len() as u32;
        let start = self.arena.len();
        self.arena.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.arena.extend_from_slice(&key);
        let row = encoded(record.iter());
        self.arena.extend_from_slice(&row);
        self.rows.push((start, false));
        let (arena, rows) = (&self.arena, &self.rows);
        self.index.insert_unique(hash(&key), place, |place| hash(key_at(arena, rows[*place as usize].0)));
    }

    fn find(&self, key: &[u8]) -> Option<u32> {
        self.index.find(hash(key), |place| key_at(&self.arena, self.rows[*place as usize].0) == key).copied()
    }

    /// The fields of a truth row.
    fn row(&self, place: u32) -> Vec<String> {
        let start = self.rows[place as usize].0;
        let mut rest = &self.arena[start + 4 + key_at(&self.arena, start).len()..];
        (0..self.columns.len())
            .map(|_| {
                let (len, after) = rest.split_at(4);
                let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
                let (field, after) = after.split_at(len);
                rest = after;
                String::from_utf8_lossy(field).into_owned()
            })
            .collect()
    }

    /// The columns of the truth in a result row, as text; those only for the tolerance may be missing.
    fn fields(&self, row: &BTreeMap<String, &RawValue>) -> Result<Vec<String>, String> {
        let of = |column: &String| match row.get(column) {
            Some(value) if value.get().starts_with('"') => {
                serde_json::from_str(value.get()).map_err(|error| format!("`{column}`: {error}"))
            }
            Some(value) => Ok(value.get().to_owned()),
            None if column.ends_with("_abs_sum") => Ok(String::new()),
            None => Err(format!("column `{column}` of the truth is missing")),
        };
        self.columns.iter().map(of).collect()
    }

    fn difference(&self, place: u32, result: &[String]) -> Option<String> {
        let truth = self.row(place);
        let count = self.count.and_then(|column| truth[column].parse().ok()).filter(|count| *count > 0.0);
        self.compared.iter().find_map(|(column, rule)| {
            let (expected, found) = (&truth[*column], &result[*column]);
            let is_same = match rule {
                Rule::Equal => whole(expected) == whole(found),
                Rule::Sum(abs) => is_near(expected, found, |_| sum_tolerance(&truth[*abs])),
                Rule::Avg(abs) => {
                    is_near(expected, found, |_| sum_tolerance(&truth[*abs]) / count.unwrap_or(1.0))
                }
                Rule::Double => is_near(expected, found, |value| 1e-9 + 1e-12 * value.abs()),
            };
            (!is_same).then(|| {
                format!("{} is {expected} in the truth, {found} in the result", self.columns[*column])
            })
        })
    }

    fn shown(&self, row: &[String]) -> String {
        let parts: Vec<String> =
            self.key.iter().map(|column| format!("{} {}", self.columns[*column], row[*column])).collect();
        parts.join(", ")
    }
}

fn rule(columns: &[String], column: usize) -> Rule {
    let name = &columns[column];
    let Some((measure, what)) = name.rsplit_once('_') else { return Rule::Equal };
    match columns.iter().position(|column| *column == format!("{measure}_abs_sum")) {
        None => Rule::Equal,
        Some(abs) => match what {
            "sum" => Rule::Sum(abs),
            "avg" => Rule::Avg(abs),
            _ => Rule::Double,
        },
    }
}

/// A whole number however it is written (`250`, `250.0`), or the text itself.
fn whole(text: &str) -> std::borrow::Cow<'_, str> {
    let digits = match text.split_once('.') {
        Some((digits, zeros)) if zeros.bytes().all(|byte| byte == b'0') => digits,
        _ => text,
    };
    match digits.parse::<i128>() {
        Ok(number) => number.to_string().into(),
        Err(_) => text.into(),
    }
}

fn is_near(expected: &str, found: &str, tolerance: impl Fn(f64) -> f64) -> bool {
    match (expected.parse::<f64>(), found.parse::<f64>()) {
        (Ok(expected), Ok(found)) => (expected - found).abs() <= tolerance(expected),
        _ => expected == found,
    }
}

fn sum_tolerance(abs_sum: &str) -> f64 {
    1e-6 + 1e-12 * abs_sum.parse::<f64>().unwrap_or(0.0)
}

/// Fields with their lengths before them, so that no two lists are written alike.
fn encoded<'f>(fields: impl Iterator<Item = &'f str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for field in fields {
        out.extend_from_slice(&(field.len() as u32).to_le_bytes());
        out.extend_from_slice(field.as_bytes());
    }
    out
}

fn key_at(arena: &[u8], start: usize) -> &[u8] {
    let len = u32::from_le_bytes(arena[start..start + 4].try_into().expect("four bytes")) as usize;
    &arena[start + 4..start + 4 + len]
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::default().hash_one(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRUTH: &str = "window_start,device,category,count,m1_sum,m2_sum,m2_avg,m2_min,m2_abs_sum\n\
        0,\"d,1\",a,2,47,100.5,50.25,50.0,100.5\n\
        5000,d,b,1,9007199254740993,1.5,1.5,1.5,1.5\n";
    const FIRST: &str = r#"{"window_start":0,"device":"d,1","category":"a","count":2,"m1_sum":47,"m2_sum":100.5000001,"m2_avg":50.25,"m2_min":50,"more":1}"#;
    const SECOND: &str = r#"{"window_start":5000,"device":"d","category":"b","count":1,"m1_sum":9007199254740993,"m2_sum":1.5,"m2_avg":1.5,"m2_min":1.5}"#;

    fn of(lines: &[&str]) -> Report {
        compare(TRUTH.as_bytes(), lines.join("\n").as_bytes(), &KEY_DEFAULT).unwrap()
    }

    #[test]
    fn equal_within_the_tolerances() {
        assert_eq!(of(&[FIRST, SECOND]), Report { exceptions: 0, of: 2, first: vec![] });
    }

    #[test]
    fn every_kind_of_exception_counts_once() {
        for (lines, exceptions, keys, word) in [
            (vec![FIRST.to_owned()], 1, 2, "not in the result"),
            (
                vec![FIRST.to_owned(), SECOND.to_owned(), FIRST.to_owned(), FIRST.to_owned()],
                1,
                2,
                "more than once",
            ),
            (vec![FIRST.to_owned(), SECOND.replace("0993", "0992")], 1, 2, "m1_sum is 9007199254740993"),
            (vec![FIRST.to_owned(), SECOND.replace("\"m2_sum\":1.5", "\"m2_sum\":1.50001")], 1, 2, "m2_sum"),
            (vec![FIRST.to_owned(), SECOND.to_owned(), FIRST.replace("d,1", "e")], 1, 3, "not in the truth"),
            (
                vec![FIRST.replace("\"count\":2", "\"count\":3"), SECOND.to_owned(), FIRST.to_owned()],
                1,
                2,
                "count",
            ),
        ] {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let report = of(&lines);
            assert_eq!((report.exceptions, report.of), (exceptions, keys), "{report:?}");
            assert!(report.first[0].contains(word), "{report:?}");
        }
    }

    #[test]
    fn a_missing_column_is_a_mistake_of_the_caller() {
        let lines = FIRST.replace("m1_sum", "m1_total");
        let error = compare(TRUTH.as_bytes(), lines.as_bytes(), &KEY_DEFAULT).unwrap_err();
        assert_eq!(error.message(), "result, line 1: column `m1_sum` of the truth is missing");
        assert!(compare(TRUTH.as_bytes(), FIRST.as_bytes(), &["nothing"]).is_err());
    }
}
