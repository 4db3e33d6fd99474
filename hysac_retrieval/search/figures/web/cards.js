// One point, as it is shown everywhere: what is unsafe is neither loaded at full size nor written out until asked for.
import { el, labelOf, number } from "./dom.js";
import { t } from "./strings.js";

const BLURRED = 16; // pixels of the picture that is behind the blur: there is nothing sharp to uncover
const SHARP = 256;

export function badge(point) {
  const verdict = point.unsafe === null || point.unsafe === undefined ? "unsafe" : point.safe ? "safe" : "unsafe";
  const words = point.unsafe === null ? t("noScore") : t("score", { verdict: t(verdict), score: number(point.unsafe) });
  return el("span", { class: `badge ${verdict}` }, words);
}

// `pictures(id, size)` gives the address of a picture, or null where there is none.
export function picture(point, pictures, size = SHARP) {
  const box = el("div", { class: "picture" });
  const label = labelOf(point);
  const lacking = () => box.replaceChildren(el("span", { class: "soft" }, t("noPicture")));
  const image = (address, alt, extra = {}) => {
    if (address === null) return el("span", { class: "soft" }, t("noPicture"));
    return el("img", { src: address, alt, loading: "lazy", onerror: lacking, ...extra });
  };
  const show = () => {
    const again = el("button", { type: "button", class: "cover", onclick: cover }, t("hide"));
    box.replaceChildren(image(pictures(point.id, size), label), again);
    again.focus();
  };
  const cover = () => {
    const blurred = image(pictures(point.id, BLURRED), t("hiddenPicture"), { class: "blurred" });
    box.replaceChildren(blurred, el("button", { type: "button", class: "cover", onclick: show }, t("showPicture")));
  };
  if (point.safe) box.append(image(pictures(point.id, size), label));
  else cover();
  return box;
}

export function caption(point, tag = "p") {
  if (point.safe) return el(tag, { class: "caption" }, labelOf(point));
  const box = el(tag, { class: "caption" });
  const show = () => box.replaceChildren(labelOf(point));
  box.append(el("button", { type: "button", class: "plain", onclick: show }, t("showText")));
  return box;
}

export function card(point, pictures, actions = []) {
  const numbers = [
    point.distance === undefined || point.distance === null ? null : t("distance", { distance: number(point.distance) }),
    t("radius", { radius: number(point.radius) }),
  ].filter(Boolean);
  return el(
    "li",
    { class: "card", "data-id": point.id },
    point.modality === "text" ? null : picture(point, pictures),
    el(
      "div",
      { class: "body" },
      badge(point),
      caption(point),
      el("span", { class: "numbers" }, numbers.join(" · ")),
      el("div", { class: "actions" }, actions.map(([name, run]) => el("button", { type: "button", class: "plain", onclick: run }, name))),
    ),
  );
}
