//! Key bytes: two encodings of one tuple of values.
//!
//! *Inside* (state, frames): an order-preserving tuple encoding, one element after another. Each begins with a tag (null
//! sorts first), integers follow big-endian with the sign bit flipped, text ends with `00 00` and writes a zero byte as
//! `00 FF`. Comparing encoded bytes compares the tuples, so sorting and range scans need no types.
//!
//! *On user topics*: one value is its Java serialiser's bytes (text as UTF-8, integers as 8 bytes big-endian), several
//! are a compact JSON array. Partitions are always chosen from these (murmur2), inside and outside alike, so that what
//! other clients write with the same key lies in the same partition.

use crate::column::{Bytes, Column, ColumnBuilder, Data, Value, NULL, VALID};
use crate::types::DataType;

const TAG_NULL: u8 = 0;
const TAG_VALUE: u8 = 1;

/// Appends one value of the inner encoding. The row must not be an error.
#[inline]
pub fn encode(column: &Column, row: usize, out: &mut Vec<u8>) {
    if column.state_at(row) != VALID {
        out.push(TAG_NULL);
        return;
    }
    out.push(TAG_VALUE);
    match &column.data {
        Data::Bool(v) => out.push(v[row]),
        Data::I64(v) => out.extend_from_slice(&((v[row] as u64) ^ (1 << 63)).to_be_bytes()),
        Data::F64(v) => {
            let bits = v[row].to_bits();
            let ordered = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        Data::I128(v) => out.extend_from_slice(&((v[row] as u128) ^ (1 << 127)).to_be_bytes()),
        Data::Str(_) | Data::Code(_) => encode_text(column.text_at(row), out),
    }
}

#[inline]
fn encode_text(text: &[u8], out: &mut Vec<u8>) {
    if text.contains(&0) {
        for &b in text {
            out.push(b);
            if b == 0 {
                out.push(0xFF);
            }
        }
    } else {
        out.extend_from_slice(text);
    }
    out.extend_from_slice(&[0, 0]);
}

/// Reads one value of `dtype`; returns the rest.
pub fn decode<'a>(dtype: &DataType, bytes: &'a [u8], out: &mut ColumnBuilder) -> Option<&'a [u8]> {
    if let (DataType::Str, Some((text, rest))) = (dtype, plain_text(dtype, bytes)) {
        out.push_str(text);
        return Some(rest);
    }
    let (value, rest) = decode_value(dtype, bytes)?;
    out.push_value(&value);
    Some(rest)
}

pub fn decode_value<'a>(dtype: &DataType, bytes: &'a [u8]) -> Option<(Value, &'a [u8])> {
    let (&tag, rest) = bytes.split_first()?;
    if tag == TAG_NULL {
        return Some((Value::Null, rest));
    }
    let int = |rest: &'a [u8]| -> Option<(i64, &'a [u8])> {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        Some(((u64::from_be_bytes(*head) ^ (1 << 63)) as i64, tail))
    };
    Some(match dtype {
        DataType::Bool => {
            let (&b, tail) = rest.split_first()?;
            (Value::Bool(b != 0), tail)
        }
        DataType::Int => int(rest).map(|(v, t)| (Value::Int(v), t))?,
        DataType::Timestamp => int(rest).map(|(v, t)| (Value::Timestamp(v), t))?,
        DataType::Duration => int(rest).map(|(v, t)| (Value::Duration(v), t))?,
        DataType::Float => {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            let ordered = u64::from_be_bytes(*head);
            let bits = if ordered >> 63 == 1 { ordered ^ (1 << 63) } else { !ordered };
            (Value::Float(f64::from_bits(bits)), tail)
        }
        DataType::Decimal { scale, .. } => {
            let (head, tail) = rest.split_first_chunk::<16>()?;
            (Value::Decimal((u128::from_be_bytes(*head) ^ (1 << 127)) as i128, *scale), tail)
        }
        DataType::Str | DataType::Json | DataType::Enum(_) => {
            let mut text = Vec::new();
            let mut at = 0;
            loop {
                let b = *rest.get(at)?;
                at += 1;
                if b != 0 {
                    text.push(b);
                    continue;
                }
                let next = *rest.get(at)?;
                at += 1;
                if next == 0 {
                    break;
                }
                text.push(0);
            }
            (Value::Str(String::from_utf8(text).ok()?), &rest[at..])
        }
    })
}

/// Whether bytes that were stored or sent are an inner key of these types, whole: what is not must not become a group.
pub fn fits(types: &[DataType], key: &[u8]) -> bool {
    types.iter().try_fold(key, |rest, dtype| skip(dtype, rest)).is_some_and(<[u8]>::is_empty)
}

/// What follows the first element; none: it is not one of its type.
fn skip<'a>(dtype: &DataType, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (&tag, mut rest) = bytes.split_first()?;
    if tag == TAG_NULL {
        return Some(rest);
    }
    match dtype {
        DataType::Bool => rest.get(1..),
        DataType::Int | DataType::Timestamp | DataType::Duration | DataType::Float => rest.get(8..),
        DataType::Decimal { .. } => rest.get(16..),
        DataType::Str | DataType::Json | DataType::Enum(_) => loop {
            let zero = memchr::memchr(0, rest)?;
            std::str::from_utf8(&rest[..zero]).ok()?;
            let ends = *rest.get(zero + 1)? == 0;
            rest = &rest[zero + 2..];
            if ends {
                return Some(rest);
            }
        },
    }
}

/// Whether every element of an inner key is null-free; a group whose key has a null element is still a group, but a key
/// of one null element is a null key.
pub fn is_null_key(key: &[u8]) -> bool {
    key == [TAG_NULL]
}

/// Turns an inner key into the bytes a user topic carries. Returns false for a null key (a single null element).
pub fn to_user_key(types: &[DataType], key: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    if let [dtype] = types {
        return match decode_value(dtype, key) {
            Some((value, _)) => single_user_key(&value, out),
            None => false,
        };
    }
    let mut rest = key;
    out.push(b'[');
    for (i, dtype) in types.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if let Some((text, tail)) = plain_text(dtype, rest) {
            rest = tail;
            out.push(b'"');
            out.extend_from_slice(text);
            out.push(b'"');
            continue;
        }
        let Some((value, tail)) = decode_value(dtype, rest) else { return false };
        rest = tail;
        json_value(&value, out);
    }
    out.push(b']');
    true
}

/// The next element, if it is text that stands in JSON as it is (nearly all text does).
#[inline]
fn plain_text<'a>(dtype: &DataType, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    if !dtype.is_text() || bytes.first() != Some(&TAG_VALUE) {
        return None;
    }
    let rest = &bytes[1..];
    let end = rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\')?;
    (rest[end] == 0 && rest.get(end + 1) == Some(&0)).then(|| (&rest[..end], &rest[end + 2..]))
}

/// The user-topic key of some columns of a row.
pub fn user_key(columns: &[&Column], row: usize, out: &mut Vec<u8>) -> bool {
    out.clear();
    match columns {
        [] => return false,
        [one] => {
            if one.state_at(row) == VALID && one.dtype.is_text() {
                out.extend_from_slice(one.text_at(row));
                return true;
            }
            return single_user_key(&one.value_at(row), out);
        }
        _ => {}
    }
    out.push(b'[');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json_value(&column.value_at(row), out);
    }
    out.push(b']');
    true
}

fn single_user_key(value: &Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null | Value::Error(_) => return false,
        Value::Str(s) => out.extend_from_slice(s.as_bytes()),
        Value::Int(i) | Value::Timestamp(i) | Value::Duration(i) => out.extend_from_slice(&i.to_be_bytes()),
        Value::Float(x) => out.extend_from_slice(&x.to_be_bytes()),
        Value::Bool(b) => out.push(*b as u8),
        Value::Decimal(..) => json_value(value, out),
    }
    true
}

fn json_value(value: &Value, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing into a Vec cannot fail.
    let _ = match value {
        Value::Null | Value::Error(_) => out.write_all(b"null"),
        Value::Bool(b) => write!(out, "{b}"),
        Value::Int(i) | Value::Timestamp(i) | Value::Duration(i) => write!(out, "{i}"),
        Value::Float(x) => write!(out, "{x}"),
        Value::Decimal(u, s) => {
            out.push(b'"');
            crate::codec::text::format_decimal(*u, *s, out);
            out.write_all(b"\"")
        }
        Value::Str(s) => serde_json::to_writer(&mut *out, s).map_err(std::io::Error::other),
    };
}

/// The inner key of some columns of every row that `rows` yields; error rows must have been taken out before.
pub fn encode_row(columns: &[&Column], row: usize, out: &mut Vec<u8>) {
    for column in columns {
        encode(column, row, out);
    }
}

/// The inner keys of many rows, one after the other. Those of error rows mean nothing.
pub fn encode_rows(columns: &[&Column], rows: impl Iterator<Item = usize>, out: &mut Bytes) {
    out.clear();
    // Text without any zero byte need not be looked through row by row.
    let plain = |c: &Column| matches!(&c.data, Data::Str(text) if memchr::memchr(0, &text.bytes).is_none());
    let columns: Vec<(&Column, bool)> = columns.iter().map(|c| (*c, plain(c))).collect();
    for row in rows {
        for &(column, plain) in &columns {
            match &column.data {
                Data::Str(text) if plain && column.is_valid(row) => {
                    out.bytes.push(TAG_VALUE);
                    out.bytes.extend_from_slice(text.get(row));
                    out.bytes.extend_from_slice(&[0, 0]);
                }
                _ => encode(column, row, &mut out.bytes),
            }
        }
        out.close();
    }
}

/// A key as a number: no two keys are to be expected with the same one.
pub fn identity(key: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(key)
}

/// The first error among some columns of a row.
#[inline]
pub fn error_at(columns: &[&Column], row: usize) -> Option<u8> {
    columns.iter().map(|c| c.state_at(row)).find(|&s| s > NULL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn column(dtype: DataType, values: &[Value]) -> Column {
        let mut b = ColumnBuilder::new(dtype);
        for v in values {
            b.push_value(v);
        }
        b.finish()
    }

    fn encoded(dtype: &DataType, v: &Value) -> Vec<u8> {
        let mut out = vec![];
        encode(&column(dtype.clone(), std::slice::from_ref(v)), 0, &mut out);
        out
    }

    proptest! {
        #[test]
        fn text_round_trips_and_keeps_order(a in ".*", b in "\\PC*|[\\x00a]{0,4}") {
            let (va, vb) = (Value::Str(a.clone()), Value::Str(b.clone()));
            let (ea, eb) = (encoded(&DataType::Str, &va), encoded(&DataType::Str, &vb));
            prop_assert_eq!(decode_value(&DataType::Str, &ea).unwrap(), (va, &[][..]));
            prop_assert_eq!(a.as_bytes().cmp(b.as_bytes()), ea.cmp(&eb));
        }

        #[test]
        fn numbers_round_trip_and_keep_order(a: i64, b: i64, x: i128, y: i128, f in -1e300f64..1e300, g in -1e300f64..1e300) {
            let int = |v| encoded(&DataType::Int, &Value::Int(v));
            prop_assert_eq!(a.cmp(&b), int(a).cmp(&int(b)));
            let dec = |v| encoded(&DataType::decimal(2), &Value::Decimal(v, 2));
            prop_assert_eq!(x.cmp(&y), dec(x).cmp(&dec(y)));
            prop_assert_eq!(decode_value(&DataType::decimal(2), &dec(x)).unwrap().0, Value::Decimal(x, 2));
            let flt = |v| encoded(&DataType::Float, &Value::Float(v));
            prop_assert_eq!(f.total_cmp(&g), flt(f).cmp(&flt(g)));
        }
    }

    proptest! {
        /// Keys fit; what fits can be decoded, whole.
        #[test]
        fn what_fits_is_a_key(
            a in ".*", x: i64, d: i128, cut in 0usize..80, change in prop::option::of((0usize..80, any::<u8>())), more in any::<u8>()
        ) {
            let types = [DataType::Str, DataType::Int, DataType::decimal(2), DataType::Str];
            let values = [Value::Str(a.clone()), Value::Int(x), Value::Decimal(d, 2), Value::Null];
            let mut key: Vec<u8> = types.iter().zip(&values).flat_map(|(t, v)| encoded(t, v)).collect();
            prop_assert!(fits(&types, &key));
            prop_assert!(!fits(&types, &[&key[..], &[more]].concat()));
            prop_assert!(!fits(&types, &key[..cut % key.len()]));
            if let Some((at, byte)) = change {
                let at = at % key.len();
                key[at] = byte;
            }
            let mut rest = Some(&key[..]);
            for dtype in &types {
                rest = rest.and_then(|r| decode_value(dtype, r)).map(|found| found.1);
            }
            prop_assert_eq!(fits(&types, &key), rest.is_some_and(<[u8]>::is_empty));
        }
    }

    #[test]
    fn rows_at_once_are_rows_one_by_one() {
        let texts = ["a", "", "b\0c", "d"].map(|s| Value::Str(s.into()));
        let plain = ["x", "y"].map(|s| Value::Str(s.into()));
        let first = column(DataType::Str, &texts);
        let second = column(DataType::Str, &[plain[0].clone(), Value::Null, plain[1].clone(), Value::Error(4)]);
        let third = column(DataType::Int, &[1, 2, 3, 4].map(Value::Int));
        let columns = [&first, &second, &third];
        let mut all = Bytes::default();
        encode_rows(&columns, [0, 1, 2, 3].into_iter(), &mut all);
        for row in 0..4 {
            let mut one = vec![];
            encode_row(&columns, row, &mut one);
            assert_eq!(all.get(row), one);
        }
    }

    #[test]
    fn null_sorts_first_and_alone_is_a_null_key() {
        assert!(encoded(&DataType::Str, &Value::Null) < encoded(&DataType::Str, &Value::Str(String::new())));
        assert!(is_null_key(&encoded(&DataType::Int, &Value::Null)));
    }

    #[test]
    fn user_keys_are_javas() {
        let types = [DataType::Str, DataType::Int];
        let mut inner = encoded(&DataType::Str, &Value::Str("전자\"".into()));
        inner.extend(encoded(&DataType::Int, &Value::Int(7)));
        let mut out = vec![];
        assert!(to_user_key(&types, &inner, &mut out));
        assert_eq!(std::str::from_utf8(&out).unwrap(), "[\"전자\\\"\",7]");
        assert!(to_user_key(&types[..1], &inner, &mut out));
        assert_eq!(out, "전자\"".as_bytes());
        assert!(to_user_key(&types[1..], &encoded(&DataType::Int, &Value::Int(-1)), &mut out));
        assert_eq!(out, [0xFF; 8]);
    }
}
