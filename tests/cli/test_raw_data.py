from pathlib import Path

import pytest

from alignrec_pyg.cli.options import OptionError
from alignrec_pyg.cli.raw_data import RawDataOptions, TableOptions


def test_named_columns_reach_the_reader_and_others_are_left_to_it():
    options = TableOptions(items=Path("items.csv"), text=("title",), user="customer")
    read = options.reading(time="bought_at", rating=None)
    assert read["columns"] == {"user": "customer", "time": "bought_at"}
    assert (read["items"], read["text"], read["quoted"]) == (Path("items.csv"), ("title",), True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": Path("posters"), "image": "poster"}, "give one of them"),
        ({"items": Path("items.csv")}, "--text, or its image column"),
    ],
)
def test_options_that_do_not_fit_each_other_are_named_before_anything_is_read(given, message):
    with pytest.raises(OptionError, match=message):
        RawDataOptions(**given).specs()


def test_encoders_are_those_for_the_content_that_there_is():
    options = RawDataOptions(items=Path("items.csv"), text=("title",), images=Path("posters"))
    assert options.specs() == []  # told by the data
    (named,) = RawDataOptions(encoder=("tfidf_char",)).specs()
    assert named.name == "tfidf_char"
