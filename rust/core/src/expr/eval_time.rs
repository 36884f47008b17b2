//! Parts of a time, in UTC, and truncation towards minus infinity. One kernel per part.

use super::kernel::{checked1, kernel, plain1, Kernel, Out};
use super::text::civil_of;
use crate::column::{ERR_OVERFLOW, VALID};

const DAY_MS: i64 = 86_400_000;

#[inline]
fn day(ms: i64) -> i64 {
    ms.div_euclid(DAY_MS)
}

/// `every` is positive.
pub fn truncate(every: i64) -> Kernel {
    checked1(move |ms: i64| match ms.checked_sub(ms.rem_euclid(every)) {
        Some(floor) => (floor, VALID),
        None => (0, ERR_OVERFLOW),
    })
}

pub fn part(op: &str) -> Option<Kernel> {
    Some(match op {
        "dt_year" => plain1(|ms: i64| civil_of(day(ms)).0),
        "dt_month" => plain1(|ms: i64| civil_of(day(ms)).1),
        "dt_day" => plain1(|ms: i64| civil_of(day(ms)).2),
        "dt_hour" => plain1(|ms: i64| ms.rem_euclid(DAY_MS) / 3_600_000),
        "dt_minute" => plain1(|ms: i64| ms.rem_euclid(3_600_000) / 60_000),
        "dt_second" => plain1(|ms: i64| ms.rem_euclid(60_000) / 1000),
        "dt_millisecond" => plain1(|ms: i64| ms.rem_euclid(1000)),
        // 1970-01-01 was a Thursday; Monday is 1.
        "dt_weekday" => plain1(|ms: i64| (day(ms) + 3).rem_euclid(7) + 1),
        "dt_epoch_ms" => kernel(|_, _| Out::Arg(0)),
        _ => return None,
    })
}
