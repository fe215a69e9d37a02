"""The tokenizer: byte-level BPE whose merges take the space before a word last.

A word is cut into the same pieces after a space, a quote or a line end; only its first piece may carry the space. So
copying a name out of a sentence into JSON is a copy of the same tokens. Digits and capital letters stand alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIALS = (PAD, END, SYSTEM, USER, ASSISTANT)
VOCABULARY = 2048
SPACED = 720
"""How many pieces also exist with the space before them."""
CONTEXT_TOKENS = 2048

_SPACE = "Ġ"
_WORDS = r"JSON|[A-Z][a-z]+|[A-Z]| ?[a-z]+(?:'[a-z]+)?|[0-9]| ?[^\sA-Za-z0-9]+|\s"
_APART = r"JSON|[A-Z][a-z]+|[A-Z]|[a-z]+(?:'[a-z]+)?|[0-9]|[^\sA-Za-z0-9]+|\s"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] in ('system', 'developer') -%}
<|system|>
{%- elif message['role'] == 'assistant' -%}
<|assistant|>
{%- else -%}
<|user|>
{%- endif -%}
{{- message['content'] or '' -}}
<|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{%- endif -%}
"""


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(texts: Iterable[str]) -> Tokenizer:
    """Learn pieces without spaces, then add for the most frequent pieces a twin that carries the space."""
    corpus = list(texts)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = _pre_tokenizer(_APART)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - SPACED - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=14,
    )
    inner.train_from_iterator(corpus, trainer)
    learned = json.loads(inner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]

    spaced: Counter[str] = Counter()
    splitter = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    seen: Counter[str] = Counter()
    for text in corpus:
        seen.update(word for word, _ in splitter.pre_tokenize_str(text) if len(word) > 1 and word[0] == " ")
    for word, count in seen.items():
        spaced[inner.encode(word[1:]).tokens[0]] += count
    twins = [piece for piece, _ in spaced.most_common(SPACED)]

    vocabulary = {token: index for index, token in enumerate(SPECIALS)}
    for token in sorted(learned["vocab"], key=learned["vocab"].__getitem__):
        vocabulary[token] = len(vocabulary)
    for piece in twins:
        vocabulary[_SPACE + piece] = len(vocabulary)
        merges.append((_SPACE, piece))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=False))
    tokenizer.pre_tokenizer = _pre_tokenizer(_WORDS)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer and its chat template the way inference engines read them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_prefix_space": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
