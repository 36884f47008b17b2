//! Client settings by librdkafka's names, as far as this reader can honour them.
//!
//! A setting that is not listed here is not ignored: it is a reason to read through librdkafka ([`unsupported`]).

use std::time::Duration;

use super::connection::Limits;

/// Of other kinds of client, or of how librdkafka works inside: whatever they say, it holds here.
const WITHOUT_MEANING: [&str; 23] = [
    "auto.offset.reset",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "fetch.queue.backoff.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "isolation.level",
    "log_level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.poll.interval.ms",
    "message.max.bytes",
    "metadata.recovery.strategy",
    "partition.assignment.strategy",
    "queued.min.messages",
    "retry.backoff.max.ms",
    "session.timeout.ms",
    "socket.keepalive.enable",
];

const DEFAULT_PORT: u16 = 9092;

#[derive(Debug)]
pub struct Settings {
    pub bootstrap: Vec<(String, u16)>,
    client: String,
    connect_timeout_ms: u32,
    request_timeout_ms: u32,
    max_answer: u32,
    pub wait_ms: u32,
    pub min_bytes: u32,
    /// Of one answer.
    pub answer_bytes: u32,
    /// Of one partition in it.
    pub partition_bytes: u32,
    /// Unread, of one partition.
    pub queue_bytes: u32,
    pub retry_ms: u32,
    pub reconnect_ms: u32,
    pub reconnect_max_ms: u32,
    pub refresh_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            bootstrap: Vec::new(),
            client: "adstream".into(),
            connect_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            max_answer: 100_000_000,
            wait_ms: 20,
            min_bytes: 1,
            answer_bytes: 52_428_800,
            partition_bytes: 1 << 20,
            queue_bytes: 4 << 20,
            retry_ms: 100,
            reconnect_ms: 100,
            reconnect_max_ms: 1_000,
            refresh_ms: 300_000,
        }
    }
}

impl Settings {
    pub fn parse(given: &[(String, String)]) -> Result<Settings, String> {
        if let Some(why) = unsupported(given) {
            return Err(why);
        }
        let mut found = Settings::default();
        for (name, value) in given {
            let number = match name.as_str() {
                "bootstrap.servers" | "metadata.broker.list" => {
                    found.bootstrap = addresses(value)?;
                    continue;
                }
                "client.id" => {
                    found.client.clone_from(value);
                    continue;
                }
                "socket.connection.setup.timeout.ms" => &mut found.connect_timeout_ms,
                "socket.timeout.ms" => &mut found.request_timeout_ms,
                "receive.message.max.bytes" => &mut found.max_answer,
                "fetch.wait.max.ms" => &mut found.wait_ms,
                "fetch.min.bytes" => &mut found.min_bytes,
                "fetch.max.bytes" => &mut found.answer_bytes,
                "max.partition.fetch.bytes" | "fetch.message.max.bytes" => &mut found.partition_bytes,
                "queued.max.messages.kbytes" => &mut found.queue_bytes,
                "retry.backoff.ms" => &mut found.retry_ms,
                "reconnect.backoff.ms" => &mut found.reconnect_ms,
                "reconnect.backoff.max.ms" => &mut found.reconnect_max_ms,
                "topic.metadata.refresh.interval.ms" => &mut found.refresh_ms,
                _ => continue,
            };
            let read: Option<u32> = value.trim().parse().ok().filter(|&n| n <= i32::MAX as u32);
            *number = read.ok_or_else(|| format!("the Kafka client setting `{name}` is not a number of its kind"))?;
            if name == "queued.max.messages.kbytes" {
                *number = number.saturating_mul(1024);
            }
        }
        if found.bootstrap.is_empty() {
            return Err("the Kafka client setting `bootstrap.servers` is missing".into());
        }
        Ok(found)
    }

    pub fn limits(&self) -> Limits {
        let ms = |n: u32| Duration::from_millis(n.into());
        Limits {
            client: self.client.clone(),
            connect_timeout: ms(self.connect_timeout_ms),
            request_timeout: ms(self.request_timeout_ms.saturating_add(self.wait_ms.max(super::QUIET_WAIT_MS))),
            max_answer: self.max_answer as usize,
        }
    }
}

/// The first setting that only librdkafka can honour, and why; `None`: this reader can read with these.
pub fn unsupported(given: &[(String, String)]) -> Option<String> {
    given.iter().find_map(|(name, value)| match name.as_str() {
        "security.protocol" if value.eq_ignore_ascii_case("plaintext") => None,
        "security.protocol" => Some(format!("`{name}` is {value}: it speaks neither TLS nor SASL")),
        "bootstrap.servers" | "metadata.broker.list" | "client.id" | "socket.connection.setup.timeout.ms" => None,
        "socket.timeout.ms" | "receive.message.max.bytes" | "fetch.wait.max.ms" | "fetch.min.bytes" => None,
        "fetch.max.bytes" | "max.partition.fetch.bytes" | "fetch.message.max.bytes" => None,
        "queued.max.messages.kbytes" | "retry.backoff.ms" | "reconnect.backoff.ms" => None,
        "reconnect.backoff.max.ms" | "topic.metadata.refresh.interval.ms" => None,
        other if WITHOUT_MEANING.contains(&other) => None,
        other => Some(format!("it does not know the setting `{other}`")),
    })
}

/// `host:port,[::1]:port`, with or without `plaintext://` in front.
fn addresses(list: &str) -> Result<Vec<(String, u16)>, String> {
    let one = |given: &str| {
        let bad = || format!("`{given}` in `bootstrap.servers` is not `HOST:PORT`");
        let lower = given.to_ascii_lowercase();
        let text = if lower.starts_with("plaintext://") { &given["plaintext://".len()..] } else { given };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| bad())?)
            }
            _ => (text, DEFAULT_PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains('/') {
            return Err(bad());
        }
        Ok((host.to_string(), port))
    };
    list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::parse(&given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_in_all_their_forms() {
        let list = "a:1, plaintext://b:2,[::1]:3,c,::1,[fe80::2],";
        let found = of(&[("bootstrap.servers", list)]).unwrap().bootstrap;
        let found: Vec<_> = found.iter().map(|(host, port)| (host.as_str(), *port)).collect();
        assert_eq!(found, [("a", 1), ("b", 2), ("::1", 3), ("c", 9092), ("::1", 9092), ("fe80::2", 9092)]);
        for bad in ["a:b", ":1", "SSL://a:1", "a:70000"] {
            assert!(of(&[("bootstrap.servers", bad)]).unwrap_err().contains("HOST:PORT"), "{bad}");
        }
        assert!(of(&[]).unwrap_err().contains("bootstrap.servers"));
    }

    #[test]
    fn settings_are_honoured_or_a_reason_to_read_otherwise() {
        let base = ("bootstrap.servers", "a");
        let found = of(&[base, ("queued.max.messages.kbytes", "64"), ("security.protocol", "PLAINTEXT")]).unwrap();
        assert_eq!(found.queue_bytes, 65_536);
        assert!(of(&[base, ("fetch.min.bytes", "many")]).unwrap_err().contains("fetch.min.bytes"));
        for (name, value) in
            [("security.protocol", "ssl"), ("sasl.username", "x"), ("client.rack", "r"), ("debug", "all")]
        {
            let why = of(&[base, (name, value)]).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
    }
}
