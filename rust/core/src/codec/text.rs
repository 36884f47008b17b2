//! Numbers and times as text, exactly: the forms that the codecs read and write and that casts share.
//!
//! What is promised: a parser takes the whole of its input or says `None`, never rounds and never panics; a formatter
//! writes the one form that its parser gives back unchanged.
//!
//! - *Decimals* follow the JSON number grammar (`-0.5`, `12e-1`; not `+1`, `.5`, `01`). A value is its significant
//!   digits `D` and an exponent `E`: `D * 10^E` after leading and trailing zeros are dropped. It fits
//!   `decimal(p,s)` if `E + s >= 0` (nothing is lost) and `digits(D) + E + s <= p`. Counting digits this way makes
//!   `0e999999999` and `1.500000` ordinary numbers instead of special cases.
//! - *Times* are RFC 3339 in the proleptic Gregorian calendar. The usual form, `YYYY-MM-DDTHH:MM:SS[.fff]Z`, is checked
//!   eight bytes at a time: xor with a template leaves every digit as 0-9 and every other place as 0; adding
//!   `0x7f - limit` to each byte then carries into its top bit exactly where the limit is passed.
//!
//! Special case: a year beyond 0000-9999 has no RFC 3339 form; [`format_timestamp`] writes ISO 8601's expanded year
//! (`+10000-01-01T…`), which [`parse_rfc3339`] does not read.

/// Powers of ten that fit a `u128`: `10^0` to `10^38`.
const POW10: [u128; 39] = {
    let mut table = [1u128; 39];
    let mut i = 1;
    while i < 39 {
        table[i] = table[i - 1] * 10;
        i += 1;
    }
    table
};

const MS_PER_DAY: i64 = 86_400_000;

/// A JSON number as an unscaled `decimal(precision,scale)`; `None` if it is no number or does not fit exactly.
#[inline]
pub fn parse_decimal(bytes: &[u8], precision: u8, scale: u8) -> Option<i128> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    let magnitude = match parse_plain(digits, scale) {
        Some(m) if m < *POW10.get(precision as usize)? => m,
        Some(_) => return None,
        None => parse_any(digits, precision, scale)?,
    };
    Some(if negative { -(magnitude as i128) } else { magnitude as i128 })
}

/// At most 18 digits, no exponent, no more than `scale` of them after the point; anything else is for [`parse_any`].
#[inline]
fn parse_plain(bytes: &[u8], scale: u8) -> Option<u128> {
    if bytes.len() > 18 {
        return None;
    }
    let (whole, rest, mut value) = take_digits(bytes, 0);
    if whole == 0 || (whole > 1 && bytes[0] == b'0') {
        return None;
    }
    let mut fraction = 0;
    if let [b'.', tail @ ..] = rest {
        let (digits, end, all) = take_digits(tail, value);
        if digits == 0 || !end.is_empty() {
            return None;
        }
        (fraction, value) = (digits, all);
    } else if !rest.is_empty() {
        return None;
    }
    (value as u128).checked_mul(*POW10.get((scale as usize).checked_sub(fraction)?)?)
}

/// How many digits stand in front, what follows them, and the value that they continue. Overflow is the caller's care.
#[inline]
fn take_digits(bytes: &[u8], mut value: u64) -> (usize, &[u8], u64) {
    let mut n = 0;
    while let Some(digit) = bytes.get(n).map(|b| b.wrapping_sub(b'0')).filter(|&d| d < 10) {
        value = value * 10 + digit as u64;
        n += 1;
    }
    (n, &bytes[n..], value)
}

fn parse_any(bytes: &[u8], precision: u8, scale: u8) -> Option<u128> {
    let split = |b: &'_ [u8]| b.iter().position(|c| !c.is_ascii_digit()).unwrap_or(b.len());
    let (whole, mut rest) = bytes.split_at(split(bytes));
    if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
        return None;
    }
    let mut fraction: &[u8] = &[];
    if let [b'.', tail @ ..] = rest {
        (fraction, rest) = tail.split_at(split(tail));
        if fraction.is_empty() {
            return None;
        }
    }
    let mut exponent = 0i64;
    if let [b'e' | b'E', tail @ ..] = rest {
        let (negative, digits) = match tail {
            [b'-', d @ ..] => (true, d),
            [b'+', d @ ..] => (false, d),
            d => (false, d),
        };
        if digits.is_empty() || split(digits) != digits.len() {
            return None;
        }
        // Saturates far beyond any payload's length, so the sum below cannot come back into range by accident.
        let size = digits.iter().fold(0i64, |e, d| (e * 10 + (d - b'0') as i64).min(1 << 48));
        exponent = if negative { -size } else { size };
    } else if !rest.is_empty() {
        return None;
    }
    let (mut significant, mut zeros, mut digits) = (0u128, 0usize, 0usize);
    for d in whole.iter().chain(fraction).map(|c| (c - b'0') as u128) {
        if d == 0 {
            zeros += (digits > 0) as usize;
            continue;
        }
        digits += zeros + 1;
        if digits > 38 {
            return None;
        }
        significant = significant * POW10[zeros + 1] + d;
        zeros = 0;
    }
    if digits == 0 {
        return Some(0);
    }
    let shift = exponent - fraction.len() as i64 + zeros as i64 + scale as i64;
    if shift < 0 || digits as i64 + shift > precision as i64 {
        return None;
    }
    Some(significant * POW10.get(shift as usize)?)
}

/// A JSON integer (no fraction, no exponent) that fits an `i64`.
#[inline]
pub fn parse_int(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    if digits.len() > 18 {
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        return std::str::from_utf8(bytes).ok()?.parse().ok();
    }
    let (n, _, value) = take_digits(digits, 0);
    let value = value as i64;
    (n == digits.len()).then_some(if negative { -value } else { value })
}

/// An RFC 3339 time with `Z` or an offset, as UTC milliseconds; finer digits are cut off.
#[inline]
pub fn parse_rfc3339(bytes: &[u8]) -> Option<i64> {
    match parse_datetime(bytes)? {
        (local, Some(offset)) => Some(local - offset),
        (_, None) => None,
    }
}

/// As [`parse_rfc3339`], where the zone may be missing: the local milliseconds and, if given, the offset to take off.
#[inline]
pub fn parse_datetime(bytes: &[u8]) -> Option<(i64, Option<i64>)> {
    match bytes.len() {
        24 => parse_zulu_ms(bytes),
        20 => parse_zulu_s(bytes),
        _ => None,
    }
    .map(|ms| (ms, Some(0)))
    .or_else(|| parse_datetime_any(bytes))
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Whether the word has digits where the template has `0` and the template's own bytes elsewhere; the digits' values.
#[inline]
fn fit(word: &[u8], template: &[u8; 8]) -> (bool, [u8; 8]) {
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(word);
    let mut limits = [0x7fu8; 8];
    let mut i = 0;
    while i < 8 {
        if template[i] == b'0' {
            limits[i] = 0x7f - 9;
        }
        i += 1;
    }
    let x = u64::from_le_bytes(bytes) ^ u64::from_le_bytes(*template);
    // A byte of 0x80 or more may carry into its neighbour, but then the word is refused anyway.
    let over = x.wrapping_add(u64::from_le_bytes(limits)) | x;
    (over & (ONES << 7) == 0, x.to_le_bytes())
}

#[inline]
fn parse_zulu_ms(b: &[u8]) -> Option<i64> {
    let ((ok1, a), (ok2, c), (ok3, e)) =
        (fit(&b[0..8], b"0000-00-"), fit(&b[8..16], b"00T00:00"), fit(&b[16..24], b":00.000Z"));
    if !(ok1 & ok2 & ok3) {
        return None;
    }
    let ms = e[4] as i64 * 100 + e[5] as i64 * 10 + e[6] as i64;
    Some(civil(&a, &c, e[1] * 10 + e[2])? + ms)
}

#[inline]
fn parse_zulu_s(b: &[u8]) -> Option<i64> {
    let ((ok1, a), (ok2, c)) = (fit(&b[0..8], b"0000-00-"), fit(&b[8..16], b"00T00:00"));
    // Overlaps the second word by its last four bytes.
    let (ok3, e) = fit(&b[12..20], b"0:00:00Z");
    if !(ok1 & ok2 & ok3) {
        return None;
    }
    civil(&a, &c, e[5] * 10 + e[6])
}

#[inline]
fn civil(date: &[u8; 8], rest: &[u8; 8], second: u8) -> Option<i64> {
    let year = date[0] as i32 * 1000 + date[1] as i32 * 100 + date[2] as i32 * 10 + date[3] as i32;
    let (month, day) = (date[5] * 10 + date[6], rest[0] * 10 + rest[1]);
    local_ms(year, month, day, rest[3] * 10 + rest[4], rest[6] * 10 + rest[7], second)
}

/// Milliseconds since 1970-01-01T00:00 of a date and time that exist; `None` for any that do not.
#[inline]
fn local_ms(year: i32, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Option<i64> {
    const DAYS: [u8; 16] = [0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 0, 0, 0];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = DAYS[(month & 15) as usize] + (leap && month == 2) as u8;
    if month > 12 || day == 0 || day > last || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = hour as i64 * 3600 + minute as i64 * 60 + second as i64;
    Some(days_from_civil(year, month, day) * MS_PER_DAY + seconds * 1000)
}

/// Days since 1970-01-01; the year begins in March so that the leap day is its last.
#[inline]
fn days_from_civil(year: i32, month: u8, day: u8) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let shifted = (month as i32 + 9) % 12;
    let of_year = (153 * shifted + 2) / 5 + day as i32 - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era as i64 * 146_097 + day_of_era as i64 - 719_468
}

/// The inverse: year, month, day.
fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let of_year = day_of_era - (365 * of_era + of_era / 4 - of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + of_era + (month <= 2) as i64;
    (year, month as u8, (of_year - (153 * shifted + 2) / 5 + 1) as u8)
}

#[cold]
fn parse_datetime_any(b: &[u8]) -> Option<(i64, Option<i64>)> {
    let two = |at: usize| match b.get(at..at + 2)? {
        [x @ b'0'..=b'9', y @ b'0'..=b'9'] => Some((x - b'0') * 10 + (y - b'0')),
        _ => None,
    };
    let is = |at: usize, accepted: &[u8]| b.get(at).filter(|c| accepted.contains(c)).map(|_| ());
    let year = two(0)? as i32 * 100 + two(2)? as i32;
    is(4, b"-")?;
    is(7, b"-")?;
    is(10, b"Tt ")?;
    is(13, b":")?;
    is(16, b":")?;
    let mut local = local_ms(year, two(5)?, two(8)?, two(11)?, two(14)?, two(17)?)?;
    let mut at = 19;
    if b.get(at) == Some(&b'.') {
        let digits = b[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        let digit = |i: usize| if i < digits { (b[at + 1 + i] - b'0') as i64 } else { 0 };
        local += digit(0) * 100 + digit(1) * 10 + digit(2);
        at += 1 + digits;
    }
    let offset = match b.get(at) {
        None => return Some((local, None)),
        Some(b'Z' | b'z') => {
            at += 1;
            0
        }
        Some(_) => {
            let offset = parse_offset(b.get(at..at + 6)?)?;
            at += 6;
            offset
        }
    };
    (at == b.len()).then_some((local, Some(offset)))
}

/// `+09:00` in milliseconds.
pub fn parse_offset(b: &[u8]) -> Option<i64> {
    let &[sign @ (b'+' | b'-'), h1 @ b'0'..=b'2', h2 @ b'0'..=b'9', b':', m1 @ b'0'..=b'5', m2 @ b'0'..=b'9'] = b
    else {
        return None;
    };
    let hours = ((h1 - b'0') * 10 + (h2 - b'0')) as i64;
    let minutes = ((m1 - b'0') * 10 + (m2 - b'0')) as i64;
    let offset = (hours * 60 + minutes) * 60_000;
    (hours < 24).then_some(if sign == b'-' { -offset } else { offset })
}

/// `2024-01-15T10:04:59.999Z`.
pub fn format_timestamp(ms: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(ms.div_euclid(MS_PER_DAY));
    let of_day = ms.rem_euclid(MS_PER_DAY) as u32;
    let pair = |n: u32| [b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
    if (0..=9999).contains(&year) {
        out.extend_from_slice(&pair(year as u32 / 100));
        out.extend_from_slice(&pair(year as u32 % 100));
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        let digits = year.unsigned_abs().to_string();
        out.extend(std::iter::repeat_n(b'0', 6usize.saturating_sub(digits.len())));
        out.extend_from_slice(digits.as_bytes());
    }
    let mut text = *b"-00-00T00:00:00.000Z";
    text[1..3].copy_from_slice(&pair(month as u32));
    text[4..6].copy_from_slice(&pair(day as u32));
    text[7..9].copy_from_slice(&pair(of_day / 3_600_000));
    text[10..12].copy_from_slice(&pair(of_day / 60_000 % 60));
    text[13..15].copy_from_slice(&pair(of_day / 1000 % 60));
    text[16] = b'0' + (of_day / 100 % 10) as u8;
    text[17..19].copy_from_slice(&pair(of_day % 100));
    out.extend_from_slice(&text);
}

/// The unscaled value with exactly `scale` digits after the point (none: no point).
pub fn format_decimal(unscaled: i128, scale: u8, out: &mut Vec<u8>) {
    // 39 digits, or a zero in front of as many as `scale` says (any u8), and the point.
    let mut buffer = [b'0'; 260];
    let scale = scale as usize;
    let mut at = buffer.len();
    let mut rest = unscaled.unsigned_abs();
    let mut digits = 0;
    while rest != 0 || digits <= scale {
        if digits == scale && scale > 0 {
            at -= 1;
            buffer[at] = b'.';
        }
        at -= 1;
        // 64-bit division as soon as it will do: 128-bit division is a library call.
        let digit = if rest <= u64::MAX as u128 {
            let small = rest as u64;
            rest = (small / 10) as u128;
            small % 10
        } else {
            let digit = (rest % 10) as u64;
            rest /= 10;
            digit
        };
        buffer[at] = b'0' + digit as u8;
        digits += 1;
    }
    if unscaled < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&buffer[at..]);
}

pub fn format_int(value: i64, out: &mut Vec<u8>) {
    format_decimal(value as i128, 0, out);
}

/// Shortest text that reads back as the same float, `.0` behind integral values; `null` for what JSON cannot say.
pub fn format_float(value: f64, out: &mut Vec<u8>) {
    if serde_json::to_writer(&mut *out, &value).is_err() {
        unreachable!("writing to memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals() {
        let table: &[(&str, u8, u8, Option<i128>)] = &[
            ("0", 10, 2, Some(0)),
            ("-0", 10, 2, Some(0)),
            ("-0.00", 10, 2, Some(0)),
            ("12.5", 10, 2, Some(1250)),
            ("12.50", 10, 2, Some(1250)),
            ("12.500000000000000000000000", 10, 2, Some(1250)),
            ("12.505", 10, 2, None),
            ("-1200", 10, 2, Some(-120_000)),
            ("1.2e1", 10, 2, Some(1200)),
            ("1.2E+1", 10, 2, Some(1200)),
            ("125e-2", 10, 2, Some(125)),
            ("125e-3", 10, 2, None),
            ("1250e-3", 10, 2, Some(125)),
            ("99999999.99", 10, 2, Some(9_999_999_999)),
            ("100000000.00", 10, 2, None),
            ("100000000", 10, 2, None),
            ("1e7", 10, 2, Some(1_000_000_000)),
            ("1e8", 10, 2, None),
            ("0e999999999999999999999999", 10, 2, Some(0)),
            ("1e999999999999999999999999", 10, 2, None),
            ("1e-999999999999999999999999", 10, 2, None),
            ("0.01", 2, 2, Some(1)),
            ("1.00", 2, 2, None),
            ("99999999999999999999999999999999999999", 38, 0, Some(99_999_999_999_999_999_999_999_999_999_999_999_999)),
            ("100000000000000000000000000000000000000", 38, 0, None),
            ("0.00000000000000000000000000000000000001", 38, 38, Some(1)),
            ("1", 38, 38, None),
            ("123456789012345678", 38, 30, None),
            ("12345678", 38, 30, Some(12_345_678 * POW10[30] as i128)),
            ("", 10, 2, None),
            ("-", 10, 2, None),
            ("+1", 10, 2, None),
            (".5", 10, 2, None),
            ("5.", 10, 2, None),
            ("01", 10, 2, None),
            ("00", 10, 2, None),
            ("1e", 10, 2, None),
            ("1e+", 10, 2, None),
            ("1.e1", 10, 2, None),
            (" 1", 10, 2, None),
            ("1 ", 10, 2, None),
            ("--1", 10, 2, None),
            ("NaN", 10, 2, None),
            ("1_000", 10, 2, None),
        ];
        for (text, p, s, expected) in table {
            assert_eq!(parse_decimal(text.as_bytes(), *p, *s), *expected, "{text} as decimal({p},{s})");
        }
    }

    #[test]
    fn times() {
        let ms = 1_705_313_099_999;
        let table: &[(&str, Option<i64>)] = &[
            ("2024-01-15T10:04:59.999Z", Some(ms)),
            ("2024-01-15T10:04:59Z", Some(ms - 999)),
            ("2024-01-15t10:04:59z", Some(ms - 999)),
            ("2024-01-15 10:04:59Z", Some(ms - 999)),
            ("2024-01-15T10:04:59.9Z", Some(ms - 99)),
            ("2024-01-15T10:04:59.99Z", Some(ms - 9)),
            ("2024-01-15T10:04:59.999999999Z", Some(ms)),
            ("2024-01-15T10:04:59.9999999999Z", None),
            ("2024-01-15T10:04:59.Z", None),
            ("2024-01-15T19:04:59.999+09:00", Some(ms)),
            ("2024-01-15T04:34:59.999-05:30", Some(ms)),
            ("2024-01-15T10:04:59.999-00:00", Some(ms)),
            ("2024-01-15T10:04:59.999+0900", None),
            ("2024-01-15T10:04:59.999+24:00", None),
            ("2024-01-15T10:04:59.999+09:60", None),
            ("2024-01-15T10:04:59.999", None),
            ("2024-01-15T10:04:59", None),
            ("2024-01-15T10:04Z", None),
            ("2024-01-15", None),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000)),
            ("2023-02-29T00:00:00Z", None),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000)),
            ("1900-02-29T00:00:00Z", None),
            ("2024-04-31T00:00:00Z", None),
            ("2024-00-10T00:00:00Z", None),
            ("2024-13-10T00:00:00Z", None),
            ("2024-19-10T00:00:00Z", None),
            ("2024-01-00T00:00:00Z", None),
            ("2024-01-15T24:00:00Z", None),
            ("2024-01-15T23:60:00Z", None),
            ("2024-01-15T23:59:60Z", None),
            ("2024-01-15T23:59:60.000Z", None),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("0000-01-01T00:00:00Z", Some(-62_167_219_200_000)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
            ("2024-01-15T10:04:59.999ZZ", None),
            ("2024/01/15T10:04:59.999Z", None),
            ("2024-01-15T10-04:59.999Z", None),
            ("202:-01-15T10:04:59.999Z", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_rfc3339(text.as_bytes()), *expected, "{text}");
        }
        assert_eq!(parse_datetime(b"2024-01-15T10:04:59.5"), Some((ms - 499, None)));
    }

    #[test]
    fn ints() {
        let table: &[(&str, Option<i64>)] = &[
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-12", Some(-12)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            ("5.0", None),
            ("1e3", None),
            ("01", None),
            ("", None),
            ("-", None),
            ("+5", None),
            ("+9223372036854775807", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_int(text.as_bytes()), *expected, "{text}");
        }
    }

    fn decimal_text(unscaled: i128, scale: u8) -> String {
        let mut out = vec![];
        format_decimal(unscaled, scale, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn time_text(ms: i64) -> String {
        let mut out = vec![];
        format_timestamp(ms, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn written_forms() {
        assert_eq!(decimal_text(1250, 2), "12.50");
        assert_eq!(decimal_text(-5, 2), "-0.05");
        assert_eq!(decimal_text(0, 2), "0.00");
        assert_eq!(decimal_text(0, 0), "0");
        assert_eq!(decimal_text(-7, 0), "-7");
        assert_eq!(decimal_text(i128::MIN, 38), "-1.70141183460469231731687303715884105728");
        assert_eq!(decimal_text(1, 255).len(), 257);
        assert_eq!(time_text(1_705_313_099_999), "2024-01-15T10:04:59.999Z");
        assert_eq!(time_text(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(time_text(253_402_300_800_000), "+010000-01-01T00:00:00.000Z");
        assert!(time_text(i64::MIN).starts_with("-292275055-05-16T"));
        assert!(time_text(i64::MAX).starts_with("+292278994-08-17T"));
        for (value, text) in [(1.0, "1.0"), (0.1, "0.1"), (-0.0, "-0.0"), (f64::NAN, "null")] {
            let mut out = vec![];
            format_float(value, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn decimal_round_trip(unscaled in -(POW10[38] as i128 - 1)..POW10[38] as i128, scale in 0u8..=38) {
            prop_assert_eq!(parse_decimal(decimal_text(unscaled, scale).as_bytes(), 38, scale), Some(unscaled));
        }

        /// The plain path and the general one agree wherever the plain one answers.
        #[test]
        fn decimal_paths_agree(text in "-?[0-9]{1,9}(\\.[0-9]{0,6})?(e-?[0-9])?", p in 1u8..=38, s in 0u8..=38) {
            let s = s.min(p);
            let digits = text.trim_start_matches('-').as_bytes();
            if let Some(m) = parse_plain(digits, s) {
                prop_assert_eq!((m < POW10[p as usize]).then_some(m), parse_any(digits, p, s));
            }
        }

        #[test]
        fn time_round_trip(ms in -62_167_219_200_000i64..253_402_300_800_000) {
            prop_assert_eq!(parse_rfc3339(time_text(ms).as_bytes()), Some(ms));
        }

        #[test]
        fn time_agrees_with_jiff(ms in -62_167_219_200_000i64 + 86_400_000..253_402_207_200_000) {
            let theirs = jiff::Timestamp::from_millisecond(ms).unwrap();
            prop_assert_eq!(time_text(ms), format!("{theirs:.3}"));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), near in "[-+0-9:TZe. ]{0,30}", p in 0u8..50, s in 0u8..50) {
            for b in [&bytes[..], near.as_bytes()] {
                let _ = (parse_decimal(b, p, s), parse_datetime(b), parse_int(b), parse_offset(b));
            }
        }
    }
}
