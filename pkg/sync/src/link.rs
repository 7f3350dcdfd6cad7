//! Runs a session over a stream until either side ends it.
use crate::frame::{self, Codec};
use crate::message::{Hello, Message};
use crate::relation::Relation;
use crate::session::{MESSAGE_BYTES, Session, Standing, Task, WINDOW_MESSAGES, Want};
use crate::shared::Shared;
use futures::{SinkExt, StreamExt};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use store::{Begin, Documents, Replica};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;

/// A peer hears from us at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// A peer that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(16);
/// What waits to be written to a peer at most: both sides' windows, answers and first and last words. More waits only for
/// one that does not read.
pub const OUT: usize = 4 * WINDOW_MESSAGES;
/// The last word is not waited for longer.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stream to another server.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Who is at the other end of a stream, as far as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The server's name; none: its certificate is not of a server, and what it says itself counts.
    pub name: Option<String>,
    /// Whether we dialled.
    pub dialled: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Frame(#[from] frame::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{0}")]
    Refused(String),
    #[error("it has said nothing for {} s", SILENCE.as_secs())]
    Silent,
    #[error("it closed the link")]
    Closed,
    #[error("it does not read what it is told")]
    Deaf,
    #[error("it sends on and on, and waits for no answer")]
    Hasty,
}

/// One link while it lasts.
pub(crate) struct Link {
    pub shared: Arc<Shared>,
    pub session: Session,
    pub peer: Peer,
    out: mpsc::Sender<Message>,
    /// What came and can't be taken in yet, in order: the peer's clock is far ahead, or ours behind.
    parked: VecDeque<Task>,
    /// What is being sent whole.
    documents: Option<Box<dyn Documents>>,
    /// How often another's store was taken over when this conversation began, and whether one was since.
    epoch: u64,
    epochs: watch::Receiver<u64>,
    /// Held while this server takes over the peer's store: one at a time.
    taking: Option<OwnedMutexGuard<()>>,
    /// Ends the link when a better one to the same peer is there.
    replaced: CancellationToken,
    /// The session's time runs from here.
    begun: Instant,
}

/// Talks until the link ends; the error says why.
///
/// # Errors
/// The stream failed, the peer was refused, or the store could not take something in.
pub(crate) async fn run(
    shared: Arc<Shared>,
    me: Hello,
    (epoch, epochs): (u64, watch::Receiver<u64>),
    wire: Box<dyn Wire>,
    peer: Peer,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (read, write) = tokio::io::split(wire);
    let (out, queue) = mpsc::channel(OUT);
    let replaced = CancellationToken::new();
    let mut link = Link {
        shared: shared.clone(),
        session: Session::new(me),
        peer,
        out,
        parked: VecDeque::new(),
        documents: None,
        epoch,
        epochs,
        taking: None,
        replaced: replaced.clone(),
        begun: Instant::now(),
    };
    let writing = write_all(write, queue);
    let talking = async {
        let done = tokio::select! {
            done = link.talk(read) => done,
            () = shutdown.cancelled() => link.leave("the server is ending"),
            () = replaced.cancelled() => link.leave("another link took its place, or this server is no member any more"),
        };
        if let Err(error) = &done {
            // Whoever closed first does not read it.
            let _ = link.leave(&error.to_string());
        }
        if let Some(hello) = link.session.peer() {
            shared.parted(hello, &replaced);
        }
        drop(link);
        done
    };
    tokio::pin!(writing);
    tokio::select! {
        done = talking => {
            let _ = tokio::time::timeout(FAREWELL, writing).await;
            done
        }
        failed = &mut writing => failed,
    }
}

/// Never, where nothing is due.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn write_all(write: WriteHalf<Box<dyn Wire>>, mut queue: mpsc::Receiver<Message>) -> Result<(), Error> {
    let mut write = FramedWrite::new(write, Codec::default());
    while let Some(message) = queue.recv().await {
        write.feed(message).await?;
        if queue.is_empty() {
            SinkExt::<Message>::flush(&mut write).await?;
        }
    }
    SinkExt::<Message>::close(&mut write).await?;
    Ok(())
}

impl Link {
    fn say(&self, message: Message) -> Result<(), Error> {
        self.out.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => Error::Deaf,
            TrySendError::Closed(_) => Error::Closed,
        })
    }

    fn leave(&self, reason: &str) -> Result<(), Error> {
        self.say(Message::Bye { reason: reason.to_owned() })
    }

    async fn talk(&mut self, read: ReadHalf<Box<dyn Wire>>) -> Result<(), Error> {
        let mut read = FramedRead::new(read, Codec::default());
        let mut epoch = self.epochs.clone();
        let mut newest = self.shared.replica.newest();
        let mut neighbours = self.shared.neighbours.subscribe();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        self.say(self.session.hello())?;
        let mut heard = Instant::now();
        loop {
            self.send().await?;
            let due = self.session.due_ms().map(|due_ms| self.begun + Duration::from_millis(due_ms));
            tokio::select! {
                message = read.next() => {
                    heard = Instant::now();
                    self.take(message.ok_or(Error::Closed)??).await?;
                }
                changed = newest.changed() => {
                    changed.map_err(|_| store::Error::Closed)?;
                    self.session.wake();
                }
                changed = neighbours.changed() => {
                    changed.map_err(|_| store::Error::Closed)?;
                    let known = neighbours.borrow_and_update().clone();
                    self.session.rethink(&known, self.now_ms());
                }
                changed = epoch.changed() => {
                    changed.map_err(|_| store::Error::Closed)?;
                    return self.leave("it has taken over another store, and talks anew");
                }
                () = sleep_until(due) => {}
                _ = heartbeat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(Error::Silent);
                    }
                    self.session.beat();
                    self.work().await?;
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Sends what there is to send and the window allows.
    async fn send(&mut self) -> Result<(), Error> {
        let replica = self.shared.replica.clone();
        let neighbours = self.shared.neighbours.borrow().clone();
        loop {
            // Asked first: what is whole now is so before anything else comes.
            let (whole, vector) = (replica.is_whole(), replica.vector());
            let (lows, late) = (self.shared.lows(), !replica.owed().is_empty());
            let standing = Standing { vector, lows, whole, late, neighbours: &neighbours, now_ms: self.now_ms() };
            self.session.look(&standing).map_err(Error::Refused)?;
            let message = match self.session.want() {
                Want::Nothing => return self.session.ack(&standing).map_or(Ok(()), |ack| self.say(ack)),
                Want::Begin(have) => {
                    let begin = replica.begin(have).await?;
                    if begin == Begin::Snapshot && self.session.is_paging() {
                        self.session.go_on();
                    } else if begin == Begin::Snapshot && !self.session.hold(&standing) {
                        let documents = replica.documents().await?;
                        self.session.began(begin, documents.seen().clone());
                        self.documents = Some(documents);
                    } else if begin != Begin::Snapshot {
                        self.documents = None;
                        self.session.began(begin, standing.vector);
                    }
                    None
                }
                Want::Documents if self.session.hold(&standing) => None,
                Want::Documents => {
                    let documents = replica.documents().await?;
                    self.session.began(Begin::Snapshot, documents.seen().clone());
                    self.documents = Some(documents);
                    None
                }
                Want::Changes { after, have } => {
                    let found = replica.changes(after, have, MESSAGE_BYTES).await?;
                    self.session.changes(found, &standing)
                }
                Want::Page { after } => {
                    let Some(documents) = &self.documents else { return Err(store::Error::Closed.into()) };
                    let page = documents.page(after, MESSAGE_BYTES).await?;
                    self.session.page(page)
                }
            };
            message.map_or(Ok(()), |message| self.say(message))?;
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), Error> {
        let meeting = matches!(message, Message::Hello(_));
        let task = self.session.receive(message, self.now_ms()).map_err(Error::Refused)?;
        if meeting {
            self.meet()?;
        }
        if task == Task::Nothing {
            self.progress();
            return Ok(());
        }
        self.parked.push_back(task);
        if self.parked.len() > WINDOW_MESSAGES {
            return Err(Error::Hasty);
        }
        if self.parked.len() == 1 { self.work().await } else { Ok(()) }
    }

    /// Takes in what came. What is stamped far ahead waits, and what came after it: the link stays, since what we have to
    /// tell may be taken in there.
    async fn work(&mut self) -> Result<(), Error> {
        while let Some(task) = self.parked.front().cloned() {
            match self.perform(task.clone()).await {
                Err(Error::Store(error @ store::Error::Ahead { .. })) => {
                    tracing::warn!(peer = self.session.peer().map(|hello| &hello.name), %error, "it waits until then");
                    return Ok(());
                }
                done => done?,
            }
            self.parked.pop_front();
            self.progress();
            self.session.done(&task, self.now_ms());
        }
        Ok(())
    }

    async fn perform(&mut self, task: Task) -> Result<(), Error> {
        let replica: &Arc<dyn Replica> = &self.shared.replica;
        let epoch = self.epoch;
        match task {
            Task::Nothing => {}
            Task::Receive(rows) => replica.receive(epoch, rows).await?,
            Task::Join { page, seen } => {
                let whole = page.whole.clone();
                replica.join(epoch, page, seen.clone()).await?;
                if whole.is_some() {
                    replica.complete(epoch, seen, whole).await?;
                }
            }
            Task::Adopt { page, seen } => {
                let whole = page.whole.clone();
                replica.stage(page, seen.clone()).await?;
                if let Some(whole) = whole {
                    let peer = self.session.peer().map(|hello| hello.name.clone());
                    tracing::info!(peer, "taking over its store: it has forgotten what this server lacks");
                    replica.adopt(epoch, seen, whole).await?;
                    self.shared.forget_lows();
                }
            }
            Task::Complete { seen, lows, links } => {
                replica.complete(epoch, seen, None).await?;
                self.shared.observe(lows);
                if let Some(hello) = self.session.peer() {
                    self.shared.completed(hello.number);
                    links.iter().for_each(|links| self.shared.rewire(|known| known.observe(hello.actor, links)));
                }
            }
        }
        Ok(())
    }

    fn progress(&self) {
        if let Some(hello) = self.session.peer() {
            self.shared.progress(hello.number, self.session.confirmed(), self.session.sent_bytes);
        }
    }

    fn meet(&mut self) -> Result<(), Error> {
        let Some(hello) = self.session.peer() else { return Ok(()) };
        if self.peer.name.as_ref().is_some_and(|name| *name != hello.name) {
            return Err(Error::Refused(format!(
                "its certificate is of {:?}, and it says {:?}",
                self.peer.name, hello.name
            )));
        }
        self.shared.met(hello, self.peer.dialled, &self.replaced).map_err(|why| Error::Refused(why.into()))?;
        if self.session.relation() == Relation::Take {
            let busy = |_| Error::Refused("another server's store is being taken over".into());
            self.taking = Some(self.shared.taking.clone().try_lock_owned().map_err(busy)?);
            self.say(Message::Take)?;
        }
        Ok(())
    }
}
