#!/usr/bin/env bash
# Expected: `AutoTokenizer.from_pretrained` of a folder with tokenizer.json splits text as that file says; the class in
#   tokenizer_config.json is about special tokens and Python methods.
# Seen: where the named class has a pipeline of its own (BertTokenizer, GPT2Tokenizer), version 5 takes the vocabulary
#   from the file and replaces normaliser and pre-tokeniser: other tokens, so other embeddings, and no warning. With
#   PreTrainedTokenizerFast the file holds.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import json
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

print("tokenizers", tokenizers.__version__)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "Red", "shoe", "size", "42", "4", "2"]
saved = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
digits = pre_tokenizers.Digits(individual_digits=True)
saved.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), digits])
Path("tokenizer").mkdir()
saved.save("tokenizer/tokenizer.json")
text = "Red shoe size 42"
seen = {"tokenizer.json": saved.encode(text).tokens}
for name in ("PreTrainedTokenizerFast", "BertTokenizer"):
    config = {"tokenizer_class": name, "unk_token": "[UNK]", "pad_token": "[PAD]", "do_lower_case": False}
    Path("tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    seen[name] = AutoTokenizer.from_pretrained("tokenizer").tokenize(text)
for name, tokens in seen.items():
    print(f"{name:25} {tokens}")
assert seen["PreTrainedTokenizerFast"] == seen["tokenizer.json"] == ["Red", "shoe", "size", "4", "2"], seen
assert seen["BertTokenizer"] == ["Red", "shoe", "size", "42"], seen
PY
