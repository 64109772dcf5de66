"""Tumors, malignant or benign; softmax of a single output is always 1, so that nothing is learnt.

thalweg diagnose examples/one_output.py:setup --try
"""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn


def setup():
    inputs, targets = load_breast_cancer(return_X_y=True)
    x = torch.tensor(inputs, dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    y = torch.tensor(targets, dtype=torch.float32).reshape(-1, 1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(30, 16),
        nn.ReLU(),
        nn.Linear(16, 1),
        nn.Softmax(dim=1),
    )
    loss = nn.BCELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return {
        "model": model,
        "data": (x, y),
        "loss": loss,
        "optimizer": optimizer,
        "batch_size": 32,
        "epochs": 10,
    }
