"""Programs written for PyTorch, unchanged."""

import os
import pickle
import subprocess
import sys
import textwrap

import pytest

import distgrad as dg

PROGRAM = """
    import importlib.metadata, os, sys
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    from torch.nn.modules.utils import _pair
    from torch.optim.lr_scheduler import StepLR
    from torch.utils.data import DataLoader, TensorDataset


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return F.log_softmax(self.fc(x.view(x.size(0), -1)), dim=1)


    def main():
        torch.manual_seed(0)
        data = TensorDataset(torch.randn(16, 2, 2), torch.randint(0, 3, (16,)))
        net = Net().to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = StepLR(optimizer, 1)
        for x, y in DataLoader(data, batch_size=8, shuffle=True, num_workers=WORKERS):
            loss = F.nll_loss(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        print(type(torch).__name__, torch.__version__, importlib.metadata.version("torch"), sys.argv[1:])
        print(_pair(2), loss.item() > 0, "numpy" in type(x.numpy()).__module__, os.environ.get("RANK"))


    if __name__ == "__main__":
        main()
"""


def write(tmp_path, workers=0):
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(PROGRAM).replace("WORKERS", str(workers)))
    return path


def run(command, cwd, **variables):
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True,
        timeout=90, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_a_program_runs_unchanged_with_the_workers_of_its_loader(tmp_path, workers):
    done = run(["-m", "distgrad.torch", write(tmp_path, workers).name, "--lr", "1"], tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "module 2.9.0+distgrad 2.9.0+distgrad ['--lr', '1']"
    assert second == "(2, 2) True True None"


def test_a_module_runs_too(tmp_path):
    write(tmp_path)
    done = run(["-m", "distgrad.torch", "-m", "train", "x"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "['x']" in done.stdout


def test_the_launcher_starts_it_on_several_ranks(tmp_path):
    write(tmp_path)
    done = run(["-m", "distgrad.launch", "--torch", "-n", "2", "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2.9.0+distgrad") == 4
    assert sorted(line[-1] for line in done.stdout.splitlines() if "True True" in line) == ["0", "1"]


def test_horovods_names_are_answered_too(tmp_path):
    (tmp_path / "train.py").write_text(
        "import torch\nimport horovod.torch as hvd\nimport horovod, horovod.torch.elastic\n"
        "hvd.init()\n"
        "total = hvd.allreduce(torch.ones(2) * hvd.rank(), op=hvd.Sum)\n"
        "print(total.tolist(), horovod.torch.elastic.State.__name__)\n"
    )
    done = run(["-m", "distgrad.launch", "--torch", "-n", "2", "train.py"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[1.0, 1.0] State") == 2


def test_libraries_find_tensors_by_the_name_of_their_class_and_pickles_are_read_elsewhere(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(
        "import pickle, torch\n"
        "x, p = torch.ones(2), torch.nn.Parameter(torch.zeros(3))\n"
        "assert str(type(x)) == \"<class 'torch.Tensor'>\"\n"
        "assert str(type(p)) == \"<class 'torch.nn.parameter.Parameter'>\"\n"
        "assert type(pickle.loads(pickle.dumps(p))) is torch.nn.Parameter\n"
        "pickle.dump([x, p], open('x.pkl', 'wb'))\n"
        "print('well')\n"
    )
    done = run(["-m", "distgrad.torch", program.name], tmp_path)
    assert done.stdout.split() == ["well"], done.stderr
    x, p = pickle.loads((tmp_path / "x.pkl").read_bytes())
    assert x.tolist() == [1.0, 1.0]
    assert type(p) is dg.nn.Parameter


def test_other_processes_are_left_alone(tmp_path):
    (tmp_path / "torch.py").write_text("name = 'another'")
    text = "import distgrad.torch, torch; print(torch.name, distgrad.torch.zeros(2).size())"
    done = run(["-c", text], tmp_path, PYTHONPATH=os.pathsep.join(filter(None, [str(tmp_path), os.getcwd()])))
    assert done.stdout == "another torch.Size([2])\n", done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import torch.onnx.symbolic", "distgrad has no torch.onnx.symbolic; save the state dict"),
        (
            "import torch\ntorch.quantization.QConfig()",
            "distgrad has no torch.quantization.QConfig; train in float16",
        ),
        ("import horovod.tensorflow", "distgrad has no horovod.tensorflow"),
        ("from torch.fx import Tracer\nTracer()", "distgrad has no torch.fx.Tracer; there is no tracing"),
    ],
)
def test_what_is_missing_fails_where_it_is_asked_for(tmp_path, text, message):
    (tmp_path / "train.py").write_text(text)
    done = run(["-m", "distgrad.torch", "train.py"], tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("arguments", [[], ["nothing.py"]])
def test_no_program_is_an_error(tmp_path, arguments):
    done = run(["-m", "distgrad.torch", *arguments], tmp_path)
    assert done.returncode == 1
    assert "python -m distgrad.torch: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_without_a_main_guard_makes_its_batches_itself_and_says_so(tmp_path):
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "data = TensorDataset(torch.arange(6))\n"
        "for (x,) in DataLoader(data, batch_size=3, num_workers=2):\n"
        "    print(x.tolist())\n"
    )
    done = run(["-m", "distgrad.torch", "train.py"], tmp_path)
    assert (done.returncode, done.stdout) == (0, "[0, 1, 2]\n[3, 4, 5]\n")
    assert "has no `if __name__ == '__main__':`" in done.stderr
