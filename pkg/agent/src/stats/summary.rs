//! `/stats/summary` (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`).
use super::network::Interface;
use super::volumes::{self, Uses};
use super::{Pair, PodSample};
use crate::machine::{Disk, Machine};
use jiff::Timestamp;
use qos::Usage;
use serde_json::{Value, json};

/// The whole summary.
pub fn summary(node_name: &str, machine: &Machine, disk: Disk, pair: &Pair, uses: &Uses) -> Value {
    let new = &pair.new;
    let time = text(new.time);
    let filesystem = json!({
        "time": time,
        "availableBytes": disk.available_bytes,
        "capacityBytes": disk.size_bytes,
        "usedBytes": disk.size_bytes.saturating_sub(disk.available_bytes),
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
        "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free),
    });
    let mut node = json!({
        "nodeName": node_name,
        "startTime": text(machine.booted),
        "cpu": cpu(&time, new.node_cpu_ns, pair.node_nano_cores()),
        "memory": {
            "time": time,
            "availableBytes": new.node_available_bytes,
            "usageBytes": new.node_memory_bytes,
            "workingSetBytes": new.node_memory_bytes,
        },
        "fs": filesystem,
        "runtime": {"imageFs": filesystem, "containerFs": filesystem},
        "rlimit": {"time": time, "maxpid": machine.pid_limit},
    });
    if let Some(network) = network(&time, &new.node_network) {
        node["network"] = network;
    }
    let mut pods: Vec<Value> = Vec::with_capacity(new.pods.len());
    for (uid, sample) in &new.pods {
        let mut pod = pod(pair, uid, sample, &time);
        if let Some(uses) = uses.get(uid) {
            volumes::add(&mut pod, &time, uses);
        }
        pods.push(pod);
    }
    json!({"node": node, "pods": pods})
}

fn pod(pair: &Pair, uid: &str, pod: &PodSample, time: &str) -> Value {
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|(name, container)| {
            let used = &container.usage;
            json!({
                "name": name,
                "startTime": text(container.started),
                "cpu": cpu(time, used.cpu_ns, pair.container_nano_cores(uid, name, container)),
                "memory": memory(time, used),
                "swap": {"time": time, "swapUsageBytes": used.swap_bytes},
            })
        })
        .collect();
    let mut out = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": uid},
        "startTime": text(pod.started.unwrap_or(pair.new.time)),
        "containers": containers,
        "cpu": cpu(time, pod.usage.cpu_ns, pair.pod_nano_cores(uid, pod)),
        "memory": memory(time, &pod.usage),
        "process_stats": {"process_count": pod.usage.pids},
    });
    if let Some(network) = network(time, &pod.network) {
        out["network"] = network;
    }
    out
}

fn cpu(time: &str, total_ns: u64, nano_cores: Option<u64>) -> Value {
    let mut out = json!({"time": time, "usageCoreNanoSeconds": total_ns});
    if let Some(nano_cores) = nano_cores {
        out["usageNanoCores"] = nano_cores.into();
    }
    out
}

fn memory(time: &str, usage: &Usage) -> Value {
    let mut out = json!({
        "time": time,
        "usageBytes": usage.memory_bytes,
        "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    });
    if let Some(limit) = usage.memory_limit_bytes {
        out["availableBytes"] = limit.saturating_sub(usage.working_set_bytes).into();
    }
    out
}

/// The first interface stands for the whole, as upstream shows eth0.
fn network(time: &str, interfaces: &[Interface]) -> Option<Value> {
    let one = |interface: &Interface| {
        json!({
            "name": interface.name,
            "rxBytes": interface.received[0],
            "rxErrors": interface.received[2],
            "txBytes": interface.sent[0],
            "txErrors": interface.sent[2],
        })
    };
    let mut out = one(interfaces.first()?);
    out["time"] = time.into();
    out["interfaces"] = interfaces.iter().map(one).collect();
    Some(out)
}

fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{Container, Sample, cadvisor, resource};
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    fn sample(at: Instant, cpu_ns: u64) -> Arc<Sample> {
        let usage = Usage { cpu_ns, working_set_bytes: 7, ..Usage::default() };
        let container = Container { id: "c1".into(), image: "i".into(), started: Timestamp::UNIX_EPOCH, usage };
        let pod = PodSample {
            name: "p".into(),
            namespace: "n".into(),
            cgroup: "/pods/podu".into(),
            usage,
            started: None,
            network: vec![Interface { name: "eth0".into(), received: [5, 0, 0, 0], sent: [6, 0, 0, 0] }],
            containers: BTreeMap::from([("a".to_owned(), container)]),
        };
        Arc::new(Sample {
            at,
            time: Timestamp::UNIX_EPOCH,
            node_cpu_ns: 2 * cpu_ns,
            node_memory_bytes: 11,
            node_available_bytes: 13,
            node_network: Vec::new(),
            pods: BTreeMap::from([("u".to_owned(), pod)]),
        })
    }

    #[test]
    fn the_same_figures_in_every_format() {
        let at = Instant::now();
        let old = sample(at, 1_000_000_000);
        let pair = Pair { new: sample(at + Duration::from_secs(10), 6_000_000_000), old: Some(old) };
        let machine = Machine::look();
        let got = summary("n1", &machine, Disk::default(), &pair, &Uses::new());
        assert_eq!(got["pods"][0]["containers"][0]["cpu"]["usageNanoCores"], 500_000_000);
        assert_eq!(got["node"]["cpu"]["usageNanoCores"], 1_000_000_000);
        assert_eq!(got["pods"][0]["network"]["txBytes"], 6);
        let text = resource(&pair.new);
        let line = "container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 6 0\n";
        assert!(text.contains(line), "{text}");
        let text = cadvisor(&pair.new, &machine);
        let line = "container_memory_working_set_bytes{container=\"a\",id=\"/pods/podu/c1\",image=\"i\",name=\"c1\",namespace=\"n\",pod=\"p\"} 7 0\n";
        assert!(text.contains(line), "{text}");
        let line = "container_network_receive_bytes_total{id=\"/pods/podu\",interface=\"eth0\",namespace=\"n\",pod=\"p\"} 5 0\n";
        assert!(text.contains(line), "{text}");
    }
}
