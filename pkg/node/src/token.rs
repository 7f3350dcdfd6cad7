//! Join tokens, k3s-shaped: `K10<sha256 of the root CA>::<user>:<password>`. The user is `server` where servers and nodes may
//! join by it, `node` where nodes alone may.
use crate::files;
use ring::rand::SecureRandom;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::Path;

/// The user of a token that admits nodes alone.
pub const NODE: &str = "node";
/// Bytes of randomness in a password that we make.
const PASSWORD_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] files::Error),
    #[error("the system gave no randomness")]
    NoRandomness,
    #[error(
        "a token looks like K10<64 hex digits>::<user>:<password>, or is a password alone; this one begins with K10 but is neither"
    )]
    Malformed,
    #[error("this data directory already has another token: keep it, or pass the one in {path}")]
    Differs { path: String },
}

/// A token as given; a bare password pins no CA.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Hex of the root CA's SHA-256.
    pub ca_hash: Option<String>,
    pub user: String,
    pub password: String,
}

/// Never shows the password.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("ca_hash", &self.ca_hash).field("user", &self.user).finish_non_exhaustive()
    }
}

impl Token {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let Some(rest) = text.strip_prefix("K10") else {
            return Ok(Self { ca_hash: None, user: "server".into(), password: text.into() });
        };
        let (hash, credentials) = rest.split_once("::").ok_or(Error::Malformed)?;
        let (user, password) = credentials.split_once(':').ok_or(Error::Malformed)?;
        let hex = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex || user.is_empty() || password.is_empty() {
            return Err(Error::Malformed);
        }
        Ok(Self { ca_hash: Some(hash.to_ascii_lowercase()), user: user.into(), password: password.into() })
    }

    /// Whether it says of itself that it admits nodes alone.
    pub fn is_for_nodes(&self) -> bool {
        self.user == NODE
    }

    /// The whole text, with the CA's hash.
    pub fn render(&self, root_pem: &str) -> String {
        format!("K10{}::{}:{}", ca_hash(root_pem), self.user, self.password)
    }
}

/// Hex SHA-256 of the CA's PEM as served at `/cacerts`.
pub fn ca_hash(root_pem: &str) -> String {
    Sha256::digest(root_pem.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The server's token: the given one on first start, else a new one; afterwards the one on disk, which a given
/// one must equal.
pub fn ensure(path: &Path, given: Option<&str>, root_pem: &str) -> Result<Token, Error> {
    let given = given.map(Token::parse).transpose()?;
    if let Some(kept) = files::read_if_there(path)? {
        let kept = Token::parse(&kept)?;
        return match given {
            Some(given) if given.password != kept.password => Err(Error::Differs { path: path.display().to_string() }),
            _ => Ok(kept),
        };
    }
    let password = given.map_or_else(random_password, |token| Ok(token.password))?;
    let token = Token { ca_hash: Some(ca_hash(root_pem)), user: "server".into(), password };
    files::write(path, format!("{}\n", token.render(root_pem)).as_bytes(), 0o600)?;
    Ok(token)
}

/// A password that nobody guesses: 128 random bits in hex.
pub fn random_password() -> Result<String, Error> {
    let mut bytes = [0; PASSWORD_BYTES];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| Error::NoRandomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_token_reads_back() {
        let token = Token { ca_hash: None, user: "server".into(), password: "secret".into() };
        let text = token.render("PEM");
        let read = Token::parse(&text).unwrap();
        assert_eq!(read.password, "secret");
        assert_eq!(read.ca_hash.as_deref(), Some(&*ca_hash("PEM")));
    }

    #[test]
    fn a_password_alone_pins_nothing() {
        assert_eq!(Token::parse("hunter2\n").unwrap().ca_hash, None);
    }

    #[test]
    fn half_a_token_is_refused() {
        for text in [
            "K10",
            "K10abc::server:x",
            &format!("K10{}::server", "a".repeat(64)),
            &format!("K10{}::server:", "a".repeat(64)),
        ] {
            assert!(matches!(Token::parse(text), Err(Error::Malformed)), "{text}");
        }
    }

    #[test]
    fn the_password_is_in_no_debug_text() {
        let token = Token::parse("hunter2").unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
    }

    #[test]
    fn a_kept_token_wins_over_none_and_refuses_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let first = ensure(&path, None, "PEM").unwrap();
        assert_eq!(ensure(&path, None, "PEM").unwrap(), first);
        assert_eq!(ensure(&path, Some(&first.password), "PEM").unwrap(), first);
        assert!(matches!(ensure(&path, Some("other"), "PEM"), Err(Error::Differs { .. })));
    }
}
