"""Tables in files, and scripts/impute.py."""

import csv
import re

import numpy as np
import pandas
import pytest
from helpers import contents, here
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
    rows = list(csv.reader(found.decode().splitlines()))
    # Means, with the decimals of the column; whole numbers stay whole. Text is left alone.
    assert rows[2] == ["n 2", "1.334", "12", "dog", "", "2e-3"]
    assert rows[3] == ["n 3", "2.5", "12", "cat", "x", "0.00233333"]
    assert rows[4][:3] == ["n 4", "0.001", "14"]
    assert rows[4][3] in ("cat", "dog")
    wanted = ENGLISH.splitlines()
    assert found.decode().splitlines()[:2] == wanted[:2]
    assert "4 rows, 6 columns (3 of numbers, 1 of categories, 2 of other text)" in said
    assert "4 of 5 missing cells filled" in said
    assert "1 cells are left empty" in said


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


def test_a_category_is_predicted_from_the_numbers(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    kinds = np.where(x > 0, "high", "low")
    frame = pandas.DataFrame({"x": x, "kind": kinds})
    frame.loc[:20, "kind"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = tables.read(tmp_path / "t.csv")
    found = tables.fill(table, MEAN)
    assert list(found) == [1]
    assert (found[1] == kinds[:21]).mean() > 0.9


@pytest.mark.parametrize("kind", ["Int64", "Float64", "float32"])
def test_parquet_keeps_its_types(tmp_path, kind):
    pytest.importorskip("pyarrow")
    values = pandas.array([1, None, 3], dtype="Float64").astype(kind)
    frame = pandas.DataFrame({"a": values, "b": ["x", None, "x"], "c": [1.0, 2.0, 3.0]})
    frame.to_parquet(tmp_path / "in.parquet")
    here(
        "impute.py", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet", "--method", "mean"
    )
    found = pandas.read_parquet(tmp_path / "out.parquet")
    assert found.dtypes.astype(str).tolist() == frame.dtypes.astype(str).tolist()
    assert found["a"].tolist() == [1, 2, 3]
    assert found["b"].isna().tolist() == [False, True, False]


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
    frame = pandas.DataFrame({"x": x, "y": 2 * x, "z": x + 0.01 * rng.normal(size=100)})
    frame.iloc[::9, 1] = None
    text = frame.to_csv(index=False).encode()
    found, said = impute(tmp_path, text)
    assert "taken: ridge" in said
    errors = {name: float(number) for name, number in re.findall(r"  (\w+) +(0\.\d+) ", said)}
    assert errors["ridge"] < 0.02 < 0.1 < errors["mean"]
    filled = pandas.read_csv(tmp_path / "out" / "in.csv")
    np.testing.assert_allclose(filled["y"], 2 * x, atol=0.2)
    assert impute(tmp_path, text)[0] == found  # the same seed
    assert "12 cells filled" in said


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a,b\n1,2\n3,inf\n", (), "the column 'b' of in.csv has infinite numbers"),
        (b"", (), "in.csv is no table that can be read: No columns"),
        (b"a,b\n", (), "in.csv has no rows below its header"),
        (b"a,b\n1,2\n3,4,5\n", (), "in.csv is no table that can be read"),
        (b"\xff\xfea,b\n", (), "in.csv is not in the encoding utf-8: give another --encoding"),
        (b"a,b\n1,2\n", ("--encoding", "klingon"), "is not in the encoding klingon"),
        (b"a,b\n1,2\n", ("--out", "in.csv"), "--out is the table itself"),
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
