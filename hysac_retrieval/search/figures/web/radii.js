// Radii of each kind with its threshold as a line to drag. A verdict is given by the score, of which the radius is the
// source; where more than one view was judged the score is that of the worst, and counts.
import { el, number, svg } from "./dom.js";
import { t } from "./strings.js";

const BINS = 64;
const WIDTH = 800;
const HEIGHT = 180;

export const scoreAt = (level, radius) => 1 / (1 + Math.exp(-level.slope * (radius - level.midpoint)));

export function radiusAt(level, score) {
  const bounded = Math.min(Math.max(score, 1e-12), 1 - 1e-12);
  return Math.max(0, level.midpoint + Math.log(bounded / (1 - bounded)) / level.slope);
}

// Rows that change sides when the threshold of a kind becomes another, those nearest to the line first.
export function changes(map, kind, before, after) {
  const hidden = [], shown = [];
  let pinned = 0;
  for (let row = 0; row < map.ids.length; row += 1) {
    if (map.kind[row] !== kind || map.unsafe[row] === null) continue;
    const was = map.unsafe[row] <= before;
    if (was !== map.safe[row]) pinned += 1; // a person or a rule decided; the threshold does not
    else if (was && map.unsafe[row] > after) hidden.push(row);
    else if (!was && map.unsafe[row] <= after) shown.push(row);
  }
  const near = (a, b) => Math.abs(map.unsafe[a] - after) - Math.abs(map.unsafe[b] - after);
  return { hidden: hidden.sort(near), shown: shown.sort(near), pinned };
}

export function histogram(map, kind, level, { onChange }) {
  const name = t(["text", "image"][kind]);
  const rows = [...map.ids.keys()].filter((row) => map.kind[row] === kind);
  const radii = rows.map((row) => map.radius[row]);
  const start = radiusAt(level, level.threshold);
  const low = Math.max(0, Math.min(start, ...[radii.reduce((a, b) => Math.min(a, b), Infinity)]) * 0.95);
  const high = Math.max(start, radii.reduce((a, b) => Math.max(a, b), 0)) * 1.05 || 1;
  const x = (radius) => ((radius - low) / (high - low)) * WIDTH;
  const counts = [new Array(BINS).fill(0), new Array(BINS).fill(0)];
  for (const row of rows) {
    const bin = Math.min(BINS - 1, Math.floor(((map.radius[row] - low) / (high - low)) * BINS));
    counts[map.safe[row] ? 0 : 1][bin] += 1;
  }
  const most = Math.max(1, ...counts[0].map((count, bin) => count + counts[1][bin]));
  const tall = (count) => (count / most) * (HEIGHT - 20);
  const bars = counts[0].flatMap((safe, bin) => {
    const unsafe = counts[1][bin], left = (bin * WIDTH) / BINS, wide = WIDTH / BINS - 1;
    return [
      safe && svg("rect", { class: "safe", x: left, width: wide, y: HEIGHT - tall(safe), height: tall(safe) }),
      unsafe && svg("rect", { class: "unsafe", x: left, width: wide, y: HEIGHT - tall(safe + unsafe), height: tall(unsafe) }),
    ].filter(Boolean);
  });
  let radius = start;
  const line = svg("line", { class: "line", y1: 0, y2: HEIGHT });
  const grip = svg("circle", { class: "grip", cy: 12, r: 9 });
  const area = svg("rect", { class: "touch", y: 0, width: 24, height: HEIGHT });
  const slider = svg("g", { class: "threshold", role: "slider", tabindex: 0, "aria-label": t("threshold", { kind: name }), "aria-valuemin": low.toFixed(3), "aria-valuemax": high.toFixed(3) }, area, line, grip);
  const told = el("output", { class: "numbers" });

  function place(next, tell = true) {
    radius = Math.min(Math.max(next, low), high);
    const at = x(radius);
    line.setAttribute("x1", at);
    line.setAttribute("x2", at);
    grip.setAttribute("cx", at);
    area.setAttribute("x", at - 12);
    const score = radius === start ? level.threshold : scoreAt(level, radius);
    const words = t("thresholdIs", { score: number(score, 3), radius: number(radius, 3) });
    slider.setAttribute("aria-valuenow", radius.toFixed(3));
    slider.setAttribute("aria-valuetext", words);
    told.textContent = words;
    if (tell) onChange(changes(map, kind, level.threshold, score));
  }

  const drawing = svg("svg", { class: "histogram", viewBox: `0 0 ${WIDTH} ${HEIGHT + 24}`, role: "group", "aria-label": t("histogram", { kind: name }) },
    bars,
    svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    [low, (low + high) / 2, high].map((value, place) => svg("text", { class: "soft", x: x(value), y: HEIGHT + 18, "text-anchor": ["start", "middle", "end"][place] }, number(value))),
    slider,
  );
  const at = (event) => {
    const box = drawing.getBoundingClientRect();
    return low + ((event.clientX - box.left) / box.width) * (high - low);
  };
  slider.addEventListener("pointerdown", (event) => {
    slider.setPointerCapture(event.pointerId);
    slider.focus();
    event.preventDefault();
  });
  slider.addEventListener("pointermove", (event) => slider.hasPointerCapture(event.pointerId) && place(at(event)));
  slider.addEventListener("keydown", (event) => {
    const step = ((high - low) / 200) * (event.shiftKey ? 10 : 1);
    const next = { ArrowLeft: radius - step, ArrowDown: radius - step, ArrowRight: radius + step, ArrowUp: radius + step, Home: low, End: high, Escape: start }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    place(next);
  });
  place(start, false);
  return el("figure", { class: "radii" }, el("figcaption", {}, t("histogram", { kind: name }), " ", told), drawing);
}
