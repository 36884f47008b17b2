//! The JSON codec from outside. Tables say what each type accepts and which reason the rest gets; properties compare with
//! serde_json, whose opinion on what JSON is we share, and with a decoder that has seen nothing yet, whose opinion on key
//! order cannot be wrong.

mod opinion;

use std::sync::Arc;

use adstream_core::batch::Batch;
use adstream_core::codec::{JsonDecoder, JsonEncoder, JsonField, TimeUnit};
use adstream_core::column::{Column, ColumnBuilder, Value, ERR_OVERFLOW};
use adstream_core::raw::OptBytes;
use adstream_core::types::{DataType, Schema};
use opinion::{all_rows, decode, expected, nullable_fields, payloads, serde_says, MALFORMED};
use proptest::prelude::*;

/// Each value as `{"x":<value>}`, decoded alone and all together.
fn check(field: JsonField, table: &[(&str, &str)]) {
    let rows: Vec<String> = table.iter().map(|(value, _)| format!("{{\"x\":{value}}}")).collect();
    let together = all_rows(&decode(vec![field.clone()], &rows));
    for (i, (value, expected)) in table.iter().enumerate() {
        assert_eq!(together[i], *expected, "{value} as {}", field.dtype);
        assert_eq!(all_rows(&decode(vec![field.clone()], &rows[i..=i])), [*expected], "{value} alone");
    }
}

fn x(dtype: &str) -> JsonField {
    JsonField::new("x", dtype.parse().unwrap())
}

const BAD: &str = "bad_field:x";

#[test]
fn bools_ints_floats() {
    check(
        x("bool"),
        &[
            ("true", "true"),
            ("false", "false"),
            ("0", BAD),
            ("\"true\"", BAD),
            ("[]", BAD),
            ("null", "missing_field:x"),
        ],
    );
    let ints = [
        ("5", "5"),
        ("-0", "0"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", BAD),
        ("5.0", BAD),
        ("5e0", BAD),
        ("\"5\"", BAD),
        ("true", BAD),
        ("{}", BAD),
        ("05", MALFORMED),
        ("-", MALFORMED),
        ("+5", MALFORMED),
        ("5.", MALFORMED),
        (".5", MALFORMED),
        ("5e", MALFORMED),
        ("0x5", MALFORMED),
        ("NaN", MALFORMED),
        ("nul", MALFORMED),
        ("nulll", MALFORMED),
        ("", MALFORMED),
    ];
    check(x("int"), &ints);
    check(x("duration"), &ints);
    check(
        x("float"),
        &[
            ("5", "5.0"),
            ("-0", "-0.0"),
            ("0.1", "0.1"),
            ("1e-400", "0.0"),
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            ("1e309", BAD),
            ("\"NaN\"", BAD),
            ("\"1\"", BAD),
            ("Infinity", MALFORMED),
        ],
    );
}

#[test]
fn decimals() {
    check(
        x("decimal(10,2)"),
        &[
            ("1200", "120000e-2"),
            ("12.5", "1250e-2"),
            ("\"12.50\"", "1250e-2"),
            ("\"12\\u002e50\"", "1250e-2"),
            ("1.25e1", "1250e-2"),
            ("-0.01", "-1e-2"),
            ("12.500", "1250e-2"),
            ("12.505", BAD),
            ("\"12.505\"", BAD),
            ("99999999.99", "9999999999e-2"),
            ("100000000", BAD),
            ("\"\"", BAD),
            ("\" 1\"", BAD),
            ("\"+1\"", BAD),
            ("\"NaN\"", BAD),
            ("true", BAD),
            ("[1]", BAD),
        ],
    );
}

#[test]
fn texts() {
    check(
        x("str"),
        &[
            ("\"\"", ""),
            ("\"plain\"", "plain"),
            ("\"exactly 16 bytes\"", "exactly 16 bytes"),
            ("\"seventeen bytes !\"", "seventeen bytes !"),
            ("\"a longer text, of more than two blocks of 16\"", "a longer text, of more than two blocks of 16"),
            ("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\u{8}\u{c}\n\r\t"),
            ("\"\\u0041\\u00e9\\ud55c\\ud83d\\ude00\"", "Aé한😀"),
            ("\"광고 😀\"", "광고 😀"),
            ("\"\u{7f}\"", "\u{7f}"),
            ("5", BAD),
            ("null", "missing_field:x"),
            ("\"\\ud83d\"", MALFORMED),
            ("\"\\ud83d\\u0041\"", MALFORMED),
            ("\"\\ude00\"", MALFORMED),
            ("\"\\u12g4\"", MALFORMED),
            ("\"\\u12\"", MALFORMED),
            ("\"\\x\"", MALFORMED),
            ("\"a\nb\"", MALFORMED),
            ("\"open", MALFORMED),
            ("\"open\\", MALFORMED),
            ("'a'", MALFORMED),
        ],
    );
    let invalid: Vec<&[u8]> = vec![
        b"{\"x\":\"\xff\"}",
        b"{\"x\":\"\xc3\"}",
        b"{\"x\":\"\xed\xa0\x80\"}",
        b"{\"x\":\"a\",\"\xff\":1}",
        b"{\"y\":\"\xc0\x80\"}",
    ];
    assert!(all_rows(&decode(vec![x("str")], &invalid)).iter().all(|r| r == MALFORMED));
}

#[test]
fn enums() {
    let mut many: Vec<String> = (0..40).map(|i| format!("V{i}")).collect();
    check(
        x("enum[\"CLICK\",\"IMPRESSION_OF_A_LONG_NAME\",\"\",\"C\"]"),
        &[
            ("\"CLICK\"", "CLICK"),
            ("\"IMPRESSION_OF_A_LONG_NAME\"", "IMPRESSION_OF_A_LONG_NAME"),
            ("\"\"", ""),
            ("\"C\"", "C"),
            ("\"CL\\u0049CK\"", "CLICK"),
            ("\"CLIC\"", BAD),
            ("\"CLICKS\"", BAD),
            ("\"click\"", BAD),
            ("0", BAD),
        ],
    );
    many.push("광고".into());
    let field = JsonField::new("x", DataType::Enum(Arc::new(many)));
    check(field, &[("\"V39\"", "V39"), ("\"V40\"", BAD), ("\"광고\"", "광고")]);
}

#[test]
fn timestamps() {
    let bad_text = [
        ("\"2024-01-15T10:04:59.999\"", BAD),
        ("\"2024-01-15T24:00:00Z\"", BAD),
        ("\"2024-01-15T23:59:60Z\"", BAD),
        ("\"2023-02-29T00:00:00Z\"", BAD),
        ("\"1999-12-31T23:59:59.999Z\"", BAD),
        ("\"2100-01-01T00:00:00Z\"", BAD),
        ("1705313099999", BAD),
    ];
    let good_text = [
        ("\"2024-01-15T10:04:59.999Z\"", "1705313099999"),
        ("\"2024-01-15T10:04:59Z\"", "1705313099000"),
        ("\"2024-01-15T10:04:59.999999Z\"", "1705313099999"),
        ("\"2024-01-15T19:04:59.999+09:00\"", "1705313099999"),
        ("\"2024-01-15T10:04:59\\u005a\"", "1705313099000"),
        ("\"2000-01-01T00:00:00Z\"", "946684800000"),
        ("\"2099-12-31T23:59:59.999Z\"", "4102444799999"),
    ];
    check(x("timestamp"), &[&good_text[..], &bad_text[..]].concat());
    let zones = [("UTC", 1_705_313_099_999i64), ("+09:00", 1_705_280_699_999), ("Asia/Seoul", 1_705_280_699_999)];
    for (zone, ms) in zones {
        let table = [(bad_text[0].0, &*ms.to_string())];
        check(x("timestamp").zone(zone), &[&good_text[..], &table[..], &bad_text[1..]].concat());
    }
    // 02:30 is skipped in spring (moves by the gap) and comes twice in autumn (the first).
    check(
        x("timestamp").zone("Europe/Berlin"),
        &[("\"2024-03-31T02:30:00\"", "1711848600000"), ("\"2024-10-27T02:30:00\"", "1729989000000")],
    );
    let ms = ("1705313099999", "1705313099999");
    check(
        x("timestamp").unit(TimeUnit::Millis),
        &[ms, ("1705313099", BAD), ("1705313099999.0", BAD), ("\"1705313099999\"", BAD), ("946684799999", BAD)],
    );
    check(
        x("timestamp").unit(TimeUnit::Seconds),
        &[("1705313099", "1705313099000"), (ms.0, BAD), ("9223372036854775807", BAD), ("4102444800", BAD)],
    );
    check(
        x("timestamp").unit(TimeUnit::Micros),
        &[("1705313099999999", ms.1), (ms.0, BAD), ("4102444799999999", "4102444799999")],
    );
}

#[test]
fn whole_payload() {
    let deep = |n: usize| format!("{{\"x\":1,\"y\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let cases: Vec<(String, &str)> = vec![
        (" \r\n\t{ \"x\" : 1 , \"y\" : [ ] } \n".into(), "1"),
        ("{\"x\":1,\"y\":{\"x\":2}}".into(), "1"),
        ("{\"y\":[{\"x\":2},[\"}\"],-0.5e+3,null,true,false,{}],\"x\":1}".into(), "1"),
        ("{}".into(), "missing_field:x"),
        ("{\"\":0,\"x\":1}".into(), "1"),
        ("{\"\\u0078\":1}".into(), "1"),
        ("{\"x\":1,\"x\":2}".into(), "2"),
        ("{\"x\":1,\"\\u0078\":3}".into(), "3"),
        ("{\"x\":1,\"x\":null}".into(), "missing_field:x"),
        ("{\"x\":\"bad\",\"x\":2}".into(), "2"),
        (deep(127), "1"),
        (deep(128), MALFORMED),
        ("".into(), MALFORMED),
        (" ".into(), MALFORMED),
        ("null".into(), MALFORMED),
        ("1".into(), MALFORMED),
        ("[{\"x\":1}]".into(), MALFORMED),
        ("\"x\"".into(), MALFORMED),
        ("\u{feff}{\"x\":1}".into(), MALFORMED),
        ("{\"x\":1}{".into(), MALFORMED),
        ("{\"x\":1}}".into(), MALFORMED),
        ("{\"x\":1} x".into(), MALFORMED),
        ("{\"x\":1,}".into(), MALFORMED),
        ("{,\"x\":1}".into(), MALFORMED),
        ("{\"x\":1 \"y\":2}".into(), MALFORMED),
        ("{\"x\" 1}".into(), MALFORMED),
        ("{\"x\":1,\"y\":[1,]}".into(), MALFORMED),
        ("{\"x\":1,\"y\":[1}".into(), MALFORMED),
        ("{\"x\":1,\"y\":{\"z\"}}".into(), MALFORMED),
        ("{\"x\":1,\"y\":tru}".into(), MALFORMED),
        ("{\"x\":1,\"y\":01}".into(), MALFORMED),
        ("{\"x\":1,\"y\"}".into(), MALFORMED),
        ("{x:1}".into(), MALFORMED),
        ("{\"x\":1".into(), MALFORMED),
        ("{\"x\":1,\"y\":\"".into(), MALFORMED),
        ("{\"x\":\"bad\",\"y\":}".into(), MALFORMED),
    ];
    let rows: Vec<&str> = cases.iter().map(|c| &*c.0).collect();
    let together = all_rows(&decode(vec![x("int")], &rows));
    for (i, (row, expected)) in cases.iter().enumerate() {
        assert_eq!(together[i], *expected, "{row}");
        assert_eq!(all_rows(&decode(vec![x("int")], &rows[i..=i])), [*expected], "{row} alone");
    }
}

#[test]
fn truncation_never_borrows_from_the_next_payload() {
    let whole = "{\"x\":1,\"y\":\"abc\",\"z\":[1,{\"k\":null}]}";
    for cut in 0..whole.len() {
        let rows = [&whole[..cut], &whole[cut..], whole];
        assert_eq!(all_rows(&decode(vec![x("int")], &rows))[0], MALFORMED, "cut at {cut}");
        assert_eq!(all_rows(&decode(vec![x("int")], &rows))[2], "1", "cut at {cut}");
    }
}

#[test]
fn nested_paths() {
    let fields = || {
        vec![
            JsonField::new("genre", DataType::Str).path(["data", "genre"]).nullable(),
            JsonField::new("deep", DataType::Int).path(["data", "more", "n"]).nullable(),
            JsonField::new("again", DataType::Str).path(["data", "genre"]).nullable(),
            JsonField::new("top", DataType::Int).nullable(),
        ]
    };
    let table = [
        ("{\"data\":{\"genre\":\"drama\",\"more\":{\"n\":1}},\"top\":2}", "drama|1|drama|2"),
        ("{\"top\":2,\"data\":{\"more\":{\"m\":0,\"n\":1},\"genre\":\"drama\"}}", "drama|1|drama|2"),
        ("{\"data\":{}}", "null|null|null|null"),
        ("{\"data\":null}", "null|null|null|null"),
        ("{}", "null|null|null|null"),
        ("{\"data\":5}", "bad_field:genre"),
        ("{\"data\":[{\"genre\":\"drama\"}]}", "bad_field:genre"),
        ("{\"data\":{\"more\":\"x\"}}", "bad_field:deep"),
        ("{\"genre\":\"drama\",\"n\":1}", "null|null|null|null"),
        // The last `data` counts, as a whole.
        ("{\"data\":{\"genre\":\"drama\"},\"data\":{\"more\":{\"n\":1}}}", "null|1|null|null"),
        ("{\"data\":{\"genre\":\"drama\"},\"data\":null}", "null|null|null|null"),
        ("{\"data\":5,\"data\":{\"genre\":\"drama\"}}", "drama|null|drama|null"),
        ("{\"data\":{\"genre\":\"drama\"},\"top\":3", MALFORMED),
    ];
    let rows: Vec<&str> = table.iter().map(|t| t.0).collect();
    assert_eq!(all_rows(&decode(fields(), &rows)), table.map(|t| t.1));

    // A path may lead through a value that is itself wanted: then that one is no string.
    let both = vec![JsonField::new("data", DataType::Str).nullable(), fields().remove(0)];
    let rows = ["{\"data\":null}", "{\"data\":\"text\"}", "{\"data\":{\"genre\":\"drama\"}}"];
    let expected = ["null|null", "bad_field:genre", "bad_field:data"];
    assert_eq!(all_rows(&decode(both, &rows)), expected);

    // Depth counts along wanted paths too.
    let keys = vec!["k".to_string(); 128];
    let text = format!("{}1{}", "{\"k\":".repeat(128), "}".repeat(128));
    assert_eq!(all_rows(&decode(vec![x("int").path(&keys[..])], &[&text])), ["1"]);
    let keys = vec!["k".to_string(); 129];
    let text = format!("{}1{}", "{\"k\":".repeat(129), "}".repeat(129));
    assert_eq!(all_rows(&decode(vec![x("int").path(&keys[..])], &[&text])), [MALFORMED]);
}

#[test]
fn first_declared_field_gives_the_reason() {
    let fields = vec![
        JsonField::new("a", DataType::Int),
        JsonField::new("b", DataType::Int),
        JsonField::new("c", DataType::Int).nullable(),
    ];
    let rows = [
        "{\"c\":\"x\",\"b\":\"x\",\"a\":\"x\"}",
        "{\"c\":\"x\",\"b\":\"x\",\"a\":1}",
        "{\"c\":\"x\",\"b\":2,\"a\":1}",
        "{\"b\":\"x\"}",
        "{\"a\":1}",
        "{\"a\":1,\"b\":2,\"c\":null}",
        "{\"a\":1,\"b\":2}",
        "{\"a\":\"x\",",
    ];
    let expected = [
        "bad_field:a",
        "bad_field:b",
        "bad_field:c",
        "missing_field:a",
        "missing_field:b",
        "1|2|null",
        "1|2|null",
        MALFORMED,
    ];
    assert_eq!(all_rows(&decode(fields, &rows)), expected);
}

#[test]
fn tombstones_and_empty_batches() {
    let mut with_null = payloads(&["{\"x\":1}"]);
    with_null.push(None);
    with_null.push(Some(b"{\"x\":2}"));
    with_null.push(None);
    let mut decoder = JsonDecoder::new(vec![x("int")]).unwrap();
    assert_eq!(all_rows(&decoder.decode(&with_null)), ["1", "null_payload", "2", "null_payload"]);
    let none = decoder.decode(&OptBytes::default());
    assert_eq!((none.columns.len(), none.columns[0].len(), none.bad.len()), (1, 0, 0));
    // Without fields there is still a verdict.
    let verdict = decode(vec![], &["{}", "{"]);
    assert_eq!(verdict.bad, [(1, MALFORMED.to_string())]);
    // A column without nulls has no states.
    assert!(decode(vec![x("int").nullable()], &["{\"x\":1}"]).columns[0].state.is_none());
}

#[test]
fn content_ids() {
    let field = || x("str").content_id();
    let rows = ["{\"x\":\"given\"}", "{\"x\":null}", "{}", "{} ", "{\"x\":5}"];
    let id = |row: &str| format!("{:032x}", xxhash_rust::xxh3::xxh3_128(row.as_bytes()));
    let got = all_rows(&decode(vec![field()], &rows));
    assert_eq!(got, ["given".into(), id(rows[1]), id(rows[2]), id(rows[3]), BAD.into()]);
    assert_eq!(id(""), "99aa06d3014798d86001c324468d497f", "the published test vector");
}

#[test]
fn plan_errors() {
    let code = |fields| JsonDecoder::new(fields).err().map(|e| e.code);
    assert_eq!(code(vec![x("int"), x("str")]), Some("duplicate_field"));
    assert_eq!(code(vec![x("int").path([""; 0])]), Some("empty_path"));
    assert_eq!(code(vec![x("int").content_id()]), Some("content_id_type"));
    assert_eq!(code(vec![x("timestamp").zone("Mars/Olympus")]), Some("unknown_zone"));
    assert_eq!(code(vec![x("timestamp").zone("Asia/Seoul")]), None);
}

fn batch(columns: Vec<(&str, Column)>) -> Batch {
    let rows = columns[0].1.len();
    Batch {
        schema: Arc::new(Schema::new(columns.iter().map(|(n, c)| (*n, c.dtype.clone())))),
        columns: columns.into_iter().map(|(_, c)| Arc::new(c)).collect(),
        rows,
        live: None,
        seq: Arc::new(vec![0; rows]),
        path: None,
        ts: Arc::new(vec![0; rows]),
        key: None,
        sign: None,
        lane: 0,
        stamp: None,
        origins: Arc::new(vec![]),
        origin_rows: None,
    }
}

fn column(dtype: DataType, values: &[Value]) -> Column {
    let mut builder = ColumnBuilder::new(dtype);
    values.iter().for_each(|v| builder.push_value(v));
    builder.finish()
}

fn encode(batch: &Batch, columns: &[String]) -> Vec<String> {
    let encoder = JsonEncoder::new(&batch.schema, columns);
    let text = |row| {
        let mut out = vec![];
        encoder.encode_row(batch, row, &mut out);
        String::from_utf8(out).unwrap()
    };
    (0..batch.rows).map(text).collect()
}

#[test]
fn written_rows() {
    let kinds = DataType::Enum(Arc::new(vec!["CLICK".into(), "a\"b".into()]));
    let b = batch(vec![
        ("spend", column("decimal(10,2)".parse().unwrap(), &[Value::Decimal(1250, 2), Value::Null])),
        ("ratio", column(DataType::Float, &[Value::Float(2.0), Value::Error(ERR_OVERFLOW)])),
        ("at", column(DataType::Timestamp, &[Value::Timestamp(1_705_313_099_000), Value::Null])),
        ("took", column(DataType::Duration, &[Value::Duration(-5), Value::Duration(0)])),
        ("ke\"y", column(DataType::Str, &[Value::Str("한\n\u{1f}\u{7f}\"\\/".into()), Value::Str("".into())])),
        ("kind", column(kinds, &[Value::Str("CLICK".into()), Value::Str("a\"b".into())])),
        ("ok", column(DataType::Bool, &[Value::Bool(true), Value::Bool(false)])),
        ("n", column(DataType::Int, &[Value::Int(i64::MIN), Value::Int(i64::MAX)])),
    ]);
    let names: Vec<String> = b.schema.fields.iter().map(|f| f.name.clone()).collect();
    let rows = encode(&b, &names);
    assert_eq!(
        rows[0],
        "{\"spend\":\"12.50\",\"ratio\":2.0,\"at\":\"2024-01-15T10:04:59.000Z\",\"took\":-5,\
         \"ke\\\"y\":\"한\\n\\u001f\u{7f}\\\"\\\\/\",\"kind\":\"CLICK\",\"ok\":true,\"n\":-9223372036854775808}"
    );
    assert_eq!(
        rows[1],
        "{\"spend\":null,\"ratio\":null,\"at\":null,\"took\":0,\"ke\\\"y\":\"\",\"kind\":\"a\\\"b\",\"ok\":false,\
         \"n\":9223372036854775807}"
    );
    assert_eq!(encode(&b, &["ok".into(), "took".into()])[0], "{\"ok\":true,\"took\":-5}");
    assert_eq!(encode(&b, &[])[0], "{}");
}

type Row = (Option<bool>, i64, f64, i128, String, i64, Option<i64>, usize);

fn any_row() -> impl Strategy<Value = Row> {
    (
        any::<Option<bool>>(),
        any::<i64>(),
        any::<f64>().prop_filter("JSON has neither", |x| x.is_finite()),
        -(10i128.pow(20) - 1)..10i128.pow(20),
        prop_oneof![any::<String>(), "[a-z\"\\\\\u{0}-\u{1f}]{0,40}"],
        946_684_800_000i64..4_102_444_800_000,
        any::<Option<i64>>(),
        0usize..3,
    )
}

const KINDS: [&str; 3] = ["CLICK", "VIEW \"x\"", ""];

fn any_json(depth: u32) -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value as J;
    let leaf = prop_oneof![
        Just(J::Null),
        any::<bool>().prop_map(J::from),
        any::<i64>().prop_map(J::from),
        any::<f64>().prop_map(J::from),
        any::<String>().prop_map(J::from),
        "[a-z]{0,20}".prop_map(J::from),
    ];
    leaf.prop_recursive(depth, 24, 6, |inner| {
        prop_oneof![proptest::collection::vec(inner.clone(), 0..5).prop_map(J::from), any_object(inner),]
    })
}

fn any_object(value: impl Strategy<Value = serde_json::Value>) -> impl Strategy<Value = serde_json::Value> {
    let key = prop_oneof!["[a-e]", "[a-z]{1,20}", any::<String>()];
    proptest::collection::vec((key, value), 0..8).prop_map(|v| serde_json::Value::Object(v.into_iter().collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn round_trip(rows in proptest::collection::vec(any_row(), 1..100)) {
        let kinds = DataType::Enum(Arc::new(KINDS.map(String::from).to_vec()));
        let decimal = DataType::Decimal { precision: 20, scale: 6 };
        let make = |dtype: &DataType, f: &dyn Fn(&Row) -> Value| column(dtype.clone(), &rows.iter().map(f).collect::<Vec<_>>());
        let b = batch(vec![
            ("b", make(&DataType::Bool, &|r| r.0.map_or(Value::Null, Value::Bool))),
            ("i", make(&DataType::Int, &|r| Value::Int(r.1))),
            ("f", make(&DataType::Float, &|r| Value::Float(r.2))),
            ("d", make(&decimal, &|r| Value::Decimal(r.3, 6))),
            ("s\n", make(&DataType::Str, &|r| Value::Str(r.4.clone()))),
            ("t", make(&DataType::Timestamp, &|r| Value::Timestamp(r.5))),
            ("u", make(&DataType::Duration, &|r| r.6.map_or(Value::Null, Value::Duration))),
            ("k", make(&kinds, &|r| Value::Str(KINDS[r.7].into()))),
        ]);
        let names: Vec<String> = b.schema.fields.iter().map(|f| f.name.clone()).collect();
        let text = encode(&b, &names);
        let fields = b.schema.fields.iter().map(|f| JsonField::new(&*f.name, f.dtype.clone()).nullable()).collect();
        let back = decode(fields, &text);
        prop_assert!(back.bad.is_empty());
        for (column, original) in back.columns.iter().zip(&b.columns) {
            for row in 0..b.rows {
                prop_assert_eq!(column.value_at(row), original.value_at(row));
            }
        }
        for line in text {
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap().to_string().len() > 1, true);
        }
    }

    /// Valid objects: the same values. Mutated bytes: the same verdict. One decoder for all, so that the keys it has
    /// learned meet texts they do not fit.
    #[test]
    fn agrees_with_serde_json(
        objects in proptest::collection::vec((any_object(any_json(3)), any::<bool>()), 1..20),
        mutations in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8, prop_oneof![any::<u8>(),
            proptest::sample::select(b"{}[]\",:\\ 0-.eEtfn\x00\x1f\x80\xff".to_vec())]), 0..20),
    ) {
        let mut rows: Vec<Vec<u8>> = objects.iter()
            .map(|(o, pretty)| if *pretty { serde_json::to_vec_pretty(o) } else { serde_json::to_vec(o) }.unwrap())
            .collect();
        for (which, place, how, byte) in mutations {
            let at = which.index(rows.len());
            let row = &mut rows[at];
            let i = place.index(row.len().max(1));
            match how {
                _ if row.is_empty() => {}
                0 => row[i] = byte,
                1 => row.insert(i, byte),
                2 => { row.remove(i); }
                _ => row.truncate(i),
            }
        }
        let got = all_rows(&decode(nullable_fields(), &rows));
        for (row, got) in rows.iter().zip(got) {
            let Some(ok) = serde_says(row) else { continue };
            let text = String::from_utf8_lossy(row);
            prop_assert_eq!(got != MALFORMED, ok, "{}", text);
            if ok {
                let tree: serde_json::Value = serde_json::from_slice(row).unwrap();
                prop_assert_eq!(got, expected(&tree), "{}", text);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(rows in proptest::collection::vec(prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..60),
        "[{}\\[\\]\",:\\\\abcud0-9eE.+\\- tfn]{0,60}".prop_map(String::into_bytes),
        "\\{(\"[abce]\":([0-9\\-.eE]{1,5}|\"[a-z\\\\u\"d8-9]{0,8}\"|null|true)[,}]){1,4}".prop_map(String::into_bytes),
    ], 0..80)) {
        let got = all_rows(&decode(nullable_fields(), &rows));
        for (row, got) in rows.iter().zip(got) {
            if let Some(ok) = serde_says(row) {
                prop_assert_eq!(got != MALFORMED, ok, "{}", String::from_utf8_lossy(row));
            }
        }
    }

    /// A row means the same to a decoder that has learned other orders as to one that has learned none; with repeated
    /// keys the last one wins.
    #[test]
    fn key_order_changes_nothing(
        rows in proptest::collection::vec(proptest::collection::vec((0usize..9, 0u32..20), 0..12), 1..150),
        spaced in any::<bool>(),
    ) {
        let keys = ["a", "b", "c", "campaign_id", "a_key_of_more_than_sixteen_bytes", "a_key_of_more_than_sixteen_bytez", "", "\\u0061", "é"];
        let text = |row: &Vec<(usize, u32)>| {
            let members: Vec<String> = row.iter().map(|(k, v)| match k {
                2 => format!("\"c\":{{\"a\":{v},\"x{v}\":{{}},\"b\":[{v}]}}"),
                k if spaced => format!("\"{}\" : {v}", keys[*k]),
                k => format!("\"{}\":{v}", keys[*k]),
            }).collect();
            format!("{{{}}}", members.join(","))
        };
        let rows: Vec<String> = rows.iter().map(text).collect();
        let fields = || vec![
            JsonField::new("a", DataType::Int).nullable(),
            JsonField::new("b", DataType::Int).nullable(),
            JsonField::new("c.a", DataType::Int).path(["c", "a"]).nullable(),
            JsonField::new("campaign_id", DataType::Int).nullable(),
            JsonField::new(keys[4], DataType::Int).nullable(),
            JsonField::new(keys[5], DataType::Int).nullable(),
            JsonField::new("", DataType::Int).nullable(),
            JsonField::new("é", DataType::Int).nullable(),
        ];
        let together = all_rows(&decode(fields(), &rows));
        for (row, got) in rows.iter().zip(together) {
            prop_assert_eq!(&[got.clone()][..], &all_rows(&decode(fields(), &[row]))[..]);
            let tree: serde_json::Value = serde_json::from_str(row).unwrap();
            let names = [&["a"][..], &["b"], &["c", "a"], &["campaign_id"], &[keys[4]], &[keys[5]], &[""], &["é"]];
            let told = names.map(|path| path.iter().try_fold(&tree, |t, k| t.get(k)).map_or("null".into(), |v| v.to_string()));
            prop_assert_eq!(got, told.join("|"));
        }
    }
}

/// More distinct keys than are learned, and wanted ones among them.
#[test]
fn keys_as_data() {
    let rows: Vec<String> = (0..1000).map(|i| format!("{{\"k{i}\":0,\"x\":{i},\"l{i}\":0,\"y\":1}}")).collect();
    let d = decode(vec![x("int"), JsonField::new("y", DataType::Int)], &rows);
    assert_eq!(all_rows(&d), (0..1000).map(|i| format!("{i}|1")).collect::<Vec<_>>());
}
