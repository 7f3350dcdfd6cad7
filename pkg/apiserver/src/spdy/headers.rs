//! Header blocks: name and value pairs, deflated in one stream a direction that begins with a dictionary known to
//! both sides (SPDY/3.1, section 2.6.10).
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress};

/// The dictionary that the specification prints.
const DICTIONARY: &[u8] = include_bytes!("dictionary.bin");
/// Its Adler-32, which names it in a zlib header.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;
/// zlib's first two bytes: deflate with a 32 KB window, a dictionary follows.
const ZLIB_HEAD: [u8; 2] = [0x78, 0xbb];
/// Bit of the second byte: a dictionary's checksum follows.
const PRESET_DICTIONARY: u8 = 0x20;
/// What a block may grow to when inflated; a hostile peer could make a few bytes into gigabytes.
const INFLATED_BYTES: usize = 64 * 1024;
/// The longest stored block of deflate.
const STORED_BYTES: usize = 0xffff;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a header block is no zlib stream")]
    Zlib,
    #[error("a header block inflates to more than {INFLATED_BYTES} bytes")]
    TooLarge,
    #[error("a header block ends early or is not UTF-8")]
    Malformed,
}

/// Names in lower case, in order.
pub type Headers = Vec<(String, String)>;

/// The receiving side of one connection.
pub struct Inflater {
    stream: Decompress,
    started: bool,
}

impl Default for Inflater {
    /// The window is filled with the dictionary by inflating it from a stored block: the effect is that of zlib's
    /// `inflateSetDictionary`, which not every implementation has.
    fn default() -> Self {
        let mut stream = Decompress::new(false);
        let mut primer = BytesMut::new();
        put_stored(&mut primer, DICTIONARY);
        let mut out = Vec::with_capacity(DICTIONARY.len());
        stream.decompress_vec(&primer, &mut out, FlushDecompress::Sync).expect("a stored block inflates");
        Self { stream, started: false }
    }
}

impl Inflater {
    pub fn inflate(&mut self, mut block: &[u8]) -> Result<Headers, Error> {
        if !self.started {
            let head = block.get(..2).ok_or(Error::Zlib)?;
            let skip = if head[1] & PRESET_DICTIONARY != 0 { 6 } else { 2 };
            block = block.get(skip..).ok_or(Error::Zlib)?;
            self.started = true;
        }
        let mut out = Vec::with_capacity(1024);
        // An inflater may have taken in all of a block and still hold output that had no room.
        while !block.is_empty() || out.len() == out.capacity() {
            if out.len() == out.capacity() {
                out.reserve(out.len());
            }
            let before = (self.stream.total_in(), out.len());
            self.stream.decompress_vec(block, &mut out, FlushDecompress::Sync).map_err(|_| Error::Zlib)?;
            let read = self.stream.total_in() - before.0;
            block = &block[read as usize..];
            if out.len() > INFLATED_BYTES {
                return Err(Error::TooLarge);
            }
            let stuck = read == 0 && out.len() == before.1 && out.len() < out.capacity();
            if stuck && block.is_empty() {
                break;
            }
            if stuck {
                return Err(Error::Zlib);
            }
        }
        parse(&mut &out[..]).ok_or(Error::Malformed)
    }
}

fn parse(bytes: &mut &[u8]) -> Option<Headers> {
    let count = bytes.try_get_u32().ok()?;
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((text(bytes)?, text(bytes)?));
    }
    Some(headers)
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    let length = bytes.try_get_u32().ok()? as usize;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// The sending side. Our blocks are few and short: they go out as stored blocks, which every inflater reads.
#[derive(Default)]
pub struct Deflater {
    started: bool,
}

impl Deflater {
    pub fn deflate(&mut self, headers: &[(String, String)]) -> Bytes {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut block = BytesMut::new();
        if !self.started {
            block.put_slice(&ZLIB_HEAD);
            block.put_u32(DICTIONARY_ID);
            self.started = true;
        }
        plain.chunks(STORED_BYTES).for_each(|chunk| put_stored(&mut block, chunk));
        // An empty stored block is what a flush ends with; readers wait for it.
        put_stored(&mut block, &[]);
        block.freeze()
    }
}

/// A stored, not final block (RFC 1951, section 3.2.4).
fn put_stored(out: &mut BytesMut, bytes: &[u8]) {
    let length = bytes.len() as u16;
    out.put_u8(0);
    out.put_u16_le(length);
    out.put_u16_le(!length);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_dictionary_is_the_specifications() {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, DICTIONARY_ID);
    }

    #[test]
    fn blocks_come_back_as_they_were() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let large = headers(&[("x", &"y".repeat(50_000))]);
        for block in
            [headers(&[("streamtype", "stdin")]), vec![], large, headers(&[("streamtype", "stdout"), ("ü", "")])]
        {
            assert_eq!(inflater.inflate(&deflater.deflate(&block)).unwrap(), block);
        }
    }

    /// Peers deflate with references back into the dictionary and into earlier blocks.
    #[test]
    fn references_into_the_dictionary_are_followed() {
        let mut compress = Compress::new(Compression::best(), false);
        let mut deflate = |plain: &[u8]| {
            let mut out = Vec::with_capacity(plain.len() + 4096);
            compress.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
            out
        };
        deflate(DICTIONARY);
        let mut inflater = Inflater::default();
        for (index, block) in
            [headers(&[("accept-encoding", "gzip, deflate")]), headers(&[("accept-encoding", "gzip")])]
                .into_iter()
                .enumerate()
        {
            let mut plain = BytesMut::new();
            plain.put_u32(1);
            for text in [&block[0].0, &block[0].1] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
            let mut wire =
                if index == 0 { [&ZLIB_HEAD[..], &DICTIONARY_ID.to_be_bytes()].concat() } else { Vec::new() };
            let deflated = deflate(&plain);
            assert!(deflated.len() < plain.len(), "it refers back");
            wire.extend(deflated);
            assert_eq!(inflater.inflate(&wire).unwrap(), block);
        }
    }

    #[test]
    fn hostile_blocks_are_refused() {
        assert_eq!(Inflater::default().inflate(&[]), Err(Error::Zlib));
        assert_eq!(Inflater::default().inflate(&[0x78, 0x9c, 0xff, 0xff, 0xff]), Err(Error::Zlib));
        let mut compress = Compress::new(Compression::best(), false);
        let mut bomb = vec![0x78, 0x9c];
        bomb.reserve(1 << 20);
        compress.compress_vec(&vec![0; 1 << 20], &mut bomb, FlushCompress::Sync).unwrap();
        assert_eq!(Inflater::default().inflate(&bomb), Err(Error::TooLarge));
        let mut short = vec![0x78, 0x9c];
        let mut block = BytesMut::new();
        put_stored(&mut block, &[0, 0, 0, 9]);
        short.extend(block);
        assert_eq!(Inflater::default().inflate(&short), Err(Error::Malformed));
    }
}
