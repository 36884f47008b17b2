//! Windows as arithmetic: timestamp to window, lateness, closing, expiry. No state, no emission.
//!
//! A tumbling window is `[start, start + size)`, aligned to the epoch. With `clock` the largest event time seen:
//!
//! - a row is *late* for a window iff `end + grace <= clock` (its own time included in the clock), as in Kafka Streams;
//! - a window is *closed* iff every lane's clock has passed the same point;
//! - its rows are *expired* (dropped from the store) iff `start + retention <= clock` of the slowest lane.

/// A window start that means "no window".
pub const UNWINDOWED: i64 = i64::MIN;
/// A clock that has seen nothing.
pub const NO_TIME: i64 = i64::MIN;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tumbling {
    pub size_ms: i64,
    pub grace_ms: i64,
    pub retention_ms: i64,
}

impl Tumbling {
    #[inline]
    pub fn start(&self, ts: i64) -> i64 {
        ts.div_euclid(self.size_ms) * self.size_ms
    }
    /// The clock from which on a window is closed, and a row for it late.
    #[inline]
    pub fn close_at(&self, start: i64) -> i64 {
        start.saturating_add(self.size_ms).saturating_add(self.grace_ms)
    }
    #[inline]
    pub fn is_late(&self, start: i64, clock: i64) -> bool {
        self.close_at(start) <= clock
    }
    #[inline]
    pub fn is_expired(&self, start: i64, clock: i64) -> bool {
        start.saturating_add(self.retention_ms) <= clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_to_the_millisecond() {
        let w = Tumbling { size_ms: 300_000, grace_ms: 10_000, retention_ms: 310_000 };
        assert_eq!(w.start(299_999), 0);
        assert_eq!(w.start(300_000), 300_000);
        assert_eq!(w.start(-1), -300_000);
        assert!(!w.is_late(0, 309_999));
        assert!(w.is_late(0, 310_000));
        assert!(!w.is_expired(0, 309_999));
        assert!(w.is_expired(0, 310_000));
        assert!(!w.is_late(0, NO_TIME));
    }
}
