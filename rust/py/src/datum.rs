//! Single values across the border: what a record flow's functions are called with and return.
//!
//! Plain values cross as what they are, exactly. A value that the core has no kind for (a set, an instance of the user's
//! class, an int beyond 64 bits) crosses as a handle and is pickled only when it enters a store or an internal topic: from
//! then on it is bytes, so that nothing that the user may still change is shared with state.

use std::any::Any;
use std::sync::Arc;

use adstream_core::codec::text::parse_decimal;
use adstream_core::column::Value;
use adstream_core::datum::{Datum, Opaque};
use adstream_core::types::{DataType, DECIMAL_PRECISION_MAX};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::convert::{classes, from_python, value_to_python};

/// A key within a window: `key`, `start`, `end` (ms; `end` is exclusive for tumbling and hopping windows, inclusive for
/// sliding and session windows).
#[pyclass(frozen, eq, hash, name = "Windowed", module = "adstream")]
pub struct PyWindowed {
    key: Datum,
    #[pyo3(get)]
    start: i64,
    #[pyo3(get)]
    end: i64,
}

impl PartialEq for PyWindowed {
    fn eq(&self, other: &Self) -> bool {
        (self.start, self.end) == (other.start, other.end) && self.key == other.key
    }
}

impl std::hash::Hash for PyWindowed {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.key.to_bytes().unwrap_or_default(), self.start, self.end).hash(state);
    }
}

#[pymethods]
impl PyWindowed {
    #[new]
    fn new(key: &Bound<'_, PyAny>, start: i64, end: i64) -> PyResult<Self> {
        Ok(PyWindowed { key: from_py(key)?, start, end })
    }
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        to_py(py, &self.key)
    }
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("Windowed({}, {}, {})", to_py(py, &self.key)?.repr()?, self.start, self.end))
    }
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let args = PyTuple::new(
            py,
            [to_py(py, &self.key)?, self.start.into_pyobject(py)?.into_any(), self.end.into_pyobject(py)?.into_any()],
        )?;
        PyTuple::new(py, [py.get_type::<PyWindowed>().into_any(), args.into_any()])
    }
}

struct Live(Py<PyAny>);

impl Opaque for Live {
    fn dump(&self) -> Result<Vec<u8>, String> {
        Python::attach(|py| {
            let dumped = py.import("pickle").and_then(|p| p.call_method1("dumps", (self.0.bind(py),)));
            dumped.and_then(|bytes| bytes.extract()).map_err(|e| {
                let kind = self.0.bind(py).get_type().name().map(|n| n.to_string()).unwrap_or_default();
                format!("a {kind} cannot be kept in state: {}", e.value(py))
            })
        })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub fn to_py<'py>(py: Python<'py>, datum: &Datum) -> PyResult<Bound<'py, PyAny>> {
    Ok(match datum {
        Datum::Null => py.None().into_bound(py),
        Datum::Bool(b) => PyBool::new(py, *b).to_owned().into_any(),
        Datum::Int(i) => i.into_pyobject(py)?.into_any(),
        Datum::Float(x) => PyFloat::new(py, *x).into_any(),
        Datum::Str(s) => PyString::new(py, s).into_any(),
        Datum::Bytes(b) => PyBytes::new(py, b).into_any(),
        Datum::Decimal(u, s) => value_to_python(py, Value::Decimal(*u, *s))?,
        Datum::Timestamp(t) => value_to_python(py, Value::Timestamp(*t))?,
        Datum::Duration(t) => value_to_python(py, Value::Duration(*t))?,
        Datum::List(items) => {
            PyList::new(py, items.iter().map(|i| to_py(py, i)).collect::<PyResult<Vec<_>>>()?)?.into_any()
        }
        Datum::Tuple(items) => {
            PyTuple::new(py, items.iter().map(|i| to_py(py, i)).collect::<PyResult<Vec<_>>>()?)?.into_any()
        }
        Datum::Map(fields) => {
            let dict = PyDict::new(py);
            for (name, value) in fields.iter() {
                dict.set_item(&**name, to_py(py, value)?)?;
            }
            dict.into_any()
        }
        Datum::Windowed(w) => Bound::new(py, PyWindowed { key: w.key.clone(), start: w.start, end: w.end })?.into_any(),
        Datum::Opaque(value) => match value.as_any().downcast_ref::<Live>() {
            Some(live) => live.0.bind(py).clone(),
            None => py.None().into_bound(py),
        },
        Datum::Dumped(bytes) => py.import("pickle")?.call_method1("loads", (PyBytes::new(py, bytes),))?,
    })
}

pub fn from_py(value: &Bound<'_, PyAny>) -> PyResult<Datum> {
    if value.is_none() {
        return Ok(Datum::Null);
    }
    let py = value.py();
    let opaque = || Datum::Opaque(Arc::new(Live(value.clone().unbind())));
    // Exact types only: a subclass (an enum, a named tuple) would come back as something else.
    if let Ok(b) = value.cast_exact::<PyBool>() {
        return Ok(Datum::Bool(b.is_true()));
    }
    if value.is_exact_instance_of::<PyInt>() {
        return Ok(value.extract().map_or_else(|_| opaque(), Datum::Int));
    }
    if let Ok(s) = value.cast_exact::<PyString>() {
        return Ok(s.to_str().map_or_else(|_| opaque(), Datum::str));
    }
    if let Ok(x) = value.cast_exact::<PyFloat>() {
        return Ok(Datum::Float(x.value()));
    }
    if let Ok(items) = value.cast_exact::<PyTuple>() {
        return Ok(Datum::Tuple(items.iter().map(|i| from_py(&i)).collect::<PyResult<_>>()?));
    }
    if let Ok(items) = value.cast_exact::<PyList>() {
        return Ok(Datum::List(items.iter().map(|i| from_py(&i)).collect::<PyResult<_>>()?));
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        let mut fields = Vec::with_capacity(dict.len());
        for (name, value) in dict.iter() {
            match name.cast_exact::<PyString>().ok().and_then(|n| n.to_str().ok().map(Arc::<str>::from)) {
                Some(name) => fields.push((name, from_py(&value)?)),
                None => return Ok(opaque()),
            }
        }
        return Ok(Datum::Map(fields.into()));
    }
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return Ok(Datum::Bytes(Arc::from(bytes.as_bytes())));
    }
    if let Ok(w) = value.cast::<PyWindowed>() {
        let w = w.get();
        return Ok(Datum::windowed(w.key.clone(), w.start, w.end));
    }
    let known = classes(py)?;
    if value.get_type().is(known.decimal.bind(py)) {
        let mut text = value.str()?.to_string_lossy().into_owned();
        if text.contains("E-") && text.len() <= 2 * DECIMAL_PRECISION_MAX as usize {
            // Small numbers and zeros print with an exponent: `0E-9`.
            text = value.call_method1("__format__", ("f",))?.extract()?;
        }
        return Ok(decimal(&text).unwrap_or_else(opaque));
    }
    if value.get_type().is(known.datetime.bind(py)) {
        let whole = value.getattr("microsecond")?.extract::<u32>()? % 1000 == 0;
        let utc = value.getattr("tzinfo")?.is(py.import("datetime")?.getattr("timezone")?.getattr("utc")?);
        if let (true, true, Ok(Value::Timestamp(ms))) = (whole, utc, from_python(value, &DataType::Timestamp)) {
            return Ok(Datum::Timestamp(ms));
        }
    }
    Ok(opaque())
}

/// A decimal with its own scale; none: it has an exponent, too many digits, or is no number.
fn decimal(text: &str) -> Option<Datum> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let scale = digits.split_once('.').map_or(0, |(_, after)| after.len());
    if scale > DECIMAL_PRECISION_MAX.into() || text == "-0" || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    {
        return None;
    }
    let scale = scale as u8;
    parse_decimal(text.as_bytes(), DECIMAL_PRECISION_MAX, scale).map(|u| Datum::Decimal(u, scale))
}
