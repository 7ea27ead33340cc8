"""Work over images in processes: what comes back, what waits, what fails."""

import pytest

from fbr.stages import pool


def noted(item) -> None:
    folder, number = item
    if number == 13:
        raise ValueError("thirteen")
    (folder / str(number)).touch()


def done(folder) -> set[int]:
    return {int(file.name) for file in folder.iterdir()}


def test_items_are_made_no_sooner_than_they_are_needed(tmp_path):
    made = []

    def items():
        for number in range(12):
            made.append(number)
            yield tmp_path, number

    for count, _ in enumerate(pool.streamed(noted, items(), 2), start=1):
        assert len(made) <= min(12, count + 2)
    assert done(tmp_path) == set(range(12))
    assert list(pool.streamed(noted, [], 2)) == []


def test_what_fails_ends_the_work(tmp_path):
    with pytest.raises(ValueError, match="thirteen"):
        list(pool.streamed(noted, ((tmp_path, number) for number in range(10, 40)), 2))
    assert len(done(tmp_path)) < 10

    def broken():
        yield tmp_path, 1
        raise OSError("no more images")

    with pytest.raises(OSError, match="no more images"):
        list(pool.streamed(noted, broken(), 2))
