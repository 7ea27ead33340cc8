"""Bad numbers are one line that says where, what was found, and what is allowed."""

import json
import math
import re
from pathlib import Path

import pytest

from fbr import params
from fbr.errors import Refusal
from tests.checkout import ROOT

BLOCKS = params.read(ROOT / "params.yaml")
TRAIN = "cam.plain.toy.cam_train"
EVAL = {"cam_eval": {"split": "train", "threshold": 0.3}}
CRF = "mask.crf.toy.crf_refine.crf"


def refusal(where: str, value: object = None, *, instead_of: str | None = None) -> str:
    """What is said about the project's numbers with one changed, added or renamed."""
    *above, last = where.split(".")
    blocks = block = json.loads(json.dumps(BLOCKS))
    for key in above:
        block = block[key]
    if instead_of:
        value = block.pop(instead_of)
    block[last] = value
    with pytest.raises(Refusal) as caught:
        params.check(blocks, params.Params, "params.yaml")
    said = str(caught.value)
    assert said.startswith("params.yaml: ")
    assert "\n" not in said
    return said.removeprefix("params.yaml: ")


@pytest.fixture
def write(tmp_path):
    """Write a params.yaml of this text."""

    def write(text: str) -> Path:
        file = tmp_path / "params.yaml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize(
    ("where", "instead_of"),
    [
        ("rum", "run"),
        (f"{TRAIN}.lrr", "lr"),
        (f"{TRAIN}.network.strid", "stride"),
        ("data.toy.prepare.trian", "train"),
        ("data.toy.prepare.world.sise", "size"),
        ("data.voc.prepare.rot", "root"),
        ("seg.deeplabv2.coco.seg_eval.flp", "flip"),
        # Inside blocks that may be left out altogether.
        ("mask.crf.toy.crf_refine.fg_treshold", "fg_threshold"),
        (f"{CRF}.gausian_sxy", "gaussian_sxy"),
        ("seg.deeplabv2.voc.seg_eval.crf.bilateral_srg", "bilateral_srgb"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(where, instead_of):
    said = refusal(where, instead_of=instead_of)
    key = where.rpartition(".")[2]
    assert said.startswith(f"{where}: unknown key '{key}', known: ")
    assert instead_of in said.partition("known: ")[2].partition(".")[0].split(", ")
    assert f". Did you mean '{instead_of}'?" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "mode": "released",
                "weight": {"l_fb": 0, "l_if": 0, "l_seg": 0, "l_sim": 0, "l_pix": 1},
            },
            "l_pix is not of the released code; set it to 0, or mode to intent",
        ),
        ({"one_space": True}, "l_sim compares two projections; one_space has one, so set it to 0"),
        ({"maps": "chance"}, "compare pixels with NROIs; set one_space"),
        ({"relabel_from": 3}, "compare pixels with NROIs; set one_space"),
        (
            {
                "maps": "chance",
                "one_space": True,
                "weight": {"l_fb": 0, "l_if": 0, "l_seg": 1, "l_sim": 0},
            },
            "need prototypes, which l_fb, l_if or l_pix keep; give one of them a weight",
        ),
        (
            {"cap": 8, "weight": {"l_fb": 0, "l_if": 0, "l_seg": 1, "l_sim": 1}},
            "cap limits the queries of l_fb and l_if; give one of them a weight",
        ),
        (
            {"foreign": True, "weight": {"l_fb": 0, "l_if": 1, "l_seg": 1, "l_sim": 1}},
            "hard and foreign choose the negatives of l_fb; give it a weight",
        ),
        (
            {"foreign": True, "background": "prototype"},
            "foreign asks which images NROIs come from; prototype comes from all",
        ),
        (
            {"sure": {"foreground": 0.2, "background": 0.3}},
            "sure: foreground is below background; nothing lies between them",
        ),
    ],
)
def test_numbers_of_fbr_that_do_not_fit_are_refused(changes, said):
    where = "cam.plain_fbr.toy.cam_train.fbr"
    block = BLOCKS["cam"]["plain_fbr"]["toy"]["cam_train"]["fbr"]
    found = refusal(where, block | changes)
    assert found.startswith(where)
    assert said in found


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (f"{TRAIN}.lr", "fast", "found 'fast': Input should be a valid number"),
        (f"{TRAIN}.lr", True, "found True: Input should be a valid number"),
        (f"{TRAIN}.batch", 3.5, "found 3.5: Input should be a valid integer"),
        (f"{TRAIN}.batch", True, "found True: Input should be a valid integer"),
        (f"{TRAIN}.flip", 1, "found 1: Input should be a valid boolean"),
        (f"{TRAIN}.method", 3, "found 3: Input should be a valid string"),
        (f"{TRAIN}.scale", 0.8, "found 0.8: expected [low, high]"),
        (f"{TRAIN}.scale", [1, 2, 3], "found [1, 2, 3]: expected [low, high]"),
        (f"{TRAIN}.scale", {"one_of": 2}, "found {'one_of': 2}: expected {one_of: [numbers]}"),
        (f"{TRAIN}.network", "small", "found 'small', expected a block of keys"),
        ("run.data", "toy", "found 'toy': Input should be a valid list"),
        ("data.toy.submit.crf", False, "found False, expected a block of keys"),
        (f"{TRAIN}.jitter", 3, "found 3, expected a block of keys"),
        ("cam.plain.toy", 3, "found 3, expected a block of keys"),
        ("machine", None, "found None, expected a block of keys"),
    ],
)
def test_a_wrong_type_is_refused(where, value, said):
    assert refusal(where, value) == f"{where}: {said}"


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (f"{TRAIN}.lr", 0, "found 0: Input should be greater than 0"),
        (f"{TRAIN}.lr", math.inf, "found inf: Input should be a finite number"),
        (f"{TRAIN}.lr", math.nan, "found nan: Input should be a finite number"),
        (f"{TRAIN}.batch", 0, "found 0: Input should be greater than or equal to 1"),
        (f"{TRAIN}.momentum", 1, "found 1: Input should be less than 1"),
        (f"{TRAIN}.scale", [2.0, 1.0], "found [2.0, 1.0]: [2.0, 1.0] runs downwards, expected"),
        (f"{TRAIN}.long_side", [96, 128], "expected exactly one of 'scale' and 'long_side'"),
        (
            "mask.crf.toy.crf_refine.background_power",
            8.0,
            "expected exactly one of 'threshold' and 'background_power'",
        ),
        ("cam.plain.toy.cam_eval.threshold", 1.5, "found 1.5: Input should be less than or equal"),
        ("data.toy.submit.scales", [], "found []: List should have at least 1 item"),
        ("data.toy.submit.scales", [0], ".0: found 0: Input should be greater than 0"),
        ("seg.deeplabv2.toy.seg_train.rates", [], "found []: List should have at least 1 item"),
        (
            "seg.lal.toy.seg_train.loss_options.pool.window",
            4,
            "window 4 has no centre, expected an odd number",
        ),
        (
            "seg.lal.toy.seg_train.loss_options.power",
            0.5,
            "found 0.5: Input should be greater than or equal to 1",
        ),
        (
            "seg.lal.toy.seg_train.loss_options.power",
            6.5,
            "found 6.5: Input should be less than or equal to 6",
        ),
        ("data.toy.submit.archive", "../results", "found '../results': String should match"),
        ("data.toy.submit.archive", "/results", "found '/results': String should match"),
        ("data.toy.submit.archive", "results/../..", "found 'results/../..': String should match"),
        ("inst.maskrcnn.toy.wsis_train.anchors", [], "found []: List should have at least 1 item"),
        ("seed.s0", -1, "found -1: Input should be greater than or equal to 0"),
        ("machine.checkpoint_minutes", 0, "found 0: Input should be greater than 0"),
    ],
)
def test_a_value_out_of_range_is_refused(where, value, said):
    found = refusal(where, value)
    assert found.startswith(
        where.removesuffix(".long_side").removesuffix(".window").removesuffix(".background_power")
    )
    assert said in found


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (f"{TRAIN}.optimizer", "adamv", "'adamv', expected one of sgd, adam, adamw. Did you mean"),
        (f"{TRAIN}.network.stride", 5, "5, expected one of 4, 8, 14, 16, 32."),
        (
            "data.voc.prepare.source",
            "vok",
            "'vok', expected one of toy, voc, coco, folder. Did you mean",
        ),
        (
            "run.cam",
            ["plane"],
            f"'plane', expected one of {', '.join(BLOCKS['cam'])}. Did you mean 'plain'?",
        ),
        ("run.irn", ["crf"], "'crf', expected one of irn."),
        ("run.amn", ["plain"], "'plain', expected one of amn, amn_fbr."),
        ("run.base", ["amn"], "'amn', expected one of plain, plain_fbr, "),
        (
            f"{TRAIN}.method",
            "plian",
            "'plian', expected one of plain, seam, eps, ppc, amn. Did you mean 'plain'?",
        ),
        (f"{TRAIN}.network.name", "smal", "'smal', expected one of small, mobilenet_v2, resnet50"),
        ("seg.deeplabv2.voc.seg_train.head", "deeplab", "'deeplab', expected one of deeplabv1, d"),
        ("seg.deeplabv2.toy.seg_train.loss", "entropy", "'entropy', expected one of cross_entropy"),
        ("inst.maskrcnn.toy.wsis_train.head", "maskrcn", "'maskrcn', expected one of maskrcnn. D"),
        ("run.mask", ["crf", "crf"], "['crf', 'crf'], expected each name once"),
        ("run.seed", ["s9"], "'s9', expected one of s0, s1, s2, s3, s4. Did you mean"),
    ],
)
def test_an_unknown_variant_is_refused(where, value, said):
    assert refusal(where, value).startswith(f"{where}: found {said}")


def test_a_network_of_timm_is_looked_up_where_it_is_built():
    blocks = json.loads(json.dumps(BLOCKS))
    network = blocks["cam"]["plain"]["toy"]["cam_train"]["network"]
    network["name"] = "timm/vit_small_patch14_dinov2.lvd142m"
    network |= {"stride": 14, "keep_norm": ["statistics", "affine"], "least_matched": 0.5}
    assert params.check(blocks, params.Params, "params.yaml")
    for wrong in ("timm/", "timm/../x", "hub/x"):
        said = refusal(f"{TRAIN}.network.name", wrong)
        assert said.startswith(f"{TRAIN}.network.name: found '{wrong}': String should match")


def test_what_batch_norm_cannot_keep_is_refused():
    said = refusal(f"{TRAIN}.network.keep_norm", ["stats"])
    assert said.startswith(f"{TRAIN}.network.keep_norm.0: found 'stats', expected one of statist")


def test_a_recipe_for_an_unknown_dataset_is_refused():
    said = refusal("cam.plain.tpy", instead_of="toy")
    assert said.startswith("cam.plain.tpy: found 'tpy', expected a dataset under data: toy, voc")
    assert said.endswith("Did you mean 'toy'?")


@pytest.mark.parametrize("name", ["cam_train", "masks"])
def test_a_name_that_paths_use_otherwise_is_refused(name):
    said = refusal(f"mask.{name}", BLOCKS["mask"]["crf"])
    assert said.startswith(f"mask.{name}: '{name}' is the name of a stage or of one of its outputs")


def test_a_source_must_be_named():
    said = refusal("data.voc.prepare.sorce", instead_of="source")
    assert said == "data.voc.prepare: no 'source' in it, expected one of toy, voc, coco, folder"


def test_a_name_that_is_no_path_segment_is_refused():
    said = refusal("cam.a/b", {})
    assert said.startswith("cam.a/b.[key]: found 'a/b': String should match pattern")


def test_a_missing_key_is_named():
    said = refusal("data.toy.prepare", BLOCKS["data"]["toy"]["prepare"] | {"world": {}})
    assert re.match(r"data.toy.prepare.world.size: missing; add it \(and \d+ more\)$", said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"\(top\): found None, expected a block"),
        ("- a\n", r"\(top\): found \['a'\], expected a block"),
        ("run: [toy\n", "not valid YAML: while parsing a flow sequence .* line 1"),
        ("run:\n\tdata: 1\n", "not valid YAML: .* line 2"),
        ("run: *nowhere\n", "not valid YAML: found undefined alias 'nowhere'"),
        ("run: 1\nrun: 2\n", "line 2: key 'run' is given twice"),
        ("run: {data: 1, data: 2}\n", "line 1: key 'data' is given twice"),
        ("? [a, b]\n: 1\n", "line 1: a key must be one word"),
        ("a: {<<: {[1]: 2}}\n", "line 1: a key must be one word"),
        ("a:\n  <<: [{x: 1}, 3]\n", "line 2: found no block to merge behind '<<'"),
    ],
)
def test_what_is_no_mapping_is_refused(write, text, said):
    with pytest.raises(Refusal, match=f"^params.yaml: {said}"):
        params.load(write(text))


def test_a_mistake_is_of_the_file_that_it_is_in(tmp_path):
    (tmp_path / "study.yaml").write_text("rows: 1\nrows: 2\n")
    with pytest.raises(Refusal, match=r"^study.yaml: line 2: key 'rows' is given twice"):
        params.read(tmp_path / "study.yaml")


@pytest.mark.parametrize("key", ["run.data", "run.seed"])
def test_a_matrix_of_nothing_is_refused(key):
    assert refusal(key, []).startswith(f"{key}: found []: List should have at least 1 item")


def test_what_is_no_text_is_refused(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_bytes(b"run: \xff\xfe")
    with pytest.raises(Refusal, match="not valid YAML: 'utf-8' codec"):
        params.load(file)


def test_a_missing_file_says_where_to_stand(tmp_path):
    with pytest.raises(Refusal, match="run from the folder"):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E5", 1e5), ("-2e+3", -2e3), (".5e1", 5.0), ("3.e0", 3.0)]
)
def test_powers_of_ten_are_numbers(write, text, value):
    file = write(f"a: {text}\nb: e4\nc: 1e\n")
    assert params.read(file) == {"a": value, "b": "e4", "c": "1e"}


def test_anchors_and_merge_keys(write):
    file = write(
        "a: &a {x: 1, y: [1, 2]}\n"
        "b: &b\n  <<: *a\n  x: 2\n"
        "c: {<<: *b, z: 3}\n"
        "d: *a\n"
        "e: {<<: [*b, *a], y: 0}\n"
    )
    assert params.read(file) == {
        "a": {"x": 1, "y": [1, 2]},
        "b": {"x": 2, "y": [1, 2]},
        "c": {"x": 2, "y": [1, 2], "z": 3},
        "d": {"x": 1, "y": [1, 2]},
        "e": {"x": 2, "y": 0},
    }


@pytest.fixture(scope="module")
def numbers() -> params.Params:
    return params.load(ROOT / "params.yaml")


def test_axes_take_the_blocks_that_have_their_stage(numbers):
    assert numbers.variants("mask") == list(BLOCKS["mask"])
    assert "crf" in numbers.variants("crf")
    assert "crf" not in numbers.variants("irn")
    assert "irn" in numbers.variants("irn")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "amn_train",
            "found cam_train and cam_infer and amn_train, expected cam_train and cam_inf",
        ),
        ("amn_infer", "found cam_train and cam_infer and amn_infer, expected"),
    ],
)
def test_a_cam_is_made_one_way(key, said):
    block = BLOCKS["cam"]["amn"]["toy"][key]
    assert said in refusal(f"cam.plain.toy.{key}", block)
    assert "found neither, expected" in refusal("cam.plain.toy", EVAL)


def test_a_cam_is_made_the_same_way_for_every_dataset():
    said = refusal("cam.plain.voc", BLOCKS["cam"]["amn"]["voc"])
    assert said.startswith("cam.plain: found cam_train for one dataset and amn_train for another")


def test_a_cam_says_what_its_maps_were_made_with(numbers):
    assert numbers.cam["plain"]["voc"].infer is numbers.cam["plain"]["voc"].cam_infer
    assert numbers.cam["amn"]["voc"].infer is numbers.cam["amn"]["voc"].amn_infer


def test_of_finds_the_block_of_a_stage(numbers):
    axes = {"data": "voc", "seed": "s0", "cam": "plain", "mask": "irn", "seg": "deeplabv2"}
    assert numbers.of("cam_train", axes) is numbers.cam["plain"]["voc"].cam_train
    assert numbers.of("irn_infer", axes) is numbers.mask["irn"]["voc"].irn_infer
    assert numbers.of("submit", axes) is numbers.data["voc"].submit


@pytest.mark.parametrize(
    ("stage", "axes", "said"),
    [
        ("cam_train", {"cam": "plan", "data": "toy"}, "cam: found no block 'plan', which cam_tra"),
        ("cam_train", {"cam": "plain", "data": "tpy"}, r"cam.plain: .* 'tpy', .* mean 'toy'\?"),
        ("irn_train", {"mask": "crf", "data": "toy"}, "mask.crf.toy: found no block 'irn_train'"),
        ("prepare", {"data": "vok"}, r"data: found no block 'vok', .* Did you mean 'voc'\?"),
    ],
)
def test_of_names_the_block_that_is_missing(numbers, stage, axes, said):
    with pytest.raises(Refusal, match=f"^params.yaml: {said}"):
        numbers.of(stage, axes)


def test_a_block_cannot_be_changed(numbers):
    with pytest.raises(ValueError, match="frozen"):
        numbers.machine.processes = 3


@pytest.mark.parametrize("data", ["voc", "coco"])
def test_recipes_of_the_codes_that_confuse_them_have_decay_for_momentum(numbers, data):
    """PSA's optimiser takes its weight decay as momentum, and so do all that build on it."""
    recipes = [
        numbers.cam[name][data].cam_train for name in numbers.cam if data in numbers.cam[name]
    ]
    recipes += [numbers.mask["irn"][data].irn_train, numbers.mask["psa"][data].psa_train]
    slow = [recipe for recipe in recipes if recipe and recipe.optimizer == "sgd"]
    assert len(slow) > 8
    assert all(recipe.momentum == recipe.weight_decay for recipe in slow)
