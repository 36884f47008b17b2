//! One dynamic value: what keys and values of records are between operators that work record by record.
//!
//! A datum is immutable and cheap to clone. What a host language has beyond these kinds travels as an [`Opaque`] handle
//! and becomes bytes as soon as it enters a store or a topic: nothing mutable is ever shared with state.
//!
//! Two encodings, both stored:
//!
//! - [`Datum::encode`]: tagged, exact, for values and for what stands inside composite ones.
//! - [`Datum::key_bytes`]: for keys of stores. The bytes of Java's serialiser for the kind (UTF-8, big-endian numbers), so
//!   that iteration has Kafka Streams' order, and one byte behind them that names the kind, so that text and number never
//!   meet. That byte is smaller than any printable one: a key sorts before those that it begins.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::wire::{Reader, Writer};

/// A value that only the host language understands.
pub trait Opaque: Send + Sync {
    /// As bytes, from which the host makes an equal value again; the error says why that cannot be done.
    fn dump(&self) -> Result<Vec<u8>, String>;
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A key within a window `[start, end)` (or both inclusive, by the kind of window), ms.
#[derive(Clone, Debug, PartialEq)]
pub struct Windowed {
    pub key: Datum,
    pub start: i64,
    pub end: i64,
}

#[derive(Clone, Default)]
pub enum Datum {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// Unscaled value and scale.
    Decimal(i128, u8),
    Str(Arc<str>),
    Bytes(Arc<[u8]>),
    /// UTC milliseconds.
    Timestamp(i64),
    /// Milliseconds.
    Duration(i64),
    List(Arc<[Datum]>),
    Tuple(Arc<[Datum]>),
    /// An object with text keys, in its own order.
    Map(Arc<[(Arc<str>, Datum)]>),
    Windowed(Arc<Windowed>),
    /// The host's, live.
    Opaque(Arc<dyn Opaque>),
    /// The host's, as it was dumped.
    Dumped(Arc<[u8]>),
}

/// So many names of fields are kept, each in the place that its hash says.
const NAMES: usize = 512;
/// Longer ones are hardly names that come again.
const NAME_BYTES_MAX: usize = 64;

thread_local! {
    static NAMES_KNOWN: RefCell<Vec<Option<Arc<str>>>> = RefCell::new(vec![None; NAMES]);
}

/// A field's name. The same ones come with every record: those seen last are shared, and cost no memory of their own.
pub fn field_name(name: &str) -> Arc<str> {
    if name.len() > NAME_BYTES_MAX {
        return Arc::from(name);
    }
    NAMES_KNOWN.with_borrow_mut(|known| {
        let place = &mut known[xxh3_64(name.as_bytes()) as usize % NAMES];
        match place {
            Some(kept) if **kept == *name => kept.clone(),
            _ => place.insert(Arc::from(name)).clone(),
        }
    })
}

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const DECIMAL: u8 = 5;
const STR: u8 = 6;
const BYTES: u8 = 7;
const TIMESTAMP: u8 = 8;
const DURATION: u8 = 9;
const LIST: u8 = 10;
const TUPLE: u8 = 11;
const MAP: u8 = 12;
const WINDOWED: u8 = 13;
const DUMPED: u8 = 14;

impl Datum {
    pub fn str(text: &str) -> Datum {
        Datum::Str(Arc::from(text))
    }
    pub fn windowed(key: Datum, start: i64, end: i64) -> Datum {
        Datum::Windowed(Arc::new(Windowed { key, start, end }))
    }
    #[inline]
    pub fn is_null(&self) -> bool {
        matches!(self, Datum::Null)
    }
    #[inline]
    pub fn is_true(&self) -> bool {
        matches!(self, Datum::Bool(true))
    }
    /// A field of an object.
    pub fn get(&self, name: &str) -> Option<&Datum> {
        match self {
            Datum::Map(fields) => fields.iter().find(|f| &*f.0 == name).map(|f| &f.1),
            _ => None,
        }
    }

    /// Tagged and exact. The error is the host's, for a value of its own that cannot become bytes.
    pub fn encode(&self, w: &mut Writer) -> Result<(), String> {
        match self {
            Datum::Null => w.u8(NULL),
            Datum::Bool(b) => w.u8(if *b { TRUE } else { FALSE }),
            Datum::Int(i) => {
                w.u8(INT);
                w.zigzag(*i);
            }
            Datum::Float(x) => {
                w.u8(FLOAT);
                w.u64(x.to_bits());
            }
            Datum::Decimal(unscaled, scale) => {
                w.u8(DECIMAL);
                w.u8(*scale);
                w.raw(&unscaled.to_le_bytes());
            }
            Datum::Str(s) => {
                w.u8(STR);
                w.blob(s.as_bytes());
            }
            Datum::Bytes(b) => {
                w.u8(BYTES);
                w.blob(b);
            }
            Datum::Timestamp(t) => {
                w.u8(TIMESTAMP);
                w.zigzag(*t);
            }
            Datum::Duration(t) => {
                w.u8(DURATION);
                w.zigzag(*t);
            }
            Datum::List(items) | Datum::Tuple(items) => {
                w.u8(if matches!(self, Datum::List(_)) { LIST } else { TUPLE });
                w.varint(items.len() as u64);
                items.iter().try_for_each(|i| i.encode(w))?;
            }
            Datum::Map(fields) => {
                w.u8(MAP);
                w.varint(fields.len() as u64);
                for (name, value) in fields.iter() {
                    w.blob(name.as_bytes());
                    value.encode(w)?;
                }
            }
            Datum::Windowed(window) => {
                w.u8(WINDOWED);
                w.zigzag(window.start);
                w.zigzag(window.end);
                window.key.encode(w)?;
            }
            Datum::Opaque(value) => {
                w.u8(DUMPED);
                w.blob(&value.dump()?);
            }
            Datum::Dumped(bytes) => {
                w.u8(DUMPED);
                w.blob(bytes);
            }
        }
        Ok(())
    }

    pub fn decode(r: &mut Reader<'_>) -> Option<Datum> {
        fn items(r: &mut Reader<'_>) -> Option<Arc<[Datum]>> {
            let n = r.varint()? as usize;
            if n > r.rest.len() {
                return None; // each takes a byte at least
            }
            (0..n).map(|_| Datum::decode(r)).collect()
        }
        fn text(r: &mut Reader<'_>) -> Option<Arc<str>> {
            std::str::from_utf8(r.blob()?).ok().map(Arc::from)
        }
        Some(match r.u8()? {
            NULL => Datum::Null,
            FALSE => Datum::Bool(false),
            TRUE => Datum::Bool(true),
            INT => Datum::Int(r.zigzag()?),
            FLOAT => Datum::Float(f64::from_bits(r.u64()?)),
            DECIMAL => {
                let scale = r.u8()?;
                Datum::Decimal(i128::from_le_bytes(r.raw(16)?.try_into().ok()?), scale)
            }
            STR => Datum::Str(text(r)?),
            BYTES => Datum::Bytes(Arc::from(r.blob()?)),
            TIMESTAMP => Datum::Timestamp(r.zigzag()?),
            DURATION => Datum::Duration(r.zigzag()?),
            LIST => Datum::List(items(r)?),
            TUPLE => Datum::Tuple(items(r)?),
            MAP => {
                let n = r.varint()? as usize;
                if n > r.rest.len() {
                    return None;
                }
                let mut fields = Vec::with_capacity(n);
                for _ in 0..n {
                    let name = std::str::from_utf8(r.blob()?).ok()?;
                    fields.push((field_name(name), Datum::decode(r)?));
                }
                Datum::Map(fields.into())
            }
            WINDOWED => {
                let (start, end) = (r.zigzag()?, r.zigzag()?);
                Datum::windowed(Datum::decode(r)?, start, end)
            }
            DUMPED => Datum::Dumped(Arc::from(r.blob()?)),
            _ => return None,
        })
    }

    /// Passes over what `decode` would read, where it would read something.
    pub fn skip(r: &mut Reader<'_>) -> Option<()> {
        fn text(r: &mut Reader<'_>) -> Option<()> {
            std::str::from_utf8(r.blob()?).ok().map(|_| ())
        }
        match r.u8()? {
            NULL | FALSE | TRUE => {}
            INT | TIMESTAMP | DURATION => {
                r.zigzag()?;
            }
            FLOAT => {
                r.raw(8)?;
            }
            DECIMAL => {
                r.raw(17)?;
            }
            STR => text(r)?,
            BYTES | DUMPED => {
                r.blob()?;
            }
            tag @ (LIST | TUPLE | MAP) => {
                let n = r.varint()? as usize;
                if n > r.rest.len() {
                    return None;
                }
                for _ in 0..n {
                    if tag == MAP {
                        text(r)?;
                    }
                    Datum::skip(r)?;
                }
            }
            WINDOWED => {
                r.zigzag()?;
                r.zigzag()?;
                Datum::skip(r)?;
            }
            _ => return None,
        }
        Some(())
    }

    /// As the whole of some bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut w = Writer::default();
        self.encode(&mut w)?;
        Ok(w.bytes)
    }
    pub fn from_bytes(bytes: &[u8]) -> Option<Datum> {
        let mut r = Reader::new(bytes);
        let datum = Datum::decode(&mut r)?;
        r.rest.is_empty().then_some(datum)
    }

    /// As a key of a store: equal keys have equal bytes, and bytes sort as Kafka Streams' do.
    pub fn key_bytes(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(24);
        self.write_key(&mut out)?;
        Ok(out)
    }
    pub fn write_key(&self, out: &mut Vec<u8>) -> Result<(), String> {
        let tag = match self {
            Datum::Str(s) => {
                out.extend_from_slice(s.as_bytes());
                STR
            }
            Datum::Bytes(b) => {
                out.extend_from_slice(b);
                BYTES
            }
            Datum::Int(i) => {
                out.extend_from_slice(&i.to_be_bytes());
                INT
            }
            Datum::Float(x) => {
                out.extend_from_slice(&x.to_bits().to_be_bytes());
                FLOAT
            }
            // Windows are parts of their store's own keys; inside a plain store a windowed key sorts as in a topic.
            Datum::Windowed(w) => {
                w.key.write_key(out)?;
                out.extend_from_slice(&w.start.to_be_bytes());
                out.extend_from_slice(&w.end.to_be_bytes());
                WINDOWED
            }
            other => {
                out.extend_from_slice(&other.to_bytes()?);
                NULL
            }
        };
        out.push(tag);
        Ok(())
    }
    pub fn from_key_bytes(bytes: &[u8]) -> Option<Datum> {
        let (&tag, body) = bytes.split_last()?;
        Some(match tag {
            STR => Datum::Str(Arc::from(std::str::from_utf8(body).ok()?)),
            BYTES => Datum::Bytes(Arc::from(body)),
            INT => Datum::Int(i64::from_be_bytes(body.try_into().ok()?)),
            FLOAT => Datum::Float(f64::from_bits(u64::from_be_bytes(body.try_into().ok()?))),
            WINDOWED => {
                let at = body.len().checked_sub(16)?;
                let start = i64::from_be_bytes(body[at..at + 8].try_into().ok()?);
                let end = i64::from_be_bytes(body[at + 8..].try_into().ok()?);
                Datum::windowed(Datum::from_key_bytes(&body[..at])?, start, end)
            }
            NULL => Datum::from_bytes(body)?,
            _ => return None,
        })
    }
}

impl PartialEq for Datum {
    fn eq(&self, other: &Datum) -> bool {
        match (self, other) {
            (Datum::Opaque(a), Datum::Opaque(b)) if Arc::ptr_eq(a, b) => true,
            _ => matches!((self.to_bytes(), other.to_bytes()), (Ok(a), Ok(b)) if a == b),
        }
    }
}

impl fmt::Debug for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datum::Null => f.write_str("null"),
            Datum::Bool(b) => write!(f, "{b}"),
            Datum::Int(i) => write!(f, "{i}"),
            Datum::Float(x) => write!(f, "{x:?}"),
            Datum::Decimal(u, s) => write!(f, "{u}e-{s}"),
            Datum::Str(s) => write!(f, "{s:?}"),
            Datum::Bytes(b) => write!(f, "{b:?}"),
            Datum::Timestamp(t) => write!(f, "@{t}"),
            Datum::Duration(t) => write!(f, "{t}ms"),
            Datum::List(items) => f.debug_list().entries(items.iter()).finish(),
            Datum::Tuple(items) => f.debug_set().entries(items.iter()).finish(),
            Datum::Map(fields) => f.debug_map().entries(fields.iter().map(|(k, v)| (k, v))).finish(),
            Datum::Windowed(w) => write!(f, "{:?}@[{}, {}]", w.key, w.start, w.end),
            Datum::Opaque(_) => f.write_str("opaque"),
            Datum::Dumped(b) => write!(f, "dumped {} bytes", b.len()),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn data() -> impl Strategy<Value = Datum> {
        let leaf = prop_oneof![
            Just(Datum::Null),
            any::<bool>().prop_map(Datum::Bool),
            any::<i64>().prop_map(Datum::Int),
            any::<f64>().prop_map(Datum::Float),
            (any::<i128>(), 0u8..38).prop_map(|(u, s)| Datum::Decimal(u, s)),
            ".{0,6}".prop_map(|s| Datum::str(&s)),
            prop::collection::vec(any::<u8>(), 0..6).prop_map(|b| Datum::Bytes(b.into())),
            any::<i64>().prop_map(Datum::Timestamp),
            any::<i64>().prop_map(Datum::Duration),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| Datum::List(v.into())),
                prop::collection::vec(inner.clone(), 0..4).prop_map(|v| Datum::Tuple(v.into())),
                prop::collection::vec((".{0,3}", inner.clone()), 0..4)
                    .prop_map(|v| Datum::Map(v.into_iter().map(|(k, d)| (Arc::from(k.as_str()), d)).collect())),
                (inner, any::<i64>(), any::<i64>()).prop_map(|(k, s, e)| Datum::windowed(k, s, e)),
            ]
        })
    }

    proptest! {
        #[test]
        fn both_encodings_round_trip(datum in data()) {
            prop_assert_eq!(Datum::from_bytes(&datum.to_bytes().unwrap()), Some(datum.clone()));
            prop_assert_eq!(Datum::from_key_bytes(&datum.key_bytes().unwrap()), Some(datum));
        }

        #[test]
        fn what_is_read_can_be_passed_over(datum in data(), cut in 0usize..40, byte: u8) {
            let mut bytes = datum.to_bytes().unwrap();
            bytes.push(7);
            let mut r = Reader::new(&bytes);
            prop_assert_eq!((Datum::skip(&mut r), r.rest), (Some(()), &[7u8][..]));
            let at = cut % bytes.len();
            bytes[at] = byte;
            let (mut read, mut passed) = (Reader::new(&bytes), Reader::new(&bytes));
            prop_assert_eq!(Datum::decode(&mut read).map(|_| read.rest), Datum::skip(&mut passed).map(|()| passed.rest));
        }

        #[test]
        fn no_two_keys_meet(a in data(), b in data()) {
            prop_assert_eq!(a.key_bytes() == b.key_bytes(), a == b);
        }

        #[test]
        fn cut_bytes_are_refused(datum in data()) {
            let bytes = datum.to_bytes().unwrap();
            for cut in 0..bytes.len() {
                prop_assert_eq!(Datum::from_bytes(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn texts_sort_as_their_bytes_and_before_what_they_begin() {
        let sorted = ["", "a", "a ", "ab", "b", "é"];
        let keys: Vec<_> = sorted.iter().map(|s| Datum::str(s).key_bytes().unwrap()).collect();
        assert!(keys.windows(2).all(|w| w[0] < w[1]));
    }
}
