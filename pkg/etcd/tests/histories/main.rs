//! Many clients write, read, transact, lease, compact and watch at random while the server is killed, stopped and started
//! again; what they saw is judged afterwards: key-value calls are linearizable, and watches keep etcd's guarantees.
//!
//! `EYOT_HISTORIES_SEED` replays a load, `EYOT_HISTORIES_SECONDS` makes it longer, `EYOT` names a program to test instead
//! of this crate, and `EYOT_HISTORIES_OUT` a file for the calls, which other checkers can judge too.
mod broken;
mod history;
mod kv;
mod load;
mod server;
mod shared;
mod watcher;
mod watches;

use eyot_etcd::proto::etcdserverpb::kv_client::KvClient;
use history::{Call, Clock, History, Outcome, Request, Write};
use load::{Client, PREFIX};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use server::{ROLE, Server};
use shared::Shared;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};
use watcher::Watcher;

const CLIENTS: usize = 8;
const WATCHERS: usize = 4;
/// Seconds of load when nothing else is said.
const SECONDS: u64 = 8;
/// How long what is left may take to settle: leases that end, watches that catch up.
const SETTLE: Duration = Duration::from_secs(120);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

fn channel(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy()
}

async fn run(seed: u64, length: Duration) -> History {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let (clock, shared) = (Clock(Instant::now()), Arc::new(Shared::default()));
    let random = |of: u64| StdRng::seed_from_u64(seed.wrapping_add(of));
    let watcher = || Watcher { clock, channel: channel(server.address), shared: shared.clone() };
    let observer = tokio::spawn(watcher().observe());
    let watchers: Vec<_> = (0..WATCHERS).map(|n| tokio::spawn(watcher().wander(random(1000 + n as u64)))).collect();
    let client =
        |id: usize| Client::new(id, random(id as u64 + 1), clock, channel(server.address), shared.clone()).run(length);
    let clients: Vec<_> = (0..CLIENTS).map(|id| tokio::spawn(client(id))).collect();
    let (kills, stops) = server.torment(&mut random(0), clock, length).await;
    for client in clients {
        client.await.unwrap();
    }
    shared.end(settle(server.address, clock, &shared).await);
    let observed = tokio::time::timeout(SETTLE, observer).await.expect("the observer is told the end").unwrap();
    let mut sessions = Vec::new();
    for watcher in watchers {
        sessions.extend(tokio::time::timeout(SETTLE, watcher).await.expect("watches are told the end").unwrap());
    }
    let (calls, leases, compacted) = shared.take();
    println!("{} calls, {kills} kills, {stops} stops, {} watches", calls.len(), sessions.len());
    History { calls, leases, sessions, observed, compacted }
}

/// Waits until the server answers and no lease holds a key any more, then writes a last time.
async fn settle(address: SocketAddr, clock: Clock, shared: &Shared) -> i64 {
    let (channel, begun) = (channel(address), Instant::now());
    loop {
        assert!(begun.elapsed() < SETTLE, "a lease never ended");
        let listed = KvClient::new(channel.clone()).range(load::range(PREFIX, 0, 0)).await;
        if listed.is_ok_and(|listed| listed.get_ref().kvs.iter().all(|kv| kv.lease == 0)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last = Write::Put { key: format!("{PREFIX}end"), value: "end".into(), lease: 0 };
    let request = Request::Txn { guard: vec![], then: vec![last], otherwise: None };
    let called_us = clock.now_us();
    let answer = load::send(&channel, &request).await.unwrap();
    let (revision, outcome) = (answer.revision, Outcome::Done(answer));
    shared.add(Call { client: CLIENTS, called_us, returned_us: clock.now_us(), request, outcome });
    revision
}

#[test]
fn histories_under_kills_are_those_of_etcd() {
    if let Ok(role) = std::env::var(ROLE) {
        return server::serve(&role);
    }
    let (seed, seconds) = (setting("EYOT_HISTORIES_SEED", rand::random()), setting("EYOT_HISTORIES_SECONDS", SECONDS));
    println!("EYOT_HISTORIES_SEED={seed} replays this load");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let history = runtime.block_on(run(seed, Duration::from_secs(seconds)));
    let steps = kv::linearize(&history).unwrap_or_else(|what| panic!("not linearizable: {what}"));
    let past = kv::past(&history).unwrap_or_else(|what| panic!("the past changed: {what}"));
    let (events, bookmarks) = watches::judge(&history).unwrap_or_else(|what| panic!("watches: {what}"));
    println!("{} calls took place, {past} reads of the past, {events} events, {bookmarks} bookmarks", steps.len());
    assert!(steps.len() > 100 && past > 0 && events > 100 && bookmarks > 0, "too little happened to judge");
    if let Some(out) = std::env::var_os("EYOT_HISTORIES_OUT") {
        let step = |step: &kv::Step<'_>| {
            let ended = if step.call.is_none() { kv::changes(&history, step.revision) } else { Vec::new() };
            json!({"revision": step.revision, "from_us": step.from_us, "to_us": step.to_us, "call": step.call,
                   "ended": ended})
        };
        let steps: Vec<_> = steps.iter().map(step).collect();
        std::fs::write(out, serde_json::to_vec(&steps).unwrap()).unwrap();
    }
}
