//! Compaction, a step at a time: first it looks through a window of the log for rows that are superfluous, then it deletes
//! them in the order in which they lie. What a window superseded lies anywhere before it, and row by row each would be
//! another page to write.
use crate::Result;
use crate::Revision;
use crate::log::Log;

/// Rows that one step looks at; between steps writes go first.
const LOOK_ROWS: usize = 2000;
/// Rows that one step deletes.
const DELETE_ROWS: usize = 500;
/// Rows that are gathered before they are deleted: 512 KiB.
const WINDOW: usize = 64 << 10;

/// How far compaction is.
pub struct Sweep {
    /// What was superseded by rows up to this position is gone.
    swept: u64,
    /// Rows up to this position were looked at.
    looked: u64,
    /// Positions of rows to delete, while `deleting` the first last.
    doomed: Vec<u64>,
    deleting: bool,
}

impl Sweep {
    pub fn new(swept: u64) -> Self {
        Self { swept, looked: swept, doomed: Vec::new(), deleting: false }
    }

    /// The position up to which all is done. What lies beyond begins anew after a restart.
    pub fn swept(&self) -> u64 {
        self.swept
    }

    /// One step towards `goal`. True: it got further.
    pub fn step(&mut self, log: &Log, goal: Revision) -> Result<bool> {
        if self.deleting {
            return self.delete(log);
        }
        let (found, reached) = log.superfluous(self.looked, goal, LOOK_ROWS)?;
        self.doomed.extend(found);
        self.looked = reached.unwrap_or(goal.get()).max(self.looked);
        if self.looked >= goal.get() || self.doomed.len() >= WINDOW {
            // A key's rows go oldest first, so that what is left of its history has no gap at any moment.
            self.doomed.sort_unstable_by(|a, b| b.cmp(a));
            self.deleting = true;
        }
        Ok(false)
    }

    fn delete(&mut self, log: &Log) -> Result<bool> {
        let left = self.doomed.len().saturating_sub(DELETE_ROWS);
        log.begin()?;
        let done = log.delete(&self.doomed[left..]).and_then(|()| match left {
            0 => log.set_meta("swept", self.looked),
            _ => Ok(()),
        });
        done.and_then(|()| log.commit()).inspect_err(|_| log.rollback())?;
        self.doomed.truncate(left);
        if left == 0 {
            (self.swept, self.deleting) = (self.looked, false);
            // A window may be large, and the next one small.
            self.doomed.shrink_to_fit();
        }
        Ok(left == 0)
    }
}
