import dataclasses

import pytest

from jaxgan import MODELS, PRESETS, GANConfig
from jaxgan.model import Finding
from jaxgan.report import texts

GAN = MODELS["gan"]
DEFAULTS = vars(GANConfig())
COLLAPSE = Finding("mode collapse", (5, 6, 7), "few samples", ("--pac 2", "--unroll-steps 5"))


def line(finding: Finding, epochs: int = 9, **settings) -> str:
    (found,) = texts.finding_lines([[finding]], epochs, GAN, DEFAULTS | settings)
    return found


@pytest.mark.parametrize(
    ("seen", "epochs", "when"),
    [
        ((5,), 9, "epoch 5"),
        ((5, 6, 7), 9, "epoch 5 to 7"),
        ((5, 9), 9, "epoch 5 to the last"),
        ((9,), 9, "epoch 9"),
    ],
)
def test_a_failure_has_its_epochs_its_evidence_and_what_to_try(seen, epochs, when):
    assert line(COLLAPSE._replace(epochs=seen), epochs) == (
        f"mode collapse, {when}: few samples; try --pac 2, or --unroll-steps 5"
    )


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"pac": 2}, "; try --unroll-steps 5"),
        # More of the same is in use too.
        ({"pac": 4}, "; try --unroll-steps 5"),
        ({"pac": 2, "unroll_steps": 1}, ""),
        ({"loss": "hinge"}, "; try --pac 2, or --unroll-steps 5"),
    ],
)
def test_remedies_that_the_run_has_are_left_out(settings, advice):
    assert line(COLLAPSE, **settings) == f"mode collapse, epoch 5 to 7: few samples{advice}"


def test_another_loss_may_still_be_tried():
    finding = COLLAPSE._replace(remedies=("--loss relativistic --r1 1 --r2 1",))
    assert "try --loss relativistic --r1 1 --r2 1" in line(finding, loss="hinge")
    assert "try" not in line(finding, loss="relativistic")


def test_advice_in_words_stays():
    finding = COLLAPSE._replace(remedies=("a lower --discriminator-lr",))
    assert line(finding, discriminator_lr=1e-9).endswith("; try a lower --discriminator-lr")


def test_failures_of_a_population_name_the_members_and_the_first():
    early = COLLAPSE._replace(epochs=(3,), evidence="fewer samples")
    other = Finding("no convergence", (8,), "swings", ())
    findings = [[COLLAPSE], [other], [early, other]]
    assert texts.finding_lines(findings, 9, GAN, DEFAULTS) == [
        "mode collapse in 2 of 3 members (0, 2); member 2, epoch 3: fewer samples; try --pac 2, or "
        "--unroll-steps 5",
        "no convergence in 2 of 3 members (1, 2); member 1, epoch 8: swings",
    ]
    (many,) = texts.finding_lines([[COLLAPSE]] * 9, 9, GAN, DEFAULTS)
    assert many.startswith("mode collapse in 9 of 9 members (0, 1, 2, 3, 4, 5, 6, 7, ...); member")
    assert texts.finding_lines([[], []], 9, GAN, DEFAULTS) == []


def test_scores_have_a_line_for_samples_raw_weights_and_real_images():
    scores = {
        "fd(pca, train, n=9)": 12.3456,
        "recall(pca, train, n=9)": 0.5,
        "raw_fd(pca, train, n=9)": 20.0,
        "real_fd(pca, train, n=9)": 0.00123456,
    }
    assert texts.score_lines(scores) == [
        "  fd 12.3  recall 0.5  (pca, train, n=9)",
        "  fd 20  (pca, train, n=9) of raw weights",
        "  fd 0.00123  (pca, train, n=9) of real images",
    ]
    # Of a population the means over the members that have not diverged.
    assert texts.score_lines({"fd(pca)": [1.0, float("nan"), 2.0]}) == ["  fd 1.5  (pca)"]


def test_the_report_has_a_line_for_each_group_and_for_best_and_worst():
    names = ("gen_loss", "disc_loss", "real_score", "fake_score", "penalty")
    numbers = {f"{name}_{end}": 0.5 for name in names for end in ("mean", "sd")}
    summary = [
        {"generator_lr": 1e-4, "members": 2, "diverged": 0, **numbers},
        {"generator_lr": 1e-3, "members": 1, "diverged": 1},
    ]
    labels = [
        {"member": 0, "seed": 0, "generator_lr": 1e-4},
        {"member": 1, "seed": 1, "generator_lr": 1e-4},
        {"member": 2, "seed": 0, "generator_lr": 1e-3},
    ]
    assert texts.report_lines(summary, {"best": 1, "worst": 0}, labels) == [
        "  generator_lr 0.0001  gen_loss 0.500 (sd 0.500)  disc_loss 0.500 (sd 0.500)\n"
        "    real_score 0.500 (sd 0.500)  fake_score 0.500 (sd 0.500)  0 of 2 diverged",
        "  generator_lr 0.001  1 of 1 diverged",
        "best: member 1 seed 1 generator_lr 0.0001",
        "worst: member 0 seed 0 generator_lr 0.0001",
    ]
    # One member has no standard deviation; if all have diverged there is no best.
    alone = [{"members": 1, "diverged": 0, "loss_mean": 0.25, "loss_sd": None}]
    found = texts.report_lines(alone, {"best": None, "worst": None}, labels[:1])
    assert found == ["  loss 0.250  0 of 1 diverged"]


def test_the_summary_has_the_published_numbers():
    tables = texts.summary(GAN.networks(PRESETS["reference"][0]), 128)
    assert "MLPGenerator Summary" in tables
    assert "Total Parameters: 249,296" in tables
    assert "Total Parameters: 242,177" in tables
    assert "128,28,28,1" in tables
    assert "\x1b" not in tables


def test_the_summary_is_of_the_config(tiny):
    config = dataclasses.replace(tiny, pac=2)
    tables = texts.summary(GAN.networks(config), 3)
    # (7 + 1) 16 + (16 + 1) 30, and (60 + 1) 16 + (16 + 1).
    assert f"Total Parameters: {8 * 16 + 17 * 30}" in tables
    assert f"Total Parameters: {61 * 16 + 17}" in tables
    assert "3,6,5,2" in tables
    # Labels: 3 more rows of the generator's first kernel; of each image of a pack, 16 numbers and a
    # bias for the discriminator's vector.
    tables = texts.summary(GAN.networks(dataclasses.replace(config, num_classes=3)), 3)
    assert f"Total Parameters: {11 * 16 + 17 * 30}" in tables
    assert f"Total Parameters: {61 * 16 + 17 + 7 * 16:,}" in tables
