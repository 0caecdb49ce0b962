"""Live streams: whatever the portions, the bytes are those of `embed`."""

import hashlib
import itertools
import threading

import mpmath
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import (
    CHANNELS,
    SETTINGS,
    cosines,
    random_batch,
    random_bitnet,
    random_packed,
    shared_engine,
)
from tritserve.model.engine import _native
from tritserve.model.engine.engine import Engine
from tritserve.model.engine.saved_stream import StreamError
from tritserve.model.sequences import SequenceError
from tritserve.model.training.export import export

KERNELS = _native.supported()
CAUSAL = [options for options in SETTINGS if options["attention"] == "causal"]
CASES = list(zip(CAUSAL[::53], itertools.cycle([1, 3, 1, 2]), strict=False))


def assert_streams_as_it_embeds(engine, batch, rng):
    """Each sequence to a stream, in random portions; every embedding on the way is compared."""
    streams = [engine.stream() for _ in range(len(batch))]
    sequences = batch.split()
    while left := [i for i, s in enumerate(streams) if s.timesteps < len(sequences[i])]:
        rows = [i for i in left if rng.random() < 0.7] or left[:1]
        starts = [streams[i].timesteps for i in rows]
        ends = [
            int(rng.integers(start, len(sequences[i]))) + 1
            for i, start in zip(rows, starts, strict=True)
        ]
        parts = [sequences[i][a:b] for i, a, b in zip(rows, starts, ends, strict=True)]
        every = bool(rng.integers(2))
        lengths = np.array([len(part) for part in parts])
        pushed = [streams[i] for i in rows]
        got = engine.push(pushed, np.concatenate(parts), lengths, every=every)
        asked = [
            sequences[i][:end]
            for i, start, last in zip(rows, starts, ends, strict=True)
            for end in (range(start + 1, last + 1) if every else [last])
        ]
        so_far = np.array([len(part) for part in asked])
        assert got.tobytes() == engine.embed(np.concatenate(asked), so_far).tobytes()


@pytest.mark.parametrize(("options", "stride"), CASES, ids=str)
def test_a_stream_gives_the_bytes_of_all_its_frames_so_far(options, stride, tmp_path):
    _, packed = random_packed(tmp_path / "m", stride=stride, **options)
    rng = np.random.default_rng(0)
    for isa, threads in itertools.product(KERNELS, [1, 2]):
        engine = shared_engine(packed, isa=isa, threads=threads)
        assert_streams_as_it_embeds(engine, random_batch([40, 1, 60, 17], 5), rng)


@pytest.mark.parametrize("pooling", ["last", "mean", "weighted_mean", "mean_max"])
def test_windows_blocks_and_parts_are_crossed(pooling, tmp_path):
    """300 timesteps: more than a block of 128 keys, a part of a mean, a page and a window."""
    options = {"pooling": pooling, "attention_window": 70, "positions": "rope"}
    _, packed = random_packed(tmp_path / "m", window_size=300, **options)
    rng = np.random.default_rng(1)
    assert_streams_as_it_embeds(Engine(packed, threads=2), random_batch([300, 290], 5), rng)


OPTIONS = {"positions": "rope", "window_size": 40, "stride": 2, "differences": 1}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return random_packed(tmp_path_factory.mktemp("stream") / "m", **OPTIONS)[1]


@pytest.fixture(scope="module")
def engine(packed):
    return Engine(packed, threads=1)


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    path = tmp_path_factory.mktemp("endless") / "m"
    return Engine(random_packed(path, attention_window=6, **OPTIONS)[1], threads=1)


def push_one(engine, stream, frames, **options):
    return engine.push([stream], frames, np.array([len(frames)]), **options)


@settings(max_examples=40, deadline=None)
@given(portions=st.lists(st.integers(1, 12), min_size=1, max_size=8), saved=st.integers(0, 7))
def test_a_saved_stream_goes_on_anywhere(packed, engine, portions, saved):
    portions = [n for n, total in zip(portions, np.cumsum(portions), strict=True) if total <= 40]
    frames = random_batch([40], 5).values
    stream, done, other = engine.stream(), 0, Engine(packed, threads=1, isa="scalar")
    where = engine
    for i, n in enumerate(portions):
        if i == saved:
            data = stream.save()
            stream.close()
            stream, where = other.restore(data), other
            assert stream.timesteps == done
            assert stream.save() == data
        got = push_one(where, stream, frames[done : done + n])
        done += n
        assert got.tobytes() == engine.embed(frames[:done], np.array([done])).tobytes()


def test_a_copy_goes_its_own_way(endless):
    frames = random_batch([30], 5).values
    stream = endless.stream()
    push_one(endless, stream, frames[:21])
    copy = stream.copy()
    push_one(endless, stream, -frames[21:])
    stream.close()
    got = push_one(endless, copy, frames[21:])
    assert got.tobytes() == endless.embed(frames, np.array([30])).tobytes()


def test_a_stream_without_a_window_ends_and_says_so(engine):
    frames = random_batch([41], 5).values
    stream = engine.stream()
    push_one(engine, stream, frames[:38])
    message = "stream 0 has had 38 timesteps and is given 3; this model takes 40, then a stream"
    with pytest.raises(StreamError, match=message) as caught:
        push_one(engine, stream, frames[38:])
    assert caught.value.row == 0
    got = push_one(engine, stream, frames[38:40])
    assert got.tobytes() == engine.embed(frames[:40], np.array([40])).tobytes()


def test_a_stream_may_start_anew_where_it_would_end(engine):
    frames = random_batch([100], 5).values
    stream = engine.stream(restart=True)
    got = np.concatenate(
        [
            push_one(engine, stream, part, every=True)
            for part in np.split(frames, [39, 40, 41, 95])
            if len(part)
        ]
    )
    starts = [0] * 40 + [40] * 40 + [80] * 20
    asked = [frames[start : i + 1] for i, start in enumerate(starts)]
    expected = engine.embed(np.concatenate(asked), np.array([len(part) for part in asked]))
    assert got.tobytes() == expected.tobytes()
    assert stream.timesteps == 20


def test_memory_is_bounded_counted_and_used_again(endless):
    frames = random_batch([2000], 5).values
    before = endless.stream_bytes
    with endless.stream() as stream:
        assert (
            push_one(endless, stream, frames).tobytes()
            == push_one(endless, endless.stream(), frames).tobytes()
        )
        assert before < endless.stream_bytes <= before + endless.max_stream_bytes
        held = set()
        for frame in np.split(frames[:100], 100):
            push_one(endless, stream, frame)
            held.add(endless.stream_bytes)
        assert max(held) <= before + endless.max_stream_bytes
    assert endless.stream_bytes == before
    stream.close()


@pytest.mark.parametrize("portion", [1, 5, 30, 500])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38, 1e14])
def test_a_push_with_a_bad_value_changes_no_stream(endless, bad, portion):
    batch = random_batch([50, 50 + portion], 5)
    first, second = batch.split()
    streams = [endless.stream(), endless.stream()]
    values = np.concatenate([first[:49], second[:50]])
    endless.push(streams, values, np.array([49, 50]))
    before = [stream.save() for stream in streams]
    values = np.concatenate([first[49:], second[50:]])
    lengths = np.array([1, portion])
    wrong = values.copy()
    wrong[-1, 2] = bad
    for _ in range(2):
        with pytest.raises(SequenceError, match=f"1, timestep {portion - 1}, feature 2") as caught:
            endless.push(streams, wrong, lengths)
        assert (caught.value.row, caught.value.timestep) == (1, portion - 1)
        assert [stream.save() for stream in streams] == before
    got = endless.push(streams, values, lengths)
    fresh = [endless.stream(), endless.stream()]
    expected = endless.push(fresh, batch.values, batch.lengths)
    assert got.tobytes() == expected.tobytes()


def test_what_overflows_inside_the_model_changes_no_stream(tmp_path):
    model = random_bitnet(attention_window=4)
    packed = export(model, tmp_path / "m", name="x", training={})
    # So large a shift leaves no float32 after two blocks.
    packed.tensors["final_norm.bias"][:] = 3e38
    packed.tensors["final_norm.weight"][:] = 3e38
    engine = object.__new__(Engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_check_golden", lambda _: None)
        engine.__init__(packed, threads=1)
    stream = engine.stream()
    before = stream.save()
    with pytest.raises(SequenceError, match="sequence 0 holds values so large that float32"):
        push_one(engine, stream, random_batch([9], 5).values)
    assert stream.save() == before


def test_what_does_not_fit_is_an_error_that_says_so(engine, endless):
    frames = random_batch([4], 5).values
    one, two = engine.stream(), engine.stream()
    closed = engine.stream()
    closed.close()
    fine = np.array([2, 2])
    for streams, values, lengths, message in [
        ([one, one], frames, fine, "stream 1 is in the push twice"),
        ([one, closed], frames, fine, "stream 1 is closed"),
        ([one, endless.stream()], frames, fine, "stream 1 is of another engine"),
        ([one, "two"], frames, fine, "stream 1 is a str, not a Stream"),
        ([one], frames, fine, "1 streams have 2 lengths; each must have one"),
        ([], frames, np.array([], int), "a batch needs at least one sequence"),
        ([one, two], frames, np.array([2, 1]), "lengths add up to 3 timesteps, values hold 4"),
        ([one, two], frames, np.array([4, 0]), "sequence 1 has length 0"),
        ([one, two], frames, np.array([2**62, 2**62]), "sequence 0 has length"),
        ([one, two], frames, [2, 2], "lengths are a list"),
        ([one, two], frames.astype(float), fine, "values are float64"),
        ([one, two], frames[:, :4], fine, r"this model takes \[timesteps, 5\]"),
        ([one, two], frames[0], fine, "values hold 5 timesteps|takes|add up"),
        ([one, two], np.ma.masked_greater(frames, 0), fine, "values are masked in places"),
    ]:
        with pytest.raises((StreamError, SequenceError), match=message):
            engine.push(streams, values, lengths)
    assert (one.timesteps, two.timesteps) == (0, 0)
    got = engine.push([one, two], np.asfortranarray(frames), np.array([2, 2], np.int32))
    assert got.tobytes() == engine.embed(frames, fine).tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "full"}, "attention is 'full': timesteps attend to later ones"),
        (CHANNELS, "sees channels one by one"),
    ],
)
def test_a_model_that_cannot_stream_says_why(options, message, tmp_path):
    engine = Engine(random_packed(tmp_path / "m", **options)[1], threads=1)
    with pytest.raises(StreamError, match=message):
        engine.stream()


def test_what_has_no_end_cannot_start_anew(endless):
    with pytest.raises(StreamError, match="has no end"):
        endless.stream(restart=True)


def resealed(data, change):
    tensors = safetensors.numpy.load(data[32:])
    header = data[40 : 40 + int.from_bytes(data[32:40], "little")].decode()
    text = header[header.index('{"stream":"') + 11 : header.index('"}')].replace('\\"', '"')
    text = change(tensors, text) or text
    content = safetensors.numpy.save(tensors, {"stream": text})
    return hashlib.sha256(content).digest() + content


def cut(name):
    def change(tensors, _):
        tensors[name] = np.ascontiguousarray(tensors[name][:-1])

    return change


def filled(name, value):
    def change(tensors, _):
        tensors[name].flat[0] = value

    return change


def told(old, new):
    return lambda _, text: text.replace(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut("keys"), "do not fit its timesteps"),
        (cut("values"), "do not fit its timesteps"),
        (cut("state"), "do not fit its timesteps"),
        (filled("state", np.nan), "state are NaN or infinite"),
        (filled("keys", np.inf), "keys are NaN or infinite"),
        (lambda t, _: t.update(keys=t["keys"].astype(np.float64)), "keys are float64"),
        (lambda t, _: t.update(keys=t["keys"].reshape(-1, 1, 1, 1)), "they must be .rows, 2, 4, 4"),
        (lambda t, _: t.update(more=t["state"]), "tensors .'keys', 'more'"),
        (told('"timesteps":21', '"timesteps":4'), "do not fit its timesteps"),
        (told('"timesteps":21', '"timesteps":-1'), "timesteps: Input should be greater"),
        (told('"timesteps":21', '"timesteps":' + "9" * 5000), "number out of range"),
        (told('"timesteps":21', '"timesteps":281474976710656'), None),
        (told("stream/1", "stream/2"), "format: Input should be 'tritserve-stream/1'"),
        (told('"restart":false', '"restart":true'), "has no end"),
        (told('"revision":"', '"revision":"0'), "revision"),
        (told("}", ',"more":1}'), "more: Extra inputs"),
        (lambda _, __: "[" * 100_000, "not valid"),
    ],
)
def test_a_saved_stream_that_lies_is_refused(endless, change, message):
    stream = endless.stream()
    push_one(endless, stream, random_batch([21], 5).values)
    data = resealed(stream.save(), change)
    if message is None:
        # As old as a stream gets: it is refused more, and harms nothing.
        with pytest.raises(StreamError, match=r"has had \d+ timesteps"):
            push_one(endless, endless.restore(data), random_batch([1], 5).values)
        return
    with pytest.raises(StreamError, match=message):
        endless.restore(data)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused(endless, data):
    stream = endless.stream()
    push_one(endless, stream, random_batch([9], 5).values)
    saved = bytearray(stream.save())
    at = data.draw(st.integers(0, len(saved) - 1))
    if data.draw(st.booleans()):
        saved[at] ^= data.draw(st.integers(1, 255))
    else:
        del saved[at:]
    with pytest.raises(StreamError, match="damaged"):
        endless.restore(bytes(saved))


def test_a_stream_of_another_model_is_refused(endless, tmp_path):
    other = Engine(random_packed(tmp_path / "m", seed=1, attention_window=6, **OPTIONS)[1])
    with pytest.raises(StreamError, match=r"of a model of revision .*, not of this one"):
        other.restore(endless.stream().save())


def turned(theta, half, position):
    cos, sin = np.empty(half, np.float32), np.empty(half, np.float32)
    _native.turn(theta, half, position, cos, sin)
    return cos, sin


@pytest.mark.parametrize(
    "position", [0, 1, 59, 2**20 - 1, 2**20, 2**20 + 1, 10_000_000, 10_000_019, 2**40 + 12_345]
)
def test_positions_are_exact_however_long_the_stream(position):
    """Against angles in 60 digits; a frequency may be wrong by a few last bits of a double."""
    theta, half = 10_000.0, 32
    cos, sin = turned(theta, half, position)
    with mpmath.workdps(60):
        for i in range(half):
            angle = position * mpmath.mpf(theta) ** (-mpmath.mpf(i) / half)
            near = 1e-7 + 2.0**-49 * float(angle)
            assert abs(cos[i] - float(mpmath.cos(angle))) < near
            assert abs(sin[i] - float(mpmath.sin(angle))) < near


def test_a_turn_is_the_sum_of_its_parts_at_ten_million():
    """What scores depend on: the angle between two positions is that of their difference."""
    theta, half = 10_000.0, 32
    for position in (10_000_000, 2**40):
        (c0, s0), (c1, s1) = turned(theta, half, position), turned(theta, half, position + 59)
        cos, sin = turned(theta, half, 59)
        np.testing.assert_allclose(c1 * c0 + s1 * s0, cos, atol=2.5e-7)
        np.testing.assert_allclose(s1 * c0 - c1 * s0, sin, atol=2.5e-7)


def test_a_stream_of_ten_million_frames_answers_as_a_young_one(endless):
    """Saved at ten million timesteps; all that attention sees is what it saw at 34."""
    frames = random_batch([60], 5).values
    young, old = endless.stream(), endless.stream()
    push_one(endless, young, frames[:34])
    saved = young.save()
    old = endless.restore(resealed(saved, told('"timesteps":34', '"timesteps":10000034')))
    expected = push_one(endless, young, frames[34:])
    # Keys of other positions were turned otherwise: beyond two blocks of 6 rows none is left.
    assert cosines(push_one(endless, old, frames[34:]), expected).min() > 0.9999


def test_streams_are_used_from_several_threads(endless):
    frames = random_batch([200], 5).values
    expected = push_one(endless, endless.stream(), frames, every=True)
    wrong = []

    def follow():
        stream = endless.stream()
        for t in range(200):
            got = push_one(endless, stream, frames[t : t + 1])
            if got[0].tobytes() != expected[t].tobytes():
                wrong.append(t)
            if t % 50 == 0:
                stream = stream.copy()

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
