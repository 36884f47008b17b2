//! Tables: changes of one value per key.
//!
//! A change carries the new value and, if somebody behind asked for old values, the one before. A null new value is a
//! deletion (a tombstone). Nothing is compared: an equal value is told again, as in Kafka Streams.
//!
//! *Told when.* A table with a cache tells each key once per commit: its newest value, the value it told last, in the order
//! of each key's latest update; one that came and went in between is not told at all. Without a cache every change is told
//! at once ([`Teller`]). Whoever answers a change later than it was told (a foreign-key join) looks at what was told
//! ([`Lookup::Told`](super::func::Lookup)): a value that comes and goes unseen would have counted there, and nothing ever
//! took it back.

use hashbrown::HashTable;
use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_64;

use super::func::Func;
use super::stores::key_bytes;
use super::versions::Put;
use super::{Cx, Done, Failure, Node, Origin, Record};
use crate::datum::Datum;
use crate::window::NO_TIME;

/// How an operator with a store tells its changes. See the module's head.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Telling {
    #[serde(default)]
    pub cached: bool,
    #[serde(default)]
    pub send_old: bool,
}

#[derive(Default)]
pub struct Teller {
    how: Telling,
    /// What waits, a key once; `index` finds a key's place here, `by_slot` that of one whose slot in the store is known (what
    /// it says of others is of earlier generations).
    waiting: Vec<Waiting>,
    index: HashTable<u32>,
    by_slot: Vec<u32>,
    /// Places in `waiting`, by updates; the latest one of each key counts.
    updates: Vec<u32>,
    /// The key at hand, as bytes.
    key: Vec<u8>,
    /// Where the table of what waits is kept.
    store: Option<usize>,
}

/// A change that is not told yet, with the value that was told last as `old`.
struct Waiting {
    /// Empty where it has a slot.
    key: Box<[u8]>,
    /// In the store; `NO_SLOT`: it is found by its key.
    slot: u32,
    record: Record,
    origin: Option<Origin>,
    /// Which of the updates is the key's latest.
    latest: usize,
}

const NO_SLOT: u32 = u32::MAX;

/// Room for so many changes is always kept.
const KEPT_MIN: usize = 1024;

impl Teller {
    pub fn new(how: Telling) -> Teller {
        Teller { how, ..Teller::default() }
    }
    pub fn cached(&self) -> bool {
        self.how.cached
    }
    pub fn sends_old(&self) -> bool {
        self.how.send_old
    }

    /// `record.old` is the value before; `stored` says whether it was in the store (an aggregate's first change has its
    /// initial value as old one, which nobody was ever told: a cache says null there).
    pub fn tell(&mut self, store: usize, record: Record, stored: bool, cx: Cx<'_>) -> Done {
        if !self.how.cached {
            let old = if self.how.send_old { record.old } else { Datum::Null };
            return cx.forward(Record { old, ..record });
        }
        self.key.clear();
        record.key.write_key(&mut self.key).map_err(Failure::unstorable)?;
        let (key, waiting, latest) = (&self.key[..], &mut self.waiting, self.updates.len());
        let hash = xxh3_64(key);
        let at = match self.index.find(hash, |&at| *waiting[at as usize].key == *key) {
            Some(&at) => {
                let change = &mut waiting[at as usize];
                let old = std::mem::take(&mut change.record.old);
                change.record = Record { old, ..record };
                (change.origin, change.latest) = (cx.origin(), latest);
                at
            }
            None => {
                let old = if stored { record.old } else { Datum::Null };
                if let Some(told) = &mut cx.store_mut(store).told {
                    let timed = || (!old.is_null()).then(|| (old.clone(), NO_TIME)); // a window's: `keep` knows better
                    told.entry(key.to_vec()).or_insert_with(timed);
                }
                let at = waiting.len() as u32;
                let record = Record { old, ..record };
                waiting.push(Waiting { key: key.into(), slot: NO_SLOT, record, origin: cx.origin(), latest });
                self.index.insert_unique(hash, at, |&at| xxh3_64(&waiting[at as usize].key));
                at
            }
        };
        self.updates.push(at);
        self.store = Some(store);
        Ok(())
    }

    /// The same of a key that has been written to `slot` of the store, in this generation: one that waits is found without its
    /// bytes, and `key` makes it only for one that does not.
    pub fn tell_of_slot(
        &mut self,
        store: usize,
        slot: Option<u32>,
        key: impl FnOnce() -> Datum,
        change: Record,
        stored: bool,
        cx: Cx<'_>,
    ) -> Done {
        let latest = self.updates.len();
        let waits = slot.and_then(|slot| {
            let at = *self.by_slot.get(slot as usize)?;
            self.waiting.get(at as usize).is_some_and(|w| w.slot == slot).then_some(at)
        });
        if let Some(at) = waits {
            let waiting = &mut self.waiting[at as usize];
            let take = std::mem::take::<Datum>;
            let (key, old) = (take(&mut waiting.record.key), take(&mut waiting.record.old));
            waiting.record = Record { key, old, ..change };
            (waiting.origin, waiting.latest) = (cx.origin(), latest);
            self.updates.push(at);
            return Ok(());
        }
        let change = Record { key: key(), ..change };
        // What waits under its bytes may be this key: it had no slot then.
        let slot = slot.filter(|_| self.how.cached && self.index.is_empty() && cx.store(store).told.is_none());
        let Some(slot) = slot else { return self.tell(store, change, stored, cx) };
        if self.by_slot.len() <= slot as usize {
            self.by_slot.resize((slot as usize + 1).next_power_of_two(), 0);
        }
        let at = self.waiting.len() as u32;
        let record = Record { old: if stored { change.old } else { Datum::Null }, ..change };
        self.waiting.push(Waiting { key: Box::default(), slot, record, origin: cx.origin(), latest });
        self.by_slot[slot as usize] = at;
        self.updates.push(at);
        self.store = Some(store);
        Ok(())
    }

    /// Keeps a change where the table is kept, then tells it. `change.old` is what is told as the value before where
    /// nothing is held back; `before` is what the store held.
    pub fn keep(&mut self, store: usize, change: Record, before: Option<Datum>, cx: Cx<'_>) -> Done {
        if self.how.cached && cx.store(store).told.is_some() {
            let told = cx.store(store).latest(&change.key)?;
            let key = key_bytes(&change.key)?;
            cx.store_mut(store).told.get_or_insert_default().entry(key).or_insert(told);
        }
        let put = cx.store_mut(store).put_table(&change.key, &change.value, change.ts)?;
        let latest = match put {
            Put::Refused => {
                cx.count("dropped:expired");
                return Ok(());
            }
            Put::Latest => true,
            Put::Older => false,
        };
        match self.how.cached {
            false => self.tell(store, Record { latest, ..change }, true, cx),
            true => {
                let stored = before.is_some();
                self.tell(store, Record { latest, old: before.unwrap_or_default(), ..change }, stored, cx)
            }
        }
    }

    pub fn flush(&mut self, cx: Cx<'_>) -> Done {
        if let Some(store) = self.store {
            cx.store_mut(store).forget_told();
        }
        let send_old = self.how.send_old;
        for (n, &at) in self.updates.iter().enumerate() {
            let change = &mut self.waiting[at as usize];
            if change.latest != n || (change.record.value.is_null() && change.record.old.is_null()) {
                continue;
            }
            let take = std::mem::take::<Datum>;
            let record = &mut change.record;
            let (key, value, old) = (take(&mut record.key), take(&mut record.value), take(&mut record.old));
            let record = Record {
                key,
                value,
                old: if send_old { old } else { Datum::Null },
                latest: record.latest,
                ts: record.ts,
                headers: record.headers.clone(),
            };
            cx.as_of(change.origin.take(), || cx.forward(record))?;
        }
        self.clear();
        Ok(())
    }

    /// What waits has been told, or was undone. Its room is kept for the next generation, if that one was not far larger than
    /// this one.
    pub fn clear(&mut self) {
        let (keys, updates) = (self.waiting.len().max(KEPT_MIN), self.updates.len().max(KEPT_MIN));
        self.waiting.clear();
        self.updates.clear();
        self.index.clear();
        self.key.clear();
        if self.waiting.capacity() > 4 * keys {
            self.waiting.shrink_to(2 * keys);
            self.index.shrink_to(2 * keys, |_| 0);
        }
        if self.updates.capacity() > 4 * updates {
            self.updates.shrink_to(2 * updates);
        }
    }
}

/// A table of a topic (or of a stream): the last record of a key that arrived is its value.
pub struct Source {
    pub store: Option<usize>,
    /// `latest_by`: called with a new and the present value: whether the new one is older, and to be ignored.
    pub older: Option<Func>,
    pub teller: Teller,
}

impl Node for Source {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.key.is_null() {
            cx.count("dropped:null_key");
            return Ok(());
        }
        let Some(store) = self.store else { return cx.forward(Record { old: Datum::Null, ..record }) };
        let before = cx.latest(store, &record.key)?;
        if before.as_ref().is_some_and(|b| record.ts < b.1) {
            cx.count("out_of_order"); // without versions the last to arrive wins, as in Kafka Streams
        }
        if let (Some(older), Some((present, _))) = (&self.older, &before) {
            // A deletion has nothing to be compared.
            if !record.value.is_null() && older.holds(cx, &record.key, &[&record.value, present])? {
                cx.count("dropped:older");
                return Ok(());
            }
        }
        let before = before.map(|b| b.0);
        self.teller.keep(store, Record { old: before.clone().unwrap_or_default(), ..record }, before, cx)
    }
    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.teller.flush(cx)
    }
    fn restored(&mut self, _: Cx<'_>) {
        self.teller.clear();
    }
}

/// A derived table that computes each value from the value of one other: `filter`, `map_values`.
pub struct Derived {
    pub what: Derivation,
    pub store: Option<usize>,
    pub teller: Teller,
    /// The parent keeps versions: see `filter` in `docs/kafka-streams.md`.
    pub versioned: bool,
}

pub enum Derivation {
    Filter { predicate: Func, negate: bool },
    MapValues(Func),
}

impl Derivation {
    /// Tombstones never reach the user's function.
    fn of(&self, key: &Datum, value: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        if value.is_null() {
            return Ok(Datum::Null);
        }
        match self {
            Derivation::Filter { predicate, negate } => {
                Ok(if predicate.holds(cx, key, &[value])? != *negate { value.clone() } else { Datum::Null })
            }
            Derivation::MapValues(mapper) => mapper.apply(cx, key, &[value]),
        }
    }
}

impl Node for Derived {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let value = self.what.of(&record.key, &record.value, cx)?;
        let before = match self.store {
            Some(store) => cx.latest(store, &record.key)?.map(|b| b.0),
            None => None,
        };
        let old = match (self.teller.sends_old(), self.store) {
            (false, None) => Datum::Null,
            (true, None) => self.what.of(&record.key, &record.old, cx)?,
            (_, Some(_)) => before.clone().unwrap_or_default(),
        };
        let filters = matches!(self.what, Derivation::Filter { .. });
        if filters && self.teller.sends_old() && !self.versioned && old.is_null() && value.is_null() {
            return Ok(()); // nobody behind has ever seen this key
        }
        let change = Record { value, old, ..record };
        match self.store {
            None => cx.forward(change),
            Some(store) => self.teller.keep(store, change, before, cx),
        }
    }
    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.teller.flush(cx)
    }
    fn restored(&mut self, _: Cx<'_>) {
        self.teller.clear();
    }
}

/// Changes as records: the new values.
pub struct ToStream;

impl Node for ToStream {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        cx.forward(Record { old: Datum::Null, latest: true, ..record })
    }
}

/// `group_by` of a table: each half of a change under the key it is grouped by. Both halves of one group travel together, so
/// that the group is never seen in between; else the old half goes first.
#[derive(Deserialize)]
pub struct Regroup {
    mapper: Func,
    /// The table tells older versions, too.
    #[serde(default)]
    versioned: bool,
}

impl Regroup {
    fn half(&self, key: &Datum, value: &Datum, cx: Cx<'_>) -> Result<Option<(Datum, Datum)>, Failure> {
        if value.is_null() {
            return Ok(None);
        }
        match self.mapper.apply(cx, key, &[value])? {
            Datum::Null => Ok(None),
            Datum::Tuple(items) | Datum::List(items) if items.len() == 2 => {
                let (key, value) = (items[0].clone(), items[1].clone());
                Ok((!key.is_null() && !value.is_null()).then_some((key, value)))
            }
            other => Err(Failure::Bad("not_a_pair", format!("a mapper returns a (key, value) tuple, not {other:?}"))),
        }
    }
}

impl Node for Regroup {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if self.versioned && !record.latest {
            return Ok(()); // an older version changes no group
        }
        let (new, old) = (self.half(&record.key, &record.value, cx)?, self.half(&record.key, &record.old, cx)?);
        let send = |key: Datum, value: Datum, old: Datum| cx.forward(Record { key, value, old, ..record.clone() });
        match (new, old) {
            (Some((k, v)), Some((ok, ov))) if key_bytes(&k)? == key_bytes(&ok)? => send(k, v, ov),
            (new, old) => {
                if let Some((k, v)) = old {
                    send(k, Datum::Null, v)?;
                }
                new.map_or(Ok(()), |(k, v)| send(k, v, Datum::Null))
            }
        }
    }
}
