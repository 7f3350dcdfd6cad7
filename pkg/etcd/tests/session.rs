//! A client's session over a real connection and a real store: etcd's promises, call by call.
use api::summary::{Summarize, Summary};
use bytes::Bytes;
use eyot_etcd::proto::etcdserverpb as pb;
use eyot_etcd::{Identity, Limits, Options, Service};
use pb::compare::{CompareTarget, TargetUnion};
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::request_op::Request as Operation;
use pb::response_op::Response as Outcome;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use std::sync::Arc;
use std::time::Duration;
use store::{Backend, Store};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

struct Nothing;

impl Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> Summary {
        Summary::default()
    }
}

/// A running endpoint; it ends with the test.
struct Server {
    store: Arc<Store>,
    channel: Channel,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    async fn on(dir: tempfile::TempDir) -> Self {
        let options = store::Options {
            dir: dir.path().into(),
            server: 1,
            summarize: Arc::new(Nothing),
            keep: Duration::from_secs(300),
        };
        let store = Store::open(options).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let identity = Identity { cluster_id: 7, member_id: 8, name: "test".into(), client_urls: Vec::new() };
        let (backend, limits) = (store.clone(), Limits::default());
        let service = Service::new(Options { backend, listener, tls: None, identity, limits }).unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(service.run(shutdown.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { store, channel, shutdown, serving, dir }
    }

    async fn restart(self) -> Self {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.store.close().await.unwrap();
        drop((self.store, self.channel));
        Self::on(self.dir).await
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    async fn put(&self, key: &'static str, value: &'static str) -> i64 {
        let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.kv().put(request).await.unwrap().into_inner().header.unwrap().revision
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, tonic::Status> {
        self.kv().range(request).await.map(tonic::Response::into_inner)
    }

    async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, tonic::Status> {
        self.kv().txn(request).await.map(tonic::Response::into_inner)
    }

    async fn watch(&self) -> Watching {
        let (requests, mut rest) = mpsc::unbounded_channel();
        let outgoing = futures::stream::poll_fn(move |cx| rest.poll_recv(cx));
        let responses = WatchClient::new(self.channel.clone()).watch(outgoing).await.unwrap().into_inner();
        Watching { requests, responses }
    }
}

/// One stream of watches.
struct Watching {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watching {
    fn say(&self, request: RequestUnion) {
        self.requests.send(pb::WatchRequest { request_union: Some(request) }).unwrap();
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.say(RequestUnion::CreateRequest(request));
        self.next().await
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let next = tokio::time::timeout(Duration::from_secs(60), self.responses.message()).await;
        next.expect("an answer is on its way").unwrap().expect("the stream goes on")
    }
}

fn get(key: &'static str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.into(), ..Default::default() }
}

fn prefix(key: &'static str) -> pb::RangeRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    pb::RangeRequest { range_end: end.into(), ..get(key) }
}

fn op(operation: Operation) -> pb::RequestOp {
    pb::RequestOp { request: Some(operation) }
}

fn put_op(key: &'static str, value: &'static str) -> pb::RequestOp {
    op(Operation::RequestPut(pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() }))
}

fn mod_is(key: &'static str, revision: i64) -> pb::Compare {
    pb::Compare {
        target: CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

fn watch_prefix(key: &'static str, start_revision: i64) -> pb::WatchCreateRequest {
    let pb::RangeRequest { key, range_end, .. } = prefix(key);
    pb::WatchCreateRequest { key, range_end, start_revision, prev_kv: true, ..Default::default() }
}

#[tokio::test]
async fn keys_are_put_read_at_revisions_and_deleted() {
    let server = Server::start().await;
    let first = server.put("/a", "1").await;
    let second = server.put("/a", "2").await;
    server.put("/b", "x").await;
    let now = server.range(prefix("/")).await.unwrap();
    assert_eq!((now.count, now.kvs[0].version, &now.kvs[0].value[..]), (2, 2, &b"2"[..]));
    assert_eq!((now.kvs[0].create_revision, now.kvs[0].mod_revision), (first, second));
    let then = server.range(pb::RangeRequest { revision: first, ..get("/a") }).await.unwrap();
    assert_eq!(then.kvs[0].value, "1");
    assert!(then.header.unwrap().revision > second, "the header tells the current revision");
    let page = server.range(pb::RangeRequest { limit: 1, ..prefix("/") }).await.unwrap();
    assert_eq!((page.kvs.len(), page.count, page.more), (1, 2, true));
    let delete =
        pb::DeleteRangeRequest { key: Bytes::from_static(&[0]), range_end: Bytes::from_static(&[0]), prev_kv: true };
    let deleted = server.kv().delete_range(delete).await.unwrap().into_inner();
    assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (2, 2));
    assert_eq!(server.range(prefix("/")).await.unwrap().count, 0);
}

#[tokio::test]
async fn errors_have_etcd_s_codes_and_texts() {
    let server = Server::start().await;
    let current = server.put("/a", "1").await;
    let said = |status: tonic::Status| (status.code(), status.message().to_owned());
    let future = server.range(pb::RangeRequest { revision: current + 2, ..get("/a") }).await.unwrap_err();
    assert_eq!(said(future), (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".into()));
    let ancient = server.range(pb::RangeRequest { revision: 1, ..get("/a") }).await.unwrap_err();
    assert_eq!(said(ancient), (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted".into()));
    let empty = server.range(pb::RangeRequest::default()).await.unwrap_err();
    assert_eq!(said(empty), (Code::InvalidArgument, "etcdserver: key is not provided".into()));
    let lease = pb::PutRequest { key: "/a".into(), lease: 5, ..Default::default() };
    let lease = server.kv().put(lease).await.unwrap_err();
    assert_eq!(said(lease), (Code::NotFound, "etcdserver: requested lease not found".into()));
    let nothing = pb::PutRequest { key: "/none".into(), ignore_value: true, ..Default::default() };
    let nothing = server.kv().put(nothing).await.unwrap_err();
    assert_eq!(said(nothing), (Code::InvalidArgument, "etcdserver: key not found".into()));
    let large = pb::PutRequest { key: "/a".into(), value: vec![0; 1537 << 10].into(), ..Default::default() };
    let large = server.kv().put(large).await.unwrap_err();
    assert_eq!(said(large), (Code::InvalidArgument, "etcdserver: request is too large".into()));
    let many = pb::TxnRequest { success: vec![put_op("/a", "x"); 129], ..Default::default() };
    assert_eq!(server.txn(many).await.unwrap_err().message(), "etcdserver: too many operations in txn request");
    let twice = pb::TxnRequest { success: vec![put_op("/a", "x"); 2], ..Default::default() };
    assert_eq!(server.txn(twice).await.unwrap_err().message(), "etcdserver: duplicate key given in txn request");
}

/// The shapes that kube-apiserver uses: create, update and delete if unchanged, else read.
#[tokio::test]
async fn transactions_of_kube_apiserver() {
    let server = Server::start().await;
    let create = pb::TxnRequest { compare: vec![mod_is("/a", 0)], success: vec![put_op("/a", "1")], failure: vec![] };
    let born = server.txn(create.clone()).await.unwrap();
    assert!(born.succeeded);
    let again = server.txn(create).await.unwrap();
    assert!(!again.succeeded && again.responses.is_empty());
    let revision = born.header.unwrap().revision;
    let update = |revision| pb::TxnRequest {
        compare: vec![mod_is("/a", revision)],
        success: vec![put_op("/a", "2")],
        failure: vec![op(Operation::RequestRange(get("/a")))],
    };
    let updated = server.txn(update(revision)).await.unwrap();
    assert!(updated.succeeded && updated.header.unwrap().revision > revision);
    let lost = server.txn(update(revision)).await.unwrap();
    let Some(Outcome::ResponseRange(found)) = &lost.responses[0].response else { panic!("{lost:?}") };
    assert_eq!((lost.succeeded, &found.kvs[0].value[..]), (false, &b"2"[..]));
    let delete = pb::TxnRequest {
        compare: vec![mod_is("/a", updated.header.unwrap().revision)],
        success: vec![op(Operation::RequestDeleteRange(pb::DeleteRangeRequest {
            key: "/a".into(),
            ..Default::default()
        }))],
        failure: vec![],
    };
    let deleted = server.txn(delete).await.unwrap();
    assert!(matches!(&deleted.responses[0].response, Some(Outcome::ResponseDeleteRange(done)) if done.deleted == 1));
}

#[tokio::test]
async fn a_transaction_reads_the_past_beside_its_writes_and_nests() {
    let server = Server::start().await;
    let old = server.put("/a", "old").await;
    server.put("/a", "new").await;
    let past = op(Operation::RequestRange(pb::RangeRequest { revision: old, ..get("/a") }));
    let nested = pb::TxnRequest { success: vec![past.clone(), put_op("/c", "x")], ..Default::default() };
    let outer =
        vec![put_op("/b", "x"), past, op(Operation::RequestTxn(nested)), op(Operation::RequestRange(prefix("/")))];
    let done = server.txn(pb::TxnRequest { success: outer, ..Default::default() }).await.unwrap();
    let Some(Outcome::ResponseRange(read)) = &done.responses[1].response else { panic!("{done:?}") };
    assert_eq!(read.kvs[0].value, "old");
    let Some(Outcome::ResponseTxn(nested)) = &done.responses[2].response else { panic!("{done:?}") };
    assert!(nested.succeeded && nested.responses.len() == 2);
    let Some(Outcome::ResponseRange(all)) = &done.responses[3].response else { panic!("{done:?}") };
    assert_eq!(all.count, 3, "a range sees what the transaction wrote before it");
    assert!(all.kvs[1..].iter().all(|kv| kv.mod_revision == done.header.unwrap().revision));
}

#[tokio::test]
async fn a_streamed_range_is_the_range() {
    let server = Server::start().await;
    for key in ["/s/1", "/s/2", "/s/3"] {
        let request = pb::PutRequest { key: key.into(), value: vec![b'x'; 600 << 10].into(), ..Default::default() };
        server.kv().put(request).await.unwrap();
    }
    let mut pieces = server.kv().range_stream(prefix("/s/")).await.unwrap().into_inner();
    let (mut keys, mut last) = (0, pb::RangeResponse::default());
    while let Some(piece) = pieces.message().await.unwrap() {
        last = piece.range_response.unwrap();
        keys += last.kvs.len();
    }
    assert_eq!((keys, last.count, last.kvs.len()), (3, 3, 1));
    assert!(last.header.is_some());
}

#[tokio::test]
async fn a_range_larger_than_a_revision_is_deleted() {
    let server = Server::start().await;
    for chunk in 0..12 {
        let then =
            (0..100).map(|n| store::Op::Put { key: format!("/m/{chunk}/{n}").into(), value: "x".into(), lease: None });
        server.store.txn(store::Txn { then: then.collect(), ..Default::default() }).await.unwrap();
    }
    server.put("/n", "stays").await;
    let pb::RangeRequest { key, range_end, .. } = prefix("/m/");
    let request = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
    assert_eq!(server.kv().delete_range(request).await.unwrap().into_inner().deleted, 1200);
    assert_eq!(server.range(prefix("/")).await.unwrap().count, 1);
}

#[tokio::test]
async fn watches_of_one_stream_tell_history_then_news_with_what_was_before() {
    let server = Server::start().await;
    let first = server.put("/w/a", "1").await;
    server.put("/w/a", "2").await;
    let mut watching = server.watch().await;
    let from_history = watching.create(watch_prefix("/w/", first + 1)).await;
    assert!(from_history.created && from_history.watch_id == 0);
    let told = watching.next().await;
    assert_eq!((told.events.len(), &told.events[0].prev_kv.as_ref().unwrap().value[..]), (1, &b"1"[..]));
    let no_puts = pb::WatchCreateRequest { filters: vec![0], ..watch_prefix("/w/", 0) };
    assert_eq!(watching.create(no_puts).await.watch_id, 1);
    server.put("/w/b", "1").await;
    assert_eq!(watching.next().await.watch_id, 0);
    let delete = pb::DeleteRangeRequest { key: "/w/b".into(), ..Default::default() };
    let at = server.kv().delete_range(delete).await.unwrap().into_inner().header.unwrap().revision;
    let both = [watching.next().await, watching.next().await];
    for told in &both {
        let event = &told.events[0];
        assert_eq!((event.r#type, event.kv.as_ref().unwrap().mod_revision), (1, at));
        assert_eq!(event.prev_kv.as_ref().unwrap().value, "1");
    }
    assert_ne!(both[0].watch_id, both[1].watch_id);
    watching.say(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 }));
    let canceled = watching.next().await;
    assert!(canceled.canceled && canceled.watch_id == 0 && canceled.compact_revision == 0);
}

#[tokio::test]
async fn a_watch_from_the_very_revision_includes_it() {
    let server = Server::start().await;
    let first = server.put("/w/a", "1").await;
    for start in [first, 1] {
        let mut watching = server.watch().await;
        assert!(watching.create(watch_prefix("/w/", start)).await.created);
        assert_eq!(watching.next().await.events[0].kv.as_ref().unwrap().mod_revision, first);
    }
}

#[tokio::test]
async fn a_watch_from_the_future_begins_there() {
    let server = Server::start().await;
    let now = server.put("/w/a", "1").await;
    let mut watching = server.watch().await;
    // A second of the hybrid clock ahead.
    let start = now + (1000 << 21);
    assert!(watching.create(watch_prefix("/w/", start)).await.created);
    server.put("/w/a", "too early").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.put("/w/a", "in time").await;
    assert_eq!(watching.next().await.events[0].kv.as_ref().unwrap().value, "in time");
}

#[tokio::test]
async fn a_watch_of_what_was_compacted_is_told_so() {
    let server = Server::start().await;
    let first = server.put("/w/a", "1").await;
    let second = server.put("/w/a", "2").await;
    let compact = pb::CompactionRequest { revision: second, physical: true };
    server.kv().compact(compact).await.unwrap();
    let again = server.kv().compact(compact).await.unwrap_err();
    assert_eq!(again.message(), "etcdserver: mvcc: required revision has been compacted");
    let mut watching = server.watch().await;
    let created = watching.create(watch_prefix("/w/", first + 1)).await;
    let canceled = watching.next().await;
    assert!(created.created && !created.canceled);
    assert!(canceled.canceled && canceled.compact_revision == second);
}

#[tokio::test]
async fn odd_watches_are_refused() {
    let server = Server::start().await;
    let mut watching = server.watch().await;
    let named = pb::WatchCreateRequest { watch_id: 5, ..watch_prefix("/w/", 0) };
    assert_eq!(watching.create(named.clone()).await.watch_id, 5);
    let twice = watching.create(named).await;
    assert!(twice.created && twice.canceled && twice.watch_id == -1, "{twice:?}");
    let empty = pb::WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() };
    assert_eq!(watching.create(empty).await.cancel_reason, "mvcc: watcher range is empty");
}

/// What kube-apiserver asks while a consistent read waits: nothing up to the answer's revision may follow it.
#[tokio::test]
async fn progress_is_told_for_all_watches_of_a_stream_under_load() {
    let server = Arc::new(Server::start().await);
    let mut watching = server.watch().await;
    for key in ["/p/a", "/p/b", "/p/"] {
        assert!(watching.create(watch_prefix(key, 0)).await.created);
    }
    let load = tokio::spawn({
        let server = server.clone();
        async move {
            for _ in 0..200 {
                server.put("/p/a", "x").await;
                server.put("/p/b", "x").await;
            }
        }
    });
    let (mut answers, mut told, mut progress) = (0, 0, 0);
    watching.say(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    while told < 800 {
        let response = watching.next().await;
        let revision = response.header.unwrap().revision;
        if response.watch_id == -1 {
            assert!(response.events.is_empty() && revision >= progress);
            progress = revision;
            answers += 1;
            watching.say(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        }
        for event in &response.events {
            assert!(event.kv.as_ref().unwrap().mod_revision > progress, "told after it was said to be told");
            told += 1;
        }
    }
    load.await.unwrap();
    assert!(answers > 0, "a question was never answered");
}

#[tokio::test]
async fn leases_are_kept_alive_survive_a_restart_and_take_their_keys_along() {
    let server = Server::start().await;
    let mut leases = LeaseClient::new(server.channel.clone());
    let grant = pb::LeaseGrantRequest { ttl: 600, id: 77 };
    assert_eq!(leases.lease_grant(grant).await.unwrap().into_inner().ttl, 600);
    assert_eq!(leases.lease_grant(grant).await.unwrap_err().code(), Code::FailedPrecondition);
    let leased = pb::PutRequest { key: "/l".into(), value: "x".into(), lease: 77, ..Default::default() };
    server.kv().put(leased).await.unwrap();
    let ask = [77, 404].map(|id| pb::LeaseKeepAliveRequest { id });
    let mut alive = leases.lease_keep_alive(futures::stream::iter(ask)).await.unwrap().into_inner();
    assert_eq!(alive.message().await.unwrap().unwrap().ttl, 600);
    assert_eq!(alive.message().await.unwrap().unwrap().ttl, 0, "a lease that is gone");
    drop((alive, leases));
    let server = server.restart().await;
    let mut leases = LeaseClient::new(server.channel.clone());
    let left = leases.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 77, keys: true }).await.unwrap().into_inner();
    assert_eq!((left.granted_ttl, &left.keys[0][..]), (600, &b"/l"[..]));
    let mut watching = server.watch().await;
    watching.create(watch_prefix("/l", 0)).await;
    leases.lease_revoke(pb::LeaseRevokeRequest { id: 77 }).await.unwrap();
    let event = &watching.next().await.events[0];
    assert_eq!((event.r#type, &event.prev_kv.as_ref().unwrap().value[..]), (1, &b"x"[..]));
    assert!(leases.lease_leases(pb::LeaseLeasesRequest {}).await.unwrap().into_inner().leases.is_empty());
}

#[tokio::test]
async fn a_lease_that_nobody_renews_deletes_its_keys() {
    let server = Server::start().await;
    let mut leases = LeaseClient::new(server.channel.clone());
    let granted = leases.lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap().into_inner();
    assert!(granted.id != 0 && granted.ttl == 2, "etcd's least is two seconds");
    let leased = pb::PutRequest { key: "/l".into(), lease: granted.id, ..Default::default() };
    let mut watching = server.watch().await;
    watching.create(watch_prefix("/l", 0)).await;
    server.kv().put(leased).await.unwrap();
    assert_eq!(watching.next().await.events[0].r#type, 0);
    assert_eq!(watching.next().await.events[0].r#type, 1);
}

#[tokio::test]
async fn the_endpoint_says_what_it_is() {
    let server = Server::start().await;
    server.put("/a", "1").await;
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let status = maintenance.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.version.starts_with("3.6.") && status.db_size > 0 && status.leader == 8);
    let before = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
    server.put("/b", "1").await;
    let after = maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
    let past = pb::HashKvRequest { revision: before.hash_revision };
    let past = maintenance.hash_kv(past).await.unwrap().into_inner();
    assert!(before.hash != after.hash && past.hash == before.hash);
    let mut cluster = pb::cluster_client::ClusterClient::new(server.channel.clone());
    let members = cluster.member_list(pb::MemberListRequest { linearizable: true }).await.unwrap().into_inner().members;
    assert_eq!((members.len(), members[0].id, members[0].name.as_str()), (1, 8, "test"));
    let add = cluster.member_add(pb::MemberAddRequest::default()).await.unwrap_err();
    assert_eq!(add.code(), Code::Unimplemented);
    let mut auth = pb::auth_client::AuthClient::new(server.channel.clone());
    assert!(!auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner().enabled);
    let mut health = eyot_etcd::proto::health::health_client::HealthClient::new(server.channel.clone());
    let check = eyot_etcd::proto::health::HealthCheckRequest::default();
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);
}

/// What etcd's tools check: whole pages, then their SHA-256.
#[tokio::test]
async fn a_snapshot_is_a_file_with_its_digest() {
    let server = Server::start().await;
    server.put("/a", "what is kept").await;
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let mut blobs = maintenance.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let (mut file, mut left) = (Vec::new(), u64::MAX);
    while let Some(blob) = blobs.message().await.unwrap() {
        assert!(blob.remaining_bytes <= left);
        left = blob.remaining_bytes;
        file.extend_from_slice(&blob.blob);
    }
    let (content, digest) = file.split_at(file.len() - 32);
    assert_eq!((left, content.len() % 4096), (0, 0));
    assert_eq!(digest, &<sha2::Sha256 as sha2::Digest>::digest(content)[..]);
    assert!(content.windows(12).any(|bytes| bytes == b"what is kept"));
}

#[tokio::test]
async fn plain_text_is_for_this_machine_alone() {
    let server = Server::start().await;
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let identity = Identity { cluster_id: 7, member_id: 8, name: "test".into(), client_urls: Vec::new() };
    let backend = server.store.clone();
    let refused = Service::new(Options { backend, listener, tls: None, identity, limits: Limits::default() });
    assert!(matches!(refused, Err(eyot_etcd::Error::PlainText(_))));
}
