//! Arithmetic: integers and decimals are exact or an overflow, floats are numbers or `not_a_number`, by zero is null.

use super::decimal;
use super::kernel::{checked1, checked2, plain1, Element, Kernel};
use super::text;
use crate::column::{ERR_NOT_A_NUMBER, ERR_OVERFLOW, NULL, VALID};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arith {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
}

#[inline]
fn int(value: Option<i64>) -> (i64, u8) {
    match value {
        Some(v) => (v, VALID),
        None => (0, ERR_OVERFLOW),
    }
}

#[inline]
fn float(value: f64) -> (f64, u8) {
    (value, if value.is_finite() { VALID } else { ERR_NOT_A_NUMBER })
}

#[inline]
fn unless_zero<T: Element + PartialEq, R: Default>(by: T, f: impl FnOnce() -> (R, u8)) -> (R, u8) {
    if by == T::default() {
        (R::default(), NULL)
    } else {
        f()
    }
}

/// Python's `%`: exact, with the divisor's sign.
#[inline]
pub(super) fn float_mod(a: f64, b: f64) -> f64 {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        rest + b
    } else {
        rest
    }
}

/// Python's `//`: the whole number for which `a == b * (a // b) + a % b`.
#[inline]
pub(super) fn float_floordiv(a: f64, b: f64) -> f64 {
    let quotient = (a - float_mod(a, b)) / b;
    let floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor + 1.0
    } else {
        floor
    }
}

/// `Int` with `Int`; also durations and timestamps. `Div` is not here: it is between floats.
pub fn ints(op: Arith) -> Kernel {
    match op {
        Arith::Add => checked2(|a: i64, b: i64| {
            let (value, over) = a.overflowing_add(b);
            (value, over as u8 * ERR_OVERFLOW)
        }),
        Arith::Sub => checked2(|a: i64, b: i64| {
            let (value, over) = a.overflowing_sub(b);
            (value, over as u8 * ERR_OVERFLOW)
        }),
        Arith::Mul => checked2(|a: i64, b: i64| {
            let (value, over) = a.overflowing_mul(b);
            (value, over as u8 * ERR_OVERFLOW)
        }),
        Arith::FloorDiv => checked2(|a: i64, b: i64| {
            unless_zero(b, || int(a.checked_div(b).map(|q| if a % b != 0 && (a < 0) != (b < 0) { q - 1 } else { q })))
        }),
        Arith::Mod => checked2(|a: i64, b: i64| {
            unless_zero(b, || {
                let rest = a.wrapping_rem(b);
                (if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }, VALID)
            })
        }),
        Arith::Div => ints_true_div(),
    }
}

/// `Int / Int` and `Duration / Duration`: a float.
pub fn ints_true_div() -> Kernel {
    checked2(|a: i64, b: i64| unless_zero(b, || (a as f64 / b as f64, VALID)))
}

pub fn floats(op: Arith) -> Kernel {
    match op {
        Arith::Add => checked2(|a: f64, b: f64| float(a + b)),
        Arith::Sub => checked2(|a: f64, b: f64| float(a - b)),
        Arith::Mul => checked2(|a: f64, b: f64| float(a * b)),
        Arith::Div => checked2(|a: f64, b: f64| unless_zero(b, || float(a / b))),
        Arith::FloorDiv => checked2(|a: f64, b: f64| unless_zero(b, || float(float_floordiv(a, b)))),
        Arith::Mod => checked2(|a: f64, b: f64| unless_zero(b, || float(float_mod(a, b)))),
    }
}

/// The scale of a result, or the scale it would need.
pub fn decimal_scale(op: Arith, a: u8, b: u8) -> Result<u8, u32> {
    match op {
        Arith::Add | Arith::Sub | Arith::Mod => Ok(a.max(b)),
        Arith::Mul => match a as u32 + b as u32 {
            scale if scale <= 38 => Ok(scale as u8),
            scale => Err(scale),
        },
        Arith::Div => Ok(a.max(b).max(6)),
        Arith::FloorDiv => Ok(0),
    }
}

/// Exponents that bring two scales together.
pub fn exponents(a: u8, b: u8) -> (u32, u32) {
    (b.saturating_sub(a) as u32, a.saturating_sub(b) as u32)
}

pub fn decimals(op: Arith, a: u8, b: u8) -> Kernel {
    let (ea, eb) = exponents(a, b);
    let (fa, fb) = (decimal::pow10(ea), decimal::pow10(eb));
    match op {
        Arith::Add => checked2(move |x: i128, y: i128| decimal::add(x, fa, y, fb)),
        Arith::Sub => checked2(move |x: i128, y: i128| decimal::sub(x, fa, y, fb)),
        Arith::Mul => checked2(decimal::mul),
        Arith::Div => {
            let exponent = a.max(b).max(6) as u32 - a as u32 + b as u32;
            checked2(move |x: i128, y: i128| decimal::div(x, y, exponent))
        }
        Arith::FloorDiv => checked2(move |x: i128, y: i128| decimal::floordiv(x, ea, y, eb)),
        Arith::Mod => checked2(move |x: i128, y: i128| decimal::modulo(x, ea, y, eb)),
    }
}

pub fn neg_int() -> Kernel {
    checked1(|a: i64| int(a.checked_neg()))
}
pub fn abs_int() -> Kernel {
    checked1(|a: i64| int(a.checked_abs()))
}
pub fn neg_float() -> Kernel {
    plain1(|a: f64| -a)
}
pub fn abs_float() -> Kernel {
    plain1(|a: f64| a.abs())
}
pub fn neg_decimal() -> Kernel {
    plain1(|a: i128| a.wrapping_neg())
}
pub fn abs_decimal() -> Kernel {
    plain1(|a: i128| a.wrapping_abs())
}
pub fn whole_float(up: bool) -> Kernel {
    if up {
        plain1(|a: f64| a.ceil())
    } else {
        plain1(|a: f64| a.floor())
    }
}
pub fn whole_decimal(scale: u8, up: bool) -> Kernel {
    plain1(move |a: i128| decimal::to_whole(a, scale, up))
}

/// Half to even, on the shortest decimal text of the float: 2.675 to two digits is 2.68, although the double is a
/// little less.
pub fn round_float(digits: u32) -> Kernel {
    let factor = 10f64.powi(digits.min(22) as i32);
    checked1(move |x: f64| float(rounded(x, digits, factor)))
}

/// See [`round_float`]; `factor` is `10^digits`.
pub(super) fn rounded(x: f64, digits: u32, factor: f64) -> f64 {
    let shifted = x * factor;
    let fraction = (shifted - shifted.trunc()).abs();
    // Far from a tie and exact: rounding the product is rounding the text.
    if digits <= 22 && shifted.abs() < 1e9 && (fraction - 0.5).abs() > 1e-5 {
        return shifted.round() / factor;
    }
    round_by_text(x, digits)
}

fn round_by_text(x: f64, digits: u32) -> f64 {
    let shortest = format!("{:e}", x.abs());
    let Some((mantissa, exponent)) = shortest.split_once('e') else { return x };
    let exponent: i64 = exponent.parse().unwrap_or(0);
    let mut figures: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect();
    // Figure `i` counts 10^(exponent - i); those below 10^-digits go.
    let keep = exponent + digits as i64 + 1;
    if keep >= figures.len() as i64 {
        return x;
    }
    if keep < 0 {
        return 0f64.copysign(x);
    }
    let cut = keep as usize;
    // The shortest text has no zeros at its end: a single 5 is a tie, and goes to the even neighbour.
    let tie = figures[cut] == 5 && figures.len() == cut + 1;
    let up = if tie { cut > 0 && figures[cut - 1] % 2 == 1 } else { figures[cut] >= 5 };
    figures.truncate(keep as usize);
    let mut exponent = exponent;
    if up {
        let mut at = figures.len();
        loop {
            if at == 0 {
                figures.insert(0, 1);
                exponent += 1;
                break;
            }
            at -= 1;
            if figures[at] == 9 {
                figures[at] = 0;
            } else {
                figures[at] += 1;
                break;
            }
        }
    }
    if figures.is_empty() {
        return 0f64.copysign(x);
    }
    let last = exponent - (figures.len() as i64 - 1);
    let mut text: String = figures.iter().map(|d| (d + b'0') as char).collect();
    text.push_str(&format!("e{last}"));
    text.parse::<f64>().unwrap_or(x).copysign(x)
}

pub fn round_decimal(from: u8, to: u8) -> Kernel {
    checked1(move |a: i128| decimal::rescale(a, from, to))
}

pub fn int_to_float() -> Kernel {
    plain1(|a: i64| a as f64)
}
pub fn decimal_to_float(scale: u8) -> Kernel {
    checked1(move |a: i128| float(text::decimal_to_float(a, scale)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_round_as_written() {
        for (x, digits, want) in [
            (2.675, 2, 2.68),
            (-2.675, 2, -2.68),
            (2.665, 2, 2.66),
            (2.6650001, 2, 2.67),
            (0.5, 0, 0.0),
            (1.5, 0, 2.0),
            (2.5, 0, 2.0),
            (-0.5, 0, 0.0),
            (0.49, 0, 0.0),
            (0.04, 0, 0.0),
            (9.995, 2, 10.0),
            (0.05, 1, 0.0),
            (0.15, 1, 0.2),
            (1e300, 2, 1e300),
            (5e-324, 3, 0.0),
            (123456789012.345, 2, 123456789012.34),
        ] {
            assert_eq!(round_by_text(x, digits), want, "{x}");
        }
    }

    #[test]
    fn floats_divide_like_python() {
        assert_eq!(float_floordiv(1.0, 0.1), 9.0);
        assert_eq!(float_mod(-7.5, 2.0), 0.5);
        assert_eq!(float_floordiv(-7.5, 2.0), -4.0);
        assert_eq!(float_mod(7.5, -2.0), -0.5);
    }
}
