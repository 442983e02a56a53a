"""Keras' files of every age: the six networks of keras.applications, equal in float32, and files that are refused."""

from __future__ import annotations

import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
from networks import images

from reslab.errors import RequestError
from reslab.models.catalog import create_model
from reslab.weights.files import read_tensors, read_weights
from reslab.weights.keras import canonical_names, names_by_order
from reslab.weights.load import load_weights, open_weights

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


def scrambled(network):
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


def answers(network) -> torch.Tensor:
    x = images(dtype=torch.float32).permute(0, 2, 3, 1).numpy()  # (N, C, H, W) -> (N, H, W, C)
    return network(x, training=False).detach().cpu()


def nameless(path, target):
    """The file as Keras wrote it before it stored the layers' names."""
    shutil.copy(path, target)
    with h5py.File(target, "a") as file:
        file.visititems(lambda _, value: value.attrs.pop("name", None) and None)
    return target


CASES = [
    # network, whether it has its head, and kind of its file
    *((name, True, kind) for name in ("ResNet50", "ResNet50V2") for kind in ("weights", "archive", "old", "nameless")),
    *((name, False, kind) for name in ("ResNet50", "ResNet50V2") for kind in ("weights", "nameless")),
    *((name, name.endswith("152V2"), "nameless") for name in ("ResNet101", "ResNet152", "ResNet101V2", "ResNet152V2")),
]


@pytest.fixture(scope="module")
def opened(keras, tmp_path_factory):
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


def write_files(keras, name, top, folder):
    """Answers of one of Keras' networks, and its files of every kind that is asked for."""
    options = {"classifier_activation": None, "classes": 7} if top else {"pooling": "avg"}
    options |= {"weights": None, "input_shape": (64, 64, 3), "include_top": top}
    files = {"weights": folder / "a.weights.h5", "archive": folder / "a.keras", "old": folder / "a.h5"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own
        network = scrambled(getattr(keras.applications, name)(**options))
        network.save_weights(files["weights"])
        for kind in ("archive", "old"):
            if (name, top, kind) in CASES:
                network.save(files[kind])
        expected = answers(network)
    files["nameless"] = nameless(files["weights"], folder / "b.weights.h5")
    return expected, files


@pytest.mark.slow
@pytest.mark.parametrize(("name", "top", "kind"), CASES)
def test_keras_networks_are_equal(opened, name, top, kind):
    expected, files = opened(name, top)
    network, report = open_weights(files[kind], num_classes=7, adapt_head=not top)
    with torch.no_grad():
        maps = network.eval().forward_features(images(dtype=torch.float32))
        torch.testing.assert_close(network.forward_head(maps, pre_logits=not top), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01
    assert (report.kind, report.model) == ("keras", NETWORKS[name])
    assert report.layout == ("keras_v2" if name.endswith("V2") else "keras_v1")
    assert report.counts.get("kept", 0) == (0 if top else 2)
    assert ("BGR" in report.notes[0]) != name.endswith("V2")
    assert {row.key for row in report.rows} - {""} == set(read_tensors(files[kind]))


# ---- small files, written by hand, so that these need no Keras


def write(path, datasets, names=None):
    """An HDF5 file with these datasets, and layers' names as attributes of their groups."""
    with h5py.File(path, "w") as file:
        for place, value in datasets.items():
            file[place] = value
        for place, name in (names or {}).items():
            file[place].attrs["name"] = name
    return path


def test_kernels_are_turned_to_torchs_order(tmp_path):
    conv = np.arange(7 * 5 * 3 * 2, dtype="float32").reshape(7, 5, 3, 2)
    dense = np.arange(6, dtype="float32").reshape(3, 2)
    found = read_tensors(
        write(
            tmp_path / "a.h5",
            {
                "model_weights/c/c/kernel:0": conv,
                "model_weights/c/c/bias:0": np.ones(2),
                "d/kernel": dense,
                "optimizer_weights/adam/m": np.ones(3),
                "n/moving_mean:0": np.ones(2),
            },
        )
    )
    assert list(found) == ["d.weight", "c.bias", "c.weight", "n.running_mean"]
    assert found["c.weight"].shape == (2, 3, 7, 5)
    assert found["c.weight"][1, 2, 6, 4] == conv[6, 4, 2, 1]
    assert torch.equal(found["d.weight"], torch.from_numpy(dense.T.copy()))
    assert read_weights(tmp_path / "a.h5").ignored == {"optimizer_weights/adam/m": "dataset (3,)"}


def test_layers_are_called_by_their_stored_names(tmp_path):
    places = {"layers/conv2d/vars/0": np.ones((1, 1, 2, 3)), "layers/conv2d/vars/1": np.ones(3)}
    path = write(tmp_path / "a.h5", places, {"layers/conv2d/vars": "conv1_conv"})
    assert {key: tuple(value.shape) for key, value in read_tensors(path).items()} == {
        "conv1_conv.weight": (3, 2, 1, 1),
        "conv1_conv.bias": (3,),
    }


def test_a_nested_network_with_a_head_of_its_own(tmp_path):
    """What transfer learning in Keras leaves: a network without its top, and one dense layer on it."""
    state = create_model("resnet50_v1", 4).state_dict()
    places, names = {}, {}
    table = canonical_names((3, 4, 6, 3), preactivation=False)
    for number, (layer, name) in enumerate(table.items()):
        group = f"layers/functional/layers/{layer}/vars"
        if name == "predictions":
            group, name = "layers/dense/vars", "my_head"
        ours = our_name(name)
        parts = ["weight", "bias", "running_mean", "running_var"]
        values = [state[f"{ours}.{part}"] for part in parts if f"{ours}.{part}" in state]
        if values[0].ndim > 1:  # (O, I, H, W) -> (H, W, I, O), (K, D) -> (D, K)
            values[0] = values[0].permute(*range(2, values[0].ndim), 1, 0)
            values += [torch.full((values[0].shape[-1],), float(number))] if "conv" in name else []
        for index, value in enumerate(values):
            places[f"{group}/{index}"] = value.numpy()
        names[group] = name
    network, report = open_weights(write(tmp_path / "transfer.weights.h5", places, names))
    assert torch.equal(network.fc.weight, state["fc.weight"])
    assert torch.equal(network.conv1.weight, state["conv1.weight"])
    torch.testing.assert_close(network.bn1.running_mean, -torch.zeros(64))  # layer 0's bias is 0
    assert network.layer1[0].bn1.running_mean.unique().tolist() == [-1.0]
    assert "the file's only dense layer, taken for the head" in {row.note for row in report.rows}


def our_name(name: str) -> str:
    from reslab.weights.layouts import KERAS_V1_RULES
    from reslab.weights.translation import renamed

    if name == "my_head":
        return "fc"
    found = renamed(f"{name}.weight", KERAS_V1_RULES, forward=True)[0]
    assert found is not None
    return found.removesuffix(".weight")


def test_weights_of_version_1_dont_go_into_version_1_5(tmp_path, keras):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own
        network = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), include_top=False)
        network.save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(RequestError, match=r"every key fits, but these weights are for stride_on='1x1'.*\(Keras' Res"):
        load_weights(create_model("resnet50"), tmp_path / "a.weights.h5", num_classes="adapt")
    load_weights(create_model("resnet50_v1"), tmp_path / "a.weights.h5", num_classes="adapt")


def test_names_by_order_are_those_of_known_networks_only(tmp_path):
    convs = {f"conv2d{'_' + str(i) if i else ''}.weight": torch.ones(1) for i in range(9)}
    with pytest.raises(RequestError, match=r"what its layers are called, and 9 convolutions with 0 batch norms"):
        names_by_order(convs)
    assert names_by_order({"conv1_conv.weight": torch.ones(1)}).keys() == {"conv1_conv.weight"}


def test_two_layers_of_one_name_are_refused(tmp_path):
    places = {"layers/dense/vars/0": np.ones((2, 2)), "layers/dense_1/vars/0": np.ones((2, 2))}
    path = write(tmp_path / "a.h5", places, {"layers/dense/vars": "x", "layers/dense_1/vars": "x"})
    with pytest.raises(RequestError, match=r"two layers whose variable is called x.weight"):
        read_tensors(path)


def test_a_file_that_is_cut_off(tmp_path, reslab):
    path = write(tmp_path / "a.h5", {"c/kernel": np.ones((3, 3, 64, 64))})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(RequestError, match=r"no whole HDF5 file .*cut off"):
        read_tensors(path)
    assert reslab("convert", path).code == 2


def test_a_damaged_file_never_ends_in_another_error(tmp_path):
    path = write(tmp_path / "a.h5", {"c/kernel": np.ones((3, 3, 2, 2)), "c/bias": np.ones(2), "words": ["a", "b"]})
    good, refused = path.read_bytes(), 0
    for place in range(0, len(good), 41):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        try:
            read_weights(path)
        except RequestError:
            refused += 1
    assert refused


def test_a_file_without_tensors(tmp_path):
    with pytest.raises(RequestError, match="holds no tensors"):
        read_tensors(write(tmp_path / "a.h5", {}))


def test_references_to_other_files_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 64)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("c/kernel", shape=(4, 4), dtype="f4", external=[(str(secret), 0, 64)])
        file["d"] = h5py.ExternalLink(str(tmp_path / "b.h5"), "/x")
    with pytest.raises(RequestError, match="refers to other files"):
        read_tensors(tmp_path / "a.h5")


def test_a_dataset_that_claims_more_than_it_stores_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("c/kernel", shape=(1 << 20, 1 << 12), dtype="f4", chunks=(1024, 1024))
    with pytest.raises(RequestError, match="claims more than it stores"):
        read_tensors(tmp_path / "a.h5")


def test_without_h5py_it_says_how_to_get_it(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", {"c/kernel": np.ones((3, 3))})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RequestError, match=r"needs h5py: pip install 'reslab\[keras\]'"):
        read_tensors(path)
