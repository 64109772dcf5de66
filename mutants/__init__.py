"""Mutations of the source that the tests must catch: ``make mutants``.

``NAME.toml`` beside this file lists the mutations of a room, :mod:`mutants.place` finds and makes them, and
:mod:`mutants.run` runs the tests over each.
"""
