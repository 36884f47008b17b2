//! Between rows and records: columnar operators before a flow, a flow before columnar operators.
//!
//! ```text
//!  source ─▶ filter ─▶ with_columns ─▶ FromRows ─▶ join … ─▶ ToRows ─▶ filter ─▶ sink
//!  └────── columns, a batch at once ──────┘  one by one   └── columns again ──┘
//! ```
//!
//! A row becomes a record whose value is an object of its columns; what a record makes comes out at the same place in the
//! processing order (`seq`, `path`), so that nothing shows of the crossing.

use std::sync::Arc;

use serde::Deserialize;

use super::{no_headers, Cx, Done, Failure, Node, Record};
use crate::batch::{Batch, Origin};
use crate::codec::text::{parse_decimal, parse_rfc3339};
use crate::column::{reason, Column, ColumnBuilder, Data, Value, VALID};
use crate::datum::Datum;
use crate::types::{DataType, Schema};

/// What the engine's own JSON columns hold: no number of theirs is too large for 64 bits.
fn from_json(value: serde_json::Value) -> Datum {
    use serde_json::Value as Json;
    match value {
        Json::Null => Datum::Null,
        Json::Bool(b) => Datum::Bool(b),
        Json::Number(n) => n.as_i64().map_or_else(|| Datum::Float(n.as_f64().unwrap_or_default()), Datum::Int),
        Json::String(s) => Datum::str(&s),
        Json::Array(items) => Datum::List(items.into_iter().map(from_json).collect()),
        Json::Object(fields) => Datum::Map(fields.into_iter().map(|(k, v)| (Arc::from(k), from_json(v))).collect()),
    }
}

/// A valid or null value of a column; an error's state.
pub(super) fn datum_at(column: &Column, row: usize) -> Result<Datum, u8> {
    match column.state_at(row) {
        VALID => Ok(match (&column.data, &column.dtype) {
            (Data::Bool(v), _) => Datum::Bool(v[row] != 0),
            (Data::I64(v), DataType::Timestamp) => Datum::Timestamp(v[row]),
            (Data::I64(v), DataType::Duration) => Datum::Duration(v[row]),
            (Data::I64(v), _) => Datum::Int(v[row]),
            (Data::F64(v), _) => Datum::Float(v[row]),
            (Data::I128(v), DataType::Decimal { scale, .. }) => Datum::Decimal(v[row], *scale),
            (Data::I128(v), _) => Datum::Decimal(v[row], 0),
            (Data::Str(_), DataType::Json) => {
                serde_json::from_slice(column.text_at(row)).map(from_json).unwrap_or(Datum::Null)
            }
            // Columns of text hold UTF-8.
            (Data::Str(_) | Data::Code(_), _) => Datum::str(&String::from_utf8_lossy(column.text_at(row))),
        }),
        crate::column::NULL => Ok(Datum::Null),
        error => Err(error),
    }
}

/// Rows become records, which enter at a node that passes them on.
pub struct FromRows {
    keys: Vec<usize>,
    columns: Vec<(Arc<str>, usize)>,
}

impl FromRows {
    /// `keys` and `columns` by name; a key of several columns is a tuple, and null if one of them is.
    pub fn new(schema: &Schema, keys: &[String], columns: &[String]) -> Option<FromRows> {
        let index = |name: &String| schema.index(name);
        Some(FromRows {
            keys: keys.iter().map(index).collect::<Option<_>>()?,
            columns: columns.iter().map(|c| Some((Arc::from(c.as_str()), index(c)?))).collect::<Option<_>>()?,
        })
    }

    pub fn record(&self, batch: &Batch, row: usize) -> Result<Record, (&'static str, String)> {
        let read = |name: &str, at: usize| {
            datum_at(&batch.columns[at], row).map_err(|state| {
                let more = batch.columns[at].message_at(row).unwrap_or_default();
                (reason(state), format!("`{name}` {more}"))
            })
        };
        let part = |&at: &usize| read(&batch.schema.fields[at].name, at);
        let key = match self.keys.as_slice() {
            [] => Datum::Null,
            [one] => part(one)?,
            several => {
                let parts: Vec<Datum> = several.iter().map(part).collect::<Result<_, _>>()?;
                match parts.iter().any(Datum::is_null) {
                    true => Datum::Null,
                    false => Datum::Tuple(parts.into()),
                }
            }
        };
        let fields = self.columns.iter().map(|(name, at)| Ok((name.clone(), read(name, *at)?)));
        let value = Datum::Map(fields.collect::<Result<_, _>>()?);
        Ok(Record::new(key, value, batch.ts[row], no_headers()))
    }
}

/// Where a column's value comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// A field of the value, which is an object.
    Field(String),
    Value,
    Key,
    /// A part of a key that is a tuple.
    KeyPart(usize),
    /// Of a windowed key, which `key` and `key_part` then look into.
    WindowStart,
    WindowEnd,
    Timestamp,
}

/// Records become rows of a schema. Records without a value are dropped: a row has no way to say that it is gone.
pub struct ToRows {
    pub schema: Arc<Schema>,
    pub fill: Vec<Fill>,
}

impl ToRows {
    fn find<'a>(fill: &Fill, record: &'a Record) -> std::borrow::Cow<'a, Datum> {
        use std::borrow::Cow;
        let key = match &record.key {
            Datum::Windowed(w) => &w.key,
            plain => plain,
        };
        let borrowed = |found: Option<&'a Datum>| found.map_or(Cow::Owned(Datum::Null), Cow::Borrowed);
        match (fill, &record.key) {
            (Fill::Field(name), _) => borrowed(record.value.get(name)),
            (Fill::Value, _) => Cow::Borrowed(&record.value),
            (Fill::Key, _) => Cow::Borrowed(key),
            (Fill::KeyPart(i), _) => match key {
                Datum::Tuple(parts) | Datum::List(parts) => borrowed(parts.get(*i)),
                _ => Cow::Owned(Datum::Null),
            },
            (Fill::WindowStart, Datum::Windowed(w)) => Cow::Owned(Datum::Timestamp(w.start)),
            (Fill::WindowEnd, Datum::Windowed(w)) => Cow::Owned(Datum::Timestamp(w.end)),
            (Fill::WindowStart | Fill::WindowEnd, _) => Cow::Owned(Datum::Null),
            (Fill::Timestamp, _) => Cow::Owned(Datum::Timestamp(record.ts)),
        }
    }
}

/// A datum as a value of a type: exactly, or not at all.
pub(super) fn as_type(datum: &Datum, dtype: &DataType) -> Option<Value> {
    Some(match (dtype, datum) {
        (_, Datum::Null) => Value::Null,
        (DataType::Bool, Datum::Bool(b)) => Value::Bool(*b),
        (DataType::Int, Datum::Int(i)) => Value::Int(*i),
        (DataType::Float, Datum::Float(x)) if x.is_finite() => Value::Float(*x),
        (DataType::Float, Datum::Int(i)) => Value::Float(*i as f64),
        (DataType::Str, Datum::Str(s)) => Value::Str(s.to_string()),
        (DataType::Enum(values), Datum::Str(s)) if values.iter().any(|v| **v == **s) => Value::Str(s.to_string()),
        // Text is text here, too: what the engine's own JSON columns hold are arrays.
        (DataType::Json, json) => Value::Str(String::from_utf8(super::json::write(json).ok()?).ok()?),
        (DataType::Timestamp, Datum::Timestamp(t)) => Value::Timestamp(*t),
        (DataType::Timestamp, Datum::Str(s)) => Value::Timestamp(parse_rfc3339(s.as_bytes())?),
        (DataType::Duration, Datum::Duration(t)) => Value::Duration(*t),
        (DataType::Decimal { precision, scale }, Datum::Str(s)) => {
            Value::Decimal(parse_decimal(s.as_bytes(), *precision, *scale)?, *scale)
        }
        (DataType::Decimal { scale, .. }, Datum::Int(i)) => {
            Value::Decimal(i128::from(*i).checked_mul(10i128.checked_pow((*scale).into())?)?, *scale)
        }
        (DataType::Decimal { scale, .. }, Datum::Decimal(u, s)) if s <= scale => {
            Value::Decimal(u.checked_mul(10i128.checked_pow((scale - s).into())?)?, *scale)
        }
        _ => return None,
    })
}

/// A row on its way out of a flow.
pub struct Leaving {
    pub exit: usize,
    pub seq: u32,
    pub path: u32,
    pub ts: i64,
    pub values: Vec<Value>,
    pub place: Option<super::Place>,
}

impl Node for ToRows {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.value.is_null() {
            cx.count("dropped:null_value");
            return Ok(());
        }
        let mut values = Vec::with_capacity(self.fill.len());
        for (field, fill) in self.schema.fields.iter().zip(&self.fill) {
            let datum = ToRows::find(fill, &record);
            let value = as_type(&datum, &field.dtype);
            values.push(value.ok_or_else(|| {
                Failure::Bad("bad_field", format!("`{}` is {:?}, not `{}`", field.name, *datum, field.dtype))
            })?);
        }
        cx.leave(record.ts, values);
        Ok(())
    }
}

/// The rows of one exit as a batch.
pub fn batch_of(schema: &Arc<Schema>, rows: Vec<Leaving>, paths: bool) -> Batch {
    let mut builders: Vec<ColumnBuilder> =
        schema.fields.iter().map(|f| ColumnBuilder::with_capacity(f.dtype.clone(), rows.len())).collect();
    let mut origins: Vec<Origin> = vec![];
    let mut origin_rows = Vec::with_capacity(rows.len());
    for row in &rows {
        row.values.iter().zip(&mut builders).for_each(|(value, builder)| builder.push_value(value));
        if let Some(place) = &row.place {
            let same = origins.last().is_some_and(|o| Arc::ptr_eq(&o.raw, &place.raw));
            if !same {
                let (topic, partition, raw) = (place.topic.clone(), place.partition, place.raw.clone());
                origins.push(Origin { topic, partition, raw });
            }
            origin_rows.push(((origins.len() - 1) as u32, place.row as u32));
        }
    }
    let whole = origin_rows.len() == rows.len();
    Batch {
        schema: schema.clone(),
        columns: builders.into_iter().map(|b| Arc::new(b.finish())).collect(),
        rows: rows.len(),
        live: None,
        seq: Arc::new(rows.iter().map(|r| r.seq).collect()),
        path: paths.then(|| Arc::new(rows.iter().map(|r| r.path).collect())),
        ts: Arc::new(rows.iter().map(|r| r.ts).collect()),
        key: None,
        sign: None,
        lane: 0,
        stamp: None,
        origins: Arc::new(origins),
        origin_rows: whole.then(|| Arc::new(origin_rows)),
    }
}
