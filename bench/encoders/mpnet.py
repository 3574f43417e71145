"""`mpnet`: all-mpnet-base-v2, real weights and tokenizer; 12 layers, d 768, no token types, pooled by mean."""

from bench.encoders._published import Published

ASSETS = ("mpnet",)

_encoder = Published("mpnet", "all-mpnet-base-v2")
check, contents, limits = _encoder.check, _encoder.contents, _encoder.limits
pooling, load = _encoder.pooling, _encoder.load
