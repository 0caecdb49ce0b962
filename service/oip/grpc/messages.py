"""The messages of the Open Inference Protocol over gRPC, made from `inference.proto` at import.

Code that protoc generates would tie the service to protoc's own release, and would register the
package `inference` for the whole process, where a Triton client registers another copy of it. So
the file is read here, line by line, and its messages live in a descriptor pool of their own. Of
the language it may use what it needs: one statement a line, nested messages, enumerations outside
of messages and before their use, `repeated`, `map` with string keys, `oneof`, and services without
streams.
"""

import re
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

_SCALARS = {
    name: FieldDescriptorProto.Type.Value(f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}
_OPTIONAL, _REPEATED = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED

NAME = "tritserve/inference.proto"

_PACKAGE = re.compile(r"package (\w+);")
_BLOCK = re.compile(r"(message|enum|oneof|service) (\w+) \{")
_VALUE = re.compile(r"(\w+) = (\d+);")
_FIELD = re.compile(r"(repeated )?(\w+) (\w+) = (\d+);")
_MAP = re.compile(r"map<string, (\w+)> (\w+) = (\d+);")
_RPC = re.compile(r"rpc (\w+)\((\w+)\) returns \((\w+)\) \{\}")


class _Reader:
    """Builds a file's description from its statements."""

    def __init__(self) -> None:
        self.file = FileDescriptorProto(name=NAME, syntax="proto3")
        self._blocks: list[str] = []
        self._messages: list[DescriptorProto] = []

    def read(self, statement: str) -> None:
        if found := _BLOCK.fullmatch(statement):
            self._open(found[1], found[2])
        elif statement == "}":
            if self._blocks.pop() == "message":
                self._messages.pop()
        elif found := _VALUE.fullmatch(statement):
            self.file.enum_type[-1].value.add(name=found[1], number=int(found[2]))
        elif found := _FIELD.fullmatch(statement):
            field = _add_field(self._messages[-1], found[2], found[3], found[4])
            if found[2] in {enum.name for enum in self.file.enum_type}:
                field.type = FieldDescriptorProto.TYPE_ENUM
            field.label = _REPEATED if found[1] else _OPTIONAL
            if self._blocks[-1] == "oneof":
                field.oneof_index = len(self._messages[-1].oneof_decl) - 1
        elif found := _MAP.fullmatch(statement):
            _add_map(self._messages[-1], found[1], found[2], found[3])
        elif found := _RPC.fullmatch(statement):
            method = self.file.service[-1].method.add(name=found[1])
            method.input_type, method.output_type = found[2], found[3]
        elif found := _PACKAGE.fullmatch(statement):
            self.file.package = found[1]
        elif statement != 'syntax = "proto3";':
            raise ValueError(f"{statement!r} is not understood")

    def _open(self, kind: str, name: str) -> None:
        self._blocks.append(kind)
        if kind == "service":
            self.file.service.add(name=name)
        elif kind == "enum":
            self.file.enum_type.add(name=name)
        elif kind == "oneof":
            self._messages[-1].oneof_decl.add(name=name)
        else:
            around = self._messages[-1].nested_type if self._messages else self.file.message_type
            self._messages.append(around.add(name=name))


def parse(text: str) -> FileDescriptorProto:
    """Reads a .proto file.

    Raises:
        ValueError: a line is none that is understood.
    """
    reader = _Reader()
    for line in text.splitlines():
        if statement := line.partition("//")[0].strip():
            reader.read(statement)
    return reader.file


def _add_field(
    message: DescriptorProto, type_name: str, name: str, number: str
) -> FieldDescriptorProto:
    field = message.field.add(name=name, number=int(number), label=_OPTIONAL)
    if type_name in _SCALARS:
        field.type = _SCALARS[type_name]
    else:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = type_name
    return field


def _add_map(message: DescriptorProto, value_type: str, name: str, number: str) -> None:
    """A map is a repeated message of keys and values, which the wire knows nothing more of."""
    entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
    entry.options.map_entry = True
    _add_field(entry, "string", "key", "1")
    _add_field(entry, value_type, "value", "2")
    _add_field(message, entry.name, name, number).label = _REPEATED


_pool = DescriptorPool()
_pool.Add(parse(Path(__file__).with_name("inference.proto").read_text()))
FILE = _pool.FindFileByName(NAME)
(SERVICE,) = FILE.services_by_name.values()


def _message(name: str) -> Any:
    return GetMessageClass(FILE.message_types_by_name[name])


ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyResponse = _message("ServerReadyResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelConfigRequest = _message("ModelConfigRequest")
ModelConfigResponse = _message("ModelConfigResponse")
ModelStatisticsRequest = _message("ModelStatisticsRequest")
ModelStatisticsResponse = _message("ModelStatisticsResponse")
RepositoryIndexRequest = _message("RepositoryIndexRequest")
RepositoryIndexResponse = _message("RepositoryIndexResponse")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
