"""The Open Inference Protocol, version 2, over REST, with its binary tensor extension.

A request is JSON, or JSON followed by the bytes of tensors in the order of the inputs that have a
`binary_data_size`; `Inference-Header-Content-Length` then tells how long the JSON is. Answers are
built the same way. `Content-Type` is not looked at: clients of the protocol send any, or none.

Our options are parameters of the request; `tritserve.service.oip.parameters` says what others mean.

Source: the KServe open inference protocol (open-inference-protocol, inference_rest) and Triton's
binary data extension.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tritserve.model.errors import explain, first_field
from tritserve.service.errors import InvalidError, UnparseableError
from tritserve.service.forms.json_numbers import write_json
from tritserve.service.forms.media import JSON, OCTETS
from tritserve.service.forms.wire import EmbedAnswer, EmbedRequest, Limits
from tritserve.service.oip.about import check_model
from tritserve.service.oip.parameters import InputParameters, OutputParameters, RequestParameters
from tritserve.service.oip.rest.json import cut_data, read_numbers
from tritserve.service.oip.tensors import (
    DATATYPES,
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

HEADER_LENGTH = "Inference-Header-Content-Length"
# A request with more JSON than this is not decoded as fast as bytes are.
SHORT_JSON_BYTES = 4096


M = TypeVar("M", bound=BaseModel)

# Generated clients often write optional fields that are not there as null.
_NoneIsEmpty = BeforeValidator(lambda given: {} if given is None else given)
_NoneIsNothing = BeforeValidator(lambda given: [] if given is None else given)


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Input(_Message):
    name: Literal["values", "lengths"]
    shape: list[int] = Field(min_length=1, max_length=3)
    datatype: Literal["FP16", "FP32", "FP64", "INT32", "INT64"]
    parameters: Annotated[InputParameters, _NoneIsEmpty] = InputParameters()
    # Where its numbers were cut out, their place.
    data: list[Any] | None = None


class _Output(_Message):
    name: Literal["embeddings", "scales"]
    # Not the protocol's; some clients write what they expect.
    datatype: str | None = None
    shape: list[int] | None = None
    parameters: Annotated[OutputParameters, _NoneIsEmpty] = OutputParameters()


class _Request(_Message):
    # KServe's client writes here too which model it asks.
    model_name: str | None = None
    model_version: str | None = None
    id: str | None = None
    parameters: Annotated[RequestParameters, _NoneIsEmpty] = RequestParameters()
    inputs: list[_Input] = Field(min_length=1, max_length=2)
    outputs: Annotated[list[_Output], Field(max_length=2), _NoneIsNothing] = []


class InferForm:
    """How one `infer` request and its answer are written.

    Args:
        headers: of the request, by their names in lower case.
        model: the name of the served model.
    """

    def __init__(self, headers: Mapping[str, str], model: str) -> None:
        self._header_length = headers.get(HEADER_LENGTH.lower())
        self._model = model
        self._id: str | None = None
        self._asked: list[_Output] = []
        # The outputs of the answer, and which of them go as bytes.
        self._outputs: dict[str, bool] = {}

    @property
    def content_type(self) -> str:
        """What most of the request is."""
        text = self._header_length or ""
        short = text.isdecimal() and len(text) < 10 and int(text) <= SHORT_JSON_BYTES
        return OCTETS if short else JSON

    @property
    def answer_type(self) -> str:
        """What most of the answer is; known once the request is decoded."""
        return OCTETS if all(self._outputs.values()) else JSON

    def decode(self, body: bytes, limits: Limits) -> EmbedRequest:
        """Reads and checks a request.

        Raises:
            UnparseableError: the body is not JSON, or not as long as it says.
            UnknownPathError: it is for another model than its path.
            InvalidError: the JSON or a tensor is wrong.
        """
        json_bytes = self._json_length(body)
        rest, lists = cut_data(body[:json_bytes])
        request = parse(_Request, rest)
        name = self._model if request.model_name is None else request.model_name
        check_model(name, self._model, request.model_version or None)
        self._id = request.id
        self._asked = request.outputs
        self._outputs = _choose_outputs(request)
        nulls = limits.embed_dim is None
        tensors = _read_tensors(request.inputs, dict(enumerate(lists)), body[json_bytes:], nulls)
        return to_request(tensors, request.parameters, limits)

    def encode(self, answer: EmbedAnswer) -> tuple[bytes, dict[str, str]]:
        """The answer's body and headers.

        Raises:
            InvalidError: an output is of another datatype or shape than was asked for.
        """
        for asked in self._asked:
            _check_asked(asked, read_output(answer, asked.name))
        outputs, blobs = [], []
        for name, binary in self._outputs.items():
            array = read_output(answer, name)
            output: dict[str, Any] = {
                "name": name,
                "datatype": DATATYPES[array.dtype.name],
                "shape": list(array.shape),
            }
            if binary:
                blobs.append(array.tobytes())
                output["parameters"] = {"binary_data_size": len(blobs[-1])}
            else:
                output["data"] = array.ravel()
            outputs.append(output)
        head: dict[str, Any] = {
            "model_name": answer.model["name"],
            "model_version": MODEL_VERSION,
            "parameters": {"truncated": len(answer.usage["truncated"])},
            "outputs": outputs,
        }
        if self._id is not None:
            head["id"] = self._id
        text = write_json(head)
        if not blobs:
            return text, {"Content-Type": JSON}
        headers = {"Content-Type": OCTETS, HEADER_LENGTH: str(len(text))}
        return b"".join([text, *blobs]), headers

    def _json_length(self, body: bytes) -> int:
        text = self._header_length
        if text is None:
            return len(body)
        if not text.isdecimal() or len(text) > 18 or int(text) > len(body):
            raise UnparseableError(
                f"{HEADER_LENGTH} is {text[:20]!r}; it must be at most the body's {len(body)} bytes"
            )
        return int(text)


def parse(message: type[M], text: bytes) -> M:
    """A message from its JSON.

    Raises:
        UnparseableError: it is not JSON.
        InvalidError: it is not this message, or gives a key twice.
    """
    try:
        parsed = message.model_validate_json(text)
    except ValidationError as error:
        if error.errors(include_input=False)[0]["type"] == "json_invalid":
            raise UnparseableError(f"the request is not JSON: {explain(error)}") from error
        raise InvalidError(explain(error), field=first_field(error)) from error
    # Of a key that is given twice, pydantic takes the last and says nothing.
    _UNIQUE_KEYS.decode(text.decode())
    return parsed


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise InvalidError(f"{name[:100]} is given twice", field=name)


_UNIQUE_KEYS = json.JSONDecoder(object_pairs_hook=_refuse_repeated)


def _choose_outputs(request: _Request) -> dict[str, bool]:
    options = request.parameters
    binary: dict[str, bool | None] = {
        output.name: output.parameters.binary_data for output in request.outputs
    }
    chosen: dict[str, bool] = {}
    for name in choose_outputs([output.name for output in request.outputs], options):
        asked = binary.get(name)
        chosen[name] = options.binary_data_output if asked is None else asked
    if options.precision == "float16" and chosen.get("embeddings") is False:
        raise InvalidError(
            "FP16 has no JSON form; ask for binary_data, or for float32", field="outputs"
        )
    return chosen


def _check_asked(asked: _Output, array: Array) -> None:
    datatype, shape = DATATYPES[array.dtype.name], list(array.shape)
    if asked.datatype not in {None, datatype}:
        raise InvalidError(
            f"the output '{asked.name}' is {datatype}, not {asked.datatype[:20]!r}; the parameter "
            "'precision' chooses",
            field="outputs",
        )
    if asked.shape is not None and not _fits(asked.shape, shape):
        raise InvalidError(
            f"the output '{asked.name}' has shape {shape}, not {str(asked.shape)[:100]}",
            field="outputs",
        )


def _fits(asked: list[int], shape: list[int]) -> bool:
    """Whether a shape is the one asked for, in which -1 stands for any size."""
    return len(asked) == len(shape) and all(
        wanted in {-1, size} for wanted, size in zip(asked, shape, strict=True)
    )


def _take(lists: dict[int, bytes], given: _Input) -> bytes:
    match given.data:
        case [int(place)] if place in lists:
            return lists.pop(place)
    raise invalid_input(given.name, f"must have {given.datatype} numbers as its data")


def _read_tensors(
    inputs: list[_Input], lists: dict[int, bytes], tail: bytes, nulls: bool
) -> dict[str, Array]:
    check_unique("input", [given.name for given in inputs])
    tensors: dict[str, Array] = {}
    at = 0
    for given in inputs:
        check_shape(given.name, given.shape)
        size = given.parameters.binary_data_size
        described = (given.name, given.datatype, given.shape)
        if size is not None and given.data is None:
            if size > len(tail) - at:
                raise UnparseableError(f"the bytes of input '{given.name}' are cut off")
            tensors[given.name] = from_bytes(*described, tail[at : at + size])
            at += size
        elif size is None and given.data is not None:
            if given.datatype == "FP16":
                raise invalid_input(
                    given.name, "is FP16, which has no JSON form; send it as binary data"
                )
            numbers = read_numbers(*described, _take(lists, given), nulls=nulls)
            tensors[given.name] = from_numbers(*described, numbers)
        else:
            raise invalid_input(given.name, "needs either data or binary_data_size")
    if at != len(tail):
        raise UnparseableError(f"{len(tail)} bytes follow the JSON, the inputs tell of {at}")
    return tensors
