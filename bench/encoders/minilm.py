"""`minilm`: all-MiniLM-L6-v2, real weights and tokenizer; 6 layers, d 384, 22.6 million parameters, pooled by mean."""

from bench.encoders._published import Published

ASSETS = ("minilm",)

_encoder = Published("minilm", "all-MiniLM-L6-v2")
check, contents, limits = _encoder.check, _encoder.contents, _encoder.limits
pooling, load = _encoder.pooling, _encoder.load
