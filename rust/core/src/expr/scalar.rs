//! Expressions over single values: for operators that work record by record.
//!
//! The same trees, the same results as the columnar kernels ([`super::compile()`]), where types are known only when a value
//! comes: `tests_naive.rs` holds the two against each other. Evaluation is left to right and stops as early as it can, so an
//! error surfaces only where its value is read. A value of a kind that an operator does not take is an error like any other
//! (`bad_type`). What differs: nobody converts the branches of `when` and `coalesce` to one type, a number stays what it is.
//!
//! Columns are fields of the record's value, an object. Names that begin with `$`:
//!
//! | name | |
//! |---|---|
//! | `$key`, `$value` | the record's key; its value, whole |
//! | `$other`, `$other.x` | the second value (of a joiner: the other side; of an adder: the aggregate); a field of it |
//!
//! `struct` makes an object of its arguments, under the names that are its `value`; `tuple` puts them side by side.

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::sync::Arc;

use super::{decimal, text, Expr};
use crate::column::{reason, ERR_CAST, ERR_NOT_A_NUMBER, ERR_OVERFLOW, NULL, VALID};
use crate::datum::Datum;
use crate::error::PlanError;
use crate::types::DataType;

/// Why there is no value: a reason for the dead letters, and more about it.
pub type Fault = (&'static str, String);
type Found = Result<Datum, Fault>;

/// An expression, ready to be evaluated.
#[derive(Clone, Debug)]
pub enum Scalar {
    /// An argument, whole.
    Arg(usize),
    Field(usize, Arc<str>),
    Literal(Datum),
    Struct(Vec<(Arc<str>, Scalar)>),
    Tuple(Vec<Scalar>),
    And(Box<[Scalar; 2]>),
    Or(Box<[Scalar; 2]>),
    When(Vec<Scalar>),
    Coalesce(Vec<Scalar>),
    IsNull(Box<Scalar>, bool),
    IsIn(Box<Scalar>, Vec<Datum>),
    Cast(Box<Scalar>, DataType),
    /// Strict: null if an argument is.
    Call(Op, Vec<Scalar>, Numbers),
    /// The largest or smallest that is not null.
    Extreme(Ordering, Vec<Scalar>),
}

/// What is written beside an operator: digits, characters, milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    digits: i32,
    every_ms: i64,
    offset: i64,
    length: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Not,
    Neg,
    Abs,
    Round,
    Floor,
    Ceil,
    Lower,
    Upper,
    Len,
    LenBytes,
    Strip,
    StartsWith,
    EndsWith,
    Contains,
    Slice,
    Replace,
    Concat,
    Truncate,
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Millisecond,
    Weekday,
    EpochMs,
}

const OPS: &[(&str, Op)] = &[
    ("add", Op::Add),
    ("sub", Op::Sub),
    ("mul", Op::Mul),
    ("div", Op::Div),
    ("floordiv", Op::FloorDiv),
    ("mod", Op::Mod),
    ("eq", Op::Eq),
    ("ne", Op::Ne),
    ("lt", Op::Lt),
    ("le", Op::Le),
    ("gt", Op::Gt),
    ("ge", Op::Ge),
    ("not", Op::Not),
    ("neg", Op::Neg),
    ("abs", Op::Abs),
    ("round", Op::Round),
    ("floor", Op::Floor),
    ("ceil", Op::Ceil),
    ("str_lower", Op::Lower),
    ("str_upper", Op::Upper),
    ("str_len", Op::Len),
    ("str_bytes", Op::LenBytes),
    ("str_strip", Op::Strip),
    ("str_starts_with", Op::StartsWith),
    ("str_ends_with", Op::EndsWith),
    ("str_contains", Op::Contains),
    ("str_slice", Op::Slice),
    ("str_replace", Op::Replace),
    ("str_concat", Op::Concat),
    ("dt_truncate", Op::Truncate),
    ("dt_year", Op::Year),
    ("dt_month", Op::Month),
    ("dt_day", Op::Day),
    ("dt_hour", Op::Hour),
    ("dt_minute", Op::Minute),
    ("dt_second", Op::Second),
    ("dt_millisecond", Op::Millisecond),
    ("dt_weekday", Op::Weekday),
    ("dt_epoch_ms", Op::EpochMs),
];

impl Op {
    fn comparison(self) -> Option<fn(Ordering) -> bool> {
        Some(match self {
            Op::Eq => Ordering::is_eq,
            Op::Ne => Ordering::is_ne,
            Op::Lt => Ordering::is_lt,
            Op::Le => Ordering::is_le,
            Op::Gt => Ordering::is_gt,
            Op::Ge => Ordering::is_ge,
            _ => return None,
        })
    }
}

/// The arguments of an expression: key, value, the other value.
pub const KEY: usize = 0;
pub const VALUE: usize = 1;
pub const OTHER: usize = 2;

impl Scalar {
    pub fn compile(expr: &Expr) -> Result<Scalar, PlanError> {
        let args = || expr.args.iter().map(Scalar::compile).collect::<Result<Vec<_>, _>>();
        let one = || Scalar::compile(expr.args.first().ok_or_else(|| bad("an operand is missing"))?);
        let two = || -> Result<Box<[Scalar; 2]>, PlanError> {
            let pair: [Scalar; 2] = args()?.try_into().map_err(|_| bad(format!("`{}` takes two", expr.op)))?;
            Ok(Box::new(pair))
        };
        Ok(match expr.op.as_str() {
            "col" => match expr.name.as_deref().unwrap_or_default() {
                "$key" => Scalar::Arg(KEY),
                "$value" => Scalar::Arg(VALUE),
                "$other" => Scalar::Arg(OTHER),
                name => match name.strip_prefix("$other.") {
                    Some(field) => Scalar::Field(OTHER, Arc::from(field)),
                    None if name.starts_with('$') => {
                        return Err(PlanError::new("unknown_column", format!("a record has no `{}`", &name[1..]))
                            .hint("use it on rows: `.rows(…)`"))
                    }
                    None => Scalar::Field(VALUE, Arc::from(name)),
                },
            },
            "lit" => Scalar::Literal(literal(expr)?),
            "struct" => {
                let names = expr.value.as_array().cloned().unwrap_or_default();
                let names = names.iter().map(|n| Arc::from(n.as_str().unwrap_or_default()));
                Scalar::Struct(names.zip(args()?).collect())
            }
            "tuple" => Scalar::Tuple(args()?),
            "and" => Scalar::And(two()?),
            "or" => Scalar::Or(two()?),
            "when" => Scalar::When(args()?),
            "fill_null" | "coalesce" => Scalar::Coalesce(args()?),
            "is_null" => Scalar::IsNull(Box::new(one()?), true),
            "is_not_null" => Scalar::IsNull(Box::new(one()?), false),
            "min_horizontal" => Scalar::Extreme(Ordering::Less, args()?),
            "max_horizontal" => Scalar::Extreme(Ordering::Greater, args()?),
            "is_in" => {
                let list = expr.args.iter().skip(1).map(literal).collect::<Result<_, _>>()?;
                Scalar::IsIn(Box::new(one()?), list)
            }
            "cast" => {
                let dtype = expr.dtype.clone().ok_or_else(|| bad("a cast has a type"))?;
                Scalar::Cast(Box::new(one()?), dtype)
            }
            name => {
                let op = OPS.iter().find(|o| o.0 == name).ok_or_else(|| {
                    PlanError::new("unknown_function", format!("`{name}` does not work on records"))
                        .hint("use it on rows (`.rows(…)`), or write a function")
                })?;
                let numbers = Numbers {
                    digits: expr.digits.unwrap_or(0),
                    every_ms: expr.every_ms.unwrap_or(1),
                    offset: expr.offset.unwrap_or(0),
                    length: expr.length,
                };
                Scalar::Call(op.1, args()?, numbers)
            }
        })
    }

    /// Its value, which is not copied if it is there already.
    fn look<'a, A: Borrow<Datum>>(&'a self, args: &'a [A]) -> Result<Cow<'a, Datum>, Fault> {
        static NULL: Datum = Datum::Null;
        Ok(Cow::Borrowed(match self {
            Scalar::Arg(i) => args.get(*i).map_or(&NULL, A::borrow),
            Scalar::Field(i, name) => match args.get(*i).map(A::borrow) {
                None | Some(Datum::Null) => &NULL,
                Some(object @ Datum::Map(_)) => object.get(name).unwrap_or(&NULL),
                Some(other) => return Err(("bad_type", format!("`{name}` of {other:?}, which is no object"))),
            },
            Scalar::Literal(value) => value,
            made => return made.eval(args).map(Cow::Owned),
        }))
    }

    /// Of the arguments, or of references to them.
    pub fn eval<A: Borrow<Datum>>(&self, args: &[A]) -> Found {
        Ok(match self {
            Scalar::Arg(_) | Scalar::Field(..) | Scalar::Literal(_) => self.look(args)?.into_owned(),
            Scalar::Struct(fields) => {
                let made = fields.iter().map(|(name, of)| Ok((name.clone(), of.eval(args)?)));
                Datum::Map(made.collect::<Result<_, Fault>>()?)
            }
            Scalar::Tuple(parts) => Datum::Tuple(parts.iter().map(|p| p.eval(args)).collect::<Result<_, _>>()?),
            Scalar::And(pair) => both(pair, args, false)?,
            Scalar::Or(pair) => both(pair, args, true)?,
            Scalar::When(parts) => {
                let mut parts = parts.iter();
                loop {
                    let Some(condition) = parts.next() else { break Datum::Null };
                    let Some(then) = parts.next() else { break condition.eval(args)? };
                    if condition.eval(args)?.is_true() {
                        break then.eval(args)?;
                    }
                }
            }
            Scalar::Coalesce(parts) => {
                for part in parts {
                    let value = part.eval(args)?;
                    if !value.is_null() {
                        return Ok(value);
                    }
                }
                Datum::Null
            }
            Scalar::IsNull(of, wanted) => Datum::Bool(of.look(args)?.is_null() == *wanted),
            Scalar::IsIn(of, list) => {
                let value = of.look(args)?;
                if value.is_null() {
                    return Ok(Datum::Null);
                }
                let mut unknown = false;
                for item in list {
                    match item {
                        Datum::Null => unknown = true,
                        _ if order(&value, item)?.is_eq() => return Ok(Datum::Bool(true)),
                        _ => {}
                    }
                }
                if unknown {
                    Datum::Null
                } else {
                    Datum::Bool(false)
                }
            }
            Scalar::Cast(of, dtype) => match of.eval(args)? {
                Datum::Null => Datum::Null,
                value => cast(value, dtype)?,
            },
            Scalar::Extreme(which, parts) => {
                let mut best = Datum::Null;
                for part in parts {
                    let value = part.eval(args)?;
                    if best.is_null() || (!value.is_null() && order(&value, &best)? == *which) {
                        best = value;
                    }
                }
                best
            }
            Scalar::Call(op, parts, numbers) => match parts.as_slice() {
                [one] => {
                    let value = one.eval(args)?;
                    match value.is_null() {
                        true => value,
                        false => call(*op, &[value], numbers)?,
                    }
                }
                [a, b] if op.comparison().is_some() => {
                    let (a, b) = (a.look(args)?, b.look(args)?);
                    match op.comparison() {
                        Some(holds) if !a.is_null() && !b.is_null() => Datum::Bool(holds(order(&a, &b)?)),
                        _ => Datum::Null,
                    }
                }
                several => {
                    let values = several.iter().map(|p| p.eval(args)).collect::<Result<Vec<_>, _>>()?;
                    match values.iter().any(Datum::is_null) {
                        true => Datum::Null,
                        false => call(*op, &values, numbers)?,
                    }
                }
            },
        })
    }
}

fn bad(text: impl Into<String>) -> PlanError {
    PlanError::new("bad_plan", text)
}

fn literal(expr: &Expr) -> Result<Datum, PlanError> {
    use serde_json::Value as Json;
    let wrong = || bad(format!("a literal that is none: {}", expr.value));
    Ok(match (&expr.value, &expr.dtype) {
        (Json::Null, _) => Datum::Null,
        (value, Some(DataType::Timestamp)) => Datum::Timestamp(value.as_i64().ok_or_else(wrong)?),
        (value, Some(DataType::Duration)) => Datum::Duration(value.as_i64().ok_or_else(wrong)?),
        (value, Some(DataType::Float)) => Datum::Float(value.as_f64().ok_or_else(wrong)?),
        (Json::String(digits), Some(DataType::Decimal { .. })) => {
            let scale = digits.split_once('.').map_or(0, |(_, f)| f.len()) as u8;
            Datum::Decimal(text::parse_decimal(digits, scale).ok_or_else(wrong)?, scale)
        }
        (Json::Bool(b), _) => Datum::Bool(*b),
        (Json::String(s), _) => Datum::str(s),
        (Json::Number(n), _) => match n.as_i64() {
            Some(i) => Datum::Int(i),
            None => Datum::Float(n.as_f64().ok_or_else(wrong)?),
        },
        _ => return Err(wrong()),
    })
}

/// `and` (`stop` false) and `or` (`stop` true), three-valued.
fn both<A: Borrow<Datum>>(pair: &[Scalar; 2], args: &[A], stop: bool) -> Found {
    let mut unknown = false;
    for side in pair {
        match side.eval(args)? {
            Datum::Bool(b) if b == stop => return Ok(Datum::Bool(stop)),
            Datum::Bool(_) => {}
            Datum::Null => unknown = true,
            other => return Err(mistyped("a condition", &[other])),
        }
    }
    Ok(if unknown { Datum::Null } else { Datum::Bool(!stop) })
}

fn mistyped(what: &str, values: &[Datum]) -> Fault {
    ("bad_type", format!("{what} does not take {values:?}"))
}

fn fault(state: u8) -> Fault {
    (reason(state), String::new())
}

/// A kernel's value and state.
fn checked<T>((value, state): (T, u8), make: impl FnOnce(T) -> Datum) -> Found {
    match state {
        VALID => Ok(make(value)),
        NULL => Ok(Datum::Null),
        error => Err(fault(error)),
    }
}

fn finite(x: f64) -> Found {
    if x.is_finite() {
        Ok(Datum::Float(x))
    } else {
        Err(fault(ERR_NOT_A_NUMBER))
    }
}

/// Unscaled value and scale of an exact number.
fn exact(value: &Datum) -> Option<(i128, u8)> {
    match value {
        Datum::Int(x) => Some(((*x).into(), 0)),
        Datum::Decimal(x, s) => Some((*x, *s)),
        _ => None,
    }
}

fn float(value: &Datum) -> Option<f64> {
    match value {
        Datum::Int(x) => Some(*x as f64),
        Datum::Float(x) => Some(*x),
        _ => None,
    }
}

pub fn order(a: &Datum, b: &Datum) -> Result<Ordering, Fault> {
    Ok(match (a, b) {
        (Datum::Bool(x), Datum::Bool(y)) => x.cmp(y),
        (Datum::Str(x), Datum::Str(y)) => x.as_bytes().cmp(y.as_bytes()),
        (Datum::Bytes(x), Datum::Bytes(y)) => x.cmp(y),
        (Datum::Timestamp(x), Datum::Timestamp(y))
        | (Datum::Duration(x), Datum::Duration(y))
        | (Datum::Int(x), Datum::Int(y)) => x.cmp(y),
        _ => match (exact(a), exact(b), float(a), float(b)) {
            (Some((x, s)), Some((y, t)), _, _) => {
                let (fa, fb) = (decimal::pow10(t.saturating_sub(s).into()), decimal::pow10(s.saturating_sub(t).into()));
                decimal::cmp(x, fa, y, fb)
            }
            (_, _, Some(x), Some(y)) => x.partial_cmp(&y).ok_or_else(|| fault(ERR_NOT_A_NUMBER))?,
            _ => return Err(mistyped("a comparison", &[a.clone(), b.clone()])),
        },
    })
}

fn whole(op: Op, x: i64, y: i64, make: fn(i64) -> Datum) -> Found {
    let made = match op {
        Op::Add => x.checked_add(y),
        Op::Sub => x.checked_sub(y),
        Op::Mul => x.checked_mul(y),
        _ if y == 0 => return Ok(Datum::Null),
        Op::Div => return finite(x as f64 / y as f64),
        Op::FloorDiv => x.checked_div_euclid(y).map(|q| match y < 0 && x.rem_euclid(y) != 0 {
            true => q - 1,
            false => q,
        }),
        _ => Some(x.checked_rem(y).map_or(0, |r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r })),
    };
    made.map(make).ok_or_else(|| fault(ERR_OVERFLOW))
}

fn arithmetic(op: Op, a: &Datum, b: &Datum) -> Found {
    use Datum::{Decimal, Duration, Int, Timestamp};
    let wrong = || mistyped("arithmetic", &[a.clone(), b.clone()]);
    match (a, b) {
        (Int(x), Int(y)) => whole(op, *x, *y, Int),
        (Duration(x), Duration(y)) | (Duration(x), Int(y)) | (Int(x), Duration(y)) => whole(op, *x, *y, Duration),
        (Timestamp(x), Timestamp(y)) if op == Op::Sub => whole(op, *x, *y, Duration),
        (Timestamp(x), Duration(y)) | (Duration(x), Timestamp(y)) if matches!(op, Op::Add | Op::Sub) => {
            whole(op, *x, *y, Timestamp)
        }
        (Decimal(..), _) | (_, Decimal(..)) => {
            let ((x, s), (y, t)) = exact(a).zip(exact(b)).ok_or_else(wrong)?;
            let scale = s.max(t);
            let (ea, eb) = (u32::from(scale - s), u32::from(scale - t));
            let (fa, fb) = (decimal::pow10(ea), decimal::pow10(eb));
            match op {
                Op::Add => checked(decimal::add(x, fa, y, fb), |v| Decimal(v, scale)),
                Op::Sub => checked(decimal::sub(x, fa, y, fb), |v| Decimal(v, scale)),
                Op::Mul if u32::from(s) + u32::from(t) > 38 => Err(fault(ERR_OVERFLOW)),
                Op::Mul => checked(decimal::mul(x, y), |v| Decimal(v, s + t)),
                _ if y == 0 => Ok(Datum::Null),
                Op::Div => {
                    let scale = scale.max(6);
                    let shift = u32::from(scale) + u32::from(t) - u32::from(s);
                    checked(decimal::div(x, y, shift), |v| Decimal(v, scale))
                }
                Op::FloorDiv => checked(decimal::floordiv(x, ea, y, eb), |v| Decimal(v, 0)),
                _ => checked(decimal::modulo(x, ea, y, eb), |v| Decimal(v, scale)),
            }
        }
        _ => {
            let (x, y) = float(a).zip(float(b)).ok_or_else(wrong)?;
            match op {
                Op::Add => finite(x + y),
                Op::Sub => finite(x - y),
                Op::Mul => finite(x * y),
                _ if y == 0.0 => Ok(Datum::Null),
                Op::Div => finite(x / y),
                Op::FloorDiv => finite(super::eval_arith::float_floordiv(x, y)),
                _ => finite(super::eval_arith::float_mod(x, y)),
            }
        }
    }
}

fn call(op: Op, values: &[Datum], numbers: &Numbers) -> Found {
    let wrong = || mistyped(&format!("{op:?}").to_lowercase(), values);
    let string = |i: usize| match &values[i] {
        Datum::Str(s) => Ok(&**s),
        _ => Err(wrong()),
    };
    let time = || match &values[0] {
        Datum::Timestamp(t) => Ok(*t),
        _ => Err(wrong()),
    };
    let part = |of: i64, by: i64| Ok(Datum::Int(time()?.div_euclid(of).rem_euclid(by)));
    const DAY: i64 = 86_400_000;
    let civil = || Ok(text::civil_of(time()?.div_euclid(DAY)));
    match op {
        Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge => {
            let holds = op.comparison().expect("it is one");
            Ok(Datum::Bool(holds(order(&values[0], &values[1])?)))
        }
        Op::Add | Op::Sub | Op::Mul | Op::Div | Op::FloorDiv | Op::Mod => arithmetic(op, &values[0], &values[1]),
        Op::Not => match values[0] {
            Datum::Bool(b) => Ok(Datum::Bool(!b)),
            _ => Err(wrong()),
        },
        Op::Neg | Op::Abs => {
            let negative = match &values[0] {
                Datum::Int(x) | Datum::Duration(x) => *x < 0,
                Datum::Float(_) => false,
                Datum::Decimal(x, _) => *x < 0,
                _ => return Err(wrong()),
            };
            match &values[0] {
                // Not by its sign: -0.0 is not below 0.
                Datum::Float(x) if op == Op::Abs => Ok(Datum::Float(x.abs())),
                same if op == Op::Abs && !negative => Ok(same.clone()),
                Datum::Float(x) => Ok(Datum::Float(-x)),
                Datum::Decimal(x, s) => Ok(Datum::Decimal(-x, *s)),
                other => arithmetic(Op::Mul, other, &Datum::Int(-1)),
            }
        }
        Op::Round | Op::Floor | Op::Ceil => match (&values[0], op) {
            (Datum::Int(x), _) => Ok(Datum::Int(*x)),
            (Datum::Float(x), Op::Floor) => Ok(Datum::Float(x.floor())),
            (Datum::Float(x), Op::Ceil) => Ok(Datum::Float(x.ceil())),
            (Datum::Float(x), _) => {
                let digits = numbers.digits.max(0);
                finite(super::eval_arith::rounded(*x, digits as u32, 10f64.powi(digits.min(22))))
            }
            (Datum::Decimal(x, s), Op::Round) => {
                let digits = (numbers.digits.max(0) as u8).min(*s);
                checked(decimal::rescale(*x, *s, digits), |v| Datum::Decimal(v, digits))
            }
            (Datum::Decimal(x, s), _) => Ok(Datum::Decimal(decimal::to_whole(*x, *s, op == Op::Ceil), 0)),
            _ => Err(wrong()),
        },
        Op::Lower => Ok(Datum::str(&string(0)?.to_lowercase())),
        Op::Upper => Ok(Datum::str(&string(0)?.to_uppercase())),
        Op::Strip => Ok(Datum::str(string(0)?.trim())),
        Op::Len => Ok(Datum::Int(string(0)?.chars().count() as i64)),
        Op::LenBytes => Ok(Datum::Int(string(0)?.len() as i64)),
        Op::StartsWith => Ok(Datum::Bool(string(0)?.starts_with(string(1)?))),
        Op::EndsWith => Ok(Datum::Bool(string(0)?.ends_with(string(1)?))),
        Op::Contains => Ok(Datum::Bool(string(0)?.contains(string(1)?))),
        Op::Replace => Ok(Datum::str(&string(0)?.replace(string(1)?, string(2)?))),
        Op::Concat => Ok(Datum::str(&(0..values.len()).map(string).collect::<Result<String, _>>()?)),
        Op::Slice => {
            let of = string(0)?;
            let start = match numbers.offset < 0 {
                true => of.chars().count() as i64 + numbers.offset,
                false => numbers.offset,
            };
            let stop = numbers.length.map_or(i64::MAX, |n| start.saturating_add(n));
            let kept = of.chars().enumerate().filter(|(i, _)| (start..stop).contains(&(*i as i64)));
            Ok(Datum::str(&kept.map(|c| c.1).collect::<String>()))
        }
        Op::Truncate => {
            let floor = time()?.div_euclid(numbers.every_ms).checked_mul(numbers.every_ms);
            floor.map(Datum::Timestamp).ok_or_else(|| fault(ERR_OVERFLOW))
        }
        Op::EpochMs => Ok(Datum::Int(time()?)),
        Op::Year => Ok(Datum::Int(civil()?.0)),
        Op::Month => Ok(Datum::Int(civil()?.1)),
        Op::Day => Ok(Datum::Int(civil()?.2)),
        Op::Hour => part(3_600_000, 24),
        Op::Minute => part(60_000, 60),
        Op::Second => part(1000, 60),
        Op::Millisecond => part(1, 1000),
        Op::Weekday => Ok(Datum::Int((time()?.div_euclid(DAY) + 3).rem_euclid(7) + 1)),
    }
}

fn cast(value: Datum, to: &DataType) -> Found {
    let cannot = || fault(ERR_CAST);
    Ok(match (&value, to) {
        (Datum::Int(x), DataType::Float) => Datum::Float(*x as f64),
        (Datum::Int(x), DataType::Bool) => Datum::Bool(*x != 0),
        (Datum::Int(x), DataType::Timestamp) => Datum::Timestamp(*x),
        (Datum::Int(x), DataType::Duration) => Datum::Duration(*x),
        (Datum::Timestamp(x) | Datum::Duration(x), DataType::Int) => Datum::Int(*x),
        (Datum::Int(x), DataType::Str) => Datum::str(&x.to_string()),
        (Datum::Bool(x), DataType::Str) => Datum::str(&x.to_string()),
        (Datum::Bool(x), DataType::Int) => Datum::Int((*x).into()),
        (Datum::Float(x), DataType::Int) => match *x as i128 {
            n if x.is_finite() && x.abs() < 9.3e18 => Datum::Int(i64::try_from(n).map_err(|_| cannot())?),
            _ => return Err(cannot()),
        },
        (Datum::Decimal(x, s), DataType::Int) => {
            Datum::Int(i64::try_from(x / decimal::pow10((*s).into())).map_err(|_| cannot())?)
        }
        (Datum::Decimal(x, s), DataType::Float) => Datum::Float(text::decimal_to_float(*x, *s)),
        (Datum::Float(x), DataType::Decimal { precision, scale }) => match text::float_to_decimal(*x, *scale) {
            Some(v) if v.abs() <= decimal::max_of(*precision) => Datum::Decimal(v, *scale),
            _ => return Err(cannot()),
        },
        (Datum::Float(x), DataType::Str) => {
            let mut out = vec![];
            text::write_float(&mut out, *x);
            Datum::str(&String::from_utf8_lossy(&out))
        }
        (Datum::Decimal(x, s), DataType::Str) => {
            let mut out = vec![];
            text::write_decimal(&mut out, *x, *s);
            Datum::str(&String::from_utf8_lossy(&out))
        }
        (Datum::Int(_) | Datum::Decimal(..), DataType::Decimal { precision, scale }) => {
            let (x, s) = exact(&value).ok_or_else(cannot)?;
            match decimal::rescale(x, s, *scale) {
                (v, VALID) if v.abs() <= decimal::max_of(*precision) => Datum::Decimal(v, *scale),
                _ => return Err(cannot()),
            }
        }
        (Datum::Str(s), DataType::Decimal { precision, scale }) => match text::parse_decimal(s, *scale) {
            Some(v) if v.abs() <= decimal::max_of(*precision) => Datum::Decimal(v, *scale),
            _ => return Err(cannot()),
        },
        (Datum::Str(s), DataType::Int) => Datum::Int(s.parse().map_err(|_| cannot())?),
        (Datum::Str(s), DataType::Float) => finite(s.parse().map_err(|_| cannot())?).map_err(|_| cannot())?,
        (Datum::Str(s), DataType::Timestamp) => Datum::Timestamp(text::parse_timestamp(s).ok_or_else(cannot)?),
        (Datum::Timestamp(t), DataType::Str) => {
            let mut out = vec![];
            match text::write_timestamp(&mut out, *t) {
                VALID => Datum::str(&String::from_utf8_lossy(&out)),
                error => return Err(fault(error)),
            }
        }
        (Datum::Str(s), DataType::Enum(values)) => match values.iter().any(|v| **v == **s) {
            true => value,
            false => return Err(cannot()),
        },
        (Datum::Bool(_), DataType::Bool)
        | (Datum::Int(_), DataType::Int)
        | (Datum::Float(_), DataType::Float)
        | (Datum::Str(_), DataType::Str)
        | (Datum::Timestamp(_), DataType::Timestamp)
        | (Datum::Duration(_), DataType::Duration) => value,
        _ => return Err(mistyped(&format!("a cast to {to}"), &[value])),
    })
}
