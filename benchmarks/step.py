"""Time of a whole training step (zero_grad, forward, mean cross entropy, backward, AdamW) beside the peers.

As ``distgrad bench step``, whose code and options these are: distgrad/scale/bench/step.py.
"""

from distgrad.scale.bench.step import main

if __name__ == "__main__":
    main()
