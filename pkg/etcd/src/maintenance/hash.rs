//! Hash and HashKV: one number for everything at a revision. Two servers whose numbers agree hold the same; the
//! numbers mean nothing to etcd's own.
use crate::context::{Context, number};
use crate::error::Result;
use crate::pb;
use bytes::Bytes;
use std::sync::Arc;
use store::{Entry, Range, Revision};

pub async fn of_revision(context: &Context, request: &pb::HashKvRequest) -> Result<pb::HashKvResponse> {
    let at = u64::try_from(request.revision).ok().filter(|revision| *revision > 0).map(Revision::from_u64);
    let page = context.backend.list(&everything(), at, 0).await?;
    Ok(pb::HashKvResponse {
        header: context.header_now(),
        hash: hash(&page.entries),
        compact_revision: number(context.backend.compacted_revision()),
        hash_revision: number(page.revision),
    })
}

pub async fn of_now(context: &Context) -> Result<pb::HashResponse> {
    let page = context.backend.list(&everything(), None, 0).await?;
    Ok(pb::HashResponse { header: context.header(page.revision), hash: hash(&page.entries) })
}

pub fn everything() -> Range {
    Range { start: Bytes::new(), end: Bytes::new() }
}

fn hash(entries: &[Arc<Entry>]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for entry in entries {
        // Lengths, or bytes could move from a key to its value unnoticed.
        hasher.update(&(entry.key.len() as u64).to_be_bytes());
        hasher.update(&entry.key);
        hasher.update(&entry.mod_revision.get().to_be_bytes());
        hasher.update(&entry.create_revision.get().to_be_bytes());
        hasher.update(&entry.version.to_be_bytes());
        hasher.update(&entry.value);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &'static str, value: &'static str) -> Arc<Entry> {
        Arc::new(Entry {
            key: key.into(),
            value: value.into(),
            create_revision: Revision::from_u64(2),
            mod_revision: Revision::from_u64(2),
            index: 0,
            version: 1,
            lease: None,
            summary: Default::default(),
        })
    }

    #[test]
    fn every_difference_counts() {
        let base = hash(&[entry("a", "bc")]);
        assert_eq!(base, hash(&[entry("a", "bc")]));
        assert_ne!(base, hash(&[entry("ab", "c")]));
        assert_ne!(base, hash(&[entry("a", "bd")]));
        assert_ne!(base, hash(&[]));
    }
}
