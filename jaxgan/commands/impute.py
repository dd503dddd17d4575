"""Fills in the missing cells of a table."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxgan import JaxganError, cli
from jaxgan.files import disk_errors, expand
from jaxgan.uses import imputers, tables


@dataclasses.dataclass(frozen=True)
class Options:
    """Fills in the missing cells of a table, and leaves all other cells as they are.

    Missing are empty cells, ?, NA, NaN, null and None. A text column is categorical if it has 2 to
    20 different values and at least one occurs twice. Other text is not filled. Whole numbers stay
    whole.

    The method is chosen on this table: some known numbers are hidden, and each method fills them
    in. The one with the smallest error is taken, or the average of the two or three best together,
    if that is better. The errors are printed.
    """

    table: Annotated[str, tyro.conf.Positional]
    """A CSV file with a header, or a Parquet file."""
    out: str
    """The file to write, of the same format."""
    method: Literal[
        "auto",
        "mean",
        "neighbours",
        "ridge",
        "power_ridge",
        "quadratic_ridge",
        "trees",
        "boosting",
        "denoiser",
        "gain",
    ] = "auto"
    """auto: chosen as above. mean: the mean of a column. neighbours: the ten nearest rows, by their
    distance. ridge: rounds of ridge regressions, each column from all others. power_ridge: the
    same, after columns are made normal. quadratic_ridge: with squares and products of the columns.
    trees, boosting: with trees. denoiser: an MLP that has learned to restore hidden cells. gain: a
    GAN."""
    separator: str = ""
    """Between cells, one character; by default found in the header."""
    decimal: str = ""
    """The decimal point, . or a comma; by default the more frequent one. With a comma, a dot only
    separates thousands."""
    encoding: str = "utf-8"
    """The encoding of the file."""
    seed: int = 0
    """The seed of all random numbers."""


def main() -> None:
    options = cli.parse(Options)
    path, out = expand(options.table), expand(options.out)
    cli.check_seed(options.seed)
    if out.is_dir():
        raise JaxganError(f"--out is a folder, {out}: give a file")
    if tables.is_parquet(path) != tables.is_parquet(out):
        raise JaxganError(f"{path} and {out} must have the same format: both Parquet, or both CSV")
    if out.exists() and path.exists() and out.samefile(path):
        raise JaxganError(f"--out is the table itself, {path}: give another file")
    if options.decimal not in ("", ".", ","):
        raise JaxganError(f"--decimal must be . or a comma, got {options.decimal!r}")
    separator = options.separator.replace("\\t", "\t")
    if len(separator) > 1 or separator == '"' or (separator and separator == options.decimal):
        raise JaxganError(
            "--separator must be one character other than a quote and the decimal point, got "
            f"{options.separator!r}"
        )
    table = tables.read(path, separator, options.decimal, options.encoding)
    missing, categories = table.missing(), table.categories()
    _check_writable(out)
    filled: dict[int, Any] = {}
    if missing.any():
        imputer = make_imputer(options)
        filled = tables.fill(table, imputer)
        if chosen := getattr(imputer, "chosen_", ()):
            print(f"taken: {' + '.join(chosen)}")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        tables.write(out, table, filled)
    rows, columns = missing.shape
    numbers, texts = len(table.numbers), len(categories)
    print(
        f"{path}: {rows:,} rows, {columns:,} columns ({numbers:,} of numbers, {texts:,} of "
        f"categories, {columns - numbers - texts:,} of other text)"
    )
    for j, values in filled.items():
        print(f"  {table.header[j]}: {len(values):,} filled{_but(table, j)}")
    print(f"{sum(map(len, filled.values())):,} of {missing.sum():,} missing cells filled: {out}")
    wanted = {j: n for j, n in enumerate(missing.sum(axis=0)) if n and j not in filled}
    if left := [f"{table.header[j]} ({n:,}{_but(table, j)})" for j, n in wanted.items()]:
        print(f"left empty, without a known value or with other text: {', '.join(left)}")


def _check_writable(out: Path) -> None:
    """Checks that a file can be written. It makes no folders, because an interrupt would leave them
    behind."""
    with disk_errors(out):
        folder = next(folder for folder in out.absolute().parents if folder.exists())
        tempfile.TemporaryFile(dir=folder).close()


def _but(table: tables.Table, j: int) -> str:
    """What to add about a column that looks like numbers, but is text."""
    if (found := table.stranger(j)) is None:
        return ""
    row, cell = found
    return f", read as text: row {row:,} below the header has {cell[:40]!r}"


def make_imputer(options: Options) -> Any:
    more = {"random_state": options.seed, "verbose": True}
    if options.method == "auto":
        return imputers.ChosenImputer(**more)
    imputer = imputers.make_candidates()[options.method]
    known = imputer.get_params(deep=False)
    return imputer.set_params(**{name: value for name, value in more.items() if name in known})
