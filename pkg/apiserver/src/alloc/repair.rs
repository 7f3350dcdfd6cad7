//! Numbers that two Services hold, because two sites gave them away by name without knowing of one another: the younger
//! Service gets others, and an Event says so. Each site repairs its own Services.
use super::service::{self, RENUMBER};
use crate::engine::{Engine, Request, Serve};
use crate::request::{MASTERS, User};
use crate::{RequestInfo, Verb};
use api::home::Claim;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use store::Range;
use tokio_util::sync::CancellationToken;

/// How often Services are compared.
const PERIOD: Duration = Duration::from_secs(30);

/// A Service that has to give numbers up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Repair {
    /// Its place among those that were compared.
    service: usize,
    /// Addresses and ports, as text.
    numbers: Vec<String>,
    /// Who keeps them: `namespace/name`.
    kept_by: String,
}

fn place(service: &Value) -> String {
    let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

/// What is to be given up, by the younger of each two; of the same age the one of the higher uid.
fn plan(services: &[Value]) -> Vec<Repair> {
    let age = |n: &usize| {
        let meta = &services[*n]["metadata"];
        (meta["creationTimestamp"].as_str().unwrap_or_default(), meta["uid"].as_str().unwrap_or_default())
    };
    let mut order: Vec<usize> = (0..services.len()).collect();
    order.sort_by_key(age);
    let mut holders: BTreeMap<String, usize> = BTreeMap::new();
    let mut repairs: Vec<Repair> = Vec::new();
    for n in order {
        let claims = service::claims(&services[n]);
        let numbers = claims.ips.iter().map(ToString::to_string).chain(claims.ports.iter().map(ToString::to_string));
        for number in numbers {
            let holder = *holders.entry(number.clone()).or_insert(n);
            match repairs.last_mut().filter(|repair| repair.service == n) {
                _ if holder == n => {}
                Some(repair) => repair.numbers.push(number),
                None => repairs.push(Repair { service: n, numbers: vec![number], kept_by: place(&services[holder]) }),
            }
        }
    }
    repairs
}

/// Compares and repairs until shutdown, where there are several sites.
pub async fn run(engine: &Engine, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_some() {
        if engine.sites().marked()
            && let Err(error) = round(engine).await
        {
            tracing::debug!(%error, "comparing the numbers of Services");
        }
    }
}

async fn round(engine: &Engine) -> store::Result<()> {
    let page = engine.backend().list(&Range::prefix(super::SERVICES.as_bytes()), None, 0).await?;
    let services: Vec<Value> = page.entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect();
    for repair in plan(&services) {
        let service = &services[repair.service];
        if engine.sites().view().is_home(&Claim::of("Service", service)) {
            carry_out(engine, service, &repair).await;
        }
    }
    Ok(())
}

async fn carry_out(engine: &Engine, service: &Value, repair: &Repair) {
    let meta = &service["metadata"];
    let patch = json!({"metadata": {"uid": meta["uid"], "annotations": {(RENUMBER): repair.numbers.join(",")}}});
    let mut request = info(Verb::Patch, "services", service);
    request.name = meta["name"].as_str().unwrap_or_default().to_owned();
    if !ask(engine, request, &patch, "application/merge-patch+json").await {
        return;
    }
    let now = (engine.clock())().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let note = format!(
        "{} belonged to Service {} too, which is older: others were given",
        repair.numbers.join(", "),
        repair.kept_by
    );
    let about = json!({"apiVersion": "v1", "kind": "Service", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]});
    let event = json!({"apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": "NumbersCollided", "message": note,
        "metadata": {"generateName": "renumbered-", "namespace": meta["namespace"]}, "involvedObject": about,
        "source": {"component": "eyot"}, "firstTimestamp": now, "lastTimestamp": now, "count": 1});
    ask(engine, info(Verb::Create, "events", service), &event, "application/json").await;
}

fn info(verb: Verb, resource: &str, service: &Value) -> RequestInfo {
    RequestInfo {
        verb,
        group: String::new(),
        version: "v1".into(),
        namespace: service["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
        resource: resource.to_owned(),
        subresource: String::new(),
        name: String::new(),
        path: String::new(),
        query: Vec::new(),
    }
}

/// Whether the engine did it.
async fn ask(engine: &Engine, info: RequestInfo, body: &Value, media_type: &'static str) -> bool {
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(media_type));
    let user = User::new("eyot:server", &[MASTERS]);
    let what = format!("{} {}/{}", info.resource, info.namespace, info.name);
    let body = body.to_string().into();
    let response = engine.serve(Request { info, user, headers, body, escalation: None, forwarded: false }).await;
    if !response.status().is_success() {
        tracing::warn!(what, status = %response.status(), "numbers that collide could not be changed");
    }
    response.status().is_success()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sites;
    use crate::engine::testing;
    use api::home::{Link, Ownership};

    fn service(name: &str, born: u32, ip: &str, port: u16, home: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "uid": name, "annotations": {"eyot.dev/home": home},
                "creationTimestamp": format!("2026-01-01T00:00:{born:02}Z")},
            "spec": {"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip], "selector": {"a": "b"},
                "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": port}]}})
    }

    #[test]
    fn the_younger_of_two_gives_its_numbers_up() {
        let services = [
            service("young", 9, "10.43.0.9", 30_001, "a"),
            service("old", 1, "10.43.0.9", 30_001, "b"),
            service("other", 2, "10.43.0.8", 30_002, "b"),
        ];
        let numbers = vec!["10.43.0.9".to_owned(), "30001".to_owned()];
        assert_eq!(plan(&services), [Repair { service: 0, numbers, kept_by: "default/old".into() }]);
        assert_eq!(plan(&services[1..]), []);
    }

    #[tokio::test]
    async fn a_collision_is_repaired_at_the_youngers_home_and_told() {
        for (site, repaired) in [("south", true), ("north", false)] {
            let other = if site == "south" { "north" } else { "south" };
            let view = Ownership::of(site, "north").with(other, Link::Up);
            let ownership = tokio::sync::watch::channel(view).1;
            let bench = testing::Bench::at(Sites { ownership, ..Sites::default() });
            let namespace = json!({"metadata": {"name": "default"}, "status": {"phase": "Active"}});
            bench.store("/registry/namespaces/default", namespace).await;
            for service in
                [service("old", 1, "10.43.0.9", 30_001, "north"), service("young", 9, "10.43.0.9", 30_001, "south")]
            {
                let key = format!("{}{}", super::super::SERVICES, place(&service));
                bench.store(&key, service).await;
            }
            round(&bench.engine).await.unwrap();
            let (_, young) = bench.json(testing::info(Verb::Get, "services", "default", "young"), Value::Null).await;
            let (_, old) = bench.json(testing::info(Verb::Get, "services", "default", "old"), Value::Null).await;
            assert_eq!(
                (&old["spec"]["clusterIP"], &old["spec"]["ports"][0]["nodePort"]),
                (&json!("10.43.0.9"), &json!(30_001))
            );
            assert_eq!(young["spec"]["clusterIP"] != "10.43.0.9", repaired, "{young}");
            assert_eq!(young["spec"]["ports"][0]["nodePort"] != 30_001, repaired);
            assert_eq!(young["spec"]["clusterIPs"][0], young["spec"]["clusterIP"]);
            assert_eq!(young["metadata"]["annotations"], json!({"eyot.dev/home": "south"}));
            let (_, events) = bench.json(testing::info(Verb::List, "events", "default", ""), Value::Null).await;
            assert_eq!(events["items"].as_array().unwrap().len(), usize::from(repaired));
        }
    }
}
