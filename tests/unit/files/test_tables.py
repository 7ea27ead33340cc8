"""JSON and CSV: equal content gives equal bytes, and comes back."""

import json
import math

import numpy as np
import pytest

from fbr.errors import Refusal
from fbr.files.tables import read_csv, read_json, write_csv, write_json


def test_json_of_arrays_and_missing_numbers(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"n": np.int64(3), 1: [np.float32(0.5), math.nan], "t": (True, None, "x")})
    assert (
        file.read_text()
        == json.dumps({"n": 3, "1": [0.5, None], "t": [True, None, "x"]}, indent=2) + "\n"
    )
    assert read_json(file) == {"n": 3, "1": [0.5, None], "t": [True, None, "x"]}


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float64("nan")])
def test_what_json_cannot_say_is_null(tmp_path, value):
    write_json(tmp_path / "a.json", [value])
    assert read_json(tmp_path / "a.json") == [None]


def test_csv_keeps_every_digit(tmp_path):
    file = tmp_path / "a.csv"
    rows = [{"step": 1, "loss": 1 / 3, "name": "a,b"}, {"step": 2, "loss": math.nan, "name": ""}]
    write_csv(file, rows)
    assert file.read_text() == 'step,loss,name\n1,0.3333333333333333,"a,b"\n2,,\n'
    read = read_csv(file)
    assert float(read[0]["loss"]) == 1 / 3
    assert read[0]["name"] == "a,b"


def test_csv_without_rows_is_read_as_none(tmp_path):
    write_csv(tmp_path / "a.csv", [])
    assert read_csv(tmp_path / "a.csv") == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"a": 1}}'])
def test_broken_json_is_refused(tmp_path, content):
    file = tmp_path / "metrics.json"
    file.write_bytes(content)
    with pytest.raises(Refusal, match=r"metrics.json: not valid JSON .* rerun its stage"):
        read_json(file)


def test_a_csv_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "index.csv"
    file.write_bytes(b"id\n\xff\xfe")
    with pytest.raises(Refusal, match=r"index.csv: not valid CSV .* rerun its stage"):
        read_csv(file)


@pytest.mark.parametrize("read", [read_json, read_csv])
def test_a_missing_file_names_itself(tmp_path, read):
    with pytest.raises(Refusal, match="nothing: missing; run the stage that writes it"):
        read(tmp_path / "nothing")
