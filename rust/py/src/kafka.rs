//! `FetchReader`, `NativeReader` and `NativeProducer` for Python. Every call gives Python's lock away while it is inside.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use adstream_kafka::{fetch, FetchReader, NativeProducer, NativeReader, Refused, Waiter, Waker};
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

/// Code, text, and what it asks for: fatal, retriable, abort.
type RefusedOut = (i32, String, bool, bool, bool);
/// Code, text, topic, partition, bytes of key and value.
type FailureOut = (i32, String, String, i32, usize);

#[pyclass(frozen, name = "NativeProducer", module = "adstream._core")]
pub struct PyNativeProducer(NativeProducer);

impl PyNativeProducer {
    fn with(
        &self,
        py: Python<'_>,
        call: impl Send + FnOnce(&NativeProducer) -> Result<(), Refused>,
    ) -> Option<RefusedOut> {
        let refused = py.detach(|| call(&self.0)).err()?;
        Some((refused.code, refused.text, refused.fatal, refused.retriable, refused.abort))
    }
}

fn seconds(timeout_s: f64) -> Duration {
    Duration::try_from_secs_f64(timeout_s.max(0.0)).unwrap_or(Duration::MAX)
}

#[pymethods]
impl PyNativeProducer {
    #[new]
    fn new(py: Python<'_>, library: PathBuf, config: Vec<(String, String)>) -> PyResult<Self> {
        let producer = py.detach(|| NativeProducer::new(&library, &config)).map_err(PyValueError::new_err)?;
        Ok(PyNativeProducer(producer))
    }

    fn produce(&self, py: Python<'_>, topic: &str, partition: i32, batch: &PyRawBatch) -> Option<RefusedOut> {
        let batch = batch.0.clone();
        self.with(py, move |producer| producer.produce(topic, partition, &batch))
    }

    fn poll(&self, py: Python<'_>, timeout_s: f64) -> Option<RefusedOut> {
        self.with(py, |producer| producer.poll(seconds(timeout_s)))
    }

    /// How many records are left.
    fn flush(&self, py: Python<'_>, timeout_s: f64) -> usize {
        py.detach(|| self.0.flush(seconds(timeout_s))).unwrap_or(0)
    }

    fn reach(&self, py: Python<'_>, timeout_s: f64) -> Option<RefusedOut> {
        self.with(py, |producer| producer.reach(seconds(timeout_s)))
    }

    fn init_transactions(&self, py: Python<'_>, timeout_s: f64) -> Option<RefusedOut> {
        self.with(py, |producer| producer.init_transactions(seconds(timeout_s)))
    }

    fn begin_transaction(&self, py: Python<'_>) -> Option<RefusedOut> {
        self.with(py, NativeProducer::begin_transaction)
    }

    fn commit_transaction(&self, py: Python<'_>, timeout_s: f64) -> Option<RefusedOut> {
        self.with(py, |producer| producer.commit_transaction(seconds(timeout_s)))
    }

    fn abort_transaction(&self, py: Python<'_>, timeout_s: f64) -> Option<RefusedOut> {
        self.with(py, |producer| producer.abort_transaction(seconds(timeout_s)))
    }

    fn send_offsets(
        &self,
        py: Python<'_>,
        offsets: Vec<(String, i32, i64, String)>,
        group: Vec<u8>,
        timeout_s: f64,
    ) -> Option<RefusedOut> {
        self.with(py, move |producer| producer.send_offsets(&offsets, &group, seconds(timeout_s)))
    }

    fn failures(&self) -> (u64, Vec<FailureOut>) {
        let (count, first) = self.0.failures();
        (count, first.into_iter().map(|f| (f.code, f.text, f.topic, f.partition, f.size)).collect())
    }

    fn errors(&self) -> Vec<String> {
        self.0.errors()
    }

    fn close(&self, py: Python<'_>, timeout_s: f64) {
        py.detach(|| self.0.close(seconds(timeout_s)));
    }
}
