"""Pictures: what is written is read, and what cannot be read names its image."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fbr.errors import Refusal
from fbr.files import pictures

MASK = np.array([[0, 1, 20], [255, 7, 128]], np.uint8)
PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (16, 17, 3), np.uint8)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "2007_000032.png"


def test_a_mask_comes_back_with_the_palette(file):
    pictures.write_mask(file, MASK)
    assert np.array_equal(pictures.read_mask(file), MASK)
    assert pictures.read_mask(file).flags.writeable
    with Image.open(file) as picture:
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
        assert picture.convert("RGB").getpixel((0, 1)) == (224, 224, 192)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 5)])
def test_small_masks_come_back(file, shape):
    mask = np.full(shape, 255, np.uint8)
    pictures.write_mask(file, mask)
    assert np.array_equal(pictures.read_mask(file), mask)


@pytest.mark.parametrize(
    ("id", "colour"),
    [(0, (0, 0, 0)), (1, (128, 0, 0)), (15, (192, 128, 128)), (20, (0, 64, 128))],
)
def test_palette_is_vocs(id, colour):
    assert tuple(pictures.voc_palette()[id]) == colour


def test_palette_has_no_colour_twice():
    assert len(np.unique(pictures.voc_palette(), axis=0)) == 256


def test_a_mask_with_few_colours_gives_its_indices(file):
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), mode="P")
    picture.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7, 6, 6, 6])
    picture.save(file, bits=2)
    assert pictures.read_mask(file).tolist() == [[0, 1], [2, 3]]


def test_a_grey_mask_gives_its_values(file):
    pictures.write_grey(file, MASK)
    assert np.array_equal(pictures.read_mask(file), MASK)
    assert np.array_equal(pictures.read_grey(file), MASK)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "1", "I;16", "LA"])
def test_a_mask_that_shows_colours_is_refused(file, mode):
    Image.new(mode, (3, 2)).save(file)
    with pytest.raises(Refusal, match=f"mode {mode}, expected a mask .* for id '2007_000032'"):
        pictures.read_mask(file)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_a_photograph_of_any_mode_gives_three_channels(tmp_path, mode):
    file = tmp_path / "a.tif"
    Image.fromarray(PHOTOGRAPH).convert(mode).save(file)
    assert pictures.read_image(file).shape == PHOTOGRAPH.shape


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
@pytest.mark.parametrize("read", [pictures.read_image, pictures.read_upright, pictures.read_grey])
def test_more_than_eight_bits_are_refused(tmp_path, mode, read):
    file = tmp_path / "a.tif"
    Image.new(mode, (3, 2), 300).save(file)
    with pytest.raises(Refusal, match=f"more than 8 bits a channel .mode {mode}.; save it with 8"):
        read(file)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_more_than_eight_bits_are_refused_when_served(mode):
    from mlflow.exceptions import MlflowException

    from fbr import served

    content = BytesIO()
    Image.new(mode, (3, 2), 300).save(content, format="TIFF")
    with pytest.raises(MlflowException, match=f"more than 8 bits a channel, mode {mode}"):
        served._decoded(content.getvalue())


def test_a_photograph_comes_back_nearly(tmp_path):
    smooth = np.linspace(0, 255, 32 * 33 * 3).reshape(32, 33, 3).astype(np.uint8)
    pictures.write_jpeg(tmp_path / "a.jpg", smooth)
    read = pictures.read_image(tmp_path / "a.jpg")
    assert np.abs(read.astype(int) - smooth).max() < 8
    assert pictures.read_size(tmp_path / "a.jpg") == (32, 33)


def held(orientation: int) -> Image.Exif:
    """What a camera notes that was held so."""
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 are none
def test_a_photograph_is_shown_as_viewers_do(tmp_path, ending, orientation):
    file = tmp_path / f"a.{ending}"
    Image.fromarray(PHOTOGRAPH).save(file, exif=held(orientation), lossless=True)
    flipped = {2: np.fliplr, 3: lambda i: np.rot90(i, 2), 4: np.flipud, 8: np.rot90}
    flipped |= {5: lambda i: i.transpose(1, 0, 2), 6: lambda i: np.rot90(i, -1)}
    flipped[7] = lambda i: np.rot90(i, 2).transpose(1, 0, 2)
    expected = flipped.get(orientation, np.asarray)(PHOTOGRAPH)
    assert np.array_equal(pictures.read_upright(file), expected)
    assert pictures.upright_size(file) == expected.shape[:2]
    if ending != "tif":  # those are turned by whoever reads them
        assert np.array_equal(pictures.read_image(file), PHOTOGRAPH)
        assert pictures.is_upright(file) == (orientation not in flipped)


def test_a_photograph_with_spoilt_exif_is_taken_as_it_is(file):
    Image.fromarray(PHOTOGRAPH).save(file, exif=b"Exif\0\0garbage")
    assert np.array_equal(pictures.read_upright(file), PHOTOGRAPH)
    assert pictures.upright_size(file) == PHOTOGRAPH.shape[:2]


@pytest.mark.parametrize(
    "read",
    [
        pictures.read_image,
        pictures.read_upright,
        pictures.read_mask,
        pictures.read_grey,
        pictures.read_size,
        pictures.upright_size,
    ],
)
class TestBroken:
    def test_a_missing_file_names_the_id(self, file, read):
        with pytest.raises(Refusal, match="missing, expected the file of id '2007_000032'"):
            read(file)

    @pytest.mark.parametrize(
        "content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8"]
    )
    def test_what_is_no_picture_names_the_id(self, file, read, content):
        file.write_bytes(content)
        with pytest.raises(Refusal, match=r"cannot be read .* the file of id '2007_000032'"):
            read(file)

    def test_a_folder_names_the_id(self, file, read):
        file.mkdir()
        with pytest.raises(Refusal, match=r"cannot be read .* the file of id '2007_000032'"):
            read(file)


@pytest.mark.parametrize(
    ("name", "write", "read", "array"),
    [
        ("a.png", pictures.write_mask, pictures.read_mask, np.tile(MASK, (9, 9))),
        ("a.jpg", pictures.write_jpeg, pictures.read_image, PHOTOGRAPH),
    ],
)
def test_a_truncated_picture_is_refused_wherever_it_ends(tmp_path, name, write, read, array):
    file = tmp_path / name
    write(file, array)
    content = file.read_bytes()
    for end in [*range(0, len(content), 7), len(content) - 1]:
        file.write_bytes(content[:end])
        with pytest.raises(Refusal, match="id 'a'"):
            read(file)


@pytest.mark.parametrize(
    ("write", "array"),
    [
        (pictures.write_mask, MASK),
        (pictures.write_grey, MASK),
        (pictures.write_jpeg, PHOTOGRAPH),
    ],
)
def test_equal_pictures_are_equal_bytes(file, write, array):
    write(file, array)
    before = file.read_bytes()
    write(file, array.copy())
    assert file.read_bytes() == before


class TestStrangersIds:
    IDS = np.array([[0, 15, 255], [20, 0, 15]], np.uint8)

    @pytest.fixture
    def file(self, tmp_path):
        pictures.write_mask(tmp_path / "a.png", self.IDS)
        return tmp_path / "a.png"

    def test_ours_and_grey_ones_are_as_they_are(self, file):
        assert np.array_equal(pictures.read_ids(file)[0], self.IDS)
        pictures.write_grey(file, self.IDS)
        mask, repaired = pictures.read_ids(file)
        assert np.array_equal(mask, self.IDS)
        assert repaired is None

    @pytest.mark.parametrize("mode", ["RGB", "RGBA"])
    def test_colours_become_ids(self, file, mode):
        Image.open(file).convert(mode).save(file)
        mask, repaired = pictures.read_ids(file)
        assert np.array_equal(mask, self.IDS)
        assert repaired == "colours instead of ids"

    def test_a_palette_in_another_order_is_undone(self, file):
        order = np.array([255, 20, 15, 0])
        picture = Image.fromarray(np.searchsorted(-order, -self.IDS.astype(int)).astype(np.uint8))
        picture.putpalette(pictures.voc_palette()[order].tobytes())
        picture.save(file)
        mask, repaired = pictures.read_ids(file)
        assert np.array_equal(mask, self.IDS)
        assert repaired == "a palette in another order"

    def test_a_palette_of_other_colours_says_nothing(self, file):
        picture = Image.fromarray(self.IDS)
        picture.putpalette(np.arange(256, dtype=np.uint8).repeat(3).tobytes())
        picture.save(file)
        mask, repaired = pictures.read_ids(file)
        assert np.array_equal(mask, self.IDS)
        assert repaired is None

    def test_a_colour_that_is_no_class_is_refused(self, file):
        Image.new("RGB", (3, 2), (1, 2, 3)).save(file)
        with pytest.raises(Refusal, match="id 'a' has the colour #010203"):
            pictures.read_ids(file)


@pytest.mark.parametrize("behind", [0, 10, 1000])
def test_a_photograph_that_is_cut_short_has_no_size(tmp_path, behind):
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    pictures.write_jpeg(path, noise)
    content = path.read_bytes()
    path.write_bytes(content + bytes(behind))
    assert pictures.whole_size(path) == (40, 60)
    path.write_bytes(content[: len(content) // 2] + bytes(behind))
    if behind < 1000:  # so many zeros pass for pixels, and libjpeg ends the file by itself
        with pytest.raises(Refusal, match=r"a.jpg: cannot be read as a picture"):
            pictures.whole_size(path)
