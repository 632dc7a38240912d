"""Pages of models, made from the classes and the tables of results."""

import re

from docs.model_pages import write_model_pages

RESULTS = """# Results

## Films, seeds 0-2

| model | recall@10 | recall@20 |
| --- | ---: | ---: |
| MENTOR | 0.1 | 0.2000 ± 0.0010 |
| paper (its own split) | 0.5 | 0.5 |
| **BPR** | **0.3** | **0.3000 ± 0.0100** |
| MENTOR, as published | 0.1 | 0.1000 |

## Speed

| model | epoch s |
| --- | ---: |
| MENTOR | 3 |
"""


def test_a_page_of_a_model_says_what_the_class_says(tmp_path):
    names = write_model_pages(tmp_path / "models", RESULTS)
    text = (tmp_path / "models" / "MENTOR.rst").read_text("utf-8")
    for said in (
        "<https://arxiv.org/abs/2402.19407>`_ (AAAI 2025)",
        "one or more feature tables",
        'all of equal weight (``weighting="binary"``); of an image and a text table 0.1 image',
        "TrainConfig(lr=0.0001, batch_size=2048, patience=20, eval_every=1, min_steps=0)",
        "baby: faithful=True\n",
        "`Films, seeds 0-2 <../results.html#films-seeds-0-2>`__",
        "- MENTOR\n     - 0.2000 ± 0.0010\n     - 2 of 3\n",
        "- MENTOR, as published\n     - 0.1000\n     - 3 of 3\n",
        ".. autoclass:: MENTOR\n",
    ):
        assert said in text, said
    assert text.count("<../results.html") == 2
    table = (tmp_path / "models" / "table.txt").read_text("utf-8")
    assert sorted(re.findall(r":doc:`(\w+) </models/\1>`", table)) == sorted(names)
    assert "Solved in closed form" in (tmp_path / "models" / "EASE.rst").read_text("utf-8")
