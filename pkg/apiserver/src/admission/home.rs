//! Homes: where an object is created it belongs, with its node or its owner where it has one. A server alone writes nothing.
use super::{Attributes, lookup};
use crate::engine::{Call, Result};
use crate::registry::strategy::child;
use api::Status;
use api::home::{Claim, HANDOVERS, HOME, Ownership, SITE, Site, ZONE, check_annotations};
use api::validate::{FieldError, Reason};
use serde_json::{Map, Value};

/// Kinds that nobody acts on, or that come and go too often to carry a home.
const HOMELESS: &[(&str, &str)] = &[("", "Event"), ("events.k8s.io", "Event")];
/// Our own kinds describe servers themselves.
const OWN_GROUP: &str = "eyot.dev";
/// Nodes renew their leases here, always at the server they speak to.
const NODE_LEASES: &str = "kube-node-lease";
/// What controllers make for an object and manage as a part of it: the owner's home is theirs. Pods are not among them:
/// whoever makes a pod finds a node for it.
const PARTS: &[(&str, &str)] = &[("apps", "ReplicaSet"), ("apps", "ControllerRevision"), ("batch", "Job")];
/// Where the owners of parts are stored.
const OWNERS: &[(&str, &str)] = &[
    ("Deployment", "deployments"),
    ("CronJob", "cronjobs"),
    ("StatefulSet", "statefulsets"),
    ("DaemonSet", "daemonsets"),
];

fn is_homeless(attributes: &Attributes<'_>) -> bool {
    let (group, kind) = (&*attributes.kind.group, &*attributes.kind.kind);
    let node_lease = kind == "Lease" && attributes.namespace() == NODE_LEASES;
    group == OWN_GROUP || HOMELESS.contains(&(group, kind)) || node_lease
}

fn annotations(object: &mut Value) -> &mut Map<String, Value> {
    child(child_of_metadata(object), "annotations")
}

fn child_of_metadata(object: &mut Value) -> &mut Value {
    child(object, "metadata");
    &mut object["metadata"]
}

fn set_home(object: &mut Value, site: &str) {
    annotations(object).insert(HOME.into(), site.into());
}

fn require_valid(attributes: &Attributes<'_>, object: &Value) -> Result<()> {
    let errors = check_annotations(object);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&attributes.kind.group_kind(), &attributes.name, &errors).into())
}

/// A home that is given must be a site.
fn require_member(attributes: &Attributes<'_>, object: &Value) -> Result<()> {
    let view = attributes.call.engine.sites().view();
    let given = &object["metadata"]["annotations"][HOME];
    let Some(unknown) = given.as_str().filter(|site| !view.is_member(site)) else { return Ok(()) };
    let sites: Vec<&str> = view.others.keys().chain([&view.site]).map(|site| &**site).collect();
    let error = FieldError {
        field: format!("metadata.annotations[{HOME}]"),
        reason: Reason::Invalid,
        value: Some(unknown.into()),
        detail: format!("no such site; there are: {}", sites.join(", ")),
    };
    Err(Status::invalid(&attributes.kind.group_kind(), &attributes.name, &[error]).into())
}

/// Gives a new object its home.
pub async fn place(attributes: &Attributes<'_>, object: &mut Value) -> Result<()> {
    if !attributes.subresource().is_empty() {
        return Ok(());
    }
    require_valid(attributes, object)?;
    let (marked, site, founder) = {
        let view = attributes.call.engine.sites().view();
        (view.marked, view.site.clone(), view.default_site.clone())
    };
    if !marked || is_homeless(attributes) {
        return Ok(());
    }
    require_member(attributes, object)?;
    if attributes.is("", "nodes") {
        place_node(object, &site);
        return Ok(());
    }
    let of_node = match object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        Some(node) if attributes.is("", "pods") => node_home(attributes.call, node, &founder).await?,
        _ => None,
    };
    match of_node {
        Some(home) => set_home(object, &home),
        None if object["metadata"]["annotations"][HOME].is_string() => {}
        None => {
            let inherited = of_owner(attributes, object, &founder).await?;
            set_home(object, inherited.as_deref().unwrap_or(&site));
        }
    }
    Ok(())
}

/// A node belongs to the site that it names, or to that of the server it joins through. Its labels say so, for selectors
/// and topology keys; a zone of its own is kept.
fn place_node(node: &mut Value, site: &Site) {
    let meta = &node["metadata"];
    let said = meta["labels"][SITE].as_str().or(meta["annotations"][HOME].as_str()).filter(|said| !said.is_empty());
    let home = said.unwrap_or(site).to_owned();
    set_home(node, &home);
    label_node(node, &home);
}

fn label_node(node: &mut Value, home: &str) {
    let labels = child(child_of_metadata(node), "labels");
    for key in [SITE, ZONE] {
        labels.entry(key).or_insert_with(|| home.into());
    }
}

async fn node_home(call: &Call<'_>, node: &str, founder: &Site) -> Result<Option<String>> {
    let node = lookup::object(call, &format!("/registry/minions/{node}")).await?;
    Ok(node.map(|node| Claim::of("Node", &node).home.unwrap_or(founder).to_owned()))
}

async fn of_owner(attributes: &Attributes<'_>, object: &Value, founder: &Site) -> Result<Option<String>> {
    let (group, kind) = (&*attributes.kind.group, &*attributes.kind.kind);
    let owners = object["metadata"]["ownerReferences"].as_array();
    let owner = owners.and_then(|owners| owners.iter().find(|owner| owner["controller"] == true));
    let Some(owner) = owner.filter(|_| PARTS.contains(&(group, kind))) else { return Ok(None) };
    let (kind, name) = (owner["kind"].as_str().unwrap_or_default(), owner["name"].as_str().unwrap_or_default());
    let Some((_, plural)) = OWNERS.iter().find(|(of, _)| *of == kind) else { return Ok(None) };
    let owner =
        lookup::object(attributes.call, &format!("/registry/{plural}/{}/{name}", attributes.namespace())).await?;
    Ok(owner.map(|owner| Claim::of(kind, &owner).home.unwrap_or(founder).to_owned()))
}

/// An object keeps its home, unless whoever acts on it hands it over.
pub fn keep(attributes: &Attributes<'_>, new: &mut Value, old: &Value) -> Result<()> {
    let view = attributes.call.engine.sites().view();
    let home = old["metadata"]["annotations"].get(HOME).cloned();
    if let Some(home) = &home
        && !new["metadata"]["annotations"][HOME].is_string()
    {
        // Clients that replace objects know nothing of homes.
        annotations(new).insert(HOME.into(), home.clone());
    }
    if new["metadata"]["annotations"] != old["metadata"]["annotations"] {
        require_valid(attributes, new)?;
    }
    if !view.marked {
        return Ok(());
    }
    let kind = &*attributes.resource().kind;
    let claim = Claim::of(kind, old);
    if attributes.is("", "nodes") && view.is_own(&claim) {
        label_node(new, view.home_of(&claim));
    }
    let moved = new["metadata"]["annotations"].get(HOME) != home.as_ref();
    if moved && !view.is_own(&claim) && !view.acts_on(&claim) && !takes_back(&view, kind, new, old) {
        let why = format!("its home is site {}, which alone may hand it over", view.home_of(&claim));
        return Err(attributes.forbidden(Some(old), &why));
    }
    if moved {
        require_member(attributes, new)?;
    }
    if moved && kind == "Pod" && old["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty()) {
        return Err(attributes.forbidden(Some(old), "a pod that has a node belongs to the node's site"));
    }
    Ok(())
}

/// Whether a pod that was handed over, and has no node yet, comes here from a site that is out of contact: the scheduler that handed
/// it over does that, when the site can't have heard of it.
fn takes_back(view: &Ownership, kind: &str, new: &Value, old: &Value) -> bool {
    let (claim, annotations) = (Claim::of(kind, old), &old["metadata"]["annotations"]);
    kind == "Pod"
        && annotations[HANDOVERS].is_string()
        && !claim.stay
        && !view.in_contact(&claim)
        && new["metadata"]["annotations"][HOME] == *view.site
}

/// A pod that gets a node belongs to the node's site from the same write on.
pub async fn follow_node(call: &Call<'_>, pod: &mut Value) -> Result<()> {
    let founder = {
        let view = call.engine.sites().view();
        if !view.marked {
            return Ok(());
        }
        let claim = Claim::of("Pod", pod);
        if !view.is_own(&claim) {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("pod {name} belongs to site {}, which alone gives it a node", view.home_of(&claim));
            return Err(Status::conflict("", "pods/binding", name, &why).into());
        }
        view.default_site.clone()
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if let Some(home) = node_home(call, node, &founder).await? {
        set_home(pod, &home);
    }
    Ok(())
}
