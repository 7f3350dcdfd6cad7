//! Revisions: hybrid clock in the high bits, then ten bits of server number, then a zero bit.
use std::fmt;

/// A positive 63-bit integer, increasing on its server and roughly ordered by time across servers. Upstream
/// starts a watch at `resourceVersion + 1`, so an even number means "from here" and an odd one "after this".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(u64);

impl Revision {
    /// Bits of the server's number.
    pub const SERVER_BITS: u32 = 10;
    /// Bits below the clock: the server's number and the zero bit.
    pub const LOW_BITS: u32 = Self::SERVER_BITS + 1;
    /// No revision: "absent" in a compare, "now" in a read.
    pub const ZERO: Self = Self(0);

    pub const fn new(clock: u64, server: u16) -> Self {
        Self((clock << Self::LOW_BITS) | ((server as u64) << 1))
    }

    /// What an empty store of a server shows: below everything that it will write, and not zero.
    pub const fn first(server: u16) -> Self {
        Self::new(1, server)
    }

    pub const fn from_u64(n: u64) -> Self {
        Self(n)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// The hybrid clock: milliseconds since the Unix epoch, then ten bits that count within one.
    pub const fn clock(self) -> u64 {
        self.0 >> Self::LOW_BITS
    }

    /// The number of the server that made it.
    pub const fn server(self) -> u16 {
        ((self.0 >> 1) & ((1 << Self::SERVER_BITS) - 1)) as u16
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
