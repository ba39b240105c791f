"""A chart of bars as SVG: records per second of each workload, its longest bar the fastest."""
from xml.sax.saxutils import escape

COLOURS = {"nightshift": "#3b5bdb", "python": "#868e96", "python-pillow": "#adb5bd", "python-arrival": "#adb5bd", "ray": "#e8590c", "daft": "#2f9e44"}
LEFT, BAR, LINE, WIDTH, RIGHT = 210, 14, 18, 420, 110


def draw(medians, names, peers):
    """`medians`: {(workload, peer): {"rate": records per second, …}}."""
    parts, y = [], 20
    for name in names:
        rates = {peer: medians[name, peer]["rate"] for peer in peers if (name, peer) in medians}
        if not rates:
            continue
        parts.append(f'<text x="10" y="{y + 11}" font-weight="bold">{escape(name)}</text>')
        for peer, rate in rates.items():
            length = WIDTH * rate / max(rates.values())
            parts.append(f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(peer)}</text>'
                         f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{COLOURS[peer]}"/>'
                         f'<text x="{LEFT + length + 6:.1f}" y="{y + 11}">{rate:,.0f}/s</text>')
            y += LINE
        y += LINE // 2
    width, height = LEFT + WIDTH + RIGHT, y + 10
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")
