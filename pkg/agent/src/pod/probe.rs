//! Probes: one task a probe of a running container, and what they have found.
use crate::cri::{Cri, ExecSyncRequest, request_within};
use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a pod's step asks of its probes.
pub trait Health: Send + Sync {
    /// The startup probe has succeeded, or there is none.
    fn started(&self, container: &Container, id: &str) -> bool;
    /// It has started and the readiness probe succeeds, or there is none.
    fn ready(&self, container: &Container, id: &str) -> bool;
    /// Which probe failed past its threshold, so that the container must be ended.
    fn failed(&self, container: &Container, id: &str) -> Option<&'static str>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// Counts successes and failures in a row, and says when a threshold is crossed. Pure.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    pub ok: bool,
    /// Failed past the threshold at least once.
    pub tripped: bool,
    row: i32,
    last: bool,
}

impl Tally {
    /// Liveness is assumed until it fails; startup and readiness must be shown first.
    pub fn new(kind: Kind) -> Self {
        Self { ok: kind == Kind::Liveness, tripped: false, row: 0, last: false }
    }

    pub fn add(&mut self, probe: &Probe, success: bool) {
        self.row = if self.row > 0 && self.last == success { self.row + 1 } else { 1 };
        self.last = success;
        let threshold = if success { probe.success_threshold } else { probe.failure_threshold };
        if self.row >= threshold.unwrap_or(if success { 1 } else { 3 }) {
            self.ok = success;
            self.tripped |= !success;
        }
    }
}

type Key = (String, Kind);

/// Told of a probe's failure: container, kind, output.
pub type OnFailure = Arc<dyn Fn(&str, Kind, &str) + Send + Sync>;

/// The probes of one pod.
pub struct Probes {
    cri: Cri,
    tallies: Arc<Mutex<HashMap<Key, Tally>>>,
    tasks: HashMap<Key, DropGuard>,
    changed: Arc<Notify>,
    on_failure: OnFailure,
    tracker: tokio_util::task::TaskTracker,
}

impl Probes {
    pub fn new(cri: Cri, changed: Arc<Notify>, on_failure: OnFailure, tracker: tokio_util::task::TaskTracker) -> Self {
        Self { cri, tallies: Arc::default(), tasks: HashMap::new(), changed, on_failure, tracker }
    }

    /// Runs what should be probed and ends the rest. `running`: containers with their ids; `ip`: the pod's.
    pub fn reconcile(&mut self, running: &[(&Container, String)], ip: &str) {
        let mut wanted: HashMap<Key, (&Container, Kind)> = HashMap::new();
        for (container, id) in running {
            let starting = container.startup_probe.is_some() && !self.started(container, id);
            let kinds: &[Kind] = if starting { &[Kind::Startup] } else { &[Kind::Liveness, Kind::Readiness] };
            for kind in kinds.iter().filter(|kind| kind.of(container).is_some()) {
                wanted.insert((id.clone(), *kind), (container, *kind));
            }
        }
        self.tasks.retain(|key, _| wanted.contains_key(key));
        self.tallies.lock().retain(|(id, _), _| running.iter().any(|(_, running)| running == id));
        for (key, (container, kind)) in wanted {
            if !self.tasks.contains_key(&key) {
                let task = self.spawn(key.clone(), container, kind, ip);
                self.tasks.insert(key, task);
            }
        }
    }

    pub fn stop(&mut self) {
        self.tasks.clear();
    }

    fn spawn(&self, key: Key, container: &Container, kind: Kind, ip: &str) -> DropGuard {
        let token = CancellationToken::new();
        self.tallies.lock().entry(key.clone()).or_insert_with(|| Tally::new(kind));
        let run = Run {
            cri: self.cri.clone(),
            container: container.clone(),
            kind,
            ip: ip.to_owned(),
            id: key.0.clone(),
            tallies: self.tallies.clone(),
            changed: self.changed.clone(),
            on_failure: self.on_failure.clone(),
        };
        let cancelled = token.clone();
        self.tracker.spawn(async move { cancelled.run_until_cancelled(Box::pin(run.forever())).await });
        token.drop_guard()
    }

    fn tally(&self, id: &str, kind: Kind) -> Option<Tally> {
        self.tallies.lock().get(&(id.to_owned(), kind)).copied()
    }
}

impl Health for Probes {
    fn started(&self, container: &Container, id: &str) -> bool {
        container.startup_probe.is_none() || self.tally(id, Kind::Startup).is_some_and(|tally| tally.ok)
    }

    fn ready(&self, container: &Container, id: &str) -> bool {
        let ready =
            container.readiness_probe.is_none() || self.tally(id, Kind::Readiness).is_some_and(|tally| tally.ok);
        ready && self.started(container, id)
    }

    fn failed(&self, _: &Container, id: &str) -> Option<&'static str> {
        let tripped = |kind| self.tally(id, kind).is_some_and(|tally| tally.tripped);
        match () {
            () if tripped(Kind::Startup) => Some("startup"),
            () if tripped(Kind::Liveness) => Some("liveness"),
            () => None,
        }
    }
}

struct Run {
    cri: Cri,
    container: Container,
    kind: Kind,
    ip: String,
    id: String,
    tallies: Arc<Mutex<HashMap<Key, Tally>>>,
    changed: Arc<Notify>,
    on_failure: OnFailure,
}

impl Run {
    async fn forever(self) {
        let Some(probe) = self.kind.of(&self.container).cloned() else { return };
        let seconds = |value: Option<i32>, default: i32| Duration::from_secs(value.unwrap_or(default).max(0) as u64);
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
        loop {
            let result = self.once(&probe, seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1))).await;
            if let Err(output) = &result {
                (self.on_failure)(&self.container.name, self.kind, output);
            }
            if self.record(&probe, result.is_ok()) {
                self.changed.notify_one();
            }
            tokio::time::sleep(seconds(probe.period_seconds, 10).max(Duration::from_secs(1))).await;
        }
    }

    /// True when the verdict changed.
    fn record(&self, probe: &Probe, success: bool) -> bool {
        let mut tallies = self.tallies.lock();
        let Some(tally) = tallies.get_mut(&(self.id.clone(), self.kind)) else { return false };
        let before = (tally.ok, tally.tripped);
        tally.add(probe, success);
        before != (tally.ok, tally.tripped)
    }

    async fn once(&self, probe: &Probe, within: Duration) -> Result<(), String> {
        let host = |given: &Option<String>| given.clone().filter(|host| !host.is_empty()).unwrap_or(self.ip.clone());
        let attempt = async {
            if let Some(exec) = &probe.exec {
                exec_probe(&self.cri, &self.id, exec.command.clone().unwrap_or_default(), within).await
            } else if let Some(get) = &probe.http_get {
                let port = port(&get.port, &self.container).ok_or("the probe's port is not one of the container's")?;
                let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
                let tls = get.scheme.as_deref() == Some("HTTPS");
                http_probe(&host(&get.host), port, get.path.as_deref().unwrap_or("/"), headers, tls).await
            } else if let Some(tcp) = &probe.tcp_socket {
                let port = port(&tcp.port, &self.container).ok_or("the probe's port is not one of the container's")?;
                let connected = tokio::net::TcpStream::connect((host(&tcp.host).as_str(), port)).await;
                connected.map(drop).map_err(|error| dial_error(&host(&tcp.host), port, &error))
            } else if let Some(grpc) = &probe.grpc {
                let port = u16::try_from(grpc.port).map_err(|_| "the probe's port is none")?;
                let service = grpc.service.as_deref().unwrap_or_default();
                super::grpc::grpc_probe(&self.ip, port, service, within).await
            } else {
                Err("the probe has no handler that this node knows".into())
            }
        };
        let out_of_time = || Err(format!("command timed out: context deadline exceeded after {} s", within.as_secs()));
        tokio::time::timeout(within, attempt).await.unwrap_or_else(|_| out_of_time())
    }
}

/// A named port is looked up among the container's.
pub fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port as u16).or_else(|| name.parse().ok())
        }
    }
}

pub async fn exec_probe(cri: &Cri, id: &str, cmd: Vec<String>, within: Duration) -> Result<(), String> {
    let ask = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: within.as_secs() as i64 };
    let deadline = within + Duration::from_secs(2);
    let answer = cri.runtime().exec_sync(request_within(ask, deadline)).await.map_err(|s| s.message().to_owned())?;
    let answer = answer.into_inner();
    match answer.exit_code {
        0 => Ok(()),
        _ => Err(String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned()),
    }
}

/// Most of an answer that is read and shown.
const OUTPUT_LIMIT_BYTES: u64 = 10 << 10;

/// GET over HTTP/1.1, by hand: a probe must not keep connections, follow redirects away from the pod, or check
/// certificates (the kubelet's rule).
pub async fn http_probe(
    host: &str,
    port: u16,
    path: &str,
    headers: Vec<(String, String)>,
    tls: bool,
) -> Result<(), String> {
    let wrong = |error: std::io::Error| {
        let scheme = if tls { "https" } else { "http" };
        format!("Get \"{scheme}://{host}:{port}{path}\": {}", dial_error(host, port, &error))
    };
    let stream = tokio::net::TcpStream::connect((host, port)).await.map_err(wrong)?;
    let has = |name: &str| headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    let mut text = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in
        [("Host", format!("{host}:{port}")), ("User-Agent", "kube-probe/1.36".into()), ("Accept", "*/*".into())]
    {
        if !has(name) {
            text += &format!("{name}: {value}\r\n");
        }
    }
    headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    text += "\r\n";
    let answer = match tls {
        false => exchange(stream, &text).await,
        true => match crate::tls::unverified(stream).await {
            Ok(stream) => exchange(stream, &text).await,
            Err(error) => Err(error),
        },
    };
    verdict(&answer.map_err(wrong)?)
}

/// An error with what caused it, innermost last.
pub fn cause(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A failed connection in the words that users know from Go.
fn dial_error(host: &str, port: u16, error: &std::io::Error) -> String {
    let what = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {host}:{port}: {what}")
}

async fn exchange(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    text: &str,
) -> std::io::Result<Vec<u8>> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(OUTPUT_LIMIT_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn verdict(answer: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(answer);
    let code: Option<u16> = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    match code {
        Some(200..400) => Ok(()),
        Some(code) => Err(format!("HTTP probe failed with statuscode: {code}")),
        None => Err("malformed HTTP response".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_in_a_row() {
        let probe = Probe { failure_threshold: Some(2), success_threshold: Some(2), ..Probe::default() };
        let mut tally = Tally::new(Kind::Readiness);
        let mut after = |success| {
            tally.add(&probe, success);
            (tally.ok, tally.tripped)
        };
        assert_eq!(after(true), (false, false));
        assert_eq!(after(true), (true, false));
        assert_eq!(after(false), (true, false));
        assert_eq!(after(true), (true, false));
        assert_eq!(after(false), (true, false));
        assert_eq!(after(false), (false, true));
    }

    #[test]
    fn status_codes_decide() {
        assert!(verdict(b"HTTP/1.1 204 No Content\r\n\r\n").is_ok());
        assert!(verdict(b"HTTP/1.1 302 Found\r\n\r\n").is_ok());
        assert_eq!(verdict(b"HTTP/1.1 500 Oh\r\n\r\n").unwrap_err(), "HTTP probe failed with statuscode: 500");
        assert!(verdict(b"nonsense").is_err());
    }
}
