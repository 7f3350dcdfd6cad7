//! The runtime with a real containerd: it outlives us, is adopted, restarted, fed with images, and leaves nothing.
use eyot_agent::runtime::{Endpoint, Handle, Options, PAUSE_IMAGE, Service, State, programs, stop};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const WAIT: Duration = Duration::from_secs(60);

/// A running service over a directory of its own.
struct Running {
    handle: Handle,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(options: &Options) -> Self {
        let service = Service::new(options.clone());
        let (handle, shutdown) = (service.handle(), CancellationToken::new());
        let run = service.run(shutdown.clone());
        Self { handle, shutdown, task: tokio::spawn(async { run.await.expect("the runtime runs") }) }
    }

    async fn ready(&mut self) -> Endpoint {
        tokio::time::timeout(WAIT, self.handle.ready()).await.expect("ready in time").expect("it runs")
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.expect("it ends");
    }
}

/// Ends containerd even when the test fails.
struct Cleanup(Options);

impl Drop for Cleanup {
    fn drop(&mut self) {
        stop(&self.0).expect("everything ends");
        std::fs::remove_dir_all(&self.0.data_dir).expect("the data directory can be removed");
        assert!(!self.0.run_dir.exists(), "the run directory is gone");
    }
}

fn pid(options: &Options) -> i32 {
    let text = std::fs::read(options.state_dir().join("eyot.pid")).expect("pid file");
    let record: serde_json::Value = serde_json::from_slice(&text).expect("json");
    record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("pid")
}

fn images(options: &Options) -> String {
    let mut ctr = Command::new("ctr");
    ctr.arg("-a").arg(options.socket()).args(["-n", "k8s.io", "images", "ls"]);
    String::from_utf8(ctr.output().expect("ctr").stdout).expect("text")
}

fn demo_image(to: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../embedded/demo-image/build.sh");
    let status = Command::new(script).arg(to).status().expect("the script runs");
    assert!(status.success(), "demo image: {status}");
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !check() {
        assert!(start.elapsed() < WAIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What would keep this machine from running the test.
async fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let problems = programs::check().await;
    problems.first().map(ToString::to_string)
}

#[tokio::test]
async fn containerd_outlives_us_and_leaves_nothing() {
    if let Some(obstacle) = obstacle().await {
        return eprintln!("skipped: {obstacle}");
    }
    let unique = format!("eyot-runtime-test-{}", std::process::id());
    let options = Options {
        data_dir: std::env::temp_dir().join(&unique),
        run_dir: PathBuf::from("/run").join(&unique),
        endpoint: None,
        pause_image: None,
    };
    let cleanup = Cleanup(options.clone());

    let mut first = Running::start(&options);
    let endpoint = first.ready().await;
    assert_eq!(endpoint.socket, options.socket());
    let born = pid(&options);
    assert!(
        images(&options).lines().any(|l| l.starts_with(PAUSE_IMAGE) && l.contains("pinned")),
        "{}",
        images(&options)
    );

    demo_image(&options.images_dir().join("demo.tar"));
    std::fs::write(options.images_dir().join("broken.tar"), "this is no archive").expect("write");
    eventually("the archive is imported", || images(&options).contains("eyot.dev/demo:1")).await;
    first.end().await;

    let mut second = Running::start(&options);
    second.ready().await;
    assert_eq!(pid(&options), born, "adopted, not started again");

    rustix::process::kill_process(rustix::process::Pid::from_raw(born).expect("pid"), rustix::process::Signal::KILL)
        .expect("kill");
    let down = tokio::time::timeout(WAIT, second.handle.changed()).await.expect("in time");
    assert!(matches!(down, Some(State::Down { .. })), "{down:?}");
    second.ready().await;
    assert_ne!(pid(&options), born, "a new one");
    assert!(images(&options).contains("eyot.dev/demo:1"), "images outlive containerd");
    second.end().await;

    stop(&options).expect("everything ends");
    stop(&options).expect("and may be ended twice");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&unique), "{mounts}");
    drop(cleanup);
}
