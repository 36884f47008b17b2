//! Where committed rows lie that need not be in memory: what a task's stores ask of a disk. Handed in; the core opens no file
//! and knows no clock.
//!
//! ```text
//!   get ──▶ slots of the ByteStore ──miss──▶ load                      committed ──▶ apply (the generation's rows, at once)
//!             dirty rows, undo, a cache of clean ones                  close     ──▶ mark  (the changelog's place)
//! ```
//!
//! - *Only what is committed comes here*: a generation's rows when the log has said so, or rows of the changelog.
//! - *What is here is at least what the changelog holds before the mark*, never less: it may be ahead. Entries of a changelog are
//!   whole values, so that reading it again from the mark to its end ends in the same state.
//! - *The mark carries the chain* (`task.rs`): a hash of all that was written to the changelog before it. The first `meta` record
//!   behind the mark must agree, or this is the state of another log.
//! - *No error comes back from a read.* The backend keeps the first one (`fault`), and the task asks before a generation leaves
//!   it: what was computed from a row that could not be read is never committed.

use super::store::Range;

/// A place in the changelog, and the chain there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub position: i64,
    pub chain: u64,
}

/// Rows of a range, ascending, or from the end.
pub type Rows = Box<dyn DoubleEndedIterator<Item = (Vec<u8>, Vec<u8>)> + Send>;

/// A row on its way: key, and its value or none.
pub type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// The rows of all stores of one task.
pub trait Backend: Send + Sync {
    /// The values of keys, in their order.
    fn load(&self, store: u64, keys: &[&[u8]]) -> Vec<Option<Vec<u8>>>;
    /// Applies rows, each key once; afterwards the store has `len` rows.
    fn apply(&self, store: u64, rows: &mut dyn Iterator<Item = Change<'_>>, len: usize);
    fn range(&self, store: u64, range: Range<'_>) -> Rows;
    /// Forgets all rows of a store.
    fn drop_store(&self, store: u64);
    fn len(&self, store: u64) -> usize;
    /// All of the changelog before the mark is in here now.
    fn mark(&self, mark: Mark);
    fn marked(&self) -> Option<Mark>;
    /// A store has so many bytes of clean rows in memory; how many it may have.
    fn room(&self, store: u64, bytes: usize) -> usize;
    /// Why it cannot be trusted.
    fn fault(&self) -> Option<String>;
}
