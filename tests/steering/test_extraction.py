"""Extraction: the right states, the right sign, whatever the batching; the model untouched."""

from dataclasses import replace

import pytest
import torch

from eval_math.errors import BadInput
from eval_math.records import Message, Request
from steering.capture import Reading, Text, read_states
from steering.extraction import Recipe, extract

LAYERS, WIDTH = 4, 64


def swapped(pair):
    return replace(pair, long=pair.short, short=pair.long)


def assert_close(a, b, scale=1e-5):
    """Equal up to float32 rounding at the tensors' own size."""
    torch.testing.assert_close(a, b, atol=scale * (1 + float(b.abs().max())), rtol=0)


def test_capture_equals_hidden_states(engine):
    texts = [Text(tuple(engine.encode(t)), (len(engine.encode(t)) - 1,)) for t in ("abc", "much longer text", "x")]
    states = engine.apply_model(lambda m: read_states(m, Reading(texts, range(LAYERS), 64)))

    def reference(model):
        with torch.no_grad():
            runs = [model(torch.tensor([text.ids]), output_hidden_states=True).hidden_states for text in texts]
        return [[run[block + 1][0, -1] for run in runs] for block in range(LAYERS - 1)]

    for block, expected in enumerate(engine.apply_model(reference)):
        assert_close(states.pooled[block], torch.stack(expected))
        assert_close(states.norms[block], torch.stack(expected).norm(dim=-1))


def test_last_block_is_read_before_the_final_norm(engine):
    ids = tuple(engine.encode("some text"))
    states = engine.apply_model(lambda m: read_states(m, Reading([Text(ids, (3,))], (LAYERS - 1,), 64)))

    def normed(model):
        with torch.no_grad():
            return model.model.norm(states.pooled[LAYERS - 1]), model(torch.tensor([ids]), output_hidden_states=True)

    through_norm, output = engine.apply_model(normed)
    assert_close(through_norm[0], output.hidden_states[-1][0, 3])


def test_direction_is_short_minus_long_at_the_last_token(engine, pairs):
    vector = extract(engine, pairs[:1], Recipe(blocks=(1,))).vector
    prompt = engine.prompt_ids(Request("x", messages=(Message("user", pairs[0].question),)))

    def state(model, text):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *engine.encode(text)]])
            return model(ids, output_hidden_states=True).hidden_states[2][0, -1]

    short, long = (engine.apply_model(lambda m, t=t: state(m, t)) for t in (pairs[0].short, pairs[0].long))
    assert_close(vector.directions[1], short - long)


@pytest.mark.parametrize("pooling", ["last", "mean_response", "first_k", "boundary"])
def test_swapping_sides_negates_order_does_not_matter_batches_neither(engine, pairs, pooling):
    recipe = Recipe(pooling=pooling)
    base = extract(engine, pairs, recipe).vector
    other_way = extract(engine, [swapped(p) for p in pairs], recipe).vector
    reversed_order = extract(engine, pairs[::-1], recipe).vector
    one_by_one = extract(engine, pairs, replace(recipe, batch_tokens=1)).vector
    for block in range(LAYERS):
        assert base.directions[block].norm() > 0.1
        assert_close(other_way.directions[block], -base.directions[block])
        assert_close(reversed_order.directions[block], base.directions[block])
        assert_close(one_by_one.directions[block], base.directions[block])
        assert_close(base.pairs[block].mean(0), base.directions[block])
        assert base.pairs[block].shape == (len(pairs), WIDTH)


def test_identical_sides_give_zero(engine, pairs):
    vector = extract(engine, [replace(p, long=p.short) for p in pairs], Recipe(blocks=(0, 2), batch_tokens=1)).vector
    assert all(not direction.any() for direction in vector.directions.values())


def test_poolings_read_what_they_say(engine, pairs):
    def norm_of(pooling):
        return extract(engine, pairs, Recipe(blocks=(2,), pooling=pooling)).vector.directions[2]

    assert (norm_of("last") - norm_of("mean_response")).norm() > 0.01
    assert (norm_of("boundary") - norm_of("mean_response")).norm() > 0.01


def test_thinking_span_ends_before_the_end_tag_on_both_sides(engine, pairs):
    tagged = [replace(p, long=p.long + "</think>The answer.", short=p.short + "</think>Other words.") for p in pairs]
    thinking = extract(engine, tagged).vector
    bare = extract(engine, pairs).vector
    whole = extract(engine, tagged, Recipe(span="response")).vector
    assert_close(thinking.directions[2], bare.directions[2])
    assert (whole.directions[2] - bare.directions[2]).norm() > 0.1


def test_a_start_tag_is_not_doubled_after_a_template_that_opens_thinking(engine, pairs):
    opened = [replace(p, long="<think>\n" + p.long) for p in pairs]
    assert_close(extract(engine, opened).vector.directions[0], extract(engine, pairs).vector.directions[0])


def test_model_is_untouched(engine, pairs):
    def hooks():
        return engine.apply_model(lambda model: [len(m._forward_hooks) for m in model.modules()])

    score, count = engine.score([([1, 2], [3, 4])]), hooks()
    extract(engine, pairs)
    assert engine.score([([1, 2], [3, 4])]) == score and hooks() == count


def test_only_needed_blocks_run(engine, pairs):
    ran = []
    model = engine.apply_model(lambda m: m)
    handles = [layer.register_forward_hook(lambda *a, n=n: ran.append(n)) for n, layer in enumerate(model.model.layers)]
    extract(engine, pairs, Recipe(blocks=(0, 1)))
    for handle in handles:
        handle.remove()
    assert set(ran) == {0, 1}


def test_too_long_pairs_are_skipped_with_the_reason(engine, pairs):
    long = replace(pairs[0], problem_id="long", long="word " * 200)
    result = extract(engine, [*pairs, long])
    assert [(s.pair.problem_id, s.reason) for s in result.skipped] == [("long", "too_long")]
    assert result.vector.info.n_pairs == len(pairs)
    with pytest.raises(BadInput, match="none of 1 pairs"):
        extract(engine, [long])


def test_progress_counts_texts(engine, pairs):
    seen = []
    extract(engine, pairs, Recipe(batch_tokens=200), on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2 * len(pairs), 2 * len(pairs)) and len(seen) > 1


@pytest.mark.parametrize("blocks", [(LAYERS,), (-1,), ()])
def test_blocks_out_of_range_are_refused(engine, pairs, blocks):
    with pytest.raises(BadInput, match=f"0 ... {LAYERS - 1}"):
        extract(engine, pairs, Recipe(blocks=blocks))


def test_a_pair_with_one_end_tag_is_read_to_the_end_on_both_sides(engine, pairs):
    mixed = [replace(p, long=p.long + "</think>The answer.") for p in pairs]
    whole = extract(engine, mixed, Recipe(span="response")).vector
    assert_close(extract(engine, mixed).vector.directions[2], whole.directions[2])
