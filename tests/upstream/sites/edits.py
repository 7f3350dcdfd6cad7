"""Edits of a site's objects through its own API server, until told to end; then says what was acknowledged.

    edits.py KUBECONFIG SITE A-SECOND FILE      ends when FILE is there, prints JSON

Objects named after the site are edited by it alone: each must end everywhere as it was acknowledged last. Objects named
`shared-` are edited by all sites: those only have to end the same everywhere."""
import json
import os
import random
import sys
import time

import http1

OWN, SHARED = 20, 10
MAPS = "/api/v1/namespaces/soak/configmaps"


def put(api, name, data, **metadata):
    if api.ask("PATCH", f"{MAPS}/{name}", {"data": data, "metadata": metadata}, patch=True) is None:
        api.ask("POST", MAPS, {"metadata": {"name": name, **metadata}, "data": data})


def main():
    kubeconfig, site, rate, stop = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
    api, chance = http1.Api(kubeconfig), random.Random(site)
    # What each object of this site's own must hold; none: it must not be there. After a failure nobody knows.
    last, done, failed = {}, 0, 0
    while not os.path.exists(stop):
        due, word, name = time.time() + 1 / rate, f"{chance.getrandbits(40):x}", f"{site}-{chance.randrange(OWN)}"
        kind = chance.random()
        try:
            if kind < 0.3:
                shared = f"shared-{chance.randrange(SHARED)}"
                put(api, shared, {f"field-{chance.randrange(4)}": word}, labels={f"of-{site}": word})
            elif kind < 0.4:
                last.pop(name, None)
                api.ask("DELETE", f"{MAPS}/{name}")
                last[name] = None
            else:
                last.pop(name, None)
                put(api, name, {"word": word})
                last[name] = word
            done += 1
        except (OSError, http1.Failed):
            failed += 1
            api.again()
        time.sleep(max(0, due - time.time()))
    print(json.dumps({"site": site, "done": done, "failed": failed, "last": last}))


main()
