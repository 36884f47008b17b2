//! What a worker keeps in memory of all its stores on disk: one budget in bytes.
//!
//! ```text
//!   half: blocks of files, whoever's          half: clean rows in the stores' own maps, which `room` shares out
//! ```
//!
//! While all rows together fit, nobody lets go of any. Then each store has its share, and what the others leave of theirs.
//! Beside it come the tables that wait to be written, `table_bytes` for each task, and what a generation has touched.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub struct Cache {
    pub(crate) blocks: Arc<lsm_tree::Cache>,
    /// A table in memory of so many bytes is written.
    pub(crate) table_bytes: u64,
    rows_max: usize,
    rows: Mutex<HashMap<(u64, u64), usize>>,
    ids: AtomicU64,
}

const TABLE_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(16 << 20);

impl Cache {
    pub fn new(bytes: u64) -> Cache {
        Cache {
            blocks: Arc::new(lsm_tree::Cache::with_capacity_bytes(bytes / 2)),
            table_bytes: (bytes / 16).clamp(*TABLE_BYTES.start(), *TABLE_BYTES.end()),
            rows_max: (bytes / 2) as usize,
            rows: Mutex::default(),
            ids: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn room(&self, store: (u64, u64), bytes: usize) -> usize {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.insert(store, bytes);
        let all: usize = rows.values().sum();
        if all <= self.rows_max {
            return usize::MAX;
        }
        (self.rows_max / rows.len()).max(self.rows_max.saturating_sub(all - bytes))
    }

    pub(crate) fn forget(&self, tree: u64) {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).retain(|of, _| of.0 != tree);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_share_what_there_is() {
        let cache = Cache::new(2000);
        assert_eq!(cache.room((0, 1), 900), usize::MAX);
        assert_eq!(cache.room((0, 2), 100), usize::MAX);
        assert_eq!(cache.room((1, 1), 300), 333);
        assert_eq!(cache.room((0, 1), 900), 600); // the others have 400
        cache.forget(1);
        assert_eq!(cache.room((0, 1), 900), usize::MAX);
    }
}
