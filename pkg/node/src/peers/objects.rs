//! `servers.eyot.dev`: this server's own object, and what it sees of the others.
use super::contact::Contacts;
use super::register::Register;
use super::sites::Known;
use apiserver::Handle as Api;
use crdt::HybridClock;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sync::{Handle, Member};
use tokio::sync::watch;

/// What is seen of others is written this often, where it differs.
const SHOW: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// What this server says of itself.
pub struct Own {
    pub name: String,
    pub number: u16,
    pub site: String,
    pub address: String,
    pub service_account_key: String,
    /// The certificate of its intermediate CA, and those between it and the root.
    pub authority: String,
}

impl Own {
    fn object(&self, incarnation: &str) -> Value {
        json!({
            "apiVersion": "eyot.dev/v1alpha1", "kind": "Server", "metadata": {"name": self.name},
            "spec": {
                "number": self.number, "site": self.site, "address": self.address, "incarnation": incarnation,
                "serviceAccountKeys": [self.service_account_key], "authority": self.authority,
            },
        })
    }
}

pub struct Service {
    pub own: Own,
    pub register: Register,
    pub handle: Handle,
    pub members: watch::Receiver<Vec<Member>>,
    pub all: watch::Receiver<Vec<Known>>,
    pub contacts: Arc<Contacts>,
    /// What believes tokens; none where no API is served.
    pub api: Option<Api>,
}

impl Service {
    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut epoch = self.handle.epoch();
        self.introduce().await;
        let mut shown = BTreeMap::new();
        let mut links = self.handle.changes();
        loop {
            self.trust();
            self.show(&mut shown).await;
            tokio::select! {
                _ = tokio::time::sleep(SHOW) => {}
                changed = epoch.changed() => match changed {
                    Ok(()) => self.introduce().await,
                    Err(_) => return,
                },
                changed = links.changed() => if changed.is_err() { return },
                changed = self.all.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Sees to it that the kind exists and this server has its object.
    async fn introduce(&self) {
        while let Err(error) = self.register.introduce(&self.own.object(&self.handle.actor().to_string())).await {
            tracing::debug!(%error, "writing this server's object; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Takes the keys of all servers' tokens.
    fn trust(&mut self) {
        let Some(api) = &self.api else { return };
        let keys: Vec<String> = self.all.borrow_and_update().iter().flat_map(|known| known.keys.clone()).collect();
        if let Err(error) = api.set_verifying_keys(&keys) {
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
            match self.register.show(&member.name, &status).await {
                Ok(()) => drop(shown.insert(member.number, status)),
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
            _ if member.absent => "Absent",
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
    fn lags_are_told_as_kubectl_tells_ages() {
        let told: Vec<String> = [0, 59, 119, 125, 7300, 260_000].map(|s| lag(Duration::from_secs(s))).to_vec();
        assert_eq!(told, ["0s", "50s", "110s", "2m", "2h", "3d"]);
    }
}
