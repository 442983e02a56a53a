"""Checkpoints: damage is noticed and named, and the last good one is used."""

import json

import pytest
import torch

from reslab.training.checkpoint import load_newest_checkpoint, save_checkpoint


def state(value):
    return {"model": {"w": torch.full((100,), float(value))}, "progress": {"step": value}}


@pytest.fixture
def two(tmp_path):
    for step in (10, 20):
        save_checkpoint(tmp_path, state(step), step=step)
    return tmp_path


def test_the_newest_is_loaded(two):
    loaded, reasons = load_newest_checkpoint(two)
    assert loaded["progress"]["step"] == 20
    assert torch.equal(loaded["model"]["w"], torch.full((100,), 20.0))
    assert reasons == []


def test_only_two_are_kept(two):
    save_checkpoint(two, state(30), step=30)
    assert sorted(path.name for path in two.iterdir()) == [
        "step-00000020.json",
        "step-00000020.pt",
        "step-00000030.json",
        "step-00000030.pt",
    ]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def lose_manifest(path):
    path.with_suffix(".json").unlink()


def garble_manifest(path):
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "bytes"),
        (flip_a_bit, "SHA-256"),
        (lose_manifest, "never finished"),
        (garble_manifest, "never finished"),
    ],
)
def test_a_damaged_one_is_named_and_the_one_before_is_used(two, damage, reason):
    damage(two / "step-00000020.pt")
    loaded, reasons = load_newest_checkpoint(two)
    assert loaded["progress"]["step"] == 10
    assert len(reasons) == 1
    assert "step-00000020.pt" in reasons[0]
    assert reason in reasons[0]


def test_nothing_good_gives_nothing(two):
    for path in two.glob("*.pt"):
        truncate(path)
    assert load_newest_checkpoint(two)[0] is None
    assert load_newest_checkpoint(two / "absent") == (None, [])


def test_every_flipped_byte_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path, {"w": torch.ones(3)}, step=1)
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        broken = bytearray(whole)
        broken[position] ^= 0x10
        path.write_bytes(bytes(broken))
        assert load_newest_checkpoint(tmp_path)[0] is None


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'pwned')!r}, 'w')",))

    path = save_checkpoint(tmp_path, state(1), step=1)
    torch.save(Evil(), path)
    content = path.read_bytes()
    manifest = json.loads(path.with_suffix(".json").read_text())
    import hashlib

    manifest |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        load_newest_checkpoint(tmp_path)
    assert not (tmp_path / "pwned").exists()
