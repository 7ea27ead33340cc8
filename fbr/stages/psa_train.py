"""psa_train: learn features in which neighbours of one class lie close, from confident seeds."""

from torch import Tensor, nn

from fbr.losses.affinity import affinity_losses
from fbr.masks.affinity import feature_affinity
from fbr.nets.psa import PairFeatures
from fbr.stages import training
from fbr.stages.job import Job
from fbr.train.processes import joined


class PairTask(nn.Module):
    """The network with its losses, which live on the network's own coarse grid."""

    def __init__(self, network: PairFeatures, radius: int) -> None:
        super().__init__()
        self.network, self.radius = network, radius

    def forward(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """image (B, 3, H, W), seeds (B, H, W) → the affinity losses, ¼, ¼ and ½ of their means."""
        features = self.network(batch["image"])
        pairs = training.pairs(batch["seeds"], features, self.network.positions, self.radius)
        return affinity_losses(feature_affinity(features, self.radius), *pairs)


def run(job: Job) -> None:
    """Train backbone and head on the seeds of the block called psa_seeds."""
    numbers = job.numbers
    entries = job.data.split(numbers.split)
    seeds = job.path("crf_refine", "seeds", mask="psa_seeds")
    with joined(job.threads) as processes:
        backbone = training.backbone(job, numbers.network)
        network = PairFeatures(backbone, backbone.channels, numbers.width)
        source = training.seeded(job, entries, seeds)
        inputs = [job.path("prepare", "index"), seeds, job.path("cam_train", "model")]
        task = PairTask(network, numbers.radius)
        training.train(job, processes, task, network.head, source, inputs, kept=network)
