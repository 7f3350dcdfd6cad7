"""Shows what bench.py measured: tables in Markdown, and put latency over the number of servers as a picture.

    tables.py FIGURES.json PICTURE [PAGE]      writes PICTURE.png and PICTURE.svg, prints the tables

A page that has the marks below gets the tables between them."""
import contextlib
import io
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

EYOT, ETCD = "#0b6e8a", "#c8553d"
BEGIN, END = "<!-- what tests/upstream/sites-bench.sh printed -->", "<!-- its end -->"


def ms(value):
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def puts(cell):
    """p50 / p99 and what failed."""
    if not cell or "error" in cell or cell.get("p50_ms") is None:
        return "none"
    failed = f", {100 * cell['failed'] / cell['writes']:.0f} % failed" if cell["failed"] else ""
    return f"{ms(cell['p50_ms'])} / {ms(cell['p99_ms'])}{failed}"


def ratio(eyot, etcd, key="p50_ms"):
    try:
        return f"{etcd[key] / eyot[key]:.3g}x"
    except (KeyError, TypeError, ZeroDivisionError):
        return "-"


def row(*cells):
    print(f"| {' | '.join(str(cell) for cell in cells)} |")


def head(*cells):
    row(*cells)
    print("|---" * len(cells) + "|")


def sizes(eyot, etcd):
    for rtt in ("0 ms", "50 ms"):
        print(f"\nPut at every server, round trip {rtt}: p50 / p99 ms\n")
        head("servers", "Eyot", "etcd", "etcd's p50 / Eyot's", "cores used, Eyot", "etcd", "bytes on the links, Eyot", "etcd")
        for count, mine in eyot["sizes"].items():
            theirs = etcd["sizes"][count]
            shares = [cell[rtt].get("server_cores", "-") for cell in (mine, theirs)]
            shares += [f"{cell[rtt]['sent_to_own_bytes']}x" if "sent_to_own_bytes" in cell[rtt] else "-" for cell in (mine, theirs)]
            row(count, puts(mine[rtt]), puts(theirs[rtt]), ratio(mine[rtt], theirs[rtt]), *shares)
    print("\nPuts a second, one client at each server, round trip 50 ms, each write after the one before\n")
    head("servers", "Eyot", "etcd", "")
    for count, mine in eyot["sizes"].items():
        theirs = etcd["sizes"][count]["hard"]
        row(count, *(f"{cell.get('per_second', 0):.0f}" for cell in (mine["hard"], theirs)), ratio(theirs, mine["hard"], "per_second"))


def links(eyot, etcd):
    print("\nPut at each of 5 servers, and how late a watcher at another server sees it: p50 / p99 ms\n")
    head("round trip", "Eyot's put", "etcd's put", "", "Eyot's lag", "etcd's lag")
    for name, mine in eyot["links"].items():
        theirs = etcd["links"].get(name, {})
        lag = [f"{ms(cell['lag']['p50_ms'])} / {ms(cell['lag']['p99_ms'])}" if cell.get("lag") else "-" for cell in (mine, theirs)]
        row(name, puts(mine), puts(theirs), ratio(mine, theirs), *lag)


def cuts(eyot, etcd):
    print("\nOne of 3 servers cut off, round trip 50 ms\n")
    head("", "Eyot", "etcd")
    for name, key in (("at the cut site, cut for 5 s", "cut_site"), ("at the others", "other_sites")):
        row(f"failed writes {name}", *(failures(side["cut"].get(key)) for side in (eyot, etcd)))
    for mine, theirs in zip(eyot["heal"], etcd["heal"]):
        seconds = mine.get("cut_seconds") or theirs.get("cut_seconds")
        row(f"all equal after a cut of {seconds} s", *(f"{cell['equal_after_ms']} ms" if cell.get("equal_after_ms") else "not in time" for cell in (mine, theirs)))
        row("bytes sent / the changes' own", *(transfer(cell) for cell in (mine, theirs)))


def failures(cell):
    return f"{cell['failed']} of {cell['writes']}" if cell else "-"


def transfer(cell):
    return "-" if "error" in cell else f"{cell['sent_bytes'] / 1e6:.2f} / {cell['own_bytes'] / 1e6:.2f} MB: {cell['ratio']}x"


def pods(eyot, etcd):
    print("\nPods on 3 servers, round trip 50 ms: p50 / p99 ms\n")
    head("", "Eyot", "kube-apiserver and kube-scheduler on etcd", "")
    for name, key in (("create answered", "created"), ("created to bound", "created_to_bound")):
        mine, theirs = ({**side["pods"].get(key, {}), "failed": 0} for side in (eyot, etcd))
        row(name, puts(mine), puts(theirs), ratio(mine, theirs))


def draw(found, path):
    plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "svg.fonttype": "none"})
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    for panel, rtt in zip(panels, ("0 ms", "50 ms")):
        for name, label, colour, marker in (("etcd", "etcd 3.7", ETCD, "s"), ("eyot", "Eyot", EYOT, "o")):
            counts = sorted(found[name]["sizes"], key=int)
            counts = [count for count in counts if found[name]["sizes"][count][rtt].get("p50_ms")]
            cells = [found[name]["sizes"][count][rtt] for count in counts]
            at = [int(count) for count in counts]
            low, high = [cell["p50_ms"] for cell in cells], [cell["p99_ms"] for cell in cells]
            panel.fill_between(at, low, high, color=colour, alpha=0.10, linewidth=0)
            panel.plot(at, high, color=colour, linewidth=1.1, linestyle=(0, (4, 3)), label=f"{label}, p99")
            panel.plot(at, low, color=colour, linewidth=2.2, marker=marker, markersize=5.5, label=f"{label}, p50")
            panel.annotate(label.split()[0], (at[-1], low[-1]), xytext=(8, 0), textcoords="offset points", ha="left", va="center", color=colour, fontweight="bold")
        panel.set_yscale("log")
        panel.set_xticks(at)
        panel.set_xlim(0.4, max(at) * 1.13 + 0.4)
        panel.set_ylim(0.2, 1000)
        panel.set_yticks([1, 10, 100, 1000])
        panel.set_title(f"{rtt} round trip between servers", fontsize=10.5)
        panel.set_xlabel("servers, all of them written to")
        panel.grid(axis="y", which="major", color="#dddddd", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].set_ylabel("put, ms")
    figure.suptitle("Put latency over the number of servers", fontsize=12, fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    order = [3, 2, 1, 0]
    figure.legend([handles[at] for at in order], [labels[at] for at in order], loc="upper center", bbox_to_anchor=(0.5, 0.945), ncol=4, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(f"{path}.png", dpi=150)
    figure.savefig(f"{path}.svg", metadata={"Date": None})


def shown(found):
    """All tables, as text."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        eyot, etcd = found["eyot"], found["etcd"]
        print(f"{found['rate']:g} writes a second, spread over all servers, for {found['seconds']:g} s; {found['took_s']} s in all.")
        sizes(eyot, etcd)
        links(eyot, etcd)
        cuts(eyot, etcd)
        pods(eyot, etcd)
    return out.getvalue()


def insert(text, page):
    with open(page) as file:
        before, rest = file.read().split(BEGIN)
    after = rest.split(END, 1)[1]
    with open(page, "w") as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def main():
    with open(sys.argv[1]) as file:
        found = json.load(file)
    text = shown(found)
    print(text, end="")
    draw(found, sys.argv[2])
    for page in sys.argv[3:]:
        insert(text, page)


main()
