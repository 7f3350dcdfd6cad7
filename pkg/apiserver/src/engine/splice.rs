//! Putting the resourceVersion into stored bytes, which hold none.
use bytes::{BufMut, Bytes, BytesMut};
use store::{Entry, Revision};

/// Room for `"resourceVersion":"18446744073709551615",`.
pub const SPLICE_BYTES: usize = 42;

/// Appends the entry as an object that says it is of `revision`.
pub fn append(out: &mut BytesMut, entry: &Entry, revision: Revision) {
    let value = &entry.value;
    let Some(at) = entry.summary.splice_at.map(|at| at as usize).filter(|&at| at <= value.len()) else {
        out.put_slice(value);
        return;
    };
    out.put_slice(&value[..at]);
    out.put_slice(b"\"resourceVersion\":\"");
    put_decimal(out, revision.get());
    // An empty metadata has nothing after it that would need a comma.
    out.put_slice(if value.get(at) == Some(&b'}') { b"\"" } else { b"\"," });
    out.put_slice(&value[at..]);
}

/// The entry as it is served.
pub fn object(entry: &Entry) -> Bytes {
    at_revision(entry, entry.mod_revision)
}

/// The entry under another revision: what a watch shows of a deletion.
pub fn at_revision(entry: &Entry, revision: Revision) -> Bytes {
    let mut out = BytesMut::with_capacity(entry.value.len() + SPLICE_BYTES);
    append(&mut out, entry, revision);
    out.freeze()
}

fn put_decimal(out: &mut BytesMut, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::summary::Summary;

    fn entry(value: &'static str, at: Option<u32>) -> Entry {
        Entry {
            key: Bytes::new(),
            value: value.into(),
            create_revision: Revision::ZERO,
            mod_revision: Revision::from_u64(1234567890),
            index: 0,
            version: 1,
            lease: None,
            summary: Summary { splice_at: at, ..Summary::default() },
        }
    }

    #[test]
    fn the_version_stands_first_in_metadata() {
        let served = object(&entry(r#"{"metadata":{"name":"a"}}"#, Some(13)));
        assert_eq!(served, r#"{"metadata":{"resourceVersion":"1234567890","name":"a"}}"#);
        let served = object(&entry(r#"{"metadata":{}}"#, Some(13)));
        assert_eq!(served, r#"{"metadata":{"resourceVersion":"1234567890"}}"#);
        assert_eq!(object(&entry("opaque", None)), "opaque");
    }
}
