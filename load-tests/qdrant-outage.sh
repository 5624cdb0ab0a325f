#!/usr/bin/env bash
# Qdrant goes away under load for 30 seconds and comes back: what searchers see.
#
#   load-tests/qdrant-outage.sh DATASET "COMMAND THAT STARTS QDRANT"
#
# Needs a running distributed Raglan over that Qdrant with DATASET taken in (RAGLAN_URL, default http://127.0.0.1:8765), and Qdrant started by this same
# command. The load generator is target/release/raglan-load-tests, or LOAD_TESTS.
set -euo pipefail
dataset=${1:?DATASET} start=${2:?the command that starts Qdrant}
url=${RAGLAN_URL:-http://127.0.0.1:8765}
load_tests=${LOAD_TESTS:-target/release/raglan-load-tests}
searchers=${SEARCHERS:-8}

search() { # MODE SECONDS: a table row, and how many of the answers were degraded
    "$load_tests" searchers --url "$url" --dataset "$dataset" --searchers "$searchers" --seconds "$2" --warm-up-s 1 --mode "$1" | tail -n 1
}

degraded() { # whether a hybrid search misses its vectors
    curl -s "$url/v1/search" -H 'content-type: application/json' -d '{"query": "what is missing now", "mode": "hybrid"}' |
        grep -q '"degraded":\["'
}

printf '                      searchers  searches  searches/s  mean ms   p50 ms   p90 ms   p99 ms  degraded\n'
printf 'keyword, healthy      %s\n' "$(search keyword 10)"
printf 'hybrid, healthy       %s\n' "$(search hybrid 10)"
pkill -9 -x qdrant
cut=$(date +%s%N)
until degraded; do sleep 0.1; done
printf 'the first degraded answer came %s ms after the cut\n' $((($(date +%s%N) - cut) / 1000000))
printf 'hybrid, Qdrant away   %s\n' "$(search hybrid 12)"
printf 'keyword, Qdrant away  %s\n' "$(search keyword 12)"
sleep "$(awk -v since="$(($(date +%s%N) - cut))" 'BEGIN { left = 30 - since / 1e9; print (left > 0) ? left : 0 }')"
bash -c "$start" >/dev/null 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/"${QDRANT_PORT:-6334}") 2>/dev/null; do sleep 0.1; done
back=$(date +%s%N)
while degraded; do sleep 0.1; done
printf 'full answers again %s ms after Qdrant took connections\n' $((($(date +%s%N) - back) / 1000000))
printf 'hybrid, back          %s\n' "$(search hybrid 10)"
