"""The native engine: exact products, one answer, and nothing that a caller can crash."""

import itertools
import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.builders import (
    SETTINGS,
    cosines,
    random_batch,
    random_bitnet,
    random_packed,
    shared_engine,
)
from tritserve.model.engine import _native
from tritserve.model.engine.engine import Engine, EngineError
from tritserve.model.engine.reference import Reference
from tritserve.model.packed.file import PackedFileError, read
from tritserve.model.packed.trits import pack_binary, pack_ternary
from tritserve.model.training.export import export

KERNELS = _native.supported()
PACK = {"ternary": pack_ternary, "binary": pack_binary}
VALUES = {"ternary": [-1, 0, 1], "binary": [-1, 1]}


def product(q, weights, quantize, isa):
    outputs, inputs = weights.shape
    packed = PACK[quantize](weights)
    matrix = _native.PackedMatrix(packed, outputs, inputs, quantize == "binary", isa)
    assert matrix.kernels == isa
    out = np.empty((len(q), -(-outputs // 16) * 16), dtype=np.int32)
    matrix.matmul(q, out)
    return out[:, :outputs]


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("quantize", ["ternary", "binary"])
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 70),
    seed=st.integers(0, 10_000),
)
def test_products_are_exact_on_every_shape(isa, quantize, rows, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    weights = rng.choice(VALUES[quantize], (outputs, inputs)).astype(np.int8)
    q = rng.integers(-128, 128, (rows, inputs)).astype(np.int8)
    expected = q.astype(np.int64) @ weights.astype(np.int64).T
    np.testing.assert_array_equal(product(q, weights, quantize, isa), expected)


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("quantize", ["ternary", "binary"])
@pytest.mark.parametrize("rows", [1, 2, 13])
@pytest.mark.parametrize(("weight", "activation"), list(itertools.product([-1, 1], [-128, 127])))
def test_sums_do_not_overflow(isa, quantize, rows, weight, activation):
    weights = np.full((17, 16_384), weight, dtype=np.int8)
    q = np.full((rows, 16_384), activation, dtype=np.int8)
    assert (product(q, weights, quantize, isa) == 16_384 * weight * activation).all()


# The fourth needs no input projection where it has two differences.
WIDTHS = [(5, 16, None), (16, 16, 37), (40, 24, None), (8, 24, 50)]
CASES = list(zip(SETTINGS[::53], itertools.cycle(WIDTHS), strict=False))


@pytest.mark.parametrize(("options", "widths"), CASES, ids=str)
def test_one_answer_whatever_computes_it(options, widths, tmp_path):
    """The same bytes on every instruction set, number of threads and batch; near the oracle's."""
    embed_dim, hidden_size, ffn_size = widths
    shape = {"embed_dim": embed_dim, "hidden_size": hidden_size, "ffn_size": ffn_size}
    _, packed = random_packed(tmp_path / "m", **shape, **options)
    batch = random_batch([3, 1, 60, 17, 9, 33, 60, 2], embed_dim)
    expected = Engine(packed, isa="scalar", threads=1).embed(batch.values, batch.lengths)
    for isa, threads in itertools.product(KERNELS, [1, 2, 3]):
        engine = shared_engine(packed, isa=isa, threads=threads)
        assert (engine.kernel, engine.threads) == (isa, threads)
        assert engine.embed(batch.values, batch.lengths).tobytes() == expected.tobytes()
        unshared = Engine(packed, isa=isa, threads=threads)
        assert unshared.embed(batch.values, batch.lengths).tobytes() == expected.tobytes()
        for row, sequence in enumerate(batch.split()):
            alone = engine.embed(sequence, np.array([len(sequence)]))
            assert alone.tobytes() == expected[row].tobytes()
    oracle = Reference(packed).embed(batch.values, batch.lengths)
    assert cosines(expected, oracle).min() > 0.9995


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return random_packed(tmp_path_factory.mktemp("native") / "m")[1]


def test_the_instruction_set_can_be_forced(packed, monkeypatch):
    assert Engine(packed).kernel == KERNELS[0]
    for isa in KERNELS:
        monkeypatch.setenv("TRITSERVE_ISA", isa)
        assert Engine(packed).kernel == isa
    monkeypatch.setenv("TRITSERVE_ISA", "sse9")
    with pytest.raises(EngineError, match=r"'sse9' is not supported here; supported: .*scalar"):
        Engine(packed)


@pytest.mark.parametrize("threads", [-1, 0, 1025, 2**70])
def test_threads_out_of_range_are_an_error(packed, threads):
    with pytest.raises(EngineError, match=f"threads must be 1 to 1024, not {threads}"):
        Engine(packed, threads=threads)


@pytest.mark.parametrize("threads", [True, 2.5, 2.0, "2"])
def test_threads_that_are_no_integer_are_an_error(packed, threads):
    with pytest.raises(EngineError, match=f"threads are {threads!r}; they must be an integer"):
        Engine(packed, threads=threads)


def test_threads_may_be_a_numpy_integer(packed):
    assert Engine(packed, threads=np.int64(2)).threads == 2


@pytest.mark.parametrize(("quantize", "bits"), [("ternary", 2.1), ("binary", 1.1)])
def test_weights_in_memory_stay_small(tmp_path, quantize, bits):
    options = {"hidden_size": 256, "embed_dim": 287, "quantize": quantize}
    _, packed = random_packed(tmp_path / "m", **options)
    encoder = Engine(packed)._encoder
    assert encoder.weights == packed.packed_weights
    assert 8 * encoder.panel_bytes / encoder.weights <= bits


@pytest.mark.parametrize("isa", KERNELS)
@pytest.mark.parametrize("window", [None, 200])
def test_a_long_sequence_is_as_exact_as_a_short_one(tmp_path, isa, window):
    options = {"window_size": 3000, "num_layers": 1, "positions": "rope"}
    options |= {"attention_window": window}
    _, packed = random_packed(tmp_path / "m", **options)
    batch = random_batch([3000, 700], 5)
    expected = Engine(packed, isa="scalar", threads=1).embed(batch.values, batch.lengths)
    for threads in (1, 3):
        got = shared_engine(packed, isa=isa, threads=threads).embed(batch.values, batch.lengths)
        assert got.tobytes() == expected.tobytes()
    assert cosines(expected, Reference(packed).embed(batch.values, batch.lengths)).min() > 0.9995


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean"])
def test_the_mean_of_thousands_of_timesteps_is_as_exact_as_that_of_a_few(tmp_path, pooling):
    model = random_bitnet(num_heads=1, num_layers=1, window_size=4000, pooling=pooling)
    with torch.no_grad():
        # Without attention, equal timesteps have equal outputs, and these are their mean.
        model.blocks[0].attention.output.weight.zero_()
    packed = export(model, tmp_path / "m", name="long", training={})
    values = np.repeat(random_batch([1], 5).values, 4000, axis=0)
    answers = set()
    for isa in KERNELS:
        engine = Engine(packed, isa=isa, threads=1)
        expected = engine.embed(values[:1], np.array([1]))[0]
        got = engine.embed(values, np.array([4000]))[0]
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        answers.add(got.tobytes())
    assert len(answers) == 1


def test_callers_in_several_threads_do_not_disturb_each_other(packed):
    engine = shared_engine(packed, threads=2)
    batches = [random_batch([5 + i, 60, 3], 5, i) for i in range(6)]
    expected = [engine.embed(batch.values, batch.lengths).tobytes() for batch in batches]
    wrong = []

    def work(i):
        for _ in range(50):
            if engine.embed(batches[i].values, batches[i].lengths).tobytes() != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_cannot_be_started_are_an_error(tmp_path):
    random_packed(tmp_path / "m")
    script = f"""
import resource
from tritserve.model.engine.engine import Engine, EngineError
model = Engine.load({str(tmp_path / "m")!r}, threads=1).model
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
# Room for a part of the threads' stacks.
resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30,) * 2)
try:
    Engine(model, threads=1024)
except EngineError as error:
    print(error)
Engine(model, threads=2)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert re.match(r"of 1023 threads beside the caller's, \d+ could be started", run.stdout)


def test_the_callers_rounding_mode_does_not_matter(tmp_path):
    import ctypes  # noqa: PLC0415
    import ctypes.util  # noqa: PLC0415

    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    _, packed = random_packed(tmp_path / "m", positions="rope", window_size=500)
    batch = random_batch([500, 9], 5)
    expected = Engine(packed).embed(batch.values, batch.lengths).tobytes()
    # One that has not met sequences so long.
    engine, before = Engine(packed), libm.fegetround()
    try:
        libm.fesetround({"x86_64": 0x400, "aarch64": 0x400000}[os.uname().machine])
        got = engine.embed(batch.values, batch.lengths).tobytes()
    finally:
        libm.fesetround(before)
    assert got == expected


anything = st.one_of(
    arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.uint8, np.bool_]),
        array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    ),
    st.just(np.zeros((6, 10), np.float32)[:, ::2]),
    st.just(np.zeros((5, 6), np.float32).T),
    st.just(np.array([2**62, 2**62])),
    st.just(np.array([-1, 7])),
    st.none(),
    st.text(max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(values=anything, lengths=anything, out=anything)
def test_arguments_of_any_kind_are_an_error_or_an_answer(packed, values, lengths, out):
    encoder = Engine(packed)._encoder
    try:
        encoder.embed(values, lengths, out)
    except (TypeError, ValueError):
        return
    assert values.shape[0] == lengths.sum()
    assert out.shape == (len(lengths), 16)


def test_a_read_only_place_for_the_answer_is_an_error(packed):
    out = np.zeros((1, 16), np.float32)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        Engine(packed)._encoder.embed(np.zeros((1, 5), np.float32), np.array([1]), out)


@settings(max_examples=200, deadline=None)
@given(packed=anything, outputs=st.integers(-3, 2**40), inputs=st.integers(-3, 2**40))
def test_a_matrix_of_any_kind_is_an_error_or_a_matrix(packed, outputs, inputs):
    with pytest.raises((TypeError, ValueError, MemoryError)):
        _native.PackedMatrix(packed, outputs, inputs + 10, False, "scalar")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_tensors_that_do_not_fit_are_an_error(packed, data):
    from tritserve.model.engine.engine import _arrays, _settings  # noqa: PLC0415

    fields, tensors = _settings(packed), _arrays(packed)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(k for k in fields if type(fields[k]) is int)))
        fields[name] = data.draw(st.integers(0, 2**70))
    name = data.draw(st.sampled_from(sorted(tensors)))
    change = data.draw(st.sampled_from(["drop", "cut", "retype"]))
    if change == "drop":
        del tensors[name]
    elif change == "cut":
        tensors[name] = tensors[name].ravel()[:-1]
    else:
        tensors[name] = tensors[name].astype(np.float64)
    if name.startswith("golden.") and change != "retype":
        return
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        _native.Encoder(fields, tensors, "", 1)


def test_a_file_changed_between_check_and_load_is_an_error(tmp_path):
    random_packed(tmp_path / "m")
    model = read(tmp_path / "m")
    layer = model.layers["blocks.0.ffn.up"]
    changed = layer.packed.copy()
    changed[0] = 250
    model.layers["blocks.0.ffn.up"] = type(layer)(changed, layer.scale, layer.bias, layer.shape)
    with pytest.raises((EngineError, PackedFileError), match="over 242"):
        Engine(model)
