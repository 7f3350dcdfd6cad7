#!/usr/bin/env python3
"""Writes protobuf.json: how each built-in type is laid out in Kubernetes' protobuf encoding.

    protobuf.py DIR...     the unpacked Go modules k8s.io/api, apimachinery, apiextensions-apiserver, kube-aggregator

Numbers and types come from each package's generated.proto, JSON names from the struct tags beside it.
The file is one JSON object: definition name (as in builtin.json) -> {field number: [JSON name, type, flags]}.
  type   s text, b bytes, i signed varint, t boolean, d double, "@name" a message; with [] repeated, with {} a map of text to it
  flags  n inlined into its parent, z left out of JSON when zero
"""
import glob
import json
import os
import re
import sys

SCALARS = {"string": "s", "bytes": "b", "bool": "t", "double": "d", "int32": "i", "int64": "i", "uint32": "i"}
MESSAGE = re.compile(r"^message (\w+) \{(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^\s*(optional|repeated|map<string, ([.\w]+)>)\s+(?:([.\w]+)\s+)?(\w+) = (\d+);", re.M)
STRUCT = re.compile(r"^type (\w+) struct \{(.*?)^\}", re.M | re.S)
TAGGED = re.compile(r"^\s*(?:\w+ )?\s*(\S+)\s+`(.*)`", re.M)


def definition(proto):
    name = proto.removeprefix(".")
    return name.replace("k8s.io.", "io.k8s.", 1).replace("_", "-")


def kind(text, package):
    if text in SCALARS:
        return SCALARS[text]
    full = text if text.startswith(".") else f"{package}.{text}"
    return "@" + definition(full)


def tags(directory):
    """(struct, number) -> JSON name, options, whether it is a pointer"""
    found = {}
    for path in glob.glob(os.path.join(directory, "*.go")):
        if path.endswith("_test.go") or "generated" in os.path.basename(path):
            continue
        with open(path) as file:
            for struct, body in STRUCT.findall(file.read()):
                for go, tag in TAGGED.findall(body):
                    wire = re.search(r'protobuf:"\w+,(\d+),', tag)
                    name = re.search(r'json:"([^"]*)"', tag)
                    if wire and name:
                        name, _, options = name[1].partition(",")
                        found[struct, wire[1]] = (name, options.split(","), go.startswith("*"))
    return found


def main():
    out = {}
    for module in sys.argv[1:]:
        for path in glob.glob(os.path.join(module, "**/generated.proto"), recursive=True):
            with open(path) as file:
                text = re.sub(r"//.*", "", file.read())
            package = re.search(r"^package ([\w.]+);", text, re.M)[1]
            known = tags(os.path.dirname(path))
            for message, body in MESSAGE.findall(text):
                fields = {}
                for label, value, single, name, number in FIELD.findall(body):
                    ty = "{}" + kind(value, package) if value else kind(single, package)
                    ty = "[]" + ty if label == "repeated" else ty
                    json_name, options, pointer = known.get((message, number), (name, [], False))
                    flags = "n" if "inline" in options else "z" if "omitempty" in options and not pointer else ""
                    fields[number] = [json_name or name, ty, flags]
                out[definition(f"{package}.{message}")] = fields
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "builtin.json")) as file:
        reachable, todo = set(), [name for name in json.load(file) if name in out]
    while todo:
        name = todo.pop()
        if name in out and name not in reachable:
            reachable.add(name)
            todo += [field[1].split("@")[1] for field in out[name].values() if "@" in field[1]]
    out = {name: out[name] for name in reachable}
    with open(os.path.join(here, "protobuf.json"), "w") as file:
        rows = (f"{json.dumps(n)}:{json.dumps(f, separators=(',', ':'))}" for n, f in sorted(out.items()))
        file.write("{\n" + ",\n".join(rows) + "\n}\n")


main()
