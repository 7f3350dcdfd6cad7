//! Documents and changes as bytes. A stamp is named by its number in the document's own table: most fields share few.
use crate::document::{Change, Event};
use crate::edit::{Dot, Edit};
use crate::life::Life;
use crate::place::{Fields, Name, Own, Place, What};
use crate::{Actor, Delta, Document, Stamp, Vector};
use serde_json::Value;

/// What cannot be read. The names are postcard's, whose integers and lengths these are, too.
pub(crate) type Result<T> = std::result::Result<T, postcard::Error>;

/// The first byte of everything: how the rest is to be read.
const VERSION: u8 = 1;
/// How deep places may lie in each other; JSON's own bound is 128, and a list takes one more.
const DEPTH: u32 = 300;

const UNEXPECTED: postcard::Error = postcard::Error::DeserializeBadEncoding;

// What a place is, in the low bits of its tag.
const NONE: u8 = 0;
const ABSENT: u8 = 1;
const NULL: u8 = 2;
const FALSE: u8 = 3;
const TRUE: u8 = 4;
const UNSIGNED: u8 = 5;
const NEGATIVE: u8 = 6;
const FLOAT: u8 = 7;
const TEXT: u8 = 8;
const WHOLE: u8 = 9;
const COUNTER: u8 = 10;
const STRUCT: u8 = 11;
const MAP: u8 = 12;
const KEYED: u8 = 13;
const SET: u8 = 14;
/// Another tag follows, of the value.
const LEAST: u8 = 15;
const WHAT: u8 = 0x0f;
// Of both.
const HOLLOW: u8 = 0x10;
const FIELDS: u8 = 0x20;
const ORDER: u8 = 0x40;
/// A second byte of flags follows.
const MORE: u8 = 0x80;
// Of a place, in the second byte.
const CLEARED: u8 = 1;
const DOTS: u8 = 2;
// Of an edit, in the second byte.
const FRESH: u8 = 1;
const ADD: u8 = 2;
const REMOVE: u8 = 4;
const COUNT: u8 = 8;

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    actors: Vec<Actor>,
    stamps: Vec<Stamp>,
    /// The number of the last stamp: the next is often the same.
    last: usize,
}

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn signed(&mut self, number: i64) {
        self.number((number << 1 ^ number >> 63) as u64);
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn table(&mut self, mut stamps: Vec<Stamp>) {
        stamps.sort();
        stamps.dedup();
        self.actors = stamps.iter().map(|stamp| stamp.actor).collect();
        self.actors.sort();
        self.actors.dedup();
        self.number(self.actors.len() as u64);
        self.actors.iter().for_each(|actor| self.bytes.extend_from_slice(&actor.0));
        self.number(stamps.len() as u64);
        let mut before = 0;
        for stamp in &stamps {
            self.number(stamp.time - before);
            before = stamp.time;
            let actor = self.actors.binary_search(&stamp.actor).unwrap_or_default();
            self.number(actor as u64);
        }
        self.stamps = stamps;
    }

    fn stamp(&mut self, stamp: Stamp) {
        if self.stamps.get(self.last) != Some(&stamp) {
            self.last = self.stamps.binary_search(&stamp).unwrap_or_default();
        }
        self.number(self.last as u64);
    }

    fn stamps(&mut self, stamps: &[Stamp]) {
        self.number(stamps.len() as u64);
        stamps.iter().for_each(|stamp| self.stamp(*stamp));
    }

    fn vector(&mut self, vector: &Vector) {
        self.number(vector.iter().count() as u64);
        for stamp in vector.iter() {
            self.stamp(stamp);
        }
    }

    /// The rest of what a tag says.
    fn what(&mut self, what: &What) {
        match what {
            What::Scalar(value) => self.scalar(value),
            What::Least(value) => {
                let tag = scalar_tag(value);
                self.bytes.push(tag);
                self.scalar(value);
            }
            What::Whole(text) | What::Keyed(text) => self.blob(text.as_bytes()),
            What::Absent | What::Counter | What::Struct | What::Map | What::Set => {}
        }
    }

    fn scalar(&mut self, value: &Value) {
        match value {
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => self.number(number),
                (None, Some(number)) => self.signed(number),
                (None, None) => self.bytes.extend(number.as_f64().unwrap_or_default().to_le_bytes()),
            },
            Value::String(text) => self.blob(text.as_bytes()),
            Value::Array(_) | Value::Object(_) => self.blob(value.to_string().as_bytes()),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn place(&mut self, place: &Place) {
        let more =
            if place.cleared == place.implied() { 0 } else { CLEARED } | if place.dots.is_empty() { 0 } else { DOTS };
        let hollow = place.own.as_ref().is_some_and(|own| own.hollow);
        let what = place.own.as_ref().map(|own| &own.what);
        self.tag(what, hollow, !place.fields.is_empty(), place.order.is_some(), more);
        if let Some(own) = &place.own {
            self.stamp(own.stamp);
            self.what(&own.what);
        }
        if let Some((stamp, position)) = place.order {
            self.stamp(stamp);
            self.signed(position);
        }
        if more & CLEARED != 0 {
            self.stamp(place.cleared);
        }
        if more & DOTS != 0 {
            self.number(place.dots.len() as u64);
            for (stamp, amount) in &place.dots {
                self.stamp(*stamp);
                self.signed(*amount);
            }
        }
        if !place.fields.is_empty() {
            self.number(place.fields.len() as u64);
            for (name, inner) in place.fields.iter() {
                self.blob(name.as_bytes());
                self.place(inner);
            }
        }
    }

    fn tag(&mut self, what: Option<&What>, hollow: bool, fields: bool, order: bool, more: u8) {
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        let tag = what.map_or(NONE, what_tag);
        self.bytes.push(tag | flag(hollow, HOLLOW) | flag(fields, FIELDS) | flag(order, ORDER) | flag(more != 0, MORE));
        if more != 0 {
            self.bytes.push(more);
        }
    }

    fn edit(&mut self, edit: &Edit) {
        let dot = match edit.dot {
            Some(Dot::Add) => ADD,
            Some(Dot::Remove) => REMOVE,
            Some(Dot::Count(_)) => COUNT,
            None => 0,
        };
        let more = dot | if edit.fresh { FRESH } else { 0 };
        self.tag(edit.what.as_ref(), edit.hollow, !edit.fields.is_empty(), edit.order.is_some(), more);
        if let Some(what) = &edit.what {
            self.what(what);
        }
        if let Some(position) = edit.order {
            self.signed(position);
        }
        if let Some(Dot::Count(amount)) = edit.dot {
            self.signed(amount);
        }
        if !edit.fields.is_empty() {
            self.number(edit.fields.len() as u64);
            for (name, inner) in &edit.fields {
                self.blob(name.as_bytes());
                self.edit(inner);
            }
        }
    }

    fn life(&mut self, life: &Life) {
        self.blob(life.uid.as_bytes());
        self.stamps(&life.births);
        self.stamps(&life.deaths);
        self.number(life.aliases.len() as u64);
        for (birth, uid) in &life.aliases {
            self.stamp(*birth);
            self.blob(uid.as_bytes());
        }
        self.place(&life.root);
    }

    fn register(&mut self, value: Option<&Vec<u8>>) {
        match value {
            None => self.bytes.push(0),
            Some(bytes) => {
                self.bytes.push(1);
                self.blob(bytes);
            }
        }
    }
}

fn what_tag(what: &What) -> u8 {
    match what {
        What::Absent => ABSENT,
        What::Scalar(value) => scalar_tag(value),
        What::Least(_) => LEAST,
        What::Whole(_) => WHOLE,
        What::Counter => COUNTER,
        What::Struct => STRUCT,
        What::Map => MAP,
        What::Keyed(_) => KEYED,
        What::Set => SET,
    }
}

fn scalar_tag(value: &Value) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(false) => FALSE,
        Value::Bool(true) => TRUE,
        Value::Number(number) if number.is_u64() => UNSIGNED,
        Value::Number(number) if number.is_i64() => NEGATIVE,
        Value::Number(_) => FLOAT,
        Value::String(_) => TEXT,
        Value::Array(_) | Value::Object(_) => WHOLE,
    }
}

fn stamps_of(place: &Place, all: &mut Vec<Stamp>) {
    let own = place.own.as_ref().map(|own| own.stamp);
    let order = place.order.map(|(stamp, _)| stamp);
    let cleared = Some(place.cleared).filter(|cleared| *cleared != place.implied());
    for stamp in own.into_iter().chain(order).chain(cleared).chain(place.dots.iter().map(|(stamp, _)| *stamp)) {
        if all.last() != Some(&stamp) {
            all.push(stamp);
        }
    }
    place.fields.iter().for_each(|(_, inner)| stamps_of(inner, all));
}

pub(crate) fn encode_document(document: &Document) -> Vec<u8> {
    let mut stamps: Vec<Stamp> = document.version.iter().collect();
    stamps.extend(document.register.iter().map(|(stamp, _)| *stamp));
    for life in &document.lives {
        stamps.extend(life.births.iter().chain(&life.deaths));
        stamps.extend(life.aliases.iter().map(|(birth, _)| *birth));
        stamps_of(&life.root, &mut stamps);
    }
    let mut writer = Writer { bytes: vec![VERSION], ..Writer::default() };
    writer.table(stamps);
    writer.vector(&document.version);
    match &document.register {
        None => writer.bytes.push(0),
        Some((stamp, value)) => {
            writer.bytes.push(1);
            writer.stamp(*stamp);
            writer.register(value.as_ref());
        }
    }
    writer.number(document.lives.len() as u64);
    document.lives.iter().for_each(|life| writer.life(life));
    writer.bytes
}

pub(crate) fn encode_delta(delta: &Delta) -> Vec<u8> {
    let mut writer = Writer { bytes: vec![VERSION], ..Writer::default() };
    writer.table(delta.context.iter().chain([delta.stamp]).collect());
    writer.stamp(delta.stamp);
    writer.vector(&delta.context);
    writer.number(delta.changes.len() as u64);
    for change in &delta.changes {
        match change {
            Change::Register(value) => {
                writer.bytes.push(0);
                writer.register(value.as_ref());
            }
            Change::Life { uid, event, edit } => {
                writer.bytes.push(match event {
                    Event::Edit => 1,
                    Event::Birth => 2,
                    Event::Death => 3,
                });
                writer.blob(uid.as_bytes());
                writer.edit(edit);
            }
        }
    }
    writer.bytes
}

struct Reader<'a> {
    bytes: &'a [u8],
    stamps: Vec<Stamp>,
    depth: u32,
}

impl<'a> Reader<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Self { bytes, stamps: Vec::new(), depth: 0 };
        if reader.byte()? != VERSION {
            return Err(UNEXPECTED);
        }
        reader.table()?;
        Ok(reader)
    }

    fn close<T>(self, value: T) -> Result<T> {
        if self.bytes.is_empty() { Ok(value) } else { Err(UNEXPECTED) }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.bytes.split_first().ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        self.bytes = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(postcard::Error::DeserializeBadVarint)
    }

    fn signed(&mut self) -> Result<i64> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// How many follow: each takes a byte at least.
    fn count(&mut self) -> Result<usize> {
        let count = self.number()? as usize;
        if count > self.bytes.len() { Err(postcard::Error::DeserializeUnexpectedEnd) } else { Ok(count) }
    }

    fn blob(&mut self) -> Result<&'a [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    fn text(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.blob()?).map_err(|_| postcard::Error::DeserializeBadUtf8)
    }

    fn table(&mut self) -> Result<()> {
        let count = self.count()?;
        let bytes = self.take(count.checked_mul(16).ok_or(UNEXPECTED)?)?;
        let actors: Vec<Actor> = bytes.as_chunks::<16>().0.iter().map(|bytes| Actor(*bytes)).collect();
        let mut time = 0u64;
        for _ in 0..self.count()? {
            time = time.checked_add(self.number()?).ok_or(UNEXPECTED)?;
            let actor = *actors.get(self.number()? as usize).ok_or(UNEXPECTED)?;
            self.stamps.push(Stamp { time, actor });
        }
        Ok(())
    }

    fn stamp(&mut self) -> Result<Stamp> {
        let number = self.number()?;
        self.stamps.get(number as usize).copied().ok_or(UNEXPECTED)
    }

    fn stamps(&mut self) -> Result<Vec<Stamp>> {
        let mut stamps: Vec<Stamp> = (0..self.count()?).map(|_| self.stamp()).collect::<Result<_>>()?;
        stamps.sort();
        Ok(stamps)
    }

    fn vector(&mut self) -> Result<Vector> {
        (0..self.count()?).map(|_| self.stamp()).collect()
    }

    fn what(&mut self, tag: u8) -> Result<Option<What>> {
        Ok(Some(match tag {
            NONE => return Ok(None),
            ABSENT => What::Absent,
            WHOLE => What::Whole(self.text()?.into()),
            COUNTER => What::Counter,
            STRUCT => What::Struct,
            MAP => What::Map,
            KEYED => What::Keyed(self.text()?.into()),
            SET => What::Set,
            LEAST => {
                let tag = self.byte()?;
                What::Least(self.scalar(tag)?)
            }
            scalar => What::Scalar(self.scalar(scalar)?),
        }))
    }

    fn scalar(&mut self, tag: u8) -> Result<Value> {
        Ok(match tag {
            NULL => Value::Null,
            FALSE => false.into(),
            TRUE => true.into(),
            UNSIGNED => self.number()?.into(),
            NEGATIVE => self.signed()?.into(),
            FLOAT => {
                let bytes = *self.take(8)?.first_chunk().ok_or(UNEXPECTED)?;
                f64::from_le_bytes(bytes).into()
            }
            TEXT => self.text()?.into(),
            WHOLE => serde_json::from_str(self.text()?).map_err(|_| UNEXPECTED)?,
            _ => return Err(postcard::Error::DeserializeBadEnum),
        })
    }

    fn more(&mut self, tag: u8) -> Result<u8> {
        if tag & MORE != 0 { self.byte() } else { Ok(0) }
    }

    fn place(&mut self) -> Result<Place> {
        let tag = self.byte()?;
        let more = self.more(tag)?;
        let mut place = Place::default();
        if tag & WHAT != NONE {
            let stamp = self.stamp()?;
            let what = self.what(tag & WHAT)?;
            place.own = what.map(|what| Own { stamp, what, hollow: tag & HOLLOW != 0 });
        }
        if tag & ORDER != 0 {
            place.order = Some((self.stamp()?, self.signed()?));
        }
        place.cleared = place.implied();
        if more & CLEARED != 0 {
            place.cleared = self.stamp()?;
        }
        if more & DOTS != 0 {
            place.dots = (0..self.count()?).map(|_| Ok((self.stamp()?, self.signed()?))).collect::<Result<_>>()?;
        }
        if tag & FIELDS != 0 {
            place.fields = self.inner(Self::fields)?;
        }
        Ok(place)
    }

    /// Reads what lies inside, unless that is too deep.
    fn inner<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(UNEXPECTED);
        }
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn fields(&mut self) -> Result<Fields> {
        let count = self.count()?;
        let mut fields = Fields::with_capacity(count.min(64));
        for _ in 0..count {
            let name = self.text()?.into();
            let place = self.place()?;
            if !fields.push(name, place) {
                return Err(UNEXPECTED);
            }
        }
        Ok(fields)
    }

    fn edit(&mut self) -> Result<Edit> {
        let tag = self.byte()?;
        let more = self.more(tag)?;
        let what = self.what(tag & WHAT)?;
        let order = if tag & ORDER != 0 { Some(self.signed()?) } else { None };
        let dot = match more & !FRESH {
            0 => None,
            ADD => Some(Dot::Add),
            REMOVE => Some(Dot::Remove),
            COUNT => Some(Dot::Count(self.signed()?)),
            _ => return Err(postcard::Error::DeserializeBadEnum),
        };
        let fields = if tag & FIELDS != 0 { self.inner(Self::edits)? } else { Vec::new() };
        Ok(Edit { what, hollow: tag & HOLLOW != 0, fresh: more & FRESH != 0, order, dot, fields })
    }

    fn edits(&mut self) -> Result<Vec<(Name, Edit)>> {
        (0..self.count()?).map(|_| Ok((self.text()?.into(), self.edit()?))).collect()
    }

    fn register(&mut self) -> Result<Option<Vec<u8>>> {
        match self.byte()? {
            0 => Ok(None),
            1 => Ok(Some(self.blob()?.to_vec())),
            _ => Err(postcard::Error::DeserializeBadOption),
        }
    }

    fn life(&mut self) -> Result<Life> {
        Ok(Life {
            uid: self.text()?.to_owned(),
            births: self.stamps()?,
            deaths: self.stamps()?,
            aliases: (0..self.count()?).map(|_| Ok((self.stamp()?, self.text()?.to_owned()))).collect::<Result<_>>()?,
            root: self.place()?,
        })
    }

    fn change(&mut self) -> Result<Change> {
        let event = match self.byte()? {
            0 => return Ok(Change::Register(self.register()?)),
            1 => Event::Edit,
            2 => Event::Birth,
            3 => Event::Death,
            _ => return Err(postcard::Error::DeserializeBadEnum),
        };
        Ok(Change::Life { uid: self.text()?.to_owned(), event, edit: self.edit()? })
    }
}

pub(crate) fn decode_document(bytes: &[u8]) -> Result<Document> {
    let mut reader = Reader::open(bytes)?;
    let version = reader.vector()?;
    let register = match reader.byte()? {
        0 => None,
        1 => Some((reader.stamp()?, reader.register()?)),
        _ => return Err(postcard::Error::DeserializeBadOption),
    };
    let lives = (0..reader.count()?).map(|_| reader.life()).collect::<Result<_>>()?;
    reader.close(Document { version, register, lives })
}

pub(crate) fn decode_delta(bytes: &[u8]) -> Result<Delta> {
    let mut reader = Reader::open(bytes)?;
    let (stamp, context) = (reader.stamp()?, reader.vector()?);
    let changes = (0..reader.count()?).map(|_| reader.change()).collect::<Result<_>>()?;
    reader.close(Delta { stamp, context, changes })
}
