"""Keras' files of every age: the six networks of keras.applications, equal in float32, and files that are refused."""

from __future__ import annotations

import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
from their_networks import images

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.weights import open_weights
from reslab.weights._files import read_weights
from reslab.weights._keras import layer_names
from reslab.weights._layouts import LAYOUTS, rename
from reslab.weights.load import load_weights

h5py = pytest.importorskip("h5py")

NETWORKS = {
    # Keras' name: ours
    "ResNet50": "resnet50_v1",
    "ResNet101": "resnet101_v1",
    "ResNet152": "resnet152_v1",
    "ResNet50V2": "preresnet50_tf",
    "ResNet101V2": "preresnet101_tf",
    "ResNet152V2": "preresnet152_tf",
}
CASES = [
    # network, whether it has its head, and kind of its file
    *((name, True, kind) for name in ("ResNet50", "ResNet50V2") for kind in ("weights", "archive", "old", "nameless")),
    *((name, False, kind) for name in ("ResNet50", "ResNet50V2") for kind in ("weights", "nameless")),
    *((name, name.endswith("152V2"), "nameless") for name in ("ResNet101", "ResNet152", "ResNet101V2", "ResNet152V2")),
]


def scramble(network):
    """Biases away from 0, norms and their statistics from their start."""
    rng = np.random.default_rng(0)
    for layer in network.layers:
        values = []
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            if variable.name == "moving_variance":
                value = rng.uniform(0.5, 1.5, value.shape)
            elif value.ndim == 1:
                value = value + 0.1 * rng.standard_normal(value.shape)
            values.append(value.astype("float32"))
        layer.set_weights(values)
    return network


def write_files(keras, name, top, folder):
    """What one of Keras' networks answers, and its files of every kind that is asked for."""
    options = {"classifier_activation": None, "classes": 7} if top else {"pooling": "avg"}
    options |= {"weights": None, "input_shape": (64, 64, 3), "include_top": top}
    files = {"weights": folder / "a.weights.h5", "archive": folder / "a.keras", "old": folder / "a.h5"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own
        network = scramble(getattr(keras.applications, name)(**options))
        network.save_weights(files["weights"])
        for kind in ("archive", "old"):
            if (name, top, kind) in CASES:
                network.save(files[kind])
        x = images(dtype=torch.float32).permute(0, 2, 3, 1).numpy()  # (N, C, H, W) -> (N, H, W, C)
        expected = network(x, training=False).detach().cpu()
    files["nameless"] = shutil.copy(files["weights"], folder / "b.weights.h5")
    with h5py.File(files["nameless"], "a") as file:  # as Keras wrote it before it stored the layers' names
        file.visititems(lambda _, value: value.attrs.pop("name", None) and None)
    return expected, files


@pytest.fixture(scope="module")
def written(keras, tmp_path_factory):
    """A function that gives a network's answers and its files by their kind; they are large, so only the last stay."""
    made = {}

    def give(name, top):
        if (name, top) not in made:
            clear()
            made[name, top] = write_files(keras, name, top, tmp_path_factory.mktemp(name))
        return made[name, top]

    def clear():
        for _, files in made.values():
            shutil.rmtree(files["weights"].parent)
        made.clear()

    yield give
    clear()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "top", "kind"), CASES)
def test_keras_networks_are_equal(written, name, top, kind):
    expected, files = written(name, top)
    network, report = open_weights(files[kind], num_classes=7, adapt_head=not top)
    with torch.no_grad():
        maps = network.eval().forward_features(images(dtype=torch.float32))
        torch.testing.assert_close(network.forward_head(maps, pre_logits=not top), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01
    assert (report.kind, report.model) == ("keras", NETWORKS[name])
    assert report.layout == ("keras_v2" if name.endswith("V2") else "keras_v1")
    assert report.counts.get("kept", 0) == (0 if top else 2)
    assert ("BGR" in report.notes[0]) != name.endswith("V2")
    assert {row.key for row in report.rows} - {""} == set(read_weights(files[kind]).tensors)


# ---- small files, written by hand, so that these need no Keras


def write(path, datasets, names=None):
    """An HDF5 file with these datasets, and layers' names as attributes of their groups."""
    with h5py.File(path, "w") as file:
        for place, value in datasets.items():
            file[place] = value
        for place, name in (names or {}).items():
            file[place].attrs["name"] = name
    return path


def write_transfer(path):
    """What transfer learning in Keras leaves: resnet50_v1 without its top, and one dense layer on it.

    The bias of each convolution is its number. Returns also the values.
    """
    state = create_model("resnet50_v1", 4).state_dict()
    places, names = {}, {}
    for number, (layer, name) in enumerate(layer_names((3, 4, 6, 3), preactivation=False).items()):
        group = f"layers/functional/layers/{layer}/vars"
        ours = rename(f"{name}.weight", LAYOUTS["keras_v1"].names).removesuffix(".weight")
        if name == "predictions":
            group, name = "layers/dense/vars", "my_head"
        parts = ["weight", "bias", "running_mean", "running_var"]
        values = [state[f"{ours}.{part}"] for part in parts if f"{ours}.{part}" in state]
        if values[0].ndim > 1:  # (O, I, H, W) -> (H, W, I, O), (K, D) -> (D, K)
            values[0] = values[0].permute(*range(2, values[0].ndim), 1, 0)
            values += [torch.full((values[0].shape[-1],), float(number))] if "conv" in name else []
        places |= {f"{group}/{index}": value.numpy() for index, value in enumerate(values)}
        names[group] = name
    return write(path, places, names), state


def test_kernels_are_turned_to_torchs_order(tmp_path):
    conv = np.arange(7 * 5 * 3 * 2, dtype="float32").reshape(7, 5, 3, 2)
    dense = np.arange(6, dtype="float32").reshape(3, 2)
    places = {
        "model_weights/c/c/kernel:0": conv,
        "model_weights/c/c/bias:0": np.ones(2),
        "d/kernel": dense,
        "optimizer_weights/adam/m": np.ones(3),
        "n/moving_mean:0": np.ones(2),
    }
    file = read_weights(write(tmp_path / "a.h5", places))
    found = file.tensors
    assert list(found) == ["d.weight", "c.bias", "c.weight", "n.running_mean"]
    assert found["c.weight"].shape == (2, 3, 7, 5)
    assert found["c.weight"][1, 2, 6, 4] == conv[6, 4, 2, 1]
    assert torch.equal(found["d.weight"], torch.from_numpy(dense.T.copy()))
    assert file.ignored == {"optimizer_weights/adam/m": "dataset (3,)"}


def test_a_head_of_another_name_is_found(tmp_path):
    path, state = write_transfer(tmp_path / "transfer.weights.h5")
    network, report = open_weights(path)
    assert torch.equal(network.fc.weight, state["fc.weight"])
    assert torch.equal(network.conv1.weight, state["conv1.weight"])
    torch.testing.assert_close(network.bn1.running_mean, -torch.zeros(64))  # layer 0's bias is 0
    assert network.layer1[0].bn1.running_mean.unique().tolist() == [-1.0]
    assert "the file's only dense layer, taken for the head" in {row.note for row in report.rows}


def test_weights_of_version_1_dont_go_into_version_1_5(tmp_path):
    path, _ = write_transfer(tmp_path / "a.weights.h5")
    with pytest.raises(RequestError, match=r"every key fits, but these weights are for stride_on='1x1'.*\(Keras' Res"):
        load_weights(create_model("resnet50", 4), path)
    load_weights(create_model("resnet50_v1", 4), path)


ONE, SAME = np.ones((2, 2)), {"layers/dense/vars": "x", "layers/dense_1/vars": "x"}
NAMELESS = {f"layers/conv2d{'_' + str(i) if i else ''}/vars/0": np.ones((1, 1, 1, 1)) for i in range(9)}
REFUSED = {
    "names by order": ((NAMELESS,), r"what its layers are called, and 9 convolutions with 0 batch norms"),
    "two of one name": (({f"{place}/0": ONE for place in SAME}, SAME), r"two layers whose variable is called x.weight"),
    "nothing": (({},), "holds no tensors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_hdf5_files_are_refused(tmp_path, case):
    content, message = REFUSED[case]
    with pytest.raises(RequestError, match=message):
        read_weights(write(tmp_path / "a.h5", *content))


def test_a_damaged_file_never_ends_in_another_error(tmp_path, reslab):
    path = write(tmp_path / "a.h5", {"c/kernel": np.ones((3, 3, 64, 64))})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(RequestError, match=r"not a valid HDF5 file .*cut off"):
        read_weights(path)
    assert reslab("convert", path).code == 2

    path = write(tmp_path / "a.h5", {"c/kernel": np.ones((3, 3, 2, 2)), "c/bias": np.ones(2), "words": ["a", "b"]})
    good, refused = path.read_bytes(), 0
    for place in range(0, len(good), 41):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            read_weights(path)
        except RequestError:
            refused += 1
    assert refused


def test_references_to_other_files_are_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("c/kernel", shape=(4, 4), dtype="f4", external=[(str(tmp_path / "secret"), 0, 64)])
        file["d"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "/x")
    with pytest.raises(RequestError, match="refers to other files"):
        read_weights(tmp_path / "a.h5")


def test_a_dataset_that_claims_more_than_it_stores_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("c/kernel", shape=(1 << 20, 1 << 12), dtype="f4", chunks=(1024, 1024))
    with pytest.raises(RequestError, match="claims more than it stores"):
        read_weights(tmp_path / "a.h5")


def test_without_h5py_it_says_how_to_get_it(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", {"c/kernel": np.ones((3, 3))})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RequestError, match=r"needs h5py: pip install 'reslab\[keras\]'"):
        read_weights(path)
