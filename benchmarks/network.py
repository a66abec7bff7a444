"""Data-parallel steps on an EMULATED network: how much of the communication hides, and what compressors save.

As ``distgrad bench network``, whose code and options these are: distgrad/scale/bench/network.py.
"""

from distgrad.scale.bench.network import main

if __name__ == "__main__":
    main()
