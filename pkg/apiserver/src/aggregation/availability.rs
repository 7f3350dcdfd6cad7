//! Whether an APIService can be asked: the `Available` condition, from its Service and endpoints
//! (`k8s.io/kube-aggregator/pkg/controllers/status`). Pure.
use crate::endpoints::{Endpoint, ready};
use serde_json::{Value, json};

/// What the condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Available {
    pub fn local() -> Self {
        Self { status: true, reason: "Local", message: "Local APIServices are always available".into() }
    }

    pub fn passed() -> Self {
        Self { status: true, reason: "Passed", message: "all checks passed".into() }
    }

    pub fn no(reason: &'static str, message: String) -> Self {
        Self { status: false, reason, message }
    }

    /// The condition without its time.
    pub fn condition(&self) -> Value {
        let status = if self.status { "True" } else { "False" };
        json!({"type": "Available", "status": status, "reason": self.reason, "message": self.message})
    }

    /// The APIService with this condition; none: it says so already.
    pub fn apply(&self, service: &Value, now: &str) -> Option<Value> {
        let mut wanted = self.condition();
        let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let at = conditions.iter().position(|condition| condition["type"] == "Available");
        let before = at.map(|at| &conditions[at]);
        let same = |field: &str| before.is_some_and(|before| before[field] == wanted[field]);
        if same("status") && same("reason") && same("message") {
            return None;
        }
        let time = before.filter(|_| same("status")).map_or_else(|| now.into(), |b| b["lastTransitionTime"].clone());
        wanted["lastTransitionTime"] = time;
        let mut new = service.clone();
        match at {
            Some(at) => new["status"]["conditions"][at] = wanted,
            None => {
                let mut conditions = conditions;
                conditions.push(wanted);
                new["status"] = json!({"conditions": conditions});
            }
        }
        Some(new)
    }
}

/// Where an APIService's Service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub namespace: String,
    pub name: String,
    pub port: u16,
}

impl Reference {
    /// None: the APIService is served here.
    pub fn of(service: &Value) -> Option<Self> {
        let reference = service["spec"]["service"].as_object()?;
        let text = |key: &str| reference.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let port = reference.get("port").and_then(Value::as_u64).and_then(|port| port.try_into().ok()).unwrap_or(443);
        Some(Self { namespace: text("namespace"), name: text("name"), port })
    }

    /// The name that the server's certificate must carry.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.name, self.namespace)
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Where the extension server can be asked now, by its Service and EndpointSlices.
///
/// # Errors
/// The condition that says why nowhere.
pub fn addresses(reference: &Reference, service: Option<&Value>, slices: &[Value]) -> Result<Vec<Endpoint>, Available> {
    let Reference { namespace, name, port } = reference;
    let of = format!("service/{name} in {namespace:?}");
    let Some(service) = service else {
        return Err(Available::no("ServiceNotFound", format!("{of} is not present")));
    };
    let Some(found) = list(&service["spec"]["ports"]).iter().find(|candidate| candidate["port"] == *port) else {
        return Err(Available::no("ServicePortError", format!("{of} is not listening on port {port}")));
    };
    if slices.is_empty() {
        return Err(Available::no("EndpointsNotFound", format!("cannot find endpointslices for {of}")));
    }
    let port_name = found["name"].as_str().unwrap_or_default();
    let addresses: Vec<Endpoint> = slices.iter().flat_map(|slice| ready(slice, port_name, |_| true)).collect();
    if addresses.is_empty() {
        let message = format!("endpointslices for {of} have no addresses with port name {port_name:?}");
        return Err(Available::no("MissingEndpoints", message));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> Reference {
        Reference::of(&json!({"spec": {"service": {"namespace": "n", "name": "s", "port": 7443}}})).unwrap()
    }

    #[test]
    fn each_thing_that_is_missing_has_its_reason() {
        let service = json!({"spec": {"ports": [{"name": "web", "port": 7443}]}});
        let slice = |ready: bool| {
            json!({"ports": [{"name": "web", "port": 443}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]})
        };
        let why =
            |service: Option<&Value>, slices: &[Value]| addresses(&reference(), service, slices).unwrap_err().reason;
        assert_eq!(why(None, &[]), "ServiceNotFound");
        assert_eq!(why(Some(&json!({"spec": {"ports": [{"port": 1}]}})), &[]), "ServicePortError");
        assert_eq!(why(Some(&service), &[]), "EndpointsNotFound");
        assert_eq!(why(Some(&service), &[slice(false)]), "MissingEndpoints");
        let found = addresses(&reference(), Some(&service), &[slice(true)]).unwrap();
        assert_eq!(found, ["10.0.0.1:443".parse::<std::net::SocketAddr>().unwrap().into()]);
        assert_eq!(reference().host(), "s.n.svc");
        assert_eq!(Reference::of(&json!({"spec": {}})), None);
    }

    #[test]
    fn the_time_changes_with_the_status_alone() {
        let first = Available::no("ServiceNotFound", "m".into()).apply(&json!({}), "t1").unwrap();
        let second = Available::no("MissingEndpoints", "m".into()).apply(&first, "t2").unwrap();
        assert_eq!(second["status"]["conditions"][0]["lastTransitionTime"], "t1");
        let third = Available::passed().apply(&second, "t3").unwrap();
        assert_eq!(third["status"]["conditions"][0]["lastTransitionTime"], "t3");
        assert_eq!(third["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(Available::passed().apply(&third, "t4"), None);
    }
}
