//! Linearizability of what was called. A search is not needed: each answer names the revision at which the call took
//! place, so there is one order to try, and it is the proof. Replaying the calls in that order on a model must give each
//! client what it was given, and no call may stand before one that had ended when it began.
use crate::history::{Answer, Call, Event, History, Kv, Outcome, Request, Write};
use std::collections::BTreeMap;

/// What is stored at one revision.
pub type State = BTreeMap<String, Kv>;

/// One point of the one order.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    pub revision: i64,
    pub from_us: u64,
    pub to_us: u64,
    /// None: a lease ended.
    pub call: Option<&'a Call>,
    pub writes: bool,
}

/// The changes of one revision, and when a watch told them.
struct Written<'a> {
    events: Vec<&'a Event>,
    seen_us: u64,
    explained: bool,
}

type Log<'a> = BTreeMap<i64, Written<'a>>;

/// The order of all calls that took place; an error says what can't have been.
pub fn linearize(history: &History) -> Result<Vec<Step<'_>>, String> {
    let mut log = log(history);
    let mut steps = Vec::new();
    for call in &history.calls {
        steps.extend(known(call, &mut log)?);
    }
    let (putting, deleting): (Vec<_>, Vec<_>) =
        history.calls.iter().filter(|call| matches!(call.outcome, Outcome::Unknown)).partition(|call| puts(call));
    // A value tells who wrote it. Of a deletion the end of a lease explains more than a call that may have failed.
    steps.extend(putting.into_iter().filter_map(|call| unknown(call, &mut log)));
    for (revision, written) in log.iter_mut().filter(|(_, written)| !written.explained) {
        if let Ok(step) = expiry(history, *revision, written) {
            written.explained = true;
            steps.push(step);
        }
    }
    steps.extend(deleting.into_iter().filter_map(|call| unknown(call, &mut log)));
    if let Some((revision, written)) = log.iter().find(|(_, written)| !written.explained) {
        expiry(history, *revision, written)?;
    }
    steps.sort_by_key(|step| (step.revision, !step.writes, step.from_us));
    in_time(&steps)?;
    replay(&steps, &log)?;
    Ok(steps)
}

/// What was changed at a revision.
pub fn changes(history: &History, revision: i64) -> Vec<&Event> {
    let told = history.observed.iter().flat_map(|session| &session.told);
    told.flat_map(|told| &told.events).filter(|event| event.revision == revision).collect()
}

/// All states of the past, by revision.
pub fn states(history: &History) -> BTreeMap<i64, State> {
    let (mut state, mut states) = (State::new(), BTreeMap::new());
    for (revision, written) in log(history) {
        for event in written.events {
            match &event.kv {
                Some(kv) => state.insert(event.key.clone(), kv.clone()),
                None => state.remove(&event.key),
            };
        }
        states.insert(revision, state.clone());
    }
    states
}

fn log(history: &History) -> Log<'_> {
    let mut log = Log::new();
    for told in history.observed.iter().flat_map(|session| &session.told) {
        for event in &told.events {
            let written = Written { events: Vec::new(), seen_us: told.at_us, explained: false };
            log.entry(event.revision).or_insert(written).events.push(event);
        }
    }
    log
}

/// The step of a call that was answered; none for reads of the past, which are judged apart.
fn known<'a>(call: &'a Call, log: &mut Log<'_>) -> Result<Option<Step<'a>>, String> {
    let Outcome::Done(answer) = &call.outcome else { return Ok(None) };
    if matches!(call.request, Request::List { at: Some(_), .. }) {
        return Ok(None);
    }
    let writes = wrote(&call.request, answer);
    if writes {
        let written = log.get_mut(&answer.revision);
        let written = written.ok_or_else(|| format!("lost: no watch was told of {call:?}"))?;
        if std::mem::replace(&mut written.explained, true) {
            return Err(format!("revision {} was given twice, also to {call:?}", answer.revision));
        }
    }
    Ok(Some(Step {
        revision: answer.revision,
        from_us: call.called_us,
        to_us: call.returned_us,
        call: Some(call),
        writes,
    }))
}

fn wrote(request: &Request, answer: &Answer) -> bool {
    let Request::Txn { then, .. } = request else { return false };
    let changed = |(write, previous): (&Write, &Option<Kv>)| matches!(write, Write::Put { .. }) || previous.is_some();
    answer.succeeded && then.iter().zip(&answer.previous).any(changed)
}

fn puts(call: &Call) -> bool {
    let Request::Txn { then, .. } = &call.request else { return false };
    then.iter().any(|write| matches!(write, Write::Put { .. }))
}

/// The step of a call that nobody answered, if a watch shows that it took place.
fn unknown<'a>(call: &'a Call, log: &mut Log<'_>) -> Option<Step<'a>> {
    let Request::Txn { guard, then, .. } = &call.request else { return None };
    let (revision, written) = log.iter_mut().find(|(_, written)| {
        !written.explained && call.called_us <= written.seen_us && made(guard, then, &written.events)
    })?;
    written.explained = true;
    // It may have gone on after the client gave up.
    let (revision, from_us, to_us) = (*revision, call.called_us, written.seen_us);
    Some(Step { revision, from_us, to_us, call: Some(call), writes: true })
}

/// Whether these writes, whose condition held, made these events.
fn made(guard: &[(String, i64)], then: &[Write], events: &[&Event]) -> bool {
    let each = |write: &Write| {
        let event = events.iter().find(|event| event.key == write.key());
        match (write, event.map(|event| &event.kv)) {
            (Write::Put { value, .. }, Some(Some(kv))) => kv.value == *value,
            (Write::Delete { .. }, Some(None)) => true,
            (Write::Delete { .. }, None) => true,
            _ => false,
        }
    };
    let held = |event: &&Event| {
        let before = event.previous.as_ref().map_or(0, |kv| kv.modified);
        guard.iter().all(|(key, revision)| *key != event.key || *revision == before)
    };
    let of_it = |event: &&Event| then.iter().any(|write| write.key() == event.key);
    then.iter().all(each) && events.iter().all(|event| held(event) && of_it(event))
}

/// What no call wrote must be the end of a lease, and not before its time.
fn expiry<'a>(history: &History, revision: i64, written: &Written<'_>) -> Result<Step<'a>, String> {
    let id = written.events[0].previous.as_ref().map_or(0, |kv| kv.lease);
    let all = |event: &&Event| event.kv.is_none() && event.previous.as_ref().is_some_and(|kv| kv.lease == id);
    let lease = history.leases.iter().find(|lease| lease.id == id);
    let Some(lease) = lease.filter(|_| written.events.iter().all(all)) else {
        return Err(format!("revision {revision} was written by nobody: {:?}", written.events));
    };
    let granted = lease.alive_us.first().copied().unwrap_or(0);
    let ends = lease.alive_us.iter().map(|alive| alive + lease.ttl_s as u64 * 1_000_000).max().unwrap_or(0);
    match lease.revoked_us.is_some_and(|revoked| revoked <= written.seen_us) || ends <= written.seen_us {
        true => Ok(Step { revision, from_us: granted, to_us: written.seen_us, call: None, writes: true }),
        false => Err(format!("lease {id} ended at {} us, before its time, {ends} us", written.seen_us)),
    }
}

/// No call stands before one that had ended when it began.
fn in_time(steps: &[Step<'_>]) -> Result<(), String> {
    let mut latest: Option<&Step<'_>> = None;
    for step in steps {
        if let Some(before) = latest.filter(|before| step.to_us < before.from_us) {
            return Err(format!("stale: {step:?} had ended before {before:?} began, yet stands behind it"));
        }
        if latest.is_none_or(|before| before.from_us < step.from_us) {
            latest = Some(step);
        }
    }
    Ok(())
}

fn replay(steps: &[Step<'_>], log: &Log<'_>) -> Result<(), String> {
    let (mut state, mut revision) = (State::new(), 0);
    for step in steps {
        if !step.writes && revision != 0 && step.revision != revision {
            return Err(format!("{step:?} read at a revision that nobody wrote; the one before is {revision}"));
        }
        if let Some(Call { outcome: Outcome::Done(answer), request, .. }) = step.call {
            answered(request, answer, &state).map_err(|what| format!("{what}: {step:?}"))?;
        }
        if step.writes {
            revision = step.revision;
            let events = &log[&revision].events;
            if let Some(Call { request: Request::Txn { then, .. }, .. }) = step.call {
                expected(then, revision, &state, events).map_err(|what| format!("{what}: {step:?}"))?;
            }
            for event in events {
                apply(event, &mut state)?;
            }
        }
    }
    Ok(())
}

/// Whether a call on this state is answered so.
fn answered(request: &Request, answer: &Answer, state: &State) -> Result<(), String> {
    match request {
        Request::List { prefix, limit, .. } => listed(prefix, *limit, answer, state),
        Request::Txn { guard, then, otherwise } => {
            let now = |key: &String| state.get(key).map_or(0, |kv| kv.modified);
            if answer.succeeded != guard.iter().all(|(key, revision)| now(key) == *revision) {
                return Err("the condition was judged otherwise".into());
            }
            match (answer.succeeded, otherwise) {
                (true, _) => {
                    let before: Vec<_> = then.iter().map(|write| state.get(write.key()).cloned()).collect();
                    if before == answer.previous { Ok(()) } else { Err(format!("before it stood {before:?}")) }
                }
                (false, Some(key)) => listed(key, 0, answer, state),
                (false, None) => Ok(()),
            }
        }
    }
}

/// Whether a list of this state looks like that.
pub fn listed(prefix: &str, limit: i64, answer: &Answer, state: &State) -> Result<(), String> {
    let inside: Vec<&Kv> = state.values().filter(|kv| kv.key.starts_with(prefix)).collect();
    let shown = inside.iter().take(if limit == 0 { usize::MAX } else { limit as usize });
    match inside.len() as i64 == answer.count && shown.copied().eq(&answer.kvs) {
        true => Ok(()),
        false => Err(format!("a list should have shown {inside:?}")),
    }
}

/// Whether writes on this state make these events.
fn expected(then: &[Write], revision: i64, state: &State, events: &[&Event]) -> Result<(), String> {
    let made = then.iter().filter_map(|write| {
        let before = state.get(write.key());
        let kv = match write {
            Write::Delete { .. } => {
                before?;
                None
            }
            Write::Put { key, value, lease } => Some(Kv {
                key: key.clone(),
                value: value.clone(),
                create: before.map_or(revision, |kv| kv.create),
                modified: revision,
                version: before.map_or(1, |kv| kv.version + 1),
                lease: *lease,
            }),
        };
        Some(Event { revision, key: write.key().into(), kv, previous: before.cloned() })
    });
    let made: Vec<Event> = made.collect();
    match made.iter().eq(events.iter().copied()) {
        true => Ok(()),
        false => Err(format!("it should have made {made:?}, and made {events:?}")),
    }
}

fn apply(event: &Event, state: &mut State) -> Result<(), String> {
    let before = match &event.kv {
        Some(kv) => state.insert(event.key.clone(), kv.clone()),
        None => state.remove(&event.key),
    };
    match before == event.previous {
        true => Ok(()),
        false => Err(format!("before {event:?} stood {before:?}")),
    }
}

/// Reads at a revision of the past show what was then, however often they are made.
pub fn past(history: &History) -> Result<usize, String> {
    let states = states(history);
    let mut judged = 0;
    for call in &history.calls {
        let Request::List { prefix, limit, at: Some(at) } = &call.request else { continue };
        match &call.outcome {
            Outcome::Done(answer) => {
                let state = states.range(..=at).next_back().map(|(_, state)| state);
                let state = state.ok_or_else(|| format!("nothing was written when {call:?} read"))?;
                listed(prefix, *limit, answer, state).map_err(|what| format!("{what}: {call:?}"))?;
                judged += 1;
            }
            Outcome::Compacted if *at >= history.compacted => return Err(format!("never compacted: {call:?}")),
            _ => {}
        }
    }
    Ok(judged)
}
