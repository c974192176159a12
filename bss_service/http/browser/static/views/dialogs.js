// What asks before something is done: a token, a swap, a shadow and its end.

import { get, path, send, signIn } from "../api.js";
import { count, el, shown } from "../dom.js";

function dialog(title, fields, action, act) {
  const alert = el("p", { role: "alert", class: "bad" });
  const cancel = el("button", { type: "button", onclick: () => box.close() }, "Cancel");
  const ok = el("button", { type: "submit", class: "main" }, action);
  const form = el("form", { method: "dialog" }, el("h2", { id: "dialog-title" }, title), fields, alert, el("div", { class: "bar" }, ok, cancel));
  const box = el("dialog", { "aria-labelledby": "dialog-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    alert.textContent = "";
    ok.disabled = true;
    try {
      await act();
      box.close();
    } catch (error) {
      alert.textContent = error.message;
    } finally {
      ok.disabled = false;
    }
  });
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}

export function askForToken(then) {
  if (document.querySelector("dialog[open]")) return;
  const token = el("input", { type: "password", id: "token", autocomplete: "off", required: true, spellcheck: "false" });
  dialog(
    "Sign in",
    [
      el("p", {}, "This service needs a token. It stays in this tab, and is gone when the tab is closed."),
      el("label", { for: "token" }, "Token"),
      token,
    ],
    "Sign in",
    async () => {
      signIn(token.value.trim());
      try {
        await get("access");
      } catch (error) {
        signIn(null);
        throw error;
      }
      then();
    },
  );
}

export async function swap(name, state, shadow, then) {
  const known = await get("policies");
  const options = [
    ...known.policies.filter((policy) => !policy.error && policy.name !== "artefact").map((policy) => [policy.name, { name: policy.name, parameters: {} }, policy.description, policy.parameters]),
    ...known.artefacts.map((artefact) => [`artefact ${artefact.name}`, { name: "artefact", parameters: { sha256: artefact.sha256 } }, "A trained policy that was uploaded."]),
  ];
  const about = el("p", { class: "muted" });
  const hint = el("p", { class: "muted", id: "usual" });
  const parameters = el("textarea", { id: "parameters", rows: 3, spellcheck: "false", "aria-describedby": "usual" });
  const choose = el("select", { id: "policy", onchange: () => show() }, options.map(([text], k) => el("option", { value: k, selected: text === state.policy.policy.name }, text)));
  const at = (value, text, checked) => el("label", { class: "check" }, el("input", { type: "radio", name: "at", value, checked }), text);
  const when = el("fieldset", {}, el("legend", {}, "When"), at("next_interval", "With the next interval", true), at("now", "Now: the rest of this interval is drawn anew", false));
  const show = () => {
    const [, policy, description, takes = {}] = options[choose.value];
    about.textContent = description.split("\n")[0];
    hint.textContent = usual(takes);
    parameters.value = JSON.stringify(policy.parameters);
  };
  show();
  dialog(
    shadow ? `Let a policy watch ${name}` : `Swap the policy of ${name}`,
    [
      el("p", {}, shadow ? "It draws nothing; the decision log tells what it would have done." : `${state.policy.policy.name} draws now, step ${count(state.next_step)} is next. What was handed out stays.`),
      el("label", { for: "policy" }, "Policy"),
      choose,
      about,
      el("label", { for: "parameters" }, "Parameters (JSON)"),
      parameters,
      hint,
      shadow ? null : when,
    ].filter(Boolean),
    "Continue",
    async () => {
      let given;
      try {
        given = JSON.parse(parameters.value || "{}");
      } catch {
        throw new Error("Parameters must be JSON.");
      }
      const request = { policy: { name: options[choose.value][1].name, parameters: given }, at: shadow ? "next_interval" : when.querySelector("input:checked").value, shadow };
      const sentence = shadow
        ? `${request.policy.name} will watch ${name} from the next plan on.`
        : `${request.policy.name} will take the place of ${state.policy.policy.name} in ${name}, ${request.at === "now" ? "from the next step on" : "with the next interval"}.`;
      setTimeout(() =>
        dialog(shadow ? "Put the shadow?" : "Swap the policy?", [el("p", {}, sentence)], shadow ? "Put the shadow" : "Swap", async () => {
          await send("PUT", `${path("jobs", name)}/policy`, request);
          await then();
        }),
      );
    },
  );
}

// What a policy takes, as JSON Schema has it, in a sentence.
function usual(takes) {
  const given = Object.entries(takes).filter(([, of]) => of.default !== undefined).map(([key, of]) => `${key} ${shown(of.default)}`);
  return given.length ? `Where nothing else is said: ${given.join(", ")}.` : "";
}

export function endShadow(name, state, then) {
  dialog("End the shadow?", [el("p", {}, `${state.shadow.policy.name} stops watching ${name}. What it would have done stays in the decision log.`)], "End the shadow", async () => {
    await send("DELETE", `${path("jobs", name)}/policy/shadow`);
    await then();
  });
}
