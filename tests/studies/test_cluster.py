"""Studies on a Ray cluster: the same table as on one machine, also where a machine of it dies."""

from __future__ import annotations

import socket

import pytest

from reslab.cli.main import main
from reslab.errors import RequestError
from reslab.studies.cluster import check_address, run_on_ray
from reslab.studies.degradation import degradation
from reslab.studies.grid import run_grid
from reslab.studies.presets import Choices

SMALL = degradation(Choices("digits", seeds=2, depths=(8,), epochs=2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_machine_of_the_cluster_dies_and_the_table_is_the_same(tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        has_died = False
        for _ in run_on_ray(SMALL.jobs(), tmp_path / "cluster", address=cluster.address):
            # while both machines are at work: the job of this one has to begin again elsewhere
            if not has_died and len(list((tmp_path / "cluster").glob("*/config.toml"))) > 1:
                cluster.remove_node(second, allow_graceful=False)
                has_died = True
        assert has_died
    finally:
        cluster.shutdown()
    for _ in run_grid(SMALL.jobs(), tmp_path / "here", resume=True):
        pass
    errors = [
        [row.values[key] for row in SMALL.rows(tmp_path / where) for key in ("train_error", "test_error", "end_half")]
        for where in ("cluster", "here")
    ]
    assert errors[0] == errors[1]
    assert all(len(numbers) == 2 for numbers in errors[0])


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:port", ":6379"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(RequestError, match="HOST:PORT"):
        check_address(address)


def test_a_dead_cluster_is_one_clear_error(tmp_path, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # nobody listens there
        arguments = ["study", "degradation", "--depths", "8", "14", "--ray", address, "--out", str(tmp_path / "s")]
        assert main(arguments) == 2
    told = capsys.readouterr().err
    assert f"No Ray cluster answers at '{address}'" in told
    assert "ray start --head" in told
    assert not (tmp_path / "s").exists()


def test_workers_and_ray_exclude_each_other(capsys):
    assert main(["study", "degradation", "--ray", "auto", "--workers", "2"]) == 2
    assert "Leave one out" in capsys.readouterr().err
