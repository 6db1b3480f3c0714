#!/bin/sh
# The README's demonstration: every command is shown before it runs, so that you can type it yourself.
set -eu

show() {
  printf '\n$ %s\n' "$*"
  "$@"
}

show primum up --detach
show primum apply -f examples/breast-cancer/budget.yaml -f examples/breast-cancer/study.yaml

url=http://127.0.0.1:${PRIMUM_SERVING_PORT:-8400}/v2/models/malignancy/infer
printf '\n$ curl -s %s -d @examples/breast-cancer/request.json\n' "$url"
python -c '
import json, pathlib, sys, time, urllib.request
request = urllib.request.Request(sys.argv[1], pathlib.Path("examples/breast-cancer/request.json").read_bytes())
request.add_header("Content-Type", "application/json")
for attempt in range(50):
    try:
        answer = json.load(urllib.request.urlopen(request, timeout=10))
        break
    except OSError:
        if attempt == 49:
            raise
        time.sleep(0.2)
outputs = {item["name"]: item["data"] for item in answer["outputs"]}
print("->", outputs["label"][0], format(max(outputs["probability"][:2]), ".2f"))
' "$url"

printf '\n$ primum apply -f examples/breast-cancer/too-greedy.yaml\n'
primum apply -f examples/breast-cancer/too-greedy.yaml || true
printf '\nThe platform keeps running: primum get studies, primum ledger accounts, primum down\n'
