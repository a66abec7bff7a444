"""What sharding saves and costs: bytes a rank and milliseconds a step, stage by stage.

As ``distgrad bench sharded``, whose code and options these are: distgrad/scale/bench/sharded.py.
"""

from distgrad.scale.bench.sharded import main

if __name__ == "__main__":
    main()
