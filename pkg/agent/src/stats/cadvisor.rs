//! `/metrics/cadvisor`: cAdvisor's names and labels (its `docs/storage/prometheus.md`), which dashboards know.
use super::network::Interface;
use super::resource::{epoch, seconds};
use super::{Container, PodSample, Sample};
use crate::machine::Machine;
use qos::Usage;
use std::fmt::Write;

/// A metric of a group: name, type, labels of its own, value.
type Metric = (&'static str, &'static str, &'static str, fn(&Usage) -> f64);

const METRICS: [Metric; 22] = [
    ("container_cpu_usage_seconds_total", "counter", "cpu=\"total\",", |u| seconds(u.cpu_ns)),
    ("container_cpu_user_seconds_total", "counter", "", |u| seconds(u.cpu_user_ns)),
    ("container_cpu_system_seconds_total", "counter", "", |u| seconds(u.cpu_system_ns)),
    ("container_cpu_cfs_periods_total", "counter", "", |u| u.cpu_periods as f64),
    ("container_cpu_cfs_throttled_periods_total", "counter", "", |u| u.cpu_throttled_periods as f64),
    ("container_cpu_cfs_throttled_seconds_total", "counter", "", |u| seconds(u.cpu_throttled_ns)),
    ("container_memory_usage_bytes", "gauge", "", |u| u.memory_bytes as f64),
    ("container_memory_max_usage_bytes", "gauge", "", |u| u.memory_peak_bytes as f64),
    ("container_memory_working_set_bytes", "gauge", "", |u| u.working_set_bytes as f64),
    ("container_memory_rss", "gauge", "", |u| u.rss_bytes as f64),
    ("container_memory_cache", "gauge", "", |u| u.cache_bytes as f64),
    ("container_memory_mapped_file", "gauge", "", |u| u.mapped_file_bytes as f64),
    ("container_memory_swap", "gauge", "", |u| u.swap_bytes as f64),
    ("container_memory_failcnt", "counter", "", |u| u.memory_failures as f64),
    ("container_fs_reads_bytes_total", "counter", "device=\"\",", |u| u.io.read_bytes as f64),
    ("container_fs_reads_total", "counter", "device=\"\",", |u| u.io.reads as f64),
    ("container_fs_writes_bytes_total", "counter", "device=\"\",", |u| u.io.written_bytes as f64),
    ("container_fs_writes_total", "counter", "device=\"\",", |u| u.io.writes as f64),
    ("container_threads", "gauge", "", |u| u.pids as f64),
    ("container_spec_cpu_period", "gauge", "", |_| PERIOD_US),
    ("container_spec_cpu_shares", "gauge", "", |u| u.cpu_shares as f64),
    ("container_spec_memory_limit_bytes", "gauge", "", |u| u.memory_limit_bytes.unwrap_or(0) as f64),
];
const PERIOD_US: f64 = 100_000.0;

/// The label's value and the count.
type Fault = (&'static str, fn(&Usage) -> u64);

/// Page faults, which are one metric with a label for their kind.
const FAULTS: [Fault; 2] = [("pgfault", |u| u.page_faults), ("pgmajfault", |u| u.major_page_faults)];

/// Counters of interfaces by name: which of the four, and whether received.
const NETWORK: [(&str, usize, bool); 8] = [
    ("container_network_receive_bytes_total", 0, true),
    ("container_network_receive_packets_total", 1, true),
    ("container_network_receive_errors_total", 2, true),
    ("container_network_receive_packets_dropped_total", 3, true),
    ("container_network_transmit_bytes_total", 0, false),
    ("container_network_transmit_packets_total", 1, false),
    ("container_network_transmit_errors_total", 2, false),
    ("container_network_transmit_packets_dropped_total", 3, false),
];

/// One group as the metrics show it.
struct Group<'a> {
    labels: String,
    usage: &'a Usage,
    started: Option<f64>,
}

/// The exposition of all pods and containers, and of the machine.
pub fn cadvisor(sample: &Sample, machine: &Machine) -> String {
    let groups: Vec<Group<'_>> = sample.pods.values().flat_map(groups).collect();
    let now = sample.time.as_millisecond();
    let mut out = String::new();
    for (name, kind, own, value) in METRICS {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for group in &groups {
            let _ = writeln!(out, "{name}{{{own}{}}} {} {now}", group.labels, value(group.usage));
        }
    }
    let _ = writeln!(out, "# TYPE container_spec_cpu_quota gauge");
    for (group, quota) in groups.iter().filter_map(|group| Some((group, group.usage.cpu_quota_us?))) {
        let _ = writeln!(out, "container_spec_cpu_quota{{{}}} {quota} {now}", group.labels);
    }
    let _ = writeln!(out, "# TYPE container_memory_failures_total counter");
    for (kind, value) in FAULTS {
        for Group { labels, usage, .. } in &groups {
            let own = format!("failure_type={kind:?},scope=\"hierarchy\",{labels}");
            let _ = writeln!(out, "container_memory_failures_total{{{own}}} {} {now}", value(usage));
        }
    }
    for name in ["container_start_time_seconds", "container_last_seen"] {
        let _ = writeln!(out, "# TYPE {name} gauge");
        for group in &groups {
            let value = if name == "container_last_seen" { Some(epoch(sample.time).floor()) } else { group.started };
            if let Some(value) = value {
                let _ = writeln!(out, "{name}{{{}}} {value} {now}", group.labels);
            }
        }
    }
    network(sample, &mut out);
    let _ = writeln!(out, "# TYPE machine_cpu_cores gauge\nmachine_cpu_cores {}", machine.cpus);
    let _ = writeln!(out, "# TYPE machine_memory_bytes gauge\nmachine_memory_bytes {}", machine.memory_bytes);
    out
}

fn groups(pod: &PodSample) -> Vec<Group<'_>> {
    let labels = |name: &str, container: Option<&Container>| {
        let (id, image) = container.map_or(("", ""), |container| (&container.id, &container.image));
        let slash = if id.is_empty() { "" } else { "/" };
        format!(
            "container={name:?},id=\"{}{slash}{id}\",image={image:?},name={id:?},namespace={:?},pod={:?}",
            pod.cgroup, pod.namespace, pod.name
        )
    };
    let whole = Group { labels: labels("", None), usage: &pod.usage, started: pod.started.map(epoch) };
    let each = pod.containers.iter().map(|(name, container)| Group {
        labels: labels(name, Some(container)),
        usage: &container.usage,
        started: Some(epoch(container.started)),
    });
    std::iter::once(whole).chain(each).collect()
}

fn network(sample: &Sample, out: &mut String) {
    let now = sample.time.as_millisecond();
    let mut of: Vec<(String, &Interface)> = Vec::new();
    for interface in &sample.node_network {
        let labels = format!("id=\"/\",interface={:?},namespace=\"\",pod=\"\"", interface.name);
        of.push((labels, interface));
    }
    for pod in sample.pods.values() {
        for interface in &pod.network {
            let (name, cgroup) = (&interface.name, &pod.cgroup);
            let labels = format!("id={cgroup:?},interface={name:?},namespace={:?},pod={:?}", pod.namespace, pod.name);
            of.push((labels, interface));
        }
    }
    for (name, which, received) in NETWORK {
        let _ = writeln!(out, "# TYPE {name} counter");
        for (labels, interface) in &of {
            let value = if received { interface.received[which] } else { interface.sent[which] };
            let _ = writeln!(out, "{name}{{{labels}}} {value} {now}");
        }
    }
}
