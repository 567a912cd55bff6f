/* The cursor and the controls. */
"use strict";

const $ = (id) => document.getElementById(id);
const tape = JSON.parse($("tape").textContent);
const [lead, ...others] = tape.networks;
const FORWARD = lead.steps.filter((s) => s.direction === "forward").length;
let cursor = 0, playing = null, lanes = [];

function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

/* The networks at the cursor: [network, its position, whether it takes this very step]. */
function standing() {
  return [[lead, cursor, true], ...others.map((other, i) => [other, ...tape.follow[i][cursor]])];
}

function go(position) {
  cursor = Math.min(Math.max(position, 0), lead.steps.length - 1);
  const step = lead.steps[cursor], forward = step.direction === "forward";
  const [index, count] = forward ? [cursor + 1, FORWARD] : [cursor + 1 - FORWARD, lead.steps.length - FORWARD];
  $("slider").value = cursor;
  $("where").textContent = `${step.direction} ${index} of ${count}`;
  $("slider").setAttribute("aria-valuetext", `${$("where").textContent}: ${step.name}`);
  $("previous").disabled = cursor === 0;
  $("next").disabled = cursor === lead.steps.length - 1;
  $("direction").textContent = `${forward ? "Forward" : "Backward"} · ${step.kind}`;
  $("step").dataset.direction = step.direction;
  $("name").textContent = step.name;
  $("says").textContent = step.says;
  $("text").textContent = step.text;
  $("jump").value = step.block || step.stage;
  $("inside").innerHTML = inside(lead, step);
  $("formula").textContent = step.formula;
  $("arrays").tBodies[0].innerHTML = shapes(step);
  $("memory").innerHTML = memory(step);
  $("source").innerHTML = step.ops.map((op) => coloured(tape.sources[op])).join("\n\n");
  const cards = $("cards");
  standing().forEach(([network, at, own], i) => {
    cards.children[i].innerHTML = card(network, network.steps[at], own);
    paint(cards.children[i], network);
    lanes[i].update(at);
  });
}

function shapes(step) {
  const row = (name, value) => `<tr><th scope="row">${escaped(name)}</th><td>${value}</td></tr>`;
  const ends = [...Object.entries(step.inputs), ...Object.entries(step.outputs)];
  const settings = Object.entries(step.settings).map(([k, v]) => `${k} ${Array.isArray(v) ? times(v.flat()) : v}`);
  return [...ends.map(([letter, i]) => row(letter, times(lead.tensors[i].shape))),
    ...step.params.map((p) => row(p.name, times(p.shape))),
    ...(settings.length ? [row("settings", settings.join(", "))] : [])].join("");
}

function memory(step) {
  const forward = step.direction === "forward", most = Math.max(...lead.steps.map((s) => s.held_bytes), 1);
  const kept = step.kept.map((k) => `${k.name} (${times(k.shape)}), ${bytes(k.nbytes)}`).join("; ");
  const own = forward ? (kept ? `Keeps for backward: ${kept}.` : "Keeps nothing for backward.")
    : kept ? `Uses what it kept, then lets it go: ${kept}.` : "Needs nothing that was kept.";
  return `${own} All layers now hold ${bytes(step.held_bytes)}.
    <span class="bar"><i style="width:${(100 * step.held_bytes) / most}%"></i></span>`;
}

/* The first step of a cell, in the direction in which the cursor goes. */
function enter(cell) {
  const direction = lead.steps[cursor].direction;
  go(cell[direction][0]);
}

function byBlock(way) {
  const place = (s) => s.direction + (s.block || s.stage);
  let i = cursor + way;
  while (lead.steps[i] && place(lead.steps[i]) === place(lead.steps[cursor])) i += way;
  if (way < 0) while (lead.steps[i - 1] && place(lead.steps[i - 1]) === place(lead.steps[i])) i -= 1;
  go(i);
}

function play(on) {
  clearInterval(playing);
  playing = on ? setInterval(() => (cursor < lead.steps.length - 1 ? go(cursor + 1) : play(false)), 120) : null;
  $("play").textContent = on ? "Pause" : "Play";
  $("told").setAttribute("aria-live", on ? "off" : "polite");
  if (on && cursor === lead.steps.length - 1) go(0);
}

function walk(position) {
  play(false);
  go(position);
}

function draw() {
  const scale = gradientScale(tape.networks), width = $("lanes").clientWidth;
  if (!lanes.length) lanes = tape.networks.map((network) => new Lane(network, scale, $("lanes"), jumpTo));
  lanes.forEach((lane) => lane.draw(width));
  const stops = RAMPS[theme()].map(rgb).join(",");
  const [low, high] = [scale.low, scale.high].map((power) => number(10 ** power));
  $("legend").innerHTML = `<span><i class="cache"></i>kept for backward</span> <span><i class="ramp"
    style="background:linear-gradient(90deg,${stops})"></i>gradient rms ${low} to ${high} (log)</span>`;
  go(cursor);
}

/* A click on any lane's cell leads to the lead's cell of that name, if it has one. */
function jumpTo(cell) {
  play(false);
  const own = cellsOf(lead).find((c) => c.key === cell.key);
  if (own) enter(own);
}

const KEYS = {
  ArrowRight: () => walk(cursor + 1), n: () => walk(cursor + 1),
  ArrowLeft: () => walk(cursor - 1), p: () => walk(cursor - 1),
  Home: () => walk(0), End: () => walk(lead.steps.length - 1), " ": () => play(!playing),
  PageDown: () => { play(false); byBlock(1); }, PageUp: () => { play(false); byBlock(-1); },
};

document.addEventListener("keydown", (event) => {
  const own = event.target.closest(event.key === " " ? "select, pre, summary, button" : "select, pre, summary");
  if (event.ctrlKey || event.metaKey || event.altKey || own || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
});
$("previous").onclick = () => walk(cursor - 1);
$("next").onclick = () => walk(cursor + 1);
$("play").onclick = () => play(!playing);
$("slider").oninput = () => walk(Number($("slider").value));
$("jump").onchange = () => jumpTo({ key: $("jump").value });
$("inside").onclick = (event) => {
  const chip = event.target.closest("[data-step]");
  if (chip) walk(Number(chip.dataset.step));
};
addEventListener("theme", draw);
addEventListener("resize", draw);
addEventListener("hashchange", () => walk(Number(location.hash.slice(1)) || 0));

$("slider").max = lead.steps.length - 1;
$("jump").innerHTML = cellsOf(lead).map((c) => `<option>${escaped(c.key)}</option>`).join("");
$("cards").innerHTML = tape.networks.map(() => "<article></article>").join("");
if (tape.image) {
  const [height, width] = tape.image.shape, levels = atob(tape.image.pixels);
  Object.assign($("image"), { width, height, hidden: false });
  $("image").setAttribute("role", "img");
  $("image").setAttribute("aria-label", `The first image of the batch, class ${tape.classes[tape.label]}`);
  const picture = new ImageData(width, height);
  for (let i = 0; i < height * width; i += 1) {
    picture.data.set([0, 1, 2].map((c) => levels.charCodeAt(3 * i + c)).concat(255), 4 * i);
  }
  $("image").getContext("2d").putImageData(picture, 0, 0);
}
$("answer").textContent = ` First image: class ${tape.classes[tape.label]}.`;
cursor = Number(location.hash.slice(1)) || 0;
draw();
