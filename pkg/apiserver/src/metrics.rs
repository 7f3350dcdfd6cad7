//! `/metrics`: requests by resource and code, how long they took, and what the process uses. Names are
//! kube-apiserver's.
use crate::body::{self, Body};
use crate::registry::Registry;
use crate::request::{RequestInfo, Target, Verb};
use http::{Response, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Seconds; a few of upstream's buckets.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// What a request is about; only names that are served get in, so that nobody can invent new series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Subject {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

impl Subject {
    /// The labels of a request.
    pub fn new(target: &Target, registry: &Registry) -> Self {
        match target {
            Target::Resource(info) => Self::of_resource(info, registry),
            Target::NonResource { verb, .. } => {
                let verb = match verb.as_str() {
                    "get" => "GET",
                    "post" => "POST",
                    _ => "OTHER",
                };
                let none = String::new;
                Self { verb, group: none(), version: none(), resource: none(), subresource: none(), scope: "" }
            }
        }
    }

    fn of_resource(info: &RequestInfo, registry: &Registry) -> Self {
        let gvr = api::GroupVersionResource::new(&*info.group, &*info.version, &*info.resource);
        let served = registry.get(&gvr);
        let known = served.is_some();
        let sub = served.is_some_and(|resource| resource.subresources.iter().any(|sub| sub.name == info.subresource));
        let scope = match (info.name.is_empty(), info.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        let if_known = |text: String| if known { text } else { String::new() };
        Self {
            verb: verb(info.verb),
            group: if_known(gvr.group),
            version: if_known(gvr.version),
            resource: if_known(gvr.resource),
            subresource: if sub { info.subresource.clone() } else { String::new() },
            scope,
        }
    }
}

fn verb(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "GET",
        Verb::List => "LIST",
        Verb::Watch => "WATCH",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
        Verb::DeleteCollection => "DELETECOLLECTION",
        Verb::Options => "OPTIONS",
    }
}

/// All metrics of the front.
pub struct Metrics {
    registry: prometheus_client::registry::Registry,
    requests: Family<Outcome, Counter>,
    durations: Family<Subject, Histogram>,
    process: Process,
}

/// Read anew each time somebody asks.
#[derive(Default)]
struct Process {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    open_files: Gauge,
    threads: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = prometheus_client::registry::Registry::default();
        let requests = Family::<Outcome, Counter>::default();
        let durations = Family::<Subject, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let process = Process::default();
        registry.register("apiserver_request", "Requests answered, by resource and code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time to the answer's head", durations.clone());
        registry.register("process_cpu_seconds", "CPU time of the process", process.cpu_seconds.clone());
        registry.register("process_resident_memory_bytes", "Resident memory", process.resident_bytes.clone());
        registry.register("process_virtual_memory_bytes", "Virtual memory", process.virtual_bytes.clone());
        registry.register("process_open_fds", "Open file descriptors", process.open_files.clone());
        registry.register("process_threads", "Threads", process.threads.clone());
        Self { registry, requests, durations, process }
    }
}

impl Metrics {
    /// Counts an answered request.
    pub fn answered(&self, subject: Subject, code: StatusCode, took: Duration) {
        // Watches and the like last as long as the client wants.
        if subject.verb != "WATCH" {
            self.durations.get_or_create(&subject).observe(took.as_secs_f64());
        }
        let Subject { verb, group, version, resource, subresource, scope } = subject;
        let outcome = Outcome { verb, group, version, resource, subresource, scope, code: code.as_u16() };
        self.requests.get_or_create(&outcome).inc();
    }

    /// The answer to `/metrics`.
    pub fn serve(&self) -> Response<Body> {
        self.process.read();
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => body::content(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(error) => body::status(&api::Status::internal(error)),
        }
    }
}

impl Process {
    /// Leaves values as they were where `/proc` can't be read.
    fn read(&self) {
        let Ok(process) = procfs::process::Process::myself() else { return };
        if let Ok(stat) = process.stat() {
            let seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
            self.cpu_seconds.inner().store(seconds.to_bits(), std::sync::atomic::Ordering::Relaxed);
            self.resident_bytes.set(i64::try_from(stat.rss * procfs::page_size()).unwrap_or(i64::MAX));
            self.virtual_bytes.set(i64::try_from(stat.vsize).unwrap_or(i64::MAX));
            self.threads.set(stat.num_threads);
        }
        if let Ok(count) = process.fd_count() {
            self.open_files.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn requests_are_counted_without_names_that_clients_invent() {
        let metrics = Metrics::default();
        let registry = Registry::default();
        for path in ["/api/v1/namespaces/a/inventeds/b", "/apis/x/v1/others", "/healthz"] {
            let target = crate::request::parse(&http::Method::GET, &path.parse().unwrap()).unwrap();
            metrics.answered(Subject::new(&target, &registry), StatusCode::OK, Duration::from_millis(3));
        }
        let text = metrics.serve().into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.contains(r#"scope="resource",code="200"} 1"#), "{text}");
        assert!(!text.contains("invented"));
        let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).unwrap();
        assert!(resident.parse::<u64>().unwrap() > 1 << 20);
    }
}
