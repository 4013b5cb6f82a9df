"""Tokenizer and chat template of the embedded reasoner.

Every word of the training text is one token, every digit is one token, and all 256 byte symbols are in the vocabulary,
so any text encodes without loss (text of other domains takes more tokens). A space before a digit is a token of its
own, at the end of a prompt as well as inside it, so a forced prefix may end in it.
"""

from __future__ import annotations

import math
import random
import re
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .mix import BREVITY, CARE, PROMPT_SUFFIXES, draw_drill, draw_row
from .problems import stream_problems
from .recipe import Cycle

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
THINK, END_THINK = "<think>", "</think>"
CONTROL = (PAD, USER, ASSISTANT, END)
VOCABULARY_SIZE = 768
CORPUS_ROWS = 6_000

CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] + '\\n\\n' -%}"
    "{%- elif message['role'] == 'assistant' -%}{{- '<|assistant|>' + message['content'] + '<|end|>' -}}"
    "{%- else -%}{{- '<|user|>' + ns.system + message['content'] + '<|end|>' -}}{%- set ns.system = '' -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|assistant|><think>' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '</think>' -}}{%- endif -%}"
    "{%- endif -%}"
)

# Pieces that shorten text the reasoner was not trained on; words of the training text always win over them.
WORD_PARTS = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro ic "
    "ne ea ra ce li ch ll be ma si om ur ing ion ent the and tion for ter ate ver all ith ess ght ould ore ere est "
    "our out day ect con pro ple str igh ain ill ive ies ance ment able ad am an ap as at ag ba be bo bu ca co cu da "
    "do du ee ef em ep et fa fe fi fo ga ge gr go ho hu im ir ke ki la lo lu mo mu na no nu ob oc od of oo op ow pa "
    "pe pi po pu qu"
)
COMMON_WORDS = (
    "a the of to and in is for on he she it that was at by from are be this or if her his per day each cost many much "
    "total does did money dollars hours week year more than find number let such value"
)
SIGNS = (" (", " \\", "\\frac", "{", "}", "^", "_", "$", " $", "\n", "\n\n", "=", " =", " +", " -")
FRAGMENTS: tuple[str, ...] = (
    *WORD_PARTS.split(),
    *(f" {word}" for word in COMMON_WORDS.split()),
    *(f" {letter}" for letter in string.ascii_letters),
    *SIGNS,
)


def chat_prompt(question: str, *, thinking: bool = True) -> str:
    """What the chat template renders for one user message with the generation prompt."""
    return f"{USER}{question}{END}{ASSISTANT}{THINK}" + ("" if thinking else END_THINK)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Id of a token that must exist."""
    return tokenizer.get_vocab()[token]


def build_tokenizer(seed: int = 0) -> Tokenizer:
    """A fast tokenizer of `VOCABULARY_SIZE` tokens over the words of the training text, digits and bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    words = vocabulary_words(training_text(seed))
    tokenizer = Tokenizer(models.Unigram(scored_pieces(words), unk_id=None, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in (THINK, END_THINK)])
    return tokenizer


def save_tokenizer(folder: Path, seed: int = 0) -> PreTrainedTokenizerFast:
    """Build the tokenizer and write it with its chat template to `folder`."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(seed),
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder, save_jinja_files=False)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def pre_tokenizer() -> PreTokenizer:
    """Digits one by one, then words with their leading space, in byte symbols."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])


def training_text(seed: int) -> Iterable[str]:
    """Text that holds every word the training mix can produce."""
    cycle = Cycle()
    rng = random.Random(f"tokenizer:{seed}")
    problems = stream_problems("train", f"tokenizer-{seed}", (1, 6))
    for _ in range(CORPUS_ROWS):
        row = draw_row(next(problems), cycle.mix, rng, cycle.verbosity)
        yield from (row.prompt, row.completion)
    yield draw_drill(rng).prompt
    yield from (*PROMPT_SUFFIXES, *BREVITY, *CARE)


def vocabulary_words(texts: Iterable[str]) -> list[str]:
    """Pieces between pre-token borders in `texts`, most frequent first (ties by spelling), in byte symbols."""
    split = pre_tokenizer()
    counts: Counter[str] = Counter()
    markers = re.compile("|".join(re.escape(marker) for marker in (*CONTROL, THINK, END_THINK)))
    for text in texts:
        for part in markers.split(text):
            counts.update(piece for piece, _ in split.pre_tokenize_str(part))
    return [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def scored_pieces(words: list[str]) -> list[tuple[str, float]]:
    """Unigram vocabulary: byte symbols, whole words, then fragments until the vocabulary is full."""
    from tokenizers import pre_tokenizers

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {symbol: -12.0 for symbol in symbols}
    room = VOCABULARY_SIZE - len(CONTROL) - 2
    for word in words:
        if len(word) > 1:
            pieces[word] = -3.0
    if len(pieces) > room:
        raise ValueError(f"the training text has {len(pieces)} pieces, the vocabulary holds {room}")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for fragment in FRAGMENTS:
        symbol = "".join(piece for piece, _ in level.pre_tokenize_str(fragment))
        if len(pieces) < room:
            pieces.setdefault(symbol, -8.0 - 1.0 / math.log(2.0 + len(symbol)))
    return list(pieces.items())
