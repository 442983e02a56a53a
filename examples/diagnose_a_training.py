"""A stranger's network in a bare PyTorch loop, and what is wrong with it: each step adds to the gradients of the last.

    python examples/diagnose_a_training.py [--quick]

Expected: "sick", GRAD_ACCUMULATES first; the page training.html has the pictures.
"""

import sys

import torch
import torchvision

import reslab

model = torchvision.models.resnet18(num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
with reslab.watch(model, every=5) as probe:  # the one line that is added
    for _ in range(6 if "--quick" in sys.argv else 20):
        images, labels = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # and where is optimizer.zero_grad()?
        optimizer.step()

print(probe.diagnosis.verdict)
for finding in probe.diagnosis.findings:
    print(f"{finding.id}: {finding.sentence} What helps: {finding.actions[0]}.")
probe.diagnosis.save("training.html")
