//! Reading a log as `kubectl logs` asks for it.
use super::line::{Line, parse};
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes sent at once.
const CHUNK_BYTES: usize = 32 << 10;
/// How often a followed log is looked at when nothing tells.
const POLL: Duration = Duration::from_millis(100);
/// Block that the search for the last lines reads backwards.
const BLOCK_BYTES: u64 = 64 << 10;

/// What is wanted of a log (PodLogOptions in the Kubernetes API).
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub tail_lines: Option<usize>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub follow: bool,
    pub limit_bytes: Option<usize>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<String>,
}

/// Sends a log's text to `out`; with `follow` until the container has ended (`ended` answers) or nobody listens.
pub async fn follow<F>(path: PathBuf, options: Options, out: mpsc::Sender<Bytes>, ended: impl Fn() -> F)
where
    F: Future<Output = bool>,
{
    let mut reader = match Reader::open(&path, &options) {
        Ok(reader) => reader,
        Err(error) => return tracing::debug!(path = %path.display(), %error, "log can't be read"),
    };
    loop {
        // Asked before reading: what was written before the end is still read.
        let last = !options.follow || ended().await;
        // The same: once the log's name is another file's, nothing more comes into this one.
        let rotated = reader.is_rotated();
        while let Some(chunk) = reader.next_chunk(&options) {
            if out.send(chunk).await.is_err() {
                return;
            }
        }
        if reader.full || !options.follow || (last && !rotated) {
            return;
        }
        if rotated {
            let fresh = Options { tail_lines: None, ..options.clone() };
            match Reader::open(&path, &fresh) {
                Ok(next) => reader = Reader { sent: reader.sent, ..next },
                Err(_) => tokio::time::sleep(POLL).await,
            }
            continue;
        }
        tokio::select! {
            () = out.closed() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    inode: u64,
    /// A line that was not complete yet.
    rest: Vec<u8>,
    line_begins: bool,
    sent: usize,
    /// The limit is reached.
    full: bool,
}

impl Reader {
    fn open(path: &Path, options: &Options) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = options.tail_lines {
            let start = last_lines(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        let inode = file.metadata()?.ino();
        Ok(Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            inode,
            rest: Vec::new(),
            line_begins: true,
            sent: 0,
            full: false,
        })
    }

    /// Whether another file has the log's name by now.
    fn is_rotated(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|found| found.ino() != self.inode)
    }

    /// What is there of the log, up to a chunk; `None` when nothing is.
    fn next_chunk(&mut self, options: &Options) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK_BYTES && !self.full {
            match self.file.read_until(b'\n', &mut self.rest) {
                Ok(n) if n > 0 && self.rest.ends_with(b"\n") => {
                    let line = std::mem::take(&mut self.rest);
                    if let Some(line) = parse(&line) {
                        self.add(&line, options, &mut chunk);
                    }
                }
                _ => break,
            }
        }
        (!chunk.is_empty()).then(|| chunk.freeze())
    }

    fn add(&mut self, line: &Line<'_>, options: &Options, chunk: &mut BytesMut) {
        let other = options.stream.as_ref().is_some_and(|stream| stream != line.stream);
        let early = options.since.is_some_and(|since| line.timestamp().is_some_and(|time| time < since));
        if other || early {
            return;
        }
        let before = chunk.len();
        if options.timestamps && self.line_begins {
            chunk.extend_from_slice(line.time.as_bytes());
            chunk.extend_from_slice(b" ");
        }
        chunk.extend_from_slice(line.text);
        if !line.partial {
            chunk.extend_from_slice(b"\n");
        }
        self.line_begins = !line.partial;
        self.sent += chunk.len() - before;
        if let Some(limit) = options.limit_bytes.filter(|limit| self.sent >= *limit) {
            chunk.truncate(chunk.len() - (self.sent - limit));
            self.full = true;
        }
    }
}

/// Where the last `lines` lines begin.
fn last_lines(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut block = Vec::new();
    let total = end;
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.by_ref().take(end - start).read_to_end(&mut block)?;
        for (at, byte) in block.iter().enumerate().rev() {
            let position = start + at as u64;
            // The last byte ends the last line; it begins none.
            if *byte == b'\n' && position + 1 < total {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
        end = start;
    }
    Ok(0)
}

/// The last lines of a log as text, cut to its last `bytes`.
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    let Ok(start) = last_lines(&mut file, lines) else { return String::new() };
    let mut text = Vec::new();
    if file.seek(SeekFrom::Start(start)).is_err() {
        return String::new();
    }
    let mut last: VecDeque<u8> = VecDeque::new();
    for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
        let Some(line) = parse(&line) else { continue };
        last.extend(line.text);
        if !line.partial {
            last.push_back(b'\n');
        }
        let surplus = last.len().saturating_sub(bytes);
        last.drain(..surplus);
    }
    text.extend(last);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn log(lines: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("0.log");
        let text: String =
            lines.iter().enumerate().map(|(n, l)| format!("2026-01-02T03:04:0{n}Z stdout {l}\n")).collect();
        std::fs::write(&path, text).expect("written");
        (dir, path)
    }

    async fn read(path: &Path, options: Options) -> String {
        let (sender, mut receiver) = mpsc::channel(64);
        follow(path.to_owned(), options, sender, || std::future::ready(true)).await;
        let mut all = Vec::new();
        while let Ok(chunk) = receiver.try_recv() {
            all.extend_from_slice(&chunk);
        }
        String::from_utf8(all).expect("text")
    }

    #[tokio::test]
    async fn options_pick_what_is_read() {
        let (_dir, path) = log(&["F one", "P tw", "F o", "F three"]);
        let all = Options::default();
        assert_eq!(read(&path, all.clone()).await, "one\ntwo\nthree\n");
        assert_eq!(read(&path, Options { tail_lines: Some(1), ..all.clone() }).await, "three\n");
        assert_eq!(read(&path, Options { tail_lines: Some(0), ..all.clone() }).await, "");
        assert_eq!(read(&path, Options { tail_lines: Some(99), ..all.clone() }).await, "one\ntwo\nthree\n");
        assert_eq!(read(&path, Options { limit_bytes: Some(6), ..all.clone() }).await, "one\ntw");
        let since = "2026-01-02T03:04:03Z".parse().ok();
        assert_eq!(
            read(&path, Options { since, timestamps: true, ..all.clone() }).await,
            "2026-01-02T03:04:03Z three\n"
        );
        assert_eq!(read(&path, Options { stream: Some("stderr".into()), ..all }).await, "");
        assert_eq!(tail_text(&path, 2, 100), "o\nthree\n");
        assert_eq!(tail_text(&path, 9, 4), "ree\n");
    }

    #[tokio::test]
    async fn following_goes_on_over_a_rotation() {
        let (_dir, path) = log(&["F one"]);
        let (sender, mut receiver) = mpsc::channel(64);
        let options = Options { follow: true, ..Options::default() };
        let reading = tokio::spawn(follow(path.clone(), options, sender, || std::future::ready(false)));
        assert_eq!(receiver.recv().await.expect("first"), "one\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
        writeln!(file, "2026-01-02T03:04:06Z stdout F two").expect("written");
        assert_eq!(receiver.recv().await.expect("second"), "two\n");
        std::fs::rename(&path, path.with_extension("old")).expect("rotated");
        std::fs::write(&path, "2026-01-02T03:04:07Z stdout F three\n").expect("written");
        assert_eq!(receiver.recv().await.expect("third"), "three\n");
        drop(receiver);
        reading.await.expect("it ends when nobody listens");
    }
}
