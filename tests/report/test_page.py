"""The page of a run, in headless Chromium.

Playwright (extra `test`) drives the system's `chromium` (Debian: apt-get install chromium), without
its sandbox, since tests may run as root. The page is opened as a file. Without chromium these tests
are skipped.
"""

import base64
import contextlib
import dataclasses
import io
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import here
from PIL import Image

import jaxgan
from jaxgan import MODELS, data, generate, loop, sample
from jaxgan.commands import report
from jaxgan.data.pixels import to_uint8
from jaxgan.diffusion import DiffusionConfig, create_state
from jaxgan.diffusion import sample as sample_diffusion
from jaxgan.model import Curve
from jaxgan.report import page, plots
from jaxgan.report.page import Alarm, Player, View
from jaxgan.run import saved

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")
SMALL = (
    *("--generator-widths", 16, "--latent-dim", 8),
    *("--discriminator-widths", 16, "--discriminator-dropout", 0.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def images(folder):
    """A file of digits with labels."""
    digits = data.load("digits")
    np.savez(folder / "d.npz", images=digits.images[:300], labels=digits.labels[:300])
    return folder / "d.npz"


@pytest.fixture(scope="module")
def trained(folder, images):
    """A conditional run, with its report.html."""
    options = ("--conditional", "--latent-scale", 0.8, *SMALL)
    here("train.py", "--dataset", images, *options, "--epochs", 3, "--workdir", folder / "run")
    out, _ = here("report.py", folder / "run")
    assert re.fullmatch(rf"0\.\d MB in {folder}/run/report.html\n", out)
    return folder / "run"


@pytest.fixture(scope="module")
def points(folder):
    """A population on points, with its report.html."""
    np.save(folder / "ring.npy", data.load("ring").images[:256, 0, 0])
    options = ("--population", 2, "--epochs", 2, *SMALL, "--workdir", folder / "points")
    here("train.py", "--dataset", folder / "ring.npy", *options)
    here("report.py", folder / "points")
    return folder / "points"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a file in the browser. It must cause no error, and no request but for itself."""
    errors, contexts = [], []

    def open_page(file, link="", **options):
        context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        context.on("request", lambda request: errors.append(request.url))
        tab.goto(f"file://{file}{link}")
        tab.wait_for_selector("body[data-ready]")
        assert errors.pop(0).startswith(f"file://{file}")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [error for error in errors if not error.startswith("data:image/png;base64,")] == []


@pytest.fixture
def written(tmp_path):
    """Writes a page about views; gives the file."""

    def write(*views):
        (tmp_path / "page.html").write_text(page.html(views))
        return tmp_path / "page.html"

    return write


def pixels(tab, selector=".stage canvas"):
    """What a canvas shows, uint8 `[H, W, 4]`."""
    return decoded(tab.evaluate("(x) => document.querySelector(x).toDataURL()", selector))


def decoded(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)


# ---- The explorer ----


def test_dense_layers_are_the_generator(tiny):
    config = dataclasses.replace(tiny, num_classes=3, latent_scale=0.7, ema_decay=0.9)
    state = jaxgan.create_state(jax.random.key(0), config)
    state = state.replace(ema=jax.tree.map(lambda x: 1.1 * x + 0.01, state.ema))
    dense = MODELS["gan"].dense(state)
    latents, labels = jax.random.normal(jax.random.key(1), (5, 7)), np.array([0, 1, 2, 2, 1])
    x = np.concatenate([latents, np.eye(3)[labels]], axis=1)
    for kernel, bias in dense.layers[:-1]:
        x = np.maximum(x @ kernel + bias, 0)
    x = np.tanh(x @ dense.layers[-1][0] + dense.layers[-1][1])
    assert dense.bounded
    expected = generate(state, latents, labels=labels)
    np.testing.assert_allclose(x.reshape(5, 6, 5, 1), expected, rtol=1e-5, atol=1e-6)


@needs_chromium
def test_the_explorer_draws_what_jaxgan_generates(trained, opened):
    tab = opened(trained / "report.html")
    state, _ = saved.load_state(MODELS["gan"], trained)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(64, 8)).astype(np.float32)
    labels = rng.integers(0, 10, 64).astype(np.int32)
    shown = []
    for latent, label in zip(latents.tolist(), labels.tolist(), strict=True):
        tab.evaluate(
            "([z, c]) => { explorers[0].label = c; explorers[0].moveTo(z) }", [latent, label]
        )
        shown.append(pixels(tab)[..., :1])
    expected = to_uint8(generate(state, jnp.asarray(latents), labels=labels))
    difference = np.abs(np.stack(shown).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.9
    assert expected.std() > 20


@needs_chromium
def test_each_control_moves_the_picture(trained, opened):
    tab = opened(trained / "report.html")
    before = pixels(tab)

    def moved() -> bool:
        nonlocal before
        last, before = before, pixels(tab)
        return not np.array_equal(last, before)

    assert not moved()
    for button in ("New sample", "Walk left", "Walk up", "Walk right", "Walk down"):
        tab.get_by_role("button", name=button).click()
        assert moved(), button
    pad = tab.locator(".pad canvas")
    pad.click(position={"x": 5, "y": 200})
    assert moved()
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        pad.press(key)
        assert moved(), key
    tab.get_by_role("button", name="7", exact=True).click()
    assert moved()
    assert tab.locator("[aria-pressed=true]").all_inner_texts() == ["7"]
    tab.get_by_label("latent scale").press("ArrowLeft")
    assert moved()
    for slider in tab.locator(".coordinates input").all():
        slider.press("ArrowRight")
        assert moved()
    walk = tab.get_by_label("Place between the two samples")
    walk.press("End")
    assert moved()
    np.testing.assert_array_equal(before, pixels(tab, "[data-end='1']"))
    tab.get_by_role("button", name="New sample").click()
    tab.get_by_role("button", name="Set start").click()
    moved()
    np.testing.assert_array_equal(before, pixels(tab, "[data-end='0']"))
    walk.fill("0.5")
    assert moved()
    # Another control ends a walk that plays.
    play = tab.locator(".walk .play")
    play.click()
    assert play.inner_text() == "Stop"
    tab.get_by_role("button", name="New sample").click()
    assert play.inner_text() == "Play"


@needs_chromium
def test_a_walk_keeps_the_length_of_latents_and_the_plane_is_orthogonal(trained, opened):
    tab = opened(trained / "report.html")
    norms = tab.evaluate(
        """() => {
            const [a, b] = [Float32Array.of(3, 0, 0), Float32Array.of(0, 3, 0)];
            return [0, 0.25, 0.5, 1].map((t) => [...slerp(a, b, t)]);
        }"""
    )
    angles = np.pi / 2 * np.array([0, 0.25, 0.5, 1])
    expected = 3 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    np.testing.assert_allclose(norms, expected, atol=1e-6)
    u, v = np.array(tab.evaluate("drawPlane(8, 5).map((x) => [...x])"))
    np.testing.assert_allclose([u @ u, v @ v, u @ v], [8, 8, 0], atol=1e-5)
    lengths = tab.evaluate(
        "[[0, 0], [1, 0], [-0.5, 0.7]].map((place) => norm(explorers[0].latentAt(place)))"
    )
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)
    drawn = np.array(tab.evaluate("[...drawLatent(20000, 3)]"))
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [0, 1], atol=0.03)


@needs_chromium
def test_a_link_opens_the_same_picture(trained, opened):
    tab = opened(trained / "report.html")
    tab.get_by_role("button", name="3", exact=True).click()
    tab.get_by_role("button", name="Walk up").click()
    tab.get_by_label("latent scale").press("ArrowRight")
    tab.get_by_role("button", name="Copy this latent").click()
    tab.locator(".said", has_text="picture").wait_for()
    link = tab.evaluate("location.hash")
    assert link.startswith("#latent=0,1.05,3,")
    other = opened(trained / "report.html", link)
    np.testing.assert_array_equal(pixels(other), pixels(tab))
    broken = opened(trained / "report.html", link[:-9])
    assert "does not fit" in broken.locator(".said").inner_text()
    first = pixels(opened(trained / "report.html"))
    np.testing.assert_array_equal(pixels(broken), first)
    for wrong in ("#latent=garbage", link.replace("=0,", "=7,"), link.replace("1.05", "x")):
        broken = opened(trained / "report.html", wrong)
        assert "does not fit" in broken.locator(".said").inner_text()
        np.testing.assert_array_equal(pixels(broken), first)


@needs_chromium
def test_points_are_a_scatter_plot(points, opened):
    tab = opened(points / "report.html")
    before = pixels(tab)
    assert before.shape == (440, 440, 4)
    tab.get_by_role("button", name="Walk left").click()
    assert not np.array_equal(before, pixels(tab))
    best, _ = saved.load_state(MODELS["gan"], points)
    found = tab.evaluate("[...explorers[0].render(Float32Array.from({length: 8}, () => 0.5))]")
    np.testing.assert_allclose(found, generate(best, jnp.full((1, 8), 0.5))[0, 0, 0], atol=2e-3)
    table = tab.locator("#verdict tbody tr")
    assert [row.split("\t")[0] for row in table.all_inner_texts()] == ["0", "1"]
    assert tab.locator("tr.best").count() == 1
    assert tab.locator("[data-panel='0'] .member").count() == 4


# ---- Pictures and curves ----


@needs_chromium
def test_the_player_shows_the_samples_of_each_epoch(trained, opened):
    tab = opened(trained / "report.html")
    image, slider = tab.locator("#samples img"), tab.get_by_label("Epoch", exact=True)
    state, _ = saved.load_state(MODELS["gan"], trained)
    labels = plots.class_rows(10)
    drawn = sample(state, loop.make_rngs(0).pictures, len(labels), labels)
    shown = decoded(image.get_attribute("src"))
    np.testing.assert_array_equal(shown, plots.image_grid(drawn, 8)[..., 0])
    assert tab.locator("#samples ol li").all_inner_texts() == list("0123456789")
    last = image.get_attribute("src")
    slider.press("ArrowLeft")
    assert image.get_attribute("alt") == "samples, epoch 2"
    tab.locator("#samples").get_by_role("button", name="Previous").click()
    assert tab.locator("#samples output").inner_text() == "epoch 1"
    assert image.get_attribute("src") != last
    tab.locator("#samples").get_by_role("button", name="Play").click()
    tab.locator("#samples output", has_text="epoch 3").wait_for()


@needs_chromium
def test_curves_have_values_and_alarms(written, opened):
    history = [{"epoch": i, "step": 10 * i, "a": 1.0 / i, "b": [i, 2.0 * i]} for i in range(1, 6)]
    curves = [
        Curve("loss", {"one": "a"}, healthy=(0, 0.5)),
        Curve("norm", {"two": "b"}, scale="log"),
    ]
    alarm = Alarm("mode collapse", "epoch 4", (4,), "Few kinds.", "it was seen", ["--r1 1"])
    view = View(
        "run", "A run", history=history, curves=curves, alarms=[alarm], equilibrium={"a": 0.3}
    )
    tab = opened(written(view))
    panel = tab.locator("[data-panel='0']")
    assert panel.locator(".legend b").inner_text() == "0.2"
    panel.locator("svg[role=slider]").press("ArrowLeft")
    assert panel.locator(".legend b").inner_text() == "0.25"
    assert panel.locator("output").inner_text() == "epoch 4"
    assert panel.get_by_role("slider").get_attribute("aria-valuetext") == "epoch 4, one 0.25"
    # The other panels follow, with the mean over members.
    assert tab.locator("[data-panel='1'] .legend b").inner_text() == "6"
    marks = tab.locator(".mark-text").all_text_contents()
    assert marks == ["1", "1"]
    line, cursor = (panel.locator(name).get_attribute("x1") for name in (".alarm", ".cursor"))
    assert float(line) == pytest.approx(float(cursor))
    text = tab.locator(".alarms").inner_text()
    assert "Few kinds." in text
    assert "Try --r1 1." in text
    box = panel.locator(".plot svg").bounding_box()
    tab.mouse.move(box["x"] + 50, box["y"] + 50)
    assert panel.locator(".legend b").inner_text() == "1"
    assert panel.locator(".even").count() == panel.locator(".healthy").count() == 1


def test_three_scores_of_a_run_are_a_curve():
    model = MODELS["gan"]
    history = [{"fd(pca64, train, n=9)": 2.0, "real_fd(pca64, train, n=9)": 0.5}] * 3
    assert [curve.title for curve in report.curves(model, history[1:])] == [
        *("loss", "mean score", "share of the data"),
        *("gradient norm", "accuracy of the discriminator"),
    ]
    assert report.curves(model, history)[-1].metrics == {
        "samples": "fd(pca64, train, n=9)",
        "real images": "real_fd(pca64, train, n=9)",
    }


@needs_chromium
def test_scores_stand_beside_those_of_real_images(trained, opened):
    tab = opened(trained / "report.html")
    row = saved.read_history(MODELS["gan"], trained)[-1]
    name = "coverage(pca64, train, n=150)"
    shown = tab.locator("#scores tbody tr", has_text="coverage").inner_text().split("\t")
    assert shown[-2:] == [f"{row[name]:.3g}", f"{row['real_' + name]:.3g}"]
    assert "150 samples, by the features of pca64" in tab.locator("#scores caption").inner_text()
    assert tab.locator("#verdict .badge").inner_text() == "Undertrained"
    assert "--epochs 7817" in tab.locator("#verdict .next").inner_text()
    settings = [cells.split("\t") for cells in tab.locator("#settings tbody tr").all_inner_texts()]
    assert ["latent_scale", "1.0", "0.8"] in settings
    assert ["generator_widths", "64, 128, 256", "16"] in settings
    assert not {"image_shape", "loss"} & {cells[0] for cells in settings}


@needs_chromium
def test_several_runs_stand_side_by_side_on_common_axes(written, opened):
    def view(name, steps):
        history = [{"epoch": i, "step": steps * i, "a": float(i)} for i in (1, 2, 3)]
        return View(
            name, "A run", "healthy", "Good.", history=history, curves=[Curve("loss", {"x": "a"})]
        )

    tab = opened(written(view("first", 10), view("second", 20)))
    left, right = (box.bounding_box() for box in tab.locator("#verdict .runs > div").all())
    assert left["y"] == right["y"]
    assert left["x"] < right["x"]
    items = tab.locator(".legend li").all_inner_texts()
    assert items == ["first: x 3", "second: x 3"]
    # Epochs differ in length, so the axis has steps.
    tab.locator("svg[role=slider]").press("ArrowLeft")
    assert tab.locator("[data-panel='0'] output").inner_text() == "step 40"
    assert tab.locator(".legend b").all_inner_texts() == ["-", "2"]
    ends = tab.evaluate(
        "[...document.querySelectorAll('.line')].map((x) => x.getBBox().x + x.getBBox().width)"
    )
    assert ends[0] < ends[1]


# ---- The page as a page ----


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(trained, opened, scheme):
    tab = opened(trained / "report.html", color_scheme=scheme)
    names = ["ground", "raised", "ink", "quiet", "accent", "good", "warn", "bad", "edge"]
    series = [f"series-{i}" for i in range(6)]
    script = "(names) => Object.fromEntries(names.map((x) => [x, css('--' + x)]))"
    colours = tab.evaluate(script, [*names, *series])

    def luminance(name):
        channels = np.array([int(colours[name][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    def contrast(one, other):
        low, high = sorted(map(luminance, (one, other)))
        return (high + 0.05) / (low + 0.05)

    assert (luminance("ground") > 0.5) == (scheme == "light")
    for ground in ("ground", "raised"):
        for text in ("ink", "quiet", "accent", "good", "warn", "bad"):
            assert contrast(text, ground) >= 4.5, (text, ground)
        for graphic in ("edge", *series):
            assert contrast(graphic, ground) >= 3, (graphic, ground)
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == tab.evaluate(
        "(() => { document.body.style.color = css('--ground');"
        " return getComputedStyle(document.body).color })()"
    )


@needs_chromium
def test_narrow_screens_do_not_scroll_sideways(trained, points, written, opened):
    long = View("a_long_name" * 5, "lead", settings={"a" * 30: ("b" * 20, "c" * 20)})
    for file in (trained / "report.html", points / "report.html", written(long, long)):
        tab = opened(file, viewport={"width": 360, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") == 360


@needs_chromium
def test_everything_has_a_name_and_nothing_moves_by_itself(trained, opened):
    tab = opened(trained / "report.html", reduced_motion="reduce")
    unnamed = tab.evaluate(
        """[...document.querySelectorAll("button, input, img, canvas, svg[role=slider]")].filter(
            (x) => !(x.getAttribute("aria-label") || x.alt || x.labels?.length || x.innerText)
        ).map((x) => x.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((x) => +x.tagName[1])")
    assert levels[0] == 1
    assert max(np.diff(levels)) <= 1
    assert not any(button.is_visible() for button in tab.locator(".play").all())
    # Without the preference they are there.
    assert opened(trained / "report.html").locator(".play").first.is_visible()


@needs_chromium
def test_names_are_no_html(written, opened):
    name = '<img src="x" onerror="throw 1"></script><b>'
    player = Player({name: [np.zeros((2, 2, 1), np.uint8)]}, [name], [name])
    view = View(name, name, name, name, name, samples=player, settings={name: (name, name)})
    tab = opened(written(view))
    assert tab.locator("h1").inner_text() == name
    assert tab.locator("img, b").count() == 1


# ---- What a page leaves out ----


def test_frames_fit_into_the_budget_with_the_first_and_the_last():
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (16, 16, 1), np.uint8) for _ in range(30)]
    player = Player({"samples": frames}, [str(i) for i in range(30)])
    whole = page._player_data(player, 10**6)
    few = page._player_data(player, 5_000)
    assert len(whole["captions"]) == 30
    assert 2 < len(few["captions"]) < 30
    assert (few["captions"][0], few["captions"][-1]) == ("0", "29")
    assert sum(map(len, few["tracks"][0]["images"])) <= 5_000
    np.testing.assert_array_equal(decoded(few["tracks"][0]["images"][-1]), frames[-1][..., 0])


@needs_chromium
def test_the_slider_ends_at_the_last_frame(written, opened, monkeypatch):
    monkeypatch.setattr(page, "BUDGET", 500)
    frames = [np.full((2, 2, 1), 8 * i, np.uint8) for i in range(30)]
    tab = opened(written(View("run", "A run", samples=Player({"x": frames}, list("abc" * 10)))))
    captions = tab.evaluate("data.runs[0].samples.captions.length")
    slider = tab.get_by_label("Epoch", exact=True)
    assert 2 <= captions < 30
    assert slider.get_attribute("max") == slider.input_value() == str(captions - 1)
    single = View("run", "A run", samples=Player({"x": frames[:1]}, ["a"]))
    assert not opened(written(single)).get_by_label("Epoch", exact=True).is_visible()


def test_one_member_is_drawn_as_a_run():
    curve = Curve("loss", {"one": "a"}, deviation=True)
    rows = [{"epoch": i, "step": i, "a": float(i), "a_square": i**2 + 4.0} for i in (1, 2)]
    listed = [{**row, "a": [row["a"]], "a_square": [row["a_square"]]} for row in rows]
    one, other = (
        page._lines(View("run", "", history=some), curve, False) for some in (rows, listed)
    )
    assert one == other
    assert one[0]["deviation"] == [2.0, 2.0]


def test_each_run_without_alarms_says_so():
    history, curves = [{"epoch": 1, "step": 1, "a": 1.0}], [Curve("loss", {"one": "a"})]
    calm = View("calm", "", history=history, curves=curves)
    blind = calm._replace(name="blind", left_out={"curves": "No detectors."})
    loud = calm._replace(name="loud", alarms=[Alarm("x", "epoch 1", (1,), "m", "e", ())])
    text = page.html([calm, blind, loud])
    assert re.findall(r'<p class="quiet">(calm|blind|loud): (No .*?)</p>', text) == [
        ("calm", "No alarm: the detectors saw no failure."),
        ("blind", "No detectors."),
    ]
    assert "calm: " not in page.html([calm])


def test_runs_of_one_name_are_numbered():
    assert report.distinct([View(name, "") for name in "aba"]) == ["a (1)", "b", "a (2)"]


def test_a_damaged_report_is_no_report(tmp_path):
    text = '{"verdicts": [{"health": "poor", "sentences": ""}], "scores": {}, "best": 0}'
    found = {}
    for content in (text, text.replace("0}", "9}"), text[:30], "[]"):
        (tmp_path / "report.json").write_text(content)
        found[content] = report.read_report(tmp_path)
    whole, wrong, *damaged = found.values()
    assert (whole["best"], wrong["best"]) == (0, None)
    assert damaged == [{}, {}]


def test_the_denoising_ends_in_the_samples(tiny):
    config = DiffusionConfig(
        image_shape=(4, 4, 1),
        width=16,
        blocks=1,
        num_classes=3,
        sample_steps=9,
        sampler="ancestral",
    )
    state = create_state(jax.random.key(1), config)
    rng = jax.random.key(2)
    player = page.denoise(MODELS["diffusion"].make_denoise, state, rng, 4, 5)
    assert player.captions == [
        "step 0 of 9",
        "step 2 of 9",
        "step 4 of 9",
        "step 7 of 9",
        "step 9 of 9",
    ]
    images = player.tracks["Image"]
    noise = jax.random.normal(rng, (4, 4, 4, 1))
    np.testing.assert_array_equal(images[0], plots.image_grid(noise))
    expected = plots.image_grid(sample_diffusion(state, rng, 4))
    assert np.abs(images[-1].astype(int) - expected).max() <= 1
    assert not np.array_equal(images[-1], images[-2])


def test_a_private_run_shows_no_real_image(folder, images):
    options = ("--epsilon", 5, "--delta", 1e-4, "--conditional")
    here("train.py", "--dataset", images, *options, "--workdir", folder / "private")
    out, _ = here("report.py", folder / "private", "--out", folder / "private.html")
    text = (folder / "private.html").read_text()
    assert "This run is private: it shows nothing that needs real images." in out
    assert text.count("This run is private") >= 2
    assert 'class="pairs"' not in text
    assert "needs a generator of dense layers" in text
    assert "epsilon 5" in text


def test_lost_data_leave_out_the_nearest_images_and_keep_the_rest(trained, images):
    digits = data.load(images)
    shown = (trained / "report.html").read_text()
    pairs = re.search(r'<ul class="pairs">(.*?)</ul>', shown).group(1)
    drawn = [decoded(uri) for uri in re.findall(r'src="(.*?)"', pairs)]
    assert len(drawn) == 32
    for one, near in zip(drawn[::2], drawn[1::2], strict=True):
        distances = np.square(digits.images[..., 0].astype(float) - one).sum(axis=(1, 2))
        assert np.square(near.astype(float) - one).sum() == distances.min()
    with contextlib.ExitStack() as stack:
        images.rename(f"{images}.lost")
        stack.callback(lambda: images.with_name("d.npz.lost").rename(images))
        out, _ = here("report.py", trained, "--out", trained / "second.html")
    assert "the training images were not found.\nrun:" in out
    assert "d.npz: cannot be read" in " ".join(out.split())
    text = (trained / "second.html").read_text()
    assert 'class="pairs"' not in text
    assert 'class="explorer"' in text
    assert str(images.parent) not in shown + text  # a page may be sent to somebody


def test_own_networks_have_no_explorer(folder, images, tmp_path):
    (tmp_path / "own.py").write_text(
        "import flax.linen as nn, jax.numpy as jnp, jaxgan\n"
        "class Own(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, x):\n"
        "        return jnp.tanh(nn.Dense(64)(x)).reshape(-1, 8, 8, 1)\n"
        "config = jaxgan.GANConfig(latent_dim=4, generator=Own(), discriminator_widths=(16,),\n"
        "                          discriminator_dropout=(0.0,))\n"
    )
    config = ("--config", tmp_path / "own.py")
    options = ("--epochs", 1, "--no-evaluate", "--workdir", tmp_path / "run")
    here("train.py", "--dataset", images, *config, *options)
    out, _ = here("report.py", tmp_path / "run")
    assert "run: The run cannot be sampled.\nrun:" in out
    out, _ = here("report.py", tmp_path / "run", *config)
    assert "run: There is no explorer: it needs a generator of dense layers.\n" in out
    assert 'class="pairs"' in (tmp_path / "run" / "report.html").read_text()


def test_what_is_no_run_is_refused_and_the_old_page_stays(trained, tmp_path):
    _, err = here("report.py", tmp_path / "none", status=2)
    assert err.startswith("error: ")
    assert "is not a run folder" in err
    assert not (tmp_path / "none").exists()
    _, err = here("report.py", trained / "config.json", status=2)
    assert "config.json is a file: the page is about run folders" in " ".join(err.split())
    before = (trained / "report.html").read_bytes()
    here("report.py", trained, tmp_path / "none", status=2)
    assert (trained / "report.html").read_bytes() == before
    assert not list(trained.glob(".*partial"))
