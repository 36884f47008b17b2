//! `filter(now() >= expr)`: a row waits until the clock says that its time has come.
//!
//! ```text
//!   row ──(its time has passed, by the logged clock)──▶ on at once
//!    └──▶ waits ──(a generation ends, and the clock has passed it)──▶ by that time, then as they came
//! ```
//!
//! The clock is the task's logged one, and rows pass by the time up to which it has been looked at. A worker that begins has
//! looked at none: what fell due while nobody was there leaves first, by its times, before a row that is read then. What has
//! left has left by a time that is committed with it; what had not is decided anew after a crash, by a later clock.
//!
//! *What falls due at once* leaves a bound of rows at a time, and turn by turn before any other input is taken, as closed windows
//! do (`op/aggregate.rs`): what has waited for one midnight is not one generation. A row that comes meanwhile waits behind it. No
//! place among other rows is given up by that: the clock that a row leaves by is of a commit, and stands in no record.
//!
//! A row without a time never becomes true, and is counted as what a filter drops. A row that leaves keeps its event time.

use std::ops::Bound;

use serde::Deserialize;

use super::func::Func;
use super::stores::{split_time, time_bytes};
use super::{Cx, Done, Failure, Headers, Node, Origin, Record};
use crate::datum::Datum;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Deserialize)]
pub struct Parameters {
    /// Of a row: from when on it passes.
    at: Func,
    /// For `now() > expr`: from the millisecond behind it.
    #[serde(default)]
    behind: bool,
    /// Under which rows without a time are counted.
    reason: String,
}

pub struct WaitUntil {
    p: Parameters,
    waiting: usize,
    /// How many leave at once.
    room: usize,
    /// The clock by which rows left last: nothing that waits is due before it, unless `more` is.
    looked: i64,
    /// Rows are due that have not left yet.
    more: bool,
}

impl WaitUntil {
    pub fn new(p: Parameters, waiting: usize, room: usize) -> WaitUntil {
        WaitUntil { p, waiting, room, looked: NO_TIME, more: false }
    }

    /// Some of what is due; returns how many.
    fn release(&mut self, cx: Cx<'_>) -> Result<usize, Failure> {
        let mut due: Vec<(Vec<u8>, Vec<u8>)> = {
            let store = cx.store(self.waiting);
            let end = time_bytes(self.looked.saturating_add(1));
            let due = store.bytes.range(Bound::Unbounded, Bound::Excluded(&end[..]));
            due.take(self.room.saturating_add(1)).map(|(entry, bytes)| (entry.to_vec(), bytes.to_vec())).collect()
        };
        self.more = due.len() > self.room;
        due.truncate(self.room);
        for (entry, bytes) in &due {
            cx.store_mut(self.waiting).bytes.put(entry, None);
            debug_assert!(split_time(entry).is_some_and(|(at, _)| at <= self.looked));
            let Some((record, origin)) = read(bytes) else { continue };
            cx.as_waited(origin, &record, || cx.forward(record.clone()))?;
        }
        Ok(due.len())
    }

    fn wait(&self, at: i64, record: &Record, cx: Cx<'_>) -> Done {
        let mut store = cx.store_mut(self.waiting);
        let mut entry = time_bytes(at).to_vec();
        let last = store.bytes.prefix(&entry).next_back();
        let last = last.and_then(|(k, _)| k.last_chunk::<4>().copied()).map_or(0, u32::from_be_bytes);
        entry.extend_from_slice(&last.saturating_add(1).to_be_bytes());
        let mut bytes = Writer::default();
        bytes.zigzag(record.ts);
        record.value.encode(&mut bytes).map_err(Failure::unstorable)?;
        Origin::write(&cx.origin(), &mut bytes);
        store.bytes.put(&entry, Some(&bytes.bytes));
        Ok(())
    }
}

/// A row that waited, and where it came from.
fn read(bytes: &[u8]) -> Option<(Record, Option<Origin>)> {
    let mut r = Reader::new(bytes);
    let ts = r.zigzag()?;
    let record = Record::new(Datum::Null, Datum::decode(&mut r)?, ts, Headers::default());
    Some((record, Origin::read(&mut r)?))
}

impl Node for WaitUntil {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let at = match self.p.at.apply(cx, &record.key, &[&record.value])? {
            Datum::Timestamp(at) => at.saturating_add(i64::from(self.p.behind)),
            Datum::Null => {
                cx.count(&format!("filtered:{}", self.p.reason));
                return Ok(());
            }
            other => return Err(Failure::Bad("bad_type", format!("{other:?} is no time"))),
        };
        // Not by the clock itself: what is due when a worker begins has not left yet, and would be overtaken.
        if self.looked != NO_TIME && at <= self.looked && !self.more {
            return cx.forward(record);
        }
        self.wait(at, &record, cx)
    }

    fn timed(&self) -> bool {
        true
    }

    fn punctuate(&mut self, cx: Cx<'_>) -> Done {
        let now = cx.env.wall;
        if now == NO_TIME || now <= self.looked {
            return Ok(());
        }
        self.looked = now;
        self.release(cx).map(|_| ())
    }

    fn closing(&self) -> bool {
        self.more
    }

    fn go_on(&mut self, cx: Cx<'_>) -> Result<usize, Failure> {
        self.release(cx)
    }

    fn restored(&mut self, _: Cx<'_>) {
        (self.looked, self.more) = (NO_TIME, false);
    }
}
