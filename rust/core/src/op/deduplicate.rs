//! `deduplicate`: drops rows whose id was seen before, within the source partition.
//!
//! An id is remembered from the row that brought it until the operator's clock (the largest event time that reached it,
//! the current row included) exceeds that row's time plus `within`. Repeats do not renew it. Copies must come by the same
//! partition as their original, as they do when producers retry with the topic's key.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::{Changelog, Ctx, Message, Needs, Operator, Stats};
use crate::column::{reason, Column, Data};
use crate::error::Fatal;
use crate::frame::{Kind, BODY_BYTES_MAX};
use crate::key;
use crate::state::Seen;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

pub struct Deduplicate {
    columns: Vec<usize>,
    seen: Seen,
    clock: i64,
    /// Hashes of the batch at hand, so that look-ups can be prefetched.
    ids: Vec<(u128, u32)>,
}

impl Deduplicate {
    pub fn new(columns: Vec<usize>, within_ms: i64) -> Self {
        Deduplicate { columns, seen: Seen::new(within_ms), clock: NO_TIME, ids: vec![] }
    }
}

impl Operator for Deduplicate {
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let Message::Rows(mut batch) = message else {
            return Err(Fatal::new("bad_plan", "deduplicate takes rows"));
        };
        let columns: Vec<Arc<Column>> = self.columns.iter().map(|&c| batch.columns[c].clone()).collect();
        let columns: Vec<&Column> = columns.iter().map(|c| &**c).collect();
        let mut live = Vec::with_capacity(batch.live_len());
        let mut repeated = 0;
        let mut bytes = Vec::with_capacity(64);
        let may_err = columns.iter().any(|c| c.state.is_some());
        let plain = match columns.as_slice() {
            [Column { data: Data::Str(text), state: None, .. }] => Some(text),
            _ => None,
        };
        self.ids.clear();
        for row in batch.live_rows() {
            if may_err {
                if let Some(state) = key::error_at(&columns, row) {
                    ctx.dead(&batch, row, reason(state), None);
                    continue;
                }
            }
            let id = match plain {
                Some(text) => xxh3_128(text.get(row)),
                None => match columns.as_slice() {
                    [one] if one.dtype.is_text() && one.is_valid(row) => xxh3_128(one.text_at(row)),
                    _ => {
                        bytes.clear();
                        key::encode_row(&columns, row, &mut bytes);
                        xxh3_128(&bytes)
                    }
                },
            };
            self.ids.push((id, row as u32));
        }
        for (i, &(id, row)) in self.ids.iter().enumerate() {
            if let Some(&(ahead, _)) = self.ids.get(i + 12) {
                self.seen.prefetch(ahead);
            }
            let ts = batch.ts[row as usize];
            self.clock = self.clock.max(ts);
            if self.seen.repeated(id, ts, self.clock) {
                repeated += 1;
            } else {
                live.push(row);
            }
        }
        ctx.count("repeated", repeated);
        if live.len() < batch.live_len() {
            batch.live = Some(live);
        }
        ctx.emit(0, Message::Rows(batch));
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        out.zigzag(self.clock);
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.clock = saved.zigzag()?;
        Some(())
    }

    fn close_generation(&mut self, changelog: &mut dyn Changelog, number: u64) {
        let mut w = Writer::default();
        let mut count = 0;
        for (id, ts) in self.seen.changes() {
            w.raw(&id.to_le_bytes());
            w.raw(&ts.to_le_bytes());
            count += 1;
            if w.bytes.len() > BODY_BYTES_MAX {
                changelog.delta(Kind::Seen, count, &w.bytes);
                w.bytes.clear();
                count = 0;
            }
        }
        if count > 0 {
            changelog.delta(Kind::Seen, count, &w.bytes);
        }
        self.seen.close_generation(number);
    }

    fn needs(&self) -> Needs {
        self.seen.needs()
    }

    fn committed(&mut self) {
        self.seen.committed();
    }

    fn rollback(&mut self) {
        self.seen.rollback();
    }

    fn restore(&mut self, kind: Kind, count: u32, body: &[u8]) -> Option<()> {
        if kind != Kind::Seen || body.len() != count as usize * 24 {
            return None;
        }
        for entry in body.chunks_exact(24) {
            let id = u128::from_le_bytes(entry[..16].try_into().ok()?);
            self.seen.restore(id, i64::from_le_bytes(entry[16..].try_into().ok()?));
        }
        Some(())
    }

    fn end_restore(&mut self) {
        self.seen.restore_clock(self.clock);
    }

    fn stats(&self, out: &mut Stats) {
        out.push(("state_keys".into(), self.seen.keys() as i64));
        out.push(("state_bytes".into(), self.seen.bytes() as i64));
    }
}
