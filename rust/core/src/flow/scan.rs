//! `scan`: what a row says beside what its key has come to before it.
//!
//! ```text
//!   row, state ──emit──▶ row, longer        state: of the key, before the row
//!        └────update──▶ the next state      all of it at once, from the same state
//! ```
//!
//! Rows of a key are taken in the order in which they come. A row without a key is one by itself: it meets the initial state,
//! and leaves none. A row whose emission or update fails is a dead letter and leaves the state as it was.
//!
//! With a ttl the state is forgotten as soon as a row of any key is so far ahead of the key's latest one: it lies in a series
//! under the time of that row, which moves it on.

use serde::Deserialize;

use super::func::Func;
use super::stores::key_bytes;
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;

#[derive(Deserialize)]
pub struct Parameters {
    /// Of (row, state): the row that goes on.
    emit: Func,
    /// Of (row, state): the next state.
    update: Func,
    initial: Func,
    /// How long after its latest row a key's state is there.
    #[serde(default)]
    ttl_ms: Option<i64>,
}

pub struct Scan {
    p: Parameters,
    store: usize,
}

impl Scan {
    pub fn new(p: Parameters, store: usize) -> Scan {
        Scan { p, store }
    }

    /// The state, and the time under which it lies.
    fn state(&self, key: &Datum, ts: i64, cx: Cx<'_>) -> Result<Option<(i64, Datum)>, Failure> {
        let store = cx.store(self.store);
        let Some(ttl) = self.p.ttl_ms else {
            return Ok(store.get(key)?.map(|(state, time)| (time, state)));
        };
        let latest = store.series_range(&key_bytes(key)?, i64::MIN, i64::MAX).next_back();
        // Rows of other keys let go of it in the store; its own next row may be the first so far ahead.
        Ok(latest.filter(|(time, _)| time.saturating_add(ttl) > ts).map(|(time, (state, _))| (time, state)))
    }

    fn keep(&self, key: &Datum, before: Option<i64>, state: &Datum, ts: i64, cx: Cx<'_>) -> Done {
        let mut store = cx.store_mut(self.store);
        let time = before.map_or(ts, |before| before.max(ts));
        if self.p.ttl_ms.is_none() {
            return store.put(key, state, time);
        }
        let bytes = key_bytes(key)?;
        if let Some(old) = before.filter(|&old| old != time) {
            store.series_remove(&bytes, old);
        }
        if !store.series_put(&bytes, time, state, time)? {
            drop(store);
            cx.count("expired");
        }
        Ok(())
    }
}

impl Node for Scan {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let kept = match record.key.is_null() {
            true => None,
            false => self.state(&record.key, record.ts, cx)?,
        };
        let before = kept.as_ref().map(|kept| kept.0);
        let state = match kept {
            Some((_, state)) => state,
            None => self.p.initial.apply(cx, &record.key, &[&record.value, &Datum::Null])?,
        };
        let sides = [&record.value, &state];
        let value = self.p.emit.apply(cx, &record.key, &sides)?;
        let next = self.p.update.apply(cx, &record.key, &sides)?;
        match record.key.is_null() {
            true => cx.count("null_key"),
            false => self.keep(&record.key, before, &next, record.ts, cx)?,
        }
        cx.forward(record.with_value(value))
    }
}
