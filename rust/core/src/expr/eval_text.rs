//! Text by characters (Unicode scalar values), case by Unicode's rules.

use std::ops::Range;

use super::kernel::{kernel, merge_states, text_to, utf8, write_text, Kernel, Out, Text};
use crate::column::{Data, VALID};

fn rewrite(write: impl Fn(&[u8], &mut Vec<u8>) + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| {
        let text = args[0].text();
        write_text(rows, merge_states(args, rows), |row, out| {
            write(text.at(row), out);
            VALID
        })
    })
}

pub fn lower() -> Kernel {
    rewrite(|text, out| {
        if text.is_ascii() {
            out.extend(text.iter().map(u8::to_ascii_lowercase));
        } else {
            out.extend_from_slice(utf8(text).to_lowercase().as_bytes());
        }
    })
}

pub fn upper() -> Kernel {
    rewrite(|text, out| {
        if text.is_ascii() {
            out.extend(text.iter().map(u8::to_ascii_uppercase));
        } else {
            out.extend_from_slice(utf8(text).to_uppercase().as_bytes());
        }
    })
}

/// White space by Unicode, at both ends.
pub fn strip() -> Kernel {
    rewrite(|text, out| out.extend_from_slice(utf8(text).trim().as_bytes()))
}

pub fn len() -> Kernel {
    text_to(|text| (text.chars().count() as i64, VALID))
}

pub fn bytes() -> Kernel {
    text_to(|text| (text.len() as i64, VALID))
}

/// The bytes of `length` characters from `offset`; a negative offset counts from the end. As in Polars, what lies before
/// the text is cut off the length: `slice("abc", -5, 3)` is `"a"`.
pub fn slice_range(text: &str, offset: i64, length: Option<u64>) -> Range<usize> {
    let count = if offset < 0 { text.chars().count() as i64 } else { 0 };
    let start = if offset < 0 { offset.saturating_add(count) } else { offset };
    let stop = length.map_or(i64::MAX, |l| start.saturating_add_unsigned(l));
    let (start, stop) = (start.max(0), stop.max(0));
    if start >= stop {
        return 0..0;
    }
    let byte = |rest: &str, chars: i64| {
        let chars = usize::try_from(chars).unwrap_or(usize::MAX);
        rest.char_indices().nth(chars).map_or(rest.len(), |(at, _)| at)
    };
    let from = byte(text, start);
    from..from + byte(&text[from..], stop - start)
}

pub fn slice(offset: i64, length: Option<u64>) -> Kernel {
    rewrite(move |text, out| {
        let text = utf8(text);
        out.extend_from_slice(text[slice_range(text, offset, length)].as_bytes())
    })
}

fn test2(test: impl Fn(&[u8], &[u8]) -> bool + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| {
        let (a, b) = (args[0].text(), args[1].text());
        let data = match b {
            Text::One(b) => a.map(rows, |_, a| test(a, b) as u8),
            b => a.map(rows, |row, a| test(a, b.at(row)) as u8),
        };
        Out::New(Data::Bool(data), merge_states(args, rows))
    })
}

pub fn starts_with() -> Kernel {
    test2(|text, prefix| text.starts_with(prefix))
}

pub fn ends_with() -> Kernel {
    test2(|text, suffix| text.ends_with(suffix))
}

/// Valid UTF-8 contains valid UTF-8 as text exactly where it does as bytes.
fn find(text: &[u8], pattern: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return true };
    let Some(last_start) = text.len().checked_sub(pattern.len()) else { return false };
    let starts = text[..=last_start].iter().enumerate().filter(|(_, b)| *b == first);
    starts.map(|(at, _)| &text[at + 1..at + pattern.len()]).any(|tail| tail == rest)
}

pub fn contains() -> Kernel {
    test2(find)
}

/// All occurrences, literally; an empty pattern matches between all characters, as in Python.
pub fn replace() -> Kernel {
    kernel(|args, rows| {
        let (text, from, to) = (args[0].text(), args[1].text(), args[2].text());
        write_text(rows, merge_states(args, rows), |row, out| {
            let (text, from, to) = (text.at(row), from.at(row), to.at(row));
            if find(text, from) {
                out.extend_from_slice(utf8(text).replace(utf8(from), utf8(to)).as_bytes());
            } else {
                out.extend_from_slice(text);
            }
            VALID
        })
    })
}

pub fn concat() -> Kernel {
    kernel(|args, rows| {
        let texts: Vec<_> = args.iter().map(|a| a.text()).collect();
        write_text(rows, merge_states(args, rows), |row, out| {
            texts.iter().for_each(|t| out.extend_from_slice(t.at(row)));
            VALID
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_like_polars() {
        for (text, offset, length, want) in [
            ("abc", 0, None, "abc"),
            ("abc", 1, Some(1), "b"),
            ("abc", -2, Some(1), "b"),
            ("abc", -2, None, "bc"),
            ("abc", -5, Some(3), "a"),
            ("abc", -5, Some(2), ""),
            ("abc", -5, None, "abc"),
            ("abc", 3, Some(3), ""),
            ("abc", 9, None, ""),
            ("äöü", 1, Some(1), "ö"),
            ("äöü", -1, Some(9), "ü"),
            ("äöü", i64::MIN, Some(u64::MAX), "äöü"),
            ("", -1, None, ""),
        ] {
            assert_eq!(&text[slice_range(text, offset, length)], want, "{text} {offset} {length:?}");
        }
    }
}
