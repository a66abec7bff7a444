"""The benchmarks that ``distgrad bench`` runs: each file is a program of its own.

Those without a command line import nothing of distgrad before they are called, so that its import can be
measured.
"""
