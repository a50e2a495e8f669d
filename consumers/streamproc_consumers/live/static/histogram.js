// The latency histogram: a bar a bucket, the highest one as high as the chart.

import { svg } from "./dom.js";

const WIDTH = 400;
const HEIGHT = 86;
const BOTTOM = 16;

export function histogram(into, { bounds, counts, p50, p99, events }) {
  const step = WIDTH / counts.length;
  const high = Math.max(1, ...counts);
  const bars = counts.map((count, at) => {
    const tall = count ? Math.max(2, (count / high) * (HEIGHT - BOTTOM - 4)) : 0;
    return svg("rect", { class: "column", x: at * step + 1.5, y: HEIGHT - BOTTOM - tall, width: step - 3, height: tall, rx: 2 });
  });
  const labels = bounds.map((bound, at) => (at % 3 === 2
    ? svg("text", { class: "tick", x: (at + 1) * step, y: HEIGHT - 3, "text-anchor": "middle" }, bound >= 1000 ? `${bound / 1000} s` : `${bound} ms`)
    : null));
  into.replaceChildren(
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": events
      ? `Histogram of ${events} latencies: half below ${Math.round(p50)} milliseconds, 99 percent below ${Math.round(p99)}`
      : "Histogram of latencies, still empty" },
      svg("path", { class: "axis", d: `M0 ${HEIGHT - BOTTOM + 0.5}H${WIDTH}` }), ...bars, ...labels),
  );
}
