//! Columns to compact JSON objects.
//!
//! What is promised: a row is one valid JSON object with the named columns in the given order and no whitespace, which
//! the decoder, told the same types, reads back as the same values; equal rows give equal bytes.
//!
//! | type | form |
//! |---|---|
//! | `bool`, `int` | `true`, `-5` |
//! | `float` | shortest that reads back the same, `1.0` for integral values |
//! | `decimal` | a string with exactly `scale` fractional digits: `"12.50"` |
//! | `str`, `enum` | UTF-8 as it is; only quote, backslash and control characters are escaped |
//! | `timestamp` | `"2024-01-15T10:04:59.999Z"` |
//! | `duration` | integer milliseconds |
//! | `json` | as it is |
//!
//! NULL and errors are `null`. Special case: a float that is no number would be `null` too; its state has said so before.

use crate::batch::Batch;
use crate::codec::text;
use crate::column::{Column, Data};
use crate::types::{DataType, Schema};

pub struct JsonEncoder {
    /// Per column its place in the batch and what stands before its value: `{"a":`, `,"b":`.
    columns: Vec<(usize, Vec<u8>)>,
}

impl JsonEncoder {
    /// Writes the named columns of batches of `schema`, in that order. The plan has checked the names.
    ///
    /// # Panics
    /// If the schema lacks one of the columns.
    pub fn new(schema: &Schema, columns: &[String]) -> Self {
        let column = |(i, name): (usize, &String)| {
            let index = schema.index(name).unwrap_or_else(|| panic!("no column `{name}` to encode"));
            let mut prefix = vec![if i == 0 { b'{' } else { b',' }];
            write_str(name.as_bytes(), &mut prefix);
            prefix.push(b':');
            (index, prefix)
        };
        JsonEncoder { columns: columns.iter().enumerate().map(column).collect() }
    }
    /// Appends one row as a compact JSON object.
    pub fn encode_row(&self, batch: &Batch, row: usize, out: &mut Vec<u8>) {
        if self.columns.is_empty() {
            out.push(b'{');
        }
        for (index, prefix) in &self.columns {
            out.extend_from_slice(prefix);
            write_value(&batch.columns[*index], row, out);
        }
        out.push(b'}');
    }
}

/// One value; null and errors are `null`.
pub fn write_value(column: &Column, row: usize, out: &mut Vec<u8>) {
    if !column.is_valid(row) {
        out.extend_from_slice(b"null");
        return;
    }
    match (&column.data, &column.dtype) {
        (Data::Bool(v), _) => out.extend_from_slice(if v[row] != 0 { b"true" } else { b"false" }),
        (Data::I64(v), DataType::Timestamp) => {
            out.push(b'"');
            text::format_timestamp(v[row], out);
            out.push(b'"');
        }
        (Data::I64(v), _) => text::format_int(v[row], out),
        (Data::F64(v), _) => text::format_float(v[row], out),
        (Data::I128(v), dtype) => {
            let scale = if let DataType::Decimal { scale, .. } = dtype { *scale } else { 0 };
            out.push(b'"');
            text::format_decimal(v[row], scale, out);
            out.push(b'"');
        }
        (Data::Str(_), DataType::Json) => out.extend_from_slice(column.text_at(row)),
        (Data::Str(_) | Data::Code(_), _) => write_str(column.text_at(row), out),
    }
}

/// A JSON string of valid UTF-8.
pub fn write_str(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut done = 0;
    for (i, &byte) in value.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&value[done..i]);
        done = i + 1;
        let short = match byte {
            b'"' | b'\\' => byte,
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => {
                let digit = |n: u8| b"0123456789abcdef"[n as usize];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&value[done..]);
    out.push(b'"');
}
