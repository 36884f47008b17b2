//! Joins of a stream with a table: a record is joined with what the table says of its key.
//!
//! Only the stream's records cause results. Which version of the table they see is decided by the order of the task (a
//! table of the same task), by what has arrived (a global table), or, where the table keeps versions, by the record's time.
//!
//! *Grace*, for tables with versions: records wait until `grace` behind the newest of them, so that changes of the table
//! that come late are seen, too. They leave by time, then key, then arrival. One that comes later than that does not wait.

use std::ops::Bound;

use serde::Deserialize;

use super::func::{Func, Lookup};
use super::stores::{key_bytes, split_time, time_bytes, time_key};
use super::{Cx, Done, Failed, Failure, Headers, Node, Origin, Record};
use crate::datum::Datum;
use crate::wire::{Reader, Writer};

#[derive(Deserialize)]
pub struct Parameters {
    joiner: Func,
    /// Records that the table has nothing for are joined with null.
    left: bool,
    /// The table's key for a record; by default the record's.
    #[serde(default)]
    key: Option<Func>,
    #[serde(default)]
    grace_ms: Option<i64>,
}

pub struct StreamTableJoin {
    pub p: Parameters,
    pub table: Lookup,
    /// Where records wait for their grace.
    pub buffer: Option<usize>,
}

impl StreamTableJoin {
    fn key(&self, record: &Record, cx: Cx<'_>) -> Result<Datum, Failure> {
        match self.p.key {
            Some(f) => f.apply(cx, &record.key, &[&record.value]),
            None => Ok(record.key.clone()),
        }
    }

    fn join(&self, key: &Datum, record: &Record, cx: Cx<'_>) -> Done {
        let found = match key.is_null() {
            true => None,
            false => self.table.get_as_of(cx, key, record.ts)?,
        };
        if found.is_none() && !self.p.left {
            return Ok(());
        }
        let other = found.map_or(Datum::Null, |f| f.0);
        let value = self.p.joiner.apply(cx, &record.key, &[&record.value, &other])?;
        cx.forward(record.with_value(value))
    }

    /// Whether it waits; it does not if its time is over.
    fn wait(&self, store: usize, grace_ms: i64, record: &Record, cx: Cx<'_>) -> Result<bool, Failure> {
        let mut store = cx.store_mut(store);
        if record.ts < store.observed.saturating_sub(grace_ms) {
            return Ok(false);
        }
        store.observed = store.observed.max(record.ts);
        let mut entry = time_key(record.ts, &key_bytes(&record.key)?);
        let before = entry.len();
        // Of one time and key, the last to come is the last to go.
        let last = store.bytes.prefix(&entry).rfind(|(k, _)| k.len() == before + 4);
        let last = last.and_then(|(k, _)| k.last_chunk::<4>().copied()).map_or(0, u32::from_be_bytes);
        entry.extend_from_slice(&last.saturating_add(1).to_be_bytes());
        let mut bytes = Writer::default();
        bytes.varint(record.headers.len() as u64);
        for (name, value) in record.headers.iter() {
            bytes.blob(name.as_bytes());
            bytes.u8(value.is_some() as u8);
            bytes.blob(value.as_deref().unwrap_or_default());
        }
        record.value.encode(&mut bytes).map_err(Failure::unstorable)?;
        Origin::write(&cx.origin(), &mut bytes);
        store.bytes.put(&entry, Some(&bytes.bytes));
        Ok(true)
    }

    fn leave(&self, store: usize, grace_ms: i64, cx: Cx<'_>) -> Done {
        let leaving: Vec<(Vec<u8>, Option<Waited>)> = {
            let store = cx.store(store);
            let end = time_bytes(store.observed.saturating_sub(grace_ms).saturating_add(1));
            let due = store.bytes.range(Bound::Unbounded, Bound::Excluded(&end[..]));
            due.map(|(entry, bytes)| (entry.to_vec(), read(&entry, &bytes))).collect()
        };
        for (entry, record) in leaving {
            cx.store_mut(store).bytes.put(&entry, None);
            let Some((record, origin)) = record else { continue };
            let done = cx.as_of(origin, || self.join(&record.key, &record, cx));
            if let Err(Failure::Bad(reason, text)) = done {
                // Not the fault of the record at hand, which is no letter for it.
                let text = format!("a record of time {} that waited for its grace: {text}", record.ts);
                cx.apart(|cx| cx.settle(Err(Failure::Bad(reason, text)), Failed::Record(&record)))?;
            } else {
                done?;
            }
        }
        Ok(())
    }
}

/// A record that waited, and where it came from.
type Waited = (Record, Option<Origin>);

fn read(entry: &[u8], bytes: &[u8]) -> Option<Waited> {
    let (ts, rest) = split_time(entry)?;
    let (key, _) = rest.split_last_chunk::<4>()?;
    let mut r = Reader::new(bytes);
    let mut headers = vec![];
    for _ in 0..r.varint()? {
        let name = String::from_utf8(r.blob()?.to_vec()).ok()?;
        let live = r.u8()? == 1;
        let value = r.blob()?;
        headers.push((name, live.then(|| value.to_vec())));
    }
    let record = Record::new(Datum::from_key_bytes(key)?, Datum::decode(&mut r)?, ts, Headers::new(headers));
    Some((record, Origin::read(&mut r)?))
}

impl Node for StreamTableJoin {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let key = self.key(&record, cx)?;
        if record.value.is_null() || (key.is_null() && !self.p.left) {
            cx.count(if key.is_null() { "dropped:null_key" } else { "dropped:null_value" });
            return Ok(());
        }
        match (self.buffer, self.p.grace_ms) {
            // What has no key has nothing to wait for.
            (Some(store), Some(grace_ms)) if !key.is_null() => match self.wait(store, grace_ms, &record, cx)? {
                true => self.leave(store, grace_ms, cx),
                false => self.join(&key, &record, cx),
            },
            _ => self.join(&key, &record, cx),
        }
    }
}
