//! `in_order`: the rows of a partition by their time, held until nothing earlier is waited for.
//!
//! ```text
//!   row ──▶ waits ──(its time is before the largest one so far, less grace)──▶ by time, by columns, as they came
//!     └──(it was so already when it came: late)──▶ on at once, or the other way out
//! ```
//!
//! What is due leaves before the row that moved the time is taken in. Rows of one time leave together, so that the columns can
//! order them.

use std::cmp::Ordering;
use std::ops::Bound;

use serde::Deserialize;

use super::func::Func;
use super::pick_join::compare;
use super::stores::{split_time, time_bytes};
use super::{Cx, Done, Failure, Headers, Node, Origin, Record};
use crate::datum::Datum;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Deserialize)]
pub struct Parameters {
    grace_ms: i64,
    /// Of a row: a tuple of what orders rows of one time.
    #[serde(default)]
    by: Option<Func>,
    /// Late rows go the other way.
    route: bool,
}

pub struct InOrder {
    p: Parameters,
    waiting: usize,
    stream_time: i64,
}

impl InOrder {
    pub fn new(p: Parameters, waiting: usize) -> InOrder {
        InOrder { p, waiting, stream_time: NO_TIME }
    }

    /// The first time of which rows are still waited for.
    fn open_from(&self) -> i64 {
        self.stream_time.saturating_sub(self.p.grace_ms)
    }

    fn wait(&self, record: &Record, cx: Cx<'_>) -> Done {
        let mut store = cx.store_mut(self.waiting);
        let mut entry = time_bytes(record.ts).to_vec();
        let last = store.bytes.prefix(&entry).next_back();
        let last = last.and_then(|(k, _)| k.last_chunk::<4>().copied()).map_or(0, u32::from_be_bytes);
        entry.extend_from_slice(&last.saturating_add(1).to_be_bytes());
        let mut bytes = Writer::default();
        record.value.encode(&mut bytes).map_err(Failure::unstorable)?;
        Origin::write(&cx.origin(), &mut bytes);
        store.bytes.put(&entry, Some(&bytes.bytes));
        Ok(())
    }

    fn leave(&self, cx: Cx<'_>) -> Done {
        let mut leaving: Vec<(Datum, Record, Option<Origin>)> = vec![];
        let due: Vec<_> = {
            let store = cx.store(self.waiting);
            let end = time_bytes(self.open_from());
            let due = store.bytes.range(Bound::Unbounded, Bound::Excluded(&end[..]));
            due.map(|(entry, bytes)| (entry.to_vec(), read(&entry, &bytes))).collect()
        };
        for (entry, record) in due {
            cx.store_mut(self.waiting).bytes.put(&entry, None);
            let Some((record, origin)) = record else { continue };
            let by = match self.p.by {
                None => Datum::Null,
                Some(by) => match by.apply(cx, &record.key, &[&record.value]) {
                    Ok(by) => by,
                    Err(failure) => {
                        cx.as_waited(origin, &record, || Err(failure))?;
                        continue;
                    }
                },
            };
            leaving.push((by, record, origin));
        }
        // Stable: what is equal leaves as it came.
        leaving.sort_by(|a, b| a.1.ts.cmp(&b.1.ts).then_with(|| compare(&a.0, &b.0).unwrap_or(Ordering::Equal)));
        for (_, record, origin) in leaving {
            cx.as_waited(origin, &record, || cx.forward(record.clone()))?;
        }
        Ok(())
    }
}

/// A row that waited, and where it came from.
fn read(entry: &[u8], bytes: &[u8]) -> Option<(Record, Option<Origin>)> {
    let (ts, _) = split_time(entry)?;
    let mut r = Reader::new(bytes);
    let record = Record::new(Datum::Null, Datum::decode(&mut r)?, ts, Headers::default());
    Some((record, Origin::read(&mut r)?))
}

impl Node for InOrder {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.ts > self.stream_time {
            self.stream_time = record.ts;
            self.leave(cx)?;
        }
        if record.ts >= self.open_from() {
            return self.wait(&record, cx);
        }
        cx.count("late");
        cx.forward_to(usize::from(self.p.route), record)
    }

    fn save(&self, out: &mut Writer) {
        out.zigzag(self.stream_time);
    }
    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.stream_time = saved.zigzag()?;
        Some(())
    }
}
