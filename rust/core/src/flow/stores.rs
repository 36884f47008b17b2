//! Stores as the DSL declares them, and the layouts of their keys in a [`ByteStore`].
//!
//! | kind | key | order |
//! |---|---|---|
//! | `key_value` | key | by key |
//! | `window` | start, key | by window, then key: what expires first comes first; one look-up for (key, start) |
//! | `series` | `k` key, time, number | one key's entries together, by time; beside it `t` time, key, number: what expires |
//! | `versioned` | `k` key, time | one key's versions together, by time (`versions.rs`) |
//! | `session` | `k` key, end, start | one key's sessions together, by end; beside it `t` end, start, key: what expires |
//! | `buffer` | time, rest | what an operator keeps for itself: who waits, the oldest first; records of a join (`join_window.rs`) |
//! | `suppress` | its operator's own (`suppress.rs`) | |
//! | `lru` | `k` key; `t` number of its last use | by key (`lru.rs`) |
//!
//! Times are big-endian with the sign flipped, so that bytes sort as numbers. A key inside a composite is preceded by its
//! length where something follows it, so that no key's range holds another key's entries.
//!
//! Values are `time zigzag | datum`: the timestamp that Kafka Streams keeps beside every value.
//!
//! *Retention* counts from the largest time that was put. What is older is gone: it is not seen, putting it is refused, and
//! its bytes go with the next put. An operator that has yet to tell something (windows that are told when they close)
//! holds it back from that (`hold_from`).

use std::collections::HashMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::store::{ByteStore, Found, View};
use super::versions::Put;
use super::Failure;
use crate::datum::Datum;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    #[default]
    KeyValue,
    Window,
    Series,
    Session,
    /// See `versions.rs`.
    Versioned,
    Buffer,
    /// See `suppress.rs`.
    Suppress,
    /// See `patterns.rs`.
    Patterns,
    Lru,
}

/// Beginnings of the two halves of `series` and `session`.
pub(super) const BY_KEY: u8 = b'k';
pub(super) const BY_TIME: u8 = b't';

fn yes() -> bool {
    true
}

/// Where rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreType {
    Memory,
    Disk,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct StoreSpec {
    pub name: String,
    pub kind: StoreKind,
    /// None: as the application says.
    #[serde(default)]
    pub store_type: Option<StoreType>,
    /// How long entries are kept behind the store's observed time, ms; `window` and `series`.
    #[serde(default)]
    pub retention_ms: Option<i64>,
    /// How much longer they are seen: what retention has let go of, Kafka Streams still sees in its cache.
    #[serde(default)]
    pub linger_ms: i64,
    /// Of `lru`: how many keys there may be.
    #[serde(default)]
    pub max_entries: Option<usize>,
    /// `series` and `session`: entries of many keys come by key, as from Kafka Streams' persistent stores (within a segment of
    /// time), instead of by time.
    #[serde(default)]
    pub by_key: bool,
    /// Of windows, for queries.
    #[serde(default)]
    pub window_size_ms: Option<i64>,
    /// Entries of a `series` with one key and time are kept side by side instead of replacing one another.
    #[serde(default)]
    pub duplicates: bool,
    /// What its values are made of, where an operator reads them by place or by name: a change of that is another store.
    #[serde(default)]
    pub holds: Option<String>,
    /// Each value is a pair: itself, and a record's headers.
    #[serde(default)]
    pub headers: bool,
    #[serde(default = "yes")]
    pub logging: bool,
    /// Users may read it by its name.
    #[serde(default)]
    pub queryable: bool,
    /// How users see it, if they declared it themselves: the host's word.
    #[serde(default)]
    pub flavour: Option<String>,
}

impl StoreSpec {
    /// What its bytes mean; retention may change, the length of windows not.
    pub fn meaning(&self) -> String {
        let size = self.window_size_ms.map_or(String::new(), |ms| format!(" {ms} ms"));
        let headers = if self.headers { " headers" } else { "" };
        let holds = self.holds.as_ref().map_or(String::new(), |holds| format!(" of {holds}"));
        format!("{:?} {}{size}{headers}{holds}", self.kind, self.duplicates)
    }

    /// Whether its rows may be on disk alone. What an operator keeps for itself comes and goes, the oldest first: on disk each
    /// look for the oldest would pass what is deleted already.
    pub fn on_disk(&self, default: StoreType) -> bool {
        use StoreKind::{KeyValue, Series, Session, Versioned, Window};
        let kind = matches!(self.kind, KeyValue | Window | Series | Session | Versioned);
        kind && self.store_type.unwrap_or(default) == StoreType::Disk
    }
}

pub struct Store {
    pub spec: StoreSpec,
    pub id: u64,
    pub bytes: ByteStore,
    /// The largest time of anything put here, which is what retention counts from.
    pub observed: i64,
    /// Entries of this time and later stay, whatever retention says; `i64::MAX`: nothing is held.
    pub hold_from: i64,
    /// The round of rewriting has gone through it.
    pub rewritten: bool,
    /// No entry has a time below: where looking for expired ones begins. (On disk, what is deleted is still passed.)
    pub(super) swept: i64,
    /// Where somebody looks at what was told, not at what is: what was told last of keys whose changes wait in a cache.
    pub told: Option<HashMap<Vec<u8>, Option<Timed>>>,
    /// A value on its way to its slot.
    scratch: Writer,
}

/// What becomes of something that is put.
struct Admission {
    kept: bool,
    /// Kafka Streams would have refused it.
    expired: bool,
}

/// Kafka Streams': `AbstractSegments`, `Stores.defaultSegmentInterval`.
const SEGMENT_MIN_MS: i64 = 60_000;

/// A value and its time.
pub type Timed = (Datum, i64);

impl Store {
    pub fn new(spec: StoreSpec) -> Store {
        let id = super::store_id(&spec);
        Store {
            spec,
            id,
            bytes: ByteStore::default(),
            observed: NO_TIME,
            hold_from: i64::MAX,
            rewritten: false,
            swept: i64::MIN,
            told: None,
            scratch: Writer::default(),
        }
    }

    pub fn save(&self, out: &mut Writer) {
        out.zigzag(self.observed);
    }
    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.observed = saved.zigzag()?;
        self.swept = i64::MIN;
        Some(())
    }

    /// The value under whole key bytes.
    pub fn get_raw(&self, key: &[u8]) -> Option<Timed> {
        read_timed(&self.bytes.get(key)?)
    }
    pub fn put_raw(&mut self, key: &[u8], value: Option<(&Datum, i64)>) -> Result<(), Failure> {
        self.put_at(self.bytes.find(key), key, value).map(|_| ())
    }
    /// The same under a slot that was looked for; see [`ByteStore::write_at`].
    fn put_at(&mut self, at: Option<u32>, key: &[u8], value: Option<(&Datum, i64)>) -> Result<Option<u32>, Failure> {
        let Some((datum, ts)) = value else { return Ok(self.bytes.write_at(at, key, None)) };
        self.scratch.bytes.clear();
        encode_timed(datum, ts, &mut self.scratch)?;
        Ok(self.bytes.write_at(at, key, Some(&self.scratch.bytes)))
    }

    /// `key_value`: a null value deletes.
    pub fn get(&self, key: &Datum) -> Result<Option<Timed>, Failure> {
        Ok(self.get_raw(&key_bytes(key)?))
    }
    pub fn put(&mut self, key: &Datum, value: &Datum, ts: i64) -> Result<(), Failure> {
        self.put_raw(&key_bytes(key)?, (!value.is_null()).then_some((value, ts)))
    }

    /// What was told last of a key that has something to tell; `None`: what it has was told.
    pub fn waiting_told(&self, key: &Datum) -> Result<Option<Option<Timed>>, Failure> {
        match self.told.as_ref().filter(|t| !t.is_empty()) {
            Some(waiting) => Ok(waiting.get(&key_bytes(key)?).cloned()),
            None => Ok(None),
        }
    }

    /// All has been told, or never happened.
    pub fn forget_told(&mut self) {
        self.told.iter_mut().for_each(HashMap::clear);
    }

    /// The present value of a key of a table's store; of tables of windows the key is a windowed one.
    pub fn latest(&self, key: &Datum) -> Result<Option<Timed>, Failure> {
        let kind = self.spec.kind;
        let w = match (kind, key) {
            (StoreKind::Versioned, _) => return self.version_latest(key),
            (StoreKind::Lru, _) => return Ok(self.lru_peek(View::Present, &key_bytes(key)?)),
            (StoreKind::KeyValue, _) => return self.get(key),
            (_, Datum::Windowed(w)) => w,
            _ => return self.get(key),
        };
        Ok(match kind {
            StoreKind::KeyValue
            | StoreKind::Versioned
            | StoreKind::Buffer
            | StoreKind::Suppress
            | StoreKind::Patterns
            | StoreKind::Lru => None,
            StoreKind::Window => self.window_get(w.start, &key_bytes(&w.key)?),
            StoreKind::Series => self.series_get(&key_bytes(&w.key)?, w.start),
            StoreKind::Session => self.session_get(&key_bytes(&w.key)?, w.start, w.end),
        })
    }
    /// The value as of a time; a store that keeps no versions has only the present one.
    pub fn as_of(&self, key: &Datum, ts: i64) -> Result<Option<Timed>, Failure> {
        match self.spec.kind {
            StoreKind::Versioned => self.version_as_of(key, ts),
            _ => self.latest(key),
        }
    }
    /// Puts a table's new value (null: a deletion) as of a time.
    pub fn put_table(&mut self, key: &Datum, value: &Datum, ts: i64) -> Result<Put, Failure> {
        match self.spec.kind {
            StoreKind::Versioned => self.version_put(key, value, ts),
            StoreKind::Lru => self.lru_put(&key_bytes(key)?, value, ts).map(|()| Put::Latest),
            _ => self.put(key, value, ts).map(|()| Put::Latest),
        }
    }

    // --- Retention ----------------------------------------------------------------------------------------------------

    /// What has this time or an earlier one has expired.
    pub fn expired_to(&self) -> i64 {
        match self.spec.retention_ms {
            Some(ms) if self.observed != NO_TIME => self.observed.saturating_sub(ms),
            _ => i64::MIN,
        }
    }
    /// Whether a time lies before all segments that Kafka Streams' default store still has: it cuts time into segments of half
    /// its retention, a minute at least, and drops whole ones.
    pub fn forgotten(&self, time: i64) -> bool {
        let Some(retention) = self.spec.retention_ms.filter(|_| self.observed != NO_TIME) else { return false };
        let segment = (retention / 2).max(SEGMENT_MIN_MS);
        time / segment < self.observed.saturating_sub(retention) / segment
    }
    /// What has this time or an earlier one is not seen.
    fn unseen_to(&self) -> i64 {
        self.expired_to().saturating_sub(self.spec.linger_ms)
    }
    fn seen(&self, time: i64) -> bool {
        time > self.unseen_to()
    }

    /// Takes note of a time that is put, and lets go of what that leaves behind; whether the time itself may be put.
    fn admit(&mut self, time: i64) -> Admission {
        if time > self.observed {
            self.observed = time;
            self.expire(self.unseen_to().saturating_add(1).min(self.hold_from));
        }
        let held = time >= self.hold_from;
        self.swept = self.swept.min(time);
        Admission { kept: self.seen(time) || held, expired: time <= self.expired_to() && !held }
    }

    /// Holds back entries of this time and later, and lets go of others that have expired.
    pub fn hold(&mut self, from: i64) {
        self.hold_from = from;
        self.expire(self.unseen_to().saturating_add(1).min(from));
    }

    /// Deletes all entries with times below `before`; returns how many.
    pub fn expire(&mut self, before: i64) -> usize {
        if before <= self.swept {
            return 0;
        }
        let indexed = matches!(self.spec.kind, StoreKind::Series | StoreKind::Session);
        let place = |time: i64| match indexed {
            true => [&[BY_TIME][..], &time_bytes(time)].concat(),
            false => time_bytes(time).to_vec(),
        };
        let (from, to) = (place(self.swept), place(before));
        self.swept = before;
        let old: Vec<Vec<u8>> =
            self.bytes.range(Bound::Included(&from), Bound::Excluded(&to)).map(|(k, _)| k.to_vec()).collect();
        for key in &old {
            self.bytes.write(key, None);
            if indexed {
                if let Some(key) = self.by_key(&key[1..]) {
                    self.bytes.write(&key, None);
                }
            }
        }
        old.len()
    }

    /// The key of an entry of which this is the place in time.
    pub(super) fn by_key(&self, index: &[u8]) -> Option<Vec<u8>> {
        Some(match self.spec.kind {
            StoreKind::Session => {
                let (end, rest) = split_time(index)?;
                let (start, key) = split_time(rest)?;
                session_key(key, end, start)
            }
            _ => {
                let (time, rest) = split_time(index)?;
                let (key, number) = rest.split_last_chunk::<4>()?;
                series_key(key, time, u32::from_be_bytes(*number))
            }
        })
    }

    // --- window -------------------------------------------------------------------------------------------------------

    pub fn window_get(&self, start: i64, key: &[u8]) -> Option<Timed> {
        self.seen(start).then(|| self.get_raw(&time_key(start, key))).flatten()
    }

    /// False if it has expired. A null value deletes.
    pub fn window_put(&mut self, start: i64, key: &[u8], value: &Datum, ts: i64) -> Result<bool, Failure> {
        let whole = time_key(start, key);
        let mut at = self.bytes.find(&whole);
        self.window_put_at(&mut at, start, &whole, value, ts)
    }

    /// The same by a whole key, `time_key`, that was looked for: `at` is its slot, before and afterwards.
    pub fn window_get_at(&self, at: Option<u32>, start: i64, whole: &[u8]) -> Option<Timed> {
        self.seen(start).then(|| read_timed(&self.bytes.get_at(at, whole)?)).flatten()
    }
    pub fn window_put_at(
        &mut self,
        at: &mut Option<u32>,
        start: i64,
        whole: &[u8],
        value: &Datum,
        ts: i64,
    ) -> Result<bool, Failure> {
        let admission = self.admit(start);
        if !admission.kept {
            *at = self.bytes.find(whole); // letting go of it may have given it one
            return Ok(false);
        }
        *at = self.put_at(*at, whole, (!value.is_null()).then_some((value, ts)))?;
        Ok(!admission.expired)
    }

    // --- series -------------------------------------------------------------------------------------------------------

    /// False if it has expired. A null value deletes; where duplicates are kept it does nothing.
    pub fn series_put(&mut self, key: &[u8], time: i64, value: &Datum, ts: i64) -> Result<bool, Failure> {
        let admission = self.admit(time);
        if !admission.kept {
            return Ok(false);
        }
        let number = match self.spec.duplicates {
            false => 0,
            true if value.is_null() => return Ok(!admission.expired),
            true => {
                let (from, to) = (series_key(key, time, 0), series_key(key, time, u32::MAX));
                let last = self.bytes.range(Bound::Included(&from), Bound::Included(&to)).next_back();
                last.and_then(|(k, _)| k.last_chunk::<4>().copied()).map_or(0, |n| u32::from_be_bytes(n) + 1)
            }
        };
        let whole = series_key(key, time, number);
        let known = self.bytes.get(&whole).is_some();
        self.put_raw(&whole, (!value.is_null()).then_some((value, ts)))?;
        if known != value.is_null() {
            return Ok(!admission.expired); // its place in time is as it was
        }
        let mut index = Vec::with_capacity(13 + key.len());
        index.push(BY_TIME);
        index.extend_from_slice(&time_bytes(time));
        index.extend_from_slice(key);
        index.extend_from_slice(&number.to_be_bytes());
        self.bytes.write(&index, (!value.is_null()).then_some(&[]));
        Ok(!admission.expired)
    }

    pub fn series_get(&self, key: &[u8], time: i64) -> Option<Timed> {
        self.seen(time).then(|| self.get_raw(&series_key(key, time, 0))).flatten()
    }

    /// One key's living entries of times `[from, to]`, by time, those of one time in the order in which they came:
    /// (time, value and its own time).
    pub fn series_range<'a>(
        &'a self,
        key: &[u8],
        from: i64,
        to: i64,
    ) -> impl DoubleEndedIterator<Item = (i64, Timed)> + 'a {
        let from = from.max(self.unseen_to().saturating_add(1));
        let (low, high) = (series_key(key, from, 0), series_key(key, to, u32::MAX));
        let at = low.len() - 12;
        self.bytes
            .range(Bound::Included(&low), Bound::Included(&high))
            .filter_map(move |(k, v)| Some((split_time(k.get(at..)?)?.0, read_timed(&v)?)))
    }

    /// Deletes one key's entries of one time, all of them.
    pub fn series_remove(&mut self, key: &[u8], time: i64) {
        let (low, high) = (series_key(key, time, 0), series_key(key, time, u32::MAX));
        let found: Vec<Vec<u8>> =
            self.bytes.range(Bound::Included(&low), Bound::Included(&high)).map(|(k, _)| k.to_vec()).collect();
        for whole in found {
            self.bytes.write(&whole, None);
            let index = [&[BY_TIME][..], &time_bytes(time), key, &whole[whole.len() - 4..]].concat();
            self.bytes.write(&index, None);
        }
    }

    // --- session ------------------------------------------------------------------------------------------------------

    /// False if it has expired. A null value deletes.
    pub fn session_put(&mut self, key: &[u8], start: i64, end: i64, value: &Datum) -> Result<bool, Failure> {
        let admission = self.admit(end);
        if !admission.kept {
            return Ok(false);
        }
        if value.is_null() {
            self.session_remove(key, start, end);
            return Ok(!admission.expired);
        }
        self.put_raw(&session_key(key, end, start), Some((value, end)))?;
        self.bytes.write(&session_index(key, end, start), Some(&[]));
        Ok(!admission.expired)
    }

    pub fn session_remove(&mut self, key: &[u8], start: i64, end: i64) {
        self.bytes.write(&session_key(key, end, start), None);
        self.bytes.write(&session_index(key, end, start), None);
    }

    pub fn session_get(&self, key: &[u8], start: i64, end: i64) -> Option<Timed> {
        self.seen(end).then(|| self.get_raw(&session_key(key, end, start))).flatten()
    }

    /// One key's living sessions that end at `earliest_end` or later and start at `latest_start` or earlier, by end: (start,
    /// end, value).
    pub fn sessions(&self, key: &[u8], earliest_end: i64, latest_start: i64) -> Vec<(i64, i64, Datum)> {
        let earliest_end = earliest_end.max(self.unseen_to().saturating_add(1));
        let (low, high) = (session_key(key, earliest_end, i64::MIN), session_key(key, i64::MAX, i64::MAX));
        let at = low.len() - 16;
        self.bytes
            .range(Bound::Included(&low), Bound::Included(&high))
            .filter_map(|(k, v)| {
                let (end, rest) = split_time(k.get(at..)?)?;
                let start = split_time(rest)?.0;
                (start <= latest_start).then_some((start, end, read_timed(&v)?.0))
            })
            .collect()
    }

    // --- All keys -----------------------------------------------------------------------------------------------------

    /// All entries of times `[from, to]` of a store of windows, by time (of sessions their ends, then their starts) and key,
    /// whether they live or are only held: the windowed key, value, its time.
    pub fn windows(&self, from: i64, to: i64) -> Vec<(Datum, Datum, i64)> {
        if from > to {
            return vec![];
        }
        let size = self.spec.window_size_ms.unwrap_or(0);
        let indexed = self.spec.kind != StoreKind::Window;
        let bound = |time: i64, end: bool| {
            let mut bytes = if indexed { vec![BY_TIME] } else { vec![] };
            bytes.extend_from_slice(&time_bytes(time));
            if end {
                bytes = super::store::after(&bytes).unwrap_or(bytes);
            }
            bytes
        };
        let (low, high) = (bound(from, false), bound(to, true));
        let found = self.bytes.range(Bound::Included(&low), Bound::Excluded(&high));
        let read = |(k, v): (Found<'_>, Found<'_>)| {
            let (start, end, key, value) = match self.spec.kind {
                StoreKind::Window => {
                    let (start, key) = split_time(&k)?;
                    (start, start.saturating_add(size), key, read_timed(&v)?)
                }
                StoreKind::Series => {
                    let (start, rest) = split_time(&k[1..])?;
                    let value = self.get_raw(&self.by_key(&k[1..])?)?;
                    (start, start.saturating_add(size), &rest[..rest.len() - 4], value)
                }
                StoreKind::Session => {
                    let (end, rest) = split_time(&k[1..])?;
                    let (start, key) = split_time(rest)?;
                    (start, end, key, self.get_raw(&session_key(key, end, start))?)
                }
                StoreKind::KeyValue
                | StoreKind::Versioned
                | StoreKind::Buffer
                | StoreKind::Suppress
                | StoreKind::Patterns
                | StoreKind::Lru => return None,
            };
            Some((Datum::windowed(Datum::from_key_bytes(key)?, start, end), value.0, value.1))
        };
        found.filter_map(read).collect()
    }

    /// Entries of times `[from, to)` of a layout that begins with time, ascending: (time, rest of the key, value bytes).
    pub fn between(&self, from: i64, to: i64) -> impl DoubleEndedIterator<Item = (i64, Vec<u8>, Found<'_>)> + '_ {
        let (from, to) = (time_bytes(from), time_bytes(to.max(from)));
        self.bytes
            .range(Bound::Included(&from[..]), Bound::Excluded(&to[..]))
            .filter_map(|(k, v)| split_time(&k).map(|(t, rest)| (t, rest.to_vec(), v)))
    }
}

pub fn key_bytes(key: &Datum) -> Result<Vec<u8>, Failure> {
    key.key_bytes().map_err(Failure::unstorable)
}

pub fn write_timed(datum: &Datum, ts: i64) -> Result<Vec<u8>, Failure> {
    let mut w = Writer { bytes: Vec::with_capacity(64) };
    encode_timed(datum, ts, &mut w)?;
    Ok(w.bytes)
}

fn encode_timed(datum: &Datum, ts: i64, w: &mut Writer) -> Result<(), Failure> {
    w.zigzag(ts);
    datum.encode(w).map_err(Failure::unstorable)
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

/// `k | key prefix | time | number`.
pub(super) fn series_key(key: &[u8], time: i64, number: u32) -> Vec<u8> {
    [&[BY_KEY][..], &key_prefix(key), &time_bytes(time), &number.to_be_bytes()].concat()
}

/// `k | key prefix | end | start`.
pub(super) fn session_key(key: &[u8], end: i64, start: i64) -> Vec<u8> {
    [&[BY_KEY][..], &key_prefix(key), &time_bytes(end), &time_bytes(start)].concat()
}

/// `t | end | start | key`.
fn session_index(key: &[u8], end: i64, start: i64) -> Vec<u8> {
    [&[BY_TIME][..], &time_bytes(end), &time_bytes(start), key].concat()
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

    fn store(kind: StoreKind, retention_ms: i64, duplicates: bool) -> Store {
        Store::new(StoreSpec {
            name: "s".into(),
            kind,
            retention_ms: Some(retention_ms),
            linger_ms: 0,
            max_entries: None,
            window_size_ms: Some(10),
            duplicates,
            holds: None,
            headers: false,
            logging: true,
            queryable: false,
            flavour: None,
            by_key: false,
            store_type: None,
        })
    }

    fn range(store: &Store, key: &[u8], from: i64, to: i64) -> Vec<(i64, i64)> {
        let number = |datum: Datum| if let Datum::Int(n) = datum { n } else { panic!("{datum:?}") };
        store.series_range(key, from, to).map(|(time, (value, _))| (time, number(value))).collect()
    }

    #[test]
    fn a_series_keeps_duplicates_in_the_order_in_which_they_came() {
        let mut store = store(StoreKind::Series, 100, true);
        for (key, time, value) in [(b"a", 5, 1), (b"b", 5, 2), (b"a", 3, 3), (b"a", 5, 4), (b"a", 9, 5)] {
            assert!(store.series_put(key, time, &Datum::Int(value), time).unwrap());
        }
        assert!(store.series_put(b"a", 5, &Datum::Null, 5).unwrap());
        assert_eq!(range(&store, b"a", 3, 5), [(3, 3), (5, 1), (5, 4)]);
        assert_eq!(range(&store, b"a", 4, 4), []);
        assert_eq!(range(&store, b"b", i64::MIN, i64::MAX), [(5, 2)]);
        store.series_remove(b"a", 5);
        assert_eq!(range(&store, b"a", 0, 9), [(3, 3), (9, 5)]);
        assert_eq!(store.bytes.len(), 6);
    }

    #[test]
    fn what_is_as_old_as_retention_is_gone_and_refused() {
        let mut store = store(StoreKind::Series, 10, false);
        assert!(store.series_put(b"a", 5, &Datum::Int(1), 5).unwrap());
        assert!(store.series_put(b"a", 14, &Datum::Int(2), 14).unwrap());
        assert_eq!(range(&store, b"a", 0, 20), [(5, 1), (14, 2)]);
        assert!(store.series_put(b"b", 15, &Datum::Int(3), 15).unwrap());
        assert_eq!(range(&store, b"a", 0, 20), [(14, 2)]);
        assert_eq!(store.series_get(b"a", 5), None);
        assert!(!store.series_put(b"a", 5, &Datum::Int(1), 5).unwrap());
        assert_eq!(store.bytes.len(), 4);
        store.series_put(b"c", 1000, &Datum::Null, 0).unwrap();
        assert!(store.bytes.is_empty());
    }

    #[test]
    fn what_is_held_stays() {
        for kind in [StoreKind::Window, StoreKind::Series, StoreKind::Session] {
            let mut store = store(kind, 10, false);
            store.hold(0);
            let mut put = |time: i64| match kind {
                StoreKind::Window => store.window_put(time, b"a\x06", &Datum::Int(time), time),
                StoreKind::Series => store.series_put(b"a\x06", time, &Datum::Int(time), time),
                _ => store.session_put(b"a\x06", time, time, &Datum::Int(time)),
            };
            assert!([3, 100, 5].into_iter().all(|time| put(time).unwrap()));
            let times = |store: &Store| store.windows(0, 200).iter().map(|w| w.2).collect::<Vec<_>>();
            assert_eq!(times(&store), [3, 5, 100], "{kind:?}");
            store.hold(5);
            assert_eq!(times(&store), [5, 100], "{kind:?}");
            store.hold(90);
            assert_eq!(times(&store), [100], "{kind:?}");
        }
    }

    #[test]
    fn sessions_are_found_by_both_ends() {
        let mut store = store(StoreKind::Session, 100, false);
        for (start, end) in [(0, 10), (20, 20), (30, 45)] {
            store.session_put(b"a", start, end, &Datum::Int(start)).unwrap();
            store.session_put(b"ab", start, end, &Datum::Int(-1)).unwrap();
        }
        let found = |earliest, latest| store.sessions(b"a", earliest, latest).iter().map(|s| s.0).collect::<Vec<_>>();
        assert_eq!(found(10, 30), [0, 20, 30]);
        assert_eq!(found(11, 29), [20]);
        assert_eq!(store.session_get(b"a", 30, 45).unwrap().1, 45);
        store.session_remove(b"a", 20, 20);
        assert_eq!(store.sessions(b"a", 0, 100).len(), 2);
        assert_eq!(store.bytes.len(), 10);
    }
}
