"""Instance segmentation networks: torchvision's Mask R-CNN on our backbones."""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from fbr.nets.backbones import Backbone


class _Pyramid(nn.Module):
    """The backbone's maps from stride 4 on, brought to one width by a feature pyramid."""

    def __init__(self, backbone: Backbone, levels: int, width: int) -> None:
        super().__init__()
        self.backbone, self.levels, self.out_channels = backbone, levels, width
        self.pyramid = FeaturePyramidNetwork(backbone.channels[-levels:], width)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.backbone(images)[-self.levels :]
        return self.pyramid(OrderedDict((str(i), m) for i, m in enumerate(maps)))


def maskrcnn(
    backbone: Backbone,
    classes: int,
    anchors: list[int],
    proposals: int,
    width: int,
    side: int,
    score: float = 0.05,
    detections: int = 100,
) -> MaskRCNN:
    """Mask R-CNN for `classes` ids, background among them; images are resized to `side`.

    anchors: one side length a pyramid level. width: channels of the pyramid and of the mask head,
    256 in the paper. Images come in normalised.
    """
    levels = min(len(anchors), len(backbone.channels) - (len(backbone.channels) > 3))
    names = [str(i) for i in range(levels)]
    extra = [(a,) for a in anchors[: levels - 1]] + [tuple(anchors[levels - 1 :])]
    ratios = ((0.5, 1.0, 2.0),) * levels
    # Every level needs as many anchors as the others: the last takes the sizes left over.
    most = max(len(sizes) for sizes in extra)
    sizes = tuple(tuple(s[i % len(s)] * (1 + i // len(s)) for i in range(most)) for s in extra)
    return MaskRCNN(
        _Pyramid(backbone, levels, width),
        min_size=side,
        max_size=2 * side,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(sizes, ratios),
        rpn_pre_nms_top_n_train=4 * proposals,
        rpn_pre_nms_top_n_test=2 * proposals,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        rpn_batch_size_per_image=min(256, 2 * proposals),
        box_head=TwoMLPHead(width * 7 * 7, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, classes),
        mask_head=MaskRCNNHeads(width, (width,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(width, width, classes),
        box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        mask_roi_pool=MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2),
        box_batch_size_per_image=min(512, proposals),
        box_score_thresh=score,
        box_detections_per_img=detections,
    )


DETECTORS: dict[str, Callable[..., nn.Module]] = {"maskrcnn": maskrcnn}
