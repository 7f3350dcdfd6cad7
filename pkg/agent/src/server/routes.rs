//! Which path is answered by what.
use super::auth::Caller;
use super::body::{Answer, json, text, with_type};
use super::{Server, logs, stream};
use crate::machine::Machine;
use crate::stats;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use std::collections::HashMap;
use std::sync::Arc;

/// Query parameters, decoded; a name may stand several times (`command`).
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(decoded.collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    }

    /// The kubelet's way: `1` and `true` are yes.
    pub fn is_set(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "true"))
    }
}

/// Percent-decoding of application/x-www-form-urlencoded.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next().unwrap_or(b'0'), rest.next().unwrap_or(b'0')];
                let hex = std::str::from_utf8(&digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.push(hex.unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers one request.
pub async fn answer(server: Arc<Server>, certificate: Option<Caller>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if path == "/healthz" && certificate.is_none() && request.headers().get(http::header::AUTHORIZATION).is_none() {
        // Probes of the machine's own: says nothing but that we live.
        return text(StatusCode::OK, "ok");
    }
    let caller = match certificate {
        Some(caller) => Some(caller),
        None => server.auth.bearer(request.headers()).await,
    };
    let Some(caller) = caller else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
    match server.auth.allows(&caller, request.method(), &path).await {
        Ok(true) => route(&server, &path, request).await,
        Ok(false) => {
            let node = &server.context.options.node_name;
            text(StatusCode::FORBIDDEN, format!("Forbidden (user={}, node={node}, path={path})", caller.name))
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error: {error}")),
    }
}

async fn route(server: &Arc<Server>, path: &str, request: Request<Incoming>) -> Answer {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] if get => text(StatusCode::OK, "ok"),
        ["pods"] if get => pods(server),
        ["configz"] if get => configz(server),
        ["stats", "summary"] if get => summary(server).await,
        ["metrics"] if get => metrics(own_metrics(server) + &stats::volumes::exposition(&*volume_uses(server).await)),
        ["metrics", "resource"] if get => metrics(stats::resource(&server.sample().await.new)),
        ["metrics", "cadvisor"] if get => metrics(stats::cadvisor(&server.sample().await.new, &server.context.machine)),
        ["metrics", "probes"] if get => metrics(String::new()),
        ["containerLogs", namespace, pod, container] if get => {
            logs::answer(server, namespace, pod, container, &query).await
        }
        ["exec", namespace, pod, rest @ ..] => stream::exec(server, namespace, pod, rest.last(), &query, request).await,
        ["attach", namespace, pod, rest @ ..] => {
            stream::attach(server, namespace, pod, rest.last(), &query, request).await
        }
        ["portForward", namespace, pod, ..] => stream::port_forward(server, namespace, pod, &query, request).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn metrics(exposition: String) -> Answer {
    with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", exposition)
}

async fn summary(server: &Server) -> Answer {
    let context = &server.context;
    let disk = Machine::disk(&context.options.data_dir);
    let uses = volume_uses(server).await;
    json(&stats::summary(&context.options.node_name, &context.machine, disk, &server.sample().await, &uses))
}

async fn volume_uses(server: &Server) -> Arc<stats::volumes::Uses> {
    server.context.stats.volumes.now(&server.context, server.our_pods()).await
}

/// The agent itself.
fn own_metrics(server: &Server) -> String {
    let pods = server.our_pods();
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    let running = pods.iter().filter(|pod| phase(pod).as_deref() == Some("Running")).count();
    let me = procfs::process::Process::myself().and_then(|me| me.stat());
    let rss = me.map_or(0, |stat| stat.rss * procfs::page_size());
    format!(
        "# TYPE kubelet_desired_pods gauge\nkubelet_desired_pods {}\n# TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {running}\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {rss}\n",
        pods.len(),
    )
}

fn pods(server: &Server) -> Answer {
    let ours: Vec<_> = server.our_pods();
    let items: Vec<&Pod> = ours.iter().map(|pod| &**pod).collect();
    json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn configz(server: &Server) -> Answer {
    let options = &server.context.options;
    json(&serde_json::json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDNS": [options.cluster_dns],
        "clusterDomain": options.cluster_domain,
        "maxPods": options.max_pods,
        "staticPodPath": options.manifest_dir(),
        "shutdownGracePeriodByPodPriority": options.shutdown_grace_periods.iter().map(|period| serde_json::json!({
            "priority": period.priority,
            "shutdownGracePeriodSeconds": period.period.as_secs(),
        })).collect::<Vec<_>>(),
        "cgroupDriver": "cgroupfs",
        "resolvConf": options.resolv_conf,
        "port": options.listen.port(),
    }}))
}

impl Server {
    async fn sample(&self) -> stats::Pair {
        self.context.stats.now(&self.context, &self.pods).await
    }

    pub fn our_pods(&self) -> Vec<Arc<Pod>> {
        self.context.pods_here(&self.pods)
    }

    /// A pod of this node, or the answer that there is none.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Box<Answer>> {
        let node = Some(self.context.options.node_name.as_str());
        let found = self.pods.get(namespace, name);
        let found = found.filter(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == node);
        let found = found.and_then(|pod| self.context.real(pod));
        found.ok_or_else(|| Box::new(text(StatusCode::NOT_FOUND, format!("pod \"{name}\" does not exist"))))
    }

    /// The newest containers of a pod by name.
    pub async fn containers(&self, pod: &Pod) -> Result<HashMap<String, crate::cri::Container>, Box<Answer>> {
        use crate::cri::{ContainerFilter, ListContainersRequest, label, request};
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let filter =
            ContainerFilter { label_selector: HashMap::from([(label::POD_UID.to_owned(), uid)]), ..Default::default() };
        let ask = request(ListContainersRequest { filter: Some(filter) });
        let answer = self.context.cri.runtime().list_containers(ask).await;
        let mut all = answer.map_err(runtime_error)?.into_inner().containers;
        all.sort_by_key(|container| container.created_at);
        let named = all.into_iter().filter_map(|c| Some((c.labels.get(label::CONTAINER_NAME)?.clone(), c)));
        Ok(named.collect())
    }
}

/// The runtime's own words.
pub fn runtime_error(status: tonic::Status) -> Box<Answer> {
    Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20b%26c&stdin=1&tty=false&empty");
        assert_eq!(query.all("command"), ["sh", "-c", "echo a b&c"]);
        assert!(query.is_set("stdin") && !query.is_set("tty") && !query.is_set("none"));
        assert_eq!(query.get("empty"), Some(""));
    }
}
