//! Windows as arithmetic: timestamp to windows, lateness, closing, expiry. No state, no emission.
//!
//! ```text
//! tumbling       [start, start + size), aligned to the epoch                        a row is in one
//! hopping        [start, start + size) for every multiple of advance from 0 on      a row is in all that hold its time
//! civil days     from the first instant of a day (a Monday) of a time zone to that  a row is in one
//!                of the next; 23, 24, 25 hours, whatever the clocks do
//! ```
//!
//! With `clock` the largest event time seen:
//!
//! - a row is *late* for a window iff `end + grace <= clock` (its own time included in the clock), as in Kafka Streams;
//! - a window is *closed* iff every lane's clock has passed the same point;
//! - its rows are *expired* (dropped from the store) iff `start + retention <= clock` of the slowest lane, and never before
//!   it is closed.
//!
//! Starts and ends ascend together, so of the windows that hold a time the late ones are the first.
//!
//! A **slice** is a piece of time that no window's border cuts. Rows of one slice are in the same windows, so they can be
//! folded once and the result merged into each window.

use std::cell::Cell;

use jiff::tz::TimeZone;
use jiff::{civil, Timestamp};

/// A window start that means "no window".
pub const UNWINDOWED: i64 = i64::MIN;
/// A clock that has seen nothing.
pub const NO_TIME: i64 = i64::MIN;

#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Hopping {
        size_ms: i64,
        advance_ms: i64,
    },
    /// Days, or weeks from Monday on.
    Civil {
        zone: TimeZone,
        week: bool,
        /// The day that was asked for last: nearly every row falls into that of the row before it.
        last: Cell<(i64, i64)>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    shape: Shape,
    grace_ms: i64,
    retention_ms: i64,
}

/// Starts of windows, ascending.
#[derive(Clone, Debug)]
pub struct Starts {
    next: i64,
    last: i64,
    step: i64,
}

impl Starts {
    pub fn one(start: i64) -> Starts {
        Starts { next: start, last: start, step: 1 }
    }
}

impl Iterator for Starts {
    type Item = i64;
    #[inline]
    fn next(&mut self) -> Option<i64> {
        let at = (self.next <= self.last).then_some(self.next)?;
        match at.checked_add(self.step) {
            Some(next) => self.next = next,
            None => self.last = i64::MIN,
        }
        Some(at)
    }
}

impl Windows {
    pub fn tumbling(size_ms: i64, grace_ms: i64, retention_ms: i64) -> Windows {
        Windows::hopping(size_ms, size_ms, grace_ms, retention_ms)
    }
    pub fn hopping(size_ms: i64, advance_ms: i64, grace_ms: i64, retention_ms: i64) -> Windows {
        Windows { shape: Shape::Hopping { size_ms, advance_ms }, grace_ms, retention_ms }
    }
    /// None: there is no such time zone.
    pub fn civil(zone: &str, week: bool, grace_ms: i64, retention_ms: i64) -> Option<Windows> {
        let zone = TimeZone::get(zone).ok()?;
        Some(Windows { shape: Shape::Civil { zone, week, last: Cell::new((0, 0)) }, grace_ms, retention_ms })
    }

    /// The windows that hold a time.
    #[inline]
    pub fn starts(&self, ts: i64) -> Starts {
        match &self.shape {
            Shape::Hopping { size_ms, advance_ms } => {
                let last = ts.div_euclid(*advance_ms) * advance_ms;
                let first = match size_ms == advance_ms {
                    true => last,
                    // None begins before the epoch, as in Kafka Streams, unless the row lies there.
                    false => {
                        let first = ts.saturating_sub(*size_ms).div_euclid(*advance_ms) * advance_ms + advance_ms;
                        if ts < 0 {
                            first
                        } else {
                            first.max(0)
                        }
                    }
                };
                Starts { next: first, last, step: *advance_ms }
            }
            Shape::Civil { .. } => Starts::one(self.civil_start(ts)),
        }
    }
    /// The newest of them.
    #[inline]
    pub fn start(&self, ts: i64) -> i64 {
        match &self.shape {
            Shape::Hopping { advance_ms, .. } => ts.div_euclid(*advance_ms) * advance_ms,
            Shape::Civil { .. } => self.civil_start(ts),
        }
    }
    #[inline]
    pub fn end(&self, start: i64) -> i64 {
        match &self.shape {
            Shape::Hopping { size_ms, .. } => start.saturating_add(*size_ms),
            Shape::Civil { last, .. } if last.get().0 == start && last.get().1 > start => last.get().1,
            Shape::Civil { zone, week, .. } => match civil_date(zone, start) {
                Some(date) => next_boundary(zone, *week, date, start),
                None => i64::MAX,
            },
        }
    }
    /// The clock from which on a window is closed, and a row for it late.
    #[inline]
    pub fn close_at(&self, start: i64) -> i64 {
        self.end(start).saturating_add(self.grace_ms)
    }
    #[inline]
    pub fn is_late(&self, start: i64, clock: i64) -> bool {
        self.close_at(start) <= clock
    }
    #[inline]
    pub fn is_expired(&self, start: i64, clock: i64) -> bool {
        start.saturating_add(self.retention_ms).max(self.close_at(start)) <= clock
    }
    /// A number that changes only when a window closes on the way from one clock to another.
    pub fn period(&self, clock: i64) -> i64 {
        let end = clock.saturating_sub(self.grace_ms);
        match &self.shape {
            Shape::Hopping { size_ms, advance_ms } => end.saturating_sub(*size_ms).div_euclid(*advance_ms),
            Shape::Civil { .. } => self.civil_start(end),
        }
    }
    /// Whether a row can be in several windows.
    pub fn overlap(&self) -> bool {
        matches!(&self.shape, Shape::Hopping { size_ms, advance_ms } if size_ms > advance_ms)
    }
    /// The length of slices, where there are fewer of them than windows that a row is in: what they cost is one partial
    /// result each.
    pub fn slice_ms(&self) -> Option<i64> {
        let Shape::Hopping { size_ms, advance_ms } = &self.shape else { return None };
        let slice = gcd(*size_ms, *advance_ms);
        (self.overlap() && advance_ms / slice < (size_ms + advance_ms - 1) / advance_ms).then_some(slice)
    }

    fn civil_start(&self, ts: i64) -> i64 {
        let Shape::Civil { zone, week, last } = &self.shape else { return ts };
        let (start, end) = last.get();
        if start <= ts && ts < end {
            return start;
        }
        let Some(date) = civil_date(zone, ts) else { return ts };
        let date = if *week { monday(date) } else { date };
        let mut start = first_instant(zone, date).unwrap_or(ts);
        let mut end = next_boundary(zone, *week, date, start);
        if end <= ts {
            // Where clocks that are set back at midnight repeat the evening before, the new day has begun already.
            start = end;
            end = self.end(start);
        }
        last.set((start, end));
        start
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

fn civil_date(zone: &TimeZone, ts: i64) -> Option<civil::Date> {
    Timestamp::from_millisecond(ts).ok().map(|t| zone.to_datetime(t).date())
}

fn monday(date: civil::Date) -> civil::Date {
    let back = date.weekday().to_monday_zero_offset() as i64;
    date.checked_sub(jiff::Span::new().days(back)).unwrap_or(date)
}

/// Midnight, or what comes next where the clocks skip it; of two midnights the first.
fn first_instant(zone: &TimeZone, date: civil::Date) -> Option<i64> {
    zone.to_timestamp(date.at(0, 0, 0, 0)).ok().map(Timestamp::as_millisecond)
}

/// The first boundary after `start`, which is that of `date`.
fn next_boundary(zone: &TimeZone, week: bool, date: civil::Date, start: i64) -> i64 {
    let span = jiff::Span::new().days(if week { 7 } else { 1 });
    let mut date = date;
    loop {
        let Ok(next) = date.checked_add(span) else { return i64::MAX };
        match first_instant(zone, next) {
            // A day that a zone left out altogether has no length.
            Some(at) if at <= start => date = next,
            Some(at) => return at,
            None => return i64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn boundaries_to_the_millisecond() {
        let w = Windows::tumbling(300_000, 10_000, 310_000);
        assert_eq!(w.start(299_999), 0);
        assert_eq!(w.start(300_000), 300_000);
        assert_eq!(w.start(-1), -300_000);
        assert!(!w.is_late(0, 309_999));
        assert!(w.is_late(0, 310_000));
        assert!(!w.is_expired(0, 309_999));
        assert!(w.is_expired(0, 310_000));
        assert!(!w.is_late(0, NO_TIME));
        assert_eq!(w.slice_ms(), None);
    }

    #[test]
    fn hopping_windows_begin_at_the_epoch() {
        let w = Windows::hopping(5, 2, 1, 6);
        let starts = |ts| w.starts(ts).collect::<Vec<_>>();
        assert_eq!(starts(0), [0]);
        assert_eq!(starts(3), [0, 2]);
        assert_eq!(starts(4), [0, 2, 4]);
        assert_eq!(starts(5), [2, 4]);
        assert_eq!(starts(-1), [-4, -2]);
        assert_eq!((w.end(2), w.close_at(2)), (7, 8));
        // 2 slices of 1 ms for each start, and rows in 2 or 3 windows.
        assert_eq!(w.slice_ms(), Some(1));
        assert_eq!(Windows::hopping(300, 60, 0, 300).slice_ms(), Some(60));
        assert_eq!(Windows::hopping(7, 6, 0, 7).slice_ms(), None);
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn day_of(zone: &str, ts: i64) -> (i64, i64) {
        let w = Windows::civil(zone, false, 0, 0).unwrap();
        let start = w.start(ts);
        (start, w.end(start))
    }

    #[test]
    fn days_follow_the_clocks() {
        let seoul = (at("2024-01-14T15:00:00Z"), at("2024-01-15T15:00:00Z"));
        assert_eq!(day_of("Asia/Seoul", seoul.0), seoul);
        assert_eq!(day_of("Asia/Seoul", seoul.1 - 1), seoul);
        // 23 and 25 hours.
        let spring = (at("2024-03-30T23:00:00Z"), at("2024-03-31T22:00:00Z"));
        assert_eq!(day_of("Europe/Berlin", spring.0), spring);
        assert_eq!(day_of("Europe/Berlin", spring.1 - 1), spring);
        let autumn = (at("2024-10-26T22:00:00Z"), at("2024-10-27T23:00:00Z"));
        assert_eq!(day_of("Europe/Berlin", autumn.1 - 1), autumn);
        // No midnight: the day begins at one.
        assert_eq!(day_of("America/Sao_Paulo", at("2017-10-15T12:00:00Z")).0, at("2017-10-15T03:00:00Z"));
        // Midnight twice: it begins with the first.
        assert_eq!(day_of("America/Havana", at("2024-11-03T04:30:00Z")).0, at("2024-11-03T04:00:00Z"));
        // A day that is not there.
        let samoa = (at("2011-12-29T10:00:00Z"), at("2011-12-30T10:00:00Z"));
        assert_eq!(day_of("Pacific/Apia", samoa.0), samoa);
        assert_eq!(day_of("Pacific/Apia", samoa.1).0, samoa.1);
        // One minute past midnight the clocks go back into the day before: the new day goes on.
        let (start, end) = day_of("America/St_Johns", at("2010-11-07T02:31:30Z"));
        assert_eq!((start, end), (at("2010-11-07T02:30:00Z"), at("2010-11-08T03:30:00Z")));
        assert!(Windows::civil("Asia/Soul", false, 0, 0).is_none());
    }

    #[test]
    fn weeks_begin_on_monday() {
        let w = Windows::civil("Asia/Seoul", true, 0, 0).unwrap();
        let start = w.start(at("2024-01-21T14:59:59.999Z"));
        assert_eq!((start, w.end(start)), (at("2024-01-14T15:00:00Z"), at("2024-01-21T15:00:00Z")));
    }

    proptest! {
        #[test]
        fn every_time_is_in_its_windows_and_in_no_other(ts in -1000i64..1000, size in 1i64..60, advance in 1i64..60) {
            let advance = advance.min(size);
            let w = Windows::hopping(size, advance, 0, size);
            let holding = (-1100i64..1100).map(|n| n * advance).filter(|&s| s <= ts && ts < s + size);
            let expected: Vec<i64> = holding.filter(|&s| ts < 0 || s >= 0).collect();
            prop_assert_eq!(w.starts(ts).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn a_period_ends_where_a_window_closes(a in -500i64..500, more in 0i64..300, size in 1i64..40, advance in 1i64..40, grace in 0i64..20) {
            let advance = advance.min(size);
            let w = Windows::hopping(size, advance, grace, size + grace);
            let b = a + more;
            let closes = (-700i64..1100).map(|n| n * advance).any(|s| a < w.close_at(s) && w.close_at(s) <= b);
            prop_assert_eq!(w.period(a) != w.period(b), closes);
        }

        #[test]
        fn no_border_of_a_window_cuts_a_slice(ts in 0i64..2000, size in 1i64..60, advance in 1i64..60) {
            let w = Windows::hopping(size, advance.min(size), 0, size);
            if let Some(slice) = w.slice_ms() {
                let from = ts.div_euclid(slice) * slice;
                let of = |t| w.starts(t).collect::<Vec<_>>();
                prop_assert_eq!(of(from), of(ts));
                prop_assert_eq!(of(from + slice - 1), of(ts));
            }
        }

        #[test]
        fn days_lie_side_by_side(
            ts in -4_000_000_000_000i64..4_000_000_000_000,
            zone in prop::sample::select(vec!["America/St_Johns", "Pacific/Apia", "America/Toronto", "Asia/Seoul", "Africa/Cairo", "Australia/Lord_Howe", "America/Havana"]),
            week: bool,
        ) {
            let w = Windows::civil(zone, week, 0, 0).unwrap();
            let start = w.start(ts);
            let end = w.end(start);
            prop_assert!(start <= ts && ts < end, "{start} {ts} {end}");
            prop_assert_eq!(w.start(start), start);
            prop_assert_eq!(w.start(end - 1), start);
            prop_assert_eq!(w.start(end), end);
        }
    }
}
