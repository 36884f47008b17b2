//! Bytes to columns for the fields asked for, and back. A bad row is data: it comes back with its reason.

mod json_decode;
pub mod json_encode;
mod scan;
pub mod text;

pub use json_decode::{JsonDecoder, JsonField, TimeUnit, TIME_MS_END, TIME_MS_MIN};
pub use json_encode::JsonEncoder;

use crate::column::Column;

/// What a decoder made of a batch of payloads.
#[derive(Debug)]
pub struct Decoded {
    /// One per declared field, each with as many rows as payloads.
    pub columns: Vec<Column>,
    /// (row, reason), ascending: the rows that are dead letters. Their column values mean nothing.
    pub bad: Vec<(u32, String)>,
}
