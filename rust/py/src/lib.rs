//! `adstream._core`: bindings only, one file per subject. See `python/adstream/_core.pyi`.

mod convert;
mod datum;
mod error;
mod foreign;
mod kafka;
mod lines;
mod raw;
mod sink;
mod task;

use pyo3::prelude::*;

/// Batches are allocated and freed by the thousand; the system allocator gives their pages back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[pyfunction]
fn murmur2(data: &[u8]) -> u32 {
    adstream_core::partitioner::murmur2(data)
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("CoreError", m.py().get_type::<error::CoreError>())?;
    m.add_function(wrap_pyfunction!(murmur2, m)?)?;
    m.add_function(wrap_pyfunction!(task::infer, m)?)?;
    m.add_function(wrap_pyfunction!(task::bench_decode, m)?)?;
    m.add_function(wrap_pyfunction!(task::serde_read, m)?)?;
    m.add_function(wrap_pyfunction!(task::serde_write, m)?)?;
    m.add_class::<datum::PyWindowed>()?;
    m.add_class::<raw::PyRawBatch>()?;
    m.add_class::<lines::PyLineReader>()?;
    m.add_class::<kafka::PyFetchReader>()?;
    m.add_class::<kafka::PyNativeReader>()?;
    m.add_class::<task::PyPlan>()?;
    m.add_class::<task::PyTask>()?;
    m.add_class::<task::PyGeneration>()?;
    m.add_class::<sink::PySinkBuffer>()?;
    Ok(())
}
