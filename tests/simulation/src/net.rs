//! Links between servers: streams that delay, stall and break.
use std::collections::{BTreeMap, VecDeque};
use sync::Message;

/// A stream in one direction.
#[derive(Default)]
pub struct Stream {
    /// When each message arrives, and the message as bytes.
    pub queue: VecDeque<(u64, Vec<u8>)>,
    /// Nothing arrives; the sender does not know.
    pub stalled: bool,
}

/// Which servers can reach each other, and what is under way.
#[derive(Default)]
pub struct Net {
    /// By both numbers, the lower first: whether the link is up.
    pub links: BTreeMap<(u16, u16), bool>,
    /// By sender and receiver.
    pub streams: BTreeMap<(u16, u16), Stream>,
}

pub fn pair(a: u16, b: u16) -> (u16, u16) {
    (a.min(b), a.max(b))
}

impl Net {
    pub fn is_up(&self, a: u16, b: u16) -> bool {
        self.links.get(&pair(a, b)).copied().unwrap_or(false)
    }

    /// Puts a message on its way; returns its size.
    pub fn send(&mut self, from: u16, to: u16, at: u64, message: &Message) -> u64 {
        let stream = self.streams.entry((from, to)).or_default();
        let at = stream.queue.back().map_or(at, |(last, _)| at.max(*last));
        let bytes = message.encode();
        let size = bytes.len() as u64;
        stream.queue.push_back((at, bytes));
        size
    }

    /// The next message that has arrived.
    pub fn arrived(&mut self, from: u16, to: u16, now: u64) -> Option<Message> {
        let stream = self.streams.get_mut(&(from, to)).filter(|stream| !stream.stalled)?;
        let due = stream.queue.front().is_some_and(|(at, _)| *at <= now);
        let (_, bytes) = if due { stream.queue.pop_front()? } else { return None };
        Some(Message::decode(&bytes).expect("a message is read as it was written"))
    }

    /// Loses everything under way between two servers.
    pub fn drop_streams(&mut self, a: u16, b: u16) {
        self.streams.remove(&(a, b));
        self.streams.remove(&(b, a));
    }

    pub fn forget(&mut self, number: u16) {
        self.links.retain(|(a, b), _| *a != number && *b != number);
        self.streams.retain(|(a, b), _| *a != number && *b != number);
    }
}
