//! `Plan`, `Task`, `Generation`: handles on the core. Work happens without Python's lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adstream_core::cep::saved::Counts;
use adstream_core::cep::{Automaton, Pattern};
use adstream_core::datum::Datum;
use adstream_core::expr::{compile, Expr};
use adstream_core::flow::store::View;
use adstream_core::flow::{Globals, Serde};
use adstream_core::plan::Plan;
use adstream_core::task::{Generation, Options, Task};
use adstream_core::types::Schema;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::datum::{from_py, to_py};
use crate::disk::{store_type, PyDisk};
use crate::error::{fatal_error, plan_error};
use crate::foreign::Callables;
use crate::processor::{key_of, page_out, version_out, PageOut, SpanIn, VersionOut};
use crate::raw::PyRawBatch;

#[pyfunction]
pub fn infer(schema: &str, expr: &str) -> PyResult<String> {
    let bad = |e: serde_json::Error| PyValueError::new_err(e.to_string());
    let schema: Schema = serde_json::from_str(schema).map_err(bad)?;
    let expr: Expr = serde_json::from_str(expr).map_err(bad)?;
    Ok(compile(&expr, &schema).map_err(plan_error)?.dtype.to_string())
}

/// The automaton of a pattern (JSON, both).
#[pyfunction]
pub fn pattern_automaton(pattern: &str) -> PyResult<String> {
    let pattern: Pattern = serde_json::from_str(pattern).map_err(|e| PyValueError::new_err(e.to_string()))?;
    Ok(Automaton::compile(&pattern).map_err(plan_error)?.describe().to_string())
}

#[pyclass(frozen, name = "Plan", module = "adstream._core")]
pub struct PyPlan {
    pub plan: Arc<Plan>,
    callables: Arc<Callables>,
}

#[pymethods]
impl PyPlan {
    #[new]
    #[pyo3(signature = (plan, callables=Vec::new()))]
    fn new(py: Python<'_>, plan: &str, callables: Vec<Py<PyAny>>) -> PyResult<Self> {
        let plan = Plan::parse(plan).map_err(plan_error)?;
        Ok(PyPlan { plan: Arc::new(plan), callables: Arc::new(Callables::new(py, callables)?) })
    }

    fn describe(&self) -> String {
        self.plan.describe().to_string()
    }

    /// The plan's global tables, empty: one for each worker.
    fn globals(&self) -> PyGlobals {
        PyGlobals { tables: Arc::new(Globals::new(&self.plan.globals)), callables: self.callables.clone() }
    }

    #[pyo3(signature = (subtopology, partition, partitions, options="{}", globals=None, find_topic=None))]
    fn task(
        &self,
        subtopology: usize,
        partition: u32,
        partitions: BTreeMap<String, u32>,
        options: &str,
        globals: Option<&PyGlobals>,
        find_topic: Option<Py<PyAny>>,
    ) -> PyResult<PyTask> {
        let options: serde_json::Value =
            serde_json::from_str(options).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let asked = |name| options.get(name).and_then(serde_json::Value::as_bool).unwrap_or(true);
        let closing_rows = options.get("closing_rows").and_then(serde_json::Value::as_u64).map(|rows| rows as usize);
        let how = Options {
            exactly_once: asked("exactly_once"),
            cache: asked("cache"),
            closing_rows: closing_rows.unwrap_or(Options::default().closing_rows),
        };
        let globals = match globals {
            Some(globals) => globals.tables.clone(),
            None if self.plan.globals.is_empty() => Arc::default(),
            None => return Err(PyValueError::new_err("the plan has global tables: hand over `Plan.globals()`")),
        };
        let (plan, callables) = (self.plan.clone(), self.callables.clone());
        let mut task =
            Task::new(plan, subtopology, partition, &partitions, callables, how, &globals).map_err(plan_error)?;
        if let Some(find) = find_topic {
            task.find_topics(Box::new(move |topic| {
                Python::attach(|py| find.call1(py, (topic,))?.extract(py)).map_err(|e: PyErr| e.to_string())
            }));
        }
        Ok(PyTask { task: Mutex::new(task), partition })
    }
}

/// One worker's global tables, read by its tasks.
#[pyclass(frozen, name = "Globals", module = "adstream._core")]
pub struct PyGlobals {
    tables: Arc<Globals>,
    callables: Arc<Callables>,
}

#[pymethods]
impl PyGlobals {
    fn apply(&self, py: Python<'_>, topic: &str, partition: u32, batch: &PyRawBatch) -> PyResult<()> {
        py.detach(|| self.tables.apply(topic, partition, &batch.0, &*self.callables)).map_err(fatal_error)
    }

    // Queries, as of a task: of what has been applied.

    #[pyo3(signature = (store, key, window))]
    fn query_get<'py>(
        &self,
        py: Python<'py>,
        store: &str,
        key: &Bound<'py, PyAny>,
        window: Option<(i64, i64)>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, i64)>> {
        let key = key_of(key)?;
        let found = py.detach(|| {
            self.tables.with(store, |s| match window {
                None => s.get_in(View::Committed, &key),
                Some((start, end)) => s.get_window_in(View::Committed, &key, start, end),
            })
        });
        found.flatten().map(|(value, ts)| Ok((to_py(py, &value)?, ts))).transpose()
    }

    fn query_scan<'py>(&self, py: Python<'py>, store: &str, span: SpanIn<'py>) -> PyResult<Option<PageOut<'py>>> {
        let span = span.to_core()?;
        let page = py.detach(|| self.tables.with(store, |s| s.scan(View::Committed, &span)));
        page.map(|page| page_out(py, page)).transpose()
    }

    fn query_version<'py>(
        &self,
        py: Python<'py>,
        store: &str,
        key: &Bound<'py, PyAny>,
        at: Option<i64>,
    ) -> PyResult<Option<VersionOut<'py>>> {
        let key = key_of(key)?;
        let found = py.detach(|| self.tables.with(store, |s| s.version_in(View::Committed, &key, at)));
        version_out(py, found.flatten())
    }

    fn query_len(&self, store: &str) -> Option<u64> {
        self.tables.with(store, adstream_core::flow::Store::entries)
    }

    /// By table: how many keys it has, and what became of records, by reason.
    fn stats(&self) -> HashMap<String, (usize, BTreeMap<String, u64>)> {
        self.tables.stats().into_iter().map(|(name, keys, counters)| (name, (keys, counters))).collect()
    }
}

#[pyclass(frozen, name = "Generation", module = "adstream._core")]
pub struct PyGeneration {
    outputs: Vec<(String, u32, Py<PyRawBatch>)>,
    positions: Vec<(String, i64)>,
    partition: u32,
}

#[pymethods]
impl PyGeneration {
    #[getter]
    fn outputs(&self, py: Python<'_>) -> Vec<(String, u32, Py<PyRawBatch>)> {
        self.outputs.iter().map(|(t, p, b)| (t.clone(), *p, b.clone_ref(py))).collect()
    }
    #[getter]
    fn positions(&self) -> HashMap<(String, u32), i64> {
        self.positions.iter().map(|(t, o)| ((t.clone(), self.partition), *o)).collect()
    }
    #[getter]
    fn empty(&self) -> bool {
        self.outputs.is_empty()
    }
}

#[pyclass(frozen, name = "Task", module = "adstream._core")]
pub struct PyTask {
    task: Mutex<Task>,
    partition: u32,
}

impl PyTask {
    fn lock(&self) -> MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn at(&self, positions: Vec<(String, i64)>) -> HashMap<(String, u32), i64> {
        positions.into_iter().map(|(t, o)| ((t, self.partition), o)).collect()
    }
    fn check(&self, partition: u32) -> PyResult<()> {
        if partition == self.partition {
            return Ok(());
        }
        Err(PyKeyError::new_err(format!("this task reads partition {}, not {partition}", self.partition)))
    }
}

#[pymethods]
impl PyTask {
    fn feed(&self, topic: &str, partition: u32, batch: &PyRawBatch) -> PyResult<()> {
        self.check(partition)?;
        self.lock().feed(topic, batch.0.clone()).map_err(fatal_error)
    }

    fn buffered(&self, topic: &str, partition: u32) -> PyResult<usize> {
        self.check(partition)?;
        Ok(self.lock().buffered(topic))
    }

    fn caught_up(&self, topic: &str, partition: u32, value: bool) -> PyResult<()> {
        self.check(partition)?;
        self.lock().caught_up(topic, value).map_err(fatal_error)
    }

    fn tick(&self, now_ms: i64) -> PyResult<()> {
        self.lock().tick(now_ms).map_err(fatal_error)
    }

    fn begin(&self, py: Python<'_>, now_ms: i64) -> PyResult<()> {
        py.detach(|| self.lock().begin(now_ms)).map_err(fatal_error)
    }

    #[getter]
    fn commit_asked(&self) -> bool {
        self.lock().commit_asked()
    }

    // Queries: from any thread, of what is committed. None: there is no such entry, or no such store.

    fn query_get<'py>(
        &self,
        py: Python<'py>,
        store: &str,
        key: &Bound<'py, PyAny>,
        window: Option<(i64, i64)>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, i64)>> {
        let key = key_of(key)?;
        let found = py.detach(|| {
            let task = self.lock();
            let store = task.store(store)?;
            match window {
                None => store.get_in(View::Committed, &key),
                Some((start, end)) => store.get_window_in(View::Committed, &key, start, end),
            }
        });
        found.map(|(value, ts)| Ok((to_py(py, &value)?, ts))).transpose()
    }

    fn query_scan<'py>(&self, py: Python<'py>, store: &str, span: SpanIn<'py>) -> PyResult<Option<PageOut<'py>>> {
        let span = span.to_core()?;
        let page = py.detach(|| self.lock().store(store).map(|s| s.scan(View::Committed, &span)));
        page.map(|page| page_out(py, page)).transpose()
    }

    fn query_version<'py>(
        &self,
        py: Python<'py>,
        store: &str,
        key: &Bound<'py, PyAny>,
        at: Option<i64>,
    ) -> PyResult<Option<VersionOut<'py>>> {
        let key = key_of(key)?;
        let found = py.detach(|| self.lock().store(store).and_then(|s| s.version_in(View::Committed, &key, at)));
        version_out(py, found)
    }

    fn query_len(&self, py: Python<'_>, store: &str) -> Option<u64> {
        py.detach(|| self.lock().store(store).map(|s| s.entries()))
    }

    /// By key: live runs, withheld matches, buffered events, waiting events.
    fn pattern_counts(&self, py: Python<'_>, store: &str) -> PyResult<Vec<(Py<PyAny>, [u64; 4])>> {
        let found: Vec<(Datum, Counts)> = py.detach(|| {
            let task = self.lock();
            let Some(store) = task.store(store) else { return vec![] };
            let entries = store.bytes.unordered();
            entries.filter_map(|(key, bytes)| Some((Datum::from_key_bytes(&key)?, Counts::of(&bytes)?))).collect()
        });
        let plain = |c: Counts| [c.live_runs, c.withheld, c.buffered, c.waiting];
        found.into_iter().map(|(key, c)| Ok((to_py(py, &key)?.unbind(), plain(c)))).collect()
    }

    /// Whether time that passes is anything to it: `tick` may make something come out.
    #[getter]
    fn ticks(&self) -> bool {
        self.lock().ticks()
    }

    fn process(&self, py: Python<'_>, max_rows: usize) -> PyResult<usize> {
        py.detach(|| self.lock().process(max_rows)).map_err(fatal_error)
    }

    fn close_generation(&self, py: Python<'_>) -> PyResult<PyGeneration> {
        let Generation { outputs, positions } = py.detach(|| self.lock().close_generation()).map_err(fatal_error)?;
        let outputs = outputs
            .into_iter()
            .map(|(t, p, b)| Ok((t, p, Py::new(py, PyRawBatch::from(b))?)))
            .collect::<PyResult<_>>()?;
        Ok(PyGeneration { outputs, positions, partition: self.partition })
    }

    #[pyo3(signature = (end=None))]
    fn committed(&self, py: Python<'_>, end: Option<i64>) {
        py.detach(|| self.lock().committed(end));
    }

    /// Whether it has stores that are to be on disk, where those that say nothing have this type.
    fn on_disk(&self, default: &str) -> PyResult<bool> {
        Ok(self.lock().on_disk(store_type(default)?))
    }

    /// Keeps its stores there; before anything else.
    fn attach(&self, py: Python<'_>, disk: &PyDisk, default: &str) -> PyResult<()> {
        let default = store_type(default)?;
        py.detach(|| self.lock().attach(disk.0.clone(), default));
        Ok(())
    }

    /// Inputs that whoever wrote what was restored did not read.
    fn new_inputs(&self) -> Vec<String> {
        self.lock().new_inputs()
    }

    /// Whether a restore has to read the changelog from its beginning, whatever is on disk.
    #[getter]
    fn in_memory(&self) -> bool {
        self.lock().in_memory()
    }

    fn rollback(&self, py: Python<'_>) -> PyResult<HashMap<(String, u32), i64>> {
        let positions = py.detach(|| self.lock().rollback()).map_err(fatal_error)?;
        Ok(self.at(positions))
    }

    #[pyo3(signature = (batch, known=false))]
    fn restore(&self, py: Python<'_>, batch: &PyRawBatch, known: bool) -> PyResult<()> {
        py.detach(|| self.lock().restore(&batch.0, known)).map_err(fatal_error)
    }

    fn positions(&self) -> HashMap<(String, u32), i64> {
        self.at(self.lock().positions())
    }

    #[getter]
    fn generation(&self) -> u64 {
        self.lock().generation()
    }

    #[getter]
    fn needed_from(&self) -> Option<u64> {
        self.lock().needed_from()
    }

    /// The time of the record that is next; None: there is none.
    fn next_time(&self) -> PyResult<Option<i64>> {
        self.lock().next_time().map_err(fatal_error)
    }

    /// Bytes that wait to be written when the generation closes.
    #[getter]
    fn output_bytes(&self) -> usize {
        self.lock().output_bytes()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let text = self.lock().stats().to_string();
        py.import("json")?.call_method1("loads", (text,))
    }
}

fn serde_of(spec: &str) -> PyResult<Serde> {
    serde_json::from_str(spec).map_err(|e| PyValueError::new_err(e.to_string()))
}

#[pyfunction]
pub fn serde_write<'py>(
    py: Python<'py>,
    spec: &str,
    callables: Vec<Py<PyAny>>,
    value: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let bytes = serde_of(spec)?
        .write(&from_py(value)?, &Callables::new(py, callables)?)
        .map_err(|t| PyValueError::new_err(t.text()))?;
    Ok(bytes.map(|b| PyBytes::new(py, &b)))
}

#[pyfunction]
pub fn serde_read<'py>(
    py: Python<'py>,
    spec: &str,
    callables: Vec<Py<PyAny>>,
    data: Option<&[u8]>,
) -> PyResult<Bound<'py, PyAny>> {
    to_py(
        py,
        &serde_of(spec)?.read(data, &Callables::new(py, callables)?).map_err(|t| PyValueError::new_err(t.text()))?,
    )
}

/// Decodes a batch as the plan's first source does; the good rows.
#[pyfunction]
pub fn bench_decode(py: Python<'_>, plan: &PyPlan, batch: &PyRawBatch) -> PyResult<usize> {
    use adstream_core::codec::JsonDecoder;
    use adstream_core::plan::logical::Op;
    let source = plan.plan.nodes.iter().find_map(|n| match &n.op {
        Op::Source { fields, .. } => Some((n.id, fields)),
        _ => None,
    });
    let (id, fields) = source.ok_or_else(|| PyValueError::new_err("the plan has no source"))?;
    let schema = plan.plan.working_schema(id, 0);
    let used = fields.iter().filter(|f| schema.index(&f.name).is_some());
    let fields = used.map(|f| f.decoder_field()).collect::<Result<_, _>>().map_err(plan_error)?;
    let mut decoder = JsonDecoder::new(fields).map_err(plan_error)?;
    Ok(py.detach(|| batch.0.len() - decoder.decode(&batch.0.values).bad.len()))
}
