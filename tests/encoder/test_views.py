"""Views of a picture: what is anywhere in it is in one of them, and none is there twice."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hysac_retrieval.encoder.bundle import ImageSpec
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.pictures import frames_of, read_picture
from hysac_retrieval.encoder.preprocess import load_image, preprocess
from hysac_retrieval.encoder.views import FRAMES, MOST_VIEWS, Views, _spans, picture_views
from hysac_retrieval.errors import ImageError

SPEC = ImageSpec(size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
RED, GREEN = (255, 0, 0), (0, 128, 0)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def spotted(width: int, height: int, x: int, y: int, side: int) -> Image.Image:
    image = Image.new("RGB", (width, height), GREEN)
    image.paste(RED, (x, y, x + side, y + side))
    return image


def reddest(views: Views) -> float:
    """Largest share of a view that is red."""
    rows = views.rows.astype(int)
    return float(((rows[..., 0] > 200) & (rows[..., 1] < 60)).mean(axis=(1, 2)).max())


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (300, 300)])
def test_a_square_picture_has_one_fast_view(size: tuple[int, int]) -> None:
    image = noise(*size)
    views = picture_views(image, SPEC)
    assert views.names == ("centre",)
    np.testing.assert_array_equal(views.rows[0], preprocess(image, SPEC))


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (160, 90), (64, 192), (1000, 10), (10, 1000)])
def test_the_first_view_is_the_model_s_own_and_no_two_are_the_same(size: tuple[int, int]) -> None:
    image = noise(*size)
    views = picture_views(image, SPEC)
    np.testing.assert_array_equal(views.rows[0], preprocess(load_image(image), SPEC))
    assert len({row.tobytes() for row in views.rows}) == len(views.names) == len(set(views.names))


@pytest.mark.parametrize(
    ("size", "count"), [((64, 48), 2), ((48, 64), 2), ((96, 48), 4), ((96, 32), 6), ((160, 32), 10), ((1000, 10), 18)]
)
def test_fast_views_are_no_more_than_needed(size: tuple[int, int], count: int) -> None:
    assert len(picture_views(noise(*size), SPEC).names) == count


@pytest.mark.parametrize(("width", "height"), [(96, 32), (32, 96), (64, 32), (320, 32), (33, 32), (40, 30)])
@pytest.mark.parametrize("place", [0.0, 0.25, 0.6, 1.0])
def test_what_is_anywhere_along_the_longer_side_fills_much_of_a_view(width: int, height: int, place: float) -> None:
    side = min(width, height)
    x, y = round((width - side) * place), round((height - side) * place)
    assert reddest(picture_views(spotted(width, height, x, y, side), SPEC)) > 0.7


@pytest.mark.parametrize(("width", "height"), [(6_000, 200), (40_000, 10), (3, 9_000)])
def test_a_very_long_picture_has_a_bounded_number_of_views_without_gaps(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height), GREEN)
    long = max(width, height)
    step = long // 50
    for start in range(0, long - step, 7 * step):
        part = image.copy()
        part.paste(RED, (start, 0, start + step, height) if width > height else (0, start, width, start + step))
        views = picture_views(part, SPEC)
        assert len(views.names) <= 18
        assert reddest(views) > 0.1


@pytest.mark.parametrize("depth", [2, 4])
def test_thorough_views_show_what_is_small_large(depth: int) -> None:
    side = 16 * 8
    part = side // depth
    for x, y in ((0, 0), (side - part, side - part), (side // 3, side // 5), (part // 2, part // 2)):
        picture = spotted(side, side, x, y, part)
        assert reddest(picture_views(picture, SPEC, "thorough")) > 0.5
        assert reddest(picture_views(picture, SPEC, "fast")) < 0.35


@pytest.mark.parametrize("size", [(64, 64), (2000, 64), (64, 2000), (20_000, 128), (3000, 2000)])
def test_thorough_views_are_bounded(size: tuple[int, int]) -> None:
    views = picture_views(noise(*size), SPEC, "thorough")
    assert len(picture_views(noise(*size), SPEC).names) < len(views.names) <= 2 * MOST_VIEWS + 18


@pytest.mark.parametrize(("length", "side", "count"), [(100, 10.0, 10), (100, 10.0, 4), (101, 10.0, 11), (7, 7.0, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_spans_leave_no_gap(length: int, side: float, count: int, overlap: float) -> None:
    starts, found = _spans(length, side, count, overlap)
    assert starts[0] == 0
    assert starts[-1] + found == pytest.approx(length)
    assert all(b <= a + found * (1 - overlap) + 1e-9 for a, b in pairwise(starts))


FRAME_FORMATS = ["GIF", "WEBP", "PNG", "TIFF", "AVIF"]


def animated(format: str, colours: list[Any], **options: Any) -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in colours]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("format", FRAME_FORMATS)
@pytest.mark.parametrize("unsafe", [{1}, {9}, {4, 5}])
def test_later_frames_and_pages_are_judged(format: str, unsafe: set[int]) -> None:
    # A shade of its own for each frame, as equal ones are joined.
    colours = [(250, 5, n) if n in unsafe else (0, 128, n * 9) for n in range(10)]
    data = animated(format, colours)
    views = picture_views(data, SPEC)
    assert views.names[0] == "centre"
    assert 2 <= len(views.names) <= FRAMES
    assert views.rows[0][..., 0].max() < 60
    assert reddest(views) > 0.9 or unsafe == {4, 5}  # between the frames that are looked at one may be left out
    with Image.open(io.BytesIO(data)) as opened:
        picture_views(opened, SPEC)
        assert opened.tell() == 0


@pytest.mark.parametrize("format", FRAME_FORMATS)
def test_frames_are_at_even_spacing_from_the_first_to_the_last(format: str) -> None:
    data = animated(format, [(n * 8, 255 - n * 8, 90) for n in range(29)])
    names = [name for name, _ in frames_of(data, most=FRAMES)]
    assert names[0] == ""
    assert names[-1] == "frame 29 of 29"
    assert len(names) == FRAMES


def test_the_second_picture_of_a_phone_s_file_is_judged_if_it_is_there() -> None:
    data = animated("MPO", [GREEN, (250, 5, 5)])
    views = picture_views(data, SPEC)
    assert views.names == ("centre", "frame 2 of 2, centre")
    assert reddest(views) > 0.9
    second = data.index(b"\xff\xd8\xff", 100)
    assert picture_views(data[:second], SPEC).names == ("centre",)


@pytest.mark.parametrize("format", ["WEBP", "TIFF", "PNG"])
def test_a_damaged_later_frame_fails_the_picture(format: str) -> None:
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)) for _ in range(4)]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=100)
    assert len(picture_views(data, SPEC).names) == 4
    with pytest.raises(ImageError):
        picture_views(data[: len(data) * 3 // 4], SPEC)


def test_pages_are_held_to_the_limit_one_by_one_and_frames_together() -> None:
    pages = [Image.new("RGB", (8, 8)), Image.new("RGB", (100, 100))]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="10000 pixels"):
        picture_views(data, SPEC, max_pixels=9_999)
    film = animated("GIF", [(n * 3, 0, 0) for n in range(60)])
    with pytest.raises(ImageError, match="60 frames"):
        picture_views(film, SPEC, max_pixels=32 * 32)


def test_the_encoder_s_points_are_those_of_the_first_views(toy_bundle: Path) -> None:
    encoder = Encoder.load(toy_bundle, threads=1)
    pictures = [spotted(48, 16, 0, 0, 16), spotted(16, 16, 0, 0, 1)]
    points, judged = encoder.judge_image(pictures)
    np.testing.assert_allclose(points, encoder.encode_image(pictures), rtol=1e-5, atol=1e-6)
    assert (judged[0].worst, judged[0].views) == ("crop 1 of 5", 4)
    assert judged[0].radius == pytest.approx(2.5, abs=0.05)
    assert (judged[1].worst, judged[1].views) == ("centre", 1)


def test_a_file_that_is_no_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_picture(tmp_path / "none.png")
