"""The chart of docs/performance.md, drawn from a file of results: CPU per request as ratios to nginx, a group of bars for each work.

    python tests/bench/chart.py tests/bench/results/DATE.json docs/images/bench.svg
Nothing but Python's library. Colours are told apart without them, too: bars stand in the order of the legend and carry their figures.
"""

import json
import pathlib
import sys
from xml.sax.saxutils import escape

WHO = [("nginx", "nginx", "#9aa5b1"), ("haproxy", "HAProxy", "#5b7aa8"), ("envoy", "Envoy", "#b3712a"), ("bare", "bare pingora", "#7d6bb0"), ("banyan", "Banyan, all on", "#1f7a4d")]
BAR, GAP, LEFT, TOP, HEIGHT = 26, 34, 52, 64, 220


def works(report):
    """(title, {who: (ratio, low, high)}) of each work that has all of them."""
    titles = [
        ("1 KiB", "1 KiB, keep-alive, saturated, 32 connections"), ("64 KiB", "64 KiB, keep-alive, saturated, 32 connections"),
        ("POST 4 KiB", "POST of 4 KiB, keep-alive, saturated, 32 connections"), ("HTTP/2 in", "HTTP/2 to HTTP/1.1, 8 connections of 8 streams, saturated"),
        ("4,000 a second", "4000 requests of 1 KiB a second on 32 connections"), ("TLS, resumed", "TLS, a connection for each request, resumed"),
    ]
    for short, title in titles:
        table = report.get(title)
        if table and all(name in table for name, _, _ in WHO):
            flat = {name: row["cpu_us"] if isinstance(row["cpu_us"], dict) else row for name, row in table.items()}
            yield short, {name: (flat[name]["ratio"], flat[name].get("low"), flat[name].get("high")) for name, _, _ in WHO}


def svg(report):
    groups = list(works(report))
    most = max(min(ratio, 5) for _, rows in groups for ratio, _, _ in rows.values())
    width = LEFT + sum(len(WHO) * BAR + GAP for _ in groups)
    y = lambda ratio: TOP + HEIGHT * (1 - min(ratio, most) / most)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {TOP + HEIGHT + 46}" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="CPU per request, ratio to nginx">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="{LEFT}" y="20" font-size="14" font-weight="600" fill="#1c2733">CPU per request, ratio to nginx in the same round (median, and its spread); commit {escape(report["commit"])}</text>',
    ]
    x = LEFT
    for _, label, colour in WHO:
        parts.append(f'<rect x="{x}" y="32" width="12" height="12" fill="{colour}"/><text x="{x + 17}" y="42" fill="#1c2733">{escape(label)}</text>')
        x += 30 + 7 * len(label)
    for line in range(int(most) + 1):
        parts.append(f'<line x1="{LEFT}" x2="{width}" y1="{y(line):.1f}" y2="{y(line):.1f}" stroke="#d6dce2"/><text x="{LEFT - 8}" y="{y(line) + 4:.1f}" text-anchor="end" fill="#52606d">{line}</text>')
    x = LEFT + GAP / 2
    for title, rows in groups:
        for name, _, colour in WHO:
            ratio, low, high = rows[name]
            parts.append(f'<rect x="{x + 2:.1f}" y="{y(ratio):.1f}" width="{BAR - 4}" height="{TOP + HEIGHT - y(ratio):.1f}" fill="{colour}"/>')
            if low is not None and high > low:
                parts.append(f'<line x1="{x + BAR / 2:.1f}" x2="{x + BAR / 2:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="#1c2733"/>')
            parts.append(f'<text x="{x + BAR / 2:.1f}" y="{y(max(ratio, high or 0)) - 4:.1f}" text-anchor="middle" font-size="10" fill="#1c2733">{ratio:.2f}</text>')
            x += BAR
        parts.append(f'<text x="{x - len(WHO) * BAR / 2:.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle" fill="#1c2733">{escape(title)}</text>')
        x += GAP
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    results, picture = map(pathlib.Path, sys.argv[1:])
    picture.write_text(svg(json.loads(results.read_text())))
