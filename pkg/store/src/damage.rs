//! Damage that SQLite does not tell of. It takes a frame of the write-ahead log that does not check out for the end of
//! the log, as a crash leaves it, and forgets all that follows; when that was acknowledged, it must not.
//!
//! File format: "WAL File Format" in SQLite's documentation. Each frame's checksum continues the one before.
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Of the two magic numbers, the one whose checksums read words as little-endian.
const LITTLE_ENDIAN: u32 = 0x377f_0682;
const BIG_ENDIAN: u32 = 0x377f_0683;

/// The write-ahead log of a database.
pub fn wal_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Refuses a write-ahead log that was whole once and is not any more: nothing follows a transaction before that is
/// durable, so a bad frame with more than its own transaction behind it was good when it was acknowledged.
pub fn check_wal(database: &Path) -> Result<()> {
    let path = wal_of(database);
    let at = |source| Error::Io { path: path.display().to_string(), source };
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(at)?,
    };
    match damage(&mut BufReader::with_capacity(1 << 20, file)).map_err(at)? {
        None => Ok(()),
        Some(what) => Err(Error::Corrupt { path: path.display().to_string(), what }),
    }
}

/// What is wrong with a write-ahead log, if anything is.
fn damage(from: &mut impl Read) -> std::io::Result<Option<String>> {
    let mut header = [0; HEADER_BYTES];
    if !filled(from, &mut header)? {
        return Ok(None);
    }
    let [magic, _, page_bytes, _, salt1, salt2, ..] = words(&header);
    let little = magic == LITTLE_ENDIAN;
    let mut sum = add((0, 0), &header[..24], little);
    let known = little || magic == BIG_ENDIAN;
    if !known || sum != stored(&header[24..]) {
        // It is durable before the first frame is written.
        let more = filled(from, &mut [0; FRAME_HEADER_BYTES])?;
        return Ok(more.then(|| "its header is not what was written".into()));
    }
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes as usize];
    // The first bad frame, and whether its transaction has ended since.
    let (mut number, mut bad, mut ended) = (0_u64, None, false);
    while filled(from, &mut frame)? {
        number += 1;
        let [_, commit, first, second, ..] = words(&frame);
        let of_this_log = (first, second) == (salt1, salt2);
        match bad {
            None => {
                sum = add(add(sum, &frame[..8], little), &frame[FRAME_HEADER_BYTES..], little);
                bad = (!of_this_log || sum != stored(&frame[16..])).then_some(number);
                ended = bad.is_some() && commit != 0;
            }
            Some(bad) if of_this_log && ended => return Ok(Some(format!("frame {bad} is not what was written"))),
            Some(_) => ended |= of_this_log && commit != 0,
        }
    }
    Ok(None)
}

/// Whether there were enough bytes.
fn filled(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match from.read_exact(buffer) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        done => done.map(|()| true),
    }
}

/// The first words of a header.
fn words(bytes: &[u8]) -> [u32; 6] {
    let word = |at: usize| u32::from_be_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]]);
    std::array::from_fn(word)
}

fn stored(bytes: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (word(0), word(4))
}

fn add((mut first, mut second): (u32, u32), bytes: &[u8], little: bool) -> (u32, u32) {
    let word = |bytes: [u8; 4]| if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
    for pair in bytes.chunks_exact(8) {
        first = first.wrapping_add(word([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(second);
        second = second.wrapping_add(word([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(first);
    }
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 512;
    const FRAME: usize = FRAME_HEADER_BYTES + PAGE;

    fn push(log: &mut Vec<u8>, sum: (u32, u32)) -> (u32, u32) {
        log.extend(sum.0.to_be_bytes());
        log.extend(sum.1.to_be_bytes());
        sum
    }

    /// A log with a frame for each item, true where a transaction ends.
    fn log(frames: &[bool]) -> Vec<u8> {
        let head = [LITTLE_ENDIAN, 3_007_000, PAGE as u32, 0, 11, 12];
        let mut log: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
        let mut sum = add((0, 0), &log, true);
        push(&mut log, sum);
        for (number, commit) in frames.iter().enumerate() {
            let head = [number as u32 + 1, u32::from(*commit) * 9];
            let head: Vec<u8> = head.iter().flat_map(|word| word.to_be_bytes()).collect();
            let page = [number as u8; PAGE];
            sum = add(add(sum, &head, true), &page, true);
            log.extend(&head);
            log.extend([11_u32, 12].iter().flat_map(|word| word.to_be_bytes()));
            push(&mut log, sum);
            log.extend(page);
        }
        log
    }

    fn found(log: &[u8]) -> bool {
        damage(&mut &log[..]).unwrap().is_some()
    }

    #[test]
    fn a_log_as_a_crash_leaves_it_passes() {
        let whole = log(&[true, false, true]);
        for length in 0..=whole.len() {
            assert!(!found(&whole[..length]), "cut at {length}");
        }
        // The last transaction was never durable: its pages may have arrived in any order.
        let mut torn = whole.clone();
        torn[HEADER_BYTES + FRAME..HEADER_BYTES + 2 * FRAME].fill(0);
        assert!(!found(&torn));
        // Frames of the log before this one lie behind.
        let mut reused = whole;
        let old = log(&[true, true, true, true]);
        reused.extend(&old[HEADER_BYTES + 3 * FRAME..]);
        let salt = HEADER_BYTES + 3 * FRAME + 8;
        reused[salt] ^= 1;
        assert!(!found(&reused));
    }

    #[test]
    fn every_bit_before_the_last_transaction_is_missed() {
        let whole = log(&[true, false, true, false, true]);
        for byte in 0..HEADER_BYTES + 3 * FRAME {
            let mut damaged = whole.clone();
            damaged[byte] ^= 1 << (byte % 8);
            assert!(found(&damaged), "byte {byte}");
        }
    }
}
