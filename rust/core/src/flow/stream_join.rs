//! Joins of two streams: each record meets the records of the other side that lie within a span of time around it.
//!
//! ```text
//!   left ──▶ look into the right window ──▶ matches, by time and arrival ──▶ joined
//!                │ none, and an outer side                                      ▲
//!                ├─ nothing can come any more (its upper bound is past) ────────┤
//!                └─ waits ──(both bound and grace are past)─────────────────────┘
//!        then ──▶ into the left window          (right: the same, mirrored)
//! ```
//!
//! left.ts − before <= right.ts <= left.ts + after, both ends inclusive. One node does both sides; a stream joined with
//! itself enters it twice, left first, so that each record meets itself once.
//!
//! *Windows* (`join_window.rs`) forget what is older than before + after + grace behind the newest record of their
//! own side. Nothing asks whether a record is late: it meets what the other window still holds.
//!
//! *Waiting* (`waiting`): by (time, right before left, key). The records of one time, side and key wait together and leave
//! together, and a match of one takes all of them away. Waiting records are looked at only when a record carries the
//! largest time seen, before it is matched itself, and only if the earliest time that the last look left behind is past;
//! that look may set it later than it is when it leaves several behind (`earliest`), and then they leave later: Kafka
//! Streams does it so, and results are compared record by record.
//!
//! *A condition* (`where`, of joins of rows; Kafka Streams has none) is part of what a match is: a pair that fails it is not
//! joined, keeps nobody from waiting and takes nobody away. So those of one time, side and key may differ then: a match takes
//! away its own record only.

use serde::Deserialize;

use super::func::Func;
use super::join_window::Window;
use super::stores::{key_bytes, split_time, time_key};
use super::{no_headers, Cx, Done, Failed, Failure, Node, Record};
use crate::datum::Datum;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Deserialize)]
pub struct Parameters {
    before_ms: i64,
    after_ms: i64,
    grace_ms: i64,
    left_outer: bool,
    right_outer: bool,
    joiner: Func,
    /// Of (left, right).
    #[serde(default, rename = "where")]
    condition: Option<Func>,
}

const LEFT: usize = 0;

pub struct StreamJoin {
    p: Parameters,
    /// Left, right: each side's records of the recent past.
    windows: [Window; 2],
    /// Of outer joins.
    waiting: Option<usize>,
    /// The largest time of a record of either side.
    stream_time: i64,
    /// No waiting record that the next look could find closed is older; `i64::MAX`: none waits.
    earliest: i64,
}

impl StreamJoin {
    pub fn new(p: Parameters, windows: [usize; 2], waiting: Option<usize>) -> StreamJoin {
        StreamJoin { p, windows: windows.map(Window::new), waiting, stream_time: NO_TIME, earliest: i64::MAX }
    }

    /// How far a record of a side looks back and ahead.
    fn span(&self, side: usize) -> (i64, i64) {
        match side {
            LEFT => (self.p.before_ms, self.p.after_ms),
            _ => (self.p.after_ms, self.p.before_ms),
        }
    }

    /// The user's function is told the left value first, whichever side came.
    fn joined(&self, side: usize, key: &Datum, mine: &Datum, other: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        match side {
            LEFT => self.p.joiner.apply(cx, key, &[mine, other]),
            _ => self.p.joiner.apply(cx, key, &[other, mine]),
        }
    }

    /// What of the other side meets a record, by time and arrival.
    fn matches(&self, side: usize, key: &[u8], record: &Record, cx: Cx<'_>) -> Result<Vec<(i64, Datum)>, Failure> {
        let (back, ahead) = self.span(side);
        let (from, to) = (record.ts.saturating_sub(back).max(0), record.ts.saturating_add(ahead).max(0));
        let found = self.windows[1 - side].fetch(key, from, to, cx);
        let Some(condition) = self.p.condition else { return Ok(found) };
        let mut passing = vec![];
        for (ts, other) in found {
            let sides = if side == LEFT { [&record.value, &other] } else { [&other, &record.value] };
            if condition.holds(cx, &record.key, &sides)? {
                passing.push((ts, other));
            }
        }
        Ok(passing)
    }

    /// It has been met: it no longer waits.
    fn met(&self, store: usize, side: usize, ts: i64, key: &[u8], value: &Datum, cx: Cx<'_>) -> Done {
        let entry = waiting_key(ts, side, key);
        let mut store = cx.store_mut(store);
        let left = match self.p.condition {
            None => None,
            Some(_) => {
                let before = store.bytes.get(&entry).unwrap_or_default().into_owned();
                without(&before, value)?
            }
        };
        store.bytes.put(&entry, left.as_deref());
        Ok(())
    }

    fn alone(&self, side: usize, record: &Record, cx: Cx<'_>) -> Done {
        let value = self.joined(side, &record.key, &record.value, &Datum::Null, cx)?;
        cx.forward(record.with_value(value))
    }

    fn join(&mut self, side: usize, record: &Record, cx: Cx<'_>) -> Done {
        let outer = if side == LEFT { self.p.left_outer } else { self.p.right_outer };
        if record.value.is_null() || (record.key.is_null() && !outer) {
            cx.count(if record.key.is_null() { "dropped:null_key" } else { "dropped:null_value" });
            return Ok(());
        }
        if record.key.is_null() {
            return self.alone(side, record, cx);
        }
        if record.ts == self.stream_time {
            self.emit(side, record, cx)?;
        }
        let key = key_bytes(&record.key)?;
        let to = record.ts.saturating_add(self.span(side).1).max(0);
        let matches = self.matches(side, &key, record, cx)?;
        if matches.is_empty() && outer {
            return match self.waiting {
                Some(store) if to >= self.stream_time => {
                    self.earliest = self.earliest.min(record.ts);
                    wait(store, side, &key, record, cx)
                }
                _ => self.alone(side, record, cx),
            };
        }
        for (ts, other) in matches {
            if let Some(store) = self.waiting {
                self.met(store, 1 - side, ts, &key, &other, cx)?;
            }
            let value = self.joined(side, &record.key, &record.value, &other, cx)?;
            cx.forward(Record { ts: record.ts.max(ts), ..record.with_value(value) })?;
        }
        Ok(())
    }

    /// Lets go who has waited long enough.
    fn emit(&mut self, side: usize, record: &Record, cx: Cx<'_>) -> Done {
        let Some(store) = self.waiting else { return Ok(()) };
        let grace = self.p.grace_ms;
        let past = |ts: i64, ahead: i64, now: i64| ts.saturating_add(ahead).saturating_add(grace) < now;
        if !past(self.earliest, self.span(side).1, self.stream_time) {
            return Ok(());
        }
        self.earliest = i64::MAX;
        let mut open = [false; 2];
        let mut leaving = vec![];
        for (entry, values) in cx.store(store).bytes.iter() {
            let Some((ts, of, _)) = split_waiting(&entry) else { continue };
            self.earliest = ts;
            if open == [true; 2] {
                break;
            }
            match past(ts, self.span(of).1, self.stream_time) {
                true => leaving.push(entry.to_vec()),
                false => open[of] = true,
            }
            if open == [true; 2] && Reader::new(&values).varint() > Some(1) {
                break; // at the second of those that wait together
            }
        }
        for entry in leaving {
            let Some(values) = cx.store_mut(store).bytes.put(&entry, None) else { continue };
            let Some((ts, of, key)) = split_waiting(&entry) else { continue };
            let key = Datum::from_key_bytes(key).unwrap_or_default();
            let mut values = Reader::new(&values);
            for _ in 0..values.varint().unwrap_or(0) {
                let Some(value) = Datum::decode(&mut values) else { break };
                match self.joined(of, &key, &value, &Datum::Null, cx) {
                    Ok(joined) => cx.forward(Record { key: key.clone(), ts, ..record.with_value(joined) })?,
                    Err(Failure::Bad(reason, text)) => {
                        // Not the fault of the record at hand, which is no letter for it.
                        let text = format!("a record of time {ts} that waited for its other side: {text}");
                        let waited = Record::new(key.clone(), value, ts, no_headers());
                        cx.apart(|cx| cx.settle(Err(Failure::Bad(reason, text)), Failed::Record(&waited)))?;
                    }
                    Err(fatal) => return Err(fatal),
                }
            }
        }
        Ok(())
    }
}

/// `time | 0 for right, 1 for left | key`.
fn waiting_key(ts: i64, side: usize, key: &[u8]) -> Vec<u8> {
    time_key(ts, &[&[(side == LEFT) as u8], key].concat())
}

fn split_waiting(entry: &[u8]) -> Option<(i64, usize, &[u8])> {
    let (ts, rest) = split_time(entry)?;
    let (&left, key) = rest.split_first()?;
    Some((ts, if left == 1 { LEFT } else { 1 - LEFT }, key))
}

/// Behind those that wait under the same time, side and key.
fn wait(store: usize, side: usize, key: &[u8], record: &Record, cx: Cx<'_>) -> Done {
    let mut store = cx.store_mut(store);
    let entry = waiting_key(record.ts, side, key);
    let before = store.bytes.get(&entry).unwrap_or_default().into_owned();
    let mut waiting = Reader::new(&before);
    let mut values = Writer::default();
    values.varint(waiting.varint().unwrap_or(0) + 1);
    values.raw(waiting.rest);
    record.value.encode(&mut values).map_err(Failure::unstorable)?;
    store.bytes.put(&entry, Some(&values.bytes));
    Ok(())
}

/// Those who wait together but for one of this value; none: nobody.
fn without(together: &[u8], value: &Datum) -> Result<Option<Vec<u8>>, Failure> {
    let mut gone = Writer::default();
    value.encode(&mut gone).map_err(Failure::unstorable)?;
    let mut waiting = Reader::new(together);
    let mut rest = Writer::default();
    let (mut staying, mut found) = (0, false);
    for _ in 0..waiting.varint().unwrap_or(0) {
        let before = waiting.rest;
        if Datum::decode(&mut waiting).is_none() {
            break;
        }
        let bytes = &before[..before.len() - waiting.rest.len()];
        if !found && bytes == gone.bytes {
            found = true;
            continue;
        }
        staying += 1;
        rest.raw(bytes);
    }
    let mut out = Writer::default();
    out.varint(staying);
    out.raw(&rest.bytes);
    Ok((staying > 0).then_some(out.bytes))
}

impl Node for StreamJoin {
    fn process(&mut self, side: usize, record: Record, cx: Cx<'_>) -> Done {
        self.stream_time = self.stream_time.max(record.ts);
        let done = self.join(side, &record, cx);
        cx.settle(done, Failed::Record(&record))?;
        if record.key.is_null() {
            return Ok(());
        }
        if !self.windows[side].put(&key_bytes(&record.key)?, record.ts, &record.value, cx)? {
            cx.count("dropped:expired");
        }
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        out.zigzag(self.stream_time);
        out.zigzag(self.earliest);
    }
    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.stream_time = saved.zigzag()?;
        self.earliest = saved.zigzag()?;
        Some(())
    }
    fn restored(&mut self, cx: Cx<'_>) {
        self.windows.iter_mut().for_each(|w| w.restored(cx));
    }
}
