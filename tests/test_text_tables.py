import csv
import io

import pytest

from alignrec_pyg.text_tables import Bold, aligned_table, csv_table, latex_table, markdown_table

ROWS = [["", "@5", "title"], ["recall", "0.1", "a"], ["x", Bold("0.1234"), "bc"]]


def test_columns_stand_under_each_other():
    rows = [[str(cell) for cell in row] for row in ROWS]
    assert aligned_table(rows).splitlines() == [
        "            @5  title",
        "recall     0.1      a",
        "x       0.1234     bc",
    ]
    assert aligned_table(rows, left=(0, 2)).splitlines()[1] == "recall     0.1  a"
    assert aligned_table([["only"]]) == "only"


def test_a_rule_follows_the_header_and_is_as_wide_as_the_table():
    lines = aligned_table(ROWS, rule=True).splitlines()
    assert lines[1] == "-" * max(len(line) for line in lines)
    assert len(lines) == 4


def test_bold_cells_are_starred_or_in_the_terminals_bold():
    assert aligned_table(ROWS).splitlines()[2] == "x       *0.1234     bc"
    bold = aligned_table(ROWS, ansi=True).splitlines()
    assert bold[2] == "x       \033[1m0.1234\033[0m     bc"
    assert len(bold[2]) - len("\033[1m\033[0m") == len(bold[1])


def test_markdown():
    assert markdown_table(ROWS, left=(0, 2)).splitlines() == [
        "|  | @5 | title |",
        "| --- | ---: | --- |",
        "| recall | 0.1 | a |",
        "| x | **0.1234** | bc |",
    ]
    assert markdown_table([["a|b"], ["one\ntwo"]]).splitlines() == [
        r"| a\|b |",
        "| --- |",
        "| one two |",
    ]


def test_latex_escapes_what_latex_would_read():
    rows = [["model", "50 % & more"], ["w/o_x {1}", Bold("0.1 ± 0.2")], ["a\\b~c^d", "$#<>\n2"]]
    assert latex_table(rows).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\hline",
        r"model & 50 \% \& more \\",
        r"\hline",
        r"w/o\_x \{1\} & \textbf{0.1 $\pm$ 0.2} \\",
        r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d & "
        r"\$\#\textless{}\textgreater{} 2 \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_csv_keeps_values_unrounded_and_bold_does_not_show():
    rows = [["name", "value"], ["a, b", 0.1 + 0.2], [Bold("c"), None]]
    text = csv_table(rows)
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "value"],
        ["a, b", "0.30000000000000004"],
        ["c", ""],
    ]
    assert text.endswith("c,\n")


def test_rows_need_the_same_length():
    with pytest.raises(ValueError, match="zip"):
        aligned_table([["a", "b"], ["c"]])
