"""What is measured and how: one idea a file."""
