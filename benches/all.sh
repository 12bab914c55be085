#!/usr/bin/env bash
# all.sh: every benchmark, one after the other. Needs root and a corpus (CORPUS, default /var/tmp/corpus).
set -euo pipefail
cd "$(dirname "$0")/.."
benches/load_save.py
benches/bundle.py
benches/run.py
benches/transfer.py
benches/services.py
