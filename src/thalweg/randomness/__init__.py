"""Draws that depend on a run alone: counter-based streams, seeded generators, functions keyed to them."""
