//! The promises of `Backend`, kept by an etcd behind its API: ours always, and a real one where there is one
//! (`UPSTREAM_BIN`, /var/cache/eyot-upstream/bin or the path).
use api::summary::{Summarize, Summary};
use eyot_etcd::remote::{self, Remote};
use eyot_etcd::{Identity, Limits, Options, Service};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use store::{
    Backend, Compare, Error, Field, Op, OpResult, Range, Relation, Revision, Store, Txn, Watch, WatchFrom, WatchItem,
};
use tokio_util::sync::CancellationToken;

struct Nothing;

impl Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> Summary {
        Summary::default()
    }
}

/// An etcd to test on; it ends with the test.
enum Etcd {
    Ours { store: Arc<Store>, shutdown: CancellationToken, _dir: tempfile::TempDir },
    Real { child: Child, command: PathBuf, ports: [u16; 2], dir: tempfile::TempDir },
}

impl Drop for Etcd {
    fn drop(&mut self) {
        match self {
            Self::Ours { shutdown, .. } => shutdown.cancel(),
            Self::Real { child, .. } => end(child),
        }
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn program() -> Option<PathBuf> {
    let given = std::env::var_os("UPSTREAM_BIN").map(PathBuf::from);
    let kept = [given, Some("/var/cache/eyot-upstream/bin".into())].into_iter().flatten();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = kept.chain(std::env::split_paths(&path)).map(|dir| dir.join("etcd")).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped on a real etcd: there is none (Debian: etcd-server)");
    }
    found
}

fn spawn(command: &PathBuf, [client, peer]: [u16; 2], dir: &std::path::Path) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let arguments = [
        ("--listen-client-urls", client.as_str()),
        ("--advertise-client-urls", &client),
        ("--listen-peer-urls", &peer),
        ("--initial-advertise-peer-urls", &peer),
        ("--initial-cluster", &format!("default={peer}")),
    ];
    let mut command = Command::new(command);
    command.arg("--data-dir").arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    for (flag, value) in arguments {
        command.arg(flag).arg(value);
    }
    command.spawn().unwrap()
}

impl Etcd {
    async fn ours() -> (Self, u16) {
        let dir = tempfile::tempdir().unwrap();
        let options = store::Options {
            dir: dir.path().into(),
            server: 1,
            summarize: Arc::new(Nothing),
            keep: Duration::from_secs(300),
        };
        let store = Store::open(options).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let identity = Identity { cluster_id: 7, member_id: 8, name: "test".into(), client_urls: Vec::new() };
        let options = Options { backend: store.clone(), listener, tls: None, identity, limits: Limits::default() };
        let shutdown = CancellationToken::new();
        tokio::spawn(Service::new(options).unwrap().run(shutdown.clone()));
        (Self::Ours { store, shutdown, _dir: dir }, port)
    }

    fn real(command: PathBuf) -> (Self, u16) {
        let (dir, ports) = (tempfile::tempdir().unwrap(), [free_port(), free_port()]);
        let child = spawn(&command, ports, dir.path());
        (Self::Real { child, command, ports, dir }, ports[0])
    }

    fn restart(&mut self) {
        let Self::Real { child, command, ports, dir } = self else { panic!("a real one is restarted") };
        end(child);
        *child = spawn(command, *ports, dir.path());
    }
}

/// A client of members on these ports of this machine; it waits for the first.
async fn connect(ports: &[u16]) -> Remote {
    let members: Vec<remote::Address> =
        ports.iter().map(|port| format!("http://127.0.0.1:{port}").parse().unwrap()).collect();
    for _ in 0..20 {
        let shutdown = CancellationToken::new();
        let options = remote::Options { members: members.clone(), tls: None, summarize: Arc::new(Nothing), shutdown };
        if let Ok(remote) = Remote::connect(options).await {
            return remote;
        }
    }
    panic!("no etcd answers on {ports:?}");
}

/// Runs a test on every etcd there is, which is empty.
async fn on_each(test: impl AsyncFn(Remote)) {
    let (etcd, port) = Etcd::ours().await;
    test(connect(&[port]).await).await;
    if let Etcd::Ours { store, .. } = &etcd {
        store.close().await.unwrap();
    }
    if let Some(command) = program() {
        let (_etcd, port) = Etcd::real(command);
        test(connect(&[port]).await).await;
    }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease: None }
}

async fn write(store: &Remote, op: Op) -> Revision {
    store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap().revision
}

async fn item(watch: &mut dyn Watch) -> WatchItem {
    let next = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("something is on its way");
    next.unwrap().unwrap()
}

/// Key, revision and value (none: deleted) of the next changes.
async fn changes(watch: &mut dyn Watch, count: usize) -> Vec<(String, Revision, Option<String>)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut seen = Vec::new();
    while seen.len() < count {
        if let WatchItem::Changes(changes) = item(watch).await {
            let value = |change: &store::Change| change.entry.as_ref().map(|entry| text(&entry.value));
            seen.extend(changes.iter().map(|change| (text(&change.key), change.revision, value(change))));
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_read_back_now_and_then() {
    on_each(async |store| {
        let first = write(&store, put("/a", "1")).await;
        let second = write(&store, put("/a", "2")).await;
        assert!(first < second && store.current_revision() >= second);
        assert_eq!(store.get(b"/a", Some(first)).await.unwrap().unwrap().value, "1");
        let entry = store.get(b"/a", None).await.unwrap().unwrap();
        assert_eq!((&entry.value[..], entry.create_revision, entry.mod_revision), (&b"2"[..], first, second));
        assert_eq!(entry.version, 2);
        assert!(store.get(b"/none", None).await.unwrap().is_none());
        let future = Revision::from_u64(second.get() + 1000);
        assert!(matches!(store.get(b"/a", Some(future)).await, Err(Error::Future { .. })));
        assert_eq!(store.latest().await.unwrap(), second);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compares_guard_writes_and_results_tell_what_was() {
    on_each(async |store| {
        let create = |value: &str| Txn {
            compare: vec![Compare::ModRevision { key: "/a".into(), revision: Revision::ZERO }],
            then: vec![put("/a", value)],
            otherwise: vec![Op::Get { key: "/a".into() }],
        };
        let won = store.txn(create("1")).await.unwrap();
        let [OpResult::Put { entry, previous: None }] = &won.results[..] else { panic!("{won:?}") };
        assert_eq!((entry.mod_revision, entry.create_revision, entry.version), (won.revision, won.revision, 1));
        let lost = store.txn(create("2")).await.unwrap();
        assert!(!lost.succeeded);
        assert!(matches!(&lost.results[0], OpResult::Get { entry: Some(entry) } if entry.value == "1"));
        let is = |field, is| Compare::Each { range: Range::key("/a"), field, is };
        let value = is(Field::Value("1".into()), Relation::Equal);
        let several = Txn {
            compare: vec![value, is(Field::Version(1), Relation::Less)],
            then: vec![put("/never", "x")],
            otherwise: vec![
                Op::Amend { key: "/a".into(), value: Some("2".into()), lease: None },
                put("/b/1", "x"),
                Op::List { range: Range::prefix("/b/"), limit: 1 },
                Op::Txn(Txn { then: vec![put("/b/2", "x")], ..Txn::default() }),
                Op::Delete { key: "/none".into() },
            ],
        };
        let done = store.txn(several).await.unwrap();
        assert!(!done.succeeded);
        let OpResult::Put { entry, previous: Some(previous) } = &done.results[0] else { panic!("{done:?}") };
        assert_eq!((&entry.value[..], &previous.value[..], entry.version), (&b"2"[..], &b"1"[..], 2));
        assert!(matches!(&done.results[2], OpResult::List(page) if page.count == 1 && !page.more));
        assert!(matches!(&done.results[3], OpResult::Txn { succeeded: true, results } if results.len() == 1));
        assert!(matches!(&done.results[4], OpResult::Delete { previous: None }));
        let gone = store.txn(Txn { then: vec![Op::DeleteRange { range: Range::prefix("/b/") }], ..Txn::default() });
        assert!(matches!(&gone.await.unwrap().results[0], OpResult::DeleteRange { previous } if previous.len() == 2));
        let twice = Txn { then: vec![put("/c", "1"), put("/c", "2")], ..Txn::default() };
        assert!(matches!(store.txn(twice).await, Err(Error::DuplicateKey { .. })));
        let large = Txn { then: vec![put("/large", &"x".repeat(4 << 20))], ..Txn::default() };
        assert!(matches!(store.txn(large).await, Err(Error::TooLarge { key, .. }) if key == "/large"));
        let many = Txn { then: (0..200).map(|n| put(&format!("/{n}"), "x")).collect(), ..Txn::default() };
        assert!(matches!(store.txn(many).await, Err(Error::TooManyOps { ops: 200, .. })));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_many_creates_wins() {
    on_each(async |store| {
        let tries = (0..50).map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let compare = vec![Compare::ModRevision { key: "/a".into(), revision: Revision::ZERO }];
                let txn = Txn { compare, then: vec![put("/a", &n.to_string())], otherwise: vec![] };
                store.txn(txn).await.unwrap().succeeded
            })
        });
        let won = futures::future::join_all(tries).await.into_iter().filter(|won| *won.as_ref().unwrap()).count();
        assert_eq!(won, 1);
    })
    .await;
}

/// More than a page of what etcd is asked at once.
#[tokio::test(flavor = "multi_thread")]
async fn lists_show_one_revision_and_count_past_the_limit() {
    on_each(async |store| {
        for batch in 0..12 {
            let then = (0..100).map(|n| put(&format!("/p/{batch:02}{n:02}"), "x")).collect();
            store.txn(Txn { then, ..Txn::default() }).await.unwrap();
        }
        write(&store, put("/q/0", "x")).await;
        let range = Range::prefix("/p/");
        let some = store.list(&range, None, 2).await.unwrap();
        assert_eq!((some.entries.len(), some.count, some.more), (2, 1200, true));
        let most = store.list(&range, None, 700).await.unwrap();
        assert_eq!((most.entries.len(), most.count, most.more), (700, 1200, true));
        write(&store, Op::Delete { key: "/p/0000".into() }).await;
        let now = store.list(&range, None, 0).await.unwrap();
        assert_eq!((now.entries.len(), now.count, now.more), (1199, 1199, false));
        assert!(now.entries.windows(2).all(|pair| pair[0].key < pair[1].key));
        let past = store.list(&range, Some(some.revision), 0).await.unwrap();
        assert_eq!((past.entries.len(), past.revision), (1200, some.revision));
        let all = Range { start: "".into(), end: "".into() };
        assert_eq!(store.list(&all, None, 0).await.unwrap().count, 1200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_everything_once_in_order_and_whole() {
    on_each(async |store| {
        let start = write(&store, put("/w/0", "0")).await;
        for n in 1..300 {
            write(&store, put(&format!("/w/{}", n % 7), &n.to_string())).await;
        }
        let mut past = store.watch(Range::prefix("/w/"), WatchFrom::After(start)).await.unwrap();
        let mut from = store.watch(Range::prefix("/w/"), WatchFrom::At(start)).await.unwrap();
        let mut now = store.watch(Range::prefix("/w/"), WatchFrom::Now).await.unwrap();
        let last = write(&store, Op::Delete { key: "/w/3".into() }).await;
        write(&store, put("/other", "x")).await;
        let seen = changes(&mut *past, 300).await;
        assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert_eq!(seen.last(), Some(&("/w/3".to_owned(), last, None)));
        assert_eq!(changes(&mut *from, 1).await[0], ("/w/0".into(), start, Some("0".into())));
        assert_eq!(changes(&mut *now, 1).await, [("/w/3".into(), last, None)]);
        past.request_progress();
        assert!(matches!(item(&mut *past).await, WatchItem::Progress(at) if at > last));
        let mut whole = store.watch(Range::prefix("/"), WatchFrom::Now).await.unwrap();
        store.txn(Txn { then: vec![put("/a", "1"), put("/w/1", "2")], ..Txn::default() }).await.unwrap();
        let WatchItem::Changes(both) = item(&mut *whole).await else { panic!("changes were expected") };
        assert_eq!(both.iter().map(|change| change.index).collect::<Vec<_>>(), [0, 1]);
        assert!(both[0].previous.is_none() && both[1].previous.is_some() && both[0].revision == both[1].revision);
        let future = Revision::from_u64(both[0].revision.get() + 1000);
        assert!(matches!(store.watch(Range::prefix("/"), WatchFrom::After(future)).await, Err(Error::Future { .. })));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_forgets_the_past_and_keeps_the_present() {
    on_each(async |store| {
        let old = write(&store, put("/a", "1")).await;
        write(&store, put("/gone", "1")).await;
        write(&store, Op::Delete { key: "/gone".into() }).await;
        let new = write(&store, put("/a", "2")).await;
        store.compact(new).await.unwrap();
        assert!(
            matches!(store.get(b"/a", Some(old)).await, Err(Error::Compacted { compacted, .. }) if compacted == new)
        );
        let watch = store.watch(Range::prefix("/"), WatchFrom::After(old)).await;
        assert!(matches!(watch, Err(Error::Compacted { .. })));
        assert_eq!(store.get(b"/a", Some(new)).await.unwrap().unwrap().value, "2");
        assert!(matches!(store.compact(new).await, Err(Error::Compacted { .. })));
        store.compacted(new).await.unwrap();
        assert!(store.size_bytes().await.unwrap() > 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_and_take_their_keys_along() {
    on_each(async |store| {
        let lease = store.lease_grant(None, Duration::from_secs(600)).await.unwrap();
        write(&store, Op::Put { key: "/l".into(), value: "x".into(), lease: Some(lease.id) }).await;
        write(&store, put("/stays", "x")).await;
        let found = store.lease(lease.id).await.unwrap();
        assert_eq!((found.keys, found.granted_ttl), (vec!["/l".into()], Duration::from_secs(600)));
        assert_eq!(store.get(b"/l", None).await.unwrap().unwrap().lease, Some(lease.id));
        assert!(store.lease_keep_alive(lease.id).await.unwrap().remaining > Duration::from_secs(590));
        assert_eq!(store.leases().await.unwrap(), [lease.id]);
        assert!(matches!(store.lease_grant(Some(lease.id), lease.granted_ttl).await, Err(Error::LeaseExists(_))));
        let mut watch = store.watch(Range::prefix("/"), WatchFrom::Now).await.unwrap();
        store.lease_revoke(lease.id).await.unwrap();
        assert_eq!(changes(&mut *watch, 1).await[0].0, "/l");
        assert!(matches!(store.lease(lease.id).await, Err(Error::LeaseNotFound(_))));
        assert!(matches!(store.lease_revoke(lease.id).await, Err(Error::LeaseNotFound(_))));
        let orphan = Op::Put { key: "/o".into(), value: "x".into(), lease: Some(lease.id) };
        let failed = store.txn(Txn { then: vec![orphan], ..Txn::default() }).await;
        assert!(matches!(failed, Err(Error::LeaseNotFound(id)) if id == lease.id));
    })
    .await;
}

/// An etcd that goes and comes back: reads wait for it, watches go on where they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_a_pause() {
    let Some(command) = program() else { return };
    let (mut etcd, port) = Etcd::real(command);
    // The first member is never there.
    let store = connect(&[free_port(), port]).await;
    let first = write(&store, put("/a", "1")).await;
    let mut watch = store.watch(Range::prefix("/"), WatchFrom::After(first)).await.unwrap();
    write(&store, put("/a", "2")).await;
    assert_eq!(changes(&mut *watch, 1).await[0].2.as_deref(), Some("2"));
    etcd.restart();
    let waiting = tokio::spawn(async move {
        let seen = changes(&mut *watch, 1).await;
        (watch, seen)
    });
    let mut tries = 0;
    let third = loop {
        // Of a write that was under way nobody knows: it is for the caller to look, and to try again.
        match store.txn(Txn { then: vec![put("/a", "3")], ..Txn::default() }).await {
            Ok(done) => break done.revision,
            Err(Error::Unavailable { .. }) if tries < 20 => tries += 1,
            Err(error) => panic!("{error}"),
        }
    };
    let (_watch, seen) = waiting.await.unwrap();
    assert_eq!(seen[0].2.as_deref(), Some("3"));
    assert!(seen[0].1 <= third);
    assert_eq!(store.get(b"/a", None).await.unwrap().unwrap().value, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_said_in_time() {
    let members = vec![format!("http://127.0.0.1:{}", free_port()).parse().unwrap()];
    let shutdown = CancellationToken::new();
    let options = remote::Options { members, tls: None, summarize: Arc::new(Nothing), shutdown };
    let failed = Remote::connect(options).await.err().expect("nobody listens");
    assert!(matches!(failed, Error::Unavailable { .. }), "{failed}");
}
