//! What a row costs to decode: 12 fields in some 300 bytes, 9 of them wanted.
//!
//! `cargo run --release -p adstream-core --example decode_bench`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use adstream_core::codec::{JsonDecoder, JsonField};
use adstream_core::raw::OptBytes;
use adstream_core::types::DataType;

const ROWS: usize = 4096;
const ROUNDS: usize = 200;

#[derive(Clone, Copy)]
enum Style {
    Compact,
    /// As Python's `json.dumps` writes by default.
    Spaced,
    /// Prices only where the event has them, as producers that leave nulls out write.
    Sparse,
    /// Another key order in every row: what the guess of the next key costs when it is always wrong.
    Shuffled,
    /// Texts in Korean.
    Korean,
}

fn row(i: usize, style: Style) -> String {
    let kind = ["IMPRESSION", "IMPRESSION", "CLICK", "CONVERSION"][i * 7 % 11 % 4];
    let price = match kind {
        "CLICK" => format!("\"{}.{:02}\"", 100 + i % 900, i % 100),
        _ => "null".into(),
    };
    let revenue = if kind == "CONVERSION" { format!("{}", 10_000 + i) } else { "null".into() };
    let page = if let Style::Korean = style { "실시간 광고 성과" } else { "https://shop.example/p/77" };
    let device =
        if let Style::Korean = style { format!("기기_{}", i % 5000) } else { format!("device_{}", i % 5000) };
    let mut fields = vec![
        ("event_id", format!("\"{:08x}-{:04x}-4a7b-9c1d-{:012x}\"", i * 2_654_435_761 % (1 << 32), i % 65536, i * 977)),
        ("event_type", format!("\"{kind}\"")),
        ("timestamp", format!("\"2024-01-15T10:{:02}:{:02}.{:03}Z\"", i / 600 % 60, i / 10 % 60, i * 37 % 1000)),
        ("device_id", format!("\"{device}\"")),
        ("campaign_id", format!("\"campaign_{}\"", i % 100)),
        ("advertiser", format!("{}", 1000 + i % 50)),
        ("product_id", format!("\"product_{}\"", i % 1000)),
        ("placement", "\"search_top\"".into()),
        ("actual_price", price),
        ("revenue", revenue),
        ("page", format!("\"{page}\"")),
        ("score", format!("0.{}", 1000 + i % 8999)),
    ];
    match style {
        Style::Sparse => fields.retain(|f| f.1 != "null"),
        Style::Shuffled => {
            let n = fields.len();
            (0..n).rev().for_each(|k| fields.swap(k, (i * 31 + k * 17) % n));
        }
        _ => {}
    }
    let (colon, comma) = if let Style::Spaced = style { (": ", ", ") } else { (":", ",") };
    let members: Vec<String> = fields.iter().map(|(k, v)| format!("\"{k}\"{colon}{v}")).collect();
    format!("{{{}}}", members.join(comma))
}

fn fields() -> Vec<JsonField> {
    let money = DataType::Decimal { precision: 10, scale: 2 };
    let kinds = ["IMPRESSION", "CLICK", "CONVERSION"].map(String::from).to_vec();
    vec![
        JsonField::new("event_id", DataType::Str).content_id(),
        JsonField::new("event_type", DataType::Enum(Arc::new(kinds))),
        JsonField::new("timestamp", DataType::Timestamp),
        JsonField::new("device_id", DataType::Str),
        JsonField::new("campaign_id", DataType::Str),
        JsonField::new("product_id", DataType::Str),
        JsonField::new("placement", DataType::Str),
        JsonField::new("actual_price", money.clone()).nullable(),
        JsonField::new("revenue", money).nullable(),
    ]
}

fn main() {
    for (name, style) in [
        ("compact", Style::Compact),
        ("spaced", Style::Spaced),
        ("sparse", Style::Sparse),
        ("shuffled", Style::Shuffled),
        ("korean", Style::Korean),
    ] {
        let mut payloads = OptBytes::default();
        (0..ROWS).for_each(|i| payloads.push(Some(row(i, style).as_bytes())));
        let mut decoder = JsonDecoder::new(fields()).expect("fields");
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                let decoded = black_box(decoder.decode(black_box(&payloads)));
                assert!(decoded.bad.is_empty());
                start.elapsed().as_nanos() as f64 / ROWS as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let bytes = payloads.values.bytes.len() / ROWS;
        println!("{name:9} {bytes} bytes/row: {:4.0} ns/row, best {:4.0}", times[ROUNDS / 2], times[0]);
    }
}
