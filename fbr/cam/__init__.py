"""CAM methods, each a file and an entry here: one dict from params.yaml to the code that runs."""

from fbr.cam.amn import Amn
from fbr.cam.plain import Plain

CAM = {"plain": Plain, "amn": Amn}
