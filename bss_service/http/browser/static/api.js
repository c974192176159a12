// Calls of the service. The token lives in this tab's session storage and in a header, never in an address.

const base = new URL("v1/", new URL(".", document.baseURI));
const KEY = "bss-token";
const seen = new Map(); // address -> {tag, answer}
const MOST_SEEN = 100;
const AT_ONCE = 4; // of the eight looks that the service grants a client, so that another tab finds a turn
const AGAIN = 3; // times that a look is asked for which had no turn
const waiting = [];
let asking = 0;

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

const refusal = async (answer) => new Refusal(answer.status, await answer.json().catch(() => ({})));

async function ask(where, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...(token === null ? {} : { authorization: `Bearer ${token}` }), ...options.headers };
  return fetch(new URL(where, base), { ...options, headers, cache: "no-store", credentials: "omit" });
}

// The answer to a GET, in turn with others.
async function look(where, options) {
  if (asking >= AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
  asking += 1;
  try {
    for (let tries = 1; ; tries += 1) {
      const answer = await ask(where, options);
      if (answer.ok || answer.status === 304) return answer;
      if (answer.status !== 429 || tries > AGAIN) throw await refusal(answer);
      await new Promise((resolve) => setTimeout(resolve, 1000 * (Number(answer.headers.get("retry-after")) || 1)));
    }
  } finally {
    asking -= 1;
    waiting.shift()?.();
  }
}

// The answer to a GET; the very same object as long as the service says that nothing has changed.
export async function get(where, signal) {
  const known = seen.get(where);
  const answer = await look(where, { signal, headers: known ? { "if-none-match": known.tag } : {} });
  if (answer.status === 304) return known.answer;
  const message = await answer.json();
  seen.delete(where);
  const tag = answer.headers.get("etag");
  if (tag !== null) seen.set(where, { tag, answer: message });
  if (seen.size > MOST_SEEN) seen.delete(seen.keys().next().value);
  return message;
}

export async function blob(where, signal) {
  return (await look(where, { signal })).blob();
}

export async function send(method, where, message) {
  const body = message === undefined ? {} : { body: JSON.stringify(message), headers: { "content-type": "application/json" } };
  const answer = await ask(where, { method, ...body });
  if (!answer.ok) throw await refusal(answer);
  return answer.status === 204 ? null : answer.json();
}

// Calls `look` at once, and then now and then until `signal` says stop; not while nobody sees the page. What it throws at
// first goes to the caller, later to `failed`.
export async function repeat(seconds, signal, look, failed) {
  try {
    await look();
  } finally {
    again(seconds, signal, look, failed);
  }
}

async function again(seconds, signal, look, failed) {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    if (signal.aborted) return;
    if (document.hidden) continue;
    try {
      await look();
      failed(null);
    } catch (error) {
      if (!signal.aborted) failed(error);
    }
  }
}
