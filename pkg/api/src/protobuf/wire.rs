//! Protobuf's own encoding: fields, one after another.
use super::{Error, Result};

/// One field as it lies on the wire.
pub enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next field and its number; none at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Error::Damaged)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Error::Damaged)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Error::Damaged)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed32)?,
            _ => return Err(Error::Damaged),
        };
        Ok(Some((number, wire)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Error::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Damaged)
    }
}

pub fn text(wire: Wire<'_>) -> Result<String> {
    let Wire::Bytes(bytes) = wire else { return Err(Error::Damaged) };
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Error::NoJson { what: "text that is not UTF-8" })
}
