"""Update rules as plain functions, the words they are written in, and the tracer."""

from __future__ import annotations

from thalweg.rules.adaptive import adagrad, adam, adamw, nadam, rmsprop
from thalweg.rules.descent import averaged_momentum, lookahead, momentum, nesterov, sgd
from thalweg.rules.matrix import MatrixRule, matrix_rule
from thalweg.rules.muon import muon, muon_adamw
from thalweg.rules.program import Program
from thalweg.rules.quickprop import quickprop
from thalweg.rules.rule import Rule, as_rule, rule
from thalweg.rules.schedule_free import schedule_free_adamw
from thalweg.rules.sign import lion, rprop
from thalweg.rules.soap import soap
from thalweg.rules.trace import trace
from thalweg.rules.vocabulary import abs, maximum, minimum, sign, sqrt, where

__all__ = [
    "MatrixRule",
    "Program",
    "Rule",
    "abs",
    "adagrad",
    "adam",
    "adamw",
    "as_rule",
    "averaged_momentum",
    "lion",
    "lookahead",
    "matrix_rule",
    "maximum",
    "minimum",
    "momentum",
    "muon",
    "muon_adamw",
    "nadam",
    "nesterov",
    "quickprop",
    "rmsprop",
    "rprop",
    "rule",
    "schedule_free_adamw",
    "sgd",
    "sign",
    "soap",
    "sqrt",
    "trace",
    "where",
]
