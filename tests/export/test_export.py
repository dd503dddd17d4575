"""Exported generators, in the programs that read them: ONNX Runtime, jax without jaxgan, jaxgan."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from helpers import RNG, assert_trees_equal, contents, here
from safetensors.numpy import load_file, save_file

import jaxgan
from jaxgan import MODELS, JaxganError, TrainConfig
from jaxgan.data.pixels import to_uint8
from jaxgan.export import generator, onnx_graph
from jaxgan.run import saved, training, weights

pytestmark = pytest.mark.usefixtures("no_curves_in_file")

GAN, DIFFUSION, GAUSSIAN = (MODELS[name] for name in ("gan", "diffusion", "gaussian"))
SHAPE = (4, 4, 1)


class Convolutions(nn.Module):
    """Layers of other kinds than those of jaxgan."""

    @nn.compact
    def __call__(self, latents, labels, train):
        x = nn.Dense(2 * 2 * 4)(latents).reshape(-1, 2, 2, 4)
        x += nn.Embed(3, 4)(labels)[:, None, None]
        x = nn.elu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.softplus(nn.GroupNorm(2)(nn.ConvTranspose(6, (3, 3), (2, 2))(x)))
        x = nn.gelu(nn.Conv(6, (2, 3), (2, 1), feature_group_count=2)(x))
        x = nn.leaky_relu(nn.ConvTranspose(2, (4, 1), (2, 1))(x))
        return jnp.tanh(nn.Conv(1, (3, 3), kernel_dilation=2)(jnp.pad(x, [(0, 0)] * 3 + [(1, 0)])))


class Critic(nn.Module):
    @nn.compact
    def __call__(self, images, labels):
        x = jnp.concatenate([images.reshape(len(images), -1), labels[:, None].astype(float)], 1)
        return nn.Dense(1)(x)


@pytest.fixture(scope="module")
def configs(tiny):
    gan = dataclasses.replace(tiny, image_shape=SHAPE)
    diffusion = DIFFUSION.config(image_shape=SHAPE, width=8, blocks=1, sample_steps=4)
    networks = {"generator": Convolutions(), "discriminator": Critic()}
    return {
        "gan": (GAN, gan),
        "labels": (GAN, dataclasses.replace(gan, num_classes=3, ema_decay=0.9, latent_scale=2.0)),
        "convolutions": (GAN, jaxgan.GANConfig(image_shape=SHAPE, num_classes=3, **networks)),
        "diffusion": (DIFFUSION, dataclasses.replace(diffusion, prediction="v")),
        "guidance": (
            DIFFUSION,
            dataclasses.replace(diffusion, num_classes=3, guidance=2.0, sampler="dpm_solver"),
        ),
        "gaussian": (GAUSSIAN, GAUSSIAN.config(image_shape=SHAPE, num_classes=3)),
    }


def make_state(model, config):
    """A state whose parameters are all far from 0."""
    leaves, treedef = jax.tree.flatten(model.create_state(RNG, config))
    numbers = np.random.default_rng(0)
    if model.name == "gaussian":
        return treedef.unflatten(leaves)
    return treedef.unflatten(
        [x + numbers.normal(0, 0.1, x.shape).astype(x.dtype) if x.ndim else x for x in leaves]
    )


def draw_inputs(model, config, n=64):
    """Latents `[n, d]` and, for a conditional model, labels `[n]`."""
    numbers = np.random.default_rng(1)
    latents = numbers.normal(size=(n, int(np.prod(model.latent_shape(config)))))
    inputs = {"latents": latents.astype(np.float32)}
    if getattr(config, "num_classes", 0):
        inputs["labels"] = numbers.integers(0, config.num_classes, n)
    return inputs


def generated(model, state, inputs):
    """The images by the model itself."""
    latents = inputs["latents"].reshape(-1, *model.latent_shape(state.config))
    return np.asarray(model.generate(state, latents, None, inputs.get("labels")))


def run_onnx(content, inputs):
    session = onnxruntime.InferenceSession(content)
    return [session.run(None, {name: x[:n] for name, x in inputs.items()})[0] for n in (1, 5, 64)]


@pytest.mark.parametrize(
    "name", ["gan", "labels", "convolutions", "diffusion", "guidance", "gaussian"]
)
def test_onnx_runtime_makes_the_images_of_the_model(name, configs):
    model, config = configs[name]
    state, inputs = make_state(model, config), draw_inputs(model, config)
    expected = generated(model, state, inputs)
    assert expected.std() > 0.1
    content = generator.onnx_bytes(generator.make_generator(model, state))
    for found in run_onnx(content, inputs):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=5e-5)


def test_bytes_are_those_of_sample_and_rgb_has_three_channels_first(configs):
    model, config = configs["gan"]
    state, inputs = make_state(model, config), draw_inputs(model, config)
    expected = to_uint8(generated(model, state, inputs))
    found = {}
    for form in ("uint8", "rgb"):
        content = generator.onnx_bytes(generator.make_generator(model, state, form))
        found[form] = run_onnx(content, inputs)[-1]
        assert found[form].dtype == np.uint8
    # Where a value is between two bytes, rounding decides.
    assert np.abs(found["uint8"].astype(int) - expected).max() <= 1
    assert (found["uint8"] == expected).mean() > 0.99
    assert found["rgb"].shape == (64, 3, 4, 4)
    for channel in range(3):
        np.testing.assert_array_equal(found["rgb"][:, channel, ..., None], found["uint8"])


OPERATIONS = {
    "exp": jnp.exp,
    "logarithms": lambda x: jnp.log(jnp.square(x) + 1) + jnp.log1p(x**2) - jnp.expm1(-(x**4)),
    "powers": lambda x: jnp.abs(x) ** 1.5 + x**3 + jnp.sqrt(jnp.abs(x)),
    "rounding": lambda x: jnp.round(x) + 10 * jnp.floor(x) + 100 * jnp.ceil(x) + jnp.sign(x),
    "comparisons": lambda x: jnp.where((x > 0) & (x < 1) | ~(x >= -1) | (x != x), x, -2 * x),
    "equality": lambda x: (jnp.floor(x) == 0).astype(jnp.float32) + (x <= 0),
    "gelu": jax.nn.gelu,
    "erf": lambda x: jax.nn.gelu(x, approximate=False),
    "softmax": jax.nn.softmax,
    "reductions": lambda x: (
        x - x.max(1, keepdims=True) * x.min(1, keepdims=True) + x.prod(1)[:, None]
    ),
    "slices": lambda x: jnp.concatenate([x[:, 1:3], x[:, ::2], x[:, :1]], axis=1),
    "padding": lambda x: jnp.pad(x, [(0, 0), (1, 2)], constant_values=3),
    "transpose": lambda x: x.reshape(-1, 2, 2).swapaxes(1, 2) @ x.reshape(-1, 2, 2),
    "products": lambda x: jnp.einsum("nab,cb,dac->nd", x.reshape(-1, 2, 2), TABLE, TABLE[None]),
    "loop": lambda x: jax.lax.scan(lambda c, a: (c * a + 1, c), x, jnp.arange(3.0))[1][1] + x,
    "backwards": lambda x: jax.lax.scan(
        lambda c, a: (c - a, a), x, x[None] * TABLE[:, :1, None], reverse=True
    )[0],
    "constant": lambda x: jnp.concatenate([0 * x, jnp.ones_like(x) * jnp.arange(4.0)], axis=1),
    "clip": lambda x: jax.lax.clamp(-0.5, x, 0.5),
    "trigonometry": lambda x: jnp.sin(x) * jnp.cos(x) / (2 + jnp.tanh(x)),
    "constant rows": lambda x: jnp.broadcast_to(jnp.arange(4.0), x.shape),
}
TABLE = np.arange(4, dtype=np.float32).reshape(2, 2)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_the_same_in_onnx(name):
    function = jax.numpy_rank_promotion("allow")(
        jax.numpy_dtype_promotion("standard")(OPERATIONS[name])
    )
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    model = onnx_graph.to_onnx(function, {"x": ((4,), jnp.float32)}, "y")
    expected = np.asarray(function(x))
    for found in run_onnx(model.SerializeToString(), {"x": x}):
        np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: jnp.cumsum(x, axis=1), "cumsum"),
        (lambda x: x - x.sum(axis=0)[None], "reduce_sum"),
        (lambda x: x / jnp.float32(x.shape[0]), "dim_as_value"),
        (lambda x: x[:1] + x, "gather|slice"),
        (lambda x: x + jnp.arange(x.shape[0], dtype=jnp.float32)[:, None], "iota"),
        (lambda x: x + jax.random.normal(RNG, x.shape), "random_bits"),
        (lambda x: x @ x.T, "dot_general"),
        (lambda x: jnp.sort(x, axis=0), "sort"),
        (lambda x: x.reshape(-1, 2), "reshape"),
        (lambda x: jnp.concatenate([x, x])[: x.shape[0]], "concatenate"),
    ],
)
def test_an_operation_that_mixes_rows_or_has_no_rule_is_refused(function, operation):
    with pytest.raises(onnx_graph.Unsupported, match=operation):
        onnx_graph.to_onnx(function, {"x": ((4,), jnp.float32)}, "y")


@pytest.mark.parametrize("changed", [{"sampler": "ancestral"}, {"eta": 0.5}])
def test_samplers_that_add_noise_are_refused(changed, configs):
    model, config = configs["diffusion"]
    state = model.create_state(RNG, dataclasses.replace(config, **changed))
    with pytest.raises(JaxganError, match="give --sampler ddim --eta 0, or --sampler dpm_solver"):
        generator.make_generator(model, state)


def test_a_generator_that_draws_numbers_is_refused():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, latents):
            noise = jax.random.normal(self.make_rng("dropout"), latents.shape)
            return nn.Dense(16)(latents + noise).reshape(-1, *SHAPE)

    state = jaxgan.create_state(RNG, jaxgan.GANConfig(image_shape=SHAPE, generator=Noisy()))
    with pytest.raises(JaxganError, match="the generator draws random numbers"):
        generator.make_generator(GAN, state)


def test_forms_that_images_do_not_have_are_refused():
    for shape, form, message in (
        ((1, 1, 2), "uint8", "vectors are floats"),
        ((4, 4, 2), "rgb", "1 or 3 channels"),
    ):
        state = GAUSSIAN.create_state(RNG, GAUSSIAN.config(image_shape=shape))
        with pytest.raises(JaxganError, match=message):
            generator.make_generator(GAUSSIAN, state, form)


READ = """
import sys
sys.modules["jaxgan"] = None  # an import of it fails
import numpy as np
from jax import export
generate = export.deserialize(open(sys.argv[1], "rb").read()).call
arrays = np.load(sys.argv[2])
latents, labels = arrays["latents"], arrays["labels"].astype(np.int32)
np.savez(sys.argv[3], *[generate(latents[:n], labels[:n]) for n in (1, 5, 64)])
"""


def test_jax_reads_stablehlo_without_jaxgan(configs, tmp_path):
    model, config = configs["guidance"]
    state, inputs = make_state(model, config), draw_inputs(model, config)
    content, about = generator.stablehlo_bytes(generator.make_generator(model, state))
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    assert about["jax"] == jax.__version__
    (tmp_path / "x.stablehlo").write_bytes(content)
    np.savez(tmp_path / "inputs.npz", **inputs)
    files = [str(tmp_path / name) for name in ("x.stablehlo", "inputs.npz", "outputs.npz")]
    subprocess.run([sys.executable, "-c", READ, *files], check=True)
    expected = generated(model, state, inputs)
    with np.load(files[2]) as file:
        found = list(file.values())
    for images in found:
        np.testing.assert_allclose(images, expected[: len(images)], rtol=0, atol=5e-5)
    assert [len(images) for images in found] == [1, 5, 64]


# Run folders


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 1), np.uint8)
    np.savez(path, images=images, labels=np.arange(100) % 3)
    options = {"epochs": 2, "batch_size": 50, "checkpoint_every": 1, "devices": 1}
    return TrainConfig(str(path), data_dir=str(path.parent), conditional=True, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, configs, settings):
    """A run of a conditional GAN whose samples come from the average of its parameters."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    training.train(*configs["labels"], settings, folder)
    return folder


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    """The exported file, with a model card beside it."""
    out = tmp_path_factory.mktemp("files") / "one.safetensors"
    here("export.py", folder, "--to", "safetensors", "--out", out)
    return out


@pytest.fixture
def exported(file, tmp_path):
    """A copy of the exported file and its card."""
    shutil.copy(f"{file}.md", tmp_path)
    return Path(shutil.copy(file, tmp_path))


def samples(*arguments, folder):
    """The arrays that sample.py writes."""
    here("sample.py", *arguments, "--num", 7, "--out", folder / "samples.npz")
    with np.load(folder / "samples.npz") as arrays:
        return dict(arrays)


def test_a_file_gives_the_samples_of_its_run_to_the_bit(folder, exported, tmp_path):
    assert_trees_equal(
        samples(exported, folder=tmp_path), samples("--workdir", folder, folder=tmp_path)
    )
    (model, state), (_, whole) = jaxgan.load(exported), jaxgan.load(folder)
    assert model.name == "gan"
    assert state.config == whole.config
    assert_trees_equal(state.ema, whole.ema)
    assert_trees_equal(model.sample(state, RNG, 5), model.sample(whole, RNG, 5))
    # Only what samples need is in it.
    assert {name.split("/")[0] for name in load_file(exported)} == {"ema"}
    # A file of the file has the same arrays and scores.
    here("export.py", exported, "--to", "safetensors", "--out", tmp_path / "two.safetensors")
    assert_trees_equal(load_file(exported), load_file(tmp_path / "two.safetensors"))
    cards = [(tmp_path / f"{name}.safetensors.md").read_text() for name in ("one", "two")]
    assert cards[1] == cards[0].replace("one.safe", "two.safe").replace("# one", "# two")


def test_a_file_is_read_once(exported, monkeypatch):
    digests, digest = [], weights._digest
    monkeypatch.setattr(weights, "_digest", lambda *args: digests.append(args) or digest(*args))
    jaxgan.load(exported)
    assert len(digests) == 1


def test_the_card_describes_the_run(folder, exported, settings):
    text = exported.with_name("one.safetensors.md").read_text()
    assert "Makes images of 4x4x1 of 3 classes." in text
    assert "after 2 epochs of images.npz (100 training examples)" in text
    assert 'jaxgan.load("one.safetensors")' in text
    row = saved.read_history(GAN, folder)[-1]
    name = next(name for name in row if name.startswith("fd("))
    assert f"| {name} | {row[name]:.4g} | {row[f'real_{name}']:.4g} |" in text
    assert "Samples are not anonymous" in text
    assert "| ema_decay | 0.9 |" in text
    assert "licence" in text
    # Nothing says where the data were.
    assert settings.data_dir.encode() not in exported.read_bytes()


def test_the_lines_say_what_was_written(folder, tmp_path):
    out = tmp_path / "one.onnx"
    shown, _ = here("export.py", folder, "--to", "onnx", "--images", "uint8", "--out", out)
    lines = shown.splitlines()
    assert lines[0].startswith(f"{out} (0.0")
    assert lines[0].endswith(f"the gan of {folder} after 2 epochs")
    assert lines[1] == "It takes latents, float32 [n, 7], standard normal; and labels, int64 [n]."
    assert lines[2] == "It gives uint8 [n, 4, 4, 1] in 0..255."
    state, inputs = jaxgan.load(folder)[1], draw_inputs(GAN, jaxgan.load(folder)[1].config)
    expected = to_uint8(generated(GAN, state, inputs)).astype(int)
    assert np.abs(run_onnx(out.read_bytes(), inputs)[2] - expected).max() <= 1
    out = tmp_path / "one.stablehlo"
    shown, _ = here("export.py", folder, "--to", "stablehlo", "--latent-scale", 0.5, "--out", out)
    code = "\n".join(line[2:] for line in shown.splitlines() if line.startswith("  "))
    names = {name: jnp.asarray(x) for name, x in inputs.items()}
    names["labels"] = names["labels"].astype(jnp.int32)
    exec(code, names)
    changed = state.replace(config=dataclasses.replace(state.config, latent_scale=0.5))
    np.testing.assert_allclose(names["images"], generated(GAN, changed, inputs), atol=1e-5)
    about = json.loads(out.with_name("one.stablehlo.json").read_text())
    assert about["inputs"] == {"latents": "float32[n,7]", "labels": "int32[n]"}


def test_a_member_takes_its_own_settings_along(configs, settings, tmp_path):
    settings = dataclasses.replace(
        settings,
        conditional=False,
        population=2,
        sweep=("latent_scale=0.5,3",),
        evaluate=False,
        epochs=1,
    )
    folder = tmp_path / "run"
    training.train(*configs["gan"], settings, folder)
    out = tmp_path / "member.safetensors"
    here("export.py", folder, "--to", "safetensors", "--member", 3, "--out", out)
    _, state = jaxgan.load(out)
    assert state.config.latent_scale == 3
    expected = samples("--workdir", folder, "--member", 3, folder=tmp_path)["images"].astype(int)
    assert np.abs(samples(out, folder=tmp_path)["images"] - expected).max() <= 1
    text = out.with_name("member.safetensors.md").read_text()
    assert "| latent_scale | 3" in text
    assert "| seed | 1 |" in text
    assert "were not scored" in text
    _, err = here("sample.py", out, "--member", 1, status=2)
    assert err == f"error: {out} holds one state: leave out member\n"


def test_a_private_run_takes_its_budget_along(settings, tmp_path, monkeypatch):
    settings = dataclasses.replace(settings, epochs=1, batch_size=100, epsilon=8.0, delta=1e-4)
    config = GAUSSIAN.config(components=3)
    training.train(GAUSSIAN, config, settings, tmp_path / "run")
    out = tmp_path / "private.safetensors"
    monkeypatch.setenv("HOME", str(tmp_path))
    shown, _ = here("export.py", "~/run", "--to", "safetensors", "--out", out)
    assert "anonymous" not in shown
    text = out.with_name("private.safetensors.md").read_text()
    assert "Trained with differential privacy, so samples may be shared. Epsilon is 8 " in text
    assert "delta 0.0001" in text
    assert "- neighbouring data sets differ by one image" in text
    assert "were not scored" in text
    assert saved.read_settings(out).epsilon == 8
    shown, _ = here("sample.py", out, "--out", tmp_path / "samples.npz")
    assert "anonymous" not in shown


def test_networks_of_your_own_are_needed_to_load_their_file(configs, tmp_path):
    model, config = configs["convolutions"]
    state = make_state(model, config)
    about = {"jaxgan": jaxgan.__version__, "model": "gan", "gan": saved.as_json(config)}
    about |= {"train": saved.as_json(TrainConfig()), "data": {}, "saved": {"epochs": 1}}
    out = tmp_path / "own.safetensors"
    out.write_bytes(weights.to_bytes(model, state, about))
    # Running statistics are needed too.
    assert any("batch_stats" in name for name in load_file(out))
    with pytest.raises(JaxganError, match="with your own generator, discriminator"):
        jaxgan.load(out)
    _, again = jaxgan.load(out, config=config)
    assert_trees_equal(model.sample(again, RNG, 3), model.sample(state, RNG, 3))


def damage(path, kind):
    content = path.read_bytes()
    if kind == "changed":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif kind == "cut":
        path.write_bytes(content[:-40])
    elif kind == "other settings":
        path.write_bytes(content.replace(rb"\"latent_dim\": 7", rb"\"latent_dim\": 8"))
        assert path.read_bytes() != content
    elif kind == "text":
        path.write_text("no arrays")
    else:
        metadata = {"foreign": {"format": "pt"}, "no run": {"jaxgan": "0.12"}}
        save_file({"x": np.zeros(3)}, path, metadata.get(kind))


@pytest.mark.parametrize(
    "kind", ["changed", "cut", "other settings", "text", "no run", "foreign", "without metadata"]
)
def test_a_file_that_is_damaged_or_of_something_else_is_refused(kind, exported, tmp_path):
    damage(exported, kind)
    _, err = here("sample.py", exported, "--out", tmp_path / "samples.npz", status=2)
    assert err.startswith(f"error: {exported} holds no model of jaxgan (")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "samples.npz").exists()


def test_arrays_of_other_settings_are_refused(exported, configs):
    model, config = configs["gan"]
    with pytest.raises(JaxganError, match=r"the arrays in .* are not those of its settings"):
        weights.restore(model, exported, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "onnx", "--out", "x.pt"), "--out must be NAME.onnx, got 'x.pt'"),
        (("--to", "safetensors", "--images", "rgb"), "--images is for onnx and stablehlo: leave"),
        (("--to", "onnx", "--sampler", "ddim"), "is a run of the model gan: leave out --sampler"),
        (("--to", "onnx", "--member", 1), "this is one run, not a population"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, err = here("export.py", folder, *options, status=2)
    assert message in err
    assert len(err.splitlines()) == 1
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("name", "to"), [("onnx", "onnx"), ("flatbuffers", "stablehlo")])
def test_without_the_extra_one_line_names_it(name, to, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / f"x.{to}"
    out.write_text("old")
    _, err = here("export.py", folder, "--to", to, "--out", out, status=2)
    assert err == f"error: {name} is not installed: pip install 'jaxgan[export]'\n"
    assert contents(tmp_path) == {out: b"old"}


def test_a_model_without_samples_of_latents_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    del config["sha256 of the rest"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": "gain"}))
    _, err = here("export.py", tmp_path, "--to", "onnx", "--out", tmp_path / "x.onnx", status=2)
    assert err == f"error: {tmp_path} is a run of gain, which has no export\n"
    assert not (tmp_path / "x.onnx").exists()


def test_an_operation_without_counterpart_names_the_network(configs):
    class Sums(nn.Module):
        @nn.compact
        def __call__(self, latents):
            return jnp.cumsum(nn.Dense(16)(latents), axis=1).reshape(-1, *SHAPE)

    config = dataclasses.replace(configs["gan"][1], generator=Sums())
    made = generator.make_generator(GAN, jaxgan.create_state(RNG, config))
    with pytest.raises(JaxganError, match="generator has an operation, cumsum, that"):
        generator.onnx_bytes(made)


def test_a_run_that_has_diverged_is_not_exported(configs, tmp_path, monkeypatch):
    model, config = configs["gan"]
    state = model.create_state(RNG, config)
    broken = jax.tree.map(lambda x: x * jnp.nan if x.dtype == jnp.float32 else x, state)
    (tmp_path / "config.json").write_text(json.dumps({"jaxgan": "0", "model": "gan", "gan": {}}))
    monkeypatch.setattr(saved, "load", lambda *_, **__: saved.Loaded(broken, 1, {}, {}))
    out = tmp_path / "x.onnx"
    _, err = here("export.py", tmp_path, "--to", "onnx", "--out", out, status=3)
    assert "are not finite: it has diverged" in err
    assert not out.exists()
