//! The process that is killed, stopped and started again: this test binary in another role, or a program that is given.
use crate::history::Clock;
use api::summary::{Summarize, Summary};
use eyot_etcd::{Identity, Limits, Options, Service};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, kill_process};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Says to this very test binary: be the server. Its value is `DIRECTORY ADDRESS`.
pub const ROLE: &str = "EYOT_HISTORIES_ROLE";
/// A program to test instead: `eyot`.
const PROGRAM: &str = "EYOT";

struct Nothing;

impl Summarize for Nothing {
    fn summarize(&self, _: &[u8], _: &[u8]) -> Summary {
        Summary::default()
    }
}

/// Serves until killed.
#[tokio::main]
pub async fn serve(role: &str) {
    let (dir, address) = role.split_once(' ').unwrap();
    let keep = Duration::from_secs(300);
    let options = store::Options { dir: dir.into(), server: 1, summarize: Arc::new(Nothing), keep };
    let backend = store::Store::open(options).unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let identity = Identity { cluster_id: 7, member_id: 8, name: "test".into(), client_urls: Vec::new() };
    let service = Service::new(Options { backend, listener, tls: None, identity, limits: Limits::default() });
    service.unwrap().run(CancellationToken::new()).await;
}

/// A server that is tormented; it ends with the test.
pub struct Server {
    dir: PathBuf,
    pub address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        assert!(ended.is_ok() || std::thread::panicking(), "the server can't be ended: {ended:?}");
    }
}

impl Server {
    pub fn start(dir: &Path) -> Self {
        // Free now, and taken again at each start.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { dir: dir.into(), address, child: spawn(dir, address) }
    }

    /// Kills and stops it at random until the time is over; it runs afterwards. Returns how often.
    pub async fn torment(&mut self, random: &mut StdRng, clock: Clock, until: Duration) -> (usize, usize) {
        let (mut kills, mut stops) = (0, 0);
        while clock.now() < until {
            tokio::time::sleep(Duration::from_millis(random.random_range(200..1200))).await;
            if random.random_bool(0.6) {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
                self.child = spawn(&self.dir, self.address);
                kills += 1;
            } else {
                self.signal(Signal::STOP);
                tokio::time::sleep(Duration::from_millis(random.random_range(10..1500))).await;
                self.signal(Signal::CONT);
                stops += 1;
            }
        }
        (kills, stops)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

fn spawn(dir: &Path, address: SocketAddr) -> Child {
    let mut command = match std::env::var_os(PROGRAM) {
        Some(program) => {
            let mut command = Command::new(program);
            command.args(["server", "--config", "/dev/null", "--datastore-only", "--data-dir"]).arg(dir);
            command.arg("--etcd-listen").arg(format!("http://{address}"));
            command
        }
        None => {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "histories_under_kills_are_those_of_etcd", "--nocapture"]);
            command.env(ROLE, format!("{} {address}", dir.display()));
            command
        }
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}
