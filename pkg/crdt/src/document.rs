//! All that servers know of one key.
use crate::apply::Apply;
use crate::edit::{Differ, Edit};
use crate::join::{self, Known};
use crate::life::{self, Course, Life, Span};
use crate::place::{Place, same};
use crate::shape::Shape;
use crate::{Conflict, Policy, Stamp, Vector, policy, repair, wire};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the bytes are no {what}: {source}")]
    Unreadable { what: &'static str, source: postcard::Error },
}

pub type Result<T> = std::result::Result<T, Error>;

/// Objects whose `status` each server keeps for itself: how it sees the other.
const SERVERS: &[u8] = b"/registry/eyot.dev/servers/";
/// A pod that lost its name is deleted: nothing stands for it.
const PODS: &[u8] = b"/registry/pods/";

/// One write to one key, as it travels between servers. It says only what changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    pub stamp: Stamp,
    /// What its writer had seen of this key. Everything in it arrives before the delta.
    pub context: Vector,
    pub(crate) changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Register(Option<Vec<u8>>),
    Life { uid: String, event: Event, edit: Edit },
}

/// What becomes of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Edit,
    Birth,
    Death,
}

impl Delta {
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_delta(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        wire::decode_delta(bytes).map_err(|source| Error::Unreadable { what: "change", source })
    }
}

/// What a document says at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// None: nothing is there. A Kubernetes object is canonical: without blanks, fields in order.
    pub value: Option<Vec<u8>>,
    /// `metadata.uid` of the life that is visible.
    pub life: Option<String>,
    /// Uids of younger lives of the same name that this one stands for.
    pub aliases: Vec<String>,
}

/// All that servers know of one key: a state that any two servers' copies merge into the same third, in any order
/// and however often. It doesn't grow with the number of writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    pub(crate) version: Vector,
    /// Bytes that are no object with an identity: the last writer wins.
    pub(crate) register: Option<(Stamp, Option<Vec<u8>>)>,
    /// By uid.
    pub(crate) lives: Vec<Life>,
}

/// What is in sight.
#[derive(Clone, Copy, PartialEq)]
enum Holder {
    Nothing,
    Register,
    Life(Span),
}

/// A value as it came.
enum Parsed {
    Nothing,
    Opaque(Vec<u8>),
    Object { uid: String, object: Value },
}

impl Document {
    pub fn encode(&self) -> Vec<u8> {
        wire::encode_document(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        wire::decode_document(bytes).map_err(|source| Error::Unreadable { what: "document", source })
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.register.is_none() && self.lives.is_empty()
    }

    /// Uids of lives that have ended, as far as that is still known.
    pub fn ended(&self) -> Vec<&str> {
        if self.lives.iter().all(|life| life.deaths.is_empty()) {
            return Vec::new();
        }
        let course = Course::of(&self.lives);
        let over = |n: usize, life: &Life| !life.births.is_empty() && course.open(n).is_none();
        self.lives.iter().enumerate().filter(|(n, life)| over(*n, life)).map(|(_, life)| &*life.uid).collect()
    }

    /// The stamps of all writes that are in it, or were superseded in it.
    pub fn version(&self) -> &Vector {
        &self.version
    }

    /// Makes the document say `value`, as written by the stamp's actor; none: deleted. Returns what to tell others;
    /// none when it says so already. The stamp is above all in the document.
    pub fn write(&mut self, key: &[u8], value: Option<&[u8]>, stamp: Stamp) -> Option<Delta> {
        let changes = match parse(key, value) {
            Parsed::Nothing => self.delete(),
            Parsed::Opaque(bytes) => self.put(bytes),
            Parsed::Object { uid, object } => self.put_object(uid, &object, stamp),
        };
        if changes.is_empty() {
            return None;
        }
        let delta = Delta { stamp, context: self.version.clone(), changes };
        self.merge(&delta);
        Some(delta)
    }

    /// What takes everything out of sight.
    fn clear(&self) -> Vec<Change> {
        let register = self.register.as_ref().is_some_and(|(_, value)| value.is_some());
        let register = register.then_some(Change::Register(None));
        let holder = Course::of(&self.lives).holder();
        let uids = holder.map(|span| self.lives[span.life].uid.clone()).into_iter();
        let buried = uids.map(|uid| Change::Life { uid, event: Event::Death, edit: Edit::default() });
        register.into_iter().chain(buried).collect()
    }

    fn delete(&self) -> Vec<Change> {
        if self.holder() == Holder::Nothing { Vec::new() } else { self.clear() }
    }

    fn put(&self, bytes: Vec<u8>) -> Vec<Change> {
        let said = self.register.as_ref().and_then(|(_, value)| value.as_ref()) == Some(&bytes);
        if said && self.holder() == Holder::Register {
            return Vec::new();
        }
        let others = self.clear().into_iter().filter(|change| !matches!(change, Change::Register(_)));
        others.chain([Change::Register(Some(bytes))]).collect()
    }

    fn put_object(&self, uid: String, object: &Value, stamp: Stamp) -> Vec<Change> {
        let Some(fields) = object.as_object() else { return Vec::new() };
        let shape = Shape::of(object, api::schema::Schemas::builtin());
        let course = Course::of(&self.lives);
        let there = self.find(&uid).is_ok_and(|at| course.open(at).is_some());
        if let Holder::Life(span) = self.holder()
            && there
        {
            return self.update(span, &uid, fields, shape, stamp);
        }
        let differ = Differ { since: life::NEVER, actor: stamp.actor };
        let edit = differ.root(&Place::default(), fields, shape).unwrap_or_default();
        let mut changes = self.clear();
        changes.push(Change::Life { uid, event: Event::Birth, edit });
        changes
    }

    /// Edits the life that is in sight. It is the one that was meant, or stands for it.
    fn update(&self, span: Span, uid: &str, new: &Map<String, Value>, shape: Shape<'_>, stamp: Stamp) -> Vec<Change> {
        let life = &self.lives[span.life];
        let differ = Differ { since: span.begin, actor: stamp.actor };
        let edit = match life.uid == uid {
            true => differ.root(&life.root, new, shape),
            false => differ.root(&life.root, &renamed(new, &life.uid), shape),
        };
        edit.map(|edit| Change::Life { uid: life.uid.clone(), event: Event::Edit, edit }).into_iter().collect()
    }

    fn find(&self, uid: &str) -> std::result::Result<usize, usize> {
        self.lives.binary_search_by(|life| (*life.uid).cmp(uid))
    }

    fn holder(&self) -> Holder {
        let written = self.register.as_ref().filter(|(_, value)| value.is_some()).map(|(stamp, _)| *stamp);
        match (Course::of(&self.lives).holder(), written) {
            (None, None) => Holder::Nothing,
            (Some(span), written) if written.is_none_or(|stamp| stamp < span.begin) => Holder::Life(span),
            _ => Holder::Register,
        }
    }

    /// Takes in one write of another server. What is known already changes nothing.
    pub fn merge(&mut self, delta: &Delta) -> Vec<Conflict> {
        if self.version.covers(delta.stamp) {
            return Vec::new();
        }
        // Whoever wrote it knew all that is here.
        let alone = delta.context == self.version;
        let hidden = if alone { BTreeSet::new() } else { self.hidden() };
        let mut conflicts: Vec<Conflict> = Vec::new();
        for change in &delta.changes {
            match change {
                Change::Register(value) => conflicts.extend(self.merge_register(delta, value)),
                Change::Life { uid, event, edit } => conflicts.extend(self.merge_life(delta, uid, *event, edit)),
            }
        }
        self.version.advance(delta.stamp);
        if !alone {
            conflicts.extend(self.out_of_sight(&hidden));
            conflicts.extend(self.edits_out_of_sight(&hidden, delta));
        }
        conflicts
    }

    fn merge_register(&mut self, delta: &Delta, value: &Option<Vec<u8>>) -> Option<Conflict> {
        let new = (delta.stamp, value.clone());
        let old = self.register.replace(new.clone())?;
        let concurrent = !delta.context.covers(old.0);
        let (winner, loser) = if old.0 < new.0 { (new, old) } else { (old, new) };
        self.register = Some(winner.clone());
        (concurrent && winner.1 != loser.1).then(|| Conflict {
            life: String::new(),
            path: String::new(),
            winner: (winner.0, winner.1.as_deref().map(told)),
            loser: (loser.0, loser.1.as_deref().map(told)),
        })
    }

    fn merge_life(&mut self, delta: &Delta, uid: &str, event: Event, edit: &Edit) -> Vec<Conflict> {
        let at = match (self.find(uid), event) {
            (Ok(at), _) => at,
            (Err(at), Event::Birth) => {
                self.lives.insert(at, Life::new(uid));
                at
            }
            (Err(_), _) => return whole(uid, (Stamp::default(), None), (delta.stamp, edit.value(""))),
        };
        if event == Event::Death {
            return self.bury(at, delta);
        }
        if event == Event::Birth {
            self.lives[at].bear(delta.stamp);
        }
        let course = Course::of(&self.lives);
        let gone = delta.stamp < course.since(at);
        let mut apply = Apply::new(delta.stamp, &delta.context, uid, course.since(at));
        apply.root(&mut self.lives[at].root, edit, gone);
        match gone {
            true => whole(uid, (course.last_end(at), None), (delta.stamp, edit.value(""))),
            false => apply.conflicts,
        }
    }

    /// A delete beats every concurrent update of the same life.
    fn bury(&mut self, at: usize, delta: &Delta) -> Vec<Conflict> {
        let since = Course::of(&self.lives).open(at).map(|span| span.begin);
        let life = &mut self.lives[at];
        let unseen = life.root.unseen(&delta.context);
        let before = since.and_then(|since| Some((unseen?, Some(Value::Object(life.root.object(since))))));
        life.bury(delta.stamp);
        let again = Course::of(&self.lives).open(at).map(|span| span.begin);
        let life = &self.lives[at];
        let now = again.map(|since| (since, Some(Value::Object(life.root.object(since)))));
        match (before, now) {
            (None, _) => Vec::new(),
            (Some(before), None) => whole(&life.uid, (delta.stamp, None), before),
            // Made anew by somebody who did not know of the death, and later.
            (Some(before), Some(now)) if before.1 == now.1 => whole(&life.uid, now, (delta.stamp, None)),
            (Some(before), Some(now)) => whole(&life.uid, now, before),
        }
    }

    /// What is there and yet not in sight: lives by uid, none for the register.
    fn hidden(&self) -> BTreeSet<Option<String>> {
        if self.register.is_none() && self.lives.len() < 2 {
            return BTreeSet::new();
        }
        let (holder, course) = (self.holder(), Course::of(&self.lives));
        let holds = |n: usize| matches!(holder, Holder::Life(span) if span.life == n);
        let there = |n: usize| course.open(n).is_some() && !holds(n);
        let lives = self.lives.iter().enumerate().filter(|(n, _)| there(*n));
        let register = self.register.iter().filter(|(_, value)| value.is_some() && holder != Holder::Register);
        register.map(|_| None).chain(lives.map(|(_, life)| Some(life.uid.clone()))).collect()
    }

    /// Tells what is hidden and was not before.
    fn out_of_sight(&self, before: &BTreeSet<Option<String>>) -> Vec<Conflict> {
        let now = self.hidden();
        now.difference(before).flat_map(|hidden| self.report_hidden(hidden.as_deref())).collect()
    }

    fn report_hidden(&self, hidden: Option<&str>) -> Vec<Conflict> {
        let winner = self.in_sight();
        match (hidden, &self.register) {
            (Some(uid), _) => {
                let Ok(at) = self.find(uid) else { return Vec::new() };
                let (root, since) = (&self.lives[at].root, Course::of(&self.lives).since(at));
                let stamp = root.unseen(&Vector::default()).map_or(since, |last| last.max(since));
                whole(uid, winner, (stamp, Some(Value::Object(root.object(since)))))
            }
            (None, Some((stamp, value))) => whole("", winner, (*stamp, value.as_deref().map(told))),
            (None, None) => Vec::new(),
        }
    }

    /// Tells of a write to what was hidden before, and still is.
    fn edits_out_of_sight(&self, before: &BTreeSet<Option<String>>, delta: &Delta) -> Vec<Conflict> {
        let report = |change: &Change| match change {
            Change::Life { uid, event: Event::Edit | Event::Birth, edit } if before.contains(&Some(uid.clone())) => {
                let hidden = self.hidden().contains(&Some(uid.clone()));
                let loser = (delta.stamp, edit.value(""));
                if hidden { whole(uid, self.in_sight(), loser) } else { Vec::new() }
            }
            _ => Vec::new(),
        };
        delta.changes.iter().flat_map(report).collect()
    }

    fn in_sight(&self) -> (Stamp, Option<Value>) {
        match self.holder() {
            Holder::Nothing => (Stamp::default(), None),
            Holder::Life(span) => {
                let life = &self.lives[span.life];
                (span.begin, Some(Value::Object(life.root.object(span.begin))))
            }
            Holder::Register => {
                let (stamp, value) = self.register.as_ref().map_or((Stamp::default(), None), |(s, v)| (*s, v.as_ref()));
                (stamp, value.map(|value| told(value)))
            }
        }
    }

    /// Takes in all that another server knows of the key. `mine` is what this server had seen of all keys, `seen` what
    /// the other had: what one lacks and yet has seen was removed there.
    pub fn join(&mut self, theirs: Self, mine: &Vector, seen: &Vector) -> Vec<Conflict> {
        // A copy may be newer than what its owner said to have seen before it was read.
        let (mut mine, mut seen) = (mine.clone(), seen.clone());
        mine.merge(&self.version);
        seen.merge(&theirs.version);
        let known = Known { mine: &mine, theirs: &seen };
        let before: BTreeSet<_> = self.hidden().into_iter().chain(theirs.hidden()).collect();
        let mut writes = unseen(&self.lives, &seen);
        writes.extend(unseen(&theirs.lives, &mine));
        let mut conflicts = self.join_register(theirs.register, known);
        self.lives = join_lives(std::mem::take(&mut self.lives), theirs.lives, known);
        self.version.merge(&theirs.version);
        conflicts.extend(writes.into_iter().flat_map(|unseen| self.lost(unseen, &before)));
        conflicts.extend(self.out_of_sight(&before));
        conflicts
    }

    fn join_register(&mut self, theirs: Option<(Stamp, Option<Vec<u8>>)>, known: Known<'_>) -> Vec<Conflict> {
        let mine = self.register.take();
        let lost = |loser: &Option<(Stamp, Option<Vec<u8>>)>, seen: &Vector, now: &Option<(Stamp, Option<Vec<u8>>)>| {
            let loser = loser.as_ref().filter(|loser| !seen.covers(loser.0) && now.as_ref() != Some(*loser))?;
            let now = now.as_ref().map_or((Stamp::default(), None), |(stamp, value)| (*stamp, value.as_deref()));
            Some(whole("", (now.0, now.1.map(told)), (loser.0, loser.1.as_deref().map(told))))
        };
        self.register = known.join(mine.clone(), theirs.clone(), |register| register.0, Ord::max);
        let lost = [lost(&mine, known.theirs, &self.register), lost(&theirs, known.mine, &self.register)];
        lost.into_iter().flatten().flatten().collect()
    }

    /// What of a copy's writes that the other had not seen is no longer in sight.
    fn lost(&self, unseen: Unseen, before: &BTreeSet<Option<String>>) -> Vec<Conflict> {
        let last = unseen.writes.iter().map(|write| write.stamp).max();
        let Some(last) = last else { return Vec::new() };
        let course = Course::of(&self.lives);
        let uid = Some(unseen.uid.clone());
        if before.contains(&uid) && self.hidden().contains(&uid) {
            return whole(&unseen.uid, self.in_sight(), (last, Some(unseen.value)));
        }
        match self.find(&unseen.uid) {
            Ok(at) if last >= course.since(at) => {
                join::lost(unseen.writes, &unseen.uid, &self.lives[at].root, course.since(at))
            }
            at => {
                let end = at.map_or(Stamp::default(), |at| course.last_end(at));
                whole(&unseen.uid, (end, None), (last, Some(unseen.value)))
            }
        }
    }

    /// What to serve. `current` is what is served now: parts of it that are this server's alone are kept.
    pub fn visible(&self, key: &[u8], current: Option<&[u8]>) -> Visible {
        match self.holder() {
            Holder::Nothing => Visible::default(),
            Holder::Register => {
                let value = self.register.as_ref().and_then(|(_, value)| value.clone());
                Visible { value, ..Visible::default() }
            }
            Holder::Life(span) => {
                let life = &self.lives[span.life];
                let object = object(&life.root, span.begin, key, current.and_then(object_of).as_ref());
                let bytes = serde_json::to_vec(&object).expect("an object's names are text");
                Visible { value: Some(bytes), life: Some(life.uid.clone()), aliases: self.aliases(span, key) }
            }
        }
    }

    fn aliases(&self, holder: Span, key: &[u8]) -> Vec<String> {
        if key.starts_with(PODS) {
            return Vec::new();
        }
        let spans = Course::of(&self.lives).spans;
        let yields = |span: &&Span| span.under.is_some_and(|under| spans[under] == holder) && span.life != holder.life;
        let uids = spans.iter().filter(yields).map(|span| self.lives[span.life].uid.clone());
        let known = self.lives[holder.life].aliases.iter().filter(|(birth, _)| *birth == holder.begin);
        let known = known.map(|(_, uid)| uid.clone());
        uids.chain(known).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether serving `current` is right: bytes that mean the same are.
    pub fn says(&self, key: &[u8], current: Option<&[u8]>) -> bool {
        match (self.holder(), current) {
            (Holder::Nothing, current) => current.is_none(),
            (Holder::Register, current) => self.register.as_ref().and_then(|(_, value)| value.as_deref()) == current,
            (Holder::Life(_), None) => false,
            (Holder::Life(span), Some(bytes)) => {
                let Some(mut current) = object_of(bytes) else { return false };
                without_version(&mut current);
                let life = &self.lives[span.life];
                same(&object(&life.root, span.begin, key, Some(&current)), &Value::Object(current))
            }
        }
    }

    /// Forgets what is only there to outlive older news, now that everything written up to `stable` is everywhere.
    /// Returns whether anything is left.
    pub fn prune(&mut self, stable: u64) -> bool {
        let course = Course::of(&self.lives);
        let kept = kept(&course, &self.lives, stable);
        let gone = course.spans.iter().filter(|span| !kept.contains(&(span.life, span.begin)));
        for (span, under) in gone.filter_map(|span| Some((span, course.spans[span.under?]))) {
            let alias = (under.begin, self.lives[span.life].uid.clone());
            self.lives[under.life].stand_for([alias]);
        }
        for (n, life) in self.lives.iter_mut().enumerate() {
            let keep = |stamp: &Stamp| stamp.time > stable || kept.contains(&(n, *stamp));
            life.births.retain(keep);
            life.deaths.retain(keep);
            life.stand_for([]);
            life.root.prune_root(stable, course.open(n).map(|span| span.begin).filter(keep));
        }
        self.lives.retain(|life| !life.is_unknown());
        self.register.take_if(|(stamp, value)| value.is_none() && stamp.time <= stable);
        self.register.is_some() || !self.lives.is_empty()
    }
}

/// What to serve of a life.
fn object(root: &Place, since: Stamp, key: &[u8], current: Option<&Map<String, Value>>) -> Value {
    let mut object = root.object(since);
    repair::repair(&mut object, root, since);
    if key.starts_with(SERVERS)
        && let Some(status) = current.and_then(|current| current.get("status"))
    {
        object.insert("status".to_owned(), status.clone());
    }
    Value::Object(object)
}

/// The births and deaths, by life, of all spans that cannot be forgotten. Whoever yields can be once all know both; then nobody
/// needs to know whom it yielded to, once that one has ended.
fn kept(course: &Course, lives: &[Life], stable: u64) -> BTreeSet<(usize, Stamp)> {
    let hides = |span: &Span| lives[span.life].root.is_newer(stable);
    let settled = |span: &Span| match (span.under, span.end) {
        (Some(_), _) => span.begin.time <= stable && !hides(span),
        (None, Some(end)) => end.time <= stable && !hides(span),
        (None, None) => false,
    };
    let kept = course.spans.iter().filter(|span| !settled(span));
    let with_under = kept.flat_map(|span| [Some(*span), span.under.map(|under| course.spans[under])]);
    let stamps = |span: Span| [Some((span.life, span.begin)), span.end.map(|end| (span.life, end))];
    with_under.flatten().flat_map(stamps).flatten().collect()
}

/// A copy's writes to a life that the other copy's owner had not seen.
struct Unseen {
    uid: String,
    writes: Vec<join::Write>,
    value: Value,
}

fn unseen(lives: &[Life], seen: &Vector) -> Vec<Unseen> {
    let course = Course::of(lives);
    let of = |(n, life): (usize, &Life)| {
        let since = course.open(n)?.begin;
        let writes = join::unseen(&life.root, since, seen);
        Some(Unseen { uid: life.uid.clone(), writes, value: Value::Object(life.root.object(since)) })
    };
    lives.iter().enumerate().filter_map(of).collect()
}

fn join_lives(mine: Vec<Life>, theirs: Vec<Life>, known: Known<'_>) -> Vec<Life> {
    let mut pairs: BTreeMap<String, (Life, Life)> = BTreeMap::new();
    for life in mine {
        pairs.insert(life.uid.clone(), (life, Life::default()));
    }
    for life in theirs {
        let uid = life.uid.clone();
        pairs.entry(uid).or_default().1 = life;
    }
    let joined = pairs.into_iter().map(|(uid, (mine, theirs))| {
        let mut life = Life::new(&uid);
        life.births = life::join_stamps(&mine.births, &theirs.births, known.mine, known.theirs);
        life.deaths = life::join_stamps(&mine.deaths, &theirs.deaths, known.mine, known.theirs);
        life.stand_for(mine.aliases.into_iter().chain(theirs.aliases));
        life.root = known.place(mine.root, theirs.root);
        life
    });
    joined.filter(|life| !life.is_unknown()).collect()
}

/// The object under the uid of the life that stands for its own.
fn renamed(object: &Map<String, Value>, uid: &str) -> Map<String, Value> {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), uid.into());
    }
    object
}

fn whole(life: &str, winner: (Stamp, Option<Value>), loser: (Stamp, Option<Value>)) -> Vec<Conflict> {
    if winner.1 == loser.1 {
        return Vec::new();
    }
    vec![Conflict { life: life.to_owned(), path: String::new(), winner, loser }]
}

/// Bytes as a conflict tells them.
fn told(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}

fn object_of(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(bytes).ok()
}

fn without_version(object: &mut Map<String, Value>) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
}

fn parse(key: &[u8], value: Option<&[u8]>) -> Parsed {
    let Some(bytes) = value else { return Parsed::Nothing };
    let object = if policy(key) == Policy::Document { object_of(bytes) } else { None };
    let Some(mut object) = object else { return Parsed::Opaque(bytes.to_vec()) };
    let uid = object.get("metadata").and_then(|metadata| metadata.get("uid")).and_then(Value::as_str);
    let Some(uid) = uid.filter(|uid| !uid.is_empty()).map(str::to_owned) else { return Parsed::Opaque(bytes.to_vec()) };
    without_version(&mut object);
    if key.starts_with(SERVERS) {
        object.remove("status");
    }
    Parsed::Object { uid, object: Value::Object(object) }
}
