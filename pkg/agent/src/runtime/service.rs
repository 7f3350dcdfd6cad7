//! The supervisor: adopts or starts containerd, waits until it answers, gives it the sandbox image, and starts it
//! again when it dies.
//!
//! ```text
//!  Starting ──answers, images imported──► Ready ──ended──► Down ──backoff──► Starting
//!     └──────────────no answer, ended────────────────────────┘
//! ```
use super::config::{self, Config};
use super::ctr::Ctr;
use super::grpc::Containerd;
use super::import::Importer;
use super::process::{Launch, Process};
use super::programs::{self, Problem};
use super::{Endpoint, Handle, Options, State, log, pause, probe};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long containerd may take until it answers; its database may need a recovery first.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an adopted containerd may take to answer before it is replaced.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a starting containerd is asked.
const POLL: Duration = Duration::from_millis(20);

/// How long containerd may take to end when asked to.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before a restart: the first, doubled up to the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A containerd that lived this long starts again with the shortest pause.
const STABLE: Duration = Duration::from_secs(60);

/// How often the log's size is looked at.
const ROTATE_INTERVAL: Duration = Duration::from_secs(30);

/// Why the runtime can't run on this machine at all; what passes by itself is retried instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("programs are missing: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Programs(Vec<Problem>),
    #[error("{}: can't be prepared", path.display())]
    Prepare { path: PathBuf, source: io::Error },
    #[error("{0} is no address of a CRI endpoint")]
    Endpoint(PathBuf, #[source] tonic::transport::Error),
}

/// Why one containerd did not come up or went away; leads to a restart.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("containerd could not be started")]
    Spawn(#[source] io::Error),
    #[error("containerd ended; its last words are in {}", .0.display())]
    Ended(PathBuf),
    #[error("containerd did not answer within {} s; see {}", .0.as_secs(), .1.display())]
    NoAnswer(Duration, PathBuf),
    #[error("containerd's CRI plugin did not load; see {}", .0.display())]
    NoCri(PathBuf),
    #[error("the sandbox image could not be imported")]
    Pause(#[source] super::ctr::Error),
    #[error("the sandbox image could not be built")]
    PauseArchive(#[source] io::Error),
    #[error("containerd's state is unknown")]
    Io(#[from] io::Error),
}

/// Runs containerd for one node.
pub struct Service {
    options: Options,
    state: watch::Sender<State>,
}

/// What stays the same from one containerd to the next.
struct Setup {
    launch: Launch,
    containerd: Containerd,
    ctr: Ctr,
    endpoint: Endpoint,
}

impl Service {
    pub fn new(options: Options) -> Self {
        Self { options, state: watch::Sender::new(State::Starting) }
    }

    pub fn handle(&self) -> Handle {
        Handle { state: self.state.subscribe() }
    }

    /// Keeps containerd running until `shutdown`, and leaves it running then.
    ///
    /// # Errors
    /// When a program is missing or too old, or a directory can't be made.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        if let Some(endpoint) = &self.options.endpoint {
            self.state.send_replace(State::Ready(Endpoint::parse(endpoint)));
            shutdown.cancelled().await;
            return Ok(());
        }
        let setup = self.prepare().await?;
        // Its versions are asked while containerd starts: a node whose programs fit doesn't wait for the answers.
        let check = async {
            let problems = programs::check().await;
            if problems.is_empty() { std::future::pending().await } else { problems }
        };
        tokio::select! {
            problems = check => Err(Error::Programs(problems)),
            () = self.supervise(&setup, &shutdown) => Ok(()),
        }
    }

    async fn prepare(&self) -> Result<Setup, Error> {
        let options = &self.options;
        let (Some(program), Some(cni_bin_dir)) = (programs::find("containerd"), programs::find_cni_dir()) else {
            return Err(Error::Programs(programs::check().await));
        };
        for dir in
            [options.root(), options.state_dir(), options.images_dir(), options.registry_dir(), options.cni_conf_dir()]
        {
            fs::create_dir_all(&dir).map_err(|source| Error::Prepare { path: dir, source })?;
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Prepare { path, source }
        };
        let socket = options.socket();
        let snapshotter = probe::snapshotter(&options.root()).map_err(failed(&options.root()))?;
        let text = config::render(&Config {
            root: &options.root(),
            state: &options.state_dir(),
            socket: &socket,
            sandbox_image: options.pause_image.as_deref().unwrap_or(pause::REFERENCE),
            cni_bin_dir: &cni_bin_dir,
            cni_conf_dir: &options.cni_conf_dir(),
            registry_dir: &options.registry_dir(),
            snapshotter,
            restrict_oom_score_adj: !probe::can_lower_oom_score(),
        });
        let config = options.config_file();
        fs::write(&config, text).map_err(failed(&config))?;
        let launch = Launch { program, config, log: options.log_file(), pid_file: options.pid_file() };
        let containerd = Containerd::lazy(&socket).map_err(|error| Error::Endpoint(socket.clone(), error))?;
        let ctr = Ctr::new(&socket, snapshotter);
        Ok(Setup { launch, containerd, ctr, endpoint: Endpoint::of_socket(&socket) })
    }

    async fn supervise(&self, setup: &Setup, shutdown: &CancellationToken) {
        let mut pause = BACKOFF_MIN;
        loop {
            let started = Instant::now();
            let failure = tokio::select! {
                () = shutdown.cancelled() => return,
                failure = self.one_life(setup, shutdown) => failure,
            };
            let Err(failure) = failure else { return };
            if started.elapsed() > STABLE {
                pause = BACKOFF_MIN;
            }
            let reason = chain(&failure);
            tracing::warn!(reason, retry_ms = pause.as_millis() as u64, "containerd is down");
            self.state.send_replace(State::Down { reason });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// From adoption or birth to the end of one containerd, or to `shutdown`.
    async fn one_life(&self, setup: &Setup, shutdown: &CancellationToken) -> Result<(), Failure> {
        let mut process = acquire(setup).await?;
        let mut importer = self.importer(setup);
        tokio::select! {
            ended = process.ended() => { ended?; return Err(Failure::Ended(setup.launch.log.clone())) }
            imported = self.import_first(setup, &mut importer) => imported?,
        }
        self.state.send_replace(State::Ready(setup.endpoint.clone()));
        tokio::select! {
            ended = process.ended() => { ended?; Err(Failure::Ended(setup.launch.log.clone())) }
            () = importer.follow(shutdown.clone()) => Ok(()),
            () = rotate_log(&setup.launch.log) => Ok(()),
        }
    }

    /// The sandbox image and the archives that lie there already: a pod must find them when the node turns Ready.
    async fn import_first(&self, setup: &Setup, importer: &mut Importer) -> Result<(), Failure> {
        let ours = self.options.pause_image.is_none();
        if ours && !matches!(setup.containerd.image_digest(pause::REFERENCE).await, Ok(Some(_))) {
            let archive = pause::archive().map_err(Failure::PauseArchive)?;
            setup.ctr.import_pinned(&archive).await.map_err(Failure::Pause)?;
        }
        importer.verify().await;
        importer.start().await;
        Ok(())
    }

    fn importer(&self, setup: &Setup) -> Importer {
        let record = self.options.root().join(super::IMPORT_RECORD);
        Importer::new(&self.options.images_dir(), &record, setup.ctr.clone(), setup.containerd.clone())
    }
}

/// A containerd that answers: the one that runs, if it fits, else a new one.
async fn acquire(setup: &Setup) -> Result<Process, Failure> {
    if let Some(mut old) = setup.launch.adopt()? {
        let current = setup.launch.is_current(&old)?;
        if current && wait_for_answer(setup, &mut old, ADOPT_TIMEOUT).await.is_ok() {
            tracing::info!(pid = old.pid, "containerd adopted");
            return Ok(old);
        }
        tracing::info!(pid = old.pid, current, "containerd is replaced; containers keep running");
        end(&mut old).await?;
    }
    let started = Instant::now();
    let mut new = setup.launch.spawn().map_err(Failure::Spawn)?;
    let version = wait_for_answer(setup, &mut new, START_TIMEOUT).await;
    let version = match version {
        Ok(version) => version,
        Err(failure) => {
            end(&mut new).await?;
            return Err(failure);
        }
    };
    tracing::info!(pid = new.pid, version, ms = started.elapsed().as_millis() as u64, "containerd started");
    Ok(new)
}

async fn wait_for_answer(setup: &Setup, process: &mut Process, timeout: Duration) -> Result<String, Failure> {
    let answer = async {
        loop {
            match setup.containerd.version().await {
                Ok(version) => return Ok(version),
                Err(status) if status.code() == tonic::Code::Unimplemented => {
                    return Err(Failure::NoCri(setup.launch.log.clone()));
                }
                Err(_) => {}
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        ended = process.ended() => { ended?; Err(Failure::Ended(setup.launch.log.clone())) }
        answer = tokio::time::timeout(timeout, answer) => {
            answer.map_err(|_| Failure::NoAnswer(timeout, setup.launch.log.clone()))?
        }
    }
}

async fn end(process: &mut Process) -> io::Result<()> {
    process.terminate()?;
    if let Ok(ended) = tokio::time::timeout(TERMINATE_TIMEOUT, process.ended()).await {
        return ended;
    }
    process.kill()?;
    process.ended().await
}

async fn rotate_log(log: &Path) {
    loop {
        let path = log.to_owned();
        let rotated = tokio::task::spawn_blocking(move || log::rotate(&path, log::MAX_BYTES, log::KEEP)).await;
        if let Ok(Err(error)) = rotated {
            tracing::warn!(log = %log.display(), %error, "log can't be rotated");
        }
        tokio::time::sleep(ROTATE_INTERVAL).await;
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    std::iter::once(error.to_string()).chain(sources.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}
