"""GRAM: fine-tuning a content encoder together with a collaborative filtering module, each item encoded once.

Yang, Kim, Kim, Park: GRAM: Fast Fine-tuning of Pre-trained Language Models for Content-based Collaborative
Filtering, NAACL 2022.
"""

from gram_core.accelerated import Accelerated, accelerated
from gram_core.batch import Batch, ItemTable, Texts
from gram_core.cf_modules.nrms import NRMS
from gram_core.deduplicated import Deduplicated
from gram_core.encoders.huggingface import HuggingFaceEncoder
from gram_core.encoders.pictures import PictureEncoder
from gram_core.encoding import encode, encoded
from gram_core.item_sources import IndexedItems
from gram_core.methods.e2e import E2E
from gram_core.methods.e2e_unique import E2EUnique
from gram_core.methods.multi_step import MultiStep, resolve_accumulation_steps
from gram_core.methods.single_step import SingleStep
from gram_core.multi_step_encodings import MultiStepEncodings
from gram_core.pair_loss import DeduplicatedLoss
from gram_core.protocols import CFModule, ContentEncoder, ItemSource, Method
from gram_core.training import Optimization, Training

__all__ = [
    "E2E",
    "NRMS",
    "Accelerated",
    "Batch",
    "CFModule",
    "ContentEncoder",
    "Deduplicated",
    "DeduplicatedLoss",
    "E2EUnique",
    "HuggingFaceEncoder",
    "IndexedItems",
    "ItemSource",
    "ItemTable",
    "Method",
    "MultiStep",
    "MultiStepEncodings",
    "Optimization",
    "PictureEncoder",
    "SingleStep",
    "Texts",
    "Training",
    "accelerated",
    "encode",
    "encoded",
    "resolve_accumulation_steps",
]
