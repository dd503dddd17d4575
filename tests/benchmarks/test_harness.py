import argparse
import io
import json
import sys

import numpy as np
import pytest
from helpers import picture
from matplotlib.figure import Figure

from jaxgan import GANConfig, JaxganError


@pytest.fixture
def harness():
    import harness

    return harness


def parse(harness, *options, **numbers):
    return harness.make_parser("text", data="any", **numbers).parse_args(options)


def test_defaults_say_what_options_take(harness):
    args = parse(harness, seconds=1.5, sizes=[3, 4], rounds=5)
    assert (args.seconds, args.sizes, args.rounds) == (1.5, [3, 4], 5)
    args = parse(harness, "--seconds", "2", "--batch-sizes", "7", "8", seconds=1.5, batch_sizes=[3])
    assert (args.seconds, args.batch_sizes, args.json) == (2.0, [7, 8], None)
    # As in the commands of older results.
    assert parse(harness, "--repeats", "3", rounds=5).rounds == 3
    assert str(harness.make_parser("text", "a.json").parse_args([]).json) == "runs/a.json"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--rounds", "0"], "must be a whole number above 0, got '0'"),
        (["--seconds", "nan"], "must be above 0, got 'nan'"),
        (["--seconds", "0"], "must be above 0, got '0'"),
        (["--json", "no/such/folder/x.json"], "there is no folder no/such/folder"),
    ],
)
def test_nonsense_is_refused(harness, capsys, options, problem):
    with pytest.raises(SystemExit):
        parse(harness, *options, rounds=5, seconds=1.0)
    error = capsys.readouterr().err
    assert f"argument {options[0]}" in error
    assert problem in error


def test_help_is_filled_to_the_terminal_and_commands_stay(harness, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    words = "Speeds of many things. " * 3
    command = "    python benchmarks/of/a/long/name.py --json FILE"
    shown = harness.make_parser(f"{words}\n\n- one: {words}\n\n{command}\n").format_help()
    assert command in shown.splitlines()
    assert (
        """
Speeds of many things. Speeds of many
things. Speeds of many things.

- one: Speeds of many things. Speeds of
  many things. Speeds of many things.
"""
        in shown
    )


def test_an_unknown_name_is_named(harness, capsys):
    parser = argparse.ArgumentParser()
    harness.add_names(parser, "--methods", {"one": 1, "two": 2})
    assert parser.parse_args([]).methods == ["one", "two"]
    assert parser.parse_args(["--methods", "two,one"]).methods == ["two", "one"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--methods", "one,nonsense"])
    assert "unknown method 'nonsense'; known are one, two" in capsys.readouterr().err


def defined(harness, *options):
    """The names that are chosen, and all methods, by options of a benchmark that knows two."""
    known = {"one": {}, "two": {"r2": 1.0}}
    parser = argparse.ArgumentParser()
    harness.add_methods(parser, "--methods", known, "other fields")
    args = parser.parse_args(options)

    def make(fields):
        return harness.parse_fields(GANConfig(), fields)

    methods = harness.define_methods(parser, args, "methods", known, make)
    return args.methods, methods


def test_methods_come_from_the_command_line(harness):
    assert defined(harness) == (["one", "two"], {"one": {}, "two": {"r2": 1.0}})
    mine = ["--method", "mine: loss=hinge  r1=cosine:1:0", "--method", "a b:generator_widths=8,4"]
    chosen, methods = defined(harness, *mine)
    assert chosen == ["mine", "a b"]  # and nothing else
    assert list(methods) == ["one", "two", *chosen]
    assert methods["mine"] == {"loss": "hinge", "r1": "cosine:1:0"}
    assert methods["a b"] == {"generator_widths": (8, 4)}
    assert defined(harness, *mine, "--methods", "two")[0] == ["two", "mine", "a b"]
    # Also if these are the ones that are trained by default.
    assert defined(harness, "--methods", "one,two", *mine)[0] == ["one", "two", "mine", "a b"]


@pytest.mark.parametrize(
    ("method", "problem"),
    [
        ("mine loss=hinge", "must be 'NAME: FIELD=VALUE"),
        ("mine r1=cosine:1:0", "must be 'NAME: FIELD=VALUE"),
        (": loss=hinge", "must be 'NAME: FIELD=VALUE"),
        ("mine: loss", "must be 'NAME: FIELD=VALUE"),
        ("mine: loss=", "must be 'NAME: FIELD=VALUE"),
        ("mine: r1=1 r1=2", "each field once; got 'mine: r1=1 r1=2'"),
        ("two: r1=1", "there is a method 'two' already: choose another name"),
        ("mine: los=hinge", "--method mine: .*'los'; did you mean loss"),
        ("mine: r1=much", "--method mine: r1 must be .*'much'"),
        ("mine: r1=-1", "--method mine: r1 must be 0 or more"),
        ("mine: loss=hinge label_smoothing=0.1", "--method mine: label_smoothing needs a loss"),
        ("mine: image_shape=8,8,1", "--method mine: image_shape is fixed here: leave it out"),
    ],
)
def test_a_method_that_makes_no_sense_is_an_error_of_one_line(harness, method, problem):
    with pytest.raises(JaxganError, match=problem) as error:
        defined(harness, "--method", method)
    assert "\n" not in str(error.value)


def test_a_method_is_defined_once(harness):
    with pytest.raises(JaxganError, match="there is a method 'mine' already"):
        defined(harness, "--method", "mine: r1=1", "--method", "mine: r1=2")


def test_an_error_that_the_user_can_fix_is_one_line(harness):
    def fail():
        raise JaxganError("no such data")

    with pytest.raises(SystemExit, match=r"^error: no such data$"):
        harness.main(fail)


def test_without_files_the_images_are_random(harness, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXGAN_DATA_DIR", raising=False)
    images, source = harness.find_images(str(tmp_path))
    assert (images.shape, images.dtype, source) == ((60_000, 28, 28, 1), np.uint8, "random")


def test_programs_take_turns(harness, capsys):
    order = []
    programs = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    assert harness.in_turns(programs, 2, "x: ") == {"a": [1, 3], "b": [2, 4]}
    assert order == ["a", "b", "a", "b"]
    assert capsys.readouterr().err == "x: round 1 of 2\nx: round 2 of 2\n"
    assert harness.spread([1, 2, 9]) == {"median": 2, "min": 1, "max": 9}
    assert harness.ratio([1, 4, 9], [1, 2, 1]) == 2


def test_a_table_has_words_at_the_left_and_numbers_at_the_right(harness):
    rows = [
        {"name": "one", "rate": 12345.6, "loss": {"mean": 1.2345, "half": 0.1, "n": 5}},
        {"name": "three", "rate": None, "loss": {"mean": 2.0, "half": None, "n": 1}},
        {"name": "four", "rate": 0.00123, "loss": {"mean": None, "half": None, "n": 0}},
    ]
    assert harness.table("name a name, rate rate, loss loss", rows).split("\n") == [
        "a name     rate        loss",
        "one       12346  1.23 ± 0.1",
        "three         -           2",
        "four    0.00123           -",
    ]
    assert harness.cell({"median": 2.0, "min": 1.0, "max": 3.0}) == "2 (1 to 3)"
    assert harness.cell({"mean": 8.0, "half": 0.0, "n": 9}) == "8 ± 0"
    assert harness.cell({"collapse": 2, "other": 0}) == "collapse 2"
    assert harness.cell({}) == "none"


def make_rows(harness, version="1", path="rows.json"):
    header = {"command": "c", "device": "d", "host": "h", "versions": version}
    return harness.Rows(harness.Path(path), header, ("data", "method"), ["r a", "r b", "r c"])


def test_rows_are_found_again(harness, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained = []

    def train(name):
        trained.append(name)
        data, method = name.split()
        return {"data": data, "method": method, "value": len(trained)}, np.arange(3)

    b, a = {"r b": {"steps": 1}}, {"r a": {"steps": 2}}
    assert [row["value"] for row in make_rows(harness).complete(b, train)] == [1]
    rows = make_rows(harness)
    assert [row["value"] for row in rows.complete(b | a, train)] == [2, 1]  # in the fixed order
    assert trained == ["r b", "r a"]
    assert "1 rows to train, 1 found in rows.json" in capsys.readouterr().out
    content = json.loads((tmp_path / "rows.json").read_text())
    assert (content["versions"], content["rows"][0]["settings"]) == ("1", {"steps": 2})
    assert all("about" not in row for row in content["rows"])
    with pytest.raises(SystemExit, match=r"rows\.json has r a with other settings: choose another"):
        make_rows(harness).complete(b | {"r a": {"steps": 3}}, train)
    assert json.loads((tmp_path / "rows.json").read_text()) == content
    # A row of another version says so, since the header does not hold for it.
    make_rows(harness, "2").complete({"r c": {}}, train)
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["versions"] == "1"
    assert [row.get("about") for row in content["rows"]] == [None, None, {"versions": "2"}]


def test_rows_of_other_names_are_the_last_ones(harness, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train(name):
        data, method = name.split(" ", 1)
        return {"data": data, "method": method}, np.arange(3)

    make_rows(harness).complete({"r my own": {"r1": 1}}, train)
    make_rows(harness).complete({"r other": {}, "r b": {}}, train)
    names = [row["method"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]]
    assert names == ["b", "my own", "other"]
    (row,) = make_rows(harness).complete({"r my own": {"r1": 1}}, train)
    assert row["method"] == "my own"
    # The name alone does not say what the method is.
    with pytest.raises(SystemExit, match="has r my own with other settings"):
        make_rows(harness).complete({"r my own": {"r1": 2}}, train)


def test_rows_that_are_there_count_as_done(harness, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "LINE_SECONDS", 0)

    def train(name, progress):
        progress.add(3)  # of ten: it has diverged
        data, method = name.split()
        return {"data": data, "method": method}, np.arange(3)

    make_rows(harness).complete({"r a": {}}, train, 10)
    capsys.readouterr()
    wanted: dict = {f"r {name}": {} for name in "abcd"}
    make_rows(harness).complete(wanted, train, 10)
    shown = [line.partition("%")[0] for line in capsys.readouterr().err.splitlines()]
    lines = {"b": (25, 32), "c": (50, 57), "d": (75, 82)}
    assert shown == [f"training r {name}: {n}" for name, two in lines.items() for n in two]
    make_rows(harness).complete(wanted, train, 10)
    assert capsys.readouterr().err == ""


def test_the_time_left_is_by_the_work_of_this_call(harness, capsys):
    progress = harness.Progress(10, 2)
    progress.start("a", 2)
    progress._bar.start_t -= 60  # a minute has passed
    progress.add(4)
    progress.start("b", 6)
    first, second = capsys.readouterr().err.splitlines()  # none within LINE_SECONDS
    assert first == "a: 20% of all is done, 00:00 passed, ? left"
    assert second == "b: 60% of all is done, 01:00 passed, 01:00 left"


def test_progress_is_a_bar_on_a_terminal(harness, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = harness.Progress(10, 2)
    progress.start("training a", 2)
    progress.add(9)  # more than there is, by rounding
    assert progress._bar.n == 10
    progress.close()
    shown = sys.stderr.getvalue().strip().split("\r")  # pyright: ignore
    assert shown[0].startswith("training a:  20% of all|")
    assert shown[-1].startswith("training a: 100% of all|")


def test_rows_do_not_need_their_samples(harness, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    rows = make_rows(harness, path="results/rows.json")
    first = {"data": "r", "method": "a", "settings": {"steps": 1}}
    second = first | {"method": "b"}
    rows.put(first, np.arange(2))
    rows.put(second, np.arange(4))
    # What only serves pictures is not beside the results.
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["rows.json"]
    samples = make_rows(harness, path="results/rows.json").samples([first, second])
    assert {name: list(values) for name, values in samples.items()} == {
        "r a": [0, 1],
        "r b": [0, 1, 2, 3],
    }
    # Samples of a row that grows: each part follows the part before it, or none is kept.
    rows.put(first, np.arange(5, 7), at=2)
    rows.put(second, np.arange(5, 7), at=9)
    assert list(rows.samples([first])["r a"]) == [0, 1, 5, 6]
    assert capsys.readouterr().err == ""
    assert list(rows.samples([first, second])) == ["r a"]
    assert "runs/rows.npz has no samples of r b: to make them, train" in capsys.readouterr().err
    # Samples of other settings are not taken for those of a row.
    assert rows.samples([first | {"settings": {"steps": 2}}]) == {}
    (tmp_path / "runs" / "rows.npz").unlink()
    rows = make_rows(harness, path="results/rows.json")
    assert rows.find("r a", {"steps": 1}) == first
    assert rows.samples([first]) == {}


def test_settings_are_what_differs_from_the_reference(harness):
    config = GANConfig(**harness.both(lr=1e-4), generator_widths=(8,))
    assert harness.settings(config, seeds=2) == {
        "generator_lr": 1e-4,
        "discriminator_lr": 1e-4,
        "generator_widths": [8],
        "seeds": 2,
    }


def test_rows_of_images_are_drawn_in_order(harness, tmp_path):
    samples = {
        name: np.full((3, 4, 4, 1), level, np.uint8) for name, level in (("a", 0), ("b", 90))
    }
    harness.save_picture(tmp_path / "rows.png", harness.draw_rows(samples))
    labels = 160  # pixels at the left that hold the names
    rows = np.array_split(picture(tmp_path / "rows.png")[:, labels:], 2)
    np.testing.assert_allclose([np.median(row) for row in rows], [0, 90], atol=1)


def test_a_picture_is_small(harness, tmp_path, monkeypatch):
    noise = np.random.default_rng(0).random((100, 100, 3))
    figure = Figure(figsize=(1, 1))
    figure.add_axes((0, 0, 1, 1)).imshow(noise, interpolation="nearest")
    path = tmp_path / "a.png"
    harness.save_picture(path, figure, dpi=100)
    assert picture(path).shape[:2] == (100, 100)
    most = path.stat().st_size
    monkeypatch.setattr(harness, "MOST_BYTES", most)
    harness.save_picture(path, figure, dpi=100)
    assert path.stat().st_size < most
    assert picture(path).shape[0] == 90


def test_gray_pictures_stay_as_they_are(harness, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    figure = harness.draw_rows({"one": images[:2], "two": images[2:]})
    figure.savefig(tmp_path / "plain.png", dpi=80)
    harness.save_picture(tmp_path / "small.png", figure)
    plain, small = (picture(tmp_path / name) for name in ("plain.png", "small.png"))
    assert small.ndim == 2
    np.testing.assert_array_equal(np.stack([small] * 3, axis=-1), plain[..., :3])
    sizes = [(tmp_path / name).stat().st_size for name in ("small.png", "plain.png")]
    assert sizes == sorted(sizes)
