//! Packets into questions, answers into packets (RFC 1035, RFC 6891).
use super::zone::{Answer, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// Largest answer over UDP to a client without EDNS, in bytes (RFC 1035, 4.2.1).
const PLAIN_BYTES: u16 = 512;

/// Largest answer over UDP that is sent at all; pods and their resolver share a machine, so no path is narrower.
pub const MAX_UDP_BYTES: u16 = 4096;

/// A question that can be answered.
#[derive(Debug)]
pub struct Question {
    pub message: Message,
    pub query: Query,
}

/// What to do with a packet.
#[derive(Debug)]
pub enum Parsed {
    Question(Box<Question>),
    /// Answer at once with this.
    Reply(Message),
    /// Nobody could make sense of an answer.
    Ignore,
}

/// Reads a packet. Never fails: whoever sends nonsense hears so, if it has a header.
pub fn parse(packet: &[u8]) -> Parsed {
    let Some(&[id_high, id_low, flags, ..]) = packet.first_chunk::<12>() else { return Parsed::Ignore };
    // An answer must never be answered: two resolvers would talk for ever.
    if flags & 0x80 != 0 {
        return Parsed::Ignore;
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    if op_code != OpCode::Query {
        return Parsed::Reply(Message::error_msg(id, op_code, ResponseCode::NotImp));
    }
    let format_error = || Parsed::Reply(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
    let Ok(message) = Message::from_vec(packet) else { return format_error() };
    let [query] = &message.queries[..] else { return format_error() };
    let query = query.clone();
    let question = Question { message, query };
    if question.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Parsed::Reply(question.response(ResponseCode::BADVERS));
    }
    if question.query.query_class() != DNSClass::IN {
        return Parsed::Reply(question.response(ResponseCode::Refused));
    }
    Parsed::Question(Box::new(question))
}

impl Question {
    /// An answer without records.
    pub fn response(&self, code: ResponseCode) -> Message {
        let mut response = Message::response(self.message.metadata.id, OpCode::Query);
        response.metadata.message_type = MessageType::Response;
        response.metadata.recursion_desired = self.message.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.metadata.checking_disabled = self.message.metadata.checking_disabled;
        response.metadata.response_code = code;
        response.add_query(self.query.clone());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_BYTES);
            edns.set_rcode_high(code.high());
            response.set_edns(edns);
        }
        response
    }

    /// The zone's answer; `None` for what has to be asked elsewhere.
    pub fn answer(&self, zone: &Zone, answer: Answer) -> Option<Message> {
        let negative = |code| {
            let mut response = self.authoritative(code);
            response.add_authority(zone.soa(1));
            response
        };
        match answer {
            Answer::Records { answers, additionals } => {
                let mut response = self.authoritative(ResponseCode::NoError);
                response.add_answers(answers);
                response.add_additionals(additionals);
                Some(response)
            }
            Answer::NoData => Some(negative(ResponseCode::NoError)),
            Answer::NxDomain => Some(negative(ResponseCode::NXDomain)),
            Answer::Unknown => Some(self.response(ResponseCode::ServFail)),
            Answer::Alias { .. } | Answer::NotOurs => None,
        }
    }

    /// An alias with whatever is known of its target.
    pub fn alias(&self, alias: Record, records: Vec<Record>) -> Message {
        let mut response = self.authoritative(ResponseCode::NoError);
        response.add_answer(alias);
        response.add_answers(records);
        response
    }

    /// Bytes that the client takes over UDP.
    pub fn udp_bytes(&self) -> u16 {
        udp_bytes(&self.message)
    }

    fn authoritative(&self, code: ResponseCode) -> Message {
        let mut response = self.response(code);
        response.metadata.authoritative = true;
        response
    }
}

/// Bytes that the sender of `message` takes over UDP.
pub fn udp_bytes(message: &Message) -> u16 {
    let asked = message.edns.as_ref().map_or(PLAIN_BYTES, Edns::max_payload);
    asked.clamp(PLAIN_BYTES, MAX_UDP_BYTES)
}

/// The packet; records that don't fit are left out and the truncation bit is set.
pub fn encode(response: &Message, max_bytes: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(max_bytes);
    response.emit(&mut encoder).inspect_err(|error| tracing::debug!(%error, "DNS answer can't be written")).ok()?;
    Some(bytes)
}
