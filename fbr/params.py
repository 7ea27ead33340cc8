"""The models of params.yaml: every number of the project, checked before anything runs.

The file reads `<axis>.<variant>.<data>.<stage>`: the block of a variant (a CAM method, a mask
method, a segmentation network) holds one recipe per dataset, and inside it one block per stage,
named like the stage. Unknown keys are refused with the nearest known name.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fbr import catalogue
from fbr.errors import Refusal, nearest, one_of
from fbr.workspace import AXES, DOWNLOADS, PATHS

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^\w+$")]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Grid = Literal["image", "logits"]
Scales = Annotated[list[Positive], Field(min_length=1)]
Counts = Annotated[list[Count], Field(min_length=1)]


class Strict(BaseModel):
    """A block in which a misspelt key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Range(Strict):
    """A closed interval, written `[low, high]`, or some numbers, `{one_of: [0.5, 1.0, 2.0]}`."""

    low: Positive
    high: Positive
    one_of: Annotated[list[Positive], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: object) -> object:
        if isinstance(value, list) and len(value) == 2:
            return {"low": value[0], "high": value[1]}
        if not isinstance(value, dict):
            raise ValueError("expected [low, high]")
        if value.keys() != {"one_of"}:
            return value
        numbers = value["one_of"]
        if not isinstance(numbers, list) or not all(type(n) in (int, float) for n in numbers):
            raise ValueError("expected {one_of: [numbers]}")
        return value | {"low": min(numbers, default=1), "high": max(numbers, default=1)}

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low > self.high:
            raise ValueError(f"[{self.low}, {self.high}] runs downwards, expected [low, high]")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: object, handler: object) -> dict:
        number = {"type": "number", "exclusiveMinimum": 0}
        numbers = {"type": "array", "items": number, "minItems": 1}
        some = {"type": "object", "properties": {"one_of": numbers}, "required": ["one_of"]}
        pair = {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
        return {"anyOf": [pair, some | {"additionalProperties": False}]}


class Crf(Strict):
    """A fully connected CRF: the fields of `fbr.masks.crf.Crf`."""

    iterations: Count
    gaussian_sxy: Positive
    gaussian_compat: NotNegative
    bilateral_sxy: Positive
    bilateral_srgb: Positive
    bilateral_compat: NotNegative
    engine: Literal["numba", "torch", "pydensecrf"] = "numba"


def _pair(kind: type, low: float, high: float) -> Any:
    """A [least, most] list of two numbers within these bounds, in order."""
    bounded = Annotated[kind, Field(ge=low, le=high)]
    return Annotated[list[bounded], Field(min_length=2, max_length=2), AfterValidator(_rising)]


def _rising(pair: list) -> list:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair} runs downwards, expected [least, most]")
    return pair


class ToyWorld(Strict):
    """The numbers of `fbr.datasets.toy.World`, field by field."""

    size: Annotated[int, Field(ge=32, le=512)]
    size_jitter: Annotated[int, Field(ge=0)]
    objects: _pair(int, 1, 8)
    classes: _pair(int, 1, 6)
    regions: _pair(int, 1, 6)
    object_scale: _pair(float, 0.05, 1)
    min_visible: Share
    part_size: Positive
    body_texture: NotNegative
    contrast: NotNegative
    noise: NotNegative
    cooccurrence: Share
    companion_alone: Share
    companion_reach: NotNegative
    void_border: Annotated[int, Field(ge=0, le=5)]
    saliency_blur: NotNegative
    saliency_wobble: NotNegative
    saliency_miss: Share
    saliency_spill: Share

    @model_validator(mode="after")
    def _not_too_small(self) -> "ToyWorld":
        if self.size - self.size_jitter < 24:
            raise ValueError("the smallest side, size - size_jitter, must be 24 pixels or more")
        return self


class ToySource(Strict):
    source: Literal["toy"]
    train: Count
    val: Count
    test: Count
    seed: Seed
    world: ToyWorld


Url = Annotated[str, Field(pattern=r"^https?://\S+/[\w.-]+$")]
Label = Annotated[str, Field(pattern=r"^[^\s;,|]([^;,|\n]*[^\s;,|])?$")]


class Archive(Strict):
    """A file to fetch into downloads/, from the first mirror that gives it whole."""

    urls: Annotated[list[Url], Field(min_length=1)]
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None

    @property
    def file(self) -> str:
        """Its name under downloads/, that of the first mirror."""
        return self.urls[0].rpartition("/")[2]


class Fetched(Strict):
    """A public dataset: in a folder of the user's, or fetched; both are looked through."""

    root: str
    counts: dict[Name, Count] = {}  # how many images a split must have, if it has any
    saliency: str | None = None  # a folder of maps, named after the images

    def places(self, workspace: Path) -> list[Path]:
        """Folders to look through: the user's, then that of what was fetched for this source."""
        fetched = [workspace / DOWNLOADS / self.source] if self.archives else []
        return [place for place in [workspace / self.root, *fetched] if place.is_dir()]


class VocSource(Fetched):
    """VOC 2012, with the masks of SBD or without, in any of the layouts it goes round in."""

    source: Literal["voc"]
    train_masks: str  # SegmentationClassAug holds the masks of SBD, too
    classes: list[Name] | None = None  # a subset; every other class becomes void
    labels: Literal["masks", "xml"] = "masks"  # what image labels are read from
    archives: dict[Literal["trainval", "sbd", "test"], Archive] = {}


class CocoSource(Fetched):
    """COCO 2014: `images` folders and the instance annotations."""

    source: Literal["coco"]
    labels: Literal["masks", "json"] = "masks"  # small objects vanish in masks
    archives: dict[Literal["train", "val", "annotations"], Archive] = {}


class FolderSource(Strict):
    """The user's own images, and a CSV of their labels: id, labels, and split if there are some."""

    source: Literal["folder"]
    images: str  # a folder
    table: str  # the CSV
    classes: list[Label] | None = None  # by id; those of the CSV, sorted, where there are no masks
    masks: str | None = None  # a folder of <id>.png, to score against
    saliency: str | None = None


def _tags(source: type[BaseModel]) -> tuple[str, ...]:
    return get_args(source.model_fields["source"].annotation)


SOURCES = (ToySource, VocSource, CocoSource, FolderSource)
TAGS = [tag for source in SOURCES for tag in _tags(source)]


class MaskEval(Strict):
    split: Name
    also: Name | None = None  # a second split to report on, as far as its truth is known


class Way(Strict):
    """One way of testing a segmentation network."""

    scales: Scales
    flip: bool
    crf: Crf | None


class Windows(Strict):
    """Overlapping windows over an image too large for one look."""

    side: Count  # pixels
    overlap: Annotated[float, Field(ge=0, lt=1)] = 1 / 3  # at least, in sides


class Predict(Way):
    """How the predictions that are kept are made."""

    windows: Windows | None = None


class Submit(Strict):
    """What a test server gets; predicted as `seg_eval` of the network does unless told."""

    split: Name
    # Where the test server wants the files, inside the archive.
    archive: Annotated[str, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]
    scales: Scales | None = None  # with flip and crf, or none of the three
    flip: bool | None = None
    crf: Crf | None = None
    windows: Windows | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Submit":
        told = [self.scales is not None, self.flip is not None, "crf" in self.model_fields_set]
        if any(told) != all(told) or (self.windows and not any(told)):
            raise ValueError("expected scales, flip and crf together, or none of them")
        return self

    @property
    def way(self) -> Predict | None:
        """How to predict, if it is told here."""
        if self.scales is None:
            return None
        return Predict(scales=self.scales, flip=self.flip, crf=self.crf, windows=self.windows)


class ReportParams(Strict):
    images: Annotated[int, Field(ge=1, le=50)]


class DataBlock(Strict):
    prepare: Annotated[
        ToySource | VocSource | CocoSource | FolderSource, Field(discriminator="source")
    ]
    mask_eval: MaskEval
    submit: Submit
    report: ReportParams


class Network(Strict):
    """A backbone: its name in `fbr.nets.backbones`, its output stride, where its weights start."""

    name: Annotated[str, Field(pattern=r"^(\w+|timm/[\w.-]+)$")]
    stride: Literal[4, 8, 14, 16, 32]
    dilate: bool = True  # where the stride is less than the network's own
    weights: str  # none, imagenet, cam (the CAM network of the same path) or a safetensors file
    least_matched: Share = 0.9  # of the network's tensors, that such a file must hold
    freeze: Annotated[int, Field(ge=0)] = 0  # how many of the first levels do not train
    # What batch norms keep through training; by default the statistics that came with weights.
    keep_norm: list[Literal["statistics", "affine"]] | None = None


class Jitter(Strict):
    """How far the colours of a training image move: factors within 1 ± it, hue a part of 1."""

    brightness: Share
    contrast: Share
    saturation: Share
    hue: Annotated[float, Field(ge=0, le=0.5)]


class Shift(Strict):
    """The same in HSV: hue, saturation and value move by up to so many of 180, 255, 255 levels."""

    levels: Annotated[int, Field(ge=0, le=90)]


class Training(Strict):
    """One recipe for `fbr.train.loop`, whatever the network."""

    network: Network
    split: Name
    steps: Count
    batch: Count  # images a step, over all processes and accumulated parts
    accumulate: Count = 1
    crop: Annotated[int, Field(ge=16)]
    scale: Range | None = None  # random resize by a factor,
    long_side: Range | None = None  # or to a longer side; one of the two
    resample: Literal["bilinear", "bicubic"] = "bilinear"  # how images and saliency are resized
    flip: bool
    jitter: Jitter | None = None  # of colours,
    shift: Shift | None = None  # or in levels of HSV
    optimizer: Literal["sgd", "adam", "adamw"]
    lr: Positive
    head_lr: Positive
    bias_lr: Positive | None = None  # biases of convolutions: times their lr, and without decay
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative
    power: NotNegative  # of the poly schedule; 0 keeps the learning rate constant
    warmup: Annotated[int, Field(ge=0)] = 0
    clip: Positive | None = None  # largest norm of the gradient
    bfloat16: bool = True  # where the device has it
    log_every: Count

    @model_validator(mode="after")
    def _one_resize(self) -> "Training":
        if (self.scale is None) == (self.long_side is None):
            raise ValueError("expected exactly one of 'scale' and 'long_side'")
        if self.jitter is not None and self.shift is not None:
            raise ValueError("expected at most one of 'jitter' and 'shift'")
        if self.warmup > self.steps:
            raise ValueError(f"warmup {self.warmup} is longer than the {self.steps} steps")
        return self


def _check_names(recipe: Training, stage: str, where: str) -> None:
    network = recipe.network.name
    found = {} if network.startswith("timm/") else {"network": ("network.name", network)}
    for key in ("method", "head", "loss"):
        if hasattr(recipe, key):
            kind = f"{stage}.head" if key == "head" else key
            found[kind] = (key, getattr(recipe, key))
    for kind, (key, name) in found.items():
        more = ["timm/<name>"] if kind == "network" else []
        one_of([*catalogue.names(kind), *more], name, f"params.yaml: {where}.{key}")


class FbrWeights(Strict):
    """λ of each loss."""

    l_fb: NotNegative  # pixel against NROIs of the bank
    l_if: NotNegative  # pixel against pixels of other classes
    l_seg: NotNegative  # background head against the CAM's background
    l_sim: NotNegative  # cosine of the two projections
    l_pix: NotNegative = 0  # sure pixel, foreground or background, against prototypes and NROIs


class FbrStart(Strict):
    """The step from which each loss acts; the bank fills from the first one on."""

    l_fb: Annotated[int, Field(ge=0)] = 0
    l_if: Annotated[int, Field(ge=0)] = 0
    l_seg: Annotated[int, Field(ge=0)] = 0
    l_sim: Annotated[int, Field(ge=0)] = 0
    l_pix: Annotated[int, Field(ge=0)] = 0


class FollowColours(Strict):
    """Seed scores become means over neighbours of like colour (`fbr.masks.neighbours`)."""

    steps: Count
    dilations: Counts
    contrast: Positive  # in standard deviations of a pixel's colour differences
    finer: Count = 1  # on a grid so many times as fine as the map's


class Sure(Strict):
    """Seeds only where the best score is above `foreground` or below `background`."""

    foreground: Share
    background: Share


class Fbr(Strict):
    """Fine-grained background representation (TCSVT 2024), carried by a CAM method."""

    # released: no gradient, cosine along the keys, unmasked seeds, as on AMN; released_ppc: the
    # first two of L_fb alone, as on PPC.
    mode: Literal["intent", "released", "released_ppc"]
    width: Count  # D, of both projections
    scores: Literal["cam", "softmax"]  # how a seed score is read off what the method gives
    seed_background: Share | Literal["learned"]  # τ_bg, or the method's own background channel
    # What the bank keeps of a step: NROIs, or, simpler, one prototype of the batch's background or
    # all its pixels. L_pix and maps weigh each as if it were one of an image's `nrois`.
    background: Literal["nrois", "prototype", "pixels"] = "nrois"
    nrois: Count  # K, a mean of the k-means of one image's background
    start: Literal["k-means++", "random"]
    iterations: Annotated[int, Field(ge=0)]  # of Lloyd
    bank: Count  # rows of the memory bank
    bank_dtype: Literal["float32", "bfloat16", "float16"]
    bank_each_view: bool = False  # where a method shows two views of an image
    negatives: Count  # M, of each class and kind
    temperature: Positive  # τ
    unsure_rank: Annotated[float, Field(ge=0, lt=1)]  # ρ
    unsure_floor: Share = 0.05  # a score up to it takes no part in that rank, and is not sure by it
    unsure_entropy: Share  # q
    blank_background: bool  # background entropies count as 0 in the quantile q
    prototype_part: Count  # a prototype is the mean of 1/prototype_part of an image's positions
    own_seeds: bool = True  # of an image whose seeds show a class, these alone
    cap: Count | None = None  # most queries of a class, drawn anew each step
    background_below: Share  # L_seg: background is where the CAMs add up to less
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5  # in front of its head φ_seg
    weight: FbrWeights
    from_step: FbrStart = FbrStart()
    # Ours, off in the method as published:
    follow_colours: FollowColours | None = None
    sure: Sure | None = None
    one_space: bool = False  # a single projection, in which NROIs and pixels can be compared
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the prototypes
    hard: Share = 0.0  # share of L_fb's negatives that are the nearest of a pool to the prototype
    foreign: bool = False  # L_fb's negatives come from images that do not show the class
    pool: Count = 4  # drawn for each negative that hard or foreign keeps
    # Maps of inference: the method's own, or the chance of a pixel to be its class's and no NROI's,
    # or their product.
    maps: Literal["cam", "chance", "product"] = "cam"
    reference: Count = 2048  # rows of the bank, evenly spread, that this chance is read from
    relabel_from: Annotated[int, Field(ge=0)] | None = (
        None  # step from which seeds are that product
    )

    @model_validator(mode="after")
    def _fit(self) -> "Fbr":
        """What one number asks of another."""
        weight, sure = self.weight, self.sure
        if self.one_space and weight.l_sim:
            raise ValueError("l_sim compares two projections; one_space has one, so set it to 0")
        compared = self.maps != "cam" or self.relabel_from is not None
        if compared and not (self.one_space or weight.l_pix):
            raise ValueError(
                "maps other than cam, and relabel_from, compare pixels with NROIs; set one_space, "
                "or give l_pix a weight"
            )
        if compared and not (weight.l_fb or weight.l_if or weight.l_pix):
            raise ValueError(
                "maps other than cam, and relabel_from, need prototypes, which l_fb, l_if or l_pix "
                "keep; give one of them a weight"
            )
        if self.cap and not (weight.l_fb or weight.l_if):
            raise ValueError("cap limits the queries of l_fb and l_if; give one of them a weight")
        if (self.hard or self.foreign) and not weight.l_fb:
            raise ValueError("hard and foreign choose the negatives of l_fb; give it a weight")
        if self.foreign and self.background == "prototype":
            raise ValueError("foreign asks which images NROIs come from; prototype comes from all")
        if sure and sure.foreground < sure.background:
            raise ValueError("sure: foreground is below background; nothing lies between them")
        if self.mode != "intent" and weight.l_pix:
            # A seed may name a class that the image does not show, whose loss would be infinite.
            raise ValueError("l_pix is not of the released code; set it to 0, or mode to intent")
        return self


class CamTrain(Training):
    method: Name  # a key of fbr.cam.CAM
    options: dict[str, Any] = {}  # the method's own numbers, checked by the model in its file
    fbr: Fbr | None = None  # carried by the method, or not


class CamInfer(Strict):
    split: Name
    also: Name | None = None  # a second split to have maps of
    scales: Scales
    flip: bool
    cells: bool = False  # draw maps half a stride lower than they lie, as in the published codes
    # To which maps in 0…1 are raised: brings their threshold to those that masks are made with.
    power: Positive = 1.0


class AmnTrain(CamTrain):
    # A split whose ground truth chooses the epoch, as in the published code; none keeps the last.
    select: Name | None = None


class AmnInfer(CamInfer):
    released: bool = False  # dropout stays on, as in the published code


class CamEval(Strict):
    split: Name
    also: Name | None = None  # a second split to report on, where nothing was chosen
    threshold: Share  # the background score; the sweep beside it is called `oracle`


class CamBlock(Strict):
    """A CAM from image labels (cam_*), or from the seeds of another one, too (amn_*)."""

    cam_train: CamTrain | None = None
    cam_infer: CamInfer | None = None
    amn_train: AmnTrain | None = None
    amn_infer: AmnInfer | None = None
    cam_eval: CamEval

    @model_validator(mode="after")
    def _one_way(self) -> "CamBlock":
        found = [stage for stage, block in self if block and stage != "cam_eval"]
        if found not in (["cam_train", "cam_infer"], ["amn_train", "amn_infer"]):
            raise ValueError(
                f"found {' and '.join(found) or 'neither'}, expected cam_train and cam_infer, or "
                "amn_train and amn_infer"
            )
        return self

    @property
    def infer(self) -> CamInfer:
        """The numbers of whichever stage writes the maps."""
        return self.cam_infer or self.amn_infer


class CrfRefine(Strict):
    # What the CRF of the mask itself is told: labels at this background score, or the scores, where
    # background's is (1 - strongest)^background_power; one of the two.
    threshold: Share | None = None
    background_power: Positive | None = None  # α
    fg_threshold: Share  # confident foreground
    bg_threshold: Share  # confident background
    confidence: Annotated[float, Field(gt=0, lt=1)]  # what the CRF is told to trust a label
    crf: Crf

    @model_validator(mode="after")
    def _one_unary(self) -> "CrfRefine":
        if (self.threshold is None) == (self.background_power is None):
            raise ValueError("expected exactly one of 'threshold' and 'background_power'")
        return self

    @model_validator(mode="after")
    def _unsure_between(self) -> "CrfRefine":
        if self.fg_threshold < self.bg_threshold:
            raise ValueError(
                f"fg_threshold {self.fg_threshold} is below bg_threshold {self.bg_threshold}: "
                "nothing between them could be unsure"
            )
        return self


class IrnTrain(Training):
    radius: Annotated[int, Field(ge=2)]  # of neighbourhoods, in positions of the walk
    width: Count  # channels of a level in the edge branch


class IrnInfer(Strict):
    cam_power: Positive
    beta: Positive
    exp_times: Annotated[int, Field(ge=0, le=12)]
    radius: Annotated[int, Field(ge=2)]
    threshold: Share


class PsaTrain(Training):
    radius: Annotated[int, Field(ge=2)]  # of neighbourhoods, in pixels of the coarse map
    width: Count  # channels kept of the first of three levels


class PsaInfer(Strict):
    beta: Positive
    exp_times: Annotated[int, Field(ge=0, le=12)]
    radius: Annotated[int, Field(ge=2)]
    threshold: Share  # the background's score, the same everywhere


class SuperpixelRefine(Strict):
    """The numbers of `fbr.masks.superpixels`, and how its regions are labelled."""

    superpixels: Count  # about so many to begin with
    compactness: Positive
    sigma: NotNegative  # pixels that SLIC smooths over
    scales: Annotated[int, Field(ge=0, le=4)]  # rings of neighbours that count as content, too
    border: Count  # pixels from a common border that count as near it
    border_share: Share  # ω, beside the content
    small_first: NotNegative  # η
    regions: Count  # merging ends at so few,
    least: float  # or where no priority reaches this
    threshold: Share  # the background's score
    margin: Share  # by which the best score of a region must lead, else it is void


class CamCut(Strict):
    threshold: Share


class MaskBlock(Strict):
    """One way to make masks: the stage, or the two stages, that write them."""

    crf_refine: CrfRefine | None = None
    irn_train: IrnTrain | None = None
    irn_infer: IrnInfer | None = None
    psa_train: PsaTrain | None = None
    psa_infer: PsaInfer | None = None
    superpixel_refine: SuperpixelRefine | None = None
    cam_cut: CamCut | None = None

    @model_validator(mode="after")
    def _one_maker(self) -> "MaskBlock":
        found = [stage for stage, block in self if block]
        if len({stage.partition("_")[0] for stage in found}) > 1:
            raise ValueError(
                f"{' and '.join(map(repr, found))} in one block would write the same masks; "
                "give each a block of its own"
            )
        return self

    @property
    def threshold(self) -> float | None:
        """The background's score, of whichever stage writes the masks; None where it varies."""
        return next(block.threshold for _, block in self if hasattr(block, "threshold"))

    @property
    def rule(self) -> dict[str, float | str]:
        """What is background in these masks, as their score tells it."""
        if self.threshold is None:
            return {"background_power": self.crf_refine.background_power}
        return {"threshold": self.threshold, "threshold_choice": "fixed"}


class LocalPool(Strict):
    """Logits pooled over a pixel's neighbours of the same label before its loss is taken (LAL)."""

    window: Count  # side in pixels, odd
    sigma: Positive  # of the Gaussian of a neighbour's chessboard distance, in pixels
    space: Literal["logits", "probs"] = "logits"  # what is pooled

    @model_validator(mode="after")
    def _centred(self) -> "LocalPool":
        if self.window % 2 == 0:
            raise ValueError(f"window {self.window} has no centre, expected an odd number")
        return self


class Hard(Strict):
    """Only hard pixels count (online hard example mining)."""

    below: Share  # probability of its label under which a pixel is hard
    at_least: Share = 0.0  # share of an image's labelled pixels that count, the hardest


class LossOptions(Strict):
    """What any pixel loss can be given besides; all off by default."""

    smoothing: Share = 0.0  # of labels, spread over all classes
    pool: LocalPool | None = None
    hard: Hard | None = None
    # k of Minkowski's mean of pixels, (mean lᵏ)^(1/k); the paper's best is 5. Above 6 single
    # precision loses the least losses, and then the largest.
    power: Annotated[float, Field(ge=1, le=6)] = 1.0
    # Where logits meet labels: at every pixel of the image, or at the head's positions.
    grid: Grid = "image"
    aux: NotNegative = 0.4  # weight of a head's auxiliary scores, where it has some


class SegTrain(Training):
    head: Name  # a key of fbr.nets.heads.HEADS
    rates: Counts | None = None  # dilations of the head's parallel branches, where it has some
    width: Count | None = None  # channels of the head's own maps; the paper's if not given
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # before its classifier; likewise
    # At which the image is seen besides its own size, each trained; the largest score counts.
    input_scales: list[Positive] = []
    loss: Name  # a key of fbr.losses.segmentation.LOSSES
    loss_options: LossOptions = LossOptions()


class SegEval(Predict):
    split: Name
    also: dict[Name, Way] = {}  # other ways to be scored beside it, from the same looks


class SegBlock(Strict):
    seg_train: SegTrain
    seg_eval: SegEval


class WsisTrain(Training):
    head: Name  # a key of fbr.nets.detectors.DETECTORS
    anchors: Counts  # side lengths, one a pyramid level
    proposals: Count  # kept by the proposal network
    width: Count  # channels of the pyramid and of the mask head


class WsisEval(Strict):
    split: Name
    score: Share  # detections below are dropped
    detections: Count  # kept per image


class InstBlock(Strict):
    wsis_train: WsisTrain
    wsis_eval: WsisEval


class Run(Strict):
    """The matrix that DVC runs; Snakemake can be asked for anything else by its path."""

    data: Annotated[list[Name], Field(min_length=1)]
    seed: Annotated[list[Name], Field(min_length=1)]
    base: list[Name]
    amn: list[Name]
    cam: list[Name]
    crf: list[Name]
    irn: list[Name]
    psa: list[Name]
    superpixel: list[Name]
    cut: list[Name]
    mask: list[Name]
    seg: list[Name]
    inst: list[Name]


class Machine(Strict):
    """What may differ between machines and never changes a result, so nothing depends on it."""

    processes: Count  # for one training, started through torchrun
    checkpoint_minutes: Positive
    loader_threads: Count


class Params(Strict):
    run: Run
    machine: Machine
    seed: dict[Name, Seed]
    data: dict[Name, DataBlock]
    cam: dict[Name, dict[Name, CamBlock]]
    mask: dict[Name, dict[Name, MaskBlock]]
    seg: dict[Name, dict[Name, SegBlock]]
    inst: dict[Name, dict[Name, InstBlock]]

    @model_validator(mode="after")
    def _run_names_blocks(self) -> "Params":
        taken = set(PATHS) | {p.split("/")[-1] for files in PATHS.values() for p in files.values()}
        for axis in AXES:
            for name in getattr(self, axis):
                if name in taken:
                    raise Refusal(
                        f"params.yaml: {axis}.{name}: '{name}' is the name of a stage or of one of "
                        "its outputs, and paths would meet; choose another name"
                    )
        for axis, names in self.run:
            if len(set(names)) < len(names):
                raise Refusal(f"params.yaml: run.{axis}: found {names}, expected each name once")
            known = self.variants(axis)
            for name in names:
                one_of(known, name, f"params.yaml: run.{axis}")
        if both := [name for name in self.variants("base") if name in self.variants("amn")]:
            raise Refusal(
                f"params.yaml: cam.{both[0]}: found cam_train for one dataset and amn_train for "
                "another; give each a block of its own"
            )
        for axis in ("cam", "mask", "seg", "inst"):
            for name, recipes in getattr(self, axis).items():
                for data in recipes:
                    if data not in self.data:
                        raise Refusal(
                            f"params.yaml: {axis}.{name}.{data}: found '{data}', expected a "
                            f"dataset under data: {', '.join(self.data)}.{nearest(data, self.data)}"
                        )
        return self

    @model_validator(mode="after")
    def _known_names(self) -> "Params":
        """Methods, networks, heads and losses by the dicts that define them."""
        for axis in ("cam", "mask", "seg", "inst"):
            for variant, recipes in getattr(self, axis).items():
                for data, block in recipes.items():
                    for stage, recipe in block:
                        if isinstance(recipe, Training):
                            _check_names(recipe, stage, f"{axis}.{variant}.{data}.{stage}")
        return self

    def variants(self, axis: str) -> list[str]:
        """Names that an axis of `run:` can take: the blocks of its section."""
        stage = MAKERS.get(axis)
        if stage is None:
            return list(getattr(self, axis))
        return [
            name
            for name, recipes in getattr(self, SECTION[stage]).items()
            if any(getattr(block, stage) for block in recipes.values())
        ]

    def of(self, stage: str, axes: dict[str, str]) -> Any:
        """The block of `stage` for these axes, or a refusal that says which block is missing."""
        axis = SECTION[stage]
        section = getattr(self, axis)
        names = [axes[axis]] if axis == "data" else [axes[axis], axes["data"]]
        where, found = axis, section
        for name in names:
            if name not in found:
                raise Refusal(
                    f"params.yaml: {where}: found no block '{name}', which {stage} needs; it has "
                    f"{', '.join(found)}.{nearest(name, found)}"
                )
            where, found = f"{where}.{name}", found[name]
        block = getattr(found, stage)
        if block is None:
            raise Refusal(f"params.yaml: {where}: found no block '{stage}'; add it to run {stage}")
        return block


# Lists under `run:` that hold a part of their section: the blocks that have a recipe for a stage.
MAKERS = {
    "base": "cam_train",
    "amn": "amn_train",
    "crf": "crf_refine",
    "irn": "irn_infer",
    "psa": "psa_infer",
    "superpixel": "superpixel_refine",
    "cut": "cam_cut",
}
SECTION = {
    stage: axis
    for axis, block in {
        "data": DataBlock,
        "cam": CamBlock,
        "mask": MaskBlock,
        "seg": SegBlock,
        "inst": InstBlock,
    }.items()
    for stage in block.model_fields
}


class _Loader(yaml.SafeLoader):
    """YAML as people write it: `1e-4` is a number, and a key given twice is an error."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what a mapping merges before its own keys, which win, as an earlier merge does.

        Not PyYAML's: from 6.0.4 on, of a block that is merged with its own merges, these win.
        """
        merged, own = [], {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise Refusal(f"{self.name}: line {line}: a key must be one word")
            if key.tag == "tag:yaml.org,2002:merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            elif key.value in own:
                said = f"key '{key.value}' is given twice; keep one"
                raise Refusal(f"{self.name}: line {line}: {said}")
            else:
                own[key.value] = key, value
        found = {}
        for source in reversed(merged):
            if not isinstance(source, yaml.MappingNode):
                line = source.start_mark.line + 1
                raise Refusal(f"{self.name}: line {line}: found no block to merge behind '<<'")
            self.flatten_mapping(source)
            found |= {key.value: (key, value) for key, value in source.value}
        node.value = [*(found | own).values()]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(path: Path | str = "params.yaml") -> Params:
    """Read and check params.yaml; a mistake is one line that names section, key and value."""
    return check(read(path), Params, Path(path).name)


def read(path: Path | str = "params.yaml") -> dict:
    """The blocks of params.yaml as they are written, unchecked."""
    path = Path(path)
    if not path.is_file():
        raise Refusal(f"{path}: not found; run from the folder that holds params.yaml and dvc.yaml")
    try:
        return value(path.read_text(encoding="utf-8"), path.name)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refusal(f"{path.name}: not valid YAML: {' '.join(str(error).split())}") from None


def value(text: str, where: str) -> Any:
    """What a piece of YAML says, as in params.yaml."""
    loader = _Loader(text)
    loader.name = where
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def check(raw: object, model: type[BaseModel], where: str) -> Any:
    """Validate `raw` against `model`, naming the first mistake as `where: key: …`."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise Refusal(_sentence(error, model, where)) from None


def _sentence(error: ValidationError, model: type[BaseModel], where: str) -> str:
    first, *rest = sorted(
        error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden"
    )
    location = [str(part) for part in first["loc"]]
    found = first["input"]
    message = first["msg"].removeprefix("Value error, ")
    keys = ".".join(_without_tag(location)) or "(top)"
    if first["type"] == "extra_forbidden":
        known = _siblings(model, first["loc"])
        said = f"unknown key '{location[-1]}', known: {', '.join(known) or 'none'}."
        said += nearest(location[-1], known)
    elif first["type"] == "missing":
        said = "missing; add it"
    elif first["type"] == "union_tag_not_found":
        said = f"no 'source' in it, expected one of {', '.join(TAGS)}"
    elif first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        said = f"found {found!r}, expected a block of keys"
    elif first["type"] in ("literal_error", "union_tag_invalid"):
        allowed = first.get("ctx", {}).get("expected") or first["ctx"]["expected_tags"]
        names = re.findall(r"'?([\w.]+)'?", allowed.replace(" or ", ", "))
        if isinstance(found, dict):
            keys, found = f"{keys}.source", found["source"]
        said = f"found {found!r}, expected one of {', '.join(names)}.{nearest(found, names)}"
    else:
        shown = repr(found)
        said = f"found {shown if len(shown) < 60 else shown[:57] + '...'}: {message}"
    more = f" (and {len(rest)} more)" if rest else ""
    return f"{where}: {keys}: {said}{more}"


def _without_tag(location: list[str]) -> list[str]:
    """Drop the tag that pydantic puts behind `prepare` for a source, which a user never wrote."""
    if "prepare" in location[:-1]:
        behind = location.index("prepare") + 1
        if location[behind] in TAGS:
            return location[:behind] + location[behind + 1 :]
    return location


def _siblings(model: type[BaseModel], location: tuple) -> list[str]:
    """Known keys of the block that holds `location`, found by walking the models along it."""
    known: Any = model
    for part in location[:-1]:
        known = _step(known, str(part))
    return list(known.model_fields)


def _step(known: Any, part: str) -> Any:
    """The annotation a key or an item further down; of an optional block, the block."""
    if get_origin(known) in (dict, list):
        known = get_args(known)[-1]
    elif isinstance(known, type) and issubclass(known, BaseModel):
        known = known.model_fields[part].annotation
    else:  # the sources of `prepare`: this part is the tag that picks one
        return next(m for m in get_args(known) if part in _tags(m))
    return next(a for a in get_args(known) if a) if type(None) in get_args(known) else known


if __name__ == "__main__":
    import json

    print(json.dumps(Params.model_json_schema(), indent=1))
