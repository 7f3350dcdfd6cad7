"""Servers at sites: Eyot's that replicate, and members of an etcd."""
import json
import os
import shutil
import subprocess
import time

import net

BIN = os.environ.get("UPSTREAM_BIN", "/var/cache/eyot-upstream/bin")
ENDPOINT = "http://127.0.0.1:2379"


class Eyot:
    """Whole servers without nodes (or with, at the sites of `nodes`), linked with one another; each serves etcd's API to its own site."""

    name = "eyot"

    def __init__(self, network, work, nodes=()):
        self.net, self.work, self.nodes = network, work, set(nodes)
        self.running = {}

    def data(self, at):
        return f"{self.work}/eyot-{at}"

    def kubeconfig(self, at):
        return f"{self.work}/eyot-{at}.kubeconfig"

    def log(self, at):
        return f"{self.work}/eyot-{at}.log"

    def instance(self, at):
        return f"{self.net.name}e{at}"

    def command(self, at):
        command = [os.environ["EYOT"], "server", "--config", "/dev/null", "-d", self.data(at), "-o", self.kubeconfig(at)]
        command += ["--instance", self.instance(at), "--node-name", self.instance(at), "--site", f"s{at}"]
        command += ["--advertise-address", self.net.address(at), "--node-ip", self.net.address(at), "--etcd-listen", ENDPOINT]
        if at not in self.nodes:
            command.append("--disable-agent")
        if at > 0:
            with open(f"{self.data(0)}/server/token") as token:
                command += ["--server", f"https://{self.net.address(0)}:6443", "--token", token.read().strip()]
        return command

    def boot(self, at, patience=120):
        self.running[at] = self.net.start(at, self.command(at), self.log(at))
        try:
            net.wait(f"server {at} answers", lambda: self.kubectl(at, "get", "--raw", "/readyz") == "ok", patience)
        except TimeoutError:
            with open(self.log(at)) as log:
                print("".join(log.readlines()[-20:]))
            raise

    def grow(self, count):
        """Starts servers until there are so many, all of them linked."""
        for at in range(len(self.running), count):
            self.boot(at)
        self.linked(count)

    def linked(self, count, among=None, patience=120):
        for at in among or range(count):
            net.wait(f"server {at} is linked with all of {count}", lambda at=at: self.links(at).count("Lost") == 0 and len(self.links(at)) == count, patience, 0.5)

    def links(self, at):
        return self.kubectl(at, "get", "servers", "-o", "jsonpath={.items[*].status.link}").split()

    def kubectl(self, at, *args, check=True):
        command = self.net.inside(at, ["kubectl", "--request-timeout=20s", "--kubeconfig", self.kubeconfig(at), *args])
        done = subprocess.run(command, capture_output=True, text=True, check=check)
        return done.stdout

    def kill(self, at):
        self.running[at].kill()
        self.running[at].wait()

    def processes(self):
        return list(self.running.values())

    def close(self):
        net.end(self.processes())
        for at in self.nodes:
            self.net.run(at, [os.environ["EYOT"], "cleanup", "--instance", self.instance(at), "-d", self.data(at)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Etcd:
    """An etcd with a member at each site, tuned to the round trip as its documentation asks for."""

    name = "etcd"

    def __init__(self, network, work, count, rtt_ms=0):
        self.net, self.work, self.count = network, work, count
        heartbeat = max(100, int(rtt_ms))
        members = ",".join(f"m{at}=http://{network.address(at)}:2380" for at in range(count))
        self.running = {}
        for at in range(count):
            shutil.rmtree(self.data(at), ignore_errors=True)
            command = [f"{BIN}/etcd", "--name", f"m{at}", "--data-dir", self.data(at), "--log-level", "error", "--initial-cluster", members]
            command += ["--listen-client-urls", ENDPOINT, "--advertise-client-urls", f"http://{network.address(at)}:2379"]
            peer = f"http://{network.address(at)}:2380"
            command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            command += ["--heartbeat-interval", str(heartbeat), "--election-timeout", str(heartbeat * 10)]
            self.running[at] = network.start(at, command, f"{work}/etcd-{at}.log")
        try:
            for at in range(count):
                net.wait(f"etcd's member {at} answers", lambda at=at: self.ctl(at, "get", "/none") is not None, 120, 0.3)
        except TimeoutError:
            self.close()
            raise

    def data(self, at):
        return f"{self.work}/etcd-{at}"

    def ctl(self, at, *args):
        command = self.net.inside(at, [f"{BIN}/etcdctl", "--endpoints", "127.0.0.1:2379", *args])
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def is_leader(self, at):
        status = json.loads(self.ctl(at, "endpoint", "status", "-w", "json"))[0]["Status"]
        return status["leader"] == status["header"]["member_id"]

    def close(self):
        net.end(self.running.values(), 5)
        for at in range(self.count):
            shutil.rmtree(self.data(at), ignore_errors=True)


def cpu(processes):
    """Processor time of programs so far, seconds."""
    ticks = 0
    for process in processes:
        with open(f"/proc/{process.pid}/stat") as stat:
            ticks += sum(int(number) for number in stat.read().rsplit(")", 1)[1].split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def now_ms():
    return int(time.time() * 1000)


class Upstream:
    """kube-apiserver and kube-scheduler beside one member of an etcd."""

    def __init__(self, network, work, at):
        self.net, self.work, self.at = network, work, at
        self.dir = f"{work}/upstream"
        os.makedirs(self.dir)
        self.certificates()
        serving = ["--etcd-servers", ENDPOINT, "--secure-port=6443", "--bind-address=127.0.0.1", f"--cert-dir={self.dir}", f"--client-ca-file={self.dir}/ca.crt"]
        serving += [f"--advertise-address={network.address(at)}", "--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=RBAC"]
        serving += ["--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={self.dir}/ca.key"]
        serving += [f"--service-account-signing-key-file={self.dir}/ca.key", "--disable-admission-plugins=ServiceAccount"]
        self.running = [network.start(at, [f"{BIN}/kube-apiserver", *serving], f"{work}/apiserver.log")]
        try:
            net.wait("kube-apiserver is ready", lambda: self.kubectl("get", "--raw", "/readyz") == "ok", 120)
        except TimeoutError:
            self.close()
            raise
        scheduling = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", f"--cert-dir={self.dir}", "--secure-port=10259"]
        self.running.append(network.start(at, [f"{BIN}/kube-scheduler", *scheduling], f"{work}/scheduler.log"))

    @property
    def kubeconfig(self):
        return f"{self.dir}/kubeconfig"

    def openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.dir, check=True, stderr=subprocess.DEVNULL)

    def certificates(self):
        self.openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca", "-days", "2")
        self.openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "admin.key", "-subj", "/O=system:masters/CN=admin", "-out", "admin.csr")
        self.openssl("x509", "-req", "-in", "admin.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", "admin.crt")
        with open(self.kubeconfig, "w") as out:
            out.write(
                "apiVersion: v1\nkind: Config\ncurrent-context: it\n"
                "contexts:\n- name: it\n  context:\n    cluster: it\n    user: me\n"
                "clusters:\n- name: it\n  cluster:\n    insecure-skip-tls-verify: true\n    server: https://127.0.0.1:6443\n"
                f"users:\n- name: me\n  user:\n    client-certificate: {self.dir}/admin.crt\n    client-key: {self.dir}/admin.key\n"
            )

    def kubectl(self, *args):
        command = self.net.inside(self.at, ["kubectl", "--request-timeout=20s", "--kubeconfig", self.kubeconfig, *args])
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def close(self):
        net.end(self.running, 10)
