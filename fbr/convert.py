"""`fbr convert`: weights published in another format, as safetensors that recipes can name."""

import argparse
from collections.abc import Callable
from pathlib import Path

from fbr.errors import Refusal
from fbr.files import mxnet
from fbr.files.atomic import write_bytes
from fbr.workspace import Workspace


def main(argv: list[str], workspace: Workspace) -> int:
    """Turn an MXNet .params file, or a .pth of torch.save, into safetensors."""
    parser = argparse.ArgumentParser(prog="fbr convert", description=main.__doc__)
    parser.add_argument(
        "source",
        help="as ilsvrc-cls_rna-a1_cls1000_ep-0001.params, of ResNet-38, or a state_dict; "
        "names are kept, but deeplabv1_resnet101-coco.pth becomes weights of resnet101_caffe",
    )
    parser.add_argument("target", help="as resnet38d.safetensors, to name as `weights`")
    asked = parser.parse_args(argv)
    source, target = Path(asked.source), Path(asked.target)
    if source.suffix not in READERS:
        raise Refusal(f"{source}: found '{source.suffix}', expected one of {', '.join(READERS)}")
    content, said = READERS[source.suffix](source)
    write_bytes(target, content)
    print(f"{target}: {said}")
    return 0


def _mxnet(source: Path) -> tuple[bytes, str]:
    from safetensors.numpy import save

    arrays = mxnet.read(source)
    size = sum(array.nbytes for array in arrays.values())
    return save(arrays), f"{len(arrays)} arrays, {size / 1e6:.1f} MB"


def _torch(source: Path) -> tuple[bytes, str]:
    """A state_dict as it is; of deeplab-pytorch's, what is the backbone's, and the rest is told."""
    # Not at the top: every command would wait for torch.
    from safetensors.torch import save

    from fbr.files import weights
    from fbr.nets import backbones, caffe_resnet

    state = weights.read_torch(source)
    if not state:
        raise Refusal(f"{source}: holds no tensor, expected a network's state_dict")
    if not caffe_resnet.knows(state):
        # Tensors that share their memory are refused by safetensors.
        kept = {name: tensor.clone().contiguous() for name, tensor in state.items()}
        size = sum(tensor.nbytes for tensor in kept.values())
        return save(kept), f"{len(kept)} tensors, {size / 1e6:.1f} MB"
    state = caffe_resnet.renamed(state)
    backbone = backbones.build("resnet101_caffe", 8)
    report = weights.take(backbone, state, LEAST, backbone.names)
    kept = {name: state[name].contiguous() for name in backbone.names.values() if name in state}
    return save(kept), report


LEAST = 0.9  # of the network's tensors; a file with fewer is of another network
READERS: dict[str, Callable[[Path], tuple[bytes, str]]] = {".params": _mxnet, ".pth": _torch}
