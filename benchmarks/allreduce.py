"""All-reduce of float32 among ranks of one host: distgrad beside MPI, PyTorch's Gloo and a plain copy.

As ``distgrad bench allreduce``, whose code and options these are: distgrad/scale/bench/allreduce.py.
"""

from distgrad.scale.bench.allreduce import main

if __name__ == "__main__":
    main()
