//! Aggregation of a stream by key and window: tumbling, hopping and unlimited windows; and what all windows share, telling
//! them when they close.
//!
//! *Time* is what this operator has seen: the largest time of a record with a key that reached it (of each input its own,
//! where several are grouped together). A window takes a record as long as `end > time - grace`, the record's own time
//! included; so one record may be late for one window and in time for the next. Sliding windows and sessions have ends that
//! are inclusive: there it is `end >= time - grace`.
//!
//! *Told on close* ([`Closing`]): nothing until a window can take no more records, then its value once, by window and key.
//! How far windows have been told is small state, so that a restart neither repeats nor skips; the store keeps what has yet
//! to be told, whatever its retention says. Kafka Streams loses that when time jumps, and tries at most once a second.

use serde::Deserialize;

use super::aggregate::{told_at, Fold};
use super::stores::{time_bytes, Store};
use super::table::Teller;
use super::{Cx, Done, Failure, Headers, Node, Record};
use crate::datum::Datum;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

/// A window with its lengths, ms, as the plan has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Windowing {
    /// `[start, start + size)` for every multiple of `advance` from 0 on.
    Hopping {
        size_ms: i64,
        advance_ms: i64,
        grace_ms: i64,
    },
    /// `[start, …)`, one.
    Unlimited {
        start_ms: i64,
    },
    /// `[t - difference, t]` and `[t + 1, t + 1 + difference]` for every record's time `t`.
    Sliding {
        difference_ms: i64,
        grace_ms: i64,
    },
    Session {
        gap_ms: i64,
        grace_ms: i64,
    },
    /// What a function of the host says of a time: a list of (start, end). `size_ms` is how long windows are said to be, where
    /// nobody can ask (a key in the store has the start alone).
    Own {
        call: usize,
        size_ms: i64,
        grace_ms: i64,
    },
}

impl Windowing {
    /// Windows that hold a time, by their starts.
    fn holding(&self, ts: i64) -> impl Iterator<Item = (i64, i64)> {
        let (first, step, size) = match *self {
            Windowing::Hopping { size_ms, advance_ms, .. } => (
                ts.saturating_sub(size_ms).saturating_add(advance_ms).max(0) / advance_ms * advance_ms,
                advance_ms,
                size_ms,
            ),
            Windowing::Unlimited { start_ms } => (start_ms, i64::MAX, i64::MAX),
            _ => (i64::MAX, i64::MAX, 0),
        };
        std::iter::successors(Some(first), move |start| start.checked_add(step))
            .take_while(move |&start| start <= ts)
            .map(move |start| (start, start.saturating_add(size)))
    }

    /// The same, where they are the user's own: in the order in which they are said.
    fn own(call: usize, ts: i64, cx: Cx<'_>) -> Result<Vec<(i64, i64)>, Failure> {
        let wrong = |said: &Datum| {
            Failure::raised(format!("windows are (start, end) in ms, with 0 <= start <= end, not {said:?}"))
        };
        let said = cx.apply(call, &[Datum::Int(ts)])?;
        let Datum::List(windows) = &said else { return Err(wrong(&said)) };
        let bounds = |window: &Datum| match window {
            Datum::Tuple(pair) | Datum::List(pair) => match **pair {
                [Datum::Int(start), Datum::Int(end)] if 0 <= start && start <= end => Ok((start, end)),
                _ => Err(wrong(window)),
            },
            _ => Err(wrong(window)),
        };
        windows.iter().map(bounds).collect()
    }

    fn grace_ms(&self) -> i64 {
        match *self {
            Windowing::Hopping { grace_ms, .. }
            | Windowing::Sliding { grace_ms, .. }
            | Windowing::Session { grace_ms, .. }
            | Windowing::Own { grace_ms, .. } => grace_ms,
            Windowing::Unlimited { .. } => 0,
        }
    }
}

/// The largest times seen, by input.
#[derive(Default)]
pub struct Seen(Vec<i64>);

impl Seen {
    /// Takes note of a record's time; returns the input's time.
    pub fn note(&mut self, input: usize, ts: i64) -> i64 {
        if self.0.len() <= input {
            self.0.resize(input + 1, NO_TIME);
        }
        self.0[input] = self.0[input].max(ts);
        self.0[input]
    }
    pub fn save(&self, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        self.0.iter().for_each(|&ts| out.zigzag(ts));
    }
    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        let n = saved.varint()? as usize;
        if n > saved.rest.len() {
            return None;
        }
        self.0 = (0..n).map(|_| saved.zigzag()).collect::<Option<_>>()?;
        Some(())
    }
}

/// Windows that are told when they close. Places are what the store orders by: starts, of sessions ends.
pub struct Closing {
    pub active: bool,
    /// All windows with smaller places have been told.
    told_to: i64,
}

impl Closing {
    pub fn new(active: bool) -> Closing {
        Closing { active, told_to: 0 }
    }

    /// Tells all windows with places up to `to` that have not been told.
    pub fn tell(&mut self, store: usize, to: i64, headers: &Headers, cx: Cx<'_>) -> Done {
        if !self.active || to < self.told_to {
            return Ok(());
        }
        let windows = cx.store(store).windows(self.told_to, to);
        self.told_to = to.saturating_add(1);
        cx.store_mut(store).hold(self.told_to);
        for (key, value, ts) in windows {
            cx.count("closed");
            cx.forward(Record::new(key, value, ts, headers.clone()))?;
        }
        Ok(())
    }

    /// What has not been told is held in the store.
    pub fn hold(&self, store: &mut Store) {
        if self.active {
            store.hold_from = self.told_to;
        }
    }
    pub fn save(&self, out: &mut Writer) {
        out.zigzag(self.told_to);
    }
    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.told_to = saved.zigzag()?;
        Some(())
    }
}

/// A window's new aggregate was refused by the store: it is as old as what the store forgets. It is told all the same.
pub fn count_refused(admitted: bool, cx: Cx<'_>) {
    if !admitted {
        cx.count("dropped:expired");
    }
}

/// Tumbling, hopping and unlimited windows.
pub struct WindowAggregate {
    pub windowing: Windowing,
    /// By input.
    pub folds: Vec<Fold>,
    pub store: usize,
    pub teller: Teller,
    pub closing: Closing,
    pub seen: Seen,
    /// The key at hand as the store has it: the window's start, then the key.
    pub place: Vec<u8>,
}

impl Node for WindowAggregate {
    fn process(&mut self, input: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.key.is_null() {
            cx.count("dropped:null_key");
            return Ok(());
        }
        self.place.clear();
        self.place.extend_from_slice(&time_bytes(0));
        record.key.write_key(&mut self.place).map_err(Failure::unstorable)?;
        let close = self.seen.note(input, record.ts).saturating_sub(self.windowing.grace_ms());
        let fold = &self.folds[input];
        let own = match self.windowing {
            Windowing::Own { call, .. } => Windowing::own(call, record.ts, cx)?,
            _ => vec![],
        };
        for (start, end) in own.into_iter().chain(self.windowing.holding(record.ts)) {
            if end <= close {
                cx.count("dropped:late");
                continue;
            }
            self.place[..8].copy_from_slice(&time_bytes(start));
            let (mut slot, stored) = {
                let store = cx.store(self.store);
                let slot = store.bytes.find(&self.place);
                (slot, store.window_get_at(slot, start, &self.place))
            };
            let was = stored.is_some();
            let (before, ts) = match stored {
                Some((value, ts)) => (value, record.ts.max(ts)),
                None => (fold.initial(cx)?, record.ts),
            };
            let after = fold.add(&record.key, &record.value, &before, cx)?;
            let put = cx.store_mut(self.store).window_put_at(&mut slot, start, &self.place, &after, ts);
            count_refused(put?, cx);
            if !self.closing.active {
                // From a cache keys come as they are kept, by their starts.
                let end = match self.windowing {
                    Windowing::Own { size_ms, .. } if self.teller.cached() => start.saturating_add(size_ms),
                    _ => end,
                };
                let key = || Datum::windowed(record.key.clone(), start, end);
                let ts = told_at(&self.teller, &after, ts, &record);
                let change = Record::change(Datum::Null, after, before, ts, record.headers.clone());
                self.teller.tell_of_slot(self.store, slot, key, change, was, cx)?;
            }
        }
        match self.windowing {
            Windowing::Hopping { size_ms, .. } => {
                self.closing.tell(self.store, close.saturating_sub(size_ms), &record.headers, cx)
            }
            _ => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_their_start_and_not_their_end() {
        let of = |size_ms, advance_ms, ts| {
            Windowing::Hopping { size_ms, advance_ms, grace_ms: 0 }.holding(ts).collect::<Vec<_>>()
        };
        assert_eq!(of(10, 10, 0), [(0, 10)]);
        assert_eq!(of(10, 10, 9), [(0, 10)]);
        assert_eq!(of(10, 10, 10), [(10, 20)]);
        assert_eq!(of(10, 4, 3), [(0, 10)]);
        assert_eq!(of(10, 4, 11), [(4, 14), (8, 18)]);
        assert_eq!(of(10, 4, 12), [(4, 14), (8, 18), (12, 22)]);
        assert_eq!(of(10, 3, 10), [(3, 13), (6, 16), (9, 19)]);
        assert_eq!(of(i64::MAX, i64::MAX, 7), [(0, i64::MAX)]);
    }

    #[test]
    fn an_unlimited_window_has_no_records_before_its_start() {
        let windows = Windowing::Unlimited { start_ms: 5 };
        assert_eq!(windows.holding(4).count(), 0);
        assert_eq!(windows.holding(5).collect::<Vec<_>>(), [(5, i64::MAX)]);
    }
}
