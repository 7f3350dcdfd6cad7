//! The hybrid clock that revisions are made of: wall time where it moves on, a count where it does not.

/// Bits that count within a millisecond.
const COUNT_BITS: u32 = 10;

/// Never goes back, whatever the wall clock does. Pure: the time is an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HybridClock {
    last: u64,
}

impl HybridClock {
    /// A clock that goes on after `last`, the newest reading on disk.
    pub fn after(last: u64) -> Self {
        Self { last }
    }

    /// The next reading, above all before it. `now_ms` is milliseconds since the Unix epoch.
    pub fn tick(&mut self, now_ms: u64) -> u64 {
        self.last = (self.last + 1).max(now_ms << COUNT_BITS);
        self.last
    }

    /// Takes in a reading of another clock: what is read from now on is above it.
    pub fn observe(&mut self, reading: u64) {
        self.last = self.last.max(reading);
    }

    /// The first reading that could have been made at `now_ms`.
    pub fn at(now_ms: u64) -> u64 {
        now_ms << COUNT_BITS
    }

    /// The milliseconds since the Unix epoch of a reading.
    pub fn ms(reading: u64) -> u64 {
        reading >> COUNT_BITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let mut clock = HybridClock::default();
        let times = [5, 5, 5, 3, 0, 6];
        let readings: Vec<u64> = times.iter().map(|now| clock.tick(*now)).collect();
        assert!(readings.windows(2).all(|pair| pair[0] < pair[1]), "{readings:?}");
        assert_eq!(readings[5], HybridClock::at(6));
    }

    #[test]
    fn a_busy_millisecond_runs_into_the_next() {
        let mut clock = HybridClock::default();
        for _ in 0..5000 {
            clock.tick(1);
        }
        assert!(clock.tick(2) > HybridClock::at(2));
    }
}
