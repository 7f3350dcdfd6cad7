//! The thread that keeps the documents, off the acknowledgement's path and at low priority: it follows the writer,
//! notes how far it is, and goes on there after a restart. Compaction waits for it.
use crate::replica::{Row, SnapshotPage, Whole};
use crate::replicator::{Merger, Replicator, not_ahead};
use crate::writer::{Command, Merge, Merged, Reply, now_ms};
use crate::{Error, Result};
use crdt::{Actor, Vector};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;
use tokio::sync::oneshot;

/// A pause after a step, so that a burst becomes one step and foreground work goes first.
const GATHER: Duration = Duration::from_millis(10);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Until it is time to note again how far the log of a server alone is.
const NOTE: Duration = Duration::from_millis(200);
/// Added to the thread's nice value.
const NICE: i32 = 10;

/// Changes of peers that are taken in together, with one sync each of the log and of the documents.
const GROUP_ROWS: usize = 512;

/// What the follower is asked to do.
pub enum Request {
    /// The log has grown.
    Wake,
    Enable(Handle, Reply<()>),
    Receive(u64, Vec<Row>, Handle, Reply<()>),
    Join(u64, SnapshotPage, Vector, Handle, Reply<()>),
    Complete(u64, Vector, Option<Whole>, Handle, Reply<()>),
    Stage(SnapshotPage, Vector, Reply<()>),
    Adopt(u64, Vector, Whole, Handle, Reply<()>),
    Tick(Handle, Reply<()>),
    Forget(u64, Reply<bool>),
    Close(Reply<()>),
}

/// The writer, for as long as a request needs it: a handle kept longer would keep the writer from ending.
pub struct Handle(pub SyncSender<Command>);

impl Handle {
    fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).map_err(|_| Error::Closed)?;
        answer.blocking_recv().unwrap_or(Err(Error::Closed))
    }
}

impl Merger for Handle {
    fn merge(&self, merge: Merge) -> Result<Merged> {
        self.ask(|reply| Command::Merge(merge, reply))
    }

    fn tick(&self) -> Result<u64> {
        self.ask(Command::Tick)
    }
}

/// What the next step waits for.
enum Wait {
    /// Nothing: there is more to do, unless something is asked.
    No,
    /// Anything that is asked.
    News,
    /// The same, and no longer than this.
    For(Duration),
}

pub struct Follower {
    pub replicator: Replicator,
}

impl Follower {
    /// Works until told to close, or until nobody is left to ask.
    pub fn run(mut self, requests: &Receiver<Request>) {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "deriving changes at normal priority");
        }
        let mut wait = Wait::No;
        loop {
            let next = match wait {
                Wait::No => requests.try_recv().or_else(|error| match error {
                    TryRecvError::Empty => Ok(Request::Wake),
                    TryRecvError::Disconnected => Err(RecvTimeoutError::Disconnected),
                }),
                Wait::News => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Wait::For(time) => requests.recv_timeout(time).or_else(|error| match error {
                    RecvTimeoutError::Timeout => Ok(Request::Wake),
                    gone @ RecvTimeoutError::Disconnected => Err(gone),
                }),
            };
            match next {
                Err(_) => return,
                Ok(Request::Close(reply)) => return drop(reply.send(Ok(()))),
                Ok(Request::Wake) => wait = self.follow(),
                Ok(Request::Receive(epoch, rows, writer, reply)) if self.is_now(epoch) => {
                    match self.receive((rows, writer, reply), requests) {
                        Some(Request::Close(reply)) => return drop(reply.send(Ok(()))),
                        Some(Request::Wake) => wait = self.follow(),
                        Some(request) => self.serve(request),
                        None => {}
                    }
                }
                Ok(request) => self.serve(request),
            }
        }
    }

    fn is_now(&self, epoch: u64) -> bool {
        *self.replicator.replicated.epoch.borrow() == epoch
    }

    /// Takes in what one peer told, and what others did that waits behind it. Returns the request that came next, if one did.
    fn receive(&mut self, first: (Vec<Row>, Handle, Reply<()>), requests: &Receiver<Request>) -> Option<Request> {
        let (mut all, writer, mut replies, mut next) = (Vec::new(), first.1, Vec::new(), None);
        let mut came = Some((first.0, first.2));
        while let Some((rows, reply)) = came.take() {
            match not_ahead(&rows, now_ms()) {
                // It alone waits for its time.
                Err(error) => drop(reply.send(Err(error))),
                Ok(()) => {
                    all.extend(rows.iter().cloned());
                    replies.push((rows, reply));
                }
            }
            if all.len() < GROUP_ROWS {
                match requests.try_recv() {
                    Ok(Request::Receive(epoch, rows, _, reply)) if self.is_now(epoch) => came = Some((rows, reply)),
                    other => next = other.ok(),
                }
            }
        }
        match self.replicator.receive(&all, &writer, now_ms()) {
            Ok(()) => replies.into_iter().for_each(|(_, reply)| drop(reply.send(Ok(())))),
            // What one of them says can't be taken in: the others are not to suffer for it.
            Err(_) => replies.into_iter().for_each(|(rows, reply)| {
                drop(reply.send(self.replicator.receive(&rows, &writer, now_ms())));
            }),
        }
        next
    }

    /// One step; returns what to wait for before the next.
    fn follow(&mut self) -> Wait {
        match self.replicator.derive() {
            // A server alone waits before it notes again how far it is.
            Ok(false) if !self.replicator.enabled => Wait::For(NOTE),
            Ok(false) => Wait::No,
            Ok(true) => {
                std::thread::sleep(GATHER);
                Wait::News
            }
            Err(error) => {
                tracing::warn!(%error, "deriving changes failed; trying again");
                Wait::For(RETRY)
            }
        }
    }

    fn serve(&mut self, request: Request) {
        let epoch = *self.replicator.replicated.epoch.borrow();
        let replicator = &mut self.replicator;
        // Whoever asked may have gone: a reply that nobody takes is no error.
        match request {
            Request::Enable(writer, reply) => drop(reply.send(replicator.enable(&writer, now_ms()))),
            Request::Receive(of, _, _, reply)
            | Request::Join(of, _, _, _, reply)
            | Request::Complete(of, _, _, _, reply)
            | Request::Adopt(of, _, _, _, reply)
                if of != epoch =>
            {
                drop(reply.send(Err(foreign())));
            }
            Request::Join(_, page, seen, writer, reply) => {
                drop(reply.send(replicator.join(&page, &seen, &writer, now_ms())));
            }
            Request::Complete(_, seen, whole, writer, reply) => {
                drop(reply.send(replicator.complete(&seen, whole.as_ref(), &writer, now_ms())));
            }
            Request::Stage(page, seen, reply) => drop(reply.send(replicator.stage(&page, &seen, now_ms()))),
            Request::Adopt(_, seen, whole, writer, reply) => {
                drop(reply.send(replicator.adopt(seen, whole, Actor(rand::random()), &writer, now_ms())));
            }
            Request::Tick(writer, reply) => drop(reply.send(replicator.tick(&writer))),
            Request::Forget(stable, reply) => drop(reply.send(replicator.forget(stable))),
            Request::Receive(..) | Request::Wake | Request::Close(_) => unreachable!("the loop takes these itself"),
        }
    }
}

fn foreign() -> Error {
    Error::Failed { what: "it was told before another server's store was taken over".into() }
}
