/* One step, told: what came in and went out as pictures, numbers, formula, memory, source. */
"use strict";

const RAISED = { "-": "⁻", ...Object.fromEntries([..."⁰¹²³⁴⁵⁶⁷⁸⁹"].entries()) };

/* Three digits; powers of ten where zeros would hide the size. */
function number(value) {
  if (value === null || value === undefined) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e4) return String(Number(value.toPrecision(3))).replace("-", "−");
  const [digits, power] = value.toExponential(2).split("e");
  return `${digits.replace("-", "−")} · 10${[...String(Number(power))].map((c) => RAISED[c]).join("")}`;
}

function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let i = 0;
  while (count >= 1000 && i < 3) { count /= 1000; i += 1; }
  return `${i ? count.toPrecision(3) : count} ${units[i]}`;
}

const times = (shape) => shape.join(" × ");
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text) => text.replace(/[&<>"]/g, (c) => ENTITIES[c]);

/* A tensor as a figure: its tiles, its letter, its size. */
function figure(network, letter, index) {
  const t = network.tensors[index], [count, height, width] = t.tiles;
  const tiles = Array.from({ length: count }, (_, k) =>
    `<canvas width="${width}" height="${height}" data-tensor="${index}" data-tile="${k}"></canvas>`).join("");
  const every = t.every > 1 ? `, 1 pixel in ${t.every}` : "";
  const label = `${letter}: ${count > 1 ? `${count} channels` : "values"} of the first image${every}`;
  return `<figure><div class="tiles${count === 1 ? " one" : ""}" role="img" aria-label="${escaped(label)}"
      style="--ratio:${width}/${height}">${tiles}</div>
    <figcaption><b>${escaped(letter)}</b><br>rms ${number(t.rms)}
      <span class="muted">colours to ±${number(t.limit)}${every}</span></figcaption></figure>`;
}

function paint(root, network) {
  const style = getComputedStyle(document.getElementById("swatch"));
  const [zero, plus, minus, broken] = ["color", "backgroundColor", "borderTopColor", "outlineColor"]
    .map((key) => style[key].match(/[\d.]+/g).slice(0, 3).map(Number));
  for (const canvas of root.querySelectorAll("canvas[data-tensor]")) {
    const t = network.tensors[canvas.dataset.tensor], [, height, width] = t.tiles, size = height * width;
    t.levels ??= Uint8Array.from(atob(t.pixels), (c) => c.charCodeAt(0));
    const picture = new ImageData(width, height);
    for (let i = 0; i < size; i += 1) {
      const level = t.levels[canvas.dataset.tile * size + i], share = (level - 128) / 127;
      const colour = level === 0 ? broken : mix([zero, share > 0 ? plus : minus], Math.abs(share));
      picture.data.set([...colour, 255], 4 * i);
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }
}

/* Counts as bars. A middle bar that would dwarf the others is cut, and its share said. */
function histogram(t) {
  const n = t.histogram.length, w = 240 / n, middle = n >> 1, among = t.histogram[middle];
  const others = Math.max(...t.histogram.filter((_, i) => i !== middle), 1), cut = among > 1.5 * others;
  const bars = t.histogram.map((count, i) => {
    const h = Math.min((46 * count) / (cut ? others : Math.max(others, among)), 48);
    return `<rect class="${i < middle ? "minus" : i > middle ? "plus" : "middle"}" x="${(i * w).toFixed(2)}"
      y="${(48 - h).toFixed(2)}" width="${(w - 0.8).toFixed(2)}" height="${h.toFixed(2)}"/>`;
  }).join("");
  const share = Math.round((100 * among) / t.histogram.reduce((sum, count) => sum + count));
  const zero = cut ? `0 <small>(bar cut: ${share} %)</small>` : "0";
  return `<svg class="histogram" viewBox="0 0 240 48" preserveAspectRatio="none" role="img"
      aria-label="Histogram from ${number(-t.limit)} to ${number(t.limit)}">${bars}
      <path class="axis" d="M0 48H240"/></svg>
    <p class="ends muted"><span>${number(-t.limit)}</span><span>${zero}</span><span>${number(t.limit)}</span></p>`;
}

/* Two gradients and their sum as arrows, to scale: lengths are rms, the angle is the one whose cosine is given. */
function triangle(a, b, sum, cosine) {
  if (cosine === null || !(sum > 0)) return "";
  const angle = Math.acos(cosine), tip = [a + b * Math.cos(angle), b * Math.sin(angle)];
  const left = Math.min(0, tip[0]), right = Math.max(a, tip[0]);
  const k = Math.min(200 / (right - left), 84 / Math.max(tip[1], 1e-30));
  const at = (x, y) => `${(8 + (x - left) * k).toFixed(1)} ${(96 - y * k).toFixed(1)}`;
  const arrow = (cls, from, to) => `<path class="${cls}" marker-end="url(#tip-${cls})" d="M${from}L${to}"/>`;
  const tips = ["branch", "shortcut", "sum"].map((cls) => `<marker id="tip-${cls}" class="${cls}" viewBox="0 0 6 6"
    refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L6 3L0 6z"/></marker>`).join("");
  const label = `Branch and shortcut as arrows at a cosine of ${number(cosine)}, and their sum, lengths to scale`;
  return `<svg class="triangle" viewBox="0 0 220 108" role="img" aria-label="${label}">${tips}
    ${arrow("branch", at(0, 0), at(a, 0))}${arrow("shortcut", at(a, 0), at(...tip))}${arrow("sum", at(0, 0), at(...tip))}</svg>`;
}

function rows(pairs) {
  return `<table class="numbers"><tbody>${pairs.map(([name, value]) =>
    `<tr><th scope="row">${name}</th><td>${value}</td></tr>`).join("")}</tbody></table>`;
}

/* What an add node or a fork has to say beyond other layers. */
function junction(network, step) {
  const rms = (i) => network.tensors[i].rms;
  const [a, b] = Object.values(step.inputs).map(rms), out = Object.values(step.outputs).map(rms);
  if (step.kind === "Add" && step.direction === "backward") {
    return rows([["to the branch", `${number(out[0])}, the same array`],
      ["to the shortcut", `${number(out[1])}, the same array`]]);
  }
  const exact = step.exact ? [["passed on", "this sum, to the bit"]] : [];
  return triangle(a, b, out[0], step.cosine) + rows([
    ['<i class="key branch"></i>branch', number(a)], ['<i class="key shortcut"></i>shortcut', number(b)],
    ['<i class="key sum"></i>sum', number(out[0])], ["cosine", number(step.cosine)], ...exact]);
}

function chances(network) {
  const bars = network.probs.map((p, i) => {
    const share = p === null ? "not finite" : `${(100 * p).toFixed(1)} %`;
    return `<tr class="${i === tape.label ? "right" : ""}"><th scope="row">${escaped(tape.classes[i])}</th>
      <td><i style="width:${100 * p}%"></i></td><td>${share}</td></tr>`;
  });
  return `<table class="chances"><caption>The first image's probabilities</caption>
    <tbody>${bars.join("")}</tbody></table>`;
}

/* The card of one network. `own` tells whether it takes this very step or waits. */
function card(network, step, own) {
  const title = `<h3>${escaped(network.label)}</h3>`;
  if (!own) {
    const [letter, index] = Object.entries(step.outputs).at(-1);
    const why = network.steps.some((s) => s.kind === "Add") ? "" : ": one path only, nothing to add or to split";
    return `${title}<p class="waits">No such step here${why}. It waits after
      ${escaped(step.name)}.</p><div class="figures n1">${figure(network, letter, index)}</div>
      <div class="spread">${histogram(network.tensors[index])}</div>`;
  }
  const ends = [...Object.entries(step.inputs), ...Object.entries(step.outputs)];
  const seen = ends.filter(([, index], i) => ends.findIndex(([, other]) => other === index) === i);
  const names = (index) => ends.filter(([, other]) => other === index).map(([letter]) => letter).join(" = ");
  const figures = seen.map(([, index]) => figure(network, names(index), index)).join("");
  const [first, t] = [Object.values(step.inputs)[0], Object.values(step.outputs).at(-1)].map((i) => network.tensors[i]);
  const path = step.kind === "Add" || step.kind === "Fork";
  const usual = [["rms, in", number(first.rms)], ["rms, out", number(t.rms)], ["out / in", number(t.rms / first.rms)]];
  const zeros = `${(100 * t.zeros).toFixed(1)} %`;
  const range = [["range", `${number(t.low)} to ${number(t.high)}`], ["exact zeros", zeros]];
  const weights = step.direction === "forward" ? [] : step.params.map((p) =>
    [`d${p.name}, rms`, `${number(p.grad_rms)} <span class="muted">(${p.name} ${number(p.rms)})</span>`]);
  const alarm = t.finite ? "" : `<p class="alarm">Not all values are finite.</p>`;
  const head = `${title}<div class="figures n${seen.length}">${figures}</div>${alarm}`;
  if (step.kind === "Loss") return head + chances(network);
  return `${head}${path ? junction(network, step) : ""}<div class="spread">${histogram(t)}</div>
    ${rows([...(path ? [] : usual), ...range, ...weights])}`;
}

/* The layers of the block, in their order, the shortcut above the branch. */
function inside(network, step) {
  const own = network.steps.map((s, i) => [s, i]).filter(([s]) => s.direction === step.direction
    && (step.block ? s.block === step.block : s.stage === step.stage));
  if (step.direction === "backward") own.reverse();
  const chip = ([s, i]) => `<button type="button" data-step="${i}"${s === step ? ' aria-current="step"' : ""}
    aria-label="${escaped(s.name)}">${short(s)}</button>`;
  const on = (path) => own.filter(([s]) => s.path === path).map(chip).join("");
  if (!step.block) return `<p class="muted">${step.stage}</p><div class="chips">${own.map(chip).join("")}</div>`;
  const parting = own.findIndex(([s]) => s.path !== "main");
  const main = (early) => own.filter(([s], i) => s.path === "main" && i < parting === early).map(chip).join("");
  const joined = own.some(([s]) => s.kind === "Add");
  const skip = joined ? `<div class="chips skip"><span>${on("shortcut") || "identity"}</span></div>` : "";
  return `<p class="muted">${step.block}</p><div class="block"><div class="chips">${main(true)}</div>
    <div class="paths">${skip}<div class="chips">${on("branch")}</div></div>
    <div class="chips">${main(false)}</div></div>`;
}

const SHORT = { BatchNorm: "BN", Add: "+", Fork: "fork", ZeroPad2d: "pad", MaxPool2d: "max pool", AvgPool2d: "pool",
  GlobalAvgPool2d: "pool", Flatten: "flat", Dense: "dense", Loss: "loss", Dropout: "drop" };

/* A layer's sign among the chips: what it is, or the size of its kernel. */
function short(step) {
  if (step.kind !== "Conv2d") return SHORT[step.kind] ?? step.kind;
  const w = step.params.find((p) => p.name === "w").shape;
  return `${w[0]}×${w[1]}`;
}

const WORDS = "def return for in if else elif not and or None True False lambda is import from class with raise";

/* Comments, strings and keywords of Python, told apart quietly. */
function coloured(code) {
  const text = /("""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|#.*)/, words = WORDS.replaceAll(" ", "|");
  const token = new RegExp(`${text.source}|\\b(${words})\\b`, "g");
  return escaped(code).replaceAll("&quot;", '"').replace(token, (all, text, word) =>
    text ? `<span class="said">${text}</span>` : `<b>${word}</b>`);
}
