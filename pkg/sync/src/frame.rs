//! Messages as bytes on a stream: a length, then a block of one deflate stream a direction, so that what was said
//! before makes what is said next small.
use crate::message::Message;
use bytes::{Buf, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio_util::codec::{Decoder, Encoder};

/// A frame holds at most this, compressed or not: more is no message of ours.
const LIMIT_BYTES: usize = 64 << 20;
const LENGTH_BYTES: usize = 4;
/// Deflated and inflated in such pieces.
const CHUNK_BYTES: usize = 32 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("a frame of {bytes} bytes is more than the {LIMIT_BYTES} allowed")]
    TooLarge { bytes: usize },
    #[error("a frame can't be inflated: {0}")]
    Inflate(#[from] flate2::DecompressError),
    #[error("a frame can't be deflated: {0}")]
    Deflate(#[from] flate2::CompressError),
    #[error("a frame is no message: {0}")]
    Message(#[from] postcard::Error),
}

/// One end of a link.
pub struct Codec {
    deflate: Compress,
    inflate: Decompress,
}

impl Default for Codec {
    fn default() -> Self {
        Self { deflate: Compress::new(Compression::fast(), false), inflate: Decompress::new(false) }
    }
}

impl Encoder<Message> for Codec {
    type Error = Error;

    fn encode(&mut self, message: Message, out: &mut BytesMut) -> Result<(), Error> {
        let plain = message.encode();
        let mut block = Vec::with_capacity(plain.len() / 2 + 64);
        let begun = self.deflate.total_in();
        loop {
            block.reserve(CHUNK_BYTES);
            let done = (self.deflate.total_in() - begun) as usize;
            self.deflate.compress_vec(&plain[done..], &mut block, FlushCompress::Sync)?;
            // Room left over: the flush is complete.
            if (self.deflate.total_in() - begun) as usize == plain.len() && block.len() < block.capacity() {
                break;
            }
        }
        if plain.len().max(block.len()) > LIMIT_BYTES {
            return Err(Error::TooLarge { bytes: plain.len() });
        }
        out.extend_from_slice(&(block.len() as u32).to_be_bytes());
        out.extend_from_slice(&block);
        Ok(())
    }
}

impl Decoder for Codec {
    type Item = Message;
    type Error = Error;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Message>, Error> {
        let Some(length) = from.get(..LENGTH_BYTES) else { return Ok(None) };
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length > LIMIT_BYTES {
            return Err(Error::TooLarge { bytes: length });
        }
        if from.len() < LENGTH_BYTES + length {
            from.reserve(LENGTH_BYTES + length - from.len());
            return Ok(None);
        }
        from.advance(LENGTH_BYTES);
        let block = from.split_to(length);
        Ok(Some(Message::decode(&self.plain(&block)?)?))
    }
}

impl Codec {
    fn plain(&mut self, block: &[u8]) -> Result<Vec<u8>, Error> {
        let (mut plain, begun) = (Vec::with_capacity(block.len() * 3), self.inflate.total_in());
        loop {
            plain.reserve(CHUNK_BYTES);
            let done = (self.inflate.total_in() - begun) as usize;
            let status = self.inflate.decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync)?;
            if plain.len() > LIMIT_BYTES {
                return Err(Error::TooLarge { bytes: plain.len() });
            }
            let all_in = (self.inflate.total_in() - begun) as usize == block.len();
            if (all_in && plain.len() < plain.capacity()) || status == Status::StreamEnd {
                return Ok(plain);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::{Stamp, Vector};
    use store::Row;

    fn rows(count: u64, bytes: usize) -> Message {
        let noise = |n: u64| (0..bytes).map(move |at| (at as u64 * n) as u8).collect::<Vec<_>>();
        let row = |n| Row {
            stamp: Stamp { time: n, ..Stamp::default() },
            more: false,
            key: "k".into(),
            delta: noise(n).into(),
        };
        Message::Rows((0..count).map(row).collect())
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let (mut one, mut other, mut wire) = (Codec::default(), Codec::default(), BytesMut::new());
        let messages = [rows(3, 10), rows(100, 5000), Message::Ack { count: 1, vector: Vector::default() }, rows(0, 0)];
        for message in &messages {
            one.encode(message.clone(), &mut wire).unwrap();
        }
        let (mut seen, mut buffer) = (Vec::new(), BytesMut::new());
        for piece in wire.chunks(777) {
            buffer.extend_from_slice(piece);
            while let Some(message) = other.decode(&mut buffer).unwrap() {
                seen.push(message);
            }
        }
        assert_eq!(seen, messages);
    }

    #[test]
    fn what_was_said_before_makes_the_next_small() {
        let (mut codec, mut first, mut second) = (Codec::default(), BytesMut::new(), BytesMut::new());
        codec.encode(rows(1, 3000), &mut first).unwrap();
        codec.encode(rows(1, 3000), &mut second).unwrap();
        assert!(second.len() < 200, "{} bytes", second.len());
    }

    #[test]
    fn nonsense_ends_the_link() {
        let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(Codec::default().decode(&mut huge), Err(Error::TooLarge { .. })));
        let mut junk = BytesMut::from(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff][..]);
        assert!(Codec::default().decode(&mut junk).is_err());
    }
}
