"""Animals of the toybox."""

import numpy as np

from dreamforge.toybox.kind import Kind
from dreamforge.toybox.kinds.wear import eyes, on_ball, smile, soft, turned, worn
from dreamforge.toybox.shapes import Part, ball, capsule, cylinder, dome, lathe, mirrored, ring, tube


def cat(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    fat, ear, side = rng.uniform(0.34, 0.42), rng.uniform(0.28, 0.38), 2 * int(rng.integers(2)) - 1
    neck = rng.uniform(0.78, 0.92)
    h = neck + 0.26
    head = [
        ball((0, h, 0.1), (0.42, 0.35, 0.35), "main", 16),
        *mirrored(cylinder((0.23, h + 0.16, 0.06), (0.33, h + 0.26 + ear, 0.06), 0.19, "main", 0.02, 12)),
        *mirrored(cylinder((0.23, h + 0.17, 0.15), (0.31, h + 0.12 + ear, 0.14), 0.12, "blush", 0.02, 12)),
        *eyes((0.18, h + 0.06, 0.36), 0.125),
        *mirrored(ball((0.08, h - 0.12, 0.4), (0.11, 0.085, 0.09), "paper", 12)),
        ball((0, h - 0.04, 0.48), (0.065, 0.05, 0.05), "blush", 12),
    ]
    curl = [(0, 0.1, -0.3), (0.25, 0.09, -0.5), (0.5, 0.16, -0.5), (0.64, 0.36, -0.42), (0.62, 0.6, -0.4)]
    rise = rng.uniform(0.9, 1.3)
    tail = [(side * x, rise * y, z) for x, y, z in curl]
    return [
        lathe(soft([(0, 0), (fat, 0), (fat * 1.15, 0.2), (fat * 0.9, 0.5), (0.22, neck), (0, neck + 0.1)]), "main"),
        *mirrored(capsule((0.13, 0.1, fat + 0.02), (0.15, 0.5, 0.2), 0.105, "main", 12)),
        *mirrored(ball((fat * 0.85, 0.2, 0.08), (0.2, 0.22, 0.28), "main", 14)),
        *[tube(tail, 0.09, "main"), ball(tail[-1], 0.09, "main", 12)],
        *turned(head, "z", rng.uniform(-10, 10), (0, neck, 0)),
        *worn(accessory, collar=((0, neck - 0.04, 0.03), 0.31), bow=((0, neck - 0.04, 0.4), 0.36, 0.31)),
    ]


def dog(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    leg, long, drop = rng.uniform(0.3, 0.42), rng.uniform(0.34, 0.46), rng.uniform(0.3, 0.42)
    body, h, front = leg + 0.22, leg + 0.8, long + 0.16
    head = [
        ball((0, h, front), (0.36, 0.34, 0.34), "main", 16),
        ball((0, h - 0.1, front + 0.34), (0.2, 0.17, 0.22), "cream", 16),
        ball((0, h - 0.01, front + 0.53), (0.1, 0.08, 0.07), "ink", 12),
        *eyes((0.16, h + 0.12, front + 0.27), 0.11),
        *mirrored(capsule((0.32, h + 0.2, front), (0.44, h + 0.2 - drop, front + 0.05), 0.13, "main", 12)),
    ]
    wag = rng.uniform(-0.25, 0.25)
    tail = [(0, body + 0.1, -long), (wag * 0.5, body + 0.3, -long - 0.22), (wag, body + 0.58, -long - 0.24)]
    return [
        capsule((0, body, -long + 0.1), (0, body + 0.04, long - 0.05), 0.3, "main"),
        *mirrored(capsule((0.17, 0.12, -long + 0.05), (0.17, body, -long + 0.08), 0.12, "main", 12)),
        *mirrored(capsule((0.17, 0.12, long - 0.05), (0.17, body, long - 0.08), 0.12, "main", 12)),
        capsule((0, body + 0.05, long - 0.12), (0, h - 0.1, front - 0.05), 0.24, "main"),
        *[tube(tail, (0.11, 0.09, 0.07), "main"), ball(tail[-1], 0.07, "main", 12)],
        *turned(head, "z", rng.uniform(-12, 12), (0, h - 0.3, front)),
        *turned(worn(accessory, collar=((0, body + 0.2, front - 0.08), 0.29)), "x", 20, (0, body + 0.2, front - 0.08)),
    ]


def bear(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    belly, ear, spread = rng.uniform(0.38, 0.46), rng.uniform(0.14, 0.18), rng.uniform(0.24, 0.34)
    neck = belly + rng.uniform(0.36, 0.44)
    h, hand = neck + 0.28, rng.uniform(0.3, 0.7)
    head = [
        ball((0, h, 0.05), (0.42, 0.37, 0.36), "main", 16),
        *mirrored(ball((0.32, h + 0.3, 0), (ear, ear, 0.1), "main", 14)),
        *mirrored(ball((0.32, h + 0.3, 0.07), (ear * 0.62, ear * 0.62, 0.06), "cream", 12)),
        ball((0, h - 0.1, 0.34), (0.2, 0.16, 0.16), "cream", 12),
        ball((0, h - 0.03, 0.48), (0.085, 0.065, 0.06), "ink", 12),
        *eyes((0.16, h + 0.1, 0.34), 0.09),
    ]
    return [
        ball((0, belly, 0), (belly, belly * 1.08, belly * 0.9), "main", 18),
        ball((0, belly, belly * 0.42), (belly * 0.62, belly * 0.68, belly * 0.52), "cream", 18),
        *mirrored(capsule((spread, 0.16, 0.2), (spread + 0.12, 0.17, 0.55), 0.16, "main", 10)),
        *mirrored(ball((spread + 0.13, 0.18, 0.68), (0.11, 0.12, 0.06), "cream", 12)),
        *mirrored(capsule((0.3, neck - 0.12, 0.02), (0.56, hand, 0.2), 0.13, "main", 10)),
        ball((0, 0.2, -belly * 0.95), 0.12, "main", 12),
        *turned(head, "z", rng.uniform(-10, 10), (0, neck, 0)),
        *worn(accessory, scarf=((0, neck, 0.03), 0.3), bow=((0, neck - 0.04, 0.38), 0.34, 0.3)),
    ]


def rabbit(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    fat, ear, lean = rng.uniform(0.34, 0.42), rng.uniform(0.5, 0.72), rng.uniform(4, 20)
    h = fat * 2.1 + rng.uniform(0.2, 0.28)
    top = h + 0.2
    pair = [
        ball((0, top + ear * 0.5, 0), (0.13, ear * 0.6, 0.09), "main", 16),
        ball((0, top + ear * 0.5, 0.06), (0.075, ear * 0.45, 0.055), "blush", 12),
    ]
    ears = [part.turned("z", -lean, (0, top, 0)).moved((0.15, 0, 0)) for part in pair]
    return [
        ball((0, fat * 1.1, -0.04), (fat, fat * 1.15, fat), "main", 16),
        ball((0, fat * 1.05, fat * 0.4), (fat * 0.6, fat * 0.75, fat * 0.6), "paper", 16),
        ball((0, h, 0.05), (0.36, 0.33, 0.33), "main", 16),
        *[part for one in ears for part in mirrored(one)],
        *eyes((0.17, h + 0.06, 0.29), 0.105),
        *mirrored(ball((0.075, h - 0.12, 0.33), (0.1, 0.08, 0.08), "paper", 12)),
        ball((0, h - 0.04, 0.41), (0.06, 0.05, 0.05), "blush", 12),
        *mirrored(ball((0.22, 0.1, 0.24), (0.15, 0.1, 0.28), "main", 14)),
        *mirrored(capsule((0.26, fat * 1.6, 0.14), (0.2, fat * rng.uniform(1.1, 1.4), 0.38), 0.1, "main", 12)),
        ball((0, 0.2, -fat - 0.06), 0.16, "paper", 12),
        *worn(accessory, bow=((0, top + 0.12, 0.04), 0.4), scarf=((0, fat * 2.05, 0.0), 0.27)),
    ]


def duck(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    long, neck, bill = rng.uniform(0.5, 0.62), rng.uniform(0.78, 0.95), rng.uniform(0.2, 0.28)
    tail = cylinder((0, 0.42, -long * 0.45), (0, 0.85, -long - 0.16), 0.27, "main", 0.03)
    wing = ball((0.4, 0.42, -0.1), (0.12, 0.22, 0.36), "main", 16).turned("x", rng.uniform(10, 25), (0.4, 0.42, -0.1))
    h = neck + 0.14
    return [
        ball((0, 0.4, 0), (0.42, 0.36, long), "main"),
        tail,
        *mirrored(wing.turned("z", rng.uniform(0, 20), (0.4, 0.6, 0))),
        capsule((0, 0.5, 0.24), (0, neck, 0.3), 0.2, "main"),
        ball((0, h, 0.3), (0.34, 0.33, 0.33), "main"),
        ball((0, h - 0.06, 0.62), (0.2, 0.055, bill), "nose", 16),
        ball((0, h - 0.12, 0.58), (0.16, 0.045, bill * 0.8), "nose", 14),
        *eyes((0.19, h + 0.1, 0.53), 0.1, (0.4, 0.0, 1.0)),
        *mirrored(ball((0.2, 0.04, 0.16), (0.16, 0.05, 0.22), "nose", 14)),
        *worn(accessory, hat=((0, h + 0.29, 0.28), 0.32), scarf=((0, neck - 0.14, 0.28), 0.25)),
    ]


def owl(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, tall, tuft = rng.uniform(0.4, 0.5), rng.uniform(0.52, 0.62), rng.uniform(0.2, 0.3)
    shape = [(0.0, 0.06), (0.85, 0.06), (1.05, 0.7), (1.0, 1.4), (0.82, 1.82), (0.5, 2.0), (0.0, 1.96)]
    face, disc = tall * 1.45, rng.uniform(0.2, 0.23)
    depth = wide * 0.72
    wing = ball((wide * 0.95, tall * 0.85, -0.04), (0.13, tall * 0.62, wide * 0.62), "main", 16)
    return [
        lathe(soft([(r * wide, y * tall) for r, y in shape]), "main", segments=28),
        *mirrored(
            cylinder((wide * 0.55, tall * 1.62, 0), (wide * 0.85, tall * 1.75 + tuft, 0), 0.16, "main", 0.02, 12)
        ),
        *mirrored(wing.turned("z", rng.uniform(4, 18), (wide, tall * 1.3, 0))),
        ball((0, tall * 0.62, wide * 0.4), (wide * 0.72, tall * 0.44, wide * 0.72), "cream", 24),
        *mirrored(ball((0.185, face, depth), (disc, disc, 0.1), "paper", 16)),
        *mirrored(ball((0.17, face, depth + 0.08), (disc * 0.56, disc * 0.56, 0.06), "ink", 14)),
        cylinder((0, face - 0.02, depth + 0.06), (0, face - 0.2, depth + 0.17), 0.085, "nose", 0.01, 12),
        *mirrored(ball((0.18, 0.05, wide * 0.7), (0.12, 0.07, 0.16), "nose", 12)),
        *worn(accessory, hat=((0, tall * 1.99, 0), 0.34)),
    ]


def pig(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    fat, long, leg = rng.uniform(0.42, 0.5), rng.uniform(0.46, 0.58), rng.uniform(0.16, 0.24)
    body, front, snout = leg + fat * 0.8, long * 0.85, rng.uniform(0.17, 0.21)
    h = body + rng.uniform(0.1, 0.18)
    flap = cylinder((0.18, h + 0.22, front), (0.34, h + 0.36, front + 0.2), 0.17, "main", 0.03, 14)
    turn = np.linspace(0, 2.5 * np.pi, 14)
    curl = np.stack([0.1 * np.sin(turn), body + 0.12 + 0.1 * np.cos(turn), -long - 0.02 - 0.022 * turn], -1)
    return [
        ball((0, body, 0), (fat, fat * 0.95, long), "main"),
        ball((0, h, front), (0.34, 0.33, 0.3), "main"),
        *mirrored(flap),
        cylinder((0, h - 0.06, front + 0.22), (0, h - 0.06, front + 0.42), snout, "blush", snout * 0.92),
        *mirrored(ball((snout * 0.42, h - 0.06, front + 0.42), (0.045, 0.065, 0.03), "ink", 12)),
        *eyes((0.17, h + 0.12, front + 0.24), 0.095, (0.2, 0.0, 1.0)),
        *mirrored(cylinder((0.22, 0, long * 0.5), (0.2, body, long * 0.5), 0.13, "main", 0.15, 14)),
        *mirrored(cylinder((0.22, 0, -long * 0.5), (0.2, body, -long * 0.5), 0.13, "main", 0.15, 14)),
        tube(curl.tolist(), 0.045, "main", 8),
        *worn(accessory, hat=((0, h + 0.31, front - 0.06), 0.3)),
    ]


def penguin(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, tall, lift = rng.uniform(0.38, 0.46), rng.uniform(0.9, 1.1), rng.uniform(12, 50)
    h = tall + 0.08
    shape = [(0.0, 0.02), (0.85, 0.02), (1.1, 0.35), (0.95, 0.75), (0.6, 1.1), (0.0, 1.1)]
    flipper = ball((0, -0.28, 0), (0.08, 0.34, 0.17), "main", 16).turned("z", lift)
    return [
        lathe(soft([(r * wide, y * tall) for r, y in shape]), "main", segments=24),
        ball((0, tall * 0.42, wide * 0.42), (wide * 0.82, tall * 0.4, wide * 0.72), "paper", 24),
        ball((0, h, 0.02), (0.34, 0.32, 0.32), "main"),
        *eyes((0.14, h + 0.06, 0.26), 0.11),
        cylinder((0, h - 0.06, 0.26), (0, h - 0.1, 0.26 + rng.uniform(0.22, 0.32)), 0.1, "nose", 0.01, 12),
        *mirrored(flipper.moved((wide * 0.85, tall * 0.78, 0))),
        *mirrored(ball((0.2, 0.05, 0.2), (0.17, 0.07, 0.26), "nose", 12)),
        cylinder((0, 0.2, -wide * 0.7), (0, 0.05, -wide * 1.3), 0.16, "main", 0.02, 12),
        *worn(accessory, scarf=((0, tall * 0.84, 0.02), 0.31), hat=((0, h + 0.28, 0.0), 0.32)),
    ]


def frog(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, h, bulb = rng.uniform(0.46, 0.54), rng.uniform(0.56, 0.66), rng.uniform(0.15, 0.18)
    knee, depth = rng.uniform(0.28, 0.38), 0.42
    return [
        ball((0, 0.32, -0.08), (wide * 0.86, 0.34, 0.5), "main", 18),
        ball((0, 0.28, 0.12), (wide * 0.58, 0.26, 0.38), "cream", 18),
        ball((0, h, 0.12), (wide, 0.27, depth), "main", 18),
        *mirrored(ball((wide * 0.55, h + 0.2, 0.12), bulb * 1.15, "main", 16)),
        *eyes((wide * 0.55, h + 0.22, 0.22), bulb, (0.15, 0.05, 1.0)),
        smile((0, h - 0.12, depth + 0.1), wide * 1.2, 0.065, 0.06),
        *mirrored(ball((wide * 0.9, 0.2, -0.15), (0.2, 0.22, knee), "main", 16)),
        *mirrored(ball((wide * 0.95, 0.04, 0.2), (0.2, 0.06, 0.2), "main", 14)),
        *mirrored(capsule((0.24, 0.08, 0.36), (0.3, 0.4, 0.18), 0.1, "main", 12)),
        *mirrored(ball((0.24, 0.04, 0.42), (0.16, 0.06, 0.14), "main", 14)),
        *worn(accessory, crown=((0, h + 0.22, 0.02), 0.25)),
    ]


def turtle(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    wide, high, long = rng.uniform(0.56, 0.64), rng.uniform(0.54, 0.68), rng.uniform(0.62, 0.72)
    neck, ground = rng.uniform(0.06, 0.16), 0.22
    h, front = ground + 0.12 + neck, long + 0.16
    plates = [on_ball((0, ground, 0), (wide, high, long), a, 34) for a in range(30, 390, 60)]
    plates.append((0, ground + high, 0))
    return [
        dome((0, ground, 0), (wide, high, long), "main", 20),
        *[ball(p, (0.17, 0.09, 0.18), "main", 12) for p in plates],
        ring((0, 0, 0), 1.0, 0.09, "cream", segments=20).scaled((wide, 0.7, long)).moved((0, ground, 0)),
        ball((0, ground, 0), (wide * 0.95, 0.12, long * 0.95), "cream", 16),
        capsule((0, ground, long * 0.8), (0, h - 0.05, front - 0.05), 0.15, "leaf", 12),
        ball((0, h, front), (0.22, 0.21, 0.22), "leaf", 16),
        *eyes((0.12, h + 0.09, front + 0.16), 0.09, (0.2, 0.0, 1.0)),
        *mirrored(capsule((wide * 0.62, 0.1, long * 0.62), (wide * 0.5, 0.24, long * 0.4), 0.12, "leaf", 10)),
        *mirrored(capsule((wide * 0.62, 0.1, -long * 0.62), (wide * 0.5, 0.24, -long * 0.4), 0.12, "leaf", 10)),
        cylinder((0, ground, -long * 0.9), (0, ground - 0.1, -long - 0.25), 0.1, "leaf", 0.01, 12),
        *worn(accessory, hat=((0, h + 0.19, front), 0.28)),
    ]


def elephant(rng: np.random.Generator, accessory: str | None) -> list[Part]:
    fat, leg, ear = rng.uniform(0.42, 0.5), rng.uniform(0.26, 0.38), rng.uniform(0.3, 0.38)
    body, front = leg + fat * 0.8, rng.uniform(0.42, 0.5)
    h, swing = body + rng.uniform(0.2, 0.3), rng.uniform(0.0, 0.5)
    flap = [
        ball((0, 0, 0), (ear, ear * 1.15, 0.08), "main", 16),
        ball((0, -0.02, 0.05), (ear * 0.7, ear * 0.85, 0.06), "blush", 14),
    ]
    trunk = [(0, h - 0.06, front + 0.25), (0, h - 0.14, front + 0.44), (0, h - 0.36, front + 0.52)]
    trunk += [(0, h - 0.56, front + 0.56), (0, h - 0.62 + 0.3 * swing, front + 0.72)]
    return [
        ball((0, body, -0.06), (fat, fat * 0.95, fat * 1.15), "main"),
        ball((0, h, front), (0.36, 0.37, 0.34), "main"),
        *[part for one in flap for part in mirrored(one.turned("y", 25).moved((0.5, h + 0.04, front - 0.1)))],
        *[tube(trunk, (0.16, 0.14, 0.12, 0.1, 0.09), "main"), ball(trunk[-1], 0.09, "main", 12)],
        *mirrored(cylinder((0.15, h - 0.2, front + 0.26), (0.2, h - 0.34, front + 0.5), 0.06, "paper", 0.02, 12)),
        *eyes((0.19, h + 0.1, front + 0.26), 0.09, (0.3, 0.0, 1.0)),
        *mirrored(cylinder((0.24, 0, 0.24), (0.22, body, 0.24), 0.17, "main", 0.19, 16)),
        *mirrored(cylinder((0.24, 0, -0.34), (0.22, body, -0.34), 0.17, "main", 0.19, 16)),
        tube([(0, body + 0.1, -fat * 1.15), (0, body - 0.2, -fat * 1.15 - 0.16)], 0.05, "main"),
        *worn(accessory, hat=((0, h + 0.32, front - 0.02), 0.32), crown=((0, h + 0.28, front), 0.24)),
    ]


KINDS: tuple[Kind, ...] = (
    Kind("cat", cat, ("kitten",), ("collar", "bow"), front=True),
    Kind("dog", dog, ("puppy",), ("collar",), front=True),
    Kind("bear", bear, ("teddy",), ("scarf", "bow"), front=True),
    Kind("rabbit", rabbit, ("bunny",), ("bow", "scarf"), front=True),
    Kind("duck", duck, ("duckling",), ("hat", "scarf"), front=True),
    Kind("owl", owl, (), ("hat",), front=True),
    Kind("pig", pig, ("piglet",), ("hat",), front=True),
    Kind("penguin", penguin, (), ("scarf", "hat"), front=True),
    Kind("frog", frog, ("toad",), ("crown",), front=True),
    Kind("turtle", turtle, ("tortoise",), ("hat",), front=True),
    Kind("elephant", elephant, (), ("hat", "crown"), front=True),
)
