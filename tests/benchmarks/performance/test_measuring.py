from __future__ import annotations

import pytest
import torch

from benchmarks.performance import measuring


def test_the_median_leaves_the_first_call_out():
    now, calls = 0.0, []

    def action():
        nonlocal now
        now += [100.0, 5.0, 1.0, 2.0][len(calls)]
        calls.append(now)

    assert measuring.median_seconds(action, lambda: now) == 2.0
    assert len(calls) == 4


@pytest.mark.slow
def test_a_process_of_its_own_has_its_own_threads():
    here = torch.get_num_threads()
    assert measuring.in_new_process(here + 2, torch.get_num_threads) == here + 2
    assert torch.get_num_threads() == here


def test_memory_that_is_not_measured_is_said():
    assert measuring.megabytes(None) == "not measured"
    assert measuring.megabytes(1_234_400_000) == "1,234"


def test_default_models_and_threads():
    parser = measuring.make_parser("doc", models=("BPR",), threads=3)
    options = parser.parse_args([])
    assert (list(options.models), options.threads) == (["BPR"], 3)
    assert not hasattr(measuring.make_parser("doc").parse_args([]), "models")
