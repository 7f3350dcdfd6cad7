//! The file format of bbolt, etcd's own store: a copy-on-write B+tree in pages (`bbolt/internal/common`: page.go,
//! meta.go, inode.go), as far as writing a new file and reading one that nobody writes to takes.
pub mod read;
pub mod write;

/// Of the files that are written here; others may have another.
pub const PAGE_BYTES: usize = 4096;
/// What begins a page, and what stands for each item in it.
const HEADER_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE: u16 = 0x10;
/// Marks an item of a leaf as a bucket.
const BUCKET: u32 = 0x01;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// FNV-1a of 64 bits, the checksum of meta pages.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(super::fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
