//! Session windows: records of a key with no more than the gap between them, `[first, last]`, both inclusive.
//!
//! A record merges all sessions that lie no further than the gap from it: they are deleted (a tombstone for each), and their
//! aggregates, merged into the initial one in the order of their ends, take the record. The initial aggregate enters once
//! for every record, so it must be neutral for the merger. Whether the record is late is asked of the merged session: one
//! that touches a living session is in time. Sessions that have expired are not seen.

use super::aggregate::Fold;
use super::func::Func;
use super::stores::key_bytes;
use super::table::Teller;
use super::windowed::{count_refused, Closing, Seen};
use super::{Cx, Done, Failure, Headers, Node, Record};
use crate::datum::Datum;
use crate::wire::{Reader, Writer};

pub struct SessionAggregate {
    pub gap_ms: i64,
    pub grace_ms: i64,
    /// By input.
    pub folds: Vec<Fold>,
    /// Of [`Fold::Aggregate`]; the others know how to merge.
    pub merger: Option<Func>,
    pub store: usize,
    pub teller: Teller,
    pub closing: Closing,
    pub seen: Seen,
}

impl SessionAggregate {
    fn merge(&self, fold: &Fold, key: &Datum, one: &Datum, other: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        match (fold, one, other) {
            (Fold::Count, Datum::Int(a), Datum::Int(b)) => Ok(Datum::Int(a + b)),
            (Fold::Reduce { .. }, Datum::Null, _) => Ok(other.clone()),
            (Fold::Reduce { adder, .. }, ..) => cx.apply(adder.call, &[one.clone(), other.clone()]),
            _ => match &self.merger {
                Some(merger) => merger.apply(cx, key, &[one, other]),
                None => Err(Failure::Bad("not_a_count", format!("{one:?}, {other:?}"))),
            },
        }
    }
}

impl Node for SessionAggregate {
    fn process(&mut self, input: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.key.is_null() {
            cx.count("dropped:null_key");
            return Ok(());
        }
        let ts = record.ts;
        let key = key_bytes(&record.key)?;
        let close = self.seen.note(input, ts).saturating_sub(self.grace_ms).saturating_sub(self.gap_ms);
        let fold = &self.folds[input];
        let found = cx.store(self.store).sessions(&key, ts.saturating_sub(self.gap_ms), ts.saturating_add(self.gap_ms));
        let (mut start, mut end) = (ts, ts);
        let mut aggregate = fold.initial(cx)?;
        for (s, e, value) in &found {
            aggregate = self.merge(fold, &record.key, &aggregate, value, cx)?;
            (start, end) = (start.min(*s), end.max(*e));
        }
        if end < close {
            cx.count("dropped:late");
        } else {
            // From a cache, results have the headers of the latest update; told at once, they have none.
            let headers = if self.teller.cached() { record.headers.clone() } else { Headers::default() };
            let change = |start: i64, end: i64, new: Datum, old: Datum| {
                let key = Datum::windowed(record.key.clone(), start, end);
                Record::change(key, new, old, end, headers.clone())
            };
            let mut before = Datum::Null;
            let expired_to = cx.store(self.store).expired_to();
            for (s, e, value) in found {
                if (start, end) == (ts, ts) {
                    // The session is this one already. What it was is its old value only where a cache tells it.
                    before = if self.teller.cached() { value } else { Datum::Null };
                    continue;
                }
                cx.store_mut(self.store).session_remove(&key, s, e);
                if !self.closing.active {
                    // From a cache, one that has expired is not told to be gone: the store behind it does not know it.
                    self.teller.tell(self.store, change(s, e, Datum::Null, value), e > expired_to, cx)?;
                }
            }
            let after = fold.add(&record.key, &record.value, &aggregate, cx)?;
            count_refused(cx.store_mut(self.store).session_put(&key, start, end, &after)?, cx);
            if !self.closing.active {
                self.teller.tell(self.store, change(start, end, after, before), true, cx)?;
            }
        }
        self.closing.tell(self.store, close.saturating_sub(1), &record.headers, cx)
    }
    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.teller.flush(cx)
    }
    fn save(&self, out: &mut Writer) {
        self.seen.save(out);
        self.closing.save(out);
    }
    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.seen.load(saved)?;
        self.closing.load(saved)
    }
    fn restored(&mut self, cx: Cx<'_>) {
        self.teller.clear();
        self.closing.hold(&mut cx.store_mut(self.store));
    }
}
