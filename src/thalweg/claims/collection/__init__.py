"""Claims of the lectures, one file each; ``CLAIM`` is what a file is for."""
