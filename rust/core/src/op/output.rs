//! Where rows leave: user topics (one record a row) and the internal topics that sinks read (frames).

use super::{Ctx, Message, Operator, Outgoing};
use crate::batch::Batch;
use crate::codec::JsonEncoder;
use crate::column::{reason, Column, NULL};
use crate::error::Fatal;
use crate::expr::Fault;
use crate::flow::serde::{unavailable, UNAVAILABLE};
use crate::frame::{row_frames, Beside, Header, Kind};
use crate::key;
use crate::partitioner;
use crate::wire::{Reader, Writer};

/// The rows of a message that are to be written: new values, none with an error in what is read.
fn readable(batch: &Batch, read: &[usize], ctx: &mut Ctx<'_>) -> Vec<u32> {
    let mut rows = Vec::with_capacity(batch.live_len());
    'rows: for row in batch.live_rows() {
        if batch.sign.as_ref().is_some_and(|s| s[row] < 0) {
            continue;
        }
        for &c in read {
            let state = batch.columns[c].state_at(row);
            if state > NULL {
                ctx.dead(batch, row, reason(state), batch.columns[c].message_at(row));
                continue 'rows;
            }
        }
        rows.push(row as u32);
    }
    rows
}

fn batch_of(message: Message) -> Result<Batch, Fatal> {
    match message {
        Message::Rows(batch) => Ok(batch),
        _ => Err(Fatal::new("bad_plan", "an output takes rows")),
    }
}

/// `to(topic)`: one record a row, in JSON or what a callable makes of it, keyed, partitioned by murmur2 of the key as Java clients do.
pub struct ToTopic {
    pub topic: usize,
    pub keys: Vec<usize>,
    /// Every column that is read: keys and values.
    pub read: Vec<usize>,
    pub encoder: JsonEncoder,
    /// The callable that makes another format of the JSON.
    pub encode: Option<usize>,
}

impl ToTopic {
    fn value(&self, batch: &Batch, row: usize) -> Vec<u8> {
        let mut value = Vec::with_capacity(256);
        self.encoder.encode_row(batch, row, &mut value);
        value
    }

    /// The rows that have a form in the other format, with it; the others are dead letters.
    fn translated(
        &self,
        encode: usize,
        batch: &Batch,
        rows: Vec<u32>,
        values: &[Vec<u8>],
        ctx: &mut Ctx<'_>,
    ) -> Result<(Vec<u32>, Vec<Vec<u8>>), Fatal> {
        let given: Vec<Option<&[u8]>> = values.iter().map(|v| Some(&v[..])).collect();
        let answers = ctx.foreign.translate(encode, &given).map_err(failed)?;
        let mut good = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (row, answer) in rows.into_iter().zip(answers) {
            match answer {
                Ok(value) => {
                    good.0.push(row);
                    good.1.push(value.unwrap_or_default());
                }
                Err(text) => ctx.dead(batch, row as usize, "unwritable_value", Some(&text)),
            }
        }
        Ok(good)
    }
}

/// A format of the host that cannot go on.
pub fn failed((reason, text): Fault) -> Fatal {
    match reason {
        UNAVAILABLE => unavailable(text),
        _ => Fatal::new("format_failed", text),
    }
}

impl Operator for ToTopic {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let batch = batch_of(message)?;
        let rows = readable(&batch, &self.read, ctx);
        let keys: Vec<&Column> = self.keys.iter().map(|&k| &*batch.columns[k]).collect();
        let partitions = ctx.partitions[self.topic].max(1);
        let mut values: Vec<Vec<u8>> = rows.iter().map(|&row| self.value(&batch, row as usize)).collect();
        let mut written = rows;
        if let Some(encode) = self.encode {
            (written, values) = self.translated(encode, &batch, written, &values, ctx)?;
        }
        ctx.count("out", written.len() as u64);
        for (row, value) in written.into_iter().zip(values) {
            let row = row as usize;
            let mut bytes = vec![];
            let keyed = key::user_key(&keys, row, &mut bytes);
            let partition = match keyed {
                true => partitioner::partition(&bytes, partitions),
                // Without a key the task's own partition: the same records land in the same place on every run.
                false => ctx.task_partition % partitions,
            };
            ctx.outgoing.push(Outgoing {
                topic: self.topic,
                partition,
                seq: batch.seq[row],
                timestamp: batch.ts[row].max(0),
                key: keyed.then_some(bytes),
                value: Some(value),
                headers: vec![],
            });
        }
        Ok(())
    }
}

/// Rows for an external sink, as frames on an internal topic: the sink's task reads them once they are committed. A row
/// stays in its task's partition, so the newest row of a key is the last one there.
pub struct SinkRows {
    pub topic: usize,
    pub columns: Vec<usize>,
    pub schema: u64,
    pub sequence: u64,
}

impl Operator for SinkRows {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let batch = batch_of(message)?;
        let rows = readable(&batch, &self.columns, ctx);
        ctx.count("out", rows.len() as u64);
        let columns: Vec<&Column> = self.columns.iter().map(|&c| &*batch.columns[c]).collect();
        let beside = Beside { ts: &batch.ts, stamps: None, signs: None };
        let partition = ctx.task_partition % ctx.partitions[self.topic].max(1);
        row_frames(&columns, beside, &rows, &mut |chunk, frame| {
            let header = Header {
                kind: Kind::Rows,
                lane: ctx.task_partition,
                sequence: self.sequence,
                clock: i64::MIN,
                schema: self.schema,
                count: chunk.len() as u32,
            };
            self.sequence += 1;
            ctx.outgoing.push(Outgoing {
                topic: self.topic,
                partition,
                seq: batch.seq[chunk[0] as usize],
                timestamp: chunk.iter().map(|&r| batch.ts[r as usize]).max().unwrap_or(0).max(0),
                key: None,
                value: Some(frame.seal(&header)),
                headers: vec![],
            });
        });
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        out.varint(self.sequence);
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.sequence = saved.varint()?;
        Some(())
    }
}
