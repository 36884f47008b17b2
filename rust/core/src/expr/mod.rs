//! Expressions as data, as they arrive from the DSL.
//!
//! The tree is compiled once against a schema ([`compile()`]) and evaluated per batch ([`Compiled::eval`]); run time
//! decides nothing. The rules (types, nulls, errors as values) stand at the head of `compile.rs` and `eval.rs`.

mod compile;
mod decimal;
mod eval;
mod eval_arith;
mod eval_cast;
mod eval_cmp;
mod eval_logic;
mod eval_text;
mod eval_time;
mod kernel;
mod scalar;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_naive;
mod text;

pub use compile::{compile, Compiled};
pub use scalar::{order, Fault, Scalar};

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::column::Column;
use crate::types::DataType;

/// One node: `op` names the function, `args` its operands, the rest are parameters that must be known at build.
///
/// | op | args | parameters |
/// |---|---|---|
/// | `col` | | `name`; `$timestamp` `$offset` `$partition` are the row's metadata |
/// | `lit` | | `type`, `value` (JSON; decimals as strings, times and durations as integer ms; null for a typed null) |
/// | `add sub mul div floordiv mod` | 2 | |
/// | `neg abs floor ceil` | 1 | |
/// | `round` | 1 | `digits` |
/// | `eq ne lt le gt ge` | 2 | |
/// | `and or` | 2 | |
/// | `not is_null is_not_null` | 1 | |
/// | `fill_null coalesce min_horizontal max_horizontal` | n | |
/// | `is_in` | 1 + n literals | |
/// | `when` | c1, v1, c2, v2, …, otherwise | |
/// | `cast` | 1 | `type` |
/// | `str_lower str_upper str_len str_bytes str_strip` | 1 | |
/// | `str_starts_with str_ends_with str_contains` | 2 | |
/// | `str_slice` | 1 | `offset`, `length` (null: to the end) in characters |
/// | `str_replace` | 3 (literal text, all occurrences) | |
/// | `str_concat` | n | |
/// | `dt_truncate` | 1 | `every_ms` |
/// | `dt_year dt_month dt_day dt_hour dt_minute dt_second dt_millisecond dt_weekday dt_epoch_ms` | 1 | |
/// | `call` | columns handed in | `function` (index in the plan's table of callables), `type` |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expr {
    pub op: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Expr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub dtype: Option<DataType>,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub value: serde_json::Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<usize>,
}

/// A payload in another form, or why it has none.
pub type Translated = Result<Option<Vec<u8>>, String>;

/// The way out to callables of the host language. The core never calls one by itself: it hands over a batch and gets a
/// column back, with `ERR_CALLABLE` and a message in rows whose call raised.
pub trait Foreign: Send + Sync {
    /// One value per physical row; rows that are not live may be skipped (null).
    fn call(&self, function: usize, batch: &Batch, args: &[std::sync::Arc<Column>], result: &DataType) -> Column;
    /// One row of `schema` per live row, in order: what `map(fn, schema=…)` returns. A row whose call raised is
    /// `ERR_CALLABLE` in its first column.
    fn map(&self, function: usize, batch: &Batch, schema: &crate::types::Schema) -> Vec<Column>;
    /// The same by a function that is handed all rows together and waits for their answers.
    fn map_async(&self, _function: usize, _batch: &Batch, _schema: &crate::types::Schema) -> Vec<Column> {
        unreachable!("the plan has no functions that wait")
    }
    /// The same by a function of whole batches: all rows are live. The error: what it asks does not answer, and no row is
    /// to blame.
    fn map_batches(
        &self,
        _function: usize,
        _batch: &Batch,
        _schema: &crate::types::Schema,
    ) -> Result<Vec<Column>, String> {
        unreachable!("the plan has no functions of batches")
    }
    /// A function of single values, called with what its node says.
    fn apply(&self, _function: usize, _args: &[crate::datum::Datum]) -> Result<crate::datum::Datum, Fault> {
        unreachable!("the plan has no functions of single values")
    }
    /// The same with references; who copies nothing for it says so.
    fn ask(&self, function: usize, args: &[&crate::datum::Datum]) -> Result<crate::datum::Datum, Fault> {
        self.apply(function, &args.iter().copied().cloned().collect::<Vec<_>>())
    }
    /// Whether it says the same of the same values whenever and however often it is asked: it is no function of the user.
    fn pure(&self, _function: usize) -> bool {
        false
    }
    /// Payloads of another format as JSON, or the reverse; `None` stays `None`. One answer for each, or the text of why there
    /// is none; the outer error: nobody can go on.
    fn translate(&self, _function: usize, _payloads: &[Option<&[u8]>]) -> Result<Vec<Translated>, Fault> {
        unreachable!("the plan has no formats of the host")
    }
    /// A new instance of a processor, for one task; the error says why there is none.
    fn processor(
        &self,
        _factory: usize,
        _access: &crate::flow::process::Access,
    ) -> Result<Box<dyn crate::flow::process::Processor>, String> {
        unreachable!("the plan has no processors")
    }
    /// A user-defined aggregate's next state: `add(state, row)`; `None` is a group that saw nothing yet.
    fn fold(&self, _function: usize, _state: Option<&[u8]>, _batch: &Batch, _row: usize) -> Result<Vec<u8>, String> {
        unreachable!("the plan has no user-defined aggregates")
    }
    /// A user-defined aggregate's result, of type `result`.
    fn fold_result(&self, _function: usize, _state: Option<&[u8]>, _result: &DataType) -> crate::column::Value {
        unreachable!("the plan has no user-defined aggregates")
    }
}

/// For plans without callables.
pub struct NoForeign;

impl Foreign for NoForeign {
    fn call(&self, _: usize, _: &Batch, _: &[std::sync::Arc<Column>], _: &DataType) -> Column {
        unreachable!("the plan has no callables")
    }
    fn map(&self, _: usize, _: &Batch, _: &crate::types::Schema) -> Vec<Column> {
        unreachable!("the plan has no callables")
    }
}
