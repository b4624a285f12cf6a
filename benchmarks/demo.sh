#!/usr/bin/env bash
# The whole main job in one to three and a half minutes on two CPU cores, from nothing: draw ten classes of
# scenes, train quicknet_xs on them, measure it, write it as one verified file for other runtimes
# (ONNX) and as one of integers (.qnz), classify a few pictures with that, compress it, and put it
# into a page that anyone can open. `make demo` calls this with .venv/bin on the PATH; DEMO names
# another folder than demo/. Run again, it keeps the scenes, which are always the same, and trains
# anew.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=${DEMO:-demo}
started=$SECONDS

echo "== 1. draw ten classes of cluttered 32x32 scenes"
python -m quicknet.data.scenes "$demo/scenes" --per-class 500 --seed 0

echo "== 2. train quicknet_xs"
rm -rf "$demo/run" "$demo"/scenes.{onnx,qnz,html} "$demo"/small.qnz*
quicknet train "$demo/scenes" --recipe demo --run "$demo/run"

echo "== 3. measure it on the held-out test scenes"
quicknet evaluate "$demo/run"

echo "== 4. write one file that runs without torch, and check what it promises"
quicknet export "$demo/run" --format onnx --out "$demo/scenes.onnx" --data "$demo/scenes"
quicknet verify "$demo/scenes.onnx" --data "$demo/scenes"

echo "== 5. write it as a network of integers, a quarter of the bytes, the same answers on every CPU"
# Two of the 500 validation pictures are 0.4 points, which one CPU's rounding in training loses and another's does not.
quicknet export "$demo/run" --out "$demo/scenes.qnz" --data "$demo/scenes" --max-loss 0.5
quicknet verify "$demo/scenes.qnz" --data "$demo/scenes"

echo "== 6. classify a few pictures with it"
quicknet predict "$demo/scenes.qnz" "$demo"/scenes/test/{arrow,ring,spiral,star}/00000.png

echo "== 7. compress it: prune it while it trains on, and code what is left"
quicknet compress "$demo/run" "$demo/scenes" --target-size 60KB --epochs 3 --qat 0.25 --out "$demo/small.qnz"
quicknet verify "$demo/small.qnz" --data "$demo/scenes"

echo "== 8. put that into one web page, which classifies pictures in any browser"
quicknet page "$demo/small.qnz" --title "Drawn scenes" --out "$demo/scenes.html"

folder=$(cd "$demo" && pwd)
echo "== done in $((SECONDS - started)) s; the report is $folder/run/report.html, the page $folder/scenes.html"
