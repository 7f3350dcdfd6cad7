//! Snapshot: everything of one revision as the file that etcd would have, so that etcd's own tools check it and a real
//! etcd can be restored from it. What was is not in it: its history begins at that revision.
use super::hash::everything;
use super::status::STORAGE_VERSION;
use crate::bolt::write::{self, Bucket, Each, Layout};
use crate::context::{Context, key_value};
use crate::error::Result;
use crate::pb;
use crate::snapshot::LeaseRecord;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use prost::Message;
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::sync::Arc;
use store::{Entry, Lease, Revision};
use tokio::sync::mpsc;
use tonic::Status;

/// Bytes in one message, and messages that wait for the client.
const BLOB_BYTES: usize = 64 << 10;
const WAITING: usize = 8;

type Blob = std::result::Result<pb::SnapshotResponse, Status>;

pub async fn run(context: &Context) -> Result<BoxStream<'static, Blob>> {
    let content = Content::of(context).await?;
    let header = context.header(content.revision);
    let (out, mut blobs) = mpsc::channel(WAITING);
    context.tasks.spawn_blocking(move || {
        let sent = content.send(header, &out);
        if let Err(error) = sent {
            let _ = out.blocking_send(Err(Status::aborted(format!("the snapshot was cut off: {error}"))));
        }
    });
    Ok(stream::poll_fn(move |cx| blobs.poll_recv(cx)).boxed())
}

/// What goes in. Entries are shared with the store, not copied.
struct Content {
    revision: Revision,
    /// In the order of their changes.
    entries: Vec<Arc<Entry>>,
    leases: Vec<Lease>,
}

impl Content {
    async fn of(context: &Context) -> Result<Self> {
        let page = context.backend.list(&everything(), None, 0).await?;
        let (revision, mut entries) = (page.revision, page.entries);
        entries.sort_by_key(|entry| (entry.mod_revision, entry.index));
        let mut leases = Vec::new();
        for id in context.backend.leases().await? {
            match context.backend.lease(id).await {
                Ok(lease) => leases.push(lease),
                // It ended meanwhile.
                Err(store::Error::LeaseNotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        leases.sort_by_key(|lease| lease.id);
        Ok(Self { revision, entries, leases })
    }

    /// The file, then the digest by which etcd's tools know that it is whole.
    fn send(&self, header: Option<pb::ResponseHeader>, out: &mpsc::Sender<Blob>) -> io::Result<()> {
        let (keys, leases) = (|each: &mut Each<'_>| self.keys(each), |each: &mut Each<'_>| self.leases(each));
        let meta = |each: &mut Each<'_>| self.meta(each);
        let nothing = |_: &mut Each<'_>| Ok(());
        let bucket = |name, items| Bucket { name, items };
        // All that etcd 3.4 to 3.7 open; a restored member fills in its own.
        let buckets: [Bucket<'_>; 10] = [
            bucket("alarm", &nothing as &dyn Fn(&mut Each<'_>) -> io::Result<()>),
            bucket("auth", &nothing),
            bucket("authRoles", &nothing),
            bucket("authUsers", &nothing),
            bucket("cluster", &nothing),
            bucket("key", &keys),
            bucket("lease", &leases),
            bucket("members", &nothing),
            bucket("members_removed", &nothing),
            bucket("meta", &meta),
        ];
        let layout = Layout::of(&buckets)?;
        let mut blobs = Blobs { header, out, left: layout.size_bytes(), digest: Sha256::new(), blob: Vec::new() };
        write::write(&buckets, layout, &mut blobs)?;
        blobs.finish()
    }

    fn keys(&self, each: &mut Each<'_>) -> io::Result<()> {
        self.entries.iter().try_for_each(|entry| {
            each(&revision_key(entry.mod_revision, entry.index), &key_value(entry).encode_to_vec())
        })
    }

    fn leases(&self, each: &mut Each<'_>) -> io::Result<()> {
        self.leases.iter().try_for_each(|lease| {
            let ttl = lease.granted_ttl.as_secs() as i64;
            let record = LeaseRecord { id: lease.id.0, ttl, remaining_ttl: 0 };
            each(&lease.id.0.to_be_bytes(), &record.encode_to_vec())
        })
    }

    /// Where etcd would be: everything applied, the past compacted.
    fn meta(&self, each: &mut Each<'_>) -> io::Result<()> {
        each(b"consistent_index", &1u64.to_be_bytes())?;
        each(b"finishedCompactRev", &revision_key(self.revision, 0))?;
        each(b"scheduledCompactRev", &revision_key(self.revision, 0))?;
        each(b"term", &crate::context::TERM.to_be_bytes())
    }
}

/// etcd's key of a change: main and sub revision.
fn revision_key(revision: Revision, index: u32) -> [u8; 17] {
    let mut key = [b'_'; 17];
    key[..8].copy_from_slice(&revision.get().to_be_bytes());
    key[9..].copy_from_slice(&u64::from(index).to_be_bytes());
    key
}

/// Cuts what is written into messages.
struct Blobs<'a> {
    header: Option<pb::ResponseHeader>,
    out: &'a mpsc::Sender<Blob>,
    left: u64,
    digest: Sha256,
    blob: Vec<u8>,
}

impl Blobs<'_> {
    fn send(&mut self, blob: Bytes) -> io::Result<()> {
        let message = pb::SnapshotResponse {
            header: self.header,
            remaining_bytes: self.left,
            blob,
            version: STORAGE_VERSION.into(),
        };
        self.out.blocking_send(Ok(message)).map_err(|_| io::Error::other("the client is gone"))
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let digest = std::mem::take(&mut self.digest).finalize();
        self.send(Bytes::copy_from_slice(&digest))
    }
}

impl Write for Blobs<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOB_BYTES - self.blob.len());
        self.blob.extend_from_slice(&bytes[..taken]);
        if self.blob.len() == BLOB_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let blob = std::mem::take(&mut self.blob);
        if blob.is_empty() {
            return Ok(());
        }
        self.digest.update(&blob);
        self.left = self.left.saturating_sub(blob.len() as u64);
        self.send(blob.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_s_key_is_etcd_s() {
        let key = revision_key(Revision::from_u64(0x0102), 3);
        assert_eq!(key, *b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
    }
}
