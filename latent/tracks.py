"""Latent-SFT's stage 1 as integers: where encoder and decoder may look, and at which positions (arXiv 2510.15522).

Encoder: ``Q <think> S_1 C S_2 C ... S_N C </think>``, each C sees the text before it and no other C (induction mask).
Decoder: ``Q <think> Z_1 S_2 Z_2 S_3 ... S_N Z_N </think> answer``; the track of latents Z sees question and latents,
each chunk S_(a+1) sees Z_a alone, and the answer sees question and latents (supervision mask). Positions run along the
track of latents, so that question, latents and answer stand where they stand without the chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import IGNORED, NO_TOKEN, Parts, group_bounds

QUESTION, LATENT, CHUNK, TAIL, PADDING = range(5)


@dataclass(frozen=True)
class Track:
    """A line by position: token (-1 for a latent or for C), kind, number of its latent, position, label."""

    tokens: list[int]
    kinds: list[int]
    segments: list[int]
    positions: list[int]
    labels: list[int]


def encoder_track(parts: Parts, rate: int) -> Track:
    """What the encoder reads: a C after each chunk of ``rate`` tokens; positions count every place."""
    tokens, kinds, segments = list(parts.prompt), [QUESTION] * len(parts.prompt), [0] * len(parts.prompt)
    for number, (start, stop) in enumerate(group_bounds(len(parts.thought), rate), 1):
        chunk = parts.thought[start:stop]
        tokens += [*chunk, NO_TOKEN]
        kinds += [CHUNK] * len(chunk) + [LATENT]
        segments += [number] * (len(chunk) + 1)
    end = [*tokens, parts.tail[0]]
    return Track(end, [*kinds, TAIL], [*segments, 0], list(range(len(end))), [IGNORED] * len(end))


def decoder_track(parts: Parts, rate: int) -> Track:
    """What the decoder reads; latent ``a`` teaches the chunk after it, the last one the end tag."""
    chunks = [parts.thought[start:stop] for start, stop in group_bounds(len(parts.thought), rate)]
    size = len(parts.prompt)
    tokens, kinds, segments = list(parts.prompt), [QUESTION] * size, [0] * size
    positions, labels = list(range(size)), [IGNORED] * size
    for number in range(1, len(chunks) + 1):
        following = chunks[number] if number < len(chunks) else []
        place = size - 1 + number
        tokens += [NO_TOKEN, *following]
        kinds += [LATENT] + [CHUNK] * len(following)
        segments += [number] * (1 + len(following))
        positions += range(place, place + 1 + len(following))
        labels += [IGNORED, *following]
    after = size + len(chunks)
    return Track(
        tokens + parts.tail,
        kinds + [TAIL] * len(parts.tail),
        segments + [0] * len(parts.tail),
        positions + list(range(after, after + len(parts.tail))),
        labels + parts.tail,
    )


def pad_tracks(tracks: Sequence[Track]) -> dict[str, Tensor]:
    """``tokens``, ``kinds``, ``segments``, ``positions`` and ``labels`` (B, T) each, padded on the right."""
    width = max(len(track.tokens) for track in tracks)
    fillers = {"tokens": NO_TOKEN, "kinds": PADDING, "segments": 0, "positions": 0, "labels": IGNORED}
    return {
        name: torch.tensor([getattr(track, name) + [filler] * (width - len(track.tokens)) for track in tracks])
        for name, filler in fillers.items()
    }


def induction_mask(kinds: Tensor) -> Tensor:
    """Which places (B, 1, T, T) of the encoder see which, from kinds (B, T)."""
    hidden = (kinds == LATENT)[:, None, :] & ~_same(kinds)
    return _visible(kinds, ~hidden)


def supervision_mask(kinds: Tensor, segments: Tensor) -> Tensor:
    """Which places (B, 1, T, T) of the decoder see which, from kinds and segments (B, T)."""
    looks, seen = kinds[:, :, None], kinds[:, None, :]
    own = segments[:, :, None] == segments[:, None, :]
    in_chunk = looks == CHUNK
    allowed = (
        ((seen == QUESTION) & ~in_chunk)
        | ((seen == LATENT) & (~in_chunk | own))
        | ((seen == CHUNK) & in_chunk & own)
        | ((seen == TAIL) & (looks == TAIL))
    )
    return _visible(kinds, allowed)


def _same(kinds: Tensor) -> Tensor:
    return torch.eye(kinds.shape[1], dtype=torch.bool, device=kinds.device)[None]


def _visible(kinds: Tensor, allowed: Tensor) -> Tensor:
    """``allowed`` (B, T, T) where it looks back, without padding; every place sees itself, so that no row is empty."""
    real = kinds != PADDING
    past = torch.ones(allowed.shape[-2:], dtype=torch.bool, device=kinds.device).tril()
    return (allowed & past & real[:, :, None] & real[:, None, :] | _same(kinds))[:, None]
