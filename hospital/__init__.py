"""Sick and healthy trainings whose true causes are known: how well ``thalweg diagnose`` tells them apart.

python -m hospital --write docs/hospital.md
"""
