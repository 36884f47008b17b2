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
//! *On disk* (`attach`) the slots are a write-back cache of a [`Backend`]: what generations have touched that are not committed,
//! and clean rows as long as there is room. A commit applies its generation's rows, as they were when it ended; only then may
//! their slots go. `order` then holds touched keys alone, deletions included, and ranges merge it with the backend's rows. A
//! *resident* store has all of its rows in memory, too: it reads nothing from the backend but when it is attached.
//!
//! Windows, sessions, versions and join buffers are *layouts of keys* (`stores.rs`), not stores of their own: one set of
//! rules for undo, changelog, restore and rewriting serves them all, and another backend has one thing to be.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::backend::{Backend, Change, Rows};
use crate::frame::BODY_BYTES_MAX;
use crate::wire::{Reader, Writer};

type Bytes = Box<[u8]>;

/// Bytes in memory, or just loaded.
pub type Found<'a> = Cow<'a, [u8]>;

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
    /// The generation that touched it last; `FREE`: it is nobody's.
    epoch: u32,
    /// Looked at since the hand went by.
    used: Cell<bool>,
}

const FREE: u32 = u32::MAX;

/// A generation: which it is, and what the slots held that it touched, in the order of their first touch.
#[derive(Default)]
struct Undo {
    epoch: u32,
    touched: Vec<(u32, Option<Bytes>)>,
}

/// Rows that are elsewhere.
struct Home {
    backend: Arc<dyn Backend>,
    store: u64,
    resident: bool,
    /// Loaded by readers, who may not touch slots; the next writer puts them there.
    loaded: RefCell<HashMap<Bytes, Option<Bytes>>>,
    /// The newest generation whose rows are applied: slots that it or an older one touched last are clean.
    applied: u32,
    /// How many rows the backend has.
    len: usize,
    /// The key behind which rewriting goes on.
    after: Option<Vec<u8>>,
    /// The slot at which eviction goes on.
    hand: usize,
}

/// So many loaded rows wait at most to be cached.
const LOADED_MAX: usize = 4096;

pub struct ByteStore {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// Live keys in order; of a store on disk: touched ones. Made when somebody first asks for a range: most stores are only
    /// ever looked up.
    order: OnceCell<BTreeMap<Bytes, u32>>,
    open: Undo,
    closed: VecDeque<Undo>,
    live: usize,
    /// Of what is in memory.
    bytes: usize,
    /// The slot at which rewriting goes on.
    cursor: usize,
    home: Option<Home>,
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
            home: None,
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
    /// Keeps rows in a backend from now on: only there (and in memory as far as there is room), or, `resident`, there as well.
    /// The store is empty; what the backend has of it is its state.
    pub fn attach(&mut self, backend: Arc<dyn Backend>, store: u64, resident: bool) {
        debug_assert!(self.slots.is_empty() && self.home.is_none());
        let len = backend.len(store);
        if resident {
            for (key, value) in backend.range(store, (Bound::Unbounded, Bound::Unbounded)) {
                self.write(&key, Some(&value));
            }
            self.settle_touched();
        }
        self.live = len;
        self.home =
            Some(Home { backend, store, resident, loaded: RefCell::default(), applied: 0, len, after: None, hand: 0 });
    }

    /// Where rows are that are not in memory.
    #[inline]
    fn elsewhere(&self) -> Option<&Home> {
        self.home.as_ref().filter(|h| !h.resident)
    }

    /// The slot of a key, if it has one. What the open generation has touched keeps its slot until the generation has ended.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.index.find(hash(key), |&i| *self.slots[i as usize].key == *key).copied()
    }

    pub fn get(&self, key: &[u8]) -> Option<Found<'_>> {
        self.get_at(self.find(key), key)
    }

    /// As `get`, of a key that was looked for: `at` is what `find` said.
    pub fn get_at(&self, at: Option<u32>, key: &[u8]) -> Option<Found<'_>> {
        match at {
            Some(at) => {
                let slot = &self.slots[at as usize];
                slot.used.set(true);
                slot.value.as_deref().map(Cow::Borrowed)
            }
            None => self.elsewhere()?.load(key, true).map(Cow::Owned),
        }
    }

    /// `None` deletes. Returns what was there.
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Box<[u8]>> {
        let old = self.get(key).map(|v| Bytes::from(&*v));
        self.write(key, value);
        old
    }

    /// As `put`, without looking back.
    pub fn write(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.write_at(self.find(key), key, value);
    }

    /// As `write`, of a key that was looked for: `at` is what `find` said. Returns the key's slot, if it has one now.
    pub fn write_at(&mut self, at: Option<u32>, key: &[u8], value: Option<&[u8]>) -> Option<u32> {
        let at = match at {
            Some(at) => at,
            None => {
                let old = self.elsewhere().and_then(|h| h.take(key));
                if old.is_none() && value.is_none() {
                    return None;
                }
                self.claim(key, old)
            }
        };
        let slot = &mut self.slots[at as usize];
        if let (Some(old), Some(new), true) = (&mut slot.value, value, slot.epoch == self.open.epoch) {
            if old.len() == new.len() {
                // Nobody needs what was there: the generation's undo has what was before it.
                old.copy_from_slice(new);
                slot.used.set(true);
                return Some(at);
            }
        }
        let new = value.map(Bytes::from);
        let n = key.len() + ENTRY_BYTES;
        self.bytes += new.as_ref().map_or(0, |v| n + v.len());
        self.bytes -= slot.value.as_ref().map_or(0, |v| n + v.len());
        let here = self.home.as_ref().is_none_or(|h| h.resident);
        match (slot.value.is_some(), new.is_some()) {
            (false, true) => {
                self.live += 1;
                if let Some(order) = self.order.get_mut().filter(|_| here) {
                    order.insert(slot.key.clone(), at);
                }
            }
            (true, false) => {
                self.live -= 1;
                if let Some(order) = self.order.get_mut().filter(|_| here) {
                    order.remove(key);
                }
            }
            _ => {}
        }
        slot.used.set(true);
        let old = std::mem::replace(&mut slot.value, new);
        if slot.epoch != self.open.epoch {
            if let Some(order) = self.order.get_mut().filter(|_| !here) {
                order.insert(slot.key.clone(), at);
            }
            slot.epoch = self.open.epoch;
            self.open.touched.push((at, old));
        }
        Some(at)
    }

    /// A slot for a key that has none, with what is elsewhere of it.
    fn claim(&mut self, key: &[u8], value: Option<Bytes>) -> u32 {
        self.bytes += value.as_ref().map_or(0, |v| key.len() + ENTRY_BYTES + v.len());
        let slot = Slot { key: Bytes::from(key), value, epoch: 0, used: Cell::new(true) };
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

    /// Gives back a slot that is deleted for good, or whose row is elsewhere.
    fn release(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        let key = std::mem::take(&mut slot.key);
        self.bytes -= slot.value.take().map_or(0, |v| key.len() + ENTRY_BYTES + v.len());
        slot.epoch = FREE;
        if let Ok(entry) = self.index.find_entry(hash(&key), |&i| i == at) {
            entry.remove();
            self.free.push(at);
        }
    }

    fn ordered(&self) -> &BTreeMap<Bytes, u32> {
        self.order.get_or_init(|| {
            let applied = self.elsewhere().map(|h| h.applied);
            let counts = |s: &Slot| match applied {
                None => s.value.is_some(),
                Some(applied) => s.epoch != FREE && s.epoch > applied,
            };
            let slots = self.slots.iter().enumerate().filter(|(_, s)| counts(s));
            slots.map(|(i, s)| (s.key.clone(), i as u32)).collect()
        })
    }

    /// Entries of a range of keys, ascending (or from the end with `.rev()`).
    pub fn range<'a>(&'a self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries<'a> {
        let empty = match (&from, &to) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b))
            | (Bound::Excluded(a), Bound::Included(b)) => a >= b,
            _ => false,
        };
        const NONE: &[u8] = &[];
        let (from, to) = if empty { (Bound::Excluded(NONE), Bound::Included(NONE)) } else { (from, to) };
        let slots = self.ordered().range::<[u8], _>((from, to));
        let rows = self.elsewhere().filter(|_| !empty).map(|h| h.backend.range(h.store, (from, to)));
        Entries { store: self, slots, rows, front: (None, None), back: (None, None) }
    }

    pub fn iter(&self) -> Entries<'_> {
        self.range(Bound::Unbounded, Bound::Unbounded)
    }

    /// Entries in no particular order: of a store that nobody has asked for a range, this makes no order.
    pub fn unordered(&self) -> Box<dyn Iterator<Item = (Found<'_>, Found<'_>)> + '_> {
        if self.elsewhere().is_some() {
            return Box::new(self.iter());
        }
        let slots = self.slots.iter();
        Box::new(slots.filter_map(|s| Some((Cow::Borrowed(&*s.key), Cow::Borrowed(s.value.as_deref()?)))))
    }

    pub fn prefix<'a>(&'a self, prefix: &[u8]) -> Entries<'a> {
        let end = after(prefix);
        let to = end.as_ref().map_or(Bound::Unbounded, |e| Bound::Excluded(&e[..]));
        self.range(Bound::Included(prefix), to)
    }

    /// The entries of a range as `view` has them, ascending or (with `reverse`) descending, until `each` says no.
    pub fn scan(&self, view: View, range: Range<'_>, reverse: bool, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        if let (View::Committed, Some(home)) = (view, self.elsewhere()) {
            // What is committed is what has been applied.
            let mut rows = home.backend.range(home.store, range);
            let mut next = || match reverse {
                false => rows.next(),
                true => rows.next_back(),
            };
            while next().is_some_and(|(k, v)| each(&k, &v)) {}
            return;
        }
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
            while next().is_some_and(|(k, v)| each(&k, &v)) {}
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
                (Some((a, _)), Some((b, _))) if **a == **b => {
                    here = next();
                    continue; // the undo's word counts
                }
                (Some((a, _)), Some((b, _))) => (*b < &**a) != reverse,
            };
            let go_on = match from_undo {
                true => {
                    let old = there.and_then(|(k, old)| old.map(|v| (k, v)));
                    there = undone_next();
                    old.is_none_or(|(k, v)| each(k, v))
                }
                false => std::mem::replace(&mut here, next()).is_none_or(|(k, v)| each(&k, &v)),
            };
            if !go_on {
                return;
            }
        }
    }

    /// As `get`, in a view.
    pub fn get_in(&self, view: View, key: &[u8]) -> Option<Found<'_>> {
        let at = match (self.find(key), self.elsewhere()) {
            (Some(at), Some(home)) if view == View::Committed && self.slots[at as usize].epoch > home.applied => {
                return home.load(key, false).map(Cow::Owned);
            }
            (Some(at), _) => at,
            (None, Some(home)) => return home.load(key, view == View::Present).map(Cow::Owned),
            (None, None) => return None,
        };
        if view == View::Committed && self.elsewhere().is_none() {
            for undo in self.closed.iter().chain(std::iter::once(&self.open)) {
                if let Some((_, old)) = undo.touched.iter().find(|t| t.0 == at) {
                    return old.as_deref().map(Cow::Borrowed);
                }
            }
        }
        self.slots[at as usize].value.as_deref().map(Cow::Borrowed)
    }

    pub fn len(&self) -> usize {
        self.live
    }
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
    /// In memory.
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
        self.absorb();
        let Some(undo) = self.closed.pop_front() else { return };
        self.apply(&undo);
        let elsewhere = self.elsewhere().is_some();
        for (at, _) in undo.touched {
            let slot = &self.slots[at as usize];
            if slot.epoch != undo.epoch {
                continue;
            }
            if elsewhere {
                if let Some(order) = self.order.get_mut() {
                    order.remove(&slot.key);
                }
            }
            if slot.value.is_none() {
                self.release(at);
            }
        }
        self.evict();
    }

    /// Hands the backend what a generation has changed, as it was when the generation ended.
    fn apply(&mut self, undo: &Undo) {
        let Some(home) = &mut self.home else { return };
        home.applied = undo.epoch;
        if undo.touched.is_empty() {
            return;
        }
        // What a later generation has touched since lies, as it was before, in the undo of the first that did.
        let mut later: HashMap<u32, &Option<Bytes>> = HashMap::new();
        for next in self.closed.iter().chain(std::iter::once(&self.open)) {
            for (at, old) in &next.touched {
                later.entry(*at).or_insert(old);
            }
        }
        let (slots, mut len) = (&self.slots, home.len);
        let mut rows: Vec<Change<'_>> = Vec::with_capacity(undo.touched.len());
        for (at, old) in &undo.touched {
            let slot = &slots[*at as usize];
            let value = match slot.epoch == undo.epoch {
                true => &slot.value,
                false => later.get(at).copied().unwrap_or(&slot.value),
            };
            if value != old {
                len = len + usize::from(value.is_some()) - usize::from(old.is_some());
                rows.push((&slot.key, value.as_deref()));
            }
        }
        home.len = len;
        home.backend.apply(home.store, &mut rows.into_iter(), len);
    }

    /// Caches what readers have loaded.
    fn absorb(&mut self) {
        let Some(loaded) = self.elsewhere().map(|h| h.loaded.take()) else { return };
        for (key, value) in loaded {
            if value.is_some() && self.find(&key).is_none() {
                self.claim(&key, value);
            }
        }
    }

    /// Lets go of clean rows until the rest has room: those that nobody has looked at since the last time round.
    fn evict(&mut self) {
        let Some(home) = self.elsewhere() else { return };
        let (room, applied) = (home.backend.room(home.store, self.bytes), home.applied);
        let (mut hand, mut left) = (home.hand, 2 * self.slots.len());
        while self.bytes > room && left > 0 {
            left -= 1;
            hand = if hand + 1 < self.slots.len() { hand + 1 } else { 0 };
            let slot = &self.slots[hand];
            if slot.epoch > applied {
                continue; // free, or not committed
            }
            if !slot.used.replace(false) {
                self.release(hand as u32);
            }
        }
        if let Some(home) = &mut self.home {
            home.hand = hand;
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
        self.settle_touched();
        self.cursor = 0;
        if let Some(home) = &mut self.home {
            home.after = None;
        }
    }

    /// What the open generation has touched is what is committed.
    fn settle_touched(&mut self) {
        let elsewhere = self.elsewhere().is_some();
        for (at, _) in std::mem::take(&mut self.open.touched) {
            let slot = &mut self.slots[at as usize];
            slot.epoch = 0;
            if elsewhere {
                if let Some(order) = self.order.get_mut() {
                    order.remove(&slot.key);
                }
            }
            if slot.value.is_none() {
                self.release(at);
            }
        }
    }

    /// Writes up to `limit` entries again that the open generation has not touched; returns how many were passed, and
    /// whether a round ended.
    pub fn rewrite(&mut self, limit: usize, delta: &mut dyn FnMut(u32, &[u8])) -> (usize, bool) {
        if self.elsewhere().is_some() {
            return self.rewrite_rows(limit, delta);
        }
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

    /// The same by keys, from wherever rows are.
    fn rewrite_rows(&mut self, limit: usize, delta: &mut dyn FnMut(u32, &[u8])) -> (usize, bool) {
        let after = self.home.as_mut().and_then(|h| h.after.take());
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut block = Block::default();
        let (mut passed, mut last) = (0, None);
        let mut entries = self.range(from, Bound::Unbounded);
        while passed < limit {
            let Some((key, value)) = entries.next() else { break };
            passed += 1;
            let touched = self.find(&key).is_some_and(|at| self.slots[at as usize].epoch == self.open.epoch);
            if !touched {
                block.push(&key, Some(&value), delta);
            }
            last = Some(key.into_owned());
        }
        let ended = passed < limit;
        drop(entries);
        block.end(delta);
        if let Some(home) = self.home.as_mut().filter(|_| !ended) {
            home.after = last.or(after);
        }
        (passed, ended)
    }

    /// Applies a block of the changelog; `None` if it cannot be read.
    pub fn restore(&mut self, count: u32, body: &[u8]) -> Option<()> {
        let mut r = Reader::new(body);
        let mut rows: Vec<Change<'_>> = vec![];
        for _ in 0..count {
            let live = r.u8()?;
            let key = r.blob()?;
            let value = match live {
                0 => None,
                1 => Some(r.blob()?),
                _ => return None,
            };
            if self.home.is_some() {
                rows.push((key, value));
            }
            if self.elsewhere().is_none() {
                self.write(key, value);
            }
        }
        r.rest.is_empty().then_some(())?;
        self.settle_touched();
        let Some(home) = &mut self.home else { return Some(()) };
        if home.resident {
            home.len = self.live;
        } else {
            for (key, value) in &rows {
                // Not through the cache: a changelog may be larger than memory.
                home.len += usize::from(value.is_some());
                home.len -= usize::from(home.load(key, false).is_some());
            }
            self.live = home.len;
        }
        home.loaded.get_mut().clear();
        home.backend.apply(home.store, &mut rows.iter().copied(), home.len);
        if self.elsewhere().is_some() {
            for (key, _) in rows {
                if let Some(at) = self.find(key) {
                    self.release(at);
                }
            }
        }
        Some(())
    }
}

impl Home {
    /// A row as it is committed; `keep`: it is asked for again.
    fn load(&self, key: &[u8], keep: bool) -> Option<Vec<u8>> {
        if let Some(value) = self.loaded.borrow().get(key) {
            return value.as_deref().map(<[u8]>::to_vec);
        }
        let value = self.backend.load(self.store, &[key]).pop().flatten();
        let mut loaded = self.loaded.borrow_mut();
        if keep && loaded.len() < LOADED_MAX {
            loaded.insert(Bytes::from(key), value.as_deref().map(Bytes::from));
        }
        value
    }

    /// The same for somebody who makes a slot of it.
    fn take(&self, key: &[u8]) -> Option<Bytes> {
        match self.loaded.borrow_mut().remove(key) {
            Some(value) => value,
            None => self.backend.load(self.store, &[key]).pop().flatten().map(Bytes::from),
        }
    }
}

/// Entries of a range: what is in order in memory, merged with the backend's rows, where there are any. What is in memory
/// counts.
pub struct Entries<'a> {
    store: &'a ByteStore,
    slots: std::collections::btree_map::Range<'a, Bytes, u32>,
    rows: Option<Rows>,
    /// Taken from an end, and not given out.
    front: Ends<'a>,
    back: Ends<'a>,
}

type Ends<'a> = (Option<(&'a Bytes, u32)>, Option<(Vec<u8>, Vec<u8>)>);

impl<'a> Entries<'a> {
    fn at(&self, at: u32) -> Option<&'a [u8]> {
        self.store.slots[at as usize].value.as_deref()
    }

    /// The next entry from one end: the lesser of the two heads, `forward`, or the greater.
    fn step(&mut self, forward: bool) -> Option<(Found<'a>, Found<'a>)> {
        if self.rows.is_none() {
            let (key, &at) = if forward { self.slots.next() } else { self.slots.next_back() }?;
            return Some((Cow::Borrowed(&**key), Cow::Borrowed(self.at(at).unwrap_or_default())));
        }
        loop {
            let (near, far) = match forward {
                true => (&mut self.front, &mut self.back),
                false => (&mut self.back, &mut self.front),
            };
            if near.0.is_none() {
                let next = if forward { self.slots.next() } else { self.slots.next_back() };
                near.0 = next.map(|(k, &at)| (k, at)).or_else(|| far.0.take());
            }
            if near.1.is_none() {
                let next = self.rows.as_mut().and_then(|r| if forward { r.next() } else { r.next_back() });
                near.1 = next.or_else(|| far.1.take());
            }
            let from_memory = match (&near.0, &near.1) {
                (None, None) => return None,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((a, _)), Some((b, _))) => {
                    if ***a == **b {
                        near.1 = None;
                        true
                    } else {
                        (***a < **b) == forward
                    }
                }
            };
            if !from_memory {
                return near.1.take().map(|(k, v)| (Cow::Owned(k), Cow::Owned(v)));
            }
            if let Some((key, at)) = near.0.take() {
                if let Some(value) = self.at(at) {
                    return Some((Cow::Borrowed(&**key), Cow::Borrowed(value)));
                }
            }
        }
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = (Found<'a>, Found<'a>);
    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl DoubleEndedIterator for Entries<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(false)
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
        if self.w.bytes.len() + key.len() + value.map_or(0, <[u8]>::len) > BODY_BYTES_MAX {
            self.end(delta);
        }
        self.w.u8(value.is_some() as u8);
        self.w.blob(key);
        if let Some(v) = value {
            self.w.blob(v);
        }
        self.count += 1;
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
    use std::sync::Mutex;

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

    /// Rows of one store in memory, for so many bytes of clean rows in the store itself.
    #[derive(Default)]
    struct Shelf {
        rows: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
        len: Mutex<usize>,
        room: usize,
    }

    impl Backend for Shelf {
        fn load(&self, _: u64, keys: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
            let rows = self.rows.lock().unwrap();
            keys.iter().map(|k| rows.get(*k).cloned()).collect()
        }
        fn apply(&self, _: u64, changes: &mut dyn Iterator<Item = Change<'_>>, len: usize) {
            let mut rows = self.rows.lock().unwrap();
            for (key, value) in changes {
                match value {
                    Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                    None => rows.remove(key),
                };
            }
            *self.len.lock().unwrap() = len;
        }
        fn range(&self, _: u64, range: Range<'_>) -> Rows {
            let rows = self.rows.lock().unwrap();
            let own = (range.0.map(<[u8]>::to_vec), range.1.map(<[u8]>::to_vec));
            let found: Vec<_> = rows.range(own).map(|(k, v)| (k.clone(), v.clone())).collect();
            Box::new(found.into_iter())
        }
        fn drop_store(&self, _: u64) {
            self.rows.lock().unwrap().clear();
        }
        fn len(&self, _: u64) -> usize {
            *self.len.lock().unwrap()
        }
        fn mark(&self, _: super::super::backend::Mark) {}
        fn marked(&self) -> Option<super::super::backend::Mark> {
            None
        }
        fn room(&self, _: u64, _: usize) -> usize {
            self.room
        }
        fn fault(&self) -> Option<String> {
            None
        }
    }

    /// In memory; on disk as well (`Some(true)`); on disk with little room in memory.
    fn opened(resident: Option<bool>, room: usize) -> (ByteStore, Arc<Shelf>) {
        let (mut store, shelf) = (ByteStore::default(), Arc::new(Shelf { room, ..Shelf::default() }));
        if let Some(resident) = resident {
            store.attach(shelf.clone(), 1, resident);
        }
        (store, shelf)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        /// A store with undo is what copies of a plain map would be, and its changelog restores what was committed; on disk
        /// lies what is committed and nothing else.
        #[test]
        fn it_equals_a_model_of_copies(
            steps in prop::collection::vec(step(), 0..80),
            resident in prop_oneof![Just(None), Just(Some(true)), Just(Some(false))],
            room in 0usize..400,
        ) {
            let (mut store, shelf) = opened(resident, room);
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut marks = VecDeque::from([model.clone()]);
            let mut log: Vec<Vec<(u32, Vec<u8>)>> = vec![];
            let mut written = 0;
            let mut pending: Vec<(u32, Vec<u8>)> = vec![];
            for step in steps {
                match step {
                    Step::Put(k, v) => {
                        let key = key_of(k);
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
                prop_assert_eq!(store.len(), model.len());
                let both_ends = inwards(store.iter());
                prop_assert_eq!(&both_ends, &model.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>());
                if resident.is_some() {
                    prop_assert_eq!(&*shelf.rows.lock().unwrap(), &marks[0]);
                    prop_assert_eq!(shelf.len(1), marks[0].len());
                }
                for k in 0..12u8 {
                    let key = key_of(k);
                    prop_assert_eq!(store.get(&key).map(Found::into_owned), model.get(&key).cloned());
                }
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
                    prop_assert_eq!(store.get_in(View::Committed, key).map(Found::into_owned), marks[0].get(key).cloned());
                }
            }
            let (mut restored, shelf) = opened(resident, room);
            for (count, body) in log[..written].iter().flatten() {
                prop_assert!(restored.restore(*count, body).is_some());
            }
            let found: BTreeMap<_, _> = restored.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(&found, &marks[0]);
            let bytes = found.iter().map(|(k, v)| k.len() + v.len() + ENTRY_BYTES).sum::<usize>();
            prop_assert_eq!(restored.byte_size(), if resident == Some(false) { 0 } else { bytes });
            prop_assert_eq!(restored.len(), found.len());
            if resident.is_some() {
                // Somebody opens it again.
                let mut again = ByteStore::default();
                again.attach(shelf, 1, resident == Some(true));
                let found: BTreeMap<_, _> = again.iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                prop_assert_eq!(&found, &marks[0]);
                prop_assert_eq!(again.len(), found.len());
            }
        }
    }

    fn key_of(k: u8) -> Vec<u8> {
        vec![b'k'; k as usize % 3 + 1].into_iter().chain([k]).collect()
    }

    /// All entries, taken from both ends in turn.
    fn inwards(mut entries: Entries<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (mut front, mut back) = (vec![], vec![]);
        while let Some((k, v)) = entries.next() {
            front.push((k.to_vec(), v.to_vec()));
            match entries.next_back() {
                Some((k, v)) => back.push((k.to_vec(), v.to_vec())),
                None => break,
            }
        }
        front.extend(back.into_iter().rev());
        front
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
