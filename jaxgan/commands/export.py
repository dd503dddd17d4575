"""Writes a trained generator to one file, for other programs or for other people."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from jaxgan import MODELS, JaxganError, Model, cli
from jaxgan.commands.sample import Sampling, changes
from jaxgan.errors import NonFiniteError
from jaxgan.export import card, generator
from jaxgan.files import check_writable, disk_errors, expand, write_atomically
from jaxgan.learner import with_settings
from jaxgan.report import texts
from jaxgan.run import saved, weights


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a trained generator to one file, for other programs or for other people.

    A file of onnx or stablehlo holds a function. It takes latents, float32 [n, d], and, if the run
    has classes, labels [n]. It gives n images, for any n. Latents are standard normal. Those of a
    diffusion model have the size of an image, d = H * W * C.
    """

    run: Annotated[str, tyro.conf.Positional]
    """The run folder, or a file of export.py --to safetensors."""
    to: Literal["onnx", "stablehlo", "safetensors"]
    """onnx: for ONNX Runtime and all that reads ONNX; it computes in float32, also for a run with
    --precision bf16. stablehlo: for jax without jaxgan, on cpu, cuda and tpu; FILE.json beside it
    has jax's version. safetensors: for jaxgan.load(FILE) and sample.py FILE; FILE.md beside it is a
    model card. onnx and stablehlo need pip install 'jaxgan[export]'."""
    out: str | None = None
    """The output; by default the name of the run, with .onnx, .stablehlo or .safetensors."""
    images: Literal["float", "uint8", "rgb"] = "float"
    """Of onnx and stablehlo, the form of images. float: [n, H, W, C] in [-1, 1]. uint8: the same in
    0..255. rgb: uint8 [n, 3, H, W], which torch-fidelity reads; gray images get three equal
    channels."""
    member: int | None = None
    """Which member of a population; by default the best one, as in its report.json."""
    best: bool = False
    """Take the checkpoint with the smallest Fréchet distance (train.py --evaluate-every), not the
    newest."""
    config: str | None = None
    """FILE.py:NAME, as for train.py, of a run with parts of your own."""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)


def main() -> None:
    options = cli.parse(Options)
    if options.to == "safetensors" and options.images != "float":
        raise JaxganError("--images is for onnx and stablehlo: leave it out")
    out = output(options)
    check_writable(out)
    model, found = load(options)
    if options.to == "safetensors":
        lines = write_safetensors(model, found, options.run, out)
    else:
        function = generator.make_generator(model, found.state, options.images)
        write = write_onnx if options.to == "onnx" else write_stablehlo
        lines = [*described(function, options), *write(function, out)]
    size, past = out.stat().st_size / 1e6, f"after {found.epochs} epochs"
    print(f"{out} ({size:.2f} MB): the {model.name} of {options.run} {past}")
    print("\n".join(lines))
    if saved.read_settings(options.run).epsilon is None:
        print(texts.wrapped(texts.NOT_ANONYMOUS, ""))


def output(options: Options) -> Path:
    """The file to write."""
    run = expand(options.run)
    name = f"{run.stem if run.is_file() else run.absolute().name}.{options.to}"
    out = Path(name) if options.out is None else expand(options.out)
    if out.suffix != f".{options.to}":
        raise JaxganError(f"--out must be NAME.{options.to}, got {options.out!r}")
    if out.exists() and run.exists() and out.samefile(run):
        raise JaxganError(f"--out is the model itself, {run}: give another file")
    return out


def load(options: Options) -> tuple[Model, saved.Loaded]:
    """The state, with the settings of the member and with those of the options."""
    model = saved.find_model(options.run, MODELS)
    if model.generate is None:
        raise JaxganError(f"{options.run} is a run of {model.name}, which has no export")
    own = cli.load_config(options.config, MODELS)
    found = saved.load(model, options.run, options.member, best=options.best, config=own)
    changed = {name: v for name, v in found.label.items() if name in model.hyperparameters}
    changed |= changes(options.sampling, model, found.state.config, options.run)
    state = with_settings(found.state, **changed)
    used, _ = weights.used_leaves(model, state)
    needed = [leaf for leaf, use in zip(jax.tree.leaves(state), used, strict=True) if use]
    if not all(bool(jax.numpy.isfinite(leaf).all()) for leaf in needed):
        raise NonFiniteError(f"the parameters in {options.run} are not finite: it has diverged")
    return model, found._replace(state=state)


def write_safetensors(model: Model, found: saved.Loaded, run: str, out: Path) -> list[str]:
    """Writes the file and its model card; gives what to print."""
    about, config = card.describe(model, run, found), found.state.config
    text = out.with_name(f"{out.name}.md")
    with disk_errors(out):
        write_atomically(text, card.card(model, config, about, out.name))
        write_atomically(out, weights.to_bytes(model, found.state, about))
    return [
        f"The model card is {text}.",
        f"Load it with: model, state = jaxgan.load({str(out)!r})",
        f"Draw samples with: {shlex.join([*cli.command('sample'), str(out)])}",
    ]


def write_onnx(function: generator.Generator, out: Path) -> list[str]:
    content = generator.onnx_bytes(function)
    with disk_errors(out):
        write_atomically(out, content)
    feed = ", ".join(f'"{name}": {name}' for name in function.inputs)
    return [
        "Load it with:",
        f"  session = onnxruntime.InferenceSession({str(out)!r})",
        f"  (images,) = session.run(None, {{{feed}}})",
    ]


def write_stablehlo(function: generator.Generator, out: Path) -> list[str]:
    """Writes the file and, beside it, a JSON file about it; gives what to print."""
    content, about = generator.stablehlo_bytes(function)
    text = out.with_name(f"{out.name}.json")
    with disk_errors(out):
        write_atomically(text, json.dumps(about, indent=2) + "\n")
        write_atomically(out, content)
    return [
        f"{text} has jax's version, {about['jax']}: exports expire, and a much later jax may "
        "not read it.",
        "Load it with:",
        "  import pathlib; from jax import export",
        f"  generate = export.deserialize(pathlib.Path({str(out)!r}).read_bytes()).call",
        f"  images = generate({', '.join(function.inputs)})",
    ]


def described(function: generator.Generator, options: Options) -> list[str]:
    """The arguments of a function and its result, for people."""
    (size,) = function.inputs["latents"][0]
    takes = f"latents, float32 [n, {size}], standard normal"
    if "labels" in function.inputs:
        takes += f"; and labels, {'int64' if options.to == 'onnx' else 'int32'} [n]"
    result = jax.eval_shape(function.call, *function.specs())
    shape = ", ".join(map(str, result.shape))
    values = "0..255" if result.dtype == "uint8" else "[-1, 1]"
    return [f"It takes {takes}.", f"It gives {result.dtype} [{shape}] in {values}."]
