//! The property: for random expressions over random rows, the vectorised result is that of a naive interpreter which
//! evaluates one record at a time, left to right, and stops as early as it can. It shares no arithmetic with the
//! kernels: decimals are digit strings here, civil dates are jiff's.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{json, Value as Json};

use super::{compile, Expr, NoForeign};
use crate::batch::Batch;
use crate::column::*;
use crate::types::{DataType, Schema};

/// A whole number of any size: sign and decimal digits, least first, without leading zeros.
#[derive(Clone, Debug, PartialEq)]
struct Big {
    negative: bool,
    digits: Vec<u8>,
}

impl Big {
    fn new(negative: bool, mut digits: Vec<u8>) -> Big {
        while digits.last() == Some(&0) {
            digits.pop();
        }
        Big { negative: negative && !digits.is_empty(), digits }
    }
    fn of(value: i128) -> Big {
        let digits = value.unsigned_abs().to_string().bytes().rev().map(|b| b - b'0').collect();
        Big::new(value < 0, digits)
    }
    /// Within 38 digits.
    fn back(&self) -> Option<i128> {
        if self.digits.len() > 38 {
            return None;
        }
        let magnitude = self.digits.iter().rev().fold(0i128, |n, d| n * 10 + *d as i128);
        Some(if self.negative { -magnitude } else { magnitude })
    }
    fn shift(&self, places: u32) -> Big {
        Big::new(self.negative, [vec![0; places as usize], self.digits.clone()].concat())
    }
    fn neg(&self) -> Big {
        Big::new(!self.negative, self.digits.clone())
    }
    fn abs(&self) -> Big {
        Big::new(false, self.digits.clone())
    }
    fn size(a: &[u8], b: &[u8]) -> Ordering {
        a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()))
    }
    fn cmp(&self, other: &Big) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => Big::size(&self.digits, &other.digits),
            (true, true) => Big::size(&other.digits, &self.digits),
        }
    }
    fn add(&self, other: &Big) -> Big {
        let at = |v: &[u8], i: usize| v.get(i).copied().unwrap_or(0) as i32;
        let length = self.digits.len().max(other.digits.len()) + 1;
        if self.negative == other.negative {
            let mut carry = 0;
            let mut out = vec![];
            for i in 0..length {
                let sum = at(&self.digits, i) + at(&other.digits, i) + carry;
                out.push((sum % 10) as u8);
                carry = sum / 10;
            }
            return Big::new(self.negative, out);
        }
        let swap = Big::size(&self.digits, &other.digits).is_lt();
        let (large, small) = if swap { (other, self) } else { (self, other) };
        let mut borrow = 0;
        let mut out = vec![];
        for i in 0..length {
            let rest = at(&large.digits, i) - at(&small.digits, i) - borrow;
            out.push(((rest + 10) % 10) as u8);
            borrow = (rest < 0) as i32;
        }
        Big::new(large.negative, out)
    }
    fn sub(&self, other: &Big) -> Big {
        self.add(&other.neg())
    }
    fn mul(&self, other: &Big) -> Big {
        let mut out = vec![0u32; self.digits.len() + other.digits.len() + 1];
        for (i, a) in self.digits.iter().enumerate() {
            for (j, b) in other.digits.iter().enumerate() {
                out[i + j] += *a as u32 * *b as u32;
            }
        }
        for i in 1..out.len() {
            out[i] += out[i - 1] / 10;
            out[i - 1] %= 10;
        }
        Big::new(self.negative != other.negative, out.iter().map(|d| *d as u8).collect())
    }
    /// Floor quotient and remainder.
    fn div_floor(&self, by: &Big) -> (Big, Big) {
        let divisor = by.abs();
        let (mut rest, mut quotient) = (Big::of(0), Big::of(0));
        for digit in self.digits.iter().rev() {
            rest = rest.shift(1).add(&Big::of(*digit as i128));
            let mut times = 0;
            while rest.cmp(&divisor).is_ge() {
                rest = rest.sub(&divisor);
                times += 1;
            }
            quotient = quotient.shift(1).add(&Big::of(times));
        }
        let mut quotient = if self.negative != by.negative { quotient.neg() } else { quotient };
        let mut rest = if self.negative { rest.neg() } else { rest };
        if !rest.digits.is_empty() && rest.negative != by.negative {
            quotient = quotient.sub(&Big::of(1));
            rest = rest.add(by);
        }
        (quotient, rest)
    }
    fn div_half_even(&self, by: &Big) -> Big {
        let (floor, rest) = self.div_floor(by);
        let odd = floor.digits.first().is_some_and(|d| d % 2 == 1);
        match rest.add(&rest).abs().cmp(&by.abs()) {
            Ordering::Less => floor,
            Ordering::Equal if !odd => floor,
            _ => floor.add(&Big::of(1)),
        }
    }
}

fn decimal(value: &Big, scale: u8, error: u8) -> Value {
    value.back().map_or(Value::Error(error), |v| Value::Decimal(v, scale))
}

/// Unscaled value and scale of an exact number.
fn exact(value: &Value) -> Option<(Big, u8)> {
    match value {
        Value::Int(x) => Some((Big::of(*x as i128), 0)),
        Value::Decimal(x, s) => Some((Big::of(*x), *s)),
        _ => None,
    }
}

fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Int(x) => Some(*x as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

fn finite(x: f64) -> Value {
    if x.is_finite() {
        Value::Float(x)
    } else {
        Value::Error(ERR_NOT_A_NUMBER)
    }
}

fn in_i64(x: i128) -> Result<i64, Value> {
    i64::try_from(x).map_err(|_| Value::Error(ERR_OVERFLOW))
}

/// CPython's `float.__divmod__`.
fn divmod(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 && (b < 0.0) != (rest < 0.0) {
        rest += b;
        quotient = (a - rest) / b;
    }
    let mut floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor += 1.0;
    }
    (floor, rest)
}

fn arithmetic(op: &str, a: &Value, b: &Value) -> Value {
    use Value::*;
    let whole = |make: fn(i64) -> Value, x: i64, y: i64| {
        let (x, y) = (x as i128, y as i128);
        let result = match op {
            "add" => x + y,
            "sub" => x - y,
            "mul" => x * y,
            _ if y == 0 => return Null,
            "div" => return Float(x as f64 / y as f64),
            "floordiv" => (x - (x % y + y) % y) / y,
            _ => (x % y + y) % y,
        };
        in_i64(result).map_or_else(|e| e, make)
    };
    match (a, b) {
        (Int(x), Int(y)) => whole(Int, *x, *y),
        (Duration(x), Duration(y)) | (Duration(x), Int(y)) | (Int(x), Duration(y)) => whole(Duration, *x, *y),
        (Timestamp(x), Timestamp(y)) => whole(Duration, *x, *y),
        (Timestamp(x), Duration(y)) | (Duration(x), Timestamp(y)) => whole(Timestamp, *x, *y),
        (Decimal(..), _) | (_, Decimal(..)) => {
            let ((x, s), (y, t)) = (exact(a).unwrap(), exact(b).unwrap());
            let scale = s.max(t);
            let (xx, yy) = (x.shift((scale - s) as u32), y.shift((scale - t) as u32));
            match op {
                "add" => decimal(&xx.add(&yy), scale, ERR_OVERFLOW),
                "sub" => decimal(&xx.sub(&yy), scale, ERR_OVERFLOW),
                "mul" => decimal(&x.mul(&y), s + t, ERR_OVERFLOW),
                _ if y == Big::of(0) => Null,
                "div" => {
                    let scale = scale.max(6);
                    decimal(&xx.shift(scale as u32).div_half_even(&yy), scale, ERR_OVERFLOW)
                }
                "floordiv" => decimal(&xx.div_floor(&yy).0, 0, ERR_OVERFLOW),
                _ => decimal(&xx.div_floor(&yy).1, scale, ERR_OVERFLOW),
            }
        }
        _ => {
            let (x, y) = (to_float(a).unwrap(), to_float(b).unwrap());
            match op {
                "add" => finite(x + y),
                "sub" => finite(x - y),
                "mul" => finite(x * y),
                _ if y == 0.0 => Null,
                "div" => finite(x / y),
                "floordiv" => finite(divmod(x, y).0),
                _ => finite(divmod(x, y).1),
            }
        }
    }
}

fn order(a: &Value, b: &Value) -> Ordering {
    use Value::*;
    match (a, b) {
        (Bool(x), Bool(y)) => x.cmp(y),
        (Str(x), Str(y)) => x.as_bytes().cmp(y.as_bytes()),
        (Timestamp(x), Timestamp(y)) | (Duration(x), Duration(y)) | (Int(x), Int(y)) => x.cmp(y),
        (Float(_), _) | (_, Float(_)) => to_float(a).unwrap().partial_cmp(&to_float(b).unwrap()).unwrap(),
        _ => {
            let ((x, s), (y, t)) = (exact(a).unwrap(), exact(b).unwrap());
            x.shift(t as u32).cmp(&y.shift(s as u32))
        }
    }
}

fn convert(value: Value, to: &DataType, error: u8) -> Value {
    use Value::*;
    match (value, to) {
        (Int(x), DataType::Float) => Float(x as f64),
        (Int(x), DataType::Bool) => Bool(x != 0),
        (Int(x), DataType::Timestamp) => Timestamp(x),
        (Int(x), DataType::Duration) => Duration(x),
        (Timestamp(x) | Duration(x), DataType::Int) => Int(x),
        (Int(x), DataType::Str) => Str(x.to_string()),
        (Bool(x), DataType::Str) => Str(x.to_string()),
        (Bool(x), DataType::Int) => Int(x as i64),
        (Float(x), DataType::Int) => {
            if x.abs() < 9.3e18 && i64::try_from(x as i128).is_ok() {
                Int(x as i64)
            } else {
                Error(error)
            }
        }
        (Decimal(x, s), DataType::Int) => {
            let whole = Big::of(x).abs().div_floor(&Big::of(1).shift(s as u32)).0;
            let whole = whole.back().map(|v| if x < 0 { -v } else { v });
            whole.and_then(|v| i64::try_from(v).ok()).map_or(Error(error), Int)
        }
        (Decimal(x, s), DataType::Float) => {
            let digits = format!("{x}e-{s}");
            Float(digits.parse().unwrap())
        }
        (Decimal(x, s), DataType::Str) => {
            let digits = format!("{:0>width$}", x.unsigned_abs(), width = s as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - s as usize);
            let point = if s > 0 { "." } else { "" };
            Str(format!("{}{whole}{point}{fraction}", if x < 0 { "-" } else { "" }))
        }
        (v @ (Int(_) | Decimal(..)), DataType::Decimal { precision, scale }) => {
            let (x, s) = exact(&v).unwrap();
            let x = x.shift(*scale as u32).div_half_even(&Big::of(1).shift(s as u32));
            if x.digits.len() > *precision as usize {
                return Error(error);
            }
            decimal(&x, *scale, error)
        }
        (Str(s), DataType::Int) => s.parse().map_or(Error(error), Int),
        (Str(s), DataType::Enum(values)) if !values.contains(&s) => Error(error),
        (other, _) => other,
    }
}

fn literal(e: &Json) -> Value {
    let value = &e["value"];
    if value.is_null() {
        return Value::Null;
    }
    match e["type"].as_str() {
        Some("timestamp") => Value::Timestamp(value.as_i64().unwrap()),
        Some("duration") => Value::Duration(value.as_i64().unwrap()),
        Some("float") => Value::Float(value.as_f64().unwrap()),
        Some("int") => Value::Int(value.as_i64().unwrap()),
        Some(t) if t.starts_with("decimal") => {
            let digits = value.as_str().unwrap();
            let scale = digits.split_once('.').map_or(0, |(_, f)| f.len()) as u8;
            Value::Decimal(digits.replace('.', "").parse().unwrap(), scale)
        }
        _ => match value {
            Json::Bool(b) => Value::Bool(*b),
            Json::String(s) => Value::Str(s.clone()),
            _ => unreachable!(),
        },
    }
}

fn naive(e: &Json, batch: &Batch, row: usize) -> Value {
    let op = e["op"].as_str().unwrap();
    let args = e["args"].as_array().cloned().unwrap_or_default();
    let arg = |i: usize| naive(&args[i], batch, row);
    // The static type, which the choice between values of different types converts to.
    let own_type = || compile(&serde_json::from_value::<Expr>(e.clone()).unwrap(), &batch.schema).unwrap().dtype;
    match op {
        "col" => match e["name"].as_str().unwrap() {
            "$timestamp" => return Value::Timestamp(batch.ts[row]),
            name => return batch.column(name).unwrap().value_at(row),
        },
        "lit" => return literal(e),
        "and" | "or" => {
            let stop = Value::Bool(op == "or");
            let a = arg(0);
            if a == stop || matches!(a, Value::Error(_)) {
                return a;
            }
            let b = arg(1);
            if b == stop || matches!(b, Value::Error(_)) {
                return b;
            }
            let unknown = a == Value::Null || b == Value::Null;
            return if unknown { Value::Null } else { Value::Bool(op == "and") };
        }
        "is_null" | "is_not_null" => {
            return match arg(0) {
                Value::Error(x) => Value::Error(x),
                other => Value::Bool((other == Value::Null) == (op == "is_null")),
            }
        }
        "when" => {
            let mut i = 0;
            while i + 1 < args.len() {
                match arg(i) {
                    Value::Error(x) => return Value::Error(x),
                    Value::Bool(true) => return convert(arg(i + 1), &own_type(), ERR_OVERFLOW),
                    _ => i += 2,
                }
            }
            return convert(arg(i), &own_type(), ERR_OVERFLOW);
        }
        "fill_null" | "coalesce" => {
            for i in 0..args.len() {
                match arg(i) {
                    Value::Null => {}
                    found => return convert(found, &own_type(), ERR_OVERFLOW),
                }
            }
            return Value::Null;
        }
        _ => {}
    }
    let mut values: Vec<Value> = (0..args.len()).map(arg).collect();
    if op.ends_with("_horizontal") {
        let dtype = own_type();
        values = values.into_iter().map(|v| convert(v, &dtype, ERR_OVERFLOW)).collect();
    }
    let strict = if op == "is_in" { &values[..1] } else { &values[..] };
    if let Some(error) = strict.iter().find(|v| matches!(v, Value::Error(_))) {
        return error.clone();
    }
    if op.ends_with("_horizontal") {
        values.retain(|v| *v != Value::Null);
        if values.is_empty() {
            return Value::Null;
        }
    } else if strict.contains(&Value::Null) {
        return Value::Null;
    }
    let text = |i: usize| match &values[i] {
        Value::Str(s) => s.as_str(),
        other => panic!("{other:?}"),
    };
    let time = || match values[0] {
        Value::Timestamp(t) => t,
        _ => panic!(),
    };
    let civil = || jiff::Timestamp::from_millisecond(time()).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
    match op {
        "add" | "sub" | "mul" | "div" | "floordiv" | "mod" => arithmetic(op, &values[0], &values[1]),
        "eq" => Value::Bool(order(&values[0], &values[1]).is_eq()),
        "ne" => Value::Bool(order(&values[0], &values[1]).is_ne()),
        "lt" => Value::Bool(order(&values[0], &values[1]).is_lt()),
        "le" => Value::Bool(order(&values[0], &values[1]).is_le()),
        "gt" => Value::Bool(order(&values[0], &values[1]).is_gt()),
        "ge" => Value::Bool(order(&values[0], &values[1]).is_ge()),
        "not" => Value::Bool(values[0] == Value::Bool(false)),
        "neg" => match &values[0] {
            Value::Decimal(x, s) => Value::Decimal(-x, *s),
            Value::Float(x) => Value::Float(-x),
            other => arithmetic("mul", other, &Value::Int(-1)),
        },
        "abs" => {
            let zero = convert(Value::Int(0), &own_type(), 0);
            if order(&values[0], &zero).is_ge() {
                values[0].clone()
            } else if let Value::Float(x) = values[0] {
                Value::Float(-x)
            } else if let Value::Decimal(x, s) = values[0] {
                Value::Decimal(-x, s)
            } else {
                arithmetic("mul", &values[0], &Value::Int(-1))
            }
        }
        "round" | "floor" | "ceil" => match &values[0] {
            Value::Decimal(x, s) => {
                let digits = if op == "round" { e["digits"].as_u64().unwrap() as u8 } else { 0 };
                let by = Big::of(1).shift((s - digits.min(*s)) as u32);
                let x = Big::of(*x);
                let x = match op {
                    "round" => x.div_half_even(&by),
                    "floor" => x.div_floor(&by).0,
                    _ => x.neg().div_floor(&by).0.neg(),
                };
                decimal(&x, digits.min(*s), 0)
            }
            Value::Float(x) if op == "floor" => Value::Float(x.floor()),
            Value::Float(x) if op == "ceil" => Value::Float(x.ceil()),
            other => other.clone(),
        },
        "min_horizontal" => values.iter().min_by(|a, b| order(a, b)).unwrap().clone(),
        "max_horizontal" => values.iter().max_by(|a, b| order(a, b)).unwrap().clone(),
        "is_in" => {
            let (found, rest) = (&values[0], &values[1..]);
            if rest.iter().any(|v| *v != Value::Null && order(found, v).is_eq()) {
                Value::Bool(true)
            } else if rest.contains(&Value::Null) {
                Value::Null
            } else {
                Value::Bool(false)
            }
        }
        "cast" => convert(values[0].clone(), &own_type(), ERR_CAST),
        "str_lower" => Value::Str(text(0).to_lowercase()),
        "str_upper" => Value::Str(text(0).to_uppercase()),
        "str_strip" => Value::Str(text(0).trim().to_string()),
        "str_len" => Value::Int(text(0).chars().count() as i64),
        "str_bytes" => Value::Int(text(0).len() as i64),
        "str_starts_with" => Value::Bool(text(0).starts_with(text(1))),
        "str_ends_with" => Value::Bool(text(0).ends_with(text(1))),
        "str_contains" => Value::Bool(text(0).contains(text(1))),
        "str_replace" => Value::Str(text(0).replace(text(1), text(2))),
        "str_concat" => Value::Str((0..values.len()).map(text).collect()),
        "str_slice" => {
            let chars: Vec<char> = text(0).chars().collect();
            let offset = e["offset"].as_i64().unwrap();
            let start = if offset < 0 { chars.len() as i64 + offset } else { offset };
            let stop = e["length"].as_i64().map_or(i64::MAX, |l| start + l);
            let kept = chars.iter().enumerate().filter(|(i, _)| (start..stop).contains(&(*i as i64)));
            Value::Str(kept.map(|(_, c)| *c).collect())
        }
        "dt_truncate" => {
            let every = e["every_ms"].as_i64().unwrap() as i128;
            let floor = (time() as i128).div_euclid(every) * every;
            in_i64(floor).map_or_else(|e| e, Value::Timestamp)
        }
        "dt_epoch_ms" => Value::Int(time()),
        "dt_year" => Value::Int(civil().year() as i64),
        "dt_month" => Value::Int(civil().month() as i64),
        "dt_day" => Value::Int(civil().day() as i64),
        "dt_hour" => Value::Int(civil().hour() as i64),
        "dt_minute" => Value::Int(civil().minute() as i64),
        "dt_second" => Value::Int(civil().second() as i64),
        "dt_millisecond" => Value::Int(civil().millisecond() as i64),
        "dt_weekday" => Value::Int(civil().weekday().to_monday_one_offset() as i64),
        other => panic!("{other}"),
    }
}

/// What decides an expression and its rows: numbers drawn one after the other (zeros when they run out).
struct Draw<'a> {
    left: std::slice::Iter<'a, u32>,
}

const ENUM: &str = r#"enum["red","blue","ß"]"#;
const WORDS: [&str; 8] = ["", "red", "blue", "ß", "Red ", "a b", "12", "ΑΣ"];
const NUMBERS: [&str; 3] = ["int", "decimal(10,2)", "decimal(38,10)"];
const COLUMNS: [(&str, &str); 14] = [
    ("b1", "bool"),
    ("b2", "bool"),
    ("i1", "int"),
    ("i2", "int"),
    ("f1", "float"),
    ("f2", "float"),
    ("d1", "decimal(10,2)"),
    ("d2", "decimal(38,10)"),
    ("s1", "str"),
    ("s2", "str"),
    ("e1", ENUM),
    ("e2", ENUM),
    ("t1", "timestamp"),
    ("u1", "duration"),
];

impl Draw<'_> {
    fn to(&mut self, n: usize) -> usize {
        self.left.next().map_or(0, |x| *x as usize % n)
    }
    fn pick<'b>(&mut self, list: &[&'b str]) -> &'b str {
        list[self.to(list.len())]
    }
    fn value(&mut self, t: &str) -> Value {
        let int = |d: &mut Self| match d.to(8) {
            0 => i64::MAX - d.to(2) as i64,
            1 => i64::MIN + d.to(2) as i64,
            2 => 1 << 53,
            _ => d.to(9) as i64 - 4,
        };
        match t {
            "bool" => Value::Bool(self.to(2) == 1),
            "int" => Value::Int(int(self)),
            "duration" => Value::Duration(int(self)),
            // In jiff's range, so that parts of it can be compared.
            "timestamp" => Value::Timestamp(match self.to(3) {
                0 => self.to(2_000_000_000) as i64 * 100_000 - 60_000_000_000_000,
                1 => self.to(2_000_000_000) as i64 * 1_000,
                _ => self.to(9) as i64 - 4,
            }),
            "float" => Value::Float(match self.to(8) {
                0 => 1e308,
                1 => -1e308,
                2 => 0.1,
                3 => 1e-300,
                4 => 9.3e18,
                _ => (self.to(17) as f64 - 8.0) / 2.0,
            }),
            "decimal(10,2)" => Value::Decimal(
                match self.to(4) {
                    0 => 9_999_999_999,
                    _ => self.to(1001) as i128 - 500,
                },
                2,
            ),
            "decimal(38,10)" => {
                let digits = self.to(38) as u32;
                let sign = if self.to(2) == 0 { 1 } else { -1 };
                let factor = if self.to(4) == 0 { 9 } else { 1 };
                Value::Decimal(sign * factor * 10i128.pow(digits) + self.to(50) as i128, 10)
            }
            "str" => Value::Str(self.pick(&WORDS).to_string()),
            _ => Value::Str(self.pick(&["red", "blue", "ß"]).to_string()),
        }
    }
    fn literal(&mut self, t: &str) -> Json {
        match self.to(8) {
            0 => json!({"op": "lit"}),
            1 => json!({"op": "lit", "type": t}),
            _ => {
                let value = match self.value(t) {
                    Value::Bool(b) => json!(b),
                    Value::Int(x) | Value::Timestamp(x) | Value::Duration(x) => json!(x),
                    Value::Float(x) => json!(x),
                    Value::Str(s) => json!(s),
                    v @ Value::Decimal(..) => match convert(v, &DataType::Str, 0) {
                        Value::Str(s) => json!(s),
                        _ => unreachable!(),
                    },
                    _ => unreachable!(),
                };
                json!({"op": "lit", "type": t, "value": value})
            }
        }
    }
    fn leaf(&mut self, t: &str) -> Json {
        if self.to(3) == 0 {
            return self.literal(t);
        }
        let names: Vec<&str> = COLUMNS.iter().filter(|c| c.1 == t).map(|c| c.0).collect();
        json!({"op": "col", "name": self.pick(&names)})
    }
    /// An expression that has more or less this type.
    fn expr(&mut self, t: &str, depth: usize) -> Json {
        if depth == 0 || self.to(6) == 0 {
            return self.leaf(t);
        }
        let d = depth - 1;
        let call = |op: &str, args: Vec<Json>| json!({"op": op, "args": args});
        match self.to(8) {
            0 => {
                let mut args = vec![];
                for _ in 0..=self.to(2) {
                    args.extend([self.expr("bool", d), self.like(t, d)]);
                }
                args.push(self.like(t, d));
                return call("when", args);
            }
            1 => {
                let op = self.pick(&["fill_null", "coalesce", "min_horizontal", "max_horizontal"]);
                let args = (0..self.to(2) + 2).map(|_| self.like(t, d)).collect();
                return call(op, args);
            }
            _ => {}
        }
        match t {
            "bool" => match self.to(7) {
                0 | 1 => call(self.pick(&["and", "or"]), vec![self.expr(t, d), self.expr(t, d)]),
                2 => call("not", vec![self.expr(t, d)]),
                3 => {
                    let of = self.any();
                    call(self.pick(&["is_null", "is_not_null"]), vec![self.expr(of, d)])
                }
                4 => {
                    let op = self.pick(&["str_starts_with", "str_ends_with", "str_contains"]);
                    call(op, vec![self.like("str", d), self.like("str", 0)])
                }
                5 => {
                    let of = self.any();
                    let list = (0..self.to(12)).map(|_| self.literal(of));
                    let list: Vec<Json> = list.collect();
                    call("is_in", [vec![self.like(of, d)], list].concat())
                }
                _ => {
                    let of = self.any();
                    let op = self.pick(&["eq", "ne", "lt", "le", "gt", "ge"]);
                    call(op, vec![self.like(of, d), self.like(of, d)])
                }
            },
            "int" => match self.to(5) {
                0 => call(self.pick(&["neg", "abs", "floor", "ceil"]), vec![self.expr(t, d)]),
                1 => call(self.pick(&["str_len", "str_bytes"]), vec![self.like("str", d)]),
                2 => {
                    // Straight from a column: a computed time may lie beyond jiff's years.
                    let op = ["year", "month", "day", "hour", "minute", "second", "millisecond", "weekday", "epoch_ms"];
                    let op = format!("dt_{}", self.pick(&op));
                    call(&op, vec![self.leaf("timestamp")])
                }
                3 => {
                    let of = self.pick(&["float", "decimal(38,10)", "str", ENUM, "bool", "timestamp"]);
                    json!({"op": "cast", "type": t, "args": [self.expr(of, d)]})
                }
                _ => {
                    let op = self.pick(&["add", "sub", "mul", "floordiv", "mod"]);
                    call(op, vec![self.expr(t, d), self.expr(t, d)])
                }
            },
            "float" => match self.to(5) {
                0 => call(self.pick(&["neg", "abs", "floor", "ceil"]), vec![self.expr(t, d)]),
                1 => call("div", vec![self.expr("int", d), self.expr("int", d)]),
                2 => call("div", vec![self.expr("duration", d), self.expr("duration", d)]),
                3 => {
                    let of = self.pick(&["int", "decimal(10,2)"]);
                    json!({"op": "cast", "type": t, "args": [self.expr(of, d)]})
                }
                _ => {
                    let op = self.pick(&["add", "sub", "mul", "div", "floordiv", "mod"]);
                    call(op, vec![self.expr(t, d), self.like(t, d)])
                }
            },
            "decimal(10,2)" | "decimal(38,10)" => match self.to(5) {
                0 => call(self.pick(&["neg", "abs", "floor", "ceil"]), vec![self.expr(t, d)]),
                1 => json!({"op": "round", "digits": self.to(12), "args": [self.expr(t, d)]}),
                2 => {
                    let of = self.pick(&NUMBERS);
                    json!({"op": "cast", "type": t, "args": [self.expr(of, d)]})
                }
                _ => {
                    let op = self.pick(&["add", "sub", "mul", "div", "floordiv", "mod"]);
                    call(op, vec![self.expr(t, d), self.like(t, d)])
                }
            },
            "timestamp" => match self.to(3) {
                0 => call("add", vec![self.expr(t, d), self.expr("duration", d)]),
                1 => call("sub", vec![self.expr(t, d), self.expr("duration", d)]),
                _ => json!({"op": "dt_truncate", "every_ms": self.to(100_000) + 1, "args": [self.expr(t, d)]}),
            },
            "duration" => match self.to(4) {
                0 => call("sub", vec![self.leaf("timestamp"), json!({"op": "col", "name": "$timestamp"})]),
                1 => call("mul", vec![self.expr(t, d), self.expr("int", d)]),
                2 => call(self.pick(&["neg", "abs"]), vec![self.expr(t, d)]),
                _ => call(self.pick(&["add", "sub"]), vec![self.expr(t, d), self.expr(t, d)]),
            },
            ENUM => json!({"op": "cast", "type": ENUM, "args": [self.expr("str", d)]}),
            _ => match self.to(5) {
                0 => call(self.pick(&["str_lower", "str_upper", "str_strip"]), vec![self.like("str", d)]),
                1 => call("str_concat", (0..=self.to(3)).map(|_| self.like("str", d)).collect()),
                2 => call("str_replace", (0..3).map(|i| self.like("str", if i == 0 { d } else { 0 })).collect()),
                3 => {
                    let of = self.pick(&["int", "decimal(38,10)", "decimal(10,2)", "bool", ENUM]);
                    json!({"op": "cast", "type": "str", "args": [self.expr(of, d)]})
                }
                _ => {
                    let mut e = call("str_slice", vec![self.like("str", d)]);
                    e["offset"] = json!(self.to(9) as i64 - 4);
                    if self.to(2) == 1 {
                        e["length"] = json!(self.to(4));
                    }
                    e
                }
            },
        }
    }
    /// Of this type or one that mixes with it.
    fn like(&mut self, t: &str, depth: usize) -> Json {
        let t = match (t, self.to(3)) {
            ("float", 0) => "int",
            ("decimal(10,2)" | "decimal(38,10)", 0) => self.pick(&NUMBERS),
            ("str" | ENUM, 0) => self.pick(&["str", ENUM]),
            _ => t,
        };
        self.expr(t, depth)
    }
    fn any(&mut self) -> &'static str {
        COLUMNS[self.to(COLUMNS.len())].1
    }
    fn batch(&mut self) -> Batch {
        let rows = self.to(12);
        let columns = COLUMNS.iter().map(|(_, t)| {
            let mut builder = ColumnBuilder::new(t.parse().unwrap());
            let clean = self.to(3) == 0;
            for _ in 0..rows {
                match self.to(6) {
                    0 if !clean => builder.push_null(),
                    1 if !clean => builder.push_state(ERROR_MIN + self.to(5) as u8),
                    _ => builder.push_value(&self.value(t)),
                }
            }
            let mut column = builder.finish();
            // A slot that is not valid may hold anything.
            for row in 0..rows {
                if column.is_valid(row) {
                    continue;
                }
                match &mut column.data {
                    Data::Bool(v) => v[row] = 1,
                    Data::I64(v) => v[row] = i64::MIN,
                    Data::F64(v) => v[row] = f64::NAN,
                    Data::I128(v) => v[row] = i128::MIN,
                    Data::Code(v) => v[row] = u32::MAX,
                    Data::Str(_) => {}
                }
            }
            Arc::new(column)
        });
        let columns: Vec<Arc<Column>> = columns.collect();
        let schema = Schema::new(COLUMNS.iter().map(|(name, t)| (*name, t.parse::<DataType>().unwrap())));
        Batch {
            schema: Arc::new(schema),
            columns,
            rows,
            live: None,
            seq: Arc::new((0..rows as u32).collect()),
            path: None,
            ts: Arc::new((0..rows as i64).map(|i| i * 1000).collect()),
            key: None,
            sign: None,
            lane: 0,
            stamp: None,
            origins: Arc::new(vec![]),
            origin_rows: None,
        }
    }
}

#[test]
fn vectorised_is_record_by_record() {
    let (tried, compiled_count) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6000);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let numbers = |n: usize| prop::collection::vec(any::<u32>(), 0..n);
    proptest!(config, |(shape in numbers(250), content in numbers(500))| {
        let mut draw = Draw { left: shape.iter() };
        let of = draw.any();
        let e = draw.expr(of, 4);
        let batch = Draw { left: content.iter() }.batch();
        tried.fetch_add(1, Relaxed);
        match compile(&serde_json::from_value(e.clone()).unwrap(), &batch.schema) {
            // Not every drawn tree is well typed.
            Err(error) => {
                let known = ["type_mismatch", "decimal_scale", "untyped_null", "unknown_value"];
                prop_assert!(known.contains(&error.code), "{}: {}", e, error);
                prop_assert!(error.hint.is_some());
            }
            Ok(compiled) => {
                compiled_count.fetch_add(1, Relaxed);
                let column = compiled.eval(&batch, &NoForeign);
                prop_assert_eq!(&column.dtype, &compiled.dtype);
                prop_assert_eq!(column.len(), batch.rows);
                for row in 0..batch.rows {
                    prop_assert_eq!(column.value_at(row), naive(&e, &batch, row), "row {} of {}", row, e);
                }
            }
        }
    });
    let share = compiled_count.load(Relaxed) as f64 / tried.load(Relaxed) as f64;
    assert!(share > 0.5, "only {share} of the expressions were well typed");
}

/// The same expressions over single values: the same value or the same reason, apart from the type of a number, which
/// nobody unifies there.
#[test]
fn one_value_at_a_time_is_vectorised() {
    use crate::datum::Datum;
    fn datum(value: &Value) -> Datum {
        match value {
            Value::Null | Value::Error(_) => Datum::Null,
            Value::Bool(b) => Datum::Bool(*b),
            Value::Int(x) => Datum::Int(*x),
            Value::Float(x) => Datum::Float(*x),
            Value::Decimal(x, s) => Datum::Decimal(*x, *s),
            Value::Str(s) => Datum::str(s),
            Value::Timestamp(x) => Datum::Timestamp(*x),
            Value::Duration(x) => Datum::Duration(*x),
        }
    }
    fn mixes(e: &Json) -> bool {
        // Branches that one type would have converted, and casts of what only a static type is.
        let op = e["op"].as_str().unwrap_or_default();
        let own = matches!(op, "when" | "fill_null" | "coalesce") || op.ends_with("_horizontal");
        let time = op == "col" && e["name"].as_str().is_some_and(|n| n.starts_with('$'));
        own || time || e["args"].as_array().is_some_and(|args| args.iter().any(mixes))
    }
    let (tried, compared) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(6000);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let numbers = |n: usize| prop::collection::vec(any::<u32>(), 0..n);
    proptest!(config, |(shape in numbers(250), content in numbers(500))| {
        let mut draw = Draw { left: shape.iter() };
        let of = draw.any();
        let e = draw.expr(of, 3);
        let batch = Draw { left: content.iter() }.batch();
        tried.fetch_add(1, Relaxed);
        let expr: Expr = serde_json::from_value(e.clone()).unwrap();
        let Ok(compiled) = compile(&expr, &batch.schema) else { return Ok(()) };
        if mixes(&e) {
            return Ok(());
        }
        let scalar = super::Scalar::compile(&expr).unwrap();
        let column = compiled.eval(&batch, &NoForeign);
        for row in 0..batch.rows {
            if batch.columns.iter().any(|c| c.state_at(row) >= ERROR_MIN) {
                continue;
            }
            let fields = batch.schema.fields.iter().zip(&batch.columns);
            let fields = fields.map(|(f, c)| (Arc::from(f.name.as_str()), datum(&c.value_at(row)))).collect();
            let found = scalar.eval(&[Datum::Null, Datum::Map(fields)]);
            compared.fetch_add(1, Relaxed);
            match (column.value_at(row), found) {
                (Value::Error(state), Err((why, _))) => prop_assert_eq!(reason(state), why, "row {} of {}", row, e),
                (value, Ok(found)) => prop_assert_eq!(datum(&value), found, "row {} of {}", row, e),
                (value, found) => prop_assert!(false, "{:?} and {:?}: row {} of {}", value, found, row, e),
            }
        }
    });
    let (tried, compared) = (tried.load(Relaxed), compared.load(Relaxed));
    assert!(compared > tried / 4, "only {compared} rows compared in {tried} cases");
}
