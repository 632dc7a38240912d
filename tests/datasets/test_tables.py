import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignrec_pyg.datasets.tables import ParquetFile, ending, open_table

COLUMNS = {"user": ["a", "b"], "n": [1, 2], "text": ["7", None]}


@pytest.fixture
def parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(COLUMNS), path)
    return path


def test_every_format_gives_the_same(tmp_path, parquet):
    csv = "user,n,text\na,1,7\nb,2,\n"
    (tmp_path / "a.csv").write_text(csv)
    (tmp_path / "a.TSV").write_text(csv.replace(",", "\t"))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(csv.encode()))
    (tmp_path / "a.jsonl").write_text(
        '{"user": "a", "n": 1, "text": "7"}\n{"user": "b", "n": 2, "text": null}\n'
    )
    for name in ("a.csv", "a.TSV", "a.csv.gz", "a.jsonl", "a.parquet"):
        table = open_table(tmp_path / name, ["user", "n"], [], optional=["text"], text=["text"])
        assert table.columns == ["user", "n", "text"]
        assert table.ids("user").values.tolist() == ["a", "b"]
        assert table.column("n").values.tolist() == [1, 2]
        assert [value or None for value in table.column("text").values] == ["7", None]
        assert table.where(1).startswith(f"{tmp_path / name}, ")
        assert open_table(tmp_path / name, [], [], optional=()).columns == ["user", "n", "text"]


def test_parquet(parquet):
    table = ParquetFile(parquet, ["n"], optional=())
    assert table.where(1).endswith("a.parquet, row 1")
    with pytest.raises(KeyError):
        table.column("user")
    with pytest.raises(ValueError, match="the columns 'x' are needed .got .'user', 'n', 'text'.."):
        ParquetFile(parquet, ["x"])
    pq.write_table(pa.table(COLUMNS).slice(0, 0), parquet)
    with pytest.raises(ValueError, match="at least one row"):
        ParquetFile(parquet, ["n"])
    parquet.write_bytes(b"PAR1" + bytes(20))
    with pytest.raises(ValueError, match="cannot be read"):
        ParquetFile(parquet, ["n"])


def test_strings_of_parquet_that_are_not_utf_8_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"user": text}), path)
    with pytest.raises(ValueError, match=r"a\.parquet, column 'user' cannot be read: "):
        ParquetFile(path, ["user"]).column("user")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="needs to be a file"):
        open_table(tmp_path / "a.csv", [], [])
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match="needs a name that ends in one of"):
        open_table(tmp_path / "a.xlsx", [], [])
    assert ending(Path("a.b/ratings.CSV.gz")) == ".csv"
