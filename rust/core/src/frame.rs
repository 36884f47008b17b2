//! Frames: many rows in one message of an internal topic.
//!
//! ```text
//! frame = version u8 | kind u8 | lane varint | sequence varint | clock zigzag | schema u64 | count varint | body | xxh3 u64
//! ```
//!
//! `sequence` counts the frames of one lane to one partition without gaps, so that the reader audits its shuffle for free.
//! `clock` is the lane's clock after the frame. `schema` is a hash of what the body means; a reader with another plan
//! refuses. The checksum covers everything before it. State frames ([`Kind::State`], [`Kind::Seen`], [`Kind::Store`], [`Kind::Meta`]) go to
//! the changelog in the same envelope, with a hash of the operation's name and meaning as schema.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::batch::Batch;
use crate::column::{Bytes, Column, Data, VALID};
use crate::error::Fatal;
use crate::types::{DataType, Schema};
use crate::wire::{Reader, Writer};

pub const VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Columns, with times and stamps.
    Rows = 1,
    /// Partial aggregates: (window, key, largest time, accumulators).
    Partials = 2,
    /// Nothing but the clock.
    Clock = 3,
    /// Rows that their lane found late, uncombined.
    Late = 4,
    /// Groups of a store: as partials.
    State = 5,
    /// Ids of `deduplicate`.
    Seen = 6,
    /// The small state of a task, whole.
    Meta = 7,
    /// Nothing but the clock, and that nobody need wait for this lane until it speaks again.
    Idle = 8,
    /// Entries of a store of a record flow.
    Store = 9,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [
            Kind::Rows,
            Kind::Partials,
            Kind::Clock,
            Kind::Late,
            Kind::State,
            Kind::Seen,
            Kind::Meta,
            Kind::Idle,
            Kind::Store,
        ]
        .into_iter()
        .find(|k| *k as u8 == byte)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub kind: Kind,
    pub lane: u32,
    pub sequence: u64,
    pub clock: i64,
    pub schema: u64,
    pub count: u32,
}

pub fn schema_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// The envelope around a body.
pub fn seal(header: &Header, body: &[u8]) -> Vec<u8> {
    let mut draft = Draft::with_capacity(body.len());
    draft.body.raw(body);
    draft.seal(header)
}

/// A frame whose body is written where it will stay: behind room for a header that is known last.
pub struct Draft {
    pub body: Writer,
}

/// The header with every varint at its full width, so that it fills the room whatever it says.
const ROOM: usize = 40;
const SUM: usize = 8;

impl Draft {
    pub fn with_capacity(body: usize) -> Draft {
        let mut bytes = Vec::with_capacity(ROOM + body + SUM);
        bytes.resize(ROOM, 0);
        Draft { body: Writer { bytes } }
    }
    /// Bytes of the body so far.
    pub fn len(&self) -> usize {
        self.body.bytes.len() - ROOM
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What lies behind the first `at` bytes of the body, as a draft with room for so many.
    pub fn split_off(&mut self, at: usize, capacity: usize) -> Draft {
        let mut tail = Draft::with_capacity(capacity.max(self.len() - at));
        tail.body.raw(&self.body.bytes[ROOM + at..]);
        self.body.bytes.truncate(ROOM + at);
        tail
    }
    pub fn seal(self, header: &Header) -> Vec<u8> {
        let mut bytes = self.body.bytes;
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&[VERSION, header.kind as u8]);
        put(&wide::<5>(header.lane as u64));
        put(&wide::<10>(header.sequence));
        put(&wide::<10>(((header.clock << 1) ^ (header.clock >> 63)) as u64));
        put(&header.schema.to_le_bytes());
        put(&wide::<5>(header.count as u64));
        debug_assert_eq!(at, ROOM);
        let sum = xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// A varint in `N` bytes.
fn wide<const N: usize>(mut v: u64) -> [u8; N] {
    let mut out = [0x80; N];
    for byte in &mut out {
        *byte |= (v & 0x7f) as u8;
        v >>= 7;
    }
    out[N - 1] &= 0x7f;
    out
}

/// Checks and opens a frame: its header and its body.
pub fn open(frame: &[u8]) -> Result<(Header, &[u8]), Fatal> {
    let corrupt = |what: &str| Fatal::new("corrupt_frame", format!("a frame of an internal topic {what}"));
    let Some((content, sum)) = frame.split_last_chunk::<8>() else { return Err(corrupt("is too short")) };
    if xxh3_64(content) != u64::from_le_bytes(*sum) {
        return Err(corrupt("does not match its checksum"));
    }
    let mut r = Reader::new(content);
    if r.u8() != Some(VERSION) {
        return Err(Fatal::new(
            "newer_frame",
            "a frame was written by a newer version of adstream: upgrade this worker",
        ));
    }
    let mut header = || {
        Some(Header {
            kind: Kind::of(r.u8()?)?,
            lane: u32::try_from(r.varint()?).ok()?,
            sequence: r.varint()?,
            clock: r.zigzag()?,
            schema: r.u64()?,
            count: u32::try_from(r.varint()?).ok()?,
        })
    };
    let header = header().ok_or_else(|| corrupt("has a broken header"))?;
    Ok((header, r.rest))
}

/// What stands beside the columns: times, and where they are given stamps and signs (see [`Batch`]).
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    pub ts: &'a [i64],
    pub stamps: Option<&'a [i64]>,
    pub signs: Option<&'a [i8]>,
}

/// The body of some rows of a batch: `columns` in order, then what stands beside them.
pub fn write_rows(columns: &[&Column], beside: Beside<'_>, rows: &[u32]) -> Draft {
    let Beside { ts, stamps, signs } = beside;
    let mut draft = Draft::with_capacity(rows.len() * row_bytes(columns));
    let w = &mut draft.body;
    for column in columns {
        let states = column.state.as_ref().filter(|s| rows.iter().any(|&r| s[r as usize] != VALID));
        w.u8(states.is_some() as u8);
        if let Some(states) = states {
            for &r in rows {
                w.u8(states[r as usize]);
            }
        }
        match &column.data {
            Data::Bool(v) => rows.iter().for_each(|&r| w.u8(v[r as usize])),
            Data::I64(v) => rows.iter().for_each(|&r| w.u64(v[r as usize] as u64)),
            Data::F64(v) => rows.iter().for_each(|&r| w.u64(v[r as usize].to_bits())),
            Data::I128(v) => rows.iter().for_each(|&r| w.raw(&v[r as usize].to_le_bytes())),
            Data::Code(v) => rows.iter().for_each(|&r| w.varint(v[r as usize] as u64)),
            Data::Str(v) => rows.iter().for_each(|&r| w.blob(v.get(r as usize))),
        }
    }
    let mut last = 0;
    for &r in rows {
        w.zigzag(ts[r as usize].wrapping_sub(last));
        last = ts[r as usize];
    }
    w.u8(stamps.is_some() as u8);
    if let Some(stamps) = stamps {
        for &r in rows {
            w.varint(stamps[r as usize].wrapping_sub(ts[r as usize]) as u64);
        }
    }
    w.u8(signs.is_some() as u8);
    if let Some(signs) = signs {
        rows.iter().for_each(|&r| w.u8(signs[r as usize] as u8));
    }
    draft
}

/// About how many bytes a row takes, never far too few.
fn row_bytes(columns: &[&Column]) -> usize {
    let size = |column: &&Column| match &column.data {
        Data::Bool(_) => 2,
        Data::I64(_) | Data::F64(_) => 9,
        Data::I128(_) => 17,
        Data::Code(_) => 2,
        Data::Str(v) => 3 + v.bytes.len().div_ceil(v.len().max(1)),
    };
    // Time, stamp and sign.
    14 + columns.iter().map(size).sum::<usize>()
}

/// A frame's body is kept below this, unless a single entry is larger: brokers refuse messages of more than about 1 MB by
/// default.
pub const BODY_BYTES_MAX: usize = 512 * 1024;

/// The rows as frames, each body below [`BODY_BYTES_MAX`] unless a single row is larger: (rows, frame), in order.
pub fn row_frames(columns: &[&Column], beside: Beside<'_>, rows: &[u32], each: &mut dyn FnMut(&[u32], Draft)) {
    let fit = (BODY_BYTES_MAX / row_bytes(columns)).clamp(1, 4096);
    for chunk in rows.chunks(fit) {
        let draft = write_rows(columns, beside, chunk);
        if draft.len() > BODY_BYTES_MAX && chunk.len() > 1 {
            let (left, right) = chunk.split_at(chunk.len() / 2);
            row_frames(columns, beside, left, each);
            row_frames(columns, beside, right, each);
        } else {
            each(chunk, draft);
        }
    }
}

/// Reads what [`write_rows`] wrote.
pub fn read_rows(schema: &Arc<Schema>, header: &Header, body: &[u8]) -> Result<Batch, Fatal> {
    parse_rows(schema, header, body)
        .ok_or_else(|| Fatal::new("corrupt_frame", "the rows of a frame end before their count"))
}

fn parse_rows(schema: &Arc<Schema>, header: &Header, body: &[u8]) -> Option<Batch> {
    let n = header.count as usize;
    // A row needs a byte at least: a count that lies cannot make us allocate out of proportion.
    if n > body.len() {
        return None;
    }
    let mut r = Reader::new(body);
    let mut columns = Vec::with_capacity(schema.len());
    for field in &schema.fields {
        let state = (r.u8()? != 0).then(|| r.raw(n).map(<[u8]>::to_vec)).map_or(Some(None), |s| s.map(Some))?;
        let data = match &field.dtype {
            DataType::Bool => Data::Bool(r.raw(n)?.to_vec()),
            DataType::Int | DataType::Timestamp | DataType::Duration => {
                Data::I64(r.raw(n * 8)?.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap())).collect())
            }
            DataType::Float => {
                Data::F64(r.raw(n * 8)?.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect())
            }
            DataType::Decimal { .. } => Data::I128(
                r.raw(n * 16)?.chunks_exact(16).map(|c| i128::from_le_bytes(c.try_into().unwrap())).collect(),
            ),
            DataType::Enum(values) => {
                let mut v = Vec::with_capacity(n);
                for row in 0..n {
                    let code = u32::try_from(r.varint()?).ok()?;
                    let valid = state.as_ref().is_none_or(|s| s[row] == VALID);
                    if valid && code as usize >= values.len() {
                        return None;
                    }
                    v.push(code);
                }
                Data::Code(v)
            }
            DataType::Str | DataType::Json => {
                let mut v = Bytes::with_capacity(n, 0);
                for _ in 0..n {
                    v.push(r.blob()?);
                }
                Data::Str(v)
            }
        };
        columns.push(Arc::new(Column::new(field.dtype.clone(), data, state)));
    }
    let mut ts = Vec::with_capacity(n);
    let mut last = 0i64;
    for _ in 0..n {
        last = last.wrapping_add(r.zigzag()?);
        ts.push(last);
    }
    let stamp = if r.u8()? != 0 {
        let mut v = Vec::with_capacity(n);
        for &t in &ts {
            v.push(t.wrapping_add(r.varint()? as i64));
        }
        Some(Arc::new(v))
    } else {
        None
    };
    let sign = if r.u8()? != 0 { Some(Arc::new(r.raw(n)?.iter().map(|&b| b as i8).collect())) } else { None };
    if !r.rest.is_empty() {
        return None;
    }
    Some(Batch {
        schema: schema.clone(),
        columns,
        rows: n,
        live: None,
        seq: Arc::new((0..n as u32).collect()),
        path: None,
        ts: Arc::new(ts),
        key: None,
        sign,
        lane: header.lane,
        stamp,
        origins: Arc::new(vec![]),
        origin_rows: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::{ColumnBuilder, Value};
    use proptest::prelude::*;

    fn header(kind: Kind, count: u32) -> Header {
        Header { kind, lane: 3, sequence: 9, clock: -5, schema: 77, count }
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut newer = seal(&header(Kind::State, 1), b"body");
        newer.truncate(newer.len() - 8);
        newer[0] = VERSION + 1;
        let sum = xxh3_64(&newer);
        newer.extend_from_slice(&sum.to_le_bytes());
        assert_eq!(open(&newer).unwrap_err().code, "newer_frame");
    }

    proptest! {
        #[test]
        fn rows_round_trip(items in prop::collection::vec((any::<Option<i64>>(), "\\PC{0,8}", any::<i64>(), 0i64..1_000_000), 0..20)) {
            let schema = Arc::new(Schema::new([("a", DataType::Int), ("b", DataType::Str)]));
            let mut a = ColumnBuilder::new(DataType::Int);
            let mut b = ColumnBuilder::new(DataType::Str);
            for (x, s, ..) in &items {
                a.push_value(&x.map_or(Value::Null, Value::Int));
                b.push_str(s.as_bytes());
            }
            let (a, b) = (a.finish(), b.finish());
            let ts: Vec<i64> = items.iter().map(|i| i.2).collect();
            let stamps: Vec<i64> = items.iter().map(|i| i.2.wrapping_add(i.3)).collect();
            let rows: Vec<u32> = (0..items.len() as u32).collect();
            let signs: Vec<i8> = ts.iter().map(|t| if t % 2 == 0 { 1 } else { -1 }).collect();
            let beside = Beside { ts: &ts, stamps: Some(&stamps), signs: Some(&signs) };
            let sealed = write_rows(&[&a, &b], beside, &rows).seal(&header(Kind::Rows, items.len() as u32));
            let (h, opened) = open(&sealed).unwrap();
            prop_assert_eq!(&h, &header(Kind::Rows, items.len() as u32));
            let batch = read_rows(&schema, &h, opened).unwrap();
            for row in 0..items.len() {
                prop_assert_eq!(batch.columns[0].value_at(row), a.value_at(row));
                prop_assert_eq!(batch.columns[1].value_at(row), b.value_at(row));
            }
            prop_assert_eq!(&*batch.ts, &ts);
            prop_assert_eq!(&**batch.sign.as_ref().unwrap(), &signs);
            prop_assert_eq!(&**batch.stamp.as_ref().unwrap(), &stamps);
        }

        #[test]
        fn a_header_of_any_numbers_opens(lane: u32, sequence: u64, clock: i64, schema: u64, count: u32, body: Vec<u8>) {
            let header = Header { kind: Kind::Clock, lane, sequence, clock, schema, count };
            let sealed = seal(&header, &body);
            prop_assert_eq!(open(&sealed).unwrap(), (header, &body[..]));
        }

        #[test]
        fn a_flipped_or_missing_byte_is_noticed(at in 0usize..200, bit in 0u8..8) {
            let sealed = seal(&header(Kind::Meta, 1), b"some body of some length");
            let mut bad = sealed.clone();
            let at = at % bad.len();
            bad[at] ^= 1 << bit;
            prop_assert!(open(&bad).is_err());
            prop_assert!(open(&sealed[..at]).is_err());
        }
    }
}
