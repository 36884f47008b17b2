//! What the decoder says, and what serde_json says of the same bytes.

use adstream_core::codec::{Decoded, JsonDecoder, JsonField};
use adstream_core::column::{Column, Value, NULL};
use adstream_core::raw::OptBytes;
use adstream_core::types::DataType;

pub const MALFORMED: &str = "malformed_json";

pub fn payloads<T: AsRef<[u8]>>(rows: &[T]) -> OptBytes {
    let mut out = OptBytes::default();
    rows.iter().for_each(|r| out.push(Some(r.as_ref())));
    out
}

pub fn decode<T: AsRef<[u8]>>(fields: Vec<JsonField>, rows: &[T]) -> Decoded {
    JsonDecoder::new(fields).unwrap().decode(&payloads(rows))
}

/// One row as text: its values, or its reason.
pub fn row_text(d: &Decoded, row: usize) -> String {
    if let Ok(i) = d.bad.binary_search_by_key(&(row as u32), |b| b.0) {
        assert!(d.columns.iter().all(|c| c.state_at(row) == NULL), "a bad row is NULL everywhere");
        return d.bad[i].1.clone();
    }
    let value = |c: &Column| match c.value_at(row) {
        Value::Null => "null".to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) | Value::Timestamp(i) | Value::Duration(i) => i.to_string(),
        Value::Float(x) => format!("{x:?}"),
        Value::Decimal(u, s) => format!("{u}e-{s}"),
        Value::Str(s) => s,
        Value::Error(e) => format!("error {e}"),
    };
    d.columns.iter().map(value).collect::<Vec<_>>().join("|")
}

pub fn all_rows(d: &Decoded) -> Vec<String> {
    let rows = d.columns.first().map_or(0, |c| c.len());
    assert!(d.columns.iter().all(|c| c.len() == rows));
    (0..rows).map(|r| row_text(d, r)).collect()
}

pub fn nullable_fields() -> Vec<JsonField> {
    vec![
        JsonField::new("a", DataType::Int).nullable(),
        JsonField::new("b", DataType::Str).nullable(),
        JsonField::new("c.d", DataType::Float).path(["c", "d"]).nullable(),
        JsonField::new("e", DataType::Bool).nullable(),
    ]
}

/// What the fields above should be, told by serde_json's tree.
pub fn expected(json: &serde_json::Value) -> String {
    use serde_json::Value as J;
    let at = |v: Option<&J>, read: fn(&J) -> Option<String>| match v {
        None | Some(J::Null) => Some("null".to_string()),
        Some(v) => read(v),
    };
    let int = |v: &J| v.as_i64().map(|i| i.to_string());
    let float = |v: &J| v.as_f64().filter(|_| v.is_number()).map(|x| format!("{x:?}"));
    let inner = match json.get("c") {
        Some(J::Object(c)) => at(c.get("d"), float),
        other => at(other, |_| None),
    };
    let values = [
        ("a", at(json.get("a"), int)),
        ("b", at(json.get("b"), |v| v.as_str().map(String::from))),
        ("c.d", inner),
        ("e", at(json.get("e"), |v| v.as_bool().map(|b| b.to_string()))),
    ];
    match values.iter().find(|v| v.1.is_none()) {
        Some((name, _)) => format!("bad_field:{name}"),
        None => values.map(|v| v.1.unwrap()).join("|"),
    }
}

/// serde_json refuses numbers that no double can hold; their grammar is fine, and so they are here.
pub fn serde_says(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(v) => Some(v.is_object()),
        Err(e) if e.to_string().contains("number out of range") => None,
        Err(_) => Some(false),
    }
}
