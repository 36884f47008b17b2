//! Counts keys in a store on disk, as a `count` does: read, write, a generation now and then, its commit, what the committer
//! tidies. Keys come at random.
//!
//! ```text
//! cargo run --release -p adstream-disk --example many_keys -- DIRECTORY [KEYS [UPDATES [CACHE_MIB]]]
//! ```
//!
//! Says how many updates a second, on one core, it was while the keys came to be and afterwards, and the process's memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use adstream_core::flow::backend::{Backend, Mark};
use adstream_core::flow::store::ByteStore;
use adstream_disk::{Cache, Disk};

const GENERATION: u64 = 20_000;

fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("a directory");
    let mut number = |default: u64| args.next().map_or(default, |text| text.parse().expect("a number"));
    let (keys, updates, cache_mib) = (number(5_000_000), number(5_000_000), number(256));
    let disk = Arc::new(Disk::open(Path::new(&folder), &Arc::new(Cache::new(cache_mib << 20))).expect("a directory"));
    let mut store = ByteStore::default();
    store.attach(disk.clone(), 1, false);
    // Each key once, then keys at random; both in an order without locality.
    let step = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (what, from, count) in [("new keys", 0, keys), ("updates", keys, updates)] {
        let (began, mut generation) = (Instant::now(), 0);
        for i in from..from + count {
            let which = if i < keys { i } else { step(i) % keys };
            let key = format!("customer-{:016x}", step(which));
            let count =
                store.get(key.as_bytes()).map_or(0, |v| u64::from_le_bytes(v[..8].try_into().expect("a count")));
            let value = [&(count + 1).to_le_bytes()[..], &[7; 24]].concat();
            store.write(key.as_bytes(), Some(&value));
            generation += 1;
            if generation == GENERATION || i + 1 == from + count {
                generation = 0;
                store.close_generation(&mut |_, _| {});
                store.committed();
                disk.mark(Mark { position: i as i64, chain: 1 });
                disk.tidy(false).expect("a sound directory");
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{what}: {count} in {seconds:.1} s, {:.0} a second; {} keys, {} MiB of files, {} MiB of memory at most",
            count as f64 / seconds,
            store.len(),
            disk.file_bytes() >> 20,
            memory_mib()
        );
    }
    assert_eq!((store.len() as u64, disk.fault()), (keys, None));
}
