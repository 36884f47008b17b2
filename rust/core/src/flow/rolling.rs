//! `rolling`: a row with aggregates of the rows of its key up to it.
//!
//! ```text
//!   kept of the key   ──(time in (ts − w, ts], or the last N − 1)──┐
//!   row ──read──▶ arguments ───────────────────────────────────────┴─▶ accumulators ──▶ row, longer
//!                     └──▶ kept
//! ```
//!
//! Only the aggregates' arguments are kept of a row (null where a `where` is not true), and what an aggregate is `over`, under
//! its time. Accumulators are those
//! of groups of rows (`aggregate.rs`), so results are the same to the last digit. They are filled anew for each row: what
//! leaves the window needs not be taken back, and each row costs as many steps as its window has rows.
//!
//! A row that comes late sees the rows of its own window that are still kept, and those that came before it only. What is older
//! than retention is let go of in the store; a row that old sees itself, and is not kept (`expired`). A row without a key is
//! alone in its window. A row that fails is a dead letter and is not kept.

use std::sync::Arc;

use serde::Deserialize;

use super::bridge::{as_type, datum_at};
use super::func::Func;
use super::stores::key_bytes;
use super::{Cx, Done, Failure, Node, Record};
use crate::aggregate::{Input, Layout, Place, Spec, VarScope, Vars};
use crate::batch::Batch;
use crate::column::{reason, Column, ColumnBuilder};
use crate::datum::{field_name, Datum};
use crate::error::PlanError;
use crate::expr::NoForeign;
use crate::types::{DataType, Schema};

#[derive(Deserialize)]
pub struct Parameters {
    /// Of a row: a tuple of each aggregate's argument, what it is ordered by and over what it is, one behind the other.
    read: Func,
    parts: Vec<Part>,
    /// Rows of this much time up to the row's own.
    #[serde(default)]
    within_ms: Option<i64>,
    /// So many rows, the last of which is the row itself.
    #[serde(default)]
    rows: Option<usize>,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    #[serde(rename = "fn")]
    function: String,
    input: DataType,
    #[serde(default)]
    by: Vec<Order>,
    /// Behind those, so many values in which a row must be like the newest to be met.
    #[serde(default)]
    over: usize,
    #[serde(default)]
    parameter: Option<f64>,
    #[serde(default)]
    error: Option<f64>,
}

#[derive(Deserialize)]
struct Order {
    #[serde(rename = "type")]
    dtype: DataType,
    descending: bool,
}

pub struct Rolling {
    p: Parameters,
    store: usize,
    layout: Layout,
}

impl Rolling {
    pub fn new(p: Parameters, store: usize) -> Result<Rolling, PlanError> {
        let spec = |part: &Part| Spec {
            function: part.function.clone(),
            input: Some(part.input.clone()),
            descending: part.by.iter().map(|by| by.descending).collect(),
            parameter: part.parameter,
            error: part.error,
            ..Spec::default()
        };
        let layout = Layout::new(&p.parts.iter().map(spec).collect::<Vec<_>>())?;
        if p.within_ms.is_some() == p.rows.is_some() {
            return Err(PlanError::new("bad_plan", "`rolling` is over a time or over a number of rows"));
        }
        Ok(Rolling { p, store, layout })
    }

    /// The arguments of the rows before, first things first.
    fn held(&self, key: &Datum, ts: i64, cx: Cx<'_>) -> Result<Vec<(i64, Datum)>, Failure> {
        let store = cx.store(self.store);
        if let Some(within) = self.p.within_ms {
            let from = ts.saturating_sub(within).saturating_add(1);
            return Ok(store.series_range(&key_bytes(key)?, from, ts).map(|(time, (kept, _))| (time, kept)).collect());
        }
        let Some((Datum::List(kept), _)) = store.get(key)? else { return Ok(vec![]) };
        let entry = |entry: &Datum| match entry {
            Datum::Tuple(parts) => match &parts[..] {
                [Datum::Timestamp(time), kept] => Some((*time, kept.clone())),
                _ => None,
            },
            _ => None,
        };
        // The row itself is one of them.
        let fewer = self.p.rows.unwrap_or(1).saturating_sub(1);
        Ok(kept.iter().skip(kept.len().saturating_sub(fewer)).filter_map(entry).collect())
    }

    fn keep(&self, record: &Record, rows: Vec<(i64, Datum)>, cx: Cx<'_>) -> Done {
        let mut store = cx.store_mut(self.store);
        if self.p.within_ms.is_none() {
            let entry = |(time, kept)| Datum::Tuple(Arc::from([Datum::Timestamp(time), kept]));
            return store.put(&record.key, &Datum::List(rows.into_iter().map(entry).collect()), record.ts);
        }
        let Some((_, own)) = rows.last() else { return Ok(()) };
        if !store.series_put(&key_bytes(&record.key)?, record.ts, own, record.ts)? {
            drop(store);
            cx.count("expired");
        }
        Ok(())
    }

    /// Where each aggregate's values begin in what is kept of a row.
    fn places(&self) -> impl Iterator<Item = (usize, &Part)> {
        self.p.parts.iter().scan(0, |next, part| {
            let at = *next;
            *next += 1 + part.by.len() + part.over;
            Some((at, part))
        })
    }

    /// The columns of the arguments: of each aggregate its own, then what it is ordered by.
    fn columns(&self, rows: &[(i64, Datum)]) -> Result<Vec<Arc<Column>>, Failure> {
        let types = self.places().flat_map(|(at, part)| {
            let by = part.by.iter().enumerate().map(move |(n, by)| (at + 1 + n, part, &by.dtype));
            std::iter::once((at, part, &part.input)).chain(by)
        });
        let column = |(at, part, dtype): (usize, &Part, &DataType)| {
            let mut column = ColumnBuilder::with_capacity(dtype.clone(), rows.len());
            for (_, kept) in rows {
                let found = match kept {
                    Datum::Tuple(fields) => fields.get(at),
                    _ => None,
                };
                let value = found.and_then(|found| as_type(found, dtype)).ok_or_else(|| {
                    Failure::Bad("bad_field", format!("`{}` reads {found:?}, not `{dtype}`", part.name))
                })?;
                column.push_value(&value);
            }
            Ok(Arc::new(column.finish()))
        };
        types.map(column).collect()
    }

    fn results(&self, rows: &[(i64, Datum)]) -> Result<Vec<(Arc<str>, Datum)>, Failure> {
        let columns = self.columns(rows)?;
        let batch = batch(rows.iter().map(|row| row.0).collect());
        let mut cells = vec![0; self.layout.size];
        let mut vars = Vars::default();
        let (mut taken, mut given_up) = (vec![], vec![]);
        let own = rows.last().map(|(_, kept)| kept);
        for (row, (ts, kept)) in rows.iter().enumerate() {
            // What came first is first, of one time.
            let input = Input {
                batch: &batch,
                row,
                place: Place { ts: *ts, lane: 0, position: row as u64 },
                foreign: &NoForeign,
            };
            let mut column = 0;
            for (index, (at, part)) in self.places().enumerate() {
                let (arg, by) = (&columns[column], &columns[column + 1..column + 1 + part.by.len()]);
                column += 1 + part.by.len();
                let over = at + 1 + part.by.len()..at + 1 + part.by.len() + part.over;
                if part.over > 0 && !own.is_some_and(|own| alike(own, kept, over)) {
                    continue;
                }
                let mut scope = VarScope { vars: &mut vars, taken: &mut taken, given_up: &mut given_up };
                let added = self.layout.add(index, &mut cells, (Some(arg), by), 1, &input, &mut scope);
                added.map_err(Failure::raised)?;
            }
        }
        let result = |(index, part): (usize, &Part)| {
            let mut out = ColumnBuilder::new(self.layout.accumulators[index].output.clone());
            self.layout.result(index, &cells, &vars, &NoForeign, &mut out);
            match datum_at(&out.finish(), 0) {
                Ok(found) => Ok((field_name(&part.name), found)),
                Err(state) => Err(Failure::Bad(reason(state), format!("`{}`", part.name))),
            }
        };
        self.p.parts.iter().enumerate().map(result).collect()
    }
}

/// Whether two rows are the same in these values; null is like null.
fn alike(one: &Datum, other: &Datum, values: std::ops::Range<usize>) -> bool {
    match (one, other) {
        (Datum::Tuple(one), Datum::Tuple(other)) => match (one.get(values.clone()), other.get(values)) {
            (Some(one), Some(other)) => one == other,
            _ => false,
        },
        _ => false,
    }
}

/// Rows of which nothing is known but their times: accumulators look at nothing else.
fn batch(ts: Vec<i64>) -> Batch {
    Batch {
        schema: Arc::new(Schema::default()),
        columns: vec![],
        rows: ts.len(),
        live: None,
        seq: Arc::new(vec![0; ts.len()]),
        path: None,
        ts: Arc::new(ts),
        key: None,
        sign: None,
        lane: 0,
        stamp: None,
        origins: Arc::new(vec![]),
        origin_rows: None,
    }
}

impl Node for Rolling {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let Datum::Map(fields) = &record.value else {
            return Err(Failure::Bad("bad_type", format!("{:?} is no row", record.value)));
        };
        let own = self.p.read.apply(cx, &record.key, &[&record.value])?;
        let mut rows = match record.key.is_null() {
            true => vec![],
            false => self.held(&record.key, record.ts, cx)?,
        };
        rows.push((record.ts, own));
        let results = self.results(&rows)?;
        let value = Datum::Map(fields.iter().cloned().chain(results).collect());
        match record.key.is_null() {
            true => cx.count("null_key"),
            false => self.keep(&record, rows, cx)?,
        }
        cx.forward(record.with_value(value))
    }
}
