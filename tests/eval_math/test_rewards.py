"""The grader as a reward: values, logged shares, and a real step of TRL's GRPO trainer."""

from __future__ import annotations

import pytest

from eval_math.errors import BadInput
from eval_math.rewards import MathReward

TEXTS = ["so \\boxed{4}", "so \\boxed{5}", "no idea", "<think> 4"]


def test_rewards_and_the_shares_of_verdicts():
    shares: dict[str, float] = {}
    columns: dict[str, list] = {}
    reward = MathReward("gsm8k")
    found = reward(TEXTS, answer=["4"] * 4, log_metric=shares.__setitem__, log_extra=columns.__setitem__)
    assert found == [1.0, 0.0, 0.0, 0.0]
    assert (shares["grader/correct"], shares["grader/incorrect"], shares["grader/unparsable"]) == (0.25, 0.25, 0.5)
    assert shares["grader/truncated"] == 0.25 and sum(shares.values()) == 1.25
    assert columns["extracted"] == ["4", "5", None, None]


def test_messages_lists_of_references_and_unreadable_ones():
    chats = [[{"role": "assistant", "content": text}] for text in ("\\boxed{2}", "\\boxed{3}")]
    chats.append([{"role": "assistant", "content": [{"type": "text", "text": "\\boxed{7}"}]}])
    found = MathReward(gold="solution")(chats, prompts=["?"] * 3, solution=[["1", "2"], "", 7])
    assert found == [1.0, None, 1.0]
    assert MathReward()(["\\boxed{4}"] * 3, answer=[None, float("nan"), [4]]) == [None, None, 1.0]


def test_a_missing_column_is_named():
    with pytest.raises(BadInput, match=r"no column .answer. with one"):
        MathReward()(["1"], gold=["1"])
    with pytest.raises(BadInput, match="policy"):
        MathReward("no such benchmark")


@pytest.mark.slow
def test_trl_trains_with_it(tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from cot.embedded import embedded_model_path

    folder = str(embedded_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = {"prompt": ["Mia has 3 apples and buys 4 more. How many apples does Mia have?"] * 4, "answer": ["7"] * 4}
    config = GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=24,
        max_steps=1,
        use_cpu=True,
        bf16=False,
        report_to=[],
        logging_steps=1,
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=MathReward("embedded"),
        args=config,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = {key for row in trainer.state.log_history for key in row}
    assert "rewards/math_reward/mean" in logged
    assert any("grader/unparsable" in key for key in logged)
