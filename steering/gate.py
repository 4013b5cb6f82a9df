r"""Token gates: which tokens of a vocabulary a text such as a blank line stands for."""

from __future__ import annotations

from functools import lru_cache

from cot.chat import open_chat, resolve_model
from eval_math.errors import BadInput


def gate_texts(written: str) -> tuple[str, ...]:
    r"""The texts of a gate as it is written: separated by ``;``, with ``\n`` for a line break."""
    return tuple(text.replace("\\n", "\n") for text in written.split(";") if text)


@lru_cache(maxsize=8)
def gate_tokens(model: str, texts: tuple[str, ...]) -> frozenset[int]:
    """Ids of the tokens in whose text one of ``texts`` stands, as SEAL finds its break tokens.

    Raises:
        BadInput: no token holds any of a text.
    """
    chat = open_chat(resolve_model(model))
    spelled = {token: chat.decode([token]) for token in chat.tokenizer.get_vocab().values()}
    found: set[int] = set()
    for text in texts:
        matching = {token for token, spelling in spelled.items() if text in spelling}
        if not matching:
            raise BadInput(
                f"gate {text!r}: no token of {model} holds it, so nothing would be steered; give a shorter text"
            )
        found |= matching
    return frozenset(found)
