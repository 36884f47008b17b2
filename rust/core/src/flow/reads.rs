//! Reading stores: by processors, which see all that was written, and by queries from outside, which see what is committed.
//!
//! A read is a range of keys (or a prefix, or one key), for stores with times a range of times as well, forwards or backwards,
//! a page at a time: `after` is where the last page ended. What has outlived its retention is not seen, whether or not it
//! is still there.
//!
//! | kind | order | times |
//! |---|---|---|
//! | `key_value` | key | |
//! | `window`, `series` | start, key; of one key: start | of starts |
//! | `session` | end, key, start downwards | the earliest end, the latest start |

use std::ops::Bound;

use super::store::View;
use super::stores::{
    read_timed, series_key, session_key, split_time, time_bytes, time_key, Store, StoreKind, Timed, BY_KEY, BY_TIME,
};
use super::versions::{prefix_of, version_key};
use super::Failure;
use crate::datum::Datum;

/// What is asked for. Keys are key bytes; both bounds are inclusive, as are those of times.
#[derive(Clone, Debug)]
pub struct Span {
    pub from: Option<Vec<u8>>,
    pub to: Option<Vec<u8>>,
    /// Of the key's own bytes; instead of `from` and `to`.
    pub prefix: Option<Vec<u8>>,
    pub times: (i64, i64),
    pub reverse: bool,
    /// Where the last page ended.
    pub after: Option<Vec<u8>>,
    pub limit: usize,
}

impl Default for Span {
    fn default() -> Span {
        let times = (i64::MIN, i64::MAX);
        Span { from: None, to: None, prefix: None, times, reverse: false, after: None, limit: usize::MAX }
    }
}

impl Span {
    pub fn takes_key(&self, key: &[u8]) -> bool {
        match &self.prefix {
            Some(prefix) => key.starts_with(prefix),
            None => {
                self.from.as_ref().is_none_or(|from| key >= &from[..])
                    && self.to.as_ref().is_none_or(|to| key <= &to[..])
            }
        }
    }

    /// The range of whole keys `[from, to]`, less what earlier pages had.
    fn rest<'a>(&'a self, from: Bound<&'a [u8]>, to: Bound<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
        match (&self.after, self.reverse) {
            (None, _) => (from, to),
            (Some(after), false) => (Bound::Excluded(after), to),
            (Some(after), true) => (from, Bound::Excluded(after)),
        }
    }
}

/// An entry of a store. `start` and `end` are those of its window, where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: Datum,
    pub start: i64,
    pub end: i64,
    pub value: Datum,
    pub ts: i64,
}

/// Told of a window its place, the key's bytes, the start and the value; whether to go on.
type Each<'a> = dyn FnMut(&[u8], &[u8], i64, Timed) -> bool + 'a;

/// A page, and where it ended if there may be more.
pub type Page = (Vec<Entry>, Option<Vec<u8>>);

impl Store {
    /// The first time that is not yet forgotten, of windows.
    fn first_living(&self) -> i64 {
        self.expired_to().saturating_add(1)
    }

    /// The value of one key of a store without times.
    pub fn get_in(&self, view: View, key: &[u8]) -> Option<Timed> {
        if self.spec.kind == StoreKind::Lru {
            return self.lru_peek(view, key);
        }
        read_timed(&self.bytes.get_in(view, key)?)
    }

    /// The value of one window: of a `window` or `series` store by its start, of a `session` store by both ends.
    pub fn get_window_in(&self, view: View, key: &[u8], start: i64, end: i64) -> Option<Timed> {
        let (time, at) = match self.spec.kind {
            StoreKind::Window | StoreKind::KeyValue => (start, time_key(start, key)),
            StoreKind::Series => (start, series_key(key, start, 0)),
            StoreKind::Session => (end, session_key(key, end, start)),
            StoreKind::Versioned | StoreKind::Lru | StoreKind::Buffer | StoreKind::Suppress | StoreKind::Patterns => {
                return None
            }
        };
        (time >= self.first_living()).then(|| self.get_in(view, &at)).flatten()
    }

    /// Puts a value under its window, in any store of windows; whether retention admitted it. A null value deletes.
    pub fn window_put_any(
        &mut self,
        key: &[u8],
        start: i64,
        end: i64,
        value: &Datum,
        ts: i64,
    ) -> Result<bool, Failure> {
        match self.spec.kind {
            StoreKind::Window | StoreKind::KeyValue => self.window_put(start, key, value, ts),
            StoreKind::Series => self.series_put(key, start, value, ts),
            StoreKind::Session => self.session_put(key, start, end, value),
            StoreKind::Versioned | StoreKind::Lru | StoreKind::Buffer | StoreKind::Suppress | StoreKind::Patterns => {
                Ok(false)
            }
        }
    }

    /// How many entries there are.
    pub fn entries(&self) -> u64 {
        let indexed = matches!(self.spec.kind, StoreKind::Series | StoreKind::Session | StoreKind::Lru);
        (if indexed { self.bytes.len() / 2 } else { self.bytes.len() }) as u64
    }

    pub fn scan(&self, view: View, span: &Span) -> Page {
        let one = span.prefix.is_none() && span.from.is_some() && span.from == span.to;
        match (self.spec.kind, &span.from) {
            (StoreKind::KeyValue | StoreKind::Lru, _) => self.scan_keys(view, span),
            (StoreKind::Session, _) => self.scan_sessions(view, span),
            (StoreKind::Versioned, Some(key)) if one => self.scan_versions_of(view, span, key),
            (StoreKind::Versioned, _) => self.scan_versions(view, span),
            (StoreKind::Series, Some(key)) if one => self.scan_series(view, span, key),
            (StoreKind::Window, Some(key)) if one => self.probe_windows(view, span, key),
            _ => self.scan_windows(view, span),
        }
    }

    fn scan_keys(&self, view: View, span: &Span) -> Page {
        let lru = self.spec.kind == StoreKind::Lru;
        let begin: &[u8] = if lru { &[BY_KEY] } else { &[] };
        let whole = |key: &Vec<u8>| [begin, key].concat();
        let (low, high) = match &span.prefix {
            Some(prefix) => (Some(whole(prefix)), super::store::after(&whole(prefix))),
            None => (span.from.as_ref().map(whole), span.to.as_ref().map(whole)),
        };
        let end = super::store::after(begin);
        let from = low.as_deref().map_or(Bound::Included(begin), Bound::Included);
        let to = match (&high, &end) {
            (Some(high), _) if span.prefix.is_some() => Bound::Excluded(&high[..]),
            (Some(high), _) => Bound::Included(&high[..]),
            (None, Some(end)) => Bound::Excluded(&end[..]),
            (None, None) => Bound::Unbounded,
        };
        let mut page = Pages::new(span.limit);
        self.bytes.scan(view, span.rest(from, to), span.reverse, &mut |k, v| {
            let entry = || {
                let (value, ts) = if lru { super::lru::lru_value(v)? } else { read_timed(v)? };
                Some(Entry { key: Datum::from_key_bytes(&k[begin.len()..])?, start: ts, end: ts, value, ts })
            };
            page.push(k, entry())
        });
        page.done()
    }

    /// `versioned`: the version of a key that is valid at a time, or the present one; none where there is none or a
    /// deletion. `end` is where the next version begins; `i64::MAX`: there is none.
    pub fn version_in(&self, view: View, key: &[u8], at: Option<i64>) -> Option<Entry> {
        let prefix = prefix_of(key);
        let (low, high) = (version_key(&prefix, i64::MIN), version_key(&prefix, i64::MAX));
        // What history does not reach is known only if it is still so.
        let until = at.filter(|&at| at >= self.horizon()).map_or(high.clone(), |at| version_key(&prefix, at));
        let mut found = None;
        self.bytes.scan(view, (Bound::Included(&low), Bound::Included(&until)), true, &mut |_, v| {
            found = read_timed(v);
            false
        });
        let (value, ts) = found.filter(|f| !f.0.is_null() && at.is_none_or(|at| f.1 <= at))?;
        let end = self.next_version(view, &prefix, ts);
        Some(Entry { key: Datum::from_key_bytes(key)?, start: ts, end, value, ts })
    }

    fn next_version(&self, view: View, prefix: &[u8], ts: i64) -> i64 {
        let (after, high) = (version_key(prefix, ts), version_key(prefix, i64::MAX));
        let mut end = i64::MAX;
        self.bytes.scan(view, (Bound::Excluded(&after), Bound::Included(&high)), false, &mut |_, v| {
            end = read_timed(v).map_or(i64::MAX, |next| next.1);
            false
        });
        end
    }

    /// Where the version of a key that begins at a time ends.
    pub fn version_end(&self, key: &[u8], ts: i64) -> i64 {
        self.next_version(View::Present, &prefix_of(key), ts)
    }

    /// `versioned`: all living versions, by length of key, key, time.
    fn scan_versions(&self, view: View, span: &Span) -> Page {
        let mut page = Pages::new(span.limit);
        let range = span.rest(Bound::Included(&[BY_KEY][..]), Bound::Excluded(&[BY_KEY + 1][..]));
        self.bytes.scan(view, range, span.reverse, &mut |k, v| {
            let key = &k[5..k.len() - 8];
            if !span.takes_key(key) {
                return true;
            }
            let version = read_timed(v).filter(|v| !v.0.is_null());
            let entry = version.and_then(|(value, ts)| {
                Some(Entry { key: Datum::from_key_bytes(key)?, start: ts, end: ts, value, ts })
            });
            page.push(k, entry)
        });
        page.done()
    }

    /// `versioned`, one key: its versions that were valid at some time of a span, each with the time at which the next one
    /// begins. Of times that history does not reach, the present version alone is known.
    fn scan_versions_of(&self, view: View, span: &Span, key: &[u8]) -> Page {
        let prefix = prefix_of(key);
        let mut at_from = span.times.0;
        let (first, from) = (version_key(&prefix, i64::MIN), version_key(&prefix, span.times.0));
        self.bytes.scan(view, (Bound::Included(&first), Bound::Included(&from)), true, &mut |_, v| {
            at_from = read_timed(v).map_or(at_from, |version| version.1);
            false
        });
        let (low, high) = (version_key(&prefix, at_from), version_key(&prefix, span.times.1));
        let forgotten = span.times.1 < self.horizon();
        let mut page = Pages::new(span.limit);
        self.bytes.scan(view, span.rest(Bound::Included(&low), Bound::Included(&high)), span.reverse, &mut |k, v| {
            let version = read_timed(v).filter(|v| !v.0.is_null());
            let entry = version.and_then(|(value, ts)| {
                let end = self.next_version(view, &prefix, ts);
                (!forgotten || end == i64::MAX).then_some(())?;
                Some(Entry { key: Datum::from_key_bytes(key)?, start: ts, end, value, ts })
            });
            page.push(k, entry)
        });
        page.done()
    }

    fn window(&self, key: &[u8], start: i64, value: Timed) -> Option<Entry> {
        let end = start.saturating_add(self.spec.window_size_ms.unwrap_or(0));
        Some(Entry { key: Datum::from_key_bytes(key)?, start, end, value: value.0, ts: value.1 })
    }

    /// `series`, one key: its entries lie together.
    fn scan_series(&self, view: View, span: &Span, key: &[u8]) -> Page {
        let (low, high) = (span.times.0.max(self.first_living()), span.times.1);
        let (low, high) = (series_key(key, low, 0), series_key(key, high, u32::MAX));
        let range = span.rest(Bound::Included(&low), Bound::Included(&high));
        let mut page = Pages::new(span.limit);
        self.bytes.scan(view, range, span.reverse, &mut |k, v| {
            let start = k.get(low.len() - 12..).and_then(split_time);
            page.push(k, start.and_then(|(start, _)| self.window(key, start, read_timed(v)?)))
        });
        page.done()
    }

    /// `window`, one key: one look-up for each start that there is.
    fn probe_windows(&self, view: View, span: &Span, key: &[u8]) -> Page {
        let (mut low, mut high) = (span.times.0.max(self.first_living()), span.times.1);
        match span.after.as_deref().and_then(split_time) {
            Some((start, _)) if span.reverse => high = high.min(start.saturating_sub(1)),
            Some((start, _)) => low = low.max(start.saturating_add(1)),
            None => {}
        }
        let mut page = Pages::new(span.limit);
        while low <= high {
            let (from, to) = (time_bytes(low), super::store::after(&time_bytes(high)));
            let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut start = None;
            self.bytes.scan(view, (Bound::Included(&from), to), span.reverse, &mut |k, _| {
                start = split_time(k).map(|(start, _)| start);
                false
            });
            let Some(start) = start else { break };
            let at = time_key(start, key);
            if let Some(value) = self.get_in(view, &at) {
                if !page.push(&at, self.window(key, start, value)) {
                    break;
                }
            }
            match span.reverse {
                true => high = start.saturating_sub(1),
                false => low = start.saturating_add(1),
            }
        }
        page.done()
    }

    /// `window` and `series`, many keys: by start, then key.
    fn scan_windows(&self, view: View, span: &Span) -> Page {
        if self.spec.by_key {
            return self.sort_windows(view, span);
        }
        let mut page = Pages::new(span.limit);
        self.each_window(view, span, &mut |at, key, start, value| page.push(at, self.window(key, start, value)));
        page.done()
    }

    /// As the original's persistent store: segment by segment of time, in each by key bytes and start. All at once.
    fn sort_windows(&self, view: View, span: &Span) -> Page {
        let mut found: Vec<(i64, Vec<u8>, Entry)> = vec![];
        let whole = Span { reverse: false, after: None, ..span.clone() };
        self.each_window(view, &whole, &mut |_, key, start, value| {
            let own = &key[..key.len() - 1]; // without the byte that names the kind
            let at = [own, &start.to_be_bytes()].concat();
            found.extend(self.window(key, start, value).map(|entry| (self.segment(start), at, entry)));
            true
        });
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        if span.reverse {
            found.reverse();
        }
        (found.into_iter().map(|f| f.2).collect(), None)
    }

    /// The piece of time in which a persistent store keeps an entry.
    pub fn segment(&self, time: i64) -> i64 {
        time.div_euclid((self.spec.retention_ms.unwrap_or(i64::MAX) / 2).max(60_000))
    }

    /// Whether a persistent store would have noticed that a time is too old: it forgets whole segments.
    pub fn notices(&self, time: i64) -> bool {
        !self.spec.by_key || self.segment(time) < self.segment(self.expired_to())
    }

    /// Calls with the place, the key's bytes, the start and the value.
    fn each_window(&self, view: View, span: &Span, each: &mut Each<'_>) {
        let (low, high) = (span.times.0.max(self.first_living()), span.times.1);
        if low > high {
            return;
        }
        let series = self.spec.kind == StoreKind::Series;
        let begin: &[u8] = if series { &[BY_TIME] } else { &[] };
        let low = [begin, &time_bytes(low)].concat();
        let high = super::store::after(&[begin, &time_bytes(high)].concat());
        let high = high.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.bytes.scan(view, span.rest(Bound::Included(&low), high), span.reverse, &mut |k, v| {
            let Some((start, rest)) = split_time(&k[begin.len()..]) else { return true };
            let key = if series { &rest[..rest.len().saturating_sub(4)] } else { rest };
            if !span.takes_key(key) {
                return true;
            }
            let value = match series {
                true => self.by_key(&k[1..]).and_then(|at| self.get_in(view, &at)),
                false => read_timed(v),
            };
            value.is_none_or(|value| each(k, key, start, value))
        });
    }

    /// `session`: `times` are the earliest end and the latest start. By end, then key, then start from the latest on, as the
    /// original's store in memory. All at once: what one asks for is a key's.
    fn scan_sessions(&self, view: View, span: &Span) -> Page {
        let (earliest_end, latest_start) = (span.times.0.max(self.first_living()), span.times.1);
        let mut found: Vec<(i64, Vec<u8>, i64, Timed)> = vec![];
        let mut take = |key: &[u8], end: i64, start: i64, value: Option<Timed>| {
            if let (true, true, Some(value)) = (start <= latest_start, span.takes_key(key), value) {
                found.push((end, key.to_vec(), start, value));
            }
            true
        };
        match &span.from {
            Some(key) if span.from == span.to => {
                let (low, high) = (session_key(key, earliest_end, i64::MIN), session_key(key, i64::MAX, i64::MAX));
                let at = low.len() - 16;
                self.bytes.scan(view, (Bound::Included(&low), Bound::Included(&high)), false, &mut |k, v| {
                    let times = k.get(at..).and_then(split_time).and_then(|(end, r)| Some((end, split_time(r)?.0)));
                    times.is_none_or(|(end, start)| take(key, end, start, read_timed(v)))
                });
            }
            _ => {
                let low = [&[BY_TIME][..], &time_bytes(earliest_end)].concat();
                let range = (Bound::Included(&low[..]), Bound::Excluded(&[BY_TIME + 1][..]));
                self.bytes.scan(view, range, false, &mut |k, _| {
                    let parts =
                        split_time(&k[1..]).and_then(|(end, r)| split_time(r).map(|(start, key)| (end, start, key)));
                    let Some((end, start, key)) = parts else { return true };
                    take(key, end, start, self.get_in(view, &session_key(key, end, start)))
                });
            }
        }
        match self.spec.by_key {
            false => found.sort_by(|a, b| (a.0, &a.1, b.2).cmp(&(b.0, &b.1, a.2))),
            true => found.sort_by(|a, b| {
                let of = |f: &(i64, Vec<u8>, i64, Timed)| self.segment(f.0);
                (of(a), &a.1, a.0, a.2).cmp(&(of(b), &b.1, b.0, b.2))
            }),
        }
        if span.reverse {
            found.reverse();
        }
        let entry = |(end, key, start, value): (i64, Vec<u8>, i64, Timed)| {
            Some(Entry { key: Datum::from_key_bytes(&key)?, start, end, value: value.0, ts: value.1 })
        };
        (found.into_iter().filter_map(entry).collect(), None)
    }
}

/// Collects entries up to a limit.
struct Pages {
    entries: Vec<Entry>,
    limit: usize,
    last: Vec<u8>,
    full: bool,
}

impl Pages {
    fn new(limit: usize) -> Pages {
        Pages { entries: vec![], limit, last: vec![], full: false }
    }
    /// Whether to go on.
    fn push(&mut self, key: &[u8], entry: Option<Entry>) -> bool {
        self.entries.extend(entry);
        self.full = self.entries.len() >= self.limit;
        if self.full {
            self.last = key.to_vec();
        }
        !self.full
    }
    fn done(self) -> Page {
        (self.entries, self.full.then_some(self.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::stores::StoreSpec;

    fn store(kind: &str) -> Store {
        let spec: StoreSpec = serde_json::from_str(kind).unwrap();
        Store::new(spec)
    }
    fn key(text: &str) -> Vec<u8> {
        Datum::str(text).key_bytes().unwrap()
    }

    #[test]
    fn pages_are_the_whole_in_pieces_in_both_views() {
        let mut s = store(r#"{"name": "s", "kind": "key_value"}"#);
        for k in ["a", "b", "c", "d"] {
            s.put(&Datum::str(k), &Datum::Int(1), 5).unwrap();
        }
        s.bytes.close_generation(&mut |_, _| {});
        s.bytes.committed();
        s.put(&Datum::str("b"), &Datum::Null, 6).unwrap();
        s.put(&Datum::str("e"), &Datum::Int(2), 6).unwrap();
        s.put(&Datum::str("c"), &Datum::Int(3), 6).unwrap();
        let all = |view, reverse, limit| {
            let (mut found, mut after) = (vec![], None);
            loop {
                let span = Span { reverse, limit, after, ..Span::default() };
                let (entries, next) = s.scan(view, &span);
                found.extend(entries.into_iter().map(|e| (format!("{:?}", e.key), e.value)));
                after = next;
                if after.is_none() {
                    return found;
                }
            }
        };
        for (view, keys) in [(View::Present, r#""a""c""d""e""#), (View::Committed, r#""a""b""c""d""#)] {
            let whole = all(view, false, usize::MAX);
            assert_eq!(whole.iter().map(|e| e.0.as_str()).collect::<String>(), keys);
            for limit in 1..6 {
                assert_eq!(all(view, false, limit), whole);
                let mut turned = all(view, true, limit);
                turned.reverse();
                assert_eq!(turned, whole);
            }
        }
        assert_eq!(s.get_in(View::Committed, &key("b")), Some((Datum::Int(1), 5)));
        assert_eq!(s.get_in(View::Committed, &key("e")), None);
        assert_eq!(s.get_in(View::Committed, &key("c")), Some((Datum::Int(1), 5)));
    }

    #[test]
    fn windows_are_forgotten_after_their_retention_and_duplicates_are_kept() {
        let mut s =
            store(r#"{"name": "s", "kind": "series", "retention_ms": 10, "window_size_ms": 5, "duplicates": true}"#);
        for (k, v, start) in [("a", 1, 0), ("a", 2, 0), ("ab", 3, 0), ("a", 4, 7)] {
            assert!(s.series_put(&key(k), start, &Datum::Int(v), start).unwrap());
        }
        let values = |s: &Store, span: Span| {
            s.scan(View::Present, &span).0.into_iter().map(|e| (e.value, e.start, e.end)).collect::<Vec<_>>()
        };
        let of = |k: &str| Span { from: Some(key(k)), to: Some(key(k)), ..Span::default() };
        assert_eq!(values(&s, of("a")), [(Datum::Int(1), 0, 5), (Datum::Int(2), 0, 5), (Datum::Int(4), 7, 12)]);
        assert_eq!(values(&s, of("ab")).len(), 1);
        assert!(s.series_put(&key("b"), 10, &Datum::Int(5), 10).unwrap());
        assert_eq!(values(&s, Span::default()).len(), 2); // what began at 0 is ten behind
        assert!(!s.series_put(&key("b"), 0, &Datum::Int(5), 0).unwrap());
    }

    #[test]
    fn both_layouts_of_windows_read_alike() {
        let spec = |kind| format!(r#"{{"name": "s", "kind": "{kind}", "retention_ms": 100, "window_size_ms": 5}}"#);
        let (mut windows, mut series) = (store(&spec("window")), store(&spec("series")));
        for (k, start) in [("a", 0), ("b", 0), ("a", 5), ("b", 10), ("a", 20), ("ab", 20)] {
            windows.window_put(start, &key(k), &Datum::Int(start), start).unwrap();
            series.series_put(&key(k), start, &Datum::Int(start), start).unwrap();
        }
        for (from, to) in
            [(None, None), (Some("a"), Some("a")), (Some("ab"), None), (Some("a"), Some("ab")), (Some("z"), Some("z"))]
        {
            for times in [(i64::MIN, i64::MAX), (0, 10), (5, 5), (11, 19), (9, 3)] {
                for reverse in [false, true] {
                    let span = Span { from: from.map(key), to: to.map(key), times, reverse, ..Span::default() };
                    let whole = windows.scan(View::Present, &span).0;
                    assert_eq!(whole, series.scan(View::Present, &span).0, "{span:?}");
                    let mut turned = whole.clone();
                    turned.reverse();
                    assert_eq!(turned, windows.scan(View::Present, &Span { reverse: !reverse, ..span.clone() }).0);
                    for store in [&windows, &series] {
                        let (mut pages, mut after) = (vec![], None);
                        loop {
                            let (page, next) = store.scan(View::Present, &Span { after, limit: 1, ..span.clone() });
                            pages.extend(page);
                            after = next;
                            if after.is_none() {
                                break;
                            }
                        }
                        assert_eq!(pages, whole);
                    }
                }
            }
        }
        assert_eq!(windows.scan(View::Committed, &Span::default()).0, []);
        assert_eq!(series.get_window_in(View::Present, &key("a"), 5, 0), Some((Datum::Int(5), 5)));
    }

    #[test]
    fn sessions_come_by_end_key_and_latest_start() {
        let mut s = store(r#"{"name": "s", "kind": "session", "retention_ms": 100}"#);
        for (k, start, end) in [("b", 0, 9), ("a", 3, 9), ("a", 0, 9), ("a", 10, 20), ("b", 5, 5)] {
            s.session_put(&key(k), start, end, &Datum::Int(start)).unwrap();
        }
        let read = |span: Span| {
            let (found, _) = s.scan(View::Present, &span);
            found.into_iter().map(|e| (format!("{:?}", e.key), e.start, e.end)).collect::<Vec<_>>()
        };
        let of = |k: &str, times| Span { from: Some(key(k)), to: Some(key(k)), times, ..Span::default() };
        let named = |k: &str, start, end| (format!("{k:?}"), start, end);
        assert_eq!(read(of("a", (i64::MIN, i64::MAX))), [named("a", 3, 9), named("a", 0, 9), named("a", 10, 20)]);
        assert_eq!(read(of("a", (9, 2))), [named("a", 0, 9)]);
        let all = read(Span::default());
        assert_eq!(all.iter().map(|e| e.2).collect::<Vec<_>>(), [5, 9, 9, 9, 20]);
        assert_eq!(all[3], named("b", 0, 9));
    }
}
