//! The four codecs of record batches, by crates without C.
//!
//! A length that the data claims is never believed: output grows with what is really decoded, and ends at a bound.

use std::io::{BufRead, Read};

use lz4_flex::frame::FrameDecoder as Lz4;
use ruzstd::decoding::StreamingDecoder as Zstd;

/// One batch, inflated. Producers hold a batch to their `batch.size` and largest request before they compress it, which are
/// megabytes; what is larger than this was made to break its readers.
pub const MAX_INFLATED: usize = 512 << 20;

const XERIAL: &[u8] = b"\x82SNAPPY\0";
/// The header of Java's snappy streams: the eight bytes above and two versions.
const XERIAL_HEADER: usize = 16;
/// Snappy's best case is 64 bytes out of three: a block that claims more than that cannot be one.
const SNAPPY_RATIO: usize = 64;

/// Appends what `data` holds to `out`.
pub fn inflate(codec: u8, data: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let (name, done) = match codec {
        1 => ("gzip", stream(flate2::bufread::MultiGzDecoder::new(data), out)),
        2 => ("snappy", snappy(data, out)),
        3 => ("lz4", lz4(data, out)),
        4 => ("zstd", zstd(data, out)),
        other => return Err(format!("compression codec {other} is not known")),
    };
    done.map_err(|why| format!("{name}: {why}"))
}

fn fits(out: &[u8], more: usize) -> Result<(), String> {
    if more > MAX_INFLATED.saturating_sub(out.len()) {
        return Err(format!("a batch of more than {MAX_INFLATED} bytes"));
    }
    Ok(())
}

fn stream(mut from: impl Read, out: &mut Vec<u8>) -> Result<(), String> {
    let room = MAX_INFLATED.saturating_sub(out.len()) as u64;
    let got = from.by_ref().take(room + 1).read_to_end(out).map_err(|e| e.to_string())?;
    fits(out, if got as u64 > room { usize::MAX } else { 0 })
}

/// Blocks as the decoder has them, without a copy through a buffer of ours.
fn lz4(data: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let mut from = Lz4::new(data);
    loop {
        let block = from.fill_buf().map_err(|e| e.to_string())?;
        if block.is_empty() {
            return Ok(());
        }
        fits(out, block.len())?;
        out.extend_from_slice(block);
        let size = block.len();
        from.consume(size);
    }
}

fn zstd(mut data: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    while !data.is_empty() {
        stream(Zstd::new(&mut data).map_err(|e| e.to_string())?, out)?; // one frame
    }
    Ok(())
}

/// Java's clients write a stream of blocks, librdkafka's one block without a frame.
fn snappy(data: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    if !data.starts_with(XERIAL) {
        return snappy_block(data, out);
    }
    let mut rest = data.get(XERIAL_HEADER..).ok_or("the stream's header is cut off")?;
    while let Some((size, tail)) = rest.split_first_chunk::<4>() {
        let size = u32::from_be_bytes(*size) as usize;
        let block = tail.get(..size).ok_or("a block is cut off")?;
        snappy_block(block, out)?;
        rest = &tail[size..];
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err("a block's length is cut off".into())
    }
}

fn snappy_block(block: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let size = snap::raw::decompress_len(block).map_err(|e| e.to_string())?;
    if size > block.len().saturating_mul(SNAPPY_RATIO) {
        return Err(format!("{} bytes claim to hold {size}", block.len()));
    }
    fits(out, size)?;
    let start = out.len();
    out.resize(start + size, 0);
    let got = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(|e| e.to_string())?;
    out.truncate(start + got);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    pub fn deflate(codec: u8, data: &[u8]) -> Vec<u8> {
        match codec {
            0 => data.to_vec(),
            1 => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(data).unwrap();
                to.finish().unwrap()
            }
            2 => snap::raw::Encoder::new().compress_vec(data).unwrap(),
            3 => {
                let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
                to.write_all(data).unwrap();
                to.finish().unwrap()
            }
            4 => ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest),
            other => panic!("{other}"),
        }
    }

    fn inflated(codec: u8, data: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = b"before".to_vec();
        inflate(codec, data, &mut out).map(|()| out.split_off(6))
    }

    #[test]
    fn javas_snappy_streams_are_understood() {
        let mut data = [XERIAL, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        for part in [&b"hello "[..], b"world"] {
            let block = deflate(2, part);
            data.extend((block.len() as u32).to_be_bytes());
            data.extend(block);
        }
        assert_eq!(inflated(2, &data).unwrap(), b"hello world");
        for cut in 1..data.len() {
            let _ = inflated(2, &data[..cut]);
        }
    }

    #[test]
    fn a_claimed_length_is_not_believed() {
        // A snappy block of eight bytes that says it holds four gigabytes.
        assert!(inflated(2, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]).unwrap_err().contains("claim"));
    }

    #[test]
    fn what_inflates_without_end_is_refused() {
        let data = deflate(1, &vec![0; MAX_INFLATED + 1]);
        assert!(data.len() < 4 << 20);
        assert!(inflated(1, &data).unwrap_err().contains("more than"));
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(codec in 1u8..=4, data in prop::collection::vec(0u8..4, 0..20_000)) {
            prop_assert_eq!(inflated(codec, &deflate(codec, &data)).unwrap(), data);
        }

        #[test]
        fn garbage_is_an_error_or_some_bytes(
            codec in 0u8..=8,
            data in prop::collection::vec(0u8..8, 1..3000),
            cut in 0usize..3000,
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let _ = inflated(codec, &data);
            let mut packed = deflate(codec.clamp(1, 4), &data);
            for (at, byte) in noise {
                let at = at.index(packed.len());
                packed[at] = byte;
            }
            packed.truncate(cut.max(1));
            let _ = inflated(codec.clamp(1, 4), &packed);
        }
    }
}
