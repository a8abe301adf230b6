#!/usr/bin/env bash
# One look at this version on one NVIDIA GPU, in less than ten minutes and without a network: checks in the order of
# their worth, each with what is expected and what was measured.
#
#   make gpu                     here, where torch finds a GPU; otherwise it walks through all of it on the CPU
#   make gpu DRY=1               walks through it on the CPU: tiny sizes, whose figures mean nothing
#   make gpu-wheels              first, for a machine without a network: .gpu/wheels then has the kit and what
#                                GPU_PYTHON (3.12) may lack there. Carry .gpu along, or name its folder: WHEELS=DIR
#
# DATA=DIR has tinyshakespeare.txt and tiktoken/ with GPT-2's vocabulary; without it .gpu/data, and in a dry run the text
# of the tests. NANOGPT=DIR is a checkout of nanoGPT, which is timed beside. No check is begun after MOST_SECONDS (570).
# The result is in OUT (.gpu/result), with a line for each check that failed at the end; then the exit code is 1.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-python3}
command -v "$PYTHON" >/dev/null || { echo "there is no Python at $PYTHON" >&2; exit 2; }
PYTHON=$(command -v "$PYTHON")
PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON") # whatever the folder of a check is
MOST_SECONDS=${MOST_SECONDS:-570}
WHEELS=${WHEELS:-$root/.gpu/wheels}
OUT=${OUT:-$root/.gpu/result}
DATA=${DATA:-$root/.gpu/data}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$OUT"
exec > >(tee "$OUT/check.txt") 2>&1

export NANOGPT_KIT_RUNS=$scratch/runs NANOGPT_KIT_DATA=$scratch/data NANOGPT_KIT_CALIBRATION=off
export XDG_CACHE_HOME=$scratch/cache XDG_STATE_HOME=$scratch/state TORCHINDUCTOR_CACHE_DIR=$scratch/inductor
export HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=passive

if [ -z "${DRY:-}" ] && ! "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  DRY=1
  echo "torch finds no GPU here: a dry run"
fi
export DRY=${DRY:-}

failed=()
check() { # NAME SECONDS EXPECTED COMMAND...: at most so many seconds
  local name=$1 most=$2 expected=$3 left=$((MOST_SECONDS - SECONDS)) result
  shift 3
  echo
  if [ "$left" -lt 10 ]; then
    echo "== $name: not begun after $SECONDS s"
    failed+=("$name: not begun")
    return
  fi
  [ "$most" -gt "$left" ] && most=$left
  echo "== $name"
  echo "   expected: $expected"
  timeout -k 5 "$most" "$@" 2>&1 | sed 's/^/   /'
  result=${PIPESTATUS[0]}
  echo "   $([ "$result" = 0 ] && echo "ok" || echo "FAILED ($result)"), after $SECONDS s in all"
  [ "$result" = 0 ] || failed+=("$name: exit code $result")
}

# --- an environment that has the kit from its wheel, and torch from the one that called

install_wheels() {
  local site
  "$PYTHON" -m venv "$scratch/venv" || return
  site=$("$scratch/venv/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  "$scratch/venv/bin/python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl || return
  "$PYTHON" -c "import sys; print(*[path for path in sys.path if path.endswith('-packages')], sep='\n')" >"$site/outer.pth"
  cd "$scratch" && venv/bin/python "$root/tests/gpu/installed.py" "$site" "$WHEELS"
}

export -f install_wheels
export PYTHON WHEELS scratch root

if ! ls "$WHEELS"/nanogpt_kit-*.whl >/dev/null 2>&1; then
  echo "no wheel of the kit in $WHEELS: builds it, with what pip finds for it"
  PYTHON=$PYTHON WHEELS=$WHEELS bash "$root/tests/gpu/wheels.sh" || failed+=("wheels: exit code $?")
fi
check "the carried wheels, in an empty environment" 120 "each distribution is found there, in its wheel's version" \
  bash -c install_wheels
python=$scratch/venv/bin/python
if [ ! -x "$python" ] || ! "$python" -c "import nanogpt_kit, torch" 2>/dev/null; then
  echo "the wheels are not enough: continues with $PYTHON and this checkout"
  python=$PYTHON
  export PYTHONPATH=$root
fi
cd "$scratch" || exit 1

# --- the sizes

kit=("$python" -m nanogpt_kit)
checks=("$python" "$root/tests/gpu/checks.py")
rounds=(--rounds 6 --seconds 2)
gpt2=(bench_gpt2_gpu "dataset.source=$DATA/tinyshakespeare.txt")
baby=(shakespeare_char "dataset.source=$DATA/tinyshakespeare.txt")
short=(train.steps=200 evaluate.every_steps=200 sample.num_samples=0)
tokens=200
export TIKTOKEN_CACHE_DIR=$DATA/tiktoken
if [ -n "$DRY" ]; then
  text=(dataset.use=text "dataset.source=$root/tests/data/prose.txt" train.device=cpu)
  network=(model.n_layer=1 model.n_head=3 model.n_embd=48 model.block_size=64 train.batch_tokens=256)
  rounds=(--rounds 1 --seconds 0.1)
  gpt2=(bench_gpt2_gpu "${text[@]}" tokenizer.use=byte "${network[@]}" train.micro_batch_size=2)
  baby=(shakespeare_char "${text[@]}" "${network[@]}")
  short=(train.steps=8 evaluate.every_steps=8 sample.num_samples=0)
  tokens=40
elif [ ! -f "$DATA/tinyshakespeare.txt" ]; then
  echo "DATA has to name a folder with tinyshakespeare.txt and tiktoken/: there is none at $DATA"
  exit 2
fi
compiled=train.compile=default
[ -n "$DRY" ] && compiled=train.compile=off

# --- the checks

check "doctor" 40 "a GPU with bf16; flash, efficient and cuDNN attention; compiling on cuda" "${kit[@]}" doctor
check "ceilings" 40 "about 790 TFLOP/s in bf16; copies 3.0 TB/s (H100) or 4.3 (H200)" "${checks[@]}" ceilings
check "kernels of attention" 40 "causal: cudnn or flash, 1.5 to 3 ms; none is math" "${checks[@]}" attention
check "the loss in chunks" 60 "differences of 2e-6 in fp32 and 1e-2 in bf16; 25 to 40 ms" "${checks[@]}" loss
check "waits of steps that are not logged" 60 "0; in fp16 5 with muon and sgd, whose scaler reads overflows" "${checks[@]}" waits
check "draws" 20 "200 of 200 tokens as on the CPU" "${checks[@]}" draws
check "one process in NCCL" 30 "no difference of the gradients" "${checks[@]}" nccl
check "GPT-2 124M, compiled" 240 "about 535,000 tokens/s, 46% MFU (H100); 585,000, 51% (H200); below 30 GiB" \
  "${kit[@]}" bench "${gpt2[@]}" $compiled "${rounds[@]}"
check "GPT-2 124M writes one text, as a CUDA graph" 60 "0.5 to 0.9 ms a token: 1,100 to 2,000 tokens/s" \
  "${kit[@]}" bench "${gpt2[@]}" --sample 1 "sample.max_new_tokens=$tokens" sample.precision=bf16 "${rounds[@]}"
check "GPT-2 124M writes one text, uncompiled" 60 "below 10 ms a token: above 100 tokens/s" \
  "${kit[@]}" bench "${gpt2[@]}" --sample 1 "sample.max_new_tokens=$tokens" sample.precision=bf16 sample.compile=off \
  "${rounds[@]}"
check "GPT-2 124M writes 256 texts" 60 "not estimated" \
  "${kit[@]}" bench "${gpt2[@]}" --sample 256 "sample.max_new_tokens=$tokens" sample.precision=bf16 "${rounds[@]}"
if [ -n "${NANOGPT:-}" ]; then
  check "GPT-2 124M beside nanoGPT" 200 "1.3 times nanoGPT or more" \
    "${kit[@]}" bench "${gpt2[@]}" --nanogpt "$NANOGPT" "${rounds[@]}"
fi
check "a run from a checkpoint" 90 "the losses of the run that saved it: differences below 1e-3" \
  "${checks[@]}" resume "${baby[@]}"
check "fp16 with its scaler" 60 "the loss falls, and the run ends" \
  "${kit[@]}" run "${baby[@]}" "${short[@]}" "train.precision=$([ -n "$DRY" ] && echo fp32 || echo fp16)"
if [ -z "$DRY" ]; then
  check "tests for GPUs" 120 "all pass" env PYTHONPATH="$root" NANOGPT_KIT_TEST_DATA="$DATA" \
    "$python" -m pytest -q -m gpu -p no:cacheprovider --rootdir "$root" "$root/tests/components" "$root/tests/generate"
fi
check "the largest micro-batch" 60 "64 to 512 windows on 80 GB" \
  "${kit[@]}" bench "${gpt2[@]}" train.micro_batch_size=auto train.compile=off --rounds 1 --seconds 0.1
check "GPT-2 124M, uncompiled" 60 "220,000 to 350,000 tokens/s" "${kit[@]}" bench "${gpt2[@]}" train.compile=off "${rounds[@]}"
check "where the time of a compiled step goes" 100 "products 50 to 60 percent, attention 7 to 10" \
  "${checks[@]}" kernels "${gpt2[@]}" $compiled

echo
if [ ${#failed[@]} = 0 ]; then
  echo "all checks ran${DRY:+ (dry)}, in $SECONDS s; the result is in $OUT/check.txt"
else
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
