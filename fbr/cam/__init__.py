"""CAM methods, each a file and an entry here: from params.yaml to the code that runs by one dict."""

from fbr.cam.plain import Plain

CAM = {"plain": Plain}
