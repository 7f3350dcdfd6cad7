//! One line of a CRI log (Kubernetes' design proposal "CRI: log format").
use jiff::Timestamp;

/// A line taken apart; the text keeps no line end.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// The container's own line goes on in the next one.
    pub partial: bool,
    pub text: &'a [u8],
}

/// Takes a line apart; `None` when it is not one.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let (time, stream, tag) = (word()?, word()?, word()?);
    let partial = tag.split(':').any(|tag| tag == "P");
    Some(Line { time, stream, partial, text: parts.next().unwrap_or_default() })
}

impl Line<'_> {
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = parse(b"2026-01-02T03:04:05.678901234Z stderr F two words\n").expect("a line");
        assert_eq!((line.stream, line.partial, line.text), ("stderr", false, b"two words".as_slice()));
        assert_eq!(line.timestamp().expect("time").as_second(), 1_767_323_045);
        assert!(parse(b"2026-01-02T03:04:05Z stdout P half").expect("a line").partial);
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F ").expect("empty").text, b"");
        assert_eq!(parse(b"nonsense"), None);
    }
}
