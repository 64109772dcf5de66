"""linear on iris by sgd, 4 steps of 32 examples. Prints the validation accuracy at each evaluation and
the test score after the last step. Written by thalweg race; doesn't need it."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

# data
x, y = load_iris(return_X_y=True)
rows = np.arange(150)
rest, test = train_test_split(rows, test_size=0.2, random_state=449772998, stratify=y)
train, validation = train_test_split(rest, test_size=0.25, random_state=449772998, stratify=y[rest])
scaler = StandardScaler().fit(x[train])
x_train, x_validation, x_test = (
    torch.tensor(scaler.transform(part), dtype=torch.float32) for part in (x[train], x[validation], x[test])
)
y_train, y_validation, y_test = (torch.tensor(part) for part in (y[train], y[validation], y[test]))

# loss and metric
def loss(outputs, targets):
    return F.cross_entropy(outputs, targets)


def metric(outputs, targets):
    return float((outputs.argmax(1) == targets).double().mean())


@torch.no_grad()
def evaluate(measure, x, y):
    model.eval()
    return float(measure(torch.cat([model(part) for part in x.split(256)]), y))

# model, with the run's initial weights
torch.manual_seed(979568201)
model = nn.Sequential(
    nn.Linear(4, 3),
)

# optimizer and schedule
optimizer = torch.optim.SGD(model.parameters(), lr=0.519)
rates = [group['lr'] for group in optimizer.param_groups]
factor = lambda step: 1.0

# training
batch_size, epochs, evaluations = 32, 2, 4
steps = len(x_train) // batch_size  # of an epoch
total = steps * epochs
points = {round(total * i / evaluations) for i in range(evaluations + 1)}

for step in range(total + 1):
    if step in points:
        print("step", step, "validation", evaluate(metric, x_validation, y_validation))
    if step == total:
        break
    if step % steps == 0:
        draws = np.random.Philox(key=[2100879063, step // steps]).random_raw(len(x_train))
        order = torch.from_numpy(np.argsort(draws, kind="stable"))
    batch = order[step % steps * batch_size :][:batch_size]
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate * factor(step)
    model.train()
    optimizer.zero_grad()
    loss(model(x_train[batch]), y_train[batch]).backward()
    optimizer.step()
print("test", evaluate(metric, x_test, y_test))
