//! `adstream._core`: bindings only, one file per subject. See `python/adstream/_core.pyi`.

mod raw;

use pyo3::prelude::*;

#[pyfunction]
fn murmur2(data: &[u8]) -> u32 {
    adstream_core::partitioner::murmur2(data)
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_function(wrap_pyfunction!(murmur2, m)?)?;
    m.add_class::<raw::PyRawBatch>()?;
    Ok(())
}
