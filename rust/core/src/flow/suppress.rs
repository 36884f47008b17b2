//! Suppression: changes of a table wait, one per key, and only the newest is told.
//!
//! ```text
//!   change ──▶ buffer   k key ─▶ (waits since, size, its time, headers, newest value, the one before it, the one told last,
//!                                 where it came from)
//!                       t since, key                                what goes first: by time, then key
//!                  │
//!                  ├─ until its window closes: since = the window's end; goes when the window takes no more records
//!                  └─ until a time limit:      since = the first change's time; goes the limit later, later ones do not defer
//! ```
//!
//! Time is the largest one of the changes that came. A buffer that is full lets the oldest go early, or stops the task.
//!
//! *What is told*: the newest value, and as the old one, where an aggregation behind takes it back (`told`), what was told
//! last; else what the newest change said, as Kafka Streams does always. Windows are final: they are told once, a deletion
//! (a session that was merged away) is nothing to tell, and a window goes when it is truly closed (where ends are inclusive
//! Kafka Streams lets it go a moment before).
//!
//! *Who looks behind it* ([`super::func::Lookup::Suppressed`]) sees of a key that waits what was told last.

use serde::Deserialize;

use super::serde::Trouble;
use super::stores::{key_bytes, split_time, time_bytes, Store};
use super::{Cx, Done, Failure, Headers, Node, Origin, Record, Serde};
use crate::datum::Datum;
use crate::error::Fatal;
use crate::expr::Foreign;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

const BY_KEY: u8 = b'k';
const BY_TIME: u8 = b't';

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// `wait_ms` behind a window's end; `inclusive`: windows hold their ends.
    WindowCloses {
        wait_ms: i64,
        inclusive: bool,
    },
    TimeLimit {
        wait_ms: i64,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    Emit,
    ShutDown,
}

#[derive(Deserialize)]
pub struct Terms {
    until: Until,
    #[serde(default)]
    told: bool,
    #[serde(default)]
    max_records: Option<u64>,
    #[serde(default)]
    max_bytes: Option<u64>,
    when_full: WhenFull,
    /// By which the size of what waits is told, as Kafka Streams does; without them by our own encoding.
    #[serde(default)]
    key: Option<Serde>,
    #[serde(default)]
    value: Option<Serde>,
}

pub struct Suppress {
    terms: Terms,
    store: usize,
    seen: i64,
    /// Of what waits; follow from the store.
    records: u64,
    bytes: u64,
}

struct Waiting {
    since: i64,
    size: u64,
    ts: i64,
    headers: Headers,
    value: Datum,
    before: Datum,
    told: Datum,
    origin: Option<Origin>,
}

impl Waiting {
    fn write(&self) -> Result<Vec<u8>, Failure> {
        let mut w = Writer::default();
        w.zigzag(self.since);
        w.varint(self.size);
        w.zigzag(self.ts);
        w.varint(self.headers.len() as u64);
        for (name, value) in self.headers.iter() {
            w.blob(name.as_bytes());
            w.u8(value.is_some() as u8);
            w.blob(value.as_deref().unwrap_or_default());
        }
        for datum in [&self.value, &self.before, &self.told] {
            datum.encode(&mut w).map_err(Failure::unstorable)?;
        }
        Origin::write(&self.origin, &mut w);
        Ok(w.bytes)
    }
    fn read(bytes: &[u8]) -> Option<Waiting> {
        let mut r = Reader::new(bytes);
        let (since, size, ts) = (r.zigzag()?, r.varint()?, r.zigzag()?);
        let mut headers = vec![];
        for _ in 0..r.varint()? {
            let name = String::from_utf8(r.blob()?.to_vec()).ok()?;
            let some = r.u8()? == 1;
            let value = r.blob()?.to_vec();
            headers.push((name, some.then_some(value)));
        }
        let (value, before, told) = (Datum::decode(&mut r)?, Datum::decode(&mut r)?, Datum::decode(&mut r)?);
        let origin = Origin::read(&mut r)?;
        Some(Waiting { since, size, ts, headers: headers.into(), value, before, told, origin })
    }
}

fn by_key(key: &[u8]) -> Vec<u8> {
    [&[BY_KEY][..], key].concat()
}
fn by_time(since: i64, key: &[u8]) -> Vec<u8> {
    [&[BY_TIME][..], &time_bytes(since), key].concat()
}

/// What was told last of a key that waits; `None`: it does not wait.
pub fn told(store: &Store, key: &Datum) -> Result<Option<Datum>, Failure> {
    let found = store.bytes.get(&by_key(&key_bytes(key)?));
    Ok(found.and_then(|v| Waiting::read(&v)).map(|w| w.told))
}

impl Suppress {
    pub fn new(terms: Terms, store: usize) -> Suppress {
        Suppress { terms, store, seen: NO_TIME, records: 0, bytes: 0 }
    }

    /// As Kafka Streams counts it: both values, the record's coordinates and headers.
    fn size(&self, record: &Record, told: &Datum, topic: usize, foreign: &dyn Foreign) -> Result<u64, Failure> {
        let length = |datum: &Datum, serde: &Option<Serde>| match serde {
            _ if datum.is_null() => Ok(0),
            Some(serde) => Ok(serde.write(datum, foreign)?.map_or(0, |b| b.len())),
            None => Ok::<usize, Trouble>(datum.to_bytes()?.len()),
        };
        let known = |trouble: Trouble| Failure::from(trouble.fault("not_storable"));
        let key = length(&record.key, &self.terms.key).map_err(known)?;
        let (value, serde) = (&record.value, &self.terms.value);
        let mut size = 8 + key + length(value, serde).map_err(known)? + length(told, serde).map_err(known)?;
        if !record.old.is_null() && record.old != *told {
            size += length(&record.old, serde).map_err(known)?;
        }
        let headers: usize = record.headers.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, |v| v.len())).sum();
        Ok((size + 20 + topic + headers) as u64)
    }

    fn keep(&mut self, record: Record, cx: Cx<'_>) -> Done {
        let key = key_bytes(&record.key)?;
        let whole = by_key(&key);
        let before = cx.store(self.store).bytes.get(&whole).and_then(|v| Waiting::read(&v));
        let since = match (&before, self.terms.until, &record.key) {
            (Some(before), ..) => before.since,
            (None, Until::WindowCloses { .. }, Datum::Windowed(w)) => w.end,
            _ => record.ts,
        };
        let told = before.as_ref().map_or(&record.old, |b| &b.told).clone();
        let topic = cx.env.place.borrow().as_ref().map_or(0, |p| p.topic.len());
        let size = match self.terms.max_bytes {
            Some(_) => self.size(&record, &told, topic, cx.env.foreign)?,
            None => 0,
        };
        let waiting = Waiting {
            since,
            size,
            ts: record.ts,
            headers: record.headers,
            value: record.value,
            before: record.old,
            told,
            origin: cx.origin(),
        };
        let bytes = waiting.write()?;
        let mut store = cx.store_mut(self.store);
        store.bytes.write(&whole, Some(&bytes));
        if before.is_none() {
            store.bytes.write(&by_time(since, &key), Some(&[]));
            self.records += 1;
        }
        self.bytes = self.bytes - before.map_or(0, |b| b.size) + size;
        Ok(())
    }

    /// The one that goes first.
    fn first(&self, cx: Cx<'_>) -> Option<(i64, Vec<u8>)> {
        let store = cx.store(self.store);
        let (place, _) = store.bytes.prefix(&[BY_TIME]).next()?;
        let (since, key) = split_time(&place[1..])?;
        Some((since, key.to_vec()))
    }

    /// Tells it, then lets go of it: while it is told, who looks behind still sees what was told before.
    fn let_go(&mut self, since: i64, key: &[u8], cx: Cx<'_>) -> Done {
        let whole = by_key(key);
        let waiting = cx.store(self.store).bytes.get(&whole).and_then(|v| Waiting::read(&v));
        let size = waiting.as_ref().map_or(0, |w| w.size);
        if let (Some(w), Some(key)) = (waiting, Datum::from_key_bytes(key)) {
            let final_ = matches!(self.terms.until, Until::WindowCloses { .. });
            let old = match self.terms.told {
                true if final_ => Datum::Null, // a window is told once
                true => w.told,
                false => w.before,
            };
            if !(final_ && w.value.is_null()) {
                let change = Record::change(key, w.value, old, w.ts, w.headers);
                cx.as_of(w.origin, || cx.forward(change))?;
            }
        }
        let mut store = cx.store_mut(self.store);
        store.bytes.write(&whole, None);
        store.bytes.write(&by_time(since, key), None);
        self.records -= 1;
        self.bytes -= size;
        Ok(())
    }

    fn full(&self) -> bool {
        self.terms.max_records.is_some_and(|most| self.records > most)
            || self.terms.max_bytes.is_some_and(|most| self.bytes > most)
    }
}

impl Node for Suppress {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        self.seen = self.seen.max(record.ts);
        self.keep(record, cx)?;
        let due = match self.terms.until {
            Until::WindowCloses { wait_ms, inclusive } => {
                self.seen.saturating_sub(wait_ms).saturating_sub(inclusive.into())
            }
            Until::TimeLimit { wait_ms } => self.seen.saturating_sub(wait_ms),
        };
        while let Some((since, key)) = self.first(cx).filter(|first| first.0 <= due) {
            self.let_go(since, &key, cx)?;
        }
        match self.terms.when_full {
            WhenFull::ShutDown if self.full() => Err(Failure::Fatal(Fatal::new(
                "suppress_full",
                format!(
                    "`{}` has {} records and {} bytes waiting, more than it may have",
                    cx.name(),
                    self.records,
                    self.bytes
                ),
            ))),
            _ => {
                while self.full() {
                    let Some((since, key)) = self.first(cx) else { break };
                    self.let_go(since, &key, cx)?;
                }
                Ok(())
            }
        }
    }
    fn save(&self, out: &mut Writer) {
        out.zigzag(self.seen);
    }
    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.seen = saved.zigzag()?;
        Some(())
    }
    fn restored(&mut self, cx: Cx<'_>) {
        let store = cx.store(self.store);
        let waiting = store.bytes.prefix(&[BY_KEY]).filter_map(|(_, v)| Waiting::read(&v));
        (self.records, self.bytes) = waiting.fold((0, 0), |(n, b), w| (n + 1, b + w.size));
    }
}
