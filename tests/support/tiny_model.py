"""Makes the model folders that real engines serve in tests: `python tiny_model.py MODEL FOLDER`.

A folder has no weights (the engine is started with `--load-format dummy`), only a configuration and
a byte-level BPE tokenizer trained here on a few sentences. `llama` generates and embeds, and has a
chat template; `classifier` is the same with two classes; `whisper` hears speech.
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

CLASSIFIER_CONFIG: dict[str, Any] = {
    **CONFIG,
    "architectures": ["LlamaForSequenceClassification"],
    "id2label": {"0": "no", "1": "yes"},
    "label2id": {"no": 0, "yes": 1},
    "pad_token_id": 0,
}

WHISPER_CONFIG: dict[str, Any] = {
    "architectures": ["WhisperForConditionalGeneration"],
    "model_type": "whisper",
    "num_mel_bins": 80,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 128,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "torch_dtype": "float32",
}
WHISPER_END = "<|endoftext|>"
# What a prompt of the decoder is made of, and two marks of time, which verbose answers look for.
WHISPER_TOKENS = (
    *("<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startofprev|>"),
    *("<|nospeech|>", "<|notimestamps|>", "<|0.00|>", "<|0.02|>"),
)
WHISPER_TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "WhisperTokenizerFast",
    "processor_class": "WhisperProcessor",
    "bos_token": WHISPER_END,
    "eos_token": WHISPER_END,
    "unk_token": WHISPER_END,
    "pad_token": WHISPER_END,
    "model_max_length": 448,
}
WHISPER_FEATURES: dict[str, Any] = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "feature_size": 80,
    "sampling_rate": 16000,
    "hop_length": 160,
    "chunk_length": 30,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}


def write_model(model: str, folder: Path) -> None:
    """Write the model into `folder`: whole or not at all, also when two processes do it at once.

    Raises `KeyError` for a model that is none of the three.
    """
    write = {
        "llama": lambda draft: _write_llama(draft, CONFIG),
        "classifier": lambda draft: _write_llama(draft, CLASSIFIER_CONFIG),
        "whisper": _write_whisper,
    }[model]
    if (folder / "tokenizer.json").exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        write(draft)
        draft.rename(folder)
    except OSError:
        if not (folder / "tokenizer.json").exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_llama(folder: Path, config: dict[str, Any]) -> None:
    tokenizer = _train_tokenizer("<unk>", SPECIAL_TOKENS)
    vocabulary = tokenizer.get_vocab()
    blank = {text: token for text, token in vocabulary.items() if not text.strip("ĉĊčĠ")}
    if blank != WHITESPACE_TOKENS:
        raise ValueError(f"other tokens are white space: {blank}")
    # No larger than the tokenizer's: an id without a text would be a token without an event.
    _write(folder, tokenizer, TOKENIZER_CONFIG, {**config, "vocab_size": len(vocabulary)})


def _write_whisper(folder: Path) -> None:
    tokenizer = _train_tokenizer(WHISPER_END, (WHISPER_END,))
    tokenizer.add_special_tokens(list(WHISPER_TOKENS))
    config = {**WHISPER_CONFIG, "vocab_size": tokenizer.get_vocab_size()}
    _write(folder, tokenizer, WHISPER_TOKENIZER_CONFIG, config)
    (folder / "preprocessor_config.json").write_text(json.dumps(WHISPER_FEATURES, indent=2))


def _write(
    folder: Path, tokenizer: Any, tokenizer_config: dict[str, Any], config: dict[str, Any]
) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _train_tokenizer(unknown: str, special_tokens: tuple[str, ...]) -> Any:
    tokenizers = import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=unknown))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        tokenizers.trainers.BpeTrainer(
            vocab_size=LARGEST_VOCABULARY,
            special_tokens=list(special_tokens),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


if __name__ == "__main__":
    write_model(sys.argv[1], Path(sys.argv[2]))
