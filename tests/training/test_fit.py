"""The loop: what it applies is what it records, what it resumes is what it would have done."""

import io
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.training.evaluation import evaluate
from reslab.training.execution import ExecutionMode
from reslab.training.loop import Recorder, fit
from reslab.training.optim import sgd
from reslab.training.options import TrainOptions
from reslab.training.schedule import constant, one_cycle

GOLDEN = Path(__file__).parent / "golden_run.json"


class Memory(Recorder):
    """Keeps records; raises a signal at one step if asked."""

    def __init__(self, *, state=None, interrupt_at=None):
        self.state, self.interrupt_at = state, interrupt_at
        self.steps, self.epochs, self.probes, self.checkpoints = [], [], [], []

    def restore(self):
        return self.state

    def step(self, record):
        self.steps.append(record)
        if record.step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, record):
        self.epochs.append(record)

    def probe(self, records):
        self.probes.extend(records)

    def checkpoint(self, state, *, step):
        torch.save(state, buffer := io.BytesIO())  # a copy: the state goes on changing
        buffer.seek(0)
        self.checkpoints.append((step, torch.load(buffer, weights_only=True)))


def network(*, dropout=0.0):
    torch.manual_seed(0)
    return create_model("resnet8", 3, in_channels=1, dropout=dropout)


def run(loaders, task, *, steps=9, model=None, recorder=None, lr=0.05, schedule=None, weight_decay=1e-4, **options):
    model = model or network()
    recorder = recorder or Memory()
    mode = {name: options.pop(name) for name in ("amp", "channels_last", "compile") if name in options}
    result = fit(
        model,
        task,
        loaders,
        optimizer=sgd(model, lr=lr, weight_decay=weight_decay),
        schedule=schedule or constant(lr),
        options=TrainOptions(steps=steps, **options),
        mode=ExecutionMode(**mode),
        recorder=recorder,
    )
    return model, recorder, result


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_records_every_step_and_epoch(loaders, task):
    _, recorder, result = run(loaders, task, steps=24, schedule=one_cycle(0.1, total_steps=24), lr=0.1)
    assert [record.step for record in recorder.steps] == list(range(24))
    assert [record.lr for record in recorder.steps] == [one_cycle(0.1, total_steps=24)(step) for step in range(24)]
    assert [record.epoch for record in recorder.epochs] == list(range(8))
    assert recorder.epochs[-1].scores["train_loss"] < recorder.epochs[0].scores["train_loss"] / 2
    assert result.status == "done"


def test_recorded_loss_norm_and_update_are_those_of_a_bare_loop(loaders, task):
    model, recorder, _ = run(loaders, task, steps=3)
    bare = network()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for record, (images, labels) in zip(recorder.steps, loaders[0].batches(0), strict=True):
        loss = nn.functional.cross_entropy(bare(images), labels)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in bare.parameters()]).norm()
        assert record.loss == pytest.approx(loss.item(), rel=1e-5)
        assert record.grad_norm == pytest.approx(norm.item(), rel=1e-4)
        optimizer.step()
    for name, value in bare.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_epoch_record_is_the_mean_over_its_batches(loaders, task):
    model, recorder, _ = run(loaders, task, steps=3)
    assert recorder.epochs[0].scores["train_loss"] == pytest.approx(sum(r.loss for r in recorder.steps) / 3)
    measured = evaluate(model, task, loaders[1])
    assert recorder.epochs[0].scores["val_error"] == measured["error"]
    assert recorder.epochs[0].scores["val_loss"] == pytest.approx(measured["loss"])


def test_length_in_steps_ends_inside_an_epoch(loaders, task):
    _, recorder, result = run(loaders, task, steps=4)
    assert (result.steps, len(recorder.steps), len(recorder.epochs)) == (4, 4, 2)


def test_twenty_steps_give_the_stored_losses(loaders, task):
    _, recorder, _ = run(loaders, task, steps=20, schedule=one_cycle(0.02, total_steps=20), lr=0.02)
    losses = [record.loss for record in recorder.steps]
    if os.environ.get("RESLAB_ACCEPT"):
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=2e-3)


@pytest.mark.parametrize("at", [1, 2, 4, 7], ids=lambda at: f"after step {at}")
def test_an_interrupted_run_goes_on_to_the_same_bits(loaders, task, at):
    options = {"steps": 9, "ema_decay": 0.9}
    whole, whole_recorder, _ = run(loaders, task, model=network(dropout=0.2), **options)
    first = Memory(interrupt_at=at)
    _, _, result = run(loaders, task, model=network(dropout=0.2), recorder=first, **options)
    assert (result.status, result.steps) == ("interrupted", at + 1)
    torch.manual_seed(99)  # what a new process would start with is not what the old one had
    second = Memory(state=first.checkpoints[-1][1])
    resumed, _, result = run(loaders, task, model=network(dropout=0.2), recorder=second, **options)
    assert result.status == "done"
    assert equal(whole.state_dict(), resumed.state_dict())
    assert [r.loss for r in first.steps + second.steps] == [r.loss for r in whole_recorder.steps]
    assert [(r.epoch, r.scores) for r in first.epochs + second.epochs] == [
        (r.epoch, r.scores) for r in whole_recorder.epochs
    ]


def test_signal_handlers_are_put_back(loaders, task):
    before = signal.getsignal(signal.SIGINT)
    run(loaders, task, steps=1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_without_interrupt_repeats_bit_by_bit(loaders, task):
    first, second = run(loaders, task)[0], run(loaders, task)[0]
    assert equal(first.state_dict(), second.state_dict())


def test_accumulated_gradients_are_those_of_the_whole_batch(loaders, task):
    def plain():  # without batch norm, which sees the parts
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))

    whole, _, _ = run(loaders, task, model=plain(), steps=3)
    parts, recorder, _ = run(loaders, task, model=plain(), steps=3, accumulate=5)  # 16 = 4 + 3 + 3 + 3 + 3
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)
    assert len(recorder.steps) == 3


def test_clipping_bounds_the_update_and_records_the_norm_before(loaders, task):
    free, unclipped, _ = run(loaders, task, steps=1, weight_decay=0.0)
    start = network().state_dict()
    clipped, recorder, _ = run(loaders, task, steps=1, weight_decay=0.0, clip_grad_norm=0.01)
    assert recorder.steps[0].grad_norm == pytest.approx(unclipped.steps[0].grad_norm)
    moved = torch.cat([(p - start[n]).flatten() for n, p in clipped.named_parameters()]).norm()
    assert moved.item() == pytest.approx(0.05 * 0.01, rel=1e-3)
    assert not equal(free.state_dict(), clipped.state_dict())


def test_l1_penalty_is_recorded_and_shrinks_weights(loaders, task):
    weights = network()
    total = sum(m.weight.abs().sum().item() for m in weights.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    plain, _, _ = run(loaders, task, steps=6)
    shrunk, recorder, _ = run(loaders, task, steps=6, l1=0.01)
    assert recorder.steps[0].l1_penalty == pytest.approx(0.01 * total, rel=1e-4)
    assert recorder.steps[0].loss == pytest.approx(run(loaders, task, steps=1)[1].steps[0].loss)
    assert sum(p.abs().sum() for p in shrunk.parameters()) < sum(p.abs().sum() for p in plain.parameters())


def test_best_weights_are_those_of_the_lowest_validation_error(loaders, task):
    model, recorder, result = run(loaders, task, steps=15)
    best = min(recorder.epochs, key=lambda r: (r.scores["val_error"], r.scores["val_loss"]))
    assert result.best_epoch == best.epoch
    model.load_state_dict(result.best)
    assert evaluate(model, task, loaders[1])["error"] == best.scores["val_error"]


def test_patience_stops_early(loaders, task):
    model, recorder, result = run(loaders, task, steps=300, patience=2, lr=1e-9)
    assert result.status == "early"
    assert len(recorder.epochs) < 100
    assert recorder.epochs[-1].epoch - result.best_epoch == 2
    assert equal(model.state_dict(), result.best)
    assert not equal(result.last, result.best)


def test_a_run_that_was_killed_when_patience_had_run_out_stops_at_once(loaders, task):
    first = run(loaders, task, steps=300, patience=2, lr=1e-9)[1]
    _, second, result = run(
        loaders, task, steps=300, patience=2, lr=1e-9, recorder=Memory(state=first.checkpoints[-1][1])
    )
    assert (result.status, second.steps) == ("early", [])


def test_ema_weights_are_validated_and_returned(loaders, task):
    model, recorder, result = run(loaders, task, steps=6, ema_decay=0.5)
    assert not equal(model.state_dict(), result.last)
    model.load_state_dict(result.last)
    assert evaluate(model, task, loaders[1])["error"] == recorder.epochs[-1].scores["val_error"]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_follows_fp32(loaders, task, amp):
    full = run(loaders, task, steps=3)[1]
    mixed = run(loaders, task, steps=3, amp=amp)[1]
    assert [r.loss for r in mixed.steps] == pytest.approx([r.loss for r in full.steps], rel=0.05)
    assert [r.grad_norm for r in mixed.steps] == pytest.approx([r.grad_norm for r in full.steps], rel=0.2)


def test_fp16_overflow_skips_the_step_and_halves_the_scale(loaders, task):
    class Steep(nn.Module):
        """Its gradient overflows fp16 under the first loss scale, its loss doesn't."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, x):
            return self.linear(x.flatten(1)) * 30.0

    torch.manual_seed(0)
    model = Steep()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    _, recorder, _ = run(loaders, task, model=model, steps=1, amp="fp16")
    assert recorder.steps[0].skipped
    assert equal(start, model.state_dict())
    assert recorder.checkpoints[-1][1]["scaler"]["scale"] == 2.0**15


def test_channels_last_gives_the_same_losses(loaders, task):
    rows = run(loaders, task, steps=3)[1].steps
    columns = run(loaders, task, steps=3, channels_last=True)[1].steps
    assert [r.loss for r in columns] == pytest.approx([r.loss for r in rows], rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_gives_the_same_losses(loaders, task):
    eager = run(loaders, task, steps=3)[1].steps
    compiled = run(loaders, task, steps=3, compile=True)[1].steps
    assert [r.loss for r in compiled] == pytest.approx([r.loss for r in eager], rel=1e-3)


def test_groups_keep_their_share_of_the_rate(loaders, task):
    model = network()
    groups = [{"params": model.fc.parameters(), "lr_scale": 0.1}, {"params": model.conv1.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    fit(model, task, loaders, optimizer=optimizer, schedule=constant(0.2), options=TrainOptions(steps=1))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least one step"),
        ({"accumulate": 17}, "1 to 16 parts"),
        ({"ema_decay": 1.5}, "ema_decay"),
    ],
)
def test_impossible_options_are_refused(loaders, task, options, message):
    with pytest.raises(RequestError, match=message):
        run(loaders, task, **options)


def test_patience_without_validation_is_refused(loaders, task):
    with pytest.raises(RequestError, match="validation split"):
        run((loaders[0], None), task, patience=3)


def test_a_moving_average_can_not_appear_on_resume(loaders, task):
    first = run(loaders, task, steps=3)[1]
    with pytest.raises(RequestError, match="moving average"):
        run(loaders, task, recorder=Memory(state=first.checkpoints[-1][1]), ema_decay=0.9)
