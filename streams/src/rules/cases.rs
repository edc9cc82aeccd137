//! Cases: alerts of one key that follow each other closely are one thing to look at.
//!
//! A rule says which first fields of its key name its cases, and how long after its last alert a case takes another. Rules of a
//! file that name the same fields share their cases. A case opens with its first alert. That it is over shows when the next
//! alert of its key comes too late for it: no timer is needed, and a case that nothing follows is never said to be closed.
//!
//! One cell for each key holds the last case of that key. Its name goes on with a colon after the prefix of the step, where cells
//! of judges have the name of a field: so they do not meet.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use granary_core::cloud::id_of;
use granary_core::{Span, Timestamp, codec};
use granary_window::rule::{Change, Decision};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::alert::alert_id;
use super::event::EventSpec;
use super::problem::{Problems, code};
use super::rule::Read;
use super::words::in_words;
use super::{Info, Mode, Rules, Severity};
use crate::file::read::{self, Map};
use crate::file::yaml::{Node, Value};
use crate::file::{Mistakes, Place};

/// Alerts of a case by which a withdrawal finds it: more push out the oldest, whose withdrawals then name no case.
const CASE_ALERTS_MAX: usize = 64;

/// How a rule's alerts are put into cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseOf {
    /// By so many of the first fields of the rule's key.
    pub fields: usize,
    /// After its last alert a case takes another for so long.
    pub open_for: Span,
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Its id: it follows from its key and its first alert.
    pub id: String,
    /// The rule of the first alert.
    pub rule: String,
    /// How grave the gravest alert is.
    pub severity: Severity,
    /// The time of its first alert.
    pub first: Timestamp,
    /// The time of its last alert.
    pub last: Timestamp,
    /// Alerts that stand.
    pub alerts: u64,
    /// The ids of the last of them.
    recent: VecDeque<Box<str>>,
}

/// What an alert is to cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filed {
    /// The case it is in, with what it changed.
    pub case: Case,
    /// It is the first alert of the case.
    pub is_first: bool,
    /// The case before of that key, when the alert showed that it is over.
    pub closed: Option<Case>,
}

/// What is known of one key.
#[derive(Debug, Default)]
struct Entry {
    case: Option<Case>,
    /// What it was last counted as in memory.
    bytes: usize,
    /// It changed since it was sealed last, with this commit.
    is_changed: bool,
    sealed: u64,
}

/// The cases of one slot.
#[derive(Debug)]
pub(crate) struct Cases {
    /// What the names of all cells begin with.
    prefix: Box<[u8]>,
    /// Whether alerts of rules in shadow are put into cases, too: to see what would be.
    with_shadow: bool,
    kinds: Kinds,
    entries: HashMap<Box<[u8]>, Entry, FixedState>,
    dirty: Vec<Box<[u8]>>,
    bytes: usize,
    /// The last commit that the store has.
    acknowledged: u64,
    name: Vec<u8>,
}

/// The first values of a key, as they stand there.
pub(crate) fn first_of(key: &[u8], fields: usize) -> &[u8] {
    let mut rest = key;
    for _ in 0..fields {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
        rest = after.get(u32::from_be_bytes(*length) as usize..).unwrap_or_default();
    }
    &key[..key.len() - rest.len()]
}

/// For each group of rules what cases its alerts may be in: so many fields of the key, and what the names of cells begin with.
type Kinds = Vec<Vec<(usize, Box<[u8]>)>>;

impl Cases {
    /// None is in memory yet. The names of cells begin with `prefix`.
    pub fn new(rules: &Rules, prefix: &[u8], with_shadow: bool) -> Cases {
        let prefix = [prefix, b":"].concat().into();
        let mut cases = Cases {
            prefix,
            with_shadow,
            kinds: Kinds::new(),
            entries: HashMap::default(),
            dirty: Vec::new(),
            bytes: 0,
            acknowledged: 0,
            name: Vec::new(),
        };
        cases.revise(rules);
        cases
    }

    /// Goes on by other rules.
    pub fn revise(&mut self, rules: &Rules) {
        let kinds = rules.groups.iter().map(|group| {
            let mut kinds = Vec::new();
            for info in group.rules.iter().map(|rule| &rules.infos()[*rule]) {
                let kind = self.of(info).map(|of| (of.fields, self.begin(info, of, rules.spec())));
                kinds.extend(kind.filter(|kind| !kinds.contains(kind)));
            }
            kinds
        });
        self.kinds = kinds.collect();
    }

    fn of(&self, info: &Info) -> Option<CaseOf> {
        info.case.filter(|_| info.mode == Mode::Live || self.with_shadow)
    }

    /// What the names of cells of a rule's cases begin with.
    fn begin(&self, info: &Info, of: CaseOf, spec: &EventSpec) -> Box<[u8]> {
        [&self.prefix[..], names(info, of, spec).join(",").as_bytes(), b"/"].concat().into()
    }

    /// Names the cells that must be supplied before an event with this key of the group is judged.
    pub fn missing(&mut self, group: usize, key: &[u8], cells: &mut Vec<Vec<u8>>) {
        let Cases { kinds, entries, name, .. } = self;
        for (fields, begin) in &kinds[group] {
            name.clear();
            name.extend_from_slice(begin);
            name.extend_from_slice(first_of(key, *fields));
            // groups may share the cases of a key
            if !entries.contains_key(&**name) && !cells.contains(name) {
                cells.push(name.clone());
            }
        }
    }

    /// Whether a cell is of a case.
    pub fn is_cell(&self, cell: &[u8]) -> bool {
        cell.starts_with(&self.prefix)
    }

    /// Hands over a cell that was missing; what is wrong with it. What is in memory is newer.
    pub fn supply(&mut self, cell: &[u8], value: Option<&[u8]>) -> Result<(), String> {
        if self.entries.contains_key(cell) {
            return Ok(());
        }
        let case = value.map(codec::from_bytes::<Case>).transpose();
        let case = case.map_err(|error| error.message().to_owned())?;
        let mut entry = Entry { case, ..Entry::default() };
        self.bytes += entry.account(cell);
        self.entries.insert(cell.into(), entry);
        Ok(())
    }

    /// Puts an alert into its case, or takes it out when it is withdrawn. `None`: it is in no case.
    pub fn file(&mut self, rules: &Rules, rule: usize, decision: &Decision<'_>) -> Option<Filed> {
        let info = &rules.infos()[rule];
        let of = self.of(info)?;
        let key = first_of(decision.key, of.fields);
        let name: Box<[u8]> = [&self.begin(info, of, rules.spec())[..], key].concat().into();
        let entry = self.entries.entry(name.clone()).or_default();
        let alert = alert_id(info, decision.key, decision.id);
        let filed = match &decision.change {
            Change::Raised(_) => {
                let kind = names(info, of, rules.spec()).join(",");
                let fresh = || {
                    Case::new(info, &id_of("case_", &[kind.as_bytes(), key, alert.as_bytes()]), decision.time)
                };
                entry.join(fresh, &alert, info, decision.time, of.open_for)
            }
            Change::Withdrawn => entry.leave(&alert)?,
            Change::Resolved { .. } => return entry.holding(&alert),
        };
        if !std::mem::replace(&mut entry.is_changed, true) {
            self.dirty.push(name.clone());
        }
        let before = entry.bytes;
        self.bytes = self.bytes - before + entry.account(&name);
        Some(filed)
    }

    /// Writes the cells that changed. They are part of commit `n`.
    pub fn seal(&mut self, n: u64, put: &mut impl FnMut(&[u8], Option<&[u8]>)) {
        for name in std::mem::take(&mut self.dirty) {
            let Some(Entry { case: Some(case), is_changed, sealed, .. }) = self.entries.get_mut(&name) else {
                continue;
            };
            (*is_changed, *sealed) = (false, n);
            let value = codec::to_bytes(case).expect("texts and numbers can be encoded");
            put(&name, Some(&value));
        }
    }

    /// The store has commit `n`.
    pub fn acknowledged(&mut self, n: u64) {
        self.acknowledged = self.acknowledged.max(n);
    }

    /// Lets go what the store has, until memory is about this; looks at so many keys at most.
    pub fn evict(&mut self, target_bytes: usize, looks_max: usize) {
        let Cases { entries, bytes, acknowledged, .. } = self;
        let mut looks = 0;
        entries.retain(|_, entry| {
            looks += 1;
            let is_held = entry.is_changed || entry.sealed > *acknowledged;
            if *bytes <= target_bytes || looks > looks_max || is_held {
                return true;
            }
            *bytes -= entry.bytes;
            false
        });
    }

    /// How many cells a seal would write now.
    pub fn open_cells(&self) -> usize {
        self.dirty.len()
    }

    /// Memory of all keys, about.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

impl Case {
    fn new(info: &Info, id: &str, at: Timestamp) -> Case {
        let (id, rule) = (id.to_owned(), info.id.to_string());
        let recent = VecDeque::new();
        Case { id, rule, severity: info.severity, first: at, last: at, alerts: 0, recent }
    }
}

impl Entry {
    fn join(
        &mut self,
        fresh: impl FnOnce() -> Case,
        alert: &str,
        info: &Info,
        at: Timestamp,
        open_for: Span,
    ) -> Filed {
        let closed = self.case.take_if(|case| at > case.last + open_for);
        let is_first = self.case.is_none();
        let case = self.case.get_or_insert_with(fresh);
        (case.first, case.last) = (case.first.min(at), case.last.max(at));
        case.severity = case.severity.max(info.severity);
        case.alerts += 1;
        case.recent.push_back(alert.into());
        if case.recent.len() > CASE_ALERTS_MAX {
            case.recent.pop_front();
        }
        Filed { case: case.clone(), is_first, closed }
    }

    /// The case of an alert, if it is known.
    fn holding(&self, alert: &str) -> Option<Filed> {
        let case = self.case.as_ref().filter(|case| case.recent.iter().any(|known| **known == *alert))?;
        Some(Filed { case: case.clone(), is_first: false, closed: None })
    }

    /// An alert that was withdrawn; `None` when it is not known of which case it was.
    fn leave(&mut self, alert: &str) -> Option<Filed> {
        let case = self.case.as_mut()?;
        let place = case.recent.iter().position(|known| **known == *alert)?;
        case.recent.remove(place);
        case.alerts = case.alerts.saturating_sub(1);
        Some(Filed { case: case.clone(), is_first: false, closed: None })
    }

    /// Counts its memory, about.
    fn account(&mut self, name: &[u8]) -> usize {
        let of_case = |case: &Case| case.id.len() + case.rule.len() + case.recent.len() * (2 * case.id.len());
        self.bytes = size_of::<Entry>() + 2 * name.len() + self.case.as_ref().map_or(0, of_case);
        self.bytes
    }
}

/// The names of the fields that cases are by.
pub(crate) fn names<'r>(info: &Info, of: CaseOf, spec: &'r EventSpec) -> Vec<&'r str> {
    info.per[..of.fields].iter().map(|field| &*spec.fields[*field].name).collect()
}

/// `case` as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    per: Vec<String>,
    open_for: Span,
}

/// Reads `case: {per: customer_id, open_for: 24h}`; there are none with `case: none`.
pub(crate) fn read(
    of: &str,
    node: &Node,
    mistakes: &mut Mistakes,
    problems: &mut Problems,
) -> Option<Written> {
    if matches!(&node.value, Value::Scalar { text, .. } if text == "none") {
        return None;
    }
    let mut map = Map::new(node, "case", mistakes);
    let per = map.need("per", mistakes).map_or(Vec::new(), read::items);
    let per: Option<Vec<String>> =
        per.iter().map(|item| read::text(item, "a field", mistakes).map(str::to_owned)).collect();
    let open_for = map.need("open_for", mistakes);
    let open_for = open_for.and_then(|node| super::file::length(of, "open_for", node, mistakes, problems));
    map.finish(mistakes);
    let per = per.filter(|per| !per.is_empty())?;
    Some(Written { per, open_for: open_for? })
}

impl Written {
    /// For a rule with this key; and where a person looks for it.
    pub fn of_rule(
        &self,
        (id, place): (&str, Place),
        per: &[usize],
        spec: &EventSpec,
        problems: &mut Problems,
    ) -> Option<(CaseOf, Place)> {
        let key: Vec<&str> = per.iter().map(|field| &*spec.fields[*field].name).collect();
        if !key.iter().zip(&self.per).all(|(a, b)| a == b) || self.per.len() > key.len() {
            let (key, case) = (key.join(", "), self.per.join(", "));
            let message = format!(
                "{id}: its key is [{key}], and its cases are per [{case}]. Cases are kept beside their rule's key: write the key's \
                 first fields, as {}, or `case: none`",
                key.split(", ").next().unwrap_or_default()
            );
            problems.add(place, code::CASE, message);
            return None;
        }
        Some((CaseOf { fields: self.per.len(), open_for: self.open_for }, place))
    }
}

/// Rules that share the cases of a key say for how long those are open, the same.
pub(crate) fn find_contradictions(rules: &[Read], spec: &EventSpec, problems: &mut Problems) {
    let cases: Vec<_> = rules.iter().filter_map(|rule| Some((rule, rule.case?))).collect();
    for (i, (rule, (case, place))) in cases.iter().enumerate() {
        let key = |rule: &Read, case: CaseOf| rule.per[..case.fields].to_vec();
        let is_other = |(other, (of, _)): &&(&Read, (CaseOf, Place))| {
            of.open_for != case.open_for && key(other, *of) == key(rule, *case)
        };
        if let Some((first, (of, _))) = cases[..i].iter().find(is_other) {
            let names: Vec<&str> = key(rule, *case).iter().map(|field| &*spec.fields[*field].name).collect();
            let message = format!(
                "{}: cases per {} are open for {}, and for {} by rule {}: they are the same cases, write the same length",
                rule.id,
                names.join(", "),
                in_words(case.open_for),
                in_words(of.open_for),
                first.id
            );
            problems.add(*place, code::CASE, message);
        }
    }
}
