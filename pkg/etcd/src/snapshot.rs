//! Snapshots that a real etcd took: its database, and then the SHA-256 of it. Only what is there at the newest revision is
//! read, not how it came to be.
use crate::bolt::read::{self, Database};
use crate::mvccpb::KeyValue;
use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

const DIGEST_BYTES: u64 = 32;
/// A database is pages, so that what is beyond a multiple of this is a digest (etcdutl's own test).
const SECTOR_BYTES: u64 = 512;
/// Read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Length of a change's key in etcd's log; a deletion has one byte more.
const CHANGE_BYTES: usize = 17;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    /// A copied database may be torn, and nothing would tell.
    #[error(
        "{path} ends without a digest: take it with `etcdctl snapshot save`, a copy of etcd's database may be torn"
    )]
    NoDigest { path: String },
    #[error("{path} is damaged: {what}")]
    Damaged { path: String, what: String },
}

/// What a store held at its newest revision.
#[derive(Debug)]
pub struct Content {
    pub revision: i64,
    pub entries: BTreeMap<Bytes, KeyValue>,
    /// What is left of each lease.
    pub leases: BTreeMap<i64, Duration>,
}

/// etcd's record of a lease (`leasepb/lease.proto`).
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LeaseRecord {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

/// Whether a file is an etcd's database, or a snapshot of one.
///
/// # Errors
/// It can't be read.
pub fn is_snapshot(path: &Path) -> Result<bool, Error> {
    let at = |source| Error::Io { path: path.display().to_string(), source };
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(32).read_to_end(&mut head)).map_err(at)?;
    Ok(read::is_database(&head))
}

/// Reads a snapshot.
///
/// # Errors
/// It can't be read, or is not what etcd wrote.
pub fn content(path: &Path) -> Result<Content, Error> {
    let name = || path.display().to_string();
    let at = |source| Error::Io { path: name(), source };
    let mut file = File::open(path).map_err(at)?;
    let length = file.metadata().map_err(at)?.len();
    if length % SECTOR_BYTES != DIGEST_BYTES {
        return Err(Error::NoDigest { path: name() });
    }
    if !is_whole(&mut file, length - DIGEST_BYTES).map_err(at)? {
        return Err(Error::Damaged { path: name(), what: "its content is not what was saved".into() });
    }
    let damaged = |error: read::Error| Error::Damaged { path: name(), what: error.to_string() };
    let mut reading = Reading::default();
    let database = Database::open(file).map_err(damaged)?;
    database.each("key", &mut |key, value| reading.change(key, value)).map_err(damaged)?;
    database.each("lease", &mut |_, value| reading.lease(value)).map_err(damaged)?;
    match reading.wrong {
        Some(what) => Err(Error::Damaged { path: name(), what: what.into() }),
        None => Ok(Content { revision: reading.revision, entries: reading.entries, leases: reading.leases }),
    }
}

fn is_whole(file: &mut File, length: u64) -> io::Result<bool> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    let mut content = file.take(length);
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let mut wanted = [0; DIGEST_BYTES as usize];
    file.read_exact(&mut wanted)?;
    Ok(hasher.finalize()[..] == wanted)
}

#[derive(Default)]
struct Reading {
    revision: i64,
    entries: BTreeMap<Bytes, KeyValue>,
    leases: BTreeMap<i64, Duration>,
    /// The first thing that can't be.
    wrong: Option<&'static str>,
}

impl Reading {
    /// Changes come in the order of their revisions: the last of a key is what it is.
    fn change(&mut self, revision: &[u8], value: &[u8]) {
        let deleted = revision.len() == CHANGE_BYTES + 1 && revision[CHANGE_BYTES] == b't';
        let main = revision.first_chunk().filter(|_| deleted || revision.len() == CHANGE_BYTES);
        let (Some(main), Ok(entry)) = (main, KeyValue::decode(value)) else {
            self.wrong.get_or_insert("a change in its log can't be read");
            return;
        };
        self.revision = self.revision.max(i64::from_be_bytes(*main));
        match deleted {
            true => self.entries.remove(&entry.key),
            false => self.entries.insert(entry.key.clone(), entry),
        };
    }

    fn lease(&mut self, value: &[u8]) {
        let Ok(lease) = LeaseRecord::decode(value) else {
            self.wrong.get_or_insert("a lease can't be read");
            return;
        };
        let left = if lease.remaining_ttl > 0 { lease.remaining_ttl } else { lease.ttl };
        self.leases.insert(lease.id, Duration::from_secs(left.max(1).unsigned_abs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(main: i64, tail: &[u8]) -> Vec<u8> {
        [&main.to_be_bytes()[..], b"_", &[0; 8], tail].concat()
    }

    #[test]
    fn the_last_change_of_a_key_is_what_it_is() {
        let mut reading = Reading::default();
        let mut change = |main, tail: &[u8], name: &'static str, value: &'static str| {
            let entry = KeyValue { key: name.into(), value: value.into(), ..KeyValue::default() };
            reading.change(&key(main, tail), &entry.encode_to_vec());
        };
        change(2, b"", "a", "1");
        change(3, b"", "b", "1");
        change(4, b"", "a", "2");
        change(5, b"t", "b", "");
        assert_eq!((reading.revision, reading.wrong), (5, None));
        let left: Vec<_> = reading.entries.values().map(|entry| (&entry.key[..], &entry.value[..])).collect();
        assert_eq!(left, [(&b"a"[..], &b"2"[..])]);
        reading.change(b"short", b"");
        assert!(reading.wrong.is_some());
    }
}
