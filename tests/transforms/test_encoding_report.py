from __future__ import annotations

from alignrec_pyg.transforms import ContentFailure, EncodingReport
from alignrec_pyg.transforms.encoding_report import failure_lines


def test_text():
    failures = [ContentFailure(item, "image", "truncated") for item in range(3, 10)]
    failures.append(ContentFailure(20, "image", "no such file"))
    report = EncodingReport(
        name="mm",
        items=2_000,
        encoded=1_500,
        cached=256,
        present={"text": 1_990, "image": 1_200},
        failures=tuple(failures),
        repairs={"HTML removed": 12},
        zero_rows=2,
        notes=("ATTENTION: look here",),
    )
    assert str(report).splitlines() == [
        "feature 'mm': 1,500 of 2,000 items have a row (256 from the cache)",
        "  text: 1,990 items",
        "  image: 1,200 items, of which 8 cannot be read",
        "    7 truncated (items 3, 4, 5, 6, 7, ...)",
        "    1 no such file (items 20)",
        "  12 texts: HTML removed",
        "  2 items: the encoder returned a row of zeros",
        "  ATTENTION: look here",
    ]


def test_of_many_reasons_the_commonest_are_shown():
    failures = [ContentFailure(item, "image", f"reason {item}") for item in range(14)]
    lines = failure_lines([*failures, ContentFailure(99, "image", "reason 13")])
    assert lines[0] == "2 reason 13 (items 13, 99)"
    assert len(lines) == 11
    assert lines[-1] == "and 4 other reasons"


def test_without_anything_odd():
    report = EncodingReport(name="t", items=1, encoded=1, cached=0, present={"text": 1})
    assert str(report) == "feature 't': 1 of 1 items have a row (0 from the cache)\n  text: 1 items"
