"""A table says the same in each language, numbers at the right, and no text can break it."""

import pytest

from fbr.show.tables import Link, Number, Table, html_table, latex_table, markdown_table

SCORES = Table(
    ("cam", "mIoU", "seeds", "note"),
    (("plain_fbr", Number(44.94, 0.26), 3, "a|b"), ("50%", Number(float("nan")), None, None)),
    "Scores & more",
)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (Number(44.94), "44.9"),
        (Number(44.94, 0.26), "44.9 ± 0.3"),
        (Number(0.12345, 0.001, digits=3), "0.123 ± 0.001"),
        (Number(0.26, signed=True), "+0.3"),
        (Number(-0.26, signed=True), "-0.3"),
        (Number(1.0, float("nan")), "1.0"),
        (Number(float("nan"), 0.1), "–"),
    ],
)
def test_numbers(number, shown):
    assert str(number) == shown


def test_markdown():
    assert markdown_table(SCORES).splitlines() == [
        "Scores &amp; more",
        "",
        "| cam | mIoU | seeds | note |",
        "| --- | ---: | ---: | --- |",
        "| plain\\_fbr | 44.9 ± 0.3 | 3 | a\\|b |",
        "| 50% | – | – | – |",
    ]


def test_latex():
    assert latex_table(SCORES).splitlines() == [
        "% Scores & more",
        r"\begin{tabular}{lrrl}",
        r"\hline",
        r"cam & mIoU & seeds & note \\",
        r"\hline",
        r"plain\_fbr & 44.9 $\pm$ 0.3 & 3 & a\textbar{}b \\",
        r"50\% & -- & -- & -- \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_links_lead_somewhere_in_each_language():
    links = (Link("s<0>", "http://here/#/runs/1"), Link("s1", 'http://here/"2"'))
    table = Table(("run", "n"), ((links, 1), ((), 2)))
    assert markdown_table(table).splitlines()[2:] == [
        '| [s&lt;0&gt;](http://here/#/runs/1) [s1](http://here/"2") | 1 |',
        "|  | 2 |",
    ]
    first = r"\href{http://here/\#/runs/1}{s\textless{}0\textgreater{}}"
    assert first + r' \href{http://here/"2"}{s1} & 1 \\' in latex_table(table)
    assert (
        '<td><a href="http://here/#/runs/1">s&lt;0&gt;</a> '
        '<a href="http://here/&quot;2&quot;">s1</a></td><td class=number>1</td>'
    ) in html_table(table)


def test_latex_escapes_each_letter_once():
    table = Table(("x",), ((r"\a{b}_c^d~e#f$g&h",),))
    assert (
        r"\textbackslash{}a\{b\}\_c\textasciicircum{}d\textasciitilde{}e\#f\$g\&h \\"
        in latex_table(table)
    )


def test_line_ends_stay_inside_a_cell():
    table = Table(("x\ny",), (("a\nb",),), "c\nd")
    assert len(markdown_table(table).splitlines()) == 5
    assert latex_table(table).startswith("% c d\n")


def test_html_escapes_and_aligns():
    html = html_table(Table(("<b>", "n"), (("<script>", 1.23456),)))
    assert "<script>" not in html
    assert "<td>&lt;script&gt;</td><td class=number>1.235</td>" in html
    assert "figcaption" not in html


def test_a_column_with_words_is_no_column_of_numbers():
    assert "| --- | --- |" in markdown_table(Table(("a", "b"), ((1, None), ("x", None))))


def test_empty_table():
    empty = Table(("a", "b"), ())
    assert markdown_table(empty) == "| a | b |\n| --- | --- |\n"
    assert "<tbody></tbody>" in html_table(empty)


def test_rows_must_fit_the_columns():
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        Table(("a", "b"), (("x",),))
