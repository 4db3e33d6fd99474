// Drawings as text, made where there is no page: of one, the drawings only make elements and fill them.
import { onDisk, colours } from "./disk.js";
import { labelOf, number, svg } from "./dom.js";
import { levelsFigure, namesOf, said } from "./path.js";
import { histogram } from "./radii.js";
import { t } from "./strings.js";

class Made {
  constructor(tag) {
    Object.assign(this, { tag, attributes: {}, children: [] });
  }

  setAttribute(name, value) {
    this.attributes[name] = String(value);
  }

  append(...children) {
    this.children.push(...children);
  }

  addEventListener() {}

  set textContent(text) {
    this.children = [text];
  }

  find(tag) {
    if (this.tag === tag) return this;
    for (const child of this.children) {
      const found = child instanceof Made && child.find(tag);
      if (found) return found;
    }
    return null;
  }
}

globalThis.document = { createElement: (tag) => new Made(tag), createElementNS: (_, tag) => new Made(tag) };

// XML has no way to write most control characters, nor half of a pair.
const escaped = (text) =>
  String(text)
    .toWellFormed()
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd")
    .replace(/[&<>"]/g, (one) => `&#${one.charCodeAt(0)};`);

function written(node) {
  if (!(node instanceof Made)) return escaped(node);
  const attributes = Object.entries(node.attributes).map(([name, value]) => ` ${name}="${escaped(value)}"`);
  return `<${node.tag}${attributes.join("")}>${node.children.map(written).join("")}</${node.tag}>`;
}

function sheet(width, height, style, children) {
  const all = { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height };
  return written(svg("svg", all, svg("style", {}, style), svg("rect", { class: "ground", width, height }), children));
}

// A drawing within another, moved and with its own size.
function placed(drawing, x, y) {
  const [, , width, height] = drawing.attributes.viewBox.split(" ");
  Object.assign(drawing.attributes, { x, y, width, height });
  return drawing;
}

// Lines of a text, as many characters wide at most; what does not fit is left out.
function lines(text, width, most) {
  const made = [""];
  for (const word of text.split(" ")) {
    if (made.at(-1) && made.at(-1).length + word.length >= width) made.push("");
    made.push([made.pop(), word].filter(Boolean).join(" "));
  }
  const fitting = made.slice(0, most).map((line) => (line.length > width ? `${line.slice(0, width - 1)}…` : line));
  if (made.length > most) fitting.push(`${fitting.pop().slice(0, width - 1)}…`);
  return fitting;
}

const [ROW, CELL, PICTURE] = [112, 210, 72];

function met(point, relation, pictures, x, y, kind) {
  const address = point.modality === "text" ? null : pictures[point.id];
  const left = x + (address ? PICTURE + 8 : 0);
  const words = point.safe ? labelOf(point) : t(point.modality === "text" ? "hiddenText" : "hiddenPicture");
  const picture = point.safe
    ? { tag: "image", href: address, preserveAspectRatio: "xMidYMid slice" }
    : { tag: "rect", class: "hidden" };
  const { tag, ...more } = picture;
  return [
    address && svg(tag, { ...more, x, y, width: PICTURE, height: PICTURE }),
    lines((relation ? `${relation} ` : "") + words, address ? 20 : 32, 5).map((line, row) =>
      svg("text", { class: `small ${kind}`, x: left, y: y + 12 + 15 * row }, line),
    ),
  ];
}

// Texts that entail a step, or the nearest points where none does.
function shown(step) {
  const kind = step.entailing.length ? "" : "other";
  const points = step.entailing.map((point, at) => [point, step.relations[at]]);
  const pictured = step.nearest.filter((point) => point.modality !== "text").map((point) => [point, null]);
  return kind ? [step.nearest.map((point) => [point, null]), kind] : [[...points.slice(0, 2), ...pictured], kind];
}

function way(one, pictures, width, top) {
  const dots = one.steps.map((step, row) => {
    const y = top + ROW * row, verdict = step.counts_unsafe ? "unsafe" : "safe";
    const bound = row > 0 && one.steps[row - 1].beyond && !step.beyond;
    const [points, kind] = shown(step);
    return [
      bound && svg("line", { class: "bound-line", x1: 20, x2: width - 20, y1: y - 36, y2: y - 36 }),
      bound && svg("text", { class: "small soft", x: width - 20, y: y - 42, "text-anchor": "end" }, t("boundary", { radius: number(one.boundary) })),
      svg("text", { x: 190, y: y + 2, "text-anchor": "end" }, t("radius", { radius: number(step.radius) })),
      svg("text", { class: `small ${verdict}`, x: 190, y: y + 20, "text-anchor": "end" }, t("score", { verdict: t(verdict), score: number(step.unsafe) })),
      svg("text", { class: "small soft", x: 190, y: y + 37, "text-anchor": "end" }, namesOf(step, row)),
      svg("circle", { class: `dot ${verdict}${step.searched ? " searched" : ""}`, cx: 214, cy: y, r: 9 }),
      points.slice(0, 4).map(([point, relation], at) => met(point, relation, pictures, 240 + CELL * at, y - 22, kind)),
    ];
  });
  return [svg("line", { class: "way", x1: 214, x2: 214, y1: top, y2: top + ROW * (one.steps.length - 1) }), dots];
}

function queryDrawing(one, data, style) {
  const width = 1090, top = 330;
  const heading = lines(one.title ?? one.asked, 100, 1).map((line) => svg("text", { class: "heading", x: 20, y: 34 }, line));
  const words = lines(said(one.query), 150, 2).map((line, row) => svg("text", { class: "small soft", x: 20, y: 58 + 16 * row }, line));
  const levels = placed(levelsFigure(one.query, data.levels), 60, 84);
  return sheet(width, top + ROW * one.steps.length, style, [heading, words, levels, way(one, data.pictures, width, top)]);
}

function legend(entries, y) {
  let x = 20;
  return entries.map(([[red, green, blue], name]) => {
    const at = x;
    x += 34 + 8 * name.length;
    return [svg("circle", { cx: at, cy: y - 4, r: 5, fill: `rgb(${red},${green},${blue})` }), svg("text", { x: at + 10, y }, name)];
  });
}

function mapDrawing(map, style) {
  const size = 900, half = size / 2;
  const farthest = map.radius.reduce((a, b) => Math.max(a, b), 0);
  const unit = (0.94 * half) / Math.max(onDisk(farthest, map.curvature), 0.2);
  const ring = (radius, kind) => svg("circle", { class: `ring ${kind}`, cx: half, cy: half, r: radius * unit });
  const { rows, legend: meanings } = colours(map, "score");
  const places = new Map(); // one path for each colour: points are many
  rows.forEach((colour, row) => {
    const from = onDisk(map.radius[row], map.curvature) * unit, angle = map.angle[row];
    const place = `M${(half + from * Math.cos(angle)).toFixed(1)} ${(half - from * Math.sin(angle)).toFixed(1)}h0`;
    places.set(String(colour), (places.get(String(colour)) ?? "") + place);
  });
  const points = [...places].map(([colour, d]) => svg("path", { class: "points", stroke: `rgb(${colour})`, d }));
  const rings = ["safe", "unsafe"].flatMap((verdict) =>
    ["text", "image"].map((kind) => ring(onDisk(map.levels[kind][verdict].mean, map.curvature), `dashed ${verdict}-${kind}`)),
  );
  const clip = svg("clipPath", { id: "frame" }, svg("rect", { width: size, height: size }));
  return sheet(size, size + 40, style, [
    clip,
    svg("g", { "clip-path": "url(#frame)" }, points, ring(1, "edge"), rings),
    svg("text", { x: 20, y: 30 }, t("byScore")),
    legend(meanings, size + 24),
  ]);
}

function radiiDrawing(map, kind, style) {
  const drawing = histogram(map, kind, map.levels[["text", "image"][kind]], { onChange() {} }).find("svg");
  const name = svg("text", { class: "heading", x: 20, y: 34 }, t("histogram", { kind: t(["text", "image"][kind]) }));
  return sheet(840, 260, style, [name, placed(drawing, 20, 50)]);
}

export function still(text, style) {
  const data = JSON.parse(text), made = {};
  data.sections.forEach((one, row) => { made[`query-${row + 1}`] = queryDrawing(one, data, style); });
  if (data.map) {
    made.map = mapDrawing(data.map, style);
    for (const kind of [0, 1]) if (data.map.kind.includes(kind)) made[`radii-${["text", "image"][kind]}`] = radiiDrawing(data.map, kind, style);
  }
  return JSON.stringify(made);
}
