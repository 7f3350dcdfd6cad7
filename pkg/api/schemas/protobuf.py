#!/usr/bin/env python3
"""Writes protobuf.json: how each built-in type is laid out in Kubernetes' protobuf encoding.

    protobuf.py DIR...     the unpacked Go modules k8s.io/api, apimachinery, apiextensions-apiserver, kube-aggregator

Numbers and types come from each package's generated.proto, JSON names from the struct tags beside it.
Every message is there, whether or not its kind is served: stores hold kinds and versions that no server here knows.

The file is one JSON object:
  groups    group/version -> [package, kinds]: a kind's definition is package.kind (as in builtin.json)
  messages  definition name -> {field number: [JSON name, type, flags]}
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
GROUP = re.compile(r'^\s*(?:const\s+)?GroupName\s*=\s*"([^"]*)"', re.M)
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


def group(directory):
    """The group of a package of versioned types, None if it is no such package."""
    for name in ("register.go", "../register.go"):
        path = os.path.join(directory, name)
        if re.fullmatch(r"v\d+((alpha|beta)\d+)?", os.path.basename(directory)) and os.path.exists(path):
            with open(path) as file:
                found = GROUP.search(file.read())
            if found:
                return found[1]
    return None


def kinds(directory):
    """The types that stand alone: they hold their own kind and version."""
    found = []
    for path in glob.glob(os.path.join(directory, "types*.go")):
        with open(path) as file:
            text = file.read()
            found += [name for name, body in STRUCT.findall(text) if re.search(r'^\s*(\w+\.)?TypeMeta\s+`json:",inline"', body, re.M)]
    return sorted(found)


def main():
    out, groups = {}, {}
    for module in sys.argv[1:]:
        for path in glob.glob(os.path.join(module, "**/generated.proto"), recursive=True):
            with open(path) as file:
                text = re.sub(r"//.*", "", file.read())
            package = re.search(r"^package ([\w.]+);", text, re.M)[1]
            known = tags(os.path.dirname(path))
            owner = group(os.path.dirname(path))
            if owner is not None:
                version = os.path.basename(os.path.dirname(path))
                known_kinds = [kind for kind in kinds(os.path.dirname(path)) if f"message {kind} " in text]
                groups[f"{owner}/{version}".removeprefix("/")] = [definition(package), known_kinds]
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
    with open(os.path.join(here, "protobuf.json"), "w") as file:
        rows = lambda facts: ",\n".join(f"{json.dumps(n)}:{json.dumps(f, separators=(',', ':'))}" for n, f in sorted(facts.items()))
        file.write('{"groups":{\n' + rows(groups) + '\n},"messages":{\n' + rows(out) + "\n}}\n")


main()
