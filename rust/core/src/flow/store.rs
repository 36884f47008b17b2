//! An ordered map of bytes with undo: what every store of a record flow is made of.
//!
//! ```text
//!   put ──▶ map            first touch of a key in a generation: its old bytes go to the undo of that generation
//!            │ close       the touched keys with their present bytes are the delta for the changelog
//!            ▼
//!   committed: the oldest closed undo is forgotten      rollback: all undo is applied, the newest first
//! ```
//!
//! Windows, sessions, versions and join buffers are *layouts of keys* (`layout.rs`), not stores of their own: one set of
//! rules for undo, changelog, restore and rewriting serves them all, and another backend has one thing to be.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::frame::BODY_BYTES_MAX;
use crate::wire::{Reader, Writer};

type Bytes = Box<[u8]>;

#[derive(Default)]
pub struct ByteStore {
    map: BTreeMap<Bytes, Bytes>,
    open: BTreeMap<Bytes, Option<Bytes>>,
    closed: VecDeque<BTreeMap<Bytes, Option<Bytes>>>,
    bytes: usize,
    /// Where rewriting goes on.
    cursor: Option<Bytes>,
}

/// What a key and its value cost beside their own bytes (two boxes and their place in a node).
const ENTRY_BYTES: usize = 56;

impl ByteStore {
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.map.get(key).map(|v| &**v)
    }

    /// `None` deletes. Returns what was there.
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Box<[u8]>> {
        let old = match value {
            Some(v) => {
                self.bytes += key.len() + v.len() + ENTRY_BYTES;
                match self.map.get_mut(key) {
                    Some(slot) => Some(std::mem::replace(slot, Bytes::from(v))),
                    None => self.map.insert(Bytes::from(key), Bytes::from(v)),
                }
            }
            None => self.map.remove(key),
        };
        if let Some(old) = &old {
            self.bytes -= key.len() + old.len() + ENTRY_BYTES;
        }
        if (old.is_some() || value.is_some()) && !self.open.contains_key(key) {
            self.open.insert(Bytes::from(key), old.clone());
        }
        old
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
        self.map.range::<[u8], _>((from, to)).map(|(k, v)| (&**k, &**v))
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &[u8])> + '_ {
        self.map.iter().map(|(k, v)| (&**k, &**v))
    }

    pub fn prefix<'a>(&'a self, prefix: &[u8]) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> + 'a {
        let end = after(prefix);
        let to = end.as_ref().map_or(Bound::Unbounded, |e| Bound::Excluded(&e[..]));
        self.range(Bound::Included(prefix), to)
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    pub fn byte_size(&self) -> usize {
        self.bytes
    }

    /// Ends the open generation; `delta` gets its entries in blocks (count, body).
    pub fn close_generation(&mut self, delta: &mut dyn FnMut(u32, &[u8])) {
        let open = std::mem::take(&mut self.open);
        let mut block = Block::default();
        for key in open.keys() {
            block.push(key, self.map.get(key).map(|v| &**v), delta);
        }
        block.end(delta);
        self.closed.push_back(open);
    }

    pub fn committed(&mut self) {
        self.closed.pop_front();
    }

    pub fn rollback(&mut self) {
        let open = std::mem::take(&mut self.open);
        for undo in std::iter::once(open).chain(std::mem::take(&mut self.closed).into_iter().rev()) {
            for (key, old) in undo {
                self.set(key, old);
            }
        }
        self.cursor = None;
    }

    /// As `put`, without undo.
    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let n = key.len();
        self.bytes += value.as_ref().map_or(0, |v| n + v.len() + ENTRY_BYTES);
        let old = match value {
            Some(v) => self.map.insert(key, v),
            None => self.map.remove(&key),
        };
        self.bytes -= old.map_or(0, |v| n + v.len() + ENTRY_BYTES);
    }

    /// Writes up to `limit` entries again that the open generation has not touched; returns how many were passed, and
    /// whether a round ended.
    pub fn rewrite(&mut self, limit: usize, delta: &mut dyn FnMut(u32, &[u8])) -> (usize, bool) {
        let from = self.cursor.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut block = Block::default();
        let mut passed = 0;
        for (key, value) in self.map.range::<Bytes, _>((from, Bound::Unbounded)) {
            if passed == limit {
                block.end(delta);
                return (passed, false);
            }
            passed += 1;
            if !self.open.contains_key(key) {
                block.push(key, Some(value), delta);
            }
            self.cursor = Some(key.clone());
        }
        block.end(delta);
        self.cursor = None;
        (passed, true)
    }

    /// Applies a block of the changelog; `None` if it cannot be read.
    pub fn restore(&mut self, count: u32, body: &[u8]) -> Option<()> {
        let mut r = Reader::new(body);
        for _ in 0..count {
            let live = r.u8()?;
            let key = Bytes::from(r.blob()?);
            let value = match live {
                0 => None,
                1 => Some(Bytes::from(r.blob()?)),
                _ => return None,
            };
            self.set(key, value);
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
