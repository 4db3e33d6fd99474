"""The preprocessing of CLIP, with Pillow only.

The result is uint8: the scaling to [0, 1] and the normalisation are part of the model's graph.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.pictures import DEFAULT_MAX_PIXELS, ImageSource, frames_of

_ELONGATED = 32  # aspect ratio from which only the cropped part is resized
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def load_image(source: ImageSource, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode an image to RGB.

    The EXIF orientation is applied, transparency is laid on white, of an animation the first frame is taken, and
    values of more than 8 bits are scaled to 8.

    Args:
        source: A path, the bytes of an image file, a Pillow image (which is left as it is), or pixels: an array of
            uint8, shape (h, w) for grey, (h, w, 3) for RGB or (h, w, 4) for RGBA.
        max_pixels: Largest width × height to decode.

    Returns:
        An image of mode ``RGB``; the source itself when it is a plain RGB picture.

    Raises:
        ImageError: The source is missing, a folder, empty, truncated, no image, of a format or colour mode that is
            not supported, or beyond `max_pixels`.
    """
    with closing(frames_of(source, max_pixels=max_pixels)) as ways:
        return next(ways)[1]


def preprocess(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Resize the shorter side to the model's size and cut out the centre, as CLIP does; or squash it, as SigLIP does.

    The same pixels as torchvision's ``Resize(size)`` and ``CenterCrop(size)`` give on Pillow images, or its
    ``Resize((size, size))``.

    Args:
        image: An image of mode ``RGB``, as `load_image` returns it.
        spec: Size and interpolation, from the manifest.

    Returns:
        Pixels, shape (size, size, 3), uint8 in [0, 255].
    """
    size, (width, height) = spec.size, image.size
    resampling = RESAMPLING[spec.interpolation]
    if spec.resize == "squash":
        return np.asarray(image.resize((size, size), resampling), dtype=np.uint8)
    short, long = min(width, height), max(width, height)
    scaled = size * long // short
    # Offset of the crop in the resized picture, rounded to even at one half as CenterCrop does.
    start = round((scaled - size) / 2.0)
    wide = width >= height
    if long <= _ELONGATED * short:
        image = image.resize((scaled, size) if wide else (size, scaled), resampling)
        left, top = (start, 0) if wide else (0, start)
        image = image.crop((left, top, left + size, top + size))
    else:
        # A picture of 1 × 10⁷ pixels would become one of 224 × 2·10⁹: compute only what the crop keeps. Not done for
        # every picture because Pillow may then take its two passes, which round in between, in the other order.
        begin, end = start * long / scaled, (start + size) * long / scaled
        box = (begin, 0.0, end, float(height)) if wide else (0.0, begin, float(width), end)
        image = image.resize((size, size), resampling, box=box)
    return np.asarray(image, dtype=np.uint8)
