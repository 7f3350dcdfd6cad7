//! Answers of other resolvers, for as long as they said, within bounds.
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// Answers kept; at some hundred bytes each, under a megabyte.
const MAX_ANSWERS: usize = 1024;

/// Longest that an answer is kept, whatever it says.
const MAX_TTL_S: u32 = 30;

/// Longest that "does not exist" is kept.
const MAX_NEGATIVE_TTL_S: u32 = 10;

/// Answers larger than this are not kept, in records.
const MAX_RECORDS: usize = 64;

/// What was asked: lower-case name, type, and whether DNSSEC records were wanted.
pub type Key = (Name, RecordType, bool);

#[derive(Default)]
pub struct Cache {
    answers: HashMap<Key, (Message, Instant)>,
    /// Keys in order of arrival; the first is evicted first.
    order: VecDeque<Key>,
}

impl Cache {
    /// A fresh answer, its TTLs lowered to what is left of them.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Message> {
        let (message, kept) = self.answers.get(key)?;
        let age_s = u32::try_from(now.saturating_duration_since(*kept).as_secs()).unwrap_or(u32::MAX);
        if age_s >= ttl_s(message)? {
            return None;
        }
        let mut message = message.clone();
        for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
            record.ttl = record.ttl.saturating_sub(age_s);
        }
        Some(message)
    }

    /// Keeps an answer that may be kept.
    pub fn put(&mut self, key: Key, message: &Message, now: Instant) {
        let records = message.answers.len() + message.authorities.len() + message.additionals.len();
        if records > MAX_RECORDS || message.metadata.truncation || ttl_s(message).is_none_or(|ttl| ttl == 0) {
            return;
        }
        if self.answers.insert(key.clone(), (message.clone(), now)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > MAX_ANSWERS {
            if let Some(first) = self.order.pop_front() {
                self.answers.remove(&first);
            }
        }
    }
}

/// For how long an answer may be kept (RFC 2308 for negative ones); `None` for failures.
fn ttl_s(message: &Message) -> Option<u32> {
    let negative = message.answers.is_empty();
    match message.metadata.response_code {
        ResponseCode::NoError if !negative => {
            message.answers.iter().map(|record| record.ttl).min().map(|ttl| ttl.min(MAX_TTL_S))
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            soa.map(|ttl| ttl.min(MAX_NEGATIVE_TTL_S))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;
    use std::time::Duration;

    const LONGEST: Duration = Duration::from_secs(MAX_TTL_S as u64);

    fn key(name: &str) -> Key {
        (Name::from_ascii(name).expect("name"), RecordType::A, false)
    }

    fn message(ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        let name = Name::from_ascii("a.example.").expect("name");
        message.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, 1))));
        message
    }

    #[test]
    fn grows_old() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("a.example."), &message(20), now);
        let later = cache.get(&key("a.example."), now + Duration::from_secs(5)).expect("fresh");
        assert_eq!(later.answers[0].ttl, 15);
        assert_eq!(cache.get(&key("a.example."), now + Duration::from_secs(20)), None);
        cache.put(key("b.example."), &message(86_400), now);
        assert_eq!(cache.get(&key("b.example."), now + LONGEST), None, "whatever it says");
    }

    #[test]
    fn is_bounded() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..MAX_ANSWERS + 10 {
            cache.put(key(&format!("n{number}.example.")), &message(20), now);
        }
        assert_eq!((cache.answers.len(), cache.order.len()), (MAX_ANSWERS, MAX_ANSWERS));
        assert_eq!(cache.get(&key("n0.example."), now), None, "the oldest went");
    }

    #[test]
    fn failures_are_not_kept() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let failure = Message::error_msg(1, OpCode::Query, ResponseCode::ServFail);
        cache.put(key("a.example."), &failure, now);
        cache.put(key("a.example."), &message(0), now);
        assert_eq!(cache.get(&key("a.example."), now), None);
    }
}
