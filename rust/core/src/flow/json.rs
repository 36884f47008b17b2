//! JSON and data, one to the other without a tree in between.
//!
//! An object keeps the order of its fields; of a name that comes twice, the last value counts, in the first one's place.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::codec::text::{format_decimal, format_timestamp};
use crate::datum::{field_name, Datum};

pub fn read(bytes: &[u8]) -> Result<Datum, String> {
    serde_json::from_slice::<Read>(bytes).map(|r| r.0).map_err(|e| format!("not one JSON value: {e}"))
}

pub fn write(datum: &Datum) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(128);
    serde_json::to_writer(&mut out, &Write(datum)).map_err(|e| e.to_string())?;
    Ok(out)
}

struct Read(Datum);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Read, D::Error> {
        from.deserialize_any(Reading).map(Read)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Datum, E> {
        Ok(Datum::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Datum, E> {
        Ok(Datum::Bool(b))
    }
    fn visit_i64<E>(self, i: i64) -> Result<Datum, E> {
        Ok(Datum::Int(i))
    }
    fn visit_u64<E>(self, u: u64) -> Result<Datum, E> {
        Ok(i64::try_from(u).map_or_else(|_| Datum::Decimal(u.into(), 0), Datum::Int))
    }
    fn visit_f64<E>(self, x: f64) -> Result<Datum, E> {
        Ok(Datum::Float(x))
    }
    fn visit_str<E>(self, text: &str) -> Result<Datum, E> {
        Ok(Datum::str(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Datum, A::Error> {
        let mut found = vec![];
        while let Some(Read(item)) = items.next_element()? {
            found.push(item);
        }
        Ok(Datum::List(found.into()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Datum, A::Error> {
        let mut found: Vec<(Arc<str>, Datum)> = vec![];
        let mut places: Option<std::collections::HashMap<Arc<str>, usize>> = None;
        while let Some(Name(name)) = fields.next_key()? {
            let Read(value) = fields.next_value()?;
            if found.len() == SEARCHED_MAX && places.is_none() {
                places = Some(found.iter().enumerate().map(|(i, f)| (f.0.clone(), i)).collect());
            }
            let before = match &mut places {
                None => found.iter().position(|f| f.0 == name),
                Some(places) => {
                    let before = places.get(&name).copied();
                    if before.is_none() {
                        places.insert(name.clone(), found.len());
                    }
                    before
                }
            };
            match before {
                Some(at) => found[at].1 = value,
                None => found.push((name, value)),
            }
        }
        Ok(Datum::Map(found.into()))
    }
}

/// Among so many fields a name is looked for one by one.
const SEARCHED_MAX: usize = 16;

struct Name(Arc<str>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
        struct Naming;
        impl Visitor<'_> for Naming {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }
            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(field_name(text)))
            }
        }
        from.deserialize_str(Naming)
    }
}

struct Write<'a>(&'a Datum);

impl Serialize for Write<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = vec![];
            write(&mut out);
            String::from_utf8(out).map_err(S::Error::custom)
        };
        match self.0 {
            Datum::Null => to.serialize_unit(),
            Datum::Bool(b) => to.serialize_bool(*b),
            Datum::Int(i) => to.serialize_i64(*i),
            Datum::Float(x) if x.is_finite() => to.serialize_f64(*x),
            Datum::Float(x) => Err(S::Error::custom(format!("JSON has no {x}"))),
            Datum::Decimal(u, s) => to.serialize_str(&text(&|out| format_decimal(*u, *s, out))?),
            Datum::Str(s) => to.serialize_str(s),
            Datum::Timestamp(t) => to.serialize_str(&text(&|out| format_timestamp(*t, out))?),
            Datum::Duration(t) => to.serialize_i64(*t),
            Datum::List(items) | Datum::Tuple(items) => {
                let mut seq = to.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| seq.serialize_element(&Write(item)))?;
                seq.end()
            }
            Datum::Map(fields) => {
                let mut map = to.serialize_map(Some(fields.len()))?;
                fields.iter().try_for_each(|(name, value)| map.serialize_entry(&**name, &Write(value)))?;
                map.end()
            }
            Datum::Windowed(w) => {
                let mut map = to.serialize_map(Some(3))?;
                map.serialize_entry("key", &Write(&w.key))?;
                map.serialize_entry("start", &w.start)?;
                map.serialize_entry("end", &w.end)?;
                map.end()
            }
            Datum::Bytes(_) | Datum::Opaque(_) | Datum::Dumped(_) => {
                Err(S::Error::custom(format!("JSON has no form for {:?}", self.0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a tree of JSON says, by a way of its own.
    fn of_tree(value: serde_json::Value) -> Datum {
        use serde_json::Value;
        match value {
            Value::Null => Datum::Null,
            Value::Bool(b) => Datum::Bool(b),
            Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Datum::Int(i),
                (None, Some(u)) => Datum::Decimal(u.into(), 0),
                _ => Datum::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(s) => Datum::str(&s),
            Value::Array(items) => Datum::List(items.into_iter().map(of_tree).collect()),
            Value::Object(fields) => Datum::Map(fields.into_iter().map(|(k, v)| (Arc::from(k), of_tree(v))).collect()),
        }
    }

    fn same(text: &str) {
        let tree = serde_json::from_str(text).map(of_tree).map_err(|e| format!("not one JSON value: {e}"));
        match (read(text.as_bytes()), tree) {
            (Ok(found), Ok(tree)) => assert_eq!(found.to_bytes().unwrap(), tree.to_bytes().unwrap(), "{text}"),
            (found, tree) => assert_eq!(found.err(), tree.err(), "{text}"),
        }
    }

    #[test]
    fn a_name_that_comes_twice_has_its_last_value_in_the_first_place() {
        same(r#"{"a":1,"b":2,"a":3}"#);
        let many: Vec<String> = (0..40).map(|i| format!(r#""f{}":{i}"#, i % 25)).collect();
        same(&format!("{{{}}}", many.join(",")));
    }

    #[test]
    fn numbers_texts_and_what_is_no_json() {
        for text in [
            "18446744073709551615",
            "-9223372036854775808",
            "9223372036854775808",
            "1e3",
            "-0.0",
            "1e400",
            "0.1",
            r#""\u00e9\n\"""#,
            r#"{"\u0061":[{}, [], null]}"#,
            "",
            "{",
            "[1,]",
            "nul",
            "1 2",
            "\"\u{1}\"",
        ] {
            same(text);
        }
        same(&format!("{}{}", "[".repeat(200), "]".repeat(200)));
        assert!(read(&[b'"', 0xff, b'"']).is_err());
    }

    fn tree() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(|x| if x.is_finite() { Value::from(x) } else { Value::Null }),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 40, 25, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec(("[a-z]{0,3}", inner), 0..25)
                    .prop_map(|f| Value::Object(f.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_a_tree_says_and_writes_it_back(tree in tree()) {
            let text = tree.to_string();
            same(&text);
            let back = write(&read(text.as_bytes()).unwrap()).unwrap();
            let back: serde_json::Value = serde_json::from_slice(&back).unwrap();
            prop_assert_eq!(back, decimals_as_text(tree));
        }
    }

    /// A number above 2^63 is a decimal, and those are texts.
    fn decimals_as_text(value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::Number(n) if n.is_u64() && !n.is_i64() => Value::String(n.to_string()),
            Value::Array(items) => items.into_iter().map(decimals_as_text).collect(),
            Value::Object(fields) => fields.into_iter().map(|(k, v)| (k, decimals_as_text(v))).collect(),
            other => other,
        }
    }
}
