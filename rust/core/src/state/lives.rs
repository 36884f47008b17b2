//! Groups that are forgotten: the lives of a key.
//!
//! A row comes at the time of its lane's clock (`at`, the row included), which never goes back within a lane. Rows of a key
//! of which each comes less than `ttl` after the one before, whatever lanes they come from, are one *life*; a gap of `ttl`
//! ends it, and the next row begins another from nothing. So which rows are folded together depends on the order within
//! each lane alone. Where lanes are further apart than `ttl`, a slow lane may still bring what joins two lives into one:
//! until then both are kept. The newest life of a key is its row in the table.
//!
//! ```text
//! at        0        ttl       2 ttl      3 ttl           a pane holds the lives whose last row came in its `ttl` of time;
//! rows      x  x   x    |  x     |          |   x         all of a key's rows are at most one life of a pane
//! lives     [------------- ]                    [ ]
//! pane                     1                    3
//! ```
//!
//! Panes end as those of windows do, whole: once the slowest lane is `ttl` past the end of a pane, nothing can join a life
//! in it. A life moves on to the pane of its newest row and leaves an empty row behind, which the changelog is told, too.

use std::collections::HashMap;

use super::{hash, u32_at, Store, HEADER};
use crate::aggregate::Vars;
use crate::wire::{Reader, Writer};

/// The pane of lives whose last row came at `at`.
#[inline]
pub fn pane(at: i64, ttl: i64) -> i64 {
    at.div_euclid(ttl).saturating_mul(ttl)
}

/// Whether nothing can join the lives of a pane any more.
#[inline]
pub fn is_over(pane: i64, ttl: i64, slowest: i64) -> bool {
    pane.saturating_add(ttl).saturating_add(ttl) <= slowest
}

/// A row of the table.
#[derive(Clone, Copy)]
struct Row<'a> {
    pane: i64,
    cells: &'a [u8],
    ts: i64,
}

/// What became of a key in the open generation.
pub struct LifeChange<'a> {
    pub key: &'a [u8],
    pub old: Option<&'a [u8]>,
    pub new: &'a [u8],
    pub max_ts: i64,
}

impl Store {
    /// Joins rows of `key` that came from `first` to `last`, without a gap of `ttl`, with what they continue, as one life;
    /// returns its pane, where they are to be folded.
    pub fn join(&mut self, ttl: i64, key: &[u8], hash: u32, first: i64, last: i64) -> i64 {
        let mut span = (first, last);
        let mut joined: Vec<i64> = vec![];
        let mut next = self.next_window(pane(first.saturating_sub(ttl), ttl));
        while let Some(at) = next {
            if let Some((from, to)) = self.peek(at, key, hash).and_then(|(cells, _)| self.layout.span(cells)) {
                if from >= last.saturating_add(ttl) {
                    break;
                }
                if to.saturating_add(ttl) > first {
                    joined.push(at);
                    span = (span.0.min(from), span.1.max(to));
                }
                if to >= last {
                    break;
                }
            }
            next = self.next_window(at + 1);
        }
        let home = pane(span.1, ttl);
        for &at in joined.iter().rev().filter(|&&at| at != home) {
            self.move_life(at, home, key, hash);
        }
        self.update(home, key, hash, i64::MIN, |layout, row, _| layout.set_span(row, span));
        home
    }

    fn move_life(&mut self, from: i64, home: i64, key: &[u8], hash: u32) {
        let Some((cells, ts)) = self.peek(from, key, hash).map(|(cells, ts)| (cells.to_vec(), ts)) else { return };
        self.update(from, key, hash, i64::MIN, |_, row, _| row.fill(0));
        self.update(home, key, hash, ts, |layout, row, scope| {
            let mut unused = vec![];
            if layout.span(row).is_none() {
                layout.handles(row, &mut unused);
                row.copy_from_slice(&cells);
            } else {
                // Both have their texts in the same arena: one of them goes through bytes.
                let (mut w, mut side, mut other) = (Writer::default(), Vars::default(), vec![0; layout.size]);
                layout.write(&cells, scope.vars, &mut w);
                if layout.read(&mut Reader::new(&w.bytes), &mut other, &mut |v| side.put(v)).is_some() {
                    layout.merge(row, &other, &side, scope);
                }
                layout.handles(&cells, &mut unused);
            }
            scope.given_up.extend(unused.into_iter().filter(|&handle| handle != 0));
        });
    }

    /// A group's accumulators and its largest event time.
    fn peek(&self, window: i64, key: &[u8], hash: u32) -> Option<(&[u8], i64)> {
        let pane = self.panes.get(window)?;
        let row = pane.row(pane.find(key, hash).ok()?);
        Some((&row[HEADER..], i64::from_le_bytes(row[16..24].try_into().expect("8 bytes"))))
    }

    /// The newest life of a key; with `before`, as it was when the generation began.
    fn newest(&self, key: &[u8], hash: u32, before: Option<&HashMap<(i64, u32), Option<usize>>>) -> Option<Row<'_>> {
        let generation = self.generations.back()?;
        self.panes.list.iter().rev().find_map(|(window, pane)| {
            let index = pane.find(key, hash).ok()?;
            let row = match before.and_then(|touched| touched.get(&(*window, index))) {
                None => pane.row(index),
                Some(None) => return None,
                Some(&Some(at)) => &generation.old[at..at + pane.row_size],
            };
            let cells = &row[HEADER..];
            self.layout.span(cells)?;
            Some(Row { pane: *window, cells, ts: i64::from_le_bytes(row[16..24].try_into().expect("8 bytes")) })
        })
    }

    /// The keys whose row in the table changed in the open generation, in order of the latest update of each one's newest life.
    pub fn life_changes(&self, mut see: impl FnMut(LifeChange<'_>, &Vars)) {
        let Some(generation) = self.generations.back() else { return };
        let touched: HashMap<(i64, u32), Option<usize>> =
            generation.touched.iter().map(|t| ((t.window, t.row), t.old)).collect();
        let mut order: Vec<(u32, i64, &[u8])> = vec![];
        for t in &generation.touched {
            if let Some(pane) = self.panes.get(t.window) {
                order.push((u32_at(pane.row(t.row), 12), t.window, pane.key(t.row)));
            }
        }
        order.sort_unstable();
        for (_, window, key) in order {
            let hash = hash(key);
            if let Some(new) = self.newest(key, hash, None).filter(|row| row.pane == window) {
                let old = self.newest(key, hash, Some(&touched)).map(|row| row.cells);
                see(LifeChange { key, old, new: new.cells, max_ts: new.ts }, &self.vars);
            }
        }
    }

    /// The keys that go with the panes which are over, by pane, then key: those that have no newer life.
    pub fn ends_of_lives(&self, ttl: i64, slowest: i64, mut see: impl FnMut(LifeChange<'_>, &Vars)) {
        for (window, _) in self.panes.list.iter().take_while(|(window, _)| is_over(*window, ttl, slowest)) {
            self.window(*window, |key, ts, cells, vars| {
                if self.newest(key, hash(key), None).is_some_and(|row| row.pane == *window) {
                    see(LifeChange { key, old: None, new: cells, max_ts: ts }, vars);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{result_value, Layout, Spec};
    use crate::column::Value;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TTL: i64 = 10;

    fn store() -> Store {
        let spec = Spec { function: "count".into(), input: None, ..Spec::default() };
        Store::new(Layout::new(&[spec]).unwrap().with_span())
    }

    fn row(store: &mut Store, key: u8, at: i64) {
        let key = [key];
        let home = store.join(TTL, &key, hash(&key), at, at);
        store.update(home, &key, hash(&key), at, |_, row, _| {
            let n = i64::from_le_bytes(row[..8].try_into().unwrap());
            row[..8].copy_from_slice(&(n + 1).to_le_bytes());
        });
    }

    type Lives = BTreeMap<u8, Vec<(i64, i64, i64)>>;

    fn lives(store: &Store) -> Lives {
        let mut found = Lives::new();
        for window in store.panes.list.iter().map(|p| p.0) {
            store.window(window, |key, ts, cells, vars| {
                let Some((from, to)) = store.layout.span(cells) else { return };
                assert_eq!((pane(to, TTL), ts), (window, to));
                let Value::Int(n) = result_value(&store.layout, 0, cells, vars) else { panic!() };
                found.entry(key[0]).or_default().push((from, to, n));
            });
        }
        found
    }

    /// Lives of times in any order.
    fn model(rows: &[(u8, i64)]) -> Lives {
        let mut found = Lives::new();
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        for (key, at) in rows {
            let lives = found.entry(key).or_default();
            match lives.last_mut() {
                Some(life) if at < life.1 + TTL => (life.1, life.2) = (at, life.2 + 1),
                _ => lives.push((at, at, 1)),
            }
        }
        found
    }

    proptest! {
        /// In whatever order rows come, they make the same lives; so they do after a rollback and in two generations.
        #[test]
        fn the_order_of_rows_does_not_show(
            rows in prop::collection::vec((0u8..3, 0i64..150), 0..40),
            undone in prop::collection::vec((0u8..3, 0i64..150), 0..20),
            cut in 0usize..40,
        ) {
            let mut store = store();
            let (first, second) = rows.split_at(cut.min(rows.len()));
            first.iter().for_each(|&(key, at)| row(&mut store, key, at));
            store.close_generation();
            store.committed();
            let committed = lives(&store);
            undone.iter().for_each(|&(key, at)| row(&mut store, key, at));
            store.rollback();
            prop_assert_eq!(&lives(&store), &committed);
            second.iter().for_each(|&(key, at)| row(&mut store, key, at));
            prop_assert_eq!(lives(&store), model(&rows));
            // What is told: the newest life before and after, of those whose newest has changed.
            let newest = |lives: &Lives, key: u8| lives.get(&key).and_then(|l| l.last().copied());
            let mut told = BTreeMap::new();
            store.life_changes(|c, vars| {
                let n = |cells: &[u8]| {
                    let Value::Int(n) = result_value(&store.layout, 0, cells, vars) else { panic!() };
                    let (from, to) = store.layout.span(cells).unwrap();
                    (from, to, n)
                };
                told.insert(c.key[0], (c.old.map(n), n(c.new)));
            });
            let now = model(&rows);
            for key in 0..3 {
                let (was, is) = (newest(&committed, key), newest(&now, key));
                prop_assert_eq!(told.get(&key).copied(), is.filter(|_| was != is).map(|is| (was, is)));
            }
        }
    }
}
