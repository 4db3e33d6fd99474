// The queue of a reviewer, one point at a time, with keys for all of it.
import { call, thumbnail } from "./api.js";
import { badge, caption, picture } from "./cards.js";
import { el } from "./dom.js";
import { CATEGORIES, t } from "./strings.js";

export async function reviewView({ signal, fail, say }) {
  const place = el("div", { class: "queue" });
  const done = []; // ids, the last decision at the end
  let items = [], busy = false;
  const choice = ([value, name]) => el("option", { value }, name);
  const order = el("select", { onchange: () => fill().catch(fail) }, [["uncertain", t("uncertain")], ["reported", t("mostReported")]].map(choice));
  const fields = new Set();
  const note = el("input", { type: "text", maxlength: 1000 });

  async function fill() {
    items = (await call("GET", `v1/reviews?order=${encodeURIComponent(order.value)}`, undefined, signal)).items;
    for (const { payload } of items) for (const [name, value] of Object.entries(payload)) {
      // Counts and times are what a queue can go by.
      if (fields.has(name) || !(typeof value === "number" || /^\d{4}-\d\d-\d\d/.test(value))) continue;
      fields.add(name);
      order.append(choice([`field:${name}`, t("highest", { name })]));
    }
    show();
  }

  async function once(run) {
    if (busy) return;
    busy = true;
    try {
      await run();
    } catch (error) {
      fail(error);
    } finally {
      busy = false;
    }
  }

  const decide = (unsafe, category = "") => once(async () => {
    const [point] = items;
    if (!point) return;
    const made = await call("POST", `v1/reviews/${encodeURIComponent(point.id)}`, { unsafe, category, note: note.value });
    done.push(items.shift());
    note.value = "";
    say(made.state.startsWith("waits") ? t("secondPerson") : t("decided", { what: [t(unsafe ? "unsafe" : "safe"), category].filter(Boolean).join(", ") }));
    if (items.length) show();
    else await fill();
  });

  const undo = () => once(async () => {
    const point = done.pop();
    if (!point) return;
    await call("POST", `v1/reviews/${encodeURIComponent(point.id)}`, { unsafe: null });
    items = [point, ...items.filter((one) => one.id !== point.id)];
    say(t("takenBack"));
    show();
  });

  const skip = () => {
    if (items.length) items.push(items.shift());
    show();
  };

  const tool = (name, run, extra = {}) => el("button", { type: "button", onclick: run, ...extra }, name);

  function show() {
    const [point] = items;
    const focused = place.contains(document.activeElement) || document.activeElement === document.body;
    if (!point) place.replaceChildren(el("p", {}, t("queueEmpty")), el("div", { class: "tools" }, tool(t("undo"), undo)));
    else {
      // Whoever decides asks for each picture as everywhere else; its score is beside it.
      const shown = { ...point, safe: false };
      place.replaceChildren(
        ...(point.modality === "text" ? [] : [picture(shown, thumbnail, 512)]),
        caption(shown),
        el("p", {}, badge(shown), point.reports ? ` ${t("reports", { n: point.reports, reasons: point.reasons.join("; ") || "–" })}` : ""),
        el("div", { class: "tools" }, tool(`← ${t("markSafe")}`, () => decide(false)), tool(`→ ${t("markUnsafe")}`, () => decide(true)), tool(t("skipPoint"), skip), tool(t("undo"), undo)),
        el("div", { class: "tools" }, CATEGORIES.map((name, at) => tool(`${at + 1} ${name}`, () => decide(true, name), { "aria-label": t("category", { n: at + 1, name }) }))),
        el("p", { class: "soft" }, t("queueLeft", { n: items.length })),
      );
    }
    if (focused) whole.focus();
  }

  function keys(event) {
    if (event.target === note || event.target === order || event.ctrlKey || event.metaKey || event.altKey) return;
    const category = CATEGORIES[Number(event.key) - 1];
    const run = category ? () => decide(true, category) : { ArrowLeft: () => decide(false), ArrowRight: () => decide(true), s: skip, u: undo }[event.key];
    if (!run) return;
    event.preventDefault();
    run();
  }

  const whole = el("div", { tabindex: -1, class: "review", onkeydown: keys },
    el("div", { class: "tools" }, el("label", {}, `${t("order")} `, order), el("label", {}, `${t("note")} `, note)),
    el("p", { class: "soft" }, t("reviewKeys")),
    place,
  );
  await fill();
  return [whole];
}
