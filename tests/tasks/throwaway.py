"""Three tasks that exist only to prove that training, records and pages look inside no batch and know no task."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from reslab.records import Score
from reslab.tasks import Classify, Step


class Means:
    """Averages of numbers, weighed by the items that they are of."""

    def __init__(self, numbers_of):
        self.numbers_of, self.sums, self.count = numbers_of, {}, 0

    def update(self, outputs, batch):
        numbers, count = self.numbers_of(outputs, batch)
        self.count += count
        self.sums = {name: self.sums.get(name, 0.0) + float(value) * count for name, value in numbers.items()}

    def compute(self):
        return {name: value / self.count for name, value in self.sums.items()}


@dataclass(frozen=True)
class Digit:
    """A prediction of ``Nested``."""

    parity: str


class Nested:
    """Nested targets: whether a digit is even, and how dark its image is. Batches are dicts, with a list per item."""

    name, score, num_outputs = "nested", Score("mistakes"), 3

    def __init__(self, classes):
        self.is_even = torch.tensor([int(name) % 2 == 0 for name in classes])

    def attach_head(self, trunk):
        return trunk

    def collate(self, inputs, targets):
        if targets is None:
            return {"image": inputs}
        even = self.is_even.to(targets.device)[targets].long()
        names = [{"digit": digit} for digit in targets.unbind()]
        return {"image": inputs, "target": {"even": even, "dark": inputs.mean((1, 2, 3)), "items": names}}

    def outputs(self, forward, batch):
        values = forward(batch["image"])
        return {"even": values[:, :2], "dark": values[:, 2]}

    def judge(self, outputs, batch):
        target = batch["target"]
        loss = F.cross_entropy(outputs["even"], target["even"]) + F.mse_loss(outputs["dark"], target["dark"])
        return loss, (outputs["even"].argmax(1) != target["even"]).sum()

    def step(self, forward, batch):
        loss, wrong = self.judge(self.outputs(forward, batch), batch)
        return Step(loss, len(batch["target"]["items"]), wrong)

    def metrics(self):
        def numbers(outputs, batch):
            loss, wrong = self.judge(outputs, batch)
            return {"loss": loss, "mistakes": wrong / len(batch["image"])}, len(batch["image"])

        return Means(numbers)

    def predict(self, outputs, batch):
        return [Digit("even" if even > odd else "odd") for odd, even in outputs["even"].tolist()]


class Mimic:
    """Distillation: a task that wraps a task, and asks a second network about the same inputs."""

    name, score = "mimic", Score("disagreement", unit="number")

    def __init__(self, classes, *, teacher=None):
        torch.manual_seed(7)
        self.inner = Classify(classes)
        self.num_outputs, self.predict = self.inner.num_outputs, self.inner.predict
        self.attach_head, self.collate, self.outputs = self.inner.attach_head, self.inner.collate, self.inner.outputs
        self.teacher = teacher or nn.Sequential(nn.Flatten(), nn.Linear(64, len(self.inner.classes)))
        self.before = copy.deepcopy(self.teacher.state_dict())

    @torch.no_grad()
    def target(self, batch):
        return self.teacher(batch[0]).softmax(1)

    def divergence(self, outputs, batch):
        return F.kl_div(outputs.log_softmax(1), self.target(batch), reduction="batchmean")

    def step(self, forward, batch):
        loss = self.divergence(self.outputs(forward, batch), batch)
        return Step(loss, len(batch[0]), loss.detach() * len(batch[0]))

    def metrics(self):
        def numbers(outputs, batch):
            value = self.divergence(outputs, batch)
            return {"loss": value, "disagreement": value}, len(batch[0])

        return Means(numbers)


class Ranked(Classify):
    """A score that is better when higher, isn't called error, and can't be had from a single batch."""

    name, score = "ranked", Score("top2", better="higher")

    def step(self, forward, batch):
        step = super().step(forward, batch)
        return Step(step.loss, step.num_items)

    def metrics(self):
        def numbers(outputs, batch):
            hits = (outputs.topk(2).indices == batch[1].unsqueeze(1)).any(1)
            return {"loss": F.cross_entropy(outputs, batch[1]), "top2": hits.float().mean()}, len(batch[0])

        return Means(numbers)
