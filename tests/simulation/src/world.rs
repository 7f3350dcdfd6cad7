//! The run: what happens next, and whether what must hold holds.
use crate::edit;
use crate::ledger::Ledger;
use crate::net::{Net, pair};
use crate::server::{Clock, Server};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use store::{Op, Range, Txn};

/// When the virtual time begins: 2026-01-01, in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_767_225_600_000;
/// Clocks are wrong by less than what makes a peer refuse.
const SKEW_MS: i64 = 4 * 60 * 1000;
/// A document and its object's JSON may differ in size by this factor and rest.
const DOCUMENT_FACTOR: usize = 4;
const DOCUMENT_REST_BYTES: usize = 4096;
/// Rounds in which a healed network must have come to rest.
const ROUNDS: usize = 20_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub steps: u64,
    pub servers: u16,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub writes: u64,
    pub messages: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub conflicts: u64,
    pub joined: u64,
    pub left: u64,
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    pub plan: Plan,
    pub step: u64,
    pub invariant: &'static str,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, steps, servers } = &self.plan;
        write!(
            f,
            "{}: {} (step {}; replay: --seed {seed} --steps {steps} --servers {servers})",
            self.invariant, self.what, self.step
        )
    }
}

struct World {
    plan: Plan,
    rng: StdRng,
    clock: Clock,
    servers: BTreeMap<u16, Server>,
    net: Net,
    ledger: Ledger,
    /// What servers recorded before they left.
    conflicts: Vec<String>,
    next_number: u16,
    lives: u64,
    root: PathBuf,
    step: u64,
    report: Report,
}

type Checked = Result<(), Box<Failure>>;

/// Runs a plan in a directory that is empty.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run(plan: &Plan, root: PathBuf) -> Result<Report, Box<Failure>> {
    let mut world = World {
        plan: plan.clone(),
        rng: StdRng::seed_from_u64(plan.seed),
        clock: Arc::new(AtomicU64::new(EPOCH_MS)),
        servers: BTreeMap::new(),
        net: Net::default(),
        ledger: Ledger::default(),
        conflicts: Vec::new(),
        next_number: 1,
        lives: 0,
        root,
        step: 0,
        report: Report::default(),
    };
    (0..plan.servers).for_each(|_| world.join());
    world.servers.values_mut().for_each(|server| server.ready = true);
    world.wire();
    for step in 0..plan.steps {
        world.step = step;
        world.step()?;
        if step % 5000 == 4999 {
            world.settle()?;
            world.wire();
        }
    }
    world.settle()?;
    Ok(world.report)
}

impl World {
    fn fail<T>(&self, invariant: &'static str, what: impl Into<String>) -> Result<T, Box<Failure>> {
        Err(Box::new(Failure { plan: self.plan.clone(), step: self.step, invariant, what: what.into() }))
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn any(&mut self) -> u16 {
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        *numbers.choose(&mut self.rng).expect("there is always a server")
    }

    fn server(&mut self, number: u16) -> &mut Server {
        self.servers.get_mut(&number).expect("it is there")
    }

    /// Links of a new shape: line, star, ring or mesh.
    fn wire(&mut self) {
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        for (a, b) in self.net.links.keys().copied().collect::<Vec<_>>() {
            self.cut(a, b);
        }
        self.net.links.clear();
        let shape = self.rng.random_range(0..4);
        for (at, number) in numbers.iter().enumerate() {
            let others: Vec<u16> = match shape {
                0 => numbers.get(at + 1).copied().into_iter().collect(),
                1 => numbers.first().copied().into_iter().collect(),
                2 => vec![numbers[(at + 1) % numbers.len()]],
                _ => numbers[at + 1..].to_vec(),
            };
            for other in others.into_iter().filter(|other| other != number) {
                self.net.links.entry(pair(*number, other)).or_insert(false);
                self.heal(*number, other);
            }
        }
    }

    fn join(&mut self) {
        let number = self.next_number;
        self.next_number += 1;
        let server = Server::new(&self.root, number, &self.clock);
        self.servers.insert(number, server);
        self.tell_members();
        self.report.joined += 1;
    }

    fn tell_members(&mut self) {
        let members: Vec<_> = self.servers.values().map(Server::member).collect();
        self.servers.values_mut().for_each(|server| server.set_members(&members));
    }

    fn cut(&mut self, a: u16, b: u16) {
        self.net.links.insert(pair(a, b), false);
        self.net.drop_streams(a, b);
        for (one, other) in [(a, b), (b, a)] {
            if let Some(server) = self.servers.get_mut(&one) {
                server.sessions.remove(&other);
            }
        }
        self.report.cuts += 1;
    }

    fn heal(&mut self, a: u16, b: u16) {
        if self.net.is_up(a, b) || !self.servers.contains_key(&a) || !self.servers.contains_key(&b) {
            return;
        }
        self.net.links.insert(pair(a, b), true);
        for (one, other) in [(a, b), (b, a)] {
            let hello = self.server(one).meet(other);
            self.send(one, other, &hello);
        }
    }

    fn send(&mut self, from: u16, to: u16, message: &sync::Message) {
        let delay = self.rng.random_range(0..300);
        let at = self.now() + delay;
        self.net.send(from, to, at, message);
        self.report.messages += 1;
    }

    fn any_link(&mut self) -> Option<(u16, u16)> {
        let links: Vec<_> = self.net.links.keys().copied().collect();
        links.choose(&mut self.rng).copied()
    }

    fn step(&mut self) -> Checked {
        let passed = self.rng.random_range(0..20);
        self.clock.fetch_add(passed, Ordering::Relaxed);
        match self.rng.random_range(0..1000) {
            0..350 => self.write(),
            350..450 => {
                let number = self.any();
                let derived = self.server(number).bare.derive();
                derived.map(drop).or_else(|error| self.fail("derives", error.to_string()))
            }
            450..940 => match self.any_link() {
                Some((a, b)) if self.rng.random_bool(0.5) => self.deliver(a, b),
                Some((a, b)) => self.deliver(b, a),
                None => Ok(()),
            },
            940..960 => self.tick(),
            960..970 => {
                if let Some((a, b)) = self.any_link() {
                    self.cut(a, b);
                }
                Ok(())
            }
            970..982 => {
                if let Some((a, b)) = self.any_link() {
                    self.heal(a, b);
                }
                Ok(())
            }
            982..986 => {
                if let Some(link) = self.any_link()
                    && let Some(stream) = self.net.streams.get_mut(&link)
                {
                    stream.stalled = !stream.stalled;
                }
                Ok(())
            }
            986..990 => self.crash(),
            990..993 => {
                let (number, skew) = (self.any(), self.rng.random_range(-SKEW_MS..SKEW_MS));
                self.server(number).skew_ms.store(skew, Ordering::Relaxed);
                Ok(())
            }
            993..998 => self.forget(),
            _ => self.change_members(),
        }
    }

    /// A user's or a controller's write; what it returns is acknowledged.
    fn write(&mut self) -> Checked {
        let number = self.any();
        if !self.servers[&number].ready {
            return Ok(());
        }
        if self.rng.random_bool(0.15) {
            return self.write_register(number);
        }
        let (key, kind) = edit::key(&mut self.rng);
        let before = self.read(number, &key);
        self.lives += 1;
        // Some names are given by the cluster: made twice, they are one life.
        let uid = match key.ends_with(b"1") || key.ends_with(b"5") {
            true => format!("fixed-{}", String::from_utf8_lossy(&key)),
            false => format!("uid-{}", self.lives),
        };
        let uid =
            if uid.starts_with("fixed") && before.is_none() { format!("{uid}-{}", self.step / 20_000) } else { uid };
        let after = edit::edit(&mut self.rng, &mut self.ledger, kind, uid, before.as_ref());
        let op = match &after {
            Some(value) => Op::Put { key: key.clone(), value: value.to_string().into(), lease: None },
            None => Op::Delete { key: key.clone() },
        };
        self.commit(number, op)?;
        self.ledger.acknowledged(before.as_ref(), after.as_ref());
        Ok(())
    }

    fn write_register(&mut self, number: u16) -> Checked {
        let key = edit::register(&mut self.rng);
        let value = self.rng.random_range(0..u64::MAX).to_string();
        let op = match self.rng.random_bool(0.1) {
            true => Op::Delete { key },
            false => Op::Put { key, value: value.into(), lease: None },
        };
        self.commit(number, op)
    }

    fn commit(&mut self, number: u16, op: Op) -> Checked {
        self.report.writes += 1;
        let result = self.server(number).bare.txn(Txn { then: vec![op], ..Txn::default() });
        match result {
            Ok(_) => self.check_revision(number),
            Err(error) => self.fail("writes succeed", format!("server {number}: {error}")),
        }
    }

    fn check_revision(&mut self, number: u16) -> Checked {
        let server = self.server(number);
        let (before, now) = (server.revision, server.bare.revision());
        server.revision = now;
        match now >= before && (now.server() == number || now.clock() <= 1) {
            true => Ok(()),
            false => self.fail("revisions rise", format!("server {number}: {before}, then {now}")),
        }
    }

    fn read(&self, number: u16, key: &[u8]) -> Option<Value> {
        let entry = self.servers[&number].bare.get(key)?;
        serde_json::from_slice(&entry.value).ok()
    }

    /// Brings what has arrived, and lets both sides say what they have to say.
    fn deliver(&mut self, from: u16, to: u16) -> Checked {
        if !self.net.is_up(from, to) {
            return Ok(());
        }
        let now = self.now();
        if let Some(message) = self.net.arrived(from, to, now) {
            let ready = self.servers[&from].ready;
            match self.server(to).listen(from, ready, message) {
                Ok(Some(answer)) => self.send(to, from, &answer),
                Ok(None) => {}
                Err(reason) => return self.fail("peers agree", format!("server {to} of {from}: {reason}")),
            }
            self.check_revision(to)?;
        }
        let said = self.server(to).speak(from);
        match said {
            Ok(Some(message)) => self.send(to, from, &message),
            Ok(None) => {}
            Err(error) => return self.fail("stores read", error.to_string()),
        }
        Ok(())
    }

    fn tick(&mut self) -> Checked {
        let number = self.any();
        let server = self.server(number);
        server.sessions.values_mut().for_each(sync::Session::beat);
        let ticked = server.bare.tick();
        ticked.or_else(|error| self.fail("ticks", error.to_string()))
    }

    fn crash(&mut self) -> Checked {
        let number = self.any();
        let before = self.state(number);
        self.server(number).crash();
        self.report.crashes += 1;
        let peers: Vec<u16> = self.servers.keys().copied().filter(|peer| self.net.is_up(number, *peer)).collect();
        for peer in peers {
            self.cut(number, peer);
            self.heal(number, peer);
        }
        match self.state(number) == before {
            true => self.check_revision(number),
            false => self.fail("no write is lost", format!("server {number} came back with another state")),
        }
    }

    fn forget(&mut self) -> Checked {
        let number = self.any();
        let server = self.server(number);
        let vector = server.bare.vector();
        server.members.observe_vector(number, &vector);
        let stable = server.members.stable();
        let forgot = server.bare.stable(stable);
        forgot.map(drop).or_else(|error| self.fail("forgets", error.to_string()))
    }

    /// A server joins with an empty store, or one that has told everything leaves.
    fn change_members(&mut self) -> Checked {
        let many = usize::from(self.plan.servers) + 2;
        if self.servers.len() < many && self.rng.random_bool(0.5) {
            self.join();
            let (new, peer) = (self.next_number - 1, self.any());
            if new != peer {
                self.heal(new, peer);
            }
            return Ok(());
        }
        if self.servers.len() <= usize::from(self.plan.servers).max(2) {
            return Ok(());
        }
        self.settle()?;
        let number = self.any();
        self.record_conflicts(number)?;
        for peer in self.servers.keys().copied().collect::<Vec<_>>() {
            if self.net.is_up(number, peer) {
                self.cut(number, peer);
            }
        }
        self.servers.remove(&number);
        self.net.forget(number);
        self.tell_members();
        self.report.left += 1;
        self.wire();
        Ok(())
    }

    fn record_conflicts(&mut self, number: u16) -> Checked {
        match self.servers[&number].bare.conflicts(0, usize::MAX >> 1) {
            Ok(found) => {
                self.conflicts.extend(found.into_iter().map(|record| format!("{:?}", record.conflict)));
                Ok(())
            }
            Err(error) => self.fail("conflicts are kept", error.to_string()),
        }
    }

    fn state(&self, number: u16) -> BTreeMap<Bytes, Value> {
        let entries = self.servers[&number].bare.list(&Range::prefix("/"));
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
        entries.iter().map(|entry| (entry.key.clone(), read(&entry.value))).collect()
    }

    /// Heals the network, right clocks, waits for rest; then everybody must have the same, and nothing may be lost.
    fn settle(&mut self) -> Checked {
        self.servers.values().for_each(|server| server.skew_ms.store(0, Ordering::Relaxed));
        self.net.streams.values_mut().for_each(|stream| stream.stalled = false);
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        // A line through everybody, whatever the shape was.
        for two in numbers.windows(2) {
            self.net.links.entry(pair(two[0], two[1])).or_insert(false);
        }
        for (a, b) in self.net.links.keys().copied().collect::<Vec<_>>() {
            self.heal(a, b);
        }
        for round in 0.. {
            if round == ROUNDS {
                return self.fail("convergence", "the servers talk without end");
            }
            self.clock.fetch_add(50, Ordering::Relaxed);
            for number in &numbers {
                while !self.server(*number).bare.derive().or_else(|error| self.fail("derives", error.to_string()))? {}
            }
            if round % 50 == 0 {
                self.beat_all()?;
            }
            for (a, b) in self.net.links.keys().copied().collect::<Vec<_>>() {
                self.deliver(a, b)?;
                self.deliver(b, a)?;
            }
            if round % 10 == 9 && self.at_rest() {
                break;
            }
        }
        self.check()
    }

    fn beat_all(&mut self) -> Checked {
        for number in self.servers.keys().copied().collect::<Vec<_>>() {
            let server = self.server(number);
            server.sessions.values_mut().for_each(sync::Session::beat);
            let ticked = server.bare.tick();
            ticked.or_else(|error| self.fail("ticks", error.to_string()))?;
        }
        Ok(())
    }

    /// Whether everybody has everything that anybody wrote.
    fn at_rest(&self) -> bool {
        let written = self.servers.values().map(|server| (server.bare.actor(), server.revision.clock()));
        let written: Vec<_> = written.collect();
        self.servers.values().all(|server| {
            let vector = server.bare.vector();
            written.iter().all(|(actor, clock)| vector.get(*actor) >= *clock)
        })
    }

    fn check(&mut self) -> Checked {
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        let first = self.state(numbers[0]);
        for number in &numbers[1..] {
            let other = self.state(*number);
            if other != first {
                let what = difference(numbers[0], &first, *number, &other);
                let key = first.keys().chain(other.keys()).find(|key| first.get(*key) != other.get(*key));
                let documents = [numbers[0], *number].map(|number| self.document(number, key));
                return self.fail("convergence", format!("{what}\n{documents:#?}"));
            }
        }
        let mut texts = self.conflicts.clone();
        for number in &numbers {
            match self.servers[number].bare.conflicts(0, usize::MAX >> 1) {
                Ok(found) => texts.extend(found.into_iter().map(|record| format!("{:?}", record.conflict))),
                Err(error) => return self.fail("conflicts are kept", error.to_string()),
            }
        }
        self.report.conflicts = texts.len() as u64;
        let lost = self.ledger.lost(first.values().cloned(), texts);
        if !lost.is_empty() {
            return self
                .fail("no write is lost", format!("{} of {} words, first {}", lost.len(), self.ledger.len(), lost[0]));
        }
        self.check_bounds(&first)
    }

    fn document(&self, number: u16, key: Option<&Bytes>) -> Option<crdt::Document> {
        let page = self.servers[&number].bare.page(None, usize::MAX).ok()?;
        let (_, bytes) = page.documents.iter().find(|(other, _)| Some(other) == key)?;
        crdt::Document::decode(bytes).ok()
    }

    fn check_bounds(&mut self, state: &BTreeMap<Bytes, Value>) -> Checked {
        let json: usize = state.values().map(|value| value.to_string().len()).sum();
        for number in self.servers.keys().copied().collect::<Vec<_>>() {
            for _ in 0..3 {
                self.beat_all()?;
            }
            let page = self.servers[&number].bare.page(None, usize::MAX);
            let documents: usize = match page {
                Ok(page) => page.documents.iter().map(|(_, bytes)| bytes.len()).sum(),
                Err(error) => return self.fail("stores read", error.to_string()),
            };
            let limit = json * DOCUMENT_FACTOR + DOCUMENT_REST_BYTES * (state.len() + 8);
            if documents > limit {
                return self
                    .fail("bounded", format!("server {number}: {documents} bytes of documents for {json} of objects"));
            }
        }
        Ok(())
    }
}

fn difference(a: u16, one: &BTreeMap<Bytes, Value>, b: u16, other: &BTreeMap<Bytes, Value>) -> String {
    let key = one.keys().chain(other.keys()).find(|key| one.get(*key) != other.get(*key));
    let Some(key) = key else { return String::new() };
    format!("{}: server {a} has {:?}, server {b} {:?}", String::from_utf8_lossy(key), one.get(key), other.get(key))
}
