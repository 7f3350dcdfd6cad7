//! Fields of a kind that must agree.
use super::Node;
use serde_json::{Map, Value};

/// Parameters of a rolling update belong to that strategy alone.
pub(super) fn strategy(node: Node<'_>, rolling: &str) {
    if node.text("type") != rolling && node.object.contains_key("type") {
        node.object.remove("rollingUpdate");
    }
}

/// `minReplicas` is at most `maxReplicas`: the one that was written first gives way.
pub(super) fn scale_bounds(node: Node<'_>) {
    let (Some(min), Some(max)) = (node.number("minReplicas"), node.number("maxReplicas")) else { return };
    if min <= max {
        return;
    }
    match node.written("minReplicas").cmp(&node.written("maxReplicas")) {
        std::cmp::Ordering::Less => node.object.insert("minReplicas".to_owned(), max.into()),
        std::cmp::Ordering::Greater => node.object.insert("maxReplicas".to_owned(), min.into()),
        std::cmp::Ordering::Equal => None,
    };
}

/// A key is in `data` or in `binaryData`: where it was written last.
pub(super) fn data_keys(node: Node<'_>) {
    let keys = |field: &str| node.object.get(field).and_then(Value::as_object);
    let (Some(text), Some(binary)) = (keys("data"), keys("binaryData")) else { return };
    let both: Vec<String> = text.keys().filter(|key| binary.contains_key(*key)).cloned().collect();
    for key in both {
        let written = |field: &str| node.place.fields.get(field)?.fields.get(&key)?.written(node.since);
        let loser = match written("data").cmp(&written("binaryData")) {
            std::cmp::Ordering::Less => "data",
            std::cmp::Ordering::Greater => "binaryData",
            std::cmp::Ordering::Equal => continue,
        };
        if let Some(keys) = node.object.get_mut(loser).and_then(Value::as_object_mut) {
            keys.remove(&key);
        }
    }
}

/// A node has one range a family, and `podCIDR` is the first of `podCIDRs`.
pub(super) fn pod_cidrs(node: Node<'_>) {
    let Some(first) = node.object.get("podCIDR").and_then(Value::as_str).map(str::to_owned) else { return };
    let Some(all) = node.object.get_mut("podCIDRs").and_then(Value::as_array_mut) else { return };
    let is_v6 = |cidr: &str| cidr.contains(':');
    if all.first().and_then(Value::as_str) == Some(&*first) && all.len() < 2 {
        return;
    }
    let other = all.iter().filter_map(Value::as_str).find(|cidr| is_v6(cidr) != is_v6(&first)).map(str::to_owned);
    *all = std::iter::once(first).chain(other).map(Value::from).collect();
}

/// The template's labels match the selector.
pub(super) fn template_labels(node: Node<'_>) {
    let Some(selector) = node.object.get("selector").and_then(Value::as_object).cloned() else { return };
    let template = node.object.get_mut("template").and_then(Value::as_object_mut);
    let metadata = template.and_then(|template| template.get_mut("metadata")).and_then(Value::as_object_mut);
    let Some(metadata) = metadata else { return };
    let labels = metadata.entry("labels").or_insert_with(|| Map::new().into());
    if let Some(labels) = labels.as_object_mut() {
        labels.extend(selector);
    }
}
