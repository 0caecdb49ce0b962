"""What parameters of the Open Inference Protocol mean here, whatever carries them: REST or gRPC.

Beside our options, clients send what they know of schedulers, of codecs and of the form of
tensors. What cannot change the answer is taken or passed over; what would, and is not done, is
refused.

Source: Triton's extensions (parameters, schedule policy, binary data); MLServer's content types.
"""

from typing import Annotated, Any, Literal, LiteralString

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tritserve.service.forms.options import Options

MICROSECONDS = 1e6

_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True)


def _refuse(why: LiteralString) -> BeforeValidator:
    def refuse(given: Any) -> None:
        if given is not None:
            raise PydanticCustomError("not_served", why)

    return BeforeValidator(refuse)


_Stateful = Annotated[None, _refuse("no state is kept between requests; send each sequence whole")]
_Classified = Annotated[None, _refuse("nothing is classified; the output is an embedding")]
_Shared = Annotated[None, _refuse("shared memory is not read or written; send the tensor itself")]

ContentType = Annotated[
    Literal["np"] | None,
    Field(description="How MLServer's clients decode; passed over, for a tensor is one already."),
]


class RequestParameters(Options):
    """Those of a request."""

    model_config = _CONFIG

    binary_data_output: bool = Field(
        default=False,
        description="Whether outputs go as bytes that follow the JSON; over gRPC they always do.",
    )
    content_type: ContentType = None
    priority: int | None = Field(
        default=None, ge=0, description="Passed over: waiting requests have equal shares."
    )
    timeout: int | None = Field(
        default=None,
        ge=0,
        le=2**63 - 1,
        description="How long the answer is of use, in microseconds; 0 for however long it takes. "
        "What is not computed by then never is.",
    )
    sequence_id: _Stateful = None
    sequence_start: _Stateful = None
    sequence_end: _Stateful = None

    @property
    def timeout_seconds(self) -> float | None:
        """The timeout, where there is one."""
        return self.timeout / MICROSECONDS if self.timeout else None


class _TensorParameters(BaseModel):
    model_config = _CONFIG

    content_type: ContentType = None
    shared_memory_region: _Shared = None
    shared_memory_byte_size: _Shared = None
    shared_memory_offset: _Shared = None


class InputParameters(_TensorParameters):
    """Those of an input."""

    binary_data_size: int | None = Field(
        default=None, ge=0, description="Of its bytes after the JSON; over gRPC, of its raw ones."
    )


class OutputParameters(_TensorParameters):
    """Those of a requested output."""

    binary_data: bool | None = Field(
        default=None,
        description="Whether it goes as bytes that follow the JSON; over gRPC it always does.",
    )
    classification: _Classified = None
