#!/usr/bin/env python3
"""Asks two Kubernetes API servers the same questions and prints where their answers differ.

    apidiff.py REFERENCE.kubeconfig TESTED.kubeconfig FILE...

A FILE holds one request a line as JSON: "m" method, "p" path, and where needed "b" body, "t" its content type, "a" the
Accept header, "ok" paths of the answer that may differ. {ns} stands for a namespace that is made afresh for each file.
Lines that begin with # are comments. Needs kubectl, to read kubeconfigs.
"""
import base64
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import uuid

# No two servers agree on these: identities, times, revisions, addresses, secrets, versions of the program.
OWN = re.compile(
    r"(^|\.)(uid|resourceVersion|creationTimestamp|deletionTimestamp|time|last\w+Time|startTime|clusterIPs?|podIPs?|"
    r"hostIPs?|nodePort|healthCheckNodePort|expirationTimestamp|token|continue|remainingItemCount|git\w+|buildDate|"
    r"goVersion|compiler|platform|[\w./-]*controller-uid|storageVersionHash|hash|serverAddress|emulation\w*|"
    r"minCompat\w*|ca\.crt)(\[\d+\])?$"
)
# Settings of the server.
NETWORK = re.compile(r"(?<=range of valid IPs is )[\d.]+/\d+")
# Eyot's lists hand out stored bytes, which say what they are; upstream's items leave that to the list.
ITEM_TYPE = re.compile(r"^items\[\d+\]\.(apiVersion|kind)$")
# Ages in tables.
AGE = re.compile(r"^(\d+[smhd]){1,2}$")
RANDOM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=kube-api-access-)[a-z0-9]{5}$")
SHOWN = 12
TIMEOUT_SECONDS = 30


class Server:
    def __init__(self, kubeconfig):
        view = ["kubectl", "config", "view", "--raw", "--minify", "--flatten", "-o", "json", "--kubeconfig", kubeconfig]
        config = json.loads(subprocess.run(view, capture_output=True, check=True, text=True).stdout)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.host = cluster["server"].split("://")[1].rstrip("/")
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=ca)
        self.tls.check_hostname = False
        self.headers = {"Authorization": "Bearer " + user["token"]} if "token" in user else {}
        if "client-certificate-data" in user:
            self.identify(user)

    def identify(self, user):
        parts = [base64.b64decode(user[key]) for key in ("client-certificate-data", "client-key-data")]
        with tempfile.NamedTemporaryFile("wb", delete=False) as file:
            file.write(b"\n".join(parts))
        self.tls.load_cert_chain(file.name)
        os.unlink(file.name)

    def ask(self, request, namespace):
        headers = {**self.headers, "Accept": request.get("a", "application/json")}
        body = request.get("b")
        if body is not None:
            body = body if isinstance(body, str) else json.dumps(body)
            body = body.replace("{ns}", namespace).encode()
            headers["Content-Type"] = request.get("t", "application/json")
        connection = http.client.HTTPSConnection(self.host, context=self.tls, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(request["m"], request["p"].replace("{ns}", namespace), body, headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace").replace(namespace, "{ns}")
            warnings = response.headers.get_all("Warning") or []
        finally:
            connection.close()
        try:
            answer = json.loads(text)
            if isinstance(answer, dict) and warnings:
                answer["(warnings)"] = [warning.replace(namespace, "{ns}") for warning in warnings]
            return response.status, answer
        except ValueError:
            return response.status, text


def leaves(value, path, may_differ, out):
    """The scalars of an answer by their paths."""
    if ITEM_TYPE.match(path):
        return out
    if any(path == may or path.startswith((may + ".", may + "[")) for may in may_differ):
        return out
    if OWN.search(path):
        out[path] = "(its own)"
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            leaves(inner, f"{path}.{key}" if path else key, may_differ, out)
    elif isinstance(value, list) and value:
        for at, inner in enumerate(value):
            leaves(inner, f"{path}[{at}]", may_differ, out)
    else:
        out[path] = AGE.sub("(age)", value) if ".cells[" in path and isinstance(value, str) else value
    if isinstance(out.get(path), str):
        value = out[path]
        value = NETWORK.sub("(network)", RANDOM.sub("(random)", value))
        # Upstream numbers the types of rules at random.
        out[path] = re.sub(r"selfType\d+", "selfType", value)
    return out


def differences(request, reference, tested):
    may_differ = request.get("ok", [])
    ours, theirs = leaves(tested[1], "", may_differ, {}), leaves(reference[1], "", may_differ, {})
    out = [f"status: {reference[0]} / {tested[0]}"] if reference[0] != tested[0] else []
    for path in sorted({**theirs, **ours}):
        if theirs.get(path, "(none)") != ours.get(path, "(none)"):
            out.append(f"{path}: {theirs.get(path, '(none)')!r} / {ours.get(path, '(none)')!r}")
    return out


def run(servers, file):
    namespace = "apidiff-" + uuid.uuid4().hex[:8]
    path = "/api/v1/namespaces"
    made = {"m": "POST", "p": path, "b": {"metadata": {"name": namespace}}}
    account = {"m": "POST", "p": f"{path}/{namespace}/serviceaccounts", "b": {"metadata": {"name": "default"}}}
    for server in servers:
        server.ask(made, namespace)
        server.ask(account, namespace)
    same = other = 0
    try:
        for number, line in enumerate(open(file), 1):
            if not line.strip() or line.startswith("#"):
                continue
            request = json.loads(line)
            found = differences(request, *(server.ask(request, namespace) for server in servers))
            same, other = (same, other + 1) if found else (same + 1, other)
            if found:
                print(f"--- {os.path.basename(file)}:{number} {request['m']} {request['p']}")
                print("\n".join("    " + text for text in found[:SHOWN]))
    finally:
        for server in servers:
            server.ask({"m": "DELETE", "p": f"{path}/{namespace}"}, namespace)
    return same, other


def main():
    servers = [Server(path) for path in sys.argv[1:3]]
    totals = [run(servers, file) for file in sys.argv[3:]]
    for file, (same, other) in zip(sys.argv[3:], totals):
        print(f"{os.path.basename(file)}: {same} alike, {other} differ")
    same, other = (sum(column) for column in zip(*totals))
    print(f"{same} passed, {other} failed")
    sys.exit(1 if other else 0)


main()
