"""Broken: the feature extractor's adversarial loss reaches the domain classifier, which zeroes only after its own step."""
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(314)
features, classifier, domain = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)
main_opt = torch.optim.Adam([*features.parameters(), *classifier.parameters()], lr=1e-3)
domain_opt = torch.optim.Adam(domain.parameters(), lr=1e-3)
for _ in range(6):
    xs, ys, xt = torch.randn(8, 6), torch.randint(0, 3, (8,)), torch.randn(8, 6) + 1
    main_opt.zero_grad()
    fs, ft = features(xs), features(xt)
    fool = F.binary_cross_entropy_with_logits(domain(ft), torch.ones(8, 1))
    (F.cross_entropy(classifier(fs), ys) + 0.1 * fool).backward()
    main_opt.step()
    d = torch.cat([domain(fs.detach()), domain(ft.detach())])
    d_loss = F.binary_cross_entropy_with_logits(d, torch.cat([torch.ones(8, 1), torch.zeros(8, 1)]))
    d_loss.backward()
    domain_opt.step()  # expect: mixed-optimizer-gradients
    domain_opt.zero_grad()
trained = [*features.parameters(), *classifier.parameters(), *domain.parameters()]
