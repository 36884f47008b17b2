//! Bytes that nobody meant: mutations of what is right, in great number.
//!
//! Properties (`codec.rs` and at the foot of modules) look for small counter-examples; this looks for many odd ones: whole
//! texts and frames, cut, doubled, spliced and with bytes changed, each run with one seed.
//!
//! - The JSON decoder gives serde_json's verdict on every text, and its values where the text is right.
//! - Frames, changelogs and batches from a log under a *good* checksum (another program may have written them) are read
//!   or refused: no panic, and no memory out of proportion.
//!
//! `FUZZ_ROUNDS` (1,000; a round has up to 70 texts) and `FUZZ_SEED` choose more, and other ones:
//!
//!     FUZZ_ROUNDS=1000000 FUZZ_SEED=7 cargo test --release -p adstream-core --test fuzz

mod opinion;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use adstream_core::expr::NoForeign;
use adstream_core::frame::{self, Kind};
use adstream_core::plan::Plan;
use adstream_core::raw::RawBatch;
use adstream_core::raw_serial;
use adstream_core::task::{Generation, Task};
use adstream_core::types::Schema;
use opinion::{all_rows, decode, expected, nullable_fields, serde_says, MALFORMED};

/// Remembers the largest piece that this thread asked for.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = LARGEST.try_with(|l| l.set(l.get().max(layout.size())));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// What `work` asked for at most at once.
fn largest<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LARGEST.with(|l| l.set(0));
    let done = work();
    (done, LARGEST.with(Cell::get))
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// A few bytes of `bytes` changed, put in, taken out, doubled, or the rest cut off; `other` lends a piece.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], pieces: &[&[u8]], dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len() + 1);
        let to = (at + dice.below(9)).min(bytes.len());
        match dice.below(8) {
            0 if at < bytes.len() => bytes[at] = dice.next() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 => drop(bytes.splice(at..at, dice.one(pieces).iter().copied())),
            3 => drop(bytes.splice(at..to, dice.one(pieces).iter().copied())),
            4 => drop(bytes.drain(at..to)),
            5 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => bytes.truncate(at),
            _ => {
                let from = dice.below(other.len() + 1);
                let end = (from + dice.below(20)).min(other.len());
                bytes.splice(at..to, other[from..end].iter().copied());
            }
        }
    }
}

/// Pieces that JSON is made of, and nearly.
const JSON: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"\\",
    b"\\\"",
    b"\\\\",
    b"\\u",
    b"\\u0000",
    b"\\ud83d\\ude00",
    b"\\ud800",
    b"\\udc00",
    b"\\u00e9",
    b"\\x",
    b"\\n",
    b"\n",
    b"\t",
    b"\x0c",
    b" ",
    b"\x00",
    b"\x1f",
    b"\x7f",
    b"\xc3\xa9",
    b"\xc3",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\xef\xbb\xbf",
    b"0",
    b"-",
    b"-0",
    b"00",
    b"1.",
    b".5",
    b"1e",
    b"1e5",
    b"1E+5",
    b"1e-400",
    b"1e400",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"0.1",
    b"123456789.0123456789",
    b"true",
    b"false",
    b"null",
    b"nul",
    b"tru",
    b"NaN",
    b"\"a\":",
    b"\"b\":",
    b"\"c\":{\"d\":",
    b"\"e\":",
    b"\"a\"",
    b"{}",
    b"[]",
    b"\"\"",
    b"{\"a\":1}",
    b",\"a\":2",
    b"/* */",
    b"a_key_of_more_than_sixteen_bytes_and_then_some",
];

fn text(depth: usize, out: &mut Vec<u8>, dice: &mut Dice) {
    let space = |out: &mut Vec<u8>, dice: &mut Dice| {
        if dice.below(8) == 0 {
            out.extend_from_slice(dice.one(&[&b" "[..], b"\n\t", b"\r\n  ", b"                    "]));
        }
    };
    let members = dice.below(6);
    match dice.below(if depth == 0 { 6 } else { 9 }) {
        _ if depth == 9 => object(members, depth, out, dice, space),
        0 => out.extend_from_slice(dice.one(&[&b"null"[..], b"true", b"false", b"0", b"-0", b"1.5e3"])),
        1 => out.extend(((dice.next() as i64) >> dice.below(64)).to_string().bytes()),
        2 => {
            out.extend(format!("{:?}", f64::from_bits(dice.next())).replace("NaN", "1.0").replace("inf", "2.0").bytes())
        }
        3..=5 => string(out, dice),
        6 => {
            out.push(b'[');
            for i in 0..members {
                if i > 0 {
                    out.push(b',');
                }
                space(out, dice);
                text(depth - 1, out, dice);
                space(out, dice);
            }
            out.push(b']');
        }
        _ => object(members, depth, out, dice, space),
    }
}

fn object(members: usize, depth: usize, out: &mut Vec<u8>, dice: &mut Dice, space: impl Fn(&mut Vec<u8>, &mut Dice)) {
    out.push(b'{');
    for i in 0..members {
        if i > 0 {
            out.push(b',');
        }
        space(out, dice);
        match dice.below(10) {
            0 => string(out, dice),
            _ => {
                let keys =
                    ["a", "b", "c", "d", "e", "\\u0061", "device_id", "a_key_of_more_than_sixteen_bytes_and_then_some"];
                out.extend(format!("\"{}\"", dice.one(&keys)).bytes());
            }
        }
        space(out, dice);
        out.push(b':');
        space(out, dice);
        text(depth.min(5) - usize::from(depth > 0), out, dice);
        space(out, dice);
    }
    out.push(b'}');
}

fn string(out: &mut Vec<u8>, dice: &mut Dice) {
    out.push(b'"');
    for _ in 0..dice.below(6) {
        match dice.below(4) {
            0 => out.extend(b"abcdefghijklmnopqrstuvwxyz"[..dice.below(27)].iter()),
            1 => out.extend("é漢😀\u{7f}".chars().nth(dice.below(4)).unwrap().to_string().bytes()),
            2 => out.extend_from_slice(dice.one(&[
                &b"\\n"[..],
                b"\\\"",
                b"\\\\",
                b"\\/",
                b"\\u00e9",
                b"\\ud83d\\ude00",
                b"\\u0000",
            ])),
            _ => out.push(b' ' + dice.below(2) as u8),
        }
    }
    out.push(b'"');
}

#[test]
fn the_json_decoder_and_serde_json_are_of_one_opinion() {
    let dice = &mut Dice(setting("FUZZ_SEED", 1));
    let (mut right, mut wrong) = (0, 0);
    for round in 0..setting("FUZZ_ROUNDS", 1_000) {
        let mut rows: Vec<Vec<u8>> = vec![];
        for _ in 0..=dice.below(70) {
            let mut row = vec![];
            text(9, &mut row, dice);
            if dice.below(2) == 0 {
                let other = rows.last().cloned().unwrap_or_default();
                mutate(&mut row, &other, JSON, dice);
            }
            rows.push(row);
        }
        let bytes: usize = rows.iter().map(Vec::len).sum();
        let (got, most) = largest(|| all_rows(&decode(nullable_fields(), &rows)));
        assert!(most < 64 * bytes + (1 << 16), "{most} bytes at once for {bytes}");
        for (row, got) in rows.iter().zip(got) {
            let Some(ok) = serde_says(row) else { continue };
            let shown = String::from_utf8_lossy(row);
            assert_eq!(got != MALFORMED, ok, "round {round}: {shown}");
            *(if ok { &mut right } else { &mut wrong }) += 1;
            let tree = ok.then(|| serde_json::from_slice::<serde_json::Value>(row).unwrap());
            // serde_json takes `-0` for a float; here it is the integer that its text says.
            let minus = |t: &serde_json::Value| t["a"].is_f64() && t["a"].as_f64() == Some(0.0);
            if let Some(tree) = tree.filter(|t| !minus(t)) {
                assert_eq!(got, expected(&tree), "round {round}: {shown}");
            }
        }
    }
    assert!(
        right > 5 * setting("FUZZ_ROUNDS", 1_000) && wrong > 5 * setting("FUZZ_ROUNDS", 1_000),
        "{right} right, {wrong} wrong"
    );
}

/// Numbers as frames have them, and their largest.
const NUMBERS: &[&[u8]] = &[
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x00\x00\x00\x00\x00\x00\x00\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
];

const PLAN: &str = r#"{"app": "fuzzed", "nodes": [
{"id": 0, "op": "source", "name": "events", "inputs": [], "line": "a:1", "topic": "events", "format": "json", "fields": [
  {"name": "id", "type": "str", "nullable": false, "path": ["id"]},
  {"name": "user", "type": "str", "nullable": false, "path": ["user"]},
  {"name": "kind", "type": "enum[\"a\",\"b\"]", "nullable": false, "path": ["kind"]},
  {"name": "value", "type": "decimal(10,2)", "nullable": false, "path": ["value"]},
  {"name": "note", "type": "str", "nullable": true, "path": ["note"]}], "timestamp": null, "key": null, "extra": "drop"},
{"id": 1, "op": "deduplicate", "name": "deduplicate-1", "inputs": [[0, 0]], "line": "a:2", "columns": ["id"], "within_ms": 10000},
{"id": 2, "op": "aggregate", "name": "aggregate-1", "inputs": [[1, 0]], "line": "a:3", "keys": ["user", "kind"],
  "window": {"kind": "tumbling", "size_ms": 60000, "grace_ms": 5000, "retention_ms": 65000}, "aggregates": [
  {"name": "n", "fn": "count", "arg": null, "where": null, "function": null, "type": "int"},
  {"name": "total", "fn": "sum", "arg": {"op": "col", "name": "value"}, "where": null, "function": null, "type": "decimal(38,2)"},
  {"name": "low", "fn": "min", "arg": {"op": "col", "name": "value"}, "where": null, "function": null, "type": "decimal(10,2)"},
  {"name": "last", "fn": "last", "arg": {"op": "col", "name": "note"}, "where": null, "function": null, "type": "str"}],
  "combine": COMBINE},
{"id": 3, "op": "to_topic", "name": "to-final", "inputs": [[2, 1]], "line": "a:4", "topic": "final", "key": ["user", "kind"],
  "columns": ["user", "kind", "n", "total", "low", "last"], "format": "json"},
{"id": 4, "op": "to_stream", "name": "to_stream-1", "inputs": [[2, 0]], "line": "a:5"},
{"id": 5, "op": "to_topic", "name": "to-changes", "inputs": [[4, 0]], "line": "a:5", "topic": "changes", "key": ["user", "kind"],
  "columns": ["user", "kind", "n", "total", "low", "last"], "format": "json"}]}"#;

fn plan(combine: bool) -> Arc<Plan> {
    Arc::new(Plan::parse(&PLAN.replace("COMBINE", if combine { "true" } else { "false" })).unwrap())
}

fn task(plan: &Arc<Plan>, subtopology: usize) -> Task {
    let partitions: BTreeMap<String, u32> = plan.topics.iter().map(|t| (t.clone(), 1)).collect();
    Task::new(plan.clone(), subtopology, 0, &partitions, Arc::new(NoForeign), Default::default(), &Arc::default())
        .unwrap()
}

fn events(first: i64) -> Arc<RawBatch> {
    let mut batch = RawBatch::default();
    for i in first..first + 40 {
        let value = format!(
            r#"{{"id":"e{i}","user":"u{}","kind":"{}","value":"{}.5","note":"note {i}"}}"#,
            i % 7,
            if i % 2 == 0 { "a" } else { "b" },
            i
        );
        batch.push(i, 1_000_000_000_000 + i * 900, None, Some(value.as_bytes()));
    }
    Arc::new(batch)
}

/// Three generations of sub-topology 0: by topic, what they wrote.
fn written(task: &mut Task, input: &str, batches: Vec<Arc<RawBatch>>) -> Vec<(String, RawBatch)> {
    let mut out = vec![];
    for batch in batches {
        task.feed(input, batch).unwrap();
        while task.process(1000).unwrap() > 0 {}
        let Generation { outputs, .. } = task.close_generation().unwrap();
        task.committed(None);
        out.extend(outputs.into_iter().map(|(topic, _, batch)| (topic, batch)));
    }
    out
}

/// Records of one topic, numbered through.
fn of(topic: &str, written: &[(String, RawBatch)]) -> Vec<Vec<u8>> {
    let batches = written.iter().filter(|(t, _)| t.contains(topic));
    batches.flat_map(|(_, b)| (0..b.len()).map(|r| b.values.get(r).unwrap().to_vec()).collect::<Vec<_>>()).collect()
}

/// Some records mutated inside their envelope, which is sealed again.
fn mutated(frames: &[Vec<u8>], dice: &mut Dice) -> RawBatch {
    let mut batch = RawBatch::default();
    for (i, bytes) in frames.iter().enumerate() {
        let mut bytes = bytes.clone();
        if dice.below(frames.len()) < 2 {
            let (mut header, body) = frame::open(&bytes).unwrap();
            let mut body = body.to_vec();
            match dice.below(6) {
                0 => header.count = dice.next() as u32 >> dice.below(32),
                1 => header.clock = dice.next() as i64 >> dice.below(64),
                2 => header.lane = dice.below(3) as u32,
                _ => mutate(&mut body, &bytes, NUMBERS, dice),
            }
            bytes = frame::seal(&header, &body);
        }
        batch.push(i as i64, 0, None, Some(&bytes));
    }
    batch
}

/// Reads it all, goes on with more, and closes; what it says does not matter.
fn swallow(task: &mut Task, changelog: Option<&RawBatch>, input: &str, more: Arc<RawBatch>) -> bool {
    let restored = changelog.is_none_or(|c| task.restore(c, false).is_ok());
    restored
        && task.feed(input, more).is_ok()
        && (0..1000).all(|_| task.process(1000).is_ok())
        && task.close_generation().is_ok()
        && task.rollback().is_ok()
}

#[test]
fn internal_topics_are_read_or_refused_whatever_they_hold() {
    let dice = &mut Dice(setting("FUZZ_SEED", 1));
    let (mut read, mut refused) = (0, 0);
    for combine in [true, false] {
        let plan = plan(combine);
        let first = written(&mut task(&plan, 0), "events", vec![events(0), events(40), events(80)]);
        let edge = "fuzzed-aggregate-1-repartition";
        let frames = of(edge, &first);
        let mut whole = RawBatch::default();
        frames.iter().enumerate().for_each(|(i, f)| whole.push(i as i64, 0, None, Some(f)));
        let second = written(&mut task(&plan, 1), edge, vec![Arc::new(whole)]);
        let (log0, log1) = (of("0-changelog", &first), of("1-changelog", &second));
        assert!(frames.len() >= 3 && log0.len() >= 3 && log1.len() >= 2);
        let bytes: usize = [&frames, &log0, &log1].iter().flat_map(|l| l.iter()).map(Vec::len).sum();
        for _ in 0..setting("FUZZ_ROUNDS", 1_000) {
            let (fine, most) = largest(|| match dice.below(3) {
                0 => swallow(&mut task(&plan, 0), Some(&mutated(&log0, dice)), "events", events(120)),
                1 => swallow(&mut task(&plan, 1), Some(&mutated(&log1, dice)), edge, Arc::new(RawBatch::default())),
                _ => swallow(&mut task(&plan, 1), None, edge, Arc::new(mutated(&frames, dice))),
            });
            assert!(most < 64 * bytes + (1 << 20), "{most} bytes at once for {bytes}");
            *(if fine { &mut read } else { &mut refused }) += 1;
        }
    }
    assert!(read > 0 && refused > 0, "{read} read, {refused} refused");
}

#[test]
fn rows_of_frames_and_batches_of_logs_are_read_or_refused_whatever_they_hold() {
    let dice = &mut Dice(setting("FUZZ_SEED", 1));
    let plan = plan(false);
    let first = written(&mut task(&plan, 0), "events", vec![events(0)]);
    let frames = of("repartition", &first);
    let rows = frames.iter().find(|f| frame::open(f).unwrap().0.kind == Kind::Rows).unwrap();
    let schemas: Vec<Arc<Schema>> = [
        vec![
            ("a", "str"),
            ("b", "enum[\"x\",\"y\"]"),
            ("c", "decimal(10,2)"),
            ("d", "int"),
            ("e", "bool"),
            ("f", "float"),
        ],
        vec![("a", "enum[\"x\",\"y\"]")],
        vec![("a", "bool"), ("b", "str")],
        vec![],
    ]
    .into_iter()
    .map(|fields| Arc::new(Schema::new(fields.into_iter().map(|(name, dtype)| (name, dtype.parse().unwrap())))))
    .collect();
    let log = raw_serial::to_bytes(&events(0));
    for _ in 0..20 * setting("FUZZ_ROUNDS", 1_000) {
        let (mut header, body) = frame::open(rows).unwrap();
        let mut body = body[..dice.below(body.len() + 1)].to_vec();
        header.count = (dice.next() as u32) >> dice.below(32);
        mutate(&mut body, rows, NUMBERS, dice);
        let schema = &schemas[dice.below(schemas.len())];
        let (batch, most) = largest(|| frame::read_rows(schema, &header, &body));
        assert!(most < 64 * body.len() + 4096, "{most} bytes at once for {} and {header:?}", body.len());
        if let Ok(batch) = batch {
            for column in &batch.columns {
                assert_eq!(column.len(), batch.rows);
                (0..batch.rows).for_each(|row| drop(column.value_at(row)));
            }
        }
        let mut bytes = log[..log.len() - 8].to_vec();
        mutate(&mut bytes, rows, NUMBERS, dice);
        bytes.extend(xxhash_rust::xxh3::xxh3_64(&bytes).to_le_bytes());
        let (batch, most) = largest(|| raw_serial::from_bytes(&bytes));
        assert!(most < 64 * bytes.len(), "{most} bytes at once for {}", bytes.len());
        if let Ok(batch) = batch {
            for row in 0..batch.len() {
                let _ = (batch.values.get(row), batch.keys.get(row), batch.headers_at(row).len());
            }
        }
    }
}
