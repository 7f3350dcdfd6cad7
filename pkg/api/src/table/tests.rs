//! Rows as kubectl shows them.
use super::*;
use serde_json::json;

/// 2026-01-01T00:10:00Z
const NOW: i64 = 1_767_226_200;
const CREATED: &str = "2026-01-01T00:00:00Z";

fn printer_of(api_version: &str, kind: &str) -> Box<dyn Printer> {
    let gv = crate::GroupVersion::parse(api_version);
    printer(&GroupVersionKind::new(gv.group, gv.version, kind))
}

fn row(api_version: &str, kind: &str, mut object: Value) -> Vec<String> {
    object["metadata"]["name"] = json!("n");
    object["metadata"]["creationTimestamp"] = json!(CREATED);
    let printer = printer_of(api_version, kind);
    let cells = printer.cells(&object, NOW);
    assert_eq!(cells.len(), printer.columns().len(), "{kind}");
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

/// Ready, status and restarts of a pod.
fn pod(object: Value) -> [String; 3] {
    let cells = row("v1", "Pod", object);
    [cells[1].clone(), cells[2].clone(), cells[3].clone()]
}

fn with_containers(statuses: Value) -> Value {
    let containers: Vec<Value> = statuses.as_array().unwrap().iter().map(|_| json!({})).collect();
    json!({"spec": {"containers": containers}, "status": {"phase": "Running", "containerStatuses": statuses}})
}

#[test]
fn every_kind_has_a_cell_a_column() {
    for kind in COLUMNS.keys() {
        let (api_version, kind) = kind.split_once(' ').unwrap();
        let printer = printer_of(api_version, kind);
        let cells = printer.cells(&json!({"metadata": {"name": "n", "creationTimestamp": CREATED}}), NOW);
        // Upstream's own row of an IPAddress is one longer than its columns.
        let extra = usize::from(kind == "IPAddress");
        assert_eq!(cells.len(), printer.columns().len() + extra, "{api_version} {kind}");
        let own = printer.columns().last().unwrap().name != "Created At";
        let gv = crate::GroupVersion::parse(api_version);
        assert!(!own || super::cells(&gv.group, kind).is_some(), "{api_version} {kind} has no cells of its own");
    }
}

#[test]
fn a_running_pod() {
    let mut object = with_containers(json!([{"ready": true, "state": {"running": {}}, "restartCount": 3,
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}}]));
    object["spec"]["nodeName"] = json!("node-1");
    object["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}]);
    assert_eq!(
        row("v1", "Pod", object),
        ["n", "1/1", "Running", "3 (5m ago)", "10m", "10.0.0.1", "node-1", "<none>", "<none>"]
    );
}

#[test]
fn pods_in_trouble() {
    let waiting = with_containers(json!([{"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 2}]));
    assert_eq!(pod(waiting), ["0/1", "CrashLoopBackOff", "2"]);
    let ended = with_containers(json!([{"state": {"terminated": {"exitCode": 3}}}]));
    assert_eq!(pod(ended), ["0/1", "ExitCode:3", "0"]);
    let killed = with_containers(json!([{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]));
    assert_eq!(pod(killed)[1], "Signal:9");
    let half = with_containers(json!([{"ready": true, "state": {"running": {}}},
        {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]));
    assert_eq!(
        pod(half.clone()),
        ["1/2", "Running", "0"].map(|s| if s == "Running" { "NotReady".into() } else { s.to_owned() })
    );
    let mut ready = half;
    ready["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(pod(ready)[1], "Running");
    let evicted = json!({"spec": {"containers": [{}]}, "status": {"phase": "Failed", "reason": "Evicted"}});
    assert_eq!(pod(evicted), ["0/1", "Evicted", "0"]);
}

#[test]
fn pods_on_their_way() {
    let gated = json!({"spec": {"containers": [{}]}, "status": {"phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}});
    assert_eq!(pod(gated), ["0/1", "SchedulingGated", "0"]);
    let mut deleted = with_containers(json!([{"ready": true, "state": {"running": {}}}]));
    deleted["metadata"]["deletionTimestamp"] = json!(CREATED);
    assert_eq!(pod(deleted.clone())[1], "Terminating");
    deleted["status"]["reason"] = json!("NodeLost");
    assert_eq!(pod(deleted)[1], "Unknown");
}

#[test]
fn init_containers_and_sidecars() {
    let init = |statuses: Value| {
        json!({"spec": {"containers": [{}], "initContainers": [{"name": "a"}, {"name": "s", "restartPolicy": "Always"}]},
            "status": {"phase": "Pending", "initContainerStatuses": statuses,
                "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}})
    };
    assert_eq!(pod(init(json!([{"name": "a", "state": {"running": {}}}]))), ["0/2", "Init:0/2", "0"]);
    let failed = json!([{"name": "a", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}, "restartCount": 1}]);
    assert_eq!(pod(init(failed)), ["0/2", "Init:Error", "1"]);
    let waiting = json!([{"name": "a", "state": {"waiting": {"reason": "ErrImagePull"}}}]);
    assert_eq!(pod(init(waiting))[1], "Init:ErrImagePull");
    let done = json!([{"name": "a", "state": {"terminated": {"exitCode": 0}}, "restartCount": 5},
        {"name": "s", "started": true, "ready": true, "state": {"running": {}}, "restartCount": 2}]);
    assert_eq!(pod(init(done)), ["1/2", "PodInitializing", "2"]);
}

#[test]
fn nodes() {
    let object = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x"}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.1.1.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.3", "osImage": "Debian", "kernelVersion": "6.1", "architecture": "amd64",
                "containerRuntimeVersion": "containerd://1.6.20"}}});
    assert_eq!(
        row("v1", "Node", object),
        [
            "n",
            "Ready,SchedulingDisabled",
            "control-plane,worker,x",
            "10m",
            "v1.36.3",
            "10.1.1.1",
            "<none>",
            "Debian",
            "6.1 (amd64)",
            "containerd://1.6.20"
        ]
    );
    assert_eq!(row("v1", "Node", json!({}))[1..3], ["Unknown", "<none>"]);
}

#[test]
fn services_and_endpoints() {
    let object = json!({"spec": {"type": "NodePort", "clusterIPs": ["10.43.0.7"], "selector": {"app": "web"},
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
    assert_eq!(
        row("v1", "Service", object),
        ["n", "NodePort", "10.43.0.7", "<none>", "80:30080/TCP,53/UDP", "10m", "app=web"]
    );
    let pending = json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["None"]}});
    assert_eq!(row("v1", "Service", pending)[2..5], ["None", "<pending>", "<none>"]);
    let endpoints =
        json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "::1"}], "ports": [{"port": 1}, {"port": 2}]}]});
    assert_eq!(row("v1", "Endpoints", endpoints)[1], "1.1.1.1:1,[::1]:1,1.1.1.1:2 + 1 more...");
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
        "endpoints": [{"addresses": ["1.1.1.1"]}]});
    assert_eq!(row("discovery.k8s.io/v1", "EndpointSlice", slice)[2..4], ["80,x,*", "1.1.1.1"]);
    assert_eq!(row("discovery.k8s.io/v1", "EndpointSlice", json!({}))[2..4], ["<unset>", "<unset>"]);
}

#[test]
fn workloads() {
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "j"}]}}});
    let deployment = json!({"spec": spec, "status": {"readyReplicas": 2, "updatedReplicas": 3}});
    assert_eq!(row("apps/v1", "Deployment", deployment), ["n", "2/3", "3", "0", "10m", "c,d", "i,j", "a=b"]);
    let job = json!({"spec": {"completions": 5}, "status": {"succeeded": 2, "startTime": "2026-01-01T00:08:00Z"}});
    assert_eq!(row("batch/v1", "Job", job)[1..4], ["Running", "2/5", "2m"]);
    let job = json!({"spec": {"parallelism": 3}, "status": {"conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(row("batch/v1", "Job", job)[1..4], ["Complete", "0/1 of 3", ""]);
    let cron = json!({"spec": {"schedule": "* * * * *", "suspend": false}, "status": {"active": [{}]}});
    assert_eq!(row("batch/v1", "CronJob", cron)[1..6], ["* * * * *", "<none>", "False", "1", "<none>"]);
    let hpa = json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 4,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}}]}});
    assert_eq!(
        row("autoscaling/v2", "HorizontalPodAutoscaler", hpa)[1..6],
        ["Deployment/d", "cpu: <unknown>/50%", "1", "4", "0"]
    );
}

#[test]
fn events() {
    let core = json!({"type": "Warning", "reason": "Failed", "message": " text\n", "count": 4,
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec"}, "source": {"component": "kubelet", "host": "h"},
        "firstTimestamp": CREATED, "lastTimestamp": "2026-01-01T00:09:30Z"});
    let expected = ["30s", "Warning", "Failed", "pod/p", "spec", "kubelet, h", "text", "10m", "4", "n"];
    assert_eq!(row("v1", "Event", core), expected);
    let new = json!({"type": "Normal", "reason": "Scheduled", "note": "t", "regarding": {"kind": "Pod", "name": "p"},
        "eventTime": "2026-01-01T00:09:00.000000Z", "reportingController": "default-scheduler", "reportingInstance": "x"});
    let expected = ["60s", "Normal", "Scheduled", "pod/p", "", "default-scheduler, x", "t", "60s", "1", "n"];
    assert_eq!(row("events.k8s.io/v1", "Event", new), expected);
}

#[test]
fn volumes() {
    let claim = json!({"spec": {"volumeName": "v", "storageClassName": "fast", "volumeMode": "Filesystem"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}});
    assert_eq!(
        row("v1", "PersistentVolumeClaim", claim),
        ["n", "Bound", "v", "1Gi", "RWO,RWX", "fast", "<unset>", "10m", "Filesystem"]
    );
    let class = json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"});
    assert_eq!(row("storage.k8s.io/v1", "StorageClass", class)[..4], ["n (default)", "p", "Delete", "Immediate"]);
}

#[test]
fn kinds_without_columns() {
    assert_eq!(row("rbac.authorization.k8s.io/v1", "ClusterRole", json!({})), ["n", CREATED]);
    assert_eq!(row("example.com/v1", "Thing", json!({})), ["n", CREATED]);
}

#[test]
fn finished_pods_say_so() {
    let printer = printer_of("v1", "Pod");
    assert_eq!(printer.conditions(&json!({"status": {"phase": "Succeeded"}}))[0]["reason"], "Succeeded");
    assert!(printer.conditions(&json!({"status": {"phase": "Running"}})).is_empty());
}

#[test]
fn custom_columns() {
    let printer = CustomPrinter::new(&[
        json!({"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}),
        json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}),
        json!({"name": "List", "type": "string", "jsonPath": ".spec.list", "priority": 1}),
        json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}),
        json!({"name": "None", "type": "string", "jsonPath": ".no.such"}),
    ]);
    let object = json!({"metadata": {"name": "n", "creationTimestamp": CREATED}, "spec": {"replicas": 2, "list": [1, "a"]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(
        printer.cells(&object, NOW),
        [json!("n"), json!(2), json!("True"), json!("[1,\"a\"]"), json!("10m"), Value::Null]
    );
    assert_eq!(CustomPrinter::new(&[]).cells(&object, NOW), [json!("n"), json!("10m")]);
    assert_eq!(printer.columns()[3].priority, 1);
}
