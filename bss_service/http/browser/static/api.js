// Calls of the service. The token lives in this tab's session storage and in a header, never in an address.

const base = new URL("v1/", new URL(".", document.baseURI));
const KEY = "bss-token";
const seen = new Map(); // address -> {tag, answer}
const MOST_SEEN = 100;

export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `status ${status}`);
    this.status = status;
  }
}

export const signedIn = () => sessionStorage.getItem(KEY) !== null;

export function signIn(token) {
  seen.clear();
  if (token === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, token);
}

export function path(...parts) {
  return parts.map(encodeURIComponent).join("/");
}

async function ask(where, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...options.headers };
  const answer = await fetch(new URL(where, base), { ...options, headers, cache: "no-store", credentials: "omit" });
  if (answer.ok || answer.status === 304) return answer;
  throw new Refusal(answer.status, await answer.json().catch(() => ({})));
}

// The answer to a GET; the very same object as long as the service says that nothing has changed.
export async function get(where, signal) {
  const known = seen.get(where);
  const answer = await ask(where, { signal, headers: known ? { "if-none-match": known.tag } : {} });
  if (answer.status === 304) return known.answer;
  const message = await answer.json();
  seen.delete(where);
  const tag = answer.headers.get("etag");
  if (tag !== null) seen.set(where, { tag, answer: message });
  if (seen.size > MOST_SEEN) seen.delete(seen.keys().next().value);
  return message;
}

export async function blob(where, signal) {
  return (await ask(where, { signal })).blob();
}

export async function send(method, where, message) {
  const body = message === undefined ? {} : { body: JSON.stringify(message), headers: { "content-type": "application/json" } };
  const answer = await ask(where, { method, ...body });
  return answer.status === 204 ? null : answer.json();
}

// Calls `look` now and then until `signal` says stop; not while nobody sees the page. What `look` throws goes to `failed`.
export async function repeat(seconds, signal, look, failed) {
  while (!signal.aborted) {
    if (!document.hidden) {
      try {
        await look();
        failed(null);
      } catch (error) {
        if (!signal.aborted) failed(error);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}
