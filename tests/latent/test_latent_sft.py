"""Latent-SFT's second stage, its noise, and the store of soft labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_math.errors import BadInput, RunMismatch
from latent.labels import FILES, LabelWriter, read_labels, store_bytes
from latent.latent_sft import chain_loss, divergence, noisy, row_means
from latent.latent_sft_task import chain_batch
from latent.layout import Parts
from latent.settings import LatentSftConfig


def test_one_hot_labels_at_rate_one_are_supervised_fine_tuning_in_two_means(model, latent_rows, chat):
    from cot.training.data import Encoder
    from cot.training.rows import find_data, read_sft_rows
    from latent.rows import latent_row

    rows = [latent_row(Encoder(chat), row, (1,), "").parts(1) for row in read_sft_rows(find_data(latent_rows), 4)]
    chains = [(torch.tensor(row.thought)[:, None], torch.ones(len(row.thought), 1)) for row in rows]
    tokens, latents = chain_loss(model, chain_batch(rows, chains))
    thoughts, tails = [], []
    for row in rows:
        ids = torch.tensor([row.prompt + row.thought + row.tail])
        steps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        each = -steps.gather(1, ids[0, 1:, None])[:, 0]
        first, last = len(row.prompt) - 1, len(row.prompt) - 1 + len(row.thought)
        thoughts.append(each[first:last].mean())
        tails.append(each[last:].sum())
    assert float(tokens) == pytest.approx(float(sum(tails)), rel=1e-5)
    assert float(latents) == pytest.approx(float(sum(thoughts)), rel=1e-4)


def test_divergence_is_zero_at_the_teacher_and_pushes_other_tokens_down():
    weights = torch.tensor([[0.5, 0.3, 0.2]])
    ids = torch.tensor([[4, 1, 7]])
    teacher = torch.full((1, 9), -torch.inf)
    teacher[0, ids[0]] = weights[0].log()
    assert float(divergence(weights, ids, teacher)) == pytest.approx(0, abs=1e-6)
    logits = torch.randn(1, 9, requires_grad=True)
    loss = divergence(weights, ids, logits)
    assert float(loss) > 0
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    others = [token for token in range(9) if token not in ids[0]]
    assert torch.allclose(gradient[0, others], logits.softmax(-1)[0, others])


def test_rows_count_alike_whatever_their_length():
    assert row_means(torch.tensor([1.0, 3, 10]), torch.tensor([0, 0, 1]), 2).tolist() == [2, 10]


def test_noise_is_repeatable_off_at_zero_and_never_puts_the_end_first():
    weights = torch.rand(50, 6).softmax(-1)
    ids = torch.stack([torch.randperm(30)[:6] for _ in range(50)])
    assert torch.equal(noisy(weights, ids, 3, 0.0, torch.Generator()), weights)
    one, again, other = (noisy(weights, ids, 99, 1.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.allclose(one.sum(-1), torch.ones(50))
    short, ends = weights[:4], ids[:4].clone()
    ends[:, 2] = 3
    for seed in range(40):
        drawn = noisy(short, ends, 3, 1.0, torch.Generator().manual_seed(seed))
        assert not (ends.gather(1, drawn.argmax(-1, keepdim=True)) == 3).any()
    only = torch.full((2, 1), 3)
    assert torch.equal(noisy(torch.ones(2, 1), only, 3, 1.0, torch.Generator()), torch.ones(2, 1))


def test_batches_hold_question_latents_and_answer():
    rows = [Parts([1, 2], [5, 6, 7], [90, 91]), Parts([3], [5], [90])]
    chains = [
        (torch.tensor([[5, 6], [7, 8]]), torch.full((2, 2), 0.5)),
        (torch.tensor([[5, 9]]), torch.full((1, 2), 0.5)),
    ]
    batch = chain_batch(rows, chains)
    assert batch["tokens"].tolist() == [[1, 2, -1, -1, 90, 91], [3, -1, 90, -1, -1, -1]]
    assert batch["labels"].tolist() == [[-100] * 4 + [90, 91], [-100, -100, 90, -100, -100, -100]]
    assert batch["rows"].tolist() == [[-1, -1, 0, 0, -1, -1], [-1, 1, -1, -1, -1, -1]]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]


chains = st.lists(st.integers(1, 6), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(chains, st.data())
def test_labels_come_back_and_a_torn_row_is_forgotten(tmp_path_factory, lengths, data):
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    rows = [(rng.integers(0, 2**31 - 1, (n, 3)), rng.dirichlet(np.ones(3), n)) for n in lengths]
    writer = LabelWriter(folder, 3, {"rate": 2})
    for row in rows:
        writer.append(*row)
    writer.close()
    size = sum((folder / name).stat().st_size for name in FILES)
    assert size == round(store_bytes(len(rows), sum(lengths) / len(rows), 3))
    file = folder / data.draw(st.sampled_from(FILES))
    left = data.draw(st.integers(0, file.stat().st_size))
    file.write_bytes(file.read_bytes()[:left])
    again = LabelWriter(folder, 3, {"rate": 2})
    assert 0 <= again.rows <= len(rows)
    for row in rows[again.rows :]:
        again.append(*row)
    again.close()
    found = read_labels(folder)
    assert len(found) == len(rows)
    for number, (ids, weights) in enumerate(rows):
        read_ids, read_weights = found.row(number)
        assert np.array_equal(read_ids, ids) and np.allclose(read_weights, weights, atol=2e-3)
        assert np.allclose(read_weights.sum(-1), 1, atol=1e-6)


def test_labels_of_another_making_are_refused(tmp_path):
    LabelWriter(tmp_path / "a", 3, {"rate": 2}).close()
    with pytest.raises(RunMismatch, match="another making"):
        LabelWriter(tmp_path / "a", 3, {"rate": 4})
    with pytest.raises(BadInput, match="no soft labels"):
        read_labels(tmp_path / "b")
    with pytest.raises(BadInput, match="no soft labels"):
        read_labels(tmp_path / "a")


def test_settings_out_of_range_are_refused():
    for wrong in ({"rate": 0}, {"top_k": 0}, {"noise": -1.0}, {"stages": ("encoder",)}, {"stages": ()}):
        with pytest.raises(BadInput):
            LatentSftConfig(**wrong)


def test_effective_rates_count_a_chunks_own_tokens_among_the_heaviest(tmp_path):
    from latent.compression import effective_rates

    writer = LabelWriter(tmp_path, 5, {})
    weights = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    writer.append(np.array([[7, 8, 1, 2, 3], [1, 2, 3, 4, 9], [1, 2, 3, 4, 5]]), np.stack([weights] * 3))
    writer.close()
    rows = [Parts([0], [7, 8, 9, 9, 6], [90])]
    found = effective_rates(read_labels(tmp_path), rows, 2)
    # The chunks are (7, 8), (9, 9) and (6).
    assert found == {"latents": 3, "effective_rate_1": 1 / 3, "hit_share_1": 1 / 3, "effective_rate_5": 1.0,
                     "hit_share_5": 2 / 3}  # fmt: skip
