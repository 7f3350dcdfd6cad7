"""Servers at sites with slow, lossy and narrow links; one site is cut off for a while, does everything that a Kubernetes does,
loses its power meanwhile, and comes back. Then all stores are equal, nothing acknowledged is lost, no pod is there twice.

    soak.py SERVERS SECONDS      how many, and how long the cut is

Nodes with containers stand at the first, the second and the last site; the last one is cut off."""
import base64
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import time

import net
from stores import Eyot

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(f"{HERE}/../../..")
# Round trip in ms, percent lost, bits a second, of one site after the other. Half of a round trip is each side's.
LINKS = [(10, 0, 0), (50, 1, 0), (150, 0, 0), (50, 0, 1_000_000), (0, 0, 0)]
# What parts of the README's tour must say; the part that kills the server is done here in its own way.
TOUR = {
    "A Deployment behind a Service, reached by name.": ["successfully rolled out", "\nhello-"],
    "Scale, update, undo.": ["successfully rolled out", "rolled back"],
    "Look inside.": ["hello from hello-", "copied"],
    "Other workloads.": ["1\n2\n3\n", "web-1.web.default.svc.cluster.local\nAddress: 10."],
    "Data that stays.": ["kept\n", "Bound    pvc-"],
    "Who owns a field.": ["conflict with \"kubectl-create\""],
    "Your own kinds.": ["condition met", "punt   7"],
    "A node's maintenance.": ["drained", "uncordoned", "successfully rolled out"],
}
EDITS_A_SECOND = 2


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def check(holds, text):
    if not holds:
        raise AssertionError(text)
    say(f"ok: {text}")


class Soak:
    def __init__(self, count, seconds):
        self.count, self.seconds, self.away = count, seconds, count - 1
        self.work = tempfile.mkdtemp(prefix="eyot-soak-")
        self.net = net.Net("esk", count, 72)
        self.eyot = Eyot(self.net, self.work, nodes={0, 1, self.away})
        self.stop, self.editors, self.follower = f"{self.work}/stop", [], None

    def run(self):
        for at in self.eyot.nodes:
            subprocess.run([f"{ROOT}/embedded/demo-image/build.sh", f"{self.eyot.data(at)}/agent/images/demo.tar"], check=True, stdout=subprocess.DEVNULL)
        self.eyot.grow(self.count)
        say(f"{self.count} servers are linked, 3 of them with nodes")
        for at in range(self.count):
            rtt, loss, rate = LINKS[at % len(LINKS)]
            self.net.tell(f"link {at} {rtt * 1000} {loss} {rate}")
        self.prepare()
        self.cut()
        self.heal()
        self.judge()

    def prepare(self):
        """Work at each site with a node, a client that follows everything, and edits everywhere."""
        self.eyot.kubectl(0, "create", "namespace", "soak")
        for at in range(self.count):
            net.wait(f"the namespace is at site {at}", lambda at=at: self.eyot.kubectl(at, "get", "namespace", "soak", "-o", "name"))
        for at in sorted(self.eyot.nodes):
            self.eyot.kubectl(at, "-n", "soak", "create", "deployment", f"work-{at}", "--image=eyot.dev/demo:1", "--replicas=2")
        for at in sorted(self.eyot.nodes):
            self.eyot.kubectl(at, "-n", "soak", "rollout", "status", "deployment", f"work-{at}", "--timeout=19s")
        say("deployments run at three sites")
        self.follow()
        for at in range(self.count):
            command = [sys.executable, f"{HERE}/edits.py", self.eyot.kubeconfig(at), f"e{at}", str(EDITS_A_SECOND), self.stop]
            self.editors.append(subprocess.Popen(self.net.inside(at, command), stdout=subprocess.PIPE, text=True))

    def follow(self):
        """Starts a client-go informer at the first site, that goes over to another server when one is lost."""
        if "FOLLOW" not in os.environ:
            return
        servers = ",".join(f"{self.net.address(at)}:6443" for at in (1, 0))
        command = [os.environ["FOLLOW"], "-kubeconfig", self.eyot.kubeconfig(0), "-servers", servers, "-namespace", "soak", "-stop", f"{self.work}/unfollow"]
        self.follower = subprocess.Popen(self.net.inside(0, command), stdout=subprocess.PIPE, text=True)

    def cut(self):
        self.net.cut(self.away)
        begun = time.time()
        say(f"site {self.away} is cut off")
        self.eyot.kubectl(0, "-n", "soak", "scale", "deployment", "work-0", "--replicas=3")
        self.eyot.kubectl(self.away, "-n", "soak", "scale", "deployment", f"work-{self.away}", "--replicas=4")
        self.tour()
        # The server that the informer talks to dies, too.
        self.eyot.kill(1)
        self.power_loss()
        self.eyot.boot(1)
        left = begun + self.seconds - time.time()
        say(f"the cut lasts {max(0, left):.0f} s more")
        time.sleep(max(0, left))

    def tour(self):
        """The README's tour at the cut site, as its reader types it."""
        with open(f"{ROOT}/README.md") as file:
            text = file.read().split("## A first tour")[1].split("\n## ")[0]
        parts = dict(part.split("**", 1) for part in text.split("\n**")[1:])
        node = self.eyot.instance(self.away)
        for heading, expected in TOUR.items():
            commands = "\n".join(re.findall(r"```sh\n(.*?)\n```", parts[heading], re.S))
            script = f"{self.work}/tour.sh"
            with open(script, "w") as file:
                file.write(
                    f"kubectl() {{ {os.environ['EYOT']} kubectl --kubeconfig {self.eyot.kubeconfig(self.away)} \"$@\"; }}\nhostname() {{ echo {node}; }}\n"
                    f"pod=$(kubectl get pods -l app=hello -o name 2>/dev/null | head -1)\n{commands}\n"
                )
            terminal = ["timeout", "--kill-after=5", "180", "script", "-qec", f"bash {script}; true", "/dev/null"]
            done = self.net.run(self.away, terminal, capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL)
            output = done.stdout.replace("\r", "")
            missing = [text for text in expected if text not in output]
            check(not missing, f"tour at the cut site: {heading}" + (f" {missing} missing in\n{output}" if missing else ""))

    def pods(self, at, selector):
        items = json.loads(self.eyot.kubectl(at, "get", "pods", "-A", "-o", "json", *selector))["items"]
        return [pod for pod in items if pod["status"].get("phase") not in ("Succeeded", "Failed")]

    def power_loss(self):
        """Server, runtime and containers are gone at once; only the disk stays. It starts while the site is cut off."""
        at = self.away
        self.eyot.kill(at)
        cleanup = [os.environ["EYOT"], "cleanup", "--instance", self.eyot.instance(at), "-d", self.eyot.data(at)]
        self.net.run(at, cleanup, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = time.time()
        self.eyot.boot(at)
        say(f"cold boot of the cut site: the API answers after {time.time() - begun:.1f} s")

        def runs():
            pods = self.pods(at, ["-l", f"app=work-{at}"])
            return len(pods) == 4 and all(ready(pod) for pod in pods) and running(self, at) >= {pod["metadata"]["uid"] for pod in pods}

        took = net.wait("the cut site's pods run again", runs, 120, 0.5)
        say(f"cold boot of the cut site: its pods run again after {took:.1f} s more")

    def heal(self):
        with open(self.stop, "w"):
            pass
        self.edited = [json.loads(editor.communicate()[0]) for editor in self.editors]
        done, failed = sum(edit["done"] for edit in self.edited), sum(edit["failed"] for edit in self.edited)
        say(f"{done} edits were acknowledged, {failed} refused while servers were down")
        # What acts by the clock would go on changing things.
        self.eyot.kubectl(self.away, "delete", "cronjob", "tick")
        self.net.cut(self.away, False)
        begun = time.time()
        self.eyot.linked(self.count, patience=300)
        say(f"all are linked {time.time() - begun:.1f} s after the cut")

        def equal():
            with concurrent.futures.ThreadPoolExecutor(self.count) as all_at_once:
                return len(set(all_at_once.map(self.digest, range(self.count)))) == 1

        try:
            net.wait("all stores are equal", equal, 240, 1)
        except TimeoutError:
            self.differences()
            raise
        say(f"all stores are equal {time.time() - begun:.1f} s after the cut: {self.digest(0)}")

    def digest(self, at):
        return self.eyot.kubectl(at, "get", "--raw", "/v1-eyot/digest")

    def differences(self):
        """What two servers don't agree on, for whoever reads the log."""
        everything = [self.dump(at) for at in (0, self.away)]
        for key in sorted(set(everything[0]) | set(everything[1])):
            if everything[0].get(key) != everything[1].get(key):
                say(f"differs: {key}\n  {str(everything[0].get(key))[:1500]}\n  {str(everything[1].get(key))[:1500]}")

    def dump(self, at):
        """Every key and value, without what is one server's own."""
        command = [f"{os.environ['UPSTREAM_BIN']}/etcdctl", "--endpoints", "127.0.0.1:2379", "get", "", "--from-key", "-w", "json"]
        done = self.net.run(at, command, capture_output=True, text=True)
        found = {}
        for pair in json.loads(done.stdout)["kvs"]:
            key, value = (base64.b64decode(pair.get(part, "")) for part in ("key", "value"))
            try:
                value = json.loads(value)
            except ValueError:
                pass
            if b"/servers/" in key:
                value = value.get("spec")
            found[key.decode()] = value
        return found

    def judge(self):
        maps = {item["metadata"]["name"]: item.get("data", {}).get("word") for item in json.loads(self.eyot.kubectl(0, "-n", "soak", "get", "configmaps", "-o", "json"))["items"]}
        lost = [(name, word, maps.get(name)) for edit in self.edited for name, word in edit["last"].items() if maps.get(name) != word]
        check(not lost, f"every acknowledged edit of {sum(len(edit['last']) for edit in self.edited)} objects is there" + (f", but {lost}" if lost else ""))
        expected = {f"work-{at}": 2 for at in self.eyot.nodes} | {"work-0": 3, f"work-{self.away}": 4}
        for at in range(self.count):
            for app, replicas in expected.items():
                counted = lambda at=at, app=app, replicas=replicas: [ready(pod) for pod in self.pods(at, ["-l", f"app={app}"])] == [True] * replicas
                net.wait(f"server {at} counts {replicas} ready pods of {app}", counted, 120, 0.5)
        say(f"ok: each server counts the same pods: {expected}")
        self.containers()
        self.followed()

    def containers(self):
        """Each node runs the containers of its own pods, each once."""
        everywhere = [uid for at in self.eyot.nodes for uid in running(self, at)]
        check(len(everywhere) == len(set(everywhere)), "no pod runs at two sites")
        for at in sorted(self.eyot.nodes):
            net.wait(f"site {at} runs what the API says", lambda at=at: running(self, at) == self.on(at), 60, 1)
        check(True, f"{len(everywhere)} pods run, those that the API says, where it says")

    def on(self, at):
        """Pods that the API says run on a site's node."""
        return {pod["metadata"]["uid"] for pod in self.pods(0, ["--field-selector", f"spec.nodeName={self.eyot.instance(at)}"]) if pod["status"].get("phase") == "Running"}

    def followed(self):
        if self.follower is None:
            return
        with open(f"{self.work}/unfollow", "w"):
            pass
        answer = self.follower.communicate(timeout=120)[0]
        check(self.follower.returncode == 0, f"a client-go informer that changed servers lost nothing: {answer.strip()}")

    def close(self):
        for process in [*self.editors, self.follower]:
            if process and process.poll() is None:
                process.kill()
        self.eyot.close()
        self.net.close()
        subprocess.run(["rm", "-rf", self.work])


def ready(pod):
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"].get("conditions", []))


def running(soak, at):
    """Uids of pods that have processes at a site, by their control groups."""
    found = set()
    for root in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup"):
        for group, _, _ in os.walk(f"{root}/{soak.eyot.instance(at)}pods"):
            uid = re.search(r"pod([0-9a-f]{8}-[0-9a-f-]{27})", group)
            try:
                with open(f"{group}/cgroup.procs") as processes:
                    if uid and processes.read().strip():
                        found.add(uid.group(1))
            except OSError:
                # It went meanwhile.
                continue
    return found


def main():
    soak = None
    try:
        soak = Soak(int(sys.argv[1]), int(sys.argv[2]))
        soak.run()
    finally:
        if soak:
            soak.close()


main()
