//! A store of versions: what each key's value was when (`Materialized(history=…)`, Kafka Streams' versioned stores).
//!
//! ```text
//!   k  length of key, key, time   ->  the value from then on, or null: deleted then
//!   t  time, key                      at that time something ended a version: when history has passed it, that version goes
//! ```
//!
//! - *A version is valid* from its own time to the next version's. The newest is the present value, and never expires.
//! - *History* counts back from the largest time ever put. Older times are refused, and asking for one finds the present
//!   value if that is older still, else nothing.
//! - *A deletion is a version.* The newest one is kept as long as history, so that what comes late for the time before it is
//!   known not to be the latest. (A deletion at the very time of the only version takes that away and leaves no trace, unless
//!   something ended there before: as in Kafka Streams, whose segments know of no other.)

use std::ops::Bound;

use super::stores::{key_bytes, key_prefix, read_timed, split_time, time_bytes, write_timed, Store, Timed};
use super::Failure;
use crate::datum::Datum;
use crate::window::NO_TIME;

/// What became of a value that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is the key's present value.
    Latest,
    /// There is a newer version.
    Older,
    /// It is older than history reaches back.
    Refused,
}

const VERSIONS: u8 = b'k';
const ENDS: u8 = b't';

pub(super) fn prefix_of(key: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSIONS];
    out.extend_from_slice(&key_prefix(key));
    out
}

pub(super) fn version_key(prefix: &[u8], ts: i64) -> Vec<u8> {
    [prefix, &time_bytes(ts)[..]].concat()
}

fn end_key(ts: i64, key: &[u8]) -> Vec<u8> {
    [&[ENDS][..], &time_bytes(ts)[..], key].concat()
}

impl Store {
    pub(super) fn horizon(&self) -> i64 {
        match self.spec.retention_ms {
            Some(ms) if self.observed != NO_TIME => self.observed.saturating_sub(ms),
            _ => i64::MIN,
        }
    }

    /// The newest version at or before a time.
    fn version_at(&self, prefix: &[u8], ts: i64) -> Option<Timed> {
        let (low, high) = (version_key(prefix, i64::MIN), version_key(prefix, ts));
        let found = self.bytes.range(Bound::Included(&low), Bound::Included(&high)).next_back();
        found.and_then(|(_, v)| read_timed(&v))
    }

    pub fn version_latest(&self, key: &Datum) -> Result<Option<Timed>, Failure> {
        let found = self.version_at(&prefix_of(&key_bytes(key)?), i64::MAX);
        Ok(found.filter(|f| !f.0.is_null()))
    }

    pub fn version_as_of(&self, key: &Datum, ts: i64) -> Result<Option<Timed>, Failure> {
        let prefix = prefix_of(&key_bytes(key)?);
        let found = match ts < self.horizon() {
            true => self.version_at(&prefix, i64::MAX).filter(|f| f.1 <= ts),
            false => self.version_at(&prefix, ts),
        };
        Ok(found.filter(|f| !f.0.is_null()))
    }

    pub fn version_put(&mut self, key: &Datum, value: &Datum, ts: i64) -> Result<Put, Failure> {
        if ts < self.horizon() {
            return Ok(Put::Refused);
        }
        let key = key_bytes(key)?;
        let prefix = prefix_of(&key);
        if ts > self.observed {
            self.observed = ts;
            self.forget();
        }
        let newest = self.version_at(&prefix, i64::MAX);
        let before = self.version_at(&prefix, ts.saturating_sub(1)).filter(|b| b.1 < ts);
        let whole = version_key(&prefix, ts);
        let untraced = value.is_null()
            && newest.as_ref().is_some_and(|n| n.1 == ts && !n.0.is_null())
            && before.as_ref().is_none_or(|b| b.0.is_null())
            && self.bytes.get(&end_key(ts, &key)).is_none(); // nothing has ended here, no deletion was here
        if untraced {
            self.bytes.put(&whole, None);
            return Ok(Put::Latest);
        }
        self.bytes.put(&whole, Some(&write_timed(value, ts)?));
        // What was before ends here; so does, where there is a newer version, this one there. A deletion ends itself.
        if before.is_some_and(|b| !b.0.is_null()) || value.is_null() {
            self.bytes.put(&end_key(ts, &key), Some(&[]));
        }
        match newest.filter(|n| n.1 > ts) {
            None => Ok(Put::Latest),
            Some(_) => {
                let (low, high) = (version_key(&prefix, ts), version_key(&prefix, i64::MAX));
                let next = self.bytes.range(Bound::Excluded(&low), Bound::Included(&high)).next();
                let next = next.and_then(|(_, v)| read_timed(&v)).map_or(i64::MAX, |n| n.1);
                self.bytes.put(&end_key(next, &key), Some(&[]));
                Ok(Put::Older)
            }
        }
    }

    /// Lets go of versions that ended before history begins.
    fn forget(&mut self) {
        let horizon = self.horizon();
        let place = |time: i64| [&[ENDS][..], &time_bytes(time)].concat();
        let (low, high) = (place(self.swept), place(horizon));
        self.swept = horizon; // what is put from now on ends later
        let ends: Vec<Vec<u8>> =
            self.bytes.range(Bound::Included(&low), Bound::Excluded(&high)).map(|(k, _)| k.to_vec()).collect();
        for end in ends {
            self.bytes.put(&end, None);
            let Some((ts, key)) = split_time(&end[1..]) else { continue };
            let prefix = prefix_of(key);
            let (low, high) = (version_key(&prefix, i64::MIN), version_key(&prefix, ts));
            let mut gone: Vec<(Vec<u8>, bool)> = self
                .bytes
                .range(Bound::Included(&low), Bound::Included(&high))
                .map(|(k, v)| (k.to_vec(), read_timed(&v).is_none_or(|t| t.0.is_null())))
                .collect();
            // The version that begins at the end of another lives on, unless it is a deletion: nothing is before it any more.
            if gone.last().is_some_and(|(k, deletion)| k[k.len() - 8..] == time_bytes(ts) && !deletion) {
                gone.pop();
            }
            for (k, _) in gone {
                self.bytes.put(&k, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::stores::{StoreKind, StoreSpec};
    use super::*;

    fn store(history: i64) -> Store {
        Store::new(StoreSpec {
            name: "s".into(),
            kind: StoreKind::Versioned,
            retention_ms: Some(history),
            linger_ms: 0,
            max_entries: None,
            window_size_ms: None,
            duplicates: false,
            holds: None,
            headers: false,
            logging: true,
            queryable: false,
            flavour: None,
            by_key: false,
            store_type: None,
        })
    }

    proptest! {
        /// A model that never forgets, asked only for what history reaches.
        #[test]
        fn it_knows_what_was_when(
            puts in prop::collection::vec((0u8..3, 0i64..60, prop::option::of(0i64..100)), 0..60),
            history in 0i64..30,
        ) {
            let mut s = store(history);
            let mut model: BTreeMap<(u8, i64), Option<i64>> = BTreeMap::new();
            let mut ended: BTreeSet<(u8, i64)> = BTreeSet::new();
            let mut observed = i64::MIN;
            for (key, ts, value) in puts {
                let datum = value.map_or(Datum::Null, Datum::Int);
                let found = s.version_put(&Datum::Int(key.into()), &datum, ts).unwrap();
                if observed != i64::MIN && ts < observed - history {
                    prop_assert_eq!(found, Put::Refused);
                    continue;
                }
                observed = observed.max(ts);
                let next = model.range((key, ts + 1)..=(key, i64::MAX)).next().map(|(at, _)| *at);
                let newer = next.is_some();
                let before = model.range((key, i64::MIN)..(key, ts)).next_back().and_then(|(_, v)| *v);
                let untraced = value.is_none() && !newer && before.is_none()
                    && model.get(&(key, ts)).is_some_and(Option::is_some) && !ended.contains(&(key, ts));
                match untraced {
                    true => { model.remove(&(key, ts)); }
                    false => {
                        model.insert((key, ts), value);
                        let here = (before.is_some() || value.is_none()).then_some((key, ts));
                        ended.extend(here.into_iter().chain(next));
                    }
                }
                prop_assert_eq!(found, if newer { Put::Older } else { Put::Latest });
                for k in 0..3u8 {
                    let at = |ts: i64| model.range((k, i64::MIN)..=(k, ts)).next_back().and_then(|(&(_, t), v)| v.map(|v| (v, t)));
                    let got = |t: Option<Timed>| t.map(|(d, t)| (match d { Datum::Int(i) => i, _ => -1 }, t));
                    prop_assert_eq!(got(s.version_latest(&Datum::Int(k.into())).unwrap()), at(i64::MAX));
                    for ts in (observed - history)..=(observed + 1) {
                        prop_assert_eq!(got(s.version_as_of(&Datum::Int(k.into()), ts).unwrap()), at(ts));
                    }
                }
            }
            // With time, only present values are left.
            s.version_put(&Datum::Int(9), &Datum::Int(1), 10_000).unwrap();
            s.version_put(&Datum::Int(9), &Datum::Int(1), 20_000).unwrap();
            // And the two of the key that made time pass.
            let present = (0..3u8).filter(|k| model.range((*k, i64::MIN)..=(*k, i64::MAX)).next_back().is_some_and(|(_, v)| v.is_some()));
            let versions = s.bytes.prefix(&[VERSIONS]).count();
            prop_assert_eq!(versions, present.count() + 2);
        }
    }
}
