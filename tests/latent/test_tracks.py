"""Masks and positions of Latent-SFT's stage 1 against their definitions, and what they keep from being seen."""

from __future__ import annotations

import random

import pytest
import torch

from latent.latent_sft import LatentEncoder, decoder_loss, feed, soft_labels
from latent.layout import Parts
from latent.rules import mixture
from latent.tracks import (
    CHUNK,
    LATENT,
    PADDING,
    QUESTION,
    TAIL,
    decoder_track,
    encoder_track,
    induction_mask,
    pad_tracks,
    supervision_mask,
)

ROW = Parts([1, 2, 3], [11, 12, 13, 14, 15], [90, 91, 92])


def test_the_worked_example():
    track = decoder_track(Parts([1, 2, 3], [11, 12, 21, 22, 31, 32], [90, 91, 92]), 2)
    assert track.tokens == [1, 2, 3, -1, 21, 22, -1, 31, 32, -1, 90, 91, 92]
    assert track.positions == [0, 1, 2, 3, 4, 5, 4, 5, 6, 5, 6, 7, 8]
    assert track.labels == [-100, -100, -100, -100, 21, 22, -100, 31, 32, -100, 90, 91, 92]


def test_as_many_latents_on_both_sides_and_a_short_last_chunk():
    for rate in (1, 2, 3, 5, 9):
        read, written = encoder_track(ROW, rate), decoder_track(ROW, rate)
        count = -(-len(ROW.thought) // rate)
        assert read.kinds.count(LATENT) == written.kinds.count(LATENT) == count
        assert [token for token in read.tokens if token != -1] == [*ROW.prompt, *ROW.thought, ROW.tail[0]]
        assert read.positions == list(range(len(read.tokens)))


def sees(track, i: int, j: int) -> bool:
    """The definition of the supervision mask (section 4.2), word for word."""
    if j > i:
        return False
    mine, other = track.kinds[i], track.kinds[j]
    same = track.segments[i] == track.segments[j]
    if mine == QUESTION:
        return other == QUESTION
    if mine == LATENT:
        return other in (QUESTION, LATENT)
    if mine == CHUNK:
        return other in (LATENT, CHUNK) and same
    return other in (QUESTION, LATENT, TAIL)


def test_masks_are_their_definitions_for_random_rows():
    rng = random.Random(0)
    for _ in range(50):
        row = Parts([1] * rng.randint(1, 5), [2] * rng.randint(1, 12), [3] * rng.randint(1, 4))
        rate = rng.randint(1, 5)
        written, read = decoder_track(row, rate), encoder_track(row, rate)
        batch = pad_tracks([written, decoder_track(Parts([1] * 6, [2] * 12, [3] * 4), rate)])
        mask = supervision_mask(batch["kinds"], batch["segments"])[0, 0]
        size = len(written.tokens)
        expected = [[sees(written, i, j) for j in range(size)] for i in range(size)]
        assert mask[:size, :size].tolist() == expected and not mask[:size, size:].any()
        # Padding sees itself alone, so that no row is empty.
        assert torch.equal(mask[size:], torch.eye(len(mask), dtype=torch.bool)[size:])
        kinds = torch.tensor([read.kinds])
        induced = induction_mask(kinds)[0, 0]
        for i, j in ((i, j) for i in range(len(read.kinds)) for j in range(len(read.kinds))):
            assert bool(induced[i, j]) == (j <= i and not (read.kinds[j] == LATENT and i > j))


@pytest.fixture
def parts(latent_rows, chat):
    from cot.training.data import Encoder
    from cot.training.rows import find_data, read_sft_rows
    from latent.rows import latent_row

    rows = read_sft_rows(find_data(latent_rows), 4)
    return [latent_row(Encoder(chat), row, (1,), "").parts(1) for row in rows]


def run(model, track, latents):
    table = model.get_input_embeddings().weight
    embedded = feed(table, track["tokens"], track["kinds"] == LATENT, latents)
    mask = supervision_mask(track["kinds"], track["segments"])
    return model(inputs_embeds=embedded, attention_mask=mask, position_ids=track["positions"]).logits


def test_latents_and_answer_are_computed_as_without_the_chunks(model, parts):
    table = model.get_input_embeddings().weight
    for row in parts:
        count = -(-len(row.thought) // 2)
        latents = table[torch.randint(len(table), (count, 3))].mean(1)
        track = pad_tracks([decoder_track(row, 2)])
        kept = (track["kinds"] != CHUNK)[0]
        plain = torch.cat([table[row.prompt], latents, table[row.tail]])[None]
        assert torch.allclose(run(model, track, latents)[0, kept], model(inputs_embeds=plain).logits[0], atol=1e-4)


def test_chunks_do_not_reach_latents_or_answer(model, parts):
    row = max(parts, key=lambda each: len(each.thought))
    count = -(-len(row.thought) // 2)
    latents = torch.randn(count, model.config.hidden_size) * 0.02
    track = pad_tracks([decoder_track(row, 2)])
    before = run(model, track, latents)[0]
    chunks = track["kinds"][0] == CHUNK
    after = run(model, {**track, "tokens": torch.where(track["kinds"] == CHUNK, 40, track["tokens"])}, latents)[0]
    assert torch.equal(after[~chunks], before[~chunks])
    assert not torch.allclose(after[chunks], before[chunks])


def test_in_one_block_the_question_does_not_reach_chunks(model, parts):
    """In deeper ones it does, through the latents, whose keys and values it changed."""
    model.model.layers = model.model.layers[:1]
    row = max(parts, key=lambda each: len(each.thought))
    latents = torch.randn(-(-len(row.thought) // 2), model.config.hidden_size) * 0.02
    track = pad_tracks([decoder_track(row, 2)])
    kinds = track["kinds"][0]
    before = run(model, track, latents)[0]
    after = run(model, {**track, "tokens": torch.where(track["kinds"] == QUESTION, 40, track["tokens"])}, latents)[0]
    assert torch.equal(after[kinds == CHUNK], before[kinds == CHUNK])
    assert not torch.allclose(after[kinds == LATENT], before[kinds == LATENT])


def test_a_changed_compress_token_changes_its_own_latent_alone(model, parts):
    encoder = LatentEncoder.of(model)
    tracks = pad_tracks([encoder_track(row, 2) for row in parts])
    before = encoder(tracks)
    places = (tracks["kinds"] == LATENT).nonzero()
    embedded = encoder.blocks.get_input_embeddings()(tracks["tokens"].clamp(min=0))
    embedded = torch.where((tracks["kinds"] == LATENT)[..., None], encoder.compress, embedded)
    row, column = places[3].tolist()
    embedded[row, column] += 1.0
    mask = induction_mask(tracks["kinds"])
    after = encoder.blocks(inputs_embeds=embedded, attention_mask=mask, position_ids=tracks["positions"])
    changed = (after.last_hidden_state[tracks["kinds"] == LATENT] - before).abs().amax(-1) > 0
    assert changed.nonzero().flatten().tolist() == [3]
    assert PADDING in tracks["kinds"]


def test_gradients_reach_the_encoder_and_not_the_table(model, parts):
    encoder = LatentEncoder.of(model)
    encoder.blocks.get_input_embeddings().weight.requires_grad_(False)
    model.requires_grad_(False)
    batch = {
        "encoder": pad_tracks([encoder_track(row, 2) for row in parts]),
        "decoder": pad_tracks([decoder_track(row, 2) for row in parts]),
    }
    decoder_loss(model, encoder, batch, 10).backward()
    assert encoder.compress.grad is not None and float(encoder.compress.grad.abs().sum()) > 0
    assert all(p.grad is not None for name, p in encoder.named_parameters() if "embed_tokens" not in name)
    assert model.get_input_embeddings().weight.grad is None


def test_projections_are_one_for_tied_models_and_two_for_others(model):
    hidden = torch.randn(5, model.config.hidden_size)
    table, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert all(torch.equal(a, b) for a, b in zip(soft_labels(hidden, table, 10), soft_labels(hidden, output, 10),
                                                 strict=True))  # fmt: skip
    untied = torch.randn_like(table)
    assert not torch.equal(soft_labels(hidden, table, 10)[0], soft_labels(hidden, untied, 10)[0])
    ids, weights = soft_labels(hidden, table, 10**9)
    assert ids.shape[1] == len(table) and torch.allclose(weights.sum(-1), torch.ones(5), atol=1e-6)
    assert mixture(table, ids, weights).shape == hidden.shape
