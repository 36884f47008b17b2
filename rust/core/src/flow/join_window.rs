//! One side of a stream join: its records of the recent past, several of one key and time side by side.
//!
//! The store (`buffer`) has `time, key, number` -> value. It is written once and deleted once for each record; where a key's
//! records are and what expires next stands beside it in memory, made again from the store when it was put back. Records
//! come mostly in order of time, so both are mostly pushed at one end and popped at the other.
//!
//! What is older than retention behind the newest of this side is gone: it is not seen, and not taken in. A record without a
//! value is none. Both as Kafka Streams' default stores have it (in its in-memory ones, a record without a value moves the
//! time), and so is what counts as dropped for it: a default store takes in what it will not show, as long as a segment of
//! that time is there ([`Store::forgotten`](super::stores::Store::forgotten)).
//!
//! A store that the user named himself is a `series`, which can be read from outside; it is as those on disk if it tells entries by
//! key, and as those in memory if by time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::stores::{split_time, time_key, write_timed, StoreKind};
use super::{Cx, Failure};
use crate::datum::Datum;

type Key = Arc<[u8]>;

pub struct Window {
    store: usize,
    /// By time and arrival: (time, number among those of the time).
    by_key: HashMap<Key, VecDeque<(i64, u32)>, BuildHasherDefault<Xxh3Default>>,
    by_time: BTreeMap<i64, Vec<(Key, u32)>>,
}

fn entry(key: &[u8], time: i64, number: u32) -> Vec<u8> {
    let mut out = time_key(time, key);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

impl Window {
    pub fn new(store: usize) -> Window {
        Window { store, by_key: HashMap::default(), by_time: BTreeMap::new() }
    }

    /// Values of a key with times within `[from, to]`, by time, then arrival.
    pub fn fetch(&self, key: &[u8], from: i64, to: i64, cx: Cx<'_>) -> Vec<(i64, Datum)> {
        let store = cx.store(self.store);
        if store.spec.kind == StoreKind::Series {
            return store.series_range(key, from, to).map(|(time, (value, _))| (time, value)).collect();
        }
        let Some(records) = self.by_key.get(key) else { return vec![] };
        let from = from.max(store.expired_to().saturating_add(1));
        let first = records.partition_point(|r| r.0 < from);
        let within = records.range(first..).take_while(|r| r.0 <= to);
        within.filter_map(|&(time, number)| Some((time, store.get_raw(&entry(key, time, number))?.0))).collect()
    }

    /// False if it has been forgotten already.
    pub fn put(&mut self, key: &[u8], time: i64, value: &Datum, cx: Cx<'_>) -> Result<bool, Failure> {
        let mut store = cx.store_mut(self.store);
        let series = store.spec.kind == StoreKind::Series;
        if series && !store.spec.by_key {
            return store.series_put(key, time, value, time); // as the original's in memory
        }
        if value.is_null() {
            return Ok(true);
        }
        if series {
            store.series_put(key, time, value, time)?;
            return Ok(!store.forgotten(time));
        }
        store.observed = store.observed.max(time);
        let gone = store.expired_to();
        while let Some(oldest) = self.by_time.first_entry().filter(|e| *e.key() <= gone) {
            let (time, records) = oldest.remove_entry();
            for (key, number) in records {
                store.bytes.write(&entry(&key, time, number), None);
                if let Some(own) = self.by_key.get_mut(&key) {
                    while own.front().is_some_and(|r| r.0 <= gone) {
                        own.pop_front();
                    }
                    if own.is_empty() {
                        self.by_key.remove(&key);
                    }
                }
            }
        }
        if time <= gone {
            return Ok(!store.forgotten(time));
        }
        let bytes = write_timed(value, time)?;
        let (key, number) = self.place(key, time);
        store.bytes.write(&entry(&key, time, number), Some(&bytes));
        Ok(true)
    }

    /// Takes note of one more record of a key.
    fn place(&mut self, key: &[u8], time: i64) -> (Key, u32) {
        let key = self.by_key.get_key_value(key).map_or_else(|| Key::from(key), |(known, _)| known.clone());
        let own = self.by_key.entry(key.clone()).or_default();
        let at = own.partition_point(|r| r.0 <= time);
        let number = match at.checked_sub(1).map(|before| own[before]) {
            Some((same, number)) if same == time => number + 1,
            _ => 0,
        };
        own.insert(at, (time, number));
        self.by_time.entry(time).or_default().push((key.clone(), number));
        (key, number)
    }

    /// The store was put back.
    pub fn restored(&mut self, cx: Cx<'_>) {
        self.by_key.clear();
        self.by_time.clear();
        let store = cx.store(self.store);
        if store.spec.kind == StoreKind::Series {
            return;
        }
        for (entry, _) in store.bytes.unordered() {
            let Some((time, rest)) = split_time(&entry) else { continue };
            let Some((key, number)) = rest.split_last_chunk::<4>() else { continue };
            let number = u32::from_be_bytes(*number);
            let key = self.by_key.get_key_value(key).map_or_else(|| Key::from(key), |(known, _)| known.clone());
            self.by_key.entry(key.clone()).or_default().push_back((time, number));
            self.by_time.entry(time).or_default().push((key, number));
        }
        self.by_key.values_mut().for_each(|own| own.make_contiguous().sort_unstable());
    }
}
