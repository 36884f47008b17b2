//! Keys and values of topics: bytes to data and back, as Java's serialisers write them.
//!
//! | name | datum | bytes |
//! |---|---|---|
//! | `string` | text | UTF-8 |
//! | `bytes` | bytes | themselves |
//! | `int16 int32 int64` | int | big-endian two's complement |
//! | `float32 float64` | float | big-endian IEEE 754 |
//! | `boolean` | bool | one byte, 0 or 1 |
//! | `uuid` | text | its 36 characters, in lower case as Java's `UUID` writes them |
//! | `{"decimal": {"scale": n}}` | decimal | the unscaled number, big-endian two's complement, as short as it can be: `BigDecimal.unscaledValue().toByteArray()`, as Kafka Connect and Avro have it |
//! | `json` | anything JSON has | JSON; decimals as text, times as RFC 3339, times and decimals are not read back |
//! | `void` | null | none; any bytes are malformed |
//! | `internal`, `internal_key` | anything | [`Datum::encode`], [`Datum::key_bytes`]; only on topics that an application writes for itself |
//! | `{"time_windowed": {"key": …, "size_ms": n}}` | windowed key | the key, then the start as `int64` |
//! | `{"session_windowed": {"key": …}}` | windowed key | the key, then the end and the start as `int64` |
//! | `{"list": {"item": …}}` | list | as Java's `ListSerializer`: see `List` |
//! | `{"python": {"serialize": f, "deserialize": g}}` | anything | what the callables make of it |
//!
//! Absent bytes are null and null is absent bytes, always. Bytes that cannot be read are a dead letter: the reason is
//! `malformed_key` or `malformed_value`, with the kind in the message.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::json;
use crate::datum::Datum;
use crate::error::Fatal;
use crate::expr::Fault;
use crate::expr::Foreign;
use crate::types::DECIMAL_PRECISION_MAX;

/// Why bytes cannot be read or written.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// They, or the value, are at fault.
    Bad(String),
    /// What a callable needs does not answer: the record is not to blame.
    Unavailable(String),
}

/// The reason that a callable's fault has when what it needs does not answer.
pub const UNAVAILABLE: &str = "unavailable";

pub fn unavailable(text: impl Into<String>) -> Fatal {
    Fatal::new("registry_unavailable", text)
}

impl Trouble {
    fn called((reason, text): Fault) -> Trouble {
        match reason {
            UNAVAILABLE => Trouble::Unavailable(text),
            _ => Trouble::Bad(text),
        }
    }
    /// As a record's fault, under this reason.
    pub fn fault(self, reason: &'static str) -> Fault {
        match self {
            Trouble::Bad(text) => (reason, text),
            Trouble::Unavailable(text) => (UNAVAILABLE, text),
        }
    }
    pub fn text(self) -> String {
        match self {
            Trouble::Bad(text) | Trouble::Unavailable(text) => text,
        }
    }
}

impl From<String> for Trouble {
    fn from(text: String) -> Trouble {
        Trouble::Bad(text)
    }
}

impl From<&str> for Trouble {
    fn from(text: &str) -> Trouble {
        Trouble::Bad(text.into())
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serde {
    String,
    Bytes,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Boolean,
    Uuid,
    Decimal {
        scale: u8,
    },
    Json,
    Void,
    Internal,
    InternalKey,
    TimeWindowed {
        key: Box<Serde>,
        size_ms: i64,
    },
    SessionWindowed {
        key: Box<Serde>,
    },
    /// `0`, how many nulls, where they stand, how many items, those that are there: of items that are all of one length. Else `1`,
    /// how many items, and of each its length (`-1`: null) and its bytes. Numbers are `int32`.
    List {
        item: Box<Serde>,
    },
    Python {
        serialize: Option<usize>,
        deserialize: Option<usize>,
    },
}

impl Serde {
    pub fn read(&self, bytes: Option<&[u8]>, foreign: &dyn Foreign) -> Result<Datum, Trouble> {
        let Some(bytes) = bytes else { return Ok(Datum::Null) };
        fn fixed<const N: usize>(bytes: &[u8], name: &str) -> Result<[u8; N], String> {
            bytes.try_into().map_err(|_| format!("{name} has {N} bytes, these are {}", bytes.len()))
        }
        Ok(match self {
            Serde::String => {
                Datum::str(std::str::from_utf8(bytes).map_err(|e| format!("string is UTF-8, this is not: {e}"))?)
            }
            Serde::Uuid => {
                let text = std::str::from_utf8(bytes).ok().filter(|t| is_uuid(t));
                Datum::str(&text.ok_or("uuid has 36 characters, these are not")?.to_ascii_lowercase())
            }
            Serde::Decimal { scale } => {
                let range = || format!("a decimal has at most {DECIMAL_PRECISION_MAX} digits, these bytes have more");
                if bytes.is_empty() || bytes.len() > 16 {
                    return Err(if bytes.is_empty() {
                        "a decimal has at least one byte".into()
                    } else {
                        range().into()
                    });
                }
                let fill = if bytes[0] & 0x80 != 0 { 0xff } else { 0 };
                let mut whole = [fill; 16];
                whole[16 - bytes.len()..].copy_from_slice(bytes);
                let unscaled = i128::from_be_bytes(whole);
                if unscaled.unsigned_abs() >= 10u128.pow(DECIMAL_PRECISION_MAX.into()) {
                    return Err(range().into());
                }
                Datum::Decimal(unscaled, *scale)
            }
            Serde::Bytes => Datum::Bytes(Arc::from(bytes)),
            Serde::Int16 => Datum::Int(i16::from_be_bytes(fixed(bytes, "int16")?).into()),
            Serde::Int32 => Datum::Int(i32::from_be_bytes(fixed(bytes, "int32")?).into()),
            Serde::Int64 => Datum::Int(i64::from_be_bytes(fixed(bytes, "int64")?)),
            Serde::Float32 => Datum::Float(f32::from_be_bytes(fixed(bytes, "float32")?).into()),
            Serde::Float64 => Datum::Float(f64::from_be_bytes(fixed(bytes, "float64")?)),
            Serde::Boolean => match fixed::<1>(bytes, "boolean")? {
                [0] => Datum::Bool(false),
                [1] => Datum::Bool(true),
                [other] => return Err(format!("boolean is 0 or 1, not {other}").into()),
            },
            Serde::Json => json::read(bytes)?,
            Serde::Void => return Err("void has no bytes, these are some".into()),
            Serde::Internal => Datum::from_bytes(bytes).ok_or("not what this application writes")?,
            Serde::InternalKey => Datum::from_key_bytes(bytes).ok_or("not what this application writes")?,
            Serde::TimeWindowed { key, size_ms } => {
                let (inner, start) = bytes.split_last_chunk::<8>().ok_or("a windowed key has at least 8 bytes")?;
                let start = i64::from_be_bytes(*start);
                Datum::windowed(key.read(Some(inner), foreign)?, start, start.saturating_add(*size_ms))
            }
            Serde::SessionWindowed { key } => {
                let short = "a session's key has at least 16 bytes";
                let (rest, start) = bytes.split_last_chunk::<8>().ok_or(short)?;
                let (inner, end) = rest.split_last_chunk::<8>().ok_or(short)?;
                let (start, end) = (i64::from_be_bytes(*start), i64::from_be_bytes(*end));
                Datum::windowed(key.read(Some(inner), foreign)?, start, end)
            }
            Serde::List { item } => Datum::List(item.read_list(bytes, foreign)?.into()),
            Serde::Python { deserialize, .. } => match deserialize {
                Some(f) => foreign.apply(*f, &[Datum::Bytes(Arc::from(bytes))]).map_err(Trouble::called)?,
                None => return Err("this serde has no deserializer".into()),
            },
        })
    }

    pub fn write(&self, datum: &Datum, foreign: &dyn Foreign) -> Result<Option<Vec<u8>>, Trouble> {
        if datum.is_null() {
            return Ok(None);
        }
        let wrong = |what: &str| Err(Trouble::Bad(format!("{what} cannot write {datum:?}")));
        let int = |low: i64, high: i64, what: &str| match datum {
            Datum::Int(i) if (low..=high).contains(i) => Ok(*i),
            Datum::Int(i) => Err(format!("{i} does not fit {what}")),
            _ => Err(format!("{what} cannot write {datum:?}")),
        };
        let float = |what: &str| match datum {
            Datum::Float(x) => Ok(*x),
            Datum::Int(i) => Ok(*i as f64),
            _ => Err(format!("{what} cannot write {datum:?}")),
        };
        Ok(Some(match self {
            Serde::String => match datum {
                Datum::Str(s) => s.as_bytes().to_vec(),
                _ => return wrong("string"),
            },
            Serde::Uuid => match datum {
                Datum::Str(s) if is_uuid(s) => s.to_ascii_lowercase().into_bytes(),
                _ => return wrong("uuid"),
            },
            Serde::Decimal { scale } => {
                let scaled = match datum {
                    Datum::Int(i) => rescaled((*i).into(), 0, *scale),
                    Datum::Decimal(u, s) => rescaled(*u, *s, *scale),
                    _ => return wrong("decimal"),
                };
                let Some(unscaled) = scaled else {
                    let limit = format!("{DECIMAL_PRECISION_MAX} digits, {scale} of them after the point");
                    return Err(format!("{datum:?} does not fit {limit}: round it first").into());
                };
                let whole = unscaled.to_be_bytes();
                let fill = if unscaled < 0 { 0xff } else { 0 };
                // The first byte that stays must show the sign.
                let skip = (0..15).take_while(|&i| whole[i] == fill && (whole[i + 1] ^ fill) & 0x80 == 0).count();
                whole[skip..].to_vec()
            }
            Serde::Bytes => match datum {
                Datum::Bytes(b) => b.to_vec(),
                _ => return wrong("bytes"),
            },
            Serde::Int16 => (int(i16::MIN.into(), i16::MAX.into(), "int16")? as i16).to_be_bytes().to_vec(),
            Serde::Int32 => (int(i32::MIN.into(), i32::MAX.into(), "int32")? as i32).to_be_bytes().to_vec(),
            Serde::Int64 => int(i64::MIN, i64::MAX, "int64")?.to_be_bytes().to_vec(),
            Serde::Float32 => (float("float32")? as f32).to_be_bytes().to_vec(),
            Serde::Float64 => float("float64")?.to_be_bytes().to_vec(),
            Serde::Boolean => match datum {
                Datum::Bool(b) => vec![*b as u8],
                _ => return wrong("boolean"),
            },
            Serde::Json => json::write(datum)?,
            Serde::Void => return wrong("void"),
            Serde::Internal => datum.to_bytes()?,
            Serde::InternalKey => datum.key_bytes()?,
            Serde::TimeWindowed { key, .. } | Serde::SessionWindowed { key } => {
                let Datum::Windowed(w) = datum else { return wrong("a windowed serde") };
                let mut out = key.write(&w.key, foreign)?.unwrap_or_default();
                if matches!(self, Serde::SessionWindowed { .. }) {
                    out.extend_from_slice(&w.end.to_be_bytes());
                }
                out.extend_from_slice(&w.start.to_be_bytes());
                out
            }
            Serde::List { item } => match datum {
                Datum::List(items) | Datum::Tuple(items) => item.write_list(items, foreign)?,
                _ => return wrong("list"),
            },
            Serde::Python { serialize, .. } => match serialize {
                Some(f) => match foreign.apply(*f, std::slice::from_ref(datum)).map_err(Trouble::called)? {
                    Datum::Bytes(b) => b.to_vec(),
                    Datum::Str(s) => s.as_bytes().to_vec(),
                    Datum::Null => return Ok(None),
                    other => return Err(format!("a serializer returns bytes, not {other:?}").into()),
                },
                None => return Err("this serde has no serializer".into()),
            },
        }))
    }

    /// How long everything is that it writes, of the kinds that Java's lists know.
    fn length(&self) -> Option<usize> {
        match self {
            Serde::Int16 => Some(2),
            Serde::Int32 | Serde::Float32 => Some(4),
            Serde::Int64 | Serde::Float64 => Some(8),
            Serde::Uuid => Some(36),
            _ => None,
        }
    }

    fn write_list(&self, items: &[Datum], foreign: &dyn Foreign) -> Result<Vec<u8>, Trouble> {
        let number = |n: usize| i32::try_from(n).map(i32::to_be_bytes).map_err(|_| "a list of more than 2 GiB");
        let mut out = vec![u8::from(self.length().is_none())];
        if self.length().is_some() {
            let nulls: Vec<usize> = (0..items.len()).filter(|&i| items[i].is_null()).collect();
            out.extend(number(nulls.len())?);
            for at in nulls {
                out.extend(number(at)?);
            }
        }
        out.extend(number(items.len())?);
        for item in items {
            match (self.write(item, foreign)?, self.length()) {
                (Some(bytes), Some(_)) => out.extend(bytes),
                (None, Some(_)) => {}
                (Some(bytes), None) => {
                    out.extend(number(bytes.len())?);
                    out.extend(bytes);
                }
                (None, None) => out.extend((-1i32).to_be_bytes()),
            }
        }
        Ok(out)
    }

    fn read_list(&self, bytes: &[u8], foreign: &dyn Foreign) -> Result<Vec<Datum>, Trouble> {
        const CUT: &str = "a list ends too early";
        fn number(rest: &mut &[u8]) -> Result<i32, &'static str> {
            let (bytes, behind) = rest.split_first_chunk::<4>().ok_or(CUT)?;
            *rest = behind;
            Ok(i32::from_be_bytes(*bytes))
        }
        fn count(rest: &mut &[u8], most: usize) -> Result<usize, &'static str> {
            usize::try_from(number(rest)?).ok().filter(|&n| n <= most).ok_or("a list of more items than it has bytes")
        }
        fn part<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
            let (part, behind) = rest.split_at_checked(length).ok_or(CUT)?;
            *rest = behind;
            Ok(part)
        }
        let (kind, mut rest) = bytes.split_first().ok_or(CUT)?;
        let fixed = match kind {
            0 => Some(self.length().ok_or("a list of items of one length, which this serde's items are not")?),
            1 => None,
            _ => return Err("a list begins with 0 or 1, these bytes do not".into()),
        };
        let mut nulls = vec![];
        if fixed.is_some() {
            for _ in 0..count(&mut rest, bytes.len())? {
                nulls.push(count(&mut rest, usize::MAX)?);
            }
        }
        let items = count(&mut rest, bytes.len() + nulls.len())?;
        let mut out = Vec::with_capacity(items);
        for at in 0..items {
            let length = match fixed {
                Some(_) if nulls.contains(&at) => -1,
                Some(length) => length as i32,
                None => number(&mut rest)?,
            };
            out.push(match usize::try_from(length) {
                Ok(length) => self.read(Some(part(&mut rest, length)?), foreign)?,
                Err(_) => Datum::Null,
            });
        }
        Ok(out)
    }

    /// The same as `partition_bytes` of a key that has been written, taken from what was written. None: it does not stand there.
    pub fn partition_part<'a>(&self, datum: &Datum, written: &'a [u8]) -> Option<&'a [u8]> {
        let behind = match (self, datum) {
            (_, Datum::Null) => return None,
            (Serde::TimeWindowed { .. }, Datum::Windowed(w)) if !w.key.is_null() => 8,
            (Serde::SessionWindowed { .. }, Datum::Windowed(w)) if !w.key.is_null() => 16,
            (Serde::TimeWindowed { .. } | Serde::SessionWindowed { .. }, _) => return None,
            (Serde::InternalKey, Datum::Windowed(_)) => return None,
            (Serde::InternalKey, _) => 1,
            _ => 0,
        };
        written.get(..written.len().checked_sub(behind)?)
    }

    /// The bytes by which a key is partitioned: of a windowed key those of the key inside.
    pub fn partition_bytes(&self, datum: &Datum, foreign: &dyn Foreign) -> Result<Option<Vec<u8>>, Trouble> {
        match (self, datum) {
            (Serde::TimeWindowed { key, .. } | Serde::SessionWindowed { key }, Datum::Windowed(w)) => {
                key.write(&w.key, foreign)
            }
            // The serialiser's own bytes, without the kind behind them: where the same key of a user's topic is.
            (Serde::InternalKey, Datum::Windowed(w)) => Serde::InternalKey.partition_bytes(&w.key, foreign),
            (Serde::InternalKey, _) => Ok(self.write(datum, foreign)?.map(|mut bytes| {
                bytes.pop();
                bytes
            })),
            _ => self.write(datum, foreign),
        }
    }
}

/// Exactly, or not at all.
fn rescaled(unscaled: i128, from: u8, to: u8) -> Option<i128> {
    let made = match from <= to {
        true => unscaled.checked_mul(10i128.checked_pow((to - from).into())?)?,
        false => {
            let by = 10i128.checked_pow((from - to).into())?;
            (unscaled % by == 0).then_some(unscaled / by)?
        }
    };
    (made.unsigned_abs() < 10u128.pow(DECIMAL_PRECISION_MAX.into())).then_some(made)
}

fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| if dashes.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::tests::data;
    use crate::expr::NoForeign;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_javas() {
        let cases: Vec<(Serde, Datum, &[u8])> = vec![
            (Serde::String, Datum::str("é"), &[0xc3, 0xa9]),
            (Serde::Int16, Datum::Int(-2), &[0xff, 0xfe]),
            (Serde::Int32, Datum::Int(-1), &[0xff; 4]),
            (Serde::Int64, Datum::Int(258), &[0, 0, 0, 0, 0, 0, 1, 2]),
            (Serde::Float32, Datum::Float(1.5), &[0x3f, 0xc0, 0, 0]),
            (Serde::Float64, Datum::Float(-2.0), &[0xc0, 0, 0, 0, 0, 0, 0, 0]),
            (Serde::Boolean, Datum::Bool(true), &[1]),
            (Serde::Decimal { scale: 2 }, Datum::Decimal(0, 2), &[0]),
            (Serde::Decimal { scale: 2 }, Datum::Decimal(127, 2), &[0x7f]),
            (Serde::Decimal { scale: 2 }, Datum::Decimal(128, 2), &[0, 0x80]),
            (Serde::Decimal { scale: 0 }, Datum::Decimal(-128, 0), &[0x80]),
            (Serde::Decimal { scale: 0 }, Datum::Decimal(-129, 0), &[0xff, 0x7f]),
            (
                Serde::TimeWindowed { key: Box::new(Serde::String), size_ms: 10 },
                Datum::windowed(Datum::str("k"), 5, 15),
                &[b'k', 0, 0, 0, 0, 0, 0, 0, 5],
            ),
            (
                Serde::SessionWindowed { key: Box::new(Serde::String) },
                Datum::windowed(Datum::str("k"), 5, 7),
                &[b'k', 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5],
            ),
            (Serde::Json, Datum::Map(Arc::from([(Arc::from("a"), Datum::Int(1))])), br#"{"a":1}"#),
        ];
        for (serde, datum, bytes) in cases {
            assert_eq!(serde.write(&datum, &NoForeign).unwrap().as_deref(), Some(bytes), "{serde:?}");
            assert_eq!(serde.read(Some(bytes), &NoForeign).unwrap(), datum, "{serde:?}");
            assert_eq!(serde.write(&Datum::Null, &NoForeign).unwrap(), None);
            assert!(serde.read(None, &NoForeign).unwrap().is_null());
        }
    }

    proptest! {
        #[test]
        fn the_part_to_partition_by_is_what_would_be_written_alone(key in data(), start: i64, end: i64) {
            let serdes = [
                Serde::InternalKey,
                Serde::Internal,
                Serde::String,
                Serde::Int64,
                Serde::TimeWindowed { key: Box::new(Serde::String), size_ms: 10 },
                Serde::TimeWindowed { key: Box::new(Serde::InternalKey), size_ms: 10 },
                Serde::SessionWindowed { key: Box::new(Serde::Bytes) },
            ];
            for (serde, key) in serdes.iter().flat_map(|s| [(s, key.clone()), (s, Datum::windowed(key.clone(), start, end))]) {
                let Ok(Some(written)) = serde.write(&key, &NoForeign) else { continue };
                let Some(part) = serde.partition_part(&key, &written) else { continue };
                let alone = serde.partition_bytes(&key, &NoForeign).unwrap();
                prop_assert_eq!(alone.as_deref(), Some(part));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for (serde, bytes) in [
            (Serde::String, &[0xff][..]),
            (Serde::Int64, &[0; 4]),
            (Serde::Boolean, &[2]),
            (Serde::Uuid, b"no"),
            (Serde::Json, b"{"),
            (Serde::Internal, &[99]),
            (Serde::Void, b"x"),
            (Serde::Decimal { scale: 2 }, b""),
            (Serde::Decimal { scale: 2 }, &[0x7f; 16]),
            (Serde::Decimal { scale: 2 }, &[0; 17]),
        ] {
            assert!(serde.read(Some(bytes), &NoForeign).is_err(), "{serde:?}");
        }
        assert!(Serde::Int32.write(&Datum::Int(1 << 40), &NoForeign).is_err());
        assert!(Serde::String.write(&Datum::Int(1), &NoForeign).is_err());
        assert!(Serde::Decimal { scale: 1 }.write(&Datum::Decimal(125, 2), &NoForeign).is_err());
        assert!(Serde::Decimal { scale: 1 }.write(&Datum::Float(0.5), &NoForeign).is_err());
        assert_eq!(Serde::Decimal { scale: 1 }.write(&Datum::Decimal(120, 2), &NoForeign), Ok(Some(vec![12])));
    }
}
