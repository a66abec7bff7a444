"""Data-parallel training steps on two ranks of one thread each: distgrad beside PyTorch DDP over Gloo.

As ``distgrad bench ddp``, whose code and options these are: distgrad/scale/bench/ddp.py.
"""

from distgrad.scale.bench.ddp import main

if __name__ == "__main__":
    main()
