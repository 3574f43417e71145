#!/usr/bin/env bash
# Expected: `tokenizer(texts, truncation=True, max_length=2)` leaves the tokenizer as it was; `save_pretrained` writes
#   the same tokenizer.json before and after.
# Seen: the call's truncation and padding are written into tokenizer.json. Whoever reads the file with the tokenizers
#   library cuts every text to the length of the last call before saving; AutoTokenizer's calls do not, so the two
#   readers of one file disagree.
. "$(dirname "$0")/_environment.sh"
environment torch==2.13.0 transformers==5.24.0 numpy==2.4.6
python - <<'PY'
import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print("tokenizers", tokenizers.__version__)
backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "shoe": 3, "size": 4}, unk_token="[UNK]"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
text = "red shoe size red"
seen = []
for folder in ("before", "after"):
    tokenizer.save_pretrained(folder)
    file = Tokenizer.from_file(f"{folder}/tokenizer.json")
    seen.append((file.truncation and file.truncation["max_length"], file.encode(text).ids,
                 AutoTokenizer.from_pretrained(folder)(text)["input_ids"]))
    print(f"saved {folder} the call: truncation {seen[-1][0]}, tokenizers {seen[-1][1]}, AutoTokenizer {seen[-1][2]}")
    tokenizer(["red shoe size"], truncation=True, max_length=2, padding="max_length")
assert seen == [(None, [2, 3, 4, 2], [2, 3, 4, 2]), (2, [2, 3], [2, 3, 4, 2])], seen
PY
