//! A batch as bytes: versioned, checksummed, compact. What the embedded log writes to its file.
//!
//! ```text
//! 0xAD  version  flags  rows  next_offset          flags: 1 = there are headers
//! rows x (offset - the one before, timestamp - the one before)
//! rows x (key length + 1, or 0 for null)           all numbers are LEB128 varints, zigzag where they may be negative
//! rows x (value length + 1, or 0 for null)
//! keys' bytes  values' bytes
//! rows x (count, count x (name length, name, value length + 1 or 0, value))
//! xxh3-64 of everything above, little-endian
//! ```
//! The checksum comes before any parsing; the parser still trusts no length, because a file may have been written by a
//! program that was wrong.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::raw::{Header, OptBytes, RawBatch};

pub const MAGIC: u8 = 0xAD;
pub const VERSION: u8 = 1;
const HAS_HEADERS: u8 = 1;
const CHECKSUM: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialError {
    /// Shorter than any batch, or not one at all.
    NotABatch,
    Version(u8),
    Checksum,
    /// The checksum fits, the contents do not.
    Malformed(&'static str),
}

impl fmt::Display for SerialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SerialError::NotABatch => write!(f, "these bytes are not a batch"),
            SerialError::Version(v) => {
                write!(f, "the batch has format version {v}, this program reads version {VERSION}")
            }
            SerialError::Checksum => write!(f, "the batch is damaged: its checksum does not match"),
            SerialError::Malformed(what) => write!(f, "the batch is malformed: {what}"),
        }
    }
}

impl std::error::Error for SerialError {}

pub fn to_bytes(batch: &RawBatch) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + batch.byte_size());
    out.extend([MAGIC, VERSION, if batch.headers.is_some() { HAS_HEADERS } else { 0 }]);
    put(&mut out, batch.len() as u64);
    put(&mut out, zigzag(batch.next_offset));
    let (mut offset, mut timestamp) = (0i64, 0i64);
    for (&o, &t) in batch.offsets.iter().zip(&batch.timestamps) {
        put(&mut out, zigzag(o.wrapping_sub(offset)));
        put(&mut out, zigzag(t.wrapping_sub(timestamp)));
        (offset, timestamp) = (o, t);
    }
    for column in [&batch.keys, &batch.values] {
        for row in 0..batch.len() {
            put(&mut out, column.get(row).map_or(0, |b| b.len() as u64 + 1));
        }
    }
    out.extend_from_slice(&batch.keys.values.bytes);
    out.extend_from_slice(&batch.values.values.bytes);
    if let Some(headers) = &batch.headers {
        for row in headers {
            put(&mut out, row.len() as u64);
            for (name, value) in row {
                put(&mut out, name.len() as u64);
                out.extend_from_slice(name.as_bytes());
                put(&mut out, value.as_ref().map_or(0, |v| v.len() as u64 + 1));
                out.extend_from_slice(value.as_deref().unwrap_or(&[]));
            }
        }
    }
    let sum = xxh3_64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

pub fn from_bytes(data: &[u8]) -> Result<RawBatch, SerialError> {
    if data.len() < 3 + CHECKSUM || data[0] != MAGIC {
        return Err(SerialError::NotABatch);
    }
    if data[1] != VERSION {
        return Err(SerialError::Version(data[1]));
    }
    let (body, sum) = data.split_at(data.len() - CHECKSUM);
    if xxh3_64(body).to_le_bytes() != sum {
        return Err(SerialError::Checksum);
    }
    let mut input = Input(&body[3..]);
    let rows = input.number()? as usize;
    // Every row needs four bytes at least: a lying count cannot make us allocate more than the data's own size.
    if rows > input.0.len() / 4 {
        return Err(SerialError::Malformed("more rows than bytes"));
    }
    let mut batch = RawBatch { next_offset: unzigzag(input.number()?), ..Default::default() };
    let (mut offset, mut timestamp) = (0i64, 0i64);
    for row in 0..rows {
        let next = offset.wrapping_add(unzigzag(input.number()?));
        if row > 0 && next <= offset {
            return Err(SerialError::Malformed("offsets do not ascend"));
        }
        offset = next;
        timestamp = timestamp.wrapping_add(unzigzag(input.number()?));
        batch.offsets.push(offset);
        batch.timestamps.push(timestamp);
    }
    if rows > 0 && batch.next_offset <= offset {
        return Err(SerialError::Malformed("the position lies before the last record"));
    }
    batch.keys = lengths(&mut input, rows)?;
    batch.values = lengths(&mut input, rows)?;
    for column in [&mut batch.keys, &mut batch.values] {
        let size = column.values.ends.last().map_or(0, |&end| end as usize);
        column.values.bytes = input.take(size)?.to_vec();
    }
    if data[2] & HAS_HEADERS != 0 {
        let mut all = Vec::with_capacity(rows);
        for _ in 0..rows {
            let count = input.number()?;
            let mut row: Vec<Header> = Vec::new();
            for _ in 0..count {
                let size = input.number()? as usize;
                let name = std::str::from_utf8(input.take(size)?)
                    .map_err(|_| SerialError::Malformed("a header's name is not UTF-8"))?;
                let value = match input.number()? {
                    0 => None,
                    size => Some(input.take((size - 1) as usize)?.to_vec()),
                };
                row.push((name.to_string(), value));
            }
            all.push(row);
        }
        batch.headers = Some(all);
    }
    if !input.0.is_empty() {
        return Err(SerialError::Malformed("bytes left over"));
    }
    Ok(batch)
}

fn lengths(input: &mut Input<'_>, rows: usize) -> Result<OptBytes, SerialError> {
    let mut out = OptBytes::default();
    out.values.ends.reserve(rows);
    let mut end = 0u64;
    for row in 0..rows {
        let size = input.number()?;
        if size == 0 {
            out.null.get_or_insert_with(|| vec![false; row]).push(true);
        } else {
            end = end.saturating_add(size - 1);
            if let Some(null) = &mut out.null {
                null.push(false);
            }
        }
        let end = u32::try_from(end).map_err(|_| SerialError::Malformed("4 GiB of payload or more"))?;
        out.values.ends.push(end);
    }
    Ok(out)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], SerialError> {
        let (head, tail) = self.0.split_at_checked(size).ok_or(SerialError::Malformed("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }
    #[inline]
    fn number(&mut self) -> Result<u64, SerialError> {
        let mut out = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            out |= part << shift;
            if byte < 0x80 {
                return Ok(out);
            }
        }
        Err(SerialError::Malformed("a number is too long"))
    }
}

#[inline]
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Row = (u8, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>);

    fn batch(first: i64, rows: Vec<Row>, behind: u8) -> RawBatch {
        let mut out = RawBatch { next_offset: first, ..Default::default() };
        let mut offset = first;
        for (gap, timestamp, key, value, headers) in rows {
            offset += i64::from(gap);
            out.push_with_headers(offset, timestamp, key.as_deref(), value.as_deref(), headers);
            offset += 1;
        }
        out.next_offset += i64::from(behind);
        out
    }

    fn arbitrary() -> impl Strategy<Value = RawBatch> {
        let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20));
        let headers = proptest::collection::vec(("[a-zé]{0,5}", bytes()), 0..3);
        let row = (any::<u8>(), any::<i64>(), bytes(), bytes(), headers);
        (0..1i64 << 50, proptest::collection::vec(row, 0..20), any::<u8>())
            .prop_map(|(first, rows, behind)| batch(first, rows, behind))
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(batch in arbitrary()) {
            prop_assert_eq!(from_bytes(&to_bytes(&batch)), Ok(batch));
        }

        #[test]
        fn any_changed_or_missing_byte_is_noticed(batch in arbitrary(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = to_bytes(&batch);
            let at = at.index(bytes.len());
            prop_assert!(from_bytes(&bytes[..at]).is_err());
            bytes[at] ^= flip;
            prop_assert!(from_bytes(&bytes).is_err());
        }

        #[test]
        fn contents_that_lie_under_a_good_checksum_do_not_panic(mut body in proptest::collection::vec(any::<u8>(), 0..60)) {
            body.splice(0..0, [MAGIC, VERSION, body.len() as u8 & 1]);
            let sum = xxh3_64(&body);
            body.extend(sum.to_le_bytes());
            if let Ok(batch) = from_bytes(&body) {
                prop_assert_eq!(from_bytes(&to_bytes(&batch)), Ok(batch));
            }
        }
    }

    #[test]
    fn the_format_is_what_files_on_disk_have() {
        let batch = batch(7, vec![(0, 1000, Some(b"k".to_vec()), None, vec![])], 1);
        let bytes = to_bytes(&batch);
        assert_eq!(bytes[..bytes.len() - 8], [0xAD, 1, 0, 1, 18, 14, 0xd0, 0x0f, 2, 0, b'k']);
        let mut newer = bytes.clone();
        newer[1] = 2;
        assert_eq!(from_bytes(&newer), Err(SerialError::Version(2)));
    }
}
