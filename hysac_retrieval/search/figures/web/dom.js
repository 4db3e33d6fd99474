// Elements are made here and nowhere else, and texts become text nodes: markup in a caption stays text.
import { t } from "./strings.js";

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));

export function labelOf(point) {
  for (const name of ["caption", "text", "file"]) {
    const value = point.payload?.[name];
    if (typeof value === "string" && value.trim()) return value.trim().replace(/\s+/g, " ");
  }
  return t("point", { id: point.id });
}

export const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
