//! Aggregation by key, without windows: of streams, and of tables with old values taken back.

use serde::Deserialize;

use super::func::Func;
use super::table::Teller;
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;

/// What is folded, and how. `count` is an aggregate of its own so that it needs no call.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fold {
    Count,
    /// `adder(aggregate, value)`, and `subtractor(aggregate, value)` for tables; the first value is the aggregate.
    Reduce {
        adder: Func,
        subtractor: Option<Func>,
    },
    /// `adder([key,] value, aggregate)`, `subtractor` alike, from `initializer()`.
    Aggregate {
        initializer: Func,
        adder: Func,
        subtractor: Option<Func>,
    },
}

impl Fold {
    /// The aggregate of nothing; null where the first value takes its place.
    pub fn initial(&self, cx: Cx<'_>) -> Result<Datum, Failure> {
        match self {
            Fold::Count => Ok(Datum::Int(0)),
            Fold::Reduce { .. } => Ok(Datum::Null),
            Fold::Aggregate { initializer, .. } => cx.apply(initializer.call, &[]),
        }
    }
    pub fn add(&self, key: &Datum, value: &Datum, aggregate: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        match (self, aggregate) {
            (Fold::Count, Datum::Int(n)) => Ok(Datum::Int(n + 1)),
            (Fold::Count, other) => Err(Failure::Bad("not_a_count", format!("{other:?}"))),
            (Fold::Reduce { .. }, Datum::Null) => Ok(value.clone()),
            (Fold::Reduce { adder, .. }, _) => cx.apply(adder.call, &[aggregate.clone(), value.clone()]),
            (Fold::Aggregate { adder, .. }, _) => adder.apply(cx, key, &[value, aggregate]),
        }
    }
    pub fn subtract(&self, key: &Datum, value: &Datum, aggregate: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        let missing =
            || Failure::Fatal(crate::error::Fatal::new("bad_plan", "an aggregate of a table has a subtractor"));
        match (self, aggregate) {
            (Fold::Count, Datum::Int(n)) => Ok(Datum::Int(n - 1)),
            (Fold::Count, other) => Err(Failure::Bad("not_a_count", format!("{other:?}"))),
            (Fold::Reduce { subtractor, .. }, _) => {
                cx.apply(subtractor.ok_or_else(missing)?.call, &[aggregate.clone(), value.clone()])
            }
            (Fold::Aggregate { subtractor, .. }, _) => {
                subtractor.ok_or_else(missing)?.apply(cx, key, &[value, aggregate])
            }
        }
    }
}

/// Of a stream (or several, each with its own fold: `cogroup`), by key.
pub struct Aggregate {
    /// By input.
    pub folds: Vec<Fold>,
    pub store: usize,
    pub teller: Teller,
}

impl Node for Aggregate {
    fn process(&mut self, input: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.key.is_null() || record.value.is_null() {
            cx.count(if record.key.is_null() { "dropped:null_key" } else { "dropped:null_value" });
            return Ok(());
        }
        let fold = &self.folds[input];
        let stored = cx.latest(self.store, &record.key)?;
        let (before, ts) = match &stored {
            Some((value, ts)) => (value.clone(), record.ts.max(*ts)),
            None => (fold.initial(cx)?, record.ts),
        };
        let after = fold.add(&record.key, &record.value, &before, cx)?;
        let ts = told_at(&self.teller, &after, ts, &record);
        let change = Record { value: after, old: before, ts, ..record };
        self.teller.keep(self.store, change, stored.map(|s| s.0), cx)
    }
    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.teller.flush(cx)
    }
    fn restored(&mut self, _: Cx<'_>) {
        self.teller.clear();
    }
}

/// The time of an aggregate's change. A cache knows no time of a deletion but that of the record that caused it.
pub fn told_at(teller: &Teller, after: &Datum, ts: i64, record: &Record) -> i64 {
    if after.is_null() && teller.cached() {
        record.ts
    } else {
        ts
    }
}

/// Of a table, by the key its rows were regrouped under: the old value is taken back, then the new one added. The aggregate
/// of a group whose rows have all gone stays.
pub struct TableAggregate {
    pub fold: Fold,
    pub store: usize,
    pub teller: Teller,
}

impl Node for TableAggregate {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let stored = cx.latest(self.store, &record.key)?;
        let (before, was) = stored.clone().unwrap_or((Datum::Null, i64::MIN));
        let mut after = before.clone();
        let mut ts = record.ts;
        if !record.old.is_null() && stored.is_some() {
            after = self.fold.subtract(&record.key, &record.old, &before, cx)?;
            ts = ts.max(was);
        }
        if !record.value.is_null() {
            if after.is_null() {
                after = self.fold.initial(cx)?;
            }
            after = self.fold.add(&record.key, &record.value, &after, cx)?;
            ts = ts.max(was);
        }
        let ts = told_at(&self.teller, &after, ts, &record);
        let change = Record { value: after, old: before, ts, ..record };
        self.teller.keep(self.store, change, stored.map(|s| s.0), cx)
    }
    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.teller.flush(cx)
    }
    fn restored(&mut self, _: Cx<'_>) {
        self.teller.clear();
    }
}
