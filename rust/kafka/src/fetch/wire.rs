//! The four messages that a reader needs, as bytes: ApiVersions 0, Metadata 9 to 12, Fetch 12 and 13.
//!
//! By hand, not generated: these are four of some two hundred messages, a decoder here allocates by what has arrived and
//! never by a length that is only claimed, and the records of an answer are left where they are.

use std::ops::Range;

pub const FETCH: i16 = 1;
pub const METADATA: i16 = 3;
pub const VERSIONS: i16 = 18;

/// Highest and lowest version spoken here: topics by name up to Fetch 12 (Kafka 2.7), by id from 13 on (Kafka 3.1).
const FETCH_VERSIONS: (i16, i16) = (12, 13);
const METADATA_VERSIONS: (i16, i16) = (9, 12);

pub type TopicId = [u8; 16];
pub const NO_ID: TopicId = [0; 16];

/// What both sides speak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Versions {
    pub metadata: i16,
    pub fetch: i16,
}

/// What may be asked of one partition.
pub struct Ask<'a> {
    pub topic: &'a str,
    pub id: TopicId,
    pub partition: i32,
    pub leader_epoch: i32,
    pub offset: i64,
    pub max_bytes: i32,
}

pub struct FetchLimits {
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
}

// Requests.

struct Out(Vec<u8>);

impl Out {
    /// Room for the frame's size, then a request's header.
    fn new(api: i16, version: i16, correlation: i32, client: &str) -> Out {
        let mut out = Out(Vec::with_capacity(256));
        out.bytes(&[0; 4]);
        out.bytes(&api.to_be_bytes());
        out.bytes(&version.to_be_bytes());
        out.i32(correlation);
        out.bytes(&(client.len() as i16).to_be_bytes());
        out.bytes(client.as_bytes());
        if api != VERSIONS {
            out.no_tags();
        }
        out
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn i32(&mut self, value: i32) {
        self.bytes(&value.to_be_bytes());
    }
    fn i64(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }
    fn length(&mut self, length: usize) {
        let mut left = length + 1; // 0 says null
        while left >= 0x80 {
            self.0.push(left as u8 | 0x80);
            left >>= 7;
        }
        self.0.push(left as u8);
    }
    fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes(text.as_bytes());
    }
    fn no_tags(&mut self) {
        self.0.push(0);
    }
    fn frame(mut self) -> Vec<u8> {
        let size = (self.0.len() - 4) as i32;
        self.0[..4].copy_from_slice(&size.to_be_bytes());
        self.0
    }
}

/// Version 0: every broker understands it, and it tells all that is needed.
pub fn versions_request(correlation: i32, client: &str) -> Vec<u8> {
    Out::new(VERSIONS, 0, correlation, client).frame()
}

pub fn metadata_request(version: i16, correlation: i32, client: &str, topics: &[&str]) -> Vec<u8> {
    let mut out = Out::new(METADATA, version, correlation, client);
    out.length(topics.len());
    for topic in topics {
        if version >= 10 {
            out.bytes(&NO_ID);
        }
        out.text(topic);
        out.no_tags();
    }
    out.0.push(0); // no topic is created by being asked for
    if version <= 10 {
        out.0.push(0);
    }
    out.0.push(0); // nor are rights told
    out.no_tags();
    out.frame()
}

/// Committed records of these partitions; a broker answers in their order, the first that has records in full.
pub fn fetch_request(version: i16, correlation: i32, client: &str, limits: &FetchLimits, asks: &[Ask]) -> Vec<u8> {
    let mut out = Out::new(FETCH, version, correlation, client);
    out.i32(-1); // no replica
    out.i32(limits.max_wait_ms);
    out.i32(limits.min_bytes);
    out.i32(limits.max_bytes);
    out.0.push(1); // read_committed
    out.i32(0);
    out.i32(-1); // no session: what is asked differs each time, by what has room
    out.length(asks.len());
    for ask in asks {
        if version >= 13 {
            out.bytes(&ask.id);
        } else {
            out.text(ask.topic);
        }
        out.length(1);
        out.i32(ask.partition);
        out.i32(ask.leader_epoch);
        out.i64(ask.offset);
        out.i32(-1);
        out.i64(-1);
        out.i32(ask.max_bytes);
        out.no_tags();
        out.no_tags();
    }
    out.length(0);
    out.text("");
    out.no_tags();
    out.frame()
}

// Answers.

/// An answer that is not what it should be: the connection that gave it is of no use any more.
#[derive(Debug, PartialEq)]
pub struct Malformed;

type Read<T> = Result<T, Malformed>;

struct In<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> In<'a> {
    fn new(data: &'a [u8]) -> Self {
        In { data, at: 0 }
    }
    fn bytes(&mut self, size: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(size).ok_or(Malformed)?;
        let found = self.data.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(found)
    }
    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }
    fn i16(&mut self) -> Read<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }
    fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }
    fn i64(&mut self) -> Read<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }
    fn unsigned(&mut self) -> Read<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
    /// `None`: null.
    fn length(&mut self) -> Read<Option<usize>> {
        Ok(self.unsigned()?.checked_sub(1))
    }
    fn text(&mut self) -> Read<Option<&'a str>> {
        let Some(size) = self.length()? else { return Ok(None) };
        std::str::from_utf8(self.bytes(size)?).map(Some).map_err(|_| Malformed)
    }
    /// Each element through `read`; an element has at least one byte, so what is claimed ends with the data.
    fn each<T>(&mut self, mut read: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let mut out = Vec::new();
        for _ in 0..self.length()?.unwrap_or(0) {
            out.push(read(self)?);
        }
        Ok(out)
    }
    fn skip_tags(&mut self) -> Read<()> {
        for _ in 0..self.unsigned()? {
            self.unsigned()?;
            let size = self.unsigned()?;
            self.bytes(size)?;
        }
        Ok(())
    }
}

pub fn correlation(answer: &[u8]) -> Read<i32> {
    In::new(answer).i32()
}

/// What both speak, or what the broker lacks.
pub fn versions_answer(answer: &[u8]) -> Read<Result<Versions, String>> {
    let mut from = In::new(answer);
    from.i32()?;
    let error = from.i16()?;
    let (mut fetch, mut metadata) = (None, None);
    for _ in 0..from.i32()? {
        let (api, min, max) = (from.i16()?, from.i16()?, from.i16()?);
        let common = |ours: (i16, i16)| Some(ours.1.min(max)).filter(|&version| version >= ours.0.max(min));
        match api {
            FETCH => fetch = common(FETCH_VERSIONS),
            METADATA => metadata = common(METADATA_VERSIONS),
            _ => {}
        }
    }
    if metadata.is_some_and(|version| version < 10) {
        fetch = fetch.map(|_: i16| FETCH_VERSIONS.0); // nobody tells the topics' ids
    }
    let lacks = |name: &str, (low, high): (i16, i16)| {
        format!("the broker does not speak {name} {low} to {high} (Kafka 2.7 does): set `adstream.reader` to `native`")
    };
    Ok(match (error, fetch, metadata) {
        (0, Some(fetch), Some(metadata)) => Ok(Versions { metadata, fetch }),
        (0, None, _) => Err(lacks("Fetch", FETCH_VERSIONS)),
        (0, _, None) => Err(lacks("Metadata", METADATA_VERSIONS)),
        (error, ..) => Err(format!("the broker would not tell its versions (error {error})")),
    })
}

#[derive(Debug, PartialEq)]
pub struct Metadata {
    /// Node, host, port.
    pub brokers: Vec<(i32, String, u16)>,
    pub topics: Vec<TopicMetadata>,
}

#[derive(Debug, PartialEq)]
pub struct TopicMetadata {
    pub error: i16,
    pub name: String,
    pub id: TopicId,
    pub partitions: Vec<PartitionMetadata>,
}

#[derive(Debug, PartialEq)]
pub struct PartitionMetadata {
    pub error: i16,
    pub partition: i32,
    pub leader: i32,
    pub leader_epoch: i32,
}

pub fn metadata_answer(version: i16, answer: &[u8]) -> Read<Metadata> {
    let from = &mut In::new(answer);
    from.i32()?;
    from.skip_tags()?;
    from.i32()?; // throttled for so long
    let brokers = from.each(|from| {
        let (node, host) = (from.i32()?, from.text()?.ok_or(Malformed)?.to_string());
        let port = u16::try_from(from.i32()?).map_err(|_| Malformed)?;
        from.text()?; // rack
        from.skip_tags()?;
        Ok((node, host, port))
    })?;
    from.text()?; // cluster
    from.i32()?; // controller
    let topics = from.each(|from| {
        let error = from.i16()?;
        let name = from.text()?.unwrap_or_default().to_string();
        let id = if version >= 10 { from.array()? } else { NO_ID };
        from.bytes(1)?; // internal
        let partitions = from.each(|from| {
            let (error, partition, leader, leader_epoch) = (from.i16()?, from.i32()?, from.i32()?, from.i32()?);
            for _ in 0..3 {
                from.each(|from| from.i32())?; // replicas, those in sync, those away
            }
            from.skip_tags()?;
            Ok(PartitionMetadata { error, partition, leader, leader_epoch })
        })?;
        from.i32()?; // rights
        from.skip_tags()?;
        Ok(TopicMetadata { error, name, id, partitions })
    })?;
    Ok(Metadata { brokers, topics })
}

#[derive(Debug, PartialEq)]
pub struct Fetched {
    pub throttle_ms: i32,
    pub error: i16,
    pub topics: Vec<FetchedTopic>,
}

#[derive(Debug, PartialEq)]
pub struct FetchedTopic {
    /// Up to version 12 by name, then by id.
    pub name: String,
    pub id: TopicId,
    pub partitions: Vec<FetchedPartition>,
}

#[derive(Debug, PartialEq)]
pub struct FetchedPartition {
    pub partition: i32,
    pub error: i16,
    /// Up to here everything is committed or aborted.
    pub stable_offset: i64,
    /// (first offset, producer)
    pub aborted: Vec<(i64, i64)>,
    /// Where in the answer the records lie.
    pub records: Range<usize>,
}

pub fn fetch_answer(version: i16, answer: &[u8]) -> Read<Fetched> {
    let from = &mut In::new(answer);
    from.i32()?;
    from.skip_tags()?;
    let (throttle_ms, error) = (from.i32()?, from.i16()?);
    from.i32()?; // session
    let topics = from.each(|from| {
        let (name, id) = match version {
            ..=12 => (from.text()?.ok_or(Malformed)?.to_string(), NO_ID),
            _ => (String::new(), from.array()?),
        };
        let partitions = from.each(|from| {
            let (partition, error) = (from.i32()?, from.i16()?);
            from.i64()?; // high watermark
            let stable_offset = from.i64()?;
            from.i64()?; // start of the log
            let aborted = from.each(|from| {
                let (producer, first) = (from.i64()?, from.i64()?);
                from.skip_tags()?;
                Ok((first, producer))
            })?;
            from.i32()?; // a replica nearer by
            let size = from.length()?.unwrap_or(0);
            let start = from.at;
            from.bytes(size)?;
            from.skip_tags()?;
            Ok(FetchedPartition { partition, error, stable_offset, aborted, records: start..start + size })
        })?;
        from.skip_tags()?;
        Ok(FetchedTopic { name, id, partitions })
    })?;
    Ok(Fetched { throttle_ms, error, topics })
}

/// Name and meaning of the errors that a reader can meet.
pub fn error_text(error: i16) -> String {
    let text = match error {
        -1 => "UNKNOWN_SERVER_ERROR: the broker met an unexpected error",
        1 => "OFFSET_OUT_OF_RANGE: the log does not have this offset (any more)",
        2 => "CORRUPT_MESSAGE: the broker's copy does not fit its checksum",
        3 => "UNKNOWN_TOPIC_OR_PART: the broker does not have this topic or partition",
        5 => "LEADER_NOT_AVAILABLE: no leader is elected",
        6 => "NOT_LEADER_FOR_PARTITION: the leader has moved",
        7 => "REQUEST_TIMED_OUT",
        8 => "BROKER_NOT_AVAILABLE",
        9 => "REPLICA_NOT_AVAILABLE",
        13 => "NETWORK_EXCEPTION",
        14 => "COORDINATOR_LOAD_IN_PROGRESS",
        17 => "TOPIC_EXCEPTION: not a topic's name",
        29 => "TOPIC_AUTHORIZATION_FAILED: this client may not read the topic",
        56 => "KAFKA_STORAGE_ERROR: the broker's disk",
        74 => "FENCED_LEADER_EPOCH: the leader has changed",
        75 => "UNKNOWN_LEADER_EPOCH: the broker does not know of the new leader yet",
        76 => "UNSUPPORTED_COMPRESSION_TYPE",
        78 => "OFFSET_NOT_AVAILABLE: the leader is new",
        100 => "UNKNOWN_TOPIC_ID: the broker does not have this topic",
        103 => "INCONSISTENT_TOPIC_ID: the broker knows the topic by another id",
        other => return format!("error {other} of the broker"),
    };
    text.to_string()
}

/// What passes by itself: leader moves, restarts, topics being made.
pub fn is_transient(error: i16) -> bool {
    matches!(error, -1 | 3 | 5 | 6 | 7 | 8 | 9 | 13 | 14 | 56 | 74 | 75 | 78 | 100 | 103)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(body: &[&[u8]]) -> Vec<u8> {
        [&[0, 0, 0, 9][..]].into_iter().chain(body.iter().copied()).flatten().copied().collect()
    }

    #[test]
    fn versions_are_the_highest_that_both_speak() {
        let table = |rows: &[[i16; 3]]| {
            let mut out = answer(&[&[0, 0], &(rows.len() as i32).to_be_bytes()]);
            out.extend(rows.iter().flatten().flat_map(|n| n.to_be_bytes()));
            versions_answer(&out).unwrap()
        };
        assert_eq!(table(&[[1, 4, 17], [3, 0, 13], [18, 0, 4]]), Ok(Versions { metadata: 12, fetch: 13 }));
        assert_eq!(table(&[[1, 0, 12], [3, 0, 9]]), Ok(Versions { metadata: 9, fetch: 12 }));
        assert_eq!(table(&[[1, 0, 13], [3, 0, 9]]), Ok(Versions { metadata: 9, fetch: 12 }));
        assert!(table(&[[1, 0, 11], [3, 0, 9]]).unwrap_err().contains("Fetch"));
        assert!(table(&[[1, 14, 20], [3, 0, 9]]).unwrap_err().contains("Fetch"));
        assert!(table(&[[1, 4, 17]]).unwrap_err().contains("Metadata"));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        // Four thousand million topics, of which none follows.
        let data = answer(&[&[0], &[0; 4], &[0, 0], &[0; 4], &[0xff, 0xff, 0xff, 0xff, 0x0f]]);
        assert_eq!(fetch_answer(13, &data), Err(Malformed));
        assert_eq!(versions_answer(&answer(&[&[0, 0, 0x7f, 0xff, 0xff, 0xff]])), Err(Malformed));
    }

    proptest! {
        #[test]
        fn noise_is_malformed_and_never_a_panic(data in prop::collection::vec(0u8..6, 0..200), version in 9i16..14) {
            let _ = fetch_answer(version, &data);
            let _ = metadata_answer(version, &data);
            let _ = versions_answer(&data);
        }
    }
}
