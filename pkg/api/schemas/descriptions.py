#!/usr/bin/env python3
"""Writes descriptions.json.gz: what the built-in types and their fields are for, as `kubectl explain` prints it.

    descriptions.py FILE        FILE is the OpenAPI v2 document of k8s.io/kubernetes (api/openapi-spec/swagger.json,
                                under the Apache License 2.0)

Run it when the served Kubernetes version changes; building needs neither Python nor Go.

The file is one JSON object: definition name -> {field: text}; the empty field is the type itself. Texts that
several fields share stand once, in the list under "": the others hold their places in it.
"""
import gzip
import json
import os
import sys


def main():
    with open(sys.argv[1]) as file:
        definitions = json.load(file)["definitions"]
    texts, places, out = [], {}, {}

    def place(text):
        if text not in places:
            places[text] = len(texts)
            texts.append(text)
        return places[text]

    for name, schema in sorted(definitions.items()):
        fields = {"": schema.get("description")}
        fields.update({n: s.get("description") for n, s in sorted(schema.get("properties", {}).items())})
        described = {n: place(text) for n, text in fields.items() if text}
        if described:
            out[name] = described
    body = json.dumps({"": texts, **out}, separators=(",", ":"), ensure_ascii=False).encode()
    path = os.path.join(os.path.dirname(__file__), "descriptions.json.gz")
    with open(path, "wb") as file:
        file.write(gzip.compress(body, 9, mtime=0))


main()
