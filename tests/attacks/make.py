"""Writes the hostile packed files beside this script: `python -m tests.attacks.make`.

Each is a small valid file with one thing wrong. They are kept as files, so that what was once
refused stays refused, whatever the writer does by then.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import random_packed

HERE = Path(__file__).parent
OPTIONS = {"embed_dim": 2, "hidden_size": 4, "num_heads": 4, "num_layers": 1, "window_size": 9}
# With this seed, attention with another number of heads gives a clearly different answer.
SEED = 4
Q = "blocks.0.attention.query_key_value"


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def join(header: dict[str, Any] | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """A change of the header alone."""

    def apply(data: bytes) -> bytes:
        header, body = split(data)
        change(header)
        return join(header, body)

    return apply


def config(**fields: Any) -> Callable[[bytes], bytes]:
    def change(header: dict[str, Any]) -> None:
        config = json.loads(header["__metadata__"]["config"]) | fields
        header["__metadata__"]["config"] = json.dumps(config)

    return edit(change)


def overwrite(name: str, content: bytes, at: int = 0) -> Callable[[bytes], bytes]:
    """A change of a tensor's bytes alone."""

    def apply(data: bytes) -> bytes:
        header, body = split(data)
        start = header[name]["data_offsets"][0] + at
        return join(header, body[:start] + content + body[start + len(content) :])

    return apply


def floats(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def overlap(header: dict[str, Any]) -> None:
    header["final_norm.bias"]["data_offsets"] = header["final_norm.weight"]["data_offsets"]


def add_tensor(data: bytes) -> bytes:
    header, body = split(data)
    header["extra"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    return join(header, body + bytes(4))


ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "header_length_cut": lambda data: data[:5],
    "truncated_in_header": lambda data: data[:100],
    "truncated_in_tensors": lambda data: data[:-3],
    "bytes_appended": lambda data: data + b"\0" * 8,
    "header_length_oversized": lambda data: (1 << 62).to_bytes(8, "little") + data[8:],
    "header_not_json": lambda data: join(b"{not json", split(data)[1]),
    "header_not_utf8": lambda data: join(b"{\xff\xfe", split(data)[1]),
    "header_nested": lambda data: join(b"[" * 100_000, split(data)[1]),
    "tensors_overlap": edit(overlap),
    "offsets_backwards": edit(
        lambda h: h["final_norm.weight"].update(
            data_offsets=h["final_norm.weight"]["data_offsets"][::-1]
        )
    ),
    "shape_overflows": edit(lambda h: h["final_norm.weight"].update(shape=[1 << 62, 1 << 62])),
    "shape_not_its_bytes": edit(lambda h: h["final_norm.weight"].update(shape=[5])),
    "shape_wrong": edit(lambda h: h["final_norm.weight"].update(shape=[2, 2])),
    "dtype_unknown": edit(lambda h: h["final_norm.weight"].update(dtype="F33")),
    "dtype_wrong": edit(lambda h: h["final_norm.weight"].update(dtype="I32")),
    "dtype_bf16": edit(lambda h: h["final_norm.weight"].update(dtype="BF16", shape=[8])),
    "tensor_missing": edit(lambda h: h.update({"renamed": h.pop("final_norm.weight")})),
    "tensor_unknown": add_tensor,
    "metadata_missing": edit(lambda h: h.pop("__metadata__")),
    "metadata_key_unknown": edit(lambda h: h["__metadata__"].update(extra="1")),
    "metadata_key_missing": edit(lambda h: h["__metadata__"].pop("training")),
    "format_from_the_future": edit(lambda h: h["__metadata__"].update(format="tritserve/2")),
    "name_empty": edit(lambda h: h["__metadata__"].update(name="")),
    "name_too_long": edit(lambda h: h["__metadata__"].update(name="x" * 20_000)),
    "training_not_json": edit(lambda h: h["__metadata__"].update(training="{")),
    "training_nested": edit(lambda h: h["__metadata__"].update(training="[" * 100_000)),
    "training_not_an_object": edit(lambda h: h["__metadata__"].update(training="[1]")),
    "config_not_json": edit(lambda h: h["__metadata__"].update(config="{")),
    "config_field_unknown": config(experts=8),
    "config_of_a_float_model": config(quantize="none"),
    "config_lies_about_layers": config(num_layers=2),
    "config_lies_about_width": config(hidden_size=8),
    "config_lies_about_weights": config(quantize="binary"),
    "config_lies_about_heads": config(num_heads=1),
    "config_lies_about_pooling": config(pooling="mean"),
    "config_with_a_billion_layers": config(num_layers=10**9),
    "byte_243": overwrite(f"{Q}.packed", b"\xf3"),
    "last_byte_not_filled": overwrite(f"{Q}.packed", b"\xf2", at=9),
    "scale_nan": overwrite(f"{Q}.scale", floats(np.nan)),
    "scale_infinite": overwrite(f"{Q}.scale", floats(np.inf)),
    "scale_zero": overwrite(f"{Q}.scale", floats(0.0)),
    "scale_changed": overwrite(f"{Q}.scale", floats(1e30)),
    "bias_nan": overwrite(f"{Q}.bias", floats(np.nan)),
    "std_zero": overwrite("standardize.std", floats(0.0)),
    "golden_missing": edit(lambda h: h.update({"renamed": h.pop("golden.values")})),
    "golden_too_long": config(window_size=3),
    "golden_nan": overwrite("golden.values", floats(np.nan)),
}


def main() -> None:
    valid = HERE / "valid.safetensors"
    random_packed(valid, seed=SEED, **OPTIONS)
    data = valid.read_bytes()
    for name, attack in ATTACKS.items():
        (HERE / f"{name}.safetensors").write_bytes(attack(data))


if __name__ == "__main__":
    main()
