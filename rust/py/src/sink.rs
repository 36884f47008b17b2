//! `SinkBuffer`: rows of a sink topic until they are written, the newest of each key.
//!
//! Rows stay columns in Rust until somebody drains them; rows that newer ones replaced are thrown away now and then, so
//! that what is held follows the keys and not the time for which rows are collected.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use adstream_core::batch::Batch;
use adstream_core::column::Bytes;
use adstream_core::frame;
use adstream_core::key;
use adstream_core::plan::SinkInfo;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::convert::ToPython;
use crate::error::fatal_error;
use crate::raw::PyRawBatch;
use crate::task::PyPlan;

/// Keys are hashes already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {}
    fn write_u128(&mut self, id: u128) {
        self.0 = id as u64;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Where a row lies: batch, row. In order of arrival.
type Place = (u32, u32);

/// Replaced rows that are not worth throwing away yet.
const SLACK: usize = 20_000;

#[derive(Default)]
struct Buffered {
    batches: Vec<Batch>,
    rows: usize,
    newest: HashMap<u128, Place, BuildHasherDefault<Hashed>>,
}

impl Buffered {
    fn add(&mut self, batch: Batch, keys: &[usize], scratch: &mut Bytes) {
        let columns: Vec<_> = keys.iter().map(|&k| &*batch.columns[k]).collect();
        key::encode_rows(&columns, 0..batch.rows, scratch);
        let index = self.batches.len() as u32;
        for row in 0..batch.rows {
            self.newest.insert(key::identity(scratch.get(row)), (index, row as u32));
        }
        self.rows += batch.rows;
        self.batches.push(batch);
        if self.rows > self.newest.len() * 2 + SLACK {
            self.compact();
        }
    }

    /// Throws away what was replaced; the order stays.
    fn compact(&mut self) {
        let mut places: Vec<&mut Place> = self.newest.values_mut().collect();
        places.sort_unstable();
        let mut kept: Vec<Vec<u32>> = vec![vec![]; self.batches.len()];
        for place in &mut places {
            let rows = &mut kept[place.0 as usize];
            rows.push(place.1);
            place.1 = rows.len() as u32 - 1;
        }
        // A batch that nothing is left of makes way.
        let mut left = 0;
        let mut indices = vec![0; kept.len()];
        for (index, rows) in indices.iter_mut().zip(&kept) {
            *index = left;
            left += !rows.is_empty() as u32;
        }
        places.into_iter().for_each(|place| place.0 = indices[place.0 as usize]);
        let batches = std::mem::take(&mut self.batches).into_iter().zip(kept).filter(|(_, rows)| !rows.is_empty());
        self.batches = batches.map(|(batch, rows)| Batch { live: Some(rows), ..batch }.compact()).collect();
        self.rows = self.newest.len();
    }
}

#[pyclass(frozen, name = "SinkBuffer", module = "adstream._core")]
pub struct PySinkBuffer {
    info: SinkInfo,
    keys: Vec<usize>,
    state: Mutex<Buffered>,
}

impl PySinkBuffer {
    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows turned into Python's values before other threads get their turn.
const ROWS_PER_TURN: usize = 4096;

#[pymethods]
impl PySinkBuffer {
    #[new]
    fn new(plan: &PyPlan, sink: &str) -> PyResult<Self> {
        let info = plan.plan.sinks.iter().find(|s| s.name == sink).cloned();
        let info = info.ok_or_else(|| PyKeyError::new_err(format!("there is no sink `{sink}`")))?;
        let keys = info
            .key
            .iter()
            .map(|k| info.schema.index(k).ok_or_else(|| PyKeyError::new_err(format!("no column `{k}`"))))
            .collect::<PyResult<_>>()?;
        Ok(PySinkBuffer { info, keys, state: Mutex::default() })
    }

    fn add(&self, py: Python<'_>, batch: &PyRawBatch) -> PyResult<usize> {
        py.detach(|| {
            let mut state = self.lock();
            let mut scratch = Bytes::default();
            let mut rows = 0;
            for row in 0..batch.0.len() {
                let Some(value) = batch.0.values.get(row) else { continue };
                let (header, body) = frame::open(value)?;
                if header.schema != self.info.schema_hash {
                    return Err(adstream_core::error::Fatal::new(
                        "plan_changed",
                        format!(
                            "rows for sink `{}` were written with other columns: let the old version drain first",
                            self.info.name
                        ),
                    ));
                }
                let decoded = frame::read_rows(&self.info.schema, &header, body)?;
                rows += decoded.rows;
                state.add(decoded, &self.keys, &mut scratch);
            }
            Ok(rows)
        })
        .map_err(fatal_error)
    }

    fn __len__(&self) -> usize {
        self.lock().newest.len()
    }

    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (batches, places) = py.detach(|| {
            let Buffered { batches, newest, .. } = std::mem::take(&mut *self.lock());
            let mut places: Vec<Place> = newest.into_values().collect();
            places.sort_unstable();
            (batches, places)
        });
        let out = PyDict::new(py);
        for (c, field) in self.info.schema.fields.iter().enumerate() {
            let mut values = ToPython::new(py);
            let mut list = Vec::with_capacity(places.len());
            for turn in places.chunks(ROWS_PER_TURN) {
                for &(batch, row) in turn {
                    list.push(values.get(&batches[batch as usize].columns[c], row as usize)?);
                }
                py.detach(|| ());
            }
            out.set_item(&field.name, PyList::new(py, list)?)?;
        }
        Ok(out)
    }
}
