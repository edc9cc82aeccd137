//! Conditions from CEL: parsed by the CEL library, compiled once.

use std::collections::HashSet;
use std::sync::Arc;

use cel::common::ast::{Expr, LiteralValue};
use cel::{IdedExpr, Program};

use super::condition::{Amount, Comparison, Condition, Lists, Method, Text};
use super::decimal::Decimal;
use super::event::{EventSpec, FieldKind};

/// The longest condition, in bytes.
const BYTES_MAX: usize = 4_096;
/// Parts of a condition at most: what judging it may cost.
const NODES_MAX: usize = 256;

/// Why a condition cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// The place within the condition, in characters, from 0.
    pub at: usize,
    pub message: String,
    /// A name that is no field, if that is what is wrong.
    pub unknown: Option<String>,
}
enum Part {
    Condition(Condition),
    Amount(Amount),
    Text(Text),
}

struct Compiler<'a> {
    spec: &'a EventSpec,
    lists: &'a Lists,
    program: &'a Program,
    nodes: usize,
    used: Vec<usize>,
}

/// Compiles a condition; also says which fields it reads.
pub(crate) fn compile(
    source: &str,
    spec: &EventSpec,
    lists: &Lists,
) -> Result<(Condition, Vec<usize>), Unfit> {
    let unfit = |at, message| Unfit { at, message, unknown: None };
    if source.len() > BYTES_MAX {
        return Err(unfit(0, format!("a condition has at most {BYTES_MAX} bytes")));
    }
    let program = Program::compile(&symbols(source)).map_err(|errors| {
        let first = errors.errors.first();
        let at = first.map_or(0, |error| usize::try_from(error.pos.1 - 1).unwrap_or(0));
        let message = first.map_or("", |error| &error.msg);
        unfit(at, format!("not a condition: {message}"))
    })?;
    let mut compiler = Compiler { spec, lists, program: &program, nodes: 0, used: Vec::new() };
    let condition = compiler.condition(program.expression())?;
    compiler.used.sort_unstable();
    compiler.used.dedup();
    Ok((condition, compiler.used))
}

/// `and`, `or` and `not` as CEL writes them, in as many characters.
fn symbols(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut is_escaped = false;
    let end_word = |word: &mut String, out: &mut String| {
        out.push_str(match word.as_str() {
            "and" => "&& ",
            "or" => "||",
            "not" => "!  ",
            other => other,
        });
        word.clear();
    };
    for c in source.chars() {
        if quote.is_none() && (c.is_alphanumeric() || c == '_') {
            word.push(c);
            continue;
        }
        end_word(&mut word, &mut out);
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            _ => {}
        }
        out.push(c);
    }
    end_word(&mut word, &mut out);
    out
}

impl Compiler<'_> {
    fn unfit(&self, node: &IdedExpr, message: impl Into<String>) -> Unfit {
        let at = self.program.source_info().offset_for(node.id).map_or(0, |(start, _)| start as usize);
        Unfit { at, message: message.into(), unknown: None }
    }

    fn condition(&mut self, node: &IdedExpr) -> Result<Condition, Unfit> {
        match self.part(node)? {
            Part::Condition(condition) => Ok(condition),
            Part::Amount(_) => Err(self.unfit(node, "true or false expected, a number found")),
            Part::Text(_) => Err(self.unfit(node, "true or false expected, a text found")),
        }
    }

    fn part(&mut self, node: &IdedExpr) -> Result<Part, Unfit> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(self.unfit(node, format!("a condition has at most {NODES_MAX} parts")));
        }
        match &node.expr {
            Expr::Ident(name) => self.field(node, name),
            Expr::Literal(literal) => self.literal(node, literal),
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    return self.method(node, &call.func_name, target, &call.args);
                }
                self.operator(node, &call.func_name, &call.args)
            }
            _ => Err(self.unfit(node, "rules know fields, texts, numbers, lists and comparisons only")),
        }
    }

    fn field(&mut self, node: &IdedExpr, name: &str) -> Result<Part, Unfit> {
        let Some(i) = self.spec.fields.iter().position(|field| &*field.name == name) else {
            let message = format!("unknown field \"{name}\"");
            return Err(Unfit { unknown: Some(name.to_owned()), ..self.unfit(node, message) });
        };
        self.used.push(i);
        Ok(match self.spec.fields[i].kind {
            FieldKind::Text => Part::Text(Text::Field(i)),
            FieldKind::Boolean => Part::Condition(Condition::Field(i)),
            kind => Part::Amount(Amount::Field(i, kind.scale())),
        })
    }

    fn literal(&self, node: &IdedExpr, literal: &LiteralValue) -> Result<Part, Unfit> {
        let number = |written: String| {
            let number = Decimal::parse(&written);
            let number = number.ok_or_else(|| self.unfit(node, format!("{written}: not a number of a rule")));
            number.map(|number| Part::Amount(Amount::Literal(number)))
        };
        match literal {
            LiteralValue::Boolean(value) => Ok(Part::Condition(Condition::Const(*value.inner()))),
            LiteralValue::Int(value) => number(value.inner().to_string()),
            LiteralValue::UInt(value) => number(value.inner().to_string()),
            // The shortest digits that are this double are those that were written.
            LiteralValue::Double(value) => number(value.inner().to_string()),
            LiteralValue::String(text) => Ok(Part::Text(Text::Literal(text.inner().as_bytes().into()))),
            LiteralValue::Null | LiteralValue::Bytes(_) => {
                Err(self.unfit(node, "a number, a text, true or false expected"))
            }
        }
    }

    fn operator(&mut self, node: &IdedExpr, name: &str, args: &[IdedExpr]) -> Result<Part, Unfit> {
        let comparison = match name {
            "_==_" => Some(Comparison::Eq),
            "_!=_" => Some(Comparison::Ne),
            "_<_" => Some(Comparison::Lt),
            "_<=_" => Some(Comparison::Le),
            "_>_" => Some(Comparison::Gt),
            "_>=_" => Some(Comparison::Ge),
            _ => None,
        };
        if let (Some(comparison), [a, b]) = (comparison, args) {
            return self.comparison(node, comparison, a, b).map(Part::Condition);
        }
        match (name, args) {
            ("_&&_" | "_||_", [_, _]) => {
                let mut parts = Vec::new();
                for arg in args {
                    match (self.condition(arg)?, name) {
                        (Condition::All(inner), "_&&_") | (Condition::Any(inner), "_||_") => {
                            parts.extend(inner);
                        }
                        (other, _) => parts.push(other),
                    }
                }
                let is_all = name == "_&&_";
                Ok(Part::Condition(if is_all { Condition::All(parts) } else { Condition::Any(parts) }))
            }
            ("!_", [a]) => Ok(Part::Condition(Condition::Not(Box::new(self.condition(a)?)))),
            ("-_", [a]) => {
                let zero = Box::new(Amount::Literal(Decimal { units: 0, scale: 0 }));
                Ok(Part::Amount(Amount::Difference(zero, Box::new(self.amount(a)?))))
            }
            ("_+_" | "_-_" | "_*_", [a, b]) => {
                let (a, b) = (Box::new(self.amount(a)?), Box::new(self.amount(b)?));
                Ok(Part::Amount(match name {
                    "_+_" => Amount::Sum(a, b),
                    "_-_" => Amount::Difference(a, b),
                    _ => Amount::Product(a, b),
                }))
            }
            ("@in", [a, list]) => self.listed(node, a, list).map(Part::Condition),
            ("_/_" | "_%_", _) => {
                Err(self.unfit(node, "rules do not divide: multiply the other side instead, which is exact"))
            }
            _ => Err(self.unfit(node, format!("`{}` is not known to rules", name.trim_matches('_')))),
        }
    }

    fn amount(&mut self, node: &IdedExpr) -> Result<Amount, Unfit> {
        match self.part(node)? {
            Part::Amount(amount) => Ok(amount),
            Part::Text(_) => Err(self.unfit(node, "a number expected, a text found")),
            Part::Condition(_) => Err(self.unfit(node, "a number expected, true or false found")),
        }
    }

    fn comparison(
        &mut self,
        node: &IdedExpr,
        comparison: Comparison,
        a: &IdedExpr,
        b: &IdedExpr,
    ) -> Result<Condition, Unfit> {
        match (self.part(a)?, self.part(b)?) {
            (Part::Amount(a), Part::Amount(b)) => Ok(Condition::Numbers(comparison, a, b)),
            (Part::Text(a), Part::Text(b)) => Ok(Condition::Texts(comparison, a, b)),
            (Part::Condition(a), Part::Condition(Condition::Const(wanted))) => {
                let is_same = (comparison == Comparison::Eq) == wanted;
                match comparison {
                    Comparison::Eq | Comparison::Ne if is_same => Ok(a),
                    Comparison::Eq | Comparison::Ne => Ok(Condition::Not(Box::new(a))),
                    _ => Err(self.unfit(node, "true and false have no order")),
                }
            }
            (a, b) => {
                let name = |part: &Part| match part {
                    Part::Amount(_) => "a number",
                    Part::Text(_) => "a text",
                    Part::Condition(_) => "true or false",
                };
                Err(self.unfit(node, format!("{} cannot be compared with {}", name(&a), name(&b))))
            }
        }
    }

    fn listed(&mut self, node: &IdedExpr, a: &IdedExpr, list: &IdedExpr) -> Result<Condition, Unfit> {
        let listed = match &list.expr {
            Expr::Ident(name) => match self.lists.get(name) {
                Some(list) => Ok(Arc::clone(list)),
                None => {
                    let message = format!("unknown list \"{name}\"");
                    return Err(Unfit { unknown: Some(name.clone()), ..self.unfit(list, message) });
                }
            },
            Expr::List(literals) => {
                let part = self.part(a)?;
                return self.one_of(node, part, &literals.elements);
            }
            _ => Err(self.unfit(list, "a list expected: [\"a\", \"b\"], or the name of one")),
        }?;
        match self.part(a)? {
            Part::Text(text) => Ok(Condition::Listed(text, listed)),
            _ => Err(self.unfit(a, "lists hold texts: a text expected")),
        }
    }

    fn one_of(&mut self, node: &IdedExpr, part: Part, elements: &[IdedExpr]) -> Result<Condition, Unfit> {
        let mut texts = HashSet::new();
        let mut numbers = Vec::new();
        for element in elements {
            match (&part, self.part(element)?) {
                (Part::Text(_), Part::Text(Text::Literal(text))) => {
                    texts.insert(text);
                }
                (Part::Amount(amount), Part::Amount(literal @ Amount::Literal(_))) => {
                    numbers.push(Condition::Numbers(Comparison::Eq, amount.clone(), literal));
                }
                _ => {
                    return Err(self.unfit(element, "a list holds texts or numbers as the field before `in`"));
                }
            }
        }
        match part {
            Part::Text(text) => Ok(Condition::Listed(text, Arc::new(texts))),
            Part::Amount(_) => Ok(Condition::Any(numbers)),
            Part::Condition(_) => Err(self.unfit(node, "a text or a number expected before `in`")),
        }
    }

    fn method(
        &mut self,
        node: &IdedExpr,
        name: &str,
        target: &IdedExpr,
        args: &[IdedExpr],
    ) -> Result<Part, Unfit> {
        let method = match name {
            "startsWith" => Method::StartsWith,
            "endsWith" => Method::EndsWith,
            "contains" => Method::Contains,
            _ => {
                let message =
                    format!("`{name}` is not known to rules: startsWith, endsWith and contains are");
                return Err(self.unfit(node, message));
            }
        };
        let [arg] = args else { return Err(self.unfit(node, format!("{name} takes one text"))) };
        match (self.part(target)?, self.part(arg)?) {
            (Part::Text(target), Part::Text(arg)) => {
                Ok(Part::Condition(Condition::Method(method, target, arg)))
            }
            _ => Err(self.unfit(node, format!("{name} is between texts"))),
        }
    }
}
