//! Rest: all links heal, clocks are right, everybody gets everything. Then what must hold is checked.
use crate::net::pair;
use crate::owners;
use crate::server::Server;
use crate::world::{Checked, Failure, World};
use bytes::Bytes;
use crdt::{HybridClock, Stamp, Vector};
use rand::Rng;
use rand::seq::SliceRandom;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use store::bare::Bare;

/// A document and its object's JSON may differ in size by this factor and rest.
const DOCUMENT_FACTOR: usize = 4;
const DOCUMENT_REST_BYTES: usize = 4096;
/// Rounds in which a healed network must have come to rest.
const ROUNDS: usize = 5_000;
const ROUND_MS: u64 = 50;
/// Heartbeats go out every so many rounds.
const BEAT_ROUNDS: usize = 20;
/// Servers that are apart talk as seldom: nobody counts as silent so soon.
const APART_STEP_MS: u64 = 5_000;
/// A server that is away for so long is not waited for.
const AWAY_MS: u64 = 7 * 24 * 60 * 60 * 1000;
const AWAY_STEPS: u64 = 1000;
/// Conflicts that a store remembers.
const CONFLICTS: u64 = 10_000;

impl World {
    /// Heals the network, rights clocks, waits for rest; then everybody must have the same, and nothing may be lost.
    pub fn settle(&mut self) -> Checked {
        self.right();
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        // A tree through everybody, whatever the shape was.
        for at in 1..numbers.len() {
            self.net.links.entry(pair(numbers[(at - 1) / 2], numbers[at])).or_insert(false);
        }
        for (a, b) in self.net.links.keys().copied().collect::<Vec<_>>() {
            self.heal(a, b);
        }
        self.rest(&numbers)?;
        self.check()?;
        self.check_owners(&numbers, &numbers)?;
        if self.rng.random_bool(0.5) { self.fold(&numbers) } else { Ok(()) }
    }

    fn right(&mut self) {
        self.servers.values().for_each(|server| server.skew_ms.store(0, Ordering::Relaxed));
        self.net.streams.values_mut().for_each(|stream| stream.stalled = false);
        // What was stamped ahead waits for its time, also what is not derived yet.
        let latest = |server: &Server| server.bare.vector().latest().max(server.bare.revision().clock());
        let latest = self.servers.values().map(|server| HybridClock::ms(latest(server))).max().unwrap_or(0);
        self.clock.fetch_max(latest, Ordering::Relaxed);
    }

    /// Lets these servers talk until each has all that any of them wrote, and has heard of each since.
    fn rest(&mut self, numbers: &[u16]) -> Checked {
        let mut told = self.tell(numbers)?;
        let mut rebased = self.report.rebased;
        let links: Vec<_> = self.net.links.iter().filter(|(_, up)| **up).map(|(link, _)| *link).collect();
        for round in 0.. {
            if round == ROUNDS {
                let lacks = |number: &u16| {
                    let bare = &self.servers[number].bare;
                    let has = bare.vector();
                    let lacks: Vec<Stamp> = told.iter().filter(|stamp| !has.covers(*stamp)).collect();
                    format!("{number} (whole: {}) lacks {lacks:?}; ", bare.is_whole())
                };
                let what: String = numbers.iter().map(lacks).collect();
                return self.fail("convergence", format!("the servers talk without end: {what}"));
            }
            self.clock.fetch_add(ROUND_MS, Ordering::Relaxed);
            if round % BEAT_ROUNDS == BEAT_ROUNDS - 1 {
                self.beat(numbers)?;
            }
            for (a, b) in links.iter().copied() {
                self.deliver(a, b)?;
                self.deliver(b, a)?;
            }
            if std::mem::replace(&mut rebased, self.report.rebased) != self.report.rebased {
                // What somebody told under another name was made anew.
                told = self.tell(numbers)?;
            }
            if round % 10 == 9 && self.at_rest(numbers, &told) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What all of them have: also what somebody who took over a store had told before that.
    fn tell(&mut self, numbers: &[u16]) -> Result<Vector, Box<Failure>> {
        self.beat(numbers)?;
        let mut told = Vector::default();
        numbers.iter().for_each(|number| told.merge(&self.servers[number].bare.vector()));
        Ok(told)
    }

    pub fn beat(&mut self, numbers: &[u16]) -> Checked {
        for number in numbers {
            let ticked = self.server(*number).beat();
            ticked.or_else(|error| self.fail("ticks", error.to_string()))?;
        }
        Ok(())
    }

    fn at_rest(&self, numbers: &[u16], told: &Vector) -> bool {
        let has_all = |bare: &Bare| bare.is_whole() && bare.vector().includes(told);
        numbers.iter().all(|number| has_all(&self.servers[number].bare))
    }

    fn check(&mut self) -> Checked {
        let numbers: Vec<u16> = self.servers.keys().copied().collect();
        let first = self.state(numbers[0]);
        for number in &numbers {
            self.check_watch(*number)?;
            self.read_conflicts(*number)?;
            let other = self.state(*number);
            if other != first {
                let what = difference(numbers[0], &first, *number, &other);
                let key = first.keys().chain(other.keys()).find(|key| first.get(*key) != other.get(*key));
                let documents = [numbers[0], *number].map(|number| self.document(number, key));
                return self.fail("convergence", format!("{what}\n{documents:#?}"));
            }
        }
        let lost = self.ledger.lost(first.values());
        if !lost.is_empty() {
            let what = format!("{} of {} words, first {}", lost.len(), self.ledger.len(), lost[0]);
            return self.fail("no write is lost", what);
        }
        self.check_bounds(&first)
    }

    /// What a client made of events must be what a list shows.
    pub fn check_watch(&mut self, number: u16) -> Checked {
        let server = self.server(number);
        match server.watcher.follow(&server.bare) {
            Ok(seen) => {
                self.report.watched += seen;
                Ok(())
            }
            Err(what) => self.fail("watch", format!("server {number}: {what}")),
        }
    }

    /// Notes what a server has recorded since it was last asked.
    pub fn read_conflicts(&mut self, number: u16) -> Checked {
        let server = self.server(number);
        let found = server.bare.conflicts(server.conflict, usize::MAX >> 1);
        let found = found.or_else(|error| self.fail("conflicts are kept", error.to_string()))?;
        self.report.conflicts += found.len() as u64;
        if let Some(last) = found.last() {
            self.server(number).conflict = last.id;
        }
        found.iter().for_each(|record| self.ledger.told(record.conflict.loser.1.as_ref()));
        Ok(())
    }

    fn document(&self, number: u16, key: Option<&Bytes>) -> Option<crdt::Document> {
        let page = self.servers[&number].bare.documents().ok()?.page(None, usize::MAX).ok()?;
        let (_, bytes) = page.documents.iter().find(|(other, _)| Some(other) == key)?;
        crdt::Document::decode(bytes).ok()
    }

    fn check_bounds(&mut self, state: &BTreeMap<Bytes, Value>) -> Checked {
        let json: usize = state.values().map(|value| value.to_string().len()).sum();
        let limit = json * DOCUMENT_FACTOR + DOCUMENT_REST_BYTES * (state.len() + 8);
        for number in self.servers.keys().copied().collect::<Vec<_>>() {
            let sizes = self.servers[&number].bare.sizes();
            let sizes = sizes.or_else(|error| self.fail("stores read", error.to_string()))?;
            if sizes.document_bytes as usize > limit || sizes.conflicts > CONFLICTS {
                return self.fail("bounded", format!("server {number}: {sizes:?} for {json} bytes of objects"));
            }
        }
        Ok(())
    }

    /// Once all know that all have all, nothing is left but one document for each object that is there.
    fn fold(&mut self, numbers: &[u16]) -> Checked {
        for _ in 0..2 * depth(numbers.len()) + 2 {
            self.rest(numbers)?;
        }
        let live = self.state(numbers[0]).len() as u64;
        for number in numbers {
            let server = self.server(*number);
            let vector = server.bare.vector();
            server.members.observe_vector(*number, &vector);
            let stable = server.members.stable();
            while self.server(*number).bare.stable(stable).or_else(|error| self.fail("forgets", error.to_string()))? {}
            let sizes = self.servers[number].bare.sizes();
            let sizes = sizes.or_else(|error| self.fail("stores read", error.to_string()))?;
            if sizes.changes > 0 || sizes.unpruned > 0 || sizes.documents != live {
                let what = format!("server {number} keeps {sizes:?} for {live} objects that all have, up to {stable}");
                return self.fail("bounded", what);
            }
        }
        self.check()
    }

    /// Parts the servers in two, all of each linked.
    fn part(&mut self) -> [Vec<u16>; 2] {
        let mut numbers: Vec<u16> = self.servers.keys().copied().collect();
        numbers.shuffle(&mut self.rng);
        let island = numbers.split_off(self.rng.random_range(1..numbers.len()));
        for (a, b) in self.net.links.keys().copied().collect::<Vec<_>>() {
            if island.contains(&a) != island.contains(&b) {
                self.cut(a, b);
            }
        }
        for part in [&numbers, &island] {
            for two in part.windows(2) {
                self.net.links.entry(pair(two[0], two[1])).or_insert(false);
                self.heal(two[0], two[1]);
            }
        }
        [numbers, island]
    }

    /// Parts the servers in two for so long that neither part waits for the other any more: what all of its own have, it
    /// forgets.
    pub fn away(&mut self) -> Checked {
        let parts = self.part();
        self.report.away += 1;
        self.clock.fetch_add(AWAY_MS, Ordering::Relaxed);
        for part in &parts {
            for number in part {
                self.server(*number).give_up(|other| !part.contains(&other));
            }
        }
        for _ in 0..AWAY_STEPS {
            self.step_apart()?;
        }
        self.servers.values_mut().for_each(|server| server.give_up(|_| false));
        self.settle()
    }

    /// Parts the servers in two for longer than takeovers wait. In each part one acts on what is homed anywhere.
    pub fn apart(&mut self) -> Checked {
        let [numbers, island] = self.part();
        self.report.apart += 1;
        let all: Vec<u16> = self.servers.keys().copied().collect();
        let until = self.now() + owners::APART_MS;
        while self.now() < until {
            self.clock.fetch_add(APART_STEP_MS, Ordering::Relaxed);
            for part in [&numbers, &island] {
                self.rest(part)?;
            }
        }
        for part in [&numbers, &island] {
            // Twice: records are written first, and read by the others then.
            for _ in 0..2 {
                self.look(part)?;
                self.rest(part)?;
            }
            self.check_owners(part, &all)?;
        }
        self.settle()
    }

    fn look(&mut self, part: &[u16]) -> Checked {
        for number in part {
            let (_, writes) = owners::look(&self.servers[number], self.now());
            writes.into_iter().try_for_each(|write| self.commit(*number, write))?;
        }
        Ok(())
    }

    /// Of servers that all hear each other.
    fn check_owners(&mut self, part: &[u16], members: &[u16]) -> Checked {
        let now = self.now();
        let views: Vec<_> = part.iter().map(|number| (*number, owners::look(&self.servers[number], now).0)).collect();
        match owners::check(&views, members) {
            Ok(()) => Ok(()),
            Err(what) => self.fail("no double owner", what),
        }
    }
}

/// Hops from one end of a tree to its root.
fn depth(servers: usize) -> u32 {
    usize::BITS - servers.leading_zeros()
}

fn difference(a: u16, one: &BTreeMap<Bytes, Value>, b: u16, other: &BTreeMap<Bytes, Value>) -> String {
    let key = one.keys().chain(other.keys()).find(|key| one.get(*key) != other.get(*key));
    let Some(key) = key else { return String::new() };
    format!("{}: server {a} has {:?}, server {b} {:?}", String::from_utf8_lossy(key), one.get(key), other.get(key))
}
