"""The benchmarks that train a row of a table for each method."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from test_evaluation import make_judge

from jaxgan import GANConfig, create_state
from jaxgan.data.mixtures import RING

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def mixtures(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import mixtures

    return mixtures


def run(module, monkeypatch, *options) -> None:
    monkeypatch.setattr("sys.argv", ["table.py", *map(str, options)])
    module.main()


def rows_in(path: Path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


@pytest.mark.parametrize("data", ["ring", "grid"])
def test_every_method_of_the_mixtures_is_a_gan_that_can_be_built(mixtures, monkeypatch, data):
    for options in ([], ["--pacgan"]):
        monkeypatch.setattr("sys.argv", ["mixtures.py", *options])
        args = mixtures.parse()
        for method in mixtures.METHODS:
            config = mixtures.make_config(data, method, args)
            assert config.image_shape == (1, 1, 2)
    expected = {"relativistic+R1+R2": ("relativistic", 1), "PacGAN4": ("non_saturating", 4)}
    for method, (loss, pac) in expected.items():
        config = mixtures.make_config(data, method, args)
        assert (config.loss, config.pac) == (loss, pac)


def test_rows_of_the_mixtures_are_trained_once(mixtures, monkeypatch, tmp_path, capsys):
    file, trained = tmp_path / "rows.json", []
    train_row = mixtures.train_row

    def noted(data, method, args):
        trained.append((data, method, args.seeds))
        return train_row(data, method, args)

    monkeypatch.setattr(mixtures, "train_row", noted)
    options = ["--data", "ring", "--steps", "10", "--batch-size", "32", "--json", file]
    run(mixtures, monkeypatch, *options, "--seeds", "2", "--methods", "GAN")
    run(mixtures, monkeypatch, *options, "--seeds", "2", "--methods", "PacGAN2,GAN")
    assert trained == [("ring", "GAN", 2), ("ring", "PacGAN2", 2)]
    assert [row["method"] for row in rows_in(file)] == ["GAN", "PacGAN2"]
    assert np.load(file.with_suffix(".npz"))["ring GAN"].shape == (6, 500, 2)
    picture = tmp_path / "samples.png"
    before = rows_in(file)
    monkeypatch.setattr(mixtures, "ROUNDS", 1)
    monkeypatch.setattr(mixtures, "STRETCH", 2)
    at_the_end = ["--rates", "--picture", picture]
    run(mixtures, monkeypatch, *options, "--seeds", "2", "--methods", "GAN", *at_the_end)
    assert len(trained) == 2
    names = [
        {k for k in old if old[k] != new[k]} for old, new in zip(before, rows_in(file), strict=True)
    ]
    assert names == [{"steps_per_second"}, set()]
    assert picture.read_bytes().startswith(b"\x89PNG")
    # Rows of other settings are not trained over.
    with pytest.raises(SystemExit, match="has rows of other settings: choose another --json"):
        run(mixtures, monkeypatch, *options, "--seeds", "1", "--methods", "GAN")
    assert len(rows_in(file)) == 2
    one = [*options[:-1], tmp_path / "one.json", "--seeds", "1", "--methods", "GAN"]
    run(mixtures, monkeypatch, *one)
    assert trained[2:] == [("ring", "GAN", 1)]
    (row,) = rows_in(tmp_path / "one.json")
    assert (row["seeds"], row["modes_se"]) == (1, None)
    for name in ("modes_mean", "high_quality_mean", "reverse_kl_mean", "failed_share", "step_mb"):
        assert math.isfinite(row[name])
    assert "10 steps of 32 points" in capsys.readouterr().out


def test_what_seeds_say_together(mixtures):
    good = [RING.draw(2_500, seed)[0] for seed in range(9)]
    summed = mixtures.summed_up(good, "ring")
    assert (summed["modes_mean"], summed["modes_se"], summed["failed_share"]) == (8, 0, 0)
    assert summed["high_quality_mean"] == pytest.approx(100 * (1 - math.exp(-4.5)), abs=0.3)
    # Wilson's interval of 0 in n ends at z^2 / (n + z^2).
    assert summed["failed_low"] == 0
    assert summed["failed_high"] == pytest.approx(3.8415 / (9 + 3.8415), abs=1e-4)
    one_lost = [points[RING.centers[0] @ points.T < 0.9] for points in good[:1]]
    diverged = [np.full((2_500, 2), np.nan)]
    summed = mixtures.summed_up(good + one_lost + diverged, "ring")
    assert summed["modes_mean"] == pytest.approx((9 * 8 + 7 + 0) / 11)
    assert summed["modes_se"] == pytest.approx(np.std([8] * 9 + [7, 0], ddof=1) / math.sqrt(11))
    assert summed["failed_share"] == pytest.approx(2 / 11)
    assert summed["reverse_kl_mean"] == pytest.approx(
        (math.log(8 / 7) + math.log(8)) / 11, abs=2e-3
    )


def test_an_unknown_method_is_named(mixtures, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(mixtures, monkeypatch, "--methods", "GAN,nonsense")
    assert "unknown method 'nonsense'; known are GAN, minimax" in capsys.readouterr().err


def test_a_method_whose_seeds_all_diverge_has_a_row(mixtures, monkeypatch, tmp_path):
    monkeypatch.setitem(mixtures.METHODS, "GAN", {"generator_lr": 1e30})
    options = ["--data", "ring", "--steps", "10", "--batch-size", "32", "--seeds", "2"]
    file = tmp_path / "rows.json"
    run(mixtures, monkeypatch, *options, "--methods", "GAN", "--json", file)
    (row,) = rows_in(file)
    assert (row["modes_mean"], row["high_quality_mean"], row["failed_share"]) == (0, 0, 1)
    assert row["reverse_kl_mean"] == pytest.approx(math.log(8))
    assert row["steps_per_second"] is None


def test_rows_of_the_remedies_are_trained_once(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import remedies

    file, picture = tmp_path / "rows.json", tmp_path / "samples.png"
    options = ["--dataset", "digits", "--epochs", "2", "--seeds", "2", "--json", file]
    run(remedies, monkeypatch, *options, "--methods", "EMA")
    (first,) = rows_in(file)
    run(remedies, monkeypatch, *options, "--methods", "reference,EMA", "--picture", picture)
    reference, ema = rows_in(file)
    assert (reference["method"], ema["method"]) == ("reference", "EMA")
    assert ema == first  # not trained again: its seconds would differ
    assert ema["settings"]["ema_decay"] == 0.999
    # The average is of no influence on training.
    assert ema["diversity"] == reference["diversity"]
    assert ema["diversity"]["sd"] > 0
    # But of one on the samples that are judged.
    assert ema["fd"]["mean"] != reference["fd"]["mean"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_remedy_whose_seeds_all_diverge_has_a_row(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import remedies

    monkeypatch.setitem(remedies.METHODS, "reference", {"generator_lr": 1e30})
    file = tmp_path / "rows.json"
    options = ["--dataset", "digits", "--epochs", "1", "--seeds", "2", "--json", file]
    run(remedies, monkeypatch, *options, "--methods", "reference")
    (row,) = rows_in(file)
    assert (row["diverged"], row["fd"]["mean"], row["steps_per_second"]) == (2, None, None)
    assert "  2 diverged\n" in capsys.readouterr().out


def test_every_remedy_is_a_gan_that_can_be_built(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import remedies

    monkeypatch.setattr("sys.argv", ["remedies.py"])
    args = remedies.parse()
    images = np.zeros((600, 8, 8, 1), np.uint8)
    configs = [remedies.make_config(method, images, args) for method in remedies.METHODS]
    assert len(set(configs)) == len(configs)
    # Over 10 epochs of 5 steps.
    assert remedies.make_config("instance noise", images, args).instance_noise == "linear:0.3:0:50"


def test_failures_and_false_alarms_are_counted(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import planted_failures

    file = tmp_path / "rows.json"
    cases = ("--cases", "Dirac GAN", "R1, Dirac GAN")
    run(planted_failures, monkeypatch, *cases, "--seeds", 2, "--json", file)
    assert "2 of 2 failures seen, 0 false alarms in 2 healthy runs" in capsys.readouterr().out
    planted, healthy = rows_in(file)
    assert planted["seen"] == {
        "vanishing gradients": 0,
        "mode collapse": 0,
        "no convergence": 2,
    }
    assert healthy["any"] == 0
    assert healthy["signs"]["swing"][1] < 0.01 < 0.25 < planted["signs"]["swing"][1]


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import search

    return search


def test_every_corner_of_what_is_searched_is_a_gan_that_can_be_built(search):
    images = np.zeros((600, 8, 8, 1), np.uint8)
    for name, distribution in search.SPACE.items():
        ends = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
        for value in ends:
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


def test_trials_of_the_search_are_logged_and_gone_on_with(search, monkeypatch, tmp_path, capsys):
    small = GANConfig(
        image_shape=(8, 8, 1),
        generator_widths=(8,),
        discriminator_widths=(8,),
        discriminator_dropout=(0.0,),
    )
    asked = []

    def make_config(params, images, epochs):
        asked.append(params)
        return small if len(asked) != 2 else dataclasses.replace(small, generator_lr=1e30)

    monkeypatch.setattr(search, "make_config", make_config)
    monkeypatch.setattr(search, "EARLY", 1)
    file = tmp_path / "log.json"
    options = ["--dataset", "digits", "--epochs", 2, "--seeds", 2, "--json", file]
    run(search, monkeypatch, *options, "--trials", 2)
    first = json.loads(file.read_text())["trials"]
    assert [trial["params"] for trial in first] == asked == search.KNOWN[:2]
    assert [trial["state"] for trial in first] == ["COMPLETE", "FAIL"]
    assert first[0]["early_fd"] != first[0]["fd"] > 0
    run(search, monkeypatch, *options, "--trials", 4)
    trials = json.loads(file.read_text())["trials"]
    assert trials[:2] == first
    assert len(asked) == 4
    assert trials[2]["params"] == search.KNOWN[2]
    # The same GAN as in the first trial: to the bit, since the seeds are the same.
    assert trials[2]["fd"] == first[0]["fd"]
    assert "3 whole trials" in capsys.readouterr().out
    # Optuna is told all that it would know, had it been one run.
    told = search.told(trials[0])
    assert (told.value, told.intermediate_values) == (first[0]["fd"], {1: first[0]["early_fd"]})
    assert search.told(trials[1]).state.name == "FAIL"
    with pytest.raises(SystemExit, match=r"other settings \(dataset digits, epochs 2, seeds 2\)"):
        run(search, monkeypatch, *options, "--seeds", 3)


def test_a_trial_that_is_worse_than_the_median_ends_early(search, monkeypatch, tmp_path):
    scores = {"early_fd": 1e-6, "fd": 1e-6, "recall": 0.5, "coverage": 0.5, "seconds": 1}
    log = [{"params": search.KNOWN[0], "state": "COMPLETE", **scores}] * 9
    file = tmp_path / "log.json"
    file.write_text(json.dumps({"dataset": "digits", "epochs": 2, "seeds": 1, "trials": log}))
    small = GANConfig((8, 8, 1), 4, (8,), (8,), (0.0,))
    monkeypatch.setattr(search, "make_config", lambda *_: small)
    monkeypatch.setattr(search, "EARLY", 1)
    options = ["--dataset", "digits", "--epochs", 2, "--seeds", 1, "--json", file]
    run(search, monkeypatch, *options, "--trials", 10)
    trial = json.loads(file.read_text())["trials"][-1]
    assert (trial["state"], trial["fd"]) == ("PRUNED", None)
    assert trial["early_fd"] > 1e-6


def test_presets_are_scored_by_two_judges(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import recipes

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(recipes, "STRETCH", 2)
    judges = [make_judge(tmp_path / f"{i}.safetensors", seed=i, name=f"judge{i}") for i in (0, 1)]
    file, picture = tmp_path / "rows.json", tmp_path / "samples.png"
    options = ["--dataset", "digits", "--epochs", 1, "--seeds", 2, "--num", 60, "--json", file]
    options += ["--judges", ",".join(judges), "--presets", "reference"]
    run(recipes, monkeypatch, *options, "--seeds", 1)
    ((first,),) = [row["runs"] for row in rows_in(file)]
    run(recipes, monkeypatch, *options)
    (row,) = rows_in(file)
    assert row["runs"][0] == first  # it goes on from there
    assert [each["seed"] for each in row["runs"]] == [0, 1]
    names = [f"fd({judge}, train, n=60)" for judge in ("judge0", "judge1")]
    values = [[each["scores"][name] for each in row["runs"]] for name in names]
    assert len({value for of_judge in values for value in of_judge}) == 4
    assert row["time_beside_reference"] == 1
    floor = json.loads(file.read_text())["real images"]
    assert all(floor[name] < min(of_judge) for name, of_judge in zip(names, values, strict=True))
    run(recipes, monkeypatch, *options, "--picture", picture)
    assert rows_in(file) == [row]  # not trained again: its seconds would differ
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "reference: 2 of 2 seeds" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="has reference with other settings: choose another"):
        run(recipes, monkeypatch, *options, "--num", 61)
