//! The member table in Redis: a hash, changed by one script.

use std::collections::BTreeMap;

use granary_cluster::members::{Change, MOVES_MAX, Member, Report, Standing, Table};
use granary_cluster::{Generation, Incarnation};
use granary_core::{Result, SlotId};
use redis::{Pipeline, Value};

use super::encode::unreadable;
use super::keys::Keys;

const SCRIPT: &str = include_str!("members.lua");

/// Asks for a change.
pub fn change(keys: &Keys, change: &Change) -> Pipeline {
    let mut pipeline = Pipeline::new();
    let command = pipeline.cmd("EVAL").arg(SCRIPT).arg(1).arg(keys.members());
    match change {
        Change::Join { member, instead_of } => {
            let Member { incarnation, name, address, counter, standing, generation, report } = member;
            let (replaced, stood_at) = instead_of.unwrap_or((Incarnation(0), 0));
            let numbers = [replaced.0.to_string(), stood_at.to_string(), generation.0.to_string()];
            command.arg("join").arg(incarnation.0.to_string()).arg(counter.to_string());
            command.arg(text(*standing)).arg(name).arg(address).arg(&numbers).arg(&told(report))
        }
        Change::Renew { me, counter, report, version_min } => {
            let numbers = [me.0.to_string(), counter.to_string()];
            command.arg("renew").arg(&numbers).arg(&told(report)).arg(version_min.to_string())
        }
        Change::Unfit { me, counter } => command.arg("unfit").arg(me.0.to_string()).arg(counter.to_string()),
        Change::Fit { me, counter } => command.arg("fit").arg(me.0.to_string()).arg(counter.to_string()),
        Change::Move { slot, to } => {
            let to = to.as_deref().unwrap_or_default(); // no silo has that name
            command.arg("move").arg(slot.0).arg(to).arg(MOVES_MAX)
        }
        Change::Declare { dead, counter } => {
            command.arg("declare").arg(dead.0.to_string()).arg(counter.to_string())
        }
        Change::Leave { me } => command.arg("leave").arg(me.0.to_string()),
        Change::Go { me } => command.arg("go").arg(me.0.to_string()),
    };
    pipeline
}

/// Whether the change was made, and the table after it.
pub fn answer(value: Value) -> Result<(bool, Table)> {
    let (done, fields): (i64, BTreeMap<String, String>) =
        redis::from_redis_value(value).map_err(|_| unreadable())?;
    Ok((done == 1, table(&fields)?))
}

fn table(fields: &BTreeMap<String, String>) -> Result<Table> {
    let number = |name: &str| fields.get(name).map_or(Ok(0), |text| text.parse().map_err(|_| unreadable()));
    let (version, newest) = (number("version")?, Incarnation(number("newest")?));
    let mut table = Table { version, newest, ..Table::default() };
    for (field, name) in fields {
        if let Some(slot) = field.strip_prefix("move/") {
            table.moves.insert(SlotId(slot.parse().map_err(|_| unreadable())?), name.clone());
            continue;
        }
        let Some(incarnation) = field.strip_suffix("/name") else { continue };
        let of = |what: &str| fields.get(&format!("{incarnation}/{what}")).ok_or_else(unreadable);
        table.members.push(Member {
            incarnation: Incarnation(incarnation.parse().map_err(|_| unreadable())?),
            name: name.clone(),
            address: of("address")?.clone(),
            counter: of("counter")?.parse().map_err(|_| unreadable())?,
            standing: standing(of("standing")?)?,
            generation: Generation(number(&format!("{incarnation}/generation"))?),
            // a silo of an earlier version says nothing of these
            report: Report {
                reaches_log: of("log").is_ok_and(|log| log == REACHES),
                load: of("load").ok().and_then(|load| load.parse().ok()).unwrap_or_default(),
            },
        });
    }
    table.members.sort_unstable_by_key(|member| member.incarnation);
    Ok(table)
}

const REACHES: &str = "reaches";

/// The fields `log` and `load`.
fn told(report: &Report) -> [String; 2] {
    let log = if report.reaches_log { REACHES } else { "away" };
    [log.to_owned(), report.load.to_string()]
}

fn standing(found: &str) -> Result<Standing> {
    let all = [Standing::Up, Standing::Unfit, Standing::Leaving];
    all.into_iter().find(|standing| text(*standing) == found).ok_or_else(unreadable)
}

fn text(standing: Standing) -> &'static str {
    match standing {
        Standing::Up => "up",
        Standing::Unfit => "unfit",
        Standing::Leaving => "leaving",
    }
}
