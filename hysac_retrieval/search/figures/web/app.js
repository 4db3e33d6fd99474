// The explorer: its state is in the address (a key never is), and every view is drawn from it.
import { NOBODY, begin, call, end, session, thumbnail } from "./api.js";
import { badge, caption, card, picture } from "./cards.js";
import { angleOf } from "./disk.js";
import { el, labelOf, number } from "./dom.js";
import { levelsFigure, pathFigure, said } from "./path.js";
import { mapFigure, radiiFigure } from "./report.js";
import { reviewView } from "./review.js";
import { t } from "./strings.js";

const PAGE = 24;
const MOST_POINTS = 100000;
const VIEWS = ["results", "explain", "map", "radii", "review"];
const byId = (id) => document.getElementById(id);
const [form, view, dialog] = [byId("search"), byId("view"), byId("open")];

let who = NOBODY, facets = [], levels = null, state = null, image = null, result = null, running = null;
const kept = new Map(); // the map and the explanation of what is asked now

function fromAddress() {
  const given = new URLSearchParams(location.search), filters = {};
  for (const [name, value] of given) if (name.startsWith("f.")) (filters[name.slice(2)] ??= []).push(value);
  const one = (name, known, otherwise) => (known.includes(given.get(name)) ? given.get(name) : otherwise);
  return {
    q: given.get("q") ?? "", id: given.get("id"), kind: one("kind", ["text", "image"], ""), view: one("view", VIEWS, "results"),
    unsafe: given.get("unsafe") === "1", colour: given.get("colour") ?? "score", filters,
  };
}

function toAddress(push) {
  const out = new URLSearchParams();
  if (state.id) out.set("id", state.id);
  else if (state.q) out.set("q", state.q);
  if (state.kind) out.set("kind", state.kind);
  if (state.view !== "results") out.set("view", state.view);
  if (state.unsafe) out.set("unsafe", "1");
  if (state.colour !== "score") out.set("colour", state.colour);
  for (const [field, values] of Object.entries(state.filters)) for (const value of values) out.append(`f.${field}`, value);
  const text = String(out);
  history[push ? "pushState" : "replaceState"](null, "", text ? `?${text}` : location.pathname);
}

const safely = () => !(state.unsafe && who.may("search:unsafe"));
const asked = () => image !== null || Boolean(state.id) || state.q.trim() !== "";

function queryBody() {
  const body = { safe: safely() };
  if (image) body.image = image.data;
  else if (state.id) body.id = state.id;
  else body.text = state.q;
  return { ...body, ...narrowed() };
}

// What is chosen beside the query: of searches, and of what the map and the radii show.
function narrowed() {
  const must = facets.flatMap(({ field, values }) => {
    const chosen = values.filter((value) => state.filters[field]?.includes(String(value)));
    return chosen.length ? [{ should: chosen.map((value) => ({ key: field, match: { value } })) }] : [];
  });
  return { ...(state.kind && { modality: state.kind }), ...(must.length && { filter: { must } }) };
}

// Say of points whether a safe search may return them; a safe search has returned no others.
async function judged(points, signal) {
  if (safely()) for (const point of points) point.safe = true;
  else {
    const { ids } = await call("POST", "v1/permitted", { ids: [...new Set(points.map((point) => point.id))] }, signal);
    const safe = new Set(ids);
    for (const point of points) point.safe = safe.has(point.id);
  }
  return points;
}

function fail(error) {
  if (error.name === "AbortError") return;
  byId("error").textContent = error.message;
}

async function guarded(run) {
  running?.abort();
  running = new AbortController();
  byId("error").textContent = "";
  view.setAttribute("aria-busy", "true");
  const mine = running;
  try {
    await run(mine.signal);
  } catch (error) {
    if (mine === running && error.name !== "AbortError") view.replaceChildren();
    fail(error);
  } finally {
    if (mine === running) view.removeAttribute("aria-busy");
  }
}

async function search(push = true) {
  toAddress(push);
  result = null;
  kept.delete("explanation");
  showControls();
  await guarded(async (signal) => {
    if (asked()) {
      const found = await call("POST", "v1/search", { ...queryBody(), limit: PAGE }, signal);
      await judged(found.hits, signal);
      result = found;
    }
    byId("done").textContent = result ? `${said(result.query)} ${t("hits", { n: result.hits.length })}.` : "";
    await draw(signal);
  });
}

const redraw = () => guarded(draw);

async function draw(signal) {
  const drawn = { results: drawResults, explain: drawExplanation, map: drawMap, radii: drawRadii, review: drawReview }[state.view];
  view.setAttribute("aria-labelledby", `tab-${state.view}`);
  const parts = await drawn(signal);
  if (!signal.aborted) view.replaceChildren(...parts);
}

const actions = (point) => [
  [t("open"), () => details(point.id)],
  [t("similar"), () => similar(point.id)],
];

function similar(id) {
  forgetPicture();
  Object.assign(state, { id: String(id), q: "", view: "results" });
  byId("q").value = "";
  dialog.close();
  search();
  view.focus();
}

async function drawResults() {
  if (!result) return [el("p", { class: "soft" }, t("start"))];
  if (!result.hits.length) return [el("p", {}, t("nothing"))];
  const list = el("ul", { class: "grid" }, result.hits.map((hit) => card(hit, thumbnail, actions(hit))));
  const more = el("button", { type: "button", onclick: () => guarded(moreResults) }, t("more"));
  async function moreResults(signal) {
    const found = await call("POST", "v1/search", { ...queryBody(), limit: PAGE, offset: result.hits.length }, signal);
    await judged(found.hits, signal);
    result.hits.push(...found.hits);
    const made = found.hits.map((hit) => card(hit, thumbnail, actions(hit)));
    list.append(...made);
    made[0]?.querySelector("button")?.focus();
    if (found.hits.length < PAGE) more.remove();
  }
  return result.hits.length < PAGE ? [list] : [list, el("p", {}, more)];
}

async function drawExplanation(signal) {
  if (!asked()) return [el("p", { class: "soft" }, t("start"))];
  if (!kept.has("explanation")) {
    const found = await call("POST", "v1/explain", { ...queryBody(), near: 4 }, signal);
    await judged(found.steps.flatMap((step) => [...step.entailing, ...step.nearest]), signal);
    kept.set("explanation", found);
  }
  const found = kept.get("explanation");
  return [el("p", {}, said(found.query)), levelsFigure(found.query, levels), pathFigure(found, thumbnail)];
}

async function theMap(signal) {
  const { modality, filter } = narrowed();
  const chosen = { ...(modality && { modality }), ...(filter && { filter: JSON.stringify(filter) }) };
  const path = `v1/map?${new URLSearchParams({ safe: safely(), limit: MOST_POINTS, ...chosen })}`;
  if (kept.get("map")?.path !== path) {
    view.replaceChildren(el("p", { class: "soft" }, t("loading")));
    kept.set("map", { path, map: await call("GET", path, undefined, signal) }); // one: it may be large
  }
  return kept.get("map").map;
}

function mapNotes(map) {
  const notes = [t("mapSome", { n: map.ids.length, total: map.total })];
  if (safely()) notes.push(t("mapSafeOnly"));
  return [...notes, ...chosenNotes()];
}

const chosenNotes = () => (Object.keys(narrowed()).length ? [t("mapNarrowed")] : []);

async function drawMap(signal) {
  const map = await theMap(signal);
  const { figure, disk } = mapFigure(map, { by: state.colour, onColour: (name) => { state.colour = name; toAddress(false); }, details });
  globalThis.hysacDisk = disk;
  const notes = mapNotes(map);
  if (result) {
    const { direction } = await call("POST", "v1/map/query", queryBody(), signal);
    const rows = new Map(map.ids.map((id, row) => [id, row]));
    const hits = result.hits.map((hit) => rows.get(hit.id)).filter((row) => row !== undefined);
    disk.mark({ query: { angle: angleOf(direction, map.axes), asked: result.query.radius, searched: result.query.radius_searched }, hits });
    notes.push(t("mapMarks"));
    if (hits.length < result.hits.length) notes.push(t("outside", { n: result.hits.length - hits.length }));
  }
  return [figure, el("p", { class: "soft" }, notes.join(" "))];
}

async function drawRadii(signal) {
  const map = await theMap(signal);
  const known = new Map();
  // Examples are fetched as they are needed, and put in when they are there.
  const show = (rows) => rows.map((row) => {
    const id = map.ids[row];
    const place = el("li", { class: "card" });
    if (!known.has(id)) known.set(id, call("GET", `v1/points/${encodeURIComponent(id)}`));
    known.get(id).then((point) => place.replaceWith(card(point, thumbnail, [[t("open"), () => details(id)]])), () => place.remove());
    return place;
  });
  return [el("p", { class: "soft" }, [t("radiiNote"), ...(safely() ? [t("radiiSafeOnly")] : []), ...chosenNotes()].join(" ")), ...radiiFigure(map, show)];
}

async function drawReview(signal) {
  if (!mayReview()) return [];
  return reviewView({ signal, fail: (error) => fail(error), say: (text) => { byId("done").textContent = text; } });
}

const mayReview = () => who.may("review") && who.may("search:unsafe");

async function details(id) {
  try {
    const point = await call("GET", `v1/points/${encodeURIComponent(id)}`);
    const told = el("p", { role: "status" });
    const report = async () => {
      try {
        await call("POST", "v1/reviews", { id: point.id });
        told.textContent = t("reported");
      } catch (error) {
        told.textContent = error.message;
      }
    };
    const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
    const rows = Object.entries(point.payload).filter(([name]) => point.safe || !["caption", "text"].includes(name));
    dialog.replaceChildren(
      el("h2", { id: "open-title" }, t("point", { id: point.id })),
      ...(point.modality === "text" ? [] : [picture(point, thumbnail, 512)]),
      caption(point),
      el("p", {}, badge(point), ` ${t("radius", { radius: number(point.radius) })}`),
      el("dl", {}, rows.flatMap(([name, value]) => [el("dt", { class: "soft" }, name), el("dd", {}, shown(value))])),
      told,
      el("div", { class: "tools" },
        el("button", { type: "button", onclick: () => similar(point.id) }, t("similar")),
        el("button", { type: "button", onclick: report }, t("report")),
        el("button", { type: "button", onclick: () => dialog.close() }, t("close")),
      ),
    );
    if (!dialog.open) dialog.showModal();
  } catch (error) {
    fail(error);
  }
}

function keyDialog() {
  const told = el("p", { role: "alert" });
  const input = el("input", { id: "secret", type: "password", autocomplete: "off", required: true, maxlength: 200 });
  const finish = async (run) => {
    try {
      await run();
      dialog.close();
      kept.clear();
      await enter();
      await search(false);
    } catch (error) {
      told.textContent = error.message;
    }
  };
  const given = el("form", { onsubmit: (event) => { event.preventDefault(); finish(() => begin(input.value.trim())); } },
    el("p", {}, el("label", { for: "secret" }, t("key")), " ", input),
    el("p", { class: "soft" }, t("keyHint")),
    told,
    el("div", { class: "tools" },
      el("button", { type: "submit" }, t("begin")),
      who.keyed && el("button", { type: "button", onclick: () => finish(end) }, t("end", { id: who.id })),
      el("button", { type: "button", onclick: () => dialog.close() }, t("cancel")),
    ),
  );
  dialog.replaceChildren(el("h2", { id: "open-title" }, t("enterKey")), given);
  dialog.showModal();
  input.focus();
}

function forgetPicture() {
  image = null;
  byId("file").value = "";
  byId("chosen").replaceChildren();
}

function takePicture(file) {
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {
    image = { name: file.name, data: reader.result.slice(reader.result.indexOf(",") + 1) };
    Object.assign(state, { q: "", id: null });
    byId("q").value = "";
    const preview = el("img", { src: URL.createObjectURL(file), alt: "" });
    byId("chosen").replaceChildren(preview, ` ${t("pictureChosen", { name: file.name })} `, el("button", { type: "button", class: "plain", onclick: () => { forgetPicture(); search(); byId("q").focus(); } }, t("forget")));
    search();
  };
  reader.readAsDataURL(file);
}

function showControls() {
  byId("kind").value = state.kind;
  byId("unsafe-switch").hidden = !who.may("search:unsafe");
  byId("unsafe").checked = !safely();
  byId("key").textContent = who.keyed ? `${t("key")}: ${who.id}` : t("enterKey");
  if (state.id && !image) {
    byId("chosen").replaceChildren(` ${t("similarTo", { id: state.id })} `, el("button", { type: "button", class: "plain", onclick: () => { state.id = null; search(); byId("q").focus(); } }, t("forget")));
  } else if (!image) byId("chosen").replaceChildren();
  for (const box of document.querySelectorAll("#filters input")) box.checked = Boolean(state.filters[box.name]?.includes(box.value));
  const tabs = VIEWS.filter((name) => name !== "review" || mayReview());
  if (!tabs.includes(state.view)) state.view = "results";
  const focused = document.activeElement?.role === "tab";
  byId("tabs").replaceChildren(...tabs.map((name) => el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-selected": String(name === state.view), "aria-controls": "view", tabindex: name === state.view ? 0 : -1, onclick: () => choose(name) }, t(name))));
  if (focused) byId(`tab-${state.view}`).focus();
}

function choose(name) {
  state.view = name;
  toAddress(true);
  showControls();
  redraw();
}

function showFilters() {
  byId("filters").hidden = !facets.length;
  const box = (field, value) => {
    const change = (event) => {
      const chosen = new Set(state.filters[field] ?? []);
      chosen[event.target.checked ? "add" : "delete"](String(value));
      state.filters[field] = [...chosen];
      search();
    };
    return el("label", {}, el("input", { type: "checkbox", name: field, value: String(value), onchange: change }), ` ${value}`);
  };
  byId("filters").lastElementChild.replaceChildren(...facets.map(({ field, values }) => el("fieldset", {}, el("legend", {}, field), values.map((value) => box(field, value)))));
  if (Object.keys(state.filters).length) byId("filters").open = true;
}

// Who asks, and what there is for that caller.
async function enter() {
  who = await session();
  facets = [];
  byId("facts").textContent = "";
  if (who.may("search")) {
    const [told, collection] = await Promise.all([call("GET", `v1/fields?safe=${safely()}`), call("GET", "v1/collection")]);
    ({ facets, levels } = told);
    const facts = { name: collection.name, points: collection.points, safe: collection.safe };
    byId("facts").textContent = t(collection.safe === null ? "facts" : "factsSafe", facts);
  }
  showFilters();
  showControls();
}

function listen() {
  // Text that is in the box already counts when something beside it is changed.
  const typed = () => { if (!image && !state.id) state.q = byId("q").value; };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    forgetPicture();
    Object.assign(state, { q: byId("q").value, id: null });
    search();
  });
  byId("kind").addEventListener("change", () => { typed(); state.kind = byId("kind").value; search(); });
  byId("unsafe").addEventListener("change", async () => {
    state.unsafe = byId("unsafe").checked;
    await enter().catch(fail);
    typed();
    search();
  });
  byId("file").addEventListener("change", () => takePicture(byId("file").files[0]));
  byId("key").addEventListener("click", keyDialog);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      byId("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop") takePicture([...event.dataTransfer.files].find((file) => file.type.startsWith("image/")));
    });
  }
  byId("tabs").addEventListener("keydown", (event) => {
    const tabs = [...byId("tabs").children], step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length].click();
    byId(`tab-${state.view}`).focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || dialog.open || /^(input|select|textarea)$/i.test(event.target.tagName)) return;
    event.preventDefault();
    byId("q").focus();
  });
  addEventListener("popstate", () => {
    state = fromAddress();
    byId("q").value = state.q;
    forgetPicture();
    search(false);
  });
}

for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
byId("kind").append(...[["", "anyKind"], ["text", "text"], ["image", "image"]].map(([value, name]) => el("option", { value }, t(name))));
state = fromAddress();
byId("q").value = state.q;
listen();
enter().then(() => search(false)).then(() => who.may("search") || keyDialog()).catch(fail);
