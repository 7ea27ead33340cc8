"""CAM methods, each a file and an entry here: one dict from params.yaml to the code that runs."""

from fbr.cam.amn import Amn
from fbr.cam.eps import Eps
from fbr.cam.plain import Plain
from fbr.cam.ppc import Ppc
from fbr.cam.seam import Seam

CAM = {"plain": Plain, "seam": Seam, "eps": Eps, "ppc": Ppc, "amn": Amn}
