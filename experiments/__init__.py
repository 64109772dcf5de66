"""Experiments on real data: variants of recipes, trained from several seeds and compared in pairs."""
