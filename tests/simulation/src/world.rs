//! The run: what happens next, and whether what must hold holds.
use crate::ledger::Ledger;
use crate::net::{Net, pair};
use crate::server::{Clock, Server};
use crate::{edit, owners};
use bytes::Bytes;
use crdt::Stamp;
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
/// A clock may jump so far, and what it then stamps waits, or waits for it.
const JUMP_MS: i64 = 40 * 60 * 1000;
/// Changes kept by a server that keeps few: whoever lacks more gets whole documents.
const FEW_CHANGES: u32 = 200;
const FEW_BYTES: u64 = 64 << 10;
/// Steps between two times of rest.
const REST_STEPS: u64 = 5000;

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
    /// Bytes of changes that were sent, and what of them the sender itself had written.
    pub row_bytes: u64,
    pub own_bytes: u64,
    /// Bytes of all messages, before compression.
    pub all_bytes: u64,
    pub crashes: u64,
    pub cuts: u64,
    pub conflicts: u64,
    pub joined: u64,
    pub left: u64,
    /// Writes that a crash tore, of which nothing was acknowledged.
    pub torn: u64,
    /// Events that watchers saw.
    pub watched: u64,
    /// Times that a part of the servers was long enough apart to be taken over.
    pub apart: u64,
    /// Times that a part was so long away that it was no longer waited for.
    pub away: u64,
    /// Servers that took another's store for their own, and made anew what they alone had.
    pub rebased: u64,
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

pub(crate) struct World {
    pub plan: Plan,
    pub rng: StdRng,
    pub clock: Clock,
    pub servers: BTreeMap<u16, Server>,
    pub net: Net,
    pub ledger: Ledger,
    next_number: u16,
    lives: u64,
    root: PathBuf,
    step: u64,
    pub report: Report,
}

pub(crate) type Checked = Result<(), Box<Failure>>;

/// Runs a plan in a directory that is empty.
///
/// # Errors
/// The first invariant that did not hold.
pub fn run(plan: &Plan, root: PathBuf) -> Result<Report, Box<Failure>> {
    let mut world = World::new(plan, root)?;
    world.wire();
    for step in 0..plan.steps {
        world.step = step;
        world.step()?;
        if step % REST_STEPS == REST_STEPS - 1 {
            world.settle()?;
            match world.rng.random_range(0..4) {
                0 | 1 => world.apart()?,
                2 => world.away()?,
                _ => {}
            }
            world.wire();
        }
    }
    world.settle()?;
    Ok(world.report)
}

fn register_server(number: u16) -> Op {
    Op::Put { key: owners::server_key(number), value: owners::server_object(number).to_string().into(), lease: None }
}

impl World {
    /// All servers, and no link yet.
    pub fn new(plan: &Plan, root: PathBuf) -> Result<Self, Box<Failure>> {
        let mut world = Self {
            plan: plan.clone(),
            rng: StdRng::seed_from_u64(plan.seed),
            clock: Arc::new(AtomicU64::new(EPOCH_MS)),
            servers: BTreeMap::new(),
            net: Net::default(),
            ledger: Ledger::default(),
            next_number: 1,
            lives: 0,
            root,
            step: 0,
            report: Report::default(),
        };
        (0..plan.servers).for_each(|_| world.join());
        world.servers.values_mut().for_each(|server| server.ready = true);
        for number in 1..=plan.servers {
            world.commit(1, register_server(number))?;
        }
        Ok(world)
    }

    pub fn fail<T>(&self, invariant: &'static str, what: impl Into<String>) -> Result<T, Box<Failure>> {
        Err(Box::new(Failure { plan: self.plan.clone(), step: self.step, invariant, what: what.into() }))
    }

    pub fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    pub fn any(&mut self) -> u16 {
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        *numbers.choose(&mut self.rng).expect("there is always a server")
    }

    pub fn server(&mut self, number: u16) -> &mut Server {
        self.servers.get_mut(&number).expect("it is there")
    }

    /// Links of a new shape: line, star, ring or mesh.
    fn wire(&mut self) {
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        for (a, b) in self.net.links.keys().copied().collect::<Vec<_>>() {
            self.cut(a, b);
        }
        self.net.links.clear();
        // Everybody with everybody where there are few, else with some.
        let mesh = if numbers.len() > 12 { 4 } else { usize::MAX };
        let shape = self.rng.random_range(0..4);
        for (at, number) in numbers.iter().enumerate() {
            let others: Vec<u16> = match shape {
                0 => numbers.get(at + 1).copied().into_iter().collect(),
                1 => numbers.first().copied().into_iter().collect(),
                2 => vec![numbers[(at + 1) % numbers.len()]],
                _ => numbers[at + 1..].iter().copied().take(mesh).collect(),
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
        let members: Vec<_> = self.servers.values().map(Server::member).collect();
        self.servers.values_mut().for_each(|server| server.add_members(&members));
        self.report.joined += 1;
    }

    pub fn cut(&mut self, a: u16, b: u16) {
        self.net.links.insert(pair(a, b), false);
        self.net.drop_streams(a, b);
        for (one, other) in [(a, b), (b, a)] {
            if let Some(server) = self.servers.get_mut(&one) {
                server.part(other);
            }
        }
        self.report.cuts += 1;
    }

    pub fn heal(&mut self, a: u16, b: u16) {
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
        self.report.all_bytes += self.net.send(from, to, at, message);
        self.report.messages += 1;
        if let sync::Message::Rows(rows) = message {
            let actor = self.servers[&from].bare.actor();
            let bytes = |row: &store::Row| (row.key.len() + row.delta.len()) as u64;
            self.report.row_bytes += rows.iter().map(bytes).sum::<u64>();
            self.report.own_bytes += rows.iter().filter(|row| row.stamp.actor == actor).map(bytes).sum::<u64>();
        }
    }

    fn any_link(&mut self) -> Option<(u16, u16)> {
        let links: Vec<_> = self.net.links.keys().copied().collect();
        links.choose(&mut self.rng).copied()
    }

    fn pass_a_moment(&mut self) {
        let passed = self.rng.random_range(0..20);
        self.clock.fetch_add(passed, Ordering::Relaxed);
    }

    fn deliver_any(&mut self) -> Checked {
        match self.any_link() {
            Some((a, b)) if self.rng.random_bool(0.5) => self.deliver(a, b),
            Some((a, b)) => self.deliver(b, a),
            None => Ok(()),
        }
    }

    fn step(&mut self) -> Checked {
        self.pass_a_moment();
        match self.rng.random_range(0..1000) {
            0..350 => self.write(),
            350..450 => {
                let number = self.any();
                let derived = self.server(number).bare.derive();
                derived.map(drop).or_else(|error| self.fail("derives", error.to_string()))
            }
            450..940 => self.deliver_any(),
            940..958 => self.tick(),
            958..960 => self.judge(),
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
                let most = if self.rng.random_bool(0.1) { JUMP_MS } else { SKEW_MS };
                let (number, skew) = (self.any(), self.rng.random_range(-most..most));
                self.server(number).skew_ms.store(skew, Ordering::Relaxed);
                Ok(())
            }
            993..998 => self.forget(),
            _ => self.change_members(),
        }
    }

    /// What happens while servers are away from each other for long.
    pub fn step_apart(&mut self) -> Checked {
        self.pass_a_moment();
        match self.rng.random_range(0..100) {
            0..30 => self.write(),
            30..85 => self.deliver_any(),
            85..92 => self.tick(),
            92..93 => self.crash(),
            _ => self.forget(),
        }
    }

    /// A user's or a controller's write; what it returns is acknowledged.
    fn write(&mut self) -> Checked {
        let number = self.any();
        if !self.servers[&number].ready || self.servers[&number].leaving.is_some() {
            return Ok(());
        }
        if self.rng.random_bool(0.15) {
            let op = self.register_op();
            return self.commit(number, op);
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

    fn register_op(&mut self) -> Op {
        let key = edit::register(&mut self.rng);
        let value = self.rng.random_range(0..u64::MAX).to_string();
        match self.rng.random_bool(0.1) {
            true => Op::Delete { key },
            false => Op::Put { key, value: value.into(), lease: None },
        }
    }

    pub fn commit(&mut self, number: u16, op: Op) -> Checked {
        self.report.writes += 1;
        let result = self.server(number).bare.txn(Txn { then: vec![op], ..Txn::default() });
        match result {
            Ok(_) => self.check_revision(number),
            Err(error) => self.fail("writes succeed", format!("server {number}: {error}")),
        }
    }

    pub fn check_revision(&mut self, number: u16) -> Checked {
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
    pub fn deliver(&mut self, from: u16, to: u16) -> Checked {
        if !self.net.is_up(from, to) {
            return Ok(());
        }
        let now = self.now();
        if let Some(message) = self.net.arrived(from, to, now)
            && let Err(reason) = self.server(to).listen(from, message)
        {
            return self.fail("peers agree", format!("server {to} of {from}: {reason}"));
        }
        let ready = self.servers[&from].ready;
        loop {
            match self.server(to).work(from, ready) {
                Ok(true) => {}
                Ok(false) => break,
                Err(reason) => return self.fail("peers agree", format!("server {to} of {from}: {reason}")),
            }
            self.check_revision(to)?;
            if std::mem::take(&mut self.server(to).rebased) {
                self.report.rebased += 1;
                let member = [self.servers[&to].member()];
                self.servers.values_mut().for_each(|server| server.add_members(&member));
                self.talk_anew(to);
                return Ok(());
            }
        }
        let said = self.server(to).speak(from);
        if std::mem::take(&mut self.server(to).anew) {
            self.talk_anew(to);
            return Ok(());
        }
        match said {
            Ok(Some(message)) => self.send(to, from, &message),
            Ok(None) => {}
            Err(error) => return self.fail("stores read", error.to_string()),
        }
        Ok(())
    }

    fn tick(&mut self) -> Checked {
        let number = self.any();
        let ticked = self.server(number).beat();
        ticked.or_else(|error| self.fail("ticks", error.to_string()))?;
        self.check_watch(number)
    }

    /// A server looks who acts on what, and writes down whom it takes over.
    fn judge(&mut self) -> Checked {
        let number = self.any();
        let (now, server) = (self.now(), &self.servers[&number]);
        let (_, writes) = if server.ready { owners::look(server, now) } else { Default::default() };
        writes.into_iter().try_for_each(|write| self.commit(number, write))
    }

    /// A server dies in the middle of a write, or of what follows from one.
    fn crash(&mut self) -> Checked {
        let number = self.any();
        let op = self.rng.random_bool(0.5).then(|| self.register_op());
        let before = self.state(number);
        let key = op.as_ref().and_then(|op| match op {
            Op::Put { key, .. } | Op::Delete { key } => Some(key.clone()),
            _ => None,
        });
        let (share, mut torn) = (self.rng.random_range(0.0..1.2_f64), 0);
        self.server(number).crash(op, |bytes| {
            let left = ((bytes as f64 * share) as u64).min(bytes);
            torn += u64::from(left < bytes);
            left
        });
        self.report.crashes += 1;
        self.report.torn += torn;
        self.talk_anew(number);
        let (mut before, mut after) = (before, self.state(number));
        if let Some(key) = key {
            // It was not acknowledged: it may be there, or not.
            before.remove(&key);
            after.remove(&key);
        }
        self.check_revision(number)?;
        match after == before {
            true => self.check_watch(number),
            false => self.fail("no write is lost", format!("server {number} came back with another state")),
        }
    }

    /// All conversations of a server end, and begin again where there are links.
    fn talk_anew(&mut self, number: u16) {
        let peers: Vec<u16> = self.servers.keys().copied().filter(|peer| self.net.is_up(number, *peer)).collect();
        for peer in peers {
            self.cut(number, peer);
            self.heal(number, peer);
        }
    }

    fn forget(&mut self) -> Checked {
        let number = self.any();
        let server = self.server(number);
        let vector = server.bare.vector();
        server.members.observe_vector(number, &vector);
        let stable = server.members.stable();
        let forgot = server.bare.stable(stable);
        forgot.map(drop).or_else(|error| self.fail("forgets", error.to_string()))?;
        if self.rng.random_bool(0.05) {
            let forgot = self.server(number).bare.keep_changes(FEW_CHANGES, FEW_BYTES);
            forgot.map(drop).or_else(|error| self.fail("forgets", error.to_string()))?;
        }
        Ok(())
    }

    /// A server joins with an empty store, or one leaves when another has all that was written there.
    fn change_members(&mut self) -> Checked {
        if self.servers.len() < usize::from(self.plan.servers) + 2 && self.rng.random_bool(0.5) {
            return self.admit();
        }
        let leaving = self.servers.values().find_map(|server| Some((server.number, server.leaving?)));
        match leaving {
            Some((number, up_to)) => self.leave(number, up_to),
            None if self.servers.len() > usize::from(self.plan.servers).max(2) => {
                let number = self.any();
                let told = self.server(number).bare.derive().is_ok_and(|whole| whole);
                let clock = self.servers[&number].revision.clock();
                self.server(number).leaving = told.then_some(clock);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn admit(&mut self) -> Checked {
        let ready: Vec<u16> = self.servers.values().filter(|server| server.ready).map(|server| server.number).collect();
        let Some(peer) = ready.choose(&mut self.rng).copied() else { return Ok(()) };
        self.join();
        let new = self.next_number - 1;
        self.heal(new, peer);
        self.commit(peer, register_server(new))
    }

    fn leave(&mut self, number: u16, up_to: u64) -> Checked {
        let actor = self.servers[&number].bare.actor();
        let has_all = |server: &&Server| {
            let stays = server.number != number && server.ready && server.leaving.is_none();
            stays && server.bare.vector().get(actor) >= up_to
        };
        let Some(heir) = self.servers.values().find(has_all).map(|server| server.number) else { return Ok(()) };
        self.read_conflicts(number)?;
        for peer in self.servers.keys().copied().collect::<Vec<_>>() {
            if self.net.is_up(number, peer) {
                self.cut(number, peer);
            }
        }
        self.servers.remove(&number);
        self.net.forget(number);
        self.report.left += 1;
        self.commit(heir, Op::Delete { key: owners::server_key(number) })?;
        let derived = self.server(heir).bare.derive();
        derived.map(drop).or_else(|error| self.fail("derives", error.to_string()))?;
        let known = Stamp { time: self.servers[&heir].revision.clock(), actor: self.servers[&heir].bare.actor() };
        self.servers.values_mut().for_each(|server| server.hear_of_leaving(number, known));
        self.wire();
        Ok(())
    }

    pub fn state(&self, number: u16) -> BTreeMap<Bytes, Value> {
        let entries = self.servers[&number].bare.list(&Range::prefix("/"));
        let read = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
        entries.iter().map(|entry| (entry.key.clone(), read(&entry.value))).collect()
    }
}
