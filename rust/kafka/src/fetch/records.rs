//! Record batches (the format since Kafka 0.11) into a [`RawBatch`].
//!
//! A broker answers with a run of whole batches, the last one possibly cut off; whoever reads may stop anywhere within one
//! and go on later ([`Chunk`]). Batches below the asked position, of aborted transactions and of markers are part of the run:
//! leaving them out is the reader's work. Nothing that a length claims is believed before the bytes are there.

use std::ops::Range;
use std::sync::Arc;

use adstream_core::raw::{Header, RawBatch};

use super::compression::inflate;

/// Up to where the length counts; every format has these.
const PREFIX: usize = 12;
const MAGIC_AT: usize = 16;
const CRC_AT: usize = 17;
/// From here on the checksum counts.
const ATTRIBUTES_AT: usize = 21;
const HEADER: usize = 61;
/// Length, attributes, two deltas, two lengths and the number of headers, a byte each.
const SMALLEST_RECORD: usize = 7;
/// A batch ends early at this many bytes of payload: whatever the size of its rows, it stays far below a batch's 4 GiB.
const MAX_BATCH_BYTES: usize = 64 << 20;

const COMPRESSION: i16 = 0x07;
const APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

fn be<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at + N)?.try_into().ok()
}

/// The whole batches at the front of an answer.
#[derive(Debug, PartialEq)]
pub struct Whole {
    pub bytes: usize,
    /// The offset after the last of them.
    pub next_offset: i64,
}

/// Looks at the batches' headers only. `None`: not one whole batch.
pub fn whole(data: &[u8]) -> Result<Option<Whole>, String> {
    let mut found: Option<Whole> = None;
    let mut at = 0;
    while let Some(head) = Head::parse(&data[at..])? {
        if found.as_ref().is_some_and(|f| head.base_offset < f.next_offset) {
            return Err(format!("batches do not ascend: one starts at {}", head.base_offset));
        }
        at += head.size;
        found = Some(Whole { bytes: at, next_offset: head.next_offset });
    }
    Ok(found)
}

struct Head {
    size: usize,
    base_offset: i64,
    next_offset: i64,
    attributes: i16,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: i64,
    count: usize,
}

impl Head {
    /// `None`: the batch is cut off.
    fn parse(data: &[u8]) -> Result<Option<Head>, String> {
        let (Some(base_offset), Some(length)) = (be(data, 0), be(data, 8)) else { return Ok(None) };
        let (base_offset, length) = (i64::from_be_bytes(base_offset), i32::from_be_bytes(length));
        if let Some(&magic) = data.get(MAGIC_AT) {
            if magic < 2 {
                return Err(format!("records at {base_offset} are in the format of before Kafka 0.11 (magic {magic})"));
            }
            if magic > 2 {
                return Err(format!("records at {base_offset} are in an unknown format (magic {magic})"));
            }
        }
        let size = usize::try_from(length).ok().and_then(|length| length.checked_add(PREFIX));
        let Some(size) = size.filter(|&size| size >= HEADER) else {
            return Err(format!("the batch at {base_offset} has a length of {length}"));
        };
        let Some(data) = data.get(..size) else { return Ok(None) };
        let i16_at = |at| be(data, at).map(i16::from_be_bytes).unwrap_or_default();
        let i32_at = |at| be(data, at).map(i32::from_be_bytes).unwrap_or_default();
        let i64_at = |at| be(data, at).map(i64::from_be_bytes).unwrap_or_default();
        let (last, count) = (i32_at(23), i32_at(57));
        let next_offset = base_offset.checked_add(i64::from(last) + 1);
        let (Some(next_offset), Ok(count)) = (next_offset.filter(|_| base_offset >= 0 && last >= 0), count.try_into())
        else {
            return Err(format!("the batch at {base_offset} has {count} records up to {last}"));
        };
        Ok(Some(Head {
            size,
            base_offset,
            next_offset,
            attributes: i16_at(ATTRIBUTES_AT),
            base_timestamp: i64_at(27),
            max_timestamp: i64_at(35),
            producer: i64_at(43),
            count,
        }))
    }
}

/// The batch that is being read.
struct Open {
    /// Uncompressed records; `None`: they lie in the chunk.
    inflated: Option<Vec<u8>>,
    /// Of the records that are left.
    bytes: Range<usize>,
    left: usize,
    base_offset: i64,
    next_offset: i64,
    base_timestamp: i64,
    append_time: Option<i64>,
}

/// Whole batches of one partition, and how far they are read.
pub struct Chunk {
    buffer: Arc<Vec<u8>>,
    bytes: Range<usize>,
    size: usize,
    open: Option<Open>,
    /// (first offset, producer) of aborted transactions that reach into these batches, ascending; taken from the end.
    aborted: Vec<(i64, i64)>,
    /// The producers among them whose transaction has begun and not ended here.
    aborting: Vec<i64>,
}

/// How much one read may take, and of what.
pub struct Wanted {
    /// Records before it are left out.
    pub position: i64,
    pub rows: usize,
    pub headers: bool,
}

impl Chunk {
    /// `bytes` of `buffer`: whole batches, see [`whole`]. `aborted`: (first offset, producer).
    pub fn new(buffer: Arc<Vec<u8>>, bytes: Range<usize>, mut aborted: Vec<(i64, i64)>) -> Self {
        aborted.sort_unstable_by(|a, b| b.cmp(a));
        let size = bytes.len();
        Chunk { buffer, bytes, size, open: None, aborted, aborting: Vec::new() }
    }

    /// In bytes, as it came.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn into_buffer(self) -> Arc<Vec<u8>> {
        self.buffer
    }

    /// Records into `out`, until it has `rows` of them, or many bytes, or there are no more; `out.next_offset` moves on.
    /// Returns whether the chunk is used up. After an error (which names what is wrong, not where) it must not be used again.
    /// `spare` is a buffer to inflate into.
    pub fn read(&mut self, wanted: &Wanted, out: &mut RawBatch, spare: &mut Vec<u8>) -> Result<bool, String> {
        loop {
            if let Some(open) = &mut self.open {
                if !open.read(&self.buffer, wanted, out)? {
                    return Ok(false);
                }
                out.next_offset = out.next_offset.max(open.next_offset);
                if let Some(inflated) = self.open.take().and_then(|open| open.inflated) {
                    *spare = inflated;
                }
            }
            if self.bytes.is_empty() {
                return Ok(true);
            }
            if is_full(out, wanted.rows) {
                return Ok(false);
            }
            self.next(wanted, out, spare)?;
        }
    }

    fn next(&mut self, wanted: &Wanted, out: &mut RawBatch, spare: &mut Vec<u8>) -> Result<(), String> {
        let buffer = self.buffer.clone();
        let data = &buffer[self.bytes.clone()];
        let Some(head) = Head::parse(data)? else { return Err("a batch is cut off".into()) };
        let start = self.bytes.start;
        self.bytes.start += head.size;
        let data = &data[..head.size];
        let sum = be(data, CRC_AT).map(u32::from_be_bytes).unwrap_or_default();
        if crc32c::crc32c(&data[ATTRIBUTES_AT..]) != sum {
            return Err("the checksum of a batch is wrong".into());
        }
        if self.is_aborted(&head, &data[HEADER..])
            || head.attributes & CONTROL != 0
            || head.next_offset <= wanted.position
        {
            out.next_offset = out.next_offset.max(head.next_offset);
            return Ok(());
        }
        let mut open = Open {
            inflated: None,
            bytes: start + HEADER..start + head.size,
            left: head.count,
            base_offset: head.base_offset,
            next_offset: head.next_offset,
            base_timestamp: head.base_timestamp,
            append_time: (head.attributes & APPEND_TIME != 0).then_some(head.max_timestamp),
        };
        let codec = (head.attributes & COMPRESSION) as u8;
        if codec != 0 {
            let mut inflated = std::mem::take(spare);
            inflated.clear();
            inflate(codec, &data[HEADER..], &mut inflated)?;
            open.bytes = 0..inflated.len();
            open.inflated = Some(inflated);
        }
        if head.count > open.bytes.len() / SMALLEST_RECORD {
            return Err(format!("{} bytes claim to be {} records", open.bytes.len(), head.count));
        }
        self.open = Some(open);
        Ok(())
    }

    /// Follows the transactions; whether the batch is part of one that was aborted.
    fn is_aborted(&mut self, head: &Head, records: &[u8]) -> bool {
        while let Some(&(first, producer)) = self.aborted.last() {
            if first >= head.next_offset {
                break;
            }
            self.aborting.push(producer);
            self.aborted.pop();
        }
        if head.attributes & TRANSACTIONAL == 0 {
            return false;
        }
        let Some(at) = self.aborting.iter().position(|&producer| producer == head.producer) else { return false };
        if head.attributes & CONTROL != 0 && is_abort(records) {
            self.aborting.swap_remove(at);
        }
        true
    }
}

/// A marker's key: two bytes of version, two of type, 0 for an abort.
fn is_abort(mut records: &[u8]) -> bool {
    let key = Record::parse(&mut records, false).ok().and_then(|record| record.key);
    key.and_then(|key| be(key, 2)).is_some_and(|kind| i16::from_be_bytes(kind) == 0)
}

impl Open {
    /// Returns whether it is used up.
    fn read(&mut self, buffer: &[u8], wanted: &Wanted, out: &mut RawBatch) -> Result<bool, String> {
        let data = self.inflated.as_deref().unwrap_or(buffer);
        let mut rest = &data[self.bytes.clone()];
        reserve(out, self.left.min(wanted.rows.saturating_sub(out.len())), rest.len(), self.left);
        while self.left > 0 {
            if is_full(out, wanted.rows) {
                self.bytes.start = self.bytes.end - rest.len();
                return Ok(false);
            }
            let record = Record::parse(&mut rest, wanted.headers)?;
            self.left -= 1;
            let offset = self.base_offset.wrapping_add(record.offset_delta);
            if offset < wanted.position {
                continue;
            }
            if offset < out.next_offset || offset >= self.next_offset {
                return Err(format!("a record of the batch at {} is numbered {offset}", self.base_offset));
            }
            let timestamp = match self.append_time {
                Some(time) => time,
                None => self.base_timestamp.wrapping_add(record.timestamp_delta),
            };
            if record.headers.is_empty() {
                out.push(offset, timestamp, record.key, record.value);
            } else {
                out.push_with_headers(offset, timestamp, record.key, record.value, record.headers);
            }
        }
        if !rest.is_empty() {
            return Err(format!("the batch at {} has {} bytes more than its records", self.base_offset, rest.len()));
        }
        Ok(true)
    }
}

/// Whether no record may be added to it.
pub fn is_full(out: &RawBatch, rows: usize) -> bool {
    out.len() >= rows || out.values.values.bytes.len() + out.keys.values.bytes.len() >= MAX_BATCH_BYTES
}

/// Room for `rows` of the `left` records that lie in `bytes`; keys grow by themselves, to what they need. Only where nobody
/// has made room: `bytes` are a good deal more than the values in them, and asking for too much would double a buffer that
/// suffices.
fn reserve(out: &mut RawBatch, rows: usize, bytes: usize, left: usize) {
    out.offsets.reserve(rows);
    out.timestamps.reserve(rows);
    out.keys.values.ends.reserve(rows);
    out.values.values.ends.reserve(rows);
    if let Some(each) = bytes.checked_div(left).filter(|_| out.values.values.bytes.capacity() == 0) {
        out.values.values.bytes.reserve((each + 1).saturating_mul(rows).min(bytes));
    }
}

struct Record<'a> {
    timestamp_delta: i64,
    offset_delta: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<Header>,
}

impl<'a> Record<'a> {
    #[inline]
    fn parse(rest: &mut &'a [u8], headers: bool) -> Result<Record<'a>, String> {
        Record::try_parse(rest, headers).ok_or_else(|| "a record is cut off, or its lengths are wrong".to_string())
    }

    #[inline]
    fn try_parse(rest: &mut &'a [u8], headers: bool) -> Option<Record<'a>> {
        let size = varint(rest)?;
        let body = &mut take(rest, size)?;
        take(body, 1)?; // attributes: none has a meaning yet
        let (timestamp_delta, offset_delta) = (varint(body)?, varint(body)?);
        let (key, value) = (nullable(body)?, nullable(body)?);
        let count = varint(body)?;
        let mut found = Vec::new();
        if headers && count != 0 {
            for _ in 0..count {
                let name = nullable(body)??;
                found.push((String::from_utf8_lossy(name).into_owned(), nullable(body)?.map(<[u8]>::to_vec)));
            }
            if !body.is_empty() {
                return None;
            }
        }
        Some(Record { timestamp_delta, offset_delta, key, value, headers: found })
    }
}

#[inline]
fn take<'a>(rest: &mut &'a [u8], size: i64) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(usize::try_from(size).ok()?)?;
    *rest = tail;
    Some(head)
}

/// -1 is null; anything below is wrong.
#[inline]
fn nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint(rest)? {
        -1 => Some(None),
        size => take(rest, size).map(Some),
    }
}

/// Zigzag, seven bits a byte, the lowest first.
#[inline]
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let (&first, tail) = rest.split_first()?;
    let mut value = u64::from(first & 0x7f);
    *rest = tail;
    if first & 0x80 != 0 {
        let mut shift = 7;
        loop {
            let (&byte, tail) = rest.split_first()?;
            *rest = tail;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 63 {
                return None;
            }
        }
    }
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::compression::tests::deflate;
    use super::*;

    type Row = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>);

    /// A batch as a producer or a coordinator writes it.
    #[derive(Clone, Debug)]
    struct Made {
        base: i64,
        last: i32,
        codec: u8,
        flags: i16,
        producer: i64,
        rows: Vec<Row>,
    }

    fn put(out: &mut Vec<u8>, value: i64) {
        let mut value = ((value << 1) ^ (value >> 63)) as u64;
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn put_bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
        put(out, value.map_or(-1, |v| v.len() as i64));
        out.extend(value.unwrap_or_default());
    }

    impl Made {
        fn bytes(&self) -> Vec<u8> {
            let time = self.rows.first().map_or(0, |row| row.1);
            let mut records = vec![];
            for (offset, timestamp, key, value, headers) in &self.rows {
                let mut body = vec![0];
                put(&mut body, timestamp - time);
                put(&mut body, offset - self.base);
                put_bytes(&mut body, key.as_deref());
                put_bytes(&mut body, value.as_deref());
                put(&mut body, headers.len() as i64);
                for (name, value) in headers {
                    put_bytes(&mut body, Some(name.as_bytes()));
                    put_bytes(&mut body, value.as_deref());
                }
                put(&mut records, body.len() as i64);
                records.extend(body);
            }
            let records = deflate(self.codec, &records);
            let mut tail = vec![];
            tail.extend((i16::from(self.codec) | self.flags).to_be_bytes());
            tail.extend(self.last.to_be_bytes());
            tail.extend(time.to_be_bytes());
            tail.extend(777i64.to_be_bytes());
            tail.extend(self.producer.to_be_bytes());
            tail.extend([0; 6]);
            tail.extend((self.rows.len() as i32).to_be_bytes());
            tail.extend(records);
            let mut out = vec![];
            out.extend(self.base.to_be_bytes());
            out.extend((tail.len() as i32 + 9).to_be_bytes());
            out.extend([0, 0, 0, 0, 2]);
            out.extend(crc32c::crc32c(&tail).to_be_bytes());
            out.extend(tail);
            out
        }
    }

    fn plain(base: i64, count: i64) -> Made {
        let rows = (base..base + count).map(|n| (n, 1_000 + n, None, Some(format!("v{n}").into_bytes()), vec![]));
        Made { base, last: count as i32 - 1, codec: 0, flags: 0, producer: -1, rows: rows.collect() }
    }

    fn marker(base: i64, producer: i64, commit: bool) -> Made {
        let rows = vec![(base, 1, Some(vec![0, 0, 0, u8::from(commit)]), Some(vec![0; 6]), vec![])];
        Made { base, last: 0, codec: 0, flags: CONTROL | TRANSACTIONAL, producer, rows }
    }

    fn of(producer: i64, made: Made) -> Made {
        Made { producer, flags: made.flags | TRANSACTIONAL, ..made }
    }

    fn run(made: &[Made]) -> Vec<u8> {
        made.iter().flat_map(Made::bytes).collect()
    }

    /// Reads everything, `rows` at a time.
    fn read(data: &[u8], aborted: &[(i64, i64)], position: i64, rows: usize) -> Result<(Vec<RawBatch>, i64), String> {
        let mut position = position;
        let mut out = vec![];
        let Some(found) = whole(data)? else { return Ok((out, position)) };
        let mut chunk = Chunk::new(Arc::new(data.to_vec()), 0..found.bytes, aborted.to_vec());
        loop {
            let mut batch = RawBatch { next_offset: position, ..RawBatch::default() };
            let done = chunk.read(&Wanted { position, rows, headers: true }, &mut batch, &mut Vec::new())?;
            assert!(batch.len() <= rows && batch.next_offset >= position);
            position = batch.next_offset;
            out.push(batch);
            if done {
                return Ok((out, position));
            }
        }
    }

    fn offsets(batches: &[RawBatch]) -> Vec<i64> {
        batches.iter().flat_map(|b| b.offsets.clone()).collect()
    }

    fn sealed(mut data: Vec<u8>) -> Vec<u8> {
        let sum = crc32c::crc32c(&data[ATTRIBUTES_AT..]);
        data[CRC_AT..ATTRIBUTES_AT].copy_from_slice(&sum.to_be_bytes());
        data
    }

    #[test]
    fn aborted_transactions_and_markers_are_left_out_and_passed() {
        let data = run(&[
            of(7, plain(0, 3)),
            of(8, plain(3, 2)),
            plain(5, 1),
            marker(6, 7, false),
            of(7, plain(7, 2)), // its next transaction, committed
            marker(9, 8, true),
            marker(10, 7, true),
        ]);
        let (batches, end) = read(&data, &[(0, 7)], 0, 100).unwrap();
        assert_eq!((offsets(&batches), end), (vec![3, 4, 5, 7, 8], 11));
        // Its first aborted transaction began before these batches did.
        let (batches, end) = read(&data, &[(7, 7), (0, 7)], 2, 1).unwrap();
        assert_eq!((offsets(&batches), end), (vec![3, 4, 5], 11));
        // Without the list nothing is known to be aborted: markers are left out all the same.
        assert_eq!(offsets(&read(&data, &[], 0, 100).unwrap().0), vec![0, 1, 2, 3, 4, 5, 7, 8]);
    }

    #[test]
    fn a_position_within_a_batch_and_offsets_that_compaction_took() {
        let mut made = plain(10, 9);
        made.rows.retain(|row| ![10, 13, 18].contains(&row.0));
        let (batches, end) = read(&made.bytes(), &[], 12, 2).unwrap();
        assert_eq!((offsets(&batches), end), (vec![12, 14, 15, 16, 17], 19));
    }

    #[test]
    fn the_brokers_time_counts_where_the_topic_says_so() {
        let batches = read(&Made { flags: APPEND_TIME, ..plain(0, 2) }.bytes(), &[], 0, 9).unwrap().0;
        assert_eq!(batches[0].timestamps, [777, 777]);
        assert_eq!(read(&plain(0, 2).bytes(), &[], 0, 9).unwrap().0[0].timestamps, [1000, 1001]);
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let good = plain(5, 3).bytes();
        let error = |data: Vec<u8>| read(&data, &[], 0, 9).unwrap_err();
        let with = |at: usize, bytes: &[u8]| {
            let mut data = good.clone();
            data[at..at + bytes.len()].copy_from_slice(bytes);
            data
        };
        assert!(error(with(MAGIC_AT, &[1])).contains("before Kafka 0.11"));
        assert!(error(with(MAGIC_AT, &[3])).contains("unknown format"));
        assert!(error(with(8, &[0xff; 4])).contains("length"));
        assert!(error(with(good.len() - 1, b"x")).contains("checksum"));
        assert!(error(sealed(with(57, &[0x7f, 0xff, 0xff, 0xff]))).contains("claim"));
        assert!(error(sealed(with(23, &[0x80, 0, 0, 0]))).contains("records up to"));
        assert!(error(sealed(with(23, &[0, 0, 0, 1]))).contains("is numbered 7"));
        assert!(error(sealed(with(57, &[0, 0, 0, 2]))).contains("more than its records"));
        assert!(error(sealed(with(22, &[5]))).contains("codec 5"));
        assert!(error([good.clone(), good.clone()].concat()).contains("ascend"));
        assert_eq!(whole(&good[..good.len() - 1]), Ok(None));
    }

    fn row() -> impl Strategy<Value = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header>)> {
        let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
        let headers = prop_oneof![
            3 => Just(vec![]),
            1 => prop::collection::vec(("[a-zé]{0,9}", prop::option::of(prop::collection::vec(any::<u8>(), 0..9))), 1..4)
        ];
        (bytes(), bytes(), headers)
    }

    fn batches() -> impl Strategy<Value = Vec<Made>> {
        let batch = (0u8..=4, 0i64..3, prop::collection::vec((0i64..3, any::<i32>(), row()), 0..12));
        prop::collection::vec(batch, 1..5).prop_map(|batches| {
            let mut next = 100;
            let make = |(codec, gap, rows): (u8, i64, Vec<(i64, i32, _)>)| {
                let base = next + gap;
                next = base;
                let rows: Vec<Row> = rows
                    .into_iter()
                    .map(|(gap, time, (key, value, headers))| {
                        let offset = next + gap;
                        next = offset + 1;
                        (offset, i64::from(time), key, value, headers)
                    })
                    .collect();
                next += 1; // the last one was compacted away
                Made { base, last: (next - base - 1) as i32, codec, flags: 0, producer: -1, rows }
            };
            batches.into_iter().map(make).collect()
        })
    }

    proptest! {
        #[test]
        fn what_was_written_comes_back(made in batches(), rows in 1usize..20, skip in 0i64..40) {
            let (batches, end) = read(&run(&made), &[], 100 + skip, rows).unwrap();
            let mut expected = RawBatch { next_offset: end, ..RawBatch::default() };
            let wanted = made.iter().flat_map(|m| &m.rows).filter(|row| row.0 >= 100 + skip);
            for (offset, timestamp, key, value, headers) in wanted {
                expected.push_with_headers(*offset, *timestamp, key.as_deref(), value.as_deref(), headers.clone());
            }
            expected.next_offset = end;
            let mut got = RawBatch { next_offset: end, ..RawBatch::default() };
            for batch in &batches {
                for row in 0..batch.len() {
                    let headers = batch.headers_at(row).to_vec();
                    got.push_with_headers(batch.offsets[row], batch.timestamps[row], batch.keys.get(row), batch.values.get(row), headers);
                }
            }
            got.next_offset = end;
            prop_assert_eq!(got, expected);
            let last = made.last().unwrap();
            prop_assert_eq!(end, (last.base + i64::from(last.last) + 1).max(100 + skip));
        }

        #[test]
        fn cut_off_at_any_byte_it_is_what_came_whole(made in batches(), cut in any::<prop::sample::Index>()) {
            let data = run(&made);
            let cut = cut.index(data.len() + 1);
            let (batches, _) = read(&data[..cut], &[], 0, 1000).unwrap();
            let mut size = 0;
            let there = made.iter().take_while(|m| { size += m.bytes().len(); size <= cut });
            prop_assert_eq!(offsets(&batches), there.flat_map(|m| &m.rows).map(|row| row.0).collect::<Vec<_>>());
        }

        /// The checksum is made right again, so that what lies behind it is tried.
        #[test]
        fn garbage_is_an_error_and_never_a_panic(
            made in batches(),
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut one = made[0].bytes();
            for (at, byte) in noise {
                let at = at.index(one.len());
                if !(8..12).contains(&at) {
                    one[at] = byte;
                }
            }
            let _ = read(&one, &[(100, -1)], 0, 5);
            let _ = read(&sealed(one), &[(100, -1)], 0, 5);
        }

        #[test]
        fn noise_is_an_error_and_never_a_panic(data in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&data, &[], 0, 5);
        }
    }
}
