#!/usr/bin/env python
# Toy single-object detector: which shape is it, and where is it?
import argparse

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
SIZE = 24
SHAPES = ["square", "frame", "cross"]


def make_scenes(n, rng):
    yy, xx = np.mgrid[0:SIZE, 0:SIZE]
    images = rng.integers(0, 60, size=(n, SIZE, SIZE)).astype(np.float32)
    boxes = np.zeros((n, 4), dtype=np.float32)
    kinds = rng.integers(0, len(SHAPES), size=n)
    for i in range(n):
        r = rng.integers(4, 8)
        cx, cy = rng.integers(r, SIZE - r, size=2)
        dx, dy = np.abs(xx - cx), np.abs(yy - cy)
        if kinds[i] == 0:
            mask = np.maximum(dx, dy) <= r
        elif kinds[i] == 1:
            mask = (np.maximum(dx, dy) <= r) & (np.maximum(dx, dy) > r - 2)
        else:
            mask = (np.minimum(dx, dy) <= 1) & (np.maximum(dx, dy) <= r)
        images[i][mask] = rng.uniform(140, 255)
        boxes[i] = cx + 0.5, cy + 0.5, 2 * r + 1, 2 * r + 1
    images = torch.from_numpy(images).unsqueeze(1)
    boxes = torch.from_numpy(boxes) / SIZE
    labels = torch.from_numpy(kinds).long()
    return images / 127.5 - 1.0, boxes, labels


class Detector(nn.Module):
    def __init__(self, width=8, hidden=64, drop=0.1):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.neck = nn.Sequential(nn.Linear(4 * width * 9, hidden), nn.ReLU(), nn.Dropout(drop))
        self.box_head = nn.Linear(hidden, 4)
        self.cls_head = nn.Linear(hidden, len(SHAPES))

    def forward(self, x):
        h = self.neck(self.backbone(x))
        return self.box_head(h).sigmoid(), self.cls_head(h)


def corners(b):
    return torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], dim=1)


def iou_and_giou(a, b):
    a, b = corners(a), corners(b)
    inter = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    hull = (torch.max(a[:, 2:], b[:, 2:]) - torch.min(a[:, :2], b[:, :2])).prod(1)
    iou = inter / (union + 1e-7)
    return iou, iou - (hull - union) / (hull + 1e-7)


def detection_loss(pred_box, logits, box, label, args):
    l1 = F.smooth_l1_loss(pred_box, box, beta=0.1)
    giou = (1 - iou_and_giou(pred_box, box)[1]).mean()
    cls = F.cross_entropy(logits, label)
    return args.w_l1 * l1 + args.w_giou * giou + args.w_cls * cls


def validate(model, images, boxes, labels, args):
    model.eval()
    with torch.no_grad():
        pred_box, logits = model(images)
        loss = detection_loss(pred_box, logits, boxes, labels, args)
        iou = iou_and_giou(pred_box, boxes)[0].mean()
        acc = (logits.argmax(1) == labels).float().mean()
    return loss.item(), iou.item(), acc.item()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--epochs", type=int, default=16)
    p.add_argument("--batch-size", type=int, default=48)
    p.add_argument("--lr", type=float, default=4e-3)
    p.add_argument("--w-l1", type=float, default=4.0)
    p.add_argument("--w-giou", type=float, default=1.0)
    p.add_argument("--w-cls", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=3)
    args = p.parse_args()

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    train_set = make_scenes(1200, rng)
    val_set = make_scenes(300, rng)
    loader = DataLoader(TensorDataset(*train_set), batch_size=args.batch_size, shuffle=True)

    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs * len(loader))

    for epoch in range(1, args.epochs + 1):
        model.train()
        running = 0.0
        for image, box, label in loader:
            pred_box, logits = model(image)
            loss = detection_loss(pred_box, logits, box, label, args)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            running += loss.item()
        val_loss, iou, acc = validate(model, *val_set, args)
        print(f"[{epoch:02d}] train={running / len(loader):.4f} val={val_loss:.4f} IoU={iou:.3f} acc={acc:.3f}")


if __name__ == "__main__":
    main()
