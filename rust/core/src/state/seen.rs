//! Which ids were seen, and when: the memory of `deduplicate`.
//!
//! An id is 128 bits of hash (xxh3). It is remembered until the clock exceeds its time plus `within`; being looked up
//! after that is the same as being unknown, whether or not it was forgotten yet.
//!
//! **Log and index.** Ids lie in the order in which they came, 24 bytes each with their time, in buckets; a bucket ends
//! when it is full or spans an eighth of `within`, and the oldest is dropped whole once all in it are dead. An index of
//! 8 bytes a slot finds an id's place. Nothing living is ever copied; only the index doubles, from what it holds itself.
//!
//! ```text
//! buckets  | dead, dropped | id ts, id ts … | id ts … |>        places count on, one bucket begins at each multiple of 4096
//! index    [ tag32 | place32 ] …                                open addressing, load <= 0.75; removing shifts back
//! ```
//!
//! **Undo is the log's end.** What a generation remembered anew is what lies behind its start: that is what the changelog
//! is told and what a rollback cuts off. An id that had died and came again lies there twice; the generation notes where
//! it lay before.

use std::collections::{HashMap, VecDeque};

use super::prefetch;
use crate::op::Needs;

const BUCKET: usize = 4096;
const SLOTS_MIN: usize = 16;

#[derive(Clone, Copy)]
struct Entry {
    /// Low half first.
    id: [u64; 2],
    ts: i64,
}

impl Entry {
    fn id(&self) -> u128 {
        (self.id[1] as u128) << 64 | self.id[0] as u128
    }
}

struct Bucket {
    entries: Vec<Entry>,
    /// The clock at its first entry, and the largest time in it.
    since: i64,
    newest: i64,
}

#[derive(Default)]
struct Generation {
    /// Where the log ended when it began.
    start: u64,
    /// The clock then.
    clock: i64,
    /// The largest time that it remembered.
    newest: Option<i64>,
    /// Ids that were there, but dead: their place now and before.
    again: Vec<(u64, u64)>,
}

/// `tag << 32 | low half of the place`. A tag is never 0, so this is never [`EMPTY`].
type Slot = u64;
const EMPTY: Slot = 0;

pub struct Seen {
    within_ms: i64,
    buckets: VecDeque<Bucket>,
    /// Place of the first bucket's first entry, a multiple of [`BUCKET`].
    base: u64,
    index: Vec<Slot>,
    used: usize,
    generations: VecDeque<Generation>,
    clock: i64,
    /// Per generation that remembered something: its number and the largest time in it. What all is dead need not be
    /// restored, so the changelog may forget it.
    births: VecDeque<(u64, i64)>,
    /// The largest time among restored ids.
    restored_ts: i64,
}

impl Seen {
    pub fn new(within_ms: i64) -> Seen {
        Seen {
            within_ms,
            buckets: VecDeque::new(),
            base: 0,
            index: vec![EMPTY; SLOTS_MIN],
            used: 0,
            generations: VecDeque::from([Generation { clock: i64::MIN, ..Generation::default() }]),
            clock: i64::MIN,
            births: VecDeque::new(),
            restored_ts: i64::MIN,
        }
    }

    #[inline]
    fn alive(&self, ts: i64, clock: i64) -> bool {
        clock <= ts.saturating_add(self.within_ms)
    }

    /// The place after the last id.
    fn end(&self) -> u64 {
        let last = self.buckets.back().map_or(0, |b| b.entries.len());
        self.base + (self.buckets.len().saturating_sub(1) * BUCKET + last) as u64
    }

    #[inline]
    fn entry(&self, place: u64) -> Entry {
        let at = (place - self.base) as usize;
        self.buckets[at / BUCKET].entries[at % BUCKET]
    }

    /// Entries from `place` on, with their places.
    fn since(&self, place: u64) -> impl Iterator<Item = (u64, Entry)> + '_ {
        let first = (place.saturating_sub(self.base)) as usize / BUCKET;
        self.buckets.iter().enumerate().skip(first).flat_map(move |(i, bucket)| {
            let start = self.base + (i * BUCKET) as u64;
            let skip = place.saturating_sub(start).min(bucket.entries.len() as u64) as usize;
            (start + skip as u64..).zip(bucket.entries[skip..].iter().copied())
        })
    }

    fn push(&mut self, id: u128, ts: i64) -> u64 {
        let clock = self.clock;
        let full = self.buckets.back().map(|b| b.entries.len() == BUCKET);
        let ended = self.buckets.back().is_none_or(|b| clock > b.since.saturating_add(self.within_ms / 8));
        if ended || full == Some(true) {
            let capacity = if full == Some(true) { BUCKET } else { 0 };
            self.buckets.push_back(Bucket { entries: Vec::with_capacity(capacity), since: clock, newest: i64::MIN });
        }
        let place = self.end();
        if let Some(bucket) = self.buckets.back_mut() {
            bucket.entries.push(Entry { id: [id as u64, (id >> 64) as u64], ts });
            bucket.newest = bucket.newest.max(ts);
        }
        place
    }

    /// Where an id's slot is and its place in the log, or the slot where it belongs.
    #[inline]
    fn find(&self, id: u128) -> Result<(usize, u64), usize> {
        let mask = self.index.len() - 1;
        let tag = tag(id);
        let mut at = tag as usize & mask;
        loop {
            let slot = self.index[at];
            if slot == EMPTY {
                return Err(at);
            }
            if (slot >> 32) as u32 == tag {
                let place = self.base + (slot as u32).wrapping_sub(self.base as u32) as u64;
                if self.entry(place).id() == id {
                    return Ok((at, place));
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether the id is remembered at `clock`; if not, remembers it with `ts` from now on.
    #[inline]
    pub fn repeated(&mut self, id: u128, ts: i64, clock: i64) -> bool {
        self.clock = self.clock.max(clock);
        match self.find(id) {
            Ok((_, place)) if self.alive(self.entry(place).ts, clock) => return true,
            Ok((at, before)) => {
                let place = self.push(id, ts);
                self.index[at] = slot(tag(id), place);
                if let Some(g) = self.generations.back_mut() {
                    g.again.push((place, before));
                }
            }
            Err(at) => self.put(at, id, ts),
        }
        if let Some(g) = self.generations.back_mut() {
            g.newest = Some(g.newest.map_or(ts, |newest| newest.max(ts)));
        }
        false
    }

    fn put(&mut self, at: usize, id: u128, ts: i64) {
        let place = self.push(id, ts);
        self.index[at] = slot(tag(id), place);
        self.used += 1;
        if self.used * 4 > self.index.len() * 3 {
            self.forget();
        }
    }

    /// The clock to which a rollback would return: what is dead by then is dead whatever happens.
    fn safe_clock(&self) -> i64 {
        self.generations.front().map_or(i64::MIN, |g| g.clock)
    }

    /// Drops buckets of the dead, oldest first, and gives the index a fitting size.
    fn forget(&mut self) {
        let (safe, start) = self.generations.front().map_or((i64::MIN, 0), |g| (g.clock, g.start));
        while let Some(bucket) = self.buckets.front() {
            // What is not committed has not been told yet.
            let open = self.base + bucket.entries.len() as u64 > start;
            if open || self.alive(bucket.newest, safe) {
                break;
            }
            if let Some(bucket) = self.buckets.pop_front() {
                for (i, entry) in bucket.entries.iter().enumerate() {
                    if let Some(ahead) = bucket.entries.get(i + 12) {
                        self.prefetch(ahead.id());
                    }
                    if let Some(at) = self.slot_of(entry.id(), self.base + i as u64) {
                        self.remove(at);
                    }
                }
                self.base += BUCKET as u64;
            }
        }
        let crowded = self.used * 4 > self.index.len() * 3;
        if crowded || (self.index.len() > SLOTS_MIN && self.used * 8 < self.index.len()) {
            self.reindex((self.used * 2).next_power_of_two().max(SLOTS_MIN));
        }
    }

    fn reindex(&mut self, size: usize) {
        let old = std::mem::replace(&mut self.index, vec![EMPTY; size]);
        for slot in old.into_iter().filter(|&s| s != EMPTY) {
            let mut at = (slot >> 32) as usize & (size - 1);
            while self.index[at] != EMPTY {
                at = (at + 1) & (size - 1);
            }
            self.index[at] = slot;
        }
    }

    /// The slot that leads to this very place, unless the id lies elsewhere by now.
    fn slot_of(&self, id: u128, place: u64) -> Option<usize> {
        let (mask, wanted) = (self.index.len() - 1, slot(tag(id), place));
        let mut at = tag(id) as usize & mask;
        while self.index[at] != EMPTY {
            if self.index[at] == wanted {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Empties a slot; what was pushed past it moves back, so that nothing marks where it was.
    fn remove(&mut self, mut hole: usize) {
        let mask = self.index.len() - 1;
        self.used -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.index[at];
            if slot == EMPTY {
                break;
            }
            let home = (slot >> 32) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.index[hole] = slot;
                hole = at;
            }
        }
        self.index[hole] = EMPTY;
    }

    /// Asks the processor to fetch an id's slot: at a million ids a look-up costs a cache miss, not instructions.
    #[inline]
    pub fn prefetch(&self, id: u128) {
        prefetch(&self.index, tag(id) as usize & (self.index.len() - 1));
    }

    /// What the current generation remembered anew, in order: (id, time).
    pub fn changes(&self) -> impl Iterator<Item = (u128, i64)> + '_ {
        let start = self.generations.back().map_or(0, |g| g.start);
        self.since(start).map(|(_, e)| (e.id(), e.ts))
    }

    /// Everything alive at `clock`, the oldest first: (id, time).
    pub fn entries(&self, clock: i64) -> impl Iterator<Item = (u128, i64)> + '_ {
        self.since(self.base).filter(move |(_, e)| self.alive(e.ts, clock)).map(|(_, e)| (e.id(), e.ts))
    }

    pub fn close_generation(&mut self, number: u64) {
        let safe = self.safe_clock();
        let newest = self.generations.back().and_then(|g| g.newest);
        self.births.extend(newest.map(|ts| (number, ts)));
        while self.births.front().is_some_and(|&(_, ts)| !self.alive(ts, safe)) {
            self.births.pop_front();
        }
        self.forget();
        self.generations.push_back(Generation { start: self.end(), clock: self.clock, ..Generation::default() });
    }

    /// The part of the changelog that holds ids which may be alive.
    pub fn needs(&self) -> Needs {
        if self.restored_ts != i64::MIN && self.alive(self.restored_ts, self.safe_clock()) {
            return Needs::Everything;
        }
        self.births.front().map_or(Needs::Nothing, |&(number, _)| Needs::From(number))
    }

    pub fn committed(&mut self) {
        if self.generations.len() > 1 {
            self.generations.pop_front();
        }
    }

    pub fn rollback(&mut self) {
        let (start, clock) = self.generations.front().map_or((0, i64::MIN), |g| (g.start, g.clock));
        let before: HashMap<u64, u64> = self.generations.drain(..).flat_map(|g| g.again).collect();
        let undone: Vec<(u64, Entry)> = self.since(start).collect();
        for (place, entry) in undone.into_iter().rev() {
            let Some(at) = self.slot_of(entry.id(), place) else { continue };
            match before.get(&place) {
                // Where the bucket is gone, the id was dead at the clock that counts again.
                Some(&before) if before >= self.base => self.index[at] = slot(tag(entry.id()), before),
                _ => self.remove(at),
            }
        }
        let kept = (start.saturating_sub(self.base) as usize).div_ceil(BUCKET);
        self.buckets.truncate(kept);
        let first = self.base + (kept.saturating_sub(1) * BUCKET) as u64;
        if let Some(bucket) = self.buckets.back_mut() {
            bucket.cut((start - first) as usize);
        }
        self.clock = clock;
        self.generations.push_back(Generation { start: self.end(), clock, ..Generation::default() });
    }

    /// The clock after a restore.
    pub fn restore_clock(&mut self, clock: i64) {
        self.clock = clock;
        self.generations = VecDeque::from([Generation { start: self.end(), clock, ..Generation::default() }]);
    }

    /// Puts back an entry from the changelog (a later one wins).
    pub fn restore(&mut self, id: u128, ts: i64) {
        self.restored_ts = self.restored_ts.max(ts);
        // The clock had come at least as far as any id it let in.
        self.clock = self.restored_ts;
        let (start, clock) = (self.end(), self.clock);
        self.generations.iter_mut().for_each(|g| (g.start, g.clock) = (start, clock));
        match self.find(id) {
            Ok((at, _)) => self.index[at] = slot(tag(id), self.push(id, ts)),
            Err(at) => self.put(at, id, ts),
        }
    }

    pub fn keys(&self) -> usize {
        self.used
    }

    pub fn bytes(&self) -> usize {
        let log: usize = self.buckets.iter().map(|b| b.entries.capacity()).sum();
        log * std::mem::size_of::<Entry>() + self.index.capacity() * std::mem::size_of::<Slot>()
    }
}

impl Bucket {
    fn cut(&mut self, len: usize) {
        self.entries.truncate(len);
        self.newest = self.entries.iter().map(|e| e.ts).max().unwrap_or(i64::MIN);
    }
}

#[inline]
fn tag(id: u128) -> u32 {
    // 0 is left to the empty slot.
    (id as u32).max(1)
}

#[inline]
fn slot(tag: u32, place: u64) -> Slot {
    (tag as u64) << 32 | place as u32 as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn an_id_is_remembered_to_the_millisecond() {
        let mut s = Seen::new(100);
        assert!(!s.repeated(7, 1000, 1000));
        assert!(s.repeated(7, 1000, 1100));
        assert!(!s.repeated(7, 1000, 1101));
    }

    #[test]
    fn memory_returns() {
        let mut s = Seen::new(100);
        for i in 1..=10_000u128 {
            s.repeated(i, 0, 0);
        }
        s.close_generation(0);
        s.committed();
        assert!(s.bytes() > 200_000);
        s.repeated(1, 1000, 1000);
        for _ in 0..2 {
            s.close_generation(0);
            s.committed();
        }
        assert_eq!(s.keys(), 1);
        assert!(s.bytes() < 1000);
    }

    #[derive(Clone, Debug)]
    enum Step {
        See(u16, i64),
        /// So many ids never seen before: more than a bucket holds.
        Fresh(u16),
        Close,
        Committed,
        Rollback,
    }

    #[derive(Clone, Default)]
    struct Model {
        ids: HashMap<u128, i64>,
        clock: i64,
    }

    impl Model {
        fn see(&mut self, id: u128, changes: &mut Vec<(u128, i64)>) -> bool {
            let expected = self.ids.get(&id).is_some_and(|&ts| self.clock <= ts + 100);
            if !expected {
                self.ids.insert(id, self.clock);
                changes.push((id, self.clock));
            }
            expected
        }
    }

    proptest! {
        #[test]
        fn equals_a_model_of_copies(steps in prop::collection::vec(prop_oneof![
            8 => (any::<u16>(), 0i64..40).prop_map(|(i, d)| Step::See(i % 60, d)),
            1 => (0u16..6000).prop_map(Step::Fresh),
            2 => Just(Step::Close), 2 => Just(Step::Committed), 1 => Just(Step::Rollback)], 0..200)) {
            let mut s = Seen::new(100);
            let mut now = Model::default();
            let mut starts: Vec<Model> = vec![now.clone()];
            let mut changes = vec![];
            let mut fresh = 1000u128;
            for step in steps {
                let look = matches!(step, Step::Close | Step::Rollback);
                match step {
                    Step::See(i, d) => {
                        now.clock += d;
                        // Ids whose tags are equal, too.
                        let id = (i as u128 % 7) << 64 | (i as u128 / 7);
                        prop_assert_eq!(s.repeated(id, now.clock, now.clock), now.see(id, &mut changes));
                    }
                    Step::Fresh(n) => for _ in 0..n {
                        fresh += 0x9E37_79B9_7F4A_7C15;
                        prop_assert_eq!(s.repeated(fresh, now.clock, now.clock), now.see(fresh, &mut changes));
                    }
                    Step::Close if starts.len() < 2 => {
                        prop_assert_eq!(s.changes().collect::<Vec<_>>(), std::mem::take(&mut changes));
                        s.close_generation(0);
                        starts.push(now.clone());
                    }
                    Step::Committed if starts.len() > 1 => { s.committed(); starts.remove(0); }
                    Step::Rollback => {
                        s.rollback();
                        now = starts[0].clone();
                        starts = vec![now.clone()];
                        changes.clear();
                    }
                    _ => {}
                }
                if look {
                    let alive: HashMap<u128, i64> = s.entries(now.clock).collect();
                    prop_assert_eq!(alive, now.ids.iter().filter(|i| now.clock <= i.1 + 100).map(|(&i, &t)| (i, t)).collect());
                }
                prop_assert!(s.keys() <= now.ids.len());
            }
        }

        #[test]
        fn what_the_changelog_was_told_restores(ids in prop::collection::vec((0u128..500, 0i64..4), 0..12_000)) {
            let (mut s, mut log, mut clock) = (Seen::new(100), vec![], 0);
            for (n, &(id, step)) in ids.iter().enumerate() {
                clock += step;
                s.repeated(id, clock - id as i64 % 3, clock);
                if n % 1000 == 999 || n + 1 == ids.len() {
                    log.extend(s.changes());
                    s.close_generation(0);
                    s.committed();
                }
            }
            let mut restored = Seen::new(100);
            log.iter().for_each(|&(id, ts)| restored.restore(id, ts));
            restored.restore_clock(clock);
            for id in 0..500u128 {
                prop_assert_eq!(restored.repeated(id, clock, clock), s.repeated(id, clock, clock), "{}", id);
            }
        }
    }
}
