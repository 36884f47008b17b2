//! adstream-kafka: the data plane. Knows no Python.
//!
//! Two readers that promise the same: `fetch` speaks Kafka's protocol itself, without a thread, for about 0.1-0.2 µs a record;
//! `reader` goes through the librdkafka that the confluent-kafka wheel ships, for 0.3-0.4 µs, and has TLS and SASL.
//! `producer` writes through the same library.

pub mod fetch;
pub mod ffi;
pub mod producer;
pub mod reader;

pub use fetch::{FetchReader, Waker};
pub use producer::{Failure, NativeProducer, Refused};
pub use reader::{NativeReader, Waiter};
