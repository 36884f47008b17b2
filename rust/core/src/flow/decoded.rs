//! The keys of a pattern operator that it has to do with: those whose state is decoded, those whose events wait, and those of which
//! something is due. A key has a place, a number, as long as it is one of these.
//!
//! ```text
//!   key ──▶ place ──▶ what it has, decoded, or what the store has of it
//!                └──▶ when something of it is due next ◀── Due: (time, place), the earliest first
//! ```
//!
//! What is noted to be due is not taken back: an entry counts if its key still says the same, and those that do not are swept out
//! when they are most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::cep::keyed::Keyed;
use crate::cep::Event;
use crate::datum::Datum;

/// A key's state.
pub struct Open {
    pub datum: Datum,
    pub keyed: Keyed<Event>,
    /// Since it was stored.
    pub changed: bool,
    /// Of its state as bytes, once it was stored.
    size: usize,
}

impl Open {
    pub fn new(key: &[u8], keyed: Keyed<Event>) -> Self {
        Open { datum: Datum::from_key_bytes(key).unwrap_or_default(), keyed, changed: false, size: 0 }
    }
}

pub struct Live {
    pub key: Arc<[u8]>,
    /// None: as the store has it.
    pub open: Option<Box<Open>>,
    /// When something is due next; `NEVER`: nothing.
    pub due: i64,
    /// How many of its events wait in no key's state.
    pub queued: u32,
}

pub const NEVER: i64 = i64::MAX;

#[derive(Default)]
pub struct Decoded {
    all: Vec<Live>,
    free: Vec<u32>,
    /// With a part of the key's hash: most others are told apart by it.
    places: HashTable<(u32, u32)>,
    /// In order of their coming.
    open: Vec<u32>,
    due: Due,
    /// Some key has state of which nothing is due.
    undue: bool,
}

/// How much is kept decoded.
#[derive(Clone, Copy)]
pub struct Kept {
    pub keys: usize,
    /// Of state as bytes; decoded it takes a few times that.
    pub bytes: usize,
}

fn part(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Of an entry, for the table: the part is all that is kept.
fn spread(part: u32) -> u64 {
    u64::from(part).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Decoded {
    /// A key's place, if it has one.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let part = part(xxh3_64(key));
        let is = |(of, place): &(u32, u32)| *of == part && *self.all[*place as usize].key == *key;
        self.places.find(spread(part), is).map(|(_, place)| *place as usize)
    }

    /// A place for a key that has none.
    pub fn add(&mut self, key: &[u8]) -> usize {
        let live = Live { key: Arc::from(key), open: None, due: NEVER, queued: 0 };
        let place = match self.free.pop() {
            Some(place) => {
                self.all[place as usize] = live;
                place
            }
            None => {
                self.all.push(live);
                self.all.len() as u32 - 1
            }
        };
        let part = part(xxh3_64(key));
        self.places.insert_unique(spread(part), (part, place), |(part, _)| spread(*part));
        place as usize
    }

    pub fn at(&self, place: usize) -> &Live {
        &self.all[place]
    }

    pub fn at_mut(&mut self, place: usize) -> &mut Live {
        &mut self.all[place]
    }

    /// Its state was read from the store, or is as new.
    pub fn open(&mut self, place: usize, keyed: Keyed<Event>) {
        let live = &mut self.all[place];
        live.open = Some(Box::new(Open::new(&live.key, keyed)));
        self.open.push(place as u32);
    }

    /// Something of a key is due, or nothing.
    pub fn note(&mut self, place: usize, due: Option<i64>) {
        let due = due.unwrap_or(NEVER);
        if std::mem::replace(&mut self.all[place].due, due) != due && due != NEVER {
            self.due.add(due, place as u32, &self.all);
        }
    }

    /// When something is due first, and of which key; of one time by the keys' bytes.
    pub fn first_due(&mut self) -> Option<(i64, usize)> {
        self.due.first(&self.all).map(|(ts, place)| (ts, place as usize))
    }

    /// Those whose state is decoded.
    pub fn opened(&mut self) -> impl Iterator<Item = &mut Open> {
        // One at a time: places are in no order.
        self.all.iter_mut().filter_map(|live| live.open.as_deref_mut())
    }

    /// Whether something of each key that has state is due, so that who has no place has none.
    pub fn knows_all(&self) -> bool {
        !self.undue
    }

    /// The store has a key of which nothing is due.
    pub fn forget_some(&mut self) {
        self.undue = true;
    }

    /// Calls `store` with what has changed since it was called, in order of the keys' coming; it says how many bytes that is. Then
    /// forgets the keys of which there is nothing left, and what is decoded of those that have not changed, or of all, if that is more
    /// than `kept`.
    pub fn stored<F>(
        &mut self,
        kept: Kept,
        mut store: impl FnMut(&[u8], &mut Keyed<Event>) -> Result<usize, F>,
    ) -> Result<(), F> {
        let (mut changed, mut all) = ((0, 0), (0, 0));
        for place in &self.open {
            let Live { key, open: Some(open), .. } = &mut self.all[*place as usize] else { continue };
            if open.changed {
                open.size = store(key, &mut open.keyed)?;
                changed = (changed.0 + 1, changed.1 + open.size);
            }
            all = (all.0 + 1, all.1 + open.size);
        }
        let within = |(keys, bytes): (usize, usize)| keys <= kept.keys && bytes <= kept.bytes;
        let (all, changed) = (within(all), within(changed));
        for place in std::mem::take(&mut self.open) {
            let live = &mut self.all[place as usize];
            let Some(open) = &mut live.open else { continue };
            let stays = all || (changed && open.changed);
            open.changed = false;
            let empty = open.keyed.empty();
            if !empty && live.due == NEVER {
                self.undue = true;
            }
            if stays && !empty {
                self.open.push(place);
                continue;
            }
            live.open = None;
            if live.due == NEVER && live.queued == 0 {
                self.remove(place);
            }
        }
        Ok(())
    }

    fn remove(&mut self, place: u32) {
        let key = std::mem::replace(&mut self.all[place as usize].key, Arc::from(&[][..]));
        let found = self.places.find_entry(spread(part(xxh3_64(&key))), |(_, of)| *of == place);
        if let Ok(entry) = found {
            entry.remove();
            self.free.push(place);
        }
    }
}

/// Places by time.
#[derive(Default)]
struct Due {
    later: BinaryHeap<Reverse<(i64, u32)>>,
    /// Of one time, the last one is the first.
    now: Vec<(i64, u32)>,
}

/// So many entries are not worth a look at those that count no more.
const FEW: usize = 1024;

impl Due {
    fn add(&mut self, ts: i64, place: u32, all: &[Live]) {
        let room = self.later.capacity();
        if self.later.len() == room && room >= FEW {
            self.later.retain(|Reverse((ts, place))| all[*place as usize].due == *ts);
            if self.later.len() > room / 2 {
                self.later.reserve(room); // so that the next sweep is as far away as this one was long
            }
        }
        self.later.push(Reverse((ts, place)));
    }

    fn first(&mut self, all: &[Live]) -> Option<(i64, u32)> {
        let counts = |(ts, place): &(i64, u32)| all[*place as usize].due == *ts;
        loop {
            while self.now.last().is_some_and(|one| !counts(one)) {
                self.now.pop();
            }
            let next = self.later.peek().map(|Reverse(next)| *next);
            match (self.now.last().copied(), next) {
                (Some(first), None) => return Some(first),
                (Some(first), Some(next)) if first.0 < next.0 => return Some(first),
                (None, None) => return None,
                _ => {}
            }
            self.later.extend(self.now.drain(..).map(Reverse));
            while let Some(Reverse(one)) = self.later.peek().copied() {
                if self.now.last().is_some_and(|first| first.0 < one.0) {
                    break;
                }
                self.later.pop();
                if counts(&one) && self.now.last() != Some(&one) {
                    self.now.push(one);
                }
            }
            if self.now.len() > 1 {
                self.now.sort_unstable_by(|a, b| all[b.1 as usize].key.cmp(&all[a.1 as usize].key));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys by their names, whatever places they get; what was noted before counts no more.
        #[test]
        fn what_is_due_first_is_the_earliest_and_of_one_time_the_first_key(
            steps in prop::collection::vec((0u8..40, prop::option::of(0i64..12), prop::bool::weighted(0.2)), 1..400),
        ) {
            let (mut decoded, mut model) = (Decoded::default(), BTreeMap::new());
            let first = |model: &BTreeMap<u8, i64>| model.iter().map(|(key, ts)| (*ts, *key)).min();
            for (key, due, forgets) in steps {
                let place = decoded.find(&[key]).unwrap_or_else(|| decoded.add(&[key]));
                decoded.note(place, due);
                match due {
                    Some(ts) => model.insert(key, ts),
                    None => model.remove(&key),
                };
                if forgets {
                    decoded.open(place, Keyed::of(0));
                    decoded.stored(Kept { keys: 0, bytes: 0 }, |_, _| Ok::<usize, ()>(0)).unwrap();
                    prop_assert_eq!(decoded.find(&[key]).is_some(), due.is_some());
                }
                let found = decoded.first_due().map(|(ts, place)| (ts, decoded.at(place).key[0]));
                prop_assert_eq!(found, first(&model));
            }
            while let Some((ts, key)) = first(&model) {
                let (at, place) = decoded.first_due().unwrap();
                prop_assert_eq!((at, decoded.at(place).key[0]), (ts, key));
                decoded.note(place, None);
                model.remove(&key);
            }
            prop_assert_eq!(decoded.first_due(), None);
        }

        #[test]
        fn entries_that_count_no_more_are_swept_out(times in prop::collection::vec(0i64..1_000_000, 5_000..9_000)) {
            let mut decoded = Decoded::default();
            let place = decoded.add(b"k");
            times.iter().for_each(|ts| decoded.note(place, Some(*ts)));
            prop_assert_eq!(decoded.first_due(), times.last().map(|ts| (*ts, place)));
            prop_assert!(decoded.due.later.capacity() <= 2 * FEW);
        }
    }
}
