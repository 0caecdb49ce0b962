"""How many processors the engine takes for its own."""

import pytest

from tritserve.model.environment import available_processors

V1 = "33 31 0:30 {shown} /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
V2 = "41 31 0:38 {shown} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
OTHERS = [
    "23 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset",
]


@pytest.fixture(autouse=True)
def _four_processors(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 4, 6})


@pytest.fixture
def machine(tmp_path):
    """Makes the files of a machine; quotas by the folder of their group below /sys/fs/cgroup."""

    def make(own, mount, shown="/", quotas=()):
        proc = tmp_path / "proc/self"
        proc.mkdir(parents=True)
        proc.joinpath("cgroup").write_text(f"3:cpuset:/elsewhere\n{own}\n")
        mounts = [*OTHERS, mount.format(shown=shown)]
        proc.joinpath("mountinfo").write_text("\n".join(mounts) + "\n")
        for group, quota in dict(quotas).items():
            folder = tmp_path / "sys/fs/cgroup" / group
            folder.mkdir(parents=True, exist_ok=True)
            if "cpuacct" in group:
                for name, value in zip(("quota", "period"), quota.split(), strict=True):
                    folder.joinpath(f"cpu.cfs_{name}_us").write_text(value + "\n")
            else:
                folder.joinpath("cpu.max").write_text(quota + "\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("quota", "processors"),
    [
        ("150000 100000", 1),
        ("350000 100000", 3),
        ("50000 100000", 1),
        ("900000 100000", 4),
        ("max 100000", 4),
        ("", 4),
        ("many each", 4),
        ("100000 0", 4),
        ("100000", 4),
    ],
)
def test_processors_are_those_of_the_control_group(machine, quota, processors):
    assert available_processors(machine("0::/", V2, quotas={".": quota})) == processors


@pytest.mark.parametrize(("quota", "processors"), [("200000 100000", 2), ("-1 100000", 4)])
def test_a_quota_of_version_1_counts(machine, quota, processors):
    root = machine("1:cpu,cpuacct:/", V1, quotas={"cpu,cpuacct": quota})
    assert available_processors(root) == processors


@pytest.mark.parametrize("least", ["", "system.slice", "system.slice/mine.service"])
def test_the_least_quota_of_all_groups_above_the_process_counts(machine, least):
    quotas = dict.fromkeys(("system.slice", "system.slice/mine.service"), "300000 100000")
    # A neighbour's is not ours.
    quotas |= {"system.slice/other.service": "100000 100000", least: "200000 100000"}
    root = machine("0::/system.slice/mine.service", V2, quotas=quotas)
    assert available_processors(root) == 2


@pytest.mark.parametrize("least", ["", "a", "a/b"])
def test_groups_of_version_1_are_nested_too(machine, least):
    top = "cpu,cpuacct"
    quotas = {top: "-1 100000", f"{top}/a": "300000 100000", f"{top}/a/b": "-1 100000"}
    root = machine("1:cpuacct,cpu:/a/b", V1, quotas=quotas | {f"{top}/{least}": "200000 100000"})
    assert available_processors(root) == 2


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        # Docker shows a container its own group as the topmost.
        ("/docker/4bf9", "/docker/4bf9"),
        ("/docker/4bf9/init", "/docker/4bf9"),
        # In a control group namespace, the process may be beside what is mounted.
        ("/", "/../4bf9"),
        ("/../4bf9", "/"),
    ],
)
def test_a_container_sees_only_a_part_of_the_groups(machine, own, shown):
    quotas = {".": "200000 100000", "docker/4bf9": "100000 100000"}
    assert available_processors(machine(f"0::{own}", V2, shown, quotas)) == 2


def test_where_control_groups_are_mounted_may_hold_a_space(machine):
    mount = V2.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/my\040own\134groups")
    root = machine("0::/a", mount, quotas={r"my own\groups/a": "200000 100000"})
    assert available_processors(root) == 2


def test_the_group_that_is_shown_may_have_a_space_in_its_name(machine):
    root = machine("0::/my own/part", V2, r"/my\040own", {"part": "200000 100000"})
    assert available_processors(root) == 2


def test_without_control_groups_it_is_the_affinity(tmp_path, machine):
    assert available_processors(tmp_path) == 4
    assert available_processors(machine("0::/gone", V2)) == 4
