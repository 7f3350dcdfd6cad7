//! The guarantees of etcd's watches (its documentation, "etcd API guarantees"), judged on what watches told: ordered,
//! unique, reliable, atomic, resumable, bookmarkable, and with what was before.
use crate::history::{Event, History, Session};
use std::collections::BTreeMap;

/// Everything that was written, by revision and in order.
type Log = Vec<Event>;

/// Judges every session; returns how many events and bookmarks they were told.
pub fn judge(history: &History) -> Result<(usize, usize), String> {
    let log = log(&history.observed)?;
    let (mut events, mut bookmarks) = (0, 0);
    for session in history.sessions.iter().chain(&history.observed) {
        one(session, &log, history.compacted)?;
        events += session.told.iter().map(|told| told.events.len()).sum::<usize>();
        bookmarks += session.told.iter().filter(|told| told.events.is_empty()).count();
    }
    Ok((events, bookmarks))
}

/// The log as one watch saw it that resumed after each interruption.
fn log(observed: &[Session]) -> Result<Log, String> {
    let told = observed.iter().flat_map(|session| &session.told);
    let log: Log = told.flat_map(|told| told.events.clone()).collect();
    ordered(&log)?;
    let mut state = BTreeMap::new();
    for event in &log {
        previous(event, state.get(&event.key))?;
        match &event.kv {
            Some(kv) => state.insert(event.key.clone(), kv.clone()),
            None => state.remove(&event.key),
        };
    }
    Ok(log)
}

fn one(session: &Session, log: &[Event], compacted: i64) -> Result<(), String> {
    let told: Vec<Event> = session.told.iter().flat_map(|told| told.events.clone()).collect();
    ordered(&told)?;
    let wanted: Vec<&Event> =
        log.iter().filter(|event| event.revision >= session.from && event.key.starts_with(&session.prefix)).collect();
    if session.compacted && session.from >= compacted {
        return Err(format!("resumable: told that {} is compacted, which it is not", session.from));
    }
    for (told, wanted) in told.iter().zip(&wanted) {
        same(told, wanted, session.prev_kv)?;
    }
    if told.len() > wanted.len() {
        return Err(format!("nobody wrote {:?}", told[wanted.len()]));
    }
    atomic(session, &wanted)?;
    bookmarks(session, &wanted)
}

/// Ordered and unique: what one watch tells rises, by revision and within one by place.
fn ordered(told: &[Event]) -> Result<(), String> {
    for pair in told.windows(2) {
        let [first, second] = pair else { continue };
        if second.revision < first.revision {
            return Err(format!("ordered: {second:?} was told after {first:?}"));
        }
        if second.revision == first.revision && second.key == first.key {
            return Err(format!("unique: {second:?} was told twice"));
        }
    }
    Ok(())
}

/// Reliable and resumable: the next event is the next that was written, none is left out.
fn same(told: &Event, wanted: &Event, prev_kv: bool) -> Result<(), String> {
    if (told.revision, &told.key) != (wanted.revision, &wanted.key) {
        return Err(format!("reliable: {wanted:?} was left out; {told:?} was told"));
    }
    if told.kv != wanted.kv {
        return Err(format!("{wanted:?} was told as {told:?}"));
    }
    match prev_kv {
        true => previous(told, wanted.previous.as_ref()),
        false => Ok(()),
    }
}

/// With what was before; and who is born has no life before.
fn previous(event: &Event, before: Option<&crate::history::Kv>) -> Result<(), String> {
    if event.previous.as_ref() != before {
        return Err(format!("prev-kv: before {event:?} stood {before:?}"));
    }
    let born = event.kv.as_ref().is_some_and(|kv| kv.create == kv.modified);
    match (born, before, &event.kv) {
        (true, Some(_), _) | (false, None, _) => Err(format!("prev-kv: {event:?} is not told as what it is")),
        (_, _, Some(kv)) if kv.version != before.map_or(1, |kv| kv.version + 1) => {
            Err(format!("prev-kv: {event:?} has another version"))
        }
        _ => Ok(()),
    }
}

/// Atomic: a revision comes in one response, whole.
fn atomic(session: &Session, wanted: &[&Event]) -> Result<(), String> {
    let mut at = 0;
    for told in session.told.iter().filter(|told| !told.events.is_empty()) {
        at += told.events.len();
        let (last, next) = (wanted[at - 1], wanted.get(at));
        if next.is_some_and(|next| next.revision == last.revision) {
            return Err(format!("atomic: revision {} was divided", last.revision));
        }
    }
    Ok(())
}

/// Bookmarkable: when a watch says how far it is, it has told everything up to there.
fn bookmarks(session: &Session, wanted: &[&Event]) -> Result<(), String> {
    let mut at = 0;
    for told in &session.told {
        at += told.events.len();
        let next = wanted.get(at);
        if let Some(next) = next.filter(|next| told.events.is_empty() && next.revision <= told.revision) {
            return Err(format!("bookmarkable: said to be at {}, without {next:?}", told.revision));
        }
    }
    Ok(())
}
