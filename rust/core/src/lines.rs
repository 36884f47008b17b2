//! Lines of a file as records.
//!
//! A record's offset is the *byte* at which its line begins, so a position is a place to read from and needs no index. A
//! position is always one behind a line's newline; the last line of a file may lack its own and is taken as if it stood
//! there: then the end lies one behind the file's size ([`end`]).
//!
//! ```text
//! bytes     ef bb bf { } \r \n \n  { } eof
//! records   0 ▔▔▔▔▔▔▔▔▔▔             8 ▔▔▔         end = 11, the size is 10
//! ```
//! No part of a record are the newline, one carriage return before it, and a byte order mark at the file's beginning.
//! Lines with nothing else are no records.
//!
//! Bytes are read, not mapped: a file that somebody shortens would end the process by a signal. They pass through one
//! block that stays in the processor's cache, and are copied once, into the batch.

use std::fmt;
use std::io::{self, Read};

use memchr::memchr;

use crate::column::Bytes;
use crate::raw::{OptBytes, RawBatch};

pub const BLOCK_BYTES: usize = 256 << 10;
/// A batch is full with this many bytes of payload: enough to amortise a call, few enough that memory is used again.
const BATCH_BYTES: usize = 1 << 20;
/// A line beyond this is no record but a file without lines.
pub const LINE_BYTES_MAX: usize = 256 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug)]
pub enum LineError {
    Io(io::Error),
    /// At `.0` there is not what there was when the file was opened.
    Changed(i64),
    /// The line that begins at `.0` does not end within [`LINE_BYTES_MAX`].
    TooLong(i64),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::Io(error) => write!(f, "{error}"),
            LineError::Changed(at) => {
                write!(f, "it was cut or written anew while it was read: its lines ended otherwise at byte {at}")
            }
            LineError::TooLong(at) => {
                write!(f, "the line that begins at byte {at} has more than {} MiB", LINE_BYTES_MAX >> 20)
            }
        }
    }
}

impl std::error::Error for LineError {}

/// The position behind the last line of a file of `size` bytes, whose last byte is `last`.
pub fn end(size: u64, last: Option<u8>) -> i64 {
    size as i64 + i64::from(last.is_some_and(|byte| byte != b'\n'))
}

/// Reads lines in order from a position to an end.
pub struct LineReader<R> {
    source: R,
    timestamp: i64,
    /// Where the next line begins.
    position: i64,
    size: i64,
    end: i64,
    block: Vec<u8>,
    /// Of `block`, the bytes from here on are not handed out, and there are none at `filled` and behind.
    from: usize,
    filled: usize,
    /// No newline lies between `from` and here.
    searched: usize,
    block_bytes: usize,
    line_bytes_max: usize,
}

impl<R: Read> LineReader<R> {
    /// `source` stands at `position`, a line's beginning. It is taken as the `size` bytes long that it had when it was
    /// opened, and `end` is [`end`]'s; `timestamp` is every record's.
    pub fn new(source: R, position: i64, size: u64, end: i64, timestamp: i64) -> Self {
        Self::bounded(source, position, size, end, timestamp, BLOCK_BYTES, LINE_BYTES_MAX)
    }

    fn bounded(
        source: R,
        position: i64,
        size: u64,
        end: i64,
        timestamp: i64,
        block_bytes: usize,
        line_bytes_max: usize,
    ) -> Self {
        let (block, size) = (vec![0; block_bytes], size as i64);
        LineReader {
            source,
            timestamp,
            position,
            size,
            end,
            block,
            from: 0,
            filled: 0,
            searched: 0,
            block_bytes,
            line_bytes_max,
        }
    }

    /// Where the next line begins.
    pub fn position(&self) -> i64 {
        self.position
    }

    pub fn at_end(&self) -> bool {
        self.position >= self.end
    }

    /// Up to `max_rows` records; a batch may hold fewer, and none where lines are blank. `None` at the end.
    pub fn read(&mut self, max_rows: usize) -> Result<Option<RawBatch>, LineError> {
        if self.at_end() {
            return Ok(None);
        }
        let rows = max_rows.min(BATCH_BYTES / 128);
        let mut offsets = Vec::with_capacity(rows);
        let mut values = Bytes::with_capacity(rows, BATCH_BYTES + self.block_bytes.min(BATCH_BYTES / 4));
        while offsets.len() < rows && values.bytes.len() < BATCH_BYTES && !self.at_end() {
            let Some(length) = self.line()? else { continue };
            let whole = &self.block[self.from..self.from + length];
            let line = if self.position == 0 { whole.strip_prefix(BYTE_ORDER_MARK).unwrap_or(whole) } else { whole };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() {
                offsets.push(self.position);
                values.push(line);
            }
            self.position += length as i64 + 1;
            self.from = (self.from + length + 1).min(self.filled);
            self.searched = self.from;
        }
        let n = offsets.len();
        let keys = OptBytes { values: Bytes { bytes: vec![], ends: vec![0; n] }, null: Some(vec![true; n]) };
        Ok(Some(RawBatch {
            offsets,
            timestamps: vec![self.timestamp; n],
            keys,
            values: OptBytes { values, null: None },
            headers: None,
            next_offset: self.position,
        }))
    }

    /// The length of the next line, which lies whole in the block; `None`: look again, more was read.
    fn line(&mut self) -> Result<Option<usize>, LineError> {
        if let Some(at) = memchr(b'\n', &self.block[self.searched..self.filled]) {
            return Ok(Some(self.searched - self.from + at));
        }
        self.searched = self.filled;
        let held = self.filled - self.from;
        let read = self.position + held as i64;
        if read >= self.size {
            // Only the last line may lack its newline, and only if it did when the file was opened.
            return if self.end > self.size { Ok(Some(held)) } else { Err(LineError::Changed(read)) };
        }
        match self.fill((self.size - read) as usize)? {
            0 => Err(LineError::Changed(read)),
            _ => Ok(None),
        }
    }

    /// Reads at most `wanted` bytes behind those that are held; 0 when there are no more.
    fn fill(&mut self, wanted: usize) -> Result<usize, LineError> {
        let held = self.filled - self.from;
        if held > self.line_bytes_max {
            return Err(LineError::TooLong(self.position));
        }
        if self.filled + wanted.min(self.block_bytes / 2) > self.block.len() {
            self.block.copy_within(self.from..self.filled, 0);
            (self.from, self.searched, self.filled) = (0, self.searched - self.from, held);
            let needed = if held >= self.block_bytes / 2 { held * 2 } else { self.block_bytes };
            self.block.resize(needed.max(2), 0);
            self.block.shrink_to(needed.max(2));
        }
        let room = (self.block.len() - self.filled).min(wanted);
        loop {
            match self.source.read(&mut self.block[self.filled..self.filled + room]) {
                Ok(read) => {
                    self.filled += read;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LineError::Io(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Hands out at most `.1` bytes a call.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = into.len().min(self.1).min(self.0.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn all(bytes: &[u8], from: i64, block: usize, trickle: usize, rows: usize) -> Vec<(i64, Vec<u8>)> {
        let to = end(bytes.len() as u64, bytes.last().copied());
        let source = Trickle(&bytes[(from as usize).min(bytes.len())..], trickle);
        let mut reader = LineReader::bounded(source, from, bytes.len() as u64, to, 7, block, LINE_BYTES_MAX);
        let mut found = vec![];
        let mut next = from;
        while let Some(batch) = reader.read(rows).unwrap() {
            assert!(batch.len() <= rows && batch.next_offset > next && batch.first_offset() >= next);
            next = batch.next_offset;
            assert_eq!(reader.position(), next);
            for row in 0..batch.len() {
                assert_eq!((batch.keys.get(row), batch.timestamps[row]), (None, 7));
                found.push((batch.offsets[row], batch.values.get(row).unwrap().to_vec()));
            }
        }
        assert_eq!(next, to.max(from));
        found
    }

    /// The same by splitting: shares no line with the reader.
    fn naive(bytes: &[u8]) -> Vec<(i64, Vec<u8>)> {
        let mut at = 0;
        let mut found = vec![];
        for piece in bytes.split(|&b| b == b'\n') {
            let mut line = piece;
            if at == 0 && line.starts_with(&[0xef, 0xbb, 0xbf]) {
                line = &line[3..];
            }
            if let [head @ .., b'\r'] = line {
                line = head;
            }
            if !line.is_empty() {
                found.push((at, line.to_vec()));
            }
            at += piece.len() as i64 + 1;
        }
        found
    }

    const PIECES: &[&[u8]] =
        &[b"\n", b"\r\n", b"\r", b"\xef\xbb\xbf", b"{\"a\":1}", b"x", b"a line that is longer than many a block"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn each_line_once_from_any_line_whatever_the_blocks(
            pieces in proptest::collection::vec(prop::sample::select(PIECES), 0..25),
            block in 2usize..50, trickle in 1usize..60, rows in 1usize..6, start in any::<prop::sample::Index>(),
        ) {
            let bytes = pieces.concat();
            let wanted = naive(&bytes);
            let starts: Vec<i64> = std::iter::once(0)
                .chain(bytes.iter().enumerate().filter(|(_, &b)| b == b'\n').map(|(i, _)| i as i64 + 1))
                .chain([end(bytes.len() as u64, bytes.last().copied())])
                .collect();
            let from = starts[start.index(starts.len())];
            let behind: Vec<_> = wanted.into_iter().filter(|(at, _)| *at >= from).collect();
            prop_assert_eq!(all(&bytes, from, block, trickle, rows), behind);
        }
    }

    #[test]
    fn offsets_are_bytes_and_a_missing_newline_counts() {
        let bytes = b"\xef\xbb\xbf{}\r\n\n{}";
        assert_eq!(all(bytes, 0, 64, 64, 9), [(0, b"{}".to_vec()), (8, b"{}".to_vec())]);
        assert_eq!((end(0, None), end(3, Some(b'\n')), end(3, Some(b'x'))), (0, 3, 4));
    }

    #[test]
    fn long_lines_and_full_blocks() {
        for length in [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES, 3 << 20] {
            let long = vec![b'x'; length];
            let bytes = [&b"a\n"[..], &long, b"\nb\n"].concat();
            let found = all(&bytes, 0, BLOCK_BYTES, usize::MAX, 10);
            assert_eq!(found.len(), 3);
            assert_eq!(
                (found[1].0, found[1].1.len(), found[2].clone()),
                (2, length, (length as i64 + 3, b"b".to_vec()))
            );
        }
    }

    #[test]
    fn a_batch_is_bounded_by_bytes_and_memory_for_a_long_line_is_given_back() {
        let bytes = [vec![b'x'; 8 << 20], b"\n".to_vec(), b"0123456789\n".repeat(1 << 20)].concat();
        let to = end(bytes.len() as u64, Some(b'\n'));
        let mut reader = LineReader::new(&bytes[..], 0, bytes.len() as u64, to, 0);
        assert_eq!(reader.read(1).unwrap().unwrap().len(), 1);
        let mut rows = 0;
        while let Some(batch) = reader.read(usize::MAX).unwrap() {
            assert!(batch.byte_size() < 4 << 20);
            rows += batch.len();
        }
        assert_eq!(rows, 1 << 20);
        assert!(reader.block.capacity() <= 4 * BLOCK_BYTES, "{}", reader.block.capacity());
    }

    #[test]
    fn what_was_appended_since_is_not_read_and_what_was_cut_off_is_an_error() {
        // (now, size when it was opened, end then, what is read)
        for (now, size, end, wanted) in [
            (&b"a\nb\nc"[..], 4, 4, Some(2)),
            (b"a\nbxyz\n", 3, 4, Some(2)), // the last line was being written: taken as it was
            (b"a\nb", 8, 9, None),
            (b"a\nb", 8, 8, None),
            (b"", 1, 2, None),
            (b"a\nbxyz\n", 4, 4, None),
        ] {
            match (LineReader::new(now, 0, size, end, 0).read(9), wanted) {
                (Ok(Some(batch)), Some(rows)) => {
                    assert_eq!((batch.len(), batch.next_offset), (rows, end));
                    assert_eq!(batch.values.get(rows - 1), Some(&b"b"[..]));
                }
                (Err(LineError::Changed(_)), None) => {}
                (other, _) => panic!("{now:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_file_without_lines_is_an_error_before_it_fills_the_memory() {
        struct Endless;
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                into.fill(b'x');
                Ok(into.len())
            }
        }
        let mut reader = LineReader::bounded(Endless, 0, 1 << 40, 1 << 40, 0, 64, 1 << 12);
        assert!(matches!(reader.read(1), Err(LineError::TooLong(0))));
        assert!(reader.block.capacity() <= 1 << 14);
    }
}
