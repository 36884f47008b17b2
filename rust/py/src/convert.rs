//! Values across the border: exact both ways (decimals as `Decimal`, times as aware `datetime`).

use std::ops::RangeInclusive;

use adstream_core::codec::text::{format_decimal, format_timestamp, parse_decimal};
use adstream_core::column::{Column, Data, Value, ERR_NOT_A_NUMBER};
use adstream_core::key::identity;
use adstream_core::types::{DataType, DECIMAL_PRECISION_MAX};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

pub struct Classes {
    pub decimal: Py<PyAny>,
    timedelta: Py<PyAny>,
    pub datetime: Py<PyAny>,
    epoch: Py<PyAny>,
    millisecond: Py<PyAny>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

pub fn classes(py: Python<'_>) -> PyResult<&Classes> {
    CLASSES.get_or_try_init(py, || {
        let datetime = py.import("datetime")?;
        let timedelta = datetime.getattr("timedelta")?;
        let utc = datetime.getattr("timezone")?.getattr("utc")?;
        let kwargs = PyDict::new(py);
        kwargs.set_item("milliseconds", 1)?;
        let class = datetime.getattr("datetime")?;
        let epoch = class.call1((1970, 1, 1, 0, 0, 0, 0, utc))?;
        Ok(Classes {
            decimal: py.import("decimal")?.getattr("Decimal")?.unbind(),
            millisecond: timedelta.call((), Some(&kwargs))?.unbind(),
            timedelta: timedelta.unbind(),
            datetime: class.unbind(),
            epoch: epoch.unbind(),
        })
    })
}

/// One value of a column; null and errors are None.
pub fn to_python<'py>(py: Python<'py>, column: &Column, row: usize) -> PyResult<Bound<'py, PyAny>> {
    if column.dtype == DataType::Json && column.is_valid(row) {
        return py.import("json")?.call_method1("loads", (column.text_at(row),));
    }
    value_to_python(py, column.value_at(row))
}

/// Many values of one column: what was made lately and is costly to make is handed out again.
pub struct ToPython<'py> {
    py: Python<'py>,
    made: Vec<Option<(u128, Bound<'py, PyAny>)>>,
}

const MADE: usize = 512;

/// From `datetime.min` to `datetime.max`, in ms.
const DATETIMES: RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;
/// What a `timedelta` holds in whole days, in ms.
const TIMEDELTAS: RangeInclusive<i64> = -86_399_999_913_600_000..=86_399_999_913_600_000;

impl<'py> ToPython<'py> {
    pub fn new(py: Python<'py>) -> Self {
        ToPython { py, made: vec![None; MADE] }
    }

    /// As [`to_python`]; a time that Python has no `datetime` for is its text, such a duration its ms.
    pub fn get(&mut self, column: &Column, row: usize) -> PyResult<Bound<'py, PyAny>> {
        let same = match (&column.data, &column.dtype) {
            _ if !column.is_valid(row) => None,
            (Data::I128(v), _) => Some(v[row] as u128),
            (Data::I64(v), DataType::Timestamp | DataType::Duration) => Some(v[row] as u128),
            (_, DataType::Json) => None,
            (Data::Str(_) | Data::Code(_), _) => Some(identity(column.text_at(row))),
            _ => None,
        };
        let Some(same) = same else { return to_python(self.py, column, row) };
        let mixed = (same as u64 ^ (same >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let slot = (mixed >> 32) as usize % MADE;
        if let Some((made, value)) = &self.made[slot] {
            if *made == same {
                return Ok(value.clone());
            }
        }
        let value = match column.value_at(row) {
            Value::Timestamp(ms) if !DATETIMES.contains(&ms) => {
                let mut text = vec![];
                format_timestamp(ms, &mut text);
                PyString::new(self.py, &String::from_utf8_lossy(&text)).into_any()
            }
            Value::Duration(ms) if !TIMEDELTAS.contains(&ms) => ms.into_pyobject(self.py)?.into_any(),
            value => value_to_python(self.py, value)?,
        };
        self.made[slot] = Some((same, value.clone()));
        Ok(value)
    }
}

pub fn value_to_python(py: Python<'_>, value: Value) -> PyResult<Bound<'_, PyAny>> {
    Ok(match value {
        Value::Null | Value::Error(_) => py.None().into_bound(py),
        Value::Bool(b) => PyBool::new(py, b).to_owned().into_any(),
        Value::Int(i) => i.into_pyobject(py)?.into_any(),
        Value::Float(x) => PyFloat::new(py, x).into_any(),
        Value::Str(s) => PyString::new(py, &s).into_any(),
        Value::Decimal(unscaled, scale) => {
            let mut text = vec![];
            format_decimal(unscaled, scale, &mut text);
            let text = String::from_utf8(text).unwrap_or_default();
            classes(py)?.decimal.bind(py).call1((text,))?
        }
        Value::Duration(ms) => classes(py)?.millisecond.bind(py).mul(ms)?,
        Value::Timestamp(ms) => {
            let c = classes(py)?;
            c.epoch.bind(py).add(c.millisecond.bind(py).mul(ms)?)?
        }
    })
}

/// A Python value as one of `dtype`; the error says what came instead.
pub fn from_python(value: &Bound<'_, PyAny>, dtype: &DataType) -> PyResult<Value> {
    let py = value.py();
    if value.is_none() {
        return Ok(Value::Null);
    }
    let wrong = || {
        let kind = value.get_type().name().map(|n| n.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!("a value of type {kind} where `{dtype}` was promised"))
    };
    Ok(match dtype {
        DataType::Bool => Value::Bool(value.cast::<PyBool>().map_err(|_| wrong())?.is_true()),
        DataType::Int if value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>() => {
            Value::Int(value.extract()?)
        }
        DataType::Float if value.is_instance_of::<PyFloat>() || value.is_instance_of::<PyInt>() => {
            match value.extract::<f64>()? {
                x if x.is_finite() => Value::Float(x),
                _ => Value::Error(ERR_NOT_A_NUMBER),
            }
        }
        DataType::Str | DataType::Enum(_) => {
            Value::Str(value.cast::<PyString>().map_err(|_| wrong())?.to_string_lossy().into_owned())
        }
        DataType::Decimal { scale, .. } => {
            let exact = value.is_instance(classes(py)?.decimal.bind(py))? || value.is_instance_of::<PyInt>();
            if !exact {
                return Err(wrong());
            }
            let text = value.str()?.to_string_lossy().into_owned();
            parse_decimal(text.as_bytes(), DECIMAL_PRECISION_MAX, *scale)
                .map(|u| Value::Decimal(u, *scale))
                .ok_or_else(|| PyTypeError::new_err(format!("{text} does not fit `{dtype}`: round it first")))?
        }
        DataType::Timestamp => {
            let c = classes(py)?;
            if !value.is_instance(c.datetime.bind(py))? {
                return Err(wrong());
            }
            if value.getattr("tzinfo")?.is_none() {
                return Err(PyTypeError::new_err("a datetime without a zone: give it one (`tzinfo=timezone.utc`)"));
            }
            let since = value.sub(c.epoch.bind(py))?;
            Value::Timestamp(since.floor_div(c.millisecond.bind(py))?.extract()?)
        }
        DataType::Duration => {
            let c = classes(py)?;
            if !value.is_instance(c.timedelta.bind(py))? {
                return Err(wrong());
            }
            Value::Duration(value.floor_div(c.millisecond.bind(py))?.extract()?)
        }
        _ => return Err(wrong()),
    })
}
