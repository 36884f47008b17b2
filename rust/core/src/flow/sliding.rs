//! Sliding windows (KIP-450): for each record of a key the window that ends with it and the one that begins behind it, both
//! ends inclusive, as long as they hold a record.
//!
//! ```text
//!   d = 10, records at 20 and 26                20      26
//!   left window of 20    [10, 20]       ├────────┤
//!   left window of 26    [16, 26]             ├─────────┤        20 and 26: made from the aggregate that held 20
//!   right window of 20   [21, 31]                 ├────────┤     26
//! ```
//!
//! All windows of one key that hold the same records have the same aggregate, so a new window is never computed from its
//! records: its aggregate is that of a window that is there. A record late enough to fall between others makes up to two
//! windows and adds to all that hold it.
//!
//! *Early* records, at less than the difference, have no left windows (no window starts before 0): they all go to [0, d].
//! They do not make windows be told that have closed; the next record that is not early does.

use super::aggregate::{told_at, Fold};
use super::stores::{key_bytes, Timed};
use super::table::Teller;
use super::windowed::{count_refused, Closing, Seen};
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;
use crate::wire::{Reader, Writer};

pub struct SlidingAggregate {
    pub difference_ms: i64,
    pub grace_ms: i64,
    /// By input.
    pub folds: Vec<Fold>,
    pub store: usize,
    pub teller: Teller,
    pub closing: Closing,
    pub seen: Seen,
}

/// The record at hand, among the windows of its key.
struct At<'a> {
    record: &'a Record,
    fold: &'a Fold,
    key: Vec<u8>,
    close: i64,
}

impl SlidingAggregate {
    /// Adds the record to a window; `found` is what is in it, or what it is made from.
    fn add(&mut self, at: &At<'_>, start: i64, found: Option<Timed>, stored: bool, cx: Cx<'_>) -> Done {
        if start.saturating_add(self.difference_ms) < at.close {
            cx.count("dropped:late");
            return Ok(());
        }
        let (before, ts) = match found {
            Some((value, ts)) if !value.is_null() => (value, ts.max(at.record.ts)),
            _ => (Datum::Null, at.record.ts),
        };
        let after = at.fold.add(&at.record.key, &at.record.value, &before, cx)?;
        self.put(at, start, after, before, ts, stored, cx)
    }

    #[allow(clippy::too_many_arguments)]
    fn put(&mut self, at: &At<'_>, start: i64, after: Datum, before: Datum, ts: i64, stored: bool, cx: Cx<'_>) -> Done {
        count_refused(cx.store_mut(self.store).series_put(&at.key, start, &after, ts)?, cx);
        if self.closing.active {
            return Ok(());
        }
        let key = Datum::windowed(at.record.key.clone(), start, start.saturating_add(self.difference_ms));
        let ts = told_at(&self.teller, &after, ts, at.record);
        let change = Record::change(key, after, before, ts, at.record.headers.clone());
        self.teller.tell(self.store, change, stored, cx)
    }

    fn fresh(at: &At<'_>, cx: Cx<'_>) -> Result<Option<Timed>, Failure> {
        Ok(Some((at.fold.initial(cx)?, at.record.ts)))
    }

    fn windows(&self, at: &At<'_>, from: i64, cx: Cx<'_>) -> Vec<(i64, Timed)> {
        // One more than the record's time: its right window, if it is there.
        cx.store(self.store).series_range(&at.key, from.max(0), at.record.ts.saturating_add(1)).collect()
    }

    /// The right window of the record at hand begins with what later records there are.
    fn right_of_record(&mut self, at: &At<'_>, later: Option<Timed>, cx: Cx<'_>) -> Done {
        match later {
            Some((value, ts)) if ts > at.record.ts => self.put(at, at.record.ts + 1, value, Datum::Null, ts, false, cx),
            _ => Ok(()),
        }
    }

    fn regular(&mut self, at: &At<'_>, cx: Cx<'_>) -> Done {
        let ts = at.record.ts;
        let d = self.difference_ms;
        let windows = self.windows(at, ts.saturating_sub(2 * d), cx);
        let (mut left_there, mut right_there) = (false, false);
        let mut later: Option<Timed> = None;
        let mut earlier: Option<Timed> = None;
        for (start, found) in windows.iter().rev() {
            let end = start.saturating_add(d);
            if *start == ts + 1 {
                right_there = true;
            } else if end > ts {
                later.get_or_insert_with(|| found.clone());
                self.add(at, *start, Some(found.clone()), true, cx)?;
            } else if end == ts {
                left_there = true;
                self.add(at, *start, Some(found.clone()), true, cx)?;
                if found.1 >= ts {
                    return Ok(()); // another record of this time has made all windows
                }
                earlier = Some(found.clone());
            } else {
                earlier = Some(found.clone());
                break;
            }
        }
        if let Some((_, previous)) = earlier {
            let start = previous + 1;
            if !windows.iter().any(|w| w.0 == start) && start.saturating_add(d) >= ts {
                self.add(at, start, Self::fresh(at, cx)?, false, cx)?;
            }
        }
        if !left_there {
            let from = match earlier {
                Some((value, previous)) if ts - d <= previous => Some((value, ts)),
                _ => Self::fresh(at, cx)?,
            };
            self.add(at, ts - d, from, false, cx)?;
        }
        match right_there {
            true => Ok(()),
            false => self.right_of_record(at, later, cx),
        }
    }

    fn early(&mut self, at: &At<'_>, cx: Cx<'_>) -> Done {
        let ts = at.record.ts;
        let windows = self.windows(at, 0, cx);
        let mut first: Option<Timed> = None;
        let mut later: Option<Timed> = None;
        let mut right_there = false;
        for (start, found) in &windows {
            if *start == 0 {
                first = Some(found.clone());
            } else if *start <= ts {
                later = Some(found.clone());
                self.add(at, *start, Some(found.clone()), true, cx)?;
            } else {
                right_there = true;
            }
        }
        // Without another window that holds later records, those of the first one are all later.
        if later.is_none() {
            later = first.clone().filter(|f| f.1 > ts);
        }
        if !right_there {
            self.right_of_record(at, later, cx)?;
        }
        if let Some((_, previous)) = first.as_ref().filter(|f| f.1 < ts) {
            if !windows.iter().any(|w| w.0 == previous + 1) {
                self.add(at, previous + 1, Self::fresh(at, cx)?, false, cx)?;
            }
        }
        match first {
            Some(found) => self.add(at, 0, Some(found), true, cx),
            None => self.add(at, 0, Self::fresh(at, cx)?, false, cx),
        }
    }
}

impl Node for SlidingAggregate {
    fn process(&mut self, input: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.key.is_null() || record.value.is_null() {
            cx.count(if record.key.is_null() { "dropped:null_key" } else { "dropped:null_value" });
            return Ok(());
        }
        let close = self.seen.note(input, record.ts).saturating_sub(self.grace_ms);
        if record.ts.saturating_add(self.difference_ms) < close {
            cx.count("dropped:late");
            return Ok(());
        }
        let fold = self.folds[input].clone();
        let at = At { record: &record, fold: &fold, key: key_bytes(&record.key)?, close };
        if record.ts < self.difference_ms {
            return self.early(&at, cx);
        }
        self.regular(&at, cx)?;
        self.closing.tell(self.store, close.saturating_sub(self.difference_ms).saturating_sub(1), &record.headers, cx)
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
