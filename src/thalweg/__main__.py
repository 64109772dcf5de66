"""``python -m thalweg``: the same as the command ``thalweg``."""

from __future__ import annotations

from thalweg.commands.app import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
