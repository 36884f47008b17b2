//! Where records enter a flow: from bytes to a key, a value, and an event time.

use std::sync::Arc;

use serde::Deserialize;

use super::serde::UNAVAILABLE;
use super::{headers_datum, no_headers, Record, Serde};
use crate::datum::Datum;
use crate::expr::Foreign;
use crate::raw::RawBatch;
use crate::window::NO_TIME;

/// What the event time of a record is. In Kafka Streams: `TimestampExtractor` and its implementations.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extractor {
    /// The record's own; a negative one is fatal.
    #[default]
    FailOnInvalidTimestamp,
    /// The record's own; what has a negative one is dropped.
    LogAndSkipOnInvalidTimestamp,
    /// The record's own, or the partition's time so far; a first record without a time is fatal.
    UsePartitionTimeOnInvalidTimestamp,
    /// The logged clock's.
    WallclockTimestampExtractor,
    /// Called with (key, value, the record's time, the partition's time so far).
    Call(usize),
    /// And with (topic, partition, offset, time, headers) of the record.
    CallWithContext(usize),
}

/// A topic that a flow reads, and where its records enter.
#[derive(Clone)]
pub struct FlowSource {
    pub key: Serde,
    pub value: Serde,
    pub timestamp: Extractor,
    pub node: usize,
    pub name: Arc<str>,
    /// Written by this application, for itself.
    pub internal: bool,
}

/// The reason of a record that its extractor has no time for. Kafka Streams asks extractors behind the handler of what cannot
/// be read (`RecordQueue.updateHead`), so none may pass over it: it is fatal to the task.
pub const UNTIMED: &str = "timestamp_failed";

/// A record as its source reads it, or the reason and the text of why it cannot.
pub type Taken = Result<Record, (&'static str, String)>;

impl FlowSource {
    /// `place`: the record's topic and partition. `partition_time`: the largest time of what was taken from the partition so
    /// far. `wall`: what the logged clock shows.
    pub fn read(
        &self,
        place: (&Arc<str>, u32),
        (raw, row): (&RawBatch, usize),
        partition_time: i64,
        wall: i64,
        foreign: &dyn Foreign,
    ) -> Taken {
        let read = |bytes, serde: &Serde, reason| serde.read(bytes, foreign).map_err(|trouble| trouble.fault(reason));
        let key = read(raw.keys.get(row), &self.key, "malformed_key")?;
        let value = read(raw.values.get(row), &self.value, "malformed_value")?;
        let own = raw.timestamps[row];
        let ts = match self.timestamp {
            Extractor::FailOnInvalidTimestamp if own < 0 => {
                return Err((UNTIMED, format!("its time is {own}, before 1970 or unknown")));
            }
            Extractor::UsePartitionTimeOnInvalidTimestamp if own < 0 && partition_time < 0 => {
                return Err((UNTIMED, format!("its time is {own}, and its partition has none yet")));
            }
            Extractor::UsePartitionTimeOnInvalidTimestamp if own < 0 => partition_time,
            Extractor::WallclockTimestampExtractor if wall != NO_TIME => wall,
            Extractor::Call(f) | Extractor::CallWithContext(f) => {
                let times = [Datum::Int(own), Datum::Int(partition_time.max(-1))];
                let mut args = [&[key.clone(), value.clone()], &times[..]].concat();
                if matches!(self.timestamp, Extractor::CallWithContext(_)) {
                    args.extend([
                        Datum::Str(place.0.clone()),
                        Datum::Int(place.1.into()),
                        Datum::Int(raw.offsets[row]),
                    ]);
                    args.extend([Datum::Int(own), headers_datum(raw.headers_at(row))]);
                }
                let made = foreign.apply(f, &args);
                match made
                    .map_err(|(reason, text)| if reason == UNAVAILABLE { (reason, text) } else { (UNTIMED, text) })?
                {
                    Datum::Int(ms) | Datum::Timestamp(ms) => ms,
                    other => return Err((UNTIMED, format!("a timestamp is an int of ms, not {other:?}"))),
                }
            }
            _ => own,
        };
        let headers = match raw.headers_at(row) {
            [] => no_headers(),
            some => Arc::new(some.to_vec()),
        };
        Ok(Record::new(key, value, ts, headers))
    }
}
