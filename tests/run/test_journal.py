"""The files that people read. The pictures themselves are tested in tests/report/test_plots.py."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import toy
from helpers import picture
from PIL import Image

from jaxgan import MODELS, data
from jaxgan.errors import JaxganError
from jaxgan.report import plots
from jaxgan.run import journal
from jaxgan.run.journal import Journal, read_table
from jaxgan.run.trackers import Trackers

GAN = MODELS["gan"]
ROW = {"epoch": 1, "step": 7, "gen_loss": 0.1 + 0.2, "seconds": 1.5}
# The columns that the diagnosis needs, of a healthy run.
HEALTHY = {
    "gen_loss": 0.7,
    "logit_spread": 0.5,
    "gen_loss_square": 0.49,
    "disc_loss": 1.4,
    "disc_loss_square": 1.96,
    "real_accuracy": 0.6,
    "fake_accuracy": 0.6,
    "missed": 0.0,
    "gen_grad_norm": 1.0,
    "disc_grad_norm": 1.0,
    "gen_param_norm": 9.0,
    "disc_param_norm": 9.0,
}
TWO_MEMBERS = [{"member": 0, "seed": 0}, {"member": 1, "seed": 1}]


def make_journal(path: Path, labels=({},), model=GAN) -> Journal:
    return Journal(path, model, model.config(), labels, Trackers((), path, {}))


def dataset(images: np.ndarray) -> data.Dataset:
    return data.Dataset(images, None, "images", "train")


def write_epoch(writer: Journal, history: list[dict], model=GAN) -> None:
    writer.write_table(history, journal.diagnose(model, history))


def test_metrics_csv_has_every_bit_and_is_cut_on_resuming(tmp_path):
    writer = make_journal(tmp_path)
    images = np.zeros((3, 4, 4, 1), np.uint8)
    first = {**HEALTHY, **ROW}
    second = first | {"epoch": 2, "step": 14}
    writer.begin([], 0, dataset(images))
    write_epoch(writer, [first, second])
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    # The deviation of a loss is in the place of its mean square.
    names = [name.replace("_square", "_sd") for name in HEALTHY]
    assert lines[0] == f"epoch,step,{','.join([*names, 'seconds', 'failures'])}"
    assert [line[:26] for line in lines[1:]] == [
        "1,7,0.30000000000000004,0.",
        "2,14,0.30000000000000004,0",
    ]
    assert [line[-5:] for line in lines[1:]] == 2 * [",1.5,"]
    for row, written in zip(read_table(tmp_path, GAN), [first, second], strict=True):
        assert row == pytest.approx(written)
        assert row["gen_loss"] == written["gen_loss"]
    writer.begin([first], 7, dataset(images))
    assert (tmp_path / "metrics.csv").read_text().splitlines() == lines[:2]


@pytest.mark.parametrize("labels", [[{}], TWO_MEMBERS])
def test_a_score_that_some_epochs_lack_is_empty_there(tmp_path, labels):
    score = "fd(judge, train, n=50)"
    rows = [{**HEALTHY, **ROW, "epoch": epoch} for epoch in (1, 2, 3)]
    rows[1][score] = 1 / 3
    expected = ["", repr(1 / 3), ""]
    if len(labels) > 1:
        fixed = ("epoch", "step")
        rows = [{k: v if k in fixed else [v, v] for k, v in row.items()} for row in rows]
        rows[1][score] = [1 / 3, 0.5]
        expected = ["", "", repr(1 / 3), "0.5", "", ""]
    write_epoch(make_journal(tmp_path, labels), rows)
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    # Without the extractor in its name.
    assert [line["fd"] for line in table] == expected
    assert list(table[0])[-1] == "failures"
    found = read_table(tmp_path, GAN)
    assert [row.get("fd") for row in found] == [row.get(score) for row in rows]


def test_metrics_csv_names_the_failures_of_each_epoch_and_member(tmp_path):
    row = {name: [value, value] for name, value in HEALTHY.items()} | {"missed": [0.0, 0.5]}
    history = [{"epoch": i + 1, "step": 400 * (i + 1), **row} for i in range(6)]
    write_epoch(make_journal(tmp_path, TWO_MEMBERS), history)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["failures"] for row in rows] == [*9 * [""], "mode collapse", "", "mode collapse"]
    read = read_table(tmp_path, GAN)
    assert [row["missed"] for row in read] == 6 * [[0.0, 0.5]]
    assert [row["step"] for row in read] == [row["step"] for row in history]


def test_a_population_of_one_is_read_as_a_population(tmp_path):
    row = {name: [value] for name, value in HEALTHY.items()} | {"epoch": 1, "step": 7}
    write_epoch(make_journal(tmp_path, TWO_MEMBERS[:1]), [row])
    (read,) = read_table(tmp_path, GAN)
    # As written, but for the columns that tell the members apart.
    assert {name: read[name] for name in row} == row


def test_a_model_without_a_diagnosis_has_no_column_of_failures(tmp_path):
    row = {"epoch": 1, "step": 7, "loss": 0.25}
    write_epoch(make_journal(tmp_path, model=toy.MODEL), [row], toy.MODEL)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,loss\n1,7,0.25\n"
    assert read_table(tmp_path, toy.MODEL) == [row]


def test_a_metrics_csv_of_another_kind_is_refused(tmp_path):
    with pytest.raises(JaxganError, match=r"has no metrics\.csv"):
        read_table(tmp_path, GAN)
    for text, message in (
        ("epoch,step,gen_loss\n1,2,3\n", "another version of jaxgan: it has no column"),
        ("epoch,step,gen_loss\n1,2,x\n", "cannot be read"),
        ("epoch,step,gen_loss\n1\n", "cannot be read"),
    ):
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(JaxganError, match=message):
            read_table(tmp_path, GAN)


def frames(path: Path) -> list[np.ndarray]:
    """The frames of an animation, as gray images."""
    found = []
    with Image.open(path) as animation:
        for i in range(animation.n_frames):
            animation.seek(i)
            found.append(np.asarray(animation.convert("L")))
    return found


def test_the_animation_has_the_pictures_of_the_epochs_of_the_history_alone(tmp_path):
    writer = make_journal(tmp_path)
    scores = {"disc_loss": 1.0, "real_score": 0.5, "fake_score": 0.5}
    history = [HEALTHY | ROW | scores | {"epoch": i + 1} for i in range(4)]
    samples = np.random.default_rng(0).uniform(-1, 1, (4, 16, 4, 4, 1))
    for i in range(4):
        writer.write_samples(history[: i + 1], plots.Grid(samples[i]))
    writer.end(history[:2])
    animated = frames(tmp_path / "training.gif")
    assert len(animated) == 2
    for i, frame in enumerate(animated):
        shown = picture(tmp_path / "samples" / f"image_at_epoch_000{i + 1}.png")
        np.testing.assert_array_equal(frame, shown)
        # A grid of four by four, enlarged 28 times.
        np.testing.assert_array_equal(shown[::28, ::28], plots.image_grid(samples[i])[..., 0])


def test_the_pictures_are_of_the_images_that_were_given(tmp_path):
    rng = np.random.default_rng(0)
    real, samples = rng.integers(0, 256, (2, 40, 4, 4, 1), np.uint8)
    writer = make_journal(tmp_path)
    writer.begin([], 0, dataset(real))
    writer.write_member("best", plots.Grid(samples[:16]))
    writer.write_samples([ROW], plots.Grid(samples, 8))
    for name, images, columns, scale in (
        ("real", plots.choose_real(real), None, 28),
        ("best", samples[:16], None, 28),
        ("samples/image_at_epoch_0001", samples, 8, 14),
    ):
        grid = plots.image_grid(images, columns)[..., 0]
        shown = picture(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(shown, grid.repeat(scale, axis=0).repeat(scale, axis=1))


def test_the_report_is_written_as_json(tmp_path):
    make_journal(tmp_path).write_report({"best": 3, "summary": [{"loss_sd": None}]})
    found = json.loads((tmp_path / "report.json").read_text())
    assert found == {"best": 3, "summary": [{"loss_sd": None}]}


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "is_first", lambda: False)
    writer = make_journal(tmp_path)
    writer.begin([], 0, dataset(np.zeros((3, 4, 4, 1), np.uint8)))
    write_epoch(writer, [{**HEALTHY, **ROW}])
    writer.write_samples([ROW], plots.Grid(np.zeros((3, 4, 4, 1))))
    writer.write_report({})
    assert not list(tmp_path.iterdir())


def test_a_removed_folder_is_not_made_again(tmp_path):
    journal = make_journal(tmp_path / "run")
    with pytest.raises(JaxganError, match="was removed or replaced"):
        journal.begin([], 0, dataset(np.zeros((3, 4, 4, 1), np.uint8)))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "real.png").mkdir()
    with pytest.raises(JaxganError, match="cannot write to"):
        make_journal(tmp_path).begin([], 0, dataset(np.zeros((3, 4, 4, 1), np.uint8)))
