"""Benchmarks: KeelFS beside a local directory and JuiceFS, on the same disk, in the same run, interleaved.

`python -m bench` runs everything and writes docs/BENCHMARKS.md's tables; `python -m bench --help` lists the parts. Figures are
medians of at least three rounds; what is compared is the ratio within a round, since machines are noisy.
"""
