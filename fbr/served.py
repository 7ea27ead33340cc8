"""What `mlflow models serve` answers with: photographs in, masks out.

MLflow copies this file into the stored model and runs the copy: no pickle, and nothing of fbr.
"""

import base64
import binascii
import io
import json
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from PIL import Image, ImageOps

EXPECTED = "expected base64 of a PNG or JPEG, or an array (H, W, 3) of 0 to 255"


class Masks(mlflow.pyfunc.PythonModel):
    """Rows with an `image` become rows with a `mask` of the same kind and its `classes`.

    A picture (base64, or bytes) gives a palette PNG in base64; an array (H, W, 3) gives ids (H, W):
    0 background, 1…K the classes that are named beside it.
    """

    def load_context(self, context: Any) -> None:
        self.network = mlflow.pytorch.load_model(context.artifacts["network"])
        with open(context.artifacts["card"], encoding="utf-8") as file:
            card = json.load(file)
        self.classes, self.palette = card["classes"], card["palette"]

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict]:
        if "image" not in model_input:
            raise _refused(f"found columns {list(model_input)}, expected 'image'")
        return [self._answer(image) for image in model_input["image"]]

    def _answer(self, image: Any) -> dict:
        encoded = isinstance(image, str | bytes)
        pixels = _decoded(image) if encoded else _array(image)
        with torch.no_grad():
            mask = self.network(torch.from_numpy(pixels)[None])[0].argmax(0).byte().numpy()
        return {
            "mask": self._png(mask) if encoded else mask.tolist(),
            "classes": {str(id): self.classes[id] for id in np.unique(mask[mask > 0])},
        }

    def _png(self, mask: np.ndarray) -> str:
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette(self.palette)
        content = io.BytesIO()
        picture.save(content, format="PNG")
        return base64.b64encode(content.getvalue()).decode()


def _decoded(image: str | bytes) -> np.ndarray:
    try:
        content = image if isinstance(image, bytes) else base64.b64decode(image, validate=True)
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode.startswith(("I", "F")):  # converted, they would be cut off at 255
                raise ValueError(f"more than 8 bits a channel, mode {picture.mode}")
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except (binascii.Error, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as e:
        raise _refused(f"found text that is no image ({e}), {EXPECTED}") from None


def _array(image: Any) -> np.ndarray:
    try:
        pixels = np.array(image)
    except ValueError:
        raise _refused(f"found rows of different lengths, {EXPECTED}") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise _refused(f"found an array of shape {pixels.shape}, {EXPECTED}")
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise _refused(f"found other values than whole numbers of 0 to 255, {EXPECTED}")
    return pixels.astype(np.uint8)


def _refused(said: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(f"image: {said}")


mlflow.models.set_model(Masks())
