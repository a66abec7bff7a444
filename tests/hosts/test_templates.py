"""The job templates, run as their systems would run them.

No PBS and no Kubernetes are at hand: their templates run with the host file that the system writes, under the
names that it sets. Slurm's are run by Slurm, in test_slurm.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import LIMIT_S, ROOT, Network

pytestmark = pytest.mark.timeout(180)
TEMPLATES = ROOT / "launch" / "templates"
SCRIPT = """
import os, sys
import numpy as np
import distgrad.comm
comm = distgrad.comm.init()
x = np.full(3, 10.0 ** comm.rank)
comm.all_reduce(x)
print("sum", os.uname().nodename, os.environ["RANK"], os.environ["LOCAL_RANK"], int(x[0]), *sys.argv[1:])
"""


@pytest.fixture
def on_first_host(network: Network, tmp_path: Path):
    """Run a command on h1, in a folder with ``train.py``, where plain ``ssh`` finds the hosts' keys."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/{network.ssh()} "$@"\n')
    ssh.chmod(0o755)

    def run(*command: str, **variables: str) -> list[str]:
        paths = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            network.hosts[0].inside("env", "-C", str(tmp_path), *command),
            env={**os.environ, **paths, "PYTHON": sys.executable, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return sorted(re.findall(r"sum (.*)", done.stdout))

    return run


def test_plain_ssh(on_first_host, tmp_path: Path) -> None:
    found = on_first_host("bash", str(TEMPLATES / "ssh.sh"), "train.py", "--lr", "1", HOSTS="h1:1,h2:2")
    assert found == ["h1 0 0 111 --lr 1", "h2 1 0 111 --lr 1", "h2 2 1 111 --lr 1"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [f"rank{r}.txt" for r in range(3)]


def test_pbs_with_the_node_file_that_it_writes(on_first_host, tmp_path: Path) -> None:
    nodes = tmp_path / "nodes"
    nodes.write_text("h1\nh1\nh2\nh2\n")  # a line for each of the mpiprocs
    job = {
        "PBS_NODEFILE": str(nodes),
        "PBS_O_WORKDIR": str(tmp_path),
        "PBS_JOBID": "7.pbs",
        "SCRIPT": "train.py",
    }
    found = on_first_host("bash", str(TEMPLATES / "pbs.sh"), **job)
    assert found == ["h1 0 0 1111", "h1 1 1 1111", "h2 2 0 1111", "h2 3 1 1111"]
    assert (tmp_path / "logs-7.pbs" / "rank3.txt").exists()


# The fields of an MPIJob of kubeflow.org/v2beta1, and those of a pod that the template uses.
CONTAINER = {"name", "image", "command", "resources", "volumeMounts"}
MPIJOB = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {
        *("slotsPerWorker", "runLauncherAsWorker", "runPolicy", "mpiReplicaSpecs", "sshAuthMountPath"),
        *("launcherCreationPolicy", "mpiImplementation"),
    },
    "spec.runPolicy": {
        *("cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit"),
        *("schedulingPolicy", "suspend", "managedBy"),
    },
    "spec.mpiReplicaSpecs": {"Launcher", "Worker"},
    **{
        f"spec.mpiReplicaSpecs.{role}": {"replicas", "template", "restartPolicy"}
        for role in ("Launcher", "Worker")
    },
}


def test_kubernetes_with_the_host_file_of_its_operator(on_first_host, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; it is one of distgrad[test]")
    job = yaml.safe_load((TEMPLATES / "kubernetes_mpijob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    for place, allowed in MPIJOB.items():
        part = job
        for name in filter(None, place.split(".")):
            part = part[name]
        assert set(part) <= allowed, place
    assert job["spec"]["mpiImplementation"] in ("OpenMPI", "Intel", "MPICH")
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] in ("None", "Running", "All")
    pods = {role: part["template"]["spec"] for role, part in job["spec"]["mpiReplicaSpecs"].items()}
    for pod in pods.values():
        assert all(set(container) <= CONTAINER for container in pod["containers"])
        mounts = {mount["name"] for each in pod["containers"] for mount in each.get("volumeMounts", [])}
        assert mounts == {volume["name"] for volume in pod.get("volumes", [])}
    command = pods["Launcher"]["containers"][0]["command"]
    assert command[0] == "python"
    assert "/etc/mpi/hostfile" in command  # where the operator mounts it
    workers = tmp_path / "hostfile"
    workers.write_text("h2:2\nh3:2\n")  # as it is written for MPICH; the launcher's pod is none of them
    replaced = {"python": sys.executable, "/etc/mpi/hostfile": str(workers)}
    found = on_first_host(*(replaced.get(word, word) for word in command))
    assert found == ["h2 0 0 1111", "h2 1 1 1111", "h3 2 0 1111", "h3 3 1 1111"]
