//! The newest changes, in memory: every link reads each change as it comes, and asks the database only for what is older.
use crate::replica::Row;
use crdt::Vector;
use std::collections::VecDeque;

/// Changes held, in bytes of keys and deltas, about; the oldest go first.
const MOST_BYTES: usize = 1 << 20;

/// All changes after a sequence number.
#[derive(Debug, Default)]
pub struct Tail {
    /// By sequence number, rising.
    rows: VecDeque<(u64, Row)>,
    bytes: usize,
}

impl Tail {
    /// Adds what has just been kept: whole transactions, after all that was kept before.
    pub fn push(&mut self, rows: Vec<(u64, Row)>) {
        self.bytes += rows.iter().map(|(_, row)| bytes(row)).sum::<usize>();
        self.rows.extend(rows);
        while self.bytes > MOST_BYTES
            && let Some((_, row)) = self.rows.pop_front()
        {
            self.bytes -= bytes(&row);
        }
    }

    /// What [`crate::changes::Changes::after`] finds; none: not all of it is here.
    pub fn after(&self, sequence: u64, have: &Vector, limit_bytes: usize) -> Option<(Vec<Row>, u64)> {
        let oldest = self.rows.front().map(|(oldest, _)| *oldest)?;
        if sequence + 1 < oldest {
            return None;
        }
        let from = self.rows.partition_point(|(at, _)| *at <= sequence);
        let (mut found, mut found_bytes, mut reached) = (Vec::<Row>::new(), 0, sequence);
        for (at, row) in self.rows.range(from..) {
            if found_bytes >= limit_bytes && found.last().is_none_or(|last| !last.more) {
                break;
            }
            reached = *at;
            if !have.covers(row.stamp) {
                found_bytes += bytes(row);
                found.push(row.clone());
            }
        }
        Some((found, reached))
    }
}

fn bytes(row: &Row) -> usize {
    row.key.len() + row.delta.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crdt::{Actor, Stamp};

    fn row(time: u64, more: bool, bytes: usize) -> Row {
        let stamp = Stamp { time, actor: Actor([1; 16]) };
        Row { stamp, more, key: "k".into(), delta: vec![0; bytes].into() }
    }

    fn times(found: Option<(Vec<Row>, u64)>) -> Option<(Vec<u64>, u64)> {
        found.map(|(rows, reached)| (rows.iter().map(|row| row.stamp.time).collect(), reached))
    }

    #[test]
    fn what_is_new_is_found_and_what_is_older_is_asked_for_elsewhere() {
        let (mut tail, none) = (Tail::default(), Vector::default());
        assert_eq!(tail.after(0, &none, 100), None, "nothing is known of what came before");
        tail.push(vec![(4, row(10, true, 8)), (5, row(10, false, 8)), (6, row(11, false, 8))]);
        assert_eq!(tail.after(2, &none, 100), None);
        assert_eq!(times(tail.after(3, &none, 100)), Some((vec![10, 10, 11], 6)));
        assert_eq!(times(tail.after(3, &none, 1)), Some((vec![10, 10], 5)), "transactions are whole");
        assert_eq!(times(tail.after(6, &none, 100)), Some((vec![], 6)));
        let have = [Stamp { time: 10, actor: Actor([1; 16]) }].into_iter().collect();
        assert_eq!(times(tail.after(3, &have, 1)), Some((vec![11], 6)));
    }

    #[test]
    fn it_is_bounded() {
        let mut tail = Tail::default();
        (1..=40).for_each(|n| tail.push(vec![(n, row(n, false, MOST_BYTES / 16))]));
        assert!(tail.bytes <= MOST_BYTES && tail.rows.len() == 15, "{} rows", tail.rows.len());
        assert_eq!(tail.after(10, &Vector::default(), 100), None);
        assert!(tail.after(25, &Vector::default(), usize::MAX).is_some_and(|(rows, _)| rows.len() == 15));
    }
}
