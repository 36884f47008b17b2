//! Joins of two tables by the same key.
//!
//! Either side's change is joined with what the other side has for the key now, the old value likewise if somebody asked
//! for it. Nothing is told as long as no result exists on either side of the change; a result that is gone is a deletion.
//! A side that tells an older version of a key changes nothing.

use super::func::{Func, Lookup};
use super::table::Teller;
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;

pub struct TableJoin {
    pub joiner: Func,
    /// How the left and the right table are read.
    pub tables: [Lookup; 2],
    /// Whether rows of the left, and of the right, that have no counterpart are results.
    pub outer: [bool; 2],
    /// Whether the left, and the right table, tells older versions, too.
    pub versioned: [bool; 2],
    pub store: Option<usize>,
    pub teller: Teller,
}

impl TableJoin {
    /// The result of a value of one side (`this`) with what the other has.
    fn result(&self, side: usize, key: &Datum, this: &Datum, other: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        let exists = match (this.is_null(), other.is_null()) {
            (false, false) => true,
            (false, true) => self.outer[side],
            (true, false) => self.outer[1 - side],
            (true, true) => false,
        };
        match (exists, side) {
            (false, _) => Ok(Datum::Null),
            (true, 0) => self.joiner.apply(cx, key, &[this, other]),
            (true, _) => self.joiner.apply(cx, key, &[other, this]),
        }
    }
}

impl Node for TableJoin {
    fn process(&mut self, side: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.key.is_null() {
            cx.count("dropped:null_key");
            return Ok(());
        }
        if self.versioned[side] && !record.latest {
            cx.count("dropped:older_version");
            return Ok(());
        }
        let (other, ts) = match self.tables[1 - side].get(cx, &record.key)? {
            Some((value, ts)) => (value, record.ts.max(ts)),
            None => (Datum::Null, record.ts),
        };
        if other.is_null() && (!self.outer[side] || record.value.is_null() && record.old.is_null()) {
            return Ok(());
        }
        let value = self.result(side, &record.key, &record.value, &other, cx)?;
        let old = match self.teller.sends_old() {
            true => self.result(side, &record.key, &record.old, &other, cx)?,
            false => Datum::Null,
        };
        let change = Record { value, old, ts, ..record };
        match self.store {
            None => cx.forward(change),
            Some(store) => {
                let before = cx.latest(store, &change.key)?.map(|b| b.0);
                self.teller.keep(store, change, before, cx)
            }
        }
    }
    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.teller.flush(cx)
    }
    fn restored(&mut self, _: Cx<'_>) {
        self.teller.clear();
    }
}
