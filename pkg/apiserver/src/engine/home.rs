//! Requests that another site's server answers: objects with `eyot.dev/consistency: home`, and leases, so that an election has
//! one winner. Reads of one object go there too, or nobody could write what they read.
use super::{Engine, Request, Result, from_store};
use crate::{Body, Verb};
use api::Status;
use api::home::{CONSISTENCY, CONSISTENCY_HOME, Claim, Ownership};
use api::status::Details;
use http::Response;
use serde_json::Value;
use store::Backend;

/// Nodes renew these at the server they speak to.
const NODE_LEASES: &str = "kube-node-lease";
/// Seconds after which a client may try again that was refused because home is away.
const RETRY_AFTER_SECONDS: u32 = 10;

/// Which writes of an object go home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consistency {
    /// All, and none happens anywhere else.
    Home,
    /// All while home is in reach; whoever takes it over writes then.
    Actor,
}

/// Where a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Here,
    To(String),
    /// Its home is this site, which is out of reach.
    Away(String),
}

fn route(view: &Ownership, claim: &Claim<'_>, consistency: Consistency) -> Route {
    let home = view.home_of(claim);
    if home == &*view.site {
        return if view.passive { Route::To(home.to_owned()) } else { Route::Here };
    }
    let actor = view.actor(claim).filter(|actor| consistency == Consistency::Actor || *actor == home);
    match actor {
        Some(actor) if actor == &*view.site && !view.passive => Route::Here,
        Some(actor) => Route::To(actor.to_owned()),
        None => Route::Away(home.to_owned()),
    }
}

/// Whether stored bytes may say something of consistency; most don't, and are not parsed.
fn mentions(bytes: &[u8]) -> bool {
    bytes.windows(CONSISTENCY.len()).any(|window| window == CONSISTENCY.as_bytes())
}

fn is_strict(object: &Value) -> bool {
    object["metadata"]["annotations"][CONSISTENCY] == CONSISTENCY_HOME
}

async fn stored(backend: &dyn Backend, key: &str) -> Result<Option<bytes::Bytes>> {
    let entry = backend.get(key.as_bytes(), None).await.map_err(from_store)?;
    Ok(entry.map(|entry| entry.value.clone()))
}

fn parsed(bytes: Option<&bytes::Bytes>) -> Value {
    bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or(Value::Null)
}

/// Where a request belongs, and by which rule; none for what is answered by whoever is asked.
async fn place(engine: &Engine, request: &Request) -> Result<Option<Route>> {
    let info = &request.info;
    if matches!(info.verb, Verb::List | Verb::Watch | Verb::Options) || request.forwarded {
        return Ok(None);
    }
    let gvr = api::GroupVersionResource::new(&*info.group, &*info.version, &*info.resource);
    let Some(resource) = engine.registry().get(&gvr) else { return Ok(None) };
    if matches!(&*resource.kind, "Event") || info.namespace == NODE_LEASES {
        return Ok(None);
    }
    let (namespaced, backend) = (resource.namespaced, &**engine.backend());
    let object = match info.name.is_empty() {
        true => None,
        false => stored(backend, &resource.key(if namespaced { &info.namespace } else { "" }, &info.name)).await?,
    };
    let namespace = match namespaced {
        true => stored(backend, &format!("/registry/namespaces/{}", info.namespace)).await?,
        false => None,
    };
    let election = resource.kind == "Lease" && info.group == "coordination.k8s.io";
    let says = |bytes: &Option<bytes::Bytes>| bytes.as_ref().is_some_and(|bytes| mentions(bytes));
    if !election && !says(&object) && !says(&namespace) {
        return Ok(None);
    }
    let (object, namespace) = (parsed(object.as_ref()), parsed(namespace.as_ref()));
    let consistency = match () {
        () if is_strict(&object) || is_strict(&namespace) => Consistency::Home,
        () if election => Consistency::Actor,
        () => return Ok(None),
    };
    // What is not there yet is made where its namespace belongs, so that it is made once.
    let claim = match object.is_null() {
        true => Claim::of("Namespace", &namespace),
        false => Claim::of(&resource.kind, &object),
    };
    let view = engine.sites().view();
    Ok(Some(route(&view, &claim, consistency)))
}

/// The answer of another site's server, where that is who has to answer.
///
/// # Errors
/// 503 with `Retry-After` for a write while that server is out of reach. Reads are answered here then.
pub async fn elsewhere(engine: &Engine, request: &Request) -> Result<Option<Response<Body>>> {
    if !engine.sites().marked() {
        return Ok(None);
    }
    let site = match place(engine, request).await? {
        None | Some(Route::Here) => return Ok(None),
        Some(Route::Away(_)) if request.info.verb == Verb::Get => return Ok(None),
        Some(Route::Away(site)) => return Err(away(request, &site, "there is no contact")),
        Some(Route::To(site)) => site,
    };
    let answer = match &engine.sites().proxy {
        Some(proxy) => proxy.forward(&site, request.clone()).await.map_err(|unreachable| unreachable.reason),
        None => Err("there is no way to it".to_owned()),
    };
    match answer {
        Ok(response) => Ok(Some(response)),
        Err(_) if request.info.verb == Verb::Get => Ok(None),
        Err(why) => Err(away(request, &site, &why)),
    }
}

fn away(request: &Request, site: &str, why: &str) -> Box<Status> {
    let info = &request.info;
    let what = match info.name.as_str() {
        "" => info.resource.clone(),
        name => format!("{} {name:?}", info.resource),
    };
    let message = format!("{what} is written at its home alone, site {site}, which is out of reach: {why}");
    let details = Details { retry_after_seconds: RETRY_AFTER_SECONDS, ..Details::default() };
    Status::unavailable(message).with_details(details).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::home::{Link, Taken};

    fn claim(home: &str) -> Claim<'_> {
        Claim { home: Some(home), stay: false, takeover_s: 300, fixed: false }
    }

    fn lost(for_s: u64, by: Option<&str>) -> Ownership {
        let taken = by.map(|by| Taken { by: by.into(), epoch: 1 });
        Ownership::of("south", "north").with("north", Link::Down { for_s, taken }).with("west", Link::Up)
    }

    #[test]
    fn writes_of_home_consistency_go_home_or_nowhere() {
        let up = Ownership::of("south", "north").with("north", Link::Up);
        assert_eq!(route(&up, &claim("north"), Consistency::Home), Route::To("north".into()));
        assert_eq!(route(&up, &claim("south"), Consistency::Home), Route::Here);
        let late = lost(9_000, Some("south"));
        assert_eq!(route(&late, &claim("north"), Consistency::Home), Route::Away("north".into()), "takeover or not");
    }

    #[test]
    fn leases_are_written_at_home_and_after_its_time_by_who_took_over() {
        let of = |view: &Ownership| route(view, &claim("north"), Consistency::Actor);
        assert_eq!(of(&Ownership::of("south", "north").with("north", Link::Up)), Route::To("north".into()));
        assert_eq!(of(&lost(10, None)), Route::Away("north".into()));
        assert_eq!(of(&lost(10, Some("south"))), Route::Away("north".into()), "not before its time");
        assert_eq!(of(&lost(300, Some("south"))), Route::Here);
        assert_eq!(of(&lost(300, Some("west"))), Route::To("west".into()));
        let stays = Claim { stay: true, ..claim("north") };
        assert_eq!(route(&lost(9_000, Some("south")), &stays, Consistency::Actor), Route::Away("north".into()));
    }
}
