//! The part of librdkafka's C interface that a reader and a producer need, bound at run time.
//!
//! The library is the one inside the confluent-kafka wheel: it is there anyway, it has TLS and SASL built in, and opened by
//! its path it is the *same* mapping that the Python client uses, in either import order. It is never unloaded: its
//! threads outlive every handle we could hold.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::Library;

/// 2.3.0: the oldest whose calls and semantics used here were all present.
pub const MIN_VERSION: u32 = 0x0203_0000;

pub enum Client {}
pub enum Conf {}
pub enum Queue {}
pub enum Topic {}
pub enum PartitionList {}
pub enum Headers {}
pub enum ErrorObject {}
pub enum GroupMetadata {}

/// `rd_kafka_message_t`.
#[repr(C)]
pub struct Message {
    pub err: c_int,
    pub topic: *mut Topic,
    pub partition: i32,
    pub payload: *const c_void,
    pub len: usize,
    pub key: *const c_void,
    pub key_len: usize,
    pub offset: i64,
    pub private: *mut c_void,
}

/// `rd_kafka_topic_partition_t`: public since the beginning.
#[repr(C)]
pub struct TopicPartition {
    pub topic: *mut c_char,
    pub partition: i32,
    pub offset: i64,
    pub metadata: *mut c_void,
    pub metadata_size: usize,
    pub opaque: *mut c_void,
    pub err: c_int,
    pub private: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    pub at: *const c_void,
    pub size: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union Argument {
    pub topic: *mut Topic,
    pub i32: i32,
    pub i64: i64,
    pub memory: Memory,
    pub headers: *mut Headers,
    /// As large as librdkafka says the union will ever be.
    pub room: [u8; 64],
}

/// `rd_kafka_vu_t`: one argument of `produceva`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Typed {
    pub kind: c_int,
    pub value: Argument,
}

pub type DeliveryCallback = unsafe extern "C" fn(*mut Client, *const Message, *mut c_void);
pub type LogCallback = unsafe extern "C" fn(*const Client, c_int, *const c_char, *const c_char);
pub type ErrorCallback = unsafe extern "C" fn(*mut Client, c_int, *const c_char, *mut c_void);
pub type QueueCallback = unsafe extern "C" fn(*mut Client, *mut c_void);

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The functions, by their names without `rd_kafka_`.
        pub struct Lib {
            $(pub $field: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }
        impl Lib {
            /// # Safety
            /// `library` must be librdkafka and must stay loaded.
            unsafe fn bind(library: &Library) -> Result<Lib, String> {
                Ok(Lib {
                    $($field: {
                        // SAFETY: the signatures are those of rdkafka.h, unchanged since long before MIN_VERSION.
                        let symbol = unsafe { library.get::<unsafe extern "C" fn($($arg),*) $(-> $ret)?>($symbol) };
                        *symbol.map_err(|e| e.to_string())?
                    },)*
                })
            }
        }
    };
}

functions! {
    version = b"rd_kafka_version\0": fn() -> c_int;
    conf_new = b"rd_kafka_conf_new\0": fn() -> *mut Conf;
    conf_destroy = b"rd_kafka_conf_destroy\0": fn(*mut Conf);
    conf_set = b"rd_kafka_conf_set\0": fn(*mut Conf, *const c_char, *const c_char, *mut c_char, usize) -> c_int;
    conf_set_opaque = b"rd_kafka_conf_set_opaque\0": fn(*mut Conf, *mut c_void);
    conf_set_log_cb = b"rd_kafka_conf_set_log_cb\0": fn(*mut Conf, LogCallback);
    conf_set_error_cb = b"rd_kafka_conf_set_error_cb\0": fn(*mut Conf, ErrorCallback);
    conf_set_dr_msg_cb = b"rd_kafka_conf_set_dr_msg_cb\0": fn(*mut Conf, DeliveryCallback);
    new = b"rd_kafka_new\0": fn(c_int, *mut Conf, *mut c_char, usize) -> *mut Client;
    opaque = b"rd_kafka_opaque\0": fn(*const Client) -> *mut c_void;
    destroy = b"rd_kafka_destroy\0": fn(*mut Client);
    poll_set_consumer = b"rd_kafka_poll_set_consumer\0": fn(*mut Client) -> c_int;
    consumer_poll = b"rd_kafka_consumer_poll\0": fn(*mut Client, c_int) -> *mut Message;
    consumer_close = b"rd_kafka_consumer_close\0": fn(*mut Client) -> c_int;
    queue_get_consumer = b"rd_kafka_queue_get_consumer\0": fn(*mut Client) -> *mut Queue;
    queue_get_partition = b"rd_kafka_queue_get_partition\0": fn(*mut Client, *const c_char, i32) -> *mut Queue;
    queue_forward = b"rd_kafka_queue_forward\0": fn(*mut Queue, *mut Queue);
    queue_destroy = b"rd_kafka_queue_destroy\0": fn(*mut Queue);
    queue_cb_event_enable = b"rd_kafka_queue_cb_event_enable\0":
        fn(*mut Queue, Option<QueueCallback>, *mut c_void);
    consume_batch_queue = b"rd_kafka_consume_batch_queue\0":
        fn(*mut Queue, c_int, *mut *mut Message, usize) -> isize;
    message_destroy = b"rd_kafka_message_destroy\0": fn(*mut Message);
    message_timestamp = b"rd_kafka_message_timestamp\0": fn(*const Message, *mut c_int) -> i64;
    message_headers = b"rd_kafka_message_headers\0": fn(*const Message, *mut *mut Headers) -> c_int;
    header_get_all = b"rd_kafka_header_get_all\0":
        fn(*const Headers, usize, *mut *const c_char, *mut *const c_void, *mut usize) -> c_int;
    list_new = b"rd_kafka_topic_partition_list_new\0": fn(c_int) -> *mut PartitionList;
    list_add = b"rd_kafka_topic_partition_list_add\0":
        fn(*mut PartitionList, *const c_char, i32) -> *mut TopicPartition;
    list_set_offset = b"rd_kafka_topic_partition_list_set_offset\0":
        fn(*mut PartitionList, *const c_char, i32, i64) -> c_int;
    list_destroy = b"rd_kafka_topic_partition_list_destroy\0": fn(*mut PartitionList);
    incremental_assign = b"rd_kafka_incremental_assign\0":
        fn(*mut Client, *const PartitionList) -> *mut ErrorObject;
    incremental_unassign = b"rd_kafka_incremental_unassign\0":
        fn(*mut Client, *const PartitionList) -> *mut ErrorObject;
    error_code = b"rd_kafka_error_code\0": fn(*const ErrorObject) -> c_int;
    error_is_fatal = b"rd_kafka_error_is_fatal\0": fn(*const ErrorObject) -> c_int;
    error_is_retriable = b"rd_kafka_error_is_retriable\0": fn(*const ErrorObject) -> c_int;
    error_requires_abort = b"rd_kafka_error_txn_requires_abort\0": fn(*const ErrorObject) -> c_int;
    error_string = b"rd_kafka_error_string\0": fn(*const ErrorObject) -> *const c_char;
    error_destroy = b"rd_kafka_error_destroy\0": fn(*mut ErrorObject);
    topic_new = b"rd_kafka_topic_new\0": fn(*mut Client, *const c_char, *mut c_void) -> *mut Topic;
    topic_destroy = b"rd_kafka_topic_destroy\0": fn(*mut Topic);
    topic_name = b"rd_kafka_topic_name\0": fn(*const Topic) -> *const c_char;
    headers_new = b"rd_kafka_headers_new\0": fn(usize) -> *mut Headers;
    headers_destroy = b"rd_kafka_headers_destroy\0": fn(*mut Headers);
    header_add = b"rd_kafka_header_add\0":
        fn(*mut Headers, *const c_char, isize, *const c_void, isize) -> c_int;
    produceva = b"rd_kafka_produceva\0": fn(*mut Client, *const Typed, usize) -> *mut ErrorObject;
    poll = b"rd_kafka_poll\0": fn(*mut Client, c_int) -> c_int;
    flush = b"rd_kafka_flush\0": fn(*mut Client, c_int) -> c_int;
    waiting = b"rd_kafka_outq_len\0": fn(*mut Client) -> c_int;
    purge = b"rd_kafka_purge\0": fn(*mut Client, c_int) -> c_int;
    metadata = b"rd_kafka_metadata\0":
        fn(*mut Client, c_int, *mut Topic, *mut *const c_void, c_int) -> c_int;
    metadata_destroy = b"rd_kafka_metadata_destroy\0": fn(*const c_void);
    mem_malloc = b"rd_kafka_mem_malloc\0": fn(*mut Client, usize) -> *mut c_void;
    init_transactions = b"rd_kafka_init_transactions\0": fn(*mut Client, c_int) -> *mut ErrorObject;
    begin_transaction = b"rd_kafka_begin_transaction\0": fn(*mut Client) -> *mut ErrorObject;
    commit_transaction = b"rd_kafka_commit_transaction\0": fn(*mut Client, c_int) -> *mut ErrorObject;
    abort_transaction = b"rd_kafka_abort_transaction\0": fn(*mut Client, c_int) -> *mut ErrorObject;
    send_offsets = b"rd_kafka_send_offsets_to_transaction\0":
        fn(*mut Client, *const PartitionList, *const GroupMetadata, c_int) -> *mut ErrorObject;
    group_metadata_read = b"rd_kafka_consumer_group_metadata_read\0":
        fn(*mut *mut GroupMetadata, *const c_void, usize) -> *mut ErrorObject;
    group_metadata_destroy = b"rd_kafka_consumer_group_metadata_destroy\0": fn(*mut GroupMetadata);
    err2str = b"rd_kafka_err2str\0": fn(c_int) -> *const c_char;
    err2name = b"rd_kafka_err2name\0": fn(c_int) -> *const c_char;
}

static LIBRARIES: Mutex<Option<HashMap<PathBuf, &'static Lib>>> = Mutex::new(None);

impl Lib {
    /// Opens the library at `path`, once per process.
    pub fn load(path: &Path) -> Result<&'static Lib, String> {
        let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
        let libraries = libraries.get_or_insert_with(HashMap::new);
        if let Some(lib) = libraries.get(path) {
            return Ok(lib);
        }
        let cannot = |why: String| {
            format!(
                "cannot use {} as librdkafka: {why}; `pip install --force-reinstall confluent-kafka`",
                path.display()
            )
        };
        // SAFETY: the caller names the library of the confluent-kafka wheel, whose initialisers Python runs as well.
        let library = unsafe { Library::new(path) }.map_err(|e| cannot(e.to_string()))?;
        // SAFETY: leaked below, so it stays loaded.
        let lib = unsafe { Lib::bind(&library) }.map_err(&cannot)?;
        std::mem::forget(library);
        // SAFETY: takes nothing, reads a constant.
        let version = unsafe { (lib.version)() } as u32;
        if version < MIN_VERSION {
            return Err(cannot(format!("version {} is older than 2.3", version_text(version))));
        }
        let lib: &'static Lib = Box::leak(Box::new(lib));
        libraries.insert(path.to_path_buf(), lib);
        Ok(lib)
    }

    /// `UNKNOWN_TOPIC_OR_PART: Broker: Unknown topic or partition`.
    pub fn error_text(&self, err: c_int) -> String {
        // SAFETY: both return static strings for any code.
        unsafe { format!("{}: {}", text((self.err2name)(err)), text((self.err2str)(err))) }
    }
}

pub fn version_text(version: u32) -> String {
    format!("{}.{}.{}", version >> 24, (version >> 16) & 0xff, (version >> 8) & 0xff)
}

/// # Safety
/// `pointer` is null or a string that ends.
pub unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller says that it ends.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}
