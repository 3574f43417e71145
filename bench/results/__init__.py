"""What a run leaves on the disk, and the numbers derived from it. Imports without torch."""
