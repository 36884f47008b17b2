//! Committed records of some partitions, each with a queue of its own, over librdkafka.
//!
//! What was tried, and why this looks as it does:
//! * A partition's queue must be taken and un-forwarded **before** the partition is assigned; a forward to another queue is
//!   silently dropped by the next unassign.
//! * `consume_batch_queue` waits for *n* messages or the time-out, so it is always called with 0; waiting is a flag that
//!   librdkafka's threads raise when a queue goes from empty to not empty.
//! * `rd_kafka_destroy` hangs while one message is not destroyed, and a message pins its whole fetch buffer: payloads are
//!   copied into the batch and the message is destroyed before the next one is looked at.
//! * A forked child can read what its parent had prefetched (silent duplicates): every call checks the process id.
//! * Headers cost 0.10-0.14 µs a record even where there are none: read only when asked for.
//! * A partition's end is an event at the offset of the end, markers of transactions included: it moves the position to where
//!   no record ever was. "Last record = end - 1" never holds with transactions.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_void, CString};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adstream_core::raw::{Header, RawBatch};

use crate::ffi::{text, Client, Lib, Message, PartitionList, Queue};

const CONSUMER: c_int = 1;
const PARTITION_EOF: c_int = -191;
/// What passes by itself: local time-outs and transport (-185, -187, -195, -193), leader moves and broker restarts.
const TRANSIENT: [c_int; 14] = [-185, -187, -193, -195, 3, 5, 6, 7, 8, 9, 13, 14, 56, 74];
/// A batch ends early at this many bytes of payload: whatever the size of its rows, it stays far below a batch's 4 GiB.
const MAX_BATCH_BYTES: usize = 64 << 20;
/// Message pointers held at a time.
const CHUNK: usize = 512;
const KEPT_ERRORS: usize = 100;

/// What librdkafka's threads write and we read.
#[derive(Default)]
pub struct Shared {
    news: Mutex<bool>,
    wake: Condvar,
    errors: Mutex<VecDeque<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn signal(&self) {
        *lock(&self.news) = true;
        self.wake.notify_all();
    }

    /// Returns at once when something was signalled since the last wait, else at the next signal or the time-out.
    fn wait(&self, timeout: Duration) {
        let news = lock(&self.news);
        let result = self.wake.wait_timeout_while(news, timeout, |news| !*news);
        *result.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    fn error(&self, message: String) {
        let mut errors = lock(&self.errors);
        if errors.len() == KEPT_ERRORS {
            errors.pop_front();
        }
        errors.push_back(message);
    }
}

struct Partition {
    queue: *mut Queue,
    position: i64,
    at_end: bool,
    /// Said again by every read: librdkafka reports it once and fetches no more.
    error: Option<String>,
}

/// Not thread-safe: one caller at a time. [`Waiter`] may be used beside it.
pub struct NativeReader {
    lib: &'static Lib,
    client: *mut Client,
    /// Where errors of the client as a whole arrive.
    consumer_queue: *mut Queue,
    partitions: HashMap<String, HashMap<i32, Partition>>,
    shared: Arc<Shared>,
    headers: bool,
    pid: u32,
    chunk: Vec<*mut Message>,
}

// SAFETY: librdkafka's handles may be used from any thread; ours is used by one at a time (`&mut self`).
unsafe impl Send for NativeReader {}

/// Waits without holding up the reader.
#[derive(Clone)]
pub struct Waiter(Arc<Shared>);

impl Waiter {
    pub fn wait(&self, timeout: Duration) {
        self.0.wait(timeout);
    }
    pub fn wake(&self) {
        self.0.signal();
    }
    /// What went wrong and passed by itself (or is retried for ever): oldest first; forgotten once taken.
    pub fn errors(&self) -> Vec<String> {
        lock(&self.0.errors).drain(..).collect()
    }
}

impl NativeReader {
    /// `config`: librdkafka's settings. `headers`: whether batches carry them.
    pub fn new(library: &Path, config: &[(String, String)], headers: bool) -> Result<Self, String> {
        let lib = Lib::load(library)?;
        let shared = Arc::new(Shared::default());
        let mut message = [0 as c_char; 512];
        // SAFETY: the configuration is ours until `new` succeeds; the opaque pointer is freed after the client in `close`.
        unsafe {
            let conf = (lib.conf_new)();
            for (key, value) in config {
                let done = match (CString::new(key.as_str()), CString::new(value.as_str())) {
                    (Ok(k), Ok(v)) => {
                        let size = message.len();
                        (lib.conf_set)(conf, k.as_ptr(), v.as_ptr(), message.as_mut_ptr(), size) == 0
                    }
                    _ => false,
                };
                if !done {
                    (lib.conf_destroy)(conf);
                    // librdkafka's text may repeat the value, which may be a password: the name has to do.
                    return Err(format!("the Kafka client setting `{key}` or its value is not known"));
                }
            }
            let opaque = Arc::into_raw(shared.clone());
            (lib.conf_set_opaque)(conf, opaque as *mut c_void);
            (lib.conf_set_log_cb)(conf, on_log);
            (lib.conf_set_error_cb)(conf, on_error);
            remember(lib);
            let client = (lib.new)(CONSUMER, conf, message.as_mut_ptr(), message.len());
            if client.is_null() {
                (lib.conf_destroy)(conf);
                drop(Arc::from_raw(opaque));
                return Err(format!("cannot make a Kafka client: {}", text(message.as_ptr())));
            }
            (lib.poll_set_consumer)(client);
            let consumer_queue = (lib.queue_get_consumer)(client);
            (lib.queue_cb_event_enable)(consumer_queue, Some(on_event), opaque as *mut c_void);
            Ok(NativeReader {
                lib,
                client,
                consumer_queue,
                partitions: HashMap::new(),
                shared,
                headers,
                pid: std::process::id(),
                chunk: Vec::with_capacity(CHUNK),
            })
        }
    }

    pub fn waiter(&self) -> Waiter {
        Waiter(self.shared.clone())
    }

    /// Starts reading at `position`; a partition that is being read already starts again there.
    pub fn add(&mut self, topic: &str, partition: i32, position: i64) -> Result<(), String> {
        self.check()?;
        if position < 0 {
            return Err(format!("{topic}-{partition}: {position} is not a position"));
        }
        self.remove(topic, partition)?;
        let name = c_text(topic)?;
        let opaque = Arc::as_ptr(&self.shared) as *mut c_void;
        // SAFETY: the client lives; the queue is destroyed in `drop_queue`, before the client and before `shared`.
        let queue = unsafe {
            let queue = (self.lib.queue_get_partition)(self.client, name.as_ptr(), partition);
            if queue.is_null() {
                return Err(format!("{topic}-{partition}: no queue"));
            }
            (self.lib.queue_forward)(queue, null_mut());
            (self.lib.queue_cb_event_enable)(queue, Some(on_event), opaque);
            queue
        };
        let entry = Partition { queue, position, at_end: false, error: None };
        if let Err(why) = self.assign(&name, partition, Some(position)) {
            self.drop_queue(entry);
            return Err(format!("{topic}-{partition}: {why}"));
        }
        self.partitions.entry(topic.to_string()).or_default().insert(partition, entry);
        Ok(())
    }

    /// Stops reading a partition; nothing if it was not read.
    pub fn remove(&mut self, topic: &str, partition: i32) -> Result<(), String> {
        self.check()?;
        let Some(entry) = self.partitions.get_mut(topic).and_then(|t| t.remove(&partition)) else {
            return Ok(());
        };
        let done = self.assign(&c_text(topic)?, partition, None);
        self.drop_queue(entry);
        done.map_err(|why| format!("{topic}-{partition}: {why}"))
    }

    fn assign(&self, topic: &CString, partition: i32, position: Option<i64>) -> Result<(), String> {
        let lib = self.lib;
        // SAFETY: the list is ours, and so is the error object that is returned.
        unsafe {
            let list = (lib.list_new)(1);
            (lib.list_add)(list, topic.as_ptr(), partition);
            let call: unsafe extern "C" fn(*mut Client, *const PartitionList) -> _ = match position {
                Some(position) => {
                    (lib.list_set_offset)(list, topic.as_ptr(), partition, position);
                    lib.incremental_assign
                }
                None => lib.incremental_unassign,
            };
            let error = call(self.client, list);
            (lib.list_destroy)(list);
            if error.is_null() {
                return Ok(());
            }
            let why = text((lib.error_string)(error));
            (lib.error_destroy)(error);
            Err(why)
        }
    }

    fn drop_queue(&self, entry: Partition) {
        // SAFETY: the queue is ours; the callback is off before it goes, so nobody calls into a reader that is gone.
        unsafe {
            (self.lib.queue_cb_event_enable)(entry.queue, None, null_mut());
            (self.lib.queue_destroy)(entry.queue);
        }
    }

    /// Up to `max_rows` records without waiting; `None` when there is nothing new, not even a position.
    pub fn read(&mut self, topic: &str, partition: i32, max_rows: usize) -> Result<Option<RawBatch>, String> {
        self.check()?;
        let entry = self.partitions.get_mut(topic).and_then(|t| t.get_mut(&partition));
        let Some(entry) = entry else {
            return Err(format!("{topic}-{partition} is not being read"));
        };
        if let Some(error) = &entry.error {
            return Err(error.clone());
        }
        let lib = self.lib;
        let before = entry.position;
        let mut out = RawBatch::default();
        let mut bytes = 0;
        let mut drained = false;
        while entry.error.is_none() && !drained && bytes < MAX_BATCH_BYTES && out.len() < max_rows {
            let wanted = CHUNK.min(max_rows - out.len());
            // SAFETY: the buffer has room for `wanted` pointers; each that comes back is ours to destroy.
            unsafe {
                let got = (lib.consume_batch_queue)(entry.queue, 0, self.chunk.as_mut_ptr(), wanted);
                self.chunk.set_len(got.max(0) as usize);
            }
            drained = self.chunk.len() < wanted;
            if out.is_empty() && !self.chunk.is_empty() {
                reserve(&mut out, &self.chunk, if drained { self.chunk.len() } else { max_rows.min(10_000) });
            }
            for message in self.chunk.drain(..) {
                // SAFETY: destroyed once, after its last use; payloads are valid until then.
                unsafe {
                    bytes += take(lib, &*message, self.headers, entry, &mut out, &self.shared);
                    (lib.message_destroy)(message);
                }
            }
        }
        if let Some(error) = &mut entry.error {
            *error = format!("{topic}-{partition} at {}: {error}", entry.position);
        }
        if !drained {
            self.shared.signal(); // the queue may hold more: no event will say so, because it was never empty
        }
        if entry.position == before {
            return match &entry.error {
                Some(error) => Err(error.clone()),
                None => Ok(None),
            };
        }
        out.next_offset = entry.position;
        Ok(Some(out))
    }

    /// Whether the last read reached the end of the committed records, as far as is known here.
    pub fn at_end(&self, topic: &str, partition: i32) -> bool {
        self.partitions.get(topic).and_then(|t| t.get(&partition)).is_some_and(|p| p.at_end)
    }

    /// Serves the client's own callbacks and errors; cheap, to be called around waits.
    pub fn serve(&mut self) -> Result<(), String> {
        self.check()?;
        loop {
            // SAFETY: a message that comes back is ours to destroy.
            unsafe {
                let message = (self.lib.consumer_poll)(self.client, 0);
                if message.is_null() {
                    return Ok(());
                }
                if (*message).err != 0 {
                    self.shared.error(self.lib.error_text((*message).err));
                }
                (self.lib.message_destroy)(message);
            }
        }
    }

    /// Messages (none is ever held), queues, close, destroy: in this order, or it hangs.
    pub fn close(&mut self) {
        let client = std::mem::replace(&mut self.client, null_mut());
        if client.is_null() || self.pid != std::process::id() {
            return; // a forked child must not touch its parent's threads
        }
        for (_, entry) in std::mem::take(&mut self.partitions).into_values().flatten() {
            self.drop_queue(entry);
        }
        // SAFETY: the last use of each handle; librdkafka's threads are gone when `destroy` returns, and only then the
        // reference that they held on `shared` is given up.
        unsafe {
            let opaque = (self.lib.opaque)(client) as *const Shared;
            (self.lib.queue_cb_event_enable)(self.consumer_queue, None, null_mut());
            (self.lib.queue_destroy)(self.consumer_queue);
            (self.lib.consumer_close)(client);
            (self.lib.destroy)(client);
            drop(Arc::from_raw(opaque));
        }
        self.shared.signal();
    }

    fn check(&self) -> Result<(), String> {
        if self.pid != std::process::id() {
            return Err("a Kafka reader cannot be used in a forked process: start workers by spawn".into());
        }
        if self.client.is_null() {
            return Err("the Kafka reader is closed".into());
        }
        Ok(())
    }
}

impl Drop for NativeReader {
    fn drop(&mut self) {
        self.close();
    }
}

/// Room for `rows` rows as large as these.
fn reserve(out: &mut RawBatch, sample: &[*mut Message], rows: usize) {
    let (mut keys, mut values) = (0, 0);
    for &message in sample {
        // SAFETY: not destroyed yet.
        let message = unsafe { &*message };
        keys += message.key_len;
        values += message.len;
    }
    let scaled = |bytes: usize| (bytes / sample.len() * rows + bytes / 4).min(MAX_BATCH_BYTES);
    out.offsets.reserve(rows);
    out.timestamps.reserve(rows);
    for (column, bytes) in [(&mut out.keys, keys), (&mut out.values, values)] {
        column.values.ends.reserve(rows);
        column.values.bytes.reserve(scaled(bytes));
    }
}

/// One message or event into the batch; returns the bytes of payload.
///
/// # Safety
/// `message` is one that librdkafka handed out and that was not destroyed.
#[inline]
unsafe fn take(
    lib: &Lib,
    message: &Message,
    headers: bool,
    entry: &mut Partition,
    out: &mut RawBatch,
    shared: &Shared,
) -> usize {
    match message.err {
        0 => {}
        PARTITION_EOF => {
            entry.position = entry.position.max(message.offset);
            entry.at_end = true;
            return 0;
        }
        err => {
            // SAFETY: the payload of an error is its text.
            let why = unsafe { bytes_of(message.payload, message.len) };
            let why = why.map(String::from_utf8_lossy).unwrap_or_default();
            let why = format!("{} ({why})", lib.error_text(err));
            if TRANSIENT.contains(&err) {
                shared.error(why);
            } else {
                entry.error = Some(why);
            }
            return 0;
        }
    }
    if message.offset < entry.position {
        return 0; // of an earlier assignment; librdkafka drops these itself
    }
    // SAFETY: valid until the message is destroyed.
    let (key, value, timestamp) = unsafe {
        let timestamp = (lib.message_timestamp)(message, null_mut());
        (bytes_of(message.key, message.key_len), bytes_of(message.payload, message.len), timestamp)
    };
    if headers {
        // SAFETY: as above.
        let headers = unsafe { headers_of(lib, message) };
        out.push_with_headers(message.offset, timestamp, key, value, headers);
    } else {
        out.keys.push(key);
        out.values.push(value);
        out.offsets.push(message.offset);
        out.timestamps.push(timestamp);
    }
    entry.position = message.offset + 1;
    entry.at_end = false;
    key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len)
}

/// # Safety
/// `message` is alive.
unsafe fn headers_of(lib: &Lib, message: &Message) -> Vec<Header> {
    let mut list = null_mut();
    let mut out = Vec::new();
    // SAFETY: the list and all it names belong to the message.
    unsafe {
        if (lib.message_headers)(message, &mut list) != 0 {
            return out; // there are none
        }
        let (mut name, mut value, mut size) = (null(), null(), 0);
        while (lib.header_get_all)(list, out.len(), &mut name, &mut value, &mut size) == 0 {
            out.push((text(name), bytes_of(value, size).map(<[u8]>::to_vec)));
        }
    }
    out
}

/// # Safety
/// `pointer` is null or names `size` bytes that outlive the result.
#[inline]
unsafe fn bytes_of<'a>(pointer: *const c_void, size: usize) -> Option<&'a [u8]> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: as promised.
    Some(unsafe { std::slice::from_raw_parts(pointer as *const u8, size) })
}

fn c_text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} is not a topic's name"))
}

// What librdkafka calls, from threads of its own, without Python's lock. Nothing here may panic or block.

static OPAQUE: std::sync::OnceLock<unsafe extern "C" fn(*const Client) -> *mut c_void> = std::sync::OnceLock::new();

/// The log callback is given the client only, and needs a function of the library to find us.
fn remember(lib: &'static Lib) {
    let _ = OPAQUE.set(lib.opaque);
}

unsafe extern "C" fn on_event(_: *mut Client, opaque: *mut c_void) {
    // SAFETY: `opaque` is the Shared whose reference is given up after the client is destroyed.
    unsafe { &*(opaque as *const Shared) }.signal();
}

unsafe extern "C" fn on_log(client: *const Client, _level: c_int, facility: *const c_char, message: *const c_char) {
    let Some(opaque) = OPAQUE.get() else { return };
    // SAFETY: as in `on_event`; the client may be null while it is being made.
    unsafe {
        if client.is_null() {
            return;
        }
        let shared = opaque(client) as *const Shared;
        if !shared.is_null() {
            (*shared).error(format!("{}: {}", text(facility), text(message)));
        }
    }
}

unsafe extern "C" fn on_error(_: *mut Client, err: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: as in `on_event`.
    unsafe { (*(opaque as *const Shared)).error(format!("{} ({err})", text(reason))) };
}
