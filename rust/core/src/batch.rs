//! A batch of rows on its way through operators.
//!
//! Rows are columns plus, per row, its place in the processing order (`seq`), its event time and where it came from.
//! Operators that drop rows do not copy: they shorten `live`, and kernels compute dead rows too (errors are values, so
//! that is harmless). Everything per row is indexed by *physical* row.

use std::sync::Arc;

use crate::column::{Bytes, Column};
use crate::raw::RawBatch;
use crate::types::Schema;

/// Where rows came from: the input records behind them, for dead letters.
#[derive(Clone, Debug)]
pub struct Origin {
    pub topic: Arc<str>,
    pub partition: u32,
    pub raw: Arc<RawBatch>,
}

#[derive(Clone, Debug)]
pub struct Batch {
    pub schema: Arc<Schema>,
    pub columns: Vec<Arc<Column>>,
    pub rows: usize,
    /// The rows still in the stream, ascending; `None`: all.
    pub live: Option<Vec<u32>>,
    /// Place in the task's processing order; non-decreasing over live rows.
    pub seq: Arc<Vec<u32>>,
    /// Tie-break among rows of one `seq` that took different branches: depth-first order. `None`: all zero.
    pub path: Option<Arc<Vec<u32>>>,
    /// Event time, UTC milliseconds.
    pub ts: Arc<Vec<i64>>,
    /// Current key bytes, where the stream has a key.
    pub key: Option<Arc<Bytes>>,
    /// For table changes: +1 the new value, -1 the old one. `None`: an ordinary stream.
    pub sign: Option<Arc<Vec<i8>>>,
    /// The upstream partition these rows came from, whose clock they move (see `op/aggregate.rs`).
    pub lane: u32,
    /// The lane's clock at each row, this row included; `None`: the running maximum of `ts`.
    pub stamp: Option<Arc<Vec<i64>>>,
    /// Row -> record in `origins`: (origin, record row). `None` after a shuffle or an aggregate.
    pub origins: Arc<Vec<Origin>>,
    pub origin_rows: Option<Arc<Vec<(u32, u32)>>>,
}

impl Batch {
    pub fn live_len(&self) -> usize {
        self.live.as_ref().map_or(self.rows, Vec::len)
    }
    pub fn is_empty(&self) -> bool {
        self.live_len() == 0
    }
    /// The live physical rows, ascending.
    pub fn live_rows(&self) -> LiveRows<'_> {
        match &self.live {
            None => LiveRows::All(0..self.rows as u32),
            Some(rows) => LiveRows::Some(rows.iter()),
        }
    }
    pub fn column(&self, name: &str) -> Option<&Arc<Column>> {
        self.schema.index(name).map(|i| &self.columns[i])
    }
    /// A batch with only the live rows, physically.
    pub fn compact(self) -> Batch {
        let Some(rows) = &self.live else { return self };
        let pick_i64 = |v: &[i64]| rows.iter().map(|&r| v[r as usize]).collect::<Vec<_>>();
        let pick_u32 = |v: &[u32]| rows.iter().map(|&r| v[r as usize]).collect::<Vec<_>>();
        let key = self.key.as_ref().map(|k| {
            let mut out = Bytes::with_capacity(rows.len(), 0);
            for &r in rows {
                out.push(k.get(r as usize));
            }
            Arc::new(out)
        });
        Batch {
            schema: self.schema.clone(),
            columns: self.columns.iter().map(|c| Arc::new(c.take(rows))).collect(),
            rows: rows.len(),
            seq: Arc::new(pick_u32(&self.seq)),
            path: self.path.as_ref().map(|p| Arc::new(pick_u32(p))),
            ts: Arc::new(pick_i64(&self.ts)),
            key,
            sign: self.sign.as_ref().map(|s| Arc::new(rows.iter().map(|&r| s[r as usize]).collect())),
            lane: self.lane,
            stamp: self.stamp.as_ref().map(|s| Arc::new(pick_i64(s))),
            origins: self.origins.clone(),
            origin_rows: self.origin_rows.as_ref().map(|o| Arc::new(rows.iter().map(|&r| o[r as usize]).collect())),
            live: None,
        }
    }
}

#[derive(Clone)]
pub enum LiveRows<'a> {
    All(std::ops::Range<u32>),
    Some(std::slice::Iter<'a, u32>),
}

impl Iterator for LiveRows<'_> {
    type Item = usize;
    #[inline]
    fn next(&mut self) -> Option<usize> {
        match self {
            LiveRows::All(range) => range.next().map(|r| r as usize),
            LiveRows::Some(iter) => iter.next().map(|&r| r as usize),
        }
    }
    /// At once, so that skipping costs nothing.
    #[inline]
    fn nth(&mut self, n: usize) -> Option<usize> {
        match self {
            LiveRows::All(range) => range.nth(n).map(|r| r as usize),
            LiveRows::Some(iter) => iter.nth(n).map(|&r| r as usize),
        }
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            LiveRows::All(range) => range.size_hint(),
            LiveRows::Some(iter) => iter.size_hint(),
        }
    }
}
