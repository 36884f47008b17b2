//! What a key waits with, kept small: most keys wait with one event, and for few times.

use std::collections::{BTreeMap, VecDeque};

use super::matcher::Known;

/// Times at which something is due, ascending, each once. New ones come near the end, and the first ones go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times(VecDeque<i64>);

impl Times {
    pub fn insert(&mut self, ts: i64) {
        if self.0.back().is_none_or(|last| *last < ts) {
            self.0.push_back(ts);
        } else if let Err(place) = self.0.binary_search(&ts) {
            self.0.insert(place, ts);
        }
    }

    pub fn first(&self) -> Option<i64> {
        self.0.front().copied()
    }

    /// Forgets those up to `ts`; whether there were any.
    pub fn pass(&mut self, ts: i64) -> bool {
        let before = self.0.len();
        while self.0.front().is_some_and(|first| *first <= ts) {
            self.0.pop_front();
        }
        self.0.len() < before
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<i64> for Times {
    fn from_iter<I: IntoIterator<Item = i64>>(all: I) -> Self {
        let mut times = Times::default();
        times.extend(all);
        times
    }
}

impl Extend<i64> for Times {
    fn extend<I: IntoIterator<Item = i64>>(&mut self, all: I) {
        all.into_iter().for_each(|ts| self.insert(ts));
    }
}

/// Events that wait for the watermark, by time and lane, as they came.
#[derive(Clone, Debug)]
pub struct Waiting<E> {
    /// In no memory of its own. It came before those of `more` that have its time and lane.
    first: Option<(At, Read<E>)>,
    more: BTreeMap<At, Vec<Read<E>>>,
}

/// An event, and what is known of it.
pub type Read<E> = (E, Known);

/// Time and lane.
type At = (i64, u32);

/// Events of one time, in order.
pub struct Due<E> {
    pub ts: i64,
    pub first: Read<E>,
    pub others: Vec<Read<E>>,
}

impl<E> Default for Waiting<E> {
    fn default() -> Self {
        Waiting { first: None, more: BTreeMap::new() }
    }
}

impl<E> Waiting<E> {
    pub fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_empty()
    }

    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.values().map(Vec::len).sum::<usize>()
    }

    pub fn add(&mut self, at: At, event: E, known: Known) {
        match self.is_empty() {
            true => self.first = Some((at, (event, known))),
            false => self.more.entry(at).or_default().push((event, known)),
        }
    }

    /// The events of the first time, if that is not after `watermark`.
    pub fn take(&mut self, watermark: i64) -> Option<Due<E>> {
        let next = self.more.first_key_value().map(|(at, _)| at.0);
        let ts = self.first.as_ref().map(|(at, _)| at.0).into_iter().chain(next).min()?;
        if ts > watermark {
            return None;
        }
        let mut first = self.first.take_if(|(at, _)| at.0 == ts);
        if next != Some(ts) {
            return first.map(|(_, first)| Due { ts, first, others: vec![] });
        }
        let mut found = vec![];
        while let Some(entry) = self.more.first_entry().filter(|entry| entry.key().0 == ts) {
            found.extend(first.take_if(|(at, _)| *at <= *entry.key()).map(|(_, event)| event));
            found.extend(entry.remove());
        }
        found.extend(first.map(|(_, event)| event));
        if self.more.is_empty() {
            self.more = BTreeMap::new(); // an empty one keeps memory
        }
        let others = found.split_off(1);
        found.pop().map(|first| Due { ts, first, others })
    }

    /// In order.
    pub fn in_order(&self) -> Vec<(At, &E)> {
        let more = self.more.iter().flat_map(|(at, events)| events.iter().map(|(event, _)| (*at, event)));
        let mut all: Vec<_> = self.first.iter().map(|(at, (event, _))| (*at, event)).chain(more).collect();
        all.sort_by_key(|(at, _)| *at);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_come_by_time_and_lane_and_as_they_came(
            steps in prop::collection::vec((0i64..8, 0u32..3, prop::bool::weighted(0.3)), 0..60),
        ) {
            let mut waiting = Waiting::default();
            let mut model: Vec<(At, usize)> = vec![];
            for (n, (ts, lane, takes)) in steps.into_iter().enumerate() {
                if takes {
                    let first = model.first().map(|(at, _)| at.0).filter(|first| *first <= ts);
                    let expected: Vec<usize> = match first {
                        Some(first) => model.extract_if(.., |(at, _)| at.0 == first).map(|(_, n)| n).collect(),
                        None => vec![],
                    };
                    let found = waiting.take(ts).map(|due| {
                        assert_eq!(Some(due.ts), first);
                        std::iter::once(due.first).chain(due.others).map(|(n, _)| n).collect()
                    });
                    prop_assert_eq!(found.unwrap_or(vec![]), expected);
                } else {
                    waiting.add((ts, lane), n, Known::default());
                    model.push(((ts, lane), n));
                    model.sort_by_key(|(at, _)| *at);
                }
                prop_assert_eq!(waiting.in_order(), model.iter().map(|(at, n)| (*at, n)).collect::<Vec<_>>());
                prop_assert_eq!((waiting.len(), waiting.is_empty()), (model.len(), model.is_empty()));
            }
        }

        #[test]
        fn times_are_a_set_in_order(steps in prop::collection::vec((0i64..20, prop::bool::weighted(0.3)), 0..60)) {
            let (mut times, mut model) = (Times::default(), BTreeSet::new());
            for (ts, passes) in steps {
                if passes {
                    let kept = model.split_off(&(ts + 1));
                    prop_assert_eq!(times.pass(ts), !model.is_empty());
                    model = kept;
                } else {
                    times.insert(ts);
                    model.insert(ts);
                }
                prop_assert_eq!(times.first(), model.first().copied());
                prop_assert_eq!(times.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
