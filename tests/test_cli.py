"""A quick start: compiled programs in the user's cache folder, as processes find it."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import ROOT, contents, here, read_terminal, script

from jaxgan import JaxganError, cli
from jaxgan.commands import diagnose
from jaxgan.errors import LostProcessError, NonFiniteError

sys.path.insert(0, str(ROOT / "benchmarks"))

import kill_resume

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
    """In a process that must print nothing else."""
    done = subprocess.run([sys.executable, "-c", TWO_PROGRAMS], capture_output=True, check=True)
    assert done.stdout.startswith(b"0.84")
    assert done.stderr == b""


def test_programs_are_compiled_once_and_the_runs_are_equal_to_the_bit(folder, tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((8, 2, 2), np.uint8))
    options = ["--dataset", tmp_path / "images.npy", "--epochs", 2, "--generator-widths", 2]
    options += ["--discriminator-widths", 2, "--discriminator-dropout", 0.5, "--no-evaluate"]
    out, err = script("train.py", *options, "--workdir", tmp_path / "cold")
    # A line for each epoch where there is no terminal, and nothing to worry about.
    assert len([line for line in out.splitlines() if line.startswith("epoch ")]) == 2
    assert not err
    programs = contents(folder)
    assert any("compiled_steps" in path.name for path in programs)
    script("train.py", *options, "--workdir", tmp_path / "warm")
    assert contents(folder) == programs
    assert kill_resume.differences(tmp_path / "warm", tmp_path / "cold") == []


def test_damaged_programs_are_compiled_anew_and_old_ones_removed(folder):
    old, new = (folder / f"jit_{age}-cache" for age in ("old", "new"))
    folder.mkdir(parents=True)
    for path, days in ((old, 31), (new, 29)):
        path.write_text("")
        os.utime(path, (0, time.time() - days * 86400))
    compile_two_programs()
    assert (old.exists(), new.exists()) == (False, True)
    new.unlink()
    programs = contents(folder)
    assert len(programs) >= 2
    for path in programs:
        path.write_bytes(programs[path][:100])
    compile_two_programs()
    assert contents(folder).keys() == programs.keys()
    assert all(len(content) > 100 for content in contents(folder).values())


def test_a_folder_that_takes_no_files_is_passed_over_in_silence(folder):
    # Nobody can make files there, not even root.
    folder.parent.mkdir(parents=True)
    folder.symlink_to("/proc/self")
    compile_two_programs()


@pytest.fixture
def settings():
    """The settings of jax that a script may change; they are restored afterwards."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_folder_that_cannot_be_made_changes_no_setting(folder, settings):
    folder.parent.mkdir(parents=True)
    folder.symlink_to("/dev/null")
    jax.config.update("jax_compilation_cache_dir", None)
    cli.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_is_made_for_its_user_alone(folder, settings):
    jax.config.update("jax_compilation_cache_dir", None)
    cli.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o702])
def test_a_folder_to_which_others_may_write_is_not_used(folder, settings, mode):
    folder.mkdir(parents=True)
    folder.chmod(mode)
    jax.config.update("jax_compilation_cache_dir", None)
    with pytest.warns(UserWarning, match="other users own .* or can write to it; run chmod 700"):
        cli.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_the_user_has_chosen_stays(folder, settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1000.0)
    cli.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "chosen")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 1000
    assert not folder.exists()


@pytest.fixture
def main(monkeypatch):
    """Runs `cli.main`, without its settings for the whole process: the exit status."""
    monkeypatch.setattr(cli, "quieten", lambda: None)
    monkeypatch.setattr(cli, "keep_programs", lambda: None)

    def run(error: BaseException | None = None, returns: int | None = None) -> int:
        def body() -> int | None:
            if error is not None:
                raise error
            return returns

        with pytest.raises(SystemExit) as end:
            cli.main(body)
        return end.value.code

    return run


@pytest.mark.parametrize(
    ("error", "status"), [(JaxganError("no data"), 2), (NonFiniteError("diverged"), 3)]
)
def test_an_error_of_the_user_is_one_line(main, capsys, error, status):
    assert main(error) == status
    assert capsys.readouterr().err == f"error: {error}\n"


def test_the_status_is_that_of_the_script(main):
    assert main() == 0
    assert main(returns=5) == 5
    assert main(KeyboardInterrupt()) == 130


@pytest.mark.parametrize(("chosen", "value"), [(None, "false"), ("true", "true")])
def test_a_script_takes_the_memory_of_a_gpu_as_it_needs_it(main, monkeypatch, chosen, value):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, chosen or "")  # the variable is restored after the test
    if chosen is None:
        monkeypatch.delenv(name)
    main()
    assert os.environ[name] == value


def test_control_characters_are_shown_and_not_sent_to_the_terminal(main, capsys):
    main(JaxganError("no \x1b]0;title\x07 \x1b[2J \x9b, but \x1b[31mred\x1b[m"))
    shown = r"no \x1b]0;title\x07 \x1b[2J \x9b, but " + "\x1b[31mred\x1b[m\n"
    assert capsys.readouterr().err == f"error: {shown}"


@pytest.mark.parametrize(("variable", "colours"), [("NO_COLOR", False), ("NOTHING", True)])
def test_help_has_colours_unless_the_user_wants_none(monkeypatch, terminal, variable, colours):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in (("TERM", "xterm"), (variable, "1")):
        monkeypatch.setenv(name, value)
    master, slave = terminal
    with (
        os.fdopen(slave, "w") as stream,
        contextlib.redirect_stdout(stream),
        pytest.raises(SystemExit, match="0"),
    ):
        cli.parse(diagnose.Options, ["--help"])
    shown = read_terminal(master)
    assert b"usage" in shown
    assert (b"\x1b[" in shown) == colours


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(cli, "quieten", lambda: None)
    monkeypatch.setattr(cli, "keep_programs", lambda: None)

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.main(fail)


def test_a_lost_process_ends_at_once(main, monkeypatch, capsys):
    class EndedError(Exception):
        pass

    def end(status):
        raise EndedError(status)

    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(EndedError, match="4"):
        main(LostProcessError("gone"))
    assert capsys.readouterr().err == "error: gone\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss", "wgan"], "--loss has no value 'wgan'; did you mean wasserstein? It takes"),
        (["--loss=hing"], "--loss has no value 'hing'; did you mean hinge? It takes"),
        (["--loss", "foo"], "--loss has no value 'foo'. It takes non_saturating, minimax"),
        (["--preset", "Large"], "--preset has no value 'Large'; did you mean large? It takes"),
        (["--precision", "bfloat16"], "did you mean bf16? It takes f32, bf16"),
        (["--learning-rate", "1e-3"], "no --learning-rate: use --generator-lr and --discrim"),
        (["--tensorboard"], "there is no --tensorboard: use --log"),
        (["--log", "wandb,mlflow"], "--log has no value 'wandb,mlflow'; did you mean mlflow? It"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(words, message):
    _, err = here("train.py", *words, status=2)
    assert err.startswith("error: ")
    assert message in err


def test_an_option_without_default_has_its_values_too():
    _, err = here("sample.py", "--sampler", "dmp_solver", status=2)
    assert "--sampler has no value 'dmp_solver'; did you mean dpm_solver? It takes ances" in err
