"""Public programs written for PyTorch, run unchanged with both packages; their losses compared.

``python tests/distgrad_torch/programs.py FOLDER [name ...] [--write]``: FOLDER holds the ``REPOSITORIES``
under their names. Random numbers are NumPy's and dropout is off (``watched.py``); where a program reads
images, random ones stand in (``standins``).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guide" / "torch-programs.md"
STEPS = 20

REPOSITORIES = {
    "examples": ("pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8"),
    "minGPT": ("karpathy/minGPT", "37baab71b9abea1b76ab957409a1cc2fbfba8a26"),
    "pytorch-tutorial": ("yunjey/pytorch-tutorial", "0500d3df5a2a8080ccfccbc00aca0eacc21818db"),
    "PyTorch-GAN": ("eriklindernoren/PyTorch-GAN", "36d3c77e5ff20ebe0aeefd322326a134a279b93e"),
    "PyTorch-Tutorial": ("MorvanZhou/PyTorch-Tutorial", "dbe154a9e56635e51c6b0c2ccea8ae36cfb585a7"),
    "pygcn": ("tkipf/pygcn", "1600b5b748b3976413d1e307540ccc62605b4d6d"),
    "pytorch-examples": ("jcjohnson/pytorch-examples", "0003fcdc606a79951e53bf8f46f8574fa4739f23"),
    "minimalRL": ("seungeunrho/minimalRL", "c8efed8481e3cd40e9739cfde220a55522555b57"),
}

_GAN = "PyTorch-GAN/implementations"
_GANS = (
    "gan dcgan lsgan wgan wgan_gp acgan cgan sgan infogan aae bgan began ebgan dragan softmax_gan "
    "relativistic_gan"
)
#: Program and its arguments.
PROGRAMS = {
    "examples/mnist/main.py": "--no-accel --epochs 1",
    "examples/mnist_rnn/main.py": "--epochs 1",
    "examples/mnist_forward_forward/main.py": "--epochs 1 --train_size 200 --test_size 50",
    "examples/vae/main.py": "--epochs 1",
    "examples/regression/main.py": "",
    "examples/dcgan/main.py": "--dataset fake --niter 1 --imageSize 64 --batchSize 8 --workers 0",
    "examples/reinforcement_learning/reinforce.py": "",
    "examples/reinforcement_learning/actor_critic.py": "",
    "pytorch-tutorial/tutorials/01-basics/linear_regression/main.py": "",
    "pytorch-tutorial/tutorials/01-basics/logistic_regression/main.py": "",
    "pytorch-tutorial/tutorials/01-basics/feedforward_neural_network/main.py": "",
    "pytorch-tutorial/tutorials/01-basics/pytorch_basics/main.py": "",
    "pytorch-tutorial/tutorials/02-intermediate/convolutional_neural_network/main.py": "",
    "pytorch-tutorial/tutorials/02-intermediate/deep_residual_network/main.py": "",
    "pytorch-tutorial/tutorials/02-intermediate/bidirectional_recurrent_neural_network/main.py": "",
    "minGPT/projects/adder/adder.py": "--trainer.max_iters=25 --trainer.num_workers=0",
    "pygcn/pygcn/train.py": "--no-cuda --epochs 25",
    **{f"{_GAN}/{name}/{name}.py": "--n_epochs 1 --batch_size 16" for name in _GANS.split()},
    **{
        f"PyTorch-Tutorial/tutorial-contents/{name}.py": ""
        for name in (
            *("301_regression", "302_classification", "303_build_nn_quickly", "304_save_reload"),
            *("305_batch_train", "306_optimizer", "401_CNN", "402_RNN_classifier", "403_RNN_regressor"),
            *("404_autoencoder", "405_DQN_Reinforcement_learning", "406_GAN", "406_conditional_GAN"),
            *("501_why_torch_dynamic_graph", "503_dropout", "504_batch_normalization"),
        )
    },
    **{
        f"pytorch-examples/{name}.py": ""
        for name in (
            *("nn/dynamic_net", "nn/two_layer_net_nn", "nn/two_layer_net_module", "nn/two_layer_net_optim"),
            *("autograd/two_layer_net_autograd", "autograd/two_layer_net_custom_function"),
        )
    },
    **{f"minimalRL/{name}.py": "" for name in ("dqn", "REINFORCE", "actor_critic", "ppo")},
}


def run(folder, program, ours, limit=STEPS, seconds=150):
    """Losses, error and milliseconds a step of one program."""
    path = (folder / program).resolve()
    command = [
        sys.executable,
        *(["-m", "distgrad.torch"] if ours else []),
        str(HERE / "watched.py"),
        str(limit),
    ]
    root = str(folder / program.split("/")[0])
    variables = {
        **os.environ,
        "PYTHONPATH": root,
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    try:
        done = subprocess.run(
            [*command, str(path), *PROGRAMS[program].split()],
            cwd=path.parent, env=variables, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"losses": [], "error": f"longer than {seconds} s", "ms": float("nan")}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("WATCHED "):
            return json.loads(line[8:])
    return {"losses": [], "error": done.stderr.strip().splitlines()[-1:], "ms": float("nan")}


def gap(mine, theirs):
    """The largest relative difference of two series of losses."""
    x, y = np.asarray(mine), np.asarray(theirs)
    return float(np.max(np.abs(x - y) / np.maximum(np.abs(y), 1e-3))) if x.size else float("nan")


def main(arguments):
    """Run programs and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    rows = []
    for program in PROGRAMS:
        if options.names and not any(name in program for name in options.names):
            continue
        theirs, mine = (run(options.folder, program, ours) for ours in (False, True))
        if theirs["error"] and not theirs["losses"]:
            verdict = f"not with PyTorch either: {str(theirs['error'])[:90]}"
        elif mine["error"] or len(mine["losses"]) != len(theirs["losses"]):
            verdict = (
                f"stopped after {len(mine['losses'])} of {len(theirs['losses'])}: {str(mine['error'])[:160]}"
            )
        else:
            verdict = f"{len(mine['losses'])} losses, {gap(mine['losses'], theirs['losses']):.1e} apart"
        ratio = mine["ms"] / theirs["ms"]
        rows.append((program, verdict, ratio))
        print(f"{program}: {verdict}; time {ratio:.2f}", flush=True)
    if options.write:
        write(rows)


def write(rows):
    """The table in the guide."""
    text = PAGE.read_text()
    text = text[: text.index("<!-- programs -->")]
    lines = [f"| `{program}` | {verdict} | {ratio:.2f} |" for program, verdict, ratio in rows]
    sources = [f"- {name} at {commit}" for name, commit in REPOSITORIES.values()]
    table = [
        "<!-- programs -->",
        *sources,
        "",
        "| program | 20 steps | time beside PyTorch's |",
        "|---|---|---|",
        *lines,
    ]
    PAGE.write_text(text + "\n".join(table) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
