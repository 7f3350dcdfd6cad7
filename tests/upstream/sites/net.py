"""Sites on one machine: a network namespace each, and a network between them that can be slow, lossy, narrow and cut.

`ip netns exec` would hide the control groups, so programs enter with nsenter."""
import os
import signal
import subprocess
import time

PROGRAM = os.environ["SITES"]


def ip(*args):
    subprocess.run(["ip", *args], check=True)


class Net:
    """`count` sites; names on the host begin with `name`, addresses with 10.`number`.0."""

    def __init__(self, name, count, number):
        self.name, self.count, self.number = name, count, number
        taps = [f"{name}t{at}" for at in range(count)]
        self.remove()
        command = [PROGRAM, "wan", "-tap", ",".join(taps)]
        # What carries the packets must not wait for those who send them.
        self.wan = subprocess.Popen(["nice", "-n", "-10", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.wan.stdout.readline() == "ready\n", "no network: see above"
        for at, tap in enumerate(taps):
            self.wire(at, tap)

    def namespace(self, at):
        return f"{self.name}{at}"

    def address(self, at):
        return f"10.{self.number}.0.{at + 1}"

    @staticmethod
    def hardware(at):
        return f"02:00:00:00:00:{at + 1:02x}"

    def wire(self, at, tap):
        space = self.namespace(at)
        ip("netns", "add", space)
        self.run(at, ["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
        ip("link", "set", tap, "netns", space)
        ip("-n", space, "link", "set", tap, "name", "eth0", "address", self.hardware(at))
        ip("-n", space, "address", "add", f"{self.address(at)}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "route", "add", "default", "dev", "eth0")
        # A way between sites does not ask who has an address.
        known = "".join(f"neigh add {self.address(other)} lladdr {self.hardware(other)} dev eth0\n" for other in range(self.count) if other != at)
        subprocess.run(["ip", "-n", space, "-batch", "-"], input=known, text=True, check=True)

    def tell(self, line):
        self.wan.stdin.write(line + "\n")
        self.wan.stdin.flush()
        answer = self.wan.stdout.readline().strip()
        assert answer and "not understood" not in answer, f"{line}: {answer}"
        return answer

    def shape(self, rtt_ms=0, loss=0.0, rate=0):
        """Sets all links: round trip, percent lost each way, bits a second out of each site (0: no limit)."""
        for at in range(self.count):
            self.tell(f"link {at} {int(rtt_ms * 1000)} {loss} {rate}")

    def cut(self, at, cut=True):
        self.tell(f"cut {at} {int(cut)}")

    def sent(self):
        """Bytes that each site has sent so far and that arrived."""
        return [int(count) for count in self.tell("count").split()]

    def inside(self, at, command):
        return ["nsenter", f"--net=/run/netns/{self.namespace(at)}", "--", *command]

    def run(self, at, command, **more):
        return subprocess.run(self.inside(at, command), check=True, **more)

    def start(self, at, command, log, **more):
        """Starts a program at a site, its words appended to a file."""
        with open(log, "a") as out:
            return subprocess.Popen(self.inside(at, command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more)

    def remove(self):
        for at in range(self.count):
            subprocess.run(["ip", "netns", "delete", self.namespace(at)], stderr=subprocess.DEVNULL)

    def close(self):
        self.wan.stdin.close()
        self.wan.wait()
        self.remove()


def end(processes, patience=20):
    """Asks all to end, then waits, then insists."""
    running = [process for process in processes if process and process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    until = time.time() + patience
    for process in running:
        try:
            process.wait(max(0.1, until - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(what, holds, patience=90, pause=0.1):
    """Waits until something holds, and tells how long that took."""
    begun = time.time()
    while True:
        try:
            if holds():
                return time.time() - begun
        except (subprocess.SubprocessError, OSError, ValueError):
            pass
        if time.time() - begun > patience:
            raise TimeoutError(f"not within {patience} s: {what}")
        time.sleep(pause)
