"""A quick start: compiled programs in the user's cache folder, as processes find it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_resume import kill_resume
from test_scripts import contents, script

TWO_PROGRAMS = """
import jax
from jaxgan import cli
cli.keep_programs()
print(*(jax.jit(f)(1.0) for f in (jax.numpy.sin, jax.numpy.cos)))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the processes of this test keep their programs."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jaxgan" / "compiled"


def compile_two_programs() -> None:
    """In a process that must say nothing else."""
    done = subprocess.run([sys.executable, "-c", TWO_PROGRAMS], capture_output=True, check=True)
    assert done.stdout.startswith(b"0.84")
    assert done.stderr == b""


def test_programs_are_compiled_once_and_the_runs_are_equal_to_the_bit(folder, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((8, 2, 2), np.uint8))
    options = ["--dataset", tmp_path / "images.npy", "--epochs", 1, "--generator-widths", 2]
    options += ["--discriminator-widths", 2, "--discriminator-dropout", 0.5]
    script("train.py", *options, "--workdir", tmp_path / "cold")
    programs = contents(folder)
    assert any("compiled_steps" in path.name for path in programs)
    script("train.py", *options, "--workdir", tmp_path / "warm")
    assert contents(folder) == programs
    assert kill_resume.differences(tmp_path / "warm", tmp_path / "cold") == []


def test_damaged_programs_are_compiled_anew(folder):
    compile_two_programs()
    programs = contents(folder)
    assert len(programs) >= 2
    for path in programs:
        path.write_bytes(programs[path][:100])
    compile_two_programs()
    assert contents(folder).keys() == programs.keys()
    assert all(len(content) > 100 for content in contents(folder).values())


def test_what_was_kept_for_a_month_is_forgotten(folder):
    old, new = (folder / f"jit_{age}-cache" for age in ("old", "new"))
    folder.mkdir(parents=True)
    for path, days in ((old, 31), (new, 29)):
        path.write_text("")
        os.utime(path, (0, time.time() - days * 86400))
    compile_two_programs()
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("place", ["/proc/self", "/dev/null"])
def test_where_nothing_can_be_kept_nothing_is_said(folder, place):
    # No files can be made there, not even by root, whom permissions do not stop.
    folder.parent.mkdir(parents=True)
    folder.symlink_to(place)
    compile_two_programs()


def test_a_folder_that_the_user_has_chosen_is_left_as_it_is(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "chosen"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1000")
    compile_two_programs()
    assert not any((tmp_path / "chosen").iterdir())
    assert not folder.exists()
