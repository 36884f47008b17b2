//! Bytes in and out: the little that every stored format is made of (varints, little-endian numbers, strings).

#[derive(Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    pub fn u8(&mut self, v: u8) {
        self.bytes.push(v);
    }
    #[inline]
    pub fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.bytes.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.bytes.push(v as u8);
    }
    /// Small magnitudes of either sign in few bytes.
    #[inline]
    pub fn zigzag(&mut self, v: i64) {
        self.varint(((v << 1) ^ (v >> 63)) as u64);
    }
    pub fn u64(&mut self, v: u64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }
    pub fn raw(&mut self, v: &[u8]) {
        self.bytes.extend_from_slice(v);
    }
    #[inline]
    pub fn blob(&mut self, v: &[u8]) {
        self.varint(v.len() as u64);
        self.bytes.extend_from_slice(v);
    }
}

/// Reads what [`Writer`] wrote; `None` at a premature end.
pub struct Reader<'a> {
    pub rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Reader { rest }
    }
    pub fn u8(&mut self) -> Option<u8> {
        let (&b, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(b)
    }
    #[inline]
    pub fn varint(&mut self) -> Option<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            v |= ((b & 0x7f) as u64) << shift;
            if b < 0x80 {
                return Some(v);
            }
        }
        None
    }
    #[inline]
    pub fn zigzag(&mut self) -> Option<i64> {
        let v = self.varint()?;
        Some((v >> 1) as i64 ^ -((v & 1) as i64))
    }
    pub fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*head))
    }
    #[inline]
    pub fn raw(&mut self, n: usize) -> Option<&'a [u8]> {
        if n > self.rest.len() {
            return None;
        }
        let (head, rest) = self.rest.split_at(n);
        self.rest = rest;
        Some(head)
    }
    #[inline]
    pub fn blob(&mut self) -> Option<&'a [u8]> {
        let n = self.varint()? as usize;
        self.raw(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(a: u64, b: i64, blob: Vec<u8>) {
            let mut w = Writer::default();
            w.varint(a);
            w.zigzag(b);
            w.blob(&blob);
            w.u64(a);
            let mut r = Reader::new(&w.bytes);
            prop_assert_eq!(r.varint(), Some(a));
            prop_assert_eq!(r.zigzag(), Some(b));
            prop_assert_eq!(r.blob(), Some(&blob[..]));
            prop_assert_eq!(r.u64(), Some(a));
            prop_assert!(r.rest.is_empty());
            for cut in 0..w.bytes.len() {
                let mut r = Reader::new(&w.bytes[..cut]);
                let _ = (r.varint(), r.zigzag(), r.blob(), r.u64());
            }
        }
    }
}
