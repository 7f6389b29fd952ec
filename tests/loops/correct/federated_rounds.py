"""Correct: federated averaging; each round copies the global model per client, trains it with a new optimizer, averages weights."""
import copy

import torch
from torch import nn


def client_update(global_model, data, local_steps):
    model = copy.deepcopy(global_model)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for x, y in data[:local_steps]:
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
    return model.state_dict()


torch.manual_seed(503)
server = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
clients = [[(torch.randn(8, 4), torch.randint(0, 2, (8,))) for _ in range(3)] for _ in range(3)]
for rnd in range(2):
    states = [client_update(server, data, local_steps=3) for data in clients]
    server.load_state_dict({k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]})
trained = list(server.parameters())
