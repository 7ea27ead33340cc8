"""irn_train: learn from confident seeds which neighbours belong together, and where centres lie."""

import torch
from torch import Tensor, nn

from fbr.datasets.prepared import Entry, Prepared
from fbr.losses.affinity import affinity_losses, displacement_losses
from fbr.masks.affinity import edge_to_affinity, pair_difference, path_index
from fbr.nets.inputs import normalise
from fbr.nets.irn import AffinityNet
from fbr.stages import training
from fbr.stages.images import read_ahead
from fbr.stages.job import Job
from fbr.train.processes import joined


class AffinityTask(nn.Module):
    """The network with its losses, which live on the network's own coarse grid."""

    def __init__(self, network: AffinityNet, radius: int) -> None:
        super().__init__()
        self.network, self.radius = network, radius

    def forward(self, batch: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """image (B, 3, H, W), seeds (B, H, W) → IRN's affinity and displacement losses."""
        edge, displacement = self.network(batch["image"])
        pairs = training.pairs(batch["seeds"], edge, self.network.positions, self.radius)
        affinity = edge_to_affinity(edge.float().sigmoid(), self.radius)
        difference = pair_difference(displacement.float(), self.radius)
        ways = torch.tensor(path_index(self.radius).displacements, device=edge.device)
        return affinity_losses(
            affinity, pairs.background, pairs.foreground, pairs.negative
        ) | displacement_losses(difference, ways, pairs.background, pairs.foreground)


def run(job: Job) -> None:
    """Train the two branches over a frozen backbone."""
    numbers = job.numbers
    entries = job.data.split(numbers.split)
    seeds = job.path("crf_refine", "seeds", mask="crf")
    with joined(job.threads) as processes:
        backbone = training.backbone(job, numbers.network)
        task = AffinityTask(AffinityNet(backbone, backbone.channels, numbers.width), numbers.radius)
        source = training.seeded(job, entries, seeds)
        inputs = [job.path("prepare", "index"), seeds, job.path("cam_train", "model")]

        def centre() -> None:
            """The losses leave the mean displacement free; it is taken off at inference."""
            shift = mean_displacement(task.network, job.data, entries, processes.device)
            task.network.set_mean_shift(shift)

        heads = [task.network.displacement]
        training.train(job, processes, task, heads, source, inputs, task.network, centre)


@torch.inference_mode()
def mean_displacement(
    network: AffinityNet, data: Prepared, entries: list[Entry], device: torch.device
) -> Tensor:
    """Mean (2,) of the displacement field over whole images."""
    network.eval()
    network.set_mean_shift(torch.zeros(2, device=device))
    total, pixels = torch.zeros(2, device=device), 0
    for _, image in read_ahead(entries, data.image):
        _, field = network(normalise(torch.from_numpy(image)[None].to(device)))
        total += field[0].sum((1, 2))
        pixels += field[0, 0].numel()
    return total / pixels
