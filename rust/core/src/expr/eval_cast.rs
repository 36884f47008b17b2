//! Casts. A value that has no counterpart in the target type is an error of its row, never a wrong value.
//!
//! To `int` cuts the fraction off; to a lower scale rounds half to even; floats become decimals by their shortest text.

use super::decimal;
use super::eval_arith::{decimal_to_float, int_to_float};
use super::kernel::{checked1, kernel, merge_states, plain1, text_to, write_text, Element, Kernel};
use super::text;
use crate::column::{ERR_CAST, VALID};
use crate::types::DataType;

pub enum Cast {
    /// The same values; at most the type's name differs.
    Same,
    By(Kernel),
    Impossible,
}

#[inline]
fn some_or<T: Default>(value: Option<T>, error: u8) -> (T, u8) {
    match value {
        Some(v) => (v, VALID),
        None => (T::default(), error),
    }
}

fn to_text<T: Element>(write: impl Fn(&mut Vec<u8>, T) -> u8 + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| {
        let values = args[0].view::<T>();
        write_text(rows, merge_states(args, rows), |row, out| write(out, values.at(row)))
    })
}

fn float_to_int(x: f64) -> (i64, u8) {
    let cut = x.trunc();
    // -2^63 is a float, 2^63 - 1 is not: its neighbour upwards is out of range already.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&cut) {
        (cut as i64, VALID)
    } else {
        (0, ERR_CAST)
    }
}

/// `error` is the state of values that do not fit: `ERR_CAST` where the user wrote the cast.
pub fn cast(from: &DataType, to: &DataType, error: u8) -> Cast {
    use DataType::*;
    let fits = |unscaled: i128, max: i128| (-max..=max).contains(&unscaled);
    Cast::By(match (from, to) {
        (a, b) if a == b => return Cast::Same,
        (Int, Timestamp | Duration) | (Timestamp | Duration, Int) => return Cast::Same,
        (Decimal { precision: p, scale: s }, Decimal { precision: q, scale: t }) if s == t && p <= q => {
            return Cast::Same
        }

        (Int, Float) => int_to_float(),
        (Int, Decimal { precision, scale }) => {
            let (factor, max) = (decimal::pow10(*scale as u32), decimal::max_of(*precision));
            checked1(move |x: i64| some_or((x as i128).checked_mul(factor).filter(|v| fits(*v, max)), error))
        }
        (Int, Bool) => plain1(|x: i64| (x != 0) as u8),
        (Int, Str) => to_text(|out, x: i64| {
            out.extend_from_slice(x.to_string().as_bytes());
            VALID
        }),

        (Float, Int) => checked1(float_to_int),
        (Float, Decimal { precision, scale }) => {
            let (scale, max) = (*scale, decimal::max_of(*precision));
            checked1(move |x: f64| some_or(text::float_to_decimal(x, scale).filter(|v| fits(*v, max)), error))
        }
        (Float, Str) => to_text(|out, x: f64| {
            text::write_float(out, x);
            VALID
        }),

        (Decimal { scale, .. }, Int) => {
            let by = decimal::pow10(*scale as u32);
            checked1(move |x: i128| some_or(i64::try_from(x / by).ok(), error))
        }
        (Decimal { scale, .. }, Float) => decimal_to_float(*scale),
        (Decimal { scale: a, .. }, Decimal { precision, scale: b }) => {
            let (a, b, max) = (*a, *b, decimal::max_of(*precision));
            checked1(move |x: i128| {
                let (value, state) = decimal::rescale(x, a, b);
                some_or((state == VALID && fits(value, max)).then_some(value), error)
            })
        }
        (Decimal { scale, .. }, Str) => {
            let scale = *scale;
            to_text(move |out, x: i128| {
                text::write_decimal(out, x, scale);
                VALID
            })
        }

        (Bool, Int) => plain1(|x: u8| (x & 1) as i64),
        (Bool, Str) => to_text(|out, x: u8| {
            out.extend_from_slice(if x & 1 == 1 { b"true" } else { b"false" });
            VALID
        }),
        (Timestamp, Str) => to_text(text::write_timestamp),

        (Enum(_), Str) => kernel(|args, rows| {
            let text = args[0].text();
            write_text(rows, merge_states(args, rows), |row, out| {
                out.extend_from_slice(text.at(row));
                VALID
            })
        }),
        (Str | Enum(_), Int) => text_to(move |t| some_or(t.parse::<i64>().ok(), error)),
        (Str | Enum(_), Float) => text_to(move |t| some_or(t.parse::<f64>().ok().filter(|x| x.is_finite()), error)),
        (Str | Enum(_), Decimal { precision, scale }) => {
            let (scale, max) = (*scale, decimal::max_of(*precision));
            text_to(move |t| some_or(text::parse_decimal(t, scale).filter(|v| fits(*v, max)), error))
        }
        (Str | Enum(_), Bool) => text_to(move |t| match t {
            "true" => (1u8, VALID),
            "false" => (0, VALID),
            _ => (0, error),
        }),
        (Str | Enum(_), Timestamp) => text_to(move |t| some_or(text::parse_timestamp(t), error)),
        (Str | Enum(_), Enum(values)) => {
            let values = values.clone();
            text_to(move |t| some_or(values.iter().position(|v| v == t).map(|code| code as u32), error))
        }
        _ => return Cast::Impossible,
    })
}
