"""Live streams: an embedding after each frame, byte for byte what a batch would give.

A stream keeps what attention and pooling need of the frames (timesteps) that it has had: keys and
values of every block, sums of what is pooled, and the last inputs where there are a stride or
differences. `Engine.push` gives many streams their next frames at once.
"""

from typing import Self

from tritserve.model.config import ModelConfig
from tritserve.model.engine import _native
from tritserve.model.engine.saved_stream import SavedStream, StreamError, parse, serialize
from tritserve.model.packed.content import PackedModel


class Stream:
    """One sequence whose frames come bit by bit; `Engine.stream` makes it, `Engine.push` feeds it.

    It may be used from any thread. Closed, or no longer referred to, it gives its memory back.

    Attributes:
        restart: whether it starts anew after the last timestep that the model takes.
    """

    def __init__(
        self, encoder: _native.Encoder, native: _native.Stream, model: PackedModel, restart: bool
    ) -> None:
        self._encoder, self._native, self._model = encoder, native, model
        self.restart = restart

    @property
    def timesteps(self) -> int:
        """Frames that it has had since it started."""
        return self._native.timesteps

    @property
    def closed(self) -> bool:
        return self._native.closed

    def copy(self) -> "Stream":
        """Another stream that goes on from here.

        Raises:
            StreamError: it is closed.
        """
        return restore_stream(self._encoder, self._model, self.save())

    def save(self) -> bytes:
        """Its bytes, from which `Engine.restore` goes on, on any machine that has the model.

        Raises:
            StreamError: it is closed.
        """
        content = self._encoder.save(self._native)
        if content is None:
            raise StreamError("the stream is closed")
        timesteps, state, keys, values = content
        saved = SavedStream(
            revision=self._model.revision, timesteps=timesteps, restart=self.restart
        )
        row = (-1, *_row_shape(self._model.config))
        tensors = {"state": state, "keys": keys.reshape(row), "values": values.reshape(row)}
        return serialize(saved, tensors)

    def close(self) -> None:
        """Gives its memory back, after the push that it may be in; it takes no more frames."""
        self._encoder.close(self._native)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_stream(encoder: _native.Encoder, model: PackedModel, restart: bool) -> Stream:
    """A stream that has had nothing; errors are those of `Engine.stream`."""
    _check(model.config, restart)
    return Stream(encoder, encoder.stream(restart), model, restart)


def _check(config: ModelConfig, restart: bool) -> None:
    if config.channels:
        raise StreamError(
            "this model sees channels one by one, drawn at points of the whole series: each frame "
            "moves the points, and nothing computed before can be kept"
        )
    if config.attention == "full":
        raise StreamError(
            "this model's attention is 'full': timesteps attend to later ones, and each frame "
            "changes all that was computed before; a stream needs 'causal'"
        )
    if restart and config.attention_window:
        raise StreamError(
            "a stream of a model with an attention_window has no end; it cannot start anew"
        )


def restore_stream(encoder: _native.Encoder, model: PackedModel, data: bytes) -> Stream:
    """What `Stream.save` gave; errors are those of `Engine.restore`."""
    saved, tensors = parse(data)
    if saved.revision != model.revision:
        raise StreamError(
            f"the saved stream is of a model of revision {saved.revision[:12]}, not of this one, "
            f"{model.revision[:12]}"
        )
    _check(model.config, saved.restart)
    row = _row_shape(model.config)
    for name in ("keys", "values"):
        if tensors[name].shape[1:] != row:
            raise StreamError(
                f"the saved stream's {name} are {list(tensors[name].shape)}; they must be "
                f"[rows, {', '.join(map(str, row))}]"
            )
    state, keys, values = (tensors[name].ravel() for name in ("state", "keys", "values"))
    try:
        native = encoder.restore(saved.restart, saved.timesteps, state, keys, values)
    except ValueError as error:
        raise StreamError(f"the saved stream does not fit the model: {error}") from error
    return Stream(encoder, native, model, saved.restart)


def _row_shape(config: ModelConfig) -> tuple[int, int, int]:
    return config.num_layers, config.key_value_heads, config.head_dim
