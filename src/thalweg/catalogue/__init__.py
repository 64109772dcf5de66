"""One frozen table of every optimizer: what it is, where its numbers are searched, how to build it."""

from __future__ import annotations

from thalweg.catalogue.entry import Call, Entry, Hyperparameter, Script
from thalweg.catalogue.own import refusal_by_name, resolve
from thalweg.catalogue.table import get, names

__all__ = ["Call", "Entry", "Hyperparameter", "Script", "get", "names", "refusal_by_name", "resolve"]
