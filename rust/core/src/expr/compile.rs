//! From an expression and a schema to kernels: all types, and all that depends on them, are decided here, once.
//!
//! - **Types** are inferred bottom-up. `int` meets `float` as `float` and `decimal` as a decimal of scale 0; `decimal`
//!   never meets `float` (that would silently lose digits), enums meet text as text. A null literal without a type takes
//!   its neighbour's. What does not fit is a [`PlanError`] that names the operation, the types and one remedy.
//! - **Literals** stay scalars, and a subtree of literals is computed now. Text operations over one enum column and
//!   literals are computed once per member; an enum against a literal is a comparison of codes.
//! - **Arithmetic**: `int` is checked 64-bit, `int / int` a float. Decimals have 38 digits; add, sub and mod have the
//!   larger scale, mul the sum of both, div `max(6, both)` rounded half to even, floordiv 0. Floor and modulo as
//!   Python's. By zero is null.
//! - **Rounding**: half to even, of decimals (the result has the lower scale) and of floats, these on their shortest text;
//!   casts to `int` cut off.
//! - **Nulls and errors**: the first error among the arguments, else null if any is null; `min_horizontal` and
//!   `max_horizontal` leave nulls out; the other exceptions (`and`, `or`, `when`, `coalesce`, `is_null`) stand in
//!   `eval_logic.rs`.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use super::eval::{Meta, Node, Order};
use super::eval_arith::{self as arith, Arith};
use super::eval_cast::{cast, Cast};
use super::eval_cmp::{self as cmp, Cmp};
use super::kernel::{by_member, finish, Kernel, Operand};
use super::text::{nearest, parse_decimal_exact};
use super::{decimal, eval_logic as logic, eval_text, eval_time};
use crate::batch::Batch;
use crate::column::{Column, ColumnBuilder, Value, ERR_CAST, ERR_OVERFLOW};
use crate::error::PlanError;
use crate::expr::{Expr, Foreign};
use crate::types::{DataType, Schema};

#[derive(Clone)]
pub struct Compiled {
    pub dtype: DataType,
    /// Schema indices of the columns it reads, ascending, without repeats.
    pub columns: Vec<usize>,
    node: Node,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("dtype", &self.dtype).field("columns", &self.columns).finish_non_exhaustive()
    }
}

pub fn compile(expr: &Expr, schema: &Schema) -> Result<Compiled, PlanError> {
    let mut compiler = Compiler { schema, columns: BTreeSet::new() };
    let Typed { dtype, node } = compiler.expr(expr)?;
    let Some(dtype) = dtype else {
        return Err(PlanError::new("untyped_null", "a null on its own has no type")
            .hint("give it one: a null literal with a type, or `.cast(...)`"));
    };
    Ok(Compiled { dtype, columns: compiler.columns.into_iter().collect(), node })
}

impl Compiled {
    /// Whether it asks the host language: then only rows whose value is read may be handed to it.
    pub fn calls(&self) -> bool {
        self.node.calls()
    }

    /// One value per physical row.
    pub fn eval(&self, batch: &Batch, foreign: &dyn Foreign) -> Arc<Column> {
        self.node.eval(batch, foreign).expand(batch.rows)
    }
}

/// `dtype` is `None` for a null literal that has not met a neighbour.
struct Typed {
    dtype: Option<DataType>,
    node: Node,
}

impl Typed {
    fn literal(column: Column) -> Typed {
        Typed { dtype: Some(column.dtype.clone()), node: Node::Literal(Arc::new(column)) }
    }
    fn name(&self) -> String {
        self.dtype.as_ref().map_or_else(|| "null".to_string(), ToString::to_string)
    }
    fn or(self, dtype: &DataType) -> Typed {
        match self.dtype {
            None => Typed::literal(null_of(dtype)),
            Some(_) => self,
        }
    }
    fn literal_value(&self) -> Option<Value> {
        match &self.node {
            Node::Literal(column) => Some(column.value_at(0)),
            _ => None,
        }
    }
}

fn null_of(dtype: &DataType) -> Column {
    let mut builder = ColumnBuilder::new(dtype.clone());
    builder.push_null();
    builder.finish()
}

/// A node of a kernel; computed right away if all its arguments are literals.
fn apply(kernel: Kernel, args: Vec<Node>, dtype: DataType, order: Order) -> Typed {
    let literals: Option<Vec<Operand>> = args.iter().map(scalar).collect();
    if let Some(operands) = literals {
        let column = finish(kernel(&operands, 1), &operands, 1, &dtype);
        return Typed { dtype: Some(dtype), node: Node::Literal(column) };
    }
    Typed { dtype: Some(dtype.clone()), node: Node::op(kernel, args, dtype, order) }
}

fn scalar(node: &Node) -> Option<Operand> {
    match node {
        Node::Literal(column) => Some(Operand { column: column.clone(), scalar: true }),
        _ => None,
    }
}

fn op(kernel: Kernel, args: Vec<Typed>, dtype: DataType) -> Typed {
    apply(kernel, args.into_iter().map(|a| a.node).collect(), dtype, Order::Any)
}

/// As [`op`], for what looks at its arguments one after the other.
fn ordered(order: Order, kernel: Kernel, args: Vec<Typed>, dtype: DataType) -> Typed {
    apply(kernel, args.into_iter().map(|a| a.node).collect(), dtype, order)
}

/// As [`op`], for kernels that read text: over one enum column and literals, per member instead of per row.
fn text_op(kernel: Kernel, args: Vec<Typed>, dtype: DataType) -> Typed {
    let columns: Vec<usize> = (0..args.len()).filter(|&i| scalar(&args[i].node).is_none()).collect();
    let [at] = columns[..] else { return op(kernel, args, dtype) };
    let Some(DataType::Enum(values)) = args[at].dtype.clone() else { return op(kernel, args, dtype) };
    let mut member = ColumnBuilder::new(DataType::Str);
    member.push_str(b"");
    let placeholder = Operand { column: Arc::new(member.finish()), scalar: true };
    let operands: Vec<Operand> = args.iter().map(|a| scalar(&a.node).unwrap_or_else(|| placeholder.clone())).collect();
    if operands.iter().any(|o| o.column.state.is_some()) {
        // A null or an error among the literals competes with the row's own state.
        return op(kernel, args, dtype);
    }
    let kernel = by_member(&kernel, &operands, at, &values, &dtype);
    let column = args.into_iter().nth(at).into_iter().collect();
    op(kernel, column, dtype)
}

/// A lossless step to a common type; beyond 38 digits it is an overflow.
fn coerce(value: Typed, to: &DataType) -> Typed {
    let value = value.or(to);
    let from = value.dtype.clone().unwrap_or_else(|| to.clone());
    match cast(&from, to, ERR_OVERFLOW) {
        Cast::By(kernel) => text_op(kernel, vec![value], to.clone()),
        Cast::Same | Cast::Impossible => value,
    }
}

/// The one type that values of both can have without a loss the user did not ask for.
fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::*;
    Some(match (a, b) {
        (a, b) if a == b => a.clone(),
        (Int, Float) | (Float, Int) => Float,
        (Int, Decimal { scale, .. }) | (Decimal { scale, .. }, Int) => DataType::decimal(*scale),
        (Decimal { scale: x, .. }, Decimal { scale: y, .. }) => DataType::decimal(*x.max(y)),
        (a, b) if a.is_text() && b.is_text() => Str,
        _ => return None,
    })
}

/// The scale of an exact number.
fn scale_of(dtype: &DataType) -> Option<u8> {
    match dtype {
        DataType::Int => Some(0),
        DataType::Decimal { scale, .. } => Some(*scale),
        _ => None,
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|n| format!("`{n}`")).collect();
            format!("{} and `{last}`", first.join(", "))
        }
    }
}

fn mismatch(op: &str, takes: &str, args: &[&Typed]) -> PlanError {
    let names: Vec<String> = args.iter().map(|a| a.name()).collect();
    let error = PlanError::new("type_mismatch", format!("`{op}` takes {takes}, not {}", list(&names)));
    let is = |test: fn(&DataType) -> bool| args.iter().any(|a| a.dtype.as_ref().is_some_and(test));
    let decimal = |d: &DataType| matches!(d, DataType::Decimal { .. });
    error.hint(if is(decimal) && is(|d| *d == DataType::Float) {
        "a decimal and a float do not mix by themselves: cast one of them first with `.cast(...)`"
    } else if is(DataType::is_text) && is(DataType::is_numeric) {
        "cast the text first with `.cast(...)`, or the number to `str`"
    } else if is(DataType::is_text) && op == "add" {
        "to join texts use `concat_str`"
    } else if is(|d| matches!(d, DataType::Timestamp | DataType::Duration)) && is(DataType::is_numeric) {
        "a bare number has no unit: use a duration literal, or `.cast(...)` one of them (milliseconds)"
    } else {
        "cast first with `.cast(...)`"
    })
}

fn broken(expr: &Expr, what: &str) -> PlanError {
    PlanError::new("bad_plan", format!("`{}` {what}", expr.op)).hint("the plan was not made by this version's DSL")
}

struct Compiler<'a> {
    schema: &'a Schema,
    columns: BTreeSet<usize>,
}

impl Compiler<'_> {
    fn expr(&mut self, expr: &Expr) -> Result<Typed, PlanError> {
        let name = expr.op.as_str();
        match name {
            "col" => return self.column(expr),
            "lit" => return literal(expr),
            _ => {}
        }
        let mut args = expr.args.iter().map(|a| self.expr(a)).collect::<Result<Vec<_>, _>>()?;
        let least = match name {
            "add" | "sub" | "mul" | "div" | "floordiv" | "mod" | "eq" | "ne" | "lt" | "le" | "gt" | "ge" | "and"
            | "or" | "str_starts_with" | "str_ends_with" | "str_contains" => 2..=2,
            "str_replace" => 3..=3,
            "fill_null" | "coalesce" | "min_horizontal" | "max_horizontal" | "is_in" | "str_concat" => 1..=usize::MAX,
            "when" => 3..=usize::MAX,
            "call" => 0..=usize::MAX,
            _ => 1..=1,
        };
        if !least.contains(&args.len()) {
            return Err(broken(expr, &format!("has {} arguments", args.len())));
        }
        match name {
            "add" => arithmetic(name, Arith::Add, args),
            "sub" => arithmetic(name, Arith::Sub, args),
            "mul" => arithmetic(name, Arith::Mul, args),
            "div" => arithmetic(name, Arith::Div, args),
            "floordiv" => arithmetic(name, Arith::FloorDiv, args),
            "mod" => arithmetic(name, Arith::Mod, args),
            "neg" | "abs" | "floor" | "ceil" | "round" => unary(expr, args.remove(0)),
            "eq" => compare(name, Cmp::Eq, args),
            "ne" => compare(name, Cmp::Ne, args),
            "lt" => compare(name, Cmp::Lt, args),
            "le" => compare(name, Cmp::Le, args),
            "gt" => compare(name, Cmp::Gt, args),
            "ge" => compare(name, Cmp::Ge, args),
            "and" | "or" => {
                let (order, kernel) = if name == "and" { (Order::And, logic::and()) } else { (Order::Or, logic::or()) };
                let args = all_of(name, "two conditions", &DataType::Bool, args)?;
                Ok(ordered(order, kernel, args, DataType::Bool))
            }
            "not" => Ok(op(logic::not(), all_of(name, "a condition", &DataType::Bool, args)?, DataType::Bool)),
            "is_null" => Ok(op(logic::is_null(1), vec![args.remove(0).or(&DataType::Str)], DataType::Bool)),
            "is_not_null" => Ok(op(logic::is_null(0), vec![args.remove(0).or(&DataType::Str)], DataType::Bool)),
            "fill_null" | "coalesce" => coalesce(name, args),
            "min_horizontal" => extreme(name, false, args),
            "max_horizontal" => extreme(name, true, args),
            "is_in" => is_in(args),
            "when" => when(expr, args),
            "cast" => {
                let to = expr.dtype.as_ref().ok_or_else(|| broken(expr, "has no type"))?;
                explicit_cast(args.remove(0), to)
            }
            "call" => {
                let dtype = expr.dtype.clone().ok_or_else(|| broken(expr, "has no type"))?;
                let function = expr.function.ok_or_else(|| broken(expr, "has no function"))?;
                let args = args.into_iter().map(|a| a.or(&DataType::Str).node).collect();
                Ok(Typed { dtype: Some(dtype.clone()), node: Node::Call { function, args, dtype } })
            }
            _ if name.starts_with("str_") => texts(expr, args),
            _ if name.starts_with("dt_") => times(expr, args),
            _ => Err(broken(expr, "is not an operation")),
        }
    }

    fn column(&mut self, expr: &Expr) -> Result<Typed, PlanError> {
        let name = expr.name.as_deref().ok_or_else(|| broken(expr, "has no name"))?;
        if let Some(index) = self.schema.index(name) {
            self.columns.insert(index);
            return Ok(Typed { dtype: Some(self.schema.fields[index].dtype.clone()), node: Node::Column(index) });
        }
        let (meta, dtype) = match name {
            "$timestamp" => (Meta::Timestamp, DataType::Timestamp),
            "$offset" => (Meta::Offset, DataType::Int),
            "$partition" => (Meta::Partition, DataType::Int),
            _ => {
                let names: Vec<&str> = self.schema.fields.iter().map(|f| f.name.as_str()).collect();
                let error = PlanError::new("unknown_column", format!("there is no column `{name}` here"));
                return Err(error.hint(match nearest(name, names.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if names.is_empty() => "there are no columns here".to_string(),
                    None => format!("the columns are `{}`", names.join("`, `")),
                }));
            }
        };
        Ok(Typed { dtype: Some(dtype), node: Node::Meta(meta) })
    }
}

fn literal(expr: &Expr) -> Result<Typed, PlanError> {
    use serde_json::Value as Json;
    let bad = |dtype: &DataType| PlanError::new("bad_literal", format!("`{}` is not a `{dtype}`", expr.value));
    let dtype = match (&expr.dtype, &expr.value) {
        (Some(dtype), _) => dtype.clone(),
        (None, Json::Null) => return Ok(Typed { dtype: None, node: Node::Literal(Arc::new(null_of(&DataType::Str))) }),
        (None, Json::Bool(_)) => DataType::Bool,
        (None, Json::Number(n)) if n.is_i64() || n.is_u64() => DataType::Int,
        (None, Json::Number(_)) => DataType::Float,
        (None, Json::String(_)) => DataType::Str,
        (None, _) => return Err(broken(expr, "has neither a value nor a type")),
    };
    let value = match (&dtype, &expr.value) {
        (_, Json::Null) => Some(Value::Null),
        (DataType::Bool, Json::Bool(b)) => Some(Value::Bool(*b)),
        (DataType::Int, Json::Number(n)) => n.as_i64().map(Value::Int),
        (DataType::Timestamp, Json::Number(n)) => n.as_i64().map(Value::Timestamp),
        (DataType::Duration, Json::Number(n)) => n.as_i64().map(Value::Duration),
        (DataType::Float, Json::Number(n)) => n.as_f64().filter(|x| x.is_finite()).map(Value::Float),
        (DataType::Decimal { precision, scale }, Json::String(_) | Json::Number(_)) => {
            let text = expr.value.as_str().map_or_else(|| expr.value.to_string(), str::to_string);
            parse_decimal_exact(&text, *scale)
                .filter(|(v, exact)| *exact && v.abs() <= decimal::max_of(*precision))
                .map(|(v, _)| Value::Decimal(v, *scale))
        }
        (DataType::Str, Json::String(s)) => Some(Value::Str(s.clone())),
        (DataType::Enum(values), Json::String(s)) => {
            code_of(values, s)?;
            Some(Value::Str(s.clone()))
        }
        _ => None,
    };
    let mut builder = ColumnBuilder::new(dtype.clone());
    builder.push_value(&value.ok_or_else(|| bad(&dtype))?);
    Ok(Typed::literal(builder.finish()))
}

/// The code of a member, or an error that names the members.
fn code_of(values: &[String], text: &str) -> Result<u32, PlanError> {
    if let Some(code) = values.iter().position(|v| v == text) {
        return Ok(code as u32);
    }
    let allowed = format!("the values are {}", list(values));
    Err(PlanError::new("unknown_value", format!("`{text}` is not a value of the enum; {allowed}")).hint(match nearest(
        text,
        values.iter().map(String::as_str),
    ) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "use one of them, or `.cast(...)` the column to `str`".to_string(),
    }))
}

/// All arguments of one type (null literals adapt), or a mismatch.
fn all_of(name: &str, takes: &str, dtype: &DataType, args: Vec<Typed>) -> Result<Vec<Typed>, PlanError> {
    let args: Vec<Typed> = args.into_iter().map(|a| a.or(dtype)).collect();
    if args.iter().any(|a| a.dtype.as_ref() != Some(dtype)) {
        return Err(mismatch(name, takes, &args.iter().collect::<Vec<_>>()));
    }
    Ok(args)
}

/// A null literal takes its neighbour's type; two of them are `fallback`.
fn adapt2(args: Vec<Typed>, fallback: &DataType) -> Result<(Typed, DataType, Typed, DataType), PlanError> {
    let known = args.iter().find_map(|a| a.dtype.clone()).unwrap_or_else(|| fallback.clone());
    let mut args = args.into_iter().map(|a| a.or(&known));
    match (args.next(), args.next()) {
        (Some(a), Some(b)) => {
            let (x, y) = (a.dtype.clone().unwrap_or(DataType::Int), b.dtype.clone().unwrap_or(DataType::Int));
            Ok((a, x, b, y))
        }
        _ => Err(PlanError::new("bad_plan", "an operation has too few arguments")),
    }
}

fn arithmetic(name: &str, which: Arith, mut args: Vec<Typed>) -> Result<Typed, PlanError> {
    use DataType::*;
    // What a null literal stands for where "the same as its neighbour" makes no sense.
    let (left, right) = (args[0].dtype.clone(), args[1].dtype.clone());
    let meant = match (which, left, right) {
        (Arith::Add, Some(Timestamp), None) | (Arith::Add, None, Some(Timestamp)) => Some(Duration),
        (Arith::Sub, None, Some(Duration)) => None,
        (Arith::Mul, Some(Duration), None) | (Arith::Mul, None, Some(Duration)) => Some(Int),
        _ => None,
    };
    if let Some(meant) = meant {
        args = args.into_iter().map(|a| a.or(&meant)).collect();
    }
    let (a, x, b, y) = adapt2(args, &Int)?;
    Ok(match (which, &x, &y) {
        (Arith::Div, Int, Int) => op(arith::ints_true_div(), vec![a, b], Float),
        (_, Int, Int) => op(arith::ints(which), vec![a, b], Int),
        (_, Float | Int, Float | Int) => op(arith::floats(which), vec![coerce(a, &Float), coerce(b, &Float)], Float),
        (_, Decimal { .. } | Int, Decimal { .. } | Int) => {
            let (s, t) = (scale_of(&x).unwrap_or(0), scale_of(&y).unwrap_or(0));
            let scale = arith::decimal_scale(which, s, t).map_err(|scale| {
                PlanError::new(
                    "decimal_scale",
                    format!("`{name}` of `{x}` and `{y}` would have scale {scale}, beyond 38"),
                )
                .hint("round or cast one side to a lower scale first")
            })?;
            let args = vec![coerce(a, &DataType::decimal(s)), coerce(b, &DataType::decimal(t))];
            op(arith::decimals(which, s, t), args, DataType::decimal(scale))
        }
        (Arith::Add | Arith::Sub, Duration, Duration) => op(arith::ints(which), vec![a, b], Duration),
        (Arith::Add | Arith::Sub, Timestamp, Duration) => op(arith::ints(which), vec![a, b], Timestamp),
        (Arith::Add, Duration, Timestamp) => op(arith::ints(which), vec![a, b], Timestamp),
        (Arith::Sub, Timestamp, Timestamp) => op(arith::ints(which), vec![a, b], Duration),
        (Arith::Mul, Duration, Int) | (Arith::Mul, Int, Duration) => op(arith::ints(which), vec![a, b], Duration),
        (Arith::Div, Duration, Duration) => op(arith::ints_true_div(), vec![a, b], Float),
        _ => {
            let takes = match which {
                Arith::Add => "numbers, durations or a timestamp and a duration",
                Arith::Sub => "numbers, durations, timestamps or a timestamp and a duration",
                Arith::Mul => "numbers or a duration and an int",
                Arith::Div => "numbers or durations",
                Arith::FloorDiv | Arith::Mod => "numbers",
            };
            return Err(mismatch(name, takes, &[&a, &b]));
        }
    })
}

fn unary(expr: &Expr, arg: Typed) -> Result<Typed, PlanError> {
    use DataType::*;
    let name = expr.op.as_str();
    let arg = arg.or(&Int);
    let dtype = arg.dtype.clone().unwrap_or(Int);
    let digits = match expr.digits.unwrap_or(0) {
        digits @ 0..=400 => digits as u32,
        other => {
            return Err(PlanError::new("bad_parameter", format!("`round` takes 0 digits or more, not {other}"))
                .hint("to round to tens divide, round and multiply"))
        }
    };
    let (kernel, result) = match (name, &dtype) {
        ("neg", Int | Duration) => (arith::neg_int(), dtype.clone()),
        ("abs", Int | Duration) => (arith::abs_int(), dtype.clone()),
        ("neg", Float) => (arith::neg_float(), Float),
        ("abs", Float) => (arith::abs_float(), Float),
        ("neg", Decimal { .. }) => (arith::neg_decimal(), dtype.clone()),
        ("abs", Decimal { .. }) => (arith::abs_decimal(), dtype.clone()),
        ("floor" | "ceil" | "round", Int) => return Ok(arg),
        ("round", Float) => (arith::round_float(digits), Float),
        ("floor" | "ceil", Float) => (arith::whole_float(name == "ceil"), Float),
        ("round", Decimal { scale, .. }) if digits >= *scale as u32 => return Ok(arg),
        ("round", Decimal { precision, scale }) => {
            (arith::round_decimal(*scale, digits as u8), Decimal { precision: *precision, scale: digits as u8 })
        }
        ("floor" | "ceil", Decimal { precision, scale }) => {
            (arith::whole_decimal(*scale, name == "ceil"), Decimal { precision: *precision, scale: 0 })
        }
        ("neg" | "abs", _) => return Err(mismatch(name, "a number or a duration", &[&arg])),
        _ => return Err(mismatch(name, "a number", &[&arg])),
    };
    Ok(op(kernel, vec![arg], result))
}

fn compare(name: &str, which: Cmp, args: Vec<Typed>) -> Result<Typed, PlanError> {
    use DataType::*;
    let (a, x, b, y) = adapt2(args, &Int)?;
    let kernel = match (&x, &y) {
        (Int, Int) | (Timestamp, Timestamp) | (Duration, Duration) => cmp::elements::<i64>(which),
        (Bool, Bool) => cmp::elements::<u8>(which),
        (Int | Float, Int | Float) => {
            return Ok(op(cmp::elements::<f64>(which), vec![coerce(a, &Float), coerce(b, &Float)], Bool))
        }
        (Int | Decimal { .. }, Int | Decimal { .. }) => {
            let (s, t) = (scale_of(&x).unwrap_or(0), scale_of(&y).unwrap_or(0));
            let (ea, eb) = arith::exponents(s, t);
            let args = vec![coerce(a, &DataType::decimal(s)), coerce(b, &DataType::decimal(t))];
            return Ok(op(cmp::decimals(which, ea, eb), args, Bool));
        }
        (x, y) if x.is_text() && y.is_text() => return compare_texts(which, a, b),
        _ => return Err(mismatch(name, "two values of one kind", &[&a, &b])),
    };
    Ok(op(kernel, vec![a, b], Bool))
}

fn compare_texts(which: Cmp, a: Typed, b: Typed) -> Result<Typed, PlanError> {
    if matches!(which, Cmp::Eq | Cmp::Ne) {
        let code =
            |column: &Typed, literal: &Typed| match (&column.dtype, column.literal_value(), literal.literal_value()) {
                (Some(DataType::Enum(values)), None, Some(Value::Str(text))) => Some(code_of(values, &text)),
                _ => None,
            };
        if let Some(code) = code(&a, &b) {
            return Ok(op(cmp::code_is(code?, which == Cmp::Eq), vec![a], DataType::Bool));
        }
        if let Some(code) = code(&b, &a) {
            return Ok(op(cmp::code_is(code?, which == Cmp::Eq), vec![b], DataType::Bool));
        }
        if a.dtype == b.dtype && matches!(a.dtype, Some(DataType::Enum(_))) {
            return Ok(op(cmp::elements::<u32>(which), vec![a, b], DataType::Bool));
        }
    }
    Ok(text_op(cmp::texts(which), vec![a, b], DataType::Bool))
}

/// The arguments brought to one type.
fn unify(name: &str, takes: &str, args: Vec<Typed>) -> Result<(Vec<Typed>, DataType), PlanError> {
    let mut dtype: Option<DataType> = None;
    for arg in args.iter().filter_map(|a| a.dtype.as_ref()) {
        dtype = match &dtype {
            None => Some(arg.clone()),
            Some(d) => match common(d, arg) {
                Some(d) => Some(d),
                None => return Err(mismatch(name, takes, &args.iter().collect::<Vec<_>>())),
            },
        };
    }
    match dtype {
        Some(dtype) => Ok((args.into_iter().map(|a| coerce(a, &dtype)).collect(), dtype)),
        None => Err(PlanError::new("untyped_null", format!("`{name}` of nothing but nulls has no type"))
            .hint("give one of them a type with `.cast(...)`")),
    }
}

/// A kernel by the physical type of a column type.
macro_rules! by_physical {
    ($dtype:expr, $generic:ident, $text:expr) => {
        match $dtype {
            DataType::Bool => $generic!(u8),
            DataType::Int | DataType::Timestamp | DataType::Duration => $generic!(i64),
            DataType::Float => $generic!(f64),
            DataType::Decimal { .. } => $generic!(i128),
            DataType::Enum(_) => $generic!(u32),
            DataType::Str | DataType::Json => $text,
        }
    };
}

fn coalesce(name: &str, args: Vec<Typed>) -> Result<Typed, PlanError> {
    let (args, dtype) = unify(name, "values of one type", args)?;
    macro_rules! generic {
        ($t:ty) => {
            logic::coalesce::<$t>()
        };
    }
    Ok(ordered(Order::Coalesce, by_physical!(&dtype, generic, logic::coalesce_text()), args, dtype))
}

fn extreme(name: &str, greatest: bool, args: Vec<Typed>) -> Result<Typed, PlanError> {
    let (mut args, mut dtype) = unify(name, "values of one type", args)?;
    if matches!(dtype, DataType::Enum(_)) {
        // Texts are ordered by their bytes, not by their place in the enum.
        dtype = DataType::Str;
        args = args.into_iter().map(|a| coerce(a, &dtype)).collect();
    }
    macro_rules! generic {
        ($t:ty) => {
            cmp::extreme::<$t>(greatest)
        };
    }
    Ok(op(by_physical!(&dtype, generic, cmp::extreme_text(greatest)), args, dtype))
}

fn when(expr: &Expr, args: Vec<Typed>) -> Result<Typed, PlanError> {
    if args.len().is_multiple_of(2) {
        return Err(broken(expr, "has no otherwise"));
    }
    let last = args.len() - 1;
    let (mut conditions, mut values) = (Vec::new(), Vec::new());
    for (i, arg) in args.into_iter().enumerate() {
        if i % 2 == 0 && i < last {
            conditions.push(arg);
        } else {
            values.push(arg);
        }
    }
    let conditions = conditions.into_iter().map(|c| all_of("when", "conditions", &DataType::Bool, vec![c]));
    let conditions: Vec<Typed> = conditions.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let (values, dtype) = unify("when", "branches of one type", values)?;
    let mut nodes = Vec::with_capacity(last + 1);
    let mut values = values.into_iter();
    for condition in conditions {
        nodes.push(condition.node);
        nodes.extend(values.next().map(|v| v.node));
    }
    nodes.extend(values.next().map(|v| v.node));
    macro_rules! generic {
        ($t:ty) => {
            logic::when::<$t>()
        };
    }
    Ok(apply(by_physical!(&dtype, generic, logic::when_text()), nodes, dtype, Order::When))
}

fn is_in(mut args: Vec<Typed>) -> Result<Typed, PlanError> {
    use DataType::*;
    let value = args.remove(0);
    let fallback = args.iter().find_map(|a| a.dtype.clone()).unwrap_or(Int);
    let value = value.or(&fallback);
    let dtype = value.dtype.clone().unwrap_or(Int);
    let mut null_listed = false;
    let mut items = Vec::new();
    for arg in &args {
        match arg.literal_value() {
            None => {
                return Err(PlanError::new("type_mismatch", "`is_in` takes literals after its value")
                    .hint("compare with `==` and join the conditions with `|`"))
            }
            Some(Value::Null) => null_listed = true,
            Some(item) => items.push((item, arg)),
        }
    }
    let wrong = |arg: &Typed| mismatch("is_in", "a value and literals of its kind", &[&value, arg]);
    let mut floats = matches!(dtype, Float);
    for (item, _) in &items {
        floats |= matches!((item, &dtype), (Value::Float(_), Int));
    }
    let (mut integers, mut codes, mut numbers, mut bools) = (vec![], vec![], vec![], vec![]);
    let (mut decimals, mut texts) = (vec![], HashSet::new());
    for (item, arg) in items {
        match (&dtype, item) {
            (Int | Float, Value::Int(x)) if floats => numbers.push(x as f64),
            (Int | Float, Value::Float(x)) => numbers.push(x),
            (Int, Value::Int(x)) | (Timestamp, Value::Timestamp(x)) | (Duration, Value::Duration(x)) => {
                integers.push(x)
            }
            // A literal that the column's scale cannot express equals none of its values.
            (Int, Value::Decimal(x, s)) if !floats => {
                let by = decimal::pow10(s as u32);
                if x % by == 0 {
                    integers.extend(i64::try_from(x / by).ok());
                }
            }
            (Decimal { scale, .. }, Value::Int(x)) => {
                decimals.extend((x as i128).checked_mul(decimal::pow10(*scale as u32)))
            }
            (Decimal { scale, .. }, Value::Decimal(x, s)) => match s.checked_sub(*scale) {
                None => decimals.extend(x.checked_mul(decimal::pow10((scale - s) as u32))),
                Some(more) => {
                    let by = decimal::pow10(more as u32);
                    if x % by == 0 {
                        decimals.push(x / by);
                    }
                }
            },
            (Bool, Value::Bool(x)) => bools.push(x as u8),
            (Str, Value::Str(x)) => {
                texts.insert(x.into_bytes());
            }
            (Enum(values), Value::Str(x)) => codes.push(code_of(values, &x)?),
            _ => return Err(wrong(arg)),
        }
    }
    let kernel = match &dtype {
        Int | Float if floats => {
            let value = coerce(value, &Float);
            return Ok(op(cmp::is_in_floats(numbers, null_listed), vec![value], Bool));
        }
        Bool => cmp::is_in::<u8>(bools, null_listed),
        Decimal { .. } => cmp::is_in::<i128>(decimals, null_listed),
        Str => cmp::is_in_texts(texts, null_listed),
        Enum(_) => cmp::is_in::<u32>(codes, null_listed),
        _ => cmp::is_in::<i64>(integers, null_listed),
    };
    Ok(op(kernel, vec![value], Bool))
}

fn explicit_cast(value: Typed, to: &DataType) -> Result<Typed, PlanError> {
    let value = value.or(to);
    let from = value.dtype.clone().unwrap_or_else(|| to.clone());
    match cast(&from, to, ERR_CAST) {
        Cast::Same if from == *to => Ok(value),
        Cast::Same => Ok(op(super::kernel::kernel(|_, _| super::kernel::Out::Arg(0)), vec![value], to.clone())),
        Cast::By(kernel) => Ok(text_op(kernel, vec![value], to.clone())),
        Cast::Impossible => {
            Err(PlanError::new("type_mismatch", format!("`cast` knows no way from `{from}` to `{to}`"))
                .hint("cast in two steps, by way of `int` or `str`"))
        }
    }
}

fn texts(expr: &Expr, args: Vec<Typed>) -> Result<Typed, PlanError> {
    let name = expr.op.as_str();
    let args: Vec<Typed> = args.into_iter().map(|a| a.or(&DataType::Str)).collect();
    if args.iter().any(|a| !a.dtype.as_ref().is_some_and(DataType::is_text)) {
        let takes = if args.len() == 1 { "a text" } else { "texts" };
        return Err(mismatch(name, takes, &args.iter().collect::<Vec<_>>()));
    }
    let (kernel, dtype) = match name {
        "str_lower" => (eval_text::lower(), DataType::Str),
        "str_upper" => (eval_text::upper(), DataType::Str),
        "str_strip" => (eval_text::strip(), DataType::Str),
        "str_len" => (eval_text::len(), DataType::Int),
        "str_bytes" => (eval_text::bytes(), DataType::Int),
        "str_starts_with" => (eval_text::starts_with(), DataType::Bool),
        "str_ends_with" => (eval_text::ends_with(), DataType::Bool),
        "str_contains" => (eval_text::contains(), DataType::Bool),
        "str_replace" => (eval_text::replace(), DataType::Str),
        "str_concat" => (eval_text::concat(), DataType::Str),
        "str_slice" => {
            let length = match expr.length {
                None => None,
                Some(length) => Some(u64::try_from(length).map_err(|_| {
                    PlanError::new("bad_parameter", format!("`str_slice` takes a length of 0 or more, not {length}"))
                        .hint("leave the length out to go to the end")
                })?),
            };
            (eval_text::slice(expr.offset.unwrap_or(0), length), DataType::Str)
        }
        _ => return Err(broken(expr, "is not an operation")),
    };
    Ok(text_op(kernel, args, dtype))
}

fn times(expr: &Expr, args: Vec<Typed>) -> Result<Typed, PlanError> {
    let name = expr.op.as_str();
    let args = all_of(name, "a timestamp", &DataType::Timestamp, args)?;
    if name == "dt_truncate" {
        return match expr.every_ms {
            Some(every) if every > 0 => Ok(op(eval_time::truncate(every), args, DataType::Timestamp)),
            Some(every) => {
                Err(PlanError::new("bad_parameter", format!("`dt_truncate` takes a positive duration, not {every} ms"))
                    .hint("use a duration such as \"5m\""))
            }
            None => Err(broken(expr, "has no duration")),
        };
    }
    let kernel = eval_time::part(name).ok_or_else(|| broken(expr, "is not an operation"))?;
    Ok(op(kernel, args, DataType::Int))
}
