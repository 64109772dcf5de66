"""A recipe carried out: its parts built, trained, and what is left in the run directory."""
