from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.errors import ImageError


def spec(size: int, interpolation: Any = "bicubic") -> ImageSpec:
    return ImageSpec(size=size, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation=interpolation)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] //= 8
    return Image.fromarray(pixels)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


SIZES = [(64, 64), (65, 64), (300, 200), (200, 300), (481, 479), (1000, 37), (37, 1000), (10, 15), (1, 1), (223, 224)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [16, 64, 224])
def test_preprocess_equals_the_transform_of_clip(size: int, interpolation: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    mode = transforms.InterpolationMode(interpolation)
    reference = transforms.Compose([transforms.Resize(size, mode), transforms.CenterCrop(size)])
    for width, height in SIZES:
        image = noise(width, height)
        ours = preprocess(image, spec(size, interpolation)).astype(int)
        theirs = np.asarray(reference(image)).astype(int)
        assert np.abs(ours - theirs).max() <= 1, (width, height)


def test_preprocess_equals_open_clip_on_the_model_s_pictures() -> None:
    open_clip = pytest.importorskip("open_clip")
    reference = open_clip.image_transform(64, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = noise(100, 80)
    theirs = (reference(image).numpy().transpose(1, 2, 0) * 255).round().astype(int)
    assert np.abs(preprocess(image, spec(64)).astype(int) - theirs).max() <= 1


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    image = noise(64, 64)
    np.testing.assert_array_equal(preprocess(image, spec(64)), np.asarray(image))


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000)])
def test_an_extremely_long_picture_costs_no_more_than_another(shape: tuple[int, int]) -> None:
    # Resized as a whole it would have 224 × 22,400,000 pixels, 15 GB.
    image = Image.new("RGB", shape, (10, 200, 30))
    pixels = preprocess(image, spec(224))
    assert pixels.shape == (224, 224, 3)
    assert (pixels == (10, 200, 30)).all()


def test_a_long_picture_keeps_its_centre() -> None:
    pixels = np.zeros((10, 1000, 3), dtype=np.uint8)
    pixels[:, 495:505] = 255  # the middle tenth of the crop's 10 × 10 source pixels
    assert preprocess(Image.fromarray(pixels), spec(10)).min() > 250


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = noise(6, 4)
    inverse = {
        1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4,
    }[orientation]  # fmt: skip
    stored = upright if inverse is None else upright.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = load_image(encoded(stored, exif=exif))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(upright))


def test_a_damaged_exif_block_does_not_lose_the_picture() -> None:
    data = encoded(Image.new("RGB", (4, 4), "red"), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert load_image(data).size == (4, 4)


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 255, 255))
    for image in (clear, clear.convert("LA"), clear.quantize(4)):
        assert pixel(load_image(encoded(image))) == (255, 255, 255), image.mode
    assert pixel(load_image(encoded(clear)), 1) == (0, 0, 255)


def test_a_transparent_colour_of_an_opaque_mode_is_laid_on_white() -> None:
    data = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixel(load_image(data)) == (255, 255, 255)


def grey(values: list[float], dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (grey([0, 32896, 65535], "uint16"), [0, 128, 255]),
        (grey([0, 32896, 65535], "int32"), [0, 128, 255]),
        (grey([0, 128, 255], "int32"), [0, 128, 255]),
        (grey([0, 128 / 255, 1], "float32"), [0, 128, 255]),
    ],
)
def test_wide_greys_are_scaled_not_clipped(image: Image.Image, expected: list[int]) -> None:
    found = np.asarray(load_image(image))
    np.testing.assert_array_equal(found, np.repeat(np.array([expected], np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBA", "RGBX", "PA", "I;16"])
def test_every_common_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("I;16", (5, 3), 65535) if mode == "I;16" else Image.new("RGB", (5, 3), "white").convert(mode)
    found = load_image(image)
    assert found.mode == "RGB"
    assert min(pixel(found)) > 250


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF"])
def test_common_formats_are_read_from_bytes_and_paths(format: str, tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (8, 8), (200, 40, 40)), format)
    path = tmp_path / "picture"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        np.testing.assert_allclose(np.asarray(load_image(source))[0, 0], (200, 40, 40), atol=12)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(pixel(load_image(data)), (255, 0, 0), atol=3)


def test_a_pillow_image_is_not_changed() -> None:
    image = Image.new("RGBA", (2, 2), (1, 2, 3, 4))
    before = image.tobytes()
    load_image(image)
    assert image.mode == "RGBA"
    assert image.tobytes() == before


PNG = encoded(noise(40, 40))
JPEG = encoded(noise(40, 40), "JPEG")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"not a picture", "not an image"),
        (PNG[: len(PNG) // 2], "cannot be decoded"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[:10], "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    ],
    ids=["empty", "text", "half a png", "half a jpeg", "png header", "eps", "svg"],
)
def test_bad_data_is_refused_with_what_was_found(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        load_image(data)


def test_bad_paths_are_refused_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "half.jpg").write_bytes(JPEG[:200])
    os.mkfifo(tmp_path / "pipe")
    for name, said in {
        "none.png": "does not exist",
        "empty.png": "0 bytes",
        "half.jpg": r"half\.jpg",
        "pipe": "regular file",
        ".": "folder",
        "x" * 5000: "cannot be read|does not exist",  # from Python 3.14 on, what cannot be there is not there
        "nul\0": "does not exist",
    }.items():
        with pytest.raises(ImageError, match=said):
            load_image(tmp_path / name)


@pytest.mark.parametrize("source", [None, 3, ["a.png"], {"a": 1}])
def test_other_types_are_refused(source: Any) -> None:
    with pytest.raises(ImageError, match=f"type {type(source).__name__}"):
        load_image(source)


def test_a_url_is_refused_with_the_mend() -> None:
    with pytest.raises(ImageError, match="Download"):
        load_image("https://example.org/a.png")


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    data = encoded(Image.new("1", (3000, 2000)))
    assert load_image(data).size == (3000, 2000)
    with pytest.raises(ImageError, match="6000000 pixels, the limit is 5999999"):
        load_image(data, max_pixels=5_999_999)
    with pytest.raises(ImageError, match="limit is 3"):
        load_image(Image.new("RGB", (2, 2)), max_pixels=3)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [9_500, 13_000, 60_000])
def test_a_decompression_bomb_is_refused_without_a_warning(side: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ImageError, match=r"max_pixels|MAX_IMAGE_PIXELS"):
            load_image(png_header(side, side))
    assert not caught


@pytest.mark.parametrize("seed", range(60))
def test_damaged_files_raise_image_errors_only(seed: int) -> None:
    rng = np.random.default_rng(seed)
    format = ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"][seed % 6]
    data = bytearray(encoded(noise(20, 20, seed), format))
    for position in rng.integers(0, len(data), 12):
        data[position] = rng.integers(256)
    with contextlib.suppress(ImageError):
        assert load_image(bytes(data), max_pixels=10**6).mode == "RGB"


def test_threads_do_not_disturb_the_warning_filters() -> None:
    before = list(warnings.filters)
    results: list[NDArray[np.uint8]] = []

    def work() -> None:
        results.extend(np.asarray(load_image(JPEG)) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert list(warnings.filters) == before


@pytest.mark.parametrize(("mode", "shape"), [("L", (9, 7)), ("RGB", (9, 7, 3)), ("RGBA", (9, 7, 4))])
def test_pixels_are_the_picture_that_they_are_of(mode: str, shape: tuple[int, ...]) -> None:
    picture = Image.effect_noise((7, 9), 80).convert(mode)
    assert np.asarray(picture).shape == shape
    assert load_image(np.asarray(picture)).tobytes() == load_image(picture).tobytes()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 3), np.int16),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_pixels_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected uint8"):
        load_image(pixels)
