//! Sorted multisets as bytes: what an accumulator keeps that has to know single values.
//!
//! ```text
//!   bag     entry …                       ascending by key, then value; no entry twice, none with a count of 0
//!   entry   key blob | value blob | count zigzag
//! ```
//!
//! Keys and values are the inner, order-preserving encoding of `key.rs`, so that bytes compare as values do. A count below
//! zero is a value that was taken back before it came (a part of a table's changes on its way through a shuffle). Equal
//! multisets are equal bytes, whatever the order in which they were made: that is what lets parts be merged anywhere.
//!
//! Adding passes over the bytes up to the place of the entry and copies them: fit for hundreds and thousands of
//! entries, not for millions.

use crate::wire::{Reader, Writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    pub count: i64,
}

impl Entry<'_> {
    fn place(&self) -> (&[u8], &[u8]) {
        (self.key, self.value)
    }
    fn write(&self, out: &mut Writer) {
        out.blob(self.key);
        out.blob(self.value);
        out.zigzag(self.count);
    }
}

/// The entries of a bag, and where each ends.
struct Entries<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let r = &mut self.reader;
        Some(Entry { key: r.blob()?, value: r.blob()?, count: r.zigzag()? })
    }
}

/// In their order. What is no bag ends early.
pub fn entries(bag: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    Entries { reader: Reader::new(bag) }
}

/// `bag` with `new` added, of which the first `most` entries are kept; none: it is as it was.
pub fn add(bag: &[u8], new: Entry<'_>, most: usize) -> Option<Vec<u8>> {
    let mut reading = Entries { reader: Reader::new(bag) };
    let (mut at, mut passed) = (0, 0);
    let mut met = None;
    while let Some(entry) = reading.next() {
        match entry.place().cmp(&new.place()) {
            std::cmp::Ordering::Less => {
                passed += 1;
                at = bag.len() - reading.reader.rest.len();
                continue;
            }
            std::cmp::Ordering::Equal => met = Some((entry, bag.len() - reading.reader.rest.len())),
            std::cmp::Ordering::Greater => {}
        }
        break;
    }
    let (count, rest) = match met {
        Some((entry, end)) => (entry.count.saturating_add(new.count), &bag[end..]),
        None if passed >= most => return None,
        None => (new.count, &bag[at..]),
    };
    let mut out = Writer::default();
    out.raw(&bag[..at]);
    if count != 0 {
        Entry { count, ..new }.write(&mut out);
    }
    match most {
        usize::MAX => out.raw(rest),
        _ => entries(rest).take(most.saturating_sub(passed + 1)).for_each(|entry| entry.write(&mut out)),
    }
    Some(out.bytes)
}

/// The entries of both, counts added, of which the first `most` are kept.
pub fn merge(a: &[u8], b: &[u8], most: usize) -> Vec<u8> {
    let mut out = Writer::default();
    let (mut left, mut right) = (entries(a).peekable(), entries(b).peekable());
    let mut kept = 0;
    while kept < most {
        let entry = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(&l), Some(&r)) if l.place() == r.place() => {
                left.next();
                right.next();
                Entry { count: l.count.saturating_add(r.count), ..l }
            }
            (Some(&l), r) if r.is_none_or(|r| l.place() < r.place()) => {
                left.next();
                l
            }
            (_, Some(&r)) => {
                right.next();
                r
            }
            (Some(_), None) => unreachable!("taken above"),
        };
        if entry.count != 0 {
            entry.write(&mut out);
            kept += 1;
        }
    }
    out.bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Item = (Vec<u8>, Vec<u8>, i64);

    fn made(items: &[Item], most: usize) -> Vec<u8> {
        items.iter().fold(vec![], |bag, (key, value, count)| {
            add(&bag, Entry { key, value, count: *count }, most).unwrap_or(bag)
        })
    }

    fn told(bag: &[u8]) -> Vec<Item> {
        entries(bag).map(|e| (e.key.to_vec(), e.value.to_vec(), e.count)).collect()
    }

    fn items(counts: std::ops::Range<i64>) -> impl Strategy<Value = Vec<Item>> {
        let text = || prop::collection::vec(97u8..100, 0..3);
        prop::collection::vec((text(), text(), counts), 0..20)
    }

    proptest! {
        #[test]
        fn a_bag_is_a_sorted_map_of_counts(items in items(-2..3)) {
            let mut expected: BTreeMap<(Vec<u8>, Vec<u8>), i64> = BTreeMap::new();
            for (key, value, count) in &items {
                *expected.entry((key.clone(), value.clone())).or_default() += count;
            }
            let expected: Vec<Item> = expected.into_iter().filter(|e| e.1 != 0).map(|((k, v), n)| (k, v, n)).collect();
            prop_assert_eq!(told(&made(&items, usize::MAX)), expected);
        }

        #[test]
        fn parts_merge_to_the_whole(items in items(-2..3), cut in 0usize..20) {
            let cut = cut.min(items.len());
            let (a, b) = (made(&items[..cut], usize::MAX), made(&items[cut..], usize::MAX));
            prop_assert_eq!(merge(&a, &b, usize::MAX), made(&items, usize::MAX));
            prop_assert_eq!(merge(&b, &a, usize::MAX), made(&items, usize::MAX));
        }

        #[test]
        fn the_first_few_are_kept(items in items(1..3), cut in 0usize..20, most in 1usize..4) {
            let cut = cut.min(items.len());
            let whole: Vec<Item> = told(&made(&items, usize::MAX)).into_iter().take(most).collect();
            let places = |items: &[Item]| items.iter().map(|(k, v, _)| (k.clone(), v.clone())).collect::<Vec<_>>();
            let (a, b) = (made(&items[..cut], most), made(&items[cut..], most));
            prop_assert_eq!(places(&told(&made(&items, most))), places(&whole));
            prop_assert_eq!(places(&told(&merge(&a, &b, most))), places(&whole));
        }

        #[test]
        fn bytes_that_are_no_bag_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = add(&bytes, Entry { key: b"k", value: b"", count: 1 }, 3);
            let _ = merge(&bytes, &bytes, usize::MAX);
        }
    }
}
