"""Words of the toybox's captions, as a tokenizer knows them, and the nearest known words to an unknown one."""

import difflib
from collections.abc import Sequence

# What people say for things the toybox knows by another name; only used to suggest words, never to train.
HINTS: dict[str, tuple[str, ...]] = {
    "animal": ("dog", "cat", "rabbit"),
    "vehicle": ("car", "bus", "train"),
    "ship": ("boat",),
    "truck": ("bus", "tractor"),
    "lorry": ("bus", "tractor"),
    "plant": ("flower", "tree", "cactus"),
    "fruit": ("apple", "banana", "pear"),
    "building": ("house", "castle", "lighthouse"),
    "tower": ("lighthouse", "castle"),
    "couch": ("sofa",),
    "cup": ("mug",),
    "horse": ("elephant", "dog"),
    "bird": ("duck", "owl", "penguin"),
    "dragon": ("dinosaur",),
    "man": ("gnome", "snowman", "robot"),
    "person": ("gnome", "snowman", "robot"),
    "teddy": ("bear",),
    "golden": ("yellow", "orange"),
    "navy": ("blue",),
    "magenta": ("pink", "purple"),
    "teal": ("cyan",),
    "crimson": ("red",),
    "beige": ("brown", "white"),
}


def nearest_words(word: str, known: Sequence[str], count: int = 3) -> list[str]:
    """Up to ``count`` known words near ``word``: by meaning where listed, else by spelling."""
    by_meaning = [hint for hint in HINTS.get(word, ()) if hint in known]
    by_spelling = difflib.get_close_matches(word, [k for k in known if k.isalpha()], n=count, cutoff=0.6)
    return list(dict.fromkeys([*by_meaning, *by_spelling]))[:count]
