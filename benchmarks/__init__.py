"""Speed and memory against plain forms and peers (`python -m benchmarks`), and the papers' claims (`benchmarks.claims`)."""
