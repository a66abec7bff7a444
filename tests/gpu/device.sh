#!/usr/bin/env bash
# Rung 8 of docs/gpu.md: tests and figures on this machine's GPUs, in under nine minutes.
#
#     tests/gpu/device.sh [--rehearsal] [options of pytest]
#
# It needs python3 (or $PYTHON) with CuPy and pytest, and no pip, no network, no MPI library and no installed
# distgrad. What is found goes to the folder $OUT (gpu-check, unless set) as it comes: log.txt has everything,
# tests.jsonl and figures.jsonl a line for each test and figure, summary.md the tables. A stage that reaches its
# limit is cut off, and the next one starts; the limits are below 520 seconds together. The exit status is 0 if
# all that is to be tested here was, and passed.
#
# --rehearsal runs it on the double of a GPU, with small sizes, to try the check itself.
set -u
cd "$(dirname "$0")/../.." || exit 1

python=${PYTHON:-python3}
export OUT=${OUT:-$PWD/gpu-check}
mkdir -p "$OUT" || exit 1
OUT=$(cd "$OUT" && pwd)
rm -f "$OUT"/{log.txt,tests.jsonl,figures.jsonl,summary.md,allreduce.json,ddp.json}
work=$(mktemp -d)
running=
trap 'rm -rf "$work"' EXIT
trap 'kill "$running" 2>/dev/null; exit 130' INT TERM

export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export CUPY_CACHE_DIR=$work/cupy HYPOTHESIS_STORAGE_DIRECTORY=$work/hypothesis
export PYTHONPATH=$PWD:$PWD/tests:$PWD/tests/gpu:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}
export DISTGRAD_REAL_GPU=1
small=()
peer_path=$PYTHONPATH peer_device=cuda
if [ "${1:-}" = --rehearsal ]; then
  shift
  export DISTGRAD_REAL_GPU=rehearsal DISTGRAD_GPU_DOUBLE_DEVICES=${DISTGRAD_GPU_DOUBLE_DEVICES:-1}
  export CUPY_ACCELERATORS= PYTHONPATH=$PWD/tests/gpu_double/everywhere:$PYTHONPATH
  small=(--small)
  peer_device=cpu # PyTorch knows nothing of the double
fi

passed=yes

# note NAME RESULT [SECONDS LIMIT]: a line of the table of stages.
note() {
  printf '{"figure": "stage", "name": "%s", "result": "%s", "seconds": %s, "limit": %s}\n' \
    "$1" "$2" "${3:-null}" "${4:-null}" >>"$OUT/figures.jsonl"
  echo "== $1: $2${3:+ in $3 s}"
}

# stage NAME LIMIT LINES COMMAND...: run it for LIMIT seconds at most, and show the last LINES of what it prints.
stage() {
  local name=$1 limit=$2 lines=$3 start=$SECONDS before status
  shift 3
  echo "==== $name" >>"$OUT/log.txt"
  before=$(wc -c <"$OUT/log.txt")
  timeout --signal=INT --kill-after=5 "$limit" "$@" </dev/null >>"$OUT/log.txt" 2>&1 &
  running=$!
  wait "$running" 2>/dev/null
  status=$?
  tail -c +$((before + 1)) "$OUT/log.txt" | tail -n "$lines" | cut -c1-300
  case $status in
    0) note "$name" passed $((SECONDS - start)) "$limit" ;;
    124 | 137) note "$name" "cut off" $((SECONDS - start)) "$limit" ;;
    *) note "$name" "failed ($status)" $((SECONDS - start)) "$limit" ;;
  esac
  [ "$status" = 0 ] || passed=no
  return "$status"
}

has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

if ! stage facts 30 20 "$python" tests/gpu/facts.py; then
  "$python" tests/gpu/summary.py "$OUT" >/dev/null
  exit 1
fi
num_gpus=$("$python" -c 'import distgrad; print(distgrad.cuda.device_count())')
if [ "$num_gpus" -gt 1 ]; then limit=90; else limit=175; fi # what several GPUs have beyond one takes its time

stage smoke 45 30 "$python" tests/gpu/smoke.py

# Of this Python's plugins only those that are wanted, and none of pyproject.toml's strictness: what other
# versions of other packages warn of is no fault of a GPU.
pytest=("$python" -m pytest -q -o addopts=--import-mode=importlib -o filterwarnings= --disable-warnings
  -p outcomes --tb=short -o "cache_dir=$work/pytest" --continue-on-collection-errors --maxfail=100)
if has pytest_timeout; then pytest+=(-p pytest_timeout -o timeout=60); fi
if has xdist; then parallel=(-p xdist.plugin -n "$(($(nproc) * 3 / 4 + 1))" --dist worksteal); else parallel=(); fi
if has cudnn; then libraries=(tests/gpu_double/test_cudnn.py); else libraries=(); fi
stage "tests, one GPU" "$limit" 40 "${pytest[@]}" ${parallel[@]+"${parallel[@]}"} -m gpu "$@" \
  tests/gpu/test_real_gpu.py tests/backend/test_cuda_kernels.py ${libraries[@]+"${libraries[@]}"}
if [ "$num_gpus" -gt 1 ]; then
  stage "tests, several GPUs" 50 20 "${pytest[@]}" "$@" tests/gpu_double/test_{communicator,ddp,orders}.py
else
  note "tests, several GPUs" "not run: one GPU"
fi

stage "figures of distgrad" 60 5 "$python" tests/gpu/figures.py distgrad ${small[@]+"${small[@]}"}
if PYTHONPATH=$peer_path has torch; then
  stage "figures of PyTorch" 45 5 env PYTHONPATH="$peer_path" \
    "$python" tests/gpu/figures.py torch --device "$peer_device" ${small[@]+"${small[@]}"}
else
  note "figures of PyTorch" "not run: no PyTorch"
fi
stage "cold starts" 40 10 "$python" tests/gpu/cold_start.py distgrad ${small[@]+"${small[@]}"}
if [ "$num_gpus" -gt 1 ]; then
  stage "figures of several GPUs" 30 20 "$python" benchmarks/allreduce.py --device cuda --ranks "$num_gpus" \
    --sizes 1048576 268435456 --rounds 3 --json "$OUT/allreduce.json"
fi
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    stage "$tool" 35 5 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" tests/gpu/sample.py
  done
else
  note "memcheck, racecheck" "not run: no compute-sanitizer"
fi

"$python" tests/gpu/summary.py "$OUT"
echo "all of it is in $OUT; $SECONDS s together"
[ "$passed" = yes ]
