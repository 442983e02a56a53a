"""Studies on a Ray cluster: the same table as on one machine, even where one of its machines dies."""

from __future__ import annotations

import socket

import pytest

from reslab.cli.main import main
from reslab.errors import RequestError
from reslab.studies import StudySpec, create_study
from reslab.studies.execution import run_on_ray

SMALL = create_study(StudySpec("degradation", seeds=1, depths=(8,), epochs=2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_machine_of_the_cluster_dies_and_the_table_is_the_same(tmp_path):
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        has_died = False
        for _ in run_on_ray(SMALL.runs(), tmp_path / "cluster", address=cluster.address):
            # while both machines are at work: the run of this one has to begin again elsewhere
            if not has_died and len(list((tmp_path / "cluster").glob("*/config.toml"))) > 1:
                cluster.remove_node(second, allow_graceful=False)
                has_died = True
        assert has_died
    finally:
        cluster.shutdown()
    for name, run in SMALL.runs().items():
        assert run.execute(tmp_path / "here" / name, resume=True) == ""
    errors = [
        [
            row.values[key]
            for row in SMALL.record(tmp_path / where).rows
            for key in ("train_error", "test_error", "end_half")
        ]
        for where in ("cluster", "here")
    ]
    assert errors[0] == errors[1]
    assert all(len(numbers) == 1 for numbers in errors[0])


def test_a_dead_cluster_is_one_clear_error(tmp_path, capsys):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # nobody listens there
        arguments = ["study", "degradation", "--depths", "8", "14", "--ray", address, "--out", str(tmp_path / "s")]
        assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"No Ray cluster answers at '{address}'" in error
    assert "ray start --head" in error
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:port", ":6379"])
def test_a_malformed_address_is_refused(tmp_path, address):
    pytest.importorskip("ray")
    with pytest.raises(RequestError, match="HOST:PORT"):
        next(run_on_ray(SMALL.runs(), tmp_path, address=address))
