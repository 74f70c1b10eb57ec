"""Which rates a schedule gives, without training."""

import numpy as np
import torch
from torch.optim import SGD

from stages.training.lr_schedules import make_schedule


def lr_trace(schedule, highest, steps_per_epoch, epochs):
    """The rates of every step, float64 [steps, groups], of groups with these highest rates; ``plateau`` never falls."""
    optimizer = SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in highest])
    scheduler = make_schedule(optimizer, schedule, steps_per_epoch, epochs)
    rates = []
    for _ in range(steps_per_epoch * epochs):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(rates).reshape(-1, len(highest))
