"""Which words and weights each view gets."""

import math

import pytest
import torch

from dreamforge.cameras import orbit
from dreamforge.priors.mixture import MixturePrior, gaussian
from dreamforge.prompts import (
    BACK,
    FRONT,
    FRONT_SIDE,
    FRONT_SIDE_BACK,
    OVERHEAD,
    SIDE,
    SIDE_BACK,
    MaskedLanguageModel,
    ViewPrompts,
    blend,
    debiased,
    directions,
    shifted_decay,
)
from dreamforge.types import DreamforgeError, Embedding

WORDS = {"a hat, side view": 1.0, "a hat, front view": 2.0, "a hat, back view": 4.0, "a hat, top view": 8.0}
WORDS |= {"a hat": 16.0, "": 32.0, "ugly": 64.0}


class Counting:
    """A prior that embeds a text as one number and counts its calls."""

    def __init__(self):
        self.calls = 0

    def embed(self, prompts):
        self.calls += 1
        return Embedding({"n": torch.tensor([[WORDS[p]] for p in prompts])})


def cameras(azimuth_deg, elevation_deg):
    azimuth, elevation = torch.tensor(azimuth_deg), torch.tensor(elevation_deg)
    return orbit(azimuth.deg2rad(), elevation.deg2rad(), 3.0, 0.7, 8, 8)


def numbers(embedding):
    return embedding.tensors["n"][:, 0].tolist()


@pytest.mark.parametrize(
    ("azimuth", "elevation", "direction"),
    [
        (0.0, 0.0, FRONT), (44.9, 0.0, FRONT), (-44.9, 0.0, FRONT), (45.1, 0.0, SIDE), (-45.1, 0.0, SIDE),
        (90.0, 0.0, SIDE), (134.9, 0.0, SIDE), (135.1, 0.0, BACK), (-134.9, 0.0, SIDE), (-135.1, 0.0, BACK),
        (179.9, 0.0, BACK), (180.0, 0.0, BACK), (-180.0, 0.0, BACK), (180.1, 0.0, BACK), (225.1, 0.0, SIDE),
        (315.1, 0.0, FRONT), (360.0, 0.0, FRONT), (-314.9, 0.0, SIDE), (-315.1, 0.0, FRONT), (720.0, 0.0, FRONT),
        (0.0, 59.9, FRONT), (0.0, 60.1, OVERHEAD), (180.0, 60.1, OVERHEAD), (90.0, 89.0, OVERHEAD),
        (180.0, -80.0, BACK),
    ],
)  # fmt: skip
def test_direction_of_a_view(azimuth, elevation, direction):
    """side; front if |az| < 45; back if |az| > 135; overhead if elevation > 60; az wrapped to [-180, 180)."""
    got = directions(ViewPrompts(), torch.tensor([azimuth]), torch.tensor([elevation]))
    assert got.tolist() == [direction]


def test_the_text_of_each_view():
    prior = Counting()
    prompts = ViewPrompts().build("a hat", prior)
    embedded = prior.calls
    condition = prompts.at(cameras([0.0, 90.0, 180.0, 10.0], [0.0, 0.0, 0.0, 80.0]), 4)
    assert numbers(condition.text) == [2.0, 1.0, 4.0, 8.0]
    assert numbers(condition.plain) == [16.0] * 4 and numbers(condition.uncond) == [32.0] * 4
    assert condition.negatives == () and len(condition.cameras) == 4
    assert prior.calls == embedded, "embedded once, only indexed afterwards"


def test_front_and_back_may_be_narrower():
    """ProlificDreamer and MVDream use 30 degrees."""
    spec = ViewPrompts(front_deg=30, back_deg=30)
    azimuth = torch.tensor([29.0, 31.0, 149.0, 151.0])
    assert directions(spec, azimuth, torch.zeros(4)).tolist() == [FRONT, SIDE, SIDE, BACK]


def test_plain_text_without_cameras_or_when_switched_off():
    for spec, seen in [(ViewPrompts(), None), (ViewPrompts(enabled=False), cameras([0.0, 180.0], [0.0, 0.0]))]:
        condition = spec.build("a hat", Counting()).at(seen, 2)
        assert numbers(condition.text) == numbers(condition.plain) == [16.0, 16.0]
        assert condition.cameras is seen


def test_the_negative_text_is_the_unconditional_one():
    condition = ViewPrompts().build("a hat", Counting(), negative="ugly").at(None, 2)
    assert numbers(condition.uncond) == [64.0, 64.0]


def test_weights_of_perp_neg():
    """f(r) = a exp(-b r) + c: f_fs(0) = 1.574, f_fs(1) = 0; f_sb 0.394 -> 0.001; f_fsb 1.967 -> 1.574."""
    r = torch.tensor([0.0, 1.0])
    for constants, ends in [(FRONT_SIDE, (1.574, 0.0)), (SIDE_BACK, (0.394, 0.001)), (FRONT_SIDE_BACK, (1.967, 1.574))]:
        assert shifted_decay(*constants, r).tolist() == pytest.approx(ends, abs=6e-4)


def test_perp_neg_blends_texts_and_weights():
    """|az| < 90: r front + (1 - r) side, r = 1 - |az|/90; else r side + (1 - r) back, r = 2 - |az|/90."""
    prompts = ViewPrompts(perp_neg=True).build("a hat", Counting())
    azimuth = [0.0, -45.0, 89.999, 90.0, 135.0, -180.0, 20.0]
    condition = prompts.at(cameras(azimuth, [0.0] * 6 + [70.0]), 7)
    assert numbers(condition.text) == pytest.approx([2.0, 1.5, 1.0, 1.0, 2.5, 4.0, 8.0], abs=1e-4)
    (first, w1), (second, w2) = condition.negatives
    assert numbers(first)[:6] == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]  # front, front, front, side, side, side
    assert numbers(second)[:6] == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]

    def f(constants, r):
        return constants[0] * math.exp(-constants[1] * r) + constants[2]

    half = f(FRONT_SIDE, 0.5)
    expected_1 = [0.0, -half, -1.574, -0.001, -f(SIDE_BACK, 0.5), -0.394, 0.0]
    expected_2 = [-1.574, -half, 0.0, -1.574, -f(FRONT_SIDE_BACK, 0.5), -1.967, 0.0]
    assert w1.tolist() == pytest.approx(expected_1, abs=1e-3)
    assert w2.tolist() == pytest.approx(expected_2, abs=1e-3)


def test_blend_keeps_what_cannot_be_interpolated():
    """share a + (1 - share) b for floats, union of masks, the nearer row of ids."""
    a = Embedding({"f": torch.zeros(2, 3), "mask": torch.tensor([[True, False]] * 2), "ids": torch.ones(2, 1).long()})
    b = Embedding({"f": torch.ones(2, 3), "mask": torch.tensor([[False, False]] * 2), "ids": torch.zeros(2, 1).long()})
    mixed = blend(a, b, torch.tensor([0.25, 0.75])).tensors
    assert mixed["f"][:, 0].tolist() == [0.75, 0.25]
    assert mixed["mask"].tolist() == [[True, False]] * 2
    assert mixed["ids"].tolist() == [[0], [1]]


def test_a_blend_of_two_gaussians_is_the_one_in_between():
    means = {"a": 0.0, "b": 1.0}
    prior = MixturePrior(lambda text: gaussian(torch.full((3, 2, 2), means[text]), 0.1), 2)
    mixed = blend(prior.embed(["a"]), prior.embed(["b"]), torch.tensor([0.75]))
    torch.testing.assert_close(mixed.tensors["means"], torch.full((1, 1, 3, 2, 2), 0.25))


def test_wrong_input():
    with pytest.raises(DreamforgeError, match="prompt is empty"):
        ViewPrompts().build("  ", Counting())
    with pytest.raises(DreamforgeError, match="overhead_deg"):
        ViewPrompts(overhead_deg=100)


def table(probabilities):
    """p(view | text) from a table; a text that is not in it says nothing about the view."""
    return lambda text: torch.tensor(probabilities.get(text, [0.25, 0.25, 0.25, 0.25]))


def test_debiasing_drops_the_words_that_speak_against_a_view():
    """A word goes where p_full / (p_full/2 + p_part/2) < 0.95: "smiling" makes the back less likely than without it."""
    p = {
        "a smiling cat": [0.25, 0.6, 0.05, 0.1],
        "smiling cat": [0.25, 0.6, 0.05, 0.1],  # "a" says nothing
        "a cat": [0.3, 0.3, 0.3, 0.1],
        "a smiling": [0.25, 0.58, 0.06, 0.11],  # "cat": 0.05 / 0.055 = 0.91 at the back, 0.1 / 0.105 = 0.952 on top
    }
    side, front, back, overhead = debiased("a smiling cat", table(p))
    assert (side, front, back, overhead) == ("a cat", "a smiling cat", "a", "a smiling cat")
    assert debiased("a smiling cat", table({})) == ["a smiling cat"] * 4


def masked_language_model(folder, words=("side", "front", "back", "overhead")):
    """A BERT of the genuine classes, tiny and random, saved as a user's would be."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    text = ["This", "image", "is", "depicting", "a", "view", "of", "hat", "red", *words]
    vocabulary = {word: k for k, word in enumerate([*special, *text])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), initializer_range=2.0, **sizes))
    model.save_pretrained(folder)


def test_a_masked_language_model_from_a_folder(tmp_path):
    masked_language_model(tmp_path)
    model = MaskedLanguageModel(tmp_path)
    p, other = model("a red hat"), model("a hat")
    assert p.shape == (4,) and p.sum().item() == pytest.approx(1) and not torch.allclose(p, other)
    texts = []

    class Listening(Counting):
        def embed(self, prompts):
            texts.extend(prompts)
            return Embedding({"n": torch.zeros(len(prompts), 1)})

    ViewPrompts(debias=str(tmp_path)).build("a red hat", Listening())
    suffixes = [", side view", ", front view", ", back view", ", top view"]
    assert texts[:4] == [a + b for a, b in zip(debiased("a red hat", model), suffixes, strict=True)]
    assert texts[4] == "a red hat", "the plain text stays whole"


def test_a_folder_without_a_language_model_is_said(tmp_path):
    with pytest.raises(DreamforgeError, match=r"prompts.debias is .*bert-base-uncased.*or to ''") as error:
        ViewPrompts(debias=str(tmp_path)).build("a hat", Counting())
    assert "\n" not in str(error.value)
    masked_language_model(tmp_path, words=("side", "front", "back"))
    with pytest.raises(DreamforgeError, match="does not know all of the words side, front, back, overhead"):
        ViewPrompts(debias=str(tmp_path)).build("a hat", Counting())
