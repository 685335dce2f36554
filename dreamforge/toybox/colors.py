"""The colours that captions name, and the fixed paints of small parts. sRGB in [0, 1]."""

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.96, 0.50, 0.06),
    "yellow": (0.96, 0.84, 0.12),
    "green": (0.14, 0.62, 0.18),
    "cyan": (0.14, 0.78, 0.82),
    "blue": (0.12, 0.27, 0.85),
    "purple": (0.48, 0.16, 0.68),
    "pink": (0.97, 0.56, 0.74),
    "brown": (0.44, 0.26, 0.12),
    "white": (0.95, 0.95, 0.94),
    "gray": (0.52, 0.52, 0.54),
    "black": (0.09, 0.09, 0.10),
}
COLOR_SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("scarlet",),
    "cyan": ("turquoise",),
    "purple": ("violet",),
    "gray": ("grey",),
}

# Paints of parts that no caption colours: eyes, wheels, wood, glass ...
PAINTS: dict[str, tuple[float, float, float]] = {
    "ink": (0.07, 0.07, 0.08),
    "rubber": (0.16, 0.16, 0.17),
    "metal": (0.68, 0.70, 0.73),
    "steel": (0.42, 0.45, 0.49),
    "gold": (0.83, 0.66, 0.22),
    "wood": (0.62, 0.43, 0.25),
    "darkwood": (0.36, 0.23, 0.13),
    "cream": (0.95, 0.90, 0.78),
    "paper": (0.96, 0.96, 0.95),
    "glass": (0.62, 0.80, 0.90),
    "screen": (0.18, 0.24, 0.30),
    "leaf": (0.24, 0.52, 0.20),
    "soil": (0.33, 0.24, 0.18),
    "skin": (0.93, 0.76, 0.62),
    "nose": (0.93, 0.45, 0.10),
    "blush": (0.92, 0.45, 0.50),
    "light": (1.00, 0.93, 0.62),
}
