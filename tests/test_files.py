import os
from pathlib import Path

import pytest

from jaxgan import JaxganError, files, processes
from jaxgan.files import (
    cache_folder,
    check_new_folder,
    check_writable,
    disk_errors,
    new_folder,
    write_atomically,
)


@pytest.mark.parametrize("url", ["gs://bucket/run", "https://host/a.png", "s3://bucket"])
def test_a_url_is_no_path(url):
    with pytest.raises(JaxganError, match="is a URL, and jaxgan reads and writes local files only"):
        files.expand(url)


def test_write_atomically_writes_text_and_bytes_and_nothing_beside_them(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    assert path.read_text() == "old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_write_atomically_keeps_the_old_file_if_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 3)  # pyright: ignore[reportArgumentType]
    assert path.read_text() == "old"
    write_atomically(path, "old again")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old again"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_check_writable_makes_the_folder_and_leaves_no_file(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    check_writable(path)
    assert not list(path.parent.iterdir())
    path.write_text("old")
    check_writable(path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["folder", "file/inside"])
def test_check_writable_refuses_a_folder_and_a_file_in_a_file(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxganError, match=f"cannot write to .*{name}: "):
        check_writable(tmp_path / name)


# tensorstore reports a full disk as ValueError, Orbax's threads as RuntimeError.
@pytest.mark.parametrize("error", [OSError, ValueError, RuntimeError])
def test_errors_of_the_disk_become_one_line(error):
    with (
        pytest.raises(JaxganError, match=r"there: No space .*\. All is well\. Make"),
        disk_errors(Path("there"), "All is well. "),
    ):
        raise error("No space left on device\nand more lines")
    with pytest.raises(JaxganError, match=f"there: {error.__name__}"), disk_errors(Path("there")):
        raise error


def test_a_folder_in_the_place_of_a_file_asks_for_another_path(tmp_path):
    message = f"cannot write to {tmp_path}: .*directory.* Choose another path, or"
    with pytest.raises(JaxganError, match=message), disk_errors(tmp_path):
        write_atomically(tmp_path, "text")
    assert list(tmp_path.parent.glob(".*partial*")) == []


def test_a_lack_of_threads_is_no_full_disk():
    with (
        pytest.raises(JaxganError, match=r"new thread\. If the system has run out"),
        disk_errors(Path("there")),
    ):
        raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("error", [JaxganError("mine"), TypeError("no error of the disk")])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error), match=str(error)), disk_errors(Path("there")):
        raise error


def test_the_loss_of_another_process_is_no_error_of_the_disk(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    assert files.is_lost_process(RuntimeError("Gloo: connection closed"))
    with pytest.raises(RuntimeError, match="Gloo"), disk_errors(Path("there")):
        raise RuntimeError("Gloo: connection closed")


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("compiled") == tmp_path / "jaxgan" / "compiled"
    # The standard ignores relative paths.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for platform, place in (("linux", ".cache"), ("darwin", "Library/Caches")):
        monkeypatch.setattr("sys.platform", platform)
        assert cache_folder("features") == tmp_path / "home" / place / "jaxgan" / "features"


def test_without_a_home_there_is_no_cache(monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert cache_folder("compiled") is None


def test_a_new_folder_appears_when_it_is_complete(tmp_path):
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "a").read_text() == "a"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]

    def write_half() -> None:
        with new_folder(tmp_path / "second") as folder:
            (folder / "a").write_text("a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_new_folder_takes_the_place_of_an_empty_one_only(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("nothing")
    for name in ("empty", "link", "dangling", "new"):
        check_new_folder(tmp_path / name)
    with new_folder(tmp_path / "link") as folder:
        (folder / "a").touch()
    assert (tmp_path / "empty" / "a").exists()
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(JaxganError, match="empty is not empty"):
        check_new_folder(tmp_path / "link")
    with pytest.raises(JaxganError, match="a is a file"):
        check_new_folder(tmp_path / "empty" / "a")
    with pytest.raises(JaxganError, match="cannot write to"):
        check_new_folder(tmp_path / "empty" / "a" / "out")
    with pytest.raises(OSError), new_folder(tmp_path / "link"):  # noqa: PT011
        pass
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a"]
