"""The machine: what it is, its memory, its cores, and what it does while something is measured."""
