"""What is measured on: assets in the cache, and logs and encoders by the hashes of their content."""
