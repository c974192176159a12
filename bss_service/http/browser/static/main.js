// Which view an address asks for. Everything behind the # stays in the browser.

import { get, signedIn, signIn } from "./api.js";
import { el, link } from "./dom.js";
import { askForToken } from "./views/dialogs.js";
import { compareView } from "./views/compare.js";
import { jobView } from "./views/job.js";
import { jobsView } from "./views/jobs.js";
import { sampleView, suspectsView } from "./views/samples.js";

const VIEWS = [
  [/^\/?$/, jobsView],
  [/^\/compare$/, compareView],
  [/^\/jobs\/([^/]+)$/, jobView],
  [/^\/jobs\/([^/]+)\/samples$/, suspectsView],
  [/^\/jobs\/([^/]+)\/samples\/(\d+)$/, sampleView],
];

const main = document.getElementById("view");
const connection = document.getElementById("connection");
const signOut = document.getElementById("sign-out");
let current = new AbortController();

function failed(error) {
  connection.classList.toggle("bad", error !== null);
  connection.textContent = error === null ? "Live" : error.message;
  if (error?.status === 401) askForToken(open);
}

async function open({ focus = false } = {}) {
  current.abort();
  current = new AbortController();
  const { signal } = current;
  signOut.hidden = !signedIn();
  const [where, query] = location.hash.replace(/^#/, "").split("?");
  const [pattern, view] = VIEWS.find(([known]) => known.test(where)) ?? [/^/, unknownView];
  const parts = (pattern.exec(where) ?? []).slice(1).map(decodeURIComponent);
  const content = el("div");
  main.replaceChildren(content);
  main.setAttribute("aria-busy", "true");
  if (focus) main.focus();
  try {
    const access = await get("access", signal);
    await view(content, { parts, query: new URLSearchParams(query), signal, failed, scope: access.scope });
    failed(null);
    document.title = `${content.querySelector("h1")?.textContent ?? "BSS scheduler"} – BSS scheduler`;
  } catch (error) {
    if (signal.aborted) return;
    failed(error);
    if (!content.childNodes.length) content.append(el("h1", {}, "Not shown"), el("p", { role: "alert" }, error.message), el("p", {}, link("/", "All jobs")));
  } finally {
    if (!signal.aborted) main.removeAttribute("aria-busy");
  }
}

function unknownView(content) {
  content.append(el("h1", {}, "No such page"), el("p", {}, link("/", "All jobs")));
}

signOut.addEventListener("click", () => {
  signIn(null);
  open({ focus: true });
});
window.addEventListener("hashchange", () => {
  if (location.hash !== "#view") open({ focus: true });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => open());
open();
