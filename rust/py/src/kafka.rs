//! `FetchReader` and `NativeReader` for Python. Every call gives Python's lock away while it is inside.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use adstream_kafka::{fetch, FetchReader, NativeReader, Waiter, Waker};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::raw::PyRawBatch;

#[pyclass(frozen, name = "NativeReader", module = "adstream._core")]
pub struct PyNativeReader {
    reader: Mutex<NativeReader>,
    /// Beside the mutex, so that a thread that waits holds nobody up.
    waiter: Waiter,
}

impl PyNativeReader {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl Send + FnOnce(&mut NativeReader) -> Result<T, String>,
    ) -> PyResult<T> {
        py.detach(|| call(&mut self.reader.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(PyRuntimeError::new_err)
    }
}

#[pymethods]
impl PyNativeReader {
    #[new]
    #[pyo3(signature = (library, config, headers=false))]
    fn new(py: Python<'_>, library: PathBuf, config: Vec<(String, String)>, headers: bool) -> PyResult<Self> {
        let reader = py.detach(|| NativeReader::new(&library, &config, headers)).map_err(PyValueError::new_err)?;
        let waiter = reader.waiter();
        Ok(PyNativeReader { reader: Mutex::new(reader), waiter })
    }

    fn add(&self, py: Python<'_>, topic: &str, partition: i32, position: i64) -> PyResult<()> {
        self.with(py, |reader| reader.add(topic, partition, position))
    }

    fn remove(&self, py: Python<'_>, topic: &str, partition: i32) -> PyResult<()> {
        self.with(py, |reader| reader.remove(topic, partition))
    }

    fn read(&self, py: Python<'_>, topic: &str, partition: i32, max_rows: usize) -> PyResult<Option<PyRawBatch>> {
        Ok(self.with(py, |reader| reader.read(topic, partition, max_rows))?.map(PyRawBatch::from))
    }

    fn at_end(&self, py: Python<'_>, topic: &str, partition: i32) -> PyResult<bool> {
        self.with(py, |reader| Ok(reader.at_end(topic, partition)))
    }

    fn wait(&self, py: Python<'_>, timeout_s: f64) -> PyResult<()> {
        let timeout = Duration::try_from_secs_f64(timeout_s.max(0.0)).unwrap_or(Duration::MAX);
        self.with(py, NativeReader::serve)?;
        py.detach(|| self.waiter.wait(timeout));
        Ok(())
    }

    /// Ends a wait of another thread.
    fn wake(&self) {
        self.waiter.wake();
    }

    /// What went wrong and is being retried, oldest first; each is told once.
    fn errors(&self) -> Vec<String> {
        self.waiter.errors()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |reader| {
            reader.close();
            Ok(())
        })
    }
}

#[pyclass(frozen, name = "FetchReader", module = "adstream._core")]
pub struct PyFetchReader {
    reader: Mutex<FetchReader>,
    waker: Waker,
}

impl PyFetchReader {
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        call: impl Send + FnOnce(&mut FetchReader) -> Result<T, String>,
    ) -> PyResult<T> {
        py.detach(|| call(&mut self.reader.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(PyRuntimeError::new_err)
    }
}

#[pymethods]
impl PyFetchReader {
    #[new]
    #[pyo3(signature = (config, headers=false))]
    fn new(config: Vec<(String, String)>, headers: bool) -> PyResult<Self> {
        let reader = FetchReader::new(&config, headers).map_err(PyValueError::new_err)?;
        let waker = reader.waker();
        Ok(PyFetchReader { reader: Mutex::new(reader), waker })
    }

    /// Why these settings need another reader; None: they do not.
    #[staticmethod]
    fn unsupported(config: Vec<(String, String)>) -> Option<String> {
        fetch::unsupported(&config)
    }

    fn add(&self, py: Python<'_>, topic: &str, partition: i32, position: i64) -> PyResult<()> {
        self.with(py, |reader| reader.add(topic, partition, position))
    }

    fn remove(&self, py: Python<'_>, topic: &str, partition: i32) -> PyResult<()> {
        self.with(py, |reader| reader.remove(topic, partition))
    }

    fn read(&self, py: Python<'_>, topic: &str, partition: i32, max_rows: usize) -> PyResult<Option<PyRawBatch>> {
        Ok(self.with(py, |reader| reader.read(topic, partition, max_rows))?.map(PyRawBatch))
    }

    fn at_end(&self, py: Python<'_>, topic: &str, partition: i32) -> PyResult<bool> {
        self.with(py, |reader| Ok(reader.at_end(topic, partition)))
    }

    fn wait(&self, py: Python<'_>, timeout_s: f64) -> PyResult<()> {
        let timeout = Duration::try_from_secs_f64(timeout_s.max(0.0)).unwrap_or(Duration::MAX);
        self.with(py, |reader| reader.wait(timeout))
    }

    /// Ends a wait of another thread.
    fn wake(&self) {
        self.waker.wake();
    }

    /// What went wrong and is being retried, oldest first; each is told once.
    fn errors(&self) -> Vec<String> {
        self.waker.errors()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |reader| {
            reader.close();
            Ok(())
        })
    }
}
