import io
import sys

import pytest

from alignrec_pyg.training import progress
from alignrec_pyg.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_a_minute_where_there_is_no_terminal(clock, capsys):
    with Progress("training") as shown:
        for _ in range(130):
            clock[0] += 1
            shown.update(0.25, 125.0, "epoch 3")
    assert capsys.readouterr().err == "training: 25% done, about 2:05 left, epoch 3\n" * 2


def test_no_time_is_shown_while_none_is_known(clock, capsys):
    with Progress("training") as shown:
        clock[0] += 60
        shown.update(0.0, None, "epoch 0")
    assert capsys.readouterr().err == "training: 0% done, epoch 0\n"


def test_a_bar_on_a_terminal(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("training") as shown:
        shown.update(0.5, 60.0, "epoch 3")
        shown.update(0.75, 30.0, "epoch 4")  # too soon to be drawn
    text = terminal.getvalue()
    assert "training  50%" in text
    assert "about 1:00 left, epoch 3" in text
    assert "epoch 4" not in text


def test_nothing_is_shown_where_nothing_is_asked_for(clock, capsys):
    with Progress("training", shown=False) as shown:
        clock[0] += 1000
        shown.update(0.5, 60.0, "epoch 3")
    assert capsys.readouterr().err == ""


def test_durations():
    assert [duration(s) for s in (0.4, 59.6, 3599, 3600, 7384)] == [
        "0:00", "1:00", "59:59", "1 h 00", "2 h 03",
    ]  # fmt: skip
