//! A store of so many keys: what was not used for longest goes when there is one too many.
//!
//! ```text
//!   k  key        ->  number, time, value
//!   t  number     ->  key              the order of use, ascending
//! ```
//!
//! Reading is a use, and writes its new place in the order, so that a restart and a rollback change nothing (Kafka Streams
//! forgets after a restart who was only read).

use super::store::View;
use super::stores::{read_timed, write_timed, Store, Timed, BY_KEY, BY_TIME};
use super::Failure;
use crate::datum::Datum;

fn entry_key(key: &[u8]) -> Vec<u8> {
    [&[BY_KEY][..], key].concat()
}
fn use_key(number: u64) -> Vec<u8> {
    [&[BY_TIME][..], &number.to_be_bytes()].concat()
}

/// The number of its last use, and the rest.
fn split(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, value) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), value))
}

/// What an entry's bytes hold.
pub(super) fn lru_value(bytes: &[u8]) -> Option<Timed> {
    read_timed(split(bytes)?.1)
}

impl Store {
    /// Looks without using.
    pub fn lru_peek(&self, view: View, key: &[u8]) -> Option<Timed> {
        lru_value(&self.bytes.get_in(view, &entry_key(key))?)
    }

    pub fn lru_get(&mut self, key: &[u8]) -> Option<Timed> {
        let (number, value) = split(&self.bytes.get(&entry_key(key))?).map(|(n, v)| (n, v.to_vec()))?;
        self.lru_place(key, Some(number), &value);
        read_timed(&value)
    }

    /// A null value deletes.
    pub fn lru_put(&mut self, key: &[u8], value: &Datum, ts: i64) -> Result<(), Failure> {
        let before = self.bytes.get(&entry_key(key)).and_then(|v| split(&v).map(|(number, _)| number));
        if value.is_null() {
            self.bytes.put(&entry_key(key), None);
            if let Some(number) = before {
                self.bytes.put(&use_key(number), None);
            }
            return Ok(());
        }
        self.lru_place(key, before, &write_timed(value, ts)?);
        while self.bytes.len() / 2 > self.spec.max_entries.unwrap_or(usize::MAX) {
            let oldest = self.bytes.prefix(&[BY_TIME]).next().map(|(k, v)| (k.to_vec(), v.to_vec()));
            let Some((place, key)) = oldest else { break };
            self.bytes.put(&place, None);
            self.bytes.put(&entry_key(&key), None);
        }
        Ok(())
    }

    /// Writes an entry as the one that was used last.
    fn lru_place(&mut self, key: &[u8], before: Option<u64>, value: &[u8]) {
        let last = self.bytes.prefix(&[BY_TIME]).next_back();
        let last = last.and_then(|(k, _)| Some(u64::from_be_bytes(k[1..].try_into().ok()?)));
        if before.is_some() && before == last && self.bytes.get(&entry_key(key)).is_some_and(|b| b[8..] == *value) {
            return; // nothing changes
        }
        if let Some(number) = before {
            self.bytes.put(&use_key(number), None);
        }
        let number = last.map_or(0, |n| n + 1);
        self.bytes.put(&use_key(number), Some(key));
        self.bytes.put(&entry_key(key), Some(&[&number.to_be_bytes()[..], value].concat()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// It is a list with the last used at its end.
        #[test]
        fn it_is_a_list_in_order_of_use(
            steps in prop::collection::vec((0u8..3, 0u8..6, 0i64..100), 0..80),
            max in 1usize..5,
        ) {
            let spec = format!(r#"{{"name": "s", "kind": "lru", "max_entries": {max}}}"#);
            let mut s = Store::new(serde_json::from_str(&spec).unwrap());
            let mut model: Vec<(u8, i64)> = vec![];
            for (what, key, value) in steps {
                let bytes = Datum::Int(key.into()).key_bytes().unwrap();
                let before = model.iter().position(|e| e.0 == key).map(|i| model.remove(i));
                match what {
                    0 => {
                        prop_assert_eq!(s.lru_get(&bytes).map(|v| v.0), before.map(|e| Datum::Int(e.1)));
                        model.extend(before);
                    }
                    1 => s.lru_put(&bytes, &Datum::Null, 0).unwrap(),
                    _ => {
                        s.lru_put(&bytes, &Datum::Int(value), 0).unwrap();
                        model.push((key, value));
                        if model.len() > max {
                            model.remove(0);
                        }
                    }
                }
                let mut expected = model.clone();
                expected.sort_unstable();
                let found = s.scan(View::Present, &Default::default()).0;
                let found: Vec<_> = found.into_iter().map(|e| (e.key, e.value)).collect();
                let expected: Vec<_> = expected.into_iter().map(|(k, v)| (Datum::Int(k.into()), Datum::Int(v))).collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(s.entries() as usize, model.len());
            }
        }
    }
}
