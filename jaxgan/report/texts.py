"""Lines of text for people, made from histories, findings and scores."""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxgan.history import finite_mean
from jaxgan.model import Finding, Model, Network

NOT_ANONYMOUS = (
    "These samples are not anonymous: they may show what is special to one training image. "
    "train.py --epsilon trains with differential privacy."
)


def wrapped(line: str, indent: str = "  ") -> str:
    """A line as several of at most 80 characters; the second and later ones are indented."""
    options: Any = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(line, 80, subsequent_indent=indent, **options)


def finding_lines(
    findings: Sequence[Sequence[Finding]], epochs: int, model: Model, settings: Mapping[str, Any]
) -> list[str]:
    """A line for each failure, with what to try.

    Args:
      findings: of each member, as in `model.Diagnosis`.
      epochs: the number of epochs of the history.
      model: of the run; its config has the defaults.
      settings: the fields of the run's config, by name. Remedies already in use are left out.
    """
    lines = []
    for name in dict.fromkeys(finding.name for member in findings for finding in member):
        hits = {i: f for i, member in enumerate(findings) for f in member if f.name == name}
        first, finding = min(hits.items(), key=lambda item: item[1].epochs[0])
        where = name
        if len(findings) > 1:
            some = ", ".join(map(str, list(hits)[:8])) + (", ..." if len(hits) > 8 else "")
            where += f" in {len(hits)} of {len(findings)} members ({some}); member {first}"
        remedies = untried(finding, model, settings)
        advice = f"; try {', or '.join(remedies)}" if remedies else ""
        lines.append(f"{where}, {when(finding, epochs)}: {finding.evidence}{advice}")
    return lines


def untried(finding: Finding, model: Model, settings: Mapping[str, Any]) -> list[str]:
    """The remedies of a finding that are not in use yet, with `settings` of `finding_lines`."""
    defaults = vars(model.config())
    return [one for one in finding.remedies if not _is_in_use(one, settings, defaults)]


def _is_in_use(remedy: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether a run already has the first option of a remedy; --pac 4 also counts as --pac 2."""
    option, value, *_ = remedy.split()
    name = option.removeprefix("--").replace("-", "_")
    if name not in settings:
        return False  # a remedy in words
    now = settings[name]
    return str(now) == value or (name != "loss" and now != defaults[name])


def when(finding: Finding, epochs: int) -> str:
    """When a finding was seen, in a history of this many epochs."""
    first, last = finding.epochs[0], finding.epochs[-1]
    if first == last:
        return f"epoch {first}"
    return f"epoch {first} to {'the last' if last == epochs else last}"


_SCORED = {"": "", "raw": " of raw weights", "real": " of real images"}


def score_lines(scores: Mapping[str, Any]) -> list[str]:
    """A line for the scores of samples, of samples of raw weights, and of real images."""
    lines: dict[str, list[str]] = {}
    for name, value in scores.items():
        short, _, extractor = name.partition("(")
        kind, _, plain = short.rpartition("_")
        lines.setdefault(f"({extractor}{_SCORED[kind]}", []).append(
            f"{plain} {finite_mean(value):.3g}"
        )
    return [f"  {'  '.join(shown)}  {of}" for of, shown in lines.items()]


def report_lines(
    summary: Sequence[Mapping[str, Any]],
    named: Mapping[str, int | None],
    labels: Sequence[Mapping[str, Any]],
) -> list[str]:
    """The result of a population: a line for each combination of hyperparameters, and one for
    each member in `named`.

    Args:
      summary: as in `population.Report`.
      named: the numbers of these members, or None.
      labels: the number, seed and hyperparameters of each member.
    """
    lines = []
    for group in summary:
        settings = [f"{k} {v:g}" for k, v in group.items() if k in labels[0]]
        # The first four metrics; report.json has all.
        names = [name.removesuffix("_mean") for name in group if name.endswith("_mean")][:4]
        values = [
            f"{name} {group[f'{name}_mean']:.3f}"
            + (f" (sd {sd:.3f})" if (sd := group[f"{name}_sd"]) is not None else "")
            for name in names
        ]
        diverged = f"{group['diverged']} of {group['members']} diverged"
        lines.append(wrapped("  " + "  ".join([*settings, *values, diverged]), "    "))
    for name, i in named.items():
        if i is not None:
            lines.append(f"{name}: " + " ".join(f"{k} {v}" for k, v in labels[i].items()))
    return lines


def sweep_lines(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], scores: Sequence[str]
) -> list[str]:
    """The table of a sweep: a line for each combination of settings.

    A score is the mean over the members that have not diverged, ± half of its 95% interval.

    Args:
      rows: of the table (`run.sweep.Outcome`).
      names: the swept settings.
      scores: names, the most important first. The first three that the rows have are shown.
    """
    shown = [name for name in scores if any(name in row for row in rows)][:3]
    columns = [*names, "members", "diverged", "failed"]
    lines = [[*columns, *shown]]
    for row in rows:
        lines.append([short(row[name]) for name in columns])
        for name in shown:
            mean, half = row.get(name, {}).get("mean"), row.get(name, {}).get("half")
            text = "" if mean is None else f"{mean:.3g}"
            lines[-1].append(text if half is None else f"{text} ± {half:.2g}")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def short(value: Any) -> str:
    """A setting as a short text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def summary(networks: Mapping[str, Network], batch_size: int) -> str:
    """The layers of networks as tables, with the shapes and numbers of their parameters.

    Args:
      networks: as `Model.networks` gives them.
      batch_size: of the inputs.
    """
    from flax.linen.summary import tabulate

    tables = []
    for module, shape, more in networks.values():
        console = {"width": 120, "force_terminal": sys.stdout.isatty()}
        table = tabulate(module, jax.random.key(0), console_kwargs=console)
        inputs = {k: np.zeros((batch_size, *x.shape), x.dtype) for k, x in more.items()}
        tables.append(table(np.zeros((batch_size, *shape), np.float32), **inputs))
    return "".join(tables)
