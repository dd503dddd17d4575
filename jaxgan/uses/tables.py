"""Tables in files: reads CSV or Parquet, fills in missing cells, and writes the same table.

Only missing cells change. A CSV file keeps every other byte, a Parquet file its schema.
"""

import codecs
import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgan.errors import JaxganError
from jaxgan.files import new_file

CATEGORIES = 20
"""A text column is categorical if it has 2 to 20 different values and at least one occurs twice.
Other text is not filled."""
MISSING = ("", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL", "None", "<NA>")
"""Cells of a CSV file that count as missing."""
_SEPARATORS = ",;\t|"
_MARKS = (
    ("utf-8", codecs.BOM_UTF8),
    ("utf-16-le", codecs.BOM_UTF16_LE),
    ("utf-16-be", codecs.BOM_UTF16_BE),
    ("utf-16-le", b""),  # utf-16 without a mark
)
"""Encodings, and the marks that a file may begin with."""


class Table(NamedTuple):
    """A table with missing cells."""

    header: list[str]
    """The names of the columns."""
    numbers: dict[int, np.ndarray]
    """The columns of numbers, by their places: float64 `[N]`, NaN where they are missing."""
    texts: dict[int, list[Any]]
    """The other columns: N values, None where they are missing."""
    source: Any
    """What `write` needs: a `_Csv`, or a pyarrow Table."""

    def categories(self) -> dict[int, list[Any]]:
        """The categories of the categorical columns."""
        found = {}
        for j, values in self.texts.items():
            with contextlib.suppress(TypeError):  # lists in Parquet are no categories
                known = [value for value in values if value is not None]
                different = sorted(set(known), key=str)
                if 1 < len(different) <= CATEGORIES and len(different) < len(known):
                    found[j] = different
        return found

    def missing(self) -> np.ndarray:
        """Which cells are missing, bool `[N, columns]`."""
        columns = {j: np.isnan(values) for j, values in self.numbers.items()}
        columns |= {j: np.array([x is None for x in xs]) for j, xs in self.texts.items()}
        return np.stack([columns[j] for j in range(len(self.header))], axis=1)

    def stranger(self, j: int) -> tuple[int, str] | None:
        """The first cell that made text of a column that looks like numbers: its row, from 1, and
        what is there. None for other columns, and for Parquet, which has types."""
        if j not in self.texts or not isinstance(self.source, _Csv):
            return None
        cells = [(row, cell) for row, cell in enumerate(self.texts[j], 1) if cell is not None]
        alike = [any(_number(cell, point) is not None for point in ".,") for _, cell in cells]
        if 2 * sum(alike) <= len(cells):
            return None
        return next(found for found in cells if _number(found[1], self.source.decimal) is None)


class _Csv(NamedTuple):
    """The text of a CSV file in pieces. Together they are the file."""

    cells: list[list[str]]
    """The rows of data, with quotes and spaces."""
    head: str
    """The header and its line end."""
    ends: list[str]
    """What follows each row: its line end, and blank lines."""
    separator: str
    decimal: str
    encoding: str
    mark: bytes
    """The byte order mark, if there is one."""


def read(path: Path, separator: str = "", decimal: str = "", encoding: str = "utf-8") -> Table:
    """Reads a table.

    Args:
      path: a Parquet file, if it ends in .parquet, else a CSV file with a header.
      separator: of the cells of a CSV file, one character; by default the most frequent one of the
        header.
      decimal: the decimal point of a CSV file, "." or ","; by default the more frequent one.
      encoding: of a CSV file.

    Raises:
      JaxganError: if it is no such table, if a number is infinite, or if there are neither numbers
        nor categories.
    """
    with _readable(path, encoding):
        if is_parquet(path):
            table = _from_arrow(path)
        else:
            content = path.read_bytes()
            name, mark = codecs.lookup(encoding).name, b""
            for exact, start in _MARKS:
                if exact.startswith(name) and content.startswith(start):
                    encoding, mark = exact, start
                    break
            text = content[len(mark) :].decode(encoding)
            table = _parse(path, text, separator, decimal, encoding, mark)
    if not len(table.missing()):
        raise JaxganError(f"{path} has no rows below its header")
    if isinstance(table.source, _Csv):
        names = [name for name in table.header if name not in MISSING]
        if names and all(_number(name, table.source.decimal) is not None for name in names):
            warnings.warn(
                f"the first row of {path} is taken as the names of the columns, but it has only "
                "numbers: if it is data, put a row of names above it",
                stacklevel=2,
            )
    for j, values in table.numbers.items():
        if np.isinf(values).any():
            raise JaxganError(f"the column {table.header[j]!r} of {path} has infinite numbers")
    if not table.numbers and not table.categories():
        raise JaxganError(
            f"{path} has no column of numbers or categories: is another --separator or --decimal "
            "needed?"
        )
    return table


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.suffix.lower() == ".parquet"


def _from_arrow(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    if path.is_file():
        with parquet.ParquetFile(path) as file:  # read_table refuses two columns of one name
            source = file.read()
    else:
        source = parquet.read_table(path)
    if not source.num_columns:
        raise JaxganError(f"{path} has no columns")
    numbers, texts = {}, {}
    for j, column in enumerate(source.columns):
        if pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type):
            numbers[j] = np.array([np.nan if x is None else x for x in column.to_pylist()], float)
        else:
            texts[j] = column.to_pylist()
    return Table(source.column_names, numbers, texts, source)


def _parse(
    path: Path, text: str, separator: str, decimal: str, encoding: str, mark: bytes
) -> Table:
    first = re.sub(r'"[^"]*"', "", text).split("\n", 1)[0]
    separator = separator or max(_SEPARATORS, key=first.count)
    (header, end), *lines = _split(text, separator)
    cells: list[list[str]] = []
    ends: list[str] = []
    head = separator.join(header) + end
    for number, (line, end) in enumerate(lines, 1):
        if line == [""] and len(header) > 1:  # a blank line is no row
            if ends:
                ends[-1] += end
            else:
                head += end
        elif len(line) != len(header):
            raise JaxganError(
                f"row {number} of {path} has {len(line)} cells, and the header has {len(header)}: "
                "is another --separator needed?"
            )
        else:
            cells.append(line)
            ends.append(end)
    values = [[_value(cell) for cell in line] for line in cells]
    if not decimal:
        found = [match for line in values for cell in line if (match := _DECIMAL(cell))]
        # Before three digits the point may be one that separates thousands.
        points = [m[1] for m in [m for m in found if len(m[2]) != 3] or found]
        decimal = "," if points.count(",") > points.count(".") and separator != "," else "."
    numbers, texts = {}, {}
    for j in range(len(header)):
        column = [None if line[j] in MISSING else line[j] for line in values]
        found = _numbers(column, decimal)
        if found is None:
            texts[j] = column
        else:
            numbers[j] = found
    source = _Csv(cells, head, ends, separator, decimal, encoding, mark)
    return Table([_value(cell) for cell in header], numbers, texts, source)


def _split(text: str, separator: str) -> Iterator[tuple[list[str], str]]:
    """The cells of each line, with quotes and spaces, and the end of the line."""
    rest = f"[^{re.escape(separator)}\r\n]*"
    cell = re.compile(f' *"(?:[^"]|"")*"{rest}|{rest}')
    at, line = 0, []
    while True:
        match = cell.match(text, at)
        assert match is not None  # it may be empty
        line.append(match[0])
        at = match.end()
        if text[at : at + 1] == separator:
            at += 1
            continue
        end = "\r\n" if text.startswith("\r\n", at) else text[at : at + 1]
        yield line, end
        at, line = at + len(end), []
        if at == len(text):
            return


def _value(cell: str) -> str:
    """A cell without its quotes and the spaces around it."""
    cell = cell.strip()
    quoted = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"').strip() if quoted else cell


_DECIMAL = re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+(?=,))([.,])(\d+)").fullmatch
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity)", re.IGNORECASE).fullmatch
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d+)?").fullmatch
"""A number with a decimal comma, and a dot before each three digits."""
_CODE = re.compile(r"0\d+").fullmatch
"""Digits that are no number, such as postcodes."""


def _number(cell: str, decimal: str) -> float | None:
    """The number in a cell, or None if it is text."""
    if decimal == ",":
        if "." in cell and not _GROUPED(cell):
            return None
        cell = cell.replace(".", "").replace(",", ".")
    return float(cell) if _NUMBER(cell) and not _CODE(cell) else None


def _numbers(column: list[str | None], decimal: str) -> np.ndarray | None:
    """The numbers of a column, or None if it holds text."""
    found = []
    for cell in column:
        number = np.nan if cell is None else _number(cell, decimal)
        if number is None:
            return None
        found.append(number)
    return np.array(found, float)


def fill(table: Table, imputer: Any) -> dict[int, list[Any]]:
    """Values for the missing cells: for each column, those of its missing rows, in order.

    Numbers are filled in by the imputer. Categories enter as ordinal codes, in alphabetical order.
    Columns of whole numbers get whole numbers. Then missing categories are predicted from all other
    columns. Columns without any value, and other text, are left out.

    Args:
      table: from `read`.
      imputer: of `jaxgan.uses.imputers`. It is fitted to the table.
    """
    inputs, codes = _encode(table)
    if not inputs:
        return {}
    places = list(inputs)
    matrix = np.stack(list(inputs.values()), axis=1)
    if "scored" in imputer.get_params(deep=False):
        # Errors of category codes mean nothing: score only numbers.
        scored = [i for i, j in enumerate(places) if j not in codes]
        imputer.set_params(scored=scored or None)
    complete = imputer.fit_transform(matrix)
    found: dict[int, list[Any]] = {}
    for i, j in enumerate(places):
        known = ~np.isnan(matrix[:, i])
        if known.all():
            continue
        if j in codes:
            labels = _classify(np.delete(complete, i, axis=1), matrix[:, i])
            found[j] = [codes[j][label] for label in labels]
        else:
            whole = (matrix[known, i] % 1 == 0).all()
            values = np.rint(complete[~known, i]) if whole else complete[~known, i]
            found[j] = values.tolist()
    return found


def _encode(table: Table) -> tuple[dict[int, np.ndarray], dict[int, list[Any]]]:
    """The columns that an imputer gets, and the categories of those that are codes."""
    inputs = {j: values for j, values in table.numbers.items() if not np.isnan(values).all()}
    categories = table.categories()
    for j, different in categories.items():
        code = {value: float(i) for i, value in enumerate(different)}
        inputs[j] = np.array([np.nan if x is None else code[x] for x in table.texts[j]])
    return inputs, categories


def _classify(inputs: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The likeliest codes where they are NaN, int."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    known = ~np.isnan(codes)
    wanted = codes[known].astype(int)
    if not inputs.shape[1]:
        return np.full((~known).sum(), np.bincount(wanted).argmax())
    # Early stopping would fail for a category that occurs once.
    classifier = HistGradientBoostingClassifier(random_state=0, early_stopping=False)
    with warnings.catch_warnings():
        # Few rows may have many categories.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        classifier.fit(inputs[known], wanted)
    return classifier.predict(inputs[~known])


def write(path: Path, table: Table, filled: Mapping[int, list[Any]]) -> None:
    """Writes the table with the values of `fill`, in the format that it was read in.

    A number in a CSV file gets as many decimals as the known ones of its column have at most, or 12
    digits if one of these has an exponent.
    """
    missing = table.missing()
    rows = {j: np.flatnonzero(missing[:, j]) for j in filled}
    if not isinstance(table.source, _Csv):
        _write_arrow(path, table.source, filled, rows)
        return
    source = table.source
    cells = [line.copy() for line in source.cells]
    for j, values in filled.items():
        known = [line[j] for line, gone in zip(cells, missing[:, j], strict=True) if not gone]
        if j in table.numbers:
            texts = _format(values, known, source.decimal)
        else:
            spelled = {_value(cell): cell for cell in reversed(known)}
            texts = [spelled[value] for value in values]
        for row, text in zip(rows[j], texts, strict=True):
            cells[row][j] = text
    text = io.StringIO(newline="")
    text.write(source.head)
    for line, end in zip(cells, source.ends, strict=True):
        text.write(source.separator.join(line) + end)
    with new_file(path) as file:
        file.write(source.mark + text.getvalue().encode(source.encoding))


def _write_arrow(path: Path, source: Any, filled: Mapping[int, list[Any]], rows: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    for j, values in filled.items():
        field = source.schema.field(j)
        whole = pyarrow.types.is_integer(field.type)
        column = source.column(j).to_pylist()
        if whole:
            # The largest int64 is rounded up as a float, and no longer fits.
            known = [value for value in column if value is not None]
            low, high = min(known), max(known)
            values = [min(max(int(value), low), high) for value in values]
        for row, value in zip(rows[j], values, strict=True):
            column[row] = value
        source = source.set_column(j, field, pyarrow.array(column, field.type))
    with new_file(path) as file:
        parquet.write_table(source, file)


def _format(values: list[float], known: list[str], decimal: str) -> list[str]:
    """Numbers as the known cells of their column are written."""
    plain = [_value(cell) for cell in known]
    if any("e" in cell.lower() for cell in plain):
        style = ".12g"  # such numbers may be of any size
    else:
        places = max(len(cell.partition(decimal)[2]) for cell in plain)
        values = [round(value, places) + 0.0 for value in values]  # no -0
        grouped = decimal == "," and any("." in cell for cell in plain)
        style = f"{',' if grouped else ''}.{places}f"
    quote = '"' if all(cell.strip().startswith('"') for cell in known) else ""
    signs = str.maketrans(".,", decimal + ".")
    return [quote + format(value, style).translate(signs) + quote for value in values]


@contextlib.contextmanager
def _readable(path: Path, encoding: str) -> Iterator[None]:
    """Turns errors of reading into JaxganErrors of one line."""
    try:
        yield
    except JaxganError:
        raise
    except OSError as error:
        raise JaxganError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, LookupError) as error:
        raise JaxganError(
            f"{path} is not in the encoding {encoding}: give another --encoding, such as latin-1"
        ) from error
    except ImportError as error:
        raise JaxganError(f"to read {path}, pip install pyarrow") from error
    except ValueError as error:  # also those of pyarrow
        reason = " ".join(str(error).split())
        raise JaxganError(f"{path} is no table that can be read: {reason}") from error
