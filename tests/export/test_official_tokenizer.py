"""CLIP's tokenizer against open_clip's own."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from open_clip.tokenizer import SimpleTokenizer
from support.golden import golden_path
from support.toy_bundle import tokenizer as toy_tokenizer

from hysac_export.model.clip_tokenizer import END, START, clip_tokenizer, read_tokenizer
from hysac_retrieval.encoder.tokenization import TextTokenizer
from hysac_retrieval.errors import TrainingError

REFERENCE = SimpleTokenizer()

WRITTEN = [
    "a dog",
    "Two DOGS, three cats & 1 bird!",
    "it's John's; we're they'll I'd can't won't 'tis",
    "100,000.50 $ € £ — 3/4",
    "naïve café, Ünïcödé, e\u0301 and \u00e9",
    "日本語 テキスト 漢字 中文",
    "emoji 😀👍🏽👩\u200d👩\u200d👧 test",
    "“curly” ‘quotes’ don’t „low‟",
    "ﬁre ﬂow oﬃce ﬆop",
    "ＦＵＬＬ ｗｉｄｔｈ １２！",
    "mixed\ttabs\nnew\r\nlines\u00a0nbsp\u2003em",
    "   leading and trailing   ",
    "foo_bar-baz/qux.com?x=1",
    "ΑΒΓΔ ΣΑΣ Σ σας",
    "ПРИВЕТ мир עברית العربية हिन्दी ไทย",
    "STRASSE ß ẞ ½ ² № ™",
    "İstanbul DŽ Ǆ",
    "x'''''y !?!?...--- ~~~",
    "null\x00 and bell\x07 and bom\ufeff",
    "a" * 300,
    "word " * 100,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]
POOLS = (
    "abcdefghijklmnopqrstuvwxyz     ",
    "ABCdefXYZ '-,.!?0123456789   ",
    "éèüñçåøæœß ÀÉ ab ",
    "абвг АБВ ",
    "漢字仮名 ",
    "😀🎉a ",
)


def drawn(n: int) -> list[str]:
    rng = random.Random(0)
    texts = ["".join(rng.choice(rng.choice(POOLS)) for _ in range(rng.randrange(1, 90))) for _ in range(n)]
    # Runs from one pool, so that there are long words to merge.
    texts += ["".join(rng.choices(rng.choice(POOLS), k=rng.randrange(1, 90))) for _ in range(n)]
    return [text for text in texts if text.strip()]


@pytest.fixture(scope="module")
def ours() -> TextTokenizer:
    return TextTokenizer(*read_tokenizer(None, 49_408, 77))


@pytest.mark.parametrize("texts", [WRITTEN, drawn(200)], ids=["written", "drawn"])
def test_ids_are_those_of_open_clip(ours: TextTokenizer, texts: list[str]) -> None:
    for text, row in zip(texts, ours(texts), strict=True):
        np.testing.assert_array_equal(row, REFERENCE([text])[0].numpy(), err_msg=repr(text))


def test_a_text_that_is_too_long_keeps_its_end_token(ours: TextTokenizer) -> None:
    row = ours(["dog " * 100])[0]
    assert (row[0], row[-1]) == (49_406, 49_407)
    assert (row[1:-1] == row[1]).all()


def test_special_tokens_that_are_written_are_ordinary_characters(ours: TextTokenizer) -> None:
    row = ours([f"a {START} b {END} c"])[0]
    assert (row == 49_406).sum() == (row == 49_407).sum() == 1


def test_every_byte_has_a_token() -> None:
    tokenizer = clip_tokenizer()
    assert tokenizer.get_vocab_size() == 49_408
    for text in (chr(code) for code in (*range(0x21, 0x250), 0x0E01, 0x4E00, 0x1F600, 0x10FFFF)):
        if not text.isspace() and not 0x7F <= ord(text) <= 0x9F:
            assert len(tokenizer.encode(text).ids) > 2, hex(ord(text))


def test_another_vocabulary_needs_its_own_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--tokenizer"):
        read_tokenizer(None, 256, 77)
    tiny = golden_path("tiny_model") / "tokenizer.json"
    tokenizer, spec = read_tokenizer(tiny, 256, 77)
    assert (spec.context_length, spec.end_id, spec.pad_id) == (77, 255, 0)
    assert TextTokenizer(tokenizer, spec)(["A dog"])[0, :8].tolist() == [254, 64, 220, 67, 78, 70, 255, 0]
    with pytest.raises(TrainingError, match="256 tokens"):
        read_tokenizer(tiny, 300, 77)
    with pytest.raises(TrainingError, match=r"no tokenizer\.json"):
        read_tokenizer(Path(__file__), 256, 77)
    bare = json.loads(tiny.read_text()) | {"post_processor": None}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    with pytest.raises(TrainingError, match="start token first"):
        read_tokenizer(tmp_path / "bare.json", 256, 77)


def test_a_tokenizer_of_our_own_keeps_its_padding(tmp_path: Path) -> None:
    words = toy_tokenizer()
    words.save(str(tmp_path / "tokenizer.json"))
    spec = read_tokenizer(tmp_path / "tokenizer.json", words.get_vocab_size(), 8)[1]
    assert (spec.pad_id, spec.end_id) == (words.token_to_id("<pad>"), words.get_vocab_size() - 1)
