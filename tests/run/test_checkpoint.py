import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_trees_equal, contents

from jaxgan import JaxganError, create_state
from jaxgan.files import partial_path
from jaxgan.run import checkpoint
from jaxgan.run.checkpoint import KEEP, Checkpoint, RunFolder, read_config, restore, restore_step

CONFIG = {"jaxgan": "0.5.0", "gan": {"widths": (3, 4), "lr": 0.1}, "train": {"epochs": 5}}


@pytest.fixture
def state():
    """A small tree: a checkpoint takes any."""
    weights = jax.random.normal(jax.random.key(0), (5, 3))
    return {"weights": weights, "half": weights.astype(jnp.bfloat16), "step": jnp.int32(0)}


def saved(path: Path, state, steps) -> list[Checkpoint]:
    """A folder with a checkpoint for each of the steps; gives what was saved."""
    folder = RunFolder(path, CONFIG)
    checkpoints = []
    for step in steps:
        arrays = jax.tree.map(lambda x, step=step: x + jnp.asarray(step, x.dtype), state)
        checkpoints.append(Checkpoint(arrays, {"step": step, "history": [0.1, step]}))
        folder.save(step, checkpoints[-1])
    folder.close()
    return checkpoints


def data_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that are needed to read it."""
    names = ("_CHECKPOINT_METADATA", "commit_success.txt")
    return [file for file in folder.rglob("*") if file.is_file() and file.name not in names]


def test_what_is_saved_comes_back_to_the_bit(tmp_path, tiny):
    state = create_state(jax.random.key(0), tiny)
    expected = saved(tmp_path / "run", state, [7])[0]
    folder = RunFolder(tmp_path / "run", CONFIG)
    found = folder.restore(Checkpoint(state, None))
    folder.close()
    assert found is not None
    assert_trees_equal(found.arrays, expected.arrays)
    assert found.record == expected.record


def test_last_three_are_kept(tmp_path, state):
    saved(tmp_path, state, [1, 2, 3, 4, 5])
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [3, 4, 5]
    assert KEEP == 3


def test_the_best_is_kept_beside_them_until_there_is_a_better_one(tmp_path, state):
    def kept():
        return sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())

    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2), (6, 2)):
        # Each in a process of its own, as far as the folder can tell.
        folder = RunFolder(tmp_path, CONFIG)
        folder.save(step, Checkpoint(state, {"step": step}), best)
        folder.close()
    assert kept() == [2, 4, 5, 6]
    assert restore_step(tmp_path, 2, Checkpoint(state, None)).record == {"step": 2}
    folder = RunFolder(tmp_path, CONFIG)
    for step, best in ((7, 7), (8, 7)):
        folder.save(step, Checkpoint(state, {}), best)
    folder.close()
    assert kept() == [6, 7, 8]


def test_one_checkpoint_that_cannot_be_used_is_an_error(tmp_path, state):
    saved(tmp_path, state, [1, 2])
    like = Checkpoint(state, None)
    with pytest.raises(JaxganError, match="3 cannot be used: it does not exist"):
        restore_step(tmp_path, 3, like)
    file = next((tmp_path / "checkpoints" / "1").rglob("d/*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(JaxganError, match=r"1 cannot be used: .* has changed"):
        restore_step(tmp_path, 1, like)
    with pytest.raises(JaxganError, match="2 cannot be used"):
        restore_step(tmp_path, 2, Checkpoint({"another": jnp.zeros(3)}, None))
    for more in (jnp.zeros(3), np.zeros(3)):
        with pytest.raises(JaxganError, match="2 cannot be used: it lacks some of the arrays"):
            restore_step(tmp_path, 2, Checkpoint({**state, "another": more}, None))


def test_saving_is_safe_while_the_state_is_donated(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    # Large, so that the save is still under way when the steps begin.
    state = {"weights": jnp.arange(2_000_000.0)}
    expected = jax.tree.map(np.array, state)
    folder = RunFolder(tmp_path, CONFIG)
    folder.save(1, Checkpoint(state, None))
    for _ in range(20):
        before, state = state, step(state)
    assert before["weights"].is_deleted()
    folder.close()
    found = restore(tmp_path, Checkpoint(state, None))
    assert found is not None
    assert_trees_equal(found[0].arrays, expected)


def test_an_empty_folder_has_nothing_to_restore(tmp_path, state):
    folder = RunFolder(tmp_path / "deep" / "run", CONFIG)
    assert folder.restore(Checkpoint(state, None)) is None
    folder.close()


@pytest.mark.parametrize("damage", ["delete", "truncate", "empty", "flip a bit"])
def test_any_damage_to_any_file_of_the_newest_is_seen(tmp_path, state, damage):
    checkpoints = saved(tmp_path / "whole", state, [1, 2])
    names = [
        f.relative_to(tmp_path / "whole") for f in data_files(tmp_path / "whole/checkpoints/2")
    ]
    assert len(names) > 8
    for i, name in enumerate(names):
        run = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", run)
        content = bytearray((run / name).read_bytes())
        if damage == "delete":
            (run / name).unlink()
        elif damage == "truncate":
            (run / name).write_bytes(content[: len(content) // 2])
        elif damage == "empty":
            (run / name).write_bytes(b"")
        else:
            content[len(content) // 2] ^= 1
            (run / name).write_bytes(content)
        folder = RunFolder(run, CONFIG)
        with pytest.warns(UserWarning, match=r"checkpoints/2 cannot be used and is skipped: .+"):
            found = folder.restore(Checkpoint(state, None))
        assert found is not None
        assert_trees_equal(found.arrays, checkpoints[0].arrays)
        assert checkpoint.steps(run) == [1]
        assert (run / "damaged" / "2").is_dir()
        if i == 0:  # the folder is in the same state for every file
            # The run continues from there, and saves the same step again.
            folder.save(2, checkpoints[1])
            folder.wait()
            again = restore(run, Checkpoint(state, None))
            assert again is not None
            assert again[1] == 2
            assert_trees_equal(again[0].arrays, checkpoints[1].arrays)
        folder.close()


def test_all_damaged_is_an_error_that_changes_nothing(tmp_path, state):
    saved(tmp_path, state, [1, 2, 3])
    for step in (1, 2, 3):
        for file in data_files(tmp_path / "checkpoints" / str(step)):
            file.write_bytes(file.read_bytes()[:5])
    before = contents(tmp_path)
    folder = RunFolder(tmp_path, CONFIG)
    with (
        pytest.warns(UserWarning, match="cannot be used and is skipped"),
        pytest.raises(JaxganError, match=r"no checkpoint in .* can be used; nothing was changed"),
    ):
        folder.restore(Checkpoint(state, None))
    folder.close()
    assert contents(tmp_path) == before


def test_unfinished_saves_are_skipped(tmp_path, state):
    expected = saved(tmp_path, state, [1])[0]
    # As a kill leaves it: Orbax gives a step this name until it is complete.
    shutil.copytree(
        tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    )
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "arrays" / "_METADATA").unlink()
    folder = RunFolder(tmp_path, CONFIG)
    found = folder.restore(Checkpoint(state, None))
    assert found is not None
    assert_trees_equal(found.arrays, expected.arrays)
    folder.save(2, expected)
    folder.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_another_config_is_refused_by_its_fields(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    before = (tmp_path / "config.json").read_bytes()
    gan = {"widths": (3, 5), "lr": 0.1, "more": 1}
    changed = CONFIG | {"gan": gan, "train": {"epochs": 6}}
    with pytest.raises(JaxganError) as error:
        RunFolder(tmp_path, changed, frozenset(["train.epochs"]))
    for field in ("gan.widths: [3, 4] -> [3, 5]", "gan.more: None -> 1", "choose another"):
        assert field in str(error.value)
    assert "epochs" not in str(error.value)
    assert (tmp_path / "config.json").read_bytes() == before


def test_free_fields_may_change_and_are_written(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    longer = CONFIG | {"train": {"epochs": 9}}
    RunFolder(tmp_path, longer, frozenset(["train.epochs"])).close()
    assert read_config(tmp_path)["train"]["epochs"] == 9


@pytest.mark.parametrize("version", ["0.3.9", "0.4.9", "1.4.0"])
def test_a_folder_of_another_minor_version_is_refused(tmp_path, version):
    RunFolder(tmp_path, CONFIG | {"jaxgan": version}).close()
    before = contents(tmp_path)
    with pytest.raises(JaxganError) as error:
        RunFolder(tmp_path, CONFIG, frozenset(["jaxgan"]))
    for part in (f"was written by jaxgan {version}", "jaxgan 0.5.0 cannot", "another --workdir"):
        assert part in str(error.value)
    assert contents(tmp_path) == before


def test_a_folder_of_another_patch_version_is_taken(tmp_path):
    RunFolder(tmp_path, CONFIG | {"jaxgan": "0.5.7"}).close()
    RunFolder(tmp_path, CONFIG, frozenset(["jaxgan"])).close()
    assert read_config(tmp_path)["jaxgan"] == "0.5.0"


def test_a_folder_in_use_is_refused(tmp_path):
    holder = RunFolder(tmp_path, CONFIG)
    with pytest.raises(JaxganError, match="in use by another process"):
        RunFolder(tmp_path, CONFIG)
    holder.close()
    RunFolder(tmp_path, CONFIG).close()
    holder.close()  # twice is no error


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    with pytest.raises(JaxganError, match=r"not a run folder.*thesis"):
        RunFolder(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]
    with pytest.raises(JaxganError, match="not a run folder"):
        read_config(tmp_path)
    (tmp_path / "thesis").rmdir()
    # But a log may be there before the run.
    (tmp_path / "log.txt").write_text("epoch 1")
    RunFolder(tmp_path, CONFIG).close()
    assert (tmp_path / "log.txt").read_text() == "epoch 1"


def test_files_that_a_kill_leaves_before_the_config_are_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text("")
    partial_path(tmp_path / "config.json").write_text('{"gan":')
    RunFolder(tmp_path, CONFIG).close()
    assert read_config(tmp_path)["gan"]["lr"] == 0.1
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json"}


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints", "damaged", "samples", ".lock"])
def test_a_link_in_place_of_a_part_of_the_folder_is_refused(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    RunFolder(tmp_path / "run", CONFIG).close()
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "run" / name).symlink_to(elsewhere)
    with pytest.raises(JaxganError, match=f"{name} is a link"):
        RunFolder(tmp_path / "run", CONFIG)
    assert not list(elsewhere.iterdir())


def test_a_folder_that_is_removed_or_replaced_is_no_place_to_save(tmp_path, state):
    for again in (False, True):
        folder = RunFolder(tmp_path / "run", CONFIG)
        folder.check_present()
        shutil.rmtree(folder.path)
        if again:
            RunFolder(folder.path, CONFIG).close()
        with pytest.raises(JaxganError, match="was removed or replaced"):
            folder.save(1, Checkpoint(state, None))
        folder.close()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_copied_checkpoint_is_not_taken_for_a_later_one(tmp_path, state):
    saved(tmp_path, state, [1, 2])
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(checkpoints / "2", checkpoints / "999")
    folder = RunFolder(tmp_path, CONFIG)
    with pytest.warns(UserWarning, match="999 .*it is a copy of the checkpoint of step 2"):
        assert folder.restore(Checkpoint(state, None)) is not None
    assert (tmp_path / "damaged" / "999").exists()
    # One that appears in the middle of a run is no reason to lose the next save unseen.
    shutil.copytree(checkpoints / "2", checkpoints / "999")
    with pytest.raises(JaxganError, match=r"step 3 was not saved: .* of step 999, which"):
        folder.save(3, Checkpoint(state, None))
    folder.close()


@pytest.mark.parametrize("when", ["while it is checked", "while it is read"])
def test_a_checkpoint_that_a_run_removes_meanwhile_is_no_damage(tmp_path, state, monkeypatch, when):
    saved(tmp_path, state, [1, 2])
    name = {"while it is checked": "_damage", "while it is read": "_read"}[when]
    original = getattr(checkpoint, name)

    def slow(folder, *args):
        if folder.name == "2":
            shutil.rmtree(folder)
        return original(folder, *args)

    monkeypatch.setattr(checkpoint, name, slow)
    found = restore(tmp_path, Checkpoint(state, None))  # a warning would be an error
    assert found is not None
    assert found[1] == 1


def test_a_path_that_is_not_utf8_is_refused_before_training(tmp_path):
    with pytest.raises(JaxganError, match=r"must be UTF-8: .*caf\\udce9.*PYTHONUTF8"):
        RunFolder(tmp_path / os.fsdecode(b"caf\xe9"), CONFIG)


@pytest.mark.parametrize("name", ["a[1]", "a\\b"])
def test_paths_that_orbax_would_take_for_patterns_are_refused(tmp_path, name):
    with pytest.raises(JaxganError, match="must not contain"):
        RunFolder(tmp_path / name, CONFIG)
    assert not (tmp_path / name).exists()


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(tmp_path, state):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(JaxganError, match="cannot be read"):
        restore(tmp_path, Checkpoint(state, None))


def test_a_run_folder_may_hold_a_plain_file_of_the_user(tmp_path):
    (tmp_path / "log.txt").write_text("mine")
    RunFolder(tmp_path, {"train": {"seed": 1}}).close()
    assert read_config(tmp_path) == {"train": {"seed": 1}}
    assert (tmp_path / "log.txt").read_text() == "mine"


def test_a_run_folder_is_no_url():
    with pytest.raises(JaxganError, match="is a URL"):
        RunFolder("gs://bucket/run", {})


@pytest.mark.parametrize("content", ["[]", '{"gan": 3}'])
def test_a_foreign_config_is_an_error(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(JaxganError, match=r"config\.json cannot be read"):
        RunFolder(tmp_path, CONFIG)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxganError, match=r"cannot write to .*file/run.*Not a directory"):
        RunFolder(tmp_path / "file" / "run", CONFIG)


def test_a_damaged_config_is_an_error(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    (tmp_path / "config.json").write_text('{"gan": ')
    with pytest.raises(JaxganError, match=r"config\.json cannot be read"):
        RunFolder(tmp_path, CONFIG)


FULL_DISK = """
import resource, sys
import jax.numpy as jnp
from jaxgan import JaxganError, cli
from jaxgan.run.checkpoint import Checkpoint, RunFolder, restore
state = {"weights": jnp.arange(500_000.0)}
cli.quieten()
folder = RunFolder(sys.argv[1], {})
folder.save(1, Checkpoint(state, None))
folder.close()
folder = RunFolder(sys.argv[1], {})
# The kernel's own limit on the size of a file: writing past it fails as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    folder.save(2, Checkpoint(state, None))
    folder.close()
except JaxganError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
_, step = restore(folder.path, Checkpoint(state, None))
print("restored", step)
"""


def test_a_full_disk_is_one_clear_error_and_leaves_the_last_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "run"],
        capture_output=True,
        text=True,
        check=True,
    )
    error, restored = done.stdout.splitlines()
    assert error.startswith(f"cannot write to {tmp_path / 'run'}: ")
    assert "File too large" in error
    assert "Earlier checkpoints are intact" in error
    assert restored == "restored 1"
    assert not done.stderr


def test_config_json_can_be_read(tmp_path):
    RunFolder(tmp_path, CONFIG).close()
    text = (tmp_path / "config.json").read_text()
    content = json.loads(text)
    assert len(content.pop("sha256 of the rest")) == 64
    assert content == CONFIG | {"gan": {"widths": [3, 4], "lr": 0.1}}
    assert text.endswith("}\n")


def test_a_config_that_was_changed_is_refused_until_its_digest_is_removed(tmp_path):
    RunFolder(tmp_path, {"train": {"seed": 1}}).close()
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 3'))
    with pytest.raises(JaxganError, match="has changed since it was written"):
        read_config(tmp_path)
    content = json.loads(file.read_text())
    file.write_text(json.dumps({"train": content["train"]}))
    assert read_config(tmp_path) == {"train": {"seed": 3}}
