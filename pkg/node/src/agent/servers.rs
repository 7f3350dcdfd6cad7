//! The servers that a node knows: which are near, which do not answer, and in what order they are tried. [`Book`] is
//! pure; [`Servers`] shares one among all that dial, and keeps the list on disk for a start with no server in reach.
use crate::files;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Servers that a node keeps, the nearest.
const KEPT: usize = 64;
/// A server that did not answer is left alone for this long, twice as long each time, up to the second figure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Of two servers at equal places, the nearer one is worth moving to when it saves at least this.
const WORTH: Duration = Duration::from_millis(10);

/// A server as nodes are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// None: the address that the node was given, whose server is not known by name.
    pub name: Option<String>,
    pub site: Option<String>,
    /// `HOST:PORT`.
    pub address: String,
}

#[derive(Clone, Debug)]
struct Entry {
    server: Server,
    /// How long connecting took when it was last measured.
    distance: Option<Duration>,
    failures: u32,
    again_at: Option<Instant>,
}

impl Entry {
    fn new(server: Server) -> Self {
        Self { server, distance: None, failures: 0, again_at: None }
    }
}

/// What is known of the servers.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Where this node stands.
    site: Option<String>,
    entries: Vec<Entry>,
}

impl Book {
    pub fn new(site: Option<String>, servers: Vec<Server>) -> Self {
        Self { site, entries: servers.into_iter().map(Entry::new).collect() }
    }

    /// Takes the cluster's present servers. What was measured stays, and so does the address that the node was given:
    /// it may lead to servers that can't be reached as they know themselves. Returns whether anything is new.
    pub fn learn(&mut self, servers: Vec<Server>) -> bool {
        if servers.is_empty() {
            return false;
        }
        let given = self.entries.iter().map(|entry| &entry.server).find(|server| server.name.is_none()).cloned();
        let given = given.filter(|given| servers.iter().all(|server| server.address != given.address));
        let old = std::mem::take(&mut self.entries);
        let known = |server: &Server| old.iter().find(|entry| entry.server.address == server.address);
        let mut entries: Vec<Entry> = servers
            .into_iter()
            .map(|server| Entry { server: server.clone(), ..known(&server).cloned().unwrap_or(Entry::new(server)) })
            .collect();
        entries.sort_by_key(|entry| self.rank(entry));
        entries.truncate(KEPT - 1);
        entries.extend(given.map(|given| known(&given).cloned().unwrap_or(Entry::new(given))));
        let all = |entries: &[Entry]| entries.iter().map(|entry| entry.server.clone()).collect::<Vec<_>>();
        let (mut before, mut after) = (all(&old), all(&entries));
        before.sort_by(|a, b| a.address.cmp(&b.address));
        after.sort_by(|a, b| a.address.cmp(&b.address));
        self.entries = entries;
        before != after
    }

    /// Own site first, then the nearest; those never measured after those that were, and the given address last.
    fn rank(&self, entry: &Entry) -> (bool, bool, Duration, String) {
        let near = self.site.is_some() && entry.server.site == self.site;
        let distance = entry.distance.unwrap_or(Duration::MAX);
        (entry.server.name.is_none(), !near, distance, entry.server.address.clone())
    }

    /// All servers, the best first.
    pub fn all(&self) -> Vec<Server> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by_key(|entry| self.rank(entry));
        entries.into_iter().map(|entry| entry.server.clone()).collect()
    }

    /// Addresses to try now, the best first: those that failed lately are left alone for a while.
    pub fn order(&self, now: Instant) -> Vec<String> {
        let mut entries: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.again_at.is_none_or(|at| at <= now)).collect();
        // Who failed before is tried after who did not, however near.
        entries.sort_by_key(|entry| (entry.failures > 0, self.rank(entry)));
        entries.into_iter().map(|entry| entry.server.address.clone()).collect()
    }

    /// It answered, after so long.
    pub fn answered(&mut self, address: &str, took: Duration) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.server.address == address) else { return };
        (entry.distance, entry.failures, entry.again_at) = (Some(took), 0, None);
    }

    /// It did not answer.
    pub fn failed(&mut self, address: &str, now: Instant) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.server.address == address) else { return };
        let pause = PAUSE.0.saturating_mul(1 << entry.failures.min(8)).min(PAUSE.1);
        entry.failures = entry.failures.saturating_add(1);
        entry.again_at = Some(now + pause);
    }

    /// Whether there is one that is worth moving to from `address`.
    pub fn has_better(&self, address: &str) -> bool {
        let well = |entry: &&Entry| entry.failures == 0 && entry.distance.is_some();
        let Some(best) = self.entries.iter().filter(well).min_by_key(|entry| self.rank(entry)) else { return false };
        let Some(present) = self.entries.iter().find(|entry| entry.server.address == address) else { return true };
        let near = |entry: &Entry| Reverse(self.site.is_some() && entry.server.site == self.site);
        match near(best).cmp(&near(present)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => {
                let (best, present) = (best.distance.unwrap_or_default(), present.distance.unwrap_or(Duration::MAX));
                best < present / 2 && present.saturating_sub(best) >= WORTH
            }
        }
    }
}

/// What lies on disk.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    servers: Vec<Server>,
}

/// One book for all that dial.
pub struct Servers {
    book: Mutex<Book>,
    /// The one that is spoken to: all who dial keep to it, so that what one of them reads is what another writes to.
    present: Mutex<Option<String>>,
    path: PathBuf,
    changed: Notify,
}

impl Servers {
    /// What is kept, and the address that was given.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(path: PathBuf, site: Option<String>, given: Option<&str>) -> anyhow::Result<Self> {
        let mut servers = kept(&path)?;
        if let Some(given) = given {
            servers.retain(|server| server.name.is_some());
            if servers.iter().all(|server| server.address != given) {
                servers.push(Server { name: None, site: None, address: given.to_owned() });
            }
        }
        let book = Mutex::new(Book::new(site, servers));
        Ok(Self { book, present: Mutex::default(), path, changed: Notify::new() })
    }

    /// Takes the cluster's present servers, and keeps them.
    pub fn learn(&self, servers: Vec<Server>) {
        let all = {
            let mut book = self.book.lock();
            if !book.learn(servers) {
                return;
            }
            book.all()
        };
        tracing::info!(servers = all.iter().map(|server| &*server.address).collect::<Vec<_>>().join(" "), "servers");
        let text = serde_json::to_string_pretty(&Kept { servers: all }).unwrap_or_default();
        if let Err(error) = files::write(&self.path, text.as_bytes(), 0o600) {
            tracing::warn!(%error, "the list of servers is not kept");
        }
        self.changed.notify_one();
    }

    /// Returns when the list has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn all(&self) -> Vec<Server> {
        self.book.lock().all()
    }

    /// Addresses to try now, the present one first.
    pub fn order(&self) -> Vec<String> {
        let mut order = self.book.lock().order(Instant::now());
        if let Some(at) = self.present.lock().as_ref().and_then(|present| order.iter().position(|a| a == present)) {
            order[..=at].rotate_right(1);
        }
        order
    }

    /// From now on this one is spoken to.
    pub fn keep_to(&self, address: &str) {
        *self.present.lock() = Some(address.to_owned());
    }

    /// The best one may be another from now on.
    pub fn leave_present(&self) {
        *self.present.lock() = None;
    }

    pub fn answered(&self, address: &str, took: Duration) {
        self.book.lock().answered(address, took);
    }

    pub fn failed(&self, address: &str) {
        self.book.lock().failed(address, Instant::now());
    }

    pub fn has_better(&self, address: &str) -> bool {
        self.book.lock().has_better(address)
    }
}

/// The servers on disk.
///
/// # Errors
/// The file can't be read.
pub fn kept(path: &Path) -> anyhow::Result<Vec<Server>> {
    let Some(text) = files::read_if_there(path)? else { return Ok(Vec::new()) };
    // A list that can't be read is learned again.
    Ok(serde_json::from_str::<Kept>(&text).unwrap_or_default().servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, site: &str) -> Server {
        Server { name: Some(name.into()), site: Some(site.into()), address: format!("{name}:6443") }
    }

    fn given() -> Server {
        Server { name: None, site: None, address: "vip:6443".into() }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_own_site_goes_before_the_nearest_and_the_given_address_last() {
        let mut book = Book::new(Some("north".into()), vec![given(), server("c", "south"), server("a", "north")]);
        book.answered("c:6443", ms(1));
        book.answered("a:6443", ms(30));
        book.answered("vip:6443", ms(1));
        assert_eq!(book.order(Instant::now()), ["a:6443", "c:6443", "vip:6443"]);
    }

    #[test]
    fn who_fails_is_left_alone_for_a_while_and_then_tried_last() {
        let now = Instant::now();
        let mut book = Book::new(None, vec![server("a", "x"), server("b", "x")]);
        book.failed("a:6443", now);
        assert_eq!(book.order(now), ["b:6443"]);
        assert_eq!(book.order(now + PAUSE.0), ["b:6443", "a:6443"]);
        for _ in 0..20 {
            book.failed("a:6443", now);
        }
        assert_eq!(book.order(now + PAUSE.1).len(), 2, "never longer than that");
        book.answered("a:6443", ms(1));
        assert_eq!(book.order(now), ["a:6443", "b:6443"]);
    }

    #[test]
    fn what_is_learned_keeps_measures_and_the_given_address() {
        let mut book = Book::new(None, vec![given()]);
        assert!(book.learn(vec![server("a", "x"), server("b", "x")]));
        book.answered("b:6443", ms(2));
        assert!(!book.learn(vec![server("b", "x"), server("a", "x")]), "the order is no news");
        assert!(!book.learn(Vec::new()), "no server knows of no server");
        assert!(book.learn(vec![server("b", "x"), server("c", "x")]));
        assert_eq!(book.order(Instant::now()), ["b:6443", "c:6443", "vip:6443"]);
        let named = Server { name: Some("v".into()), ..given() };
        assert!(book.learn(vec![named.clone()]));
        assert_eq!(book.all(), [named], "the given address is a server's own");
    }

    #[test]
    fn the_list_is_bounded() {
        let mut book = Book::new(None, vec![given()]);
        book.learn((0..500).map(|n| server(&format!("s{n}"), "x")).collect());
        assert_eq!(book.all().len(), KEPT);
        assert!(book.all().contains(&given()));
    }

    #[test]
    fn moving_is_worth_it_for_the_own_site_or_much_less_distance() {
        let mut book = Book::new(Some("n".into()), vec![server("a", "n"), server("b", "s"), server("c", "s")]);
        book.answered("b:6443", ms(40));
        book.answered("c:6443", ms(32));
        assert!(!book.has_better("b:6443"), "not that much nearer");
        book.answered("c:6443", ms(5));
        assert!(book.has_better("b:6443") && !book.has_better("c:6443"));
        assert!(book.has_better("gone:6443"));
        book.answered("a:6443", ms(90));
        assert!(book.has_better("c:6443") && !book.has_better("a:6443"));
        book.failed("a:6443", Instant::now());
        assert!(!book.has_better("c:6443"));
    }

    #[test]
    fn all_keep_to_one_server() {
        let dir = tempfile::tempdir().unwrap();
        let servers = Servers::open(dir.path().join("servers.json"), None, None).unwrap();
        servers.learn(vec![server("a", "x"), server("b", "x"), server("c", "x")]);
        servers.answered("a:6443", ms(1));
        servers.keep_to("c:6443");
        assert_eq!(servers.order(), ["c:6443", "a:6443", "b:6443"]);
        servers.failed("c:6443");
        assert_eq!(servers.order(), ["a:6443", "b:6443"]);
        servers.keep_to("a:6443");
        servers.leave_present();
        assert_eq!(servers.order(), ["a:6443", "b:6443"]);
    }

    #[test]
    fn the_list_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("servers.json");
        let servers = Servers::open(path.clone(), None, Some("vip:6443")).unwrap();
        servers.learn(vec![server("a", "x")]);
        assert_eq!(Servers::open(path.clone(), None, None).unwrap().order(), ["a:6443", "vip:6443"]);
        assert_eq!(Servers::open(path, None, Some("other:6443")).unwrap().order(), ["a:6443", "other:6443"]);
    }
}
