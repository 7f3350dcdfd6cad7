#!/usr/bin/env python3
"""Writes builtin.json: the shape of every built-in kind, as facts without descriptions.

    generate.py DIR FILE   DIR holds the OpenAPI v3 documents of k8s.io/kubernetes (api/openapi-spec/v3),
                           FILE is what golang/main.go wrote

Run it when the served Kubernetes version changes; building needs neither Python nor Go.

shown.json is written too: the internal types as error texts print them, from FILE.

The file is one JSON object: definition name -> {"k": kinds, "t": type}. A type is a string for a scalar
(s, s:byte, s:time, s:micro, s:duration, i32, i64, n, b, ios, q, any), "@name" for a reference, or an array:
  ["struct", {field: type-or-[flags, type, default, zero]}, atomic]   flags: r required,
                                                                       g granular where the type is atomic
  ["map", type, atomic]
      zero: what Go's encoder writes when nobody set the field; absent where it writes nothing
  ["list", type, kind, merge key or null, retainKeys]           kind: "atomic", "set", or a list of keys
"""
import glob
import json
import os
import sys

APIMACHINERY = "io.k8s.apimachinery.pkg."
SCALARS = {
    APIMACHINERY + "api.resource.Quantity": "q",
    APIMACHINERY + "util.intstr.IntOrString": "ios",
    APIMACHINERY + "apis.meta.v1.Time": "s:time",
    APIMACHINERY + "apis.meta.v1.MicroTime": "s:micro",
    APIMACHINERY + "apis.meta.v1.Duration": "s:duration",
    APIMACHINERY + "apis.meta.v1.FieldsV1": "any",
    APIMACHINERY + "runtime.RawExtension": "any",
}
# Zero values that Go's types have anyway: writing them into objects would change what clients sent.
ZERO = ("", 0, False, {}, None)


def reference(schema):
    for option in schema.get("allOf", [schema]):
        if "$ref" in option:
            return option["$ref"].rsplit("/", 1)[1]
    return None


def type_of(schema, zero={}):
    name = reference(schema)
    if name:
        return SCALARS.get(name, "@" + name)
    kind = schema.get("type")
    if kind == "object":
        return object_type(schema, zero)
    if kind == "array":
        return list_type(schema)
    if kind == "string":
        return "s:byte" if schema.get("format") == "byte" else "s"
    if kind == "integer":
        return "i64" if schema.get("format") == "int64" else "i32"
    return {"number": "n", "boolean": "b"}.get(kind, "any")


def object_type(schema, zero):
    atomic = schema.get("x-kubernetes-map-type") == "atomic"
    if "properties" in schema:
        required = set(schema.get("required", []))
        fields = {n: field(s, n in required, zero, n) for n, s in sorted(schema["properties"].items())}
        return ["struct", fields, atomic]
    if "additionalProperties" in schema:
        return ["map", type_of(schema["additionalProperties"]), atomic]
    return "any"


def field(schema, required, zero, name):
    kind, default = type_of(schema), schema.get("default")
    if default in ZERO:
        default = None
    granular = "g" if schema.get("x-kubernetes-map-type") == "granular" else ""
    parts = [("r" if required else "") + granular, kind] + ([default] if default is not None else [])
    if name in zero:
        return parts + [None] * (3 - len(parts)) + [zero[name]]
    return kind if parts == ["", kind] and not isinstance(kind, list) else parts


def list_type(schema):
    kind = schema.get("x-kubernetes-list-type", "atomic")
    if kind == "map":
        kind = schema["x-kubernetes-list-map-keys"]
    strategy = schema.get("x-kubernetes-patch-strategy", "").split(",")
    merge = schema.get("x-kubernetes-patch-merge-key", "") if "merge" in strategy else None
    return ["list", type_of(schema["items"]), kind, merge, "retainKeys" in strategy]


def main():
    with open(sys.argv[2]) as file:
        golang = json.load(file)
    definitions = {}
    for path in sorted(glob.glob(os.path.join(sys.argv[1], "api*__v*_openapi.json"))):
        with open(path) as file:
            document = json.load(file)
        for name, schema in document.get("components", {}).get("schemas", {}).items():
            if name in SCALARS:
                continue
            kinds = [[k["group"], k["version"], k["kind"]] for k in schema.get("x-kubernetes-group-version-kind", [])]
            definition = {"t": type_of(schema, golang["zero"].get(name, {}))}
            # Types that every group shares (DeleteOptions, WatchEvent) name each group's kind; keep them all.
            if kinds:
                definition["k"] = sorted(kinds)
            definitions[name] = definition
    write("builtin.json", definitions)
    write("shown.json", golang["shown"])


def write(name, rows):
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    with open(out, "w") as file:
        file.write("{\n")
        lines = (f"{json.dumps(n)}:{json.dumps(d, separators=(',', ':'), sort_keys=True)}" for n, d in sorted(rows.items()))
        file.write(",\n".join(lines))
        file.write("\n}\n")


main()
