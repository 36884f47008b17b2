//! Tables of examples per operation, and one property: the vectorised result is what a naive program, evaluating one
//! record at a time and left to right, comes to.

use std::sync::Arc;

use serde_json::json;

use super::{compile, Expr, Foreign, NoForeign};
use crate::batch::{Batch, Origin};
use crate::column::*;
use crate::error::PlanError;
use crate::raw::RawBatch;
use crate::types::{DataType, Schema};

fn dtype(text: &str) -> DataType {
    text.parse().unwrap()
}

fn batch(columns: &[(&str, &str, Vec<Value>)]) -> Batch {
    let rows = columns.first().map_or(1, |c| c.2.len());
    let schema = Schema::new(columns.iter().map(|(name, t, _)| (*name, dtype(t))));
    let columns = columns.iter().map(|(_, t, values)| {
        let mut builder = ColumnBuilder::new(dtype(t));
        values.iter().for_each(|v| builder.push_value(v));
        Arc::new(builder.finish())
    });
    Batch {
        schema: Arc::new(schema),
        columns: columns.collect(),
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

fn expr(json: serde_json::Value) -> Expr {
    serde_json::from_value(json).unwrap()
}

fn col(name: &str) -> serde_json::Value {
    json!({"op": "col", "name": name})
}

fn lit(value: serde_json::Value) -> serde_json::Value {
    json!({"op": "lit", "value": value})
}

fn typed(t: &str, value: serde_json::Value) -> serde_json::Value {
    json!({"op": "lit", "type": t, "value": value})
}

fn call(op: &str, args: &[serde_json::Value]) -> serde_json::Value {
    json!({"op": op, "args": args})
}

fn with(mut e: serde_json::Value, key: &str, value: serde_json::Value) -> serde_json::Value {
    e[key] = value;
    e
}

fn run_on(batch: &Batch, e: serde_json::Value) -> (DataType, Vec<Value>) {
    let compiled = compile(&expr(e.clone()), &batch.schema).unwrap_or_else(|error| panic!("{e}: {error}"));
    let column = compiled.eval(batch, &NoForeign);
    assert_eq!(column.dtype, compiled.dtype, "{e}");
    assert_eq!(column.len(), batch.rows, "{e}");
    (compiled.dtype, (0..batch.rows).map(|row| column.value_at(row)).collect())
}

fn error_of(columns: &[(&str, &str, Vec<Value>)], e: serde_json::Value) -> PlanError {
    compile(&expr(e), &batch(columns).schema).unwrap_err()
}

/// A binary operation once per pair, in every form: columns, scalar on either side, literals folded.
fn pairs(op: &str, left: &str, right: &str, result: &str, table: &[(Value, Value, Value)]) {
    let (a, b): (Vec<_>, Vec<_>) = table.iter().map(|(a, b, _)| (a.clone(), b.clone())).unzip();
    let whole = batch(&[("a", left, a), ("b", right, b)]);
    let (t, got) = run_on(&whole, call(op, &[col("a"), col("b")]));
    assert_eq!(t.to_string(), result, "{op}");
    for (row, (a, b, want)) in table.iter().enumerate() {
        assert_eq!(&got[row], want, "{op} {a:?} {b:?}");
        let one = batch(&[("a", left, vec![a.clone(); 3]), ("b", right, vec![b.clone(); 3])]);
        let (la, lb) = (literal_of(a, left), literal_of(b, right));
        for args in [[Some(col("a")), lb.clone()], [la.clone(), Some(col("b"))], [la, lb]] {
            let [Some(x), Some(y)] = args else { continue };
            let e = call(op, &[x, y]);
            let (t, got) = run_on(&one, e.clone());
            assert_eq!(t.to_string(), result, "{e}");
            assert_eq!(got, vec![want.clone(); 3], "{e} {a:?} {b:?}");
        }
    }
}

fn literal_of(value: &Value, t: &str) -> Option<serde_json::Value> {
    Some(typed(
        t,
        match value {
            Value::Null => json!(null),
            Value::Bool(b) => json!(b),
            Value::Int(i) | Value::Timestamp(i) | Value::Duration(i) => json!(i),
            Value::Float(x) => json!(x),
            Value::Decimal(u, s) => {
                let mut out = vec![];
                super::text::write_decimal(&mut out, *u, *s);
                json!(String::from_utf8(out).unwrap())
            }
            Value::Str(s) => json!(s),
            Value::Error(_) => return None,
        },
    ))
}

use Value::{Bool as B, Decimal as D, Duration as U, Error as E, Float as F, Int as I, Null as N, Timestamp as T};

fn s(text: &str) -> Value {
    Value::Str(text.to_string())
}

const OVER: Value = E(ERR_OVERFLOW);

#[test]
fn integers() {
    let max = i64::MAX;
    pairs("add", "int", "int", "int", &[(I(1), I(2), I(3)), (I(max), I(1), OVER), (N, I(1), N), (I(max), N, N)]);
    pairs("sub", "int", "int", "int", &[(I(1), I(2), I(-1)), (I(i64::MIN), I(1), OVER), (E(ERR_CAST), N, E(ERR_CAST))]);
    pairs("mul", "int", "int", "int", &[(I(3), I(2), I(6)), (I(max), I(2), OVER), (N, E(ERR_CAST), E(ERR_CAST))]);
    pairs("div", "int", "int", "float", &[(I(7), I(2), F(3.5)), (I(1), I(0), N), (I(0), I(0), N)]);
    let floors = [(7, 2, 3), (-7, 2, -4), (7, -2, -4), (-7, -2, 3), (6, -2, -3)];
    let mut table: Vec<_> = floors.iter().map(|&(a, b, q)| (I(a), I(b), I(q))).collect();
    table.extend([(I(1), I(0), N), (I(i64::MIN), I(-1), OVER), (E(ERR_CAST), E(ERR_RANGE), E(ERR_CAST))]);
    pairs("floordiv", "int", "int", "int", &table);
    let rests = [(7, 2, 1), (-7, 2, 1), (7, -2, -1), (-7, -2, -1), (6, -2, 0), (i64::MIN, -1, 0)];
    let mut table: Vec<_> = rests.iter().map(|&(a, b, r)| (I(a), I(b), I(r))).collect();
    table.push((I(1), I(0), N));
    pairs("mod", "int", "int", "int", &table);
}

#[test]
fn floats() {
    let nan = E(ERR_NOT_A_NUMBER);
    pairs("add", "float", "int", "float", &[(F(0.5), I(2), F(2.5)), (F(f64::MAX), I(1), F(f64::MAX))]);
    pairs("mul", "float", "float", "float", &[(F(1e300), F(1e300), nan.clone()), (F(2.0), F(0.5), F(1.0))]);
    pairs("div", "float", "int", "float", &[(F(1.0), I(0), N), (F(1.0), I(4), F(0.25))]);
    pairs("floordiv", "float", "float", "float", &[(F(-7.5), F(2.0), F(-4.0)), (F(1.0), F(0.0), N)]);
    pairs("mod", "float", "float", "float", &[(F(-7.5), F(2.0), F(0.5)), (F(1.0), F(0.0), N)]);
}

#[test]
fn decimals() {
    let (d2, d4) = ("decimal(10,2)", "decimal(38,4)");
    pairs("add", d2, d4, "decimal(38,4)", &[(D(150, 2), D(5, 4), D(15005, 4)), (N, D(1, 4), N)]);
    pairs("add", d2, "int", "decimal(38,2)", &[(D(150, 2), I(1), D(250, 2))]);
    pairs("sub", "int", d2, "decimal(38,2)", &[(I(1), D(150, 2), D(-50, 2))]);
    pairs("mul", d2, d4, "decimal(38,6)", &[(D(150, 2), D(20000, 4), D(3_000_000, 6))]);
    pairs("mul", "decimal(38,0)", "decimal(38,0)", "decimal(38,0)", &[(D(10i128.pow(37), 0), D(10, 0), OVER)]);
    pairs("div", d2, d2, "decimal(38,6)", &[(D(100, 2), D(300, 2), D(333_333, 6)), (D(1, 2), D(0, 2), N)]);
    pairs("div", d2, "int", "decimal(38,6)", &[(D(200, 2), I(3), D(666_667, 6))]);
    pairs("floordiv", d2, d2, "decimal(38,0)", &[(D(-750, 2), D(200, 2), D(-4, 0)), (D(1, 2), D(0, 2), N)]);
    pairs("mod", d2, d4, "decimal(38,4)", &[(D(-750, 2), D(20000, 4), D(5000, 4))]);
    let max = 10i128.pow(38) - 1;
    pairs("add", "decimal(38,0)", "decimal(38,0)", "decimal(38,0)", &[(D(max, 0), D(1, 0), OVER), (D(max, 0), N, N)]);
    let e = error_of(&[("a", "decimal(38,20)", vec![])], call("mul", &[col("a"), col("a")]));
    assert_eq!(e.code, "decimal_scale");
    let e = error_of(&[("a", "decimal(38,2)", vec![])], call("mul", &[col("a"), lit(json!(0.5))]));
    assert_eq!(e.code, "type_mismatch");
    assert!(e.hint.unwrap().contains(".cast("));
}

#[test]
fn times_and_durations() {
    pairs("sub", "timestamp", "timestamp", "duration", &[(T(5), T(7), U(-2)), (T(i64::MIN), T(1), OVER)]);
    pairs("add", "timestamp", "duration", "timestamp", &[(T(5), U(7), T(12)), (T(5), N, N)]);
    pairs("add", "duration", "timestamp", "timestamp", &[(U(5), T(7), T(12))]);
    pairs("sub", "timestamp", "duration", "timestamp", &[(T(5), U(7), T(-2))]);
    pairs("add", "duration", "duration", "duration", &[(U(5), U(7), U(12))]);
    pairs("mul", "duration", "int", "duration", &[(U(5), I(7), U(35)), (U(i64::MAX), I(2), OVER)]);
    pairs("div", "duration", "duration", "float", &[(U(5), U(2), F(2.5)), (U(5), U(0), N)]);
    let b = batch(&[("t", "timestamp", vec![T(-1), T(1_709_208_000_123), N])]);
    for (op, want) in [
        ("dt_year", [I(1969), I(2024), N]),
        ("dt_month", [I(12), I(2), N]),
        ("dt_day", [I(31), I(29), N]),
        ("dt_hour", [I(23), I(12), N]),
        ("dt_minute", [I(59), I(0), N]),
        ("dt_second", [I(59), I(0), N]),
        ("dt_millisecond", [I(999), I(123), N]),
        ("dt_weekday", [I(3), I(4), N]),
        ("dt_epoch_ms", [I(-1), I(1_709_208_000_123), N]),
    ] {
        assert_eq!(run_on(&b, call(op, &[col("t")])).1, want, "{op}");
    }
    let hour = with(call("dt_truncate", &[col("t")]), "every_ms", json!(3_600_000));
    assert_eq!(run_on(&b, hour).1, [T(-3_600_000), T(1_709_208_000_000), N]);
}

#[test]
fn comparisons() {
    pairs("lt", "int", "float", "bool", &[(I(1), F(1.5), B(true)), (N, F(1.0), N), (N, E(4), E(4))]);
    pairs("eq", "int", "decimal(10,2)", "bool", &[(I(1), D(100, 2), B(true)), (I(1), D(101, 2), B(false))]);
    pairs("ge", "decimal(10,2)", "decimal(10,4)", "bool", &[(D(100, 2), D(10000, 4), B(true))]);
    pairs("ne", "str", "str", "bool", &[(s("a"), s("b"), B(true)), (s("a"), s("a"), B(false)), (s(""), N, N)]);
    pairs("lt", "str", "str", "bool", &[(s("Z"), s("a"), B(true)), (s("é"), s("z"), B(false))]);
    pairs("gt", "timestamp", "timestamp", "bool", &[(T(1), T(0), B(true))]);
    pairs("le", "bool", "bool", "bool", &[(B(false), B(true), B(true))]);
    let color = r#"enum["red","blue"]"#;
    pairs(
        "eq",
        color,
        color,
        "bool",
        &[(s("red"), s("red"), B(true)), (s("red"), s("blue"), B(false)), (N, s("red"), N)],
    );
    pairs("lt", color, color, "bool", &[(s("blue"), s("red"), B(true)), (s("red"), s("blue"), B(false))]);
    pairs("ne", color, "str", "bool", &[(s("red"), s("blue"), B(true)), (E(4), s("red"), E(4))]);
    let e = error_of(&[("c", color, vec![])], call("eq", &[col("c"), lit(json!("rad"))]));
    assert_eq!(e.code, "unknown_value");
    assert!(e.message.contains("`red` and `blue`") && e.hint.unwrap().contains("`red`"));
}

#[test]
fn logic() {
    let (t, f, n, e, x) = (B(true), B(false), N, E(ERR_CAST), E(ERR_RANGE));
    let all = [&t, &f, &n, &e, &x];
    let and = [[&t, &f, &n, &e, &x], [&f, &f, &f, &f, &f], [&n, &f, &n, &e, &x], [&e; 5], [&x; 5]];
    let or = [[&t, &t, &t, &t, &t], [&t, &f, &n, &e, &x], [&t, &n, &n, &e, &x], [&e; 5], [&x; 5]];
    for (op, table) in [("and", and), ("or", or)] {
        let mut rows = vec![];
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate() {
                rows.push(((*a).clone(), (*b).clone(), table[i][j].clone()));
            }
        }
        pairs(op, "bool", "bool", "bool", &rows);
    }
    let b = batch(&[("a", "bool", vec![t.clone(), f.clone(), n.clone(), e.clone()])]);
    assert_eq!(run_on(&b, call("not", &[col("a")])).1, [f.clone(), t.clone(), n, e.clone()]);
    assert_eq!(run_on(&b, call("is_null", &[col("a")])).1, [f.clone(), f.clone(), t.clone(), e.clone()]);
    assert_eq!(run_on(&b, call("is_not_null", &[col("a")])).1, [t.clone(), t, f, e]);
}

#[test]
fn choices() {
    let e = E(ERR_CAST);
    let b = batch(&[
        ("c", "bool", vec![B(true), B(false), N, e.clone()]),
        ("x", "int", vec![I(1), e.clone(), e.clone(), I(4)]),
        ("y", "int", vec![e.clone(), I(2), N, e.clone()]),
        ("s", "str", vec![s("one"), N, s("three"), e.clone()]),
        ("k", r#"enum["one","two"]"#, vec![N, s("two"), s("one"), s("one")]),
    ]);
    let w = |args: &[serde_json::Value]| run_on(&b, call("when", args));
    assert_eq!(w(&[col("c"), col("x"), col("y")]).1, [I(1), I(2), N, e.clone()]);
    assert_eq!(w(&[col("c"), col("x"), lit(json!(0.5))]), (DataType::Float, vec![F(1.0), F(0.5), F(0.5), e.clone()]));
    assert_eq!(w(&[col("c"), lit(json!(null)), lit(json!(7))]).1, [N, I(7), I(7), e.clone()]);
    assert_eq!(w(&[col("c"), col("s"), col("k")]).1, [s("one"), s("two"), s("one"), e.clone()]);
    assert_eq!(
        w(&[lit(json!(null)), col("x"), col("c"), col("y"), lit(json!(9))]).1,
        [e.clone(), I(9), I(9), e.clone()]
    );
    assert_eq!(run_on(&b, call("fill_null", &[col("y"), lit(json!(0))])).1, [e.clone(), I(2), I(0), e.clone()]);
    let t = run_on(&b, call("coalesce", &[col("k"), col("s")]));
    assert_eq!(t, (DataType::Str, vec![s("one"), s("two"), s("one"), s("one")]));
    let t = run_on(&b, call("coalesce", &[col("s"), col("k")])).1;
    assert_eq!(t, [s("one"), s("two"), s("three"), e.clone()]);
    let t = run_on(&b, call("fill_null", &[lit(json!(null)), typed("decimal(9,1)", json!("1.5"))]));
    assert_eq!(t, (dtype("decimal(9,1)"), vec![D(15, 1); 4]));
    let t = run_on(&b, call("max_horizontal", &[col("x"), lit(json!(2))])).1;
    assert_eq!(t, [I(2), e.clone(), e.clone(), I(4)]);
    let t = run_on(&b, call("min_horizontal", &[col("k"), lit(json!("p"))])).1;
    assert_eq!(t, [s("p"), s("p"), s("one"), s("one")]);
    let t = run_on(&b, call("max_horizontal", &[col("y"), lit(json!(1)), lit(json!(null))])).1;
    assert_eq!(t, [e.clone(), I(2), I(1), e.clone()]);
    let wrong = compile(&expr(call("when", &[col("c"), col("x"), col("s")])), &b.schema).unwrap_err();
    assert_eq!(wrong.code, "type_mismatch");
}

#[test]
fn membership() {
    let b = batch(&[
        ("x", "int", vec![I(1), I(2), N, E(4)]),
        ("k", r#"enum["one","two"]"#, vec![N, s("two"), s("one"), s("one")]),
        ("d", "decimal(10,2)", vec![D(150, 2), D(100, 2), N, D(1, 2)]),
    ]);
    let isin = |c: &str, list: &[serde_json::Value]| run_on(&b, call("is_in", &[&[col(c)], list].concat())).1;
    let (t, f) = (B(true), B(false));
    assert_eq!(isin("x", &[lit(json!(1)), lit(json!(5))]), [t.clone(), f.clone(), N, E(4)]);
    assert_eq!(isin("x", &[lit(json!(1.0))]), [t.clone(), f.clone(), N, E(4)]);
    assert_eq!(isin("x", &[lit(json!(1)), lit(json!(null))]), [t.clone(), N, N, E(4)]);
    assert_eq!(isin("x", &[]), [f.clone(), f.clone(), N, E(4)]);
    let many: Vec<_> = (2..40).map(|i| lit(json!(i))).collect();
    assert_eq!(isin("x", &many), [f.clone(), t.clone(), N, E(4)]);
    assert_eq!(isin("k", &[lit(json!("one"))]), [N, f.clone(), t.clone(), t.clone()]);
    let list = [lit(json!(1)), typed("decimal(10,3)", json!("0.010")), typed("decimal(10,3)", json!("1.505"))];
    assert_eq!(isin("d", &list), [f, t.clone(), N, t]);
    let e = compile(&expr(call("is_in", &[col("k"), lit(json!("tow"))])), &b.schema).unwrap_err();
    assert_eq!(e.code, "unknown_value");
    let e = compile(&expr(call("is_in", &[col("x"), lit(json!("a"))])), &b.schema).unwrap_err();
    assert_eq!(e.code, "type_mismatch");
    let e = compile(&expr(call("is_in", &[col("x"), col("x")])), &b.schema).unwrap_err();
    assert_eq!(e.code, "type_mismatch");
}

#[test]
fn casts() {
    let bad = E(ERR_CAST);
    let c = |from: &str, to: &str, table: &[(Value, Value)]| {
        let b = batch(&[("a", from, table.iter().map(|t| t.0.clone()).collect())]);
        let (t, got) = run_on(&b, with(call("cast", &[col("a")]), "type", json!(to)));
        assert_eq!(t.to_string(), to);
        for ((value, want), got) in table.iter().zip(got) {
            assert_eq!(&got, want, "{value:?} to {to}");
            if let Some(l) = literal_of(value, from) {
                let (_, got) = run_on(&b, with(call("cast", &[l]), "type", json!(to)));
                assert_eq!(&got[0], want, "{value:?} to {to}");
            }
        }
    };
    c("int", "float", &[(I(3), F(3.0)), (N, N), (E(6), E(6))]);
    c("int", "decimal(4,2)", &[(I(99), D(9900, 2)), (I(100), bad.clone()), (I(i64::MIN), bad.clone())]);
    c("int", "str", &[(I(-3), s("-3")), (N, N)]);
    c("int", "bool", &[(I(-3), B(true)), (I(0), B(false))]);
    c("int", "timestamp", &[(I(-3), T(-3)), (N, N)]);
    c("duration", "int", &[(U(-3), I(-3))]);
    c("float", "int", &[(F(-3.9), I(-3)), (F(1e19), bad.clone()), (F(-9_223_372_036_854_775_808.0), I(i64::MIN))]);
    c("float", "decimal(38,1)", &[(F(0.25), D(2, 1)), (F(0.35), D(4, 1)), (F(1e38), bad.clone())]);
    c("float", "decimal(38,20)", &[(F(0.1), D(10i128.pow(19), 20))]);
    c("float", "str", &[(F(1.0), s("1.0")), (F(0.1), s("0.1")), (F(1e300), s("1e300"))]);
    c("decimal(10,2)", "decimal(4,1)", &[(D(125, 2), D(12, 1)), (D(-135, 2), D(-14, 1)), (D(99_995, 2), bad.clone())]);
    c("decimal(10,2)", "decimal(38,4)", &[(D(125, 2), D(12_500, 4))]);
    c("decimal(10,2)", "decimal(38,2)", &[(D(125, 2), D(125, 2))]);
    c("decimal(38,2)", "int", &[(D(-199, 2), I(-1)), (D(10i128.pow(37), 2), bad.clone())]);
    c("decimal(38,2)", "float", &[(D(10, 2), F(0.1)), (D(10i128.pow(37), 2), F(1e35))]);
    c("decimal(38,2)", "str", &[(D(-5, 2), s("-0.05"))]);
    c("str", "int", &[(s("12"), I(12)), (s("12.0"), bad.clone()), (s(""), bad.clone())]);
    c("str", "float", &[(s("1e3"), F(1000.0)), (s("nan"), bad.clone()), (s("inf"), bad.clone())]);
    c("str", "decimal(4,2)", &[(s("1.005"), D(100, 2)), (s("100"), bad.clone()), (s("x"), bad.clone())]);
    c("str", "bool", &[(s("true"), B(true)), (s("True"), bad.clone())]);
    c("str", "timestamp", &[(s("1970-01-01T09:00:00.5+09:00"), T(500)), (s("1970"), bad.clone())]);
    c("timestamp", "str", &[(T(-1), s("1969-12-31T23:59:59.999Z")), (T(i64::MAX), bad.clone())]);
    let color = r#"enum["red","12"]"#;
    c("str", color, &[(s("red"), s("red")), (s("blue"), bad.clone()), (N, N)]);
    c(color, "str", &[(s("red"), s("red")), (N, N), (E(6), E(6))]);
    c(color, "int", &[(s("red"), bad.clone()), (s("12"), I(12)), (N, N), (E(6), E(6))]);
    c("bool", "int", &[(B(true), I(1))]);
    c("bool", "str", &[(B(true), s("true"))]);
    let e = error_of(&[("a", "bool", vec![])], with(call("cast", &[col("a")]), "type", json!("timestamp")));
    assert_eq!(e.code, "type_mismatch");
}

#[test]
fn rounding_and_signs() {
    let b = batch(&[
        ("d", "decimal(5,3)", vec![D(1_225, 3), D(-1_225, 3), D(99_999, 3), N]),
        ("f", "float", vec![F(1.225), F(-2.5), F(1e20), N]),
        ("i", "int", vec![I(5), I(-5), I(i64::MIN), N]),
        ("u", "duration", vec![U(5), U(-5), U(i64::MIN), N]),
    ]);
    let round = |c: &str, digits: i32| run_on(&b, with(call("round", &[col(c)]), "digits", json!(digits)));
    assert_eq!(round("d", 2), (dtype("decimal(5,2)"), vec![D(122, 2), D(-122, 2), D(10_000, 2), N]));
    assert_eq!(round("d", 5).0, dtype("decimal(5,3)"));
    assert_eq!(round("f", 2).1, [F(1.22), F(-2.5), F(1e20), N]);
    assert_eq!(round("f", 0).1, [F(1.0), F(-2.0), F(1e20), N]);
    assert_eq!(round("i", 0).1, [I(5), I(-5), I(i64::MIN), N]);
    let one = |op: &str, c: &str| run_on(&b, call(op, &[col(c)]));
    assert_eq!(one("floor", "d"), (dtype("decimal(5,0)"), vec![D(1, 0), D(-2, 0), D(99, 0), N]));
    assert_eq!(one("ceil", "d").1, [D(2, 0), D(-1, 0), D(100, 0), N]);
    assert_eq!(one("floor", "f").1, [F(1.0), F(-3.0), F(1e20), N]);
    assert_eq!(one("ceil", "f").1, [F(2.0), F(-2.0), F(1e20), N]);
    assert_eq!(one("neg", "i").1, [I(-5), I(5), OVER, N]);
    assert_eq!(one("abs", "u"), (DataType::Duration, vec![U(5), U(5), OVER, N]));
    assert_eq!(one("neg", "d").1, [D(-1_225, 3), D(1_225, 3), D(-99_999, 3), N]);
    assert_eq!(one("abs", "f").1, [F(1.225), F(2.5), F(1e20), N]);
}

#[test]
fn texts() {
    let b = batch(&[
        ("a", "str", vec![s(" Straße "), s(""), N, E(4)]),
        ("k", r#"enum["Ab","bc"]"#, vec![s("Ab"), s("bc"), N, E(4)]),
    ]);
    let one = |op: &str, c: &str| run_on(&b, call(op, &[col(c)])).1;
    assert_eq!(one("str_upper", "a"), [s(" STRASSE "), s(""), N, E(4)]);
    assert_eq!(one("str_lower", "k"), [s("ab"), s("bc"), N, E(4)]);
    assert_eq!(one("str_strip", "a"), [s("Straße"), s(""), N, E(4)]);
    assert_eq!(one("str_len", "a"), [I(8), I(0), N, E(4)]);
    assert_eq!(one("str_bytes", "a"), [I(9), I(0), N, E(4)]);
    assert_eq!(one("str_len", "k"), [I(2), I(2), N, E(4)]);
    let two = |op: &str, c: &str, l: &str| run_on(&b, call(op, &[col(c), lit(json!(l))])).1;
    assert_eq!(two("str_starts_with", "k", "A"), [B(true), B(false), N, E(4)]);
    assert_eq!(two("str_ends_with", "k", "c"), [B(false), B(true), N, E(4)]);
    assert_eq!(two("str_contains", "a", "aß"), [B(true), B(false), N, E(4)]);
    assert_eq!(two("str_contains", "a", ""), [B(true), B(true), N, E(4)]);
    assert_eq!(two("lt", "k", "B"), [B(true), B(false), N, E(4)]);
    let e = call("str_replace", &[col("a"), lit(json!("ß")), col("k")]);
    assert_eq!(run_on(&b, e).1, [s(" StraAbe "), s(""), N, E(4)]);
    let e = call("str_concat", &[col("k"), lit(json!("-")), col("a")]);
    assert_eq!(run_on(&b, e).1, [s("Ab- Straße "), s("bc-"), N, E(4)]);
    let e = with(with(call("str_slice", &[col("a")]), "offset", json!(-4)), "length", json!(2));
    assert_eq!(run_on(&b, e).1, [s("aß"), s(""), N, E(4)]);
}

#[test]
fn plan_errors_say_what_to_do() {
    let columns = [("price", "decimal(38,2)", vec![]), ("user", "str", vec![]), ("n", "int", vec![])];
    let e = error_of(&columns, col("prise"));
    assert_eq!((e.code, e.hint.as_deref()), ("unknown_column", Some("did you mean `price`?")));
    let e = error_of(&columns, col("zzzzzz"));
    assert_eq!(e.hint.as_deref(), Some("the columns are `price`, `user`, `n`"));
    let e = error_of(&columns, call("add", &[col("user"), col("n")]));
    assert_eq!(e.code, "type_mismatch");
    assert_eq!(e.message, "`add` takes numbers, durations or a timestamp and a duration, not `str` and `int`");
    assert!(e.hint.is_some());
    for (code, e) in [
        ("type_mismatch", call("and", &[col("n"), col("n")])),
        ("type_mismatch", call("eq", &[col("n"), col("user")])),
        ("type_mismatch", call("str_len", &[col("n")])),
        ("type_mismatch", call("dt_year", &[col("n")])),
        ("type_mismatch", call("neg", &[col("user")])),
        ("untyped_null", lit(json!(null))),
        ("untyped_null", call("coalesce", &[lit(json!(null))])),
        ("bad_literal", typed("decimal(4,2)", json!("1.005"))),
        ("bad_literal", typed("int", json!("1"))),
        ("bad_plan", call("add", &[col("n")])),
        ("bad_plan", call("frobnicate", &[col("n")])),
        ("bad_plan", call("when", &[col("n"), col("n"), col("n"), col("n")])),
        ("bad_parameter", with(call("dt_truncate", &[col("$timestamp")]), "every_ms", json!(0))),
        ("bad_parameter", with(call("round", &[col("n")]), "digits", json!(-1))),
        ("bad_parameter", with(call("str_slice", &[col("user")]), "length", json!(-1))),
    ] {
        let error = error_of(&columns, e.clone());
        assert_eq!(error.code, code, "{e}: {error}");
    }
}

#[test]
fn metadata_of_rows() {
    let mut b = batch(&[("a", "int", vec![I(1), I(2)])]);
    let meta = |b: &Batch, name: &str| run_on(b, col(name)).1;
    assert_eq!(meta(&b, "$timestamp"), [T(0), T(1000)]);
    assert_eq!(meta(&b, "$offset"), [N, N]);
    let mut raw = RawBatch::default();
    raw.push(7, 0, None, None);
    raw.push(9, 0, None, None);
    b.origins = Arc::new(vec![Origin { topic: "t".into(), partition: 3, raw: Arc::new(raw) }]);
    b.origin_rows = Some(Arc::new(vec![(0, 1), (0, 0)]));
    assert_eq!(meta(&b, "$offset"), [I(9), I(7)]);
    assert_eq!(meta(&b, "$partition"), [I(3), I(3)]);
    let compiled = compile(&expr(call("add", &[col("a"), col("$offset")])), &b.schema).unwrap();
    assert_eq!(compiled.columns, [0]);
}

#[test]
fn callables_get_columns_and_keep_their_messages() {
    struct Doubling;
    impl Foreign for Doubling {
        fn call(&self, function: usize, batch: &Batch, args: &[Arc<Column>], result: &DataType) -> Column {
            assert_eq!((function, args.len(), args[1].len()), (5, 2, batch.rows));
            let mut out = ColumnBuilder::new(result.clone());
            for row in 0..batch.rows {
                match args[0].value_at(row) {
                    I(x) if x >= 0 => out.push_i64(x * 2),
                    _ => out.push_state(ERR_CALLABLE),
                }
            }
            let mut column = out.finish();
            column.messages = Some(Arc::new(vec![(1, "negative".to_string())]));
            column
        }
        fn map(&self, _: usize, _: &Batch, _: &Schema) -> Vec<Column> {
            vec![]
        }
    }
    let b = batch(&[("a", "int", vec![I(1), I(-2), I(3)]), ("c", "bool", vec![B(false), B(true), B(true)])]);
    let f = json!({"op": "call", "function": 5, "type": "int", "args": [col("a"), lit(json!("x"))]});
    let e = call("when", &[col("c"), call("add", &[f, lit(json!(1))]), lit(json!(0))]);
    let column = compile(&expr(e), &b.schema).unwrap().eval(&b, &Doubling);
    assert_eq!((0..3).map(|r| column.value_at(r)).collect::<Vec<_>>(), [I(0), E(ERR_CALLABLE), I(7)]);
    assert_eq!(column.message_at(1), Some("negative"));
}

#[test]
fn literals_fold_and_fill_the_batch() {
    let b = batch(&[("a", "int", vec![I(1); 5])]);
    let compiled = compile(&expr(call("mul", &[lit(json!(6)), lit(json!(7))])), &b.schema).unwrap();
    assert!(compiled.columns.is_empty());
    assert_eq!(compiled.eval(&b, &NoForeign).value_at(4), I(42));
    let empty = batch(&[("a", "int", vec![])]);
    assert_eq!(run_on(&empty, call("add", &[col("a"), lit(json!(1))])).1, []);
    assert_eq!(run_on(&empty, lit(json!("x"))).1, []);
}

#[test]
fn one_value_at_a_time_zero_has_a_sign_until_abs() {
    use crate::datum::Datum;
    for (op, of, is) in
        [("abs", -0.0, 0.0), ("abs", 0.0, 0.0), ("abs", -1.5, 1.5), ("neg", 0.0, -0.0), ("neg", -0.0, 0.0)]
    {
        let scalar = super::Scalar::compile(&expr(call(op, &[col("x")]))).unwrap();
        let row = Datum::Map([(Arc::from("x"), Datum::Float(of))].into_iter().collect());
        assert_eq!(scalar.eval(&[Datum::Null, row]).unwrap(), Datum::Float(is), "{op} of {of:?}");
    }
    let zeros = batch(&[("x", "float", vec![F(-0.0), F(0.0)])]);
    assert_eq!(run_on(&zeros, call("abs", &[col("x")])).1, [F(0.0), F(0.0)]);
}
