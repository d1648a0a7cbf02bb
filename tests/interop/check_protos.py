#!/usr/bin/env python3
"""Compares Mizzen's trimmed protos with the official ones, from a serialized FileDescriptorSet.

Usage: check_protos.py DESCRIPTOR_SET
Make the set with:
  MIZZEN_DESCRIPTORS_OUT=/tmp/mizzen.bin cargo test --lib proto::tests::descriptor_set
Needs `pip install xds-protos`. Every message, field, oneof, enum value and method in proto/ must exist in the
official API with the same number, type, label and presence; what Mizzen leaves out is not looked at.
Exit 1 if anything differs.
"""
import importlib
import pathlib
import sys

from google.protobuf import descriptor_pb2, descriptor_pool

# Istio publishes no Python modules of the messages of its proxy.
OWN = ("mizzen/", "istio/")
FIELD = descriptor_pb2.FieldDescriptorProto


def official(name):
    """The official FileDescriptorProto of a file name, or None."""
    try:
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        file = descriptor_pool.Default().FindFileByName(name)
    except (ImportError, KeyError):
        return None
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    return proto


def by_name(items):
    return {item.name: item for item in items}


class Check:
    def __init__(self):
        self.faults = []
        self.compared = 0

    def equal(self, where, what, ours, theirs):
        self.compared += 1
        if ours != theirs:
            self.faults.append(f"{where}: {what} is {ours!r}, official {theirs!r}")

    def pairs(self, where, ours, theirs):
        known = by_name(theirs)
        for item in ours:
            if item.name in known:
                yield f"{where}.{item.name}", item, known[item.name]
            else:
                self.faults.append(f"{where}.{item.name}: not in the official API")

    def message(self, where, ours, theirs):
        for path, a, b in self.pairs(where, ours.field, theirs.field):
            self.field(path, a, b, ours, theirs)
        for path, a, b in self.pairs(where, ours.nested_type, theirs.nested_type):
            self.equal(path, "map_entry", a.options.map_entry, b.options.map_entry)
            self.message(path, a, b)
        self.enums(where, ours, theirs)

    def field(self, path, a, b, ours, theirs):
        self.equal(path, "number", a.number, b.number)
        self.equal(path, "type", FIELD.Type.Name(a.type), FIELD.Type.Name(b.type))
        self.equal(path, "label", FIELD.Label.Name(a.label), FIELD.Label.Name(b.label))
        self.equal(path, "type name", a.type_name, b.type_name)
        self.equal(path, "json name", a.json_name or camel(a.name), b.json_name or camel(b.name))
        self.equal(path, "oneof", oneof(ours, a), oneof(theirs, b))
        self.equal(path, "optional", a.proto3_optional, b.proto3_optional)

    def enums(self, where, ours, theirs):
        for path, a, b in self.pairs(where, ours.enum_type, theirs.enum_type):
            for value_path, x, y in self.pairs(path, a.value, b.value):
                self.equal(value_path, "number", x.number, y.number)
            missing = set(by_name(b.value)) - set(by_name(a.value))
            self.equal(path, "missing values", sorted(missing), [])

    def services(self, where, ours, theirs):
        for path, a, b in self.pairs(where, ours.service, theirs.service):
            for method, x, y in self.pairs(path, a.method, b.method):
                for key in ("input_type", "output_type", "client_streaming", "server_streaming"):
                    self.equal(method, key, getattr(x, key), getattr(y, key))


def oneof(message, field):
    return message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None


def camel(name):
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(sys.argv[1]).read_bytes())
    check = Check()
    for ours in files.file:
        if ours.name.startswith((*OWN, "google/protobuf/")):
            continue
        theirs = official(ours.name)
        if theirs is None:
            check.faults.append(f"{ours.name}: no such official file")
            continue
        check.equal(ours.name, "package", ours.package, theirs.package)
        for path, a, b in check.pairs(ours.package, ours.message_type, theirs.message_type):
            check.message(path, a, b)
        check.enums(ours.package, ours, theirs)
        check.services(ours.package, ours, theirs)
    for fault in check.faults:
        print(fault)
    print(f"{len(files.file)} files, {check.compared} facts compared, {len(check.faults)} differences")
    return 1 if check.faults else 0


if __name__ == "__main__":
    sys.exit(main())
