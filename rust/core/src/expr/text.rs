//! Values as text and back, for casts: decimals, floats, times. Private to expressions.

use std::fmt::Write;

use super::decimal;
use crate::column::{ERR_CAST, VALID};

const DAY_MS: i64 = 86_400_000;

/// `[+-]digits[.digits][e±n]` to an unscaled value, digits beyond the scale rounded half to even. `None`: not a number,
/// or more than 38 digits.
pub fn parse_decimal(text: &str, scale: u8) -> Option<i128> {
    parse_decimal_exact(text, scale).map(|(unscaled, _)| unscaled)
}

/// The same, and whether nothing had to be rounded.
pub fn parse_decimal_exact(text: &str, scale: u8) -> Option<(i128, bool)> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], rest[at + 1..].parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    if !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    // The digit at place `p` (0 is the point's left neighbour, -1 its right one) counts 10^(p + scale).
    let lowest = i64::from(exponent) - fraction.len() as i64 + i64::from(scale);
    let digits = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0');
    let count = (whole.len() + fraction.len()) as i64;
    let mut unscaled: i128 = 0;
    let (mut first_dropped, mut more_dropped) = (0u8, false);
    for (i, digit) in digits.enumerate() {
        let weight = lowest + count - 1 - i as i64;
        if weight >= 0 {
            unscaled = unscaled.checked_mul(10)?.checked_add(digit as i128)?;
        } else if weight == -1 {
            first_dropped = digit;
        } else {
            more_dropped |= digit != 0;
        }
    }
    if unscaled != 0 {
        for _ in 0..lowest {
            unscaled = unscaled.checked_mul(10)?;
        }
    }
    if first_dropped > 5 || (first_dropped == 5 && (more_dropped || unscaled & 1 == 1)) {
        unscaled += 1;
    }
    if unscaled > decimal::MAX {
        return None;
    }
    Some((if negative { -unscaled } else { unscaled }, first_dropped == 0 && !more_dropped))
}

pub fn write_decimal(out: &mut Vec<u8>, unscaled: i128, scale: u8) {
    let mut digits = unscaled.unsigned_abs().to_string();
    let scale = scale as usize;
    if digits.len() <= scale {
        digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
    }
    if unscaled < 0 {
        out.push(b'-');
    }
    let point = digits.len() - scale;
    out.extend_from_slice(&digits.as_bytes()[..point]);
    if scale > 0 {
        out.push(b'.');
        out.extend_from_slice(&digits.as_bytes()[point..]);
    }
}

/// The nearest float.
pub fn decimal_to_float(unscaled: i128, scale: u8) -> f64 {
    // Both exact, so one correctly rounded division.
    if unscaled.unsigned_abs() <= 1 << 53 && scale <= 22 {
        return unscaled as f64 / 10f64.powi(scale as i32);
    }
    let mut text = Vec::new();
    write_decimal(&mut text, unscaled, scale);
    std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok()).unwrap_or(f64::NAN)
}

/// By way of the shortest text that reads back as the same float: 0.1 is 0.1.
pub fn float_to_decimal(x: f64, scale: u8) -> Option<i128> {
    parse_decimal(&format!("{x:e}"), scale)
}

/// The shortest text that reads back as the same float, with a point or an exponent.
pub fn write_float(out: &mut Vec<u8>, x: f64) {
    let mut text = String::new();
    let _ = write!(text, "{x:?}");
    out.extend_from_slice(text.as_bytes());
}

/// Days since 1970-01-01 of a civil date (proleptic Gregorian).
pub fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The civil date of a day since 1970-01-01.
#[inline]
pub fn civil_of(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn number(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

fn month_length(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// RFC 3339: date, `T` (or a blank), time, an optional fraction (beyond milliseconds cut off), `Z` or an offset.
pub fn parse_timestamp(text: &str) -> Option<i64> {
    let b = text.as_bytes();
    let separators = b.len() >= 20
        && b[4] == b'-'
        && b[7] == b'-'
        && matches!(b[10], b'T' | b't' | b' ')
        && b[13] == b':'
        && b[16] == b':';
    if !separators {
        return None;
    }
    let (year, month, day) = (number(&b[0..4])?, number(&b[5..7])?, number(&b[8..10])?);
    let (hour, minute, second) = (number(&b[11..13])?, number(&b[14..16])?, number(&b[17..19])?);
    if !(1..=12).contains(&month) || day < 1 || day > month_length(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if b[at] == b'.' {
        let digits = b[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for i in 0..3 {
            millis = millis * 10 + if i < digits { i64::from(b[at + 1 + i] - b'0') } else { 0 };
        }
        at += 1 + digits;
    }
    let offset = match &b[at..] {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (h, m) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if h > 23 || m > 59 {
                return None;
            }
            (h * 60 + m) * if *sign == b'-' { -60_000 } else { 60_000 }
        }
        _ => return None,
    };
    let of_day = ((hour * 60 + minute) * 60 + second) * 1000 + millis;
    Some(days_of(year, month, day) * DAY_MS + of_day - offset)
}

/// `2024-02-29T12:00:00.123Z`; a year beyond four digits has no such text.
pub fn write_timestamp(out: &mut Vec<u8>, ms: i64) -> u8 {
    let (year, month, day) = civil_of(ms.div_euclid(DAY_MS));
    if !(0..=9999).contains(&year) {
        return ERR_CAST;
    }
    let of_day = ms.rem_euclid(DAY_MS);
    let (h, m, s, f) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60, of_day % 1000);
    let mut text = String::with_capacity(24);
    let _ = write!(text, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{f:03}Z");
    out.extend_from_slice(text.as_bytes());
    VALID
}

/// Insertions, deletions and substitutions from one name to another.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The candidate that was probably meant: at most a third of its letters (and at least one) differ.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let best = candidates.into_iter().map(|c| (distance(&lower, &c.to_lowercase()), c)).min_by_key(|(d, _)| *d)?;
    (best.0 <= (name.chars().count().max(best.1.chars().count()) / 3).max(1)).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_round_trip_and_round_half_even() {
        for (text, scale, value) in [
            ("1.005", 2, Some(100)),
            ("1.015", 2, Some(102)),
            ("1.0150000001", 2, Some(102)),
            ("1.0050000001", 2, Some(101)),
            ("-1.015", 2, Some(-102)),
            (".5", 0, Some(0)),
            ("1.5e0", 0, Some(2)),
            ("0.09", 0, Some(0)),
            ("0.6", 0, Some(1)),
            ("5e-2", 1, Some(0)),
            ("15e-2", 1, Some(2)),
            ("1e-400", 2, Some(0)),
            ("1e400", 2, None),
            ("0e400", 2, Some(0)),
            ("12e3", 2, Some(1_200_000)),
            ("1e37", 0, Some(decimal::pow10(37))),
            ("1e38", 0, None),
            ("", 0, None),
            ("-", 0, None),
            (".", 0, None),
            ("1_0", 0, None),
            ("NaN", 0, None),
        ] {
            assert_eq!(parse_decimal(text, scale), value, "{text}");
        }
        let text = |u, s| {
            let mut out = vec![];
            write_decimal(&mut out, u, s);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(-5, 2), "-0.05");
        assert_eq!(text(1230, 2), "12.30");
        assert_eq!(text(7, 0), "7");
    }

    #[test]
    fn timestamps_round_trip() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("2024-02-29T12:00:00.5+09:00", Some(1_709_175_600_500)),
            ("2024-02-29T12:00:00.1239Z", Some(1_709_208_000_123)),
            ("2023-02-29T12:00:00Z", None),
            ("2024-02-29T24:00:00Z", None),
            ("2024-02-29T12:00:00", None),
            ("2024-02-29", None),
            ("2024-02-29T12:00:00.Z", None),
        ] {
            assert_eq!(parse_timestamp(text), ms, "{text}");
        }
        for ms in (-80_000_000_000_000i64..200_000_000_000_000).step_by(7_777_777_777_777) {
            let mut out = vec![];
            if write_timestamp(&mut out, ms) == VALID {
                assert_eq!(parse_timestamp(std::str::from_utf8(&out).unwrap()), Some(ms));
            }
        }
        for days in (-1_000_000..1_000_000).step_by(97) {
            let (y, m, d) = civil_of(days);
            assert_eq!(days_of(y, m, d), days);
        }
    }

    #[test]
    fn nearest_names() {
        assert_eq!(nearest("prise", ["price", "user"]), Some("price"));
        assert_eq!(nearest("Price", ["price", "user"]), Some("price"));
        assert_eq!(nearest("zzz", ["price", "user"]), None);
    }
}
