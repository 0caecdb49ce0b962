"""The built distributions, installed where a user has a `model.py` and a `service` of their own."""

import fcntl
import subprocess
import sys
import sysconfig
import tomllib
from contextlib import ExitStack, chdir
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from packaging.requirements import Requirement

from tests.builders import ROOT
from tests.end_to_end.server import serving
from tritserve.service.page.routes import FILES

PACKAGES = Path(sysconfig.get_path("purelib"))
OWN = {"model.py": "class Net: ...\n", "service/__init__.py": "OWN = True\n"}
PRELUDE = "import model, service; assert model.Net and service.OWN\n"


def run(*command, **options):
    made = subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def pip(*arguments):
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


def built(source, folder):
    """The wheel of a source tree, made with the build tools of this environment."""
    # Workers of this suite share the build folder, and with it what is compiled.
    with (ROOT / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.iterdir()
    return wheel


class Place:
    """A fresh virtual environment with a wheel.

    A user's own modules are in it, and in the folder in which commands run.
    """

    def __init__(self, folder, wheel):
        self.wheel = wheel
        self.work = folder / "work"
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        self.bin = folder / "venv" / "bin"
        (self.site,) = folder.glob("venv/lib/python3*/site-packages")
        for base in (self.work, self.site):
            for name, text in OWN.items():
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                (base / name).write_text(text)
        pip("--python", self.bin / "python", "install", "--no-deps", "--no-index", wheel)

    def files(self):
        """What the wheel holds, but for what tells of it."""
        names = ZipFile(self.wheel).namelist()
        return {name for name in names if ".dist-info/" not in name}

    def python(self, code, *arguments):
        return run(self.bin / "python", "-c", PRELUDE + code, *arguments, cwd=self.work)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The main wheel, with this environment's packages."""
    place = Place(tmp_path_factory.mktemp("main"), built(ROOT, tmp_path_factory.mktemp("wheel")))
    # The `.pth` files of that folder do not count, and with them no editable tritserve.
    (place.site / "packages.pth").write_text(str(PACKAGES))
    return place


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    """The client's wheel, with the packages that it requires and no others."""
    wheel = built(ROOT / "client", tmp_path_factory.mktemp("wheel"))
    place = Place(tmp_path_factory.mktemp("client"), wheel)
    (metadata,) = place.site.glob("tritserve_client-*.dist-info/METADATA")
    fields = [line.partition(": ") for line in metadata.read_text().splitlines()]
    wanted = [value for field, _, value in fields if field == "Requires-Dist"]
    for name in closure(wanted):
        files = distribution(name).files
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            (place.site / top).symlink_to(PACKAGES / top)
    return place


def closure(wanted):
    """The names of the distributions that requirements bring, without extras."""
    names, wanted = set(), [*wanted]
    while wanted:
        requirement = Requirement(wanted.pop())
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and requirement.name not in names:
            names.add(requirement.name)
            wanted += distribution(requirement.name).requires or []
    return names


@pytest.fixture(scope="module")
def url(whole, tmp_path_factory):
    """A service of the main wheel, started in the user's folder."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ExitStack() as stack:
        with chdir(whole.work):
            url, _ = stack.enter_context(serving(python=whole.bin / "python", log=log))
        yield url


EMBED = """
import sys, numpy as np
from tritserve import Client
with Client(sys.argv[1]) as client:
    np.save(sys.argv[2], client.embed([np.full((n, 12), n, np.float32) for n in (5, 9)]))
"""


def test_a_wheel_holds_one_name_and_no_native_source(whole, slim):
    for place in (whole, slim):
        assert {name.split("/")[0] for name in place.files()} == {"tritserve"}
        assert "tritserve/py.typed" in place.files()
    sources = {".cpp", ".hpp", ".txt"}
    assert not [name for name in whole.files() if Path(name).suffix in sources]
    assert "tritserve/model/pretrained/japanese-vowels.safetensors" in whole.files()
    page = {f"tritserve/service/page/files/{path.name}" for path in FILES.iterdir()}
    assert len(page) > 5
    assert page <= whole.files()
    assert any(Path(name).name.startswith("_native.") for name in whole.files())
    assert slim.wheel.name.endswith("-py3-none-any.whl")


def test_installing_changes_no_module_of_the_user(whole, slim):
    for place in (whole, slim):
        for name, text in OWN.items():
            assert (place.site / name).read_text() == text


def test_engine_client_commands_and_server_work_beside_the_users_modules(whole, url):
    whole.python(EMBED, url, "rows.npy")
    engine = """
import numpy as np, tritserve
from tritserve import Engine
from tritserve.model.pretrained import DEFAULT_MODEL
assert "site-packages" in tritserve.__file__
values = np.concatenate([np.full((n, 12), n, np.float32) for n in (5, 9)])
rows = Engine.load(DEFAULT_MODEL).embed(values, np.array([5, 9]))
assert rows.tobytes() == np.load("rows.npy").tobytes()
"""
    whole.python(engine)
    np.save(whole.work / "series.npy", np.full((1, 5, 12), 5, np.float32))
    for command in ([whole.bin / "tritserve"], [whole.bin / "python", "-m", "tritserve"]):
        assert "japanese-vowels" in run(*command, "inspect", cwd=whole.work)
        run(*command, "embed", "series.npy", "embedded.npy", cwd=whole.work)
        embedded = np.load(whole.work / "embedded.npy")
        assert embedded.tobytes() == np.load(whole.work / "rows.npy")[:1].tobytes()
        (whole.work / "embedded.npy").unlink()


def test_the_client_embeds_with_three_packages(whole, slim, url):
    slim.python("import importlib.util as i; assert not i.find_spec('pydantic')")
    slim.python(EMBED, url, "rows.npy")
    whole.python(EMBED, url, "rows.npy")
    assert (slim.work / "rows.npy").read_bytes() == (whole.work / "rows.npy").read_bytes()


def test_the_errors_to_catch_are_names_of_tritserve(whole, slim):
    code = """
from tritserve import ModelChangedError, RequestError, SequenceError
try:
    raise RequestError(422, "invalid", "no", {})
except (ModelChangedError, RequestError, SequenceError) as error:
    print(error)
"""
    for place in (whole, slim):
        assert place.python(code) == "422 invalid: no\n"


def test_what_is_not_in_the_client_says_what_to_install(slim):
    told = """
try:
    from tritserve import Engine
except ImportError as error:
    print(error)
"""
    assert "for all of tritserve: pip uninstall tritserve-client, then" in slim.python(told)


def test_the_client_holds_what_it_imports_and_nothing_else(slim):
    code = """
import sys
from tritserve import Client
print(*(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "tritserve"))
"""
    imported = {str(Path(path).relative_to(slim.site)) for path in slim.python(code).split()}
    assert imported == slim.files() - {"tritserve/py.typed"}


def test_both_distributions_are_of_one_version_and_license():
    main, client = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        for folder in (".", "client")
    )
    assert main["version"] == client["version"]
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "client" / "LICENSE").read_bytes()
    bounds = {Requirement(text).name: text for text in main["dependencies"]}
    assert client["dependencies"] == [bounds[Requirement(t).name] for t in client["dependencies"]]
