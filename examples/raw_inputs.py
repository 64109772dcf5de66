"""Wines from their chemistry, as measured: proline counts in hundreds, hue in tenths.

thalweg diagnose examples/raw_inputs.py:setup --try
"""

import torch
from sklearn.datasets import load_wine
from torch import nn


def setup():
    inputs, targets = load_wine(return_X_y=True)
    x = torch.tensor(inputs, dtype=torch.float32)
    y = torch.tensor(targets)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, (x, y), nn.CrossEntropyLoss(), optimizer, 16, 20
