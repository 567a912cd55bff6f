/* The sliders: choose a cell of the grid, draw its curves, say its numbers. Nothing is computed here. */
"use strict";

const grid = JSON.parse(document.getElementById("grid").textContent);
const knobs = document.getElementById("knobs");
const EDGE = { left: 46, right: 14, top: 12, bottom: 44 };

function chosen() {
  return grid.controls.map((control) => control.values[Number(knobs.elements[control.name].value)]);
}

function show() {
  const values = chosen(), cell = grid.cells[values.join("|")];
  for (const control of grid.controls.filter((c) => c.slider)) {
    const input = knobs.elements[control.name], label = control.labels[Number(input.value)];
    input.setAttribute("aria-valuetext", label);
    input.parentElement.querySelector("output").textContent = label;
  }
  document.getElementById("says").textContent = cell.says;
  document.getElementById("command").innerHTML = cell.command.replace(/--[\w-]+( (?!--)\S+)?/g, '<span class="glued">$&</span>');
  document.getElementById("numbers").replaceChildren(...cell.numbers.map(([name, text]) => {
    const pair = document.createElement("div");
    pair.append(Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: text }));
    return pair;
  }));
  grid.charts.forEach((chart, i) => drawChart(document.getElementById(`chart${i}`), chart, cell, i));
  drawStrip(grid.strips[values[0]]?.[values[1]], cell.says);
}

function drawChart(place, chart, cell, i) {
  const { width, height } = place.getBoundingClientRect();
  if (!width) return;
  const curve = grid.curves[cell.show[i]], [low, high] = chart.range;
  const first = curve.at[0], last = curve.at.at(-1);
  const x = (v) => EDGE.left + (v - first) / (last - first) * (width - EDGE.left - EDGE.right);
  const y = (v) => EDGE.top + (high - v) / (high - low) * (height - EDGE.top - EDGE.bottom);
  const line = (at, values) => values.map((v, k) => `${k ? "L" : "M"}${x(at[k]).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const rows = chart.yticks.map(([v, text]) =>
    `<line class="${v === 0 ? "level" : "grid"}" x1="${EDGE.left}" x2="${width - EDGE.right}" y1="${y(v)}" y2="${y(v)}"/>` +
    `<text x="${EDGE.left - 8}" y="${y(v) + 4}" text-anchor="end">${text}</text>`);
  const columns = (chart.xticks.length ? chart.xticks : ticks(first, last)).map(([v, text]) =>
    `<text x="${x(v)}" y="${height - 24}" text-anchor="middle">${text}</text>`);
  const middle = (EDGE.left + width - EDGE.right) / 2;
  const name = `<text x="${middle}" y="${height - 4}" text-anchor="middle">${chart.x}</text>`;
  const faint = cell.faint[i].map((id) => `<path class="faint" d="${line(grid.curves[id].at, grid.curves[id].mean)}"/>`);
  const back = curve.low && line([...curve.at].reverse(), [...curve.high].reverse()).replace("M", "L");
  const band = curve.low ? `<path class="band" d="${line(curve.at, curve.low)}${back}Z"/>` : "";
  const shown = `${band}<path class="this" d="${line(curve.at, curve.mean)}"/>`;
  const theory = curve.theory ? `<path class="theory" d="${line(...curve.theory)}"/>` : "";
  const mark = cell.marks?.[i];
  const circle = mark ? `<circle cx="${x(mark[0])}" cy="${y(mark[1])}" r="6"/>` : "";
  place.innerHTML = `<svg viewBox="0 0 ${width} ${height}" role="img">` +
    [...rows, ...columns, name, ...faint, shown, theory, circle].join("") + "</svg>";
  place.firstChild.setAttribute("aria-label", `${chart.title}: ${chart.y}, by ${chart.x}. ${cell.says}`);
}

/* About five round numbers from first to last. */
function ticks(first, last) {
  const step = [1, 2, 5, 10, 20, 25, 50].find((s) => (last - first) / s <= 6) || 100;
  const found = [];
  for (let v = Math.ceil(first / step) * step; v <= last; v += step) found.push([v, String(v)]);
  return found;
}

function drawStrip(strip, says) {
  if (!strip) return;
  const canvas = document.getElementById("strip"), style = getComputedStyle(document.documentElement);
  canvas.width = strip.width;
  canvas.height = strip.height;
  canvas.setAttribute("aria-label", `Heat strip of the gradient along the path. ${says}`);
  const [zero, plus, minus] = ["--card", "--plus", "--minus"].map((name) => rgb(style.getPropertyValue(name)));
  const pixels = new ImageData(strip.width, strip.height), levels = atob(strip.pixels);
  for (let i = 0; i < levels.length; i++) {
    const level = (levels.charCodeAt(i) - 128) / 127, end = level > 0 ? plus : minus, share = Math.min(1, Math.abs(level));
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = zero[c] + share * (end[c] - zero[c]);
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/* The parts of a CSS colour, which the browser resolves. */
function rgb(colour) {
  const probe = document.getElementById("knobs").appendChild(document.createElement("i"));
  probe.style.color = colour;
  const parts = getComputedStyle(probe).color.match(/\d+/g).slice(0, 3).map(Number);
  probe.remove();
  return parts;
}

knobs.addEventListener("input", show);
knobs.addEventListener("submit", (event) => event.preventDefault());
addEventListener("theme", show);
new ResizeObserver(show).observe(document.querySelector(".charts"));
