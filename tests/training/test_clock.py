from __future__ import annotations

import pytest

from alignrec_pyg.training.loop import RunClock


def test_time_goes_on_from_what_was_spent(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = RunClock(before=7.0, save_every=10.0)
    now = 109.0
    assert clock.elapsed() == pytest.approx(16.0)
    assert not clock.save_is_due()
    now = 110.0
    assert clock.save_is_due()
    clock.saved()
    assert not clock.save_is_due()
    now = 119.0
    assert not clock.save_is_due()
    assert clock.elapsed() == pytest.approx(26.0)
