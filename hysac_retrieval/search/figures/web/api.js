// The service. A key is only ever in the body that begins a session; after that a cookie, which scripts cannot read.
import { t } from "./strings.js";

let csrf = null;

export async function call(method, path, body, signal) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (csrf !== null && method !== "GET") headers["X-CSRF-Token"] = csrf;
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error(t("failed")), { status: 0 });
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const problem = await response.json().catch(() => ({}));
  const words = [problem.detail ?? response.statusText, problem.hint].filter(Boolean).join(". ");
  throw Object.assign(new Error(words), { status: response.status });
}

function holder(session) {
  csrf = session.csrf ?? null;
  const scopes = new Set(session.scopes);
  return { id: session.id, may: (scope) => scopes.has(scope), keyed: csrf !== null };
}

export const NOBODY = { id: "", may: () => false, keyed: false };

// Who asks; a session that has ended is put away, and asked for anew.
export async function session() {
  for (let left = 1; ; left -= 1) {
    try {
      return holder(await call("GET", "v1/session"));
    } catch (error) {
      if (error.status !== 401) throw error;
      if (left === 0) return NOBODY;
      await call("DELETE", "v1/session");
    }
  }
}

export const begin = async (key) => holder(await call("POST", "v1/session", { key }));

export async function end() {
  await call("DELETE", "v1/session");
  csrf = null;
}

export const thumbnail = (id, size) => `v1/images/${encodeURIComponent(id)}?size=${size}`;
