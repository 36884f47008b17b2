//! Records of a batch into topics, over librdkafka, with transactions.
//!
//! A client of our own, not the `rd_kafka_t` inside confluent-kafka's `Producer`: that one lies at an offset nobody promises,
//! and its delivery callback takes the opaque pointer of every message for a structure of its own. All that is used here is
//! in rdkafka.h; the group's metadata comes as the bytes that `rd_kafka_consumer_group_metadata_write` made.
//!
//! * The queue is librdkafka's, bounded by its settings: where it is full, `produce` serves deliveries until there is room.
//! * Deliveries that fail are kept until they are asked for: how many, and the first few. They are told while `produce`,
//!   `poll`, `flush` or a transactional call serves callbacks; nothing is lost between two looks.
//! * Payloads are copied: the batch is the task's, and a message may be sent again long after `produce` returned.
//! * Timestamp 0 is librdkafka's "now": a record of 1970-01-01T00:00:00.000 is written as one millisecond later.
//! * `destroy` waits for librdkafka's threads: what is queued is purged before. No call may be inside when it comes; one that
//!   never returns keeps the client alive instead.

use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_void, CString};
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use adstream_core::raw::RawBatch;

use crate::ffi::{text, Argument, Client, ErrorObject, Headers, Lib, Memory, Message, Topic, Typed};

const PRODUCER: c_int = 0;
const QUEUE_FULL: c_int = -184;
/// RD_KAFKA_PURGE_F_QUEUE, _INFLIGHT, _NON_BLOCKING.
const PURGE_ALL: c_int = 0x1 | 0x2 | 0x4;
const COPY: c_int = 0x2;
const FULL_WAIT_MS: c_int = 50;
/// Deliveries are served after so many records, so that the queue drains while a large batch is written.
const SERVE_EVERY: usize = 1000;
const KEPT: usize = 32;

/// `rd_kafka_vtype_t`.
const TOPIC: c_int = 2;
const PARTITION: c_int = 3;
const VALUE: c_int = 4;
const KEY: c_int = 5;
const FLAGS: c_int = 7;
const TIMESTAMP: c_int = 8;
const HEADERS: c_int = 10;

/// An error of librdkafka, with what it asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    pub code: i32,
    pub text: String,
    pub fatal: bool,
    pub retriable: bool,
    pub abort: bool,
}

/// A record that was not delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: i32,
    pub text: String,
    pub topic: String,
    pub partition: i32,
    /// Of key and value, in bytes.
    pub size: usize,
}

struct Shared {
    lib: &'static Lib,
    errors: Mutex<VecDeque<String>>,
    failures: Mutex<(u64, Vec<Failure>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Handle {
    client: *mut Client,
    topics: HashMap<String, *mut Topic>,
}

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above; what is ours is behind locks.
unsafe impl Sync for Handle {}

/// Any thread may call; records of one caller keep their order.
pub struct NativeProducer {
    lib: &'static Lib,
    handle: RwLock<Handle>,
    in_transaction: AtomicBool,
    shared: Arc<Shared>,
    pid: u32,
}

impl NativeProducer {
    /// `config`: librdkafka's settings.
    pub fn new(library: &Path, config: &[(String, String)]) -> Result<Self, String> {
        let lib = Lib::load(library)?;
        let shared = Arc::new(Shared { lib, errors: Mutex::default(), failures: Mutex::default() });
        let mut message = [0 as c_char; 512];
        // SAFETY: the configuration is ours until `new` succeeds; the opaque pointer is freed after the client.
        let client = unsafe {
            let conf = (lib.conf_new)();
            for (key, value) in config {
                let done = match (CString::new(key.as_str()), CString::new(value.as_str())) {
                    (Ok(k), Ok(v)) => {
                        (lib.conf_set)(conf, k.as_ptr(), v.as_ptr(), message.as_mut_ptr(), message.len()) == 0
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
            (lib.conf_set_dr_msg_cb)(conf, on_delivery);
            let client = (lib.new)(PRODUCER, conf, message.as_mut_ptr(), message.len());
            if client.is_null() {
                (lib.conf_destroy)(conf);
                drop(Arc::from_raw(opaque));
                return Err(format!("cannot make a Kafka client: {}", text(message.as_ptr())));
            }
            client
        };
        let handle = RwLock::new(Handle { client, topics: HashMap::new() });
        Ok(NativeProducer { lib, handle, in_transaction: AtomicBool::new(false), shared, pid: std::process::id() })
    }

    /// The client, which is not closed while the guard lives.
    fn open(&self) -> Result<RwLockReadGuard<'_, Handle>, Refused> {
        let refused =
            |text: &str| Refused { code: -199, text: text.into(), fatal: true, retriable: false, abort: false };
        if self.pid != std::process::id() {
            return Err(refused("a Kafka producer cannot be used in a forked process: start workers by spawn"));
        }
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        if handle.client.is_null() {
            return Err(refused("the Kafka producer is closed"));
        }
        Ok(handle)
    }

    /// # Safety
    /// `error` is null or an error object that nobody else destroys.
    unsafe fn result(&self, error: *mut ErrorObject) -> Result<(), Refused> {
        if error.is_null() {
            return Ok(());
        }
        let lib = self.lib;
        // SAFETY: as promised; its text is copied before it goes.
        unsafe {
            let refused = Refused {
                code: (lib.error_code)(error),
                text: text((lib.error_string)(error)),
                fatal: (lib.error_is_fatal)(error) != 0,
                retriable: (lib.error_is_retriable)(error) != 0,
                abort: (lib.error_requires_abort)(error) != 0,
            };
            (lib.error_destroy)(error);
            Err(refused)
        }
    }

    fn topic(&self, name: &str) -> Result<*mut Topic, Refused> {
        let known = self.open()?.topics.get(name).copied();
        if let Some(topic) = known {
            return Ok(topic);
        }
        let mut handle = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        let wrong = || Refused {
            code: -186,
            text: format!("{name:?} is not a topic's name"),
            fatal: false,
            retriable: false,
            abort: false,
        };
        let c_name = CString::new(name).map_err(|_| wrong())?;
        if handle.client.is_null() {
            return Err(wrong());
        }
        // SAFETY: the client lives; the topic is destroyed before it.
        let topic = unsafe { (self.lib.topic_new)(handle.client, c_name.as_ptr(), null_mut()) };
        if topic.is_null() {
            return Err(wrong());
        }
        handle.topics.insert(name.to_string(), topic);
        Ok(topic)
    }

    /// Writes the records of a batch, in order. An error concerns the record at hand, those behind it are not written.
    pub fn produce(&self, topic: &str, partition: i32, batch: &RawBatch) -> Result<(), Refused> {
        let topic = self.topic(topic)?;
        let handle = self.open()?;
        let lib = self.lib;
        let memory = |bytes: Option<&[u8]>| match bytes {
            None => Memory { at: null(), size: 0 },
            Some(bytes) => Memory { at: bytes.as_ptr() as *const c_void, size: bytes.len() },
        };
        let typed = |kind, value| Typed { kind, value };
        for row in 0..batch.len() {
            let headers = match batch.headers_at(row) {
                [] => null_mut(),
                given => self.headers(given)?,
            };
            let arguments = [
                typed(TOPIC, Argument { topic }),
                typed(PARTITION, Argument { i32: partition }),
                typed(FLAGS, Argument { i32: COPY }),
                typed(TIMESTAMP, Argument { i64: batch.timestamps[row].max(1) }),
                typed(KEY, Argument { memory: memory(batch.keys.get(row)) }),
                typed(VALUE, Argument { memory: memory(batch.values.get(row)) }),
                typed(HEADERS, Argument { headers }),
            ];
            let count = arguments.len() - usize::from(headers.is_null());
            loop {
                // SAFETY: the arguments live through the call, which copies payloads; the headers become the message's if
                // it succeeds, and stay ours if not.
                let done = unsafe { self.result((lib.produceva)(handle.client, arguments.as_ptr(), count)) };
                match done {
                    Ok(()) => break,
                    Err(full) if full.code == QUEUE_FULL => {
                        // SAFETY: the client lives.
                        unsafe { (lib.poll)(handle.client, FULL_WAIT_MS) };
                    }
                    Err(why) => {
                        if !headers.is_null() {
                            // SAFETY: still ours.
                            unsafe { (lib.headers_destroy)(headers) };
                        }
                        return Err(why);
                    }
                }
            }
            if row % SERVE_EVERY == SERVE_EVERY - 1 {
                // SAFETY: the client lives.
                unsafe { (lib.poll)(handle.client, 0) };
            }
        }
        // SAFETY: the client lives.
        unsafe { (lib.poll)(handle.client, 0) };
        Ok(())
    }

    fn headers(&self, given: &[(String, Option<Vec<u8>>)]) -> Result<*mut Headers, Refused> {
        // SAFETY: the list is ours; names and values are copied.
        unsafe {
            let list = (self.lib.headers_new)(given.len());
            for (name, value) in given {
                let (at, size) = value.as_ref().map_or((null(), 0), |v| (v.as_ptr() as *const c_void, v.len()));
                let name_at = name.as_ptr() as *const c_char;
                let code = (self.lib.header_add)(list, name_at, name.len() as isize, at, size as isize);
                if code != 0 {
                    (self.lib.headers_destroy)(list);
                    let text = self.lib.error_text(code);
                    return Err(Refused { code, text, fatal: false, retriable: false, abort: false });
                }
            }
            Ok(list)
        }
    }

    /// Serves callbacks for up to `timeout`.
    pub fn poll(&self, timeout: Duration) -> Result<(), Refused> {
        let handle = self.open()?;
        // SAFETY: the client lives.
        unsafe { (self.lib.poll)(handle.client, ms(timeout)) };
        Ok(())
    }

    /// Waits until all is delivered or has failed; returns how many records are left after `timeout`.
    pub fn flush(&self, timeout: Duration) -> Result<usize, Refused> {
        let handle = self.open()?;
        // SAFETY: the client lives.
        unsafe {
            (self.lib.flush)(handle.client, ms(timeout));
            Ok((self.lib.waiting)(handle.client).max(0) as usize)
        }
    }

    /// Whether a broker answers within `timeout`.
    pub fn reach(&self, timeout: Duration) -> Result<(), Refused> {
        let handle = self.open()?;
        let mut found = null();
        // SAFETY: the client lives; what is found is ours to destroy.
        unsafe {
            let code = (self.lib.metadata)(handle.client, 0, null_mut(), &mut found, ms(timeout));
            if code != 0 {
                let text = self.lib.error_text(code);
                return Err(Refused { code, text, fatal: false, retriable: true, abort: false });
            }
            (self.lib.metadata_destroy)(found);
        }
        Ok(())
    }

    pub fn init_transactions(&self, timeout: Duration) -> Result<(), Refused> {
        let handle = self.open()?;
        // SAFETY: the client lives.
        unsafe { self.result((self.lib.init_transactions)(handle.client, ms(timeout))) }
    }

    pub fn begin_transaction(&self) -> Result<(), Refused> {
        let handle = self.open()?;
        // SAFETY: the client lives.
        unsafe { self.result((self.lib.begin_transaction)(handle.client)) }?;
        self.in_transaction.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub fn commit_transaction(&self, timeout: Duration) -> Result<(), Refused> {
        let handle = self.open()?;
        // SAFETY: the client lives.
        unsafe { self.result((self.lib.commit_transaction)(handle.client, ms(timeout))) }?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub fn abort_transaction(&self, timeout: Duration) -> Result<(), Refused> {
        let handle = self.open()?;
        // SAFETY: the client lives.
        unsafe { self.result((self.lib.abort_transaction)(handle.client, ms(timeout))) }?;
        self.in_transaction.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// `offsets`: topic, partition, position, and a text beside it. `group`: the serial form of its metadata.
    pub fn send_offsets(
        &self,
        offsets: &[(String, i32, i64, String)],
        group: &[u8],
        timeout: Duration,
    ) -> Result<(), Refused> {
        let handle = self.open()?;
        let lib = self.lib;
        let mut metadata = null_mut();
        // SAFETY: the list and the metadata are ours and destroyed here; a partition's text is allocated as librdkafka frees
        // it, with the list.
        unsafe {
            self.result((lib.group_metadata_read)(&mut metadata, group.as_ptr() as *const c_void, group.len()))?;
            let list = (lib.list_new)(offsets.len() as c_int);
            for (topic, partition, position, note) in offsets {
                let Ok(topic) = CString::new(topic.as_str()) else { continue };
                let entry = (lib.list_add)(list, topic.as_ptr(), *partition);
                (*entry).offset = *position;
                if !note.is_empty() {
                    // Its end is looked for, and it is copied by its size before: the zero counts, or what lies behind the
                    // copy goes along.
                    let room = (lib.mem_malloc)(handle.client, note.len() + 1) as *mut u8;
                    std::ptr::copy_nonoverlapping(note.as_ptr(), room, note.len());
                    *room.add(note.len()) = 0;
                    let room = room as *mut c_void;
                    (*entry).metadata = room;
                    (*entry).metadata_size = note.len() + 1;
                }
            }
            let result = self.result((lib.send_offsets)(handle.client, list, metadata, ms(timeout)));
            (lib.list_destroy)(list);
            (lib.group_metadata_destroy)(metadata);
            result
        }
    }

    /// Deliveries that failed since the last look: how many, and the first few of them.
    pub fn failures(&self) -> (u64, Vec<Failure>) {
        std::mem::take(&mut *lock(&self.shared.failures))
    }

    /// What went wrong and passes by itself, oldest first; forgotten once taken.
    pub fn errors(&self) -> Vec<String> {
        lock(&self.shared.errors).drain(..).collect()
    }

    /// What is queued is dropped, an open transaction aborted if that takes no longer than `timeout`. Waits for calls that are
    /// inside.
    pub fn close(&self, timeout: Duration) {
        if self.pid != std::process::id() {
            return; // a forked child must not touch its parent's threads
        }
        let mut handle = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        let client = std::mem::replace(&mut handle.client, null_mut());
        if client.is_null() {
            return;
        }
        let lib = self.lib;
        // SAFETY: the last use of each handle; librdkafka's threads are gone when `destroy` returns, and only then the
        // reference that they held on `shared` is given up.
        unsafe {
            let opaque = (lib.opaque)(client) as *const Shared;
            (lib.purge)(client, PURGE_ALL);
            if self.in_transaction.load(Ordering::Relaxed) && !timeout.is_zero() {
                let _ = self.result((lib.abort_transaction)(client, ms(timeout)));
            }
            handle.topics.drain().for_each(|(_, topic)| (lib.topic_destroy)(topic));
            (lib.destroy)(client);
            drop(Arc::from_raw(opaque));
        }
    }
}

impl Drop for NativeProducer {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

fn ms(timeout: Duration) -> c_int {
    timeout.as_millis().min(c_int::MAX as u128) as c_int
}

fn keep(list: &mut VecDeque<String>, text: String) {
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(text);
}

// What librdkafka calls, without Python's lock; deliveries on the thread that serves, the others on its own. Nothing here may
// panic or block.

unsafe extern "C" fn on_delivery(_: *mut Client, message: *const Message, opaque: *mut c_void) {
    // SAFETY: both live through the call; `opaque` is the Shared that is given up after the client is destroyed.
    unsafe {
        let message = &*message;
        if message.err == 0 {
            return;
        }
        let shared = &*(opaque as *const Shared);
        let mut failures = lock(&shared.failures);
        failures.0 += 1;
        if failures.1.len() < KEPT {
            let (size, partition) = (message.len + message.key_len, message.partition);
            let topic = text((shared.lib.topic_name)(message.topic));
            let why = shared.lib.error_text(message.err);
            failures.1.push(Failure { code: message.err, text: why, topic, partition, size });
        }
    }
}

unsafe extern "C" fn on_log(_: *const Client, _level: c_int, _: *const c_char, _: *const c_char) {
    // Errors come by their own callback; what else librdkafka would print is nobody's.
}

unsafe extern "C" fn on_error(_: *mut Client, err: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: as in `on_delivery`.
    unsafe { keep(&mut lock(&(*(opaque as *const Shared)).errors), format!("{} ({err})", text(reason))) };
}
