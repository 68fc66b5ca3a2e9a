"""Each example runs as a user runs it: in a process of its own, in an empty folder, on the embedded broker."""

import gzip
import multiprocessing
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kafkapipes.testing import EmbeddedKafka

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
# More workers than cores; and torchdata's own call of something in torch that is deprecated.
IGNORED = "ignore:This DataLoader will create:UserWarning,ignore:'set_vital' is deprecated:UserWarning"
STRICT = {"PYTHONWARNINGS": f"error,{IGNORED}"}


def run(folder, *command, status=0, **environment):
    """Its output; fails unless it ends with `status`, and writes no warning nor anything else to stderr."""
    command, env = [sys.executable, *map(str, command)], os.environ | STRICT | environment
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=170)
    assert done.returncode == status, done.stdout + done.stderr
    if status == 0:
        assert done.stderr == ""
    return done.stdout + done.stderr


def percent(output):
    return float(re.findall(r"test accuracy ([\d.]+)%", output)[-1])


def write_idx(path, array):
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, *, copies=1, suffix=""):
    """Scikit-learn's digits as the four files of MNIST: 28x28, pixels up to 255."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(1797)
    images = np.pad(np.kron(digits.images * 15, np.ones((3, 3))).astype("uint8"), ((0, 0), (2, 2), (2, 2)))
    folder.mkdir(parents=True)
    for part, rows in (("train", np.tile(order[:1500], copies)), ("t10k", order[1500:])):
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images[rows])
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", digits.target[rows].astype("uint8"))
    return folder


def test_digits_reaches_95_percent_and_saves_its_picture(tmp_path):
    output = run(tmp_path, EXAMPLES / "digits.py", "--output", "picture.png")
    assert "published digits:0:0:1437, read 1437 of 1437 delivered" in output
    assert "published digits:0:1437:1797, read 360 of 360 delivered" in output
    assert percent(output) >= 95
    picture = (tmp_path / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(picture) > 10_000


def test_mnist_trains_on_what_fits_the_embedded_broker_and_says_so(tmp_path):
    output = run(tmp_path, EXAMPLES / "mnist.py", "--idx", write_mnist(tmp_path / "idx", copies=4), "--epochs", 2)
    assert "no more than 5000 records" in output
    assert "published mnist:0:0:5000, read 5000 of 5000 delivered" in output
    assert "published mnist:0:5000:5297, read 297 of 297 delivered" in output
    assert percent(output) > 90


def test_mnist_takes_what_torchvision_has_downloaded(tmp_path):
    pytest.importorskip("torchvision")
    write_mnist(tmp_path / "data" / "MNIST" / "raw")  # torchvision fetches no file that is there
    output = run(tmp_path, EXAMPLES / "mnist.py", "--download", "data", "--epochs", 1, "--limit", 1000)
    assert "published mnist:0:0:1000, read 1000 of 1000 delivered" in output
    assert "published mnist:0:1000:1200, read 200 of 200 delivered" in output


def test_mnist_needs_no_torchvision_and_reads_compressed_files(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise ImportError('not installed')")
    idx = write_mnist(tmp_path / "idx", suffix=".gz")
    output = run(tmp_path, EXAMPLES / "mnist.py", "--idx", idx, "--epochs", 2, PYTHONPATH=str(tmp_path))
    assert "read 1500 of 1500 delivered" in output
    assert percent(output) > 80


def test_mnist_names_the_file_that_it_misses(tmp_path):
    output = run(tmp_path, EXAMPLES / "mnist.py", "--idx", tmp_path, status=1)
    assert f"{tmp_path} has no file train-images-idx?-ubyte" in output


def test_custom_pipe_keeps_the_wanted_labels_and_accounts_for_the_others(tmp_path):
    output = run(tmp_path, EXAMPLES / "custom_pipe.py", "--labels", 3, 8)
    threes, eights = ((load_digits().target == label).sum() for label in (3, 8))
    kept = threes + eights
    assert f"{kept} of 1797 delivered, {1797 - kept} skipped (label not wanted" in output
    assert f"6 batches: torch.float32 [{kept}, 8, 8] from 0.0 to 1.0" in output
    assert output.endswith(f"label 3: {threes} samples\nlabel 8: {eights} samples\n")


def test_an_example_runs_twice_on_a_cluster_and_reads_only_what_it_has_sent_itself(tmp_path):
    with EmbeddedKafka() as kafka:
        command = EXAMPLES / "custom_pipe.py", "--bootstrap-servers", kafka.bootstrap_servers, "--topic", "shared"
        outputs = [run(tmp_path, *command) for _ in range(2)]
    assert "shared:0:0:1797: 537 of 1797 delivered" in outputs[0]
    assert "shared:0:1797:3594: 537 of 1797 delivered" in outputs[1]


@pytest.mark.parametrize("method", sorted({"spawn", "forkserver"} & set(multiprocessing.get_all_start_methods())))
def test_workers_share_the_ranges_and_each_sample_arrives_once(tmp_path, method):
    output = run(tmp_path, EXAMPLES / "workers.py", "--workers", 3, "--start-method", method)
    assert "published numbers:0:0:65536,numbers:1:0:34464" in output
    assert [int(count) for count in re.findall(r"worker \d read (\d+) samples", output)] == [33333, 33333, 33334]
    assert "all 100000 samples arrived, each exactly once" in output


def test_streaming_ends_with_the_same_weights_after_a_kill(tmp_path):
    output = run(tmp_path, EXAMPLES / "streaming.py", "--epochs", 2, "--workers", 1, "--kill-at", 77)
    assert output.splitlines() == [
        "training ended with 0", "training ended with -9", "goes on behind step 70", "training ended with 0",
        "both have the same weights, bit for bit",
    ]  # fmt: skip


def test_two_processes_train_one_model_on_their_shares(tmp_path):
    torchrun = "-m", "torch.distributed.run", "--nproc-per-node", 2
    output = run(tmp_path, *torchrun, EXAMPLES / "ddp.py", "--epochs", 3, OMP_NUM_THREADS="1")
    assert re.findall(r"epoch \d: (\d+) samples", output) == ["1796"] * 3  # of 1797: both have as many
    found = dict(re.findall(r"rank (\d): (29 steps an epoch, weights sum up to [\d.]+)", output))
    assert found["0"] == found["1"]


def test_one_process_trains_alone_on_all(tmp_path):
    output = run(tmp_path, EXAMPLES / "ddp.py")
    assert re.findall(r"epoch \d: (\d+) samples", output) == ["1797"] * 5
    assert float(re.findall(r"accuracy ([\d.]+)%", output)[-1]) > 90


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_has_fewer_than_80_lines_and_begins_with_its_question(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 80
    assert re.fullmatch(r'""".*\?', lines[0])
    assert f"python examples/{file.name}" in lines[2]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_an_example_explains_its_options(tmp_path, file):
    output = run(tmp_path, file, "--help")
    assert "--bootstrap-servers HOST:PORT" in output
    assert "--topic" in output
