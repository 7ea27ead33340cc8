"""seg_train: train a segmentation network on pseudo masks."""

from torch import Tensor, nn

from fbr.datasets.prepared import VOID
from fbr.datasets.transforms import NEAREST
from fbr.errors import chosen
from fbr.files.pictures import PALETTE
from fbr.losses.segmentation import LOSSES, PLAIN, Part, weighted
from fbr.nets.heads import FullSize, Segmenter
from fbr.nets.photographs import Photographs
from fbr.params import LossOptions
from fbr.stages import training
from fbr.stages.job import Job
from fbr.stages.networks import segmenter
from fbr.train.processes import joined


class SegmentationTask(nn.Module):
    """A segmenter with its loss, taken of every output that is trained."""

    def __init__(self, network: Segmenter, loss: str, options: LossOptions = PLAIN) -> None:
        super().__init__()
        self.network, self.options = network, options
        self.loss = chosen(LOSSES, loss, "loss")

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Part]:
        """image (B, 3, H, W), mask (B, H, W) with 255 void → named losses."""
        losses = {}
        for output, scores in self.network.outputs(batch["image"]).items():
            weight = self.options.aux if output.endswith("aux") else 1
            logits, mask = scores.beside(batch["mask"], self.options.grid)
            for name, part in self.loss(logits, mask, self.options).items():
                losses[f"{name}_{output}".strip("_")] = weighted(part, weight)
        return losses


def run(job: Job) -> None:
    """Train on the masks of the path, void where the crop sticks out of the image."""
    numbers = job.numbers
    masks = job.path("irn_infer", "masks")
    entries = job.data.split(numbers.split)
    with joined(job.threads) as processes:
        backbone = training.backbone(job, numbers.network)
        network = segmenter(backbone, numbers.model_dump(), len(job.data.classes))
        source = training.images(
            job,
            entries,
            lambda s, cut: {"mask": cut.apply(s["mask"], NEAREST, VOID)},
            lambda entry: {"mask": job.data.ids(masks / f"{entry.id}.png", entry)},
        )
        inputs = [job.path("prepare", "index"), masks, job.path("cam_train", "model")]
        task = SegmentationTask(network, numbers.loss, numbers.loss_options)
        training.train(job, processes, task, [network.head], source, inputs, network)
        if processes.first:
            whole = Photographs(FullSize(network)).eval()
            job.run.segmentation_model(whole, job.data.classes, PALETTE)
