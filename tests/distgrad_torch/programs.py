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
STEPS, ENOUGH = 20, 1e-4
#: PyTorch with the norm of gradients in float64, as ours is: in float32 it loses digits in large embeddings.
WIDE_NORM = {"WATCHED_WIDE_NORM": "1"}
#: Both in float64, where rounding has nearly no part in what is between them.
FLOAT64 = {"WATCHED_FLOAT64": "1"}
#: What PyTorch differs from itself by: its operations without oneDNN, MKL's and its own vector code; and
#: random numbers (so also first weights) that are half a unit of float32's last place away, three times.
CONTROLS = (
    {"WATCHED_OTHER_KERNELS": "1", "MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    *({"WATCHED_NUDGE": str(seed)} for seed in range(3)),
)

REPOSITORIES = {
    "examples": ("pytorch/examples", "77f55b912142e11fcfdf5b530231fb9c52f181e8"),
    "minGPT": ("karpathy/minGPT", "37baab71b9abea1b76ab957409a1cc2fbfba8a26"),
    "pytorch-tutorial": ("yunjey/pytorch-tutorial", "0500d3df5a2a8080ccfccbc00aca0eacc21818db"),
    "PyTorch-GAN": ("eriklindernoren/PyTorch-GAN", "36d3c77e5ff20ebe0aeefd322326a134a279b93e"),
    "PyTorch-Tutorial": ("MorvanZhou/PyTorch-Tutorial", "dbe154a9e56635e51c6b0c2ccea8ae36cfb585a7"),
    "pygcn": ("tkipf/pygcn", "1600b5b748b3976413d1e307540ccc62605b4d6d"),
    "pytorch-examples": ("jcjohnson/pytorch-examples", "0003fcdc606a79951e53bf8f46f8574fa4739f23"),
    "minimalRL": ("seungeunrho/minimalRL", "c8efed8481e3cd40e9739cfde220a55522555b57"),
    "nlp-tutorial": ("graykode/nlp-tutorial", "d05e31ec81d56d70c1db89b99ab07e948f7ebc11"),
    "PyTorchZeroToAll": ("hunkim/PyTorchZeroToAll", "e5a260fac0b4ff1e2ec434fc6f0d962ac97fc289"),
    "ng-video-lecture": ("karpathy/ng-video-lecture", "52201428ed7b46804849dea0b3ccf0de9df1a5c3"),
    "makemore": ("karpathy/makemore", "988aa59e4d8fefa526d06f3b453ad116258398d4"),
    "pyGAT": ("Diego999/pyGAT", "3664f2dc90cbf971564c0bf186dc794f12446d0c"),
    "MAML-Pytorch": ("dragen1860/MAML-Pytorch", "98a00d41724c133bd29619a2fb2cc46dd128a368"),
    "tiny-diffusion": ("tanelp/tiny-diffusion", "726b6bbbf2c9e3d23dff9eaea2fda10d0af6a78c"),
    "Conditional_Diffusion_MNIST": (
        "TeaPearce/Conditional_Diffusion_MNIST",
        "657b49854bbf844caa5580177243ae607c79339f",
    ),
    "TCN": ("locuslab/TCN", "2f8c2b817050206397458dfd1f5a25ce8a32fe65"),
    "pytorch-flows": ("ikostrikov/pytorch-flows", "bf12ed91b86867b38d74982f5e2d44c248604df9"),
    "pytorch-MNIST-CelebA-GAN-DCGAN": (
        "znxlwm/pytorch-MNIST-CelebA-GAN-DCGAN",
        "c88438c7807326492757623bf9117ee2eb5de8bf",
    ),
    "nanoGPT": ("karpathy/nanoGPT", "3adf61e154c3fe3fca428ad6bc3818b27a3b8291"),
    "cleanrl": ("vwxyzjn/cleanrl", "fe8d8a03c41a7ef5b523e2e354bd01c363e786bb"),
    "char-rnn.pytorch": ("spro/char-rnn.pytorch", "282bcb6b15ab3929d6a588b455cfc0f19f32add4"),
    "minDiffusion": ("cloneofsimo/minDiffusion", "00a3c8066d25a34d3d472ef6c87c7b6b238ea444"),
    "pytorch-beginner": ("L1aoXingyu/pytorch-beginner", "a57dd7ea35c9965a41f4963dee62d38884f92a65"),
    "pytorch_misc": ("ptrblck/pytorch_misc", "31ac50c415f16cf7fec277dbdba72b9fb4d732d3"),
    "pytorch-speech-commands": (
        "tugstugi/pytorch-speech-commands",
        "36f3cd9e0d2b2d50cf4b023c9af1544fdfeeb886",
    ),
    "vit-pytorch": ("lucidrains/vit-pytorch", "69d24fe9e3024c0d4b02761123b8583a24ebed1e"),
    "torchdiffeq": ("rtqichen/torchdiffeq", "657943acefa826ef04c025ebeb1ff5e9d60dc268"),
}

_GAN, _TUTORIAL = "PyTorch-GAN/implementations", "pytorch-tutorial/tutorials"
_SMALL_GPT = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=1 --log_interval=1 "
    "--dropout=0.0 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 "
    "--max_iters=30 --dtype=float32"
)
_RL = "--total-timesteps 5000 --learning-starts 200"
#: By repository, programs and their arguments.
_LISTS = {
    "examples": {
        "mnist/main.py": "--no-accel --epochs 1",
        "mnist_rnn/main.py": "--epochs 1",
        "mnist_forward_forward/main.py": "--epochs 25 --train_size 200 --test_size 50",
        "vae/main.py": "--epochs 1",
        "regression/main.py": "",
        "dcgan/main.py": "--dataset fake --niter 1 --imageSize 64 --batchSize 8 --workers 0",
        "reinforcement_learning/reinforce.py": "",
        "reinforcement_learning/actor_critic.py": "",
        "word_language_model/main.py": "--epochs 1 --model LSTM",
    },
    _TUTORIAL: {
        f"{name}/main.py": ""
        for name in (
            *("01-basics/linear_regression", "01-basics/logistic_regression"),
            *("01-basics/feedforward_neural_network", "02-intermediate/convolutional_neural_network"),
            *(
                "02-intermediate/deep_residual_network",
                "02-intermediate/bidirectional_recurrent_neural_network",
            ),
            *("02-intermediate/recurrent_neural_network", "02-intermediate/language_model"),
            *("03-advanced/generative_adversarial_network", "03-advanced/variational_autoencoder"),
        )
    },
    "minGPT/projects": {
        "adder/adder.py": "--trainer.max_iters=25 --trainer.num_workers=0",
        "chargpt/chargpt.py": "--trainer.max_iters=25 --trainer.num_workers=0 --data.block_size=32 "
        "--trainer.batch_size=8",
    },
    "nanoGPT": {"train.py": _SMALL_GPT},
    "ng-video-lecture": {"bigram.py": ""},
    "makemore": {
        "makemore.py": "-n 0 --max-steps 30",
        **{
            f"makemore.py#{kind}": f"-n 0 --max-steps 30 --type {kind}"
            for kind in ("rnn", "gru", "mlp", "bow")
        },
    },
    "pygcn/pygcn": {"train.py": "--no-cuda --epochs 25"},
    "pyGAT": {"train.py": "--no-cuda --epochs 25 --hidden 4 --nb_heads 2"},
    "MAML-Pytorch": {"omniglot_train.py": "--epoch 30 --task_num 4"},
    "tiny-diffusion": {"ddpm.py": "--num_epochs 1"},
    "Conditional_Diffusion_MNIST": {"script.py": ""},
    "minDiffusion": {"superminddpm.py": ""},
    "TCN/TCN": {
        "adding_problem/add_test.py": "--epochs 1 --seq_len 100",
        "copy_memory/copymem_test.py": "--epochs 1 --blank_len 100",
        "mnist_pixel/pmnist_test.py": "--epochs 1 --batch_size 4",
    },
    "pytorch-flows": {
        "main.py": "--dataset MOONS --epochs 1 --no-cuda",
        "main.py#realnvp": "--dataset MOONS --epochs 1 --no-cuda --flow realnvp",
        "main.py#glow": "--dataset MOONS --epochs 1 --no-cuda --flow glow",
    },
    "char-rnn.pytorch": {
        "train.py": "../ng-video-lecture/input.txt --n_epochs 25 --batch_size 8 --chunk_len 20"
    },
    "pytorch-MNIST-CelebA-GAN-DCGAN": {"pytorch_MNIST_GAN.py": "", "pytorch_MNIST_DCGAN.py": ""},
    "nlp-tutorial": {
        f"{name}.py": ""
        for name in (
            *("1-1.NNLM/NNLM", "1-2.Word2Vec/Word2Vec-Skipgram(Softmax)", "2-1.TextCNN/TextCNN"),
            *("3-1.TextRNN/TextRNN", "3-2.TextLSTM/TextLSTM", "3-3.Bi-LSTM/Bi-LSTM", "4-1.Seq2Seq/Seq2Seq"),
            *("4-2.Seq2Seq(Attention)/Seq2Seq(Attention)", "4-3.Bi-LSTM(Attention)/Bi-LSTM(Attention)"),
            *("5-1.Transformer/Transformer", "5-2.BERT/BERT"),
        )
    },
    "PyTorchZeroToAll": {
        f"{name}.py": ""
        for name in (
            *("05_linear_regression", "06_logistic_regression", "07_diabets_logistic"),
            *(
                "08_2_dataset_loade_logistic",
                "09_2_softmax_mnist",
                "10_1_cnn_mnist",
                "11_1_toy_inception_mnist",
            ),
            *("12_2_hello_rnn", "12_3_hello_rnn_seq", "12_4_hello_rnn_emb"),
            *("13_2_rnn_classification",),
        )
    },
    "PyTorch-Tutorial/tutorial-contents": {
        f"{name}.py": ""
        for name in (
            *("301_regression", "302_classification", "304_save_reload", "306_optimizer"),
            *("402_RNN_classifier", "403_RNN_regressor", "404_autoencoder", "406_GAN"),
            *("501_why_torch_dynamic_graph", "503_dropout", "504_batch_normalization"),
        )
    },
    "pytorch-examples": {
        f"{name}.py": ""
        for name in (
            *("nn/dynamic_net", "nn/two_layer_net_nn", "nn/two_layer_net_module", "nn/two_layer_net_optim"),
            *("autograd/two_layer_net_autograd", "autograd/two_layer_net_custom_function"),
        )
    },
    _GAN: {
        f"{name}/{name.replace('cluster_', 'cluster')}.py": "--n_epochs 1 --batch_size 16"
        for name in (
            *(
                "gan",
                "dcgan",
                "lsgan",
                "wgan",
                "wgan_gp",
                "wgan_div",
                "acgan",
                "cgan",
                "sgan",
                "infogan",
                "aae",
            ),
            *("began", "ebgan", "relativistic_gan", "cogan", "cluster_gan"),
        )
    },
    "minimalRL": {
        f"{name}.py": ""
        for name in (
            "dqn",
            "REINFORCE",
            "actor_critic",
            "ppo",
            "ppo-lstm",
            "ppo-continuous",
            "ddpg",
            "sac",
            "acer",
            "vtrace",
        )
    },
    "cleanrl/cleanrl": {
        "dqn.py": _RL,
        "c51.py": _RL,
        "ppo.py": "--num-envs 1 --total-timesteps 1000",
        "ddpg_continuous_action.py": f"--env-id Pendulum-v1 {_RL}",
        "td3_continuous_action.py": f"--env-id Pendulum-v1 {_RL}",
        "sac_continuous_action.py": f"--env-id Pendulum-v1 {_RL}",
    },
    "pytorch-beginner": {
        f"{name}.py": ""
        for name in (
            *("01-Linear Regression/Linear_Regression", "03-Neural Network/neural_network"),
            *("05-Recurrent Neural Network/recurrent_network", "06-Natural Language Process/N-Gram"),
            *("06-Natural Language Process/seq-lstm", "08-AutoEncoder/Variational_autoencoder"),
            *("08-AutoEncoder/conv_autoencoder", "09-Generative Adversarial network/simple_Gan"),
        )
    },
    "pytorch_misc": {
        f"{name}.py": ""
        for name in (
            "accumulate_gradients",
            "mnist_autoencoder",
            "mnist_permuted",
            "unet_demo",
            "edge_weighting_segmentation",
            "LocallyConnected2d",
        )
    },
    "torchdiffeq": {"examples/ode_demo.py": "", "examples/ode_demo.py#adjoint": "--adjoint"},
}
#: Program and its arguments; what stands behind # tells rows of one program apart.
PROGRAMS = {f"{folder}/{name}": given for folder, names in _LISTS.items() for name, given in names.items()}


def run(folder, program, ours, limit=STEPS, seconds=150, control=None):
    """Losses, error and milliseconds a step of one program; as a control, with these variables."""
    path = (folder / program.partition("#")[0]).resolve()
    command = [
        sys.executable,
        *(["-m", "distgrad.torch"] if ours else []),
        str(HERE / "watched.py"),
        str(limit),
    ]
    root = os.pathsep.join(
        [str(folder / program.split("/")[0]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    )
    variables = {
        **os.environ,
        "PYTHONPATH": root,
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
        "PYTHONHASHSEED": "0",
        **(control or {}),
    }
    try:
        done = subprocess.run(
            [*command, str(path), *PROGRAMS[program].split()],
            cwd=path.parent, env=variables, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"losses": [], "error": f"longer than {seconds} s", "ms": float("nan")}
    except FileNotFoundError as missing:
        return {"losses": [], "error": str(missing), "ms": float("nan")}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("WATCHED "):
            return json.loads(line[8:])
    return {"losses": [], "error": done.stderr.strip().splitlines()[-1:], "ms": float("nan")}


def gap(mine, theirs):
    """The largest relative difference of two series of losses."""
    x, y = np.asarray(mine), np.asarray(theirs)
    if x.size != y.size:
        return float("nan")
    return float(np.max(np.abs(x - y) / np.maximum(np.abs(y), 1e-3))) if x.size else float("nan")


def main(arguments):
    """Run programs and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=150, help="that a program may take")
    parser.add_argument(
        "--write", action="store_true", help="the rows of these programs, or all, in the guide"
    )
    options = parser.parse_args(arguments)
    for program in PROGRAMS:
        if options.names and not any(name in program for name in options.names):
            continue
        theirs, mine = (run(options.folder, program, ours, seconds=options.seconds) for ours in (False, True))
        verdict, ratio = judged(mine, theirs), mine["ms"] / theirs["ms"]
        if gap(mine["losses"], theirs["losses"]) > ENOUGH:
            others = (run(options.folder, program, False, seconds=1000, control=each) for each in CONTROLS)
            apart = [gap(each["losses"], theirs["losses"]) for each in others]
            verdict += f"; PyTorch's other kernels {apart[0]:.1e}, nudged {max(apart[1:]):.1e}"
            exact = (run(options.folder, program, ours, seconds=1000, control=FLOAT64)["losses"]
                     for ours in (True, False))  # fmt: skip
            verdict += f"; both in float64 {gap(*exact):.1e}"
            if max(apart) < ENOUGH:
                wide = run(options.folder, program, False, seconds=1000, control=WIDE_NORM)
                verdict += (
                    f"; from PyTorch's with the norm in float64 {gap(mine['losses'], wide['losses']):.1e}"
                )
        print(f"{program}: {verdict}; time {ratio:.2f}", flush=True)
        if options.write:
            write([(program, verdict, ratio)])


def judged(mine, theirs):
    """What a run of ours beside PyTorch's shows, in words."""
    if not theirs["losses"]:
        return f"not with PyTorch either: {str(theirs['error'])[:90]}"
    apart = gap(mine["losses"], theirs["losses"])
    if np.isnan(apart):
        counts = f"{len(mine['losses'])} of {len(theirs['losses'])}"
        return f"stopped after {counts}: {str(mine['error'])[:160]}"
    ending = ""
    if theirs["error"] and mine["error"]:  # programs for a PyTorch of old
        kinds = {str(each["error"]).partition(":")[0] for each in (mine, theirs)}
        ending = f", then both end with {' and '.join(sorted(kinds))}"
    return f"{len(mine['losses'])} losses, {apart:.1e} apart{ending}"


def write(rows):
    """The table in the guide: these rows in the place of those of the same programs."""
    text = PAGE.read_text()
    start = text.index("<!-- programs -->")
    lines = {line.split("`")[1]: line for line in text[start:].splitlines() if line.startswith("| `")}
    lines |= {program: f"| `{program}` | {verdict} | {ratio:.2f} |" for program, verdict, ratio in rows}
    sources = [f"- {name} at {commit}" for name, commit in REPOSITORIES.values()]
    table = [
        "<!-- programs -->",
        *sources,
        "",
        "| program | 20 steps | time beside PyTorch's |",
        "|---|---|---|",
        *(lines[program] for program in PROGRAMS if program in lines),
    ]
    PAGE.write_text(text[:start] + "\n".join(table) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
