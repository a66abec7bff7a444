"""The public programs that ``programs.py`` runs: their repositories, commits and arguments."""

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
    "torchdiffeq": ("rtqichen/torchdiffeq", "657943acefa826ef04c025ebeb1ff5e9d60dc268"),
    "pytorch-cifar": ("kuangliu/pytorch-cifar", "49b7aa97b0c12fe0d4054e670403a16b6b834ddd"),
    "pytorch-cifar100": ("weiaicunzai/pytorch-cifar100", "11d8418f415b261e4ae3cb1ffe20d06ec95b98e4"),
    "pytorch_resnet_cifar10": (
        "akamaster/pytorch_resnet_cifar10",
        "d5489e8995e81e91ce6b1d69dcc98ad579b0b153",
    ),
    "pytorchTutorial": ("patrickloeber/pytorchTutorial", "69637721ed9fa2ccf81a1093a928a52bbb591439"),
    "VAE-CVAE-MNIST": ("timbmg/VAE-CVAE-MNIST", "4f1b22367a5c5cff88bf97ce78219132aa9fd977"),
    "recurrent-visual-attention": (
        "kevinzakka/recurrent-visual-attention",
        "a38ac8958ebf1c61a10c4d5320f1e31d3d0b73dd",
    ),
    "efficient-kan": ("Blealtan/efficient-kan", "7b6ce1c87f18c8bc90c208f6b494042344216b11"),
    "vector-quantize-pytorch": (
        "lucidrains/vector-quantize-pytorch",
        "0d7d1aa83334b6f2f8a40306bece75cdaa13d065",
    ),
    "x-transformers": ("lucidrains/x-transformers", "9252ed7838021ee61e6c5be0930b3a9a88efdf06"),
    "powerful-gnns": ("weihua916/powerful-gnns", "9a2ce8ac3e99278307093a464a95caf0fb04b602"),
    "LightGCN-PyTorch": ("gusye1234/LightGCN-PyTorch", "947ca2b3b1d2d3545b114145710cb06c4e57b3d2"),
    "DeepCTR-Torch": ("shenweichen/DeepCTR-Torch", "f6854257b1fc29caab655ce72c6b5528b7432574"),
    "NRI": ("ethanfetaya/NRI", "e63fcb0144bca60eb1cffed9a94489de928d6c23"),
    "dlrm": ("facebookresearch/dlrm", "090956ee2319ddd349a42232958aefccfe3f7b0a"),
    "SimCLR": ("sthalles/SimCLR", "1848fc934ad844ae630e6c452300433fe99acfd9"),
    "word2vec-pytorch": ("Andras7/word2vec-pytorch", "36b93a503e8b3b5448abbc0e18f2a6bd3e017fc9"),
    "LTSF-Linear": ("cure-lab/LTSF-Linear", "0c113668a3b88c4c4ee586b8c5ec3e539c4de5a6"),
    "Informer2020": ("zhouhaoyi/Informer2020", "29f2a739226a509202a092b464163da81fa74960"),
    "Pytorch-UNet": ("milesial/Pytorch-UNet", "21d7850f2af30a9695bbeea75f3136aa538cfc4a"),
    "nerf-pytorch": ("yenchenlin/nerf-pytorch", "63a5a630c9abd62b0f21c08703d0ac2ea7d4b9dd"),
    "TD3": ("sfujim/TD3", "34770ccdcb51df6f6c7d85c1ba7e40d71b940d16"),
    "pytorch-soft-actor-critic": (
        "pranz24/pytorch-soft-actor-critic",
        "c1805660b3961694be54079a355155a5cad492f5",
    ),
    "Deep-reinforcement-learning-with-pytorch": (
        "sweetice/Deep-reinforcement-learning-with-pytorch",
        "7b9fac7e5e40ffdc6f7ccb8b0a81e7841370a996",
    ),
    "pytorch-ddpm": ("w86763777/pytorch-ddpm", "f804ccbd58a758b07f79a3b9ecdfb1beb67258f6"),
    "crnn-pytorch": ("GitYCC/crnn-pytorch", "f145a61e20e57a36b8f2d642f93c9ba2890cd042"),
    "3-min-pytorch": ("keon/3-min-pytorch", "a68ea4dcb73f6003b3e2b60244c35c67c85883ce"),
    "awd-lstm-lm": ("salesforce/awd-lstm-lm", "1d466ec5875675ca6b6f0caacbb741240a29da9e"),
    "pytorch-fm": ("rixwew/pytorch-fm", "f74ad19771eda104e99874d19dc892e988ec53fa"),
    "llama2.c": ("karpathy/llama2.c", "350e04fe35433e6d2941dce5a1f53308f87058eb"),
}

_GAN, _TUTORIAL = "PyTorch-GAN/implementations", "pytorch-tutorial/tutorials"
_SMALL_GPT = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=1 --log_interval=1 "
    "--dropout=0.0 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 "
    "--max_iters=30 --dtype=float32"
)
_SERIES = (
    "--data custom --root_path . --data_path series.csv --features M --seq_len 48 --label_len 24 "
    "--pred_len 24 --enc_in 5 --dec_in 5 --c_out 5 --d_ff 64 --batch_size 8 --train_epochs 1 "
    "--num_workers 0 --itr 1"
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
        "time_sequence_prediction/train.py": "--steps 4",
        "siamese_network/main.py": "--no-accel --epochs 1 --batch-size 16",
        "super_resolution/main.py": "--upscale_factor 3 --batchSize 4 --nEpochs 3 --threads 0",
        "fast_neural_style/neural_style/neural_style.py": "train --dataset ../pictures --save-model-dir . "
        "--style-image ../pictures/all/0.jpg --image-size 64 --batch-size 2 --epochs 1",
        "gcn/main.py": "--no-accel --epochs 25",
        "gat/main.py": "--no-accel --epochs 25 --hidden-dim 16 --num-heads 2",
        "imagenet/main.py": "--dummy -a resnet18 -b 2 -j 0 --epochs 1 --no-accel",
        "mnist_hogwild/main.py": "--num-processes 1 --epochs 1",
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
    "torchdiffeq": {
        "examples/ode_demo.py": "",
        "examples/ode_demo.py#adjoint": "--adjoint",
        "examples/latent_ode.py": "--niters 25",
        "examples/cnf.py": "--niters 25 --num_samples 64",
        "examples/odenet_mnist.py": "--nepochs 1 --batch_size 8 --data_aug False",
        "examples/learn_physics.py": "",
        "examples/bouncing_ball.py": "",
    },
    "pytorch-cifar": {"main.py": ""},
    "pytorch-cifar100": {
        f"train.py#{net}": f"-net {net} -b 4" for net in ("vgg11", "mobilenetv2", "shufflenetv2")
    },
    "pytorch_resnet_cifar10": {"trainer.py": "-a resnet20 -b 8 -j 0 --epochs 1"},
    "pytorchTutorial": {
        f"{name}.py": ""
        for name in (
            *("07_linear_regression", "08_logistic_regression", "13_feedforward", "14_cnn", "16_tensorboard"),
        )
    },
    "VAE-CVAE-MNIST": {"train.py#conditional": "--epochs 1 --conditional"},
    "recurrent-visual-attention": {
        "main.py": "--use_gpu False --batch_size 8 --epochs 1 --num_workers 0 --use_tensorboard False"
    },
    "efficient-kan": {"examples/mnist.py": ""},
    "vector-quantize-pytorch": {f"examples/autoencoder{name}.py": "" for name in ("", "_fsq", "_lfq")},
    "x-transformers": {"train_copy.py": "", "train_parity.py": ""},
    "powerful-gnns": {"main.py": "--epochs 1"},
    "LightGCN-PyTorch": {
        "code/main.py": "--dataset lastfm --epochs 2 --tensorboard 0",
        "code/main.py#mf": "--dataset lastfm --epochs 2 --tensorboard 0 --model mf",
    },
    "DeepCTR-Torch": {
        f"examples/{name}.py": ""
        for name in ("run_classification_criteo", "run_din", "run_multitask_learning")
    },
    "NRI": {
        "train.py": "--no-cuda --batch-size 8 --epochs 3 --encoder-hidden 64 --decoder-hidden 64",
        "train_dec.py": "--no-cuda --batch-size 8 --epochs 3 --suffix _springs5",
    },
    "dlrm": {
        "dlrm_s_pytorch.py": "--mini-batch-size=8 --data-size=256",
        "dlrm_s_pytorch.py#larger": "--arch-sparse-feature-size=16 --arch-mlp-bot=13-64-16 "
        "--arch-mlp-top=64-32-1 --arch-embedding-size=1000-1000-1000 --mini-batch-size=32 --data-size=1024 "
        "--loss-function=bce --round-targets=True --learning-rate=0.1",
    },
    "SimCLR": {"run.py": "-dataset-name cifar10 -j 0 -b 4 --epochs 1 --disable-cuda"},
    "word2vec-pytorch": {"word2vec/trainer.py": ""},
    "LTSF-Linear": {
        f"run_longExp.py#{model}": f"--is_training 1 --model_id a --model {model} {_SERIES} --d_model 32"
        for model in ("DLinear", "Transformer", "Autoformer")
    },
    "Informer2020": {"main_informer.py": f"--model informer {_SERIES} --d_model 64 --target 0"},
    "Pytorch-UNet": {"train.py": "--epochs 1 --batch-size 1 --scale 0.5"},
    "nerf-pytorch": {
        "run_nerf.py": "--dataset_type blender --datadir data --expname a --basedir logs --N_rand 64 "
        "--N_samples 16 --N_importance 16 --no_batching --use_viewdirs --white_bkgd --netwidth 64 "
        "--netwidth_fine 64 --testskip 1 --precrop_iters 0 --netdepth 8"
    },
    "TD3": {
        f"main.py#{policy}": f"--policy {policy} --env Pendulum-v0 --start_timesteps 300 --max_timesteps 600"
        for policy in ("TD3", "OurDDPG")
    },
    "pytorch-soft-actor-critic": {
        "main.py": "--env-name Pendulum-v0 --start_steps 100 --batch_size 32 --num_steps 400",
    },
    "Deep-reinforcement-learning-with-pytorch": {
        f"{name}.py": ""
        for name in (
            *("Char01 DQN/DQN_CartPole-v0", "Char02 Policy Gradient/REINFORCE", "Char07 PPO/PPO_CartPole_v0"),
        )
    },
    "pytorch-ddpm": {
        "main.py": "--train --batch_size 2 --ch 32 --total_steps 25 --num_workers 0 --sample_step 0 "
        "--save_step 0 --eval_step 0"
    },
    "crnn-pytorch": {"src/train.py": ""},
    "3-min-pytorch": {
        f"{name}.py": ""
        for name in (
            *("03-파이토치로_구현하는_ANN/image_recovery", "05-이미지_처리능력이_탁월한_CNN/cnn"),
            *("09-경쟁하며_학습하는_GAN/conditional_gan",),
            *("10-주어진_환경과_상호작용하며_성장하는_DQN/cartpole_dqn",),
        )
    },
    "awd-lstm-lm": {
        "main.py": "--data data/penn --emsize 64 --nhid 64 --nlayers 2 --batch_size 8 --epochs 1"
    },
    "pytorch-fm": {
        f"examples/main.py#{name}": "--dataset_path ratings.dat --dataset_name movielens1M --epoch 1 "
        f"--device cpu --save_dir . --batch_size 64 --model_name {name}"
        for name in ("ipnn", "dfm", "afi")
    },
    "llama2.c": {
        "train.py": "--device=cpu --compile=False --eval_iters=1 --batch_size=4 --max_seq_len=64 --dim=64 "
        "--n_layers=2 --n_heads=4 --n_kv_heads=4 --dtype=float32 --max_iters=30 --eval_interval=1000 "
        "--gradient_accumulation_steps=1 --vocab_source=llama2"
    },
}
#: What programs of a repository need in their environment, and further folders of their modules.
VARIABLES = {
    name: {"WATCHED_GYM": "0.21"}
    for name in (
        *("TD3", "pytorch-soft-actor-critic", "3-min-pytorch"),
        "Deep-reinforcement-learning-with-pytorch",
    )
} | {
    "examples": {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    "awd-lstm-lm": {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
    "DeepCTR-Torch": {"WATCHED_TENSORFLOW": "1"},
}
#: Program and its arguments; what stands behind # tells rows of one program apart.
PROGRAMS = {f"{folder}/{name}": given for folder, names in _LISTS.items() for name, given in names.items()}
