"""From a model name to its folder, tokenizer and rendered prompts: what every engine shares before a model runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_math.errors import BadInput
from eval_math.records import Request, digest

from .thinking import Split, ThinkTags, find_tags, prompt_state, split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HASHED_WHOLE_BYTES = 64 * 2**20
HASHED_CHUNKS = 256
HASHED_CHUNK_BYTES = 64 * 2**10
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Chat:
    """A tokenizer with what engines need around it."""

    tokenizer: PreTrainedTokenizerBase
    tags: ThinkTags
    end_ids: frozenset[int]
    """Tokens that end an output."""
    hidden_ids: frozenset[int]
    """Special tokens, think tags excepted: never shown in a text."""

    def render(self, request: Request) -> list[int]:
        """`render` with this tokenizer."""
        return render(self.tokenizer, request)

    def encode(self, text: str) -> list[int]:
        """Ids of bare text, no special tokens added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids without special tokens; think tags stay."""
        return self.decode_all([token for token in ids if token not in self.hidden_ids])

    def decode_all(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens spelled out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def split(self, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Split:
        """`thinking.split` with this tokenizer."""
        return split(prompt_ids, output_ids, self.tags, self.decode)

    def opens_thinking(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the prompt ends inside a chain of thought."""
        return prompt_state(prompt_ids, self.tags, self.decode) == "open"


def open_chat(folder: Path) -> Chat:
    """The tokenizer of a model folder.

    Raises:
        BadInput: the folder holds no tokenizer.
    """
    tokenizer = _load_tokenizer(folder)
    tags = find_tags(tokenizer)
    special = frozenset(int(token) for token in tokenizer.all_special_ids)
    return Chat(tokenizer, tags, _end_ids(folder, tokenizer), special - tags.ids)


def resolve_model(name: str) -> Path:
    """The folder of a model: `embedded`, a folder, or a hub id (downloaded once, through huggingface_hub).

    Raises:
        BadInput: there is no such model, or its folder lacks config.json or weights.
    """
    folder = _embedded() if name == "embedded" else Path(name).expanduser()
    if not folder.is_dir():
        folder = _download(name)
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"model {name!r}: no config.json in {folder}; a model folder as saved by save_pretrained is expected"
        )
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise BadInput(f"model {name!r}: no weights in {folder}; expected {' or '.join(WEIGHTS)}")
    return folder


def max_length(folder: Path, asked: int | None) -> int:
    """Longest prompt plus output in tokens: ``asked``, else what the model was made for.

    Raises:
        BadInput: more was asked than the model was made for.
    """
    config = _read_json(folder / "config.json")
    config = config.get("text_config") or config
    made_for = config.get("max_position_embeddings")
    if asked is None:
        return int(made_for or 2048)
    if asked < 2 or (made_for and asked > made_for and not _stretchable(config)):
        raise BadInput(
            f"max_model_len={asked}: {folder.name} takes 2 to {made_for} tokens; give a number in that range"
        )
    return asked


def render(tokenizer: PreTrainedTokenizerBase, request: Request) -> list[int]:
    """Ids that the model is shown: the prompt, generation prompt included, then ``prefill_ids``.

    Raises:
        BadInput: messages are to be rendered and the tokenizer has no chat template, or the template refuses them.
    """
    if request.prompt_ids is not None:
        return [*request.prompt_ids, *request.prefill_ids]
    if not tokenizer.chat_template:
        raise BadInput(
            f"the tokenizer in {tokenizer.name_or_path!r} has no chat template, so messages cannot be rendered; "
            "use an instruction-tuned model, add chat_template.jinja to its folder, or pass prompt ids"
        )
    return [*_apply_template(tokenizer, request), *request.prefill_ids]


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the chat template and the vocabulary."""
    template = tokenizer.chat_template
    shown = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return digest([shown, sorted(tokenizer.get_vocab().items())])


def model_hash(folder: Path) -> str:
    """Hash of config and weights: files up to 64 MB whole, larger ones by name, size, header and 257 spread chunks."""
    total = hashlib.sha256()
    files = [folder / "config.json", *(f for pattern in WEIGHTS for f in folder.glob(pattern))]
    # What a latent reasoner is besides its weights.
    files += [*folder.glob("*.index.json"), *folder.glob("latent.json")]
    for file in sorted(files):
        total.update(file.name.encode())
        total.update(_fingerprint(file))
    return total.hexdigest()[:32]


def _stretchable(config: dict[str, Any]) -> bool:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope.get("rope_type", rope.get("type", "default")) != "default"


def _fingerprint(file: Path) -> bytes:
    size = file.stat().st_size
    if size <= HASHED_WHOLE_BYTES:
        return hashlib.sha256(file.read_bytes()).digest()
    total = hashlib.sha256(str(size).encode())
    with open(file, "rb") as handle:
        length = min(int.from_bytes(handle.read(8), "little"), HASHED_WHOLE_BYTES)
        total.update(handle.read(length))
        # Headers of two fine-tunes are equal: chunks all over the file tell their weights apart.
        for at in range(HASHED_CHUNKS + 1):
            handle.seek(max(0, size - HASHED_CHUNK_BYTES) * at // HASHED_CHUNKS)
            total.update(handle.read(HASHED_CHUNK_BYTES))
    return total.digest()


def _embedded() -> Path:
    from .embedded import embedded_model_path

    try:
        return embedded_model_path()
    except FileNotFoundError as error:
        raise BadInput(f"model 'embedded': {error}") from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BadInput(f"model {name!r}: no such folder; give a model folder, a hub id, or 'embedded'")
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"model {name!r}: neither a folder here nor a model that the hub gives out ({reason}); "
            "check the name, the connection and your access, or use 'embedded'"
        ) from error


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise BadInput(f"{folder}: no tokenizer; expected one of {', '.join(TOKENIZER_FILES)} beside the weights")
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"{folder}: the tokenizer cannot be loaded ({error}); copy it anew from the original model"
        ) from error


def _apply_template(tokenizer: PreTrainedTokenizerBase, request: Request) -> list[int]:
    from jinja2 import TemplateError

    turns = [{"role": m.role, "content": m.content} for m in request.messages]
    arguments: dict[str, Any] = dict(request.template)
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
    except (TemplateError, TypeError) as error:
        raise BadInput(f"request {request.problem_id!r}: the chat template refuses these messages ({error})") from error
    return list(tokenizer.encode(str(text), add_special_tokens=False))


def _end_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """End tokens of generation_config.json, else of config.json, and the tokenizer's own."""
    listed = _read_json(folder / "generation_config.json").get("eos_token_id")
    if listed is None:
        listed = _read_json(folder / "config.json").get("eos_token_id")
    ids = listed if isinstance(listed, list) else [listed]
    return frozenset(int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); copy it anew from the original model") from error
