//! Who acts on what, as each server sees it: the real judgement over what a server has heard and the records that it has.
use crate::server::Server;
use api::home::{Claim, Ownership, Record, Site, judge};
use crdt::{Actor, Vector};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use store::{Op, Range};

/// Whoever was heard so recently is there.
const UP_MS: u64 = 16_000;
/// No site is taken over sooner.
const TAKEOVER_S: u64 = 20;
/// Long enough apart that everybody who may take over has.
pub const APART_MS: u64 = 60_000;
const RECORD: &str = "eyot.dev/takeover";
const SERVERS: &str = "/registry/eyot.dev/servers/";

/// When a server last heard something new of each other, directly or through others.
#[derive(Default)]
pub struct Contacts(BTreeMap<Actor, (u64, u64)>);

impl Contacts {
    pub fn observe(&mut self, vector: &Vector, now_ms: u64) {
        for stamp in vector.iter() {
            let heard = self.0.entry(stamp.actor).or_insert((stamp.time, now_ms));
            if heard.0 < stamp.time {
                *heard = (stamp.time, now_ms);
            }
        }
    }

    /// Seconds of silence; none: it is there.
    fn silent_s(&self, actor: Actor, now_ms: u64) -> Option<u64> {
        let silent = now_ms.saturating_sub(self.0.get(&actor).map_or(0, |(_, heard)| *heard));
        (silent > UP_MS).then_some(silent / 1000)
    }
}

/// The object of a server.
pub fn server_object(number: u16) -> Value {
    json!({
        "apiVersion": "eyot.dev/v1", "kind": "Server",
        "metadata": {"name": format!("server-{number}"), "uid": format!("server-{number}")},
        "spec": {"site": site(number).to_string()},
    })
}

pub fn server_key(number: u16) -> bytes::Bytes {
    format!("{SERVERS}server-{number}").into()
}

/// Names sort as numbers do.
fn site(number: u16) -> Site {
    format!("site-{number:05}").into()
}

fn objects(server: &Server) -> Vec<Value> {
    let entries = server.bare.list(&Range::prefix(SERVERS));
    entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
}

fn record_of(object: &Value) -> Option<(Site, Record)> {
    let text = object["metadata"]["annotations"][RECORD].as_str()?;
    let (by, epoch) = text.split_once('/')?;
    Some((object["spec"]["site"].as_str()?.into(), Record { by: by.into(), epoch: epoch.parse().ok()? }))
}

/// How a server stands with the others, and the takeovers that it has to write down first.
pub fn look(server: &Server, now_ms: u64) -> (Ownership, Vec<Op>) {
    let objects = objects(server);
    let records: BTreeMap<Site, Record> = objects.iter().filter_map(record_of).collect();
    let others = server.members.iter().filter(|member| member.number != server.number);
    let silent = others.map(|member| {
        let silent = member.actor.map_or(Some(0), |actor| server.contacts.silent_s(actor, now_ms));
        (site(member.number), silent)
    });
    let founder = server.members.iter().map(|member| member.number).min().map_or_else(|| site(0), site);
    let view = Ownership::of(&site(server.number), &founder);
    let verdict = judge(&view, &silent.collect(), &records, TAKEOVER_S);
    let write = |(lost, record): (&Site, &Record)| {
        let object = objects.iter().find(|object| object["spec"]["site"].as_str() == Some(lost))?;
        let mut object = object.clone();
        object["metadata"]["annotations"][RECORD] = format!("{}/{}", record.by, record.epoch).into();
        let number = lost.trim_start_matches("site-").parse().ok()?;
        Some(Op::Put { key: server_key(number), value: object.to_string().into(), lease: None })
    };
    let writes = verdict.write.iter().filter_map(write).collect();
    (verdict.ownership, writes)
}

/// Of servers that all hear each other: who acts on what is homed at each site. One at most, and home where it is there;
/// where it is not, exactly one of those who hear each other.
///
/// # Errors
/// What nobody, or more than one, or the wrong one acts on.
pub fn check(island: &[(u16, Ownership)], members: &[u16]) -> Result<(), String> {
    for home in members {
        let name = site(*home);
        let claim = Claim { home: Some(&name), stay: false, takeover_s: TAKEOVER_S, fixed: false };
        let acting: Vec<u16> =
            island.iter().filter(|(_, view)| view.acts_on(&claim)).map(|(number, _)| *number).collect();
        let there = island.iter().any(|(number, _)| number == home);
        if acting.len() != 1 || (there && acting[0] != *home) {
            let numbers: Vec<u16> = island.iter().map(|(number, _)| *number).collect();
            return Err(format!("of {numbers:?}, {acting:?} act on what is homed at {home}"));
        }
    }
    Ok(())
}
