"""The program `jaxgan`, as an installed package has it."""

import itertools
import re
import runpy
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers import ROOT

from jaxgan import JaxganError, __main__, __version__, cli

PROGRAM = str(Path(sysconfig.get_path("scripts")) / "jaxgan")


@pytest.fixture
def program(monkeypatch):
    """Runs the program with these words, in this process."""
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def start(*words: str, name: str = PROGRAM) -> None:
        monkeypatch.setattr(sys, "argv", [name, *words])
        __main__.run()

    return start


def test_it_lists_the_scripts(program, capsys):
    program()
    shown = capsys.readouterr().out
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"conv_gan"}
    assert set(re.findall(r"^  (\w+)", shown, re.MULTILINE)) == scripts
    assert "\n  sample       Draws images" in shown
    program("--version")
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", ["", *__main__.described()])
def test_help_fills_the_terminal(program, monkeypatch, capsys, command, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    if command:
        with pytest.raises(SystemExit, match="0"):
            program(command, "--help")
    else:
        program("--help")
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert text.startswith("usage: jaxgan")
    assert max(map(len, lines)) <= columns
    # A line of the description ends where the next word would not fit.
    for line, following in itertools.pairwise(lines):
        paragraph = line[:1].isalnum() and following[:1].isalnum()
        if paragraph or (line.startswith("- ") and following.startswith("  ")):
            assert len(f"{line} {following.split()[0]}") > columns


def test_a_wrong_command_is_answered_with_the_right_one(program):
    with pytest.raises(JaxganError, match="no command 'smaple'; did you mean sample"):
        program("smaple")


@pytest.mark.parametrize(
    ("name", "words"), [(PROGRAM, "jaxgan"), ("jaxgan/__main__.py", "python -m jaxgan")]
)
def test_a_command_names_the_next_one_as_it_was_started(
    program, name, words, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JaxganError, match=rf"train one \({words} train\)"):
        program("sample", name=name)


@pytest.mark.parametrize("is_script", [False, True])
@pytest.mark.parametrize(
    ("command", "inherited", "changed"),
    [
        ("train", signal.default_int_handler, True),
        ("train", signal.SIG_IGN, False),
        ("sample", signal.default_int_handler, False),
    ],
)
def test_ctrl_c_ends_at_once_only_what_has_nothing_to_remove(
    is_script, command, inherited, changed, monkeypatch
):
    calls = []
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    monkeypatch.setattr(signal, "getsignal", lambda _: inherited)
    monkeypatch.setattr(signal, "signal", lambda *call: calls.append(call))
    monkeypatch.setattr(cli, "main", lambda _: None)
    monkeypatch.setattr(sys, "argv", [PROGRAM, command])
    if is_script:
        runpy.run_path(str(ROOT / "scripts" / f"{command}.py"), run_name="__main__")
    else:
        __main__.main()
    assert calls == [(signal.SIGINT, signal.SIG_DFL)] * changed


def test_the_installed_program_runs_a_command(tmp_path):
    done = subprocess.run(
        [PROGRAM, "sample"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: there is no run in runs/: train one (jaxgan train)")
