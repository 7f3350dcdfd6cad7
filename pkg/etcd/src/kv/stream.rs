//! RangeStream: a range in pieces of bounded size, all of one revision. The client merges the pieces.
use super::range;
use crate::context::Context;
use crate::error::Result;
use crate::pb::{RangeRequest, RangeResponse, RangeStreamResponse};
use futures::stream::{self, BoxStream, StreamExt};
use tonic::Status;

/// Bytes of keys and values in one piece, about.
const PIECE_BYTES: usize = 1 << 20;

pub async fn run(
    context: &Context,
    request: RangeRequest,
) -> Result<BoxStream<'static, std::result::Result<RangeStreamResponse, Status>>> {
    // Entries are shared, not copied: what is held is a list of references.
    let whole = range::run(context, &request).await?;
    let pieces = pieces(whole).into_iter();
    Ok(stream::iter(pieces.map(|piece| Ok(RangeStreamResponse { range_response: Some(piece) }))).boxed())
}

/// Keys in several pieces; header, count and more are in the last alone.
fn pieces(whole: RangeResponse) -> Vec<RangeResponse> {
    let mut pieces = vec![RangeResponse::default()];
    let mut bytes = 0;
    for kv in whole.kvs {
        let size = kv.key.len() + kv.value.len();
        if bytes > 0 && bytes + size > PIECE_BYTES {
            pieces.push(RangeResponse::default());
            bytes = 0;
        }
        bytes += size;
        pieces.last_mut().expect("there is one from the start").kvs.push(kv);
    }
    let last = pieces.pop().expect("there is one from the start");
    pieces.push(RangeResponse { header: whole.header, more: whole.more, count: whole.count, ..last });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvccpb::KeyValue;

    #[test]
    fn pieces_hold_everything_once_and_the_last_the_sums() {
        let kv = |n: u8| KeyValue { key: vec![n].into(), value: vec![0; PIECE_BYTES / 3].into(), ..Default::default() };
        let whole = RangeResponse { kvs: (0..7).map(kv).collect(), count: 9, more: true, ..Default::default() };
        let pieces = pieces(whole);
        assert_eq!(pieces.iter().map(|piece| piece.kvs.len()).collect::<Vec<_>>(), [2, 2, 2, 1]);
        let sums: Vec<_> = pieces.iter().map(|piece| (piece.count, piece.more)).collect();
        assert_eq!(sums, [(0, false), (0, false), (0, false), (9, true)]);
        assert_eq!(super::pieces(RangeResponse::default()).len(), 1);
    }
}
