"""How long pods take from being created to being bound, through one API server, on nodes that are only objects.

    pods.py KUBECONFIG [PODS] [A-SECOND]      prints JSON"""
import json
import sys
import threading
import time

import http1

NAMESPACE = "bind"


def node(api, name):
    labels = {"kubernetes.io/hostname": name, "bind": "yes"}
    api.ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    room = {"cpu": "32", "memory": "64Gi", "pods": "110"}
    ready = [{"type": "Ready", "status": "True", "reason": "Simulated", "message": "simulated"}]
    api.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": {"capacity": room, "allocatable": room, "conditions": ready}}, patch=True)


def pod(name):
    container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
    spec = {"nodeSelector": {"bind": "yes"}, "tolerations": [{"operator": "Exists"}], "containers": [container], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def watch(api, version, bound, count, done):
    for event in api.watch(f"/api/v1/namespaces/{NAMESPACE}/pods?watch=1&resourceVersion={version}"):
        if event["object"].get("spec", {}).get("nodeName"):
            bound.setdefault(event["object"]["metadata"]["name"], time.time())
        if len(bound) == count:
            return done.set()


def main():
    kubeconfig, count, rate = sys.argv[1], int((sys.argv[2:] or [60])[0]), float((sys.argv[3:] or [5])[0])
    api = http1.Api(kubeconfig)
    api.ask("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for n in range(3):
        node(api, f"bind-{n}")
    # The first pods find everything awake.
    warm, path = 5, f"/api/v1/namespaces/{NAMESPACE}/pods"
    version = api.ask("GET", path)["metadata"]["resourceVersion"]
    bound, created, acknowledged, done = {}, {}, [], threading.Event()
    threading.Thread(target=watch, args=(api, version, bound, count + warm, done), daemon=True).start()
    for n in range(count + warm):
        name, due = f"pod-{n}", time.time()
        created[name] = due
        api.ask("POST", path, pod(name))
        acknowledged.append(time.time() - due)
        time.sleep(max(0, due + 1 / rate - time.time()))
    done.wait(60)
    took = [1000 * (bound[f"pod-{n}"] - created[f"pod-{n}"]) for n in range(warm, count + warm) if f"pod-{n}" in bound]
    print(json.dumps({"created_to_bound_ms": took, "create_ms": [1000 * s for s in acknowledged[warm:]], "unbound": count + warm - len(bound)}))


main()
