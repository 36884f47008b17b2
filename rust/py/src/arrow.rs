//! Columns across the border as Arrow's buffers: what `adstream.dsl.batches` makes `pyarrow` arrays of, and the way back.
//!
//! Nothing here knows Arrow's library: its layout of plain types is a few lines. A column goes out as (name, type, validity,
//! values, offsets) and comes back as (offset, validity, values, offsets); bits count from the lowest of each byte, a set
//! one is a value. All types cross exactly, since theirs have the same values: 128-bit decimals, UTC milliseconds, durations
//! in milliseconds; JSON is its text, an enum the text that it stands for.
//!
//! What comes back was made by others: lengths, offsets and UTF-8 are checked before they are believed.

use adstream_core::column::{Bytes, Column, ColumnBuilder, Data, ERR_CAST, ERR_NOT_A_NUMBER, NULL, VALID};
use adstream_core::types::{DataType, Field};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Name, type, validity, values, offsets.
pub type Sent<'py> = (String, String, Option<Bound<'py, PyBytes>>, Bound<'py, PyBytes>, Option<Bound<'py, PyBytes>>);

/// Offset in values, validity, values, offsets.
pub type Made<'py> = (usize, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>);

fn bits<'py>(py: Python<'py>, set: impl ExactSizeIterator<Item = bool>) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, set.len().div_ceil(8), |out| {
        set.enumerate().for_each(|(i, bit)| out[i / 8] |= (bit as u8) << (i % 8));
        Ok(())
    })
}

fn words<'py, const N: usize, T: Copy>(
    py: Python<'py>,
    values: &[T],
    bytes: impl Fn(T) -> [u8; N],
) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, values.len() * N, |out| {
        out.chunks_exact_mut(N).zip(values).for_each(|(place, &v)| place.copy_from_slice(&bytes(v)));
        Ok(())
    })
}

/// A column all of whose rows are values or null.
pub fn sent<'py>(py: Python<'py>, field: &Field, column: &Column) -> PyResult<Sent<'py>> {
    let validity = match &column.state {
        Some(states) if states.iter().any(|&s| s != VALID) => Some(bits(py, states.iter().map(|&s| s == VALID))?),
        _ => None,
    };
    let mut offsets = None;
    let values = match &column.data {
        Data::Bool(v) => bits(py, v.iter().map(|&b| b != 0))?,
        Data::I64(v) => words(py, v, i64::to_ne_bytes)?,
        Data::F64(v) => words(py, v, f64::to_ne_bytes)?,
        Data::I128(v) => words(py, v, i128::to_ne_bytes)?,
        Data::Str(text) => {
            offsets = Some(ends(py, &text.ends)?);
            PyBytes::new(py, &text.bytes)
        }
        Data::Code(_) => {
            let mut text = Bytes::with_capacity(column.len(), 0);
            for row in 0..column.len() {
                text.push(if column.is_valid(row) { column.text_at(row) } else { b"" });
            }
            offsets = Some(ends(py, &text.ends)?);
            PyBytes::new(py, &text.bytes)
        }
    };
    Ok((field.name.clone(), field.dtype.to_string(), validity, values, offsets))
}

fn ends<'py>(py: Python<'py>, ends: &[u32]) -> PyResult<Bound<'py, PyBytes>> {
    let all: Vec<i32> = std::iter::once(0).chain(ends.iter().map(|&end| end as i32)).collect();
    words(py, &all, i32::to_ne_bytes)
}

/// The column that these buffers are; the error: they are none.
pub fn made(rows: usize, dtype: &DataType, given: &Made<'_>) -> Result<Column, String> {
    let (offset, validity, values, offsets) = given;
    let bytes = |b: &Option<Bound<'_, PyBytes>>| b.as_ref().map_or(vec![], |b| b.as_bytes().to_vec());
    let validity = validity.as_ref().map(|b| b.as_bytes().to_vec());
    column(rows, dtype, *offset, validity.as_deref(), &bytes(values), &bytes(offsets))
}

fn column(
    rows: usize,
    dtype: &DataType,
    offset: usize,
    validity: Option<&[u8]>,
    values: &[u8],
    offsets: &[u8],
) -> Result<Column, String> {
    let short = || format!("an array of `{dtype}` is shorter than it says");
    let end = offset.checked_add(rows).ok_or_else(short)?;
    let bit = |of: &[u8], row: usize| of[(offset + row) / 8] >> ((offset + row) % 8) & 1 == 1;
    if validity.is_some_and(|v| v.len() < end.div_ceil(8)) {
        return Err(short());
    }
    let valid = |row: usize| validity.is_none_or(|v| bit(v, row));
    let mut out = ColumnBuilder::with_capacity(dtype.clone(), rows);
    let width = match dtype {
        DataType::Bool => {
            if values.len() < end.div_ceil(8) {
                return Err(short());
            }
            for row in 0..rows {
                match valid(row) {
                    true => out.push_bool(bit(values, row)),
                    false => out.push_null(),
                }
            }
            return Ok(out.finish());
        }
        DataType::Str | DataType::Json | DataType::Enum(_) => {
            return texts(rows, out, offset, values, offsets, valid)
                .ok_or_else(|| format!("an array of `{dtype}` is shorter than it says, or not UTF-8"));
        }
        DataType::Decimal { .. } => 16,
        DataType::Int | DataType::Timestamp | DataType::Duration | DataType::Float => 8,
    };
    let wanted = end.checked_mul(width).and_then(|end| values.get(offset * width..end)).ok_or_else(short)?;
    for (row, word) in wanted.chunks_exact(width).enumerate() {
        if !valid(row) {
            out.push_null();
            continue;
        }
        match dtype {
            DataType::Decimal { .. } => out.push_i128(i128::from_ne_bytes(word.try_into().unwrap_or_default())),
            DataType::Float => match f64::from_ne_bytes(word.try_into().unwrap_or_default()) {
                x if x.is_finite() => out.push_f64(x),
                _ => out.push_state(ERR_NOT_A_NUMBER),
            },
            _ => out.push_i64(i64::from_ne_bytes(word.try_into().unwrap_or_default())),
        }
    }
    Ok(out.finish())
}

fn texts(
    rows: usize,
    mut out: ColumnBuilder,
    offset: usize,
    values: &[u8],
    offsets: &[u8],
    valid: impl Fn(usize) -> bool,
) -> Option<Column> {
    let at = |i: usize| -> Option<usize> {
        let start = offset.checked_add(i)?.checked_mul(4)?;
        let word = offsets.get(start..start.checked_add(4)?)?;
        usize::try_from(i32::from_ne_bytes(word.try_into().ok()?)).ok()
    };
    for row in 0..rows {
        if !valid(row) {
            out.push_state(NULL);
            continue;
        }
        let text = std::str::from_utf8(values.get(at(row)?..at(row + 1)?)?).ok()?;
        match &out.dtype {
            DataType::Enum(known) => match known.iter().position(|k| k == text) {
                Some(code) => out.push_code(code as u32),
                None => out.push_state(ERR_CAST),
            },
            DataType::Json => match compact(text) {
                Some(text) => out.push_str(text.as_bytes()),
                None => out.push_state(ERR_CAST),
            },
            _ => out.push_str(text.as_bytes()),
        }
    }
    Some(out.finish())
}

/// JSON without whitespace, and else as it is: numbers keep their digits. None: it is no JSON.
fn compact(text: &str) -> Option<String> {
    serde_json::from_str::<serde_json::Value>(text).ok()?;
    let (mut quoted, mut escaped) = (false, false);
    let keep = |&c: &char| {
        let inside = quoted;
        match c {
            '"' if !escaped => quoted = !quoted,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        inside || !c.is_ascii_whitespace()
    };
    Some(text.chars().filter(keep).collect())
}
