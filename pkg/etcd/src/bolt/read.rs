//! Reads a file that nobody writes to. Nothing in it is trusted: a length or a place that can't be is damage.
use super::{BRANCH, BUCKET, ELEMENT_BYTES, HEADER_BYTES, LEAF, MAGIC, VERSION, fnv1a};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Where the second meta page may begin: the page sizes that machines have.
const PAGE_SIZES: [usize; 5] = [4096, 1024, 8192, 16384, 65536];
/// Of a meta page, without its checksum.
const META_BYTES: usize = 56;
/// Levels of a tree; one of four billion items has fewer.
const DEPTH: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Damaged(&'static str),
    #[error("it has no bucket {name:?}")]
    NoBucket { name: String },
}

type Result<T> = std::result::Result<T, Error>;

/// Takes an item: key and value.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) + 'a;

/// Takes an item with its flags.
type Item<'a> = dyn FnMut(u32, &[u8], &[u8]) + 'a;

/// Whether a file begins like one of this format; `head` is its first 32 bytes.
pub fn is_database(head: &[u8]) -> bool {
    head.get(HEADER_BYTES..HEADER_BYTES + 4) == Some(&MAGIC.to_le_bytes())
}

pub struct Database {
    file: File,
    page_bytes: usize,
    /// The page where the tree of buckets begins, and how many pages there are.
    root: u64,
    pages: u64,
    /// Pages that have been read: more than there are means that they lead in a circle.
    visited: Cell<u64>,
}

/// What a meta page says.
struct Meta {
    page_bytes: usize,
    root: u64,
    pages: u64,
    txid: u64,
}

impl Database {
    /// # Errors
    /// Not this format, or neither meta page is whole.
    pub fn open(file: File) -> Result<Self> {
        let metas = std::iter::once(0).chain(PAGE_SIZES).filter_map(|at| Meta::read(&file, at));
        let newest = metas.max_by_key(|meta| meta.txid).ok_or(Error::Damaged("neither of its meta pages is whole"))?;
        let Meta { page_bytes, root, pages, .. } = newest;
        if file.metadata()?.len() < pages.saturating_mul(page_bytes as u64) {
            return Err(Error::Damaged("it ends before its last page"));
        }
        Ok(Self { file, page_bytes, root, pages, visited: Cell::new(0) })
    }

    /// Hands over all items of a bucket in the order of their keys.
    ///
    /// # Errors
    /// Damage, or there is no such bucket.
    pub fn each(&self, bucket: &str, each: &mut Each<'_>) -> Result<()> {
        self.visited.set(0);
        let mut found = None;
        self.walk(self.root, DEPTH, &mut |flags, key, value| {
            if flags & BUCKET != 0 && key == bucket.as_bytes() {
                found = Some(value.to_vec());
            }
        })?;
        let found = found.ok_or_else(|| Error::NoBucket { name: bucket.to_owned() })?;
        let root = u64_at(&found, 0)?;
        self.visited.set(0);
        let mut items = |flags: u32, key: &[u8], value: &[u8]| {
            if flags & BUCKET == 0 {
                each(key, value);
            }
        };
        match root {
            // A small bucket stands whole in its parent, behind the number of its page and its sequence.
            0 => leaf(found.get(16..).ok_or(Error::Damaged("a bucket is cut off"))?, &mut items),
            root => self.walk(root, DEPTH, &mut items),
        }
    }

    fn walk(&self, number: u64, depth: usize, each: &mut Item<'_>) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or(Error::Damaged("its tree is too deep"))?;
        let page = self.page(number)?;
        match u16_at(&page, 8)? {
            BRANCH => {
                for at in elements(&page)? {
                    self.walk(u64_at(&page, at + 8)?, depth, each)?;
                }
                Ok(())
            }
            LEAF => leaf(&page, each),
            _ => Err(Error::Damaged("a page is neither branch nor leaf")),
        }
    }

    /// A page with those that belong to it.
    fn page(&self, number: u64) -> Result<Vec<u8>> {
        self.visited.set(self.visited.get() + 1);
        if number >= self.pages || self.visited.get() > self.pages {
            return Err(Error::Damaged("a page that can't be is referred to"));
        }
        let at = number * self.page_bytes as u64;
        let mut page = vec![0; self.page_bytes];
        self.file.read_exact_at(&mut page, at)?;
        let more = u64::from(u32_at(&page, 12)?);
        if u64_at(&page, 0)? != number || more >= self.pages - number {
            return Err(Error::Damaged("a page is not the one that it should be"));
        }
        page.resize((more as usize + 1) * self.page_bytes, 0);
        self.file.read_exact_at(&mut page[self.page_bytes..], at + self.page_bytes as u64)?;
        Ok(page)
    }
}

impl Meta {
    fn read(file: &File, at: usize) -> Option<Self> {
        let mut bytes = [0; HEADER_BYTES + META_BYTES + 8];
        file.read_exact_at(&mut bytes, at as u64).ok()?;
        let meta = &bytes[HEADER_BYTES..];
        let page_bytes = u32_at(meta, 8).ok()? as usize;
        let right = u32_at(meta, 0).ok()? == MAGIC
            && u32_at(meta, 4).ok()? == VERSION
            && PAGE_SIZES.contains(&page_bytes)
            && u64_at(meta, META_BYTES).ok()? == fnv1a(&meta[..META_BYTES])
            && (at == 0 || at == page_bytes);
        let number = |at| u64_at(meta, at).ok();
        right.then_some(Self { page_bytes, root: number(16)?, pages: number(40)?, txid: number(48)? })
    }
}

fn leaf(page: &[u8], each: &mut Item<'_>) -> Result<()> {
    for at in elements(page)? {
        let (flags, position) = (u32_at(page, at)?, u32_at(page, at + 4)? as usize);
        let (key, value) = (u32_at(page, at + 8)? as usize, u32_at(page, at + 12)? as usize);
        let data = page.get(at + position..).and_then(|data| data.get(..key.checked_add(value)?));
        let (key, value) = data.ok_or(Error::Damaged("an item is outside of its page"))?.split_at(key);
        each(flags, key, value);
    }
    Ok(())
}

/// Where the elements of a page stand.
fn elements(page: &[u8]) -> Result<impl Iterator<Item = usize> + use<>> {
    let count = usize::from(u16_at(page, 10)?);
    Ok((0..count).map(|n| HEADER_BYTES + n * ELEMENT_BYTES))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or(Error::Damaged("a page ends within a number"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}
