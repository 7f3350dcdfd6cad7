//! What a kind does to its objects on their way into the store, as upstream's `strategy.go` of each registry:
//! resetting status, filling in what only the server sets, and a few properties. Pure functions on trees.

mod batch;
mod core;
mod custom;

use serde_json::{Map, Value};

/// When `metadata.generation` is 1 at birth and grows with each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// A change of `spec` counts.
    Spec,
    /// A change of anything but metadata and status counts.
    Whole,
    /// A change of anything but metadata counts.
    Everything,
}

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub user: &'a crate::User,
    /// RFC 3339, in seconds.
    pub now: &'a str,
}

/// Changes a new object before it is stored.
pub type Create = fn(&mut Value, &Context<'_>);
/// Changes an object before it replaces the old one: `(new, old)`.
pub type Update = fn(&mut Value, &Value, &Context<'_>);

/// A kind's behaviour.
#[derive(Clone, Copy, Debug)]
pub struct Strategy {
    pub generation: Generation,
    /// A PUT of a name that does not exist creates it.
    pub create_on_update: bool,
    /// An update may leave out its resourceVersion.
    pub unconditional_update: bool,
    /// A delete answers with the object, not with a Status.
    pub returns_deleted: bool,
    /// Deletes orphan dependents unless they say otherwise.
    pub orphans: bool,
    /// The garbage collector's finalizers apply.
    pub collectable: bool,
    /// A create may set the status (nodes).
    pub keeps_status: bool,
    /// Has a grace period (pods).
    pub graceful: bool,
    pub on_create: Create,
    pub on_update: Update,
    pub on_status_update: Update,
}

fn nothing(_: &mut Value, _: &Context<'_>) {}
fn no_change(_: &mut Value, _: &Value, _: &Context<'_>) {}

impl Strategy {
    /// Neither generation nor anything to fill in.
    pub const PLAIN: Self = Self {
        generation: Generation::None,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: false,
        orphans: false,
        collectable: true,
        keeps_status: false,
        graceful: false,
        on_create: nothing,
        on_update: no_change,
        on_status_update: no_change,
    };
    /// A generation that counts changes of `spec`.
    pub const SPEC: Self = Self { generation: Generation::Spec, ..Self::PLAIN };
    /// A generation that counts changes of anything but metadata and status.
    pub const WHOLE: Self = Self { generation: Generation::Whole, ..Self::PLAIN };
}

pub(crate) use core::{merge_string_data, qos_class};

pub const EVENT: Strategy = Strategy { create_on_update: true, collectable: false, ..Strategy::PLAIN };
pub const NAMESPACE: Strategy = Strategy {
    returns_deleted: true,
    on_create: core::create_namespace,
    on_update: core::update_namespace,
    ..Strategy::PLAIN
};
pub const NODE: Strategy = Strategy { keeps_status: true, ..Strategy::PLAIN };
pub const CLAIM: Strategy =
    Strategy { returns_deleted: true, on_create: core::create_claim, on_update: core::update_claim, ..Strategy::PLAIN };
pub const VOLUME: Strategy = Strategy {
    returns_deleted: true,
    on_create: core::create_volume,
    on_status_update: core::update_volume_status,
    ..Strategy::PLAIN
};
pub const POD: Strategy = Strategy {
    generation: Generation::Spec,
    returns_deleted: true,
    graceful: true,
    on_create: core::create_pod,
    on_status_update: core::update_pod_status,
    ..Strategy::PLAIN
};
pub const SECRET: Strategy = Strategy { on_update: core::update_secret, ..Strategy::PLAIN };
pub const SERVICE_ACCOUNT: Strategy = Strategy { returns_deleted: true, ..Strategy::PLAIN };
pub const SERVICE: Strategy =
    Strategy { create_on_update: true, returns_deleted: true, on_create: core::create_service, ..Strategy::PLAIN };
pub const DAEMON_SET: Strategy =
    Strategy { on_create: batch::create_daemon_set, on_update: batch::update_daemon_set, ..Strategy::SPEC };
pub const DEPLOYMENT: Strategy = Strategy::SPEC;
pub const JOB: Strategy = Strategy { orphans: true, on_create: batch::create_job, ..Strategy::SPEC };
pub const LEASE: Strategy = Strategy {
    create_on_update: true,
    unconditional_update: false,
    on_create: batch::create_lease,
    on_update: batch::update_lease,
    ..Strategy::PLAIN
};
pub const SIGNING_REQUEST: Strategy = Strategy {
    on_create: batch::create_signing_request,
    on_update: batch::update_signing_request,
    on_status_update: batch::update_signing_request_status,
    ..Strategy::PLAIN
};
pub const CUSTOM_DEFINITION: Strategy =
    Strategy { on_create: custom::create_definition, on_update: custom::update_definition, ..Strategy::SPEC };

pub(crate) use batch::decide_signing_request;

/// The object at `key`, made if absent; what is there and no object is replaced.
pub(crate) fn child<'v>(value: &'v mut Value, key: &str) -> &'v mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("just made an object")
}

/// The list at `key`, made if it is absent or null.
pub(crate) fn items<'v>(object: &'v mut Map<String, Value>, key: &str) -> &'v mut Vec<Value> {
    let slot = object.entry(key).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().expect("just made a list")
}

/// Puts the old object's `field` in the place of the new one's.
pub(crate) fn restore(new: &mut Value, old: &Value, field: &str) {
    let Some(new) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => new.insert(field.into(), value.clone()),
        None => new.remove(field),
    };
}

/// Whether the generation must grow from `old` to `new`.
pub fn bumps_generation(rule: Generation, new: &Value, old: &Value) -> bool {
    let differ = |left_out: &[&str]| {
        let rest = |value: &'_ Value| -> Vec<(String, Value)> {
            let fields = value.as_object().into_iter().flatten();
            fields.filter(|(k, _)| !left_out.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        rest(new) != rest(old)
    };
    match rule {
        Generation::None => false,
        Generation::Spec => new.get("spec") != old.get("spec"),
        Generation::Whole => differ(&["metadata", "status", "apiVersion", "kind"]),
        Generation::Everything => differ(&["metadata", "apiVersion", "kind"]),
    }
}
