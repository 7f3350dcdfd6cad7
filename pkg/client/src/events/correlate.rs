//! Which Events become objects: repeated ones count up, similar ones are combined, floods are dropped. The rules and
//! figures are those of client-go's event correlator; pure, with the time as an argument.
use super::{Key, Notice};
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};

/// Events that one object may cause at once before it is slowed down.
const BURST: f64 = 25.0;
/// Then one event in this time, in seconds.
const REFILL_S: f64 = 300.0;
/// Different messages of one reason on one object that are kept apart; further ones are combined.
const SIMILAR: usize = 10;
/// Similar events further apart than this, in seconds, are not combined.
const WINDOW_S: i64 = 600;
/// Entries of each table; past it the oldest are dropped, which at worst makes an Event anew.
const ENTRIES: usize = 4096;
/// What combined messages begin with.
const COMBINED: &str = "(combined from similar events): ";

/// What to write for a notice.
#[derive(Debug, PartialEq)]
pub(super) enum Write {
    Create { key: Key, name: String, message: String },
    Count { key: Key, namespace: String, name: String, message: String, count: i32, first: Timestamp },
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Group {
    messages: HashSet<String>,
    at: Timestamp,
}

struct Written {
    namespace: String,
    name: String,
    count: i32,
    first: Timestamp,
    at: Timestamp,
}

#[derive(Default)]
pub(super) struct Correlator {
    buckets: HashMap<Key, Bucket>,
    groups: HashMap<Key, Group>,
    written: HashMap<Key, Written>,
}

impl Correlator {
    /// What to write, or nothing for an object that floods.
    pub(super) fn observe(&mut self, notice: &Notice, now: Timestamp) -> Option<Write> {
        if !self.admit(notice.object_key(), now) {
            return None;
        }
        let (key, message) = self.combine(notice, now);
        if let Some(written) = self.written.get_mut(&key) {
            written.count = written.count.saturating_add(1);
            written.at = now;
            let (namespace, name) = (written.namespace.clone(), written.name.clone());
            let (count, first) = (written.count, written.first);
            return Some(Write::Count { key, namespace, name, message, count, first });
        }
        let name = notice.event_name(now);
        let (namespace, first) = (notice.event_namespace(), now);
        drop_oldest(&mut self.written, |written| written.at);
        self.written.insert(key.clone(), Written { namespace, name: name.clone(), count: 1, first, at: now });
        Some(Write::Create { key, name, message })
    }

    /// The Event that should have been counted up is gone: the next one is made anew.
    pub(super) fn forget(&mut self, key: &Key) {
        self.written.remove(key);
    }

    fn admit(&mut self, key: Key, now: Timestamp) -> bool {
        drop_oldest(&mut self.buckets, |bucket| bucket.at);
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: BURST, at: now });
        let passed_s = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed_s / REFILL_S).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn combine(&mut self, notice: &Notice, now: Timestamp) -> (Key, String) {
        let key = notice.reason_key();
        drop_oldest(&mut self.groups, |group| group.at);
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group { messages: HashSet::new(), at: now });
        if now.duration_since(group.at).as_secs() > WINDOW_S {
            group.messages.clear();
        }
        group.at = now;
        if group.messages.len() < SIMILAR || group.messages.contains(&notice.message) {
            group.messages.insert(notice.message.clone());
            return (notice.message_key(), notice.message.clone());
        }
        (key, format!("{COMBINED}{}", notice.message))
    }
}

fn drop_oldest<V>(table: &mut HashMap<Key, V>, at: impl Fn(&V) -> Timestamp) {
    if table.len() < ENTRIES {
        return;
    }
    let mut times: Vec<Timestamp> = table.values().map(&at).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    table.retain(|_, value| at(value) > median);
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ObjectReference;

    fn notice(object: &str, message: &str) -> Notice {
        let object = ObjectReference { name: Some(object.into()), namespace: Some("ns".into()), ..Default::default() };
        Notice { object, warning: true, reason: "Failed".into(), message: message.into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn the_same_event_counts_up() {
        let mut correlator = Correlator::default();
        let Some(Write::Create { name, .. }) = correlator.observe(&notice("a", "m"), at(0)) else { panic!("create") };
        assert!(name.starts_with("a."), "{name}");
        match correlator.observe(&notice("a", "m"), at(1)).unwrap() {
            Write::Count { name: again, count: 2, first, namespace, .. } => {
                assert_eq!((again, first, namespace.as_str()), (name, at(0), "ns"));
            }
            other => panic!("{other:?}"),
        }
        let other = correlator.observe(&notice("b", "m"), at(1)).unwrap();
        assert!(matches!(other, Write::Create { .. }), "another object's event is its own");
    }

    #[test]
    fn similar_events_are_combined_after_ten() {
        let mut correlator = Correlator::default();
        for n in 0..10 {
            let write = correlator.observe(&notice("a", &n.to_string()), at(0)).unwrap();
            assert!(matches!(write, Write::Create { .. }));
        }
        let Some(Write::Create { message, .. }) = correlator.observe(&notice("a", "10"), at(1)) else { panic!() };
        assert_eq!(message, "(combined from similar events): 10");
        let Some(Write::Count { count: 2, .. }) = correlator.observe(&notice("a", "11"), at(2)) else { panic!() };
    }

    #[test]
    fn a_flood_is_cut_and_comes_back_slowly() {
        let mut correlator = Correlator::default();
        let passed = (0..100).filter(|_| correlator.observe(&notice("a", "m"), at(0)).is_some()).count();
        assert_eq!(passed, 25);
        assert!(correlator.observe(&notice("a", "m"), at(299)).is_none());
        assert!(correlator.observe(&notice("a", "m"), at(301)).is_some());
    }

    #[test]
    fn a_lost_event_is_made_anew_and_tables_stay_bounded() {
        let mut correlator = Correlator::default();
        let Some(Write::Create { key, .. }) = correlator.observe(&notice("a", "m"), at(0)) else { panic!() };
        correlator.forget(&key);
        assert!(matches!(correlator.observe(&notice("a", "m"), at(1)), Some(Write::Create { .. })));
        for n in 0..3 * ENTRIES as i64 {
            correlator.observe(&notice(&n.to_string(), "m"), at(n));
        }
        assert!(correlator.written.len() <= ENTRIES && correlator.buckets.len() <= ENTRIES);
    }
}
