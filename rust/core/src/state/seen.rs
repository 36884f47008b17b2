//! Which ids were seen, and when: the memory of `deduplicate`.
//!
//! An id is 128 bits of hash (xxh3), 24 bytes with its time. It is remembered until the clock exceeds its time plus
//! `within`; being looked up after that is the same as being unknown, whether or not its entry was swept yet. Sweeping
//! happens when the table would have to grow, and at a generation's end when the clock has moved on far enough, so memory
//! follows the live ids and returns to nothing.

use std::collections::VecDeque;

use crate::op::Needs;

#[derive(Clone, Copy)]
struct Entry {
    id: u128,
    ts: i64,
}

/// Marks an empty slot; a real id that hashes to it is nudged.
const EMPTY: u128 = 0;

struct Change {
    id: u128,
    ts: i64,
    /// The time held before; `None`: unknown.
    old: Option<i64>,
}

pub struct Seen {
    within_ms: i64,
    slots: Vec<Entry>,
    used: usize,
    generations: VecDeque<Vec<Change>>,
    /// The clock at the start of each open generation.
    starts: VecDeque<i64>,
    clock: i64,
    swept_at: i64,
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
            slots: vec![Entry { id: EMPTY, ts: 0 }; 16],
            used: 0,
            generations: VecDeque::from([vec![]]),
            starts: VecDeque::from([i64::MIN]),
            clock: i64::MIN,
            swept_at: i64::MIN,
            births: VecDeque::new(),
            restored_ts: i64::MIN,
        }
    }

    #[inline]
    fn alive(&self, ts: i64, clock: i64) -> bool {
        clock <= ts.saturating_add(self.within_ms)
    }

    #[inline]
    fn find(&self, id: u128) -> Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut at = id as usize & mask;
        loop {
            let slot = &self.slots[at];
            if slot.id == id {
                return Ok(at);
            }
            if slot.id == EMPTY {
                return Err(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether the id is remembered at `clock`; if not, remembers it with `ts` from now on.
    #[inline]
    pub fn repeated(&mut self, id: u128, ts: i64, clock: i64) -> bool {
        let id = if id == EMPTY { 1 } else { id };
        self.clock = self.clock.max(clock);
        match self.find(id) {
            Ok(at) => {
                let held = self.slots[at].ts;
                if self.alive(held, clock) {
                    return true;
                }
                self.slots[at].ts = ts;
                self.note(id, ts, Some(held));
            }
            Err(at) => {
                self.slots[at] = Entry { id, ts };
                self.used += 1;
                self.note(id, ts, None);
                if self.used * 4 > self.slots.len() * 3 {
                    self.sweep();
                }
            }
        }
        false
    }

    fn note(&mut self, id: u128, ts: i64, old: Option<i64>) {
        if let Some(g) = self.generations.back_mut() {
            g.push(Change { id, ts, old });
        }
    }

    /// The clock to which a rollback would return: what is dead by then is dead whatever happens.
    fn safe_clock(&self) -> i64 {
        self.starts.front().copied().unwrap_or(i64::MIN)
    }

    /// Rebuilds the table with what is alive, at a size that leaves room.
    fn sweep(&mut self) {
        let clock = self.safe_clock();
        let kept: Vec<Entry> =
            self.slots.iter().filter(|e| e.id != EMPTY && self.alive(e.ts, clock)).copied().collect();
        let mut size = 16;
        while size < kept.len() * 2 {
            size *= 2;
        }
        self.slots = vec![Entry { id: EMPTY, ts: 0 }; size];
        self.used = kept.len();
        for entry in kept {
            if let Err(at) = self.find(entry.id) {
                self.slots[at] = entry;
            }
        }
    }

    /// Asks the processor to fetch an id's slot: at a million ids a look-up costs a cache miss, not instructions.
    #[inline]
    pub fn prefetch(&self, id: u128) {
        #[cfg(target_arch = "x86_64")]
        {
            let at = id as usize & (self.slots.len() - 1);
            // SAFETY: prefetching is a hint; the address lies inside the table.
            unsafe { std::arch::x86_64::_mm_prefetch::<0>(self.slots.as_ptr().add(at).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = id;
    }

    /// What the current generation remembered anew, in order: (id, time).
    pub fn changes(&self) -> impl Iterator<Item = (u128, i64)> + '_ {
        self.generations.back().into_iter().flatten().map(|c| (c.id, c.ts))
    }

    /// Everything alive at `clock`: (id, time).
    pub fn entries(&self, clock: i64) -> impl Iterator<Item = (u128, i64)> + '_ {
        self.slots.iter().filter(move |e| e.id != EMPTY && self.alive(e.ts, clock)).map(|e| (e.id, e.ts))
    }

    pub fn close_generation(&mut self, number: u64) {
        let safe = self.safe_clock();
        let newest = self.generations.back().into_iter().flatten().map(|c| c.ts).max();
        self.births.extend(newest.map(|ts| (number, ts)));
        while self.births.front().is_some_and(|&(_, ts)| !self.alive(ts, safe)) {
            self.births.pop_front();
        }
        if safe.saturating_sub(self.swept_at) > self.within_ms / 4 {
            self.sweep();
            self.swept_at = safe;
        }
        self.generations.push_back(vec![]);
        self.starts.push_back(self.clock);
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
            self.starts.pop_front();
        }
    }

    pub fn rollback(&mut self) {
        self.starts.truncate(1);
        self.clock = self.safe_clock();
        let mut removed = std::collections::HashSet::new();
        while let Some(generation) = self.generations.pop_back() {
            for change in generation.iter().rev() {
                match change.old {
                    Some(ts) => {
                        removed.remove(&change.id);
                        match self.find(change.id) {
                            Ok(at) => self.slots[at].ts = ts,
                            Err(at) => {
                                self.slots[at] = Entry { id: change.id, ts };
                                self.used += 1;
                            }
                        }
                    }
                    None => {
                        removed.insert(change.id);
                    }
                }
            }
        }
        let kept: Vec<Entry> =
            self.slots.iter().filter(|e| e.id != EMPTY && !removed.contains(&e.id)).copied().collect();
        self.slots.fill(Entry { id: EMPTY, ts: 0 });
        self.used = kept.len();
        for entry in kept {
            if let Err(at) = self.find(entry.id) {
                self.slots[at] = entry;
            }
        }
        self.generations.push_back(vec![]);
    }

    /// The clock after a restore.
    pub fn restore_clock(&mut self, clock: i64) {
        self.clock = clock;
        self.starts = VecDeque::from([clock]);
    }

    /// Puts back an entry from the changelog (a later one wins).
    pub fn restore(&mut self, id: u128, ts: i64) {
        self.restored_ts = self.restored_ts.max(ts);
        match self.find(id) {
            Ok(at) => self.slots[at].ts = ts,
            Err(at) => {
                self.slots[at] = Entry { id, ts };
                self.used += 1;
                if self.used * 4 > self.slots.len() * 3 {
                    self.sweep();
                }
            }
        }
    }

    pub fn keys(&self) -> usize {
        self.used
    }

    pub fn bytes(&self) -> usize {
        self.slots.capacity() * std::mem::size_of::<Entry>()
    }
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
        See(u8, i64),
        Close,
        Committed,
        Rollback,
    }

    proptest! {
        #[test]
        fn equals_a_model_of_copies(steps in prop::collection::vec(prop_oneof![
            8 => (any::<u8>(), 0i64..40).prop_map(|(i, d)| Step::See(i % 60, d)),
            2 => Just(Step::Close), 2 => Just(Step::Committed), 1 => Just(Step::Rollback)], 0..300)) {
            let mut s = Seen::new(100);
            type Model = (HashMap<u8, i64>, i64);
            let mut now: Model = (HashMap::new(), 0);
            let mut starts: Vec<Model> = vec![now.clone()];
            for step in steps {
                match step {
                    Step::See(i, d) => {
                        now.1 += d;
                        let expected = now.0.get(&i).is_some_and(|&ts| now.1 <= ts + 100);
                        if !expected { now.0.insert(i, now.1); }
                        prop_assert_eq!(s.repeated(i as u128 + 5, now.1, now.1), expected);
                    }
                    Step::Close if starts.len() < 2 => {
                        s.close_generation(0);
                        starts.push(now.clone());
                    }
                    Step::Committed if starts.len() > 1 => { s.committed(); starts.remove(0); }
                    Step::Rollback => {
                        s.rollback();
                        now = starts[0].clone();
                        starts = vec![now.clone()];
                    }
                    _ => {}
                }
            }
        }
    }
}
