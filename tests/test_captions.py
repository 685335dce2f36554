"""Captions say what is there, in words of the vocabulary, and the prior's tokenizer reads them back."""

import re
from collections import Counter

import numpy as np
import pytest

from dreamforge.priors.examples import new_tokenizer
from dreamforge.priors.toybox import MAX_TOKENS, tokenize, unknown_words
from dreamforge.prompts import ViewPrompts
from dreamforge.toybox import captions
from dreamforge.toybox.captions import Label, caption, direction
from dreamforge.toybox.catalog import ACCESSORIES, KINDS
from dreamforge.toybox.colors import COLOR_SYNONYMS, COLORS

VIEW_WORDS = {
    "front": {"front"},
    "side": {"side"},
    "back": {"back", "rear", "behind"},
    "top": {"top", "overhead", "above"},
}


def labels(count: int, seed: int = 0) -> list[Label]:
    """Random labels, as training draws them."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        kind = list(KINDS)[rng.integers(len(KINDS))]
        color, second = rng.choice(list(COLORS), 2, replace=False)
        options = (None, *KINDS[kind].accessories)
        angles = rng.uniform(-np.pi, np.pi), rng.uniform(-0.3, 1.5)
        found.append(Label(kind, str(color), options[rng.integers(len(options))], str(second), *angles))
    return found


def split(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+|,", text)


def test_every_word_is_in_the_vocabulary():
    rng, vocabulary = np.random.default_rng(1), set(captions.words())
    used = Counter(word for label in labels(6000) for word in split(caption(label, rng)))
    assert set(used) <= vocabulary
    assert vocabulary - set(used) == set(), "a word that no caption uses"


def test_words_are_sorted_single_and_unique():
    words = captions.words()
    assert words == sorted(set(words))
    assert all(re.fullmatch(r"[a-z0-9]+|,", word) for word in words)


def test_captions_name_kind_colour_and_accessory():
    rng = np.random.default_rng(2)
    for label in labels(1500):
        words = split(caption(label, rng, view_share=0.0, color_share=1.0))
        assert set(words) & {label.kind, *KINDS[label.kind].synonyms}
        assert set(words) & {label.color, *COLOR_SYNONYMS.get(label.color, ())}
        if label.accessory is not None:
            at = words.index(label.accessory)
            assert words[at - 1] in (label.second, *COLOR_SYNONYMS.get(label.second, ()))
        else:
            assert not set(words) & set(ACCESSORIES) - {label.kind}


def test_shares_of_colour_and_view():
    rng, chosen = np.random.default_rng(3), labels(4000)
    plain = [label for label in chosen if label.accessory is None]
    shades = {shade for color in COLORS for shade in (color, *COLOR_SYNONYMS.get(color, ()))}
    colored = np.mean([bool(set(split(caption(label, rng, 0.0, 0.7))) & shades) for label in plain])
    assert colored == pytest.approx(0.7, abs=0.03)
    spoken = set().union(*VIEW_WORDS.values())
    viewed = np.mean([bool(set(split(caption(label, rng, 0.3))) & spoken) for label in chosen])
    assert viewed == pytest.approx(0.3, abs=0.03)


def test_the_view_phrase_is_that_of_the_direction():
    rng = np.random.default_rng(4)
    seen = Counter()
    for label in labels(3000):
        words = set(split(caption(label, rng, view_share=1.0)))
        bin = direction(label.azimuth, label.elevation)
        assert words & VIEW_WORDS[bin]
        others = set().union(*(VIEW_WORDS[other] for other in VIEW_WORDS if other != bin))
        assert not words & others
        seen[bin] += 1
    assert set(seen) == set(VIEW_WORDS)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [(0, 0, "front"), (44, 0, "front"), (-44, 10, "front"), (46, 0, "side"), (-90, 0, "side"), (134, 0, "side"),
     (136, 0, "back"), (180, 0, "back"), (-180, 0, "back"), (540, 0, "back"), (360, 0, "front"), (-271, 0, "side"),
     (0, 61, "top"), (180, 80, "top"), (90, 59, "side")],
)  # fmt: skip
def test_directions(azimuth, elevation, expected):
    assert direction(np.radians(azimuth), np.radians(elevation)) == expected


def test_directions_are_those_of_view_dependent_prompts():
    """What the engine appends to a prompt is what captions call that view."""
    spec, rng = ViewPrompts(), np.random.default_rng(5)
    suffixes = {"front": spec.front, "side": spec.side, "back": spec.back, "top": spec.overhead}
    for bin, suffix in suffixes.items():
        assert set(split(suffix)) & VIEW_WORDS[bin]
        assert set(split(suffix)) <= set(captions.words())
    for azimuth, elevation in zip(rng.uniform(-180, 180, 300), rng.uniform(-20, 90, 300), strict=True):
        front, back = abs(azimuth) < spec.front_deg, abs(azimuth) > 180 - spec.back_deg
        expected = "top" if elevation > spec.overhead_deg else "front" if front else "back" if back else "side"
        assert direction(np.radians(azimuth), np.radians(elevation)) == expected


def test_articles():
    rng = np.random.default_rng(6)
    texts = [caption(Label("apple", "orange", None, None), rng) for _ in range(200)]
    texts += [caption(label, rng) for label in labels(2000)]
    assert any(re.search(r"\ban orange\b", text) for text in texts)
    for text in texts:
        assert not re.search(r"\ba [aeiou]", text), text
        assert not re.search(r"\ban [^aeiou]", text), text
        assert "  " not in text and "{" not in text and text == text.strip()


def test_captions_vary_and_repeat_with_the_generator():
    label = Label("car", "red", "stripe", "white", 0.1, 0.2)
    many = [caption(label, np.random.default_rng(seed)) for seed in range(200)]
    assert len(set(many)) > 60
    assert many == [caption(label, np.random.default_rng(seed)) for seed in range(200)]


def test_the_tokenizer_reads_every_caption_and_ends_it():
    tokenizer, rng = new_tokenizer(), np.random.default_rng(7)
    texts = [caption(label, rng, view_share=1.0) for label in labels(800)]
    tokens = tokenize(tokenizer, texts)
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    assert ids.shape == (800, MAX_TOKENS)
    assert not (ids == tokenizer.unk_token_id).any()
    last = mask.sum(1) - 1
    assert (ids.gather(1, last[:, None]) == tokenizer.eos_token_id).all(), "a caption is longer than MAX_TOKENS"
    assert ((ids == tokenizer.pad_token_id) == (mask == 0)).all()
    assert tokenizer.decode(ids[0], skip_special_tokens=True).split() == split(texts[0])


def test_unknown_words_become_unk():
    tokenizer = new_tokenizer()
    ids = tokenizer("A red Zeppelin")["input_ids"]
    assert ids == [*tokenizer.convert_tokens_to_ids(["a", "red", "<unk>"]), tokenizer.eos_token_id]
    assert unknown_words(tokenizer, "A red Zeppelin with a green scarf") == ["zeppelin"]
    assert unknown_words(tokenizer, "a red mushroom, front view") == []


def test_special_tokens_keep_clear_of_clip():
    """CLIPTextModel pools by its legacy rule where eos is 2: whatever the vocabulary, ours must be another."""
    tokenizer = new_tokenizer()
    assert tokenizer.eos_token_id not in (None, 2)
    special = {tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id}
    assert len(special) == 3
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_a_saved_tokenizer_is_read_back_the_same(tmp_path):
    """AutoTokenizer reads the saved folder right; CLIPTokenizer would silently give other ids."""
    from transformers import AutoTokenizer, CLIPTokenizer

    tokenizer, rng = new_tokenizer(), np.random.default_rng(8)
    tokenizer.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert not isinstance(read, CLIPTokenizer)
    texts = [*(caption(label, rng) for label in labels(100)), "a red zeppelin", "", "An ORANGE apple"]
    assert read(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert read.get_vocab() == tokenizer.get_vocab()
    for name in ("pad_token_id", "unk_token_id", "eos_token_id", "model_max_length", "padding_side"):
        assert getattr(read, name) == getattr(tokenizer, name)
