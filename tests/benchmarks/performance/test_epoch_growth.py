import math

import pytest

from benchmarks.performance import epoch_growth


def test_the_exponent_of_a_power():
    links = [10, 20, 40]
    assert epoch_growth.exponent(links, [3 * n**1.5 for n in links]) == pytest.approx(1.5)
    assert math.isnan(epoch_growth.exponent([10], [1.0]))


@pytest.mark.parametrize("num_neighbors", [None, (2, 2, 2)])
def test_an_epoch_is_its_steps(monkeypatch, num_neighbors):
    """Every call of the clock is a second later; 4,000 links are 125 batches of 32."""
    now = iter(range(100))
    monkeypatch.setattr(epoch_growth, "process_time", lambda: next(now))
    steps = []
    step = epoch_growth.train_step
    monkeypatch.setattr(
        epoch_growth, "train_step", lambda *args: steps.append(args[3].sampling) or step(*args)
    )
    growth = epoch_growth.epoch_of("AlignRec", 4000, num_neighbors, 4, 32, 2)
    assert growth.seconds == pytest.approx(125 / 2)
    assert [sampling is None for sampling in steps] == [num_neighbors is None] * 5


def test_the_table_has_a_row_for_each_way(monkeypatch, capsys):
    def measured(threads, function, name, links, num_neighbors, width, batch_size, steps):
        power = 1 if num_neighbors else 2
        return epoch_growth.Growth((links / 1000) ** power, 5_000_000)

    monkeypatch.setattr(epoch_growth, "in_new_process", measured)
    arguments = ["--models", "LightGCN", "--links", "1000", "2000", "--whole"]
    assert epoch_growth.main(arguments) == 0
    out = capsys.readouterr().out
    assert "| LightGCN | (5, 5, 5) | 1.0, 5 | 2.0, 5 | 1.00 |" in out
    assert "| LightGCN | whole | 1.0, 5 | 4.0, 5 | 2.00 |" in out
