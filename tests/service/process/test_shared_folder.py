"""The folder that several workers count in, where others start at the same time."""

import tempfile

from tritserve.service.process.shared_folder import shared_folder


def test_a_folder_that_another_supervisor_took_for_abandoned_is_made_again(monkeypatch, tmp_path):
    make = tempfile.mkdtemp
    removed = []

    def make_as_another_starts(**arguments):
        folder = make(**arguments)
        monkeypatch.setattr(tempfile, "mkdtemp", make)
        with shared_folder():
            # It finds the new folder, which nobody has locked yet.
            removed.append(folder)
        return folder

    monkeypatch.setattr("tritserve.service.process.shared_folder.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(tempfile, "mkdtemp", make_as_another_starts)
    with shared_folder() as folder:
        assert str(folder) not in removed
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []
