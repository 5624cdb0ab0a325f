"""Measures a TREC run with the `pytrec_eval` package, which is trec_eval itself.

Usage: trec_eval.py QRELS RUN DEPTH K [K …]

QRELS has BEIR's lines after a header: query-id, corpus-id, score, parted by tabs. Prints a JSON object: for each
question of QRELS its measures, named as Raglan names them. A question that RUN does not have is left out. Exit code 2:
the input is not as above.
"""

import csv
import json
import sys

import pytrec_eval


def main() -> int:
    try:
        qrels_path, run_path, depth, *cuts = sys.argv[1:]
        depth, cuts = int(depth), [int(cut) for cut in cuts]
    except ValueError:
        print(__doc__, file=sys.stderr)
        return 2
    qrels: dict[str, dict[str, int]] = {}
    with open(qrels_path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    run: dict[str, dict[str, float]] = {}
    with open(run_path, encoding="utf-8") as file:
        for line in file:
            question, _, document, _, score, _ = line.split()
            run.setdefault(question, {})[document] = float(score)
    at = ",".join(map(str, cuts))
    names = {f"ndcg_cut.{at}", f"recall.{at}", f"P.{at}", f"success.{at}", f"map_cut.{depth}"}
    measured = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    # trec_eval has no cut for the reciprocal rank: what stands below rank 10 is taken out of the run.
    first_ten = {question: top(found, 10) for question, found in run.items()}
    reciprocal = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(first_ten)
    ours = {"ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "hit_rate": "success"}
    result = {}
    for question, values in measured.items():
        row = {f"{name}@{cut}": values[f"{theirs}_{cut}"] for name, theirs in ours.items() for cut in cuts}
        row[f"map@{depth}"] = values[f"map_cut_{depth}"]
        row["mrr@10"] = reciprocal[question]["recip_rank"]
        result[question] = row
    json.dump(result, sys.stdout)
    return 0


def top(found: dict[str, float], size: int) -> dict[str, float]:
    """The first documents in trec_eval's order: by falling score, equal ones by falling id."""
    order = sorted(found.items(), key=lambda item: (item[1], item[0]), reverse=True)
    return dict(order[:size])


if __name__ == "__main__":
    sys.exit(main())
