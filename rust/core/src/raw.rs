//! Records as a log keeps them: bytes, offsets, timestamps, of one topic-partition, in offset order.
//!
//! Every log hands these in and takes these out, so nothing else in the engine knows which log it runs on. Payloads lie
//! in one arena; a batch has a serial form, used by the embedded log.

use std::cmp::Reverse;
use std::collections::binary_heap::{BinaryHeap, PeekMut};

use crate::column::Bytes;

/// Byte strings that may be null.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptBytes {
    pub values: Bytes,
    /// `None`: none is null.
    pub null: Option<Vec<bool>>,
}

impl OptBytes {
    pub fn len(&self) -> usize {
        self.values.len()
    }
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
    #[inline]
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        match &self.null {
            Some(null) if null[row] => None,
            _ => Some(self.values.get(row)),
        }
    }
    pub fn slice(&self, from: usize, to: usize) -> OptBytes {
        let ends = &self.values.ends;
        let start = if from == 0 { 0 } else { ends[from - 1] };
        let stop = if to == from { start } else { ends[to - 1] };
        let values = Bytes {
            bytes: self.values.bytes[start as usize..stop as usize].to_vec(),
            ends: ends[from..to].iter().map(|end| end - start).collect(),
        };
        let null = self.null.as_ref().map(|n| n[from..to].to_vec());
        OptBytes { values, null: null.filter(|n| n.contains(&true)) }
    }
    pub fn push(&mut self, value: Option<&[u8]>) {
        match value {
            Some(v) => {
                self.values.push(v);
                if let Some(null) = &mut self.null {
                    null.push(false);
                }
            }
            None => {
                let before = self.values.len();
                self.null.get_or_insert_with(|| vec![false; before]).push(true);
                self.values.close();
            }
        }
    }
}

/// Name and (nullable) value.
pub type Header = (String, Option<Vec<u8>>);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawBatch {
    /// Strictly ascending; gaps are legal (transaction markers, compaction).
    pub offsets: Vec<i64>,
    /// The record's own timestamp, UTC milliseconds.
    pub timestamps: Vec<i64>,
    pub keys: OptBytes,
    pub values: OptBytes,
    /// `None`: no record has headers, or nobody asked for them.
    pub headers: Option<Vec<Vec<Header>>>,
    /// The position after this batch: larger than the last offset where markers follow. A batch may be empty and only
    /// move the position.
    pub next_offset: i64,
}

impl RawBatch {
    pub fn len(&self) -> usize {
        self.offsets.len()
    }
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
    /// Makes room for so many more records and bytes of values, growing as far as doubling would at least.
    pub fn reserve(&mut self, records: usize, bytes: usize) {
        self.offsets.reserve(records);
        self.timestamps.reserve(records);
        self.keys.values.ends.reserve(records);
        self.values.values.ends.reserve(records);
        self.values.values.bytes.reserve(bytes);
    }
    /// No records, at position 0, with the memory for as many as it had.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.timestamps.clear();
        for bytes in [&mut self.keys, &mut self.values] {
            bytes.values.bytes.clear();
            bytes.values.ends.clear();
            bytes.null = None;
        }
        self.headers = None;
        self.next_offset = 0;
    }
    /// Appends one record and moves `next_offset` past it.
    pub fn push(&mut self, offset: i64, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        debug_assert!(self.offsets.last().is_none_or(|&last| last < offset));
        self.offsets.push(offset);
        self.timestamps.push(timestamp);
        self.keys.push(key);
        self.values.push(value);
        if let Some(h) = &mut self.headers {
            h.push(Vec::new());
        }
        self.next_offset = offset + 1;
    }
    /// As [`push`](Self::push), with headers.
    pub fn push_with_headers(
        &mut self,
        offset: i64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Vec<Header>,
    ) {
        if !headers.is_empty() {
            let before = self.offsets.len();
            self.headers.get_or_insert_with(|| vec![Vec::new(); before]);
        }
        self.push(offset, timestamp, key, value);
        if let Some(h) = &mut self.headers {
            if let Some(last) = h.last_mut() {
                *last = headers;
            }
        }
    }
    /// Bytes held, for memory bounds.
    pub fn byte_size(&self) -> usize {
        let headers: usize =
            self.headers.iter().flatten().flatten().map(|(n, v)| 48 + n.len() + v.as_ref().map_or(0, Vec::len)).sum();
        self.keys.values.bytes.len() + self.values.values.bytes.len() + self.len() * 24 + headers
    }
    pub fn headers_at(&self, row: usize) -> &[Header] {
        self.headers.as_ref().map(|h| h[row].as_slice()).unwrap_or(&[])
    }
    /// Rows `[from, to)` as a batch of its own; its `next_offset` is the next row's offset, or this batch's at the end.
    pub fn slice(&self, from: usize, to: usize) -> RawBatch {
        let mut out = RawBatch {
            offsets: self.offsets[from..to].to_vec(),
            timestamps: self.timestamps[from..to].to_vec(),
            keys: self.keys.slice(from, to),
            values: self.values.slice(from, to),
            headers: self.headers.as_ref().map(|h| h[from..to].to_vec()),
            next_offset: 0,
        };
        out.next_offset = if to < self.len() { self.offsets[to] } else { self.next_offset };
        out
    }
    /// The first record's offset; the position when empty.
    pub fn first_offset(&self) -> i64 {
        self.offsets.first().copied().unwrap_or(self.next_offset)
    }
    /// All records of some batches, each batch's in its own order, beside each other by their times: always the batch goes on
    /// whose time, the largest of its records so far, is the smallest; the first one of several.
    pub fn merge(batches: &[&RawBatch]) -> RawBatch {
        let mut out = RawBatch::default();
        let bytes = |of: fn(&RawBatch) -> &OptBytes| batches.iter().map(|b| of(b).values.bytes.len()).sum();
        out.reserve(batches.iter().map(|b| b.len()).sum(), bytes(|b| &b.values));
        out.keys.values.bytes.reserve(bytes(|b| &b.keys));
        let first = |of: usize| batches[of].timestamps.first().map(|&time| Reverse((time, of)));
        let mut heads: BinaryHeap<Reverse<(i64, usize)>> = (0..batches.len()).filter_map(first).collect();
        let mut rows = vec![0; batches.len()];
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((time, of)) = *head;
            let (batch, row) = (batches[of], rows[of]);
            let headers = batch.headers_at(row).to_vec();
            let offset = out.len() as i64;
            out.push_with_headers(offset, batch.timestamps[row], batch.keys.get(row), batch.values.get(row), headers);
            rows[of] += 1;
            match batch.timestamps.get(row + 1) {
                Some(&next) => *head = Reverse((time.max(next), of)),
                None => {
                    PeekMut::pop(head);
                }
            }
        }
        out
    }
    /// The same records numbered from `first` without gaps: what a log does on append.
    pub fn with_offsets(&self, first: i64) -> RawBatch {
        let next_offset = first + self.len() as i64;
        RawBatch { offsets: (first..next_offset).collect(), next_offset, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn merged_batches_keep_their_orders_and_stand_by_their_times(
            given in prop::collection::vec(prop::collection::vec((0i64..20, any::<bool>()), 0..8), 0..4),
        ) {
            let mut expected = vec![];
            let mut batches = vec![];
            for (of, rows) in given.iter().enumerate() {
                let (mut batch, mut time) = (RawBatch::default(), 0);
                for (row, &(at, null)) in rows.iter().enumerate() {
                    time = at.max(time);
                    let name = format!("{of}.{row}");
                    let headers = if row == 1 { vec![(name.clone(), None)] } else { vec![] };
                    batch.push_with_headers(row as i64 * 2, at, (!null).then_some(name.as_bytes()), Some(b"v"), headers.clone());
                    expected.push((time, of, at, (!null).then_some(name), headers));
                }
                batches.push(batch);
            }
            expected.sort_by_key(|e| (e.0, e.1));
            let merged = RawBatch::merge(&batches.iter().collect::<Vec<_>>());
            prop_assert_eq!(merged.len(), expected.len());
            prop_assert_eq!(merged.next_offset, expected.len() as i64);
            for (row, (_, _, at, key, headers)) in expected.into_iter().enumerate() {
                prop_assert_eq!((merged.offsets[row], merged.timestamps[row]), (row as i64, at));
                prop_assert_eq!(merged.keys.get(row), key.as_ref().map(String::as_bytes));
                prop_assert_eq!(merged.values.get(row), Some(&b"v"[..]));
                prop_assert_eq!(merged.headers_at(row), &headers[..]);
            }
        }
    }
}
