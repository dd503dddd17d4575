"""The benchmarks that train a row of a table for each method."""

import dataclasses
import importlib
import json
import math
import re
import statistics
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, colors, here
from judges import make_judge
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors

from jaxgan import PRESETS, GANConfig, JaxganError, TrainConfig, create_state, data
from jaxgan.adversarial import diagnostics
from jaxgan.data.mixtures import RING
from jaxgan.data.pixels import to_float
from jaxgan.diffusion import DiffusionConfig
from jaxgan.errors import NonFiniteError
from jaxgan.history import mean_interval
from jaxgan.model import Diagnosis, Finding
from jaxgan.presets import COVERAGE

SMALL = {"generator_widths": (8,), "discriminator_widths": (8,), "discriminator_dropout": (0.0,)}
"""Fields of GANConfig. Tests train it on digits with two seeds in the same program."""
BATCH = 100
"""A divisor of the number of digits: a smaller last batch would need a program of its own."""
POINTS = ["--data", "ring", "--steps", "10", "--batch-size", "32"]
LABELS = 160
"""Pixels at the left of a picture that hold the names of its rows."""


def rows_in(path: Path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


class Work:
    """In place of harness.Progress: all work, what was done before, and what is added."""

    def __init__(self, total, done):
        self.total, self.done, self.added = total, done, 0.0

    def start(self, name, done):
        pass

    def add(self, work):
        self.added += work

    def close(self):
        pass


@pytest.fixture
def progress(monkeypatch):
    """All Work of a benchmark."""
    import harness

    made = []

    def make(*args):
        made.append(Work(*args))
        return made[-1]

    monkeypatch.setattr(harness, "Progress", make)
    return made


class Line(nn.Module):
    """A generator of points."""

    @nn.compact
    def __call__(self, latents):
        return nn.Dense(2)(latents).reshape(-1, 1, 1, 2)


class Plane(nn.Module):
    """A discriminator of points."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(1)(nn.tanh(nn.Dense(8)(images.reshape(images.shape[0], -1))))[:, 0]


@pytest.fixture
def mixtures():
    import mixtures

    return mixtures


@pytest.fixture
def small_mixtures(mixtures, monkeypatch):
    """The benchmark with small networks, whose programs are compiled fast."""
    monkeypatch.setattr(mixtures, "SHARED", mixtures.SHARED | {"generator": Line()})
    monkeypatch.setitem(mixtures.SHARED, "discriminator", Plane())
    return mixtures


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_every_method_of_the_mixtures_is_a_gan_that_can_be_built(mixtures, monkeypatch, name):
    monkeypatch.setattr("sys.argv", ["mixtures.py"])
    args = mixtures.parse()
    assert (args.steps, args.seeds, args.batch_size) == (10_500, 10, 128)
    configs = {method: mixtures.make_config(name, method, args) for method in mixtures.METHODS}
    assert {config.image_shape for config in configs.values()} == {(1, 1, 2)}
    assert len(set(configs.values())) == len(configs)
    unrolled = configs["unrolled 5"]
    assert configs["unrolled 0"] == dataclasses.replace(unrolled, unroll_steps=0)
    assert configs["R1"].r1 == "cosine:1:0.001:10500"
    expected = {"relativistic+R1+R2": ("relativistic", 1), "PacGAN4": ("non_saturating", 4)}
    for method, (loss, pac) in expected.items():
        assert (configs[method].loss, configs[method].pac) == (loss, pac)


def test_a_quick_table_of_the_mixtures_has_other_defaults(mixtures, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mixtures.py", "--quick", "--seeds", "3"])
    args = mixtures.parse()
    assert (args.seeds, args.steps, args.json.name) == (3, 1_000, "mixtures_quick.json")
    assert args.methods == ["GAN", "PacGAN2", "relativistic+R1+R2+EMA"]


def test_rows_of_the_mixtures_are_trained_once(small_mixtures, run, monkeypatch, tmp_path):
    mixtures = small_mixtures
    file, trained = tmp_path / "rows.json", []
    train_row = mixtures.train_row

    def noted(data, method, args, work):
        trained.append((data, method, args.seeds))
        return train_row(data, method, args, work)

    monkeypatch.setattr(mixtures, "train_row", noted)
    monkeypatch.setattr(mixtures, "tune", lambda *_: (1.0, []))  # it has a test of its own
    monkeypatch.setitem(mixtures.METHODS, "PacGAN2", {})  # the program of the other method
    options = [*POINTS, "--json", file]
    run(mixtures, *options, "--seeds", "2", "--methods", "GAN")
    out, _ = run(mixtures, *options, "--seeds", "2", "--methods", "PacGAN2,GAN")
    assert "10 steps of 32 points" in out
    assert "95% interval, n=2" in out
    (circle,) = [line for line in out.splitlines() if line.endswith("chance")]
    assert circle.startswith("circle  ")
    assert "PacGAN's nets, 10 seeds (arXiv 1712.04086)" in out
    assert trained == [("ring", "GAN", 2), ("ring", "PacGAN2", 2)]
    assert [row["method"] for row in rows_in(file)] == ["GAN", "PacGAN2"]
    for row in rows_in(file):
        scores = [row[name]["mean"] for name in ("modes", "high_quality", "reverse_kl")]
        assert np.isfinite([*scores, row["failed_share"], row["step_mb"]]).all()
    (name,) = [name for name in np.load("runs/rows.npz") if name.startswith("ring GAN ")]
    assert np.load("runs/rows.npz")[name].shape == (6, 500, 2)
    drawn = tmp_path / "samples.png"
    before = rows_in(file)
    monkeypatch.setattr(mixtures, "ROUNDS", 1)
    monkeypatch.setattr(mixtures, "STRETCH", 2)
    at_the_end = ["--rates", "--picture", drawn]
    run(mixtures, *options, "--seeds", "2", "--methods", "GAN", *at_the_end)
    assert len(trained) == 2
    names = [
        {k for k in old if old[k] != new[k]} for old, new in zip(before, rows_in(file), strict=True)
    ]
    assert names == [{"steps_per_second"}, set()]
    assert any(blue - red > 100 for red, _, blue in colors(drawn))  # the points
    # Rows of other settings are not trained over.
    with pytest.raises(SystemExit, match="with other settings: choose another --json"):
        run(mixtures, *options, "--seeds", "1", "--methods", "GAN")
    assert len(rows_in(file)) == 2


def test_the_rates_of_a_method_are_tuned_on_other_seeds(
    small_mixtures, run, progress, monkeypatch, tmp_path
):
    mixtures, calls, file = small_mixtures, [], tmp_path / "rows.json"
    options = [*POINTS, "--seeds", "1", "--methods", "unrolled 0", "--json"]
    train = mixtures.train

    def noted(config, data, args, seeds, work, **options):
        calls.append((config, args.steps, list(seeds), options))
        return train(config, data, args, seeds, work=work, **options)

    monkeypatch.setattr(mixtures, "train", noted)
    monkeypatch.setattr(mixtures, "FACTORS", (1e30, 0.5, 1e29))  # two that lead far away
    run(mixtures, *options, file)
    (short, half, seeds, sweep), (long, whole, own, _) = calls
    assert (half, whole, seeds, own) == (5, 10, [100, 101] * 3, [0])
    assert (short.lr_scale, long.lr_scale) == ("cosine:1:0:5", "cosine:1:0:10")
    factors = np.repeat([1e30, 0.5, 1e29], 2)
    np.testing.assert_allclose(sweep["generator_lr"], 1e-3 * factors)
    np.testing.assert_allclose(sweep["discriminator_lr"], 1e-4 * factors)
    assert (long.generator_lr, long.discriminator_lr) == (5e-4, 5e-5)
    (row,) = rows_in(file)
    assert row["factor"] == 0.5
    tuning = {"factors": [1e30, 0.5, 1e29], "seeds": [100, 101], "steps": 5}
    assert row["settings"]["tuning"] == tuning
    assert (row["seeds"], row["modes"]["half"], row["modes"]["n"]) == (1, None, 1)
    assert [candidate["factor"] for candidate in row["candidates"]] == [1e30, 0.5, 1e29]
    assert [sum(candidate["modes"]) > 0 for candidate in row["candidates"]] == [False, True, False]
    (one,) = progress
    # The seed, and half of the steps of two seeds of each factor.
    assert (one.total, one.done, one.added) == (10 + 3 * 2 * 5, 0, 40)
    # A method whose seeds all diverge has a row.
    monkeypatch.setattr(mixtures, "FACTORS", (1e30, 1e29, 1e28))
    run(mixtures, *options, tmp_path / "diverged.json")
    (row,) = rows_in(tmp_path / "diverged.json")
    assert (row["modes"]["mean"], row["high_quality"]["mean"], row["failed_share"]) == (0, 0, 1)
    assert row["reverse_kl"]["mean"] == pytest.approx(math.log(8))
    assert row["steps_per_second"] is None


@pytest.mark.parametrize(
    ("scores", "factor"),
    [
        # Of both seeds: modes, share of high quality, reverse KL.
        ([(3, 0.9, 1.0), (3, 0.9, 1.0), (5, 0.1, 1.0), (2, 0.1, 1.0)], 2),  # most modes
        ([(3, 0.2, 0.1), (3, 0.2, 0.1), (4, 0.3, 1.0), (2, 0.3, 1.0)], 2),  # then quality
        ([(3, 0.2, 0.1), (3, 0.2, 0.2), (4, 0.2, 1.0), (2, 0.2, 1.0)], 1),  # then the KL
    ],
)
def test_the_best_factor_has_most_modes(mixtures, monkeypatch, scores, factor):
    monkeypatch.setattr("sys.argv", ["mixtures.py"])
    monkeypatch.setattr(mixtures, "FACTORS", (1, 2))
    monkeypatch.setattr(mixtures, "train", lambda *_, **__: scores)
    monkeypatch.setattr(mixtures, "score", lambda numbers, _: mixtures.ModeScores(*numbers, 0.0))
    found, candidates = mixtures.tune("ring", "GAN", mixtures.parse())
    assert found == factor
    assert candidates[1]["modes"] == [scores[2][0], scores[3][0]]


def test_chance_captures_modes_but_not_their_shape(mixtures):
    # The share of a circle within 3 sigma of 8 modes, and that of a square around all 25 modes.
    ring, grid = mixtures.chance("ring", 9), mixtures.chance("grid", 9)
    assert (ring["method"], grid["method"]) == ("circle", "uniform noise")
    assert ring["of"] == grid["of"] == "chance"
    assert ring["modes"] == {"mean": 8, "half": 0, "n": 9}
    share = 8 * 4 * math.asin(0.015) / (2 * math.pi)
    assert ring["high_quality"]["mean"] == pytest.approx(100 * share, abs=0.6)
    share = 25 * math.pi * 0.15**2 / 9**2
    assert grid["high_quality"]["mean"] == pytest.approx(100 * share, abs=0.3)
    assert 15 < grid["modes"]["mean"] < 25


def test_what_seeds_say_together(mixtures):
    whole = [RING.draw(2_500, seed)[0] for seed in range(9)]
    summed = mixtures.sum_up(whole, "ring")
    assert (summed["modes"], summed["failed_share"]) == ({"mean": 8, "half": 0, "n": 9}, 0)
    assert summed["high_quality"]["mean"] == pytest.approx(100 * (1 - math.exp(-4.5)), abs=0.3)
    # Wilson's interval of 0 in n ends at z^2 / (n + z^2).
    assert summed["failed_low"] == 0
    assert summed["failed_high"] == pytest.approx(3.8415 / (9 + 3.8415), abs=1e-4)
    one_lost = [points[RING.centers[0] @ points.T < 0.9] for points in whole[:1]]
    diverged = [np.full((2_500, 2), np.nan)]
    summed = mixtures.sum_up(whole + one_lost + diverged, "ring")
    assert summed["modes"]["mean"] == pytest.approx((9 * 8 + 7 + 0) / 11)
    # 2.2281 is the quantile of t with 10 degrees of freedom.
    half = 2.2281 * np.std([8] * 9 + [7, 0], ddof=1) / math.sqrt(11)
    assert summed["modes"]["half"] == pytest.approx(half, rel=1e-4)
    assert summed["failed_share"] == pytest.approx(2 / 11)
    assert summed["reverse_kl"]["mean"] == pytest.approx(
        (math.log(8 / 7) + math.log(8)) / 11, abs=2e-3
    )


def test_the_mixtures_take_methods_of_the_user(mixtures, run, monkeypatch, tmp_path):
    configs, file = {}, tmp_path / "rows.json"

    def train_row(data, method, args, work):
        configs[method] = mixtures.make_config(data, method, args)
        return {"data": data, "method": method}, np.zeros((6, 500, 2), np.float16)

    monkeypatch.setattr(mixtures, "train_row", train_row)
    mine = ("--method", "mine: r1=cosine:1:0 generator_lr=0.5")
    out, _ = run(mixtures, *POINTS, "--json", file, *mine, "--methods", "R1", "--quick")
    assert list(configs) == ["R1", "mine"]
    lines = [line.split()[0] for line in out.splitlines() if line.endswith("ours")]
    assert lines == ["R1", "mine"]
    plain = {**mixtures.SHARED, "lr_scale": "cosine:1:0:10"}
    more = {"image_shape": (1, 1, 2), "bounded": False, "r1": "cosine:1:0:10"}
    assert configs["mine"] == GANConfig(**plain | more | {"generator_lr": 0.5})
    configs.clear()
    run(mixtures, *POINTS, "--json", file, "--quick", *mine)
    assert not configs  # it is found again
    for other in ("mine: r1=2", "mine: r1=-1", "other: discriminator_widths=8"):
        with pytest.raises((SystemExit, JaxganError), match=r"other settings|0 or more|fixed"):
            run(mixtures, *POINTS, "--json", file, "--quick", "--methods", "GAN", "--method", other)
    assert not configs
    assert [row["method"] for row in rows_in(file)] == ["R1", "mine"]


def test_an_unknown_method_is_named(mixtures, run, capsys):
    with pytest.raises(SystemExit):
        run(mixtures, "--methods", "GAN,nonsense")
    assert "unknown method 'nonsense'; known are GAN, minimax" in capsys.readouterr().err


@pytest.fixture
def remedies(monkeypatch):
    import remedies

    monkeypatch.setattr(remedies, "BATCH", BATCH)
    return remedies


def test_rows_of_the_remedies_are_trained_once(remedies, run, monkeypatch, tmp_path):
    monkeypatch.setitem(remedies.METHODS, "reference", SMALL)
    monkeypatch.setitem(remedies.METHODS, "EMA", SMALL | {"ema_decay": 0.999})
    file, drawn = tmp_path / "rows.json", tmp_path / "samples.png"
    options = ["--dataset", "digits", "--epochs", "2", "--seeds", "2", "--json", file]
    run(remedies, *options, "--methods", "EMA")
    (first,) = rows_in(file)
    run(remedies, *options, "--methods", "reference,EMA", "--picture", drawn)
    reference, ema = rows_in(file)
    assert (reference["method"], ema["method"]) == ("reference", "EMA")
    assert ema == first  # not trained again: its seconds would differ
    assert ema["settings"]["ema_decay"] == 0.999
    # The average is of no influence on training.
    assert ema["gen_loss"] == reference["gen_loss"]
    assert ema["gen_loss"]["half"] > 0
    assert ema["fd"]["n"] == 2
    # But of one on the samples that are scored.
    assert ema["fd"]["mean"] != reference["fd"]["mean"] > 0
    assert len(colors(drawn, left=LABELS)) > 100  # gray levels of the samples


def test_a_remedy_whose_seeds_all_diverge_has_a_row(remedies, run, monkeypatch, tmp_path):
    monkeypatch.setattr(remedies.harness, "train", lambda *_, **__: None)
    file = tmp_path / "rows.json"
    options = ["--dataset", "digits", "--epochs", "1", "--seeds", "2", "--json", file]
    out, _ = run(remedies, *options, "--methods", "reference")
    (row,) = rows_in(file)
    assert (row["diverged"], row["fd"]["mean"], row["steps_per_second"]) == (2, None, None)
    assert out.splitlines()[-1].split()[-2:] == ["0", "2"]  # n, diverged


def test_the_remedies_take_methods_of_the_user(remedies, run, progress, monkeypatch, tmp_path):
    made = []

    def train(config, images, seeds, work, epochs, batch_size):
        made.append(config)
        work.add(len(seeds) * epochs * math.ceil(len(images) / batch_size))

    monkeypatch.setattr(remedies.harness, "train", train)
    options = ["--dataset", "digits", "--epochs", "2", "--seeds", "3", "--json"]
    mine = "mine: updates=alternating instance_noise=linear:0.3:0"
    out, _ = run(remedies, *options, tmp_path / "rows.json", "--method", mine)
    steps = 2 * math.ceil(len(data.load("digits").images) / BATCH)
    (config,) = made
    noise = f"linear:0.3:0:{steps}"
    more = {"updates": "alternating", "instance_noise": noise}
    assert config == GANConfig(image_shape=(8, 8, 1), **more)
    assert out.splitlines()[-1].startswith("mine ")
    run(remedies, *options, tmp_path / "rows.json", "--methods", "EMA", "--method", mine)
    # The second call finds one of two rows.
    done = [(one.total, one.done, one.added) for one in progress]
    assert done == [(3 * steps, 0, 3 * steps), (6 * steps, 3 * steps, 3 * steps)]


def test_every_remedy_is_a_gan_that_can_be_built(remedies, monkeypatch):
    monkeypatch.setattr("sys.argv", ["remedies.py"])
    args = remedies.parse()
    images = np.zeros((500, 8, 8, 1), np.uint8)
    configs = [remedies.make_config(method, images, args) for method in remedies.METHODS]
    assert len(set(configs)) == len(configs)
    # Over 10 epochs of 5 steps.
    assert remedies.make_config("instance noise", images, args).instance_noise == "linear:0.3:0:50"


def test_remedies_with_slow_rates_are_named_so(remedies):
    names = [name for name, fields in remedies.METHODS.items() if "generator_lr" in fields]
    assert names[0] == "slow rates"
    assert all(name.endswith("+slow rates") for name in names[1:])
    # They stand together.
    methods = list(remedies.METHODS)
    at = methods.index("slow rates")
    assert methods[at : at + len(names)] == names


@pytest.mark.parametrize(
    ("name", "keys"),
    [("mixtures", ("data", "method")), ("remedies", ("method",)), ("recipes", ("recipe",))],
)
def test_the_published_rows_are_those_of_this_version(monkeypatch, name, keys):
    """So a benchmark that is called with a published file finds all of its rows."""
    module = importlib.import_module(name)
    images = np.zeros((60_000, 28, 28, 1), np.uint8)
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    args = module.parse()
    for row in rows_in(Path(module.__file__).parent / "results" / f"{name}.json"):
        arguments = [row[key] for key in keys]
        dataset = data.Dataset(images, np.arange(60_000) % 10, "fashion_mnist", "train")
        more = {"mixtures": (), "remedies": (images,), "recipes": (dataset,)}[name]
        assert module.settings(*arguments, *more, args) == row["settings"], arguments


@pytest.fixture
def planted(monkeypatch):
    """The module, with little to do."""
    import planted_failures

    monkeypatch.setattr(planted_failures, "KEPT", {"ring": (8, 5), "digits": (1,)})
    monkeypatch.setattr(planted_failures, "TRIALS", 3)
    monkeypatch.setattr(planted_failures, "RATES", (0.03,))
    monkeypatch.setattr(planted_failures, "DIRAC_STEPS", 5_000)
    case = planted_failures.Case(GANConfig((8, 8, 1), **SMALL), planted_failures.digits, 1, BATCH)
    cases = {"short": case, "planted": case._replace(planted="collapsed")}
    monkeypatch.setattr(planted_failures, "CASES", cases)
    return planted_failures


def test_failures_and_false_alarms_are_counted(run, planted, tmp_path, monkeypatch):
    # The score that makes a run healthy, and the detector, are those of a run in all modes.
    healthy = iter([True, False, True, True])
    scores = (lambda state, rng: {}, lambda state: (next(healthy), {}))
    monkeypatch.setattr(planted, "scores_of_images", lambda _: scores)
    alarm = Finding("mode collapse", (1,), "seen", ())
    diagnose = diagnostics.diagnose

    def scripted(history):
        is_short = len(history) == 1
        return Diagnosis([[alarm], [alarm]]) if is_short else diagnose(history)

    monkeypatch.setattr(diagnostics, "diagnose", scripted)
    file = tmp_path / "rows.json"
    out, _ = run(planted, "--seeds", 2, "--json", file)
    assert "1 false alarms in 1 healthy runs" in out
    found = json.loads(file.read_text())
    assert (found["false_alarms"], found["healthy"]) == (1, 1)
    low, high = found["interval"]
    assert 0.05 < low < high == 1
    seen = [(row["data"], row["kept"], row["seen"]) for row in found["lost"]]
    assert seen == [("ring", 8, 0), ("ring", 5, 1), ("digits", 1, 1)]
    assert found["lost"][1]["missed"]["median"] == pytest.approx(3 / 8, abs=0.03)
    # Without R1 an orbit, with it the equilibrium.
    orbits = [(row["updates"], row["r1"], row["seen"]) for row in found["dirac"]]
    assert orbits == [
        ("simultaneous", 0, 2),
        ("alternating", 0, 2),
        ("simultaneous", 1, 0),
        ("alternating", 1, 0),
    ]
    short, planted_row = found["runs"]
    counts = [(row["healthy"], row["false"], row["unhealthy"]) for row in (short, planted_row)]
    # Runs with a planted failure are never healthy.
    assert counts == [(1, 1, 1), (0, 0, 2)]
    assert planted_row["alarms"] == {"mode collapse": 2}
    # The verdict is collapsed in all four.
    right = {row["truth"]: (row["right"], row["of"]) for row in found["verdicts"]}
    assert right == {"healthy": (0, 1), "not healthy": (1, 1), "planted: collapsed": (2, 2)}


def test_a_run_is_healthy_by_a_score_that_no_detector_uses(planted, monkeypatch):
    digits = planted.digits()
    score, is_covered = planted.scores_of_images(digits)

    def sample(images, rng, n):
        return to_float(jnp.asarray(images[np.arange(n) % len(images)]))

    monkeypatch.setattr(planted, "sample", sample)
    ok, scores = is_covered(digits.images)
    assert ok
    assert scores["coverage"] > 0.9
    ok, scores = is_covered(digits.images[:30])
    assert not ok
    assert scores["coverage"] < scores["of_real_images"] / 2
    # The verdict sees other scores, of other real images.
    (seen,) = (
        v
        for k, v in score(digits.images[:30], jax.random.key(0)).items()
        if k.startswith("coverage(")
    )
    assert 0 < abs(seen - scores["coverage"]) < 0.1


@pytest.fixture
def search(monkeypatch):
    import search

    monkeypatch.setattr(search, "BATCH", BATCH)
    return search


def test_every_corner_of_what_is_searched_is_a_gan_that_can_be_built(search):
    images = np.zeros((500, 8, 8, 1), np.uint8)
    for name, distribution in search.read_space(None).items():
        for value in search.ends(distribution):
            search.make_config(search.KNOWN[0] | {name: value}, images, 10)
    params = search.KNOWN[0] | {"falling_lr": True, "instance_noise": 0.1, "dropout": 0.5}
    config = search.make_config(params | {"pac": 2}, images, 10)
    # Over 10 epochs of 5 steps.
    assert (config.lr_scale, config.instance_noise) == ("cosine:1:0:50", "linear:0.1:0:50")
    assert config.discriminator_dropout == (0.25, 0.15, 0.1)
    assert (config.generator_b1, config.discriminator_b2) == (0.5, 0.999)


def test_a_packed_discriminator_of_the_search_is_no_larger_than_the_reference(search):
    images = np.zeros((600, 28, 28, 1), np.uint8)

    def parameters(config):
        state = jax.eval_shape(lambda: create_state(jax.random.key(0), config))
        return sum(x.size for x in jax.tree.leaves(state.discriminator.params))

    packed = search.make_config(search.KNOWN[0] | {"pac": 2}, images, 10)
    assert 0.9 * 242_177 < parameters(packed) < 242_177


def test_trials_of_the_search_are_logged_and_gone_on_with(search, run, monkeypatch, tmp_path):
    small = GANConfig((8, 8, 1), **SMALL)
    asked = []

    def make_config(params, images, epochs):
        asked.append(params)
        return small if len(asked) != 2 else dataclasses.replace(small, discriminator_lr=1e30)

    monkeypatch.setattr(search, "make_config", make_config)
    monkeypatch.setattr(search, "EARLY", 1)
    file = tmp_path / "log.json"
    options = ["--dataset", "digits", "--epochs", 2, "--seeds", 2, "--json", file]
    run(search, *options, "--trials", 2)
    first = json.loads(file.read_text())["trials"]
    assert [trial["params"] for trial in first] == asked == search.KNOWN[:2]
    assert [trial["state"] for trial in first] == ["COMPLETE", "FAIL"]
    assert first[0]["early_fd"] != first[0]["fd"] > 0
    out, _ = run(search, *options, "--trials", 4)
    trials = json.loads(file.read_text())["trials"]
    assert trials[:2] == first
    assert len(asked) == 4
    assert trials[2]["params"] == search.KNOWN[2]
    # The same GAN as in the first trial: to the bit, since the seeds are the same.
    assert trials[2]["fd"] == first[0]["fd"]
    assert "3 whole trials" in out
    assert "the smallest distance: trial 0. It is one trial" in out
    # Optuna is told all that it would know, had it been one run.
    space = search.read_space(None)
    told = search.as_optuna(trials[0], space)
    assert (told.value, told.intermediate_values) == (first[0]["fd"], {1: first[0]["early_fd"]})
    assert search.as_optuna(trials[1], space).state.name == "FAIL"
    with pytest.raises(SystemExit, match=r"other settings \(dataset digits, epochs 2, seeds 2\)"):
        run(search, *options, "--seeds", 3)


SPACE = """
loss = ["non_saturating", "hinge"]
label_smoothing = [0.0, 0.1]
generator_widths = ["8", "8,4"]
disc_steps = {low = 1, high = 3}
r1 = {low = 0.01, high = 1.0, log = true}
dropout = {low = 0.0, high = 0.5}
b1 = [0.5]
"""
"""Of the fields of search.py some; the two of a loss with smoothing do not go together."""


def test_the_space_of_the_search_comes_from_a_file(search, run, monkeypatch, tmp_path):
    configs, file, log = [], tmp_path / "space.toml", tmp_path / "log.json"

    def train(config, *_, **__):
        configs.append(config)

    monkeypatch.setattr(search.harness, "train", train)
    file.write_text(SPACE)
    options = ["--dataset", "digits", "--trials", 8, "--json", log]
    out, err = run(search, *options, "--space", file)
    content = json.loads(log.read_text())
    assert content["space"]["r1"] == {"low": 0.01, "high": 1.0, "log": True}
    params = [trial["params"] for trial in content["trials"]]
    assert all(list(one) == list(content["space"]) for one in params)
    together = [one for one in params if one["loss"] != "hinge" or not one["label_smoothing"]]
    assert 0 < len(together) == len(configs) < 8
    assert "no GAN: label_smoothing needs" in err  # of the others
    assert {trial["state"] for trial in content["trials"]} == {"FAIL"}
    for one, config in zip(together, configs, strict=True):
        widths = tuple(map(int, one["generator_widths"].split(",")))
        assert (config.disc_steps, config.r1) == (one["disc_steps"], one["r1"])
        assert (config.generator_widths, config.discriminator_b1) == (widths, 0.5)
        assert config.discriminator_dropout[0] == 0.5 * one["dropout"]
        # What is not searched.
        assert (config.generator_b2, config.ema_decay, config.lr_scale) == (0.999, 0, 1)
    assert {type(one["disc_steps"]) for one in params} == {int}
    assert "no importances: they need 20 whole trials, and there are 0" in out
    # It continues, but not with another space.
    run(search, *options[:3], 9, *options[4:], "--space", file)
    assert len(json.loads(log.read_text())["trials"]) == 9
    with pytest.raises(SystemExit, match="has trials of another space: choose another --json"):
        run(search, *options)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "it is empty"),
        ("r1 = ", "Invalid value"),
        ("r3 = [1.0]", "'r3'"),
        ("r1 = 0.5", "r1 must be .VALUE, ...."),
        ("r1 = {low = 0.5}", "r1 must be .VALUE, ...."),
        ("r1 = {low = 0.0, high = 1.0, step = 0.1}", "r1 must be .VALUE, ...."),
        ('r1 = {low = "a", high = 1.0}', "r1: low and high must be numbers"),
        ("r1 = {low = 2.0, high = 1.0}", "low"),
        ("r1 = {low = 0.0, high = 1.0, log = true}", "low"),
        ("r1 = []", "choices"),
        ("r1 = [0.1, -1.0]", "r1 must be 0 or more"),
        ("b1 = {low = 0.0, high = 1.0}", "generator_b1 must be in"),
        ("dropout = {low = 0.0, high = 9.0}", "discriminator_dropout must be rates"),
        ('dropout = ["a"]', "could not convert"),
        ('loss = ["hing"]', "'hing'"),
        ("image_shape = [1]", "image_shape is fixed here"),
    ],
)
def test_a_space_that_makes_no_sense_is_an_error_of_one_line(search, run, tmp_path, line, problem):
    (tmp_path / "space.toml").write_text(line)
    with pytest.raises(JaxganError, match=f"^--space .*space.toml: .*{problem}") as error:
        run(search, "--space", tmp_path / "space.toml")
    assert "\n" not in str(error.value)


def test_a_space_that_is_not_there_is_an_error(search, run, capsys):
    with pytest.raises(JaxganError, match=r"--space none.toml: .*No such file"):
        run(search, "--space", "none.toml")
    with pytest.raises(SystemExit):
        run(search, "--help")
    # The help shows what such a file looks like.
    assert search.SPACE.strip() in capsys.readouterr().out


@pytest.mark.parametrize("n", [19, 20])
def test_few_trials_have_no_importances(search, capsys, n):
    space, trials = search.read_space(None), []
    for i in range(n):
        params = search.KNOWN[0] | {"r1": 0.1 + 0.1 * i}
        scores = {"early_fd": None, "fd": float(i), "recall": 0.5, "coverage": 0.5}
        trials.append({"params": params, "state": "COMPLETE", **scores, "seconds": 1})
    study = search.optuna.create_study()
    study.add_trials([search.as_optuna(trial, space) for trial in trials])
    capsys.readouterr()
    search.print_summary(study, trials)
    out = capsys.readouterr().out
    assert ("importance (fANOVA)" in out) == (n == 20)
    assert ("no importances: they need 20 whole trials, and there are 19" in out) == (n == 19)


def test_a_trial_that_is_worse_than_the_median_ends_early(search, run, monkeypatch, tmp_path):
    scores = {"early_fd": 1e-6, "fd": 1e-6, "recall": 0.5, "coverage": 0.5, "seconds": 1}
    log = [{"params": search.KNOWN[0], "state": "COMPLETE", **scores}] * 9
    file = tmp_path / "log.json"
    file.write_text(json.dumps({"dataset": "digits", "epochs": 2, "seeds": 2, "trials": log}))
    monkeypatch.setattr(search, "make_config", lambda *_: GANConfig((8, 8, 1), **SMALL))
    monkeypatch.setattr(search, "EARLY", 1)
    options = ["--dataset", "digits", "--epochs", 2, "--seeds", 2, "--json", file]
    run(search, *options, "--trials", 10)
    trial = json.loads(file.read_text())["trials"][-1]
    assert (trial["state"], trial["fd"]) == ("PRUNED", None)
    assert trial["early_fd"] > 1e-6


@pytest.mark.usefixtures("no_curves")
def test_trials_by_hand_are_logged(search, run, tmp_path):
    """They are runs of scripts/train.py."""
    from jaxgan import MODELS
    from jaxgan.run import training

    np.save(tmp_path / "images.npy", data.load("digits").images[:120])
    config = GANConfig(**SMALL, loss="hinge", lr_scale="cosine:1:0.1:99")
    settings = TrainConfig(
        str(tmp_path / "images.npy"), epochs=3, batch_size=60, seed=5, evaluate_every=2
    )
    outcome = training.train(MODELS["gan"], config, settings, tmp_path / "run")
    log = tmp_path / "log.json"
    out, _ = run(search, "--add", tmp_path / "run", "--json", log)
    (trial,) = json.loads(log.read_text())["trials"]
    assert trial["settings"] == {
        "image_shape": [8, 8, 1],
        **{name: list(value) for name, value in SMALL.items()},
        "loss": "hinge",
        "lr_scale": "cosine:1:0.1:99",
    }
    assert (trial["batch_size"], trial["seed"]) == (60, 5)
    assert trial["features"] == "pca64, train, n=60"
    assert list(trial["scores"]) == ["2", "3"]
    expected = outcome.history[-1][f"coverage({trial['features']})"]
    assert trial["scores"]["3"]["coverage"] == pytest.approx(expected)
    assert "loss=hinge" in out
    before = log.read_text()
    assert "loss=hinge" in run(search, "--add", "--json", log).out
    assert log.read_text() == before


@pytest.fixture
def recipes(monkeypatch, tmp_path):
    """The benchmark with small models and short timing."""
    import recipes

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(recipes, "STRETCH", 2)
    monkeypatch.setattr(recipes, "ROUNDS", 2)
    monkeypatch.setattr(recipes, "SAMPLED", 50)
    monkeypatch.setattr(recipes, "POINTS", 2)
    training = TrainConfig(batch_size=BATCH)
    monkeypatch.setitem(recipes.PRESETS, "large", (GANConfig(**SMALL), training))
    small = DiffusionConfig(width=8, blocks=1, sample_steps=2, noise_levels=50)
    monkeypatch.setitem(recipes.PRESETS, "diffusion", (small, training))
    steps = {f"{n} steps": {"sample_steps": n} for n in (2, 3)}
    recipe = recipes.RECIPES["diffusion-image"]._replace(samplings=steps)
    monkeypatch.setitem(recipes.RECIPES, "diffusion-image", recipe)
    return recipes


QUICK = ["--dataset", "digits", "--seeds", 2, "--num", 60, "--steps", 40]
"""Options of recipes.py."""


def test_recipes_are_scored_by_two_judges(run, recipes, monkeypatch, tmp_path):
    judges = [make_judge(tmp_path / f"{i}.safetensors", seed=i, name=f"judge{i}") for i in (0, 1)]
    file, drawn, curves = (tmp_path / name for name in ("rows.json", "samples.png", "curves.png"))
    options = [*QUICK, "--json", file, "--judges", ",".join(judges)]
    options += ["--recipes", "smote,large-conditional,diffusion-image"]
    made = []

    def make_runs(name, seeds, *args):
        made.append((name, *seeds))
        return make(name, seeds, *args)

    make = recipes.make_runs
    monkeypatch.setattr(recipes, "make_runs", make_runs)
    run(recipes, *options, "--seeds", 1)
    run(recipes, *options)
    rows = rows_in(file)
    names = [row["recipe"] for row in rows]
    assert names == ["smote", "large-conditional", "diffusion-image"]
    # It continues from the first seed.
    assert made == [(name, seed) for seed in (0, 1) for name in names]
    assert [[each["seed"] for each in row["runs"]] for row in rows] == [[0, 1]] * 3
    names = [f"fd({judge}, train, n=60)" for judge in ("judge0", "judge1")]
    by_recipe = {row["recipe"]: [run["scores"] for run in row["runs"]] for row in rows}
    values = [
        found[name]
        for each in by_recipe.values()
        for of_run in each
        for found in of_run.values()
        for name in names
    ]
    assert len(set(values)) == len(values) == 2 * 2 * 5
    content = json.loads(file.read_text())
    trained = [one[""][names[0]] for one in by_recipe["large-conditional"]]
    assert all(content["real images"][names[0]] < value for value in trained)
    # SMOTE stays near the data.
    assert all(one[""][names[0]] < min(trained) for one in by_recipe["smote"])
    assert list(by_recipe["diffusion-image"][0]) == ["2 steps", "3 steps"]
    assert "class_accuracy(judge0, train, n=60)" in by_recipe["large-conditional"][0][""]
    # Two points of a curve, in three epochs.
    assert [point["share"] for point in rows[2]["runs"][0]["curve"]] == [2 / 3, 1]
    (times,) = content["times"].values()
    assert set(times) == {"large-conditional", "diffusion-image"}
    assert set(times["diffusion-image"]["sampling"]) == {"2 steps", "3 steps"}
    out, _ = run(recipes, *options, "--picture", drawn, "--curves", curves)
    assert rows_in(file) == rows
    assert len(made) == 6
    assert json.loads(file.read_text())["times"] == content["times"]
    assert len(colors(drawn, left=LABELS)) > 100
    assert len(colors(curves)) > 100
    assert "diffusion-image 3 steps" in out
    for judge in ("judge0", "judge1"):
        found = [one[""][f"fd({judge}, train, n=60)"] for one in by_recipe["smote"]]
        text = recipes.harness.cell(mean_interval(found))
        assert re.search(rf"{judge}, n=60;.*\n.*\n.*\nsmote +{re.escape(text)}", out)
    with pytest.raises(SystemExit, match="has smote with other settings: choose another"):
        run(recipes, *options, "--num", 61)


def test_a_recipe_that_diverges_has_runs_without_scores(run, recipes, monkeypatch, tmp_path):
    def diverge(*_, **__):
        raise NonFiniteError("diverged")

    monkeypatch.setattr(recipes.population, "train_population", diverge)
    judge = make_judge(tmp_path / "j.safetensors")
    file = tmp_path / "rows.json"
    out, _ = run(recipes, *QUICK, "--judges", judge, "--recipes", "large", "--json", file)
    (row,) = rows_in(file)
    scores = {"latents x 1.5": None, "": None}
    assert row["runs"] == [{"seed": seed, "scores": scores} for seed in (0, 1)]
    assert "large latents x 1.5 (2 diverged)" in out
    assert "large (2 diverged)" in out


def test_the_recipes_take_methods_of_the_user(run, recipes, progress, monkeypatch, tmp_path):
    setups = {}

    def train_population(model, config, data, seeds, measure, **options):
        name = ("mine", "with classes")[len(setups)]
        setups[name] = model.name, config, options["epochs"], options["batch_size"], set(data)
        for epoch in range(options["epochs"]):
            measure(recipes.loop.Run(None, None, [{}] * (epoch + 1), 0.0))
        raise NonFiniteError("diverged")

    def measure_times(names, *_):
        return {name: {"training": 7.0, "sampling": {"": 2.0}} for name in names}

    monkeypatch.setattr(recipes.population, "train_population", train_population)
    monkeypatch.setattr(recipes, "measure_times", measure_times)
    monkeypatch.setattr(recipes, "POINTS", 0)
    mine = "mine: preset=diffusion lr=0.5 steps=60 batch_size=50"
    classes = "with classes: loss=hinge conditional=true lr_scale=cosine:1:0"
    options = [*QUICK, "--seeds", 1, "--judges", make_judge(tmp_path / "j.safetensors")]
    options += ["--json", tmp_path / "rows.json", "--method", mine, "--method", classes]
    out, _ = run(recipes, *options)
    n = len(data.load("digits").images)
    name, config, *rest = setups["mine"]
    assert (name, config.lr, config.width) == ("diffusion", 0.5, 8)
    assert rest == [math.ceil(60 / math.ceil(n / 50)), 50, {"image"}]
    name, config, *rest = setups["with classes"]
    # --steps 40 holds for a recipe without steps: four epochs of 12 batches.
    more = {"loss": "hinge", "num_classes": 10, "lr_scale": "cosine:1:0:48"}
    expected = GANConfig(image_shape=(8, 8, 1), **more)
    assert (name, config, rest) == ("gan", expected, [4, 128, {"image", "label"}])
    assert "mine (1 diverged)" in out
    (one,) = progress
    # In seconds: two runs with their scores. Those of training are added epoch by epoch.
    assert (one.total, one.done) == (2 * (7 + 2 + recipes.SCORING), 0)
    assert one.added == pytest.approx(2 * 7)
    problems = {
        "mine: lr=2": "'lr'",
        "mine: preset=larger": "unknown preset 'larger'; known are reference, tuned",
        "mine: batch_size=0": "batch_size must be a whole number above 0",
        "smote: r1=1": "there is a method 'smote' already",
        "mine: preset=large seed=1": "'seed'",
    }
    for method, problem in problems.items():
        with pytest.raises(JaxganError, match=problem):
            run(recipes, "--method", method)
    with pytest.raises(SystemExit, match="has mine with other settings"):
        run(recipes, *options[:-4], "--method", "mine: r1=1")


def test_every_score_of_a_recipe_has_an_interval(recipes):
    columns = ("fd", "precision", "recall", "density", "coverage", "memorisation")
    floor = {f"{name}(j, train, n=9)": 1.0 for name in columns}
    runs = [{"scores": {"": dict.fromkeys(floor, value)}} for value in (1.0, 2.0)]
    rows = {"smote": {"runs": runs}, "gaussian-per-class": {"runs": runs[1:]}}
    real, smote, one_seed = recipes.table(floor, rows, {}, "j").splitlines()[1:]
    # 12.7 is the quantile of t with one degree of freedom; the deviation of the mean is 0.5.
    assert smote.split() == ["smote", *["1.5", "±", "6.35"] * 6, "-", "-", "-"]
    assert one_seed.split() == ["gaussian-per-class", *["2"] * 6, "-", "-", "-"]
    assert real.split() == ["real", "images", *["1"] * 6, "-", "-", "-"]


def test_smote_lies_between_images_of_a_class(recipes):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 1, 2, 1)).astype(np.uint8)
    labels = np.arange(40) % 2
    wanted = np.array([0, 1] * 50)
    samples = recipes.smote(images, labels, wanted, rng).reshape(-1, 2).astype(float)
    points = images.reshape(-1, 2).astype(float)
    for label in (0, 1):
        of_class = points[labels == label]
        # The nearest line between a point and one of its five neighbours is as near as rounding.
        distances = np.linalg.norm(of_class[:, None] - of_class, axis=2)
        a = np.repeat(of_class, 5, axis=0)
        b = of_class[np.argsort(distances, axis=1)[:, 1:6].ravel()]
        for point in samples[wanted == label]:
            along = ((point - a) * (b - a)).sum(1) / np.square(b - a).sum(1)
            foot = a + along.clip(0, 1)[:, None] * (b - a)
            assert np.abs(point - foot).max(axis=1).min() <= 0.75
    assert len(np.unique(samples, axis=0)) > 90


def test_the_gaussian_of_each_class_has_its_mean_and_covariance(recipes):
    rng = np.random.default_rng(0)
    covariance = np.array([[400.0, 150.0], [150.0, 100.0]])
    means = np.array([[60.0, 100.0], [180.0, 150.0]])
    labels = np.arange(4000) % 2
    points = means[labels] + rng.multivariate_normal(np.zeros(2), covariance, 4000)
    images = points.round().clip(0, 255).astype(np.uint8).reshape(-1, 1, 2, 1)
    wanted = np.repeat([1, 0], 4000)
    samples = recipes.gaussian_per_class(images, labels, wanted, rng).reshape(-1, 2).astype(float)
    for label in (0, 1):
        drawn = samples[wanted == label]
        np.testing.assert_allclose(drawn.mean(0), means[label], atol=2)
        np.testing.assert_allclose(np.cov(drawn.T), covariance, rtol=0.12)


def test_the_advice_of_train_py_has_the_numbers_of_the_results():
    rows = json.loads((ROOT / "benchmarks" / "results" / "planted_failures.json").read_text())[
        "runs"
    ]
    found: dict = {}
    for row in rows:
        preset, _, name = row["case"].removesuffix(" steps").partition(", ")
        name = name.partition(",")[0]
        if preset in PRESETS and name in ("digits", "ring"):
            median = statistics.median(one["score"]["coverage"] for one in row["each"])
            found.setdefault(name, {})[preset] = pytest.approx(median, abs=0.0051)
    rows = json.loads((ROOT / "benchmarks" / "results" / "recipes.json").read_text())["rows"]
    name = "coverage(fashion-cnn-v1, train, n=10000)"
    found["fashion_mnist"] = {
        row["recipe"]: pytest.approx(
            statistics.median(run["scores"][""][name] for run in row["runs"]), abs=0.0051
        )
        for row in rows
        if row["recipe"] in ("reference", "tuned", "large")
    }
    assert found == COVERAGE


@pytest.mark.usefixtures("no_curves")
def test_inpainting_compares_runs_with_plain_methods(run, tmp_path, monkeypatch):
    import inpainting

    monkeypatch.setattr(inpainting, "EPOCHS", 2)
    folder = tmp_path / "run"
    options = ["--dataset", "digits", "--epochs", 1, "--no-evaluate", "--workdir", folder]
    options += ["--batch-size", BATCH]
    for net in ("generator", "discriminator"):
        options += [f"--{net}-widths", 8]
    here("train.py", *options, "--discriminator-dropout", 0)
    file = tmp_path / "rows.json"
    options = (folder, "--dataset", "digits", "--num", 60, "--draws", 3, "--json", file)
    run(inpainting, *options, "--picture", tmp_path / "rows.png")
    rows = {(row["mask"], row["method"]): row for row in rows_in(file)}
    assert len(rows) == 3 * 4
    for row in rows.values():
        if row["method"] == "regression":
            assert row["rmse"] == row["mean_rmse"]
            assert "calibration" not in row
        else:
            assert row["mean_rmse"] < row["rmse"]
            share = (row["mean_rmse"] / row["rmse"]) ** 2
            k = 10 if row["method"] == "neighbours" else 3
            assert row["calibration"] == pytest.approx(share * 2 / (1 + 1 / k))
    # The Gaussian has learned digits, a GAN after one epoch has not.
    assert rows["centre", "Gaussian"]["mean_rmse"] < 0.8 * rows["centre", str(folder)]["mean_rmse"]
    assert "0 rows to train" in run(inpainting, *options).out


def test_the_plain_methods_of_inpainting_are_those_of_the_textbook():
    import inpainting

    rng = np.random.default_rng(0)
    real = (0.5 + 0.1 * rng.normal(size=(4_000, 4)) @ rng.normal(size=(4, 4))).astype(np.float32)
    real = real.clip(0, 1).reshape(-1, 2, 2, 1)
    images, known = real[:5], np.zeros((5, 2, 2, 1), bool)
    known[:, 0] = True
    near = NearestNeighbors(n_neighbors=10).fit(real.reshape(-1, 4)[:, :2])
    expected = near.kneighbors(images.reshape(-1, 4)[:, :2], return_distance=False)
    found = inpainting.neighbours(real)(images, known, 3)
    assert found.shape == (10, 5, 2, 2, 1)
    for i in range(5):
        assert {x.tobytes() for x in found[:, i]} == {real[j].tobytes() for j in expected[i]}
    # The conditional mean of a Gaussian is a linear regression, its variance that of the residuals.
    flat = real.reshape(-1, 4).astype(float)
    line = LinearRegression().fit(flat[:, :2], flat[:, 2:])
    deviations = (flat[:, 2:] - line.predict(flat[:, :2])).std(axis=0)
    found = inpainting.gaussian(real)(images, known, 4_000).reshape(4_000, 5, 4)
    np.testing.assert_allclose(found[..., 2:].mean(axis=0), line.predict(flat[:5, :2]), atol=0.02)
    np.testing.assert_allclose(found[..., 2:].std(axis=0), [deviations] * 5, rtol=0.15)
