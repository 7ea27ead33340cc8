"""`fbr convert`: weights that are published as an MXNet `.params` file, as safetensors."""

import argparse
from pathlib import Path

from safetensors.numpy import save

from fbr.files import mxnet
from fbr.files.atomic import write_bytes
from fbr.workspace import Workspace


def main(argv: list[str], workspace: Workspace) -> int:
    """Turn an MXNet .params file into safetensors, its names kept."""
    parser = argparse.ArgumentParser(prog="fbr convert", description=main.__doc__)
    parser.add_argument("source", help="as ilsvrc-cls_rna-a1_cls1000_ep-0001.params, of ResNet-38")
    parser.add_argument("target", help="as resnet38d.safetensors, to name as `weights`")
    asked = parser.parse_args(argv)
    arrays = mxnet.read(Path(asked.source))
    write_bytes(Path(asked.target), save(arrays))
    size = sum(array.nbytes for array in arrays.values())
    print(f"{asked.target}: {len(arrays)} arrays, {size / 1e6:.1f} MB")
    return 0
