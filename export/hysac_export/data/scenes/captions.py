"""Captions of scenes: many templates, synonyms and orders of mention, the same for safe and unsafe scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hysac_export.data.scenes.catalogue import catalogue
from hysac_export.data.scenes.sampling import Scene

MAX_WORDS = 27
"""Captions are no longer than this, so that their tokens fit a short context."""

SETTING_SHARE = 0.7
LIGHT_SHARE = 0.35

_LINKS = (
    "and", "and", "with", "with", "with", "next to", "beside", "near",
    "together with", "along with", "close to", "by", "plus",
)  # fmt: skip

_WITH_PLACE = (
    "{things} {place}", "{things} {place}", "{things} {place}", "{things}, {place}", "{place}, {things}",
    "{place} there is {things}", "{place} we see {things}", "{place} you can find {things}",
    "{place} one can see {things}", "there is {things} {place}", "here is {things} {place}",
    "we see {things} {place}", "you can see {things} {place}", "{things} can be seen {place}",
    "{things} seen {place}", "a photo of {things} {place}", "a photo {place} of {things}",
    "a photo {place}: {things}", "a picture of {things} {place}", "a picture {place} with {things}",
    "an image of {things} {place}", "an image {place}: {things}", "a drawing of {things} {place}",
    "an illustration of {things} {place}", "a cartoon of {things} {place}", "a scene {place} with {things}",
    "a scene with {things} {place}", "a view of {things} {place}", "a snapshot of {things} {place}",
    "a snapshot {place}: {things}", "this picture shows {things} {place}", "the picture shows {things} {place}",
    "the image contains {things} {place}", "{place}: {things}",
)  # fmt: skip
_WITHOUT_PLACE = (
    "{things}", "{things}", "{things}", "{things}", "there is {things}", "here is {things}", "we see {things}",
    "you can see {things}", "{things} in one picture", "a photo of {things}", "a picture of {things}",
    "an image of {things}", "a drawing of {things}", "an illustration of {things}", "a cartoon of {things}",
    "a scene with {things}", "a view of {things}", "a snapshot of {things}", "this picture shows {things}",
    "the picture shows {things}", "the image contains {things}",
)  # fmt: skip


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene: all its entities, its setting in 70 % of the captions and its light in 35 %.

    Lower case, at most `MAX_WORDS` words; `rng` chooses words, order and template. The label plays no part.
    """
    known = catalogue()
    draws = iter(rng.random(24).tolist())

    def pick(items: Sequence[str]) -> str:
        return items[int(next(draws) * len(items))]

    order = sorted(scene.entities, key=lambda _: next(draws))
    articles = next(draws)
    nouns = [_phrase(pick(known.entities[e].nouns), articles, pick) for e in order]
    cut = 1 + int(next(draws) * (len(nouns) - 1))
    link = pick(_LINKS)
    bare = ", ".join(nouns) if articles < 0.06 else ""
    things = bare or (_join(nouns) if link == "and" else f"{_join(nouns[:cut])} {link} {_join(nouns[cut:])}")
    places = [pick(known.settings[scene.setting].phrases)] if next(draws) < SETTING_SHARE else []
    if next(draws) < LIGHT_SHARE:
        places.insert(int(next(draws) < 0.25), pick(known.lights[scene.light].phrases))
        places.reverse()
    template = pick(_WITH_PLACE if places else _WITHOUT_PLACE)
    text = template.format(things=things, place=" ".join(places))
    return text if len(text.split()) <= MAX_WORDS else things


def named(entity: str) -> str:
    """The usual name of an entity of the catalogue with its article, such as ``"a dog"`` or ``"some bread"``."""
    return _phrase(catalogue().entities[entity].nouns[0], 1.0, lambda words: words[0])


def _phrase(noun: str, articles: float, pick: Callable[[Sequence[str]], str]) -> str:
    """A noun with its article; `articles` in [0, 1) is the manner of the whole caption, so that it is not mixed."""
    mass = noun.startswith("some ")
    word = noun.removeprefix("some ")
    if articles < 0.06:  # as people type keywords
        return word
    if articles < 0.16:
        return f"the {word}"
    if mass:
        return pick((noun, word))
    return f"{'an' if word[0] in 'aeiou' and not word.startswith(('one', 'uni')) else 'a'} {word}"


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
