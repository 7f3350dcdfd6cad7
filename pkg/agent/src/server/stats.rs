//! What the node and its pods use, from the kernel's groups.
use super::Server;
use crate::cri::{ContainerStats, ListContainerStatsRequest, label, request};
use crate::machine::Machine;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One container's figures as the runtime gives them.
async fn containers(server: &Server) -> Vec<ContainerStats> {
    let ask = request(ListContainerStatsRequest { filter: None });
    let answer = server.context.cri.runtime().list_container_stats(ask).await;
    answer.map(|answer| answer.into_inner().stats).unwrap_or_default()
}

fn labels(stats: &ContainerStats) -> [&str; 4] {
    let all = stats.attributes.as_ref();
    let of = |key: &str| all.and_then(|a| a.labels.get(key)).map_or("", String::as_str);
    [of(label::POD_NAMESPACE), of(label::POD_NAME), of(label::POD_UID), of(label::CONTAINER_NAME)]
}

fn cpu_ns(stats: &ContainerStats) -> u64 {
    stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |value| value.value)
}

fn working_set(stats: &ContainerStats) -> u64 {
    stats.memory.as_ref().and_then(|memory| memory.working_set_bytes).map_or(0, |value| value.value)
}

/// `/stats/summary` (k8s.io/kubelet stats/v1alpha1).
pub async fn summary(server: &Server) -> Value {
    let now = Timestamp::now().to_string();
    let machine = &server.context.machine;
    let available = Machine::available_memory_bytes();
    let disk = Machine::disk(&server.context.options.data_dir);
    let total = u64::try_from(machine.memory_bytes).unwrap_or(0);
    let filesystem = json!({
        "time": now,
        "availableBytes": disk.available_bytes,
        "capacityBytes": disk.size_bytes,
        "usedBytes": disk.size_bytes.saturating_sub(disk.available_bytes),
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
    });
    json!({
        "node": {
            "nodeName": server.context.options.node_name,
            "startTime": now,
            "cpu": {"time": now, "usageCoreNanoSeconds": (Machine::cpu_seconds() * 1e9) as u64},
            "memory": {
                "time": now,
                "availableBytes": available,
                "usageBytes": total.saturating_sub(available),
                "workingSetBytes": total.saturating_sub(available),
            },
            "fs": filesystem,
        },
        "pods": pods(containers(server).await, &now),
    })
}

fn pods(all: Vec<ContainerStats>, now: &str) -> Vec<Value> {
    let mut by_pod: BTreeMap<String, Vec<ContainerStats>> = BTreeMap::new();
    for stats in all {
        by_pod.entry(labels(&stats)[2].to_owned()).or_default().push(stats);
    }
    by_pod.into_values().map(|containers| pod(&containers, now)).collect()
}

fn pod(containers: &[ContainerStats], now: &str) -> Value {
    let [namespace, name, uid, _] = containers.first().map(labels).unwrap_or_default();
    let cpu = |ns: u64| json!({"time": now, "usageCoreNanoSeconds": ns});
    let memory = |bytes: u64| json!({"time": now, "workingSetBytes": bytes, "usageBytes": bytes});
    let each: Vec<_> = containers
        .iter()
        .map(|c| {
            json!({"name": labels(c)[3], "startTime": now, "cpu": cpu(cpu_ns(c)), "memory": memory(working_set(c))})
        })
        .collect();
    json!({
        "podRef": {"name": name, "namespace": namespace, "uid": uid},
        "startTime": now,
        "containers": each,
        "cpu": cpu(containers.iter().map(cpu_ns).sum()),
        "memory": memory(containers.iter().map(working_set).sum()),
    })
}

/// `/metrics/resource`: what metrics-server scrapes.
pub async fn resource_metrics(server: &Server) -> String {
    let all = containers(server).await;
    let total = u64::try_from(server.context.machine.memory_bytes).unwrap_or(0);
    let node_memory = total.saturating_sub(Machine::available_memory_bytes());
    exposition(&all, Machine::cpu_seconds(), node_memory)
}

fn exposition(all: &[ContainerStats], node_cpu_seconds: f64, node_memory_bytes: u64) -> String {
    let mut out = String::new();
    let labels = |c: &ContainerStats| {
        let [namespace, pod, _, container] = labels(c);
        format!("container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"")
    };
    out.push_str("# TYPE container_cpu_usage_seconds_total counter\n");
    for c in all {
        let _ = writeln!(out, "container_cpu_usage_seconds_total{{{}}} {}", labels(c), cpu_ns(c) as f64 / 1e9);
    }
    out.push_str("# TYPE container_memory_working_set_bytes gauge\n");
    for c in all {
        let _ = writeln!(out, "container_memory_working_set_bytes{{{}}} {}", labels(c), working_set(c));
    }
    out.push_str("# TYPE node_cpu_usage_seconds_total counter\n");
    let _ = writeln!(out, "node_cpu_usage_seconds_total {node_cpu_seconds}");
    out.push_str("# TYPE node_memory_working_set_bytes gauge\n");
    let _ = writeln!(out, "node_memory_working_set_bytes {node_memory_bytes}");
    out.push_str("# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
    out
}

/// `/metrics`: the agent itself.
pub fn own_metrics(server: &Server) -> String {
    let pods = server.our_pods();
    let running =
        pods.iter().filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"));
    let me = procfs::process::Process::myself().and_then(|me| me.stat());
    let rss = me.map_or(0, |stat| stat.rss * procfs::page_size());
    format!(
        "# TYPE kubelet_desired_pods gauge\nkubelet_desired_pods {}\n# TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {}\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {rss}\n",
        pods.len(),
        running.count(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::{ContainerAttributes, CpuUsage, UInt64Value};
    use std::collections::HashMap;

    fn stats(pod: &str, container: &str, cpu_ns: u64) -> ContainerStats {
        let labels = [
            (label::POD_NAMESPACE, "n"),
            (label::POD_NAME, pod),
            (label::POD_UID, pod),
            (label::CONTAINER_NAME, container),
        ];
        let labels: HashMap<_, _> = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        ContainerStats {
            attributes: Some(ContainerAttributes { labels, ..Default::default() }),
            cpu: Some(CpuUsage { timestamp: 0, usage_core_nano_seconds: Some(UInt64Value { value: cpu_ns }) }),
            ..Default::default()
        }
    }

    #[test]
    fn pods_are_the_sum_of_their_containers() {
        let all = vec![stats("p", "a", 1_000_000_000), stats("p", "b", 2_000_000_000), stats("q", "a", 5)];
        let text = exposition(&all, 1.5, 7);
        assert!(
            text.contains("container_cpu_usage_seconds_total{container=\"b\",namespace=\"n\",pod=\"p\"} 2\n"),
            "{text}"
        );
        assert!(text.contains("node_memory_working_set_bytes 7\n"));
        let pods = pods(all, "now");
        assert_eq!(pods.len(), 2);
        assert_eq!(pods[0]["cpu"]["usageCoreNanoSeconds"], 3_000_000_000u64);
    }
}
