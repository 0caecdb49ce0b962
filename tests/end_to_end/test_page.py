"""The page at /, in a real browser: what it shows, what it sends, and what it says."""

import base64
import io
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest
import safetensors.numpy
from playwright.sync_api import expect, sync_playwright

from tests.builders import CHANNELS, npy, random_packed
from tests.end_to_end.server import serving
from tritserve.service.page.routes import FILES

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("background-networking", "component-update", "sync")
KEY = "open-sesame"
MOST = 7


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    arguments = ["--no-sandbox", "--headless=new", "--no-first-run"]
    arguments += [f"--disable-{name}" for name in QUIET]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """Two services: the embedded model, and one of any number of channels behind a key."""
    folder = tmp_path_factory.mktemp("page")
    random_packed(folder / "model", **CHANNELS)
    keyed = {"TRITSERVE_API_KEYS": KEY, "TRITSERVE_MAX_SEQUENCES": str(MOST)}
    with ExitStack() as stack:
        vowels, _ = stack.enter_context(serving(log=folder / "vowels"))
        channels, _ = stack.enter_context(
            serving("--model", folder / "model", log=folder / "channels", environment=keyed)
        )
        yield {"vowels": vowels, "channels": channels}


@contextmanager
def opened(browser, url, complaints=(), **options):
    """The page in a fresh tab; what the console may say is named, and nothing else is asked for."""
    said, asked = [], []
    with browser.new_context(reduced_motion="reduce", **options) as context:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        yield page
    assert all(any(known in text for known in complaints) for text in said), said
    assert all(address.startswith((f"{url}/", "blob:")) for address in asked), asked


@pytest.fixture
def vowels_page(browser, urls):
    with opened(browser, urls["vowels"]) as page:
        yield page


@pytest.fixture
def channels_page(browser, urls):
    """Where the key is known already."""
    with opened(browser, urls["channels"], complaints=["401"]) as page:
        give_key(page, KEY)
        expect(page.locator("#input")).to_be_visible()
        yield page


def give_key(page, key):
    page.get_by_label("This service asks for an API key").fill(key)
    page.get_by_role("button", name="Go on").click()


def choose(page, **files):
    """Chooses files, given as bytes or text by name; a double underscore stands for the dot."""
    page.locator("#files").set_input_files(
        [
            {
                "name": name.replace("__", "."),
                "mimeType": "",
                "buffer": content if isinstance(content, bytes) else content.encode(),
            }
            for name, content in files.items()
        ]
    )


def drop(page, name, content):
    """Drops a file on the page."""
    transfer = page.evaluate_handle(
        """([name, content]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    page.dispatch_event("#zone", "drop", {"dataTransfer": transfer})


def sent_by(page, act):
    """The tensors of the request that is sent when something is done."""
    with page.expect_response(re.compile("/embed")) as answered:
        act()
    assert answered.value.status == 200, answered.value.text()
    expect(page.locator("#result")).to_be_visible()
    return safetensors.numpy.load(answered.value.request.post_data_buffer)


def sequences_of(tensors):
    return np.split(tensors["values"], np.cumsum(tensors["lengths"])[:-1])


def vowels():
    return FILES.joinpath("vowels.csv").read_bytes()


def embed(url, tensors, **headers):
    body = safetensors.numpy.save(tensors)
    types = {"Content-Type": "application/vnd.safetensors", "Accept": "application/x-npy"}
    answer = httpx.post(f"{url}/embed", content=body, headers=types | headers)
    return np.load(io.BytesIO(answer.raise_for_status().content)).astype(np.float64)


def standardized(rows):
    return (rows - rows.mean(axis=0)) / rows.std(axis=0)


def distances_from(rows, row):
    standard = standardized(rows)
    return np.linalg.norm(standard - standard[row], axis=1)


def point_at(point):
    """Moves the mouse over a point of the map, though others may cover it."""
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    point.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def neighbours_shown(page):
    """Names and distances of the neighbours beside the map."""
    return {
        item.locator(".name").inner_text(): float(item.locator(".distance").inner_text())
        for item in page.locator("#detail li").all()
    }


def test_the_page_shows_what_is_served(vowels_page, urls):
    info = httpx.get(f"{urls['vowels']}/info").json()
    expect(vowels_page.locator("h2").first).to_have_text(info["name"])
    facts = vowels_page.locator("#facts")
    for text in (info["revision"][:16], "1.600 bits", info["kernel"], "12 channels"):
        expect(facts).to_contain_text(text)
    layers = httpx.get(f"{urls['vowels']}/info/layers").json()["layers"]
    columns = vowels_page.locator("#trits g")
    expect(columns).to_have_count(len(layers))
    for column, layer in zip(columns.all(), layers, strict=True):
        heights = [float(bar.get_attribute("height")) for bar in column.locator("rect").all()]
        np.testing.assert_allclose(np.array(heights) / sum(heights), layer["shares"], atol=1e-6)


def test_a_dropped_csv_is_a_map_whose_neighbours_are_numpys(vowels_page, urls):
    tensors = sent_by(vowels_page, lambda: drop(vowels_page, "mine.csv", vowels()))
    rows = embed(urls["vowels"], tensors)
    lines = [line.split(",") for line in vowels().decode().splitlines()[1:]]
    names = list(dict.fromkeys(line[0] for line in lines))
    written = np.array([line[2:] for line in lines], np.float64).astype(np.float32)
    assert tensors["values"].tobytes() == written.tobytes()
    points = vowels_page.locator("#map .point")
    expect(points).to_have_count(len(rows))
    hues = {point.get_attribute("style") for point in points.all()}
    assert len(hues) == 9
    for row in (17, 40):
        point_at(points.nth(row))
        expect(vowels_page.locator("#picked .name")).to_have_text(names[row])
        wanted = distances_from(rows, row)
        best = np.argsort(wanted)[1:6]
        shown = neighbours_shown(vowels_page)
        assert list(shown) == [names[i] for i in best]
        np.testing.assert_allclose(list(shown.values()), wanted[best], atol=6e-4)
        expect(vowels_page.locator("#detail svg")).to_have_count(6)


def test_the_map_is_the_first_two_principal_components(vowels_page, urls):
    rows = embed(urls["vowels"], sent_by(vowels_page, lambda: choose(vowels_page, v__csv=vowels())))
    u, s, _ = np.linalg.svd(standardized(rows), full_matrices=False)
    drawn = np.array(
        [
            [float(point.get_attribute("cx")), -float(point.get_attribute("cy"))]
            for point in vowels_page.locator("#map .point").all()
        ]
    )
    drawn -= drawn.mean(axis=0)
    wanted = u[:, :2] * s[:2]
    signs = np.sign((drawn * wanted).sum(axis=0))
    scale = np.linalg.norm(drawn) / np.linalg.norm(wanted)
    np.testing.assert_allclose(drawn, wanted * signs * scale, atol=0.02)
    share = (s[:2] ** 2).sum() / (s**2).sum()
    expect(vowels_page.locator("#map-caption")).to_contain_text(f"{100 * share:.0f}%")


ALL = "abcdefghijkl"
WRONG = [
    ("x.csv", "a,b,c\n1,2,3\n", "3 channels (a, b, c); japanese-vowels takes 12"),
    ("x.csv", "1,2\n3,4\n", "must name the columns"),
    ("x.csv", "a,b\n1,2\n1,no\n", '"no" in row 3, column "b" of x.csv'),
    ("x.csv", "a,b\n1,2\n1\n", "row 3 of x.csv has 1 cell; the header has 2"),
    ("x.csv", "a,a\n1,2\n", 'two columns named "a"'),
    ("x.csv", "id,label,a\n1,u,2\n1,v,3\n", "id 1 of x.csv has two labels: u and v"),
    ("x.csv", "note\nhello\n", "no column of numbers"),
    ("x.csv", 'a\n"1\n', "never closed"),
    ("x.csv", "", "x.csv is empty"),
    ("x.csv", "\n".join(map(",".join, (ALL, "1" * 12, [*"1" * 11, ""]))), "no value of channel l"),
    ("x.csv", "a\n1e39\n", "is 1e+39"),
    ("x.json", "[[[1, 2], [3]]]", "timestep 1 of sequence 0 of x.json is a list of 1"),
    ("x.json", '[[["1"]]]', 'holds "1"'),
    ("x.json", '{"sequences": [[[1]]], "labels": []}', "must be a list of 1"),
    ("x.json", '{"sequence": []}', 'has "sequence"'),
    ("x.json", "[[[NaN]]]", "is no JSON"),
    ("x.npy", npy(np.zeros((2, 2, 2, 2))), "has shape [2, 2, 2, 2]"),
    ("x.npy", npy(np.zeros(3))[:-1], "23 bytes after its header"),
    ("x.npy", npy(np.array(["no"])), "must be float32"),
    ("x.npy", npy(np.array([2**24 + 1])), "would round"),
    ("x.png", b"\x89PNG\r\n\x1a\n\0", "x.png is neither npy nor CSV or JSON"),
]


def test_a_wrong_file_is_told_what_is_wrong(vowels_page):
    for name, content, complaint in WRONG:
        choose(vowels_page, **{name.replace(".", "__"): content})
        expect(vowels_page.get_by_role("alert")).to_contain_text(complaint)
        expect(vowels_page.locator("#result")).to_be_hidden()


def test_what_the_service_refuses_is_told_by_the_sequences_name(browser, urls):
    long = "id," + ",".join("abcdefghijkl") + "\n" + ("short" + ",1" * 12 + "\n")
    long += ("long" + ",1" * 12 + "\n") * 61
    with opened(browser, urls["vowels"], complaints=["422"]) as page:
        choose(page, x__csv=long)
        expect(page.get_by_role("alert")).to_contain_text("equence long has 61 timesteps")
        page.get_by_label("Sequences that are too long").select_option("keep_last")
        expect(page.locator("#summary")).to_contain_text("Cut to what the model takes: 1 sequence")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_a_key_is_asked_for_and_kept_in_the_tab(browser, urls):
    with opened(browser, urls["channels"], complaints=["401"]) as page:
        expect(page.get_by_label("This service asks for an API key")).to_be_focused()
        expect(page.locator("#input")).to_be_hidden()
        give_key(page, "wrong")
        expect(page.get_by_role("alert")).to_contain_text("does not take this key")
        give_key(page, KEY)
        expect(page.locator("#wanted")).to_contain_text("any number of channels")
        expect(page.get_by_role("alert")).to_be_hidden()
        page.reload()
        expect(page.locator("#input")).to_be_visible()
        page.get_by_role("button", name="Five shapes").click()
        expect(page.locator("#summary")).to_contain_text("60 sequences of 3 channels")
        expect(page.locator("#snippets")).not_to_contain_text(KEY)


def test_a_recording_is_cut_in_windows_and_its_gaps_are_sent(channels_page):
    values = np.random.default_rng(0).standard_normal((10, 2)).round(3)
    values[4, 1] = np.nan
    cells = [["" if np.isnan(x) else str(x) for x in row] for row in values]
    lines = [";".join([f"{t}", *row, "word"]) for t, row in enumerate(cells)]
    csv = "\n".join(["time;a;b;note", *lines])
    channels_page.get_by_label("Window, in timesteps").fill("4")
    channels_page.get_by_label("Hop to the next").fill("3")
    tensors = sent_by(channels_page, lambda: choose(channels_page, r__csv=csv))
    windows = [values[start : start + 4].astype(np.float32) for start in (0, 3, 6)]
    assert tensors["lengths"].tolist() == [4, 4, 4]
    np.testing.assert_array_equal(tensors["values"], np.concatenate(windows))
    summary = channels_page.locator("#summary")
    expect(summary).to_contain_text("1 value missing")
    expect(summary).to_contain_text('"time" of r.csv is time')
    expect(summary).to_contain_text('"note" of r.csv is text')
    again = sent_by(channels_page, lambda: hop_by(channels_page, "2"))
    assert again["lengths"].tolist() == [4] * 4


def hop_by(page, hop):
    page.get_by_label("Hop to the next").fill(hop)
    page.get_by_label("Hop to the next").press("Tab")


ARRAYS = [
    np.arange(24.0).reshape(2, 4, 3),
    np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 4, 3)),
    np.arange(24, dtype=">f8").reshape(2, 4, 3),
    np.arange(-4, 4).reshape(2, 4),
    np.array([1, np.nan, 3]),
]


def test_an_npy_is_sent_as_numpy_reads_it(channels_page):
    for array in ARRAYS:
        content = npy(array)
        tensors = sent_by(
            channels_page, lambda content=content: choose(channels_page, x__npy=content)
        )
        expanded = array[None, :, None] if array.ndim == 1 else array.reshape(*array.shape[:2], -1)
        expected = expanded.astype(np.float32)
        assert tensors["lengths"].tolist() == [expected.shape[1]] * expected.shape[0]
        np.testing.assert_array_equal(tensors["values"], expected.reshape(-1, expected.shape[2]))


def test_json_and_several_files_have_their_labels(channels_page):
    labelled = '{"sequences": [[[1, null]], [[2, 3], [4, 5]]], "labels": ["up", 7]}'
    tensors = sent_by(channels_page, lambda: choose(channels_page, x__json=labelled))
    np.testing.assert_array_equal(tensors["values"], [[1, np.nan], [2, 3], [4, 5]])
    assert tensors["lengths"].tolist() == [1, 2]
    expect(channels_page.locator("#legend button")).to_have_text(["71", "up1"])
    flat = {"a__json": "[[1, 2, 3], [4]]", "b__csv": "x\n1\n2\n"}
    choose(channels_page, **flat)
    expect(channels_page.get_by_role("alert")).to_contain_text("b.csv has x, a.json has 1 channel")
    tensors = sent_by(
        channels_page, lambda: choose(channels_page, a__csv="x\n1\n", b__csv="x\n1\n2\n")
    )
    assert tensors["lengths"].tolist() == [1, 2]
    expect(channels_page.locator("#legend button")).to_have_text(["a.csv1", "b.csv1"])


def test_more_than_a_request_takes_goes_in_several(channels_page, urls):
    values = np.random.default_rng(1).standard_normal((2 * MOST + 3, 20, 3)).astype(np.float32)
    choose(channels_page, x__npy=npy(values))
    expect(channels_page.locator("#summary")).to_contain_text("In 3 requests")
    key = {"Authorization": f"Bearer {KEY}"}
    parts = [values[i : i + MOST] for i in range(0, len(values), MOST)]
    tensors = [
        {"values": p.reshape(-1, 3).copy(), "lengths": np.full(len(p), 20, np.int64)} for p in parts
    ]
    rows = np.concatenate([embed(urls["channels"], part, **key) for part in tensors])
    last = len(rows) - 1
    channels_page.locator("#map").focus()
    channels_page.keyboard.press("End")
    expect(channels_page.locator("#picked .name")).to_have_text(str(last))
    wanted = distances_from(rows, last)
    for name, distance in neighbours_shown(channels_page).items():
        assert abs(distance - wanted[int(name)]) < 6e-4


def test_a_keyboard_is_enough(vowels_page):
    page = vowels_page
    expect(page.locator("#input")).to_be_visible()
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        if "Japanese" in seen[-1]:
            break
    assert {"files", "text", "read"} <= set(seen)
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("45 sequences embedded")
    while page.evaluate("document.activeElement.id") != "map":
        page.keyboard.press("Tab")
    page.keyboard.press("PageDown")
    picked = page.locator("#map [aria-selected]")
    expect(picked).to_have_attribute("aria-label", "1, speaker 1")
    assert page.locator("#map").get_attribute("aria-activedescendant") == "point-1"
    before = float(picked.get_attribute("cx"))
    page.keyboard.press("ArrowLeft")
    expect(picked).not_to_have_attribute("id", "point-1")
    assert float(picked.get_attribute("cx")) < before
    neighbour = next(iter(neighbours_shown(page)))
    while "neighbour" not in page.evaluate("document.activeElement.className"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#picked .name")).to_have_text(neighbour)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_no_way_but_down(browser, urls, scheme):
    viewport = {"width": 360, "height": 740}
    with opened(browser, urls["vowels"], viewport=viewport, color_scheme=scheme) as page:
        page.get_by_text("How files become sequences").click()
        page.get_by_text("By layer", exact=True).click()
        page.get_by_role("button", name="Japanese vowels").click()
        expect(page.locator("#result")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        ink, paper = page.evaluate(
            "['color', 'backgroundColor'].map((name) => "
            "getComputedStyle(document.documentElement)[name])"
        )
        lightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ink, paper)]
        assert (lightness[0] > lightness[1]) == (scheme == "dark")


def test_the_code_that_the_page_shows_gives_the_same(vowels_page, urls, tmp_path):
    tensors = sent_by(vowels_page, lambda: choose(vowels_page, v__csv=vowels()))
    with vowels_page.expect_download() as download:
        vowels_page.get_by_role("link", name="batch.safetensors").click()
    download.value.save_as(tmp_path / "batch.safetensors")
    curl, python = vowels_page.locator("pre").all_inner_texts()

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    assert run(sys.executable, "-c", python).stdout == "(45, 64)\n"
    rows = embed(urls["vowels"], tensors)
    if shutil.which("curl"):
        run("sh", "-c", curl)
        assert np.array_equal(np.load(tmp_path / "embeddings.npy"), rows)


def test_behind_a_prefix_the_page_is_the_same(browser, urls):
    """As behind a proxy that serves all of it under a path of its own."""
    with browser.new_context() as context:
        page = context.new_page()
        prefixed = f"{urls['vowels']}/models/vowels"

        def forward(route):
            path = route.request.url.removeprefix(prefixed)
            route.fulfill(response=route.fetch(url=urls["vowels"] + path))

        page.route(f"{prefixed}/**", forward)
        page.goto(f"{prefixed}/")
        page.get_by_role("button", name="Japanese vowels").click()
        expect(page.locator("#map .point")).to_have_count(45)
        expect(page.locator("pre").first).to_contain_text(f"{prefixed}/embed")


def test_pasted_text_is_embedded(channels_page):
    channels_page.get_by_label("CSV or JSON as text").fill("x,y\n1,2\n3,4\n")
    act = channels_page.get_by_role("button", name="Embed text").click
    assert [part.tolist() for part in sequences_of(sent_by(channels_page, act))] == [
        [[1, 2], [3, 4]]
    ]
