#!/bin/bash
# Train on machines that ssh reaches without a password: ssh.sh train.py ARGS
# The environment and the script stand at the same paths on all of them.
HOSTS=${HOSTS:-node1:4,node2:4}

exec "${PYTHON:-python}" -m distgrad run --hosts "$HOSTS" --log-dir logs "$@"
