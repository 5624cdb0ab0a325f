#!/usr/bin/env bash
# Checks Raglan's kernels on the GPU of this machine and measures generation, embedding and re-ranking there, beside Python's transformers and
# sentence-transformers in the same run. Less than nine minutes on an H200.
#
#   load-tests/gpu/run.sh [--bin DIR] [--out DIR]       DIR has `gpu`, `engine_bench` and `encoder_bench`, built elsewhere; without it they are built here
#   load-tests/gpu/run.sh --cpu-dry-run                 the same steps on the CPU with a tiny model, to see that the script itself works
#
# What does not run is named in the table; only kernels that come to wrong numbers and a model that is not the CPU's end the run. See README.md beside this
# file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/common.sh
source scripts/common.sh

readonly PYTHON=${PYTHON:-python3}
# Seconds for everything, and of which so many are kept for the table.
readonly LIMIT_S=${LIMIT_S:-530}
bin="" out="" dry=0
while [[ $# -gt 0 ]]; do
    case "$1" in
    --bin) bin=$(realpath "$2") && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    --cpu-dry-run) dry=1 && shift ;;
    *) fail "unknown argument $1; see the top of $0" ;;
    esac
done
out=${out:-target/gpu-load-test}
rm -rf "$out"
mkdir -p "$out"
out=$(realpath "$out")

# Models are made where there is room for the largest, 16 GB: in memory if it has that.
models=$(mktemp -d "${TMPDIR:-/tmp}/raglan-gpu.XXXXXX")
if ((dry == 0)) && [[ $(df --output=avail -B1 /dev/shm | tail -n 1) -gt 40000000000 ]]; then
    rmdir "$models"
    models=$(mktemp -d /dev/shm/raglan-gpu.XXXXXX)
fi
trap 'rm -rf "$models"' EXIT

# step NAME SECONDS COMMAND...: runs a command within its time and what is left of all, its output in NAME.json, what it says in NAME.log.
step() {
    local name=$1 limit=$2 status=0 left
    shift 2
    left=$((LIMIT_S - SECONDS))
    if ((left < 15)); then
        echo "no time was left" >"$out/$name.failed"
        say "$name: no time is left"
        return
    fi
    ((limit < left)) || limit=$left
    say "$name (at $SECONDS s): $*"
    timeout "$limit" "$@" >"$out/$name.json" 2>"$out/$name.log" || status=$?
    if ((status == 0)); then
        cat "$out/$name.json"
        return
    fi
    rm -f "$out/$name.json"
    if ((status == 124)); then
        echo "it took more than $limit s" >"$out/$name.failed"
    else
        tail -n 1 "$out/$name.log" | cut -c 1-300 >"$out/$name.failed"
    fi
    say "$name failed: $(cat "$out/$name.failed")"
    tail -n 15 "$out/$name.log"
}

if [[ -z "$bin" ]]; then
    require_build_tools
    if ((dry)); then
        cargo build --locked --release -p raglan-engine --features tiny --example engine_bench
        cargo build --locked --release -p raglan-backends --no-default-features --features models --example encoder_bench
        bin=$(realpath "${CARGO_TARGET_DIR:-target}/release/examples")
    else
        scripts/cuda-build -p raglan-kernels --example gpu
        scripts/cuda-build -p raglan-engine --features tiny --example engine_bench
        scripts/cuda-build -p raglan -p raglan-backends --example encoder_bench
        bin=$(realpath "${CARGO_TARGET_DIR:-target}/cuda/release/examples")
    fi
fi
SECONDS=0

{
    date -u +%FT%TZ
    git log -1 --format=%h 2>/dev/null || echo unknown
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU"
    nproc
} >"$out/conditions.txt"

# checked NAME: ends the run where this check did not succeed.
checked() {
    [[ -e "$out/$1.json" ]] || fail "$2; nothing is measured. See $out/$1.log."
}

if ((dry)); then
    device=cpu dtype=float32 ours_dtype=f32
    shapes=(tiny) many=(2 4) prompt=24 answer=8
    encoder_made=(--texts 24 --layers 1) encoder_sizes=1024,2048 peer_encoder=(--sizes 8)
    echo "this is a run on the CPU: there is no GPU to check the kernels on" >"$out/check.failed"
    say "the kernels are not checked: this is a run on the CPU"
else
    device=cuda dtype=bfloat16 ours_dtype=bf16
    shapes=(qwen2.5-0.5b llama-3.1-8b) many=(64 256) prompt=1000 answer=250
    encoder_made=() encoder_sizes=16384,65536 peer_encoder=()
    step check 60 "$bin/gpu" check
    checked check "the kernels come to wrong numbers, or do not run"
fi
step check-engine 120 "$bin/engine_bench" check --device "$device"
checked check-engine "whole models do not come to the CPU's logits, or do not run"
((dry)) || step bandwidth 60 "$bin/gpu" bandwidth

for shape in "${shapes[@]}"; do
    step "make-$shape" 90 "$bin/engine_bench" make "$models/$shape" "$shape"
    for count in "${many[@]}"; do
        step "ours-$shape-$count" 90 "$bin/engine_bench" run "$models/$shape" --device "$device" --dtype "$ours_dtype" \
            --concurrent "$count" --prompt "$prompt" --answer "$answer"
    done
    step "peer-$shape" 150 "$PYTHON" load-tests/gpu/transformers_peer.py "$models/$shape" --device "$device" --dtype "$dtype" \
        --concurrent "${many[@]}" --prompt "$prompt" --answer "$answer"
done
encoder=$models/encoder
step make-encoder 30 "$bin/encoder_bench" make "$encoder" "${encoder_made[@]}"
step check-encoder 60 "$bin/encoder_bench" check "$encoder" --device "$device"
if [[ -e "$out/check-encoder.json" ]]; then
    step encoder 60 "$bin/encoder_bench" run "$encoder" --device "$device" --batch-tokens "$encoder_sizes"
else
    echo "not measured, since its check failed: $(cat "$out/check-encoder.failed")" >"$out/encoder.failed"
fi
step peer-encoder 60 "$PYTHON" load-tests/gpu/encoder_peer.py "$encoder" --device "$device" "${peer_encoder[@]}"

"$PYTHON" load-tests/gpu/table.py "$out" >"$out/table.md"
say "$SECONDS s; the table is in $out/table.md"
cat "$out/table.md"
