//! `RawBatch` for Python: a handle on a batch that stays in Rust.

use std::sync::Arc;

use adstream_core::raw::{Header, RawBatch};
use adstream_core::raw_serial;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};

type RecordIn = (i64, i64, Option<PyBackedBytes>, Option<PyBackedBytes>, Vec<(String, Option<PyBackedBytes>)>);
type HeaderOut<'py> = (String, Option<Bound<'py, PyBytes>>);
type RecordOut<'py> = (i64, i64, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>, Vec<HeaderOut<'py>>);

/// Immutable and shared: handing one over copies nothing.
#[pyclass(frozen, name = "RawBatch", module = "adstream._core")]
pub struct PyRawBatch(pub Arc<RawBatch>);

impl From<RawBatch> for PyRawBatch {
    fn from(batch: RawBatch) -> Self {
        PyRawBatch(Arc::new(batch))
    }
}

#[pymethods]
impl PyRawBatch {
    #[new]
    #[pyo3(signature = (records=Vec::new(), next_offset=None))]
    fn new(records: Vec<RecordIn>, next_offset: Option<i64>) -> PyResult<Self> {
        let mut batch = RawBatch::default();
        for (offset, timestamp, key, value, headers) in records {
            if let Some(&last) = batch.offsets.last() {
                if offset <= last {
                    return Err(PyValueError::new_err(format!("offsets must ascend: {offset} comes after {last}")));
                }
            }
            let headers: Vec<Header> = headers.into_iter().map(|(n, v)| (n, v.map(|v| v.to_vec()))).collect();
            batch.push_with_headers(offset, timestamp, key.as_deref(), value.as_deref(), headers);
        }
        if let Some(next) = next_offset {
            if !batch.is_empty() && next < batch.next_offset {
                return Err(PyValueError::new_err(format!(
                    "next_offset {next} lies before the end of the records, {}",
                    batch.next_offset
                )));
            }
            batch.next_offset = next;
        }
        Ok(batch.into())
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("<RawBatch: {} records [{}, {})>", self.0.len(), self.0.first_offset(), self.0.next_offset)
    }

    #[getter]
    fn next_offset(&self) -> i64 {
        self.0.next_offset
    }

    #[getter]
    fn first_offset(&self) -> i64 {
        self.0.first_offset()
    }

    #[getter]
    fn byte_size(&self) -> usize {
        self.0.byte_size()
    }

    fn records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let batch = &self.0;
        let bytes = |value: Option<&[u8]>| value.map(|v| PyBytes::new(py, v));
        let rows = (0..batch.len()).map(|row| -> RecordOut<'py> {
            let headers = batch.headers_at(row).iter().map(|(n, v)| (n.clone(), bytes(v.as_deref()))).collect();
            let (key, value) = (bytes(batch.keys.get(row)), bytes(batch.values.get(row)));
            (batch.offsets[row], batch.timestamps[row], key, value, headers)
        });
        PyList::new(py, rows)
    }

    /// Rows `[start, stop)`, clamped as Python clamps.
    fn slice(&self, py: Python<'_>, start: usize, stop: usize) -> Self {
        let batch = &self.0;
        let start = start.min(batch.len());
        py.detach(|| batch.slice(start, stop.clamp(start, batch.len())).into())
    }

    fn with_offsets(&self, py: Python<'_>, first: i64) -> Self {
        py.detach(|| self.0.with_offsets(first).into())
    }

    #[staticmethod]
    fn merge(py: Python<'_>, batches: Vec<PyRef<'_, PyRawBatch>>) -> Self {
        let batches: Vec<Arc<RawBatch>> = batches.iter().map(|b| b.0.clone()).collect();
        py.detach(|| RawBatch::merge(&batches.iter().map(|b| &**b).collect::<Vec<_>>()).into())
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| raw_serial::to_bytes(&self.0)))
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: PyBackedBytes) -> PyResult<Self> {
        match py.detach(|| raw_serial::from_bytes(&data)) {
            Ok(batch) => Ok(batch.into()),
            Err(error) => Err(PyValueError::new_err(error.to_string())),
        }
    }
}
