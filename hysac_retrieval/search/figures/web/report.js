// A report: the same drawings, of data that is in the page.
import { card } from "./cards.js";
import { Disk, colours } from "./disk.js";
import { el, svg } from "./dom.js";
import { levelsFigure, pathFigure, said } from "./path.js";
import { histogram } from "./radii.js";
import { t } from "./strings.js";

export function legendOf(entries) {
  const swatch = ([red, green, blue]) => svg("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" }, svg("circle", { cx: 4, cy: 4, r: 4, fill: `rgb(${red},${green},${blue})` }));
  return el("ul", { class: "legend" }, entries.map(([colour, name]) => el("li", {}, swatch(colour), name)));
}

// The map with its tools. `details` opens a point by its id.
export function mapFigure(map, { by = "score", onColour = () => {}, details }) {
  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-label": t("mapLabel", { n: map.ids.length }) });
  const disk = new Disk(canvas, map, { onOpen: details });
  const options = [["score", t("byScore")], ["kind", t("byKind")], ...map.facets.map(({ field }) => [field, field])];
  const legend = el("div");
  const paint = (name) => {
    const made = colours(map, name);
    disk.colour(made.rows);
    legend.replaceChildren(legendOf(made.legend));
  };
  const known = options.some(([name]) => name === by) ? by : "score";
  const choice = el("select", { onchange: () => { paint(choice.value); onColour(choice.value); } }, options.map(([value, name]) => el("option", { value, selected: value === known }, name)));
  const tool = (name, run) => el("button", { type: "button", onclick: run }, name);
  paint(known);
  const figure = el("div", { class: "map" },
    el("p", { class: "soft" }, t("mapNote")),
    el("div", { class: "tools" }, el("label", {}, `${t("colour")} `, choice), tool(t("zoomIn"), () => disk.zoomBy(1.6)), tool(t("zoomOut"), () => disk.zoomBy(1 / 1.6)), tool(t("reset"), () => disk.reset())),
    canvas,
    legend,
  );
  return { figure, disk };
}

// Both histograms, and what changes. `show(rows)` gives elements for some rows.
export function radiiFigure(map, show) {
  return [0, 1].filter((kind) => map.kind.includes(kind)).map((kind) => {
    const told = el("div", { role: "status", class: "changes" });
    const onChange = ({ hidden, shown, pinned }) => {
      const lines = [hidden.length && t("wouldHide", { n: hidden.length }), shown.length && t("wouldShow", { n: shown.length })].filter(Boolean);
      const rows = [...hidden, ...shown].slice(0, 6);
      told.replaceChildren(
        el("p", {}, el("strong", {}, lines.join("; ") || t("noChange")), pinned ? ` ${t("pinned", { n: pinned })}` : ""),
        ...(rows.length ? [el("p", { class: "soft" }, t("examples")), el("ul", { class: "grid" }, show(rows))] : []),
      );
    };
    const figure = histogram(map, kind, map.levels[["text", "image"][kind]], { onChange });
    return el("div", {}, figure, told);
  });
}

// How the maker of a collection labelled a point, where that is known; what differs from the verdict stands out.
function labelled(point, made) {
  const { unsafe, category } = point.payload;
  if (typeof unsafe !== "boolean") return made;
  const words = !unsafe ? t("labelSafe") : category ? t("labelCategory", { category }) : t("labelUnsafe");
  made.querySelector(".badge").after(el("span", { class: unsafe === point.safe ? "label differs" : "label" }, words));
  return made;
}

function answer({ safe, hits }, pictures) {
  return el("div", { class: safe ? "safe" : "unsafe" },
    el("h3", {}, t(safe ? "answeredSafely" : "answeredAsAsked"), " ", el("code", {}, `safe=${safe ? "True" : "False"}`)),
    hits.length ? el("ul", { class: "grid" }, hits.map((hit) => labelled(hit, card(hit, pictures)))) : el("p", {}, t("nothing")),
  );
}

function query(one, data, pictures) {
  const way = pathFigure(one, pictures);
  return el("section", {},
    el("h2", {}, one.title ?? one.asked),
    one.title && !one.picture && el("blockquote", {}, one.asked),
    one.picture && el("img", { class: "asked-with", src: one.picture, alt: t("queryPicture") }),
    el("p", { class: "soft" }, said(one.query)),
    levelsFigure(one.query, data.levels),
    one.answers.length > 0 && el("div", { class: "columns" }, one.answers.map((each) => answer(each, pictures))),
    one.answers.length ? el("details", {}, el("summary", {}, t("path")), way) : way,
  );
}

function mapSections(data, pictures) {
  const cardOf = (id) => (data.points[id] ? card(data.points[id], pictures) : null);
  const opened = el("ul", { class: "grid" });
  const { figure } = mapFigure(data.map, { details: (id) => opened.replaceChildren(cardOf(id) ?? el("li", {}, t("point", { id }))) });
  const examples = (rows) => rows.map((row) => cardOf(data.map.ids[row])).filter(Boolean);
  return [
    el("section", {}, el("h2", {}, t("map")), figure, opened),
    el("section", {}, el("h2", {}, t("radii")), el("p", { class: "soft" }, t("radiiNote")), radiiFigure(data.map, examples)),
  ];
}

function draw(root, data) {
  const pictures = (id) => data.pictures[id] ?? null;
  const facts = Object.entries(data.facts ?? {});
  const notes = [data.map && t("reportPoints", { n: data.map.ids.length }), t(data.safe ? "reportSafe" : "reportAll"), facts.length && t("demoLabels"), t("reportModel", data)];
  root.append(
    el("h1", {}, data.title),
    ...(facts.length ? [el("p", { class: "lead" }, t("demoLead")), el("ul", { class: "facts" }, facts.map(([name, value]) => el("li", {}, el("b", {}, value), t(name))))] : []),
    ...data.sections.map((one) => query(one, data, pictures)),
    ...(data.map ? mapSections(data, pictures) : []),
    el("footer", { class: "soft" }, notes.filter(Boolean).join(" ")),
  );
}

const root = document.getElementById("report");
if (root) draw(root, JSON.parse(document.getElementById("data").textContent));
