//! Stores as the DSL declares them, and the layouts of their keys in a [`ByteStore`].
//!
//! | kind | key | order |
//! |---|---|---|
//! | `key_value` | key | by key |
//! | `window` | start, key | by window, then key: what expires first comes first; one look-up for (key, start) |
//! | `series` | key, time, number | one key's entries together, by time; beside it `time, key, number` for what expires |
//!
//! Times are big-endian with the sign flipped, so that bytes sort as numbers. A key inside a composite is preceded by its
//! length where something follows it, so that no key's range holds another key's entries.
//!
//! Values are `time zigzag | datum`: the timestamp that Kafka Streams keeps beside every value.

use std::ops::Bound;

use serde::Deserialize;

use super::store::ByteStore;
use super::Failure;
use crate::datum::Datum;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    KeyValue,
    Window,
    Series,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, Deserialize)]
pub struct StoreSpec {
    pub name: String,
    pub kind: StoreKind,
    /// How long entries are kept behind the store's observed time, ms; `window` and `series`.
    #[serde(default)]
    pub retention_ms: Option<i64>,
    /// Of windows, for queries.
    #[serde(default)]
    pub window_size_ms: Option<i64>,
    /// Entries of a `series` with one key and time are kept side by side instead of replacing one another.
    #[serde(default)]
    pub duplicates: bool,
    #[serde(default = "yes")]
    pub logging: bool,
    /// Users may read it by its name.
    #[serde(default)]
    pub queryable: bool,
}

impl StoreSpec {
    /// What its bytes mean; retention may change.
    pub fn meaning(&self) -> String {
        format!("{:?} {}", self.kind, self.duplicates)
    }
}

pub struct Store {
    pub spec: StoreSpec,
    pub id: u64,
    pub bytes: ByteStore,
    /// The largest time of anything put here, which is what retention counts from.
    pub observed: i64,
    /// The round of rewriting has gone through it.
    pub rewritten: bool,
}

/// A value and its time.
pub type Timed = (Datum, i64);

impl Store {
    pub fn new(spec: StoreSpec) -> Store {
        let id = super::store_id(&spec);
        Store { spec, id, bytes: ByteStore::default(), observed: NO_TIME, rewritten: false }
    }

    pub fn save(&self, out: &mut Writer) {
        out.zigzag(self.observed);
    }
    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.observed = saved.zigzag()?;
        Some(())
    }

    /// The value under whole key bytes.
    pub fn get_raw(&self, key: &[u8]) -> Option<Timed> {
        read_timed(self.bytes.get(key)?)
    }
    pub fn put_raw(&mut self, key: &[u8], value: Option<(&Datum, i64)>) -> Result<(), Failure> {
        match value {
            Some((datum, ts)) => {
                let bytes = write_timed(datum, ts)?;
                self.bytes.put(key, Some(&bytes));
            }
            None => {
                self.bytes.put(key, None);
            }
        }
        Ok(())
    }

    /// `key_value`: a null value deletes.
    pub fn get(&self, key: &Datum) -> Result<Option<Timed>, Failure> {
        Ok(self.get_raw(&key_bytes(key)?))
    }
    pub fn put(&mut self, key: &Datum, value: &Datum, ts: i64) -> Result<(), Failure> {
        self.put_raw(&key_bytes(key)?, (!value.is_null()).then_some((value, ts)))
    }

    /// The present value of a key of a table's store.
    pub fn latest(&self, key: &Datum) -> Result<Option<Timed>, Failure> {
        self.get(key)
    }
    /// The value as of a time; a store that keeps no versions has only the present one.
    pub fn as_of(&self, key: &Datum, _ts: i64) -> Result<Option<Timed>, Failure> {
        self.latest(key)
    }

    /// `window`: the aggregate of one window.
    pub fn get_window(&self, start: i64, key: &[u8]) -> Option<Timed> {
        self.get_raw(&time_key(start, key))
    }

    /// Entries of times `[from, to)` of a layout that begins with time, ascending: (time, rest of the key, value bytes).
    pub fn between(&self, from: i64, to: i64) -> impl DoubleEndedIterator<Item = (i64, &[u8], &[u8])> + '_ {
        let (from, to) = (time_bytes(from), time_bytes(to.max(from)));
        self.bytes
            .range(Bound::Included(&from[..]), Bound::Excluded(&to[..]))
            .filter_map(|(k, v)| split_time(k).map(|(t, rest)| (t, rest, v)))
    }

    /// Deletes all entries with times below `before` of a layout that begins with time; returns how many.
    pub fn expire(&mut self, before: i64) -> usize {
        let to = time_bytes(before);
        let old: Vec<Vec<u8>> =
            self.bytes.range(Bound::Unbounded, Bound::Excluded(&to[..])).map(|(k, _)| k.to_vec()).collect();
        for key in &old {
            self.bytes.put(key, None);
        }
        old.len()
    }
}

pub fn key_bytes(key: &Datum) -> Result<Vec<u8>, Failure> {
    key.key_bytes().map_err(Failure::unstorable)
}

pub fn write_timed(datum: &Datum, ts: i64) -> Result<Vec<u8>, Failure> {
    let mut w = Writer::default();
    w.zigzag(ts);
    datum.encode(&mut w).map_err(Failure::unstorable)?;
    Ok(w.bytes)
}

pub fn read_timed(bytes: &[u8]) -> Option<Timed> {
    let mut r = Reader::new(bytes);
    let ts = r.zigzag()?;
    Some((Datum::decode(&mut r)?, ts))
}

/// A time so that bytes sort as numbers.
pub fn time_bytes(ts: i64) -> [u8; 8] {
    ((ts as u64) ^ (1 << 63)).to_be_bytes()
}
pub fn split_time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some(((u64::from_be_bytes(*head) ^ (1 << 63)) as i64, rest))
}

/// `time | key`.
pub fn time_key(ts: i64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&time_bytes(ts));
    out.extend_from_slice(key);
    out
}

/// `length of key | key`: the beginning of everything of one key in a layout that begins with it.
pub fn key_prefix(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + key.len());
    out.extend_from_slice(&(key.len() as u32).to_be_bytes());
    out.extend_from_slice(key);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sort_as_numbers() {
        let times = [i64::MIN, -5, -1, 0, 1, 1 << 40, i64::MAX];
        let bytes: Vec<_> = times.iter().map(|&t| time_bytes(t)).collect();
        assert!(bytes.windows(2).all(|w| w[0] < w[1]));
        assert!(times.iter().all(|&t| split_time(&time_key(t, b"k")) == Some((t, &b"k"[..]))));
    }

    #[test]
    fn no_key_is_among_anothers_entries() {
        let (a, ab) = (Datum::str("a").key_bytes().unwrap(), Datum::str("ab").key_bytes().unwrap());
        assert!(!key_prefix(&ab).starts_with(&key_prefix(&a)));
    }
}
