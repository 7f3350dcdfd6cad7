//! The checkers find what they are for: a small history that is right, and each way in which it could be wrong.
use crate::history::{Answer, Call, Event, History, Kv, Outcome, Request, Session, Told, Write};
use crate::{kv, watches};

fn entry(key: &str, value: &str, create: i64, modified: i64, version: i64) -> Kv {
    Kv { key: key.into(), value: value.into(), create, modified, version, lease: 0 }
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.into(), lease: 0 }
}

fn txn(guard: &[(&str, i64)], then: Vec<Write>) -> Request {
    let guard = guard.iter().map(|(key, revision)| ((*key).to_owned(), *revision)).collect();
    Request::Txn { guard, then, otherwise: None }
}

fn call(called_us: u64, request: Request, revision: i64, previous: Vec<Option<Kv>>) -> Call {
    let answer = Answer { revision, succeeded: true, previous, ..Answer::default() };
    Call { client: 0, called_us, returned_us: called_us + 10, request, outcome: Outcome::Done(answer) }
}

fn event(revision: i64, key: &str, kv: Option<Kv>, previous: Option<Kv>) -> Event {
    Event { revision, key: key.into(), kv, previous }
}

/// Two keys born at once, one changed, the other deleted, then a list.
fn good() -> History {
    let (a, b) = (entry("/k/a", "1", 2, 2, 1), entry("/k/b", "2", 2, 2, 1));
    let changed = entry("/k/a", "3", 2, 4, 2);
    let told = |at_us, revision, events| Told { at_us, revision, events };
    let session = Session {
        prefix: "/k/".into(),
        prev_kv: true,
        from: 1,
        told: vec![
            told(5, 2, vec![event(2, "/k/a", Some(a.clone()), None), event(2, "/k/b", Some(b.clone()), None)]),
            told(25, 4, vec![event(4, "/k/a", Some(changed.clone()), Some(a.clone()))]),
            told(45, 6, vec![event(6, "/k/b", None, Some(b.clone()))]),
            told(46, 6, vec![]),
        ],
        compacted: false,
    };
    let mut list = call(60, Request::List { prefix: "/k/".into(), limit: 0, at: None }, 6, vec![]);
    list.outcome = Outcome::Done(Answer {
        revision: 6,
        succeeded: true,
        kvs: vec![changed.clone()],
        count: 1,
        ..Answer::default()
    });
    let calls = vec![
        call(0, txn(&[], vec![put("/k/a", "1"), put("/k/b", "2")]), 2, vec![None, None]),
        call(20, txn(&[("/k/a", 2)], vec![put("/k/a", "3")]), 4, vec![Some(a)]),
        call(40, txn(&[], vec![Write::Delete { key: "/k/b".into() }]), 6, vec![Some(b)]),
        list,
    ];
    History { calls, sessions: vec![session.clone()], observed: vec![session], ..History::default() }
}

fn answer(history: &mut History, of: usize) -> &mut Answer {
    match &mut history.calls[of].outcome {
        Outcome::Done(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn not_linearizable(why: &str, change: impl FnOnce(&mut History)) {
    let mut history = good();
    change(&mut history);
    let found = kv::linearize(&history).map(|steps| steps.len());
    assert!(found.as_ref().is_err_and(|what| what.contains(why)), "{why}: {found:?}");
}

fn no_watch(why: &str, change: impl FnOnce(&mut Session)) {
    let mut history = good();
    change(&mut history.sessions[0]);
    let found = watches::judge(&history);
    assert!(found.as_ref().is_err_and(|what| what.starts_with(why)), "{why}: {found:?}");
}

#[test]
fn what_is_right_passes() {
    assert_eq!(kv::linearize(&good()).unwrap().len(), 4);
    assert_eq!(watches::judge(&good()).unwrap(), (8, 2));
}

#[test]
fn calls_that_nobody_answered_may_have_happened_or_not() {
    let mut history = good();
    history.calls[1].outcome = Outcome::Unknown;
    history.calls[2].outcome = Outcome::Unknown;
    assert_eq!(kv::linearize(&history).unwrap().len(), 4);
    let never = txn(&[], vec![put("/k/a", "never")]);
    history.calls.push(Call { outcome: Outcome::Unknown, ..call(50, never, 0, vec![]) });
    assert_eq!(kv::linearize(&history).unwrap().len(), 4);
}

#[test]
fn wrong_histories_of_calls_are_found() {
    not_linearizable("lost", |history| drop(history.observed[0].told.remove(1)));
    not_linearizable("by nobody", |history| drop(history.calls.remove(1)));
    not_linearizable("given twice", |history| {
        let twice = history.calls[1].clone();
        history.calls.push(twice);
    });
    not_linearizable("stale", |history| {
        let (a, b) = (entry("/k/a", "3", 2, 4, 2), entry("/k/b", "2", 2, 2, 1));
        let stale = Answer { revision: 4, succeeded: true, kvs: vec![a, b], count: 2, ..Answer::default() };
        *answer(history, 3) = stale;
    });
    not_linearizable("a list should have shown", |history| answer(history, 3).kvs[0].value = "1".into());
    not_linearizable("the condition", |history| history.calls[1].request = txn(&[("/k/a", 0)], vec![put("/k/a", "3")]));
    not_linearizable("before it stood", |history| answer(history, 1).previous = vec![None]);
    not_linearizable("it should have made", |history| history.observed[0].told[1].events[0].key = "/k/c".into());
    not_linearizable("nobody wrote", |history| answer(history, 3).revision = 8);
}

#[test]
fn a_past_that_changes_is_found() {
    let mut history = good();
    let mut read = history.calls[3].clone();
    read.request = Request::List { prefix: "/k/".into(), limit: 0, at: Some(2) };
    history.calls.push(read);
    assert!(kv::past(&history).is_err());
    answer(&mut history, 4).kvs = vec![entry("/k/a", "1", 2, 2, 1), entry("/k/b", "2", 2, 2, 1)];
    answer(&mut history, 4).count = 2;
    assert_eq!(kv::past(&history), Ok(1));
}

#[test]
fn wrong_watches_are_found() {
    no_watch("ordered", |session| session.told.swap(1, 2));
    no_watch("unique", |session| {
        let again = session.told[1].clone();
        session.told.insert(1, again);
    });
    no_watch("reliable", |session| drop(session.told.remove(1)));
    no_watch("reliable", |session| drop(session.told[0].events.remove(0)));
    no_watch("atomic", |session| {
        let second = session.told[0].events.pop().unwrap();
        session.told.insert(1, Told { at_us: 6, revision: 2, events: vec![second] });
    });
    no_watch("bookmarkable", |session| {
        session.told.truncate(2);
        session.told.push(Told { at_us: 30, revision: 6, events: vec![] });
    });
    no_watch("prev-kv", |session| session.told[1].events[0].previous = None);
    no_watch("resumable", |session| session.compacted = true);
}
