//! A map of bytes with undo, hashed and, once somebody asks for a range, ordered: what every store of a record flow is made
//! of.
//!
//! ```text
//!   write ──▶ slot         first touch of a key in a generation: its old bytes go to the undo of that generation
//!              │ close     the touched keys with their present bytes are the delta for the changelog
//!              ▼
//!   committed: the oldest closed undo is forgotten      rollback: all undo is applied, the newest first
//! ```
//!
//! A deleted key keeps its slot until its deletion is committed and nothing has touched it since: undo names slots.
//!
//! Windows, sessions, versions and join buffers are *layouts of keys* (`layout.rs`), not stores of their own: one set of
//! rules for undo, changelog, restore and rewriting serves them all, and another backend has one thing to be.

use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::frame::BODY_BYTES_MAX;
use crate::wire::{Reader, Writer};

type Bytes = Box<[u8]>;

/// What a reader sees: all that was written, or only what is committed (for readers that are not of the task).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Present,
    Committed,
}

pub type Range<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

fn inside(key: &[u8], range: &Range<'_>) -> bool {
    std::ops::RangeBounds::<[u8]>::contains(range, key)
}

/// A key that has been touched. Without a value it is deleted; the slot goes when that can no longer be undone.
struct Slot {
    key: Bytes,
    value: Option<Bytes>,
    /// The generation that touched it last.
    epoch: u64,
}

/// A generation: which it is, and what the slots held that it touched, in the order of their first touch.
#[derive(Default)]
struct Undo {
    epoch: u64,
    touched: Vec<(u32, Option<Bytes>)>,
}

pub struct ByteStore {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// Live keys in order. Made when somebody first asks for a range: most stores are only ever looked up.
    order: OnceCell<BTreeMap<Bytes, u32>>,
    open: Undo,
    closed: VecDeque<Undo>,
    live: usize,
    bytes: usize,
    /// The slot at which rewriting goes on.
    cursor: usize,
}

impl Default for ByteStore {
    fn default() -> Self {
        ByteStore {
            slots: vec![],
            free: vec![],
            index: HashTable::new(),
            order: OnceCell::new(),
            open: Undo { epoch: 1, touched: vec![] },
            closed: VecDeque::new(),
            live: 0,
            bytes: 0,
            cursor: 0,
        }
    }
}

/// What a key and its value cost beside their own bytes: the slot and its place in the index.
const ENTRY_BYTES: usize = 48;

#[inline]
fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

impl ByteStore {
    #[inline]
    fn find(&self, key: &[u8]) -> Option<u32> {
        self.index.find(hash(key), |&i| *self.slots[i as usize].key == *key).copied()
    }

    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.slots[self.find(key)? as usize].value.as_deref()
    }

    /// `None` deletes. Returns what was there.
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Box<[u8]>> {
        let old = self.get(key).map(Bytes::from);
        self.write(key, value);
        old
    }

    /// As `put`, without looking back.
    pub fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        let at = match self.find(key) {
            Some(at) => at,
            None if value.is_none() => return,
            None => self.claim(key),
        };
        let slot = &mut self.slots[at as usize];
        let new = value.map(Bytes::from);
        let n = key.len() + ENTRY_BYTES;
        self.bytes += new.as_ref().map_or(0, |v| n + v.len());
        self.bytes -= slot.value.as_ref().map_or(0, |v| n + v.len());
        match (slot.value.is_some(), new.is_some()) {
            (false, true) => {
                self.live += 1;
                if let Some(order) = self.order.get_mut() {
                    order.insert(slot.key.clone(), at);
                }
            }
            (true, false) => {
                self.live -= 1;
                if let Some(order) = self.order.get_mut() {
                    order.remove(key);
                }
            }
            _ => {}
        }
        let old = std::mem::replace(&mut slot.value, new);
        if slot.epoch != self.open.epoch {
            slot.epoch = self.open.epoch;
            self.open.touched.push((at, old));
        }
    }

    fn claim(&mut self, key: &[u8]) -> u32 {
        let slot = Slot { key: Bytes::from(key), value: None, epoch: 0 };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let slots = &self.slots;
        self.index.insert_unique(hash(key), at, |&i| hash(&slots[i as usize].key));
        at
    }

    /// Gives back a slot that is deleted for good.
    fn release(&mut self, at: u32) {
        let key = std::mem::take(&mut self.slots[at as usize].key);
        if let Ok(entry) = self.index.find_entry(hash(&key), |&i| i == at) {
            entry.remove();
            self.free.push(at);
        }
    }

    fn ordered(&self) -> &BTreeMap<Bytes, u32> {
        self.order.get_or_init(|| {
            let slots = self.slots.iter().enumerate().filter(|(_, s)| s.value.is_some());
            slots.map(|(i, s)| (s.key.clone(), i as u32)).collect()
        })
    }

    fn at(&self, at: u32) -> &[u8] {
        self.slots[at as usize].value.as_deref().unwrap_or_default()
    }

    /// Entries of a range of keys, ascending (or from the end with `.rev()`).
    pub fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> + 'a {
        let empty = match (&from, &to) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b))
            | (Bound::Excluded(a), Bound::Included(b)) => a >= b,
            _ => false,
        };
        const NONE: &[u8] = &[];
        let (from, to) = if empty { (Bound::Excluded(NONE), Bound::Included(NONE)) } else { (from, to) };
        self.ordered().range::<[u8], _>((from, to)).map(|(k, &at)| (&**k, self.at(at)))
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + '_ {
        self.ordered().iter().map(|(k, &at)| (&**k, self.at(at)))
    }

    /// Entries in no particular order: of a store that nobody has asked for a range, this makes no order.
    pub fn unordered(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        self.slots.iter().filter_map(|slot| Some((&*slot.key, slot.value.as_deref()?)))
    }

    pub fn prefix<'a>(&'a self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> + 'a {
        let end = after(prefix);
        let to = end.as_ref().map_or(Bound::Unbounded, |e| Bound::Excluded(&e[..]));
        self.range(Bound::Included(prefix), to)
    }

    /// The entries of a range as `view` has them, ascending or (with `reverse`) descending, until `each` says no.
    pub fn scan(&self, view: View, range: Range<'_>, reverse: bool, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        let mut undone: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        if view == View::Committed {
            // The oldest undo of a key has what was committed.
            for undo in std::iter::once(&self.open).chain(self.closed.iter().rev()) {
                let touched = undo.touched.iter().map(|(at, old)| (&*self.slots[*at as usize].key, old.as_deref()));
                undone.extend(touched.filter(|(k, _)| inside(k, &range)));
            }
        }
        let mut entries = self.range(range.0, range.1);
        let mut next = || match reverse {
            false => entries.next(),
            true => entries.next_back(),
        };
        if undone.is_empty() {
            while next().is_some_and(|(k, v)| each(k, v)) {}
            return;
        }
        let mut undone = undone.into_iter();
        let mut undone_next = || match reverse {
            false => undone.next(),
            true => undone.next_back(),
        };
        let (mut here, mut there) = (next(), undone_next());
        loop {
            let from_undo = match (&here, &there) {
                (None, None) => return,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((a, _)), Some((b, _))) if a == b => {
                    here = next();
                    continue; // the undo's word counts
                }
                (Some((a, _)), Some((b, _))) => (b < a) != reverse,
            };
            let entry = match from_undo {
                true => {
                    let old = there.and_then(|(k, old)| old.map(|v| (k, v)));
                    there = undone_next();
                    old
                }
                false => std::mem::replace(&mut here, next()),
            };
            if entry.is_some_and(|(k, v)| !each(k, v)) {
                return;
            }
        }
    }

    /// As `get`, in a view.
    pub fn get_in(&self, view: View, key: &[u8]) -> Option<&[u8]> {
        let at = self.find(key)?;
        if view == View::Committed {
            for undo in self.closed.iter().chain(std::iter::once(&self.open)) {
                if let Some((_, old)) = undo.touched.iter().find(|t| t.0 == at) {
                    return old.as_deref();
                }
            }
        }
        self.slots[at as usize].value.as_deref()
    }

    pub fn len(&self) -> usize {
        self.live
    }
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
    pub fn byte_size(&self) -> usize {
        self.bytes
    }

    /// Ends the open generation; `delta` gets its entries in blocks (count, body).
    pub fn close_generation(&mut self, delta: &mut dyn FnMut(u32, &[u8])) {
        let mut block = Block::default();
        for &(at, _) in &self.open.touched {
            let slot = &self.slots[at as usize];
            block.push(&slot.key, slot.value.as_deref(), delta);
        }
        block.end(delta);
        let next = Undo { epoch: self.open.epoch + 1, touched: vec![] };
        self.closed.push_back(std::mem::replace(&mut self.open, next));
    }

    pub fn committed(&mut self) {
        let Some(undo) = self.closed.pop_front() else { return };
        for (at, _) in undo.touched {
            let slot = &self.slots[at as usize];
            if slot.value.is_none() && slot.epoch == undo.epoch {
                self.release(at);
            }
        }
    }

    pub fn rollback(&mut self) {
        let next = Undo { epoch: self.open.epoch + 1, touched: vec![] };
        let open = std::mem::replace(&mut self.open, next);
        let undone: Vec<Undo> =
            std::iter::once(open).chain(std::mem::take(&mut self.closed).into_iter().rev()).collect();
        for (at, old) in undone.into_iter().flat_map(|u| u.touched) {
            let key = self.slots[at as usize].key.clone();
            self.write(&key, old.as_deref());
        }
        // What that wrote is not a change of the new generation.
        for (at, _) in std::mem::take(&mut self.open.touched) {
            let slot = &mut self.slots[at as usize];
            slot.epoch = 0;
            if slot.value.is_none() {
                self.release(at);
            }
        }
        self.cursor = 0;
    }

    /// Writes up to `limit` entries again that the open generation has not touched; returns how many were passed, and
    /// whether a round ended.
    pub fn rewrite(&mut self, limit: usize, delta: &mut dyn FnMut(u32, &[u8])) -> (usize, bool) {
        let mut block = Block::default();
        let mut passed = 0;
        while self.cursor < self.slots.len() && passed < limit {
            let slot = &self.slots[self.cursor];
            self.cursor += 1;
            passed += 1;
            if slot.epoch != self.open.epoch {
                if let Some(value) = &slot.value {
                    block.push(&slot.key, Some(value), delta);
                }
            }
        }
        block.end(delta);
        let ended = self.cursor >= self.slots.len();
        if ended {
            self.cursor = 0;
        }
        (passed, ended)
    }

    /// Applies a block of the changelog; `None` if it cannot be read.
    pub fn restore(&mut self, count: u32, body: &[u8]) -> Option<()> {
        let mut r = Reader::new(body);
        for _ in 0..count {
            let live = r.u8()?;
            let key = r.blob()?;
            let value = match live {
                0 => None,
                1 => Some(r.blob()?),
                _ => return None,
            };
            self.write(key, value);
        }
        for (at, _) in std::mem::take(&mut self.open.touched) {
            let slot = &mut self.slots[at as usize];
            slot.epoch = 0;
            if slot.value.is_none() {
                self.release(at);
            }
        }
        r.rest.is_empty().then_some(())
    }
}

/// The smallest bytes that are greater than everything beginning with `prefix`; none: there is none.
pub fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < 0xff {
            *last += 1;
            return Some(end);
        }
        end.pop();
    }
    None
}

/// Entries on their way to the changelog: `live u8 | key | value`.
#[derive(Default)]
struct Block {
    w: Writer,
    count: u32,
}

impl Block {
    fn push(&mut self, key: &[u8], value: Option<&[u8]>, delta: &mut dyn FnMut(u32, &[u8])) {
        self.w.u8(value.is_some() as u8);
        self.w.blob(key);
        if let Some(v) = value {
            self.w.blob(v);
        }
        self.count += 1;
        if self.w.bytes.len() > BODY_BYTES_MAX {
            self.end(delta);
        }
    }
    fn end(&mut self, delta: &mut dyn FnMut(u32, &[u8])) {
        if self.count > 0 {
            delta(self.count, &self.w.bytes);
            self.w.bytes.clear();
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, Option<u8>),
        Close,
        Commit,
        Rollback,
        Rewrite(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u8..12, prop::option::of(any::<u8>())).prop_map(|(k, v)| Step::Put(k, v)),
            2 => Just(Step::Close),
            2 => Just(Step::Commit),
            1 => Just(Step::Rollback),
            1 => (0usize..5).prop_map(Step::Rewrite),
        ]
    }

    proptest! {
        /// A store with undo is what copies of a plain map would be, and its changelog restores what was committed.
        #[test]
        fn it_equals_a_model_of_copies(steps in prop::collection::vec(step(), 0..80)) {
            let mut store = ByteStore::default();
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut marks = VecDeque::from([model.clone()]);
            let mut log: Vec<Vec<(u32, Vec<u8>)>> = vec![];
            let mut written = 0;
            let mut pending: Vec<(u32, Vec<u8>)> = vec![];
            for step in steps {
                match step {
                    Step::Put(k, v) => {
                        let key = vec![b'k'; k as usize % 3 + 1].into_iter().chain([k]).collect::<Vec<_>>();
                        store.put(&key, v.map(|v| vec![v; 3]).as_deref());
                        match v {
                            Some(v) => model.insert(key, vec![v; 3]),
                            None => model.remove(&key),
                        };
                    }
                    Step::Close if marks.len() < 3 => {
                        store.close_generation(&mut |n, b| pending.push((n, b.to_vec())));
                        log.push(std::mem::take(&mut pending));
                        marks.push_back(model.clone());
                    }
                    Step::Commit if marks.len() > 1 => {
                        store.committed();
                        marks.pop_front();
                        written += 1;
                    }
                    Step::Rollback => {
                        store.rollback();
                        model = marks[0].clone();
                        marks.truncate(1);
                        log.truncate(written);
                        pending.clear();
                    }
                    Step::Rewrite(n) => {
                        store.rewrite(n, &mut |n, b| pending.push((n, b.to_vec())));
                    }
                    _ => {}
                }
                let found: BTreeMap<_, _> = store.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                prop_assert_eq!(&found, &model);
                // A committed view is the state at the last commit, from any place on, in both directions.
                let from = vec![b'k', b'k'];
                let asked = (Bound::Included(&from[..]), Bound::Unbounded);
                for reverse in [false, true] {
                    let mut seen = vec![];
                    store.scan(View::Committed, asked, reverse, &mut |k, v| {
                        seen.push((k.to_vec(), v.to_vec()));
                        seen.len() < 4
                    });
                    let committed = marks[0].range(from.clone()..).map(|(k, v)| (k.clone(), v.clone()));
                    let expected: Vec<_> = match reverse {
                        false => committed.take(4).collect(),
                        true => committed.rev().take(4).collect(),
                    };
                    prop_assert_eq!(seen, expected);
                }
                for key in model.keys().chain(marks[0].keys()) {
                    prop_assert_eq!(store.get_in(View::Committed, key), marks[0].get(key).map(|v| &v[..]));
                }
            }
            let mut restored = ByteStore::default();
            for (count, body) in log[..written].iter().flatten() {
                prop_assert!(restored.restore(*count, body).is_some());
            }
            let found: BTreeMap<_, _> = restored.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(&found, &marks[0]);
            prop_assert_eq!(restored.byte_size(), found.iter().map(|(k, v)| k.len() + v.len() + ENTRY_BYTES).sum::<usize>());
        }
    }

    #[test]
    fn ranges_may_be_empty_or_turned_around() {
        let mut store = ByteStore::default();
        for k in [b"a", b"b", b"c"] {
            store.put(k, Some(b"1"));
        }
        let keys =
            |from: Bound<&[u8]>, to: Bound<&[u8]>| store.range(from, to).map(|e| e.0.to_vec()).collect::<Vec<_>>();
        assert_eq!(keys(Bound::Included(b"b"), Bound::Unbounded).len(), 2);
        assert_eq!(keys(Bound::Included(b"c"), Bound::Included(b"a")).len(), 0);
        assert_eq!(keys(Bound::Excluded(b"b"), Bound::Excluded(b"b")).len(), 0);
        assert_eq!(store.prefix(b"b").count(), 1);
        assert_eq!(store.prefix(b"").count(), 3);
        assert_eq!(after(&[1, 0xff]), Some(vec![2]));
        assert_eq!(after(&[0xff, 0xff]), None);
    }
}
