//! State: groups by (window, key), with undo, expiry and two generations.
//!
//! **Panes.** One pane per window start holds its own keys and rows, so dropping a pane is expiry: nothing is recycled,
//! nothing is scanned. A pane is an open-addressing table of `hash | row`, rows of one fixed size in chunks, keys in
//! chunks: no box per key, no vector that doubles.
//!
//! ```text
//! slots  [ hash32 | row+1 ] …            8 bytes each, load <= 0.8
//! row    [ key | hash | epoch | updated | max_ts | accumulators… ]     24 bytes + the layout's
//! keys   [ len | bytes ] …
//! ```
//!
//! **Undo is the dirty list.** The first touch of a row in a generation saves its old bytes; the list of touched rows is
//! at once what the changelog must be told, what a table's readers must be told (old and new), and what a rollback copies
//! back. Generation n may be committing while n+1 is processed, so there are up to two lists; a rollback undoes both, the
//! newest first. Commit forgets the oldest.

pub mod lives;
mod seen;

pub use seen::Seen;

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64;

use crate::aggregate::{Layout, VarScope, Vars};
use crate::wire::Reader;

const ROWS_PER_CHUNK: usize = 1024;
const KEY_CHUNK_BYTES: usize = 1 << 16;
const HEADER: usize = 24;

#[inline]
fn u32_at(row: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

#[inline]
fn put_u32(row: &mut [u8], at: usize, v: u32) {
    row[at..at + 4].copy_from_slice(&v.to_le_bytes());
}

/// The hash that finds a key in a pane. Never stored, never used to choose a partition.
#[inline]
pub fn hash(key: &[u8]) -> u32 {
    (xxh3_64(key) >> 32) as u32
}

/// Asks the processor to fetch what lies there: at a million entries a look-up costs a cache miss, not instructions.
#[inline]
fn prefetch<T>(list: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching is a hint that reads nothing, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<0>(list.as_ptr().wrapping_add(at).cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (list, at);
}

#[derive(Debug)]
struct Pane {
    slots: Vec<u64>,
    rows: Vec<Vec<u8>>,
    count: u32,
    keys: Vec<Vec<u8>>,
    row_size: usize,
}

impl Pane {
    fn new(row_size: usize) -> Pane {
        Pane { slots: vec![0; 16], rows: vec![], count: 0, keys: vec![], row_size }
    }
    #[inline]
    fn row(&self, row: u32) -> &[u8] {
        let at = (row as usize % ROWS_PER_CHUNK) * self.row_size;
        &self.rows[row as usize / ROWS_PER_CHUNK][at..at + self.row_size]
    }
    #[inline]
    fn row_mut(&mut self, row: u32) -> &mut [u8] {
        let at = (row as usize % ROWS_PER_CHUNK) * self.row_size;
        &mut self.rows[row as usize / ROWS_PER_CHUNK][at..at + self.row_size]
    }
    #[inline]
    fn key_at(&self, address: u32) -> &[u8] {
        let chunk = &self.keys[(address >> 16) as usize];
        let mut r = Reader::new(&chunk[(address & 0xFFFF) as usize..]);
        r.blob().unwrap_or(b"")
    }
    #[inline]
    fn key(&self, row: u32) -> &[u8] {
        self.key_at(u32_at(self.row(row), 0))
    }
    /// The row of a key, or the slot where it belongs.
    #[inline]
    fn find(&self, key: &[u8], hash: u32) -> Result<u32, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            if (slot >> 32) as u32 == hash {
                let row = slot as u32 - 1;
                if self.key(row) == key {
                    return Ok(row);
                }
            }
            at = (at + 1) & mask;
        }
    }
    /// The row of a key with this hash, most probably.
    #[inline]
    fn guess(&self, hash: u32) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == hash {
                return Some(slot as u32 - 1);
            }
            at = (at + 1) & mask;
        }
    }
    #[inline]
    fn prefetch_row(&self, row: u32) {
        let at = (row as usize % ROWS_PER_CHUNK) * self.row_size;
        let chunk = &self.rows[row as usize / ROWS_PER_CHUNK];
        prefetch(chunk, at);
        prefetch(chunk, at + self.row_size - 1);
    }
    #[inline]
    fn prefetch_key(&self, row: u32) {
        let address = u32_at(self.row(row), 0);
        let chunk = &self.keys[(address >> 16) as usize];
        prefetch(chunk, (address & 0xFFFF) as usize);
        prefetch(chunk, (address & 0xFFFF) as usize + 63);
    }
    fn put_key(&mut self, key: &[u8]) -> u32 {
        let need = key.len() + 5;
        let fits = self.keys.last().is_some_and(|c| c.len() + need <= KEY_CHUNK_BYTES);
        if !fits {
            // The first chunk grows by itself so that a small pane stays small; later ones are full-size from the start.
            let capacity = if self.keys.is_empty() { need.max(256) } else { need.max(KEY_CHUNK_BYTES) };
            self.keys.push(Vec::with_capacity(capacity));
        }
        let chunk_index = self.keys.len() - 1;
        let chunk = &mut self.keys[chunk_index];
        let address = ((chunk_index as u32) << 16) | chunk.len() as u32;
        let mut w = crate::wire::Writer { bytes: std::mem::take(chunk) };
        w.blob(key);
        *chunk = w.bytes;
        address
    }
    fn insert(&mut self, slot: usize, key: &[u8], hash: u32) -> u32 {
        let row = self.count;
        if (row as usize).is_multiple_of(ROWS_PER_CHUNK) {
            let capacity = if row == 0 { 4 * self.row_size } else { ROWS_PER_CHUNK * self.row_size };
            self.rows.push(Vec::with_capacity(capacity));
        }
        let address = self.put_key(key);
        let row_size = self.row_size;
        if let Some(chunk) = self.rows.last_mut() {
            chunk.resize(chunk.len() + row_size, 0);
        }
        self.count += 1;
        let bytes = self.row_mut(row);
        put_u32(bytes, 0, address);
        put_u32(bytes, 4, hash);
        bytes[16..24].copy_from_slice(&i64::MIN.to_le_bytes());
        self.slots[slot] = ((hash as u64) << 32) | (row as u64 + 1);
        if (self.count as usize) * 5 > self.slots.len() * 4 {
            let size = self.slots.len() * 2;
            self.reindex(size);
        }
        row
    }
    fn reindex(&mut self, size: usize) {
        self.slots = vec![0; size];
        let mask = size - 1;
        for row in 0..self.count {
            let hash = u32_at(self.row(row), 4);
            let mut at = hash as usize & mask;
            while self.slots[at] != 0 {
                at = (at + 1) & mask;
            }
            self.slots[at] = ((hash as u64) << 32) | (row as u64 + 1);
        }
    }
    /// Takes back the newest row. Its key bytes stay behind: a rollback is rare, and the pane will go.
    fn pop(&mut self) {
        self.count -= 1;
        let row_size = self.row_size;
        if let Some(chunk) = self.rows.last_mut() {
            chunk.truncate(chunk.len() - row_size);
            if chunk.is_empty() {
                self.rows.pop();
            }
        }
    }
    /// Empty, with its slots: for a pane that is filled and shipped over and over.
    fn reset(&mut self) {
        self.slots.fill(0);
        self.count = 0;
        self.rows.clear();
        self.keys.clear();
    }
    fn bytes(&self) -> usize {
        self.slots.capacity() * 8
            + self.rows.iter().map(Vec::capacity).sum::<usize>()
            + self.keys.iter().map(Vec::capacity).sum::<usize>()
    }
}

/// Panes by window start, ascending. Nearly every row falls into the pane of the row before it.
#[derive(Default)]
struct Panes {
    list: Vec<(i64, Pane)>,
    last: usize,
    /// Emptied panes of a combiner, kept for their memory.
    spare: Vec<Pane>,
}

impl Panes {
    #[inline]
    fn index(&self, window: i64) -> Result<usize, usize> {
        if self.list.get(self.last).is_some_and(|p| p.0 == window) {
            return Ok(self.last);
        }
        self.list.binary_search_by_key(&window, |p| p.0)
    }
    #[inline]
    fn get(&self, window: i64) -> Option<&Pane> {
        self.index(window).ok().map(|i| &self.list[i].1)
    }
    #[inline]
    fn get_mut(&mut self, window: i64) -> Option<&mut Pane> {
        self.index(window).ok().map(|i| &mut self.list[i].1)
    }
    #[inline]
    fn get_or_create(&mut self, window: i64, row_size: usize) -> &mut Pane {
        let at = match self.index(window) {
            Ok(at) => at,
            Err(at) => {
                let pane = self.spare.pop().unwrap_or_else(|| Pane::new(row_size));
                self.list.insert(at, (window, pane));
                at
            }
        };
        self.last = at;
        &mut self.list[at].1
    }
    fn insert(&mut self, window: i64, pane: Pane) {
        match self.index(window) {
            Ok(at) => self.list[at].1 = pane,
            Err(at) => self.list.insert(at, (window, pane)),
        }
    }
    fn remove(&mut self, window: i64) -> Option<Pane> {
        self.index(window).ok().map(|at| self.list.remove(at).1)
    }
    /// Empties every pane and keeps their memory for the next ones.
    fn recycle(&mut self) {
        while let Some((_, mut pane)) = self.list.pop() {
            pane.reset();
            self.spare.push(pane);
        }
        self.last = 0;
    }
}

struct Touched {
    window: i64,
    row: u32,
    /// Where the old bytes lie; `None`: the row was created.
    old: Option<usize>,
}

#[derive(Default)]
struct Generation {
    touched: Vec<Touched>,
    old: Vec<u8>,
    dropped: Vec<(i64, Pane)>,
    taken: Vec<u32>,
    given_up: Vec<u32>,
}

/// One touched row as its readers see it.
pub struct Change<'a> {
    pub window: i64,
    pub key: &'a [u8],
    /// Accumulators before this generation; `None`: the group is new.
    pub old: Option<&'a [u8]>,
    pub new: &'a [u8],
    /// Largest event time folded in.
    pub max_ts: i64,
}

/// The groups of one aggregate.
pub struct Store {
    pub layout: Layout,
    pub vars: Vars,
    panes: Panes,
    generations: VecDeque<Generation>,
    epoch: u32,
    updates: u32,
    restoring: bool,
    /// The row that is being restored.
    fresh: Vec<u8>,
    rewrite_cursor: (i64, u32),
}

impl Store {
    pub fn new(layout: Layout) -> Store {
        Store {
            layout,
            vars: Vars::default(),
            panes: Panes::default(),
            generations: VecDeque::from([Generation::default()]),
            epoch: 1,
            updates: 0,
            restoring: false,
            fresh: vec![],
            rewrite_cursor: (i64::MIN, 0),
        }
    }

    fn row_size(&self) -> usize {
        HEADER + self.layout.size
    }

    /// Fetches what looking up some (window, hash) will touch, all at once: slots, then rows, then keys.
    #[inline]
    pub fn prefetch(&self, wanted: impl Iterator<Item = (i64, u32)> + Clone) {
        let panes = wanted.filter_map(|(window, hash)| self.panes.get(window).map(|pane| (pane, hash)));
        panes.clone().for_each(|(pane, hash)| prefetch(&pane.slots, hash as usize & (pane.slots.len() - 1)));
        let rows = panes.filter_map(|(pane, hash)| pane.guess(hash).map(|row| (pane, row)));
        rows.clone().for_each(|(pane, row)| pane.prefetch_row(row));
        rows.for_each(|(pane, row)| pane.prefetch_key(row));
    }

    /// Calls `change` with the group's accumulators, creating them zeroed; `ts` raises the group's largest event time.
    #[inline]
    pub fn update<R>(
        &mut self,
        window: i64,
        key: &[u8],
        hash: u32,
        ts: i64,
        change: impl FnOnce(&Layout, &mut [u8], &mut VarScope<'_>) -> R,
    ) -> R {
        let row_size = self.row_size();
        let pane = self.panes.get_or_create(window, row_size);
        let generation = self.generations.back_mut().expect("there is always a current generation");
        let (row, created) = match pane.find(key, hash) {
            Ok(row) => (row, false),
            Err(slot) => (pane.insert(slot, key, hash), true),
        };
        let bytes = pane.row_mut(row);
        if !self.restoring && u32_at(bytes, 8) != self.epoch {
            let old = (!created).then(|| {
                let at = generation.old.len();
                generation.old.extend_from_slice(bytes);
                at
            });
            generation.touched.push(Touched { window, row, old });
            put_u32(bytes, 8, self.epoch);
        }
        self.updates += 1;
        put_u32(bytes, 12, self.updates);
        let held = i64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
        bytes[16..24].copy_from_slice(&held.max(ts).to_le_bytes());
        let mut scope =
            VarScope { vars: &mut self.vars, taken: &mut generation.taken, given_up: &mut generation.given_up };
        change(&self.layout, &mut bytes[HEADER..], &mut scope)
    }

    /// The rows touched in the current generation, in order of each one's latest update.
    pub fn changes(&self, see: impl FnMut(Change<'_>, &Vars)) {
        let generation = self.generations.back().expect("there is always a current generation");
        // Updates are numbered, so that everybody's place is known: no sorting.
        const NOBODY: u32 = u32::MAX;
        let mut order = vec![NOBODY; self.updates as usize + 1];
        for (i, t) in generation.touched.iter().enumerate() {
            if let Some(ahead) = generation.touched.get(i + 8) {
                self.panes.get(ahead.window).into_iter().for_each(|p| p.prefetch_row(ahead.row));
            }
            if let Some(pane) = self.panes.get(t.window) {
                order[u32_at(pane.row(t.row), 12) as usize] = i as u32;
            }
        }
        order.retain(|&i| i != NOBODY);
        self.tell(order.len(), |i| order[i] as usize, see);
    }

    /// The same, in order of each one's first update: as they lie in memory.
    pub fn touched(&self, see: impl FnMut(Change<'_>, &Vars)) {
        self.tell(self.changed(), |i| i, see);
    }

    /// Rows `order(0..count)` of the touched ones.
    fn tell(&self, count: usize, order: impl Fn(usize) -> usize, mut see: impl FnMut(Change<'_>, &Vars)) {
        let generation = self.generations.back().expect("there is always a current generation");
        let fetch = |i: usize, what: fn(&Pane, u32)| {
            if i < count {
                let t = &generation.touched[order(i)];
                self.panes.get(t.window).into_iter().for_each(|pane| what(pane, t.row));
            }
        };
        for i in 0..count {
            fetch(i + 16, Pane::prefetch_row);
            fetch(i + 8, Pane::prefetch_key);
            let t = &generation.touched[order(i)];
            let Some(pane) = self.panes.get(t.window) else { continue };
            let row = pane.row(t.row);
            let ts = |b: &[u8]| i64::from_le_bytes(b[16..24].try_into().expect("8 bytes"));
            let old = t.old.map(|at| &generation.old[at..at + row.len()]);
            see(
                Change {
                    window: t.window,
                    key: pane.key(t.row),
                    old: old.map(|o| &o[HEADER..]),
                    new: &row[HEADER..],
                    max_ts: ts(row),
                },
                &self.vars,
            );
        }
    }

    pub fn changed(&self) -> usize {
        self.generations.back().map_or(0, |g| g.touched.len())
    }

    /// The smallest window start at or after `from`.
    pub fn next_window(&self, from: i64) -> Option<i64> {
        let at = self.panes.list.partition_point(|p| p.0 < from);
        self.panes.list.get(at).map(|p| p.0)
    }

    /// A window's groups, ordered by key.
    pub fn window(&self, window: i64, see: impl FnMut(&[u8], i64, &[u8], &Vars)) {
        self.rows(window, &self.by_key(window), see);
    }

    /// Which of its rows they are; good as long as nothing is added to the window.
    pub fn by_key(&self, window: i64) -> Vec<u32> {
        let Some(pane) = self.panes.get(window) else { return vec![] };
        let mut rows: Vec<u32> = (0..pane.count).collect();
        rows.sort_unstable_by(|&a, &b| pane.key(a).cmp(pane.key(b)));
        rows
    }

    pub fn key(&self, window: i64, row: u32) -> &[u8] {
        self.panes.get(window).map_or(b"", |pane| pane.key(row))
    }

    pub fn rows(&self, window: i64, rows: &[u32], mut see: impl FnMut(&[u8], i64, &[u8], &Vars)) {
        let Some(pane) = self.panes.get(window) else { return };
        for &row in rows {
            let bytes = pane.row(row);
            let ts = i64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
            see(pane.key(row), ts, &bytes[HEADER..], &self.vars);
        }
    }

    /// Drops every pane for which `expired(window)`; ascending, stops at the first that is not. Only as the last act of a
    /// generation, when its changes have been told: what was updated and expired in one generation is not lost.
    pub fn expire(&mut self, expired: impl Fn(i64) -> bool) {
        while let Some(window) = self.panes.list.first().map(|p| p.0) {
            if !expired(window) {
                break;
            }
            if let Some(pane) = self.panes.remove(window) {
                if self.restoring {
                    self.release_pane(&pane);
                } else if let Some(g) = self.generations.back_mut() {
                    g.dropped.push((window, pane));
                }
            }
        }
    }

    fn release_pane(&mut self, pane: &Pane) {
        let mut handles = vec![];
        for row in 0..pane.count {
            self.layout.handles(&pane.row(row)[HEADER..], &mut handles);
        }
        for handle in handles {
            self.vars.release(handle);
        }
    }

    /// Up to `limit` rows that this generation did not touch, going round and round: writing them again lets the log
    /// forget everything older than the last full round. Returns true when a round ended.
    pub fn rewrite(&mut self, limit: usize, mut see: impl FnMut(i64, &[u8], i64, &[u8], &Vars)) -> bool {
        let mut left = limit;
        let (mut window, mut row) = self.rewrite_cursor;
        loop {
            let index = self.panes.list.partition_point(|p| p.0 < window);
            let Some((at, pane)) = self.panes.list.get(index).map(|p| (p.0, &p.1)) else {
                self.rewrite_cursor = (i64::MIN, 0);
                return true;
            };
            if at != window {
                row = 0;
            }
            while row < pane.count {
                if left == 0 {
                    self.rewrite_cursor = (at, row);
                    return false;
                }
                let bytes = pane.row(row);
                if u32_at(bytes, 8) != self.epoch {
                    let ts = i64::from_le_bytes(bytes[16..24].try_into().expect("8 bytes"));
                    see(at, pane.key(row), ts, &bytes[HEADER..], &self.vars);
                    left -= 1;
                }
                row += 1;
            }
            match at.checked_add(1) {
                Some(next) => (window, row) = (next, 0),
                None => {
                    self.rewrite_cursor = (i64::MIN, 0);
                    return true;
                }
            }
        }
    }

    /// Ends the current generation; the next one begins.
    pub fn close_generation(&mut self) {
        self.generations.push_back(Generation::default());
        self.vars.next_generation();
        self.epoch = self.epoch.wrapping_add(1).max(1);
        self.updates = 0;
    }

    /// The oldest closed generation is committed: nothing can undo it any more.
    pub fn committed(&mut self) {
        let Some(generation) = (self.generations.len() > 1).then(|| self.generations.pop_front()).flatten() else {
            return;
        };
        for handle in generation.given_up {
            self.vars.release(handle);
        }
        for (_, pane) in &generation.dropped {
            self.release_pane(pane);
        }
    }

    /// Undoes every generation that is not committed, the newest first.
    pub fn rollback(&mut self) {
        while let Some(generation) = self.generations.pop_back() {
            let mut reindex: Vec<i64> = vec![];
            for (window, pane) in generation.dropped {
                self.panes.insert(window, pane);
            }
            for t in generation.touched.iter().rev() {
                let Some(pane) = self.panes.get_mut(t.window) else { continue };
                match t.old {
                    Some(at) => {
                        let size = pane.row_size;
                        pane.row_mut(t.row).copy_from_slice(&generation.old[at..at + size]);
                    }
                    None => {
                        debug_assert_eq!(t.row + 1, pane.count, "rows are created in order");
                        pane.pop();
                        reindex.push(t.window);
                    }
                }
            }
            for handle in generation.taken {
                self.vars.release(handle);
            }
            reindex.sort_unstable();
            reindex.dedup();
            for window in reindex {
                if let Some(pane) = self.panes.get_mut(window) {
                    if pane.count == 0 {
                        self.panes.remove(window);
                    } else {
                        let size = pane.slots.len();
                        pane.reindex(size);
                    }
                }
            }
        }
        self.generations.push_back(Generation::default());
        self.vars.next_generation();
        self.epoch = self.epoch.wrapping_add(1).max(1);
        self.updates = 0;
        self.rewrite_cursor = (i64::MIN, 0);
    }

    /// Puts a stored row in place (see [`Layout::write`]); between `begin_restore` and `end_restore`.
    pub fn restore_row(&mut self, window: i64, key: &[u8], max_ts: i64, r: &mut Reader<'_>) -> Option<()> {
        debug_assert!(self.restoring);
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.clear();
        fresh.resize(self.layout.size, 0);
        let vars = &mut self.vars;
        self.layout.read(r, &mut fresh, &mut |v| vars.put(v))?;
        let mut handles = vec![];
        self.update(window, key, hash(key), max_ts, |layout, row, _| {
            layout.handles(row, &mut handles);
            row.copy_from_slice(&fresh);
        });
        for handle in handles {
            self.vars.release(handle);
        }
        self.fresh = fresh;
        Some(())
    }

    pub fn begin_restore(&mut self) {
        self.restoring = true;
    }

    pub fn end_restore(&mut self) {
        self.restoring = false;
        self.updates = 0;
    }

    /// Forgets everything at once, undo included (a combiner after its rows are shipped).
    pub fn clear(&mut self) {
        self.panes.recycle();
        self.vars = Vars::default();
        self.generations.clear();
        self.generations.push_back(Generation::default());
        self.updates = 0;
    }

    pub fn keys(&self) -> usize {
        self.panes.list.iter().map(|p| p.1.count as usize).sum()
    }

    pub fn bytes(&self) -> usize {
        self.vars.bytes + self.panes.list.iter().map(|p| p.1.bytes()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{result_value, Spec};
    use crate::column::Value;
    use crate::types::DataType;
    use crate::wire::Writer;
    use proptest::prelude::*;
    use std::collections::BTreeMap as Model;

    fn store() -> Store {
        let spec = |f: &str, t| Spec { function: f.into(), input: Some(t), ..Spec::default() };
        Store::new(Layout::new(&[spec("count", DataType::Int), spec("max", DataType::Str)]).unwrap())
    }

    /// Adds one and remembers `text` as the last value seen (through the layout's own verbs).
    fn touch(store: &mut Store, window: i64, key: &[u8], text: &str) {
        use crate::batch::Batch;
        use crate::column::ColumnBuilder;
        use std::sync::Arc;
        let mut b = ColumnBuilder::new(DataType::Str);
        b.push_str(text.as_bytes());
        let column = b.finish();
        let batch = Batch {
            schema: Default::default(),
            columns: vec![],
            rows: 1,
            live: None,
            seq: Arc::new(vec![0]),
            path: None,
            ts: Arc::new(vec![0]),
            key: None,
            sign: None,
            lane: 0,
            stamp: None,
            origins: Arc::new(vec![]),
            origin_rows: None,
        };
        let place = crate::aggregate::Place { ts: 0, lane: 0, position: 0 };
        let input = crate::aggregate::Input { batch: &batch, row: 0, place, foreign: &crate::expr::NoForeign };
        store.update(window, key, hash(key), window, |layout, row, scope| {
            layout.add(0, row, (None, &[]), 1, &input, scope).unwrap();
            layout.add(1, row, (Some(&column), &[]), 1, &input, scope).unwrap();
        });
    }

    fn contents(store: &Store) -> Model<(i64, Vec<u8>), (i64, String)> {
        let mut out = Model::new();
        let windows: Vec<i64> = store.panes.list.iter().map(|p| p.0).collect();
        for window in windows {
            store.window(window, |key, _, row, vars| {
                let Value::Int(n) = result_value(&store.layout, 0, row, vars) else { panic!() };
                let Value::Str(s) = result_value(&store.layout, 1, row, vars) else { panic!() };
                out.insert((window, key.to_vec()), (n, s));
            });
        }
        out
    }

    #[derive(Clone, Debug)]
    enum Step {
        Touch(i64, u8, String),
        ExpireAndClose(i64),
        Close,
        Committed,
        Rollback,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        prop::collection::vec(
            prop_oneof![
                8 => (0i64..4, any::<u8>(), "[a-z]{0,6}").prop_map(|(w, k, t)| Step::Touch(w, k % 40, t)),
                1 => (0i64..5).prop_map(Step::ExpireAndClose),
                2 => Just(Step::Close),
                2 => Just(Step::Committed),
                1 => Just(Step::Rollback),
            ],
            0..200,
        )
    }

    proptest! {
        /// The store against a map that copies itself at every generation.
        #[test]
        fn undo_commit_and_expiry_equal_a_model_of_copies(steps in steps()) {
            type Map = Model<(i64, Vec<u8>), (i64, String)>;
            let mut store = store();
            let mut now: Map = Map::new();
            let mut starts: Vec<Map> = vec![Map::new()];
            for step in steps {
                match step {
                    Step::Touch(w, k, t) => {
                        let key = vec![k; 1 + (k as usize % 5) * 20];
                        touch(&mut store, w, &key, &t);
                        let e = now.entry((w, key)).or_insert((0, t.clone()));
                        e.0 += 1;
                        if t > e.1 { e.1 = t; }
                    }
                    Step::ExpireAndClose(upto) if starts.len() < 2 => {
                        store.expire(|w| w < upto);
                        now.retain(|(w, _), _| *w >= upto);
                        store.close_generation();
                        starts.push(now.clone());
                    }
                    Step::Close if starts.len() < 2 => {
                        store.close_generation();
                        starts.push(now.clone());
                    }
                    Step::Committed if starts.len() > 1 => {
                        store.committed();
                        starts.remove(0);
                    }
                    Step::Rollback => {
                        store.rollback();
                        now = starts[0].clone();
                        starts = vec![now.clone()];
                    }
                    _ => {}
                }
                prop_assert_eq!(&contents(&store), &now);
            }
            // Nothing leaks: after dropping everything the arena is empty.
            store.expire(|_| true);
            store.close_generation();
            for _ in 0..3 {
                store.committed();
            }
            prop_assert_eq!((store.keys(), store.bytes()), (0, 0));
        }
    }

    #[test]
    fn changes_come_in_order_of_latest_update_with_old_and_new() {
        let mut store = store();
        touch(&mut store, 0, b"a", "x");
        store.close_generation();
        touch(&mut store, 0, b"b", "y");
        touch(&mut store, 0, b"a", "z");
        touch(&mut store, 0, b"b", "y");
        let mut seen = vec![];
        store.changes(|c, vars| {
            let n = |row| result_value(&store.layout, 0, row, vars);
            seen.push((c.key.to_vec(), c.old.map(n), n(c.new)));
        });
        assert_eq!(
            seen,
            vec![(b"a".to_vec(), Some(Value::Int(1)), Value::Int(2)), (b"b".to_vec(), None, Value::Int(2)),]
        );
    }

    #[test]
    fn a_round_of_rewriting_meets_every_clean_row_once() {
        let mut store = store();
        for i in 0..3000u32 {
            touch(&mut store, (i % 3) as i64, &i.to_be_bytes(), "v");
        }
        store.close_generation();
        touch(&mut store, 0, &0u32.to_be_bytes(), "v");
        let mut met = vec![];
        while !store.rewrite(100, |_, key, _, _, _| met.push(key.to_vec())) {}
        assert_eq!(met.len(), 2999);
        met.sort();
        met.dedup();
        assert_eq!(met.len(), 2999);
    }

    #[test]
    fn rows_restore_to_equal_bytes() {
        let mut a = store();
        for i in 0..100u8 {
            touch(&mut a, (i % 2) as i64, &[i], &format!("t{i}"));
        }
        let mut stored: Vec<(i64, Vec<u8>, i64, Vec<u8>)> = vec![];
        for window in 0..2 {
            a.window(window, |key, ts, row, vars| {
                let mut w = Writer::default();
                a.layout.write(row, vars, &mut w);
                stored.push((window, key.to_vec(), ts, w.bytes));
            });
        }
        let mut b = store();
        b.begin_restore();
        for _ in 0..2 {
            for (window, key, ts, bytes) in &stored {
                b.restore_row(*window, key, *ts, &mut Reader::new(bytes)).unwrap();
            }
        }
        b.end_restore();
        assert_eq!(contents(&a), contents(&b));
        assert_eq!(a.vars.bytes, b.vars.bytes);
        assert_eq!(b.changed(), 0);
    }

    #[test]
    fn a_group_costs_less_than_two_hundred_bytes() {
        let spec = |f: &str, t| Spec { function: f.into(), input: Some(t), ..Spec::default() };
        let d = || DataType::decimal(2);
        let layout = Layout::new(&[
            spec("count", DataType::Int),
            spec("count", DataType::Int),
            spec("count", DataType::Int),
            spec("sum", d()),
            spec("sum", d()),
        ])
        .unwrap();
        let mut store = Store::new(layout);
        store.begin_restore();
        for i in 0..200_000u32 {
            let key = format!("campaign_{:06}\0\0product_{:05}\0\0HOME", i, i % 1000);
            store.update(0, key.as_bytes(), hash(key.as_bytes()), 0, |_, _, _| ());
        }
        let per_group = store.bytes() as f64 / 200_000.0;
        assert!(per_group < 200.0, "{per_group}");
    }
}
