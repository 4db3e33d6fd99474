"""Statistics of a model's own pictures in its bundle: `python -m hysac_export.bundle.inputs FOLDER --domain WORDS`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image

from hysac_export.data.split import draw_split
from hysac_export.evaluation.subjects import bundle_subject, validation_split
from hysac_retrieval.encoder.bundle import Bundle, write_manifest
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.inputs import Inputs, PictureStatistics, picture_counts
from hysac_retrieval.encoder.preprocess import preprocess

ENLARGED = (2, 4)
"""Scenes are drawn larger too, so that the size of a picture makes none unlike them."""


def add_inputs(folder: Path, domain: str, n: int = 1000) -> Bundle:
    """Put the statistics of n quadruplets of the validation split, and what the model knows, into a bundle.

    Its fingerprint stays.

    Raises:
        BundleError: There is no bundle, or a damaged one.
        SourceError, TrainingError: The validation split is not to be had.
    """
    bundle = Bundle.load(folder)
    encoder = Encoder(bundle, device="cpu")
    subject, spec = bundle_subject(encoder), encoder.image_spec
    drawn = validation_split(subject, n)
    pixels = [drawn.safe_image, drawn.unsafe_image]
    if subject.config is None:
        for times in ENLARGED:
            larger = draw_split("validation", n // 2, 1, times * spec.size)
            for picture in (*larger.safe_image, *larger.unsafe_image):
                pixels.append(preprocess(Image.fromarray(picture), spec)[None])
    inputs = Inputs(pictures=PictureStatistics.of(picture_counts(np.concatenate(pixels))))
    return write_manifest(folder, bundle.manifest.model_copy(update={"domain": domain, "inputs": inputs}))


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--domain", required=True, help="What the model knows, in words.")
@click.option("-n", default=1000, show_default=True, type=click.IntRange(100), help="Validation quadruplets.")
def main(folder: Path, domain: str, n: int) -> None:
    """Put what the bundle in FOLDER knows into its manifest."""
    click.echo(f"{folder} knows {domain}; fingerprint {add_inputs(folder, domain, n).fingerprint}")


if __name__ == "__main__":
    main()
