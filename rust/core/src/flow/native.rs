//! Functions that need no host language: expressions, and folds made of aggregates.
//!
//! ```json
//! {"expr": tree}                                             called with (key, value) or (key, value, other)
//! {"fold": "initial" | "add" | "subtract" | "merge", "aggregates": [{"name", "fn", "arg", "where"}, …]}
//! {"join": {"prefix": "right_"}}                             called with (key, left, right): the fields of both
//! ```
//!
//! They stand in the table of functions like any other, so operators do not know the difference. A fold's aggregate is an
//! object with a field for each of its aggregates: `count sum min max first last`, nulls left out, as in `aggregate.rs`.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Deserialize;

use crate::datum::Datum;
use crate::error::PlanError;
use crate::expr::{Expr, Fault, Scalar};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Initial,
    Add,
    Subtract,
    Merge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Count,
    Sum,
    Min,
    Max,
    First,
    Last,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    expr: Option<Expr>,
    #[serde(default)]
    fold: Option<Step>,
    #[serde(default)]
    aggregates: Vec<AggregateSaid>,
    #[serde(default)]
    join: Option<JoinSaid>,
}

#[derive(Deserialize)]
struct AggregateSaid {
    name: String,
    #[serde(rename = "fn")]
    kind: Kind,
    #[serde(default)]
    arg: Option<Expr>,
    #[serde(default, rename = "where")]
    condition: Option<Expr>,
}

#[derive(Deserialize)]
struct JoinSaid {
    prefix: String,
}

struct Part {
    name: Arc<str>,
    kind: Kind,
    arg: Option<Scalar>,
    condition: Option<Scalar>,
}

pub enum Native {
    Expr(Scalar),
    Fold(Fold),
    Join { prefix: String },
}

pub struct Fold {
    step: Step,
    parts: Vec<Part>,
    add: Scalar,
    subtract: Scalar,
}

/// `a + b`, by the rules of expressions.
fn sum_of(op: &str) -> Result<Scalar, PlanError> {
    let tree = serde_json::json!({"op": op, "args": [{"op": "col", "name": "$key"}, {"op": "col", "name": "$value"}]});
    let tree = serde_json::from_value(tree).map_err(|e| PlanError::new("bad_plan", e.to_string()))?;
    Scalar::compile(&tree)
}

impl Native {
    pub fn parse(text: &str) -> Result<Native, PlanError> {
        let bad = |text: String| PlanError::new("bad_plan", text);
        let said: Said = serde_json::from_str(text).map_err(|e| bad(format!("a native function: {e}")))?;
        let compiled = |e: &Option<Expr>| e.as_ref().map(Scalar::compile).transpose();
        match said {
            Said { expr: Some(expr), .. } => Ok(Native::Expr(Scalar::compile(&expr)?)),
            Said { join: Some(join), .. } => Ok(Native::Join { prefix: join.prefix }),
            Said { fold: Some(step), aggregates, .. } => {
                let parts = aggregates.iter().map(|a| {
                    Ok(Part {
                        name: Arc::from(a.name.as_str()),
                        kind: a.kind,
                        arg: compiled(&a.arg)?,
                        condition: compiled(&a.condition)?,
                    })
                });
                let parts = parts.collect::<Result<_, PlanError>>()?;
                Ok(Native::Fold(Fold { step, parts, add: sum_of("add")?, subtract: sum_of("sub")? }))
            }
            _ => Err(bad("a native function that says nothing".to_string())),
        }
    }

    pub fn apply(&self, args: &[Datum]) -> Result<Datum, Fault> {
        match self {
            Native::Expr(scalar) => scalar.eval(args),
            Native::Fold(fold) => fold.apply(args),
            Native::Join { prefix } => joined(prefix, args),
        }
    }

    /// The same of references: an expression copies nothing that it only looks at.
    pub fn ask(&self, args: &[&Datum]) -> Result<Datum, Fault> {
        match self {
            Native::Expr(scalar) => scalar.eval(args),
            _ => self.apply(&args.iter().copied().cloned().collect::<Vec<_>>()),
        }
    }
}

fn object(datum: Option<&Datum>) -> Result<&[(Arc<str>, Datum)], Fault> {
    match datum {
        None | Some(Datum::Null) => Ok(&[]),
        Some(Datum::Map(fields)) => Ok(fields),
        Some(other) => Err(("bad_type", format!("{other:?} is no object"))),
    }
}

/// The fields of both sides, those of the right one under a prefix.
fn joined(prefix: &str, args: &[Datum]) -> Result<Datum, Fault> {
    let (left, right) = (object(args.get(1))?, object(args.get(2))?);
    let mut fields = Vec::with_capacity(left.len() + right.len());
    fields.extend(left.iter().cloned());
    fields.extend(right.iter().map(|(name, value)| match prefix {
        "" => (name.clone(), value.clone()),
        _ => (Arc::from(format!("{prefix}{name}")), value.clone()),
    }));
    Ok(Datum::Map(fields.into()))
}

impl Fold {
    fn apply(&self, args: &[Datum]) -> Result<Datum, Fault> {
        // (), (key, value, aggregate), (key, aggregate, aggregate)
        let held = match self.step {
            Step::Initial => None,
            Step::Merge => args.get(1),
            Step::Add | Step::Subtract => args.get(2),
        };
        let held = object(held)?;
        let other = if self.step == Step::Merge { object(args.get(2))? } else { &[] };
        // Filled where it lies: the aggregate is made anew with each record.
        let mut made: Arc<[(Arc<str>, Datum)]> = self.parts.iter().map(|p| (p.name.clone(), Datum::Null)).collect();
        let fields = Arc::get_mut(&mut made).into_iter().flatten();
        for ((i, part), field) in self.parts.iter().enumerate().zip(fields) {
            let old = held.get(i).map_or(Datum::Null, |f| f.1.clone());
            field.1 = match self.step {
                Step::Initial => part.kind.initial(),
                Step::Add => self.add(part, old, args)?,
                Step::Subtract => self.subtract(part, old, args)?,
                Step::Merge => self.merge(part, old, other.get(i).map_or(Datum::Null, |f| f.1.clone()))?,
            };
        }
        Ok(Datum::Map(made))
    }

    /// `one + other`; the plain case by itself.
    fn sum(&self, one: Datum, other: Datum) -> Result<Datum, Fault> {
        match (&one, &other) {
            (Datum::Int(a), Datum::Int(b)) if a.checked_add(*b).is_some() => Ok(Datum::Int(a + b)),
            _ => self.add.eval(&[one, other]),
        }
    }

    /// What a part reads of a record; none: nothing.
    fn read(part: &Part, args: &[Datum]) -> Result<Option<Datum>, Fault> {
        let args = &args[..args.len().min(2)];
        if let Some(condition) = &part.condition {
            if !condition.eval(args)?.is_true() {
                return Ok(None);
            }
        }
        match &part.arg {
            None => Ok(Some(Datum::Bool(true))),
            Some(arg) => Ok(Some(arg.eval(args)?).filter(|v| !v.is_null())),
        }
    }

    fn add(&self, part: &Part, old: Datum, args: &[Datum]) -> Result<Datum, Fault> {
        let Some(value) = Fold::read(part, args)? else { return Ok(old) };
        match part.kind {
            Kind::Count => self.sum(old, Datum::Int(1)),
            Kind::Sum => self.sum(old, value),
            _ => self.merge(part, old, value),
        }
    }

    fn subtract(&self, part: &Part, old: Datum, args: &[Datum]) -> Result<Datum, Fault> {
        let Some(value) = Fold::read(part, args)? else { return Ok(old) };
        match part.kind {
            Kind::Count => self.subtract.eval(&[old, Datum::Int(1)]),
            Kind::Sum => self.subtract.eval(&[old, value]),
            _ => Err(("bad_type", format!("`{}` cannot take a value back", part.name))),
        }
    }

    fn merge(&self, part: &Part, one: Datum, other: Datum) -> Result<Datum, Fault> {
        Ok(match part.kind {
            Kind::Count | Kind::Sum => self.sum(one, other)?,
            _ if other.is_null() => one,
            _ if one.is_null() => other,
            Kind::First => one,
            Kind::Last => other,
            Kind::Min | Kind::Max => {
                let wanted = if part.kind == Kind::Min { Ordering::Less } else { Ordering::Greater };
                match crate::expr::order(&other, &one)? == wanted {
                    true => other,
                    false => one,
                }
            }
        })
    }
}

impl Kind {
    fn initial(self) -> Datum {
        match self {
            Kind::Count | Kind::Sum => Datum::Int(0),
            _ => Datum::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(step: &str) -> Native {
        let text = r#"{"fold": "STEP", "aggregates": [
            {"name": "n", "fn": "count", "where": {"op": "gt", "args": [{"op": "col", "name": "x"}, {"op": "lit", "value": 1}]}},
            {"name": "sum", "fn": "sum", "arg": {"op": "col", "name": "x"}},
            {"name": "low", "fn": "min", "arg": {"op": "col", "name": "x"}},
            {"name": "last", "fn": "last", "arg": {"op": "col", "name": "x"}}]}"#;
        Native::parse(&text.replace("STEP", step)).unwrap()
    }

    fn x(value: Datum) -> Datum {
        Datum::Map(Arc::from([(Arc::from("x"), value)]))
    }

    fn values(datum: &Datum) -> Vec<Datum> {
        object(Some(datum)).unwrap().iter().map(|f| f.1.clone()).collect()
    }

    #[test]
    fn aggregates_are_added_taken_back_and_merged() {
        let key = Datum::str("k");
        let add = |held: Datum, v: Datum| fold("add").apply(&[key.clone(), x(v), held]).unwrap();
        let start = fold("initial").apply(&[]).unwrap();
        assert_eq!(values(&start), [Datum::Int(0), Datum::Int(0), Datum::Null, Datum::Null]);
        let one = add(add(add(start.clone(), Datum::Int(3)), Datum::Int(1)), Datum::Null);
        assert_eq!(values(&one), [Datum::Int(1), Datum::Int(4), Datum::Int(1), Datum::Int(1)]);
        let two = add(start, Datum::Decimal(-250, 2));
        let both = fold("merge").apply(&[key.clone(), one, two]).unwrap();
        let low = Datum::Decimal(-250, 2);
        assert_eq!(values(&both), [Datum::Int(1), Datum::Decimal(150, 2), low.clone(), low]);
        let taken = fold("subtract").apply(&[key, x(Datum::Int(2)), both]);
        assert_eq!(taken, Err(("bad_type", "`low` cannot take a value back".to_string())));
    }

    #[test]
    fn a_join_has_the_fields_of_both() {
        let join = Native::parse(r#"{"join": {"prefix": "r_"}}"#).unwrap();
        let made = join.apply(&[Datum::Null, x(Datum::Int(1)), x(Datum::Int(2))]).unwrap();
        assert_eq!((made.get("x"), made.get("r_x")), (Some(&Datum::Int(1)), Some(&Datum::Int(2))));
        assert_eq!(join.apply(&[Datum::Null, x(Datum::Int(1)), Datum::Null]).unwrap(), x(Datum::Int(1)));
    }
}
