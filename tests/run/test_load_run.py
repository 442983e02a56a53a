"""Trained networks put to use from Python and by the command; runs of older versions too."""

import json
from pathlib import Path

import pytest
from PIL import Image

import reslab
from reslab.cli.main import main
from reslab.errors import RequestError
from reslab.records import RunFolder

OLD = Path(__file__).parents[1] / "fixtures" / "run-of-stage-5"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    quick = {"threads": 1, "device": "cpu", "workers": 0, "batch_size": 128}
    out = tmp_path_factory.mktemp("runs") / "r"
    return reslab.train(model="resnet8", data="digits", epochs=1, lr=0.05, out=out, display=None, **quick)


@pytest.fixture
def photo(tmp_path):
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_the_loop_of_the_readme(run, photo):
    assert run.record.status == "done"
    assert "val error" in repr(run)
    assert len(repr(run)) < 200
    net = reslab.load(run.folder.root)
    [answer] = net.predict(photo, top=2)
    assert answer.prediction.label == answer.prediction.top[0][0]
    assert len(answer.prediction.top) == 2
    assert net.evaluate(split="val")["error"] == run.record.best.scores["val_error"]
    assert net.classes == [str(digit) for digit in range(10)]
    assert repr(net).startswith("<Bundle ")


def test_one_bad_file_loses_no_other_answer(run, photo, tmp_path):
    (tmp_path / "b.png").write_text("not an image")
    refused = []
    answers = run.load().predict([photo, tmp_path / "b.png", photo], on_error=refused.append)
    assert [Path(answer.source).name for answer in answers] == ["a.png", "a.png"]
    assert len(refused) == 1
    with pytest.raises(RequestError, match=r"b\.png"):
        run.load().predict([photo, tmp_path / "b.png"])


def test_keywords_are_the_flags_and_a_wrong_one_gets_the_closest(tmp_path):
    with pytest.raises(RequestError, match=r"Unknown option 'batchsize'\. Did you mean 'batch_size'"):
        reslab.train(batchsize=3, out=tmp_path / "r")
    with pytest.raises(RequestError, match="epochs must be at least 1, got 0"):
        reslab.train(epochs=0, out=tmp_path / "r")
    with pytest.raises(RequestError, match=r"Did you mean 'optim\.lr'"):
        reslab.train(**{"optim.lrr": 3}, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_run_of_stage_5_is_still_read(photo, tmp_path, capsys):
    record = RunFolder(OLD).read_run()
    assert (record.task, record.score.name) == ("classify", "error")
    assert RunFolder(OLD).read_epochs()[-1].scores["val_error_plain"] > 0
    assert main(["evaluate", str(OLD), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] == pytest.approx(record.best.scores["test_error"], abs=1e-9)
    assert main(["predict", str(OLD), str(photo), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1
    assert main(["report", str(OLD), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "resnet8" in page
    assert "8.64 %" in page
    capsys.readouterr()
    assert main(["diagnose", str(OLD), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["readings"]) == 9


@pytest.mark.parametrize(("path", "message"), [("absent", "No such run"), ("empty", "contains no trained network")])
def test_what_is_not_a_trained_network_is_refused(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=message):
        reslab.load(tmp_path / path)
