"""Randomness as a function of (seed, names): the same arguments always give the same stream."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A new 63-bit seed from a seed and any names or numbers (step, purpose)."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator seeded by ``derive(seed, *names)``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))
