"""The same rows from a Ray cluster of two machines, whoever dies on the way."""

import shutil

import psutil
import pytest
from image_helpers import many_images
from safetensors.numpy import save_file

import cait_viz
from cait_viz.batch.local import run_batch
from cait_viz.batch.ray import ModelSpec, run_on_ray
from cait_viz.batch.work import BatchOptions
from cait_viz.errors import ClusterError

pytest.importorskip("ray.data")


@pytest.fixture(scope="module")
def cluster(environment):
    """Two machines of Ray's, both on this one, with a core and a small object store each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", environment["PYTHONPATH"])
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args=options | {"include_dashboard": False})
        cluster.second = lambda: cluster.add_node(**options)
        cluster.node = cluster.second()
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of many shapes in two folders, and a file that is none."""
    place = tmp_path_factory.mktemp("many")
    many_images(place, 150)
    return place


@pytest.fixture(scope="module")
def images(folder):
    return sorted(map(str, folder.rglob("*.*")))


@pytest.fixture(scope="module")
def engine(tiny_weights):
    return cait_viz.load_engine(weights=tiny_weights)


@pytest.fixture
def on_ray(cluster, engine, tiny_weights, images, tmp_path):
    """Run on the cluster into a folder, in tasks of few images."""

    def on_ray(name="ray", options=BatchOptions(), **how):
        spec = ModelSpec(weights=tiny_weights)
        how = {"address": cluster.address, "images_per_task": 8} | how
        run_on_ray(images, spec, engine, tmp_path / name, options, **how)
        return written(tmp_path / name)

    return on_ray


@pytest.fixture(scope="module")
def expected(engine, images, tmp_path_factory):
    """What a run on one machine writes."""
    place = tmp_path_factory.mktemp("local") / "out"
    run_batch(images, engine, place)
    return written(place)


def written(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def actors():
    """The processes that hold a network."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ray::MapWorker" in " ".join(process.info["cmdline"] or ())
    ]


def test_a_cluster_writes_the_same_bytes_as_one_machine_maps_and_page_included(
    run, cluster, folder, small, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder.parent)
    command = ["batch", folder.name, *small, "--maps", "--npz", "--sheet", "--block", 1, "-o"]
    status, out, err = run(*command, tmp_path / "local")
    assert (status, *run(*command, tmp_path / "ray", "--ray", cluster.address)) == (
        status,
        status,
        out.replace("local", "ray"),
        err,
    )
    assert written(tmp_path / "ray") == written(tmp_path / "local")


def test_no_row_is_lost_with_a_killed_process_or_machine(on_ray, cluster, expected):
    ended = []

    def end(count, before):
        if before:
            return
        if not ended:
            for process in actors()[:1]:
                process.kill()
                ended.append("process")
        elif len(ended) == 1:
            cluster.remove_node(cluster.node, allow_graceful=False)
            ended.append("machine")

    try:
        # The list is longer than what Ray is given at once.
        assert on_ray(step=end, tasks_at_once=12) == expected
    finally:
        cluster.node = cluster.second()
    assert ended == ["process", "machine"]


class StoppedError(Exception):
    pass


def stop(count, before):
    if not before:
        raise StoppedError


def test_a_run_that_was_begun_on_a_cluster_is_resumed_here(on_ray, engine, images, tmp_path, expected):
    with pytest.raises(StoppedError):
        on_ray(step=stop)
    counts = []
    run_batch(images, engine, tmp_path / "ray", resume=True, step=lambda *count: counts.append(count))
    assert counts[0][0] > 0
    assert written(tmp_path / "ray") == expected


def test_a_run_that_was_begun_here_is_resumed_on_a_cluster(on_ray, engine, images, tmp_path, expected):
    with pytest.raises(StoppedError):
        run_batch(images, engine, tmp_path / "here", step=stop)
    counts = []
    assert on_ray("here", resume=True, step=lambda *count: counts.append(count)) == expected
    assert counts[0] == (31, True)  # of 32 one could not be read, and is tried again
    assert sum(count for count, _ in counts) == len(images)


def test_an_actor_that_finds_other_weights_ends_the_run_with_a_sentence(
    cluster, images, weights, tmp_path, tiny_weights
):
    path = tmp_path / "mine.safetensors"
    shutil.copy(tiny_weights, path)
    engine = cait_viz.load_engine(weights=path)
    save_file({name: 2 * tensor for name, tensor in weights.items()}, path)
    with pytest.raises(ClusterError, match=r"mine.safetensors: is another file than where the run began"):
        run_on_ray(images, ModelSpec(weights=path), engine, tmp_path / "out", address=cluster.address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", "onnection refused"),
        ("nonsense", "Invalid address format"),
        ("ray://127.0.0.1:10001", "ray job submit"),
    ],
)
def test_where_no_cluster_is_one_line_says_so(run, folder, small, tmp_path, address, reason):
    status, _, err = run("batch", folder, *small, "-o", tmp_path / "out", "--ray", address)
    assert status == 1
    assert err.count("\n") == 1
    assert reason in err
    assert not (tmp_path / "out").exists()
