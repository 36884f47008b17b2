//! Stores larger than memory: the rows of one task's stores in an LSM tree below a path that is handed in.
//!
//! ```text
//!   apply, mark ──▶ table in memory ──tidy──▶ sorted files, level 0 ──tidy──▶ merged, levels 1 to 6
//!   load, range ──▶ all of them, newest first; blocks of files through a cache that a worker's tasks share
//! ```
//!
//! - *No journal.* The changelog is one: what was in memory when a process died is read again from the mark on. Rows and mark
//!   reach the files together or the mark later, since a table is written whole and tables in their order.
//! - *No threads.* `tidy` writes and merges, in whoever's thread calls it; reading and applying go on beside it.
//! - *Nothing is written before there is a mark*: rows without one could not be told from those of another log.
//! - *Files are synced* by the tree before its list of files names them; blocks have checksums. Whatever cannot be read becomes
//!   the `fault`, and whoever asks sets the directory aside.
//!
//! | key | value |
//! |---|---|
//! | `m` | format u8, position i64, chain u64, little-endian: the mark |
//! | `n`, store u64 | how many rows the store has, u64 |
//! | `r`, store u64, key | a row |

mod cache;

use std::ops::Bound;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use adstream_core::flow::backend::{Backend, Change, Mark, Rows};
use adstream_core::flow::store::{after, Range};
use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, Config, Guard, IterGuardImpl, SequenceNumberCounter};
use xxhash_rust::xxh3::xxh3_128;

pub use cache::Cache;

const FORMAT: u8 = 1;
const MARK: &[u8] = b"m";
/// Of a row's whole key: what the tree can hold.
const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// Reads see everything that was written: there is nobody who wants an older state.
const NOW: u64 = i64::MAX as u64;
/// Merges that one `tidy` does at most, so that it comes back.
const MERGES_MAX: usize = 8;

pub struct Disk {
    tree: AnyTree,
    seqno: SequenceNumberCounter,
    cache: Arc<Cache>,
    /// Names this tree's stores in the cache.
    id: u64,
    /// Held while rows are applied and while the table in memory is changed for a new one: rows of a store and their number
    /// stay together.
    writing: Mutex<()>,
    /// One `tidy` at a time.
    tidying: Mutex<()>,
    marked: Mutex<Option<Mark>>,
    /// Of the table in memory.
    bytes: AtomicU64,
    fault: Arc<Fault>,
}

/// The first thing that went wrong.
#[derive(Default)]
struct Fault {
    any: AtomicBool,
    why: Mutex<Option<String>>,
}

impl Fault {
    fn report(&self, why: String) {
        self.any.store(true, Ordering::Relaxed);
        held(&self.why).get_or_insert(why);
    }
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tree's own errors, and its panics over files that are not what it wrote.
fn attempt<T>(what: &str, run: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{what}: {error:?}")),
        Err(_) => Err(format!("{what}: its files are damaged")),
    }
}

/// The tree's list of its files (`v` and a number, named with a checksum in `current`) is what was written: blocks of files are
/// checked when they are read, this one nobody checks.
fn whole_list(path: &Path) -> Result<(), String> {
    let current = match std::fs::read(path.join("current")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("opening: {error}")),
    };
    let parts = current.split_first_chunk::<8>().and_then(|(id, rest)| Some((id, rest.split_first_chunk::<16>()?.0)));
    let (id, sum) = parts.ok_or("opening: `current` is cut off")?;
    let list = path.join(format!("v{}", u64::from_le_bytes(*id)));
    let bytes = std::fs::read(&list).map_err(|e| format!("opening: {}: {e}", list.display()))?;
    match xxh3_128(&bytes) == u128::from_le_bytes(*sum) {
        true => Ok(()),
        false => Err("opening: the list of its files is damaged".into()),
    }
}

fn prefix(kind: u8, store: u64) -> [u8; 9] {
    let mut key = [kind; 9];
    key[1..].copy_from_slice(&store.to_be_bytes());
    key
}

fn row_key(store: u64, key: &[u8]) -> Vec<u8> {
    [&prefix(b'r', store)[..], key].concat()
}

impl Disk {
    /// Opens what is in a directory, or makes it. An error says why it is not what this code has written.
    pub fn open(path: &Path, cache: &Arc<Cache>) -> Result<Disk, String> {
        whole_list(path)?;
        let (seqno, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let tree = attempt("opening", || {
            let config = Config::new(path, seqno.clone(), visible.clone()).use_cache(cache.blocks.clone());
            let tree = config.open()?;
            let next = tree.get_highest_seqno().map_or(0, |last| last + 1);
            seqno.fetch_max(next);
            visible.fetch_max(next);
            Ok(tree)
        })?;
        let disk = Disk {
            tree,
            seqno,
            cache: cache.clone(),
            id: cache.next_id(),
            writing: Mutex::new(()),
            tidying: Mutex::new(()),
            marked: Mutex::new(None),
            bytes: AtomicU64::new(0),
            fault: Arc::default(),
        };
        let mark = attempt("reading its mark", || disk.tree.get(MARK, NOW))?;
        let empty = attempt("reading", || disk.tree.is_empty(NOW, None))?;
        *held(&disk.marked) = match mark {
            Some(bytes) => Some(mark_of(&bytes).ok_or("its mark is of another version")?),
            None if empty => None,
            None => return Err("it has rows, but no mark".into()),
        };
        Ok(disk)
    }

    /// Writes what is in memory to files if it is much, or `all` of it, and merges files. Returns whether it wrote.
    pub fn tidy(&self, all: bool) -> Result<bool, String> {
        let full = self.bytes.load(Ordering::Relaxed) >= self.cache.table_bytes;
        if !(full || all) || held(&self.marked).is_none() || self.fault.any.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let _one = held(&self.tidying);
        let wrote = attempt("writing", || {
            {
                let _still = held(&self.writing);
                self.tree.rotate_memtable();
                self.bytes.store(0, Ordering::Relaxed);
            }
            let lock = self.tree.get_flush_lock();
            let wrote = self.tree.flush(&lock, self.seqno.get())?.is_some();
            drop(lock);
            if wrote {
                self.merge()?;
            }
            Ok(wrote)
        });
        if let Err(error) = &wrote {
            self.fault.report(error.clone());
        }
        wrote
    }

    fn merge(&self) -> lsm_tree::Result<()> {
        let leveled = Leveled::default().with_table_target_size(self.cache.table_bytes * 2);
        let strategy = Arc::new(leveled);
        for _ in 0..MERGES_MAX {
            let before = self.tree.current_version().id();
            self.tree.compact(strategy.clone(), self.seqno.get())?;
            if self.tree.current_version().id() == before {
                break;
            }
        }
        Ok(())
    }

    /// Bytes of its files.
    pub fn file_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    fn write(&self, key: Vec<u8>, value: Option<&[u8]>, seqno: u64) {
        if key.len() > KEY_BYTES_MAX {
            return self.fault.report(format!("a key of {} bytes is longer than a store on disk takes", key.len()));
        }
        let (_, bytes) = match value {
            Some(value) => self.tree.insert(key, value, seqno),
            None => self.tree.remove(key, seqno),
        };
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        match attempt("reading", || self.tree.get(key, NOW)) {
            Ok(found) => found.map(|v| v.to_vec()),
            Err(error) => {
                self.fault.report(error);
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.cache.forget(self.id);
    }
}

fn mark_of(bytes: &[u8]) -> Option<Mark> {
    let (&format, rest) = bytes.split_first()?;
    let (position, rest) = rest.split_first_chunk::<8>()?;
    let mark = Mark { position: i64::from_le_bytes(*position), chain: u64::from_le_bytes(rest.try_into().ok()?) };
    (format == FORMAT).then_some(mark)
}

impl Backend for Disk {
    fn load(&self, store: u64, keys: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        keys.iter().map(|key| self.get(&row_key(store, key))).collect()
    }

    fn apply(&self, store: u64, rows: &mut dyn Iterator<Item = Change<'_>>, len: usize) {
        let _still = held(&self.writing);
        let seqno = self.seqno.next();
        for (key, value) in rows {
            self.write(row_key(store, key), value, seqno);
        }
        self.write(prefix(b'n', store).to_vec(), Some(&(len as u64).to_le_bytes()), seqno);
    }

    fn range(&self, store: u64, (from, to): Range<'_>) -> Rows {
        let all = prefix(b'r', store);
        let bound = |b: Bound<&[u8]>| b.map(|key| row_key(store, key));
        let from = match bound(from) {
            Bound::Unbounded => Bound::Included(all.to_vec()),
            other => other,
        };
        let to = match (bound(to), after(&all)) {
            (Bound::Unbounded, Some(end)) => Bound::Excluded(end),
            (other, _) => other,
        };
        let rows = attempt("reading", || Ok(self.tree.range::<Vec<u8>, _>((from, to), NOW, None)));
        match rows {
            Ok(rows) => Box::new(Scan { rows, fault: self.fault.clone() }),
            Err(error) => {
                self.fault.report(error);
                Box::new(std::iter::empty())
            }
        }
    }

    fn drop_store(&self, store: u64) {
        let keys: Vec<Vec<u8>> = self.range(store, (Bound::Unbounded, Bound::Unbounded)).map(|(k, _)| k).collect();
        if !keys.is_empty() {
            self.apply(store, &mut keys.iter().map(|k| (&k[..], None)), 0);
        }
    }

    fn len(&self, store: u64) -> usize {
        let found = self.get(&prefix(b'n', store));
        found.and_then(|v| Some(u64::from_le_bytes(v.try_into().ok()?) as usize)).unwrap_or(0)
    }

    fn mark(&self, mark: Mark) {
        let _still = held(&self.writing);
        let bytes = [&[FORMAT][..], &mark.position.to_le_bytes(), &mark.chain.to_le_bytes()].concat();
        self.write(MARK.to_vec(), Some(&bytes), self.seqno.next());
        *held(&self.marked) = Some(mark);
    }

    fn marked(&self) -> Option<Mark> {
        *held(&self.marked)
    }

    fn room(&self, store: u64, bytes: usize) -> usize {
        self.cache.room((self.id, store), bytes)
    }

    fn fault(&self) -> Option<String> {
        match self.fault.any.load(Ordering::Relaxed) {
            true => held(&self.fault.why).clone(),
            false => None,
        }
    }
}

/// Rows of one store; it ends where one cannot be read.
struct Scan {
    rows: Box<dyn DoubleEndedIterator<Item = IterGuardImpl> + Send>,
    fault: Arc<Fault>,
}

impl Scan {
    fn step(
        &mut self,
        next: fn(&mut (dyn DoubleEndedIterator<Item = IterGuardImpl> + Send)) -> Option<IterGuardImpl>,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let rows = &mut *self.rows;
        match attempt("reading", || next(rows).map(IterGuardImpl::into_inner).transpose()) {
            Ok(row) => row.map(|(key, value)| (key[9..].to_vec(), value.to_vec())),
            Err(why) => {
                self.fault.report(why);
                self.rows = Box::new(std::iter::empty());
                None
            }
        }
    }
}

impl Iterator for Scan {
    type Item = (Vec<u8>, Vec<u8>);
    fn next(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next())
    }
}

impl DoubleEndedIterator for Scan {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(|rows| rows.next_back())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ALL: Range<'static> = (Bound::Unbounded, Bound::Unbounded);

    #[derive(Clone, Debug)]
    enum Step {
        Apply(Vec<(u8, Option<u8>)>),
        Tidy(bool),
        Close,
        Die,
    }

    fn step() -> impl Strategy<Value = Step> {
        let row = (0u8..40, prop::option::of(any::<u8>()));
        prop_oneof![
            6 => prop::collection::vec(row, 0..20).prop_map(Step::Apply),
            3 => any::<bool>().prop_map(Step::Tidy),
            1 => Just(Step::Close),
            1 => Just(Step::Die),
        ]
    }

    fn rows(disk: &Disk, store: u64, range: Range<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        disk.range(store, range).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// It is a map; what was written to files is there after a death, mark and rows and their number together.
        #[test]
        fn it_is_a_map_that_forgets_at_most_its_end(steps in prop::collection::vec(step(), 0..40)) {
            let dir = tempfile::tempdir().unwrap();
            let cache = Arc::new(Cache::new(0));
            let mut disk = Disk::open(dir.path(), &cache).unwrap();
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let (mut safe, mut position) = ((model.clone(), None), None);
            for step in steps {
                match step {
                    Step::Apply(changes) => {
                        let changes: BTreeMap<u8, Option<u8>> = changes.into_iter().collect();
                        let changes: Vec<(Vec<u8>, Option<Vec<u8>>)> = changes
                            .into_iter()
                            .map(|(k, v)| (vec![b'k'; k as usize % 3], k, v))
                            .map(|(mut key, k, v)| { key.push(k); (key, v.map(|v| vec![v; v as usize])) })
                            .collect();
                        for (key, value) in &changes {
                            match value {
                                Some(value) => model.insert(key.clone(), value.clone()),
                                None => model.remove(key),
                            };
                        }
                        disk.apply(7, &mut changes.iter().map(|(k, v)| (&k[..], v.as_deref())), model.len());
                        position = Some(position.unwrap_or(0) + 1);
                        disk.mark(Mark { position: position.unwrap(), chain: 3 });
                    }
                    Step::Tidy(all) => {
                        if disk.tidy(all).unwrap() {
                            safe = (model.clone(), position);
                        }
                    }
                    Step::Close | Step::Die => {
                        if matches!(step, Step::Close) {
                            disk.tidy(true).unwrap();
                            safe = (model.clone(), position);
                        }
                        drop(disk);
                        disk = Disk::open(dir.path(), &cache).unwrap();
                        (model, position) = safe.clone();
                        prop_assert_eq!(disk.marked().map(|m| m.position), position);
                    }
                }
                prop_assert_eq!(&rows(&disk, 7, ALL), &model);
                prop_assert_eq!(disk.len(7), model.len());
                let (low, high) = (vec![b'k'], vec![b'k', b'k', 20]);
                let asked = (Bound::Included(&low[..]), Bound::Excluded(&high[..]));
                let expected: Vec<_> =
                    model.range(low.clone()..high.clone()).rev().map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(disk.range(7, asked).rev().collect::<Vec<_>>(), expected);
                for k in 0..40u8 {
                    let key = [vec![b'k'; k as usize % 3], vec![k]].concat();
                    prop_assert_eq!(&disk.load(7, &[&key[..]])[0], &model.get(&key).cloned());
                }
                prop_assert_eq!(disk.fault(), None);
            }
        }
    }

    #[test]
    fn stores_are_apart_and_can_be_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), &Arc::new(Cache::new(1 << 20))).unwrap();
        for store in [1, 2, u64::MAX] {
            disk.apply(store, &mut [(&b"a"[..], Some(&b"x"[..])), (b"", Some(b"y"))].into_iter(), 2);
        }
        disk.drop_store(2);
        assert_eq!((rows(&disk, 1, ALL).len(), rows(&disk, 2, ALL).len(), rows(&disk, u64::MAX, ALL).len()), (2, 0, 2));
        assert_eq!((disk.len(1), disk.len(2)), (2, 0));
        assert_eq!(disk.load(1, &[b""]), [Some(b"y".to_vec())]);
    }

    #[test]
    fn without_a_mark_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(Cache::new(0));
        let disk = Disk::open(dir.path(), &cache).unwrap();
        disk.apply(1, &mut [(&b"a"[..], Some(&b"x"[..]))].into_iter(), 1);
        assert_eq!(disk.tidy(true), Ok(false));
        drop(disk);
        let disk = Disk::open(dir.path(), &cache).unwrap();
        assert_eq!((disk.marked(), disk.len(1)), (None, 0));
    }

    #[test]
    fn keys_that_are_too_long_are_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), &Arc::new(Cache::new(0))).unwrap();
        disk.apply(1, &mut [(&[1; 65_600][..], Some(&b"x"[..]))].into_iter(), 1);
        assert!(disk.fault().unwrap().contains("65609 bytes"));
    }

    /// Any byte of any file: it opens and tells what was written, or says that it is damaged; never another answer.
    #[test]
    fn damage_is_noticed_or_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let cache = || Arc::new(Cache::new(0));
        let disk = Disk::open(dir.path(), &cache()).unwrap();
        let mut model = BTreeMap::new();
        for round in 0..3u8 {
            let changes: Vec<_> = (0..60u8).map(|k| (vec![k / 2, k], vec![k ^ round; 20])).collect();
            model.extend(changes.iter().cloned());
            disk.apply(7, &mut changes.iter().map(|(k, v)| (&k[..], Some(&v[..]))), model.len());
            disk.mark(Mark { position: 9, chain: 5 });
            disk.tidy(true).unwrap();
        }
        drop(disk);
        let mut files = vec![];
        let mut folders = vec![dir.path().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry)
                } else {
                    let name = entry.strip_prefix(dir.path()).unwrap().to_path_buf();
                    files.push((name, std::fs::read(&entry).unwrap()))
                }
            }
        }
        // Each time in a new place: a tree that opens, whole or damaged, may remove files.
        let copy = |damaged: &std::path::Path, bytes: &[u8]| {
            let place = tempfile::tempdir().unwrap();
            for (name, whole) in &files {
                let path = place.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, if name == damaged { bytes } else { whole }).unwrap();
            }
            place
        };
        let (mut noticed, mut tried) = (0, 0);
        for (file, whole) in &files {
            for at in (0..whole.len()).step_by(1 + whole.len() / 20) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x55;
                let place = copy(file, &damaged);
                tried += 1;
                match Disk::open(place.path(), &cache()) {
                    Err(_) => noticed += 1,
                    Ok(disk) => {
                        let mut same = rows(&disk, 7, ALL) == model;
                        for (key, value) in &model {
                            same &= disk.load(7, &[key])[0].as_ref() == Some(value);
                        }
                        same &= disk.marked() == Some(Mark { position: 9, chain: 5 });
                        assert!(same || disk.fault().is_some(), "{} byte {at}", file.display());
                        noticed += usize::from(disk.fault().is_some());
                    }
                }
            }
        }
        assert!(files.len() >= 4 && tried > 60 && noticed > tried / 4, "{} {tried} {noticed}", files.len());
    }
}
