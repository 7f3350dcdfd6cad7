//! Servers with one object, without a network: what arrives where and when is what a test says.
mod object;

use eyot_crdt::{Actor, Conflict, Delta, Document, Stamp, Vector};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeSet;

pub const KEY: &[u8] = b"/registry/deployments/default/d";

/// What happens next. Servers are taken modulo their number.
#[derive(Clone, Debug)]
pub enum Step {
    Write {
        server: usize,
        edit: u8,
        choice: u8,
    },
    /// Some of what one knows and the other does not.
    Deliver {
        from: usize,
        to: usize,
        count: usize,
    },
    /// Something old arrives again.
    Repeat {
        to: usize,
        which: usize,
    },
    Snapshot {
        from: usize,
        to: usize,
    },
    /// What a server has seen now is what it says it has when it gives a snapshot.
    Note {
        server: usize,
    },
    Prune {
        server: usize,
    },
    Restart {
        server: usize,
    },
    /// A clock runs ahead.
    Skew {
        server: usize,
        by: u64,
    },
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let server = || 0..5usize;
    let step = prop_oneof![
        6 => (server(), 0..object::EDITS, any::<u8>()).prop_map(|(server, edit, choice)| Step::Write { server, edit, choice }),
        5 => (server(), server(), 1..6usize).prop_map(|(from, to, count)| Step::Deliver { from, to, count }),
        1 => (server(), any::<u16>()).prop_map(|(to, which)| Step::Repeat { to, which: which.into() }),
        2 => (server(), server()).prop_map(|(from, to)| Step::Snapshot { from, to }),
        1 => server().prop_map(|server| Step::Note { server }),
        2 => server().prop_map(|server| Step::Prune { server }),
        1 => server().prop_map(|server| Step::Restart { server }),
        1 => (server(), 1..40u64).prop_map(|(server, by)| Step::Skew { server, by }),
    ];
    prop::collection::vec(step, 1..most)
}

struct Server {
    actor: Actor,
    clock: u64,
    document: Document,
    known: Vector,
    noted: Option<Vector>,
    /// What it knows, in the order in which it came.
    log: Vec<usize>,
}

struct Written {
    delta: Vec<u8>,
    stamp: Stamp,
    /// All that its writer knew.
    knowing: Vector,
}

pub struct Cluster {
    servers: Vec<Server>,
    written: Vec<Written>,
    conflicts: Vec<Conflict>,
    /// Words that were written, each once.
    words: BTreeSet<String>,
    /// Words that somebody replaced who saw them.
    replaced: BTreeSet<String>,
    count: u64,
}

impl Server {
    fn value(&self) -> Option<Value> {
        let value = self.document.visible(KEY, None).value?;
        Some(serde_json::from_slice(&value).unwrap())
    }
}

impl Cluster {
    pub fn new(servers: usize) -> Self {
        let server = |n: usize| Server {
            actor: Actor([n as u8 + 1; 16]),
            clock: 0,
            document: Document::default(),
            known: Vector::default(),
            noted: None,
            log: Vec::new(),
        };
        Self {
            servers: (0..servers).map(server).collect(),
            written: Vec::new(),
            conflicts: Vec::new(),
            words: BTreeSet::new(),
            replaced: BTreeSet::new(),
            count: 0,
        }
    }

    pub fn step(&mut self, step: &Step) {
        let servers = self.servers.len();
        match *step {
            Step::Write { server, edit, choice } => self.write(server % servers, edit, choice),
            Step::Deliver { from, to, count } => self.deliver(from % servers, to % servers, count),
            Step::Repeat { to, which } => self.repeat(to % servers, which),
            Step::Snapshot { from, to } => self.snapshot(from % servers, to % servers),
            Step::Note { server } => {
                let server = &mut self.servers[server % servers];
                server.noted = Some(server.known.clone());
            }
            Step::Prune { server } => self.prune(server % servers),
            Step::Restart { server } => {
                let document = &mut self.servers[server % servers].document;
                let again = Document::decode(&document.encode()).unwrap();
                assert_eq!(again, *document);
                *document = again;
            }
            Step::Skew { server, by } => self.servers[server % servers].clock += by,
        }
    }

    fn write(&mut self, server: usize, edit: u8, choice: u8) {
        let at = &mut self.servers[server];
        self.count += 1;
        let old = at.value();
        let aliases = at.document.visible(KEY, None).aliases;
        let new = object::edited(old.clone(), edit, choice, self.count, &aliases);
        let bytes = new.as_ref().map(|new| serde_json::to_vec(new).unwrap());
        at.clock = at.clock.max(at.known.latest()) + 1;
        let stamp = Stamp { time: at.clock, actor: at.actor };
        let delta = at.document.write(KEY, bytes.as_deref(), stamp);
        assert_eq!(at.value(), new);
        assert!(at.document.says(KEY, bytes.as_deref()));
        let Some(delta) = delta else {
            assert_eq!(old, new);
            return;
        };
        let delta = Delta::decode(&delta.encode()).inspect(|again| assert_eq!(*again, delta)).unwrap();
        let (before, after) = (words(old.as_ref()), words(new.as_ref()));
        self.replaced.extend(before.difference(&after).cloned());
        self.words.extend(after.difference(&before).cloned());
        let knowing = at.known.clone();
        at.known.advance(stamp);
        at.log.push(self.written.len());
        self.written.push(Written { delta: delta.encode(), stamp, knowing });
    }

    fn deliver(&mut self, from: usize, to: usize, count: usize) {
        let news: Vec<usize> = self.news(from, to).into_iter().take(count).collect();
        for which in news {
            let to = &mut self.servers[to];
            let written = &self.written[which];
            self.conflicts.extend(to.document.merge(&Delta::decode(&written.delta).unwrap()));
            to.known.advance(written.stamp);
            to.log.push(which);
        }
    }

    fn news(&self, from: usize, to: usize) -> Vec<usize> {
        let new = |which: &&usize| !self.servers[to].known.covers(self.written[**which].stamp);
        self.servers[from].log.iter().filter(new).copied().collect()
    }

    /// The store hands a document only what its server does not know: anything else is in the document's version, or
    /// the document is forgotten.
    fn repeat(&mut self, to: usize, which: usize) {
        let to = &mut self.servers[to];
        let Some(which) = (!to.log.is_empty()).then(|| to.log[which % to.log.len()]) else { return };
        let delta = Delta::decode(&self.written[which].delta).unwrap();
        if to.document.version().covers(delta.stamp) {
            let before = to.document.clone();
            assert!(to.document.merge(&delta).is_empty());
            assert_eq!(before, to.document);
        }
    }

    /// The documents of a snapshot are read after what was seen, and what came between follows at once.
    fn snapshot(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        let theirs = Document::decode(&self.servers[from].document.encode()).unwrap();
        let now = self.servers[from].known.clone();
        let seen = self.servers[from].noted.take().unwrap_or(now);
        let covered = |which: &usize| seen.covers(self.written[*which].stamp);
        let news: Vec<usize> = self.news(from, to).into_iter().filter(covered).collect();
        let receiver = &mut self.servers[to];
        let mine = receiver.known.clone();
        self.conflicts.extend(receiver.document.join(theirs, &mine, &seen));
        receiver.known.merge(&seen);
        receiver.log.extend(news);
        self.deliver(from, to, usize::MAX);
    }

    /// Prunes up to the latest time that the store might: all up to it is known everywhere, and whatever is still on its
    /// way to the server was written by somebody who knew it.
    fn prune(&mut self, server: usize) {
        let known = |written: &Written, to: &Vector| to.covers(written.stamp);
        let everywhere = |written: &&Written| {
            let coming = self.written.iter().filter(|other| !known(other, &self.servers[server].known));
            self.servers.iter().all(|server| known(written, &server.known))
                && coming.clone().all(|other| known(written, &other.knowing))
        };
        let mut all: Vec<&Written> = self.written.iter().collect();
        all.sort_by_key(|written| written.stamp);
        let settled = all.iter().take_while(|written| everywhere(written)).count();
        let Some(stable) = settled.checked_sub(1).map(|last| all[last].stamp.time) else { return };
        // Another of the same time may not be settled.
        let stable = if all.get(settled).is_some_and(|next| next.stamp.time == stable) { stable - 1 } else { stable };
        let at = &mut self.servers[server];
        let before = at.document.visible(KEY, None);
        let left = at.document.prune(stable);
        let after = at.document.visible(KEY, None);
        assert!(after == before, "pruned up to {stable}: {:?} of {:?}", after.life, before.life);
        if !left {
            assert_eq!(before.value, None);
            at.document = Document::default();
        }
    }

    pub fn heal(&mut self) {
        for _ in 0..2 {
            for from in 0..self.servers.len() {
                for to in 0..self.servers.len() {
                    self.deliver(from, to, usize::MAX);
                }
            }
        }
    }

    /// All servers say the same, and what a server says that got everything in order of time, and never forgot.
    pub fn assert_same(&self) {
        let mut all: Vec<&Written> = self.written.iter().collect();
        all.sort_by_key(|written| written.stamp);
        let mut ordered = Document::default();
        for written in all {
            ordered.merge(&Delta::decode(&written.delta).unwrap());
        }
        let expected = ordered.visible(KEY, None);
        for server in &self.servers {
            let visible = server.document.visible(KEY, None);
            let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| String::from_utf8(bytes.clone()).unwrap());
            assert_eq!(text(&visible.value), text(&expected.value), "server {}", server.actor);
            assert_eq!((visible.life, visible.aliases), (expected.life.clone(), expected.aliases.clone()));
        }
    }

    /// Once all that is in a document is forgotten that can be, there is nothing more to forget until it changes.
    pub fn assert_pruned_at_once(&self) {
        for server in &self.servers {
            let mut pruned = server.document.clone();
            let latest = pruned.version().latest();
            pruned.prune(latest);
            let mut again = pruned.clone();
            again.prune(latest + 1000);
            assert_eq!(again.encode(), pruned.encode(), "server {}", server.actor);
        }
    }

    /// Each word that was ever written is there, was replaced by somebody who saw it, or was told of.
    pub fn assert_nothing_lost(&self) {
        let there = words(self.servers[0].value().as_ref());
        let told: BTreeSet<String> =
            self.conflicts.iter().flat_map(|conflict| words(conflict.loser.1.as_ref())).collect();
        let lost: Vec<&String> = self.words.iter().filter(|word| !there.contains(*word)).collect();
        let lost: Vec<_> =
            lost.iter().filter(|word| !self.replaced.contains(**word) && !told.contains(**word)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}; told: {told:?}");
    }
}

/// All words of a value that are written once: `w` and a number.
fn words(value: Option<&Value>) -> BTreeSet<String> {
    let text = value.map(Value::to_string).unwrap_or_default();
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
    let numbered = |part: &&str| part.strip_prefix('w').is_some_and(|rest| rest.parse::<u64>().is_ok());
    parts.filter(numbered).map(str::to_owned).collect()
}
