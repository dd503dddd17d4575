"""Tables in files: reads CSV or Parquet, fills in missing cells, and writes the same table.

Cells that are not missing are written as they were read, to the last digit.
"""

import contextlib
import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgan.errors import JaxganError
from jaxgan.files import new_file

CATEGORIES = 20
"""A column of text holds categories if it has 2 to 20 different values, and not each only once. The
cells of other text are left alone."""
MISSING = "?"
"""What counts as missing beside what pandas takes for it, such as empty cells, NA and NaN."""
_SEPARATORS = ",;\t|"


class Table(NamedTuple):
    """A table with missing cells."""

    frame: Any
    """A pandas DataFrame of numbers and text."""
    header: list[str]
    """The names of the columns."""
    cells: Any = None
    """The text of all cells of a CSV file, `[N, columns]`; None for Parquet."""
    separator: str = ","
    decimal: str = "."
    encoding: str = "utf-8"
    newline: str = "\n"

    def numbers(self) -> list[int]:
        """The columns of numbers, by their places."""
        types = _pandas().api.types
        kinds = enumerate(self.frame.dtypes)
        return [j for j, t in kinds if types.is_numeric_dtype(t) and not types.is_bool_dtype(t)]

    def categories(self) -> dict[int, list[Any]]:
        """The categories of the columns that have some."""
        found = {}
        for j in sorted(set(range(len(self.header))) - set(self.numbers())):
            known = self.frame.iloc[:, j].dropna()
            values = sorted(known.unique().tolist(), key=str)
            if 1 < len(values) <= CATEGORIES and len(values) < len(known):
                found[j] = values
        return found

    def missing(self) -> np.ndarray:
        """Which cells are missing, bool `[N, columns]`."""
        return self.frame.isna().to_numpy()


def read(path: Path, separator: str = "", decimal: str = "", encoding: str = "utf-8") -> Table:
    """Reads a table.

    Args:
      path: a Parquet file, if it ends in .parquet, else a CSV file with a header.
      separator: of the cells of a CSV file; by default that of its first line.
      decimal: the decimal point of a CSV file, "." or ","; by default the more frequent one.
      encoding: of a CSV file.

    Raises:
      JaxganError: if it is no such table, if a number is infinite, or if there are neither numbers
        nor categories.
    """
    pandas = _pandas()
    with _readable(path, encoding):
        if is_parquet(path):
            frame = pandas.read_parquet(path)
            table = Table(frame, [str(name) for name in frame.columns])
        else:
            content = path.read_bytes()
            if encoding == "utf-8" and content.startswith(b"\xef\xbb\xbf"):
                encoding = "utf-8-sig"  # writes the mark again
            table = _parse(content.decode(encoding), separator, decimal)
            table = table._replace(encoding=encoding)
    if not len(table.frame):
        raise JaxganError(f"{path} has no rows below its header")
    if not table.numbers() and not table.categories():
        raise JaxganError(
            f"{path} has no column of numbers or categories: is another --separator or --decimal "
            "needed?"
        )
    for j in table.numbers():
        if np.isinf(_floats(table, j)).any():
            raise JaxganError(f"the column {table.header[j]!r} of {path} has infinite numbers")
    return table


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.suffix.lower() == ".parquet"


def _parse(text: str, separator: str, decimal: str) -> Table:
    line = text.split("\n", 1)[0]
    separator = separator or max(_SEPARATORS, key=line.count)
    read = _pandas().read_csv
    options: dict[str, Any] = {"sep": separator, "skip_blank_lines": False}
    cells = read(io.StringIO(text), header=None, dtype=str, keep_default_na=False, **options)
    rows = cells.to_numpy()
    decimal = decimal or _find_decimal(rows, separator)
    frame = read(
        io.StringIO(text),
        index_col=False,
        decimal=decimal,
        na_values=[MISSING],
        skipinitialspace=True,
        **options,
    )
    newline = "\r\n" if line.endswith("\r") else "\n"
    return Table(frame, rows[0].tolist(), rows[1:], separator, decimal, newline=newline)


def _find_decimal(rows: np.ndarray, separator: str) -> str:
    if separator == ",":
        return "."
    found = [re.fullmatch(r"\s*[+-]?\d+([.,])\d+\s*", cell) for cell in rows.ravel()]
    points = [match[1] for match in found if match]
    return "," if points.count(",") > points.count(".") else "."


def fill(table: Table, imputer: Any) -> dict[int, np.ndarray]:
    """What belongs into the missing cells: for each column, the values of its missing rows.

    Numbers are filled in by the imputer. It also sees categories, by their places in the alphabet.
    Columns of whole numbers get whole numbers. Then missing categories are predicted from all other
    columns. Columns without any value, and other text, are left out.

    Args:
      table: from `read`.
      imputer: of `jaxgan.uses.imputers`. It is fitted to the table.
    """
    numbers, categories, missing = table.numbers(), table.categories(), table.missing()
    used = [j for j in [*numbers, *categories] if not missing[:, j].all()]
    if not used:
        return {}
    inputs = np.full((len(missing), len(used)), np.nan)
    for i, j in enumerate(used):
        if j in numbers:
            inputs[:, i] = _floats(table, j)
        else:
            codes = {value: code for code, value in enumerate(categories[j])}
            known = ~missing[:, j]
            inputs[known, i] = [codes[value] for value in table.frame.iloc[:, j][known]]
    complete = imputer.fit_transform(inputs)
    found = {}
    for i, j in enumerate(used):
        wanted = missing[:, j]
        if not wanted.any():
            continue
        if j in categories:
            codes = _classify(np.delete(complete, i, axis=1), inputs[:, i])
            found[j] = np.array([categories[j][code] for code in codes], object)
        else:
            whole = (inputs[~wanted, i] % 1 == 0).all()
            found[j] = np.rint(complete[wanted, i]) if whole else complete[wanted, i]
    return found


def _classify(inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The likeliest codes where they are NaN, int."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = ~np.isnan(codes)
    wanted = codes[known].astype(int)
    if not inputs.shape[1]:
        return np.full((~known).sum(), np.bincount(wanted).argmax())
    classifier = HistGradientBoostingClassifier(random_state=0).fit(inputs[known], wanted)
    return classifier.predict(inputs[~known])


def write(path: Path, table: Table, filled: Mapping[int, np.ndarray]) -> None:
    """Writes the table with the values of `fill`, in the format that it was read in.

    A number gets as many decimals as the known ones of its column have at most.
    """
    missing = table.missing()
    if table.cells is None:
        frame = table.frame.copy()
        for j, values in filled.items():
            frame.iloc[missing[:, j], j] = values
        with new_file(path) as file:
            frame.to_parquet(file)
        return
    cells = table.cells.copy()
    for j, values in filled.items():
        wanted = missing[:, j]
        if values.dtype.kind == "f":
            style = _style(table.cells[~wanted, j], table.decimal)
            values = [format(value, style).replace(".", table.decimal) for value in values]
        cells[wanted, j] = values
    text = io.StringIO()
    options: dict[str, Any] = {"delimiter": table.separator, "lineterminator": table.newline}
    csv.writer(text, **options).writerows([table.header, *cells])
    with new_file(path) as file:
        file.write(text.getvalue().encode(table.encoding))


def _style(cells: np.ndarray, decimal: str) -> str:
    """The format of a column's numbers."""
    if any("e" in cell.lower() for cell in cells):
        return ".6g"
    return f".{max(len(cell.strip().partition(decimal)[2]) for cell in cells)}f"


def _floats(table: Table, j: int) -> np.ndarray:
    return table.frame.iloc[:, j].to_numpy(dtype=np.float64, na_value=np.nan)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise JaxganError("tables need pandas: pip install 'jaxgan[uses]'") from error
    return pandas


@contextlib.contextmanager
def _readable(path: Path, encoding: str) -> Iterator[None]:
    """Makes one line of what is wrong with a file."""
    try:
        yield
    except OSError as error:
        raise JaxganError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, LookupError) as error:
        raise JaxganError(
            f"{path} is not in the encoding {encoding}: give another --encoding, such as latin-1"
        ) from error
    except ImportError as error:
        raise JaxganError(f"to read {path}, pip install pyarrow") from error
    except ValueError as error:  # also those of pandas and pyarrow
        reason = " ".join(str(error).split())
        raise JaxganError(f"{path} is no table that can be read: {reason}") from error
