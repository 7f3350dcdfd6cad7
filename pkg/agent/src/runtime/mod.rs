//! The container runtime: Eyot's own containerd, with its own root, state and socket.
//!
//! Place in the flow: `agent ─► CRI ─► containerd`. [`Service`] adopts the containerd that an earlier run left, or
//! starts one; it outlives us, so containers and their logs go on while Eyot is away. The agent learns from
//! [`Handle`] when and where it answers. With [`Options::endpoint`] an existing runtime is used and nothing is run.
//!
//! `service` supervises, `process` is the one containerd, `config` its configuration, `programs` what must be
//! installed, `pause` and `archive` make the sandbox image, `import` and `ctr` take image archives in (`ctr` mounts images too), `stop`
//! is the uninstaller's.

mod archive;
mod config;
mod ctr;
mod grpc;
mod import;
mod log;
mod pause;
mod probe;
mod process;
pub mod programs;
mod service;
mod stop;

pub(crate) use ctr::Ctr;
pub use pause::REFERENCE as PAUSE_IMAGE;
pub use service::{Error, Service};
pub use stop::{remove_cgroups, stop};

use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Where everything of one node's runtime lies.
#[derive(Debug, Clone)]
pub struct Options {
    /// Eyot's data directory, `/var/lib/eyot` by default.
    pub data_dir: PathBuf,
    /// `/run/<instance>`.
    pub run_dir: PathBuf,
    /// `--container-runtime-endpoint`: an existing CRI endpoint (`unix:///path` or a path) to use instead.
    pub endpoint: Option<String>,
    /// `--pause-image`: another sandbox image than our own; it comes from a registry or an archive.
    pub pause_image: Option<String>,
}

/// The record of imports within containerd's root.
const IMPORT_RECORD: &str = "eyot-imported.json";

/// The names of images that were imported from archives; `agent_dir` is the agent's own directory.
pub(crate) fn imported(agent_dir: &Path) -> std::collections::BTreeSet<String> {
    import::references(&agent_dir.join("containerd").join(IMPORT_RECORD))
}

impl Options {
    /// The options of an instance (default "eyot") with its own containerd.
    pub fn new(instance: &str, data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            run_dir: Path::new("/run").join(instance),
            endpoint: None,
            pause_image: None,
        }
    }

    /// containerd's persistent data.
    pub fn root(&self) -> PathBuf {
        self.data_dir.join("agent/containerd")
    }

    /// containerd's state of this boot, and the mounts of containers.
    pub fn state_dir(&self) -> PathBuf {
        self.run_dir.join("containerd")
    }

    /// containerd's socket, which serves CRI and containerd's own services.
    pub fn socket(&self) -> PathBuf {
        self.state_dir().join("containerd.sock")
    }

    /// Where the agent keeps pods' volumes.
    fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("agent/pods")
    }

    /// Where image archives are put for import.
    pub fn images_dir(&self) -> PathBuf {
        self.data_dir.join("agent/images")
    }

    /// Where the pod network's configuration is expected.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.data_dir.join("agent/etc/cni/net.d")
    }

    /// `<registry>/hosts.toml` files (containerd's docs/hosts.md).
    pub fn registry_dir(&self) -> PathBuf {
        self.data_dir.join("agent/etc/containerd/certs.d")
    }

    /// containerd's generated configuration.
    pub fn config_file(&self) -> PathBuf {
        self.data_dir.join("agent/etc/containerd/config.toml")
    }

    /// What containerd prints; rotated.
    pub fn log_file(&self) -> PathBuf {
        self.root().join("containerd.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.state_dir().join("eyot.pid")
    }
}

/// Where a CRI v1 runtime answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `unix:///run/...`, as tonic and crictl take it.
    pub uri: String,
    /// The same as a path.
    pub socket: PathBuf,
}

impl Endpoint {
    fn of_socket(socket: &Path) -> Self {
        Self { uri: format!("unix://{}", socket.display()), socket: socket.to_owned() }
    }

    fn parse(endpoint: &str) -> Self {
        Self::of_socket(Path::new(endpoint.strip_prefix("unix://").unwrap_or(endpoint)))
    }
}

/// What the runtime is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// At birth, until containerd answers and has the sandbox image and all archives found at start.
    Starting,
    /// From then until it ends.
    Ready(Endpoint),
    /// From its end until its successor is ready.
    Down { reason: String },
}

/// A view of the runtime's state.
#[derive(Debug, Clone)]
pub struct Handle {
    state: watch::Receiver<State>,
}

impl Handle {
    /// The state now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the runtime is ready; `None` when the service is gone.
    pub async fn ready(&mut self) -> Option<Endpoint> {
        let state = self.state.wait_for(|state| matches!(state, State::Ready(_))).await.ok()?;
        match &*state {
            State::Ready(endpoint) => Some(endpoint.clone()),
            _ => None,
        }
    }

    /// Waits for the next change; `None` when the service is gone.
    pub async fn changed(&mut self) -> Option<State> {
        self.state.changed().await.ok()?;
        Some(self.state())
    }
}
