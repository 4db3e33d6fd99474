// The Poincaré disk on a canvas. Points are written into the pixels of an image, which takes 100,000 of them in some
// milliseconds without any help of a graphics card; rings and marks are drawn over it.
import { cssColour, number } from "./dom.js";
import { t } from "./strings.js";

const GREY = [140, 146, 154];
const CLOSEST = 400; // largest zoom
const REACH = 12; // pixels around the pointer in which a point is found

export const onDisk = (radius, curvature) => Math.tanh((Math.sqrt(curvature) * radius) / 2);

// The angle of a direction by the map's own axes: mean, first and second component.
export function angleOf(direction, [mean, first, second]) {
  let x = 0, y = 0;
  direction.forEach((value, at) => {
    x += (value - mean[at]) * first[at];
    y += (value - mean[at]) * second[at];
  });
  return Math.atan2(y, x);
}

function ofScore(score) {
  const [low, middle, high] = [[38, 143, 110], [222, 178, 74], [190, 40, 45]];
  const [from, to, share] = score < 0.5 ? [low, middle, 2 * score] : [middle, high, 2 * score - 1];
  return from.map((value, at) => Math.round(value + (to[at] - value) * share));
}

function ofCode(code) {
  const hue = (code * 137.5 + 215) % 360, light = code % 2 ? 0.42 : 0.56;
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - 0.65 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}

// A colour for each row, and what the colours mean.
export function colours(map, by) {
  const facet = map.facets.findIndex((one) => one.field === by);
  if (by === "score" || (facet < 0 && by !== "kind")) {
    const legend = [0, 0.25, 0.5, 0.75, 1].map((score) => [ofScore(score), number(score)]);
    return { rows: map.unsafe.map((score) => (score === null ? GREY : ofScore(score))), legend };
  }
  const values = by === "kind" ? [t("text"), t("image")] : map.facets[facet].values.map(String);
  const codes = by === "kind" ? map.kind : map.codes[facet];
  const known = (code) => code >= 0 && code < values.length;
  const legend = values.map((value, code) => [ofCode(code), value || "–"]);
  if (codes.some((code) => !known(code))) legend.push([GREY, t("other")]);
  return { rows: codes.map((code) => (known(code) ? ofCode(code) : GREY)), legend };
}

export class Disk {
  constructor(canvas, map, { onOpen }) {
    this.canvas = canvas;
    this.map = map;
    this.onOpen = onOpen;
    this.context = canvas.getContext("2d");
    this.marks = { query: null, hits: [] };
    this.frames = [];
    const n = map.ids.length;
    this.x = new Float32Array(n);
    this.y = new Float32Array(n);
    for (let row = 0; row < n; row += 1) {
      const from = onDisk(map.radius[row], map.curvature);
      this.x[row] = from * Math.cos(map.angle[row]);
      this.y[row] = -from * Math.sin(map.angle[row]);
    }
    this.colour(colours(map, "score").rows);
    this.listen();
    this.resizer = new ResizeObserver(() => this.resize());
    this.resizer.observe(canvas);
    this.reset();
  }

  colour(rows) {
    this.pixels = Uint32Array.from(rows, ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0);
    this.request();
  }

  mark(marks) {
    this.marks = marks;
    this.request();
  }

  reset() {
    const farthest = this.map.radius.reduce((a, b) => Math.max(a, b), 0);
    this.zoom = 0.96 / Math.max(onDisk(farthest, this.map.curvature), 0.2);
    this.centre = [0, 0];
    this.request();
  }

  resize() {
    const ratio = Math.min(globalThis.devicePixelRatio || 1, 2);
    const box = this.canvas.getBoundingClientRect();
    if (!box.width) return;
    this.ratio = ratio;
    this.canvas.width = Math.round(box.width * ratio);
    this.canvas.height = Math.round(box.height * ratio);
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.buffer = new Uint32Array(this.image.data.buffer);
    this.request();
  }

  request() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      if (this.image && this.canvas.isConnected) this.draw();
    });
  }

  // Pixels of the radius of the whole disk.
  get unit() {
    return (Math.min(this.canvas.width, this.canvas.height) / 2) * this.zoom;
  }

  at(x, y) {
    const unit = this.unit;
    return [this.canvas.width / 2 + (x - this.centre[0]) * unit, this.canvas.height / 2 + (y - this.centre[1]) * unit];
  }

  draw() {
    const began = performance.now();
    const { width, height } = this.canvas;
    const { buffer, pixels, x, y, unit } = this;
    buffer.fill(0);
    const left = width / 2 - this.centre[0] * unit, top = height / 2 - this.centre[1] * unit;
    const size = Math.round(Math.min(7, Math.max(2, (this.ratio * 3 * this.zoom ** 0.3) * (x.length > 20000 ? 0.6 : 1.3))));
    const before = size >> 1;
    for (let row = 0; row < x.length; row += 1) {
      const px = (left + x[row] * unit - before) | 0, py = (top + y[row] * unit - before) | 0;
      if (px < 0 || py < 0 || px + size > width || py + size > height) continue;
      const colour = pixels[row];
      for (let line = py * width + px, last = line + size * width; line < last; line += width) {
        buffer.fill(colour, line, line + size);
      }
    }
    this.context.putImageData(this.image, 0, 0);
    this.over();
    this.frames.push(performance.now() - began);
    if (this.frames.length > 240) this.frames.shift();
  }

  over() {
    const { context } = this;
    const [middleX, middleY] = this.at(0, 0);
    const ring = (radius, colour, dash = []) => {
      context.beginPath();
      context.setLineDash(dash);
      context.strokeStyle = colour;
      context.arc(middleX, middleY, radius * this.unit, 0, 2 * Math.PI);
      context.stroke();
    };
    context.lineWidth = this.ratio;
    ring(1, cssColour("--line"));
    for (const verdict of ["safe", "unsafe"]) {
      for (const kind of ["text", "image"]) {
        ring(onDisk(this.map.levels[kind][verdict].mean, this.map.curvature), cssColour(`--${verdict}-${kind}`), [6, 5]);
      }
    }
    context.setLineDash([]);
    const ink = cssColour("--ink");
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = 2 * this.ratio;
    const half = 7 * this.ratio;
    for (const row of this.marks.hits) {
      const [px, py] = this.at(this.x[row], this.y[row]);
      context.strokeRect(px - half, py - half, 2 * half, 2 * half);
    }
    if (this.marks.query) this.way(this.marks.query, ink);
    if (document.activeElement === this.canvas) this.cross();
  }

  way({ angle, asked, searched }, ink) {
    const { context, ratio } = this;
    const place = (radius) => this.at(onDisk(radius, this.map.curvature) * Math.cos(angle), -onDisk(radius, this.map.curvature) * Math.sin(angle));
    const [from, to, origin] = [place(asked), place(searched), this.at(0, 0)];
    const line = (a, b, dash) => {
      context.beginPath();
      context.setLineDash(dash);
      context.moveTo(...a);
      context.lineTo(...b);
      context.stroke();
    };
    context.lineWidth = ratio;
    line(to, origin, [2 * ratio, 4 * ratio]);
    context.lineWidth = 2.5 * ratio;
    line(from, to, []);
    context.setLineDash([]);
    context.fillStyle = cssColour("--card");
    context.strokeStyle = ink;
    context.beginPath();
    context.arc(...from, 7 * ratio, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
    context.fillStyle = ink;
    context.beginPath();
    context.arc(...to, 5 * ratio, 0, 2 * Math.PI);
    context.fill();
  }

  cross() {
    const { context, ratio } = this;
    const x = this.canvas.width / 2, y = this.canvas.height / 2;
    context.lineWidth = ratio;
    context.beginPath();
    context.moveTo(x - 10 * ratio, y);
    context.lineTo(x + 10 * ratio, y);
    context.moveTo(x, y - 10 * ratio);
    context.lineTo(x, y + 10 * ratio);
    context.stroke();
  }

  // The row nearest to a place in pixels; -1 where none is within reach.
  find(px, py, reach = REACH * this.ratio) {
    const unit = this.unit;
    const x = (px - this.canvas.width / 2) / unit + this.centre[0], y = (py - this.canvas.height / 2) / unit + this.centre[1];
    let best = (reach / unit) ** 2, found = -1;
    for (let row = 0; row < this.x.length; row += 1) {
      const apart = (this.x[row] - x) ** 2 + (this.y[row] - y) ** 2;
      if (apart < best) {
        best = apart;
        found = row;
      }
    }
    return found;
  }

  move(dx, dy) {
    this.centre = [this.centre[0] - dx / this.unit, this.centre[1] - dy / this.unit].map((value) => Math.max(-1, Math.min(1, value)));
    this.request();
  }

  zoomBy(factor, px = this.canvas.width / 2, py = this.canvas.height / 2) {
    const before = this.unit;
    this.zoom = Math.max(0.8, Math.min(CLOSEST, this.zoom * factor));
    const less = 1 / before - 1 / this.unit;
    this.centre = [this.centre[0] + (px - this.canvas.width / 2) * less, this.centre[1] + (py - this.canvas.height / 2) * less];
    this.request();
  }

  open(row) {
    if (row >= 0) this.onOpen(this.map.ids[row]);
  }

  listen() {
    const { canvas } = this;
    const pointers = new Map();
    let moved = 0;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      if (pointers.size === 1) moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId), now = place(event);
      if (!before) {
        canvas.classList.toggle("over", this.find(...now) >= 0);
        return;
      }
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
      const apart = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by) || 1;
      if (other) this.zoomBy(apart(now, other) / apart(before, other), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      else this.move(now[0] - before[0], now[1] - before[1]);
      moved += apart(now, before) > 1 ? apart(now, before) : 0;
      pointers.set(event.pointerId, now);
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => {
        pointers.delete(event.pointerId);
        if (kind === "pointerup" && moved < 5 * this.ratio) this.open(this.find(...place(event)));
      });
    }
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY * 0.0015), ...place(event));
    }, { passive: false });
    for (const kind of ["focus", "blur"]) canvas.addEventListener(kind, () => this.request());
    canvas.addEventListener("keydown", (event) => {
      const step = (event.shiftKey ? 160 : 40) * this.ratio;
      const run = {
        ArrowLeft: () => this.move(step, 0), ArrowRight: () => this.move(-step, 0),
        ArrowUp: () => this.move(0, step), ArrowDown: () => this.move(0, -step),
        "+": () => this.zoomBy(1.4), "=": () => this.zoomBy(1.4), "-": () => this.zoomBy(1 / 1.4), 0: () => this.reset(),
        Enter: () => this.open(this.find(canvas.width / 2, canvas.height / 2, Infinity)),
      }[event.key];
      if (!run) return;
      event.preventDefault();
      run();
    });
  }
}
