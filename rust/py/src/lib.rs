//! `adstream._core`: bindings only, one file per subject. See `python/adstream/_core.pyi`.

mod arrow;
mod convert;
mod datum;
mod disk;
mod error;
mod foreign;
mod kafka;
mod lines;
mod processor;
mod rank;
mod raw;
mod sink;
mod task;

use pyo3::prelude::*;

/// Batches are allocated and freed by the thousand; the system allocator gives their pages back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

extern "C" {
    fn mi_option_set_default(option: std::ffi::c_int, value: std::ffi::c_long);
}
/// `mi_option_purge_delay` of mimalloc 2 and 3: after how many ms free pages go back to the kernel.
const PURGE_DELAY: std::ffi::c_int = 15;
/// Longer than the second that is its default: a commit's memory is needed again by the next one, and fresh pages, which the
/// kernel has to zero, were a fifth of a worker's CPU. `MIMALLOC_PURGE_DELAY` says otherwise.
const PURGE_DELAY_MS: std::ffi::c_long = 10_000;

#[pyfunction]
fn murmur2(data: &[u8]) -> u32 {
    adstream_core::partitioner::murmur2(data)
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // SAFETY: sets a number, which mimalloc reads whenever it frees pages; any thread may.
    unsafe { mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("CoreError", m.py().get_type::<error::CoreError>())?;
    m.add_function(wrap_pyfunction!(murmur2, m)?)?;
    m.add_function(wrap_pyfunction!(task::infer, m)?)?;
    m.add_function(wrap_pyfunction!(task::pattern_automaton, m)?)?;
    m.add_function(wrap_pyfunction!(task::bench_decode, m)?)?;
    m.add_function(wrap_pyfunction!(task::serde_read, m)?)?;
    m.add_function(wrap_pyfunction!(task::serde_write, m)?)?;
    m.add_class::<datum::PyWindowed>()?;
    m.add_class::<processor::PyRecord>()?;
    m.add_class::<processor::Handle>()?;
    m.add_class::<raw::PyRawBatch>()?;
    m.add_class::<lines::PyLineReader>()?;
    m.add_class::<kafka::PyFetchReader>()?;
    m.add_class::<kafka::PyNativeReader>()?;
    m.add_class::<kafka::PyNativeProducer>()?;
    m.add_class::<disk::PyDiskCache>()?;
    m.add_class::<disk::PyDisk>()?;
    m.add_class::<task::PyPlan>()?;
    m.add_class::<task::PyGlobals>()?;
    m.add_class::<task::PyTask>()?;
    m.add_class::<task::PyGeneration>()?;
    m.add_class::<sink::PySinkBuffer>()?;
    m.add_class::<rank::PyRanking>()?;
    Ok(())
}
