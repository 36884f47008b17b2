//! Callables of the user: the one node kind that takes Python's lock, for its rows, and gives it back.
//!
//! An exception is a value of its row (`callable_raised`, with its text), never the task's. State of a user-defined
//! aggregate is bytes (pickle): nothing mutable is shared with the undo log.

use std::sync::Arc;

use adstream_core::batch::Batch;
use adstream_core::column::{Column, ColumnBuilder, Value, ERR_CALLABLE, NULL, VALID};
use adstream_core::datum::Datum;
use adstream_core::expr::{Fault, Foreign, Translated};
use adstream_core::flow::native::Native;
use adstream_core::flow::process::{Access, Processor};
use adstream_core::flow::serde::UNAVAILABLE;
use adstream_core::types::{DataType, Schema};
use pyo3::exceptions::{PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping, PyString, PyTuple};

use crate::arrow;
use crate::convert::{from_python, to_python};
use crate::datum::{from_py, to_py};
use crate::error::plan_error;
use crate::processor::host;

pub struct Callables {
    python: Vec<Py<PyAny>>,
    /// What has a form that the core runs by itself: an object with an attribute `__adstream_native__` (JSON).
    native: Vec<Option<Native>>,
}

impl Callables {
    /// Raises ValueError for a native form that is none.
    pub fn new(py: Python<'_>, python: Vec<Py<PyAny>>) -> PyResult<Callables> {
        let native = |f: &Py<PyAny>| -> PyResult<Option<Native>> {
            let Some(said) = f.bind(py).getattr_opt("__adstream_native__")? else { return Ok(None) };
            Native::parse(&said.extract::<String>()?).map(Some).map_err(plan_error)
        };
        let native = python.iter().map(native).collect::<PyResult<_>>()?;
        Ok(Callables { python, native })
    }
}

/// An exception as people read it.
///
/// Ctrl-C is nobody's fault: it is raised again as soon as Python goes on, so that the letter it made is never committed.
pub fn text(py: Python<'_>, e: &PyErr) -> String {
    let kind = e.get_type(py).name().map(|n| n.to_string()).unwrap_or_default();
    let said = format!("{kind}: {}", e.value(py));
    if e.is_instance_of::<PyKeyboardInterrupt>(py) {
        // SAFETY: called with the interpreter attached; it sets a flag.
        unsafe { pyo3::ffi::PyErr_SetInterrupt() };
    }
    said
}

/// The reason of a fault: an exception may say that what it needs does not answer.
fn reason(py: Python<'_>, e: &PyErr) -> &'static str {
    match e.value(py).hasattr("__adstream_unavailable__") {
        Ok(true) => UNAVAILABLE,
        _ => "callable_raised",
    }
}

fn row_dict<'py>(py: Python<'py>, batch: &Batch, row: usize) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (field, column) in batch.schema.fields.iter().zip(&batch.columns) {
        if !field.name.starts_with('$') {
            dict.set_item(&field.name, to_python(py, column, row)?)?;
        }
    }
    Ok(dict)
}

/// What a function returned for a row, by the schema; the error: it has no such value.
fn values_of(made: &Bound<'_, PyAny>, schema: &Schema) -> Result<Vec<Value>, String> {
    let value = |name: &str, dtype: &DataType| -> PyResult<Value> {
        let value = match made.cast::<PyMapping>() {
            Ok(mapping) => mapping.get_item(name)?,
            Err(_) => made.getattr(name)?,
        };
        from_python(&value, dtype)
    };
    schema.fields.iter().map(|f| value(&f.name, &f.dtype).map_err(|e| text(made.py(), &e))).collect()
}

/// Columns of so many rows, each made by itself; where that fails, its row is an error with a text.
fn rows(schema: &Schema, count: usize, mut made: impl FnMut(usize) -> Result<Vec<Value>, String>) -> Vec<Column> {
    let mut out: Vec<ColumnBuilder> = schema.fields.iter().map(|f| ColumnBuilder::new(f.dtype.clone())).collect();
    let mut messages = vec![];
    for row in 0..count {
        match made(row) {
            Ok(values) => values.iter().zip(&mut out).for_each(|(v, b)| b.push_value(v)),
            Err(said) => {
                messages.push((row as u32, said));
                out.iter_mut().for_each(|b| b.push_state(ERR_CALLABLE));
            }
        }
    }
    let mut columns: Vec<Column> = out.into_iter().map(ColumnBuilder::finish).collect();
    if let (Some(first), false) = (columns.first_mut(), messages.is_empty()) {
        first.messages = Some(Arc::new(messages));
    }
    columns
}

fn finish(builder: ColumnBuilder, messages: Vec<(u32, String)>) -> Column {
    let mut column = builder.finish();
    column.messages = (!messages.is_empty()).then(|| Arc::new(messages));
    column
}

impl Foreign for Callables {
    fn call(&self, function: usize, batch: &Batch, args: &[Arc<Column>], result: &DataType) -> Column {
        let mut out = ColumnBuilder::new(result.clone());
        let mut messages = vec![];
        Python::attach(|py| {
            let f = self.python[function].bind(py);
            let mut live = batch.live_rows().peekable();
            for row in 0..batch.rows {
                if live.peek() != Some(&row) {
                    out.push_null();
                    continue;
                }
                live.next();
                // It reads them: an error of one is its own, as for every other operation.
                if let Some(arg) = args.iter().find(|a| a.state_at(row) > NULL) {
                    messages.extend(arg.message_at(row).map(|m| (row as u32, m.to_string())));
                    out.push_state(arg.state_at(row));
                    continue;
                }
                let value = || -> PyResult<Value> {
                    let values: Vec<_> = args.iter().map(|a| to_python(py, a, row)).collect::<PyResult<_>>()?;
                    from_python(&f.call1(PyTuple::new(py, values)?)?, result)
                };
                match value() {
                    Ok(v) => out.push_value(&v),
                    Err(e) => {
                        messages.push((row as u32, text(py, &e)));
                        out.push_state(ERR_CALLABLE);
                    }
                }
            }
        });
        finish(out, messages)
    }

    fn map(&self, function: usize, batch: &Batch, schema: &Schema) -> Vec<Column> {
        Python::attach(|py| {
            let f = self.python[function].bind(py);
            let mut live = batch.live_rows();
            rows(schema, batch.live_len(), |_| {
                let row = live.next().unwrap_or_default();
                let made = row_dict(py, batch, row).and_then(|row| f.call1((row,))).map_err(|e| text(py, &e))?;
                values_of(&made, schema)
            })
        })
    }

    fn map_async(&self, function: usize, batch: &Batch, schema: &Schema) -> Vec<Column> {
        Python::attach(|py| {
            let asked = || -> PyResult<Vec<(bool, Bound<'_, PyAny>)>> {
                let given = batch.live_rows().map(|row| row_dict(py, batch, row)).collect::<PyResult<Vec<_>>>()?;
                self.python[function].bind(py).call1((given,))?.extract()
            };
            let answers = if batch.rows == 0 { Ok(vec![]) } else { asked() };
            let missing = || PyValueError::new_err("another number of answers than of questions");
            rows(schema, batch.live_len(), |i| match &answers {
                Ok(answers) => match answers.get(i) {
                    Some((true, made)) => values_of(made, schema),
                    Some((false, said)) => Err(said.to_string()),
                    None => Err(text(py, &missing())),
                },
                Err(e) => Err(text(py, e)),
            })
        })
    }

    fn map_batches(&self, function: usize, batch: &Batch, schema: &Schema) -> Result<Vec<Column>, String> {
        if batch.rows == 0 {
            return Ok(schema.fields.iter().map(|f| ColumnBuilder::new(f.dtype.clone()).finish()).collect());
        }
        Python::attach(|py| {
            let made = || -> PyResult<Vec<Column>> {
                let fields = batch.schema.fields.iter().zip(&batch.columns).filter(|(f, _)| !f.name.starts_with('$'));
                let sent = fields.map(|(f, c)| arrow::sent(py, f, c)).collect::<PyResult<Vec<_>>>()?;
                let answer = self.python[function].bind(py).call1((batch.rows, sent))?;
                let (columns, raised): (Vec<arrow::Made<'_>>, Vec<(u32, String)>) = answer.extract()?;
                let wrong = || PyValueError::new_err("another number of columns than was promised");
                let mut made = schema
                    .fields
                    .iter()
                    .enumerate()
                    .map(|(i, f)| {
                        let given = columns.get(i).ok_or_else(wrong)?;
                        arrow::made(batch.rows, &f.dtype, given).map_err(PyValueError::new_err)
                    })
                    .collect::<PyResult<Vec<_>>>()?;
                if let (Some(first), false) = (made.first_mut(), raised.is_empty()) {
                    let states = first.state.get_or_insert_with(|| vec![VALID; batch.rows]);
                    raised.iter().for_each(|(row, _)| states[*row as usize] = ERR_CALLABLE);
                    first.messages = Some(Arc::new(raised));
                }
                Ok(made)
            };
            made().or_else(|e| {
                let said = text(py, &e);
                if reason(py, &e) == UNAVAILABLE {
                    return Err(said);
                }
                // Not the function's rows, which are told apart where it is called: what came is no batch at all.
                let none = |f: &adstream_core::types::Field| {
                    let mut out = ColumnBuilder::with_capacity(f.dtype.clone(), batch.rows);
                    (0..batch.rows).for_each(|_| out.push_state(ERR_CALLABLE));
                    finish(out, (0..batch.rows as u32).map(|row| (row, said.clone())).collect())
                };
                Ok(schema.fields.iter().map(none).collect())
            })
        })
    }

    fn apply(&self, function: usize, args: &[Datum]) -> Result<Datum, Fault> {
        if let Some(native) = &self.native[function] {
            return native.apply(args);
        }
        Python::attach(|py| {
            let value = || -> PyResult<Datum> {
                let args: Vec<_> = args.iter().map(|a| to_py(py, a)).collect::<PyResult<_>>()?;
                from_py(&self.python[function].bind(py).call1(PyTuple::new(py, args)?)?)
            };
            value().map_err(|e| (reason(py, &e), text(py, &e)))
        })
    }

    fn ask(&self, function: usize, args: &[&Datum]) -> Result<Datum, Fault> {
        match &self.native[function] {
            Some(native) => native.ask(args),
            None => self.apply(function, &args.iter().copied().cloned().collect::<Vec<_>>()),
        }
    }

    fn pure(&self, function: usize) -> bool {
        self.native[function].is_some()
    }

    fn translate(&self, function: usize, payloads: &[Option<&[u8]>]) -> Result<Vec<Translated>, Fault> {
        Python::attach(|py| {
            let made = || -> PyResult<Vec<Translated>> {
                let given = payloads.iter().map(|p| p.map(|bytes| PyBytes::new(py, bytes)));
                let made = self.python[function].bind(py).call1((PyList::new(py, given)?,))?;
                let made = made.cast::<PyList>()?;
                if made.len() != payloads.len() {
                    return Err(PyValueError::new_err("a format answered with another number of payloads"));
                }
                made.iter()
                    .map(|one| {
                        Ok(match one.cast::<PyString>() {
                            Ok(text) => Err(text.to_string_lossy().into_owned()),
                            Err(_) => Ok(one.extract::<Option<Vec<u8>>>()?),
                        })
                    })
                    .collect()
            };
            made().map_err(|e| (reason(py, &e), text(py, &e)))
        })
    }

    fn processor(&self, factory: usize, access: &Access) -> Result<Box<dyn Processor>, String> {
        Python::attach(|py| host(py, self.python[factory].bind(py), access).map_err(|e| text(py, &e)))
    }

    fn fold(&self, function: usize, state: Option<&[u8]>, batch: &Batch, row: usize) -> Result<Vec<u8>, String> {
        // It is handed the whole row, in which an error is no null.
        let wrong = batch.schema.fields.iter().zip(&batch.columns).find(|(_, c)| c.state_at(row) > NULL);
        if let Some((field, column)) = wrong {
            return Err(format!("`{}`: {}", field.name, adstream_core::column::reason(column.state_at(row))));
        }
        Python::attach(|py| {
            let step = || -> PyResult<Vec<u8>> {
                let pickle = py.import("pickle")?;
                let fold = self.python[function].bind(py);
                let held = match state {
                    Some(bytes) => pickle.call_method1("loads", (PyBytes::new(py, bytes),))?,
                    None => fold.getattr("init")?.call0()?,
                };
                let next = fold.getattr("add")?.call1((held, row_dict(py, batch, row)?))?;
                pickle.call_method1("dumps", (next,))?.extract()
            };
            step().map_err(|e| text(py, &e))
        })
    }

    fn fold_result(&self, function: usize, state: Option<&[u8]>, dtype: &DataType) -> Value {
        Python::attach(|py| {
            let value = || -> PyResult<Value> {
                let fold = self.python[function].bind(py);
                let held = match state {
                    Some(bytes) => py.import("pickle")?.call_method1("loads", (PyBytes::new(py, bytes),))?,
                    None => fold.getattr("init")?.call0()?,
                };
                let result = fold.getattr("result")?;
                let value = if result.is_none() { held } else { result.call1((held,))? };
                from_python(&value, dtype)
            };
            value().unwrap_or(Value::Error(ERR_CALLABLE))
        })
    }
}
