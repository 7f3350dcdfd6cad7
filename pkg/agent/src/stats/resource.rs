//! `/metrics/resource`, which metrics-server scrapes (KEP-727).
use super::Sample;
use jiff::Timestamp;
use std::fmt::Write;

/// The exposition; each value carries the time at which it was read.
pub fn resource(sample: &Sample) -> String {
    let mut out = Exposition { text: String::new(), time_ms: sample.time.as_millisecond() };
    let containers = || {
        sample.pods.values().flat_map(|pod| {
            pod.containers.iter().map(move |(name, container)| {
                let labels = format!("container={name:?},namespace={:?},pod={:?}", pod.namespace, pod.name);
                (labels, container)
            })
        })
    };
    let pods =
        || sample.pods.values().map(|pod| (format!("namespace={:?},pod={:?}", pod.namespace, pod.name), &pod.usage));
    out.family("container_cpu_usage_seconds_total", "counter", containers().map(|(l, c)| (l, seconds(c.usage.cpu_ns))));
    let bytes = containers().map(|(labels, c)| (labels, c.usage.working_set_bytes as f64));
    out.family("container_memory_working_set_bytes", "gauge", bytes);
    out.family("container_start_time_seconds", "gauge", containers().map(|(l, c)| (l, epoch(c.started))));
    out.family("container_swap_usage_bytes", "gauge", containers().map(|(l, c)| (l, c.usage.swap_bytes as f64)));
    out.family("node_cpu_usage_seconds_total", "counter", [(String::new(), seconds(sample.node_cpu_ns))]);
    out.family("node_memory_working_set_bytes", "gauge", [(String::new(), sample.node_memory_bytes as f64)]);
    out.family("pod_cpu_usage_seconds_total", "counter", pods().map(|(labels, usage)| (labels, seconds(usage.cpu_ns))));
    let bytes = pods().map(|(labels, usage)| (labels, usage.working_set_bytes as f64));
    out.family("pod_memory_working_set_bytes", "gauge", bytes);
    out.text.push_str("# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
    out.text
}

struct Exposition {
    text: String,
    time_ms: i64,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, values: impl IntoIterator<Item = (String, f64)>) {
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = match labels.is_empty() {
                true => writeln!(self.text, "{name} {value} {}", self.time_ms),
                false => writeln!(self.text, "{name}{{{labels}}} {value} {}", self.time_ms),
            };
        }
    }
}

pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

pub fn epoch(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}
