"""Makes the model folder that the real engine serves in tests: `python tiny_model.py FOLDER`.

The folder has no weights (the engine is started with `--load-format dummy`): a small Llama
configuration, a byte-level BPE tokenizer trained here on a few sentences, and a chat template.
Run it with the Python of the vLLM environment: the gateway's own environment has no `tokenizers`.
"""

import json
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

LARGEST_VOCABULARY = 1024
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
EOS_TOKEN = 2
# Tab, newline, return, space, and no others: the corpus has no run of two of them. A random model
# that may write JSON as it likes writes white space for ever; tests bias these to stop it.
WHITESPACE_TOKENS = {"ĉ": 202, "Ċ": 203, "č": 206, "Ġ": 225}

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    # Eight make a step take some milliseconds. A faster engine keeps its own server so busy that
    # it hears neither a client that leaves nor a scrape.
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "unk_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS_TOKEN,
    "torch_dtype": "float32",
}

CHAT_TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call these tools:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.role == "tool" %} {{ message.tool_call_id }}
{%- endif %}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_bos_token": False,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 32768,
    "chat_template": CHAT_TEMPLATE,
}

CORPUS = (
    "The quick brown fox jumps over the lazy dog while the river runs slowly to the sea.",
    "A gateway relays every byte that a worker streams, at once and as it was.",
    "What is the weather in Paris today? It is sunny, with a light wind from the west.",
    '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius", "days": 3}}',
    "One two three four five six seven eight nine ten eleven twelve thirteen fourteen.",
    "def add(left: int, right: int) -> int: return left + right",
    "Grüße aus Köln, 東京は晴れです, Привет мир, and a rocket: 🚀.",
)


def write_model(folder: Path) -> None:
    """Write the model into `folder`: whole or not at all, also when two processes do it at once."""
    if (folder / "tokenizer.json").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        tokenizer = _train_tokenizer()
        tokenizer.save(str(draft / "tokenizer.json"))
        (draft / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2))
        # No larger than the tokenizer's: an id without a text would be a token without an event.
        config = {**CONFIG, "vocab_size": tokenizer.get_vocab_size()}
        (draft / "config.json").write_text(json.dumps(config, indent=2))
        draft.rename(folder)
    except OSError:
        if not (folder / "tokenizer.json").exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _train_tokenizer() -> Any:
    tokenizers = import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))  # noqa: S106 (a token of text)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=LARGEST_VOCABULARY,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    vocabulary = tokenizer.get_vocab()
    blank = {text: token for text, token in vocabulary.items() if not text.strip("ĉĊčĠ")}
    if blank != WHITESPACE_TOKENS:
        raise ValueError(f"other tokens are white space: {blank}")
    return tokenizer


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
