//! The member table in Redis: a hash, changed by one script.

use std::collections::BTreeMap;

use granary_cluster::Incarnation;
use granary_cluster::members::{Change, Member, Standing, Table};
use granary_core::Result;
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
            let Member { incarnation, name, address, counter, standing } = member;
            let (replaced, stood_at) = instead_of.unwrap_or((Incarnation(0), 0));
            let numbers = [replaced.0.to_string(), stood_at.to_string()];
            command.arg("join").arg(incarnation.0.to_string()).arg(counter.to_string());
            command.arg(text(*standing)).arg(name).arg(address).arg(&numbers)
        }
        Change::Renew { me, counter } => command.arg("renew").arg(me.0.to_string()).arg(counter.to_string()),
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
    let mut table =
        Table { version: number("version")?, newest: Incarnation(number("newest")?), members: vec![] };
    for (field, name) in fields {
        let Some(incarnation) = field.strip_suffix("/name") else { continue };
        let of = |what: &str| fields.get(&format!("{incarnation}/{what}")).ok_or_else(unreadable);
        table.members.push(Member {
            incarnation: Incarnation(incarnation.parse().map_err(|_| unreadable())?),
            name: name.clone(),
            address: of("address")?.clone(),
            counter: of("counter")?.parse().map_err(|_| unreadable())?,
            standing: if of("standing")? == text(Standing::Up) { Standing::Up } else { Standing::Leaving },
        });
    }
    table.members.sort_unstable_by_key(|member| member.incarnation);
    Ok(table)
}

fn text(standing: Standing) -> &'static str {
    match standing {
        Standing::Up => "up",
        Standing::Leaving => "leaving",
    }
}
