//! Joins of two streams that tell one match of each left record: the best, when no other can come.
//!
//! ```text
//!   left ──▶ waits ──(time + after + grace is past)──▶ look into the right window ──▶ best ──▶ joined, once
//!   right ─▶ into the right window                                 │ none: alone (left), or nothing (inner)
//! ```
//!
//! Kafka Streams has no such join; spans, lateness and times are those of `stream_join.rs`. Nothing is held but the records
//! themselves: the window keeps the right side longer than a plain join does (for before, after if it lies ahead, grace, and
//! one millisecond), so that of who leaves now nothing is forgotten yet. Past is judged by the largest time of either side,
//! before the record that carries it is taken in.
//! Those who leave together leave by time, key, arrival. A left record whose time is over when it comes is told at once.
//!
//! *Best* is what compares largest in `by` (null is least, ties go to the later one by time, then arrival), or the first or
//! last by time and arrival.

use std::cmp::Ordering;
use std::ops::Bound;

use serde::Deserialize;

use super::func::Func;
use super::join_window::Window;
use super::stores::{key_bytes, split_time, time_bytes, time_key};
use super::{Cx, Done, Failure, Headers, Node, Origin, Record};
use crate::datum::Datum;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Deserialize)]
pub struct Parameters {
    before_ms: i64,
    after_ms: i64,
    grace_ms: i64,
    left_outer: bool,
    joiner: Func,
    #[serde(default, rename = "where")]
    condition: Option<Func>,
    /// The first match instead of the last.
    first: bool,
    /// Of (left, right): a tuple of what is compared.
    #[serde(default)]
    by: Option<Func>,
}

const LEFT: usize = 0;

pub struct PickJoin {
    p: Parameters,
    right: Window,
    waiting: usize,
    /// The largest time of a record of either side.
    stream_time: i64,
}

pub(super) fn compare(a: &Datum, b: &Datum) -> Result<Ordering, Failure> {
    match (a, b) {
        (Datum::Null, Datum::Null) => Ok(Ordering::Equal),
        (Datum::Null, _) => Ok(Ordering::Less),
        (_, Datum::Null) => Ok(Ordering::Greater),
        (Datum::Tuple(a), Datum::Tuple(b)) => {
            for (a, b) in a.iter().zip(b.iter()) {
                match compare(a, b)? {
                    Ordering::Equal => {}
                    found => return Ok(found),
                }
            }
            Ok(Ordering::Equal)
        }
        _ => crate::expr::order(a, b).map_err(|(reason, text)| Failure::Bad(reason, text)),
    }
}

impl PickJoin {
    pub fn new(p: Parameters, right: usize, waiting: usize) -> PickJoin {
        PickJoin { p, right: Window::new(right), waiting, stream_time: NO_TIME }
    }

    /// The first time at which a left record can still be met.
    fn open_from(&self) -> i64 {
        self.stream_time.saturating_sub(self.p.after_ms).saturating_sub(self.p.grace_ms)
    }

    fn best(&self, record: &Record, cx: Cx<'_>) -> Result<Option<(i64, Datum)>, Failure> {
        let (from, to) = (record.ts.saturating_sub(self.p.before_ms), record.ts.saturating_add(self.p.after_ms));
        let mut best: Option<((i64, Datum), Datum)> = None;
        // Not cut off at 0, as Kafka Streams' joins do it: a span that is over before is empty, and not the instant 0.
        for (ts, other) in self.right.fetch(&key_bytes(&record.key)?, from, to, cx) {
            let sides = [&record.value, &other];
            if let Some(condition) = self.p.condition {
                if !condition.holds(cx, &record.key, &sides)? {
                    continue;
                }
            }
            let by = self.p.by.map(|by| by.apply(cx, &record.key, &sides)).transpose()?.unwrap_or_default();
            let better = match &best {
                None => true,
                Some(_) if self.p.first => false,
                Some((_, held)) => compare(&by, held)? != Ordering::Less,
            };
            if better {
                best = Some(((ts, other), by));
            }
        }
        Ok(best.map(|b| b.0))
    }

    fn tell(&self, record: &Record, cx: Cx<'_>) -> Done {
        let (ts, other) = match self.best(record, cx)? {
            Some((ts, other)) => (ts.max(record.ts), other),
            None if self.p.left_outer => (record.ts, Datum::Null),
            None => return Ok(()),
        };
        let value = self.p.joiner.apply(cx, &record.key, &[&record.value, &other])?;
        cx.forward(Record { ts, ..record.with_value(value) })
    }

    fn wait(&self, record: &Record, cx: Cx<'_>) -> Done {
        let mut store = cx.store_mut(self.waiting);
        let mut entry = time_key(record.ts, &key_bytes(&record.key)?);
        let before = entry.len();
        // Of one time and key, the last to come is the last to go.
        let last = store.bytes.prefix(&entry).rfind(|(k, _)| k.len() == before + 4);
        let last = last.and_then(|(k, _)| k.last_chunk::<4>().copied()).map_or(0, u32::from_be_bytes);
        entry.extend_from_slice(&last.saturating_add(1).to_be_bytes());
        let mut bytes = Writer::default();
        record.value.encode(&mut bytes).map_err(Failure::unstorable)?;
        Origin::write(&cx.origin(), &mut bytes);
        store.bytes.put(&entry, Some(&bytes.bytes));
        Ok(())
    }

    /// Lets go whom nothing can meet any more.
    fn leave(&self, cx: Cx<'_>) -> Done {
        let leaving: Vec<_> = {
            let store = cx.store(self.waiting);
            let end = time_bytes(self.open_from());
            let due = store.bytes.range(Bound::Unbounded, Bound::Excluded(&end[..]));
            due.map(|(entry, bytes)| (entry.to_vec(), read(&entry, &bytes))).collect()
        };
        for (entry, record) in leaving {
            cx.store_mut(self.waiting).bytes.put(&entry, None);
            let Some((record, origin)) = record else { continue };
            cx.as_waited(origin, &record, || self.tell(&record, cx))?;
        }
        Ok(())
    }
}

/// A record that waited, and where it came from.
fn read(entry: &[u8], bytes: &[u8]) -> Option<(Record, Option<Origin>)> {
    let (ts, rest) = split_time(entry)?;
    let (key, _) = rest.split_last_chunk::<4>()?;
    let mut r = Reader::new(bytes);
    let record = Record::new(Datum::from_key_bytes(key)?, Datum::decode(&mut r)?, ts, Headers::default());
    Some((record, Origin::read(&mut r)?))
}

impl Node for PickJoin {
    fn process(&mut self, side: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.ts > self.stream_time {
            self.stream_time = record.ts;
            self.leave(cx)?;
        }
        if record.value.is_null() || (record.key.is_null() && !(side == LEFT && self.p.left_outer)) {
            cx.count(if record.key.is_null() { "dropped:null_key" } else { "dropped:null_value" });
            return Ok(());
        }
        if side != LEFT {
            if !self.right.put(&key_bytes(&record.key)?, record.ts, &record.value, cx)? {
                cx.count("dropped:expired");
            }
            return Ok(());
        }
        if record.key.is_null() {
            let value = self.p.joiner.apply(cx, &record.key, &[&record.value, &Datum::Null])?;
            return cx.forward(record.with_value(value));
        }
        match record.ts < self.open_from() {
            true => self.tell(&record, cx),
            false => self.wait(&record, cx),
        }
    }

    fn save(&self, out: &mut Writer) {
        out.zigzag(self.stream_time);
    }
    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.stream_time = saved.zigzag()?;
        Some(())
    }
    fn restored(&mut self, cx: Cx<'_>) {
        self.right.restored(cx);
    }
}
