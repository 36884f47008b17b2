//! Processors of the user, and their way back into the flow that called them.
//!
//! ```text
//!   core ── process(record, cx) ──▶ Host ── instance.process(record, context) ──▶ Python
//!                                    │ lends the Cx                                  │
//!   core ◀── forward, stores … ── Handle ◀─────────── context.forward(record) ───────┘
//! ```
//!
//! A `Cx` borrows from the running task, and a Python object may be kept by anybody. So the handle holds it only while the
//! call lasts, and only for the thread that the call is on; at any other time, and from any other thread, using it is a
//! RuntimeError. All that a `Cx` reaches is borrowed for as long as one operation, during which no Python code runs: values
//! become plain bytes before (`settled`) and objects after.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

use adstream_core::datum::Datum;
use adstream_core::error::Fatal;
use adstream_core::flow::detached::Detached;
use adstream_core::flow::process::{Access, Processor};
use adstream_core::flow::reads::{Entry, Page, Span};
use adstream_core::flow::schedule::Clock;
use adstream_core::flow::store::View;
use adstream_core::flow::stores::StoreKind;
use adstream_core::flow::versions::Put;
use adstream_core::flow::{Cx, Done, Failure, Headers, Record, Store, StoreSpec};
use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::datum::{from_py, to_py};
use crate::foreign::text;

// --- Records ------------------------------------------------------------------------------------------------------------

/// A record of a processor: key, value, timestamp (ms), headers. Immutable: `with_…` makes another one.
#[pyclass(frozen, name = "ProcessorRecord", module = "adstream")]
pub struct PyRecord {
    #[pyo3(get)]
    key: Py<PyAny>,
    #[pyo3(get)]
    value: Py<PyAny>,
    #[pyo3(get)]
    timestamp: i64,
    headers: Headers,
    /// Of a processor that may not change keys: only what came in, and what was made of it, may be forwarded.
    fixed: bool,
    /// What key and value were made of, if nobody can have changed them since.
    known: (Option<Datum>, Option<Datum>),
}

type HeaderIn = (String, Option<PyBackedBytes>);

fn headers_from(headers: Option<Vec<HeaderIn>>) -> Headers {
    let headers = headers.unwrap_or_default();
    if headers.is_empty() {
        return Headers::default();
    }
    Arc::new(headers.into_iter().map(|(n, v)| (n, v.map(|v| v.to_vec()))).collect())
}

fn not_negative(timestamp: i64) -> PyResult<i64> {
    match timestamp {
        0.. => Ok(timestamp),
        _ => Err(PyValueError::new_err(format!("a timestamp is 0 or more (ms), not {timestamp}"))),
    }
}

/// Whether the Python object of a datum cannot be changed in place.
fn unchangeable(datum: &Datum) -> bool {
    match datum {
        Datum::List(_) | Datum::Map(_) | Datum::Opaque(_) | Datum::Dumped(_) => false,
        Datum::Tuple(items) => items.iter().all(unchangeable),
        Datum::Windowed(w) => unchangeable(&w.key),
        _ => true,
    }
}

impl PyRecord {
    fn of(py: Python<'_>, record: &Record, fixed: bool) -> PyResult<PyRecord> {
        let known = |d: &Datum| unchangeable(d).then(|| d.clone());
        Ok(PyRecord {
            key: to_py(py, &record.key)?.unbind(),
            value: to_py(py, &record.value)?.unbind(),
            timestamp: record.ts,
            headers: record.headers.clone(),
            fixed,
            known: (known(&record.key), known(&record.value)),
        })
    }

    fn copy(&self, py: Python<'_>) -> PyRecord {
        PyRecord {
            key: self.key.clone_ref(py),
            value: self.value.clone_ref(py),
            timestamp: self.timestamp,
            headers: self.headers.clone(),
            fixed: self.fixed,
            known: self.known.clone(),
        }
    }

    fn to_core(&self, py: Python<'_>) -> PyResult<Record> {
        let datum = |known: &Option<Datum>, object: &Py<PyAny>| match known {
            Some(datum) => Ok(datum.clone()),
            None => from_py(object.bind(py)),
        };
        let (key, value) = (datum(&self.known.0, &self.key)?, datum(&self.known.1, &self.value)?);
        Ok(Record::new(key, value, self.timestamp, self.headers.clone()))
    }
}

#[pymethods]
impl PyRecord {
    #[new]
    #[pyo3(signature = (key, value, timestamp, headers=None))]
    fn new(key: Py<PyAny>, value: Py<PyAny>, timestamp: i64, headers: Option<Vec<HeaderIn>>) -> PyResult<Self> {
        let (timestamp, headers) = (not_negative(timestamp)?, headers_from(headers));
        Ok(PyRecord { key, value, timestamp, headers, fixed: false, known: (None, None) })
    }

    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let bytes = |v: &Option<Vec<u8>>| v.as_ref().map(|v| PyBytes::new(py, v));
        PyTuple::new(py, self.headers.iter().map(|(n, v)| (n.as_str(), bytes(v))))
    }

    fn with_key(&self, py: Python<'_>, key: Py<PyAny>) -> PyResult<PyRecord> {
        if self.fixed {
            return Err(PyTypeError::new_err(
                "a fixed-key processor may not change keys: use `KStream.process` instead of `process_values`",
            ));
        }
        let copy = self.copy(py);
        Ok(PyRecord { key, known: (None, copy.known.1), ..copy })
    }
    fn with_value(&self, py: Python<'_>, value: Py<PyAny>) -> PyRecord {
        let copy = self.copy(py);
        PyRecord { value, known: (copy.known.0, None), ..copy }
    }
    fn with_timestamp(&self, py: Python<'_>, timestamp: i64) -> PyResult<PyRecord> {
        Ok(PyRecord { timestamp: not_negative(timestamp)?, ..self.copy(py) })
    }
    fn with_headers(&self, py: Python<'_>, headers: Vec<HeaderIn>) -> PyRecord {
        PyRecord { headers: headers_from(Some(headers)), ..self.copy(py) }
    }
    fn with_header(&self, py: Python<'_>, name: String, value: Option<PyBackedBytes>) -> PyRecord {
        let mut headers = self.headers.to_vec();
        headers.push((name, value.map(|v| v.to_vec())));
        PyRecord { headers: Arc::new(headers), ..self.copy(py) }
    }
    fn without_header(&self, py: Python<'_>, name: &str) -> PyRecord {
        let headers = self.headers.iter().filter(|h| h.0 != name).cloned().collect();
        PyRecord { headers: Arc::new(headers), ..self.copy(py) }
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(other) = other.cast::<PyRecord>() else { return Ok(false) };
        let other = other.get();
        Ok(self.timestamp == other.timestamp
            && self.headers == other.headers
            && self.key.bind(py).eq(other.key.bind(py))?
            && self.value.bind(py).eq(other.value.bind(py))?)
    }
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (key, value) = (self.key.bind(py).repr()?, self.value.bind(py).repr()?);
        let headers = match self.headers.is_empty() {
            true => String::new(),
            false => format!(", headers={}", self.headers(py)?.repr()?),
        };
        Ok(format!("ProcessorRecord({key}, {value}, {}{headers})", self.timestamp))
    }
}

// --- Reads, also for queries --------------------------------------------------------------------------------------------

type EntryOut<'py> = (Bound<'py, PyAny>, i64, i64, Bound<'py, PyAny>, i64);
pub type PageOut<'py> = (Bound<'py, PyList>, Option<Bound<'py, PyBytes>>);

pub fn key_of(key: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if key.is_none() {
        return Err(PyValueError::new_err("a store has no entry without a key: the key is None"));
    }
    from_py(key)?.key_bytes().map_err(PyTypeError::new_err)
}

pub fn page_out<'py>(py: Python<'py>, page: Page) -> PyResult<PageOut<'py>> {
    let entry =
        |e: Entry| -> PyResult<EntryOut<'py>> { Ok((to_py(py, &e.key)?, e.start, e.end, to_py(py, &e.value)?, e.ts)) };
    let entries = page.0.into_iter().map(entry).collect::<PyResult<Vec<_>>>()?;
    Ok((PyList::new(py, entries)?, page.1.map(|last| PyBytes::new(py, &last))))
}

/// A version: value, from, to (none: until now).
pub type VersionOut<'py> = (Bound<'py, PyAny>, i64, Option<i64>);

pub fn version_out<'py>(py: Python<'py>, found: Option<Entry>) -> PyResult<Option<VersionOut<'py>>> {
    found.map(|e| Ok((to_py(py, &e.value)?, e.start, (e.end != i64::MAX).then_some(e.end)))).transpose()
}

/// The arguments of a scan, as Python's side has them: from and to (keys), prefix, from and to (times), backwards, where
/// the last page ended, limit.
#[derive(FromPyObject)]
pub struct SpanIn<'py>(
    Option<Bound<'py, PyAny>>,
    Option<Bound<'py, PyAny>>,
    Option<PyBackedBytes>,
    Option<i64>,
    Option<i64>,
    bool,
    Option<PyBackedBytes>,
    usize,
);

impl SpanIn<'_> {
    pub fn to_core(&self) -> PyResult<Span> {
        let SpanIn(from, to, prefix, from_time, to_time, reverse, after, limit) = self;
        let key = |key: &Option<Bound<'_, PyAny>>| key.as_ref().map(key_of).transpose();
        let bytes = |bytes: &Option<PyBackedBytes>| bytes.as_ref().map(|b| b.to_vec());
        Ok(Span {
            from: key(from)?,
            to: key(to)?,
            prefix: bytes(prefix),
            times: (from_time.unwrap_or(i64::MIN), to_time.unwrap_or(i64::MAX)),
            reverse: *reverse,
            after: bytes(after),
            limit: (*limit).max(1),
        })
    }
}

/// Without anything that only Python understands: dumping it may run the user's code, which must not happen while a store
/// is borrowed.
fn settled(datum: Datum) -> PyResult<Datum> {
    Ok(match datum {
        Datum::Opaque(value) => Datum::Dumped(value.dump().map_err(PyTypeError::new_err)?.into()),
        Datum::List(items) => Datum::List(items.iter().cloned().map(settled).collect::<PyResult<_>>()?),
        Datum::Tuple(items) => Datum::Tuple(items.iter().cloned().map(settled).collect::<PyResult<_>>()?),
        Datum::Map(fields) => {
            let field = |(name, value): &(Arc<str>, Datum)| Ok((name.clone(), settled(value.clone())?));
            Datum::Map(fields.iter().map(field).collect::<PyResult<_>>()?)
        }
        other => other,
    })
}

// --- The way back -------------------------------------------------------------------------------------------------------

struct Lent {
    cx: Cx<'static>,
    thread: ThreadId,
}

// SAFETY: a `Lent` is only looked into on the thread that lent it (`Handle::with` compares), while that thread is inside
// the call that the `Cx` was lent for (`Loan` takes it back at its end). Other threads only compare the number.
unsafe impl Send for Lent {}

/// What Python's `Context` holds on to.
#[pyclass(frozen, name = "ProcessorHandle", module = "adstream._core")]
pub struct Handle {
    lent: Mutex<Option<Lent>>,
    access: Access,
    callbacks: Mutex<HashMap<u64, Py<PyAny>>>,
    begun: AtomicBool,
    /// A failure that nobody can go on from, whatever the user's code does with the exception.
    fatal: Mutex<Option<Fatal>>,
    /// Of a unit test, without a task.
    detached: Option<Mutex<Detached>>,
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the `Cx` back.
struct Loan<'a>(&'a Handle);

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        *held(&self.0.lent) = None;
    }
}

impl Handle {
    fn new(access: Access, detached: Option<Mutex<Detached>>) -> Handle {
        let (lent, callbacks, fatal) = (Mutex::new(None), Mutex::default(), Mutex::new(None));
        Handle { lent, access, callbacks, begun: AtomicBool::new(false), fatal, detached }
    }

    fn lend<'a>(&'a self, cx: Cx<'_>) -> Loan<'a> {
        // SAFETY: only the lifetime changes. `Loan` ends the loan before the call, and with it the borrow, ends.
        let cx = unsafe { std::mem::transmute::<Cx<'_>, Cx<'static>>(cx) };
        *held(&self.lent) = Some(Lent { cx, thread: std::thread::current().id() });
        Loan(self)
    }

    fn with<T>(&self, f: impl FnOnce(Cx<'_>) -> PyResult<T>) -> PyResult<T> {
        if let Some(own) = &self.detached {
            return held(own).with(f);
        }
        let cx = match &*held(&self.lent) {
            Some(lent) if lent.thread == std::thread::current().id() => lent.cx,
            _ => {
                return Err(PyRuntimeError::new_err(format!(
                    "the context of `{}` can be used only inside its `init`, `process` and punctuators, and on their thread",
                    self.access.node
                )))
            }
        };
        f(cx)
    }

    fn store(&self, name: &str) -> PyResult<usize> {
        let found = self.access.stores.iter().find(|s| s.0 == name);
        found.map(|s| s.1).ok_or_else(|| {
            let names: Vec<&str> = self.access.stores.iter().map(|s| s.0.as_str()).collect();
            let known = if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) };
            PyKeyError::new_err(format!("`{}` is not connected to a store `{name}`: {known}", self.access.node))
        })
    }

    fn failed(&self, failure: Failure) -> PyErr {
        match failure {
            Failure::Bad(_, text) => PyValueError::new_err(text),
            Failure::Fatal(fatal) => {
                let text = format!("the task cannot go on: {}", fatal.message);
                *held(&self.fatal) = Some(fatal);
                PyRuntimeError::new_err(text)
            }
        }
    }

    /// A store, borrowed for one operation without Python code inside.
    fn write<T>(&self, store: &str, f: impl FnOnce(&mut Store, Cx<'_>) -> Result<T, Failure>) -> PyResult<T> {
        let index = self.store(store)?;
        self.with(|cx| f(&mut cx.store_mut(index), cx).map_err(|e| self.failed(e)))
    }
    /// Reads a store of the task, or what the worker has whole (which needs no connection).
    fn read<T>(&self, store: &str, f: impl FnOnce(&Store) -> T) -> PyResult<T> {
        let own = self.access.stores.iter().any(|s| s.0 == store);
        if !own && self.with(|cx| Ok(cx.graph.globals.named(store).is_some()))? {
            return self.with(|cx| cx.graph.globals.with(store, f).ok_or_else(|| PyKeyError::new_err("it is gone")));
        }
        let index = self.store(store)?;
        self.with(|cx| Ok(f(&cx.store(index))))
    }
}

/// Where a processor's record came from, as Python sees it: topic, partition, offset.
type Metadata = (String, u32, i64);

#[pymethods]
impl Handle {
    /// Stores (JSON, as in a plan) without a task, for unit tests. Raises ValueError: they are none.
    #[staticmethod]
    fn detached(node: String, stores: &str) -> PyResult<Handle> {
        let specs: Vec<StoreSpec> = serde_json::from_str(stores).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let names = specs.iter().enumerate().map(|(at, spec)| (spec.name.clone(), at)).collect();
        let detached = Some(Mutex::new(Detached::new(&node, specs)));
        Ok(Handle::new(Access { node, stores: names, ..Access::default() }, detached))
    }

    #[getter]
    fn node(&self) -> &str {
        &self.access.node
    }
    #[getter]
    fn stores(&self) -> Vec<String> {
        self.access.stores.iter().map(|s| s.0.clone()).collect()
    }
    #[getter]
    fn task_id(&self) -> PyResult<String> {
        self.with(|cx| Ok(format!("{}_{}", self.access.subtopology, cx.env.task_partition)))
    }

    #[pyo3(signature = (record, child=None))]
    fn forward(&self, py: Python<'_>, record: &Bound<'_, PyAny>, child: Option<&str>) -> PyResult<()> {
        let record = record.cast::<PyRecord>().map_err(|_| {
            let kind = record.get_type().name().map(|n| n.to_string()).unwrap_or_default();
            PyTypeError::new_err(format!(
                "`forward` takes a ProcessorRecord, not a {kind}: `record.with_value(…)` makes one"
            ))
        })?;
        let record = record.get();
        if self.access.transforms {
            return Err(PyTypeError::new_err("a transformer forwards nothing: it returns the value"));
        }
        if !self.begun.load(Ordering::Relaxed) {
            return Err(PyRuntimeError::new_err("`init` cannot forward: nobody behind has begun yet"));
        }
        if self.access.fixed_key && !record.fixed {
            return Err(PyTypeError::new_err(
                "a fixed-key processor forwards the record it was given, with another value, time or headers",
            ));
        }
        let made = record.to_core(py)?;
        self.with(|cx| {
            let done = match child {
                None => cx.forward(made),
                Some(name) => cx.forward_named(name, &self.access.outputs, made).ok_or_else(|| {
                    let mut known: Vec<&str> = self.access.outputs.iter().map(String::as_str).collect();
                    known.extend(cx.children());
                    PyKeyError::new_err(format!(
                        "`{}` has no child `{name}`: it has {}",
                        self.access.node,
                        known.join(", ")
                    ))
                })?,
            };
            done.map_err(|e| self.failed(e))
        })
    }

    fn commit(&self) -> PyResult<()> {
        self.with(|cx| {
            cx.env.commit.set(true);
            Ok(())
        })
    }

    #[pyo3(signature = (interval_ms, wall, callback, start_ms=None))]
    fn schedule(&self, interval_ms: i64, wall: bool, callback: Py<PyAny>, start_ms: Option<i64>) -> PyResult<u64> {
        let clock = if wall { Clock::Wall } else { Clock::Stream };
        let id = self.with(|cx| Ok(cx.schedule(clock, interval_ms.max(1), start_ms)))?;
        held(&self.callbacks).insert(id, callback);
        Ok(id)
    }
    fn cancel(&self, schedule: u64) -> PyResult<()> {
        self.with(|cx| {
            cx.graph.schedules.borrow_mut().cancel(schedule);
            Ok(())
        })
    }

    fn record_metadata(&self) -> PyResult<Option<Metadata>> {
        self.with(|cx| Ok(cx.origin().map(|o| (o.topic.to_string(), o.partition, o.offset))))
    }
    /// ms; −1 before the first record.
    fn stream_time(&self) -> PyResult<i64> {
        self.with(|cx| Ok(cx.time(Clock::Stream).max(-1)))
    }
    fn system_time(&self) -> PyResult<i64> {
        self.with(|cx| Ok(cx.time(Clock::Wall).max(-1)))
    }
    #[pyo3(signature = (reason, by=1))]
    fn count(&self, reason: &str, by: u64) -> PyResult<()> {
        self.with(|cx| {
            cx.count_many(reason, by);
            Ok(())
        })
    }

    // Stores

    fn get<'py>(
        &self,
        py: Python<'py>,
        store: &str,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(Bound<'py, PyAny>, i64)>> {
        let key = key_of(key)?;
        let kind = self.read(store, |s| s.spec.kind)?;
        let found = match kind {
            StoreKind::Lru => self.write(store, |s, _| Ok(s.lru_get(&key)))?, // a use
            _ => self.read(store, |s| s.get_in(View::Present, &key))?,
        };
        found.map(|(value, ts)| Ok((to_py(py, &value)?, ts))).transpose()
    }
    /// A None value deletes.
    fn put(&self, store: &str, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>, ts: i64) -> PyResult<()> {
        let (key, value) = (key_of(key)?, settled(from_py(value)?)?);
        self.write(store, |s, _| match s.spec.kind {
            StoreKind::Lru => s.lru_put(&key, &value, ts),
            _ => s.put_raw(&key, (!value.is_null()).then_some((&value, ts))),
        })
    }
    /// The version of a key at a time (None: now): value, from, to.
    #[pyo3(signature = (store, key, at=None))]
    fn get_version<'py>(
        &self,
        py: Python<'py>,
        store: &str,
        key: &Bound<'py, PyAny>,
        at: Option<i64>,
    ) -> PyResult<Option<VersionOut<'py>>> {
        let key = key_of(key)?;
        version_out(py, self.read(store, |s| s.version_in(View::Present, &key, at))?)
    }
    /// As Kafka Streams': where the version ends, -1 for nowhere; the smallest number: it was too old, and is counted.
    fn put_version(&self, store: &str, key: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>, ts: i64) -> PyResult<i64> {
        let (key, value) = (settled(from_py(key)?)?, settled(from_py(value)?)?);
        let bytes = key.key_bytes().map_err(PyTypeError::new_err)?;
        if key.is_null() {
            return Err(PyValueError::new_err("a store has no entry without a key: the key is None"));
        }
        self.write(store, |s, cx| {
            Ok(match s.version_put(&key, &value, ts)? {
                Put::Latest => -1,
                Put::Older => s.version_end(&bytes, ts),
                Put::Refused => {
                    cx.count("dropped:expired");
                    i64::MIN
                }
            })
        })
    }
    fn scan<'py>(&self, py: Python<'py>, store: &str, span: SpanIn<'py>) -> PyResult<PageOut<'py>> {
        let span = span.to_core()?;
        page_out(py, self.read(store, |s| s.scan(View::Present, &span))?)
    }
    fn len(&self, store: &str) -> PyResult<u64> {
        self.read(store, Store::entries)
    }
    fn get_window<'py>(
        &self,
        py: Python<'py>,
        store: &str,
        key: &Bound<'py, PyAny>,
        start: i64,
        end: i64,
    ) -> PyResult<Option<(Bound<'py, PyAny>, i64)>> {
        let key = key_of(key)?;
        let found = self.read(store, |s| s.get_window_in(View::Present, &key, start, end))?;
        found.map(|(value, ts)| Ok((to_py(py, &value)?, ts))).transpose()
    }
    /// Of a store of windows: by start; of sessions: by both ends. What is too old is dropped and counted.
    fn put_window(
        &self,
        store: &str,
        key: &Bound<'_, PyAny>,
        times: (i64, i64, i64),
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (key, value) = (key_of(key)?, settled(from_py(value)?)?);
        let (start, end, ts) = times;
        self.write(store, |s, cx| {
            let time = if s.spec.kind == StoreKind::Session { end } else { start };
            if !s.window_put_any(&key, start, end, &value, ts)? && s.notices(time) {
                cx.count("dropped:expired");
            }
            Ok(())
        })
    }
    fn remove_session(&self, store: &str, key: &Bound<'_, PyAny>, start: i64, end: i64) -> PyResult<()> {
        let key = key_of(key)?;
        self.write(store, |s, _| {
            s.session_remove(&key, start, end);
            Ok(())
        })
    }
}

// --- Instances ----------------------------------------------------------------------------------------------------------

struct Host {
    instance: Py<PyAny>,
    context: Py<PyAny>,
    handle: Py<Handle>,
}

/// `factory(handle)` returns (instance, context).
pub fn host(py: Python<'_>, factory: &Bound<'_, PyAny>, access: &Access) -> PyResult<Box<dyn Processor>> {
    let handle = Py::new(py, Handle::new(access.clone(), None))?;
    let (instance, context) = factory.call1((handle.clone_ref(py),))?.extract()?;
    Ok(Box::new(Host { instance, context, handle }))
}

impl Host {
    /// Runs Python code with the `Cx` lent. What it raises is the record's fault.
    fn run(&self, cx: Cx<'_>, call: impl FnOnce(Python<'_>) -> PyResult<()>) -> Done {
        let handle = self.handle.get();
        let loan = handle.lend(cx);
        let done = Python::attach(|py| call(py).map_err(|e| Failure::raised(text(py, &e))));
        drop(loan);
        match held(&handle.fatal).take() {
            Some(fatal) => Err(Failure::Fatal(fatal)),
            None => done,
        }
    }
}

impl Processor for Host {
    fn init(&mut self, cx: Cx<'_>) -> Done {
        let done = self.run(cx, |py| self.instance.call_method1(py, "init", (&self.context,)).map(drop));
        self.handle.get().begun.store(true, Ordering::Relaxed);
        done
    }

    fn process(&mut self, record: Record, cx: Cx<'_>) -> Done {
        self.run(cx, |py| {
            let record = PyRecord::of(py, &record, self.handle.get().access.fixed_key)?;
            self.instance.call_method1(py, "process", (record, &self.context)).map(drop)
        })
    }

    fn transform(&mut self, key: &Datum, value: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        let mut made = Datum::Null;
        self.run(cx, |py| {
            let returned = self.instance.bind(py).call_method1("transform", (to_py(py, key)?, to_py(py, value)?))?;
            made = from_py(&returned)?;
            Ok(())
        })?;
        Ok(made)
    }

    fn punctuate(&mut self, schedule: u64, time: i64, cx: Cx<'_>) -> Done {
        self.run(cx, |py| {
            let callback = held(&self.handle.get().callbacks).get(&schedule).map(|c| c.clone_ref(py));
            callback.map_or(Ok(()), |c| c.call1(py, (time,)).map(drop))
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        Python::try_attach(|py| {
            if let Err(error) = self.instance.call_method0(py, "close") {
                error.write_unraisable(py, Some(self.instance.bind(py)));
            }
        });
    }
}
