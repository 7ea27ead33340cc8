"""The page is one well-formed document that reaches for nothing outside and runs nothing."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fbr.show import overlays, plots
from fbr.show.page import Chart, KeyValues, Picture, Report, Section, Text, page
from fbr.show.tables import Number, Table

HOSTILE = '"><script>alert(1)</script>&'
VOID = {"meta", "img", "path", "line", "rect", "circle", "br"}


class Outline(HTMLParser):
    """Read a page as a strict person would: every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def outline(html: str) -> Outline:
    reader = Outline()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def picture(height: int = 8, width: int = 10) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def report(words: str = "words") -> Report:
    return Report(
        f"Title {words}",
        f"Subtitle {words}",
        (
            Section(
                "Scores",
                f"First.\n\nSecond {words}",
                (Table(("cam", words), ((words, Number(44.9, 0.3)),), words),),
            ),
            Section(
                f"Pictures {words}",
                blocks=(
                    Picture(overlays.to_png_bytes(picture()), words, ((words, words),)),
                    Picture(overlays.to_jpeg_bytes(picture(8, 40)), words),
                    Chart(plots.line_chart({words: ([0, 1], [1, 2])}, words), words),
                    KeyValues(((words, words),), words),
                    Text(words),
                ),
            ),
            Section("Parameters", words, (Text(f"a: 1\n  {words}", verbatim=True),), folded=True),
        ),
    )


def test_page_parses_and_holds_everything():
    read = outline(page(report()))
    text = " ".join(read.words)
    for words in ("Title words", "Subtitle words", "44.9 ± 0.3", "First.", "Second words", "a: 1"):
        assert words in text
    assert [tag for tag, _ in read.tags].count("section") == 3
    assert [tag for tag, _ in read.tags].count("details") == 1


def test_scores_come_before_pictures():
    html = page(report())
    assert html.index("<table") < html.index("<img")


def test_contents_lead_to_the_sections():
    read = outline(page(report()))
    targets = [facts["href"] for tag, facts in read.tags if tag == "a"]
    assert targets == [f"#{facts['id']}" for tag, facts in read.tags if tag == "section"]


def test_nothing_outside_is_needed():
    html = page(report())
    without_names = html.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http" not in without_names
    assert "//" not in re.sub(r"base64,[\w+/=]+", "", without_names)
    tags = {tag for tag, _ in outline(html).tags}
    assert not tags & {"script", "link", "iframe", "object"}
    assert "@import" not in html
    assert "url(" not in html


def test_pictures_are_embedded_whole():
    images = [facts for tag, facts in outline(page(report())).tags if tag == "img"]
    assert [image["src"].split(",")[0] for image in images] == [
        "data:image/png;base64",
        "data:image/jpeg;base64",
    ]
    assert base64.b64decode(images[0]["src"].split(",")[1]) == overlays.to_png_bytes(picture())
    assert (images[0]["width"], images[0]["height"]) == ("10", "8")
    assert all(image["alt"] == "words" for image in images)


def test_only_rows_of_pictures_scroll():
    assert page(report()).count("scroll wide") == 1


def test_text_cannot_break_out():
    html = page(report(HOSTILE))
    assert "<script" not in html
    assert not [facts for _, facts in outline(html).tags if any(key[:2] == "on" for key in facts)]


def test_same_report_same_bytes():
    assert page(report()) == page(report())


def test_dark_mode_and_phones_are_thought_of():
    html = page(report())
    assert "prefers-color-scheme:dark" in html
    assert 'name="viewport"' in html


def test_an_empty_report_is_a_page():
    read = outline(page(Report("Nothing", "", ())))
    assert "Nothing" in read.words


def test_what_is_no_picture_is_refused():
    with pytest.raises(OSError, match="cannot identify"):
        page(Report("", "", (Section("", blocks=(Picture(b"text"),)),)))


def test_what_is_no_block_is_refused():
    with pytest.raises(TypeError, match="str is no block"):
        page(Report("", "", (Section("", blocks=("words",)),)))
