//! adstream-core: plans, state and operators of a stream processor as pure functions over batches.
//!
//! What it is not: it knows no Python, no Kafka client, no thread and no wall clock. Those are handed in from above
//! (`rust/py`, `rust/kafka`, `python/adstream`), so a whole cluster can run in one process from a seed.

pub mod aggregate;
pub mod bag;
pub mod batch;
pub mod cep;
pub mod codec;
pub mod column;
pub mod datum;
pub mod error;
pub mod expr;
pub mod flow;
pub mod frame;
pub mod hll;
pub mod key;
pub mod lines;
pub mod op;
pub mod partitioner;
pub mod plan;
pub mod rank;
pub mod raw;
pub mod raw_serial;
pub mod state;
pub mod task;
pub mod types;
pub mod wide;
pub mod window;
pub mod wire;
