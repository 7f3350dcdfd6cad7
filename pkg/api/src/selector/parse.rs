//! The text form of label selectors.
use super::Error;
use super::label::{Operator, Requirement, key_error};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Identifier,
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    Not,
    Comma,
    Open,
    Close,
    End,
    Unknown,
}

struct Item {
    token: Token,
    text: String,
}

/// Where a token stands: `in` is an operator after a key, and an ordinary word among values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Operator,
    Value,
}

pub(super) fn requirements(text: &str) -> Result<Vec<Requirement>, Error> {
    Parser { items: scan(text), at: 0 }.parse()
}

fn scan(text: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let (token, len) = if is_special(first) { symbol(rest) } else { word(rest) };
        items.push(Item { token, text: rest[..len].to_owned() });
        rest = rest[len..].trim_start_matches(is_space);
    }
    items.push(Item { token: Token::End, text: String::new() });
    items
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn symbol(rest: &str) -> (Token, usize) {
    const SYMBOLS: [(&str, Token); 9] = [
        ("==", Token::DoubleEquals),
        ("!=", Token::NotEquals),
        ("=", Token::Equals),
        ("!", Token::Not),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    let found = SYMBOLS.iter().find(|(text, _)| rest.starts_with(text));
    found.map_or((Token::Unknown, 1), |(text, token)| (*token, text.len()))
}

fn word(rest: &str) -> (Token, usize) {
    let len = rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len());
    let token = match &rest[..len] {
        "in" => Token::In,
        "notin" => Token::NotIn,
        _ => Token::Identifier,
    };
    (token, len)
}

struct Parser {
    items: Vec<Item>,
    at: usize,
}

impl Parser {
    fn look(&self, context: Context) -> (Token, &str) {
        // The last item is `End`, and nothing is consumed past it.
        let item = &self.items[self.at.min(self.items.len() - 1)];
        let token = match item.token {
            Token::In | Token::NotIn if context == Context::Value => Token::Identifier,
            token => token,
        };
        (token, &item.text)
    }

    fn take(&mut self, context: Context) -> (Token, String) {
        let (token, text) = self.look(context);
        let taken = (token, text.to_owned());
        self.at += 1;
        taken
    }

    fn parse(mut self) -> Result<Vec<Requirement>, Error> {
        let mut requirements = Vec::new();
        loop {
            match self.look(Context::Value) {
                (Token::Identifier | Token::Not, _) => {}
                (Token::End, _) => return Ok(requirements),
                (_, found) => return fail(format!("found '{found}', expected: !, identifier, or 'end of string'")),
            }
            let requirement = self.requirement().map_err(|e| Error(format!("unable to parse requirement: {}", e.0)))?;
            requirements.push(requirement);
            match self.take(Context::Value) {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => self.expect_key_after_comma()?,
                (_, found) => return fail(format!("found '{found}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn expect_key_after_comma(&self) -> Result<(), Error> {
        match self.look(Context::Value) {
            (Token::Identifier | Token::Not, _) => Ok(()),
            (_, found) => fail(format!("found '{found}', expected: identifier after ','")),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        let (mut token, mut key) = self.take(Context::Value);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take(Context::Value);
        }
        if token != Token::Identifier {
            return fail(format!("found '{key}', expected: identifier"));
        }
        // Upstream has no path here and prints its nil.
        if let Some(error) = key_error("<nil>", &key) {
            return fail(error);
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.look(Context::Value).0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(&key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, Error> {
        match self.take(Context::Operator) {
            (Token::In, _) => Ok(Operator::In),
            (Token::NotIn, _) => Ok(Operator::NotIn),
            (Token::Equals, _) => Ok(Operator::Equals),
            (Token::DoubleEquals, _) => Ok(Operator::DoubleEquals),
            (Token::NotEquals, _) => Ok(Operator::NotEquals),
            (Token::Greater, _) => Ok(Operator::GreaterThan),
            (Token::Less, _) => Ok(Operator::LessThan),
            (_, found) => fail(format!("found '{found}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, Error> {
        match self.take(Context::Value) {
            (Token::Open, _) => {}
            (_, found) => return fail(format!("found '{found}' expected: '('")),
        }
        match self.look(Context::Value) {
            (Token::Identifier | Token::Comma, _) => self.listed_values(),
            (Token::Close, _) => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            (_, found) => fail(format!("found '{found}', expected: ',', ')' or identifier")),
        }
    }

    /// `a,b`, where each may be missing: `(,a,,)` holds the empty value and `a`.
    fn listed_values(&mut self) -> Result<Vec<String>, Error> {
        let mut values = Vec::new();
        let mut expect_value = true;
        loop {
            match self.take(Context::Value) {
                (Token::Identifier, text) if expect_value => {
                    values.push(text);
                    expect_value = false;
                }
                (Token::Comma, _) => {
                    if expect_value {
                        values.push(String::new());
                    }
                    expect_value = true;
                }
                (Token::Close, _) => {
                    if expect_value {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                (_, found) if expect_value => return fail(format!("found '{found}', expected: ',', or identifier")),
                (_, found) => return fail(format!("found '{found}', expected: ',' or ')'")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, Error> {
        if matches!(self.look(Context::Value).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take(Context::Value) {
            (Token::Identifier, text) => Ok(text),
            (_, found) => fail(format!("found '{found}', expected: identifier")),
        }
    }
}

fn fail<T>(text: String) -> Result<T, Error> {
    Err(Error(text))
}
