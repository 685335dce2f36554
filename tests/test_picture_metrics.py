"""Metrics of flat pictures against known colours and known pictures; true renders; sheets that can be read back."""

import io

import pytest
import torch
from PIL import Image
from torch import Tensor

from dreamforge.evaluation import picture_metrics as metrics
from dreamforge.evaluation import truths
from dreamforge.evaluation.judge import shipped
from dreamforge.evaluation.network import Judge, Labels
from dreamforge.evaluation.samples import judged
from dreamforge.evaluation.sheet import LETTER, cut, sheet
from dreamforge.evaluation.truths import true_renders
from dreamforge.evaluation.verdict import Votes
from dreamforge.evaluation.wanted import Wanted, right
from dreamforge.rng import generator
from dreamforge.toybox.objects import make

LABELS = Labels.of_toybox()


def plain(*colors: tuple[float, float, float], size: int = 8) -> Tensor:
    return torch.tensor(colors).view(-1, 1, 1, 3).expand(-1, size, size, 3).clone()


def noise(count: int = 2, size: int = 16) -> Tensor:
    return torch.rand(count, size, size, 3, generator=generator(1))


def test_saturation_of_known_colors() -> None:
    found = metrics.saturation(plain((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.25, 0.25), (0.0, 0.0, 0.0)))
    assert found.tolist() == pytest.approx([1.0, 0.0, 0.5, 0.0])


def test_clipped_counts_channels() -> None:
    assert metrics.clipped(plain((1.0, 0.5, 0.0), (0.02, 0.5, 0.98))).tolist() == pytest.approx([2 / 3, 0.0])


def test_lab_of_published_colors() -> None:
    """sRGB primaries and white under D65 (Lindbloom's tables)."""
    found = metrics.lab(torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]))
    known = [[100, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86], [0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(known), atol=0.05, rtol=0)


def test_color_distance_is_delta_e_of_plain_pictures_and_blind_to_places() -> None:
    a, b = (0.8, 0.2, 0.2), (0.2, 0.3, 0.7)
    apart = metrics.lab(torch.tensor([a])) - metrics.lab(torch.tensor([b]))
    assert float(metrics.color_distance(plain(a), plain(b, b))) == pytest.approx(float(apart.norm()), rel=1e-4)
    picture = noise(1)
    assert float(metrics.color_distance(picture, picture.flip(1, 2))) == pytest.approx(0.0, abs=1e-4)
    framed = picture.clone()
    framed[:, 0] = 0.0  # the border is not looked at
    assert float(metrics.color_distance(framed, picture)) == pytest.approx(0.0, abs=1e-4)


def test_sharpness_is_in_octaves_of_energy() -> None:
    picture = noise()
    sharp = metrics.sharpness(picture)
    torch.testing.assert_close(metrics.sharpness(picture / 2), sharp - 2.0, atol=1e-3, rtol=0)
    blurred = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1), 3, 1, 1).movedim(1, -1)
    assert (metrics.sharpness(blurred) < sharp - 2).all()
    ramp = torch.linspace(0, 1, 16).view(1, 1, 16, 1).expand(1, 16, 16, 3)
    assert float(metrics.sharpness(ramp)) < -30  # a slope has no edge


def test_diversity_is_the_mean_over_pairs() -> None:
    black_white = plain((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    assert metrics.color_diversity(black_white) == pytest.approx(200 / 3, rel=1e-3)
    judge = shipped()
    same, other = noise(1, 64).repeat(2, 1, 1, 1), noise(2, 64)
    assert metrics.feature_diversity(judge, same) == pytest.approx(0.0, abs=1e-3)
    assert metrics.feature_diversity(judge, other) > 0.01


def test_features_are_what_the_heads_look_at() -> None:
    judge, pictures = Judge(LABELS, (8, 8, 8, 8)).eval(), torch.rand(2, 3, 64, 64, generator=generator(0))
    torch.nn.init.normal_(judge.heads.weight, generator=generator(2))
    torch.testing.assert_close(judge.heads(judge.features(pictures))[:, :4], judge(pictures).kind[:, :4])


def test_the_own_prompt_must_rank_first_of_all() -> None:
    prompts = [Wanted("owl", "red"), Wanted("pig", "blue"), Wanted("car", "green")]
    kind, color = torch.zeros(3, LABELS.nothing + 1), torch.zeros(3, len(LABELS.colors))
    kind[0, LABELS.kinds.index("owl")] = 1.0
    kind[1, LABELS.kinds.index("pig")] = 1.0
    color[1, LABELS.colors.index("red")] = 2.0  # the colour of prompt 0 outweighs the kind of prompt 1
    empty = torch.zeros(3)
    votes = Votes(kind, color, color, kind, empty, empty)
    assert metrics.ranks_first(LABELS, votes, 0, prompts).tolist() == [True, True, False]  # a tie is lost
    assert metrics.ranks_first(LABELS, votes, 1, prompts).tolist() == [False, False, False]


def test_true_renders_show_what_was_asked_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(truths, "make", lambda kind, worn, seed: (seeds.append(seed), make(kind, worn, seed))[1])
    asked = Wanted("apple", "blue")
    renders = true_renders(asked, 4, seed=5)
    assert len(set(seeds)) == 4  # proportions of their own
    assert renders.shape == (4, 64, 64, 3) and renders.min() >= 0 and renders.max() <= 1
    assert torch.equal(renders, true_renders(asked, 4, seed=5))
    assert not torch.equal(renders, true_renders(asked, 4, seed=6))
    assert len(renders.flatten(1).unique(dim=0)) == 4
    (verdicts,) = judged(shipped(), renders[None])
    assert sum(right(verdict, asked) for verdict in verdicts) >= 3


def test_pictures_come_back_from_a_sheet() -> None:
    pictures = [metrics.as_saved(picture) for picture in torch.rand(5, 6, 20, 3, generator=generator(3))]
    content = sheet(pictures, [("words", "below")] * 5, [True] * 5, columns=2)
    with Image.open(io.BytesIO(content)) as image:
        assert image.width < 3 * 20 < 3 * (6 + 2 * LETTER) < image.height  # two columns, three rows
    for back, picture in zip(cut(content, 5, 6, 20, 2), pictures, strict=True):
        torch.testing.assert_close(back, picture)
