//! `DiskCache`, `Disk`: stores of a task that are on disk (`rust/disk`).

use std::path::PathBuf;
use std::sync::Arc;

use adstream_core::error::Fatal;
use adstream_core::flow::backend::Backend;
use adstream_core::flow::StoreType;
use adstream_disk::{Cache, Disk};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::fatal_error;

/// A worker's memory for its stores on disk.
#[pyclass(frozen, name = "DiskCache", module = "adstream._core")]
pub struct PyDiskCache(Arc<Cache>);

#[pymethods]
impl PyDiskCache {
    #[new]
    fn new(bytes: u64) -> Self {
        PyDiskCache(Arc::new(Cache::new(bytes)))
    }
}

/// The stores of one task. Its methods may run beside the task's, in any thread.
#[pyclass(frozen, name = "Disk", module = "adstream._core")]
pub struct PyDisk(pub Arc<Disk>);

fn damaged(why: String) -> PyErr {
    fatal_error(Fatal::new("local_state_damaged", why))
}

#[pymethods]
impl PyDisk {
    #[new]
    fn new(py: Python<'_>, path: PathBuf, cache: &PyDiskCache) -> PyResult<Self> {
        let disk = py.detach(|| Disk::open(&path, &cache.0)).map_err(damaged)?;
        Ok(PyDisk(Arc::new(disk)))
    }

    /// The changelog's offset from which a restore has to read; None: there is nothing yet.
    #[getter]
    fn position(&self) -> Option<i64> {
        self.0.marked().map(|mark| mark.position)
    }

    #[pyo3(signature = (all=false))]
    fn tidy(&self, py: Python<'_>, all: bool) -> PyResult<bool> {
        py.detach(|| self.0.tidy(all)).map_err(damaged)
    }

    #[getter]
    fn file_bytes(&self) -> u64 {
        self.0.file_bytes()
    }
}

pub fn store_type(name: &str) -> PyResult<StoreType> {
    match name {
        "memory" => Ok(StoreType::Memory),
        "disk" => Ok(StoreType::Disk),
        _ => Err(PyValueError::new_err(format!("`{name}` is not one of memory, disk"))),
    }
}
