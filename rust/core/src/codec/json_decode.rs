//! JSON objects to columns: only the declared fields, but only from payloads that are valid as a whole.
//!
//! What is promised, per payload: either every declared field has its value (or NULL, if it may), or the row is in
//! [`Decoded::bad`] with one reason and is NULL in every column. The reason does not depend on the order of keys:
//!
//! | reason | when |
//! |---|---|
//! | `null_payload` | a tombstone |
//! | `malformed_json` | not exactly one JSON object (see `scan.rs`); wins over all that follow |
//! | `missing_field:<name>` | absent or null, not nullable; or its parent is |
//! | `bad_field:<name>` | there, but not a value of its type; or its parent is neither an object nor null |
//!
//! Of several failing fields the first *declared* one gives the reason. Of several equal keys the last one counts.
//!
//! What a value of a type is: a `bool`, an integer literal within 64 bits (`5.0` is none) for `int` and `duration`, any
//! number within the range of a double for `float`, a number or a string holding one that fits exactly for `decimal`, a
//! string for `str`, one of the listed strings for `enum`. A `timestamp` is an RFC 3339 string or an integer, as its unit
//! says, and lies in `[2000-01-01, 2100-01-01)`: seconds read as milliseconds, or the reverse, never do.
//!
//! Steps, for up to [`CHUNK`] rows at a time (their bytes are then still in the first cache):
//! 1. *Scan*: each payload is validated and the places of wanted values noted ([`Paths::scan`]).
//! 2. *Convert*, column by column in declared order, so that the type is decided once per column and chunk instead of
//!    once per value. A failing value marks its row, unless an earlier field already did.
//! 3. *Void* the marked rows.
//!
//! Special case: the scanner looks a few bytes past the end of a text. Payloads at the very end of the arena have no
//! such bytes behind them and are scanned in a padded copy.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use jiff::tz::TimeZone;
use xxhash_rust::xxh3::xxh3_128;

use crate::codec::scan::{unescape, Kind, Paths, Slot, Token, ABSENT, DEAD, PAD};
use crate::codec::{text, Decoded};
use crate::column::{Bytes, Column, Data, NULL, VALID};
use crate::error::PlanError;
use crate::raw::OptBytes;
use crate::types::DataType;

const CHUNK: usize = 64;

/// Times outside `[2000-01-01, 2100-01-01)` are taken for mistakes of unit.
pub const TIME_MS_MIN: i64 = 946_684_800_000;
pub const TIME_MS_END: i64 = 4_102_444_800_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeUnit {
    Rfc3339,
    Seconds,
    Millis,
    Micros,
}

#[derive(Clone, Debug)]
pub struct JsonField {
    pub name: String,
    /// Keys from the outermost object inwards.
    pub path: Vec<String>,
    pub dtype: DataType,
    pub nullable: bool,
    /// Of a timestamp.
    pub unit: TimeUnit,
    /// What an RFC 3339 string without a zone is in: `UTC`, `+09:00`, `Asia/Seoul`. `None`: such a string is bad.
    pub zone: Option<String>,
    /// Absent or null means the lowercase hex xxh3-128 of the payload.
    pub content_id: bool,
}

impl JsonField {
    /// A field that must be there, at the top level, under its own name.
    pub fn new(name: impl Into<String>, dtype: DataType) -> Self {
        let name = name.into();
        JsonField {
            path: vec![name.clone()],
            name,
            dtype,
            nullable: false,
            unit: TimeUnit::Rfc3339,
            zone: None,
            content_id: false,
        }
    }
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }
    pub fn path<K: Into<String>>(mut self, path: impl IntoIterator<Item = K>) -> Self {
        self.path = path.into_iter().map(Into::into).collect();
        self
    }
    pub fn unit(mut self, unit: TimeUnit) -> Self {
        self.unit = unit;
        self
    }
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }
    pub fn content_id(mut self) -> Self {
        self.content_id = true;
        self
    }
}

/// How the slot of a field becomes a value.
enum Reader {
    Bool,
    Int,
    Float,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Str {
        content_id: bool,
    },
    Enum(Labels),
    TimeText(Option<Zone>),
    /// Units per millisecond and milliseconds per unit; one of them is 1.
    TimeNumber {
        divide: i64,
        multiply: i64,
    },
}

enum Zone {
    /// Milliseconds east of UTC.
    Fixed(i64),
    Named(TimeZone),
}

impl Zone {
    fn parse(zone: &str) -> Option<Zone> {
        if matches!(zone, "UTC" | "Z") {
            return Some(Zone::Fixed(0));
        }
        text::parse_offset(zone.as_bytes()).map(Zone::Fixed).or_else(|| TimeZone::get(zone).ok().map(Zone::Named))
    }
    /// A time that the zone has twice is the earlier one; one that it skips moves by the gap, as in `java.time`.
    fn to_utc(&self, local_ms: i64) -> Option<i64> {
        match self {
            Zone::Fixed(offset) => Some(local_ms - offset),
            Zone::Named(zone) => {
                let local = jiff::Timestamp::from_millisecond(local_ms).ok()?.to_zoned(TimeZone::UTC).datetime();
                Some(zone.to_ambiguous_timestamp(local).compatible().ok()?.as_millisecond())
            }
        }
    }
}

/// The values of an enum.
struct Labels {
    /// With the closing quote, so that one comparison settles the end as well. Empty if the labels are too many.
    tokens: Vec<Token>,
    codes: HashMap<Vec<u8>, u32>,
}

impl Labels {
    fn new(values: &Arc<Vec<String>>) -> Self {
        let few = if values.len() <= 16 { &values[..] } else { &[] };
        // A value listed twice is the first of its kind.
        let codes = values.iter().enumerate().rev().map(|(i, v)| (v.clone().into_bytes(), i as u32)).collect();
        Labels { tokens: few.iter().map(|v| Token::new(&[v.as_bytes(), b"\""].concat())).collect(), codes }
    }
    #[inline]
    fn code(&self, buf: &[u8], slot: Slot) -> Option<u32> {
        let (start, end) = (slot.start as usize, slot.end as usize);
        match slot.kind {
            Kind::Str if !self.tokens.is_empty() => {
                let len = end - start + 1;
                self.tokens.iter().position(|t| t.len() == len && t.is_at(buf, start)).map(|i| i as u32)
            }
            Kind::Str => self.codes.get(&buf[start..end]).copied(),
            Kind::Escaped => self.codes.get(&unescaped(buf, slot)).copied(),
            _ => None,
        }
    }
}

struct Field {
    name: String,
    dtype: DataType,
    nullable: bool,
    slot: usize,
    reader: Reader,
    /// Of a text column in the last batch: what to reserve for the next, since growing copies.
    bytes_per_row: usize,
}

pub struct JsonDecoder {
    fields: Vec<Field>,
    paths: Paths,
    /// Per row of the chunk, one after the other, the slots of all paths.
    slots: Vec<Slot>,
}

impl JsonDecoder {
    pub fn new(fields: Vec<JsonField>) -> Result<Self, PlanError> {
        let mut paths = Paths::new();
        let mut out: Vec<Field> = Vec::with_capacity(fields.len());
        for f in fields {
            if out.iter().any(|o| o.name == f.name) {
                return Err(PlanError::new("duplicate_field", format!("the field `{}` is declared twice", f.name)));
            }
            if f.path.is_empty() {
                return Err(PlanError::new("empty_path", format!("the field `{}` has an empty path", f.name))
                    .hint("give the object keys that lead to it, or leave the path out"));
            }
            if f.content_id && f.dtype != DataType::Str {
                let message = format!("the field `{}` is a content id and must be str, not {}", f.name, f.dtype);
                return Err(PlanError::new("content_id_type", message));
            }
            let slot = paths.add(&f.path);
            let reader = reader(&f)?;
            out.push(Field { name: f.name, dtype: f.dtype, nullable: f.nullable, slot, reader, bytes_per_row: 0 });
        }
        let slots = vec![ABSENT; CHUNK * paths.slots];
        Ok(JsonDecoder { fields: out, paths, slots })
    }

    pub fn decode(&mut self, payloads: &OptBytes) -> Decoded {
        self.decode_range(payloads, 0..payloads.len())
    }

    /// Rows `range` of the payloads, which lie where they came to lie; row 0 of the result is the range's first.
    pub fn decode_range(&mut self, payloads: &OptBytes, range: Range<usize>) -> Decoded {
        self.decode_translated(payloads, range, None)
    }

    /// The same of payloads that were made from others: `originals` and the place of the first there, for content ids.
    pub fn decode_translated(
        &mut self,
        payloads: &OptBytes,
        range: Range<usize>,
        originals: Option<(&OptBytes, usize)>,
    ) -> Decoded {
        let rows = range.len();
        let arena = &payloads.values.bytes[..];
        let ends = &payloads.values.ends[..];
        let start = |row: usize| if row == 0 { 0 } else { ends[row - 1] as usize };
        let size = start(range.end) - start(range.start);
        let mut columns: Vec<Data> = self.fields.iter().map(|f| with_capacity(f, rows, size)).collect();
        let mut marks = Marks { rows, states: vec![None; self.fields.len()], bad: vec![] };

        let padded_rows = ends[range.clone()].partition_point(|&end| end as usize + PAD <= arena.len()) + range.start;
        let mut tail = arena[start(padded_rows)..start(range.end)].to_vec();
        tail.resize(tail.len() + PAD, 0);
        let mut row = range.start;
        let mut spans: Vec<Option<(usize, usize)>> = Vec::with_capacity(CHUNK);
        while row < range.end {
            let (buf, from, to) = if row < padded_rows {
                (arena, 0, padded_rows.min(row + CHUNK))
            } else {
                (&tail[..], start(padded_rows), range.end.min(row + CHUNK))
            };
            spans.clear();
            spans.extend((row..to).map(|r| payloads.get(r).map(|_| (start(r) - from, ends[r] as usize - from))));
            self.chunk(buf, row - range.start, &spans, originals, &mut columns, &mut marks);
            row = to;
        }
        for (field, column) in self.fields.iter_mut().zip(&columns) {
            if let Data::Str(texts) = column {
                field.bytes_per_row = texts.bytes.len().div_ceil(rows.max(1));
            }
        }
        marks.finish(&self.fields, columns)
    }

    /// Rows `first..` whose payloads lie at `spans` in `buf`.
    fn chunk(
        &mut self,
        buf: &[u8],
        first: usize,
        spans: &[Option<(usize, usize)>],
        originals: Option<(&OptBytes, usize)>,
        columns: &mut [Data],
        marks: &mut Marks,
    ) {
        let width = self.paths.slots;
        let mut reasons = [Reason::None; CHUNK];
        for (i, span) in spans.iter().enumerate() {
            let slots = &mut self.slots[i * width..][..width];
            match *span {
                Some((start, end)) if self.paths.scan(buf, start, end, slots) => continue,
                Some(_) => reasons[i] = Reason::MalformedJson,
                None => reasons[i] = Reason::NullPayload,
            }
            slots.fill(DEAD);
        }
        for (f, (field, column)) in self.fields.iter().zip(columns).enumerate() {
            let slots = (0..spans.len()).map(|i| self.slots[i * width + field.slot]);
            let payload = |i: usize| match originals {
                None => spans[i].map_or(&[][..], |(start, end)| &buf[start..end]),
                Some((originals, base)) => originals.get(base + first + i).unwrap_or_default(),
            };
            convert(&field.reader, buf, slots, payload, column, |i, kind| match kind {
                Kind::Absent | Kind::Null if field.nullable => marks.null(f, first + i),
                _ if reasons[i] != Reason::None => {}
                Kind::Absent | Kind::Null => reasons[i] = Reason::Missing(f),
                _ => reasons[i] = Reason::Bad(f),
            });
        }
        for (i, &reason) in reasons[..spans.len()].iter().enumerate() {
            if reason != Reason::None {
                marks.bad.push((first + i, reason));
            }
        }
    }
}

fn reader(f: &JsonField) -> Result<Reader, PlanError> {
    Ok(match &f.dtype {
        DataType::Bool => Reader::Bool,
        DataType::Int | DataType::Duration => Reader::Int,
        DataType::Float => Reader::Float,
        &DataType::Decimal { precision, scale } => Reader::Decimal { precision, scale },
        DataType::Str => Reader::Str { content_id: f.content_id },
        DataType::Enum(values) => Reader::Enum(Labels::new(values)),
        DataType::Json => {
            return Err(PlanError::new(
                "bad_plan",
                format!("the field `{}` cannot be of type json: aggregates make it", f.name),
            ))
        }
        DataType::Timestamp => match f.unit {
            TimeUnit::Rfc3339 => Reader::TimeText(match &f.zone {
                None => None,
                Some(zone) => Some(Zone::parse(zone).ok_or_else(|| {
                    PlanError::new("unknown_zone", format!("the field `{}` has an unknown time zone: `{zone}`", f.name))
                        .hint("use an IANA name (`Asia/Seoul`), an offset (`+09:00`) or `UTC`")
                })?),
            }),
            TimeUnit::Seconds => Reader::TimeNumber { divide: 1, multiply: 1000 },
            TimeUnit::Millis => Reader::TimeNumber { divide: 1, multiply: 1 },
            TimeUnit::Micros => Reader::TimeNumber { divide: 1000, multiply: 1 },
        },
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reason {
    None,
    NullPayload,
    MalformedJson,
    Missing(usize),
    Bad(usize),
}

/// What is not an ordinary value. A column without any such row has no states at all.
struct Marks {
    rows: usize,
    states: Vec<Option<Vec<u8>>>,
    bad: Vec<(usize, Reason)>,
}

impl Marks {
    #[inline]
    fn null(&mut self, field: usize, row: usize) {
        let rows = self.rows;
        self.states[field].get_or_insert_with(|| vec![VALID; rows])[row] = NULL;
    }
    fn finish(mut self, fields: &[Field], columns: Vec<Data>) -> Decoded {
        for at in 0..self.bad.len() {
            for f in 0..fields.len() {
                self.null(f, self.bad[at].0);
            }
        }
        let text = |reason| match reason {
            Reason::NullPayload => "null_payload".to_string(),
            Reason::MalformedJson | Reason::None => "malformed_json".to_string(),
            Reason::Missing(f) => format!("missing_field:{}", fields[f].name),
            Reason::Bad(f) => format!("bad_field:{}", fields[f].name),
        };
        let columns = fields.iter().zip(columns).zip(self.states);
        Decoded {
            columns: columns.map(|((f, data), state)| Column::new(f.dtype.clone(), data, state)).collect(),
            bad: self.bad.into_iter().map(|(row, reason)| (row as u32, text(reason))).collect(),
        }
    }
}

/// Texts get what the last batch suggests, but no more than all payloads have: one long row must not count for many.
fn with_capacity(field: &Field, rows: usize, payload_bytes: usize) -> Data {
    match Data::empty(&field.dtype) {
        Data::Bool(_) => Data::Bool(Vec::with_capacity(rows)),
        Data::I64(_) => Data::I64(Vec::with_capacity(rows)),
        Data::F64(_) => Data::F64(Vec::with_capacity(rows)),
        Data::I128(_) => Data::I128(Vec::with_capacity(rows)),
        Data::Str(_) => {
            let bytes = payload_bytes.min(rows * field.bytes_per_row) + PAD;
            Data::Str(Bytes::with_capacity(rows, bytes))
        }
        Data::Code(_) => Data::Code(Vec::with_capacity(rows)),
    }
}

/// Appends a value per slot. Slots without one get a default and go to `miss`, with their place in the chunk.
#[inline(always)]
fn convert<'a>(
    reader: &Reader,
    buf: &[u8],
    slots: impl Iterator<Item = Slot>,
    payload: impl Fn(usize) -> &'a [u8],
    column: &mut Data,
    mut miss: impl FnMut(usize, Kind),
) {
    #[inline(always)]
    fn each<T: Default>(
        slots: impl Iterator<Item = Slot>,
        out: &mut Vec<T>,
        mut miss: impl FnMut(usize, Kind),
        read: impl Fn(Slot) -> Option<T>,
    ) {
        for (i, slot) in slots.enumerate() {
            out.push(match read(slot) {
                Some(value) => value,
                None => {
                    miss(i, slot.kind);
                    T::default()
                }
            });
        }
    }
    let bytes = |slot: Slot| &buf[slot.start as usize..slot.end as usize];
    let in_range = |ms: i64| (TIME_MS_MIN..TIME_MS_END).contains(&ms).then_some(ms);
    match (reader, column) {
        (Reader::Bool, Data::Bool(out)) => each(slots, out, miss, |slot| match slot.kind {
            Kind::True => Some(1),
            Kind::False => Some(0),
            _ => None,
        }),
        (Reader::Int, Data::I64(out)) => each(slots, out, miss, |slot| match slot.kind {
            Kind::Int => text::parse_int(bytes(slot)),
            _ => None,
        }),
        (Reader::Float, Data::F64(out)) => each(slots, out, miss, |slot| match slot.kind {
            Kind::Int | Kind::Number => {
                let value: f64 = std::str::from_utf8(bytes(slot)).ok()?.parse().ok()?;
                value.is_finite().then_some(value)
            }
            _ => None,
        }),
        (&Reader::Decimal { precision, scale }, Data::I128(out)) => each(slots, out, miss, |slot| match slot.kind {
            Kind::Int | Kind::Number | Kind::Str => text::parse_decimal(bytes(slot), precision, scale),
            Kind::Escaped => text::parse_decimal(&unescaped(buf, slot), precision, scale),
            _ => None,
        }),
        (Reader::Enum(labels), Data::Code(out)) => each(slots, out, miss, |slot| labels.code(buf, slot)),
        (Reader::TimeText(zone), Data::I64(out)) => each(slots, out, miss, |slot| {
            let parsed = match slot.kind {
                Kind::Str => text::parse_datetime(bytes(slot)),
                Kind::Escaped => text::parse_datetime(&unescaped(buf, slot)),
                _ => None,
            };
            match parsed? {
                (local, Some(offset)) => in_range(local - offset),
                (local, None) => in_range(zone.as_ref()?.to_utc(local)?),
            }
        }),
        (&Reader::TimeNumber { divide, multiply }, Data::I64(out)) => each(slots, out, miss, |slot| match slot.kind {
            Kind::Int => in_range(text::parse_int(bytes(slot))?.checked_mul(multiply)?.div_euclid(divide)),
            _ => None,
        }),
        (Reader::Str { content_id }, Data::Str(out)) => {
            for (i, slot) in slots.enumerate() {
                match slot.kind {
                    Kind::Str => push_padded(out, buf, slot),
                    Kind::Escaped => {
                        unescape(bytes(slot), &mut out.bytes);
                        out.close();
                    }
                    Kind::Absent | Kind::Null if *content_id => {
                        let hash = xxh3_128(payload(i));
                        let digit = |n: u32| b"0123456789abcdef"[(hash >> (4 * n)) as usize & 15];
                        out.bytes.extend((0..32).rev().map(digit));
                        out.close();
                    }
                    kind => {
                        miss(i, kind);
                        out.close();
                    }
                }
            }
        }
        _ => unreachable!("column type"),
    }
}

/// Copies a short string as one block of fixed size, which needs no call; what is too much is cut off again.
#[inline(always)]
fn push_padded(out: &mut Bytes, buf: &[u8], slot: Slot) {
    let (start, end) = (slot.start as usize, slot.end as usize);
    if end - start <= PAD {
        let len = out.bytes.len() + end - start;
        out.bytes.extend_from_slice(&buf[start..start + PAD]);
        out.bytes.truncate(len);
        out.close();
    } else {
        out.push(&buf[start..end]);
    }
}

#[cold]
fn unescaped(buf: &[u8], slot: Slot) -> Vec<u8> {
    let mut out = Vec::new();
    unescape(&buf[slot.start as usize..slot.end as usize], &mut out);
    out
}
