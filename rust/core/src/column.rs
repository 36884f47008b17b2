//! One column: values of one type, each valid, null, or an error that waits to be read.
//!
//! Errors are values: a condition that a record-at-a-time program would never have evaluated must not kill a row when
//! it is evaluated for a whole batch. A kernel therefore marks the row and goes on; whoever *reads* the value (a filter,
//! a sink, an aggregate's input) turns the mark into a dead letter.

use std::sync::Arc;

use crate::types::DataType;

/// Per-row state bytes. Anything from `ERROR_MIN` up is an error; `reason()` names it.
pub const VALID: u8 = 0;
pub const NULL: u8 = 1;
pub const ERROR_MIN: u8 = 2;
pub const ERR_OVERFLOW: u8 = 2;
pub const ERR_NOT_A_NUMBER: u8 = 3;
pub const ERR_CAST: u8 = 4;
pub const ERR_CALLABLE: u8 = 5;
pub const ERR_RANGE: u8 = 6;

/// The stable reason under which an error state is counted and dead-lettered.
pub fn reason(state: u8) -> &'static str {
    match state {
        ERR_OVERFLOW => "overflow",
        ERR_NOT_A_NUMBER => "not_a_number",
        ERR_CAST => "bad_cast",
        ERR_CALLABLE => "callable_raised",
        ERR_RANGE => "out_of_range",
        _ => "error",
    }
}

/// Variable-length byte strings in one arena: value `i` is `bytes[ends[i-1]..ends[i]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bytes {
    pub bytes: Vec<u8>,
    pub ends: Vec<u32>,
}

impl Bytes {
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        Bytes { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(rows) }
    }
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    #[inline]
    pub fn get(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.bytes[start..self.ends[row] as usize]
    }
    #[inline]
    pub fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.close();
    }
    /// Ends the value whose bytes were appended to `bytes` directly.
    #[inline]
    pub fn close(&mut self) {
        debug_assert!(self.bytes.len() <= u32::MAX as usize);
        self.ends.push(self.bytes.len() as u32);
    }
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// The physical values. A slot whose state is not `VALID` holds an arbitrary value.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `Bool`: 0 or 1 per row.
    Bool(Vec<u8>),
    /// `Int`, `Timestamp`, `Duration`.
    I64(Vec<i64>),
    F64(Vec<f64>),
    /// `Decimal`: unscaled.
    I128(Vec<i128>),
    /// `Str`, `Json`: always valid UTF-8.
    Str(Bytes),
    /// `Enum`: index into the type's values.
    Code(Vec<u32>),
}

impl Data {
    pub fn empty(dtype: &DataType) -> Data {
        match dtype {
            DataType::Bool => Data::Bool(vec![]),
            DataType::Int | DataType::Timestamp | DataType::Duration => Data::I64(vec![]),
            DataType::Float => Data::F64(vec![]),
            DataType::Decimal { .. } => Data::I128(vec![]),
            DataType::Str | DataType::Json => Data::Str(Bytes::default()),
            DataType::Enum(_) => Data::Code(vec![]),
        }
    }
    pub fn len(&self) -> usize {
        match self {
            Data::Bool(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::F64(v) => v.len(),
            Data::I128(v) => v.len(),
            Data::Str(v) => v.len(),
            Data::Code(v) => v.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub dtype: DataType,
    pub data: Data,
    /// `None`: every row is valid.
    pub state: Option<Vec<u8>>,
    /// Texts for error rows that have more to say than their reason (a Python exception): (row, text), ascending.
    pub messages: Option<Arc<Vec<(u32, String)>>>,
}

impl Column {
    pub fn new(dtype: DataType, data: Data, state: Option<Vec<u8>>) -> Self {
        debug_assert!(state.as_ref().is_none_or(|s| s.len() == data.len()));
        Column { dtype, data, state, messages: None }
    }
    pub fn len(&self) -> usize {
        self.data.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    #[inline]
    pub fn state_at(&self, row: usize) -> u8 {
        match &self.state {
            None => VALID,
            Some(s) => s[row],
        }
    }
    #[inline]
    pub fn is_valid(&self, row: usize) -> bool {
        self.state_at(row) == VALID
    }
    /// True only for a valid `true`: what a filter passes.
    #[inline]
    pub fn is_true(&self, row: usize) -> bool {
        match &self.data {
            Data::Bool(v) => v[row] != 0 && self.is_valid(row),
            _ => false,
        }
    }
    pub fn message_at(&self, row: usize) -> Option<&str> {
        let list = self.messages.as_ref()?;
        list.binary_search_by_key(&(row as u32), |m| m.0).ok().map(|i| list[i].1.as_str())
    }
    /// The text of a `Str` or `Enum` row; empty for other types.
    #[inline]
    pub fn text_at(&self, row: usize) -> &[u8] {
        match (&self.data, &self.dtype) {
            (Data::Str(b), _) => b.get(row),
            (Data::Code(c), DataType::Enum(values)) => values.get(c[row] as usize).map(|s| s.as_bytes()).unwrap_or(b""),
            _ => b"",
        }
    }
    /// One value as an owned scalar (slow paths: rows for Python, messages, tests).
    pub fn value_at(&self, row: usize) -> Value {
        match self.state_at(row) {
            VALID => match &self.data {
                Data::Bool(v) => Value::Bool(v[row] != 0),
                Data::I64(v) => match self.dtype {
                    DataType::Timestamp => Value::Timestamp(v[row]),
                    DataType::Duration => Value::Duration(v[row]),
                    _ => Value::Int(v[row]),
                },
                Data::F64(v) => Value::Float(v[row]),
                Data::I128(v) => match self.dtype {
                    DataType::Decimal { scale, .. } => Value::Decimal(v[row], scale),
                    _ => Value::Null,
                },
                Data::Str(_) | Data::Code(_) => Value::Str(String::from_utf8_lossy(self.text_at(row)).into_owned()),
            },
            NULL => Value::Null,
            state => Value::Error(state),
        }
    }
    /// The rows named, in that order.
    pub fn take(&self, rows: &[u32]) -> Column {
        fn pick<T: Copy>(v: &[T], rows: &[u32]) -> Vec<T> {
            rows.iter().map(|&r| v[r as usize]).collect()
        }
        let data = match &self.data {
            Data::Bool(v) => Data::Bool(pick(v, rows)),
            Data::I64(v) => Data::I64(pick(v, rows)),
            Data::F64(v) => Data::F64(pick(v, rows)),
            Data::I128(v) => Data::I128(pick(v, rows)),
            Data::Code(v) => Data::Code(pick(v, rows)),
            Data::Str(b) => {
                let mut out = Bytes::with_capacity(rows.len(), 0);
                for &r in rows {
                    out.push(b.get(r as usize));
                }
                Data::Str(out)
            }
        };
        let state = self.state.as_ref().map(|s| pick(s, rows)).filter(|s| s.iter().any(|&x| x != VALID));
        let messages = self.messages.as_ref().map(|_| {
            let kept = rows.iter().enumerate();
            Arc::new(
                kept.filter_map(|(i, &r)| self.message_at(r as usize).map(|m| (i as u32, m.to_string()))).collect(),
            )
        });
        Column { dtype: self.dtype.clone(), data, state, messages }
    }
}

/// A single value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Unscaled value and scale.
    Decimal(i128, u8),
    Str(String),
    Timestamp(i64),
    Duration(i64),
    /// An error state (see [`reason`]).
    Error(u8),
}

/// Appends values of one type; the decoder and every row-wise producer write through it.
#[derive(Clone, Debug)]
pub struct ColumnBuilder {
    pub dtype: DataType,
    pub data: Data,
    pub state: Vec<u8>,
    all_valid: bool,
}

impl ColumnBuilder {
    pub fn new(dtype: DataType) -> Self {
        let data = Data::empty(&dtype);
        ColumnBuilder { dtype, data, state: Vec::new(), all_valid: true }
    }
    pub fn with_capacity(dtype: DataType, rows: usize) -> Self {
        let mut data = Data::empty(&dtype);
        match &mut data {
            Data::Bool(v) => v.reserve(rows),
            Data::I64(v) => v.reserve(rows),
            Data::F64(v) => v.reserve(rows),
            Data::I128(v) => v.reserve(rows),
            Data::Code(v) => v.reserve(rows),
            Data::Str(v) => *v = Bytes::with_capacity(rows, rows * 16),
        }
        ColumnBuilder { dtype, data, state: Vec::with_capacity(rows), all_valid: true }
    }
    pub fn len(&self) -> usize {
        self.state.len()
    }
    pub fn is_empty(&self) -> bool {
        self.state.is_empty()
    }
    /// Appends a row without a value: null or an error.
    pub fn push_state(&mut self, state: u8) {
        match &mut self.data {
            Data::Bool(v) => v.push(0),
            Data::I64(v) => v.push(0),
            Data::F64(v) => v.push(0.0),
            Data::I128(v) => v.push(0),
            Data::Str(v) => v.close(),
            Data::Code(v) => v.push(0),
        }
        self.all_valid &= state == VALID;
        self.state.push(state);
    }
    pub fn push_null(&mut self) {
        self.push_state(NULL);
    }
    #[inline]
    pub fn push_bool(&mut self, value: bool) {
        let Data::Bool(v) = &mut self.data else { unreachable!("builder type") };
        v.push(value as u8);
        self.state.push(VALID);
    }
    #[inline]
    pub fn push_i64(&mut self, value: i64) {
        let Data::I64(v) = &mut self.data else { unreachable!("builder type") };
        v.push(value);
        self.state.push(VALID);
    }
    #[inline]
    pub fn push_f64(&mut self, value: f64) {
        let Data::F64(v) = &mut self.data else { unreachable!("builder type") };
        v.push(value);
        self.state.push(VALID);
    }
    #[inline]
    pub fn push_i128(&mut self, value: i128) {
        let Data::I128(v) = &mut self.data else { unreachable!("builder type") };
        v.push(value);
        self.state.push(VALID);
    }
    #[inline]
    pub fn push_code(&mut self, value: u32) {
        let Data::Code(v) = &mut self.data else { unreachable!("builder type") };
        v.push(value);
        self.state.push(VALID);
    }
    /// The bytes must be valid UTF-8.
    #[inline]
    pub fn push_str(&mut self, value: &[u8]) {
        let Data::Str(v) = &mut self.data else { unreachable!("builder type") };
        v.push(value);
        self.state.push(VALID);
    }
    /// Appends a value of the builder's type; a value of another type is an `ERR_CAST`.
    pub fn push_value(&mut self, value: &Value) {
        match (&self.dtype, value) {
            (_, Value::Null) => self.push_null(),
            (_, Value::Error(e)) => self.push_state(*e),
            (DataType::Bool, Value::Bool(b)) => self.push_bool(*b),
            (DataType::Int, Value::Int(i)) => self.push_i64(*i),
            (DataType::Timestamp, Value::Timestamp(i)) => self.push_i64(*i),
            (DataType::Duration, Value::Duration(i)) => self.push_i64(*i),
            (DataType::Float, Value::Float(x)) => self.push_f64(*x),
            (DataType::Float, Value::Int(x)) => self.push_f64(*x as f64),
            (DataType::Decimal { scale, .. }, Value::Decimal(u, s)) if s == scale => self.push_i128(*u),
            (DataType::Str | DataType::Json, Value::Str(s)) => self.push_str(s.as_bytes()),
            (DataType::Enum(values), Value::Str(s)) => match values.iter().position(|v| v == s) {
                Some(code) => self.push_code(code as u32),
                None => self.push_state(ERR_CAST),
            },
            _ => self.push_state(ERR_CAST),
        }
    }
    pub fn finish(self) -> Column {
        let state = if self.all_valid { None } else { Some(self.state) };
        Column::new(self.dtype, self.data, state)
    }
}
