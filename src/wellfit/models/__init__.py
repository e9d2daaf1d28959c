"""stand-in"""
from torch import nn
def build(settings, shape, outputs):
    if settings.kind == "mlp":
        layers = [nn.Flatten()]; n = 1
        for s in shape: n *= s
        for w in settings.widths: layers += [nn.Linear(n, w), nn.ReLU(), nn.Dropout(settings.dropout)]; n = w
        return nn.Sequential(*layers, nn.Linear(n, outputs))
    net = nn.Sequential(); c = shape[0]; blocks = []
    for i, k in enumerate(settings.channels):
        blocks.append(nn.Sequential(nn.Conv2d(c, k, 3, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU(), *([nn.MaxPool2d(2)] if i else []))); c = k
    net.blocks = nn.Sequential(*blocks)
    net.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(settings.dropout), nn.Linear(4 * c, outputs))
    return net
