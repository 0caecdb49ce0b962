"""Requests and answers of the Open Inference Protocol over gRPC: protobuf bytes both ways.

Inputs come as `raw_input_contents`, one for each, or all in the field of `contents` that their
datatype has. Outputs always go as `raw_output_contents`. Our options are parameters of the
request; `tritserve.service.oip.parameters` says what others mean.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ValidationError

from tritserve.model.errors import explain, first_field
from tritserve.service.errors import InvalidError, UnparseableError
from tritserve.service.forms.media import OCTETS, PROTOBUF
from tritserve.service.forms.wire import EmbedAnswer, EmbedRequest, Limits
from tritserve.service.oip.about import check_model
from tritserve.service.oip.grpc.messages import ModelInferRequest, ModelInferResponse
from tritserve.service.oip.grpc.parts import check_parts
from tritserve.service.oip.parameters import InputParameters, OutputParameters, RequestParameters
from tritserve.service.oip.tensors import (
    DATATYPES,
    DTYPES,
    MODEL_VERSION,
    Array,
    check_shape,
    check_unique,
    choose_outputs,
    from_bytes,
    from_numbers,
    invalid_input,
    read_output,
    to_request,
)

_CONTENTS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
}

_NO_PARAMETERS = RequestParameters()
_NO_INPUT_PARAMETERS = InputParameters()
_NO_OUTPUT_PARAMETERS = OutputParameters()

P = TypeVar("P", bound=BaseModel)


def parse(message_class: Any, body: bytes) -> Any:
    """A message from its bytes.

    Raises:
        UnparseableError: they are none of this kind.
    """
    try:
        return message_class.FromString(body)
    except DecodeError as error:
        name = message_class.DESCRIPTOR.name
        raise UnparseableError(f"the message is not a {name}: {error}") from error


class GrpcForm:
    """How one `ModelInfer` request and its answer are written.

    Args:
        model: the name of the served model.
    """

    content_type = PROTOBUF
    answer_type = OCTETS

    def __init__(self, model: str) -> None:
        self._model = model
        self._id = ""
        self._outputs: list[str] = []

    def decode(self, body: bytes, limits: Limits) -> EmbedRequest:
        """Reads and checks a request.

        Raises:
            UnparseableError: the body is not a `ModelInferRequest`.
            UnknownPathError: it is for another model.
            InvalidError: what it says is wrong.
        """
        check_parts(body)
        request = parse(ModelInferRequest, body)
        check_model(request.model_name, self._model, request.model_version or None)
        options = _read_parameters(_NO_PARAMETERS, "the request", request.parameters)
        self._id = request.id
        for kind, tensors in (("inputs", request.inputs), ("outputs", request.outputs)):
            if len(tensors) > 2:
                raise InvalidError(
                    f"the request has {len(tensors)} {kind}; at most 2 go", field=kind
                )
        for output in request.outputs:
            _read_parameters(_NO_OUTPUT_PARAMETERS, f"output {output.name!r}", output.parameters)
        self._outputs = choose_outputs([output.name for output in request.outputs], options)
        return to_request(_read_tensors(request, limits), options, limits)

    def encode(self, answer: EmbedAnswer) -> tuple[bytes, dict[str, str]]:
        """The answer's bytes; there are no headers."""
        response = ModelInferResponse(
            model_name=self._model, model_version=MODEL_VERSION, id=self._id
        )
        response.parameters["truncated"].int64_param = len(answer.usage["truncated"])
        for name in self._outputs:
            array = read_output(answer, name)
            response.outputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response.SerializeToString(), {}


def _read_parameters(none: P, whose: str, parameters: Mapping[str, Any]) -> P:
    """Those that are given, or `none`: most requests have none, and validating takes a while."""
    if not parameters:
        return none
    given = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidError(f"parameters of {whose}: {name!r} has no value", field=name)
        given[name] = getattr(value, choice)
    try:
        return type(none).model_validate(given)
    except ValidationError as error:
        field = first_field(error)
        raise InvalidError(f"parameters of {whose}: {explain(error)}", field=field) from error


def _read_tensors(request: Any, limits: Limits) -> dict[str, Array]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidError(
            f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs",
            field="inputs",
        )
    check_unique("input", [given.name for given in request.inputs])
    tensors = {}
    for index, given in enumerate(request.inputs):
        described = (given.name, given.datatype, list(given.shape))
        told, came = _check_input(given, described[2]), len(raw[index]) if raw else 0
        if told not in {None, came}:
            raise invalid_input(
                given.name,
                f"has binary_data_size {told}; its raw_input_contents have {came} bytes",
            )
        if raw:
            if given.HasField("contents"):
                raise invalid_input(given.name, "has contents beside raw_input_contents")
            tensors[given.name] = from_bytes(*described, raw[index])
        else:
            tensors[given.name] = from_numbers(*described, _read_contents(given, limits))
    return tensors


def _check_input(given: Any, shape: list[int]) -> int | None:
    """Returns the size of its bytes where its parameters tell it."""
    if given.name not in {"values", "lengths"}:
        raise InvalidError(
            f"there is no input {given.name!r}, only 'values' and 'lengths'", field="inputs"
        )
    if given.datatype not in DTYPES:
        raise invalid_input(
            given.name,
            f"has datatype {given.datatype!r}; it must be one of {', '.join(DTYPES)}",
        )
    if not 1 <= len(shape) <= 3:
        raise invalid_input(given.name, f"has {len(shape)} axes; it must have 1 to 3")
    check_shape(given.name, shape)
    whose = f"input '{given.name}'"
    return _read_parameters(_NO_INPUT_PARAMETERS, whose, given.parameters).binary_data_size


def _read_contents(given: Any, limits: Limits) -> Array:
    field = _CONTENTS.get(given.datatype)
    if field is None:
        raise invalid_input(given.name, f"is {given.datatype}, which goes in raw_input_contents")
    wrong = [found.name for found, _ in given.contents.ListFields() if found.name != field]
    if wrong:
        raise invalid_input(
            given.name, f"of type {given.datatype} goes in {field}, not in {wrong[0]}"
        )
    numbers = getattr(given.contents, field)
    if given.name == "lengths" and len(numbers) > limits.max_sequences:
        raise InvalidError(
            f"there are {len(numbers)} lengths; at most {limits.max_sequences} sequences go",
            field="inputs.lengths",
        )
    return np.fromiter(numbers, DTYPES[given.datatype], len(numbers))
