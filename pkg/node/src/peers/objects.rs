//! `servers.eyot.dev`: this server's own object, and what it sees of the others.
use super::contact::Contacts;
use apiserver::Handle as Api;
use client::kube::api::{Api as KubeApi, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use client::kube::{self, Client};
use crdt::HybridClock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sync::{Handle, Member};
use tokio::sync::watch;

const DEFINITION: &str = include_str!("../../../../embedded/crds/servers.yaml");
const MANAGER: &str = "eyot";
/// What is seen of others is written this often, where it differs.
const SHOW: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// What this server says of itself.
pub struct Own {
    pub name: String,
    pub number: u16,
    pub site: String,
    pub address: String,
    pub incarnation: String,
    pub service_account_key: String,
}

impl Own {
    fn object(&self) -> Value {
        json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "Server", "metadata": {"name": self.name},
            "spec": {
                "number": self.number, "site": self.site, "address": self.address, "incarnation": self.incarnation,
                "serviceAccountKeys": [self.service_account_key],
            },
        })
    }
}

pub struct Service {
    pub own: Own,
    pub client: Client,
    pub handle: Handle,
    pub members: watch::Receiver<Vec<Member>>,
    pub contacts: Arc<Contacts>,
    pub api: Api,
}

/// The client of Server objects.
pub fn servers(client: Client) -> KubeApi<DynamicObject> {
    let kind = GroupVersionKind::gvk("eyot.dev", "v1alpha1", "Server");
    KubeApi::all_with(client, &ApiResource::from_gvk_with_plural(&kind, "servers"))
}

/// Makes an object of a server that joins.
///
/// # Errors
/// The API refuses it, as when the name is taken.
pub async fn create(client: Client, object: &Value) -> Result<(), kube::Error> {
    let object: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    servers(client)
        .create(&PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }, &object)
        .await
        .map(drop)
}

impl Service {
    /// Runs until it is dropped.
    pub async fn run(mut self) {
        while let Err(error) = self.introduce().await {
            tracing::debug!(%error, "writing this server's object; trying again");
            tokio::time::sleep(RETRY).await;
        }
        let mut shown = BTreeMap::new();
        let mut links = self.handle.changes();
        loop {
            self.trust().await;
            self.show(&mut shown).await;
            tokio::select! {
                _ = tokio::time::sleep(SHOW) => {}
                changed = links.changed() => if changed.is_err() { return },
                changed = self.members.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Sees to it that the kind exists and this server has its object.
    async fn introduce(&self) -> Result<(), kube::Error> {
        let definition: Value = serde_saphyr::from_str(DEFINITION).expect("it was tested");
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
        let definitions: KubeApi<DynamicObject> = KubeApi::all_with(self.client.clone(), &resource);
        let params = PatchParams::apply(MANAGER).force();
        definitions.patch("servers.eyot.dev", &params, &Patch::Apply(&definition)).await?;
        servers(self.client.clone()).patch(&self.own.name, &params, &Patch::Apply(self.own.object())).await.map(drop)
    }

    /// Takes the keys of all servers' tokens.
    async fn trust(&self) {
        let Ok(list) = servers(self.client.clone()).list(&Default::default()).await else { return };
        let keys = list.items.iter().flat_map(|server| server.data["spec"]["serviceAccountKeys"].as_array().cloned());
        let keys: Vec<String> = keys.flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        if let Err(error) = self.api.set_verifying_keys(&keys) {
            tracing::warn!(%error, "a server's key of service account tokens can't be read");
        }
    }

    /// Writes what this server sees of every member, where that has changed.
    async fn show(&self, shown: &mut BTreeMap<u16, Value>) {
        let members = self.members.borrow().clone();
        shown.retain(|number, _| members.iter().any(|member| member.number == *number));
        for member in &members {
            let status = self.status(member);
            if shown.get(&member.number) == Some(&status) {
                continue;
            }
            let patch = Patch::Merge(json!({"status": status}));
            let written =
                servers(self.client.clone()).patch_status(&member.name, &PatchParams::default(), &patch).await;
            match written {
                Ok(_) => drop(shown.insert(member.number, status)),
                Err(error) => tracing::debug!(%error, server = member.name, "showing what is seen of a server"),
            }
        }
    }

    fn status(&self, member: &Member) -> Value {
        if member.number == self.own.number {
            return json!({"link": "Self", "lag": "0s", "version": env!("CARGO_PKG_VERSION")});
        }
        let links = self.handle.links();
        let link = links.iter().find(|link| link.number == member.number);
        let (now, actor) = (Instant::now(), member.actor.unwrap_or_default());
        let up = self.contacts.is_up(actor, now);
        let state = match link {
            Some(link) if link.connected => "Linked",
            _ if up => "Relayed",
            _ => "Lost",
        };
        let mut status = json!({"link": state, "version": link.map(|link| link.version.clone())});
        let heard_ms = HybridClock::ms(self.handle.vector().get(actor));
        if heard_ms > 0 {
            // In steps, so that a server that is there costs no writes.
            status["lag"] = if up { "0s".into() } else { lag(self.contacts.silence(actor, now)).into() };
            let time = if up { Value::Null } else { time(heard_ms) };
            status["watermarkTime"] = time.clone();
            status["lastContactTime"] = time;
        }
        status
    }
}

fn time(ms: u64) -> Value {
    let second = i64::try_from(ms / 1000).unwrap_or_default();
    jiff::Timestamp::from_second(second).map_or(Value::Null, |time| time.to_string().into())
}

/// As kubectl shows ages: the largest unit that is not small.
fn lag(silence: Duration) -> String {
    match silence.as_secs() {
        seconds @ 0..120 => format!("{}s", seconds / 10 * 10),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_one() {
        let definition: Value = serde_saphyr::from_str(DEFINITION).unwrap();
        assert_eq!(definition["metadata"]["name"], "servers.eyot.dev");
        let fields =
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
                .as_object()
                .unwrap();
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["lag", "lastContactTime", "link", "version", "watermarkTime"]);
        assert!(fields.values().all(|field| field["type"] == "string" && field.get("description").is_some()));
    }

    #[test]
    fn lags_are_told_as_kubectl_tells_ages() {
        let told: Vec<String> = [0, 59, 119, 125, 7300, 260_000].map(|s| lag(Duration::from_secs(s))).to_vec();
        assert_eq!(told, ["0s", "50s", "110s", "2m", "2h", "3d"]);
    }
}
