// A training loop in JavaScript, with no packages: another language drives a job. Node 18 or later:
//
//     bss serve
//     node examples/other_language.mjs --job node
//
// It knows the service's calls by their names in /openapi.json, and speaks JSON.

import { parseArgs } from "node:util";

const options = { url: { type: "string" }, job: { type: "string", default: "node" }, epochs: { type: "string", default: "5" } };
const { values: args } = parseArgs({ options });
const url = args.url ?? process.env.BSS_URL ?? "http://127.0.0.1:8765";
const token = process.env.BSS_TOKEN ? { authorization: `Bearer ${process.env.BSS_TOKEN}` } : {};
const headers = { "content-type": "application/json", ...token };
const { paths } = await (await fetch(`${url}/openapi.json`, { headers })).json();

const calls = {};
for (const [path, methods] of Object.entries(paths))
  for (const [method, { operationId }] of Object.entries(methods)) calls[operationId] = { path, method: method.toUpperCase() };

async function call(name, body) {
  const { path, method } = calls[name];
  const answer = await fetch(url + path.replace("{job}", args.job), { method, headers, body: JSON.stringify(body) });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.detail); // application/problem+json, which names the field and the value
  return told;
}

// The task: y = 3x, by gradient descent on w. Every eighth label is wrong.
const samples = 64, batch_size = 8, x = Array.from({ length: samples }, (_, i) => (i + 1) / samples);
const y = x.map((value, i) => (i % 8 ? 3 * value : -value));
let w = 0;

function train(i) {
  const error = w * x[i] - y[i];
  w -= 0.1 * error * x[i];
  return error ** 2;
}

const spec = { name: args.job, samples, batch_size, modalities: ["x"], unimodal_heads: false, policy: { name: "self_paced" } };
const job = await call("create_job", spec);
if (!job.created) throw new Error(`job ${args.job} is there already: give this run another name by --job`);

const perEpoch = samples / batch_size;
for (let step = 0; step < Number(args.epochs) * perEpoch; step++) {
  const { batches } = await call("steps", { start: step, count: 1 }); // asked again, it is the same batch
  const loss = batches.indices[0].map(train);
  await call("feedback", { feedback: { step: [step], loss: [loss] } }); // counts once, however often it is sent
  if ((step + 1) % perEpoch) continue;
  const clean = x.filter((_, i) => i % 8).map((value) => ((w - 3) * value) ** 2);
  const report = { step: step + 1, loss: clean.reduce((a, b) => a + b) / clean.length, accuracy: 0, modalities: {} };
  await call("validation", report);
  console.log(`epoch ${(step + 1) / perEpoch}: w ${w.toFixed(3)}, validation loss ${report.loss.toFixed(4)}`);
}
