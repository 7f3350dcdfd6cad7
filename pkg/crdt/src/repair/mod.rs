//! What Kubernetes guarantees about a kind, kept where the merge of two valid edits would break it. A pure view over a
//! merged object: nothing of it is written, so servers can't answer each other's repairs.
//!
//! Rules hang on schema types, so that a pod template gets them wherever it is. A rule decides by when things were
//! written, and leaves alone what one write brought.
mod kinds;
mod managers;
mod pods;
mod service;
mod union;

use crate::Stamp;
use crate::place::{Place, What, field_name};
use api::schema::{Schemas, Type};
use serde_json::{Map, Value};

/// A struct of the object, and where it is in the document.
pub(crate) struct Node<'a> {
    pub object: &'a mut Map<String, Value>,
    pub place: &'a Place,
    pub since: Stamp,
}

impl Node<'_> {
    /// When a field, or anything in it, was last written; none: it is not there.
    pub fn written(&self, field: &str) -> Option<Stamp> {
        self.object.get(field)?;
        self.place.fields.get(&field_name(field))?.written(self.since)
    }

    /// Of fields that exclude each other, the one that was written last stays, unless one write brought several.
    pub fn keep_last(&mut self, fields: &[&str]) {
        let there: Vec<(Stamp, &str)> =
            fields.iter().filter_map(|field| Some((self.written(field)?, *field))).collect();
        let Some(last) = there.iter().max().map(|(stamp, _)| *stamp) else { return };
        for (_, field) in there.iter().filter(|(stamp, _)| *stamp < last) {
            self.object.remove(*field);
        }
    }

    pub fn text(&self, field: &str) -> &str {
        self.object.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn number(&self, field: &str) -> Option<i64> {
        self.object.get(field).and_then(Value::as_i64)
    }

    /// The items of a list by key, with their places; none where the list is whole.
    pub fn items(&mut self, field: &str) -> Vec<(&mut Map<String, Value>, &Place)> {
        let place = self.place.fields.get(&field_name(field));
        let keyed = place.filter(|place| is_keyed(place, self.since));
        let places = keyed.map(|place| place.ordered(self.since)).unwrap_or_default();
        let items = self.object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        items.filter_map(Value::as_object_mut).zip(places).collect()
    }
}

fn is_keyed(place: &Place, since: Stamp) -> bool {
    place.collection(since).is_some_and(|own| matches!(own.what, What::Keyed(_)))
}

/// Makes a merged object valid again.
pub(crate) fn repair(object: &mut Map<String, Value>, root: &Place, since: Stamp) {
    let schemas = Schemas::builtin();
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let kind = api::GroupVersionKind::new(group, version, text("kind"));
    if let Some(definition) = schemas.for_kind(&kind) {
        let claims = pods::claims(object);
        let walk = Walk { schemas, since, claims };
        walk.structure(&definition.name, &definition.ty, object, root);
    }
    managers::repair(object, root, since);
}

struct Walk<'a> {
    schemas: &'a Schemas,
    since: Stamp,
    /// Names of volumes that pods get besides those of their own.
    claims: Vec<String>,
}

impl Walk<'_> {
    fn value(&self, ty: &Type, value: &mut Value, place: &Place) {
        if place.collection(self.since).is_none() {
            return;
        }
        match (ty, self.schemas.resolve(ty), value) {
            (Type::Ref(name), resolved, Value::Object(object)) => self.structure(name, resolved, object, place),
            (_, resolved, Value::Object(object)) => self.structure("", resolved, object, place),
            (_, Type::List(list), Value::Array(items)) if is_keyed(place, self.since) => {
                let places = place.ordered(self.since);
                items.iter_mut().zip(places).for_each(|(item, place)| self.value(&list.item, item, place));
            }
            _ => {}
        }
    }

    fn structure(&self, name: &str, ty: &Type, object: &mut Map<String, Value>, place: &Place) {
        for (field, value) in object.iter_mut().filter(|(_, value)| value.is_object() || value.is_array()) {
            let ty = match ty {
                Type::Struct(known) => known.fields.get(&**field).map(|field| &field.ty),
                Type::Map(ty) => Some(&**ty),
                _ => None,
            };
            if let (Some(ty), Some(place)) = (ty, place.fields.get(&field_name(field))) {
                self.value(ty, value, place);
            }
        }
        let node = Node { object, place, since: self.since };
        self.rules(name, node);
    }

    /// What is repaired, by type.
    fn rules(&self, name: &str, node: Node<'_>) {
        let Some(name) = name.strip_prefix("io.k8s.api.") else { return };
        match name {
            "apps.v1.DeploymentStrategy" => kinds::strategy(node, "RollingUpdate"),
            "apps.v1.StatefulSetUpdateStrategy" => kinds::strategy(node, "RollingUpdate"),
            "autoscaling.v1.HorizontalPodAutoscalerSpec" => kinds::scale_bounds(node),
            "autoscaling.v2.HorizontalPodAutoscalerSpec" => kinds::scale_bounds(node),
            "core.v1.ConfigMap" => kinds::data_keys(node),
            "core.v1.NodeSpec" => kinds::pod_cidrs(node),
            "core.v1.PodSpec" => pods::mounts(node, &self.claims),
            "core.v1.ReplicationControllerSpec" => kinds::template_labels(node),
            "core.v1.ServiceSpec" => service::repair(node),
            _ => union::repair(name, node),
        }
    }
}
