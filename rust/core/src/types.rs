//! The types a value can have, and the schema of a batch.
//!
//! A type has one text form (`decimal(10,2)`), used in plans, in stored headers and in error messages alike, so that
//! what a user reads is what was compared.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A column's type. Times are UTC milliseconds, durations milliseconds, decimals 128-bit integers times `10^-scale`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    Bool,
    Int,
    Float,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Str,
    Timestamp,
    Duration,
    /// A JSON value, kept as its compact text: what aggregates give that have many values. Only they make it.
    Json,
    /// A closed set of strings; stored as codes, behaves as `Str` everywhere else.
    Enum(Arc<Vec<String>>),
}

/// The widest decimal: 38 digits fit a 128-bit integer.
pub const DECIMAL_PRECISION_MAX: u8 = 38;

impl DataType {
    pub fn decimal(scale: u8) -> Self {
        DataType::Decimal { precision: DECIMAL_PRECISION_MAX, scale }
    }
    /// `Str` for enums: what operators that do not care about the closed set see.
    pub fn widened(&self) -> DataType {
        match self {
            DataType::Enum(_) => DataType::Str,
            other => other.clone(),
        }
    }
    pub fn is_text(&self) -> bool {
        matches!(self, DataType::Str | DataType::Enum(_))
    }
    pub fn is_numeric(&self) -> bool {
        matches!(self, DataType::Int | DataType::Float | DataType::Decimal { .. })
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataType::Bool => f.write_str("bool"),
            DataType::Int => f.write_str("int"),
            DataType::Float => f.write_str("float"),
            DataType::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            DataType::Str => f.write_str("str"),
            DataType::Timestamp => f.write_str("timestamp"),
            DataType::Duration => f.write_str("duration"),
            DataType::Json => f.write_str("json"),
            DataType::Enum(values) => {
                write!(f, "enum{}", serde_json::to_string(values.as_ref()).map_err(|_| fmt::Error)?)
            }
        }
    }
}

impl FromStr for DataType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            format!(
                "unknown type `{text}` (bool, int, float, decimal(p,s), str, timestamp, duration, json, enum[\"A\",…])"
            )
        };
        Ok(match text {
            "bool" => DataType::Bool,
            "int" => DataType::Int,
            "float" => DataType::Float,
            "str" => DataType::Str,
            "timestamp" => DataType::Timestamp,
            "duration" => DataType::Duration,
            "json" => DataType::Json,
            _ => {
                if let Some(list) = text.strip_prefix("enum") {
                    return Ok(DataType::Enum(Arc::new(serde_json::from_str(list).map_err(|_| unknown())?)));
                }
                let inner = text.strip_prefix("decimal(").and_then(|t| t.strip_suffix(')')).ok_or_else(unknown)?;
                let (p, s) = inner.split_once(',').ok_or_else(unknown)?;
                let precision: u8 = p.trim().parse().map_err(|_| unknown())?;
                let scale: u8 = s.trim().parse().map_err(|_| unknown())?;
                if precision == 0 || precision > DECIMAL_PRECISION_MAX || scale > precision {
                    return Err(format!("`{text}`: precision is 1 to 38 and scale at most the precision"));
                }
                DataType::Decimal { precision, scale }
            }
        })
    }
}

impl Serialize for DataType {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DataType {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    pub name: String,
    #[serde(rename = "type")]
    pub dtype: DataType,
}

/// Names and types of a batch's columns, in order. Names that begin with `$` are the engine's (`$window_start`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schema {
    pub fields: Vec<Field>,
}

impl Schema {
    pub fn new<N: Into<String>>(fields: impl IntoIterator<Item = (N, DataType)>) -> Self {
        Schema { fields: fields.into_iter().map(|(name, dtype)| Field { name: name.into(), dtype }).collect() }
    }
    pub fn index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }
    pub fn dtype(&self, name: &str) -> Option<&DataType> {
        self.index(name).map(|i| &self.fields[i].dtype)
    }
    pub fn len(&self) -> usize {
        self.fields.len()
    }
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}
