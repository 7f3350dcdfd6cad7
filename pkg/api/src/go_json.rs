//! What is wrong with text that is no JSON, in the words of Go's `encoding/json`, which clients and their users know.

/// Values within values, beyond which we stop looking (Go's own limit).
const MAX_DEPTH: usize = 10_000;

/// Go's error of `bytes`, none if they are one JSON value.
pub fn syntax_error(bytes: &[u8]) -> Option<String> {
    let mut scan = Scan { bytes, at: 0 };
    scan.whole().err()
}

/// The kind of a JSON value as Go's errors name it.
pub fn kind_name(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "bool",
        serde_json::Value::Number(_) => "number",
        serde_json::Value::String(_) => "string",
        serde_json::Value::Array(_) => "array",
        serde_json::Value::Object(_) => "object",
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Checked = Result<(), String>;

impl Scan<'_> {
    fn whole(&mut self) -> Checked {
        self.value(0)?;
        self.space();
        match self.bytes.get(self.at) {
            None => Ok(()),
            Some(_) => self.wrong("after top-level value"),
        }
    }

    fn space(&mut self) {
        while self.bytes.get(self.at).is_some_and(|b| b" \t\r\n".contains(b)) {
            self.at += 1;
        }
    }

    /// The byte here does not belong, or there is none.
    fn wrong(&self, context: &str) -> Checked {
        Err(match self.bytes.get(self.at) {
            None => "unexpected end of JSON input".into(),
            Some(byte) => format!("invalid character {} {context}", quoted(*byte)),
        })
    }

    fn next_is(&mut self, wanted: u8) -> bool {
        let found = self.bytes.get(self.at) == Some(&wanted);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Checked {
        self.space();
        if depth > MAX_DEPTH {
            return Err("exceeded max depth".into());
        }
        match self.bytes.get(self.at) {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.wrong("looking for beginning of value"),
        }
    }

    fn object(&mut self, depth: usize) -> Checked {
        self.at += 1;
        self.space();
        if self.next_is(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            if self.bytes.get(self.at) != Some(&b'"') {
                return self.wrong("looking for beginning of object key string");
            }
            self.string()?;
            self.space();
            if !self.next_is(b':') {
                return self.wrong("after object key");
            }
            self.value(depth + 1)?;
            self.space();
            if self.next_is(b'}') {
                return Ok(());
            }
            if !self.next_is(b',') {
                return self.wrong("after object key:value pair");
            }
        }
    }

    fn array(&mut self, depth: usize) -> Checked {
        self.at += 1;
        self.space();
        if self.next_is(b']') {
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            self.space();
            if self.next_is(b']') {
                return Ok(());
            }
            if !self.next_is(b',') {
                return self.wrong("after array element");
            }
        }
    }

    fn string(&mut self) -> Checked {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                None | Some(0..0x20) => return self.wrong("in string literal"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Checked {
        match self.bytes.get(self.at) {
            Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.bytes.get(self.at).is_some_and(u8::is_ascii_hexdigit) {
                        return self.wrong("in \\u hexadecimal character escape");
                    }
                    self.at += 1;
                }
            }
            _ => return self.wrong("in string escape code"),
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Checked {
        for wanted in word.bytes() {
            if !self.next_is(wanted) {
                return self.wrong(&format!("in literal {word} (expecting {})", quoted(wanted)));
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at > start
    }

    fn number(&mut self) -> Checked {
        self.next_is(b'-');
        if !self.next_is(b'0') && !self.digits() {
            return self.wrong("in numeric literal");
        }
        if self.next_is(b'.') && !self.digits() {
            return self.wrong("after decimal point in numeric literal");
        }
        if self.next_is(b'e') || self.next_is(b'E') {
            let _sign = self.next_is(b'+') || self.next_is(b'-');
            if !self.digits() {
                return self.wrong("in exponent of numeric literal");
            }
        }
        Ok(())
    }
}

/// A byte as Go quotes it in these errors: each stands for the character of its number.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0..0x20 | 0x7f..=0xa0 | 0xad => format!("'\\x{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_says_where_it_stumbled() {
        let said = |text: &str| syntax_error(text.as_bytes()).unwrap_or_default();
        assert_eq!(said("x"), "invalid character 'x' looking for beginning of value");
        assert_eq!(said("{"), "unexpected end of JSON input");
        assert_eq!(said(""), "unexpected end of JSON input");
        assert_eq!(said("{a"), "invalid character 'a' looking for beginning of object key string");
        assert_eq!(said("{\"a\" 1}"), "invalid character '1' after object key");
        assert_eq!(said("{\"a\":1 \"b\"}"), "invalid character '\"' after object key:value pair");
        assert_eq!(said("[1 2]"), "invalid character '2' after array element");
        assert_eq!(said("1 2"), "invalid character '2' after top-level value");
        assert_eq!(said("trus"), "invalid character 's' in literal true (expecting 'e')");
        assert_eq!(said("\"a\nb\""), "invalid character '\\n' in string literal");
        assert_eq!(said(r#""\q""#), "invalid character 'q' in string escape code");
        assert_eq!(syntax_error(&[0xcf]).unwrap(), "invalid character 'Ï' looking for beginning of value");
    }

    #[test]
    fn json_has_no_error() {
        for text in ["null", " {\"a\": [1, -2.5e3, \"x\\u00e9\", true, {}]} ", "[]", "0"] {
            assert_eq!(syntax_error(text.as_bytes()), None, "{text}");
        }
    }
}
