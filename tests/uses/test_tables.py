"""Tables in files, and scripts/impute.py."""

import functools
import re

import numpy as np
import pyarrow
import pytest
from helpers import contents, here
from pyarrow import parquet
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer

from jaxgan import JaxganError
from jaxgan.uses import imputers, tables

MEAN = imputers.ScaledImputer(SimpleImputer())

ENGLISH = """name,size,weight,kind,note,"a ""b"", c"
n 1,1.50,10,cat,"one, two",1e-3
n 2,,12,dog,,2e-3
n 3,2.5,NA,cat,x,
n 4,0.001,14,,y,4e-3
"""
GERMAN = "name;Größe;Art\nn1;1,50;a\nn2;;b\nn3;2,25;\nn4;3,00;a\n"


def impute(folder, content, *options, name="in.csv"):
    """The text of the filled table, and what the script says."""
    (folder / name).write_bytes(content)
    out = folder / "out" / name
    said, _ = here("impute.py", folder / name, "--out", out, *options)
    return out.read_bytes(), said


def test_known_cells_are_written_as_they_were_read(tmp_path):
    found, said = impute(tmp_path, ENGLISH.encode(), "--method", "mean")
    # Means, with the decimals of the column; whole numbers stay whole. Text is left alone.
    lines = found.decode().splitlines()
    assert lines[:2] == ENGLISH.splitlines()[:2]
    assert lines[2] == "n 2,1.334,12,dog,,2e-3"
    assert lines[3] == "n 3,2.5,12,cat,x,0.00233333333333"
    assert re.fullmatch("n 4,0.001,14,(cat|dog),y,4e-3", lines[4])
    assert "4 rows, 6 columns (3 of numbers, 1 of categories, 2 of other text)" in said
    assert "4 of 5 missing cells filled" in said
    assert "left empty, without a known value or with other text: note (1)" in said


@pytest.mark.parametrize(
    ("known", "mean"),
    [
        (("1.0e-07", "9.0e-07", "0.0"), 1e-6 / 3),
        (("1e20", "2e20", "1"), 1e20),
        (("1.5E3", "1234567.25"), 618033.625),
    ],
)
def test_one_exponent_in_a_column_keeps_its_digits(tmp_path, known, mean):
    content = "".join(f"n,{cell}\n" for cell in ("x", *known, ""))
    found, _ = impute(tmp_path, content.encode(), "--method", "mean")
    (cell,) = found.decode()[len(content) - 1 :].split()
    assert float(cell) == pytest.approx(mean, rel=1e-11)
    assert len(cell) <= 18


ODD = (
    b'"x";"a;\nb";code; yes ;"q"\r\n'
    b'1;"say ""no""";01234; true;"1.50"\r\n'
    b"\n"
    b'?; "a\rb" ;;TRUE ;"-2.00"\n'
    b'3;5" disk;09876; true;""\r\n'
    b"\n\n"
    b'-2;;00001;;"0.25"'
)
"""Quotes, spaces and line ends of all kinds; blank lines; postcodes; no end of the last line."""


def test_every_other_byte_stays(tmp_path):
    found, said = impute(tmp_path, ODD, "--method", "mean")
    wanted = ODD.replace(b"?", b"1").replace(b';""\r', b';"-0.08"\r').replace(b';;"0', b'; true;"0')
    assert found == wanted
    assert "4 rows, 5 columns (2 of numbers, 1 of categories, 2 of other text)" in said
    assert "left empty, without a known value or with other text: a;\nb (1), code (1)" in said


@pytest.mark.parametrize(
    ("text", "separator", "decimal"),
    [
        ('"a, b, c";d\n1,5;2\n', ";", ","),
        ('"a;b;c",d\n1.5,2\n', ",", "."),
        ("a\tb\n1,5\t2,5\n", "\t", ","),
        ("a|b\n1.5|2\n", "|", "."),
    ],
)
def test_separator_and_decimal_point_are_found(tmp_path, text, separator, decimal):
    (tmp_path / "t.csv").write_text(text)
    table = tables.read(tmp_path / "t.csv")
    assert (table.source.separator, table.source.decimal) == (separator, decimal)
    assert len(table.header) == len(table.numbers) == 2


THOUSANDS = "price;cost;rate\n1.064;1.064,50;0,1\n;;0,2\n-2.000.000;7,25;0,3\n900;8,00;0,4\n"


@pytest.mark.parametrize("options", [(), ("--decimal", ",")])
def test_with_a_decimal_comma_dots_separate_thousands(tmp_path, options):
    found, _ = impute(tmp_path, THOUSANDS.encode(), "--method", "mean", *options)
    assert found.decode() == THOUSANDS.replace("\n;;", "\n-666.012;359,92;")
    numbers = tables.read(tmp_path / "in.csv").numbers
    np.testing.assert_array_equal(numbers[0], [1064, np.nan, -2e6, 900])
    np.testing.assert_array_equal(numbers[1], [1064.5, np.nan, 7.25, 8])


@pytest.mark.parametrize(
    ("rows", "decimal"),
    [
        (["1.064;0,5"], ","),
        (["1.064;1.064,50"], ","),
        (["1.064;1.064", "2,5;1.100"], ","),
        (["1,064;0.5", "1,064;7"], "."),
        (["1.064;2.125"], "."),
        (["1,064;2,125"], ","),
    ],
)
def test_digits_in_threes_do_not_decide_which_point_is_decimal(tmp_path, rows, decimal):
    (tmp_path / "in.csv").write_text("\n".join(["a;b", *rows]) + "\n")
    assert tables.read(tmp_path / "in.csv").source.decimal == decimal


@pytest.mark.parametrize("cell", ["1.5", "0.123", "1.2345", "1234.567", "1,5.000"])
def test_with_a_decimal_comma_other_dots_make_text(tmp_path, cell):
    content = f"price;rate\n1.064;0,1\n{cell};0,2\n;0,3\n2;0,4\n3;0,5\n".encode()
    found, said = impute(tmp_path, content, "--method", "mean")
    assert found == content
    assert f"other text: price (1, read as text: row 2 below the header has {cell!r})\n" in said


def test_the_cell_that_makes_text_of_numbers_is_named(tmp_path):
    numbers = [*map(str, range(30)), "n.a.", "", "?", "none"]
    content = "\n".join(["x,y,z", *(f"{x},word {i},{i}" for i, x in enumerate(numbers)), "7,,"])
    _, said = impute(tmp_path, content.encode(), "--method", "mean")
    assert "other text: x (2, read as text: row 31 below the header has 'n.a.'), y (1)\n" in said
    _, said = impute(tmp_path, b"x;y\n1.5;0,1\n2.5;0,2\n;0,3\n", "--method", "mean")
    assert "other text: x (1, read as text: row 1 below the header has '1.5')\n" in said
    # Such a column may also be categorical.
    _, said = impute(tmp_path, b"x,y\n1,1\n2,1\nn.a.,2\n1,3\n,4\n", "--method", "mean")
    assert "x: 1 filled, read as text: row 3 below the header has 'n.a.'\n" in said


def test_columns_of_one_name_are_told_apart(tmp_path):
    found, said = impute(tmp_path, b"x,x\n1,a\n,\n3,b\n", "--method", "mean")
    assert found == b"x,x\n1,a\n2,\n3,b\n"
    assert "left empty, without a known value or with other text: x (1)\n" in said
    columns = [pyarrow.array([1.0, None, 3.0]), pyarrow.array([None, 4.0, 8.0])]
    source = pyarrow.table(columns, names=["x", "x"])
    parquet.write_table(source, tmp_path / "in.parquet")
    table = tables.read(tmp_path / "in.parquet")
    tables.write(tmp_path / "out.parquet", table, tables.fill(table, MEAN))
    with parquet.ParquetFile(tmp_path / "out.parquet") as file:
        assert file.schema_arrow.names == ["x", "x"]
        assert [column.to_pylist() for column in file.read()] == [[1, 2, 3], [6, 4, 8]]


def test_a_header_of_numbers_is_warned_of(tmp_path):
    (tmp_path / "t.csv").write_text(",-0.13\n0.64,0.10\n,0.36\n")
    with pytest.warns(UserWarning, match="the first row of .*t.csv is taken as the names"):
        tables.read(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("city,2020\na,0.10\na,0.36\n")
    tables.read(tmp_path / "t.csv")  # no warning, which would be an error


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_encodings_separators_and_decimal_commas(tmp_path, encoding, newline):
    content = GERMAN.replace("\n", newline).encode(encoding)
    options = ("--encoding", encoding) if encoding == "latin-1" else ()
    found, _ = impute(tmp_path, content, "--method", "mean", *options)
    text = found.decode(encoding)
    assert found.startswith(b"\xef\xbb\xbf") == (encoding == "utf-8-sig")
    wanted = GERMAN.replace("n2;;", "n2;2,25;").replace("2,25;\nn4", "2,25;a\nn4")
    assert text.replace(newline, "\n") == wanted
    assert text.count("\r") == content.count(b"\r")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("order", ["le", "be"])
def test_the_byte_order_stays(tmp_path, order, mark):
    name = f"utf-16-{order}"
    text = mark + "größe,b\n1,2\n,3\n3,5\n"
    options = ("--encoding", "utf-16" if mark or order == "le" else name)
    found, _ = impute(tmp_path, text.encode(name), "--method", "mean", *options)
    assert found == text.replace("\n,", "\n2,").encode(name)


def test_a_category_is_predicted_from_the_numbers(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    kinds = np.where(x > 0, "high", "low")
    shown = ["", *kinds]
    shown[1:22] = [""] * 21
    lines = [f"{number},{kind}" for number, kind in zip(x, shown[1:], strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["x,kind", *lines]))
    table = tables.read(tmp_path / "t.csv")
    found = tables.fill(table, MEAN)
    assert list(found) == [1]
    assert (np.array(found[1]) == kinds[:21]).mean() > 0.9


def test_a_category_may_occur_once_in_many_rows(monkeypatch):
    # More than 10,000 rows: scikit-learn would hold some of each class back.
    quick = functools.partial(HistGradientBoostingClassifier, max_iter=1)
    monkeypatch.setattr("sklearn.ensemble.HistGradientBoostingClassifier", quick)
    codes = np.arange(10_003) % 2.0
    codes[:2] = 2, np.nan
    assert tables._classify(np.stack([codes % 2, codes % 2], 1), codes).tolist() in ([0], [1])


def test_many_categories_in_few_rows_are_no_warning():
    codes = np.append(np.arange(22) % 20.0, np.nan)
    assert tables._classify(np.ones((23, 1)), codes).shape == (1,)


def test_parquet_keeps_its_schema_and_every_known_value(tmp_path):
    columns = {
        "id": pyarrow.array([2**53 + 1, None, 2**53 + 5, 7], pyarrow.int64()),
        "small": pyarrow.array([1, 2, None, 4], pyarrow.int8()),
        "size": pyarrow.array([0.1, None, 0.3, np.nan], pyarrow.float32()),
        "kind": pyarrow.array(["a", "b", None, "a"]).dictionary_encode(),
        "yes": pyarrow.array([True, None, True, False]),
        "note": pyarrow.array([None, "x", "y", "z"]),
        "list": pyarrow.array([[1], None, [1], [2]]),
    }
    source = pyarrow.table(columns, metadata={"by": "me"})
    parquet.write_table(source, tmp_path / "in.parquet")
    here(
        "impute.py", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet", "--method", "mean"
    )
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.schema.equals(parquet.read_table(tmp_path / "in.parquet").schema)
    assert found.schema.metadata[b"by"] == b"me"
    for name in source.column_names:
        for old, new in zip(source[name].to_pylist(), found[name].to_pylist(), strict=True):
            known = old is not None and old == old
            assert new == old if known else name in ("note", "list") or new is not None
    assert found["size"][1].as_py() == pytest.approx(0.2)
    assert found["small"][2].as_py() == 2


def test_the_largest_whole_numbers_of_parquet_are_filled(tmp_path):
    largest = 2**63 - 1
    columns = {"id": pyarrow.array([largest, None, largest]), "x": pyarrow.array([1, 2, 3])}
    parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    table = tables.read(tmp_path / "in.parquet")
    tables.write(tmp_path / "out.parquet", table, tables.fill(table, MEAN))
    assert parquet.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [largest] * 3


def test_a_complete_table_and_an_empty_column_stay(tmp_path):
    complete = b"a,b\n1,x\n2,y\n"
    assert impute(tmp_path, complete)[0] == complete
    empty = b"a,b\n1,\n2,\n"
    found, said = impute(tmp_path, empty)
    assert found == empty
    assert "0 of 2 missing cells filled" in said
    # A column alone has blank lines where it is missing.
    assert impute(tmp_path, b"a\n1\n\n3\n", "--method", "mean")[0] == b"a\n1\n2\n3\n"


def test_the_method_is_chosen_by_hidden_cells(tmp_path, monkeypatch):
    def candidates():
        return {"mean": MEAN, "ridge": imputers.ScaledImputer(imputers.make_ridge())}

    monkeypatch.setattr(imputers, "make_candidates", candidates)
    rng = np.random.default_rng(0)
    x = rng.normal(size=100)
    z = x + 0.01 * rng.normal(size=100)
    y = ["" if i % 9 == 0 else f"{2 * value:.6f}" for i, value in enumerate(x)]
    lines = [f"{a},{b},{c}" for a, b, c in zip(x, y, z, strict=True)]
    text = "\n".join(["x,y,z", *lines]).encode()
    found, said = impute(tmp_path, text)
    assert "taken: ridge" in said
    errors = {name: float(number) for name, number in re.findall(r"  (\w+) +(0\.\d+) ", said)}
    assert errors["ridge"] < 0.02 < 0.1 < errors["mean"]
    filled = np.loadtxt(tmp_path / "out" / "in.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(filled[:, 1], 2 * x, atol=0.2)
    assert impute(tmp_path, text)[0] == found  # the same seed
    assert "y: 12 filled" in said


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a,b\n1,2\n3,inf\n", (), "the column 'b' of in.csv has infinite numbers"),
        (b"", (), "in.csv has no rows below its header"),
        (b"a,b\n", (), "in.csv has no rows below its header"),
        (b"a,b\n1,2\n3,4,5\n", (), "row 2 of in.csv has 3 cells, and the header has 2"),
        (b"a,b\n1,2\n", ("--separator", "::"), "--separator must be one character"),
        (b"a,b\n1,2\n", ("--separator", ",", "--decimal", ","), "the decimal point, got ','"),
        (b"\xff\xfea,b\n", (), "in.csv is not in the encoding utf-8: give another --encoding"),
        (b"a,b\n1,2\n", ("--encoding", "klingon"), "is not in the encoding klingon"),
        (b"a,b\n1,2\n", ("--out", "in.csv"), "--out is the table itself"),
        (b"a,b\n1,2\n", ("--out", "."), "--out is a folder, .: give a file"),
        (b"a,b\n1,2\n", ("--out", "out.parquet"), "must have the same format"),
        (b"a,b\n1,2\n", ("--decimal", ";"), "--decimal must be . or a comma, got ';'"),
        (b"a,b\n1,2\n", ("--seed", -1), "--seed must be from 0"),
        ("\n".join(["a", *map("text {}".format, range(30))]).encode(), (), "no column of numbers"),
    ],
)
def test_bad_tables_are_one_line_and_leave_nothing(
    tmp_path, monkeypatch, content, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_bytes(content)
    (tmp_path / "old.csv").write_bytes(b"old")
    before = contents(tmp_path)
    _, said = here("impute.py", "in.csv", "--out", "old.csv", *options, status=2)
    assert message in said
    assert said.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_missing_file_is_one_line(tmp_path):
    _, said = here("impute.py", tmp_path / "no.csv", "--out", tmp_path / "out.csv", status=2)
    assert said == f"error: cannot read {tmp_path / 'no.csv'}: No such file or directory\n"
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(JaxganError, match="is no table that can be read"):
        tables.read(tmp_path / "bad.parquet")


def test_an_interrupt_leaves_no_folder(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "fill", interrupt)
    (tmp_path / "in.csv").write_text("a,b\n1,2\n,3\n")
    here("impute.py", tmp_path / "in.csv", "--out", tmp_path / "new" / "out.csv", status=130)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_an_output_that_cannot_be_written_is_one_line_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "fill", None)
    (tmp_path / "in.csv").write_text("a,b\n1,2\n,3\n")
    out = tmp_path / "in.csv" / "new" / "out.csv"
    _, said = here("impute.py", tmp_path / "in.csv", "--out", out, status=2)
    assert said.startswith(f"error: cannot write to {out}: ")
    assert said.count("\n") == 1
