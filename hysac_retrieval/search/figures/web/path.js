// What happened to a query: its radius before and after on the four levels, and its way to the origin.
import { caption, picture } from "./cards.js";
import { el, number, svg } from "./dom.js";
import { t } from "./strings.js";

export function said(query) {
  const words = [t("asked", { radius: number(query.radius), unsafe: number(query.unsafe) })];
  words.push(query.redirected ? t("moved", { radius: number(query.radius_searched) }) : t("notMoved"));
  if (query.unlike) words.push(t("unlike"));
  return words.join(" ");
}

export function levelsFigure(query, levels) {
  const groups = ["safe", "unsafe"].flatMap((verdict) =>
    ["text", "image"].map((kind) => ({ ...levels[kind][verdict], verdict, kind, name: t("level", { verdict: t(verdict), kind: t(kind) }) })),
  );
  const longest = 1.05 * Math.max(query.radius, ...groups.map((group) => group.mean + 2 * group.std));
  const x = (radius) => 170 + (600 * radius) / longest;
  const marks = groups.flatMap(({ mean, std, verdict, kind, name }, row) => {
    const y = 24 + 26 * row;
    return [
      svg("text", { x: 160, y: y + 4, "text-anchor": "end" }, name),
      svg("line", { class: `level ${verdict}-${kind}`, x1: x(Math.max(0, mean - std)), x2: x(mean + std), y1: y, y2: y }),
      svg("line", { class: `middle ${verdict}-${kind}`, x1: x(mean), x2: x(mean), y1: y - 8, y2: y + 8 }),
      svg("text", { class: "soft", x: 790, y: y + 4 }, number(mean)),
    ];
  });
  const y = 134;
  marks.push(svg("line", { class: "axis", x1: x(0), x2: x(longest), y1: y, y2: y }));
  const apart = Math.abs(x(query.radius) - x(query.radius_searched)) > 190;
  if (query.redirected) {
    marks.push(
      svg("line", { class: "move", x1: x(query.radius), x2: x(query.radius_searched), y1: y, y2: y }),
      svg("circle", { class: "asked", cx: x(query.radius), cy: y, r: 7 }),
      svg("text", { x: Math.min(x(query.radius), 720), y: y + 24, "text-anchor": "middle" }, `${t("queryAsked")} ${number(query.radius)}`),
    );
  }
  marks.push(
    svg("circle", { class: "searched", cx: x(query.radius_searched), cy: y, r: 6 }),
    svg("text", { x: x(query.radius_searched), y: y + (query.redirected && !apart ? 44 : 24), "text-anchor": "middle" }, `${t("querySearched")} ${number(query.radius_searched)}`),
  );
  return svg("svg", { class: "levels", viewBox: "0 0 840 184", role: "img", "aria-label": `${t("levels")}. ${said(query)}` }, marks);
}

export function namesOf(step, row) {
  const found = [];
  if (row === 0) found.push(t("stepQuery"));
  if (step.searched) found.push(t("stepSearched"));
  found.push(step.beyond ? t("beyond") : step.radius === 0 ? t("origin") : t("within"));
  return found.join(", ");
}

function item(point, pictures, relation) {
  const pictured = point.modality === "text" ? null : picture(point, pictures, 128);
  return el("li", {}, pictured, relation && el("b", {}, `${relation} `), caption(point, "span"));
}

function group(name, points, pictures, kind, relations = []) {
  if (!points.length) return null;
  return el("div", { class: kind }, el("h4", {}, name), el("ul", { class: "met" }, points.map((point, at) => item(point, pictures, relations[at]))));
}

// What helps to read the way: that nothing entails the query, or how much it says that something does.
function notes({ cones, selectivity }) {
  const share = (value) => `${Math.round(100 * value)} %`;
  const shares = Object.entries(selectivity).map(([relation, { matched, unmatched }]) => t("shares", { relation, matched: share(matched), unmatched: share(unmatched) }));
  return [!cones && t("noCones"), shares.length && t("selectivity", { shares: shares.join("; ") })].filter(Boolean);
}

// Points of the explanation need their verdict (`safe`).
export function pathFigure(explanation, pictures) {
  const steps = explanation.steps.map((step, row) => {
    const bound = row > 0 && explanation.steps[row - 1].beyond && !step.beyond;
    return [
      bound && el("li", { class: "bound" }, t("boundary", { radius: number(explanation.boundary) })),
      el(
        "li",
        { class: `step ${step.counts_unsafe ? "unsafe" : "safe"}${step.searched ? " searched" : ""}` },
        el("h3", {}, `${t("radius", { radius: number(step.radius) })} – ${namesOf(step, row)}`),
        el("span", { class: `badge ${step.counts_unsafe ? "unsafe" : "safe"}` }, t("score", { verdict: t(step.counts_unsafe ? "unsafe" : "safe"), score: number(step.unsafe) })),
        group(t("entailing"), step.entailing, pictures, "entailing", step.relations),
        group(t("nearest"), step.nearest, pictures, "nearest"),
      ),
    ];
  });
  return el("div", {}, notes(explanation).map((note) => el("p", { class: "soft" }, note)), el("ol", { class: "path", "aria-label": t("path") }, steps));
}
