//! The token that admits nodes and no servers. A Secret of the cluster holds it, so that all servers take the same one and
//! writing the Secret replaces it everywhere; `server/agent-token` is each server's copy, for people.
use crate::api::{join_user, node_join_user};
use crate::files;
use crate::status::{self, Place};
use crate::token::{self, NODE, Token, random_password};
use anyhow::Context;
use api::Status;
use apiserver::Tokens;
use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{Backend, Range, WatchFrom};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "agent-token.eyot";
const KEY: &str = "/registry/secrets/kube-system/agent-token.eyot";
const TYPE: &str = "eyot.dev/agent-token";
/// In the Secret: the password.
const FIELD: &str = "token";
/// Where a server keeps its copy, below its data directory.
const FILE: &str = "server/agent-token";
/// Passwords have so many bytes at most.
const PASSWORD_BYTES: usize = 256;
/// The pause before the store is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// The password as it is now, for the nodes that are admitted.
pub type Current = Arc<ArcSwapOption<String>>;

/// Keeps what is accepted, and the file, as the Secret has it; makes the Secret where there is none.
pub struct Service {
    pub backend: Arc<dyn Backend>,
    /// What the API accepts.
    pub tokens: Tokens,
    pub current: Current,
    /// The server's own token, which is accepted always.
    pub server: Token,
    pub root_pem: String,
    pub data_dir: PathBuf,
    /// What `--agent-token` says: for a cluster that has none yet.
    pub given: Option<String>,
}

impl Service {
    /// What holds when the API opens: nobody is refused because this server has just started.
    ///
    /// # Errors
    /// The store or a file can't be read or written.
    pub async fn load(&self) -> anyhow::Result<()> {
        match self.backend.get(KEY.as_bytes(), None).await? {
            Some(entry) => self.accept(password(&entry.value)),
            None => match self.first() {
                Some(password) => self.accept(Some(password)),
                None => Ok(()),
            },
        }
    }

    /// Runs until it is dropped; from then on there is an API to write through.
    pub async fn run(self, client: kube::Client) {
        let mut first = self.first();
        loop {
            if let Err(error) = self.follow(&client, &mut first).await {
                tracing::debug!(error = format!("{error:#}"), "following the token of nodes; trying again");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// What a Secret that was never there begins with: what was given, or what the file says, since the Secret may be missing
    /// after a snapshot was put back.
    fn first(&self) -> Option<String> {
        self.given.clone().or_else(|| self.kept())
    }

    fn kept(&self) -> Option<String> {
        let text = files::read_if_there(&self.data_dir.join(FILE)).ok().flatten()?;
        Token::parse(&text).ok().map(|token| token.password)
    }

    /// `first` is for a Secret that was never there; one that was deleted is made anew with another.
    async fn follow(&self, client: &kube::Client, first: &mut Option<String>) -> anyhow::Result<()> {
        let mut watch = self.backend.watch(Range::key(KEY), WatchFrom::Now).await?;
        loop {
            match self.backend.get(KEY.as_bytes(), None).await? {
                Some(entry) => {
                    let password = password(&entry.value);
                    self.tell_of_another(password.as_deref());
                    self.accept(password)?;
                    *first = None;
                }
                None => self.make(client, first.clone()).await?,
            }
            watch.next().await.context("the watch ended")??;
        }
    }

    fn tell_of_another(&self, now: Option<&str>) {
        if self.given.as_deref().is_some_and(|given| now.is_some_and(|now| given != now)) {
            tracing::warn!(
                "--agent-token is not the cluster's, which counts: `eyot token rotate --agent` replaces that"
            );
        }
    }

    async fn make(&self, client: &kube::Client, password: Option<String>) -> anyhow::Result<()> {
        let password = password.map_or_else(random_password, Ok)?;
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": NAME, "namespace": NAMESPACE}, "type": TYPE, "data": {FIELD: STANDARD.encode(password)},
        }))?;
        match secrets(client).create(&PostParams::default(), &secret).await {
            // Another server of this store was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            made => Ok(made.map(drop)?),
        }
    }

    /// From now on this one holds, and the server's.
    fn accept(&self, password: Option<String>) -> anyhow::Result<()> {
        let server = [(self.server.password.clone(), join_user())];
        let nodes = password.clone().map(|password| (password, node_join_user()));
        self.tokens.set(nodes.into_iter().chain(server));
        let Some(password) = password else {
            tracing::warn!("the Secret {NAMESPACE}/{NAME} holds no token: nodes join by the server's alone");
            self.current.store(None);
            return Ok(());
        };
        let text = render(&password, &self.root_pem) + "\n";
        self.current.store(Some(Arc::new(password)));
        let path = self.data_dir.join(FILE);
        if files::read_if_there(&path)?.as_ref() != Some(&text) {
            files::write(&path, text.as_bytes(), 0o600)?;
        }
        Ok(())
    }
}

fn secrets(client: &kube::Client) -> Api<Secret> {
    Api::namespaced(client.clone(), NAMESPACE)
}

fn render(password: &str, root_pem: &str) -> String {
    Token { ca_hash: None, user: NODE.into(), password: password.into() }.render(root_pem)
}

/// The password in a stored Secret; none: there is none that could be used.
fn password(secret: &[u8]) -> Option<String> {
    let secret: Value = serde_json::from_slice(secret).ok()?;
    let password = String::from_utf8(STANDARD.decode(secret["data"][FIELD].as_str()?).ok()?).ok()?;
    check(&password).is_ok().then_some(password)
}

/// Whether a password can be one.
///
/// # Errors
/// What is wrong with it.
fn check(password: &str) -> Result<(), Status> {
    let well = (1..=PASSWORD_BYTES).contains(&password.len()) && password.bytes().all(|byte| byte.is_ascii_graphic());
    let wrong = || Status::bad_request(format!("a token is 1 to {PASSWORD_BYTES} characters of ASCII without spaces"));
    well.then_some(()).ok_or_else(wrong)
}

/// What `--agent-token` says, if it can be that.
///
/// # Errors
/// It can't.
pub fn given(text: Option<&str>, server: &Token) -> anyhow::Result<Option<String>> {
    let Some(text) = text else { return Ok(None) };
    let password = Token::parse(text).context("--agent-token")?.password;
    check(&password).map_err(|status| anyhow::anyhow!("--agent-token: {}", status.message))?;
    let same = password == server.password;
    anyhow::ensure!(!same, "--agent-token is the server's token, which admits servers: give another, or none");
    Ok(Some(password))
}

/// Replaces the cluster's token of nodes, by a new one unless one is given; the whole of it.
///
/// # Errors
/// The API does not answer, or refuses.
pub async fn rotate(place: &Place, new: Option<&str>) -> anyhow::Result<String> {
    let server = Token::parse(&files::read(&place.data_dir.join("server/token"))?)?;
    let password = given(new, &server)?.map_or_else(random_password, Ok)?;
    let root_pem = files::read(&place.data_dir.join("server/tls/root-ca.crt"))?;
    let client = status::client(place).await.map_err(anyhow::Error::msg)?;
    let patch = Patch::Merge(json!({"data": {FIELD: STANDARD.encode(&password)}}));
    let patched = secrets(&client).patch(NAME, &PatchParams::default(), &patch).await;
    patched.with_context(|| format!("writing the Secret {NAMESPACE}/{NAME}"))?;
    Ok(render(&password, &root_pem))
}

/// The token of nodes as this server has it.
///
/// # Errors
/// It has none.
pub fn show(data_dir: &Path) -> Result<String, token::Error> {
    Ok(files::read(&data_dir.join(FILE))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(password: &[u8]) -> Vec<u8> {
        json!({"type": TYPE, "data": {FIELD: STANDARD.encode(password)}}).to_string().into_bytes()
    }

    #[test]
    fn a_password_is_read_and_what_is_none_is_not() {
        assert_eq!(password(&secret(b"hunter2")).as_deref(), Some("hunter2"));
        for wrong in [&b""[..], b"two words", b"line\n", &[0xff], &[b'a'; PASSWORD_BYTES + 1]] {
            assert_eq!(password(&secret(wrong)), None, "{wrong:?}");
        }
        assert_eq!(password(b"k8s\0"), None);
        assert_eq!(password(b"{}"), None);
    }

    #[test]
    fn a_given_token_is_another_than_the_servers() {
        let server = Token { ca_hash: None, user: "server".into(), password: "one".into() };
        assert_eq!(given(None, &server).unwrap(), None);
        assert_eq!(given(Some("two\n"), &server).unwrap().as_deref(), Some("two"));
        assert_eq!(given(Some(&render("three", "PEM")), &server).unwrap().as_deref(), Some("three"));
        assert!(given(Some("one"), &server).unwrap_err().to_string().contains("server's token"));
        assert!(given(Some("t wo"), &server).is_err());
        assert!(given(Some("K10x"), &server).is_err());
    }

    async fn service(dir: &Path, given: Option<&str>) -> (Arc<store::Store>, Service) {
        let registry = apiserver::registry::Registry::builtin(::api::schema::Schemas::builtin());
        let summarize = apiserver::registry::summarize::Summarizer::new(Arc::new(registry));
        let (dir, keep) = (dir.to_owned(), store::KEEP);
        let options = store::Options { dir: dir.join("store"), server: 1, summarize: Arc::new(summarize), keep };
        let store = tokio::task::spawn_blocking(move || store::Store::open(options)).await.unwrap().unwrap();
        files::private_dir(&dir.join("server")).unwrap();
        let service = Service {
            backend: store.clone(),
            tokens: Tokens::default(),
            current: Current::default(),
            server: Token { ca_hash: None, user: "server".into(), password: "one".into() },
            root_pem: "PEM".into(),
            data_dir: dir,
            given: given.map(Into::into),
        };
        (store, service)
    }

    #[tokio::test]
    async fn what_holds_at_start_is_the_secrets_then_what_was_given_then_the_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (store, mut service) = service(dir.path(), None).await;
        let now = |service: &Service| service.current.load().as_deref().cloned();
        service.load().await.unwrap();
        assert_eq!(now(&service), None, "there is none yet");
        service.given = Some("two".into());
        service.load().await.unwrap();
        assert_eq!(now(&service).as_deref(), Some("two"));
        assert_eq!(show(dir.path()).unwrap().trim(), render("two", "PEM"));
        let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        service.given = None;
        service.load().await.unwrap();
        assert_eq!(now(&service).as_deref(), Some("two"), "the file's");
        let put = store::Op::Put { key: KEY.into(), value: secret(b"three").into(), lease: None };
        store.txn(store::Txn { then: vec![put], ..store::Txn::default() }).await.unwrap();
        service.given = Some("two".into());
        service.load().await.unwrap();
        assert_eq!(now(&service).as_deref(), Some("three"), "the cluster's counts");
        assert_eq!(show(dir.path()).unwrap().trim(), render("three", "PEM"));
        store.close().await.unwrap();
    }

    #[test]
    fn the_token_says_that_it_is_for_nodes() {
        assert!(Token::parse(&render("x", "PEM")).unwrap().is_for_nodes());
    }
}
