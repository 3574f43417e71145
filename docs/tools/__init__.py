"""What makes the generated parts of README.md and docs/, and what checks and publishes their links."""
