//! Writes a file front to back without seeking: a first pass over the same items tells where everything will be.
use super::{BRANCH, BUCKET, ELEMENT_BYTES, FREE, HEADER_BYTES, LEAF, MAGIC, META, PAGE_BYTES, VERSION, fnv1a};
use std::io::{self, Write};

/// Two meta pages and an empty free list.
const FIRST_PAGE: u64 = 3;
const FREE_LIST: u64 = 2;

/// Takes an item: key and value.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<()> + 'a;

/// A named set of items.
pub struct Bucket<'a> {
    pub name: &'static str,
    /// Hands over all items in the order of their keys; the same each time.
    pub items: &'a dyn Fn(&mut Each<'_>) -> io::Result<()>,
}

/// Where the tree of buckets begins, and where the file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    root: u64,
    end: u64,
}

impl Layout {
    /// Of a file with these buckets, which are in the order of their names.
    pub fn of(buckets: &[Bucket<'_>]) -> io::Result<Self> {
        pages(buckets, &mut io::sink())
    }

    pub fn size_bytes(self) -> u64 {
        self.end * PAGE_BYTES as u64
    }
}

/// Writes the file that `layout` was made for.
pub fn write(buckets: &[Bucket<'_>], layout: Layout, out: &mut impl Write) -> io::Result<()> {
    for number in 0..2 {
        out.write_all(&meta_page(number, layout))?;
    }
    out.write_all(&page(FREE_LIST, FREE, 0, PAGE_BYTES))?;
    match pages(buckets, out)? == layout {
        true => Ok(()),
        false => Err(io::Error::other("the items changed between the passes")),
    }
}

fn pages(buckets: &[Bucket<'_>], out: &mut impl Write) -> io::Result<Layout> {
    let mut tree = Tree { out, next: FIRST_PAGE };
    let mut roots = Vec::new();
    for bucket in buckets {
        let mut level = Level::leaf(0);
        (bucket.items)(&mut |key, value| level.add(&mut tree, key, value))?;
        roots.push((bucket.name, level.finish(&mut tree)?));
    }
    let mut level = Level::leaf(BUCKET);
    for (name, root) in roots {
        // The root page, and a sequence that nobody uses.
        level.add(&mut tree, name.as_bytes(), &[root.to_le_bytes(), [0; 8]].concat())?;
    }
    let root = level.finish(&mut tree)?;
    Ok(Layout { root, end: tree.next })
}

/// Pages on their way out.
struct Tree<'a, W> {
    out: &'a mut W,
    next: u64,
}

/// The pages of one depth of a tree, being filled from the left.
struct Level {
    kind: u16,
    /// Of each item in a leaf.
    flags: u32,
    items: Vec<(Vec<u8>, Vec<u8>)>,
    size: usize,
    /// The first key of each finished page, and its number.
    done: Vec<(Vec<u8>, u64)>,
}

impl Level {
    fn leaf(flags: u32) -> Self {
        Self { kind: LEAF, flags, items: Vec::new(), size: HEADER_BYTES, done: Vec::new() }
    }

    fn add(&mut self, tree: &mut Tree<'_, impl Write>, key: &[u8], value: &[u8]) -> io::Result<()> {
        let data = key.len() + if self.kind == LEAF { value.len() } else { 0 };
        if !self.items.is_empty() && self.size + ELEMENT_BYTES + data > PAGE_BYTES {
            self.flush(tree)?;
        }
        self.size += ELEMENT_BYTES + data;
        self.items.push((key.to_vec(), value.to_vec()));
        Ok(())
    }

    fn flush(&mut self, tree: &mut Tree<'_, impl Write>) -> io::Result<()> {
        let pages = self.size.div_ceil(PAGE_BYTES);
        let mut bytes = page(tree.next, self.kind, self.items.len() as u16, pages * PAGE_BYTES);
        let mut data_at = HEADER_BYTES + self.items.len() * ELEMENT_BYTES;
        for (n, (key, value)) in self.items.iter().enumerate() {
            let at = HEADER_BYTES + n * ELEMENT_BYTES;
            let (position, key_size) = ((data_at - at) as u32, key.len() as u32);
            let element = match self.kind {
                LEAF => [self.flags, position, key_size, value.len() as u32].map(u32::to_le_bytes).concat(),
                // The value of a branch's item is the number of a page.
                _ => [&position.to_le_bytes()[..], &key_size.to_le_bytes(), value].concat(),
            };
            bytes[at..at + ELEMENT_BYTES].copy_from_slice(&element);
            let data = if self.kind == LEAF { [&key[..], value].concat() } else { key.clone() };
            bytes[data_at..data_at + data.len()].copy_from_slice(&data);
            data_at += data.len();
        }
        tree.out.write_all(&bytes)?;
        let first = self.items.first().map(|(key, _)| key.clone()).unwrap_or_default();
        self.done.push((first, tree.next));
        tree.next += pages as u64;
        self.items.clear();
        self.size = HEADER_BYTES;
        Ok(())
    }

    /// Writes what is left and the levels above; returns the root's page.
    fn finish(mut self, tree: &mut Tree<'_, impl Write>) -> io::Result<u64> {
        loop {
            if !self.items.is_empty() || self.done.is_empty() {
                self.flush(tree)?;
            }
            if let [(_, root)] = self.done[..] {
                return Ok(root);
            }
            let mut above = Self { kind: BRANCH, ..Self::leaf(0) };
            for (key, number) in self.done {
                above.add(tree, &key, &number.to_le_bytes())?;
            }
            self = above;
        }
    }
}

/// An empty page: number, kind, count of items, and how many pages follow that belong to it.
fn page(number: u64, kind: u16, count: u16, size_bytes: usize) -> Vec<u8> {
    let overflow = (size_bytes / PAGE_BYTES - 1) as u32;
    let mut bytes = vec![0; size_bytes];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..10].copy_from_slice(&kind.to_le_bytes());
    bytes[10..12].copy_from_slice(&count.to_le_bytes());
    bytes[12..16].copy_from_slice(&overflow.to_le_bytes());
    bytes
}

/// The second meta page is the newer transaction's, and so the one that is read.
fn meta_page(number: u64, layout: Layout) -> Vec<u8> {
    let mut meta = Vec::new();
    for word in [MAGIC, VERSION, PAGE_BYTES as u32, 0] {
        meta.extend(word.to_le_bytes());
    }
    for word in [layout.root, 0, FREE_LIST, layout.end, number] {
        meta.extend(word.to_le_bytes());
    }
    let checksum = fnv1a(&meta);
    meta.extend(checksum.to_le_bytes());
    let mut bytes = page(number, META, 0, PAGE_BYTES);
    bytes[HEADER_BYTES..HEADER_BYTES + meta.len()].copy_from_slice(&meta);
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::read::{self, Database};
    use super::*;
    use std::fs::File;

    type Items = Vec<(Vec<u8>, Vec<u8>)>;

    fn file(all: &[(&'static str, Items)]) -> Vec<u8> {
        let givers: Vec<_> = all
            .iter()
            .map(|(_, items)| move |each: &mut Each<'_>| items.iter().try_for_each(|(key, value)| each(key, value)))
            .collect();
        let buckets: Vec<_> = all.iter().zip(&givers).map(|((name, _), items)| Bucket { name, items }).collect();
        let layout = Layout::of(&buckets).unwrap();
        let mut out = Vec::new();
        write(&buckets, layout, &mut out).unwrap();
        assert_eq!(out.len() as u64, layout.size_bytes());
        out
    }

    #[test]
    fn what_is_written_is_found() {
        let many = (0..5000u32).map(|n| (n.to_be_bytes().to_vec(), vec![7; (n % 300) as usize])).collect::<Items>();
        let large = vec![(b"a".to_vec(), vec![1; 10_000]), (b"b".to_vec(), vec![2; 5])];
        let all = [("empty", vec![]), ("large", large), ("many", many)];
        let file = file(&all);
        let database = Database::open(on_disk(&file)).unwrap();
        for (name, items) in &all {
            let mut found = Items::new();
            database.each(name, &mut |key, value| found.push((key.to_vec(), value.to_vec()))).unwrap();
            assert!(*items == found, "{name}");
        }
        assert!(matches!(database.each("none", &mut |_, _| ()), Err(read::Error::NoBucket { .. })));
    }

    fn on_disk(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic_or_a_circle() {
        let many = (0..500u32).map(|n| (n.to_be_bytes().to_vec(), vec![7; 100])).collect::<Items>();
        let whole = file(&[("many", many)]);
        let read = |bytes: &[u8]| {
            let mut items = 0;
            Database::open(on_disk(bytes))?.each("many", &mut |_, _| items += 1).map(|()| items)
        };
        assert_eq!(read(&whole).unwrap(), 500);
        for cut in (0..whole.len()).step_by(PAGE_BYTES) {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        // Every byte of pages' heads and of the first items, turned over.
        for page in 3..whole.len() / PAGE_BYTES {
            for at in 0..64 {
                let mut bytes = whole.clone();
                bytes[page * PAGE_BYTES + at] ^= 0xff;
                let _ = read(&bytes);
            }
        }
        // One meta page may be torn: the other one's tree is read.
        let mut torn = whole.clone();
        torn[PAGE_BYTES + HEADER_BYTES + 20] ^= 1;
        assert_eq!(read(&torn).unwrap(), 500);
        torn[HEADER_BYTES + 20] ^= 1;
        assert!(matches!(read(&torn), Err(read::Error::Damaged(_))));
    }

    #[test]
    fn items_that_change_between_the_passes_are_an_error() {
        let turn = std::cell::Cell::new(0u8);
        let items = |each: &mut Each<'_>| {
            turn.set(turn.get() + 1);
            (0..turn.get()).try_for_each(|n| each(&[n], &[0; PAGE_BYTES]))
        };
        let buckets = [Bucket { name: "odd", items: &items }];
        let layout = Layout::of(&buckets).unwrap();
        assert!(write(&buckets, layout, &mut Vec::new()).is_err());
    }
}
