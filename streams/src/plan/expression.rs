//! CEL expressions over the columns of an event, compiled once.

use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr};
use cel::{Context, Env, ExecutionError, IdedExpr, Program, Value as Cel};
use granary_window::Value;

use super::{Column, ColumnKind};

/// The longest expression, in bytes.
pub const BYTES_MAX: usize = 4_096;

/// A compiled expression and the columns it reads.
pub struct Expression {
    program: Program,
    env: Arc<Env>,
    source: Box<str>,
    variables: Names,
    /// Names with fields, and those of their fields that it reads.
    groups: Vec<(Box<str>, Names)>,
}

/// Names of columns, and where these are.
type Names = Vec<(Box<str>, usize)>;

/// Columns under a name: `small.amount`.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The name.
    pub name: &'a str,
    /// The columns.
    pub columns: &'a [Column],
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

/// Why an expression cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Line and column within the expression, from 1, where that is known.
    pub at: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
    /// A name it uses that is no column, if that is what is wrong.
    pub unknown: Option<Box<str>>,
    /// The group that the name is no column of.
    pub group: Option<Box<str>>,
}

impl Unfit {
    fn new(message: String) -> Unfit {
        Unfit { at: None, message, unknown: None, group: None }
    }
}

/// What an expression gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A double.
    Double(f64),
    /// Text.
    Text(String),
}

impl Outcome {
    /// As a value of an event.
    pub fn value(&self) -> Value<'_> {
        match self {
            Outcome::Null => Value::Null,
            Outcome::Bool(value) => Value::Bool(*value),
            Outcome::Int(value) => Value::Int(*value),
            Outcome::Double(value) => Value::Double(*value),
            Outcome::Text(text) => Value::Text(text.as_bytes()),
        }
    }

    fn kind(&self) -> ColumnKind {
        match self {
            Outcome::Null => ColumnKind::Any,
            Outcome::Bool(_) => ColumnKind::Bool,
            Outcome::Int(_) => ColumnKind::Int,
            Outcome::Double(_) => ColumnKind::Double,
            Outcome::Text(_) => ColumnKind::Text,
        }
    }
}

impl Expression {
    /// Compiles an expression over these columns, and says what it gives. A sample of each column's kind is tried, so
    /// that an operator that does not fit its operands is found before anything runs.
    pub fn compile(source: &str, columns: &[Column]) -> Result<(Expression, ColumnKind), Unfit> {
        Expression::compile_beside(source, columns, &[])
    }

    /// The same, with groups of columns beside them. No group has the name of a column.
    pub fn compile_beside(
        source: &str,
        columns: &[Column],
        groups: &[Group<'_>],
    ) -> Result<(Expression, ColumnKind), Unfit> {
        if source.len() > BYTES_MAX {
            return Err(Unfit::new(format!("longer than {BYTES_MAX} bytes")));
        }
        let program = Program::compile(source).map_err(|errors| unfit(&errors))?;
        let mut used: Vec<(Box<str>, Names)> = Vec::new();
        for group in groups {
            let mut fields = Vec::new();
            fields_of(program.expression(), group.name, &mut fields)?;
            let mut found = Names::new();
            for name in fields {
                let Some(column) = group.columns.iter().rev().find(|column| *column.name == *name) else {
                    let message = format!("unknown field `{name}` of `{}`", group.name);
                    return Err(Unfit {
                        unknown: Some(name),
                        group: Some(group.name.into()),
                        ..Unfit::new(message)
                    });
                };
                if !found.iter().any(|(known, _)| *known == name) {
                    found.push((name, column.index));
                }
            }
            if !found.is_empty() {
                used.push((group.name.into(), found));
            }
        }
        let mut variables = Vec::new();
        let mut names: Vec<String> =
            program.references().variables().into_iter().map(str::to_owned).collect();
        names.retain(|name| !groups.iter().any(|group| group.name == name));
        names.sort_unstable();
        for name in names {
            // A later column of the same name hides an earlier one.
            match columns.iter().rev().find(|column| *column.name == *name) {
                Some(column) => variables.push((name.into(), column.index)),
                None => {
                    let message = format!("unknown field `{name}`");
                    return Err(Unfit { unknown: Some(name.into()), ..Unfit::new(message) });
                }
            }
        }
        let env = Arc::new(Env::stdlib());
        let expression = Expression { program, env, source: source.into(), variables, groups: used };
        let all: Vec<Column> =
            columns.iter().chain(groups.iter().flat_map(|group| group.columns)).cloned().collect();
        let kind = expression.try_sample(&all)?;
        Ok((expression, kind))
    }

    /// Whether it reads a group.
    pub fn reads_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// The columns that it reads, those of groups among them.
    pub fn reads(&self) -> impl Iterator<Item = usize> {
        let of_groups = self.groups.iter().flat_map(|(_, fields)| fields);
        self.variables.iter().chain(of_groups).map(|(_, index)| *index)
    }

    /// The expression as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Evaluates it on an event; `column` gives the values.
    pub fn evaluate<'a>(&self, column: impl Fn(usize) -> Value<'a>) -> Result<Outcome, String> {
        let result = self.execute(column).map_err(|error| error.to_string())?;
        outcome(result)
    }

    fn execute<'a>(&self, column: impl Fn(usize) -> Value<'a>) -> Result<Cel, ExecutionError> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        let value = |index| match column(index) {
            Value::Null => Cel::Null,
            Value::Bool(value) => Cel::Bool(value),
            Value::Int(value) => Cel::Int(value),
            Value::Double(value) => Cel::Float(value),
            Value::Text(text) => Cel::String(String::from_utf8_lossy(text).into_owned().into()),
        };
        for (name, index) in &self.variables {
            context.add_variable_from_value(name.as_ref(), value(*index));
        }
        for (name, fields) in &self.groups {
            let fields: HashMap<String, Cel> =
                fields.iter().map(|(field, index)| (field.to_string(), value(*index))).collect();
            context.add_variable_from_value(name.as_ref(), Cel::Map(fields.into()));
        }
        self.program.execute(&context)
    }

    fn try_sample(&self, columns: &[Column]) -> Result<ColumnKind, Unfit> {
        let kind = |index| columns.iter().find(|column| column.index == index).map(|column| column.kind);
        if self.reads().any(|index| kind(index).is_none_or(|kind| kind == ColumnKind::Any)) {
            return Ok(ColumnKind::Any);
        }
        let sample = |index| match kind(index) {
            Some(ColumnKind::Text) => Value::Text(b"1"),
            Some(ColumnKind::Int) => Value::Int(1),
            Some(ColumnKind::Double) => Value::Double(1.0),
            Some(ColumnKind::Bool) => Value::Bool(true),
            Some(ColumnKind::Any) | None => Value::Null,
        };
        match self.execute(sample) {
            Ok(result) => outcome(result).map(|outcome| outcome.kind()).map_err(Unfit::new),
            Err(ExecutionError::UnsupportedBinaryOperator(operator, left, right)) => {
                let (left, right) = (left.type_of(), right.type_of());
                Err(Unfit::new(format!("`{operator}` does not fit {left} and {right}")))
            }
            Err(
                error @ (ExecutionError::NoSuchOverload(_)
                | ExecutionError::UndeclaredReference(_)
                | ExecutionError::InvalidArgumentCount { .. }
                | ExecutionError::ValuesNotComparable(..)
                | ExecutionError::UnexpectedType { .. }),
            ) => Err(Unfit::new(error.to_string())),
            // It depends on the value: only the records can tell.
            Err(_) => Ok(ColumnKind::Any),
        }
    }
}

fn outcome(result: Cel) -> Result<Outcome, String> {
    match result {
        Cel::Null => Ok(Outcome::Null),
        Cel::Bool(value) => Ok(Outcome::Bool(value)),
        Cel::Int(value) => Ok(Outcome::Int(value)),
        Cel::UInt(value) => i64::try_from(value)
            .map(Outcome::Int)
            .map_err(|_| format!("{value} is above the 64-bit integers")),
        Cel::Float(value) => Ok(Outcome::Double(value)),
        Cel::String(text) => Ok(Outcome::Text(text.to_string())),
        other => Err(format!("a single value expected, {} found", other.type_of())),
    }
}

/// The fields of a group that an expression names.
fn fields_of(part: &IdedExpr, group: &str, fields: &mut Vec<Box<str>>) -> Result<(), Unfit> {
    let mut all = |parts: &[&IdedExpr]| parts.iter().try_for_each(|part| fields_of(part, group, fields));
    match &part.expr {
        Expr::Ident(name) if name == group => {
            Err(Unfit::new(format!("`{group}` is no value: name one of its fields, `{group}.`...")))
        }
        Expr::Select(select) if matches!(&select.operand.expr, Expr::Ident(name) if name == group) => {
            fields.push(select.field.as_str().into());
            Ok(())
        }
        Expr::Select(select) => all(&[&select.operand]),
        Expr::Call(call) => all(&call.target.as_deref().into_iter().chain(&call.args).collect::<Vec<_>>()),
        Expr::List(list) => all(&list.elements.iter().collect::<Vec<_>>()),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => all(&[&entry.key, &entry.value]),
            EntryExpr::StructField(field) => all(&[&field.value]),
        }),
        Expr::Comprehension(inner) => {
            all(&[&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result])
        }
        Expr::Struct(_) | Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Ok(()),
    }
}

fn unfit(errors: &cel::ParseErrors) -> Unfit {
    let Some(first) = errors.errors.first() else {
        return Unfit::new("not a CEL expression".to_owned());
    };
    let positive = |n: isize| usize::try_from(n).ok().filter(|n| *n > 0);
    let at = positive(first.pos.0).map(|line| (line, positive(first.pos.1).unwrap_or(1)));
    Unfit { at, ..Unfit::new(format!("not a CEL expression: {}", first.msg)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        let column = |name: &str, index, kind| Column { name: name.into(), index, kind };
        vec![
            column("device", 0, ColumnKind::Text),
            column("m1", 1, ColumnKind::Int),
            column("m2", 2, ColumnKind::Double),
        ]
    }

    fn event(index: usize) -> Value<'static> {
        [Value::Text(b"eu-7"), Value::Int(40), Value::Double(2.5)][index]
    }

    #[test]
    fn evaluates_over_columns() {
        for (source, expected) in [
            ("m1 > 30 && device.startsWith('eu-')", Outcome::Bool(true)),
            ("m2 * 2.0", Outcome::Double(5.0)),
            ("m1 + 2", Outcome::Int(42)),
            ("device + '!'", Outcome::Text("eu-7!".to_owned())),
        ] {
            let (expression, _) = Expression::compile(source, &columns()).unwrap();
            assert_eq!(expression.evaluate(event), Ok(expected), "{source}");
        }
    }

    #[test]
    fn mistakes_are_found_before_anything_runs() {
        let unfit = |source: &str| Expression::compile(source, &columns()).unwrap_err();
        assert_eq!(unfit("m3 > 1").unknown.as_deref(), Some("m3"));
        assert!(unfit("m1 > ").message.starts_with("not a CEL expression"));
        assert!(unfit("device + m1 > 2").message.contains("does not fit string and int"));
        assert!(unfit("[m1]").message.contains("single value"));
    }

    #[test]
    fn groups_have_fields() {
        let column = |name: &str, index, kind| Column { name: name.into(), index, kind };
        let small = [column("amount", 7, ColumnKind::Int), column("device", 8, ColumnKind::Text)];
        let groups = [Group { name: "small", columns: &small }];
        let compile = |source: &str| Expression::compile_beside(source, &columns(), &groups);
        let (expression, kind) = compile("m1 > small.amount * 10 && small.device != device").unwrap();
        assert_eq!((expression.reads_groups(), kind), (true, ColumnKind::Bool));
        let value = |index| match index {
            7 => Value::Int(3),
            8 => Value::Text(b"us-1"),
            index => event(index),
        };
        assert_eq!(expression.evaluate(value), Ok(Outcome::Bool(true)));
        assert!(expression.evaluate(|index| if index == 7 { Value::Null } else { value(index) }).is_err());
        let unfit = compile("m1 > small.amont").unwrap_err();
        assert_eq!((unfit.unknown.as_deref(), unfit.group.as_deref()), (Some("amont"), Some("small")));
        assert_eq!(compile("m1 > smal.amount").unwrap_err().unknown.as_deref(), Some("smal"));
        assert!(compile("small == 1").unwrap_err().message.contains("no value"));
        assert!(
            compile("small.device + m1 > 2").unwrap_err().message.contains("does not fit string and int")
        );
    }

    #[test]
    fn what_depends_on_values_is_an_error_of_the_event() {
        let (expression, _) = Expression::compile("1 / (m1 - 40) > 0", &columns()).unwrap();
        assert!(expression.evaluate(event).is_err());
    }
}
