#!/usr/bin/env python3
"""Compares the objects of two API servers, as `kubectl get ... -o json` wrote them.

    import.py BEFORE AFTER

Each object of BEFORE must be in AFTER: the same uid and content but for what the running cluster changes by itself.
"""
import json
import sys

# What every cluster says of itself, anew: its own keys, addresses, roles and built-in settings.
OWN = {
    ("ConfigMap", "kube-root-ca.crt"),
    ("Service", "kubernetes"),
    ("ConfigMap", "extension-apiserver-authentication"),
    ("EndpointSlice", "kubernetes"),
    ("Endpoints", "kubernetes"),
}
# Their status is what the running cluster finds.
LIVE = ("Pod", "HorizontalPodAutoscaler")
BOOTSTRAP = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "FlowSchema", "PriorityLevelConfiguration", "APIService")


def named(path):
    with open(path) as file:
        items = json.load(file)["items"]
    key = lambda o: (o["apiVersion"].split("/")[0], o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"])
    return {key(item): item for item in items}


def content(item):
    item = json.loads(json.dumps(item))
    item["metadata"].pop("resourceVersion", None)
    if item["kind"] in LIVE:
        for part in (item, item["metadata"]):
            part.pop("status", None)
            part.pop("managedFields", None)
    return item


def differences(path, before, after):
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(set(before) | set(after)):
            yield from differences(f"{path}.{name}", before.get(name), after.get(name))
    elif before != after:
        yield f"{path}: {json.dumps(before)} -> {json.dumps(after)}"


def main():
    before, after = named(sys.argv[1]), named(sys.argv[2])
    wrong, kinds = [], set()
    for key, item in before.items():
        _, kind, _, name = key
        kinds.add(kind)
        if key not in after:
            wrong.append(f"{key} is missing")
        elif item["metadata"]["uid"] != after[key]["metadata"]["uid"]:
            wrong.append(f"{key} has another uid")
        elif (kind, name) not in OWN and not (kind in BOOTSTRAP and ":" in name):
            wrong += [f"{key} {what}" for what in differences("", content(item), content(after[key]))]
    print("\n".join(wrong))
    print(f"{len(before)} objects of {len(kinds)} kinds, {len(wrong)} differences")
    return 1 if wrong else 0


sys.exit(main())
