//! One JSON text, walked once: is all of it valid, and where do the wanted values lie?
//!
//! What is promised: [`Scanner::document`] says yes exactly to a JSON object by RFC 8259 (with whitespace around it)
//! whose strings are valid UTF-8 without lone surrogates and which is nested at most [`DEPTH_MAX`] deep. For each wanted
//! path the slot then holds kind and place of the last value at that path. Nothing is converted or copied here.
//!
//! Steps for each member of an object on the way to a wanted value:
//! 1. *Guess the key.* Records of one topic mostly name the same keys in the same order, so each object of the path
//!    tree keeps the keys it has met in the order it last met them ([`Node::known`]) and a cursor into that list. The
//!    key at the cursor is compared with the input, quotes and colon included, by two overlapping 8-byte loads. A hit
//!    needs no search for the end of the key, no UTF-8 check (it had one when it was learned) and no lookup.
//! 2. *Look ahead* a few keys: an optional key that is absent here costs one comparison and moves nothing.
//! 3. *Look it up*, checking the key in full, and move it to the cursor, so that a new order is learned in one record.
//! 4. *Scan the value*: kind and end. Strings go 16 bytes at a time (SSE2, part of every x86-64; elsewhere two 8-byte
//!    words): the first byte that is a quote, a backslash or a control character ends the fast path.
//!
//! The guess is only ever a shortcut: it is compared with the input, so the order can change the speed and nothing else.
//!
//! Special case: loads may reach past the end of a text, up to [`PAD`] bytes. The caller lays texts out so that those
//! bytes exist; what they hold never matters, as every position is compared with the end of the text.

use std::collections::HashMap;

/// Bytes that must be readable behind a text.
pub(super) const PAD: usize = 16;
/// Objects and arrays inside one another, the outermost included.
pub(super) const DEPTH_MAX: usize = 128;
/// Keys learned per object of the path tree: bounds memory where keys are data.
const KNOWN_MAX: usize = 128;
const LOOKAHEAD: usize = 4;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not in the object, or under a parent that is null or absent.
    Absent,
    Null,
    True,
    False,
    /// A number without fraction and exponent.
    Int,
    /// Any other number.
    Number,
    /// A string whose bytes are its value.
    Str,
    /// A string with escapes.
    Escaped,
    /// An object or array, or under a parent that is neither an object nor null.
    Other,
    /// The text was not valid.
    Dead,
}

/// A value's kind and, for numbers and strings (without their quotes), its place in the buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub kind: Kind,
    pub start: u32,
    pub end: u32,
}

pub(super) const ABSENT: Slot = Slot { kind: Kind::Absent, start: 0, end: 0 };
pub(super) const DEAD: Slot = Slot { kind: Kind::Dead, start: 0, end: 0 };
const OTHER: Slot = Slot { kind: Kind::Other, start: 0, end: 0 };

#[inline(always)]
fn load(buf: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&buf[at..at + 8]);
    u64::from_le_bytes(word)
}

/// A byte string that is compared with a place in a padded buffer: first and last eight bytes, then what lies between.
#[derive(Clone, Debug)]
pub(super) struct Token {
    head: u64,
    tail: u64,
    /// Of the bytes in `head` that count: all, unless the token is shorter than a word.
    mask: u64,
    tail_at: usize,
    bytes: Box<[u8]>,
}

impl Token {
    pub fn new(bytes: &[u8]) -> Self {
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().max(8), 0);
        let tail_at = padded.len() - 8;
        let mask = if bytes.len() >= 8 { u64::MAX } else { (1u64 << (8 * bytes.len())) - 1 };
        Token { head: load(&padded, 0), tail: load(&padded, tail_at), mask, tail_at, bytes: bytes.into() }
    }
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// `at + len()` must lie within the text.
    #[inline(always)]
    pub fn is_at(&self, buf: &[u8], at: usize) -> bool {
        let differ = (load(buf, at) ^ self.head) | (load(buf, at + self.tail_at) ^ self.tail);
        differ & self.mask == 0 && (self.len() <= 16 || buf[at + 8..at + self.tail_at] == self.bytes[8..self.tail_at])
    }
}

/// Where a key leads: to a slot, to an object with wanted keys of its own, to both, or nowhere.
#[derive(Clone, Copy, Debug)]
struct Target {
    slot: u32,
    node: u32,
}

const NOWHERE: Target = Target { slot: NONE, node: NONE };

#[derive(Clone, Debug)]
struct Known {
    /// `"key":` as it stands in the text.
    token: Token,
    target: Target,
}

/// An object on the way to wanted values.
#[derive(Clone, Debug, Default)]
struct Node {
    wanted: HashMap<Vec<u8>, Target>,
    /// All slots in and below this object.
    slots: Vec<u32>,
    known: Vec<Known>,
}

/// The wanted paths as a tree, with what was learned about key order.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    nodes: Vec<Node>,
    pub slots: usize,
    scratch: Vec<u8>,
}

impl Paths {
    pub fn new() -> Self {
        Paths { nodes: vec![Node::default()], slots: 0, scratch: Vec::new() }
    }
    /// The slot of a path; equal paths share one. A path has at least one key.
    pub fn add(&mut self, path: &[String]) -> usize {
        let (last, parents) = path.split_last().expect("a path has a key");
        let mut way = vec![0usize];
        for key in parents {
            let (here, next) = (way[way.len() - 1], self.nodes.len() as u32);
            let target = self.nodes[here].wanted.entry(key.clone().into_bytes()).or_insert(NOWHERE);
            if target.node == NONE {
                target.node = next;
            }
            way.push(target.node as usize);
            if target.node == next {
                self.nodes.push(Node::default());
            }
        }
        let target = self.nodes[way[way.len() - 1]].wanted.entry(last.clone().into_bytes()).or_insert(NOWHERE);
        if target.slot != NONE {
            return target.slot as usize;
        }
        let slot = self.slots;
        target.slot = slot as u32;
        self.slots += 1;
        for node in way {
            self.nodes[node].slots.push(slot as u32);
        }
        slot
    }
    /// Checks the text `buf[start..end]` and fills its slots; false if it is not one valid JSON object.
    /// `slots` must have `self.slots` entries and `buf` at least [`PAD`] bytes behind `end`.
    #[inline]
    pub fn scan(&mut self, buf: &[u8], start: usize, end: usize, slots: &mut [Slot]) -> bool {
        assert!(end + PAD <= buf.len() && start <= end);
        slots.fill(ABSENT);
        Scanner { buf, text: &buf[..end], paths: self, slots }.document(start).is_some()
    }
}

struct Scanner<'a> {
    buf: &'a [u8],
    /// `buf` up to the end of the text.
    text: &'a [u8],
    paths: &'a mut Paths,
    slots: &'a mut [Slot],
}

impl Scanner<'_> {
    fn document(&mut self, start: usize) -> Option<()> {
        let at = self.space(start);
        if self.peek(at) != b'{' {
            return None;
        }
        let at = self.wanted_object(0, at + 1, 1)?;
        (self.space(at) == self.text.len()).then_some(())
    }

    /// The byte there; 0, which is valid nowhere outside a string, at the end.
    #[inline(always)]
    fn peek(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn space(&self, mut at: usize) -> usize {
        while matches!(self.peek(at), b' ' | b'\n' | b'\r' | b'\t') {
            at += 1;
        }
        at
    }

    /// An object of the path tree, from behind its `{` to behind its `}`.
    fn wanted_object(&mut self, node: usize, at: usize, depth: usize) -> Option<usize> {
        let mut at = self.space(at);
        if self.peek(at) == b'}' {
            return Some(at + 1);
        }
        let mut cursor = 0;
        loop {
            let (target, value) = self.key(node, &mut cursor, at)?;
            at = self.space(value);
            if target.node == NONE {
                let (slot, next) = self.value(at, depth)?;
                if target.slot != NONE {
                    self.slots[target.slot as usize] = slot;
                }
                at = next;
            } else {
                at = self.parent(target, at, depth)?;
            }
            at = self.space(at);
            match self.peek(at) {
                b',' => at = self.space(at + 1),
                b'}' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// A value with wanted values below it. They are set afresh even if a former value of this key had them: it is gone.
    fn parent(&mut self, target: Target, at: usize, depth: usize) -> Option<usize> {
        let node = target.node as usize;
        let (slot, next);
        if self.peek(at) == b'{' {
            if depth == DEPTH_MAX {
                return None;
            }
            self.set_below(node, ABSENT);
            (slot, next) = (OTHER, self.wanted_object(node, at + 1, depth + 1)?);
        } else {
            (slot, next) = self.value(at, depth)?;
            self.set_below(node, if slot.kind == Kind::Null { ABSENT } else { OTHER });
        }
        if target.slot != NONE {
            self.slots[target.slot as usize] = slot;
        }
        Some(next)
    }

    fn set_below(&mut self, node: usize, slot: Slot) {
        for &s in &self.paths.nodes[node].slots {
            self.slots[s as usize] = slot;
        }
    }

    /// The key at `at`: where it leads, and the place behind its colon.
    #[inline(always)]
    fn key(&mut self, node: usize, cursor: &mut usize, at: usize) -> Option<(Target, usize)> {
        if let Some(known) = self.paths.nodes[node].known.get(*cursor) {
            let end = at + known.token.len();
            if end <= self.text.len() && known.token.is_at(self.buf, at) {
                *cursor += 1;
                return Some((known.target, end));
            }
        }
        self.key_unexpected(node, cursor, at)
    }

    #[inline(never)]
    fn key_unexpected(&mut self, node: usize, cursor: &mut usize, at: usize) -> Option<(Target, usize)> {
        let known = &self.paths.nodes[node].known;
        for (i, k) in known.iter().enumerate().skip(*cursor + 1).take(LOOKAHEAD) {
            let end = at + k.token.len();
            if end <= self.text.len() && k.token.is_at(self.buf, at) {
                *cursor = i + 1;
                return Some((k.target, end));
            }
        }
        if self.peek(at) != b'"' {
            return None;
        }
        let (close, escaped) = self.string(at + 1)?;
        let colon = self.space(close + 1);
        if self.peek(colon) != b':' {
            return None;
        }
        let key = &self.text[at + 1..close];
        let Paths { nodes, scratch, .. } = &mut *self.paths;
        let Node { wanted, known, .. } = &mut nodes[node];
        // In the list a key is `"key":`, however much space the text has before the colon.
        let found =
            known.iter().position(|k| k.token.len() == key.len() + 3 && k.token.bytes[1..k.token.len() - 2] == *key);
        let entry = match found {
            Some(i) => {
                *cursor -= (i < *cursor) as usize;
                known.remove(i)
            }
            None => {
                let target = if escaped {
                    scratch.clear();
                    unescape(key, scratch);
                    wanted.get(scratch.as_slice())
                } else {
                    wanted.get(key)
                };
                let target = target.copied().unwrap_or(NOWHERE);
                if known.len() == KNOWN_MAX {
                    return Some((target, colon + 1));
                }
                Known { token: Token::new(&[b"\"", key, b"\":"].concat()), target }
            }
        };
        let target = entry.target;
        // Behind the end if the keys of the list ran out: then it is the last.
        let place = (*cursor).min(known.len());
        known.insert(place, entry);
        *cursor = place + 1;
        Some((target, colon + 1))
    }

    /// The value at `at` and the place behind it.
    #[inline(always)]
    fn value(&self, at: usize, depth: usize) -> Option<(Slot, usize)> {
        let place = |kind, start: usize, end: usize| Slot { kind, start: start as u32, end: end as u32 };
        match self.peek(at) {
            b'"' => {
                let (close, escaped) = self.string(at + 1)?;
                let kind = if escaped { Kind::Escaped } else { Kind::Str };
                Some((place(kind, at + 1, close), close + 1))
            }
            b'-' | b'0'..=b'9' => {
                let (kind, end) = self.number(at)?;
                Some((place(kind, at, end), end))
            }
            b'n' => Some((place(Kind::Null, at, at), self.literal(at, b"null")?)),
            b't' => Some((place(Kind::True, at, at), self.literal(at, b"true")?)),
            b'f' => Some((place(Kind::False, at, at), self.literal(at, b"false")?)),
            b'{' | b'[' if depth < DEPTH_MAX => Some((OTHER, self.container(at, depth + 1)?)),
            _ => None,
        }
    }

    #[inline(always)]
    fn literal(&self, at: usize, word: &[u8]) -> Option<usize> {
        let end = at + word.len();
        (self.text.get(at..end)? == word).then_some(end)
    }

    #[inline(always)]
    fn digits(&self, mut at: usize) -> Option<usize> {
        if !self.peek(at).is_ascii_digit() {
            return None;
        }
        while self.peek(at).is_ascii_digit() {
            at += 1;
        }
        Some(at)
    }

    #[inline(always)]
    fn number(&self, at: usize) -> Option<(Kind, usize)> {
        let mut at = at + (self.peek(at) == b'-') as usize;
        // Behind a leading zero no digit may follow: it is then no separator either, and the caller refuses it.
        at = if self.peek(at) == b'0' { at + 1 } else { self.digits(at)? };
        let mut kind = Kind::Int;
        if self.peek(at) == b'.' {
            kind = Kind::Number;
            at = self.digits(at + 1)?;
        }
        if self.peek(at) | 0x20 == b'e' {
            kind = Kind::Number;
            at += 1;
            at = self.digits(at + matches!(self.peek(at), b'+' | b'-') as usize)?;
        }
        Some((kind, at))
    }

    /// An object or array that nobody wants.
    #[inline(never)]
    fn container(&self, at: usize, depth: usize) -> Option<usize> {
        let object = self.peek(at) == b'{';
        let close = if object { b'}' } else { b']' };
        let mut at = self.space(at + 1);
        if self.peek(at) == close {
            return Some(at + 1);
        }
        loop {
            if object {
                if self.peek(at) != b'"' {
                    return None;
                }
                let (end, _) = self.string(at + 1)?;
                at = self.space(end + 1);
                if self.peek(at) != b':' {
                    return None;
                }
                at = self.space(at + 1);
            }
            (_, at) = self.value(at, depth)?;
            at = self.space(at);
            match self.peek(at) {
                b',' => at = self.space(at + 1),
                byte if byte == close => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// From behind the opening quote to the closing one, and whether there are escapes.
    #[inline(always)]
    fn string(&self, start: usize) -> Option<(usize, bool)> {
        let mut at = start;
        let mut high = 0;
        while at < self.text.len() {
            let (stops, non_ascii) = classify(&self.buf[at..at + 16]);
            if stops != 0 {
                let i = stops.trailing_zeros();
                at += i as usize;
                high |= non_ascii & ((1 << i) - 1);
                if high == 0 && self.peek(at) == b'"' {
                    return Some((at, false));
                }
                return self.string_rest(start, at, high != 0);
            }
            high |= non_ascii;
            at += 16;
        }
        None
    }

    /// As [`string`](Self::string), from the first byte at which it could not go on.
    #[inline(never)]
    fn string_rest(&self, start: usize, mut at: usize, mut high: bool) -> Option<(usize, bool)> {
        let mut escaped = false;
        loop {
            match self.peek(at) {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    at = self.escape(at + 1)?;
                }
                byte if byte < 0x20 => return None,
                _ => {}
            }
            loop {
                if at >= self.text.len() {
                    return None;
                }
                let (stops, non_ascii) = classify(&self.buf[at..at + 16]);
                if stops != 0 {
                    let i = stops.trailing_zeros();
                    high |= non_ascii & ((1 << i) - 1) != 0;
                    at += i as usize;
                    break;
                }
                high |= non_ascii != 0;
                at += 16;
            }
        }
        if high && std::str::from_utf8(&self.text[start..at]).is_err() {
            return None;
        }
        Some((at, escaped))
    }

    /// From behind a backslash to behind its escape; a high surrogate takes its low one along.
    fn escape(&self, at: usize) -> Option<usize> {
        match self.peek(at) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
            b'u' => match hex4(self.text.get(at + 1..at + 5)?)? {
                0xd800..=0xdbff => {
                    let low = self.text.get(at + 5..at + 11)?;
                    let paired = low.starts_with(b"\\u") && matches!(hex4(&low[2..])?, 0xdc00..=0xdfff);
                    paired.then_some(at + 11)
                }
                0xdc00..=0xdfff => None,
                _ => Some(at + 5),
            },
            _ => None,
        }
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |n, &d| Some(n << 4 | (d as char).to_digit(16)?))
}

/// Appends the value of a string that the scanner has found valid.
pub(super) fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', text) {
        out.extend_from_slice(&text[..at]);
        let code = text[at + 1];
        text = &text[at + 2..];
        let byte = match code {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let unit = |t: &[u8]| hex4(&t[..4]).unwrap_or(0);
                let mut code = unit(text);
                text = &text[4..];
                if (0xd800..0xdc00).contains(&code) {
                    code = 0x10000 + ((code - 0xd800) << 10) + (unit(&text[2..]).wrapping_sub(0xdc00) & 0x3ff);
                    text = &text[6..];
                }
                let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => other,
        };
        out.push(byte);
    }
    out.extend_from_slice(text);
}

/// Of 16 bytes, as bits: which are a quote, a backslash or a control character, and which are not ASCII. Only bits below
/// the first stop are exact on every platform.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn classify(block: &[u8]) -> (u32, u32) {
    use std::arch::x86_64::*;
    let block: &[u8; 16] = block.try_into().expect("16 bytes");
    // SAFETY: the load reads the 16 bytes of the reference; SSE2 is part of x86-64.
    unsafe {
        let x = _mm_loadu_si128(block.as_ptr().cast());
        let quote = _mm_cmpeq_epi8(x, _mm_set1_epi8(b'"' as i8));
        let escape = _mm_cmpeq_epi8(x, _mm_set1_epi8(b'\\' as i8));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x);
        let stops = _mm_or_si128(_mm_or_si128(quote, escape), control);
        (_mm_movemask_epi8(stops) as u32, _mm_movemask_epi8(x) as u32)
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn classify(block: &[u8]) -> (u32, u32) {
    classify_words(block)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
#[inline(always)]
fn classify_words(block: &[u8]) -> (u32, u32) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    // The top bit of each byte becomes one bit of the result.
    let gather = |tops: u64| ((tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
    let half = |x: u64| {
        let zero = |y: u64| y.wrapping_sub(ONES) & !y;
        let control = x.wrapping_sub(ONES * 0x20) & !x;
        let stops = (zero(x ^ (ONES * b'"' as u64)) | zero(x ^ (ONES * b'\\' as u64)) | control) & TOPS;
        (gather(stops), gather(x & TOPS))
    };
    let ((s0, h0), (s1, h1)) = (half(load(block, 0)), half(load(block, 8)));
    (s0 | s1 << 8, h0 | h1 << 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Up to and including the first stop both ways of looking at a block agree.
        #[test]
        fn words_see_what_sse2_sees(block in proptest::collection::vec(
            prop_oneof![any::<u8>(), 0x1eu8..0x24, Just(b'\\'), Just(b'a'), 0x7eu8..0x82], 16)) {
            let (a, b) = (classify(&block), classify_words(&block));
            prop_assert_eq!(a.0.trailing_zeros(), b.0.trailing_zeros());
            prop_assert_eq!(a.1, b.1);
        }

        #[test]
        fn tokens_compare_like_slices(token in "[ab\"]{1,20}", text in "[ab\"]{0,20}") {
            let mut buf = text.clone().into_bytes();
            buf.resize(token.len().max(8) + 20, b'a');
            prop_assert_eq!(Token::new(token.as_bytes()).is_at(&buf, 0), buf.starts_with(token.as_bytes()));
        }
    }
}
