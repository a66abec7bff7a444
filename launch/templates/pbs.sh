#!/bin/bash
# Train on several nodes under PBS: qsub -v SCRIPT=train.py,PYTHON=/path/to/python pbs.sh
# PBS lists a node once for each of its mpiprocs; distgrad run starts one rank for each over ssh. Tried with a
# node file as PBS writes it, not under PBS itself.
#PBS -N distgrad
#PBS -l select=2:ncpus=4:mpiprocs=4
#PBS -l walltime=01:00:00
#PBS -j oe

cd "$PBS_O_WORKDIR" || exit 1

exec "${PYTHON:-python}" -m distgrad run --hostfile "$PBS_NODEFILE" --log-dir "logs-$PBS_JOBID" "${SCRIPT:?}"
