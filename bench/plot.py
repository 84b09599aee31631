# SPDX-License-Identifier: Apache-2.0
"""A results file of a GPU in, a picture of it out: microseconds and share of the roof against the
batch, one column a number of heads, the other kernel's line beside ours. Needs matplotlib.
Usage: plot.py RESULTS.csv PICTURE.svg"""

import argparse
import csv

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "steady"  # the same picture from the same numbers
from matplotlib import pyplot  # noqa: E402

MARKS = {512: ("o", "-"), 1024: ("s", "--")}


def read(path):
    with open(path) as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def draw(axes, rows, value_of, label, colour):
    for compressed, (marker, line) in MARKS.items():
        chosen = sorted(
            (row for row in rows if row["compressed_tokens"] == compressed),
            key=lambda row: row["batch"],
        )
        axes.plot(
            [row["batch"] for row in chosen], [value_of(row) for row in chosen],
            marker=marker, linestyle=line, color=colour, label=f"{label}, 128+{compressed}",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["batch"] for row in rows}), minor=False)
    axes.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.grid(alpha=0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("picture")
    arguments = parser.parse_args()
    rows = read(arguments.results)
    heads = sorted({row["heads"] for row in rows})
    figure, axes = pyplot.subplots(2, len(heads), figsize=(4.5 * len(heads), 8), sharex=True)
    for column, count in enumerate(heads):
        own = [row for row in rows if row["heads"] == count]
        time, share = axes[0][column], axes[1][column]
        draw(time, own, lambda row: row["steady_us"], "Steady", "tab:blue")
        draw(time, own, lambda row: row["flashmla_us"], "FlashMLA", "tab:orange")
        draw(share, own, lambda row: row["roof_percent"], "Steady", "tab:blue")
        draw(
            share, own, lambda row: row["roof_percent"] / row["times_flashmla"],
            "FlashMLA", "tab:orange",
        )  # fmt: skip
        time.set_yscale("log", base=2)
        time.get_yaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
        time.set_title(f"{count:.0f} heads")
        share.set_xlabel("batch")
    axes[0][0].set_ylabel("µs a layer")
    axes[1][0].set_ylabel("% of the roof")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(arguments.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
