"""Networks as others use them: the bytes of photographs in, scores of every pixel out."""

from torch import Tensor, nn

from fbr.nets.inputs import normalise


class Photographs(nn.Module):
    """A network (B, 3, H, W) → (B, C, H, W) with what comes before it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, photographs: Tensor) -> Tensor:
        """(B, H, W, 3) uint8, in RGB → (B, C, H, W)."""
        return self.network(normalise(photographs))
