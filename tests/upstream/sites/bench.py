"""Figures of several servers: Eyot's beside an etcd of as many members, in the same namespaces, under the same load.

    bench.py OUT.json

The load is an open loop of few writes, spread over all servers; each server stores all of them. With 15 servers on a machine of
few cores more of it would measure the cores. Each site's client asks the server at its own site."""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import net
from stores import Etcd, Eyot, Upstream, cpu, now_ms

SIZES = [int(size) for size in os.environ.get("SIZES", "1 3 5 7 9 15").split()]
SECONDS = float(os.environ.get("SECONDS_EACH", "10"))
# Writes a second, of all servers together.
RATE = float(os.environ.get("RATE", "15"))
# How sites are linked: round trip in ms, percent lost, bits a second.
LINKS = {
    "0 ms": (0, 0, 0),
    "10 ms": (10, 0, 0),
    "50 ms": (50, 0, 0),
    "150 ms": (150, 0, 0),
    "50 ms, 1 % lost": (50, 1, 0),
    "50 ms, 1 Mbit/s": (50, 0, 1_000_000),
}
# Where links are the variable, and in what they are cut.
MIDDLE, FEW = 5, 3
CUT_SECONDS = 5


def percentile(values, percent):
    values = sorted(values)
    return round(values[min(len(values) * percent // 100, len(values) - 1)], 2) if values else None


def both(values):
    return {"p50_ms": percentile(values, 50), "p99_ms": percentile(values, 99)}


def programs(network, sites, *flags):
    """Runs the load at sites at the same time; gives their reports."""
    start = now_ms() + 500 + 40 * len(sites)
    begun = [
        subprocess.Popen(network.inside(at, [net.PROGRAM, "load", "-site", str(at), "-start", str(start), *flags]), stdout=subprocess.PIPE, text=True)
        for at in sites
    ]
    reports = [process.communicate()[0] for process in begun]
    return [json.loads(report) for report in reports]


def summary(reports):
    took = [ms for report in reports for ms in report["took_ms"]]
    failed = sum(report["failed"] for report in reports)
    seconds = max(report["seconds"] for report in reports)
    return {**both(took), "per_second": round(len(took) / seconds, 1), "failed": failed, "writes": len(took) + failed}


def steady(system, count, *flags):
    """The fixed load on `count` servers."""
    before, sent = cpu(system.running.values()), sum(system.net.sent())
    reports = programs(system.net, range(count), "-rate", str(RATE / count), "-seconds", str(SECONDS), *flags)
    found = summary(reports)
    found["server_cores"] = round((cpu(system.running.values()) - before) / SECONDS, 2)
    if count > 1:
        # Each write has to get to all others.
        own = sum(report["bytes"] for report in reports) * (count - 1)
        found["sent_to_own_bytes"] = round((sum(system.net.sent()) - sent) / own, 2)
    lag = [ms for report in reports for ms in report.get("lag_ms", [])]
    if lag:
        found["lag"] = both(lag)
    return found


def hard(system, count):
    """As fast as they go: one client a server, each write after the one before."""
    return summary(programs(system.net, range(count), "-clients", "1", "-seconds", "0.6"))


def settle(system, count):
    """Waits until what was written before is everywhere."""
    since = now_ms()
    programs(system.net, range(count), "-rate", "20", "-count", "1", "-keys", "1")
    for follower in [follow(system, at, count, since, 180) for at in range(count)]:
        arrived(follower)


def follow(system, at, count, since, patience=60):
    command = [net.PROGRAM, "follow", "-count", str(count), "-since", str(since), "-timeout", f"{patience}s"]
    return subprocess.Popen(system.net.inside(at, command), stdout=subprocess.PIPE, text=True)


def arrived(follower):
    answer = follower.communicate()[0]
    return json.loads(answer)["last_ms"] if answer else None


def cut(system, at):
    """Writes at all servers while one site is cut off for some seconds, each given up after one."""
    system.net.shape(50)
    start = time.time()
    flags = ["-rate", "20", "-seconds", str(CUT_SECONDS + 4), "-timeout", "1s"]

    def scissors():
        time.sleep(max(0, start + 2.5 - time.time()))
        system.net.cut(at)
        time.sleep(CUT_SECONDS)
        system.net.cut(at, False)

    thread = threading.Thread(target=scissors)
    thread.start()
    reports = programs(system.net, range(FEW), *flags)
    thread.join()
    return {"cut_site": summary([reports[at]]), "other_sites": summary(reports[:at] + reports[at + 1 :])}


def heal(system, at, seconds, writes=500):
    """Cuts a site off, writes on both sides as far as the system lets it, heals, and looks when all have everything."""
    system.net.shape(50)
    settle(system, FEW)
    system.net.cut(at)
    since, begun = now_ms(), time.time()
    far = next(other for other in range(FEW) if other != at)
    writers = [far, at] if system.name == "eyot" else [far]
    reports = programs(system.net, writers, "-rate", "250", "-count", str(writes), "-keys", str(writes))
    written = {report["site"]: report["bytes"] for report in reports}
    followers = [follow(system, site, writes * len(writers), since, 120) for site in range(FEW)]
    time.sleep(max(0.5, begun + seconds - time.time()))
    sent, healed = sum(system.net.sent()), time.time()
    system.net.cut(at, False)
    last = [arrived(follower) for follower in followers]
    # Acknowledgements that are still under way belong to it.
    time.sleep(0.5)
    sent = sum(system.net.sent()) - sent
    # What the mainland wrote goes to the cut site; what that wrote goes to all others.
    own = written[far] + written.get(at, 0) * (FEW - 1)
    equal = None if None in last else round(max(last) - healed * 1000)
    return {"cut_seconds": seconds, "equal_after_ms": equal, "sent_bytes": sent, "own_bytes": own, "ratio": round(sent / own, 2)}


def pods(system, kubeconfig):
    system.net.shape(50)
    here = os.path.dirname(os.path.abspath(__file__))
    done = system.net.run(0, [sys.executable, f"{here}/pods.py", kubeconfig, "50", "5"], stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return {"created_to_bound": both(found["created_to_bound_ms"]), "created": both(found["create_ms"]), "unbound": found["unbound"]}


def attempt(what, measure, *args):
    """What was measured, or why it can't be: the rest is worth having without it."""
    try:
        found = measure(*args)
    except (AssertionError, LookupError, OSError, ValueError, subprocess.SubprocessError) as error:
        found = {"error": str(error)}
    print(f"{time.strftime('%H:%M:%S')} {what}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return found


def size(system, count):
    """What every number of servers is measured for."""
    found = {}
    for rtt in (0, 50):
        system.net.shape(rtt)
        found[f"{rtt} ms"] = attempt(f"{system.name}, {count} servers, {rtt} ms", steady, system, count)
    found["hard"] = attempt(f"{system.name}, {count} servers, as fast as they go", hard, system, count)
    return found


def links(system):
    found = {}
    for name, link in LINKS.items():
        system.net.shape(*link)
        found[name] = attempt(f"{system.name}, {MIDDLE} servers, {name}", steady, system, MIDDLE, "-watch", "-linger", "1s")
    system.net.shape(50)
    return found


def cuts(system, away):
    return {
        "cut": attempt(f"{system.name}, cut", cut, system, away),
        "heal": [attempt(f"{system.name}, healed", heal, system, away, seconds) for seconds in (5, 30)],
    }


def of_eyot(network, work):
    """One cluster that grows."""
    found = {"sizes": {}, "links": {}}
    eyot = Eyot(network, work)
    try:
        for count in SIZES:
            network.shape(0)
            eyot.grow(count)
            found["sizes"][count] = size(eyot, count)
            if count != SIZES[-1]:
                attempt("eyot, settled", settle, eyot, count)
            if count == FEW:
                found |= cuts(eyot, 2)
                found["pods"] = attempt("eyot, pods", pods, eyot, eyot.kubeconfig(0))
            if count == MIDDLE:
                found["links"] = links(eyot)
    finally:
        eyot.close()
    return found


def of_etcd(network, work):
    """One of each size, tuned to the round trip it meets."""
    found = {"sizes": {}, "links": {}}
    for count in SIZES:
        network.shape(0)
        etcd = Etcd(network, work, count, 50)
        try:
            found["sizes"][count] = size(etcd, count)
            if count == FEW:
                found |= cuts(etcd, next(at for at in range(FEW) if not etcd.is_leader(at)))
                found["pods"] = attempt("upstream, pods", beside, etcd)
        finally:
            etcd.close()
    network.shape(0)
    etcd = Etcd(network, work, MIDDLE, 150)
    try:
        found["links"] = links(etcd)
    finally:
        etcd.close()
    return found


def beside(etcd):
    """Pods of upstream's API server and scheduler beside etcd's first member."""
    upstream = Upstream(etcd.net, etcd.work, 0)
    try:
        return pods(etcd, upstream.kubeconfig)
    finally:
        upstream.close()


def main():
    out = sys.argv[1]
    work = tempfile.mkdtemp(prefix="eyot-sites-")
    begun = time.time()
    network = net.Net("ebn", max(SIZES), 71)
    try:
        found = {"rate": RATE, "seconds": SECONDS, "eyot": of_eyot(network, work), "etcd": of_etcd(network, work)}
    finally:
        network.close()
        subprocess.run(["rm", "-rf", work])
    found["took_s"] = round(time.time() - begun)
    with open(out, "w") as file:
        json.dump(found, file, indent=1)


main()
