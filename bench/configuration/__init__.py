"""What to measure: bench.toml, presets, --set, and the sweep that they span."""
