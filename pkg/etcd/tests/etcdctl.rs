//! A session of etcd's own command, Debian's `etcdctl` (package etcd-client), on this endpoint.
use api::summary::{Summarize, Summary};
use eyot_etcd::{Identity, Limits, Options, Service};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio_util::sync::CancellationToken;

struct Nothing;

impl Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> Summary {
        Summary::default()
    }
}

/// A running endpoint and the command on it; both end with the test.
struct Session {
    endpoint: String,
    shutdown: CancellationToken,
    _runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Session {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let options = store::Options {
            dir: dir.path().join("store"),
            server: 1,
            summarize: Arc::new(Nothing),
            keep: Duration::from_secs(300),
        };
        let backend = Store::open(options).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let identity = Identity {
            cluster_id: 7,
            member_id: 8,
            name: "test".into(),
            client_urls: vec![format!("http://{endpoint}")],
        };
        let shutdown = CancellationToken::new();
        let _inside = runtime.enter();
        let service = Service::new(Options { backend, listener, tls: None, identity, limits: Limits::default() });
        runtime.spawn(service.unwrap().run(shutdown.clone()));
        drop(_inside);
        Self { endpoint, shutdown, _runtime: runtime, dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint, "--command-timeout=60s"]).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("etcdctl is installed (Debian's package etcd-client)")
    }

    /// What it prints; it must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
        text
    }

    /// What it complains; it must fail.
    fn refused(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert!(!done.status.success(), "{arguments:?} should be refused");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }

    fn txn(&self, text: &str) -> String {
        let mut child = self.command(&["txn"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success());
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn watch(&self, arguments: &[&str]) -> Watching {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Watching { child, lines }
    }
}

struct Watching {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Watching {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys() {
    let etcd = Session::start();
    for key in ["/a/1", "/a/2", "/a/3", "/b"] {
        assert_eq!(etcd.ok(&["put", key, "x"]), "OK\n");
    }
    assert_eq!(etcd.ok(&["put", "--prev-kv", "/a/2", "y"]), "OK\n/a/2\nx\n");
    assert_eq!(etcd.ok(&["get", "--prefix", "--keys-only", "/a/"]), "/a/1\n\n/a/2\n\n/a/3\n\n");
    assert_eq!(
        etcd.ok(&["get", "--print-value-only", "--prefix", "--sort-by=MODIFY", "--order=DESCEND", "--limit=1", "/a"]),
        "y\n"
    );
    assert_eq!(etcd.ok(&["get", "--from-key", "--print-value-only", "/b"]), "x\n");
    assert_eq!(etcd.ok(&["get", "/a/1", "/a/3", "--keys-only"]), "/a/1\n\n/a/2\n\n");
    assert!(etcd.ok(&["get", "/a/2", "-w", "json"]).contains("\"version\":2"));
    assert_eq!(etcd.ok(&["put", "--ignore-value", "/a/2"]), "OK\n");
    assert_eq!(etcd.ok(&["get", "--print-value-only", "/a/2"]), "y\n");
    assert!(etcd.refused(&["put", "--ignore-value", "/none"]).contains("etcdserver: key not found"));
    assert_eq!(etcd.ok(&["del", "--prefix", "--prev-kv", "/a/"]).lines().next(), Some("3"));
    assert_eq!(etcd.ok(&["get", "/a/1"]), "");
}

#[test]
fn transactions() {
    let etcd = Session::start();
    etcd.ok(&["put", "/a", "1"]);
    let swap = "value(\"/a\") = \"1\"\nversion(\"/a\") > \"0\"\n\nput /a 2\nget /a\n\nget /a\n\n";
    let done = etcd.txn(swap);
    assert!(done.starts_with("SUCCESS") && done.ends_with("/a\n2\n"), "{done}");
    let done = etcd.txn(swap);
    assert!(done.starts_with("FAILURE") && done.ends_with("/a\n2\n"), "{done}");
}

#[test]
fn watches_and_history() {
    let etcd = Session::start();
    etcd.ok(&["put", "/w", "1"]);
    etcd.ok(&["put", "/w", "2"]);
    let mut watching = etcd.watch(&["watch", "--rev=1", "--prev-kv", "--prefix", "/w"]);
    let lines: Vec<_> = (0..8).map(|_| watching.line()).collect();
    assert_eq!(lines, ["PUT", "/w", "1", "PUT", "/w", "1", "/w", "2"].map(str::to_owned).as_slice()[..8].to_vec());
    etcd.ok(&["del", "/w"]);
    assert_eq!((0..4).map(|_| watching.line()).collect::<Vec<_>>(), ["DELETE", "/w", "2", "/w"]);
    let json = etcd.ok(&["get", "/w", "-w", "json"]);
    let revision: String =
        json.split("\"revision\":").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    etcd.ok(&["put", "/w", "3"]);
    assert!(etcd.ok(&["compaction", "--physical", &revision]).starts_with("compacted revision"));
    assert!(etcd.refused(&["compaction", &revision]).contains("required revision has been compacted"));
    assert!(etcd.refused(&["get", "--rev=1", "/w"]).contains("required revision has been compacted"));
    assert!(etcd.refused(&["watch", "--rev=1", "/w"]).contains("required revision has been compacted"));
}

#[test]
fn leases_locks_and_elections() {
    let etcd = Session::start();
    let granted = etcd.ok(&["lease", "grant", "600"]);
    let id = granted.split(' ').nth(1).unwrap();
    etcd.ok(&["put", "--lease", id, "/l", "x"]);
    assert!(etcd.ok(&["lease", "list"]).contains(id));
    assert!(etcd.ok(&["lease", "timetolive", "--keys", id]).contains("attached keys([/l])"));
    assert!(etcd.ok(&["lease", "keep-alive", "--once", id]).contains("keepalived with TTL(600)"));
    assert!(etcd.ok(&["lease", "revoke", id]).contains("revoked"));
    assert_eq!(etcd.ok(&["get", "/l"]), "");
    assert!(etcd.ok(&["lease", "timetolive", id]).contains("already expired"));
    assert_eq!(etcd.ok(&["lock", "mutex", "echo", "held"]), "held\n");
    let mut leader = etcd.watch(&["elect", "office", "me"]);
    assert!(leader.line().starts_with("office/"));
    assert_eq!(leader.line(), "me");
    let mut observer = etcd.watch(&["elect", "--listen", "office"]);
    assert!(observer.line().starts_with("office/"));
}

#[test]
fn what_administrators_ask() {
    let etcd = Session::start();
    etcd.ok(&["put", "/a", "1"]);
    assert!(etcd.ok(&["endpoint", "status"]).contains("3.6."));
    etcd.ok(&["endpoint", "health"]);
    etcd.ok(&["endpoint", "hashkv"]);
    assert!(etcd.ok(&["member", "list"]).contains("started, test"));
    etcd.ok(&["defrag"]);
    assert_eq!(etcd.ok(&["alarm", "list"]) + &etcd.ok(&["alarm", "disarm"]), "");
    for refused in [
        &["user", "list"][..],
        &["role", "list"],
        &["auth", "enable"],
        &["member", "add", "x", "--peer-urls=http://127.0.0.1:1"],
    ] {
        assert!(etcd.refused(refused).contains("eyot: "), "{refused:?}");
    }
}

/// etcd's tool checks the digest and reads the tree; a member can be restored from it.
#[test]
fn snapshots_are_etcd_s() {
    let etcd = Session::start();
    for n in 0..300 {
        let store = format!("/s/{n}");
        etcd.ok(&["put", &store, &"x".repeat(n)]);
    }
    let (file, restored) = (etcd.dir.path().join("snapshot.db"), etcd.dir.path().join("restored"));
    let (file, restored) = (file.to_str().unwrap(), restored.to_str().unwrap());
    etcd.ok(&["snapshot", "save", file]);
    let status = etcd.ok(&["snapshot", "status", file, "-w", "json"]);
    assert!(status.contains("\"totalKey\":30"), "{status}");
    etcd.ok(&["snapshot", "restore", file, "--data-dir", restored]);
}
