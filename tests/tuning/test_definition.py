import argparse
import json
import sys
from types import SimpleNamespace

import pytest

from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.tuning.definition import DEFINITION, agree, defining, required
from tuning import search

CONTEXT = {"data": "d1", "code": "c1"}


def session(out, **options):
    given = ["--num-samples", "3"]
    defaults = {"num_samples": 3, "resume": False, "address": None, "data": "here", "given": given}
    return SimpleNamespace(out=out, options=argparse.Namespace(out=out, **{**defaults, **options}))


@pytest.mark.parametrize("name", ["ray", "optuna", "filelock"])
def test_what_is_missing_is_named_with_the_way_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=rf"need .*{name}.*pip install 'ray\[tune\]'"):
        required()


def test_a_new_sweep_is_written_down(tmp_path):
    agree(session(tmp_path), CONTEXT)
    stored = json.loads((tmp_path / DEFINITION).read_text())
    assert stored == {
        "arguments": ["--num-samples", "3"],
        "options": {"num_samples": 3},
        "context": CONTEXT,
    }


def test_a_sweep_is_not_started_over_another(tmp_path):
    agree(session(tmp_path), CONTEXT)
    with pytest.raises(SettingsError, match="holds a sweep; --resume continues it"):
        agree(session(tmp_path), CONTEXT)


def test_the_same_sweep_resumes_from_another_place(tmp_path):
    agree(session(tmp_path / "old"), CONTEXT)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = session(tmp_path / "new", resume=True, data="there", address="auto", given=["--x"])
    agree(moved, CONTEXT)
    assert json.loads((tmp_path / "new" / DEFINITION).read_text())["arguments"] != ["--x"]


def test_another_sweep_does_not_resume_and_all_differences_are_told(tmp_path):
    agree(session(tmp_path), CONTEXT)
    with pytest.raises(SettingsError) as caught:
        agree(session(tmp_path, resume=True, num_samples=5), {"data": "d1", "code": "c2"})
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "--resume: the sweep was started with num_samples 3 (got 5)",
        "--resume: the sweep was started with code 'c1' (got 'c2')",
    ]


def test_nothing_is_resumed_where_nothing_is(tmp_path):
    with pytest.raises(SettingsError, match="holds no sweep"):
        agree(session(tmp_path, resume=True), CONTEXT)


def test_all_arguments_but_those_of_the_place_make_a_sweep_what_it_is():
    options = search._parser().parse_args([])
    assert set(vars(options)) - set(defining(options)) == {"address", "data", "out", "resume"}
