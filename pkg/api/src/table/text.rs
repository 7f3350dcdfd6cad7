//! The small texts that cells are made of.
use crate::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::Value;

pub(super) fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

pub(super) fn age(object: &Value, now: i64) -> Value {
    since(&object["metadata"]["creationTimestamp"], now).into()
}

/// The text of a string, empty for anything else.
pub(super) fn str_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A string, or the words for its absence.
pub(super) fn str_or<'v>(value: &'v Value, absent: &'v str) -> &'v str {
    value.as_str().filter(|text| !text.is_empty()).unwrap_or(absent)
}

/// An integer, zero where absent.
pub(super) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// How many keys or elements there are.
pub(super) fn count(value: &Value) -> usize {
    value.as_object().map_or_else(|| list(value).len(), serde_json::Map::len)
}

/// A scalar without quotes (an IntOrString or Quantity).
pub(super) fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn seconds(time: &Value) -> Option<i64> {
    time.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// How long ago, as kubectl says it.
pub(super) fn since(time: &Value, now: i64) -> String {
    seconds(time).map_or_else(|| "<unknown>".into(), |then| human_duration(now - then))
}

pub(super) fn labels(map: &Value) -> String {
    let labels = map.as_object().into_iter().flatten();
    let text: Vec<String> = labels.map(|(key, value)| format!("{key}={}", str_of(value))).collect();
    if text.is_empty() { "<none>".into() } else { text.join(",") }
}

pub(super) fn selector(selector: &Value) -> String {
    match LabelSelector::from_json(selector) {
        Ok(selector) if selector.requirements().is_empty() => "<none>".into(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".into(),
    }
}

/// Names and images of the containers of a pod spec.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    let joined = |key: &str| {
        let all: Vec<&str> = list(&pod_spec["containers"]).iter().map(|c| str_of(&c[key])).collect();
        all.join(",").into()
    };
    [joined("name"), joined("image")]
}

pub(super) fn joined(values: &Value, by: &str) -> String {
    list(values).iter().map(str_of).collect::<Vec<_>>().join(by)
}

/// The first `max` texts, and how many there are beyond.
pub(super) fn some_of(texts: &[String], max: usize, absent: &str) -> String {
    if texts.len() > max {
        return format!("{} + {} more...", texts[..max].join(","), texts.len() - max);
    }
    if texts.is_empty() { absent.into() } else { texts.join(",") }
}

/// Is a condition of this type `True`?
pub(super) fn has_condition(conditions: &Value, ty: &str) -> bool {
    list(conditions).iter().find(|c| c["type"] == ty).is_some_and(|c| c["status"] == "True")
}

/// A duration in seconds in at most two units, as `k8s.io/apimachinery/pkg/util/duration` prints it.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, name: char, small: i64, small_name: char| {
        if small == 0 { format!("{large}{name}") } else { format!("{large}{name}{small}{small_name}") }
    };
    match seconds {
        // Clocks may differ a little.
        ..-1 => "<invalid>".into(),
        -1..0 => "0s".into(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, 'm', s % MINUTE, 's'),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, 'h', s % HOUR / MINUTE, 'm'),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, 'd', s % DAY / HOUR, 'h'),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, 'y', s % YEAR / DAY, 'd'),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn durations() {
        const DAY: i64 = 86_400;
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3600, "2d1h"),
            (8 * DAY, "8d"),
            (2 * 365 * DAY, "2y"),
            (2 * 365 * DAY + DAY, "2y1d"),
            (8 * 365 * DAY + DAY, "8y"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
