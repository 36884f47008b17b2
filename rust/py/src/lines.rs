//! `LineReader` for Python: lines of one file. Every read gives Python's lock away.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use adstream_core::lines::{LineError, LineReader};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::raw::PyRawBatch;

#[pyclass(frozen, name = "LineReader", module = "adstream._core")]
pub struct PyLineReader(Mutex<LineReader<File>>);

#[pymethods]
impl PyLineReader {
    #[new]
    fn new(path: PathBuf, position: u64, size: u64, end: i64, timestamp: i64) -> PyResult<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(position))?;
        Ok(PyLineReader(Mutex::new(LineReader::new(file, position as i64, size, end, timestamp))))
    }

    fn read(&self, py: Python<'_>, max_rows: usize) -> PyResult<Option<PyRawBatch>> {
        let read = py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).read(max_rows));
        match read {
            Ok(batch) => Ok(batch.map(PyRawBatch::from)),
            Err(LineError::Io(error)) => Err(error.into()),
            Err(error) => Err(PyValueError::new_err(error.to_string())),
        }
    }

    #[getter]
    fn position(&self) -> i64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).position()
    }

    #[getter]
    fn at_end(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).at_end()
    }
}
