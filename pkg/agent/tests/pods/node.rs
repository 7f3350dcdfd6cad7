//! One node for a test: a containerd of its own, an agent, and an API in memory.
use crate::api::Api;
use eyot_agent::{GracePeriod, Handle, Options, Service, Thresholds, cleanup, runtime};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub const WAIT: Duration = Duration::from_secs(60);
pub const IMAGE: &str = "eyot.dev/demo:1";

/// One node's directories, removed even when the test fails.
pub struct Place {
    pub instance: String,
    pub runtime: runtime::Options,
    number: u8,
}

impl Place {
    /// `number` tells the places of one run apart.
    pub fn new(number: u8) -> Self {
        let instance = format!("eyot-agent-test-{}-{number}", std::process::id());
        let data_dir = std::env::temp_dir().join(&instance);
        let runtime = runtime::Options::new(&instance, &data_dir);
        Self { instance, runtime, number }
    }

    pub fn agent_dir(&self) -> PathBuf {
        self.runtime.data_dir.join("agent")
    }

    /// The demo image and a network of loopback alone: pods of this test talk to nobody.
    pub fn furnish(&self) {
        std::fs::create_dir_all(self.runtime.images_dir()).expect("directory");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../embedded/demo-image/build.sh");
        let built = Command::new(script).arg(self.runtime.images_dir().join("demo.tar")).status();
        assert!(built.expect("the script runs").success());
        std::fs::create_dir_all(self.runtime.cni_conf_dir()).expect("directory");
        let network = json!({"cniVersion": "1.0.0", "name": "test", "plugins": [{
            "type": "ptp",
            "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("198.18.{}.0/24", 77 + self.number)}]], "dataDir": self.agent_dir().join("cni")},
        }]});
        std::fs::write(self.runtime.cni_conf_dir().join("10-test.conflist"), network.to_string()).expect("written");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ended = runtime::stop(&self.runtime).is_ok() && cleanup(&self.instance).is_ok();
        let _ = std::fs::remove_dir_all(&self.runtime.data_dir);
        let _ = std::fs::remove_dir_all(&self.runtime.run_dir);
        if !ended && !std::thread::panicking() {
            panic!("something is left of {}", self.instance);
        }
    }
}

/// A running containerd's supervisor.
pub struct Supervisor {
    stop: CancellationToken,
    task: JoinHandle<Result<(), runtime::Error>>,
}

impl Supervisor {
    pub async fn start(place: &Place) -> Self {
        let supervisor = runtime::Service::new(place.runtime.clone());
        let (mut ready, stop) = (supervisor.handle(), CancellationToken::new());
        let task = tokio::spawn(supervisor.run(stop.clone()));
        tokio::time::timeout(WAIT, ready.ready()).await.expect("in time").expect("it runs");
        Self { stop, task }
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends").expect("well");
    }
}

/// A running agent.
pub struct Agent {
    pub handle: Handle,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Agent {
    pub fn start(place: &Place, api: &Api) -> Self {
        let shutdown = CancellationToken::new();
        let informers = client::Informers::new(api.client(), TaskTracker::new(), shutdown.clone());
        let resolver = rustls::server::ResolvesServerCertUsingSni::new();
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        let options = Options {
            client: api.client(),
            informers,
            narrow_reflectors: false,
            node_name: "n1".into(),
            node_ip: "127.0.0.1".parse().expect("address"),
            data_dir: place.agent_dir(),
            log_dir: None,
            instance: place.instance.clone(),
            cri_socket: place.runtime.socket(),
            containerd_events: true,
            cluster_dns: "10.43.0.10".into(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            serving_tls: Arc::new(tls),
            guard: None,
            listen: "127.0.0.1:0".parse().expect("address"),
            labels: Default::default(),
            taints: Vec::new(),
            max_pods: 110,
            // How full this machine is must not matter.
            thresholds: Thresholds::NONE,
            shutdown_grace_periods: GracePeriod::of(Duration::from_secs(60), Duration::from_secs(20)),
            kubelet_version: "v1.36.3".into(),
        };
        let service = Service::new(options);
        let handle = service.handle();
        let run = service.run(shutdown.clone());
        Self { handle, shutdown, task: tokio::spawn(async { run.await.expect("the agent runs") }) }
    }

    pub async fn end(self) {
        self.shutdown.cancel();
        tokio::time::timeout(WAIT, self.task).await.expect("it drains in time").expect("it ends");
    }
}

pub fn path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

pub fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = "n1".into();
    spec["terminationGracePeriodSeconds"] = 1.into();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
        "spec": spec,
    })
}

/// Waits until an object is as it should be.
pub async fn until(api: &Api, path: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let object = api.get(path).unwrap_or_default();
        if check(&object) {
            return object;
        }
        assert!(start.elapsed() < WAIT, "not in time: {what}: {object:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something has come to pass.
pub async fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < WAIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn obstacle(problems: &[runtime::programs::Problem]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    problems.first().map(ToString::to_string)
}
